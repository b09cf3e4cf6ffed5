//! What happens to a corpus, or to whoever reads it, while it is read: files that are cut off or grow, workers that
//! die, consumers that are slow or leave.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bertstream::collate::{HostBatch, PadTo};
use bertstream::corpus::check::{CheckConfig, MEMORY, check};
use bertstream::corpus::{Corpus, CorpusConfig, Document, Format, Io, Shape, TextCorpus};
use bertstream::pipeline::Plan;
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::{PairTask, SampleConfig, Shuffle};
use bertstream::{ErrorKind, Result};
use tempfile::TempDir;

use super::memory::{KNOWN, Line, Lines, Words, made_up};
use super::{START, batches, collate, samples_of, short};

/// A file of made-up pairs over several pages.
struct Text {
    _directory: TempDir,
    path: PathBuf,
    size: u64,
}

impl Text {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text.tsv");
        let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
        let text: String = (0..1500)
            .map(|_| {
                let words: Vec<String> = (0..8).map(|_| format!("w{}", rng.below(KNOWN))).collect();
                format!("{}\t{}\n", words[..4].join(" "), words[4..].join(" "))
            })
            .collect();
        fs::write(&path, &text).unwrap();
        Self { _directory: directory, path, size: text.len() as u64 }
    }

    fn open(&self, io: Io) -> TextCorpus {
        let config = CorpusConfig { io, format: Some(Format::Pairs), ..CorpusConfig::at(&self.path) };
        TextCorpus::open(&config).unwrap()
    }
}

/// Four epochs in batches of 16; what `meanwhile` does, it does when so many batches have been taken.
fn read(
    corpus: &TextCorpus,
    workers: usize,
    at: usize,
    mut meanwhile: impl FnMut(),
) -> (Vec<HostBatch>, Result<()>) {
    let (words, sample) = (Words::new(KNOWN as usize), short());
    let plan = Plan { corpus, tokenizer: &words, sample: &sample, workers };
    let mut seen = Vec::new();
    let ended = plan.batches(&collate(&sample, 16, PadTo::Longest), START, 4, |batches| {
        if at == 0 {
            meanwhile();
        }
        for batch in batches {
            seen.push(batch?);
            if seen.len() == at {
                meanwhile();
            }
        }
        Ok(())
    });
    (seen, ended)
}

/// 200 runs: 192 of them cut the file off, at any place, after any batch, for 1 to 8 workers; 8 leave it. The reader in
/// pieces goes on where it has kept what was cut off, with the text that was there.
#[test]
fn a_corpus_cut_off_while_it_is_read_is_an_error_and_no_sample_of_zeros() {
    let text = Text::new();
    let whole = fs::read(&text.path).unwrap();
    let (oracle, ended) = read(&text.open(Io::Memory), 0, 0, || {});
    ended.unwrap();
    let (mut failed, mut finished) = ([0, 0], [0, 0]);
    for run in 0..200 {
        let mut rng = SampleRng::new(Domain::Survey, 2, &[run]);
        let (io, workers) = ([Io::Mmap, Io::Pread][run as usize % 2], 1 + run as usize / 2 % 8);
        // Early enough that what is made ahead of the consumer does not reach the end, and so much that some of it is
        // asked for on the way.
        let at = rng.below(oracle.len() as u64 / 2 - 20) as usize;
        let length = if run < 8 { text.size } else { rng.below(text.size * 3 / 4) };
        let corpus = text.open(io);
        let file = File::options().write(true).open(&text.path).unwrap();
        let (seen, ended) = read(&corpus, workers, at, || file.set_len(length).unwrap());
        // What came before is what the whole file gives: no sample is made of what is not there. Behind the last
        // batch before an error no sample is known to go on with.
        let next = |batch: &HostBatch| oracle[..seen.len()].last().map_or(batch.next, |last| last.next);
        let is_same = |(at, batch): (usize, &HostBatch)| match at + 1 == seen.len() {
            true => HostBatch { next: next(batch), ..batch.clone() } == oracle[at],
            false => *batch == oracle[at],
        };
        let same = seen.iter().enumerate().all(is_same);
        assert!(same, "run {run}, {io:?}, {workers} workers, cut to {length} after {at}");
        match ended {
            Ok(()) => {
                let is_whole = length == text.size || io == Io::Pread;
                assert_eq!((seen.len(), is_whole), (oracle.len(), true), "run {run}");
                finished[run as usize % 2] += 1;
            }
            Err(error) => {
                assert_eq!((error.kind(), seen.len() >= at), (ErrorKind::Io, true), "run {run}: {error}");
                assert!(error.to_string().contains("it shrank from"), "run {run}: {error}");
                failed[run as usize % 2] += 1;
            }
        }
        drop(corpus);
        // In place, so that the index stays that of this file.
        let time = fs::metadata(&text.path).unwrap().modified().unwrap();
        fs::write(&text.path, &whole).unwrap();
        file.set_modified(time).unwrap();
    }
    assert_eq!((failed[0], finished[0]), (96, 4));
    assert_eq!(failed[1] + finished[1], 100);
}

