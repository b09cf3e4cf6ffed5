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
    assert!(few.contains("40, the first of an epoch") && few.contains("vocabulary"), "{few}");

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
