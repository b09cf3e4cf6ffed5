//! Faults of the reference that this program does not have, and defaults of the reference that it can take:
//! what the tests of single rooms do not already say. `docs/FROM_BERT_PYTORCH.md` lists all of them with
//! their tests.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use bertstream::collate::HostBatch;
use bertstream::model::{Arch, Engine, Init, Layout, ModelConfig, Optimizer, Outcome};
use bertstream::sample::PairLabel;

/// A model small enough to differentiate in no time.
fn config(init: Init) -> ModelConfig {
    ModelConfig {
        arch: Arch::Reference,
        max_positions: 512,
        vocab_size: 23,
        hidden: 8,
        layers: 1,
        heads: 2,
        dropout: 0.0,
        init,
    }
}

/// Rows of five tokens with one masked, all with this pair label.
fn pairs(label: PairLabel) -> HostBatch {
    let (rows, seq_len) = (4, 5);
    HostBatch {
        rows,
        seq_len,
        ids: (0..rows * seq_len).map(|i| 5 + (i * 7 % 18) as u32).collect(),
        segments: [1, 1, 1, 2, 2].repeat(rows),
        lengths: vec![seq_len as u32; rows],
        masked: (0..rows as u32).map(|row| row * seq_len as u32 + 1).collect(),
        labels: vec![9; rows],
        pairs: vec![label; rows],
        ..HostBatch::default()
    }
}

/// Losses of a batch and the gradients of the pair head's weights.
fn pair_head(engine: &mut dyn Engine, batch: &HostBatch) -> (Outcome, Vec<f32>) {
    let pass = common::whole_step(batch, 1);
    let outcome = engine.accumulate(batch, &pass).unwrap();
    let layout = Layout::new(&config(Init::Torch));
    let head = layout.parameters().iter().find(|p| p.name == "next_sentence.linear.weight").unwrap();
    let gradients = engine.gradients().unwrap()[head.range.clone()].to_vec();
    (outcome, gradients)
}

#[test]
fn reference_not_next_pairs_give_no_gradient() {
    let config = config(Init::Torch);
    let weights = Layout::new(&config).initial_weights(5);
    for label in [PairLabel::NotNext, PairLabel::IsNext] {
        for (name, mut engine) in common::engines(&config, Optimizer::default(), &weights) {
            let batch = pairs(label);
            let predicted = engine.predict(&batch).unwrap().nsp;
            let (outcome, gradients) = pair_head(&mut *engine, &batch);
            let class = usize::from(label == PairLabel::IsNext);
            let expected = predicted.chunks(2).map(|row| -row[class]).sum::<f32>() / batch.rows as f32;
            assert_eq!(outcome.pairs, 4, "{name}");
            let error = common::relative_error(&[outcome.nsp_loss() as f32], &[expected]);
            assert!(error < 1e-5, "{name}: {label:?}: {error}");
            assert!(gradients.iter().any(|g| g.abs() > 1e-3), "{name}: {label:?}: {gradients:?}");
        }
    }
}

#[test]
fn reference_evaluation_has_dropout_on() {
    let config = ModelConfig { dropout: 0.5, ..config(Init::Torch) };
    let weights = Layout::new(&config).initial_weights(5);
    let batch = pairs(PairLabel::IsNext);
    for (name, mut engine) in common::engines(&config, Optimizer::default(), &weights) {
        let evaluated = engine.evaluate(&batch).unwrap();
        assert_eq!(engine.evaluate(&batch).unwrap(), evaluated, "{name}: twice the same");
        assert_ne!(pair_head(&mut *engine, &batch).0.mlm_loss(), evaluated.mlm_loss(), "{name}: dropout");
    }
}