#[test]
fn what_is_appended_while_it_is_read_does_not_exist() {
    let text = Text::new();
    let (oracle, _) = read(&text.open(Io::Memory), 0, 0, || {});
    for io in [Io::Mmap, Io::Pread, Io::Memory] {
        for (workers, at) in [(0, 0), (1, 1), (3, 50), (8, 100)] {
            let corpus = text.open(io);
            let mut file = File::options().append(true).open(&text.path).unwrap();
            let (seen, ended) = read(&corpus, workers, at, || file.write_all(b"more\tof it\n").unwrap());
            ended.unwrap();
            assert!(seen == oracle, "{io:?}, {workers} workers, after {at}");
            file.set_len(text.size).unwrap();
        }
    }
}

/// The document, its place in the epoch and the seed: enough to see it again.
#[test]
fn a_panic_is_told_with_its_document_and_seed_at_its_place() {
    for at in [0, 100, 199] {
        let mut corpus = made_up(200, 5);
        corpus.0[at] = Line::Panics;
        let config = SampleConfig { shuffle: Shuffle::None, next_rate: 1.0, seed: 77, ..short() };
        for workers in [0, 1, 2, 8] {
            let (seen, error) = batches(&corpus, &config, 10, workers, START, 2);
            let error = error.expect("a panic must not look like the end");
            assert_eq!(error.kind(), ErrorKind::Internal);
            let place = format!(
                "corpus fake, document {at} (epoch 0, position {at}, --seed 77): a panic: line {} is",
                at + 1
            );
            assert!(error.to_string().contains(&place), "{error}");
            assert_eq!(seen.len(), at / 10, "every batch before it is there, for {workers} workers");
        }
    }
}

/// A corpus that counts how many documents were asked for.
struct Counted(Lines, AtomicU64);

impl Corpus for Counted {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.document(id)
    }

    fn shape(&self) -> Shape {
        Shape::Pairs
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn fingerprint(&self) -> u64 {
        0
    }
}

/// However long the consumer takes, no more is made than the queues hold: 4 units of 64 documents for each worker,
/// a unit in the collator and in each worker, and 3 batches.
#[test]
fn a_slow_consumer_stops_the_workers() {
    let words = Words::new(KNOWN as usize);
    let config = SampleConfig { next_rate: 1.0, ..short() };
    for workers in [1, 2, 8] {
        let corpus = Counted(made_up(20_000, 5), AtomicU64::new(0));
        let plan = Plan { corpus: &corpus, tokenizer: &words, sample: &config, workers };
        let most = 64 * (5 * workers as u64 + 2) + 3 * 16;
        plan.batches(&collate(&config, 16, PadTo::Longest), START, 1, |batches| {
            for taken in 1..=40 {
                batches.next().expect("there are more")?;
                // Whoever could work has by now: a consumer that only yields is the slowest one without a clock.
                (0..200).for_each(|_| std::thread::yield_now());
                let read = corpus.1.load(Ordering::Relaxed);
                assert!(
                    read <= 16 * taken + most,
                    "{read} documents read for {taken} batches, {workers} workers"
                );
            }
            Ok(())
        })
        .unwrap();
    }
}

