//! `tokenize`, and every command that finds its file.

use std::fs;
use std::path::PathBuf;

use super::toy::{Place, number};

const SOURCE: &str = "--corpus train.tsv --vocab vocab.json --seq-len 24";

/// The one file of ids in the place whose name begins so.
fn ids(place: &Place, start: &str) -> PathBuf {
    let files = fs::read_dir(place.path(".")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(start) && name.ends_with(".bstok")
    };
    let found: Vec<PathBuf> = files.filter(named).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn ids_beside_a_corpus_are_found_and_change_nothing() {
    let place = Place::with_lines(300);
    let train = "train --vocab vocab.json --test held-out.tsv --hidden 16 --layers 1 --attn-heads 2 --seq-len 24 \
                 --batch-size 16 --log-freq 1 --mask-unit word";
    let batches = format!("collate {SOURCE} --epochs 2 --json");
    let expected = place.good(&batches).stdout;
    place.good(&format!("{train} --corpus train.tsv --output from-text --steps 20"));
    let figures = place.good("eval --run from-text --json").json();

    let summary = place.good("tokenize --corpus train.tsv --vocab vocab.json").stdout;
    assert!(summary.contains("300 (0 malformed)"), "{summary}");
    place.good("tokenize --corpus held-out.tsv --vocab vocab.json");
    for (workers, io) in [(0, "mmap"), (2, "mmap"), (2, "pread"), (1, "memory")] {
        assert!(place.good(&format!("{batches} --workers {workers} --io {io}")).stdout == expected, "{io}");
    }
    place.good(&format!("{train} --corpus train.tsv --output from-ids --steps 10"));
    place.good("train --resume from-ids --steps 20");
    let digest = |run: &str| {
        let records = place.records(&format!("{run}/metrics.jsonl"));
        let steps: Vec<_> = records.into_iter().filter(|record| record["kind"] == "step").collect();
        assert_eq!(number(steps.last().unwrap(), "step"), 20.0);
        steps.last().unwrap()["digest"].clone()
    };
    assert_eq!(digest("from-ids"), digest("from-text"));
    let evaluated = place.good("eval --run from-text --json").json();
    assert_eq!(number(&evaluated, "mlm_loss"), number(&figures, "mlm_loss"));

    place.good("tokenize --corpus train.tsv --corpus held-out.tsv --vocab vocab.json");
    ids(&place, "train.tsv+1.");
}

#[test]
fn ids_that_do_not_fit_are_refused_where_they_are_named_and_passed_over_elsewhere() {
    let place = Place::with_lines(300);
    let batches = format!("collate {SOURCE} --json");
    let expected = place.good(&batches).stdout;
    place.good("tokenize --corpus held-out.tsv --vocab vocab.json --output other.bstok");
    for command in [&batches[..], "train --corpus train.tsv --vocab vocab.json --output run --steps 1"] {
        let refused = place.run(&format!("{command} --tokens other.bstok"));
        assert_eq!(refused.code, 78, "{}", refused.stderr);
        assert!(refused.stderr.contains("other.bstok: made of another corpus"), "{}", refused.stderr);
    }
    assert_eq!(place.run(&format!("{batches} --tokens missing")).code, 66);
    assert_eq!(place.run("tokenize --corpus train.tsv --vocab vocab.json --output train.tsv").code, 2);

    place.good("tokenize --corpus train.tsv --vocab vocab.json");
    let file = ids(&place, "train.tsv.");
    let whole = fs::read(&file).unwrap();
    fs::copy(place.path("other.bstok"), &file).unwrap();
    let passed = place.good(&batches);
    assert!(passed.stdout == expected && passed.stderr.contains("text is encoded anew"), "{}", passed.stderr);

    let mut damaged = whole;
    damaged[200] ^= 1;
    fs::write(&file, damaged).unwrap();
    let refused = place.run(&batches);
    assert_eq!(refused.code, 65, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("block 0 is not what was written: remove the file"),
        "{}",
        refused.stderr
    );
}

#[test]
fn standard_input_is_a_corpus_and_leaves_nothing_behind() {
    let place = Place::with_lines(300);
    let check = |flags: &str, from_file: &str| {
        let ran = place.run_on(flags, "train.tsv");
        assert_eq!(
            (ran.code, ran.stdout == place.good(from_file).stdout),
            (0, true),
            "{flags}: {}",
            ran.stderr
        );
    };
    let flags = "--vocab vocab.json --seq-len 24 --json";
    check(&format!("sample --corpus - {flags}"), &format!("sample --corpus train.tsv {flags}"));
    check(&format!("collate --corpus - {flags}"), &format!("collate --corpus train.tsv {flags}"));
    assert_eq!(place.run_on("vocab --corpus - --output piped.json", "train.tsv").code, 0);
    assert_eq!(place.read("piped.json"), place.read("vocab.json"));

    let ran = place.run_on("tokenize --corpus - --vocab vocab.json --output piped.bstok", "train.tsv");
    assert!(ran.code == 0 && ran.stdout.contains("--corpus piped.bstok.txt --tokens piped.bstok"), "{ran:?}");
    let with_ids = format!("collate --corpus piped.bstok.txt --tokens piped.bstok {flags}");
    assert!(
        place.good(&with_ids).stdout == place.good(&format!("collate --corpus train.tsv {flags}")).stdout
    );

    for (flags, expected) in [
        ("tokenize --corpus - --vocab vocab.json", "needs --output"),
        ("tokenize --corpus - --vocab vocab.json --output piped.bstok", "exists"),
        ("sample --corpus - --corpus - --vocab vocab.json", "twice"),
        ("vocab --corpus - --corpus-format jsonl --output never.json", "name one"),
        ("train --corpus - --vocab vocab.json --output never", "epoch after epoch"),
    ] {
        let ran = place.run_on(flags, "train.tsv");
        assert!(ran.code != 0 && ran.stderr.contains(expected), "{flags}: {}", ran.stderr);
        assert!(!place.path("never").exists() && !place.path("never.json").exists());
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    use std::io::Write;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text).unwrap();
    gzip.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 0).unwrap()
}

