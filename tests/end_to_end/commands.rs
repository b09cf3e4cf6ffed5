//! Every command on its happy path, each on what the one before it wrote.

use super::toy::{Place, number};

/// A model that takes a millisecond a step.
const TINY: &str = "--hidden 16 --layers 1 --attn-heads 2 --seq-len 24 --batch-size 16";

const FIGURES: [&str; 6] =
    ["mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "unigram_loss", "nsp_chance_loss"];

#[test]
fn from_text_to_figures_by_every_command() {
    let place = Place::empty();
    place.write("train.tsv", super::toy::lines(400));
    place.write("held-out.tsv", super::toy::held_out());

    let vocab = place.good("vocab --corpus train.tsv --output vocab.json --limit 7 --json").json();
    assert_eq!((number(&vocab, "lines"), number(&vocab, "unknown")), (400.0, 0.0));
    let file = place.json("vocab.json");
    assert_eq!(file["tokens"].as_array().unwrap().len() as f64, number(&vocab, "tokens"));

    let corpus = place.good("corpus --corpus train.tsv --json").json();
    assert_eq!((number(&corpus, "lines"), number(&corpus, "bytes") > 0.0), (400.0, true));
    let checked = place.good("doctor --corpus train.tsv --vocab vocab.json --seq-len 24 --json").json();
    assert_eq!(number(&checked["check"], "refused"), 0.0);
    place.good("corpus --check --corpus train.tsv --vocab vocab.json --seq-len 24");

    let source = "--corpus train.tsv --vocab vocab.json --seq-len 24";
    let samples = place.good(&format!("sample {source} --limit 40 --json")).json_lines();
    assert_eq!(samples.len(), 40);
    for sample in &samples {
        assert_eq!((&sample["tokens"][0], &sample["segments"][0]), (&"<sos>".into(), &1.into()));
        assert!(!sample["labels"].as_array().unwrap().is_empty(), "{sample}");
    }
    let text = place.good(&format!("sample {source} --limit 40"));
    assert!(text.stdout.contains("<sos>") && text.stdout.contains("[MASK:"), "{}", text.stdout);
    assert!(text.stderr.contains("samples") && text.stderr.contains("40"), "a summary: {}", text.stderr);

    let legend = text.stdout.lines().filter(|line| line.contains("[x<-w]")).count();
    assert_eq!(legend, 1, "the marks are explained once");
    let none = place.good(&format!("sample {source} --limit 0"));
    assert!(none.stdout.is_empty() && none.stderr.contains("no samples"), "{}", none.stderr);

    let stats = place.good(&format!("sample {source} --stats --json")).json();
    let fields: Vec<&str> = stats.as_object().unwrap().keys().map(|field| &**field).collect();
    let expected = "distinct frequent kept lengths masked next not_next padding_fixed padding_longest \
                    randomised ranks rare runs samples tokens unknown vocabulary whole words";
    assert_eq!(fields, expected.split_whitespace().collect::<Vec<_>>(), "these names stay");
    assert_eq!((number(&stats, "samples"), &stats["whole"]), (400.0, &true.into()));
    let counted: f64 = stats["lengths"].as_array().unwrap().iter().map(|bar| bar[1].as_f64().unwrap()).sum();
    assert_eq!((counted, number(&stats, "next") + number(&stats, "not_next")), (400.0, 400.0));
    let few = place.good(&format!("sample {source} --stats --limit 40")).stdout;
    assert!(few.contains("the first of an epoch") && few.contains("vocabulary"), "{few}");

    let batches = place.good(&format!("collate {source} --batch-size 16 --limit 3 --json")).json_lines();
    assert_eq!(batches.iter().map(|b| number(b, "rows")).collect::<Vec<_>>(), [16.0; 3]);
    let written = "collate --corpus held-out.tsv --vocab vocab.json --seq-len 24 --batch-size 16 \
                   --format safetensors --output batches.safetensors";
    assert_eq!(place.good(written).stdout, "", "the file is the result");

    let train =
        format!("train --corpus train.tsv --vocab vocab.json --test held-out.tsv --output run {TINY}");
    let summary = place.good(&format!("{train} --steps 20 --log-freq 5 --save-every 10 --json")).json();
    assert_eq!((number(&summary, "step"), number(&summary, "samples")), (20.0, 320.0));
    assert!((0.0..=1.0).contains(&number(&summary, "data_wait")), "{summary}");
    for part in ["train", "test"] {
        FIGURES.iter().for_each(|figure| assert!(number(&summary[part], figure) >= 0.0));
    }
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json", "vocab.json"] {
        assert!(!place.read(&format!("run/{file}")).is_empty());
    }
    let records = place.records("run/metrics.jsonl");
    let steps: Vec<_> = records.iter().filter(|r| r["kind"] == "step").map(|r| number(r, "step")).collect();
    assert_eq!(steps, [5.0, 10.0, 15.0, 20.0]);

    let on_text = place.good("eval --run run --corpus held-out.tsv --json").json();
    let on_file = place.good("eval --run run --batches batches.safetensors --json").json();
    for figure in FIGURES {
        assert!(number(&on_text, figure) >= 0.0 && number(&on_file, figure) >= 0.0);
    }
    // The run's own last evaluation is the same measurement, whatever the batches and threads.
    let again =
        "eval --run run --json --checkpoint latest --batch-size 7 --workers 3 --threads 1 --io memory";
    let again = place.good(again).json();
    assert_eq!(number(&again, "masked"), number(&on_text, "masked"));
    for figure in ["mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy"] {
        for (name, other) in [("run", &summary["test"]), ("again", &again)] {
            let difference = (number(&on_text, figure) - number(other, figure)).abs();
            assert!(difference < 1e-5, "{figure} of {name} differs by {difference}");
        }
    }
    assert!(place.good("eval --run run").stdout.contains("pairs"));
    place.good("eval --run run --by-corruption --checkpoint best --engine graph");

    let seen = place.good("inspect --run run --step 17 --json").json_lines();
    assert_eq!(seen.len(), 16);
    assert!(seen.iter().all(|row| row["file"] == "train.tsv" && number(&row["origin"], "line_a") >= 1.0));
    let verified = place.good("inspect --run run --step 20 --limit 1 --verify");
    assert!(verified.stderr.contains(summary["digest"].as_str().unwrap()), "{}", verified.stderr);
}

