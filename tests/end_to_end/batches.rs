//! Real files to batches: the same for every reader, for any number of workers, in every encoding.

use std::fs;
use std::path::Path;

use bertstream::collate::{BatchDigest, CollateConfig, PadTo};
use bertstream::corpus::{self, CorpusConfig, Io};
use bertstream::pipeline::Plan;
use bertstream::sample::{Cursor, SampleConfig};
use bertstream::vocab::{Tokenizer, WordVocab};

use super::toy;

const EPOCHS: u64 = 3;

/// The rolling digest at the end of each epoch.
fn digests(
    path: &Path,
    encoding: &str,
    io: Io,
    workers: usize,
    tokenizer: &dyn Tokenizer,
    sample: &SampleConfig,
) -> Vec<BatchDigest> {
    let config = CorpusConfig { io, encoding: encoding.to_owned(), ..CorpusConfig::at(path) };
    let corpus = corpus::open(&config).unwrap();
    let collate =
        CollateConfig { batch_size: 32, seq_len: sample.seq_len, pad_to: PadTo::Longest, pad_id: 0 };
    let plan = Plan { corpus: &*corpus, tokenizer, sample, workers };
    plan.batches(&collate, Cursor::default(), EPOCHS, |batches| {
        let (mut digest, mut ends) = (BatchDigest::default(), Vec::new());
        for batch in batches {
            let batch = batch?;
            digest.update(&batch);
            ends.extend(batch.ends_epoch.then_some(digest));
        }
        Ok(ends)
    })
    .unwrap()
}

#[test]
fn readers_and_workers_never_change_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("corpus.tsv");
    fs::write(&path, toy::held_out()).unwrap();
    let vocab = toy::vocabulary();
    for sample in [SampleConfig { seq_len: 24, ..SampleConfig::default() }, SampleConfig::reference()] {
        let expected = digests(&path, "utf-8", Io::Memory, 0, &vocab, &sample);
        assert_eq!(expected.len(), EPOCHS as usize);
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            for workers in [0, 1, 2, 8] {
                let found = digests(&path, "utf-8", io, workers, &vocab, &sample);
                assert_eq!(found, expected, "{io:?}, {workers} workers");
            }
        }
        let other = SampleConfig { seed: sample.seed + 1, ..sample };
        assert_ne!(digests(&path, "utf-8", Io::Mmap, 2, &vocab, &other), expected, "the seed enters");
    }
}

/// What is written is the same text, and so the batches are.
#[test]
fn encodings_and_line_ends_never_change_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let sample = SampleConfig { seq_len: 24, ..SampleConfig::default() };
    let check = |language: &str, replaced: (&str, &str), encodings: &[(&str, Vec<u8>)]| {
        let text = toy::held_out().replace(replaced.0, replaced.1);
        let vocab = WordVocab::from_texts(text.lines(), None, 1);
        let path = directory.path().join(format!("{language}.utf-8"));
        fs::write(&path, &text).unwrap();
        let expected = digests(&path, "utf-8", Io::Memory, 0, &vocab, &sample);
        for (number, (label, bytes)) in encodings.iter().enumerate() {
            let path = directory.path().join(format!("{language}.{number}"));
            fs::write(&path, bytes).unwrap();
            for (io, workers) in [(Io::Mmap, 0), (Io::Pread, 1), (Io::Memory, 2)] {
                let found = digests(&path, label, io, workers, &vocab, &sample);
                assert_eq!(found, expected, "{language} in {label} (file {number}), {io:?}");
            }
        }
    };
    let encoded = |replaced: (&str, &str), encoding: &'static encoding_rs::Encoding| {
        let text = toy::held_out().replace(replaced.0, replaced.1);
        let (bytes, _, lossy) = encoding.encode(&text);
        assert!(!lossy);
        bytes.into_owned()
    };
    let utf16 = |replaced: (&str, &str), bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        toy::held_out().replace(replaced.0, replaced.1).encode_utf16().flat_map(bytes).collect()
    };

    let french = ("the ", "l\u{e9}s ");
    let plain = toy::held_out().replace(french.0, french.1);
    check(
        "french",
        french,
        &[
            ("latin1", encoded(french, encoding_rs::WINDOWS_1252)),
            ("utf-16le", utf16(french, u16::to_le_bytes)),
            ("utf-16be", utf16(french, u16::to_be_bytes)),
            // Carriage returns, a byte order mark, no line feed at the end.
            ("utf-8", plain.replace('\n', "\r\n").into_bytes()),
            ("utf-8", format!("\u{feff}{plain}").into_bytes()),
            ("utf-8", plain.trim_end_matches('\n').as_bytes().to_vec()),
        ],
    );
    let korean = ("the ", "\u{c774} ");
    check("korean", korean, &[("euc-kr", encoded(korean, encoding_rs::EUC_KR))]);
    // The second byte of the second sign is that of a backslash: cutting bytes before decoding would show.
    let japanese = ("the ", "\u{305d}\u{8868} ");
    check("japanese", japanese, &[("shift_jis", encoded(japanese, encoding_rs::SHIFT_JIS))]);
}

#[test]
fn packed_rows_hold_the_same_samples_in_fewer_cells() {
    let place = toy::Place::with_lines(100);
    let collate = "collate --corpus train.tsv --vocab vocab.json --seq-len 48 --batch-size 4 --mask-unit span \
                   --pair sop --json";
    let samples = |flags: &str| {
        let batches = place.good(&format!("{collate} {flags}")).json_lines();
        let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
        let mut cells = 0;
        let mut samples = Vec::new();
        for batch in &batches {
            cells += number(&batch["rows"]) * number(&batch["seq_len"]);
            for (i, length) in batch["lengths"].as_array().unwrap().iter().enumerate() {
                let start = batch["starts"].get(i).map_or(i * number(&batch["seq_len"]), number);
                let ids = &batch["ids"].as_array().unwrap()[start..start + number(length)];
                samples.push(format!("{} {:?} {}", batch["origins"][i], ids, batch["pairs"][i]));
            }
        }
        samples.sort_unstable();
        (samples, cells)
    };
    let ((plain, cells), (packed, fewer)) = (samples("--pad fixed"), samples("--pad packed"));
    assert_eq!(plain, packed);
    assert!(2 * fewer < cells, "{fewer} of {cells} cells");
    let told = place.good(&format!("{collate} --pad packed --format text --limit 1").replace(" --json", ""));
    assert!(told.stdout.contains("samples in 4 rows of 48"), "{}", told.stdout);
    assert!(told.stdout.contains("row 3: epoch 0"), "{}", told.stdout);
}