#[test]
fn a_run_on_compressed_text_is_the_run_on_the_text() {
    let place = Place::with_lines(300);
    place.write("packed.tsv.zst", zstd(&place.read("train.tsv")));
    let train = "train --vocab vocab.json --hidden 16 --layers 1 --attn-heads 2 --seq-len 24 --batch-size 16 \
                 --log-freq 1";
    place.good(&format!("{train} --corpus train.tsv --output plain --steps 20"));
    place.good(&format!("{train} --corpus packed.tsv.zst --output packed --steps 10"));
    place.good("tokenize --corpus packed.tsv.zst --vocab vocab.json");
    place.good("train --resume packed --steps 20");
    let last = |run: &str| {
        let records = place.records(&format!("{run}/metrics.jsonl"));
        records
            .into_iter()
            .rfind(|record| record["kind"] == "step")
            .map(|step| step["digest"].clone())
            .unwrap()
    };
    assert_eq!(last("packed"), last("plain"));
    let first = place.good("inspect --run packed --step 1").stdout;
    assert!(first.contains("packed.tsv.zst") && !first.contains(".unpacked"), "{first}");
}

/// Files by a pattern, sources with weights, and what is checked beforehand.
#[test]
fn compressed_files_stand_wherever_files_do() {
    let place = Place::with_lines(300);
    let whole = place.read("train.tsv");
    let middle =
        whole.len() / 2 + whole[whole.len() / 2..].iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let (front, back) = whole.split_at(middle);
    for (name, bytes) in [
        ("plain-1.tsv", front.to_vec()),
        ("plain-2.tsv", back.to_vec()),
        ("packed-1.tsv.gz", gzip(front)),
        ("packed-2.tsv.zst", zstd(back)),
        ("train.tsv.gz", gzip(&whole)),
    ] {
        place.write(name, bytes);
    }
    let batches = |corpus: &str, io: &str, workers: u32| {
        let flags = format!("--vocab vocab.json --seq-len 24 --json --io {io} --workers {workers}");
        place.good(&format!("collate --corpus {corpus} {flags}")).stdout
    };
    for (packed, plain) in [
        ("packed-*", "plain-*"),
        ("packed-1.tsv.gz --corpus packed-2.tsv.zst", "plain-1.tsv --corpus plain-2.tsv"),
        ("train.tsv.gz:3 --corpus held-out.tsv:1", "train.tsv:3 --corpus held-out.tsv:1"),
    ] {
        let expected = batches(plain, "mmap", 0);
        for (io, workers) in [("mmap", 2), ("pread", 1), ("memory", 0)] {
            assert!(batches(packed, io, workers) == expected, "{packed}, {io}");
        }
    }
    let checked = |corpus: &str| {
        let found =
            place.good(&format!("doctor --corpus {corpus} --vocab vocab.json --seq-len 24 --json")).json();
        let of_check = |field: &str| found["check"][field].clone();
        (found["fingerprint"].clone(), of_check("documents"), of_check("line_bytes"), of_check("vocabulary"))
    };
    let of_text = checked("train.tsv");
    assert_eq!(of_text.1, 300);
    assert_eq!(checked("train.tsv.gz"), of_text);
}

