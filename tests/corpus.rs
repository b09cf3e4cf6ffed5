//! Stage 1 from the outside: files of every kind in, documents or a named error out.

use std::cell::Cell;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bertstream::corpus::{
    self, Corpus, CorpusConfig, Format, IndexFile, Io, Sources, TextCorpus, TextReader,
};
use bertstream::{Error, ErrorKind};
use proptest::prelude::*;
use tempfile::TempDir;

const PLAIN: &str = "first one\tsecond one\nthe third\tand the fourth\nfünf\tsechs 六\n";

/// A corpus file in a directory of its own.
struct Text {
    dir: TempDir,
    path: PathBuf,
}

impl Text {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.tsv");
        fs::write(&path, content).unwrap();
        Self { dir, path }
    }

    fn config(&self) -> CorpusConfig {
        CorpusConfig::at(&self.path)
    }

    fn open(&self) -> TextCorpus {
        TextCorpus::open(&self.config()).unwrap()
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("text.tsv.bsidx")
    }
}

/// Where a corpus' index is.
fn index_file(corpus: &TextCorpus) -> IndexFile {
    corpus.text_file().unwrap().index_file().clone()
}

/// Every document as (line, first, second), or its error's message with the file called F.
fn documents(corpus: &dyn Corpus) -> Vec<Result<(u64, String, String), String>> {
    (0..corpus.len())
        .map(|id| {
            let document = corpus.document(id).map_err(|error| {
                assert_eq!(error.kind(), ErrorKind::Data, "{error}");
                error.to_string().replace(&corpus.path().display().to_string(), "F")
            })?;
            let [a, b] = &document.sentences[..] else { panic!("{document:?}") };
            assert_eq!((a.line, b.line), (id + 1, id + 1));
            Ok((a.line, a.text.to_string(), b.text.to_string()))
        })
        .collect()
}

fn refused(config: &CorpusConfig) -> Error {
    match TextCorpus::open(config) {
        Ok(corpus) => panic!("{} documents", corpus.len()),
        Err(error) => error,
    }
}

#[test]
fn the_same_text_in_any_guise_gives_the_same_documents() {
    let expected = documents(&Text::new(PLAIN).open());
    assert_eq!(expected.len(), 3);
    let last = PLAIN.trim_end_matches('\n');
    let (mixed, rest) = PLAIN.split_once('\n').unwrap();
    for (guise, content) in [
        ("CRLF", PLAIN.replace('\n', "\r\n")),
        ("no final line feed", last.to_owned()),
        ("CRLF and no final line feed", last.replace('\n', "\r\n")),
        ("mixed line ends", format!("{mixed}\r\n{rest}")),
        ("byte order mark", format!("\u{feff}{PLAIN}")),
        ("byte order mark, CRLF, no final line feed", format!("\u{feff}{}", last.replace('\n', "\r\n"))),
    ] {
        let text = Text::new(content);
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            let corpus = TextCorpus::open(&CorpusConfig { io, ..text.config() }).unwrap();
            assert_eq!(documents(&corpus), expected, "{guise}, {io:?}");
        }
    }
}

#[test]
fn a_bad_line_is_named_and_harms_no_other() {
    let check = |line: &[u8], expected: &str| {
        let text = Text::new([b"a\tb\n", line, b"\nc\td\n"].concat());
        let found = documents(&text.open());
        assert_eq!(found[0], Ok((1, "a".into(), "b".into())));
        assert_eq!(found[2], Ok((3, "c".into(), "d".into())));
        let message = found[1].clone().unwrap_err();
        assert!(message.starts_with(&format!("corpus F: line 2: {expected}")), "{message}");
        assert!(message.ends_with("--on-bad-line skip leaves such lines out"), "{message}");
    };
    check(b"", "no tab between two sentences: the line is empty");
    check(b"\r", "no tab between two sentences: the line is empty");
    check(b"one sentence", "no tab between two sentences;");
    check(b"one\\tsentence", "no tab between two sentences, but a backslash and a t");
    check(b"one\ttwo\tthree", "more than one tab");
    check(b"\ttwo", "no sentence before the tab");
    check(b" \ttwo", "no sentence before the tab");
    check(b"one\t", "no sentence after the tab");
    check(b"one\t \r", "no sentence after the tab");
    check(b"\t", "no sentence before the tab");
    check(b"one\ttw\xffo", "byte 7: not text in the encoding of the corpus (UTF-8)");
    check(b"one\ttwo\xe4\xb8", "byte 8: not text");
}

#[test]
fn nul_and_byte_order_mark_inside_a_line_are_characters() {
    let text = Text::new("a\0b\tc\0\nd\t\u{feff}e\n\u{feff}f\tg\n");
    let expected = [("a\0b", "c\0"), ("d", "\u{feff}e"), ("\u{feff}f", "g")];
    for (id, (a, b)) in expected.into_iter().enumerate() {
        assert_eq!(documents(&text.open())[id], Ok((id as u64 + 1, a.into(), b.into())));
    }
}

