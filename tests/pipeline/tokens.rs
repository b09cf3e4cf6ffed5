//! Ids that were encoded before: the same samples as from text, and a file that is trusted as far as it can be.

use std::fs;
use std::path::{Path, PathBuf};

use bertstream::ErrorKind;
use bertstream::collate::{HostBatch, PadTo};
use bertstream::corpus::tokens::{Header, TokenFile, Tokenized, Writer};
use bertstream::corpus::{Corpus, DocumentIds, Io, Shape, Source};
use bertstream::pipeline::{Plan, encode_blocks};
use bertstream::sample::{Cursor, PairTask, SampleConfig};

use super::documents::{mixture, variants};
use super::memory::{Documents, Line, Lines, Words, made_up};
use super::{START, all_batches, collate, short};

/// Writes the ids of `corpus` to `path`, `blocks` of them at most.
fn write(corpus: &dyn Corpus, tokenizer: &Words, path: &Path, workers: usize, blocks: u64) -> Option<u64> {
    let header = Header::new(corpus, tokenizer);
    let mut writer = Writer::open(path, &header).unwrap();
    let (first, mut left) = (writer.blocks_done(), blocks);
    assert!(first <= header.blocks());
    let stopped = encode_blocks(corpus, tokenizer, &header, first, workers, |block| {
        left = left.checked_sub(1).ok_or_else(|| bertstream::Error::internal("killed"))?;
        writer.push(&block)
    });
    stopped.is_ok().then(|| {
        let size = writer.finish().unwrap();
        assert_eq!(size, fs::metadata(path).unwrap().len());
        first
    })
}

/// `later` with the ids of `corpus` in a file of `directory`: two that are taken for the same.
fn tokenized(
    corpus: &dyn Corpus,
    later: impl Corpus + 'static,
    tokenizer: &Words,
    directory: &Path,
) -> Tokenized {
    let path = directory.join("ids.bstok");
    write(corpus, tokenizer, &path, 2, u64::MAX).unwrap();
    let tokens = TokenFile::open(&path, Io::Mmap, &later, tokenizer).unwrap();
    Tokenized::new(Box::new(later), tokens)
}

fn run(
    corpus: &dyn Corpus,
    tokenizer: &Words,
    (config, pad_to): &(SampleConfig, PadTo),
    workers: usize,
    start: Cursor,
) -> (Vec<HostBatch>, Option<String>) {
    let plan = Plan { corpus, tokenizer, sample: config, workers };
    let (batches, error) = all_batches(plan, &collate(config, 16, *pad_to), start, 2);
    (batches, error.map(|error| error.to_string()))
}

/// Documents of which some are malformed, have sentences without a token, or none at all.
fn with_oddities() -> Documents {
    let mut corpus = mixture();
    for (id, texts) in [(7, &["", "w1 w2", " ", "w3"][..]), (8, &["", ""]), (70, &["w1", ""])] {
        corpus.documents[id] = Line::Good(texts.iter().map(|text| text.to_string()).collect());
    }
    corpus.documents[3] = Line::Bad;
    corpus
}

#[test]
fn documents_from_ids_give_the_batches_of_their_text() {
    let directory = tempfile::tempdir().unwrap();
    for tokenizer in [Words::in_pieces(), Words::new(70_000)] {
        // Whoever asks for the text of a good document dies of it.
        let mut later = with_oddities();
        let good = |line: &&mut Line| matches!(line, Line::Good(_));
        later.documents.iter_mut().filter(good).for_each(|line| *line = Line::Panics);
        let from_ids = tokenized(&with_oddities(), later, &tokenizer, directory.path());
        for (config, pad_to) in variants() {
            let variant = (SampleConfig { skip_bad_lines: true, ..config }, pad_to);
            let (expected, error) = run(&with_oddities(), &tokenizer, &variant, 0, START);
            assert!(error.is_none() && expected.len() > 5, "{error:?}");
            for workers in [0, 2] {
                let (found, _) = run(&from_ids, &tokenizer, &variant, workers, START);
                assert!(found == expected, "{workers} workers, {variant:?}");
            }
            let middle = expected.len() / 2;
            let (rest, _) = run(&from_ids, &tokenizer, &variant, 2, expected[middle - 1].next);
            assert!(rest == expected[middle..], "gone on with, {variant:?}");
        }
    }
}