/// Whoever reads `--json` finds each field in docs/FORMATS.md.
#[test]
fn every_field_of_every_result_is_documented() {
    let place = Place::with_lines(200);
    place.write("text.txt", "one two three.\nfour five.\n\nsix one two.\nseven eight.\n".repeat(40));
    let source = "--corpus train.tsv --vocab vocab.json --seq-len 24";
    place.good(&format!("train {source} --output run --steps 4 -H 16 -l 1 -a 2 -b 8 --log-freq 1"));
    let formats = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMATS.md")).unwrap();
    let commands = [
        "vocab -c train.tsv --limit 1".to_owned(),
        "tokenizer train -c text.txt -s 60 -o tokenizer.json".into(),
        "tokenizer encode -t vocab.json one".into(),
        format!("doctor {source} --limit 1 --tokens-per-second 5"),
        "doctor -c text.txt -v tokenizer.json".into(),
        "corpus -c train.tsv:1 -c held-out.tsv:2".into(),
        format!("sample {source} --limit 1"),
        format!("sample {source} --stats"),
        format!("collate {source} --limit 1 --pad packed"),
        format!("collate {source} --stats --limit 2"),
        "tokenize -c train.tsv -v vocab.json".into(),
        format!("train {source} --output run-2 --steps 2 -H 16 -l 1 -a 2 -b 8 -t held-out.tsv"),
        "eval --run run --corpus held-out.tsv --by-corruption".into(),
        "inspect --run run --step 2".into(),
        "fill-mask run <mask>".into(),
        format!("tune {source} --seconds 0.02"),
        format!("bench collate {source} --seconds 0.02"),
        "bench mask --seconds 0.02".into(),
        "bench product --rows 8 --columns 8 --depth 8 --times 1".into(),
        "bench step --hidden 16 --layers 1 --attn-heads 2 --batch-size 2 --seq-len 16 --steps 3".into(),
    ];
    let mut missing: Vec<String> = Vec::new();
    for command in commands {
        for line in place.good(&format!("{command} --json")).json_lines() {
            let fields = fields(&line).into_iter().filter(|name| !formats.contains(&format!("`{name}`")));
            missing.extend(fields.map(|name| format!("{name} of {command}")));
        }
    }
    assert!(missing.is_empty(), "docs/FORMATS.md lacks {missing:#?}");
}

/// The names in a value, at any depth.
fn fields(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields_of) => fields_of
            .iter()
            .flat_map(|(name, value)| [name.clone()].into_iter().chain(fields(value)))
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(fields).collect(),
        _ => vec![],
    }
}