#[test]
fn files_that_are_no_corpus_end_with_the_code_of_their_class() {
    let utf16: Vec<u8> = "\u{feff}a\tb\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, hint) in [
        (&b""[..], "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\x1f\x8b\x08\0\0\0", "gzip -t"),
        (b"\x28\xb5\x2f\xfd\0", "zstd -t"),
        (&utf16, "--encoding utf-16"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", "not text"),
    ] {
        let error = refused(&Text::new(content).config());
        assert_eq!(error.kind().exit_code(), 65, "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    let text = Text::new("a\tb\n");
    let named = |path: &Path| CorpusConfig { path: path.to_owned(), ..text.config() };
    let code = |config: &CorpusConfig| refused(config).kind().exit_code();
    assert_eq!(code(&named(&text.dir.path().join("missing.tsv"))), 66);
    assert_eq!(code(&named(Path::new("/dev/null"))), 65);
    assert_eq!(code(&named(Path::new(""))), 66);
    assert_eq!(code(&CorpusConfig { encoding: "klingon".into(), ..text.config() }), 2);
    assert_eq!(code(&CorpusConfig { lines: Some(0), ..text.config() }), 2);
    assert_eq!(code(&CorpusConfig { index_dir: Some(text.path.join("below")), ..text.config() }), 73);
    let mark_only = Text::new(b"\xff\xfe");
    assert_eq!(code(&CorpusConfig { encoding: "utf-16".into(), ..mark_only.config() }), 65);
}

#[test]
fn one_line_is_a_corpus() {
    for content in ["a\tb", "a\tb\n"] {
        assert_eq!(documents(&Text::new(content).open()), [Ok((1, "a".into(), "b".into()))]);
    }
}

#[test]
fn a_part_is_the_first_lines_and_has_its_own_fingerprint() {
    let text = Text::new("a\tb\n".repeat(1000));
    let part = |lines| TextCorpus::open(&CorpusConfig { lines: Some(lines), ..text.config() }).unwrap();
    for (asked, given) in [(1, 1), (999, 999), (1000, 1000), (2000, 1000)] {
        assert_eq!(part(asked).len(), given);
    }
    assert_eq!(part(2000).fingerprint(), text.open().fingerprint());
    assert_ne!(part(999).fingerprint(), text.open().fingerprint());
    assert_eq!(part(999).document(999).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_line_beyond_the_cap_is_refused_and_its_neighbours_are_not() {
    let long = vec![b'x'; 17 << 20];
    let text = Text::new([b"a\tb\n", &long[..], b"\nc\td\n"].concat());
    for io in [Io::Mmap, Io::Pread, Io::Memory] {
        let found = documents(&TextCorpus::open(&CorpusConfig { io, ..text.config() }).unwrap());
        assert_eq!(found[0], Ok((1, "a".into(), "b".into())));
        assert!(found[1].clone().unwrap_err().contains("line 2: 17825792 bytes"), "{io:?}: {:?}", found[1]);
        assert_eq!(found[2], Ok((3, "c".into(), "d".into())));
    }
}

/// Records of a window too long to be read as a whole are found as those of a short one.
#[test]
fn long_windows_hold_the_same_documents() {
    let line = |at: usize, tail: &str| format!("{at}{}{tail}", "x".repeat(700_000));
    let pairs: String = (0..20).map(|at| line(at, "\tb\r\n")).collect();
    let found = documents(&Text::new(format!("\u{feff}{pairs}")).open());
    assert_eq!(found.len(), 20);
    for (at, document) in found.into_iter().enumerate() {
        assert_eq!(document.unwrap(), (at as u64 + 1, line(at, ""), "b".into()));
    }
    // A block has a window of its own, which is long where its blank lines are.
    let blanks = " \n".repeat(3 << 20);
    let text = Text::new(format!("one\ntwo{blanks}\nthree\n{blanks}{blanks}{blanks}last"));
    let config = CorpusConfig { format: Some(Format::Sentences), ..text.config() };
    let expected = [("one", 1), ("two", 2), ("three", 2 + (3 << 20) + 1), ("last", 4 + 4 * (3 << 20))];
    for io in [Io::Mmap, Io::Pread] {
        let corpus = TextCorpus::open(&CorpusConfig { io, ..config.clone() }).unwrap();
        let mut found = Vec::new();
        corpus
            .scan(|id, record| {
                assert_eq!(record, corpus.text_file().unwrap().record(id)?);
                let document = corpus.parse(&record.raw, record.line, record.size).unwrap();
                found.extend(document.sentences.iter().map(|s| (s.text.to_string(), s.line)));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, expected.map(|(text, line)| (text.to_owned(), line)), "{io:?}");
    }
}

#[test]
fn the_fingerprint_is_of_the_content_and_of_nothing_else() {
    let (text, moved) = (Text::new(PLAIN), Text::new(PLAIN));
    let original = text.open().fingerprint();
    let elsewhere = tempfile::tempdir().unwrap();
    let memory = CorpusConfig {
        io: Io::Memory,
        index_dir: Some(elsewhere.path().join("made/on/demand")),
        ..moved.config()
    };
    assert_eq!(TextCorpus::open(&memory).unwrap().fingerprint(), original);
    assert!(!moved.index().exists(), "the index goes where it was told to");
    assert_ne!(Text::new(PLAIN.replace("six", "sex").replace("one", "two")).open().fingerprint(), original);
}

#[test]
fn corpora_of_one_name_share_an_index_directory() {
    let (one, two) = (Text::new("a\tb\n"), Text::new("c\td\n"));
    let shared = tempfile::tempdir().unwrap();
    let open = |text: &Text| {
        let index_dir = Some(shared.path().to_owned());
        TextCorpus::open(&CorpusConfig { index_dir, ..text.config() }).unwrap()
    };
    assert!(index_file(&open(&one)).built && index_file(&open(&two)).built);
    assert!(!index_file(&open(&one)).built && !index_file(&open(&two)).built);
    assert_eq!(documents(&open(&two)), [Ok((1, "c".into(), "d".into()))]);
}

/// Changes a corpus behind its index and expects to see the new content.
fn check_change(keeps_time: bool, change: impl FnOnce(&Path)) {
    let text = Text::new(PLAIN.repeat(100));
    assert!(index_file(&text.open()).built);
    assert!(!index_file(&text.open()).built, "a fresh index is used");
    let time = fs::metadata(&text.path).unwrap().modified().unwrap();
    change(&text.path);
    if keeps_time {
        let file = File::options().append(true).open(&text.path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    let content = fs::read(&text.path).unwrap();
    let corpus = text.open();
    assert!(index_file(&corpus).built, "a stale index is not used");
    assert!(documents(&corpus) == documents(&Text::new(content).open()), "old lines are seen");
}

#[test]
fn a_stale_index_is_never_used() {
    for keeps_time in [true, false] {
        let write = |content: String| move |path: &Path| fs::write(path, content).unwrap();
        let whole = PLAIN.repeat(100);
        check_change(keeps_time, write(whole.clone() + "appended\tline\n"));
        check_change(keeps_time, write(whole[..PLAIN.len() * 50].to_owned()));
        check_change(keeps_time, write(whole.replacen("third", "3\n\n\n\n", 1)));
        check_change(keeps_time, write(whole.replacen("one\ts", "one s\t", 1)));
        check_change(keeps_time, |path| {
            let other = path.with_extension("new");
            fs::write(&other, "quite\tdifferent\n").unwrap();
            fs::rename(other, path).unwrap();
        });
    }
}

#[test]
fn a_damaged_index_is_made_again() {
    let text = Text::new("a\tb\n".repeat(40_000));
    let expected = text.open().fingerprint();
    let whole = fs::read(text.index()).unwrap();
    assert!(whole.len() > 500, "{}", whole.len());
    let check = |damaged: &[u8]| {
        fs::write(text.index(), damaged).unwrap();
        let corpus = text.open();
        assert!(index_file(&corpus).built);
        assert_eq!((corpus.len(), corpus.fingerprint()), (40_000, expected));
        assert_eq!(fs::read(text.index()).unwrap(), whole);
    };
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        check(&damaged);
        check(&whole[..at]);
    }
}

#[test]
fn a_directory_that_cannot_be_written_costs_the_index_file_only() {
    let text = Text::new(PLAIN);
    // Nobody, root included, can put a file where a directory is.
    fs::create_dir(text.index()).unwrap();
    let corpus = text.open();
    assert_eq!(index_file(&corpus).path, None);
    assert_eq!(documents(&corpus), documents(&Text::new(PLAIN).open()));
}

/// A small text in an encoding gives the documents of its UTF-8 version, with either reader.
fn check_encoding(label: &str, content: Vec<u8>, utf8: &str) {
    let expected = documents(&Text::new(utf8).open());
    let text = Text::new(content);
    for io in [Io::Mmap, Io::Memory, Io::Pread, Io::Mmap] {
        let config = CorpusConfig { io, encoding: label.into(), ..text.config() };
        assert_eq!(documents(&TextCorpus::open(&config).unwrap()), expected, "{label}, {io:?}");
    }
}

#[test]
fn encodings_give_the_documents_of_utf_8() {
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect();
    let latin = "déjà vu\tça va\r\nÜbung\tmacht\n";
    let korean = "안녕하세요 여러분\t반갑습니다\n가나다\t라마바";
    let japanese = "日本語\tソース表\n能力\t申請\n";
    // U+010A and U+0A0D hold the bytes of line ends, U+0A09 that of a tab: a reader of bytes would cut there.
    let tricky = "Ċ ਊ\tਉ ਍\nplain\tline\n";
    check_encoding("latin1", latin.chars().map(|c| c as u8).collect(), latin);
    check_encoding("euc-kr", encoding_rs::EUC_KR.encode(korean).0.into(), korean);
    check_encoding("cp949", encoding_rs::EUC_KR.encode(korean).0.into(), korean);
    check_encoding("shift_jis", encoding_rs::SHIFT_JIS.encode(japanese).0.into(), japanese);
    check_encoding("iso-2022-jp", encoding_rs::ISO_2022_JP.encode(japanese).0.into(), japanese);
    for text in [latin, korean, japanese, tricky] {
        let marked = format!("\u{feff}{text}");
        check_encoding("utf-16le", utf16(text, u16::to_le_bytes), text);
        check_encoding("utf-16be", utf16(text, u16::to_be_bytes), text);
        check_encoding("utf-16", utf16(&marked, u16::to_le_bytes), text);
        check_encoding("utf-16", utf16(&marked, u16::to_be_bytes), text);
    }
}

#[test]
fn a_malformed_character_spoils_its_own_line_in_every_encoding() {
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain("a\tb\nc".encode_utf16())
        .chain([0xd800])
        .chain("\td\ne\tf\n".encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for (label, content) in [("utf-16", utf16), ("euc-kr", b"a\tb\nc\xff\td\ne\tf\n".to_vec())] {
        let text = Text::new(content);
        let config = CorpusConfig { encoding: label.into(), ..text.config() };
        let found = documents(&TextCorpus::open(&config).unwrap());
        assert_eq!(found[0], Ok((1, "a".into(), "b".into())));
        assert!(found[1].clone().unwrap_err().contains("line 2: byte 2: not text"), "{:?}", found[1]);
        assert_eq!(found[2], Ok((3, "e".into(), "f".into())));
    }
}

#[test]
fn a_damaged_copy_in_utf_8_is_made_again() {
    let content: Vec<u8> = PLAIN.repeat(10).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text = Text::new(content);
    let config = CorpusConfig { encoding: "utf-16le".into(), ..text.config() };
    let corpus = TextCorpus::open(&config).unwrap();
    let expected = documents(&corpus);
    let copies = || {
        fs::read_dir(text.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "utf8"))
            .collect::<Vec<_>>()
    };
    let [copy] = &copies()[..] else { panic!("{:?}", copies()) };
    for damage in ["", "a\tb\n", &PLAIN.repeat(9)] {
        fs::write(copy, damage).unwrap();
        let corpus = TextCorpus::open(&config).unwrap();
        assert!(index_file(&corpus).built);
        assert_eq!(documents(&corpus), expected);
    }
    fs::remove_file(copy).unwrap();
    assert_eq!(documents(&TextCorpus::open(&config).unwrap()), expected);
    assert_eq!(copies().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every line of any file, against a split of the whole content.
    #[test]
    fn every_line_is_reached(
        words in prop::collection::vec("[a-c\t\r\u{e9}\u{6f22}]{0,6}", 1..400),
        final_line_feed: bool,
        lines in prop::option::of(1u64..500),
    ) {
        let mut content = words.join("\n");
        if final_line_feed {
            content.push('\n');
        }
        prop_assume!(!content.is_empty());
        let mut expected: Vec<_> = content.split_inclusive('\n').map(naive).collect();
        expected.truncate(lines.unwrap_or(u64::MAX) as usize);
        let text = Text::new(&content);
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            let corpus = corpus::open(&CorpusConfig { io, lines, ..text.config() }).unwrap();
            let found: Vec<_> = documents(&*corpus).into_iter().map(|d| d.ok().map(|(_, a, b)| (a, b))).collect();
            prop_assert_eq!(&found, &expected);
        }
    }
}

/// The two sentences of a line with its line end, the obvious way.
fn naive(line: &str) -> Option<(String, String)> {
    let line = match line.strip_suffix('\n') {
        Some(line) => line.strip_suffix('\r').unwrap_or(line),
        None => line,
    };
    match line.split('\t').collect::<Vec<_>>()[..] {
        [a, b] if !a.trim().is_empty() && !b.trim().is_empty() => Some((a.into(), b.into())),
        _ => None,
    }
}

#[test]
fn a_scan_sees_the_bytes_of_every_line_in_order() {
    let content = PLAIN.repeat(50) + "no\tend";
    let text = Text::new(&content);
    for lines in [None, Some(1), Some(16), Some(17), Some(151)] {
        let corpus = TextCorpus::open(&CorpusConfig { lines, ..text.config() }).unwrap();
        let mut seen = Vec::new();
        corpus
            .scan(|id, record| {
                assert_eq!((id, record.line), (seen.len() as u64, seen.len() as u64 + 1));
                seen.push(record.raw.to_vec());
                Ok(())
            })
            .unwrap();
        let most = lines.unwrap_or(u64::MAX) as usize;
        let expected: Vec<_> =
            content.split_inclusive('\n').take(most).map(|line| line.as_bytes().to_vec()).collect();
        assert_eq!(seen, expected);
    }
}

// All formats.

/// A document as it reads: its sentences.
type Read = Vec<String>;

/// Every format with how it is told apart, and how documents are written in it: a file of this name.
const FORMATS: [(&str, Format); 5] = [
    ("pairs.tsv", Format::Pairs),
    ("sentences.txt", Format::Sentences),
    ("lines.jsonl", Format::Jsonl),
    ("plain.txt", Format::Text),
    ("directory", Format::Text),
];

/// Writes documents, whose sentences are such as a splitter finds, at `path` in the format that has this name.
fn write_as(name: &str, path: &Path, documents: &[Read], line_end: &str) {
    let joined = |documents: &[String], between: &str| documents.join(between) + between;
    let each = |write: &dyn Fn(&Read) -> String| documents.iter().map(write).collect::<Vec<_>>();
    let text = match name {
        "pairs.tsv" => joined(&each(&|d| d.join("\t")), line_end),
        "sentences.txt" => joined(&each(&|d| joined(d, line_end)), line_end),
        "lines.jsonl" => {
            let object = |d: &Read| {
                serde_json::json!({ "id": [1, { "text": 2 }], "text": d.join(" "), "z": null }).to_string()
            };
            joined(&each(&object), line_end)
        }
        "plain.txt" => joined(&each(&|d| d.join(" ")), line_end),
        _ => {
            fs::create_dir(path).unwrap();
            for (n, document) in documents.iter().enumerate() {
                fs::write(path.join(format!("{n:05}.txt")), document.join(line_end)).unwrap();
            }
            return;
        }
    };
    fs::write(path, text).unwrap();
}

/// Every document's sentences, or what is wrong with it.
fn read_all(corpus: &dyn Corpus) -> Vec<Result<Read, String>> {
    let read = |id| {
        let document = corpus.document(id).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
            error.to_string().replace(&corpus.path().display().to_string(), "F")
        })?;
        Ok(document.sentences.iter().map(|sentence| sentence.text.to_string()).collect())
    };
    (0..corpus.len()).map(read).collect()
}

fn good(documents: &[Read]) -> Vec<Result<Read, String>> {
    documents.iter().cloned().map(Ok).collect()
}

/// What every format must do, with both readers.
fn check_format(name: &str, format: Format, documents: &[Read]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    write_as(name, &path, documents, "\n");
    let config = CorpusConfig { format: Some(format), ..CorpusConfig::at(&path) };
    let mapped = TextCorpus::open(&config).unwrap();
    let memory = TextCorpus::open(&CorpusConfig { io: Io::Memory, ..config.clone() }).unwrap();
    assert_eq!(mapped.fingerprint(), memory.fingerprint(), "{name}");
    for corpus in [&mapped, &memory] {
        assert_eq!(read_all(corpus), good(documents), "{name}");
        assert_eq!(corpus.shape(), format.shape());
        assert_eq!(corpus.document(corpus.len()).unwrap_err().kind(), ErrorKind::Internal);
        // In any order, and by a scan.
        for id in (0..corpus.len()).rev() {
            assert_eq!(corpus.document(id).unwrap().sentences.len(), documents[id as usize].len());
        }
        let mut scanned = Vec::new();
        corpus
            .scan(|id, record| {
                assert_eq!(id, scanned.len() as u64);
                let document = corpus.parse(&record.raw, record.line, record.size).unwrap();
                assert_eq!(document, corpus.document(id).unwrap());
                scanned.push(document.sentences.len());
                Ok(())
            })
            .unwrap();
        assert_eq!(scanned.len(), documents.len());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut TextReader::new(corpus), &mut text).unwrap();
        assert_eq!(text, documents.iter().map(|d| d.join("\n") + "\n\n").collect::<String>());
    }
    // Other line ends are other bytes, and the same documents.
    let crlf = directory.path().join("crlf").join(name);
    fs::create_dir(crlf.parent().unwrap()).unwrap();
    write_as(name, &crlf, documents, "\r\n");
    assert_eq!(read_all(&TextCorpus::open(&CorpusConfig { path: crlf, ..config }).unwrap()), good(documents));
}

fn sentences(documents: &[&[&str]]) -> Vec<Read> {
    documents.iter().map(|document| document.iter().map(|s| s.to_string()).collect()).collect()
}

#[test]
fn every_format_and_reader_gives_the_same_documents() {
    let documents = sentences(&[
        &["One sentence.", "And a \u{4e00}\u{3002}"],
        &["Zwei S\u{e4}tze!", "Ist das so?"],
        &["\"Quoted\\.\"", "End."],
    ]);
    for (name, format) in FORMATS {
        check_format(name, format, &documents);
        check_format(name, format, &vec![documents.clone(); 70].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Documents written in any format come back.
    #[test]
    fn documents_come_back_from_every_format(
        documents in prop::collection::vec(
            prop::collection::vec("[A-Z][a-z\u{e9}\u{6f22}\"]{1,8}( [a-z]{1,5}){0,3}[.!?]", 2..6),
            1..60,
        )
    ) {
        for (name, format) in FORMATS {
            if format == Format::Pairs {
                let pairs: Vec<Read> = documents.iter().map(|d| d[..2].to_vec()).collect();
                check_format(name, format, &pairs);
            } else {
                check_format(name, format, &documents);
            }
        }
    }
}

/// Reads `content` in this format, with both readers.
fn read_as(format: Format, content: &[u8]) -> Vec<Result<Read, String>> {
    let text = Text::new(content);
    let config = CorpusConfig { format: Some(format), ..text.config() };
    let found = read_all(&TextCorpus::open(&config).unwrap());
    assert_eq!(read_all(&TextCorpus::open(&CorpusConfig { io: Io::Memory, ..config }).unwrap()), found);
    found
}

#[test]
fn blank_lines_and_marks_change_no_document_of_sentences() {
    let expected = good(&sentences(&[&["a b", "c"], &["d"]]));
    for content in [
        "a b\nc\n\nd\n",
        "a b\nc\n\nd",
        "\n\n a b\t\nc\n\n\n\nd\n\n\n",
        "\u{feff}a b\nc\n \t\u{3000}\nd\n \n",
        "\u{feff}\r\na b\r\nc\r\n\r\nd\r\n",
    ] {
        assert_eq!(read_as(Format::Sentences, content.as_bytes()), expected, "{content:?}");
    }
    let text = Text::new("\n\na\nb\n\n\n\nc\n");
    let corpus =
        TextCorpus::open(&CorpusConfig { format: Some(Format::Sentences), ..text.config() }).unwrap();
    let lines: Vec<Vec<u64>> =
        (0..2).map(|id| corpus.document(id).unwrap().sentences.iter().map(|s| s.line).collect()).collect();
    assert_eq!(lines, [vec![3, 4], vec![8]]);
}

#[test]
fn a_fault_of_any_format_is_named_and_harms_no_other_document() {
    let check = |format, bad: &[u8], expected: &str| {
        let (first, last, between) = match format {
            Format::Sentences => (&b"One.\n\nfine\n"[..], &b"\n\nTwo.\n"[..], 3),
            Format::Jsonl => (&b"{\"text\":\"One.\"}\n"[..], &b"\n{\"text\":\"Two.\"}\n"[..], 2),
            _ => (&b"One.\n"[..], &b"\nTwo.\n"[..], 2),
        };
        let found = read_as(format, &[first, bad, last].concat());
        assert_eq!((&found[0], &found[2]), (&Ok(vec!["One.".into()]), &Ok(vec!["Two.".into()])));
        let message = found[1].clone().unwrap_err();
        let line = if format == Format::Sentences { between + 1 } else { between };
        assert!(message.starts_with(&format!("corpus F: line {line}: {expected}")), "{message}");
        assert!(message.contains("--on-bad-line skip"), "{message}");
    };
    check(Format::Sentences, b"a\xffb", "byte 2: not text in the encoding of the corpus (UTF-8)");
    check(Format::Sentences, &[b'x'; 17 << 20], "17825792 bytes");
    check(Format::Text, b"", "no sentence");
    check(Format::Text, b" \t\r", "no sentence");
    check(Format::Text, b"ab\xe4\xb8", "byte 3: not text");
    check(Format::Text, &[b'x'; 17 << 20], "17825792 bytes");
    check(Format::Jsonl, b"", "byte 0: not a JSON object: EOF while parsing a value");
    check(Format::Jsonl, b"{\"text\": \"a", "byte 11: not a JSON object: EOF while parsing a string");
    check(Format::Jsonl, b"{\"text\": \"a\"} x", "byte 15: not a JSON object: trailing characters");
    check(Format::Jsonl, b"[\"text\"]", "byte 0: not a JSON object: invalid type: sequence");
    check(Format::Jsonl, b"3", "byte 1: not a JSON object: invalid type: integer");
    check(Format::Jsonl, b"{\"Text\": \"a\"}", "the JSON object has no field \"text\"");
    check(
        Format::Jsonl,
        b"{\"text\": null}",
        "byte 13: the field \"text\" is not a string: invalid type: null",
    );
    check(
        Format::Jsonl,
        b"{\"text\": [\"a\"]}",
        "byte 9: the field \"text\" is not a string: invalid type: seq",
    );
    check(Format::Jsonl, b"{\"text\": \"\\ud800\"}", "byte 17: not a JSON object: ");
    check(Format::Jsonl, b"{\"text\": \" \\n\"}", "no sentence");
    check(Format::Jsonl, b"{\"text\": \"\xff\"}", "byte 11: not text");
    check(Format::Jsonl, &[b'{'; 17 << 20], "17825792 bytes");
    // Depth is no matter: in another field it is passed over, in this one it is no string.
    let deep = |field: &str| format!("{{\"{field}\": {}", "[".repeat(1 << 20)).into_bytes();
    check(Format::Jsonl, &deep("other"), "byte 1048586: not a JSON object: EOF");
    check(Format::Jsonl, &deep("text"), "byte 9: the field \"text\" is not a string");
}

#[test]
fn json_may_be_written_in_any_way() {
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let content = format!(
        "\u{feff}{{\"text\":\"One. Two.\"}}\r\n {{\"a\":{nested},\"te\\u0078t\":\"\\u4e00\\n\\tB\\u00e9.\"}} \n\
         {{\"text\": 3, \"text\": \"Last\\u0000 one.\"}}"
    );
    let found = read_as(Format::Jsonl, content.as_bytes());
    assert_eq!(found[..2], good(&sentences(&[&["One.", "Two."], &["\u{4e00}", "B\u{e9}."]])));
    assert!(found[2].clone().unwrap_err().contains("line 3: byte 10: the field"), "{:?}", found[2]);

    let text = Text::new("{\"text\": \"no\", \"body\": \"yes\"}");
    let of = |field: &str| CorpusConfig {
        format: Some(Format::Jsonl),
        field: Some(field.into()),
        ..text.config()
    };
    let [body, other] = ["body", "text"].map(|field| TextCorpus::open(&of(field)).unwrap());
    assert_eq!(read_all(&body), good(&sentences(&[&["yes"]])));
    assert_ne!(body.fingerprint(), other.fingerprint());
    let config = CorpusConfig { format: Some(Format::Text), ..of("body") };
    assert_eq!(Sources::from(config).open().err().unwrap().kind(), ErrorKind::Usage);
}

/// Texts longer than what is read as a whole each time: sentences that open and that do not, long runs, several lines.
fn books() -> Vec<String> {
    let sentence = |k: usize| match k % 9 {
        0 => format!("(Said {k} \"so\") it went on."),
        1 => format!("\u{c4}hre {k}\u{2019}s \u{1f600} \\ end!"),
        2 => format!("{} {k}", "-".repeat(70 + k % 5)),
        3 => format!("\u{3042}\u{3044}{k}\u{3002}"),
        _ => format!("Sentence {k} of a book, as long as they are, goes from here to there."),
    };
    (0..3).map(|book| (0..1500).map(|k| sentence(1000 * book + k)).collect::<Vec<_>>().join(" ")).collect()
}

/// Books in every format, read in every way: (corpus, whether a part of one can be read without the rest).
fn shelves(directory: &Path) -> Vec<(TextCorpus, bool)> {
    let at = |name: &str| directory.join(name);
    let books = books();
    let lines = |text: &str| text.replace(". ", ".\n");
    let ascii = |text: &str| text.replace(|c: char| !c.is_ascii(), "o");
    let escaped = |text: &str| {
        let plain = serde_json::to_string(text).unwrap();
        plain.chars().fold(String::new(), |json, c| match c {
            c if c.is_ascii() => json + &c.to_string(),
            c => c.encode_utf16(&mut [0; 2]).iter().fold(json, |json, unit| json + &format!("\\u{unit:04x}")),
        })
    };
    let object = |text: String| {
        format!(
            r#" {{"te": "\"}}", "text": "no", "n": [{{"text": "]"}}], "te\u0078t" : {text} , "z": {{}}}}"#
        )
    };
    fs::write(at("text"), books.join("\n")).unwrap();
    fs::write(at("sentences"), books.iter().map(|b| lines(b)).collect::<Vec<_>>().join("\n\n")).unwrap();
    let json = |text: &String| object(serde_json::to_string(&lines(text)).unwrap());
    fs::write(at("plain"), books.iter().map(json).collect::<Vec<_>>().join("\n")).unwrap();
    let json = |text: &String| object(escaped(&lines(text)));
    fs::write(at("escaped"), books.iter().map(json).collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(at("latin"), books.iter().map(|b| ascii(b)).collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(at("japanese"), encoding_rs::SHIFT_JIS.encode(&books.join("\n")).0).unwrap();
    fs::write(
        at("broken"),
        books.iter().flat_map(|b| [b.as_bytes(), b"\xff\n"].concat()).collect::<Vec<u8>>(),
    )
    .unwrap();
    fs::create_dir(at("directory")).unwrap();
    for (name, text) in ["a", "b", "c"].iter().zip(&books) {
        fs::write(at("directory").join(name), format!("\u{feff}{}", lines(text))).unwrap();
    }
    let mut shelves = vec![];
    for (name, format, encoding, parted) in [
        ("text", Format::Text, "utf-8", true),
        ("sentences", Format::Sentences, "utf-8", true),
        ("plain", Format::Jsonl, "utf-8", true),
        ("escaped", Format::Jsonl, "utf-8", true),
        ("latin", Format::Text, "windows-1252", true),
        ("japanese", Format::Text, "shift_jis", false),
        ("broken", Format::Text, "utf-8", false),
        ("directory", Format::Text, "utf-8", true),
    ] {
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            let config = CorpusConfig {
                format: Some(format),
                encoding: encoding.into(),
                replace_bad_bytes: name == "broken",
                io,
                ..CorpusConfig::at(at(name))
            };
            shelves.push((TextCorpus::open(&config).unwrap(), parted));
        }
    }
    shelves
}

/// Sentences from `from` on, as many as are wanted of `most`.
fn excerpt(corpus: &dyn Corpus, id: u64, from: usize, most: usize) -> Result<Vec<(String, u64)>, Error> {
    let mut seen = vec![];
    corpus.excerpt(id, &|| true, &mut |count| from.min(count - 1), &mut |sentence| {
        seen.push((sentence.text.to_string(), sentence.line));
        seen.len() < most
    })?;
    Ok(seen)
}

#[test]
fn an_excerpt_is_a_part_of_the_document_in_every_format_and_reader() {
    let directory = tempfile::tempdir().unwrap();
    for (corpus, _) in shelves(directory.path()) {
        for id in [2, 0] {
            let document = corpus.document(id).unwrap();
            let all: Vec<_> = document.sentences.iter().map(|s| (s.text.to_string(), s.line)).collect();
            assert!(all.len() > 500);
            for from in (0..all.len()).step_by(7).chain([all.len() - 1]) {
                let found = excerpt(&corpus, id, from, 40).unwrap();
                assert_eq!(found, all[from..all.len().min(from + 40)], "{:?} from {from}", corpus.format());
            }
            assert_eq!(excerpt(&corpus, id, 3, usize::MAX).unwrap(), all[3..]);
        }
    }
}

/// After a book has been read once, an excerpt touches nothing but its own surroundings: all else may be broken by then.
#[test]
fn an_excerpt_of_a_book_reads_no_more_than_its_surroundings() {
    let directory = tempfile::tempdir().unwrap();
    for (corpus, parted) in shelves(directory.path()).into_iter().filter(|(c, _)| c.config().io == Io::Pread)
    {
        let count = corpus.document(1).unwrap().sentences.len();
        let before = excerpt(&corpus, 1, count / 2, 20).unwrap();
        let file = corpus.file(1);
        let content = fs::read(file).unwrap();
        // A document's first part, and its last.
        let third = if file == corpus.path() { content.len() / 3 } else { 0 };
        let length = if third > 0 { third } else { content.len() };
        let mut broken = content.clone();
        broken[third + length / 20..third + length / 3].fill(0xff);
        broken[third + 2 * length / 3..third + 9 * length / 10].fill(0xff);
        fs::write(file, &broken).unwrap();
        assert_eq!(excerpt(&corpus, 1, count / 2, 20).ok() == Some(before), parted, "{:?}", corpus.format());
        if parted && corpus.encoding().is_utf8() {
            assert_eq!(excerpt(&corpus, 1, count / 5, 20).unwrap_err().kind(), ErrorKind::Io);
            assert_eq!(corpus.document(1).unwrap_err().kind(), ErrorKind::Data);
        }
        fs::write(file, content).unwrap();
    }
}

/// Whenever the answer is no, no more than the end of the call asks again, and nothing is kept of what was begun.
#[test]
fn a_book_that_is_wanted_no_more_is_not_read_on() {
    let directory = tempfile::tempdir().unwrap();
    for (corpus, _) in shelves(directory.path()).into_iter().filter(|(c, _)| c.format() != Format::Sentences)
    {
        let whole = corpus.document(0).unwrap();
        for most in [0, 1, 5] {
            let asked = Cell::new(0);
            let wanted = || {
                asked.set(asked.get() + 1);
                asked.get() <= most
            };
            let error = corpus.document_while(0, &wanted).unwrap_err();
            assert_eq!((error.kind(), asked.replace(0)), (ErrorKind::Internal, most + 2));
            let left = corpus.excerpt(0, &wanted, &mut |_| 0, &mut |_| true);
            assert_eq!((left.unwrap_err().kind(), asked.get()), (ErrorKind::Internal, most + 2));
        }
        assert_eq!(excerpt(&corpus, 0, 0, usize::MAX).unwrap().len(), whole.sentences.len());
    }
}

#[test]
fn documents_are_the_same_in_every_encoding() {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let japanese = "\u{3000}\n日本語。\n能力\n\u{3000}\nソ\n";
    for (format, text) in [
        (Format::Sentences, japanese),
        (Format::Text, "日本語。能力\nソ\n"),
        (Format::Jsonl, "{\"text\": \"日本語。能力\"}\n{\"text\": \"ソ\"}"),
    ] {
        let expected = read_as(format, text.as_bytes());
        assert_eq!(expected, good(&sentences(&[&["日本語。", "能力"], &["ソ"]])));
        for (label, bytes) in [
            ("utf-16le", utf16(text)),
            ("shift_jis", encoding_rs::SHIFT_JIS.encode(text).0.into_owned()),
            ("iso-2022-jp", encoding_rs::ISO_2022_JP.encode(text).0.into_owned()),
        ] {
            let text = Text::new(bytes);
            let config = CorpusConfig { format: Some(format), encoding: label.into(), ..text.config() };
            for io in [Io::Mmap, Io::Pread, Io::Memory] {
                let corpus = TextCorpus::open(&CorpusConfig { io, ..config.clone() }).unwrap();
                assert_eq!(read_all(&corpus), expected, "{format:?} {label}");
            }
        }
    }
}

#[test]
fn a_directory_is_its_plain_files_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("texts");
    fs::create_dir_all(root.join("folder")).unwrap();
    for (name, content) in [
        ("b.txt", "\u{feff}Second. It\r\ngoes on."),
        ("a", "First."),
        ("c.txt", " \n"),
        (".hidden", "x"),
        ("a.bsidx", "x"),
        ("folder/d.txt", "x"),
        ("e.txt", "Last."),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
    let config = CorpusConfig::at(&root);
    let open = |config: &CorpusConfig| TextCorpus::open(config).unwrap();
    let corpus = open(&config);
    assert!(corpus.is_guessed() && corpus.format() == Format::Text && corpus.text_file().is_none());
    let found = read_all(&corpus);
    assert_eq!(found[..2], good(&sentences(&[&["First."], &["Second.", "It", "goes on."]])));
    assert!(found[2].clone().unwrap_err().contains("c.txt: line 1: no sentence"), "{found:?}");
    assert_eq!((corpus.len(), corpus.file(3).file_name().unwrap()), (4, "e.txt".as_ref()));
    assert_eq!(corpus.document(1).unwrap().sentences[2].line, 2);

    let part = CorpusConfig { lines: Some(2), ..config.clone() };
    assert_eq!((open(&part).len(), read_all(&open(&part))), (2, found[..2].to_vec()));
    assert_ne!(open(&part).fingerprint(), corpus.fingerprint());
    let memory = open(&CorpusConfig { io: Io::Memory, ..config.clone() });
    assert_eq!((memory.fingerprint(), read_all(&memory)), (corpus.fingerprint(), found));
    // Shorter than it was: an error for the reader that goes there, nothing for the one that does not.
    fs::write(root.join("a"), "x").unwrap();
    assert_eq!(corpus.document(0).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(memory.document(0).unwrap().sentences[0].text, "First.");
    assert_ne!(open(&config).fingerprint(), corpus.fingerprint());
    fs::rename(root.join("a"), root.join("A")).unwrap();
    let renamed = open(&config).fingerprint();
    fs::rename(root.join("A"), root.join("0")).unwrap();
    assert_ne!(open(&config).fingerprint(), renamed);
    fs::write(root.join("f.txt"), vec![b'x'; 17 << 20]).unwrap();
    assert!(open(&config).document(4).unwrap_err().to_string().contains("17825792 bytes"));

    for (refused, code) in [
        (CorpusConfig { format: Some(Format::Jsonl), ..config.clone() }, 2),
        (CorpusConfig { encoding: "utf-16le".into(), ..config.clone() }, 2),
        (CorpusConfig::at(root.join("folder").join("none")), 66),
    ] {
        assert_eq!(code_of(&refused), code);
    }
    fs::write(root.join("g.txt"), b"\x1f\x8b\x08").unwrap();
    let error = refused(&config);
    assert!(error.kind().exit_code() == 65 && format!("{:?}", error).contains("g.txt"), "{error:?}");
    fs::create_dir(root.join("empty")).unwrap();
    assert_eq!(code_of(&CorpusConfig::at(root.join("empty"))), 65);
}

fn code_of(config: &CorpusConfig) -> u8 {
    refused(config).kind().exit_code()
}

#[test]
fn a_format_that_cannot_be_told_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text.txt");
    let check = |content: &str, expected: Option<Format>| {
        fs::write(&path, content).unwrap();
        match (TextCorpus::open(&CorpusConfig::at(&path)), expected) {
            (Ok(corpus), Some(format)) => assert!(corpus.is_guessed() && corpus.format() == format),
            (Err(error), None) => {
                let chain = format!("{error:?}");
                assert!(error.kind() == ErrorKind::Data && chain.contains("--corpus-format"), "{chain}");
            }
            (found, _) => panic!("{content:?}: {:?}", found.map(|corpus| corpus.format())),
        }
    };
    check("a\tb\nc\td\n", Some(Format::Pairs));
    check("a\nb\n\nc\n", Some(Format::Sentences));
    check("{\"text\": \"a\"}\n", Some(Format::Jsonl));
    check("a\nb\n", None);
    let given = CorpusConfig { format: Some(Format::Text), ..CorpusConfig::at(&path) };
    let corpus = TextCorpus::open(&given).unwrap();
    assert_eq!((corpus.is_guessed(), corpus.len()), (false, 2));
}

#[test]
fn an_index_of_another_format_is_made_again() {
    let text = Text::new("a\tb\n\nc\td\n".repeat(2000));
    let open = |format| TextCorpus::open(&CorpusConfig { format: Some(format), ..text.config() }).unwrap();
    for (format, documents, built) in [
        (Format::Pairs, 6000, true),
        (Format::Sentences, 2001, true),
        (Format::Sentences, 2001, false),
        (Format::Text, 6000, true),
        (Format::Pairs, 6000, false),
    ] {
        let corpus = open(format);
        assert_eq!((corpus.len(), index_file(&corpus).built), (documents, built), "{format:?}");
    }
    let prints: std::collections::HashSet<_> =
        [Format::Pairs, Format::Sentences, Format::Jsonl, Format::Text].map(|f| open(f).fingerprint()).into();
    assert_eq!(prints.len(), 4);
    let whole = open(Format::Sentences);
    let expected = read_all(&whole);
    let index = fs::read(text.index()).unwrap();
    for at in (0..index.len()).step_by(5) {
        let mut damaged = index.clone();
        damaged[at] ^= 0x10;
        fs::write(text.index(), damaged).unwrap();
        let corpus = open(Format::Sentences);
        assert!(index_file(&corpus).built && corpus.fingerprint() == whole.fingerprint());
    }
    assert_eq!(read_all(&open(Format::Sentences)), expected);
    let part = CorpusConfig { format: Some(Format::Sentences), lines: Some(4), ..text.config() };
    assert_eq!(TextCorpus::open(&part).unwrap().len(), 2);
}

/// A corpus cut into files is the same corpus: one source, with its documents in the order of names.
#[test]
fn the_files_of_a_pattern_are_one_corpus() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let lines: Vec<String> = (0..90).map(|line| format!("first {line}\tsecond {line}\n")).collect();
    fs::write(at("whole.tsv"), lines.concat()).unwrap();
    for (name, part) in ["part-0.txt", "part-1.txt", "part-2.txt"].iter().zip(lines.chunks(40)) {
        fs::write(at(name), part.concat()).unwrap();
    }
    let text = |corpus: &dyn Corpus| -> Vec<Vec<String>> {
        let documents = (0..corpus.len()).map(|id| corpus.document(id).unwrap());
        documents.map(|document| document.sentences.iter().map(|s| s.text.to_string()).collect()).collect()
    };
    let open = |path| Sources::from(CorpusConfig::at(path)).open();
    let (whole, _) = open(at("whole.tsv")).unwrap();
    for _ in 0..2 {
        let (parts, found) = open(at("part-?.txt")).unwrap();
        assert_eq!(text(&*parts), text(&*whole));
        assert_eq!((parts.sources(), parts.bytes()), (whole.sources(), whole.bytes()));
        assert_eq!((&*found[0].path, found[0].format), (&*at("part-?.txt"), Some(Format::Pairs)));
        assert_eq!((parts.file(39), parts.file(40)), (&*at("part-0.txt"), &*at("part-1.txt")));
    }
    let each = Sources::from(CorpusConfig { weight: Some(9.0), ..CorpusConfig::at(at("part-*")) });
    let weights: f64 = each.file_by_file().unwrap().iter().map(|file| file.weight.unwrap()).sum();
    assert!((weights - 9.0).abs() < 1e-9);

    let cut = CorpusConfig { lines: Some(5), ..CorpusConfig::at(at("part-*.txt")) };
    assert_eq!(corpus::open(&cut).map(|_| ()).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(open(at("no-*.txt")).map(|_| ()).unwrap_err().kind(), ErrorKind::MissingInput);
    fs::write(at("part-3.txt"), "no tab here\n\nnor here\n").unwrap();
    assert!(open(at("part-?.txt")).unwrap().0.document(90).is_err());
}

#[test]
fn a_mixture_is_its_sources_one_behind_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a.txt"), directory.path().join("b.jsonl"));
    fs::write(&a, "one\n\ntwo\n".repeat(50)).unwrap();
    fs::write(&b, "{\"text\": \"three\"}\nbad\n".repeat(30)).unwrap();
    let open = |weights: [Option<f64>; 2]| {
        let each = [&a, &b].into_iter().zip(weights);
        let sources = each.map(|(path, weight)| CorpusConfig { weight, ..CorpusConfig::at(path) });
        Sources::new(sources.collect()).unwrap().open()
    };
    let (corpus, found) = open([None, None]).unwrap();
    // Lines of blocks run on: "two" and the next "one" are one document.
    assert_eq!((corpus.len(), corpus.bytes()), (51 + 60, 450 + 30 * 22));
    let formats: Vec<_> = found.iter().map(|source| (source.format, source.field.as_deref())).collect();
    assert_eq!(formats, [(Some(Format::Sentences), None), (Some(Format::Jsonl), Some("text"))]);
    let each: Vec<_> = corpus.sources().into_iter().map(|s| (s.documents, s.per_epoch)).collect();
    assert_eq!(each, [(0..51, 51), (51..111, 60)]);
    assert_eq!(corpus.document(0).unwrap().sentences[0].text, "one");
    assert_eq!(corpus.document(51).unwrap().sentences[0].text, "three");
    let error = corpus.document(52).unwrap_err().to_string();
    assert!(error.contains("b.jsonl: line 2: "), "{error}");
    assert_eq!((corpus.file(50), corpus.file(51)), (&*a, &*b));
    assert_eq!(corpus.document(111).unwrap_err().kind(), ErrorKind::Internal);

    let (weighted, _) = open([Some(3.0), Some(1.0)]).unwrap();
    let per_epoch: Vec<_> = weighted.sources().into_iter().map(|source| source.per_epoch).collect();
    // 1110 bytes: 832.5 of documents of 450 / 51, 277.5 of documents of 11.
    assert_eq!(per_epoch, [94, 25]);
    let prints = [[None, None], [Some(3.0), Some(1.0)], [Some(1.0), Some(3.0)]]
        .map(|weights| open(weights).unwrap().0.fingerprint());
    assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] != prints[2]);

    assert_eq!(open([Some(1.0), None]).err().unwrap().kind(), ErrorKind::Usage);
    fs::write(&b, "a\tb\n").unwrap();
    let error = open([None, None]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("a.txt") && error.to_string().contains("b.jsonl"), "{error}");
}

// What the reference does with its corpus and this program does not (docs list the differences).

#[test]
fn reference_line_cut_eats_the_last_character_without_a_final_newline() {
    let found = documents(&Text::new("a b\tc d\ne f\tg h").open());
    assert_eq!(found[1], Ok((2, "e f".into(), "g h".into())));
}

#[test]
fn reference_streaming_ignores_the_index_of_the_item() {
    let content: String = (0..500).map(|n| format!("first {n}\tsecond {n}\n")).collect();
    let text = Text::new(content);
    let corpus = text.open();
    // Any order, the same line twice, and all of it without having read what lies before.
    for id in [499, 0, 250, 250, 17, 16, 15, 499] {
        let document = corpus.document(id).unwrap();
        assert_eq!(document.sentences[1].text, format!("second {id}"));
    }
}

#[test]
fn reference_missing_tab_is_an_index_error_at_a_random_step() {
    let text = Text::new("a\tb\nno tab here\n");
    let error = text.open().document(1).unwrap_err();
    assert_eq!(error.kind().exit_code(), 65);
    assert!(error.to_string().contains("text.tsv: line 2: no tab"), "{error}");
}

#[test]
fn reference_further_tabs_are_dropped_silently() {
    let error = Text::new("a\tb\tc\n").open().document(0).unwrap_err();
    assert!(error.to_string().contains("line 1: more than one tab"), "{error}");
}

#[test]
fn reference_workers_each_hold_a_copy_of_the_corpus() {
    let text = Text::new(PLAIN);
    let corpus = TextCorpus::open(&CorpusConfig { io: Io::Memory, ..text.config() }).unwrap();
    // One copy shared by threads: a document borrows from it, whichever thread asks.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let document = corpus.document(1).unwrap();
                assert!(matches!(document.sentences[0].text, std::borrow::Cow::Borrowed("the third")));
            });
        }
    });
}