#[test]
fn pytorch_s_initial_weights_are_a_choice() {
    let model = ModelConfig {
        arch: Arch::Reference,
        max_positions: 512,
        vocab_size: 2000,
        hidden: 64,
        layers: 1,
        heads: 2,
        dropout: 0.0,
        init: Init::Torch,
    };
    let layout = Layout::new(&model);
    let weights = layout.initial_weights(3);
    let of = |name: &str| {
        let parameter = layout.parameters().iter().find(|p| p.name == name).unwrap();
        &weights[parameter.range.clone()]
    };
    let deviation =
        |values: &[f32]| (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64).sqrt();
    // 127,936 draws of N(0, 1), whose deviation is known to 0.2 %; row 0 is zero.
    let tokens = of("bert.embedding.token.weight");
    assert!(tokens[..64].iter().all(|&w| w == 0.0));
    assert!((deviation(&tokens[64..]) - 1.0).abs() < 0.01);
    // Uniform within 1 / sqrt(inputs), biases too.
    for (name, inputs) in [
        ("mask_lm.linear.weight", 64f32),
        ("mask_lm.linear.bias", 64.0),
        ("bert.transformer_blocks.0.feed_forward.w_2.weight", 256.0),
    ] {
        let (bound, values) = (inputs.powf(-0.5), of(name));
        assert!(values.iter().all(|w| w.abs() <= bound), "{name}");
        assert!((deviation(values) / f64::from(bound) - 3f64.powf(-0.5)).abs() < 0.02, "{name}");
    }
}

fn bertstream(directory: &Path, arguments: &str) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_bertstream"))
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .env_remove("BERTSTREAM_LOG")
        .output();
    command.unwrap()
}

/// What a command that succeeds prints.
fn printed(directory: &Path, arguments: &str) -> String {
    let output = bertstream(directory, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn reference_vocabularies_have_no_limit() {
    let dir = tempfile::tempdir().unwrap();
    let words: String = (0..100_100).map(|i| format!("w{i}\tx\n")).collect();
    std::fs::write(dir.path().join("many.tsv"), words).unwrap();
    let kept = |flags: &str| -> u64 {
        let line = printed(dir.path(), &format!("vocab -c many.tsv -o v.json --json {flags}"));
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["kept"].as_u64().unwrap()
    };
    assert_eq!(kept(""), 30_000);
    assert_eq!(kept("--preset reference"), 100_101);
    assert_eq!(kept("--preset reference --vocab-size 7"), 7);
    // All of them are a model that is mostly embeddings, which is said, on stderr.
    let output = bertstream(dir.path(), "vocab -c many.tsv -o v.json --preset reference");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("warning: vocab: 100,106 tokens make an embedding of 25,627,136"), "{told}");
    let output = bertstream(dir.path(), "vocab -c many.tsv -o v.json --preset reference --log-level error");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn reference_sequences_have_20_tokens_and_the_corpus_order() {
    let dir = tempfile::tempdir().unwrap();
    let side = "a b c d e f g h i j k l m n o p q r s t u v w x y z ".repeat(4);
    std::fs::write(dir.path().join("c.tsv"), format!("{side}\t{side}\n").repeat(9)).unwrap();
    printed(dir.path(), "vocab -c c.tsv -o v.json");
    let samples = |flags: &str| -> Vec<(usize, u64)> {
        let lines = printed(dir.path(), &format!("sample -c c.tsv -v v.json --next-rate 1 --json {flags}"));
        let parse = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let figures = |sample: serde_json::Value| {
            (sample["ids"].as_array().unwrap().len(), sample["origin"]["line_a"].as_u64().unwrap())
        };
        lines.lines().map(parse).map(figures).collect()
    };
    let reference: Vec<(usize, u64)> = (1..=9).map(|line| (20, line)).collect();
    assert_eq!(samples("--preset reference"), reference);
    let ours = samples("");
    assert!(ours.iter().all(|&(length, _)| length == 128), "{ours:?}");
    assert_ne!(ours.iter().map(|s| s.1).collect::<Vec<_>>(), (1..=9).collect::<Vec<u64>>());
    assert_eq!(samples(""), ours, "the same seed, the same samples");
}

#[test]
fn reference_corpus_lines_are_the_length_of_a_progress_bar() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.tsv"), "a b\tc d\n".repeat(9)).unwrap();
    let line = printed(dir.path(), "corpus -c c.tsv --corpus_lines 4 --json");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["lines"], 4);
}