#[test]
fn pairs_from_ids_give_the_batches_of_their_text() {
    // Few words, so that many second sides have the same ids: the unknown ones differ by their text alone.
    let corpus = || {
        let mut lines = made_up(200, 2);
        for (id, text) in [(20, "unknown"), (21, "other"), (22, "unknown"), (23, "")] {
            lines.0[id] = Line::Good(vec!["w1".to_owned(), text.to_owned()]);
        }
        lines.0[40] = Line::Bad;
        lines
    };
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = Words::new(3);
    let from_ids = tokenized(&corpus(), corpus(), &tokenizer, directory.path());
    for pair in [PairTask::Nsp, PairTask::Sop, PairTask::None] {
        for skip_bad_lines in [true, false] {
            let variant = (SampleConfig { pair, skip_bad_lines, ..short() }, PadTo::Longest);
            let expected = run(&corpus(), &tokenizer, &variant, 0, START);
            assert_eq!(expected.1.is_some(), !skip_bad_lines, "a malformed line ends the run");
            for workers in [0, 2] {
                assert!(run(&from_ids, &tokenizer, &variant, workers, START) == expected, "{variant:?}");
            }
        }
    }
}

#[test]
fn without_its_tokenizer_ids_are_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let (small, large) = (Words::new(3), Words::new(50));
    let from_ids = tokenized(&made_up(100, 5), made_up(100, 5), &small, directory.path());
    let variant = (short(), PadTo::Longest);
    let expected = run(&made_up(100, 5), &large, &variant, 0, START);
    assert!(run(&from_ids, &large, &variant, 0, START) == expected);
}

/// Some 20 blocks, of pairs and of documents.
fn large() -> [Box<dyn Corpus>; 2] {
    let sources = vec![Source { documents: 0..80, per_epoch: 80 }];
    [Box::new(made_up(6000, 4)), Box::new(Documents { bytes: 20 << 16, sources, ..mixture() })]
}

#[test]
fn a_file_is_the_same_for_any_workers_and_after_any_kill() {
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = Words::in_pieces();
    for corpus in large() {
        let blocks = Header::new(&*corpus, &tokenizer).blocks();
        assert!((8..40).contains(&blocks), "{blocks}");
        let path = directory.path().join("whole");
        assert_eq!(write(&*corpus, &tokenizer, &path, 0, u64::MAX), Some(0));
        let whole = fs::read(&path).unwrap();
        let path = directory.path().join("other");
        for workers in [1, 3] {
            write(&*corpus, &tokenizer, &path, workers, u64::MAX).unwrap();
            assert!(fs::read(&path).unwrap() == whole, "{workers} workers");
        }
        // Stopped after some blocks, what is left damaged or cut off, and gone on with.
        let part = directory.path().join("other.part");
        let check = |done: u64, damage: &dyn Fn(&mut Vec<u8>), kept: u64| {
            assert_eq!(write(&*corpus, &tokenizer, &path, 2, done), None);
            let mut bytes = fs::read(&part).unwrap();
            damage(&mut bytes);
            fs::write(&part, bytes).unwrap();
            assert_eq!(write(&*corpus, &tokenizer, &path, 2, u64::MAX), Some(kept), "after {done}");
            assert!(fs::read(&path).unwrap() == whole && !part.exists());
        };
        check(0, &|_| {}, 0);
        check(5, &|_| {}, 5);
        check(blocks - 1, &|_| {}, blocks - 1);
        check(5, &|bytes| bytes.truncate(bytes.len() - 1), 4);
        check(5, &|bytes| bytes.extend([1; 17]), 5);
        check(5, &|bytes| *bytes.last_mut().unwrap() ^= 1, 4);
        check(5, &|bytes| bytes[70] ^= 1, 0);
        check(5, &|bytes| bytes[63] = 0x7f, 0);
        check(5, &|bytes| bytes.truncate(30), 0);
        check(5, &|bytes| bytes[16] ^= 1, 0);
        check(5, &|bytes| bytes.clear(), 0);
    }
}

