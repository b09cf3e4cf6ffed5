//! What is measured is printed as a line that a script can rely on, whatever is measured and of whatever corpus.

use serde_json::Value;

use super::toy::Place;

/// The figures that every line has.
const RATES: [&str; 4] = ["samples_per_second", "tokens_per_second", "bytes_per_second", "peak_rss_bytes"];

/// Measures for an instant, and checks that exactly these of [`RATES`] are there and above zero.
fn check(place: &Place, flags: &str, there: [bool; 4]) -> Value {
    let line = place.good(&format!("bench {flags} --seconds 0.05 --json")).json();
    for (name, there) in RATES.iter().zip(there) {
        match there {
            true => assert!(line[name].as_f64().is_some_and(|rate| rate > 0.0), "{flags}: {name} in {line}"),
            false => assert_eq!(line.get(name), Some(&Value::Null), "{flags}: {name} in {line}"),
        }
    }
    line
}

#[test]
fn every_stage_is_measured_with_those_before_it_and_alone() {
    let place = Place::with_lines(200);
    place.write("docs.jsonl", "{\"text\": \"one two.\\nthree four.\\nfive six.\"}\n".repeat(40));
    let words = "--vocab vocab.json --seq-len 24";
    for corpus in ["train.tsv", "docs.jsonl"] {
        for alone in ["", "--alone"] {
            let text = format!("--corpus {corpus} {alone}");
            let vocab = check(&place, &format!("vocab {text}"), [false, true, true, true]);
            assert!(vocab["passes"].as_u64().is_some_and(|passes| passes > 0), "{vocab}");
            for workers in [0, 2] {
                let text = format!("{text} --workers {workers}");
                check(&place, &format!("corpus {text}"), [false, false, true, true]);
                let sample = check(&place, &format!("sample {text} {words}"), [true; 4]);
                assert_eq!(sample["workers"], workers);
                let bytes = alone.is_empty();
                let collate = format!("collate {text} {words} --batch-size 8");
                check(&place, &collate, [true, true, bytes, true]);
            }
        }
    }
}

#[test]
fn units_in_no_order_and_masks_by_themselves_are_measured() {
    let place = Place::with_lines(200);
    let sample = "sample --corpus train.tsv --vocab vocab.json --seq-len 24";
    let line = check(&place, &format!("{sample} --workers 2 --unordered"), [true, true, false, true]);
    assert_eq!(line["unordered"], true);
    for unit in ["token", "word", "span"] {
        let line = check(&place, &format!("mask --mask-unit {unit}"), [true, true, false, true]);
        assert!(line["nanoseconds_per_row"].as_f64().is_some_and(|time| time > 0.0), "{line}");
        let masked = line["masked_per_row"].as_f64().unwrap();
        assert!((18.0..=20.0).contains(&masked), "{line}");
    }
}

#[test]
fn subwords_and_stored_ids_are_measured_as_words_are() {
    let place = Place::with_lines(200);
    place.good("tokenizer train -c train.tsv --model wordpiece --vocab-size 200 -o tokenizer.json");
    let flags = "sample --corpus train.tsv --vocab tokenizer.json --seq-len 24";
    check(&place, flags, [true; 4]);
    place.good("tokenize --corpus train.tsv --vocab tokenizer.json");
    for alone in ["", "--alone"] {
        check(&place, &format!("{flags} {alone}"), [true; 4]);
    }
}

#[test]
fn a_consumer_that_holds_its_batches_is_told_how_long_it_waited() {
    let place = Place::with_lines(200);
    let flags = "collate -c train.tsv -v vocab.json -s 24 -b 8 --consumer-ms 5";
    let line = check(&place, flags, [true; 4]);
    assert!(line["data_wait"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{line}");
    let stages: Vec<_> = line["stages"].as_array().unwrap().iter().map(|stage| &stage["name"]).collect();
    assert_eq!(stages, ["sample", "collate"]);
    let text = place.good(&format!("bench {flags} --seconds 0.05")).stdout;
    assert!(text.contains("blocked on data") && text.lines().count() == 1, "{text}");
}

#[test]
fn products_are_measured_in_both_precisions() {
    let place = Place::with_lines(10);
    for precision in ["f32", "bf16"] {
        let flags =
            format!("bench product --rows 40 --columns 30 --depth 20 --times 2 --precision {precision}");
        let line = place.good(&format!("{flags} --json")).json();
        assert!(line["gflops"].as_f64().is_some_and(|rate| rate > 0.0), "{line}");
        assert_eq!((&line["precision"], &line["depth"]), (&precision.into(), &20.into()));
        let text = place.good(&flags).stdout;
        assert!(text.contains("GFLOP/s") && text.contains("40 x 30 x 20"), "{text}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = Place::with_lines(10);
    let check = |flags: &str, code| {
        let ran = place.run(&format!("bench {flags}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{flags}: {}", ran.stderr);
    };
    check("sample -c none.tsv -v vocab.json", 66);
    check("vocab -c none.tsv --alone", 66);
    check("sample -c train.tsv -v vocab.json --seconds 0", 2);
    check("collate -c train.tsv -v vocab.json --alone --consumer-ms 5", 2);
    check("collate -c train.tsv -v vocab.json --batch-size 0", 2);
    check("product --depth 0", 2);
    check("product --rows 40000", 2);
    check("sample -c train.tsv -v vocab.json --unordered --workers 0", 2);
    check("sample -c train.tsv -v vocab.json --unordered --alone", 2);
    check("mask --seq-len 4", 2);
}

#[test]
fn tune_recommends_what_it_measured() {
    let place = Place::with_lines(200);
    let flags = "tune -c train.tsv -v vocab.json -s 24 -b 8 --seconds 0.05 --most-workers 2";
    let tuned = place.good(&format!("{flags} --json")).json();
    let rows = tuned["rows"].as_array().unwrap();
    let workers = |stage: &str, alone: bool| -> Vec<_> {
        let rows = rows.iter().filter(|row| row["stage"] == stage && row["alone"] == alone);
        rows.map(|row| row["workers"].as_u64()).collect()
    };
    assert_eq!(workers("corpus", true), [Some(1), Some(2)]);
    assert_eq!(workers("sample", true), [Some(1), Some(2)]);
    assert_eq!(workers("collate", true), [None]);
    assert_eq!(workers("collate", false), [Some(0), Some(1), Some(2)]);
    let recommended = &tuned["recommended"];
    assert_eq!(recommended["flags"], format!("--workers {}", recommended["workers"]));
    assert!(recommended["why"].as_array().is_some_and(|why| why.len() > 1), "{tuned}");

    let text = place.good(&format!("{flags} --consumer-ms 1000")).stdout;
    assert!(text.contains("recommended: --workers 0\n") && text.contains("all together"), "{text}");
}
