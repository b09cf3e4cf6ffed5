//! `--ram`: a corpus ten times as large as the budget goes through every stage within it, and comes out the same.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use super::toy::{Place, number};

/// What the commands may hold, and a corpus of ten times that.
const MEBIBYTES: usize = 64;

#[test]
fn a_corpus_ten_times_the_budget_is_counted_indexed_shuffled_and_trained_on_within_it() {
    let place = Place::empty();
    let mut file = File::create(place.path("large.tsv")).unwrap();
    let (mut text, mut line) = (String::new(), 0_u64);
    let mut left = (10 * MEBIBYTES) << 20;
    while left > 0 {
        text.clear();
        while text.len() < (1 << 20).min(left) {
            line += 1;
            // Two words that come nowhere else: more of them than the budget holds.
            let (a, b) = (line * 7919 % 20_011, line * 31 % 19_991);
            writeln!(
                text,
                "the line {line:x}a holds word{a} and others\tits neighbour {line:x}b holds w{b} too"
            )
            .unwrap();
        }
        left = left.saturating_sub(text.len());
        file.write_all(text.as_bytes()).unwrap();
    }
    drop(file);
    let within_so_much = |flags: &str, mebibytes: usize| {
        let found = place.good(&format!("{flags} --ram {mebibytes}M --json")).json();
        let peak = number(&found, "peak_rss_bytes") / f64::from(1 << 20);
        assert!(peak <= mebibytes as f64, "{flags}: {peak} MiB");
        found
    };
    let within = |flags: &str| within_so_much(flags, MEBIBYTES);
    let counted = within("vocab -c large.tsv -s 8000 -o vocab.json");
    assert!(number(&counted, "spilled") > 0.0, "{counted}");
    assert_eq!(number(&counted, "lines"), line as f64);
    let reading = "-c large.tsv --io pread";
    let indexed = within(&format!("corpus {reading}"));
    assert_eq!(number(&indexed, "lines"), line as f64);
    for shuffle in ["blocks", "keyed"] {
        let collate =
            format!("collate {reading} -v vocab.json -s 32 --limit 300 --stats --shuffle {shuffle} -w 2");
        let free = place.good(&format!("{collate} --json")).json();
        assert_eq!(within(&collate)["digest"], free["digest"], "--shuffle {shuffle}");
    }
    let train =
        format!("train {reading} -v vocab.json -s 32 -b 16 -H 16 -l 1 -a 2 --steps 4 -q --shuffle blocks");
    let free = place.good(&format!("{train} -o free --json")).json();
    // Weights, gradients and moments come on top.
    assert_eq!(within_so_much(&format!("{train} -o run"), 2 * MEBIBYTES)["digest"], free["digest"]);
    assert!(place.read("run/model.safetensors") == place.read("free/model.safetensors"));
    assert_eq!(place.json("run/config.json")["runtime"]["ram"], (2 * MEBIBYTES) << 20);
}

/// What cannot be done within a budget is refused before it is begun, with what it would take.
#[test]
fn a_budget_that_is_too_small_is_refused_with_an_estimate() {
    let place = Place::with_lines(100);
    let source = "-c train.tsv -v vocab.json";
    for (flags, ram) in [
        ("vocab -c train.tsv -o v.json".to_owned(), "1M"),
        ("corpus -c train.tsv --check".into(), "1M"),
        (format!("sample {source}"), "2M"),
        (format!("collate {source}"), "2M"),
        ("tokenize -c train.tsv -v vocab.json -o t.bstok".into(), "2M"),
        (format!("train {source} -o run"), "2M"),
        (format!("train {source} -o run -H 1024 -l 4"), "300M"),
    ] {
        let ran = place.run(&format!("{flags} --ram {ram}"));
        assert_eq!(ran.code, 2, "{flags}: {}", ran.stderr);
        let told = ["--ram ", "about ", "needed", "give more"].iter().all(|part| ran.stderr.contains(part));
        assert!(told, "{flags}: {}", ran.stderr);
        assert!(!place.path("run").exists(), "{flags}");
    }
    let wrong = place.run(&format!("sample {source} --ram much"));
    assert_eq!((wrong.code, wrong.stderr.contains("512M or 2G")), (2, true), "{}", wrong.stderr);
}