#[test]
fn what_lies_in_the_way_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ids");
    let (corpus, tokenizer) = (made_up(10, 3), Words::new(3));
    let header = Header::new(&corpus, &tokenizer);
    let check = |path: &Path| {
        let error = Writer::open(path, &header).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotCreate, "{error}");
    };
    fs::write(directory.path().join("ids.part"), "my notes").unwrap();
    check(&path);
    assert_eq!(fs::read(directory.path().join("ids.part")).unwrap(), b"my notes");
    check(&directory.path().join("no/ids"));
    let other = directory.path().join("other");
    let writer = Writer::open(&other, &header).unwrap();
    check(&other);
    drop(writer);
    Writer::open(&other, &header).unwrap();
}

/// Whether a document is none, its lines and its ids.
type Kept = (bool, Vec<u64>, Vec<u32>);

/// Every document of the file.
fn read_all(path: &Path, io: Io, corpus: &dyn Corpus, tokenizer: &Words) -> bertstream::Result<Vec<Kept>> {
    let file = TokenFile::open(path, io, corpus, tokenizer)?;
    let mut ids = DocumentIds::default();
    (0..corpus.len())
        .map(|id| {
            let sound = file.document(id, &mut ids)?;
            let lines = (0..ids.len()).map(|at| ids.line(at)).collect();
            Ok((sound, lines, ids.ids(0..ids.tokens()).collect()))
        })
        .collect()
}

#[test]
fn damage_is_found_wherever_it_is_and_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ids");
    let (corpus, tokenizer) = (made_up(40, 3), Words::in_pieces());
    write(&corpus, &tokenizer, &path, 0, u64::MAX).unwrap();
    let whole = fs::read(&path).unwrap();
    let expected = read_all(&path, Io::Mmap, &corpus, &tokenizer).unwrap();
    assert!(expected.iter().map(|(_, _, ids)| ids.len()).sum::<usize>() > 40);
    for io in [Io::Pread, Io::Memory] {
        assert_eq!(read_all(&path, io, &corpus, &tokenizer).unwrap(), expected);
    }
    let check = |bytes: &[u8], what: String| {
        fs::write(&path, bytes).unwrap();
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            let error = read_all(&path, io, &corpus, &tokenizer).expect_err(&what);
            assert!(matches!(error.kind(), ErrorKind::Data | ErrorKind::Mismatch), "{io:?} {what}: {error}");
            assert!(error.to_string().contains("bertstream tokenize"), "{error}");
        }
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        check(&bytes, format!("byte {at} of {}", whole.len()));
    }
    for length in (0..whole.len()).step_by(7) {
        check(&whole[..length], format!("{length} bytes"));
    }
}

#[test]
fn ids_of_another_corpus_or_tokenizer_are_refused_by_name() {
    struct Renamed(Lines, u64);
    impl Corpus for Renamed {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn document(&self, id: u64) -> bertstream::Result<bertstream::corpus::Document<'_>> {
            self.0.document(id)
        }
        fn shape(&self) -> Shape {
            self.0.shape()
        }
        fn bytes(&self) -> u64 {
            self.0.bytes()
        }
        fn path(&self) -> &Path {
            self.0.path()
        }
        fn fingerprint(&self) -> u64 {
            self.1
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("ids");
    let tokenizer = Words::new(3);
    write(&Renamed(made_up(40, 3), 1), &tokenizer, &path, 0, u64::MAX).unwrap();
    let check = |corpus: &dyn Corpus, tokenizer: &Words, expected: &str| {
        let error = TokenFile::open(&path, Io::Mmap, corpus, tokenizer).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&Renamed(made_up(40, 3), 2), &tokenizer, "another corpus (fingerprint 0000000000000001, here");
    check(&Renamed(made_up(40, 3), 1), &Words::new(4), "another tokenizer");
    let none =
        TokenFile::open(&directory.path().join("no"), Io::Mmap, &made_up(1, 1), &tokenizer).map(|_| ());
    assert_eq!(none.unwrap_err().kind(), ErrorKind::MissingInput);
}