/// Of the first 300 lines, by the defaults. Another digest here breaks every run made so far.
const PINNED: &str = "4dea68f005589ab7c5a5feb7cd2735ae";

#[test]
fn a_text_in_whatever_files_gives_the_pinned_batches() {
    let place = Place::with_lines(300);
    let whole = place.read("train.tsv");
    let (front, back) =
        whole.split_at(whole.split_inclusive(|&b| b == b'\n').take(70).map(<[u8]>::len).sum());
    for (name, bytes) in [
        ("train.tsv.gz", gzip(&whole)),
        ("train.tsv.zst", zstd(&whole)),
        ("plain-1.tsv", front.to_vec()),
        ("plain-2.tsv", back.to_vec()),
        ("packed-1.tsv.gz", gzip(front)),
        ("packed-2.tsv.zst", zstd(back)),
    ] {
        place.write(name, bytes);
    }
    let check = |corpus: &str| {
        for (io, workers) in [("mmap", 0), ("mmap", 2), ("pread", 1), ("memory", 2)] {
            let flags =
                format!("--vocab vocab.json --seq-len 24 --batch-size 32 --io {io} --workers {workers}");
            let told = place.good(&format!("collate --corpus {corpus} {flags} --stats")).stdout;
            assert!(told.contains(PINNED), "{corpus}, {io}, {workers} workers: {told}");
        }
    };
    for corpus in ["train.tsv", "train.tsv.gz", "train.tsv.zst", "plain-*", "packed-*"] {
        check(corpus);
    }
    place.good("tokenize --corpus train.tsv.gz --vocab vocab.json");
    check("train.tsv.gz");
}

#[test]
fn a_compressed_corpus_gives_the_batches_of_the_text() {
    let place = Place::with_lines(300);
    place.write("gz.tsv.gz", gzip(&place.read("train.tsv")));
    place.write("zst.tsv.zst", zstd(&place.read("train.tsv")));
    let flags = "--vocab vocab.json --seq-len 24 --json";
    let expected = place.good(&format!("collate --corpus train.tsv {flags}")).stdout;
    for corpus in ["gz.tsv.gz", "zst.tsv.zst"] {
        let batches = format!("collate --corpus {corpus} {flags}");
        assert!(place.good(&batches).stdout == expected, "{corpus}");
        place.good(&format!("tokenize --corpus {corpus} --vocab vocab.json"));
        ids(&place, corpus);
        assert!(place.good(&batches).stdout == expected, "{corpus} with ids");
        place.good(&format!("vocab --corpus {corpus} --output of-compressed.json"));
        assert_eq!(place.read("of-compressed.json"), place.read("vocab.json"), "{corpus}");
    }
}