/// Lines of random bytes, 0 to 6 of them broken sequences.
fn broken_lines() -> Vec<Vec<u8>> {
    (0..400)
        .map(|line| {
            let mut rng = SampleRng::new(Domain::Survey, 3, &[line]);
            let mut bytes = format!("w{} w2\tw3 ", rng.below(9)).into_bytes();
            for _ in 0..rng.below(7) {
                let pieces: [&[u8]; 6] = [
                    b"\xff",
                    b"\xe6\x9d",
                    b"\xf0\x9f\x98",
                    b"\xc0\xaf",
                    b"\xed\xa0\x80",
                    "\u{e9}".as_bytes(),
                ];
                bytes.extend(pieces[rng.below(6) as usize]);
                bytes.extend([b" w4 ", b"x   "][rng.below(2) as usize]);
            }
            bytes.push(b'\n');
            bytes
        })
        .collect()
}

/// Broken bytes are an error at their place, left out and counted, or read as the standard library reads them and
/// counted: each the same for any number of workers.
#[test]
fn broken_bytes_are_refused_skipped_or_replaced_and_counted_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let lines = broken_lines();
    let open = |name: &str, content: &[u8], replace_bad_bytes| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        let config =
            CorpusConfig { replace_bad_bytes, format: Some(Format::Pairs), ..CorpusConfig::at(path) };
        TextCorpus::open(&config).unwrap()
    };
    let bytes = lines.concat();
    let (raw, replaced) = (open("raw.tsv", &bytes, false), open("replaced.tsv", &bytes, true));
    let lossy = open("lossy.tsv", String::from_utf8_lossy(&bytes).as_bytes(), false);
    assert_ne!(raw.fingerprint(), replaced.fingerprint());
    for id in 0..lossy.len() {
        assert_eq!(replaced.document(id).unwrap(), lossy.document(id).unwrap(), "line {}", id + 1);
    }
    let is_bad = |line: &&(u64, &Vec<u8>)| std::str::from_utf8(line.1).is_err();
    let bad: Vec<u64> = (1..).zip(&lines).filter(|line| is_bad(&line)).map(|(number, _)| number).collect();
    let sequences: usize =
        lines.iter().map(|line| line.utf8_chunks().filter(|c| !c.invalid().is_empty()).count()).sum();
    assert!(bad.len() > 200 && sequences > 500);
    let report = |corpus| {
        check(corpus, None, &CheckConfig { seq_len: 32, batch_size: 8, memory: MEMORY }, &mut |_| {}).unwrap()
    };
    let (refused, counted) = (report(&raw), report(&replaced));
    let found = |finding: &bertstream::corpus::check::Finding| (finding.count, finding.lines.clone());
    assert_eq!(found(&refused.refusals.malformed), (bad.len() as u64, bad[..5].to_vec()));
    assert_eq!((counted.refused, counted.replaced), (0, sequences as u64));
    assert_eq!(found(&counted.replaced_in), (bad.len() as u64, bad[..5].to_vec()));

    let words = Words::new(KNOWN as usize);
    let config = |skip_bad_lines| SampleConfig {
        skip_bad_lines,
        shuffle: Shuffle::None,
        pair: PairTask::None,
        ..short()
    };
    for workers in [0, 1, 2, 8] {
        let samples = |corpus, skip| {
            samples_of(Plan { corpus, tokenizer: &words, sample: &config(skip), workers }, START, 1)
        };
        let error = samples(&raw, false).unwrap_err();
        assert!(error.to_string().contains(&format!("line {}: byte ", bad[0])), "{error}");
        let skipped = samples(&raw, true).unwrap();
        assert_eq!((skipped.skipped, skipped.len()), (bad.len() as u64, lines.len() - bad.len()));
        assert!(samples(&replaced, false).unwrap() == samples(&lossy, false).unwrap());
    }
}