/// What `collate --stats` tells is what the batches are.
#[test]
fn batches_in_numbers_are_those_of_the_batches() {
    let place = Place::with_lines(100);
    let collate = "collate --corpus train.tsv --vocab vocab.json --seq-len 24 --batch-size 16";
    let stats = place.good(&format!("{collate} --stats --json")).json();
    let batches = place.good(&format!("{collate} --json"));
    let sum = |field: &str| batches.json_lines().iter().map(|b| number(b, field)).sum::<f64>();
    assert_eq!(number(&stats, "batches"), batches.json_lines().len() as f64);
    assert_eq!((number(&stats, "rows"), number(&stats, "samples")), (sum("rows"), 100.0));
    let cells: f64 = batches.json_lines().iter().map(|b| number(b, "rows") * number(b, "seq_len")).sum();
    assert_eq!(number(&stats, "cells"), cells);
    let digest = stats["digest"].as_str().unwrap();
    assert!(batches.stderr.contains(digest), "{digest}: {}", batches.stderr);
    let table = place.good(&format!("{collate} --stats"));
    assert!(table.stdout.contains(digest) && table.stderr.is_empty(), "{table:?}");
}

/// A stage can be replaced by a file: `collate` writes what `eval` would have made of the same text.
#[test]
fn batches_from_a_file_are_evaluated_as_the_text_is() {
    let place = Place::with_lines(200);
    let train = "train --corpus train.tsv --vocab vocab.json --output run --steps 5 --seed 3";
    place.good(&format!("{train} {TINY}"));
    // The seed and the order of every evaluation.
    let collate = "collate --corpus held-out.tsv --vocab vocab.json --seq-len 24 --batch-size 16 --seed 0 \
                   --shuffle none --format safetensors --output batches.safetensors";
    place.good(collate);
    let on_text = place.good("eval --run run --corpus held-out.tsv --json").json();
    let on_file = place.good("eval --run run --batches batches.safetensors --json").json();
    for figure in FIGURES.iter().chain(&["masked", "pairs"]) {
        let (text, file) = (number(&on_text, figure), number(&on_file, figure));
        assert!((text - file).abs() < 1e-6, "{figure}: {text} on the text, {file} on the file");
    }
}

#[test]
fn quickstart_leaves_a_run_that_the_other_commands_know() {
    let place = Place::empty();
    let ran = place.good("quickstart --output first --steps 4 --quiet");
    assert!(ran.stdout.contains("guesses"), "{}", ran.stdout);
    assert!(number(&place.good("eval --run first --json").json(), "mlm_loss") > 0.0);
    place.good("inspect --run first --step 2 --limit 2");
    place.good("quickstart --output first --steps 1 --quiet");
    assert!(place.path("first-2").is_dir(), "the first one is left alone");
}

/// Everything as the reference has it, on a corpus with words that the vocabulary lacks.
#[test]
fn the_reference_preset_trains_without_a_nan() {
    let place = Place::with_lines(300);
    place.good("vocab --preset reference --corpus train.tsv --output small.json --vocab-size 60");
    let train = "train --preset reference --corpus train.tsv --test held-out.tsv --vocab small.json \
                 --output run --hidden 32 --layers 2 --attn-heads 4 --batch-size 8 --steps 60 --warmup 20 \
                 --log-freq 1 --json";
    let summary = place.good(train).json();
    assert_eq!(number(&summary, "skipped_updates"), 0.0);
    let config = place.json("run/config.json");
    assert_eq!(config["sample"]["seq_len"], 20);
    assert_eq!(
        (&config["optimizer"]["kind"], &config["schedule"]["kind"]),
        (&"adam".into(), &"reference".into())
    );
    let records = place.records("run/metrics.jsonl");
    let losses: Vec<_> = records.iter().filter(|r| r["kind"] == "step").map(|r| number(r, "loss")).collect();
    assert_eq!(losses.len(), 60);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[50..]) < mean(&losses[..10]), "it learns: {losses:?}");
    let evaluated = place.good("eval --run run --json").json();
    FIGURES.iter().for_each(|figure| assert!(number(&evaluated, figure).is_finite()));
}

/// Half of the lines have nothing to predict under the reference's coins; whole batches of one are empty.
#[test]
fn batches_without_a_masked_word_do_no_harm() {
    let place = Place::empty();
    place.write("short.tsv", "a b\tc d\nd c\tb a\na d\tc b\n".repeat(20));
    place.good("vocab -c short.tsv -o vocab.json");
    let train = "train --preset reference -c short.tsv -v vocab.json -o run -H 8 -l 1 -a 2 -b 1 --steps 60 \
                 --warmup 10 --log-freq 1";
    place.good(train);
    let records = place.records("run/metrics.jsonl");
    let steps: Vec<_> = records.iter().filter(|r| r["kind"] == "step").collect();
    assert_eq!(steps.len(), 60);
    assert!(steps.iter().any(|r| number(r, "masked") == 0.0), "there is such a batch");
    assert!(steps.iter().all(|r| number(r, "loss").is_finite() && number(r, "grad_norm").is_finite()));
}
