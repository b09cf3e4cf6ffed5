//! A stage replaced: samples from a file or a pipe in place of those that `train` makes, and a builder of one's own.

use std::fs;
use std::process::Command;

use super::toy::{Place, number};

const TINY: &str = "--vocab vocab.json --seq-len 24 --batch-size 16 --hidden 16 --layers 1 --attn-heads 2 \
                    --schedule constant --warmup 0 --log-freq 5 --json";
const SAMPLE: &str = "sample --corpus train.tsv --vocab vocab.json --seq-len 24 --json";

/// Makes `name` of what a command prints.
fn written(place: &Place, flags: &str, name: &str) {
    let text = place.good(flags).stdout;
    place.write(name, text);
}

#[test]
fn samples_from_a_file_or_a_pipe_train_like_the_text() {
    let place = Place::with_lines(300);
    written(&place, SAMPLE, "samples.jsonl");
    let text = place.good(&format!("train --corpus train.tsv -o text --steps 18 {TINY}")).json();
    let file = place.good(&format!("train --samples samples.jsonl -o file --steps 18 {TINY}")).json();
    let pipe = format!("train --samples - -o pipe --steps 18 {TINY}");
    let piped = place.run_on(&pipe, "samples.jsonl");
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    let weights = place.read("text/model.safetensors");
    for (run, summary) in [("file", &file), ("pipe", &piped.json())] {
        assert_eq!(summary["digest"], text["digest"], "{run}: the same batches");
        assert!(place.read(&format!("{run}/model.safetensors")) == weights, "{run}: the same weights");
    }
    // A run made of a file or of a pipe goes on, over epochs of the file, as if it had not been interrupted.
    place.good(&format!("train --samples samples.jsonl -o whole --steps 40 {TINY}"));
    let whole = place.read("whole/model.safetensors");
    for run in ["file", "pipe"] {
        place.good(&format!("train --resume {run} --steps 40"));
        assert!(place.read(&format!("{run}/model.safetensors")) == whole, "{run}: resumed");
    }
    let seen = place.good("inspect --run pipe --step 30 --limit 2 --json").json_lines();
    assert_eq!((seen.len(), &seen[0]["file"]), (2, &"pipe/samples.jsonl".into()));
    assert!(number(&seen[0]["origin"], "line_a") >= 1.0);

    // What came by a pipe is in the run: without it nothing goes on, and another text is refused.
    fs::remove_file(place.path("pipe/samples.jsonl")).unwrap();
    assert_eq!(place.run("train --resume pipe --steps 50").code, 66);
    written(&place, &format!("{SAMPLE} --limit 40"), "samples.jsonl");
    let changed = place.run("train --resume file --steps 50");
    assert_eq!(
        (changed.code, changed.stderr.contains("corpus_fingerprint")),
        (78, true),
        "{}",
        changed.stderr
    );
}

/// The pipe of the guide, with a filter that knows nothing of this program.
#[test]
fn a_filter_of_any_language_stands_between() {
    let place = Place::with_lines(200);
    let program = env!("CARGO_BIN_EXE_bertstream");
    let pipe = format!(
        "'{program}' {SAMPLE} | grep is_next | '{program}' train --samples - --output run --steps 5 {TINY}"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &pipe]).current_dir(place.path(""));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = place.records("run/samples.jsonl");
    assert!(kept.len() > 50 && kept.iter().all(|sample| sample["pair"] == "is_next"));
    // Batches of them, as of any other corpus.
    let collate = "collate --corpus run/samples.jsonl --corpus-format samples --shuffle none --vocab vocab.json \
                   --seq-len 24 --limit 1 --json";
    let batch = place.good(collate).json();
    assert_eq!(batch["pairs"].as_array().unwrap().iter().filter(|pair| *pair != "is_next").count(), 0);
}

#[test]
fn samples_that_will_not_do_are_refused() {
    let place = Place::with_lines(100);
    written(&place, &format!("{SAMPLE} --limit 40"), "samples.jsonl");
    let train = format!("train --output run --steps 3 {TINY}");
    place.write("bad.jsonl", "{\"ids\":[3,9],\"segments\":[1],\"masked\":[],\"labels\":[]}\n");
    place.write("empty.jsonl", "");
    for (flags, code, named) in [
        (format!("{train} --samples bad.jsonl"), 65, "samples bad.jsonl: line 1: segments"),
        (format!("{train} --samples empty.jsonl"), 65, "empty.jsonl"),
        (format!("{train} --samples missing.jsonl"), 66, "missing.jsonl"),
        (format!("{train} --samples -"), 65, "samples.jsonl"),
        (format!("{train} --samples samples.jsonl --corpus train.tsv"), 2, "--corpus"),
        (format!("{train} --samples samples.jsonl").replace("-len 24", "-len 8"), 65, "--seq-len 8"),
        ("doctor --corpus samples.jsonl --corpus-format samples".to_owned(), 2, "no text"),
        (
            "tokenize --corpus samples.jsonl --corpus-format samples --vocab vocab.json".to_owned(),
            2,
            "ids already",
        ),
    ] {
        let ran = place.run(&flags);
        assert_eq!(ran.code, code, "{flags}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "{flags}: {}", ran.stderr);
    }
    // What is malformed can be left out, like a malformed line of any corpus.
    let mut some = place.read("samples.jsonl");
    some.extend(place.read("bad.jsonl"));
    place.write("some.jsonl", some);
    place.good(&format!("{train} --samples some.jsonl --on-bad-line skip"));
}

#[path = "../../docs/examples/own_samples.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod own_samples;

/// The example of the guide: its loss falls.
#[test]
fn a_sample_builder_of_one_s_own_is_trained_on() {
    let place = Place::empty();
    place.write("pairs.tsv", super::toy::text());
    let losses = own_samples::train(&place.path("pairs.tsv")).unwrap();
    assert!(losses.len() == 5 && losses[4] < losses[0] - 0.5, "{losses:?}");
}
