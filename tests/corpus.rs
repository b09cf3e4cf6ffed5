//! Stage 1 from the outside: files of every kind in, documents or a named error out.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bertstream::corpus::{self, Corpus, CorpusConfig, Io, PairCorpus};
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
        CorpusConfig {
            path: self.path.clone(),
            io: Io::Mmap,
            lines: None,
            encoding: "utf-8".into(),
            index_dir: None,
        }
    }

    fn open(&self) -> PairCorpus {
        PairCorpus::open(&self.config()).unwrap()
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("text.tsv.bsidx")
    }
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
    match PairCorpus::open(config) {
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
        for io in [Io::Mmap, Io::Memory] {
            let corpus = PairCorpus::open(&CorpusConfig { io, ..text.config() }).unwrap();
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
        (b"\x1f\x8b\x08\0\0\0", "gzip -d"),
        (b"\x28\xb5\x2f\xfd\0", "zstd -d"),
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
    assert_eq!(code(&named(text.dir.path())), 66);
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
    let part = |lines| PairCorpus::open(&CorpusConfig { lines: Some(lines), ..text.config() }).unwrap();
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
    let found = documents(&text.open());
    assert_eq!(found[0], Ok((1, "a".into(), "b".into())));
    assert!(found[1].clone().unwrap_err().contains("line 2: 17825792 bytes"), "{:?}", found[1]);
    assert_eq!(found[2], Ok((3, "c".into(), "d".into())));
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
    assert_eq!(PairCorpus::open(&memory).unwrap().fingerprint(), original);
    assert!(!moved.index().exists(), "the index goes where it was told to");
    assert_ne!(Text::new(PLAIN.replace("six", "sex").replace("one", "two")).open().fingerprint(), original);
}

#[test]
fn corpora_of_one_name_share_an_index_directory() {
    let (one, two) = (Text::new("a\tb\n"), Text::new("c\td\n"));
    let shared = tempfile::tempdir().unwrap();
    let open = |text: &Text| {
        let index_dir = Some(shared.path().to_owned());
        PairCorpus::open(&CorpusConfig { index_dir, ..text.config() }).unwrap()
    };
    assert!(open(&one).index_file().built && open(&two).index_file().built);
    assert!(!open(&one).index_file().built && !open(&two).index_file().built);
    assert_eq!(documents(&open(&two)), [Ok((1, "c".into(), "d".into()))]);
}

/// Changes a corpus behind its index and expects to see the new content.
fn check_change(keeps_time: bool, change: impl FnOnce(&Path)) {
    let text = Text::new(PLAIN.repeat(100));
    assert!(text.open().index_file().built);
    assert!(!text.open().index_file().built, "a fresh index is used");
    let time = fs::metadata(&text.path).unwrap().modified().unwrap();
    change(&text.path);
    if keeps_time {
        let file = File::options().append(true).open(&text.path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    let content = fs::read(&text.path).unwrap();
    let corpus = text.open();
    assert!(corpus.index_file().built, "a stale index is not used");
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
        assert!(corpus.index_file().built);
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
    assert_eq!(corpus.index_file().path, None);
    assert_eq!(documents(&corpus), documents(&Text::new(PLAIN).open()));
}

/// A small text in an encoding gives the documents of its UTF-8 version, with either reader.
fn check_encoding(label: &str, content: Vec<u8>, utf8: &str) {
    let expected = documents(&Text::new(utf8).open());
    let text = Text::new(content);
    for io in [Io::Mmap, Io::Memory, Io::Mmap] {
        let config = CorpusConfig { io, encoding: label.into(), ..text.config() };
        assert_eq!(documents(&PairCorpus::open(&config).unwrap()), expected, "{label}, {io:?}");
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
        let found = documents(&PairCorpus::open(&config).unwrap());
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
    let corpus = PairCorpus::open(&config).unwrap();
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
        let corpus = PairCorpus::open(&config).unwrap();
        assert!(corpus.index_file().built);
        assert_eq!(documents(&corpus), expected);
    }
    fs::remove_file(copy).unwrap();
    assert_eq!(documents(&PairCorpus::open(&config).unwrap()), expected);
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
        for io in [Io::Mmap, Io::Memory] {
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
        let corpus = PairCorpus::open(&CorpusConfig { lines, ..text.config() }).unwrap();
        let mut seen = Vec::new();
        corpus
            .scan(|id, line| {
                assert_eq!(id, seen.len() as u64);
                seen.push(line.to_vec());
                Ok(())
            })
            .unwrap();
        let most = lines.unwrap_or(u64::MAX) as usize;
        let expected: Vec<_> =
            content.split_inclusive('\n').take(most).map(|line| line.as_bytes().to_vec()).collect();
        assert_eq!(seen, expected);
    }
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
    let corpus = text.open();
    // One map shared by threads: a document borrows from it, whichever thread asks.
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
    assert!(table.contains("no tab                   1 (line 2)"), "{table}");
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