// The command.

fn bertstream(arguments: &[&str]) -> (Output, Option<serde_json::Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_bertstream")).args(arguments).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).ok();
    (output, json)
}

#[test]
fn the_command_tells_lines_index_and_documents() {
    let text = Text::new("a\tb\n".repeat(100_000));
    let path = text.path.to_str().unwrap();
    for built in [true, false] {
        let (output, json) = bertstream(&["corpus", "--corpus", path, "--limit", "2", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let json = json.unwrap();
        assert_eq!(json["lines"], 100_000);
        assert_eq!(json["bytes"], 400_000);
        assert_eq!(json["index"]["built"], built);
        assert_eq!(json["index"]["path"], text.index().to_str().unwrap());
        assert_eq!(json["index"]["bytes"], fs::metadata(text.index()).unwrap().len());
        assert!(json["index"]["share"].as_f64().unwrap() < 0.005);
        assert_eq!(json["fingerprint"], format!("{:016x}", text.open().fingerprint()));
        assert_eq!(json["documents"][1]["sentences"], serde_json::json!(["a", "b"]));
        for shuffle in ["keyed", "blocks"] {
            assert!(json["shuffle_quality"][shuffle].as_f64().unwrap() > 0.97, "{json}");
        }
        assert!(json.get("check").is_none());
    }
}

#[test]
fn the_doctor_is_the_check_and_its_code_is_for_scripts() {
    let (clean, bad) = (Text::new("a\tb\nc\td\n"), Text::new("a\tb\nno tab\na\tb\r\n"));
    for command in [&["doctor"][..], &["corpus", "--check"]] {
        for (text, code) in [(&clean, 0), (&bad, 65)] {
            let corpus = ["--json", "-c", text.path.to_str().unwrap()];
            let (output, json) = bertstream(&[command, &corpus].concat());
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let check = &json.unwrap()["check"];
            assert_eq!(check["refused"], u64::from(code == 65));
            if code == 65 {
                assert_eq!(check["refusals"]["no_tab"], serde_json::json!({ "count": 1, "lines": [2] }));
                assert_eq!(check["crlf"]["lines"], serde_json::json!([3]));
                assert_eq!(check["duplicates"]["lines"], serde_json::json!([[3, 1]]));
                let message = String::from_utf8(output.stderr).unwrap();
                assert!(message.contains("1 of 3 lines"), "{message}");
            }
        }
    }
}

#[test]
fn the_table_names_the_lines() {
    let text = Text::new("a\tb\nno tab\n");
    let (output, _) = bertstream(&["doctor", "-c", text.path.to_str().unwrap()]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(row(&table, "no tab"), "1 (line 2)", "{table}");
}

#[test]
fn the_command_tells_what_documents_are() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a.txt"), directory.path().join("b.jsonl"));
    fs::write(&a, "\none\ntwo\n\n\nthree\n").unwrap();
    fs::write(&b, "{\"text\": \"Four. Five.\"}\n{\"text\": 6}\n").unwrap();
    let [a, b] = [a.to_str().unwrap(), b.to_str().unwrap()];
    let (output, json) = bertstream(&["doctor", "-c", a, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = json.unwrap();
    for (key, value) in [("format", "sentences".into()), ("guessed", true.into()), ("lines", 6.into())] {
        let value: serde_json::Value = value;
        assert_eq!(json[key], value, "{key}");
    }
    assert_eq!((&json["document_count"], &json["cut"]), (&2.into(), &0.into()));
    assert_eq!((&json["check"]["documents"], &json["check"]["sentences"]["max"]), (&2.into(), &2.into()));

    let sources = ["-c", &format!("{a}:3"), "-c", &format!("{b}:1")];
    let (output, json) = bertstream(&[&["doctor", "--json"], &sources[..]].concat());
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let json = json.unwrap();
    assert_eq!(json["document_count"], 4);
    assert_eq!(json["sources"][1]["check"]["refusals"]["field_not_text"]["lines"], serde_json::json!([2]));
    assert_eq!(json["sources"][0]["weight"], 3.0);
    assert!((json["sources"][0]["share"].as_f64().unwrap() - 0.75).abs() < 0.2, "{json}");
    let (output, _) = bertstream(&[&["corpus", "--limit", "2"], &sources[..]].concat());
    let table = String::from_utf8(output.stdout).unwrap();
    for part in ["sentences: a sentence a line", "(guessed;", "an epoch has", "% of its text", "one  |  two"]
    {
        assert!(table.contains(part), "{part} is not in: {table}");
    }
    let (output, _) = bertstream(&["corpus", "-c", directory.path().to_str().unwrap()]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(row(&table, "files"), "2", "{table}");
}

/// The value of a row of a table.
fn row<'t>(table: &'t str, name: &str) -> &'t str {
    let found = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix("  "));
    found.unwrap_or_else(|| panic!("no row {name} in: {table}")).trim_start()
}

#[test]
fn the_command_ends_with_the_code_of_what_is_wrong() {
    let text = Text::new("a\tb\n");
    let path = text.path.to_str().unwrap();
    for (arguments, code) in [
        (&["--corpus", "/nowhere/at/all"][..], 66),
        (&["--corpus", path, "--encoding", "klingon"], 2),
        (&["--corpus", path, "--corpus-lines", "0"], 2),
        (&["--corpus", path, "--seq-len", "3"], 2),
        (&["--corpus", path, "--batch-size", "0"], 2),
        (&["--corpus", path, "--tokens-per-second", "0"], 2),
        (&["--corpus", path, "--index-dir", path], 73),
    ] {
        let (output, _) = bertstream(&[&["corpus"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
}

mod compressed {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    const TEXT: &str = "a line\tand its next\nanother\tone\nthe\tlast\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn opened(path: &Path) -> bertstream::Result<Box<dyn Corpus>> {
        corpus::open(&CorpusConfig::at(path))
    }

    fn texts(corpus: &dyn Corpus) -> Vec<String> {
        let text = |id| {
            corpus.document(id).unwrap().sentences.iter().map(|s| s.text.to_string()).collect::<Vec<_>>()
        };
        (0..corpus.len()).map(|id| text(id).join("|")).collect()
    }

    #[test]
    fn what_is_compressed_is_the_corpus_that_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain.tsv");
        fs::write(&plain, TEXT).unwrap();
        let plain = opened(&plain).unwrap();
        let (front, back) = TEXT.as_bytes().split_at(11);
        let forms = [
            ("one.tsv.gz", gzip(TEXT.as_bytes())),
            ("members.tsv.gz", [gzip(front), gzip(back)].concat()),
            ("one.tsv.zst", zstd(TEXT.as_bytes())),
            ("frames.zst", [zstd(front), zstd(back)].concat()),
        ];
        for (name, bytes) in forms {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            // The second time the copy is there.
            for _ in 0..2 {
                let corpus = opened(&path).unwrap();
                assert_eq!(texts(&*corpus), texts(&*plain), "{name}");
                assert_eq!((corpus.fingerprint(), corpus.path()), (plain.fingerprint(), &*path), "{name}");
            }
            let copies = fs::read_dir(dir.path())
                .unwrap()
                .filter(|entry| {
                    let file = entry.as_ref().unwrap().file_name().into_string().unwrap();
                    file.starts_with(name) && file.ends_with(".unpacked")
                })
                .count();
            assert_eq!(copies, 1, "{name}");
        }
    }

    #[test]
    fn what_was_compressed_anew_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tsv.gz");
        for text in ["a\tb\n", "c\td\n"] {
            fs::write(&path, gzip(text.as_bytes())).unwrap();
            assert_eq!(texts(&*opened(&path).unwrap()), [text.trim_end().replace('\t', "|")]);
        }
    }

    #[test]
    fn a_pattern_takes_files_with_and_without_compression() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.tsv"), "a\tb\n").unwrap();
        fs::write(dir.path().join("2.tsv.gz"), gzip(b"c\td\n")).unwrap();
        fs::write(dir.path().join("3.tsv.zst"), zstd(b"e\tf\n")).unwrap();
        for _ in 0..2 {
            let corpus = opened(&dir.path().join("*.tsv*")).unwrap();
            assert_eq!(texts(&*corpus), ["a|b", "c|d", "e|f"]);
        }
    }

    #[test]
    fn damage_and_bombs_are_bad_data_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let whole = gzip(TEXT.as_bytes());
        let mut flipped = whole.clone();
        let at = flipped.len() - 6;
        flipped[at] ^= 1;
        let cases = [
            ("cut.gz", whole[..whole.len() - 9].to_vec(), "cut short"),
            ("flipped.gz", flipped, "damaged"),
            ("cut.zst", zstd(TEXT.as_bytes())[..20].to_vec(), "cut short"),
            ("bomb.gz", gzip(&vec![b'a'; 96 << 20]), "more than 250 times"),
            ("bomb.zst", zstd(&vec![b'\n'; 96 << 20]), "more than 250 times"),
            ("empty.gz", gzip(b""), "the file is empty"),
        ];
        for (name, bytes, expected) in cases {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let error = opened(&path).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}");
            let message = error.to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
            let left = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> =
                left.filter(|file| file.to_str().unwrap().starts_with(".bertstream")).collect();
            assert!(left.is_empty(), "{name}: {left:?}");
        }
    }
}
