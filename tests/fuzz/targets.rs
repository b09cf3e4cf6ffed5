//! What is fed made-up bytes: a function for each parser of bytes that others wrote. It takes bytes, gives nothing,
//! and panics where a promise is broken. Knows nothing of where the bytes come from: libFuzzer, or the kept inputs.
//!
//! A checksum would keep every made-up file out at the door, where there is one. So the targets put the right checksum
//! into what they are given, and what lies behind the door is tried as well.

use std::fs;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bertstream::collate::file::{check_ids, from_safetensors};
use bertstream::corpus::index::{Found, Identity, Index, Records, Window};
use bertstream::corpus::tokens::{Header, TokenFile, Writer, encode_block};
use bertstream::corpus::{
    Bytes, Compression, Corpus, CorpusConfig, DocumentIds, Format, Io, Piece, TextCorpus,
};
use bertstream::model::{Arch, Init, Layout, ModelConfig, State};
use bertstream::text::{Encoding, OnBadBytes, Transcoder, utf8_lossy};
use bertstream::train::checkpoint::{self, Checkpoint, Checkpoints, Manifest, Progress};
use bertstream::train::tensors::{self, Targets};
use bertstream::train::{RunConfig, transformers::import};
use bertstream::vocab::subword::Beside;
use bertstream::vocab::{self, SubwordTokenizer, Tokenizer, WordVocab};
use bertstream::{Error, ErrorKind, Result};
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What panics where bytes broke a promise.
pub type Target = fn(&[u8]);

/// Every target under its name.
pub const TARGETS: [(&str, Target); 14] = [
    ("batches", batches),
    ("checkpoint", checkpoint),
    ("compressed", compressed),
    ("configuration", configuration),
    ("encodings", encodings),
    ("import", import),
    ("index", index),
    ("lines", lines),
    ("manifest", manifest),
    ("records", records),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
    ("tokens", tokens),
    ("vocabulary", vocabulary),
];

/// Bad input is an error of one of these classes, never a panic and never a bug of the program.
fn refused<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Data | ErrorKind::Mismatch), "{error}");
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// A file of bytes in memory.
struct Held(Vec<u8>);

impl Bytes for Held {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        let range = range.start as usize..range.end as usize;
        self.0.get(range.clone()).map(Piece::from).ok_or_else(|| Error::internal(format!("bytes {range:?}")))
    }
}

/// A file of nothing but line feeds, of any length.
struct Blank(u64);

/// As much of it as is read at a time.
static BLANK: [u8; 1 << 9] = [b'\n'; 1 << 9];

impl Bytes for Blank {
    fn len(&self) -> u64 {
        self.0
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        assert!(range.start <= range.end && range.end <= self.0, "bytes {range:?} of {}", self.0);
        Ok(Piece::Borrowed(&BLANK[..(range.end - range.start).min(BLANK.len() as u64) as usize]))
    }
}

/// A directory that the targets share, removed by the system's own means: statics are never dropped.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// A file of these bytes, under a name of its own for each target.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// The record of a corpus in any of the formats and in several encodings.
fn records(data: &[u8]) {
    static CORPORA: OnceLock<Vec<TextCorpus>> = OnceLock::new();
    let corpora = CORPORA.get_or_init(|| {
        let formats = [Format::Pairs, Format::Sentences, Format::Jsonl, Format::Text];
        let encodings = ["utf-8", "shift_jis", "latin1"];
        let each = formats.iter().flat_map(|&format| encodings.map(|encoding| (format, encoding)));
        each.map(|(format, encoding)| {
            let path = file(&format!("{}.{encoding}", format.name()), b"a\tb\n");
            let config = CorpusConfig {
                format: Some(format),
                encoding: encoding.into(),
                io: Io::Memory,
                ..CorpusConfig::at(path)
            };
            TextCorpus::open(&config).unwrap()
        })
        .collect()
    });
    let Some((&which, raw)) = data.split_first() else { return };
    let corpus = &corpora[usize::from(which) % corpora.len()];
    match corpus.parse(raw, 7, raw.len() as u64) {
        Ok(document) => {
            let lines: Vec<u64> = document.sentences.iter().map(|s| s.line).collect();
            assert!(lines.is_sorted() && lines.iter().all(|&line| line >= 7), "{lines:?}");
            let pairs = corpus.format() == Format::Pairs;
            assert!(!pairs || lines.len() == 2);
            assert!(
                document
                    .sentences
                    .iter()
                    .all(|s| !(s.text.trim().is_empty() || pairs && s.text.contains('\t')))
            );
        }
        Err((line, fault)) => assert!(line >= 7 && !fault.to_string().is_empty()),
    }
}

/// The index of a file of any bytes: every line and every block is found where it is.
fn lines(data: &[u8]) {
    let identity = Identity { bytes: data.len() as u64, modified: 1, sample: 2 };
    let held = Held(data.to_vec());
    for kind in [Records::Lines, Records::Blocks] {
        let index = Index::build(&held, kind).unwrap();
        // Some stretch of all of them, so that a long file takes no longer than it must.
        let (mut record, mut end) = ((data.len() as u64 * 7919) % index.len().max(1), None);
        let last = index.len().min(record + 40);
        while record < last {
            let window = index.window(record);
            let bytes = held.slice(window.range.clone()).unwrap();
            let places = index.places(&held, window.range.clone()).unwrap();
            let found: Vec<Found> = index.walk(&bytes).collect();
            assert_eq!(found.len(), places.len());
            assert!(window.before < places.len() as u64, "a record that was counted");
            for at in window.before..found.len() as u64 {
                assert_eq!(index.window(record), Window { before: at, ..window.clone() });
                let (found, place) = (&found[at as usize], &places[at as usize]);
                let start = window.range.start + found.range.start as u64;
                // One behind the other, from the first on.
                assert!(end.is_none_or(|end| end == start));
                end = Some(window.range.start + found.range.end as u64);
                assert_eq!((place.range.start, Some(place.range.end), place.line), (start, end, found.line));
                record += 1;
            }
        }
        let newlines = data.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if kind == Records::Lines {
            assert_eq!(index.len(), newlines + u64::from(data.last().is_some_and(|&byte| byte != b'\n')));
            assert!(record < index.len() || end.is_none_or(|end| end == data.len() as u64));
        }
        if !index.is_empty() {
            assert_eq!(Index::decode(&index.encode(&identity), kind, &identity), Ok(index));
        }
    }
}

/// An index file: what is taken for one has windows within its corpus.
fn index(data: &[u8]) {
    let number = |at: usize| data.get(at..at + 8).map_or(0, |n| u64::from_le_bytes(n.try_into().unwrap()));
    let identity = Identity { bytes: number(16), modified: number(24) as i64, sample: number(32) };
    let summed = [data, &xxh3_64(data).to_le_bytes()].concat();
    for kind in [Records::Lines, Records::Blocks] {
        for bytes in [data, &summed] {
            let Ok(index) = Index::decode(bytes, kind, &identity) else { continue };
            let corpus = Blank(identity.bytes);
            for record in [0, index.len() / 2, index.len() - 1] {
                let window = index.window(record);
                let piece = corpus.slice(window.range).unwrap();
                index.walk(&piece).nth(window.before.min(1 << 8) as usize);
            }
            if identity.bytes <= BLANK.len() as u64 {
                for lines in [1, index.lines() / 2] {
                    assert!(index.within_lines(&corpus, lines).unwrap() <= index.len() + identity.bytes);
                }
            }
            assert_eq!(Index::decode(&index.encode(&identity), kind, &identity), Ok(index));
        }
    }
}

/// A file of ids, whose header and checksums are put right or left as they are.
fn tokens(data: &[u8]) {
    static PARTS: OnceLock<(TextCorpus, WordVocab, Vec<u8>)> = OnceLock::new();
    let (corpus, words, whole) = PARTS.get_or_init(|| {
        let text = "one two\nthree\n\nfour\n\n \ntwo two two\none\n";
        let config = CorpusConfig {
            format: Some(Format::Sentences),
            ..CorpusConfig::at(file("ids.txt", text.as_bytes()))
        };
        let (corpus, words) = (TextCorpus::open(&config).unwrap(), WordVocab::from_texts([text], None, 1));
        let path = directory().join("ids");
        let header = Header::new(&corpus, &words);
        let mut writer = Writer::open(&path, &header).unwrap();
        let block = encode_block(&corpus, &mut *words.encoder(), &header, 0, &|| true).unwrap();
        writer.push(&block).unwrap();
        writer.finish().unwrap();
        (corpus, words, fs::read(path).unwrap())
    });
    read_tokens(data, corpus, words);
    let mut fixed = data.to_vec();
    let Some(table) = fixed.len().checked_sub(16).filter(|&table| table >= 56) else { return };
    fixed[..56].copy_from_slice(&whole[..56]);
    let start = u64::from_le_bytes(fixed[table..table + 8].try_into().unwrap());
    let body =
        usize::try_from(start).ok().filter(|&start| start <= table.saturating_sub(16)).and_then(|start| {
            let length = u64::from_le_bytes(fixed[start..start + 8].try_into().unwrap());
            let end = (start + 16).checked_add(usize::try_from(length).ok()?)?;
            (end <= table).then_some(start + 16..end)
        });
    if let Some(body) = body {
        let sum = xxh3_64(&fixed[body.clone()]);
        fixed[body.start - 8..body.start].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = xxh3_64(&fixed[table..table + 8]);
    fixed[table + 8..].copy_from_slice(&sum.to_le_bytes());
    read_tokens(&fixed, corpus, words);
}

fn read_tokens(data: &[u8], corpus: &TextCorpus, words: &WordVocab) {
    let held = Box::new(Held(data.to_vec()));
    let Some(file) = refused(TokenFile::over(Path::new("ids"), held, corpus, words)) else { return };
    let mut ids = DocumentIds::default();
    for document in 0..corpus.len() {
        if let Some(true) = refused(file.document(document, &mut ids)) {
            for sentence in 0..ids.len() {
                let tokens = ids.sentence(sentence);
                assert!(ids.ids(tokens.clone()).all(|id| (id as usize) < words.len()));
                assert_eq!(ids.begins(tokens.clone()).count(), tokens.len());
                ids.line(sentence);
            }
        }
    }
}

/// A `vocab.json` or a `vocab.txt`.
fn vocabulary(data: &[u8]) {
    let Some((&which, content)) = data.split_first() else { return };
    let path = Path::new(if which.is_multiple_of(2) { "v.json" } else { "v.txt" });
    let Some(loaded) = refused(vocab::from_bytes(path, content.to_vec(), &Beside::default())) else { return };
    encode(&*loaded);
}

/// A `tokenizer.json`.
fn tokenizer(data: &[u8]) {
    let Some(made) = refused(SubwordTokenizer::from_json(data, &Beside::default())) else { return };
    encode(&made);
}

/// Ids of a few texts lie in the vocabulary, by either way of encoding.
fn encode(tokenizer: &dyn Tokenizer) {
    let mut encoder = tokenizer.encoder();
    for text in [
        "",
        "a b",
        "the [MASK] sat\u{e9}\u{301} \u{6771}\u{4eac} 12.5!",
        "\u{0}\u{ad}\u{fffd} \u{1f469}\u{200d}\u{1f680}aaaa",
    ] {
        let (mut ids, mut again, mut begins) = (Vec::new(), Vec::new(), Vec::new());
        tokenizer.encode(text, &mut ids);
        assert!(ids.iter().all(|&id| tokenizer.token(id).is_some()), "{text:?}: {ids:?}");
        encoder.encode(text, &mut again);
        assert_eq!(again, ids, "{text:?}");
        if tokenizer.knows_words() {
            again.clear();
            tokenizer.encode_words(text, &mut again, &mut begins);
            assert!(again == ids && begins.len() == ids.len(), "{text:?}");
        }
    }
    for k in [0, tokenizer.ordinary_len() / 2, tokenizer.ordinary_len().saturating_sub(1)] {
        assert!(k >= tokenizer.ordinary_len() || tokenizer.token(tokenizer.ordinary(k)).is_some());
    }
}

/// The smallest model there is: its parts outside of layers.
fn model() -> (ModelConfig, Layout) {
    let config = ModelConfig {
        arch: Arch::Bert,
        vocab_size: 6,
        hidden: 2,
        layers: 0,
        heads: 1,
        dropout: 0.1,
        init: Init::Bert,
        max_positions: 4,
    };
    let layout = Layout::new(&config);
    (config, layout)
}

/// The text before the digits of a manifest's checksum.
const CHECKSUM: &[u8] = b"{\n  \"checksum\": \"";

/// A manifest with the right checksum.
fn summed(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    let digits = CHECKSUM.len()..CHECKSUM.len() + 32;
    if text.starts_with(CHECKSUM) && text.len() >= digits.end {
        text[digits.clone()].fill(b'0');
        let sum = format!("{:032x}", xxh3_128(&text));
        text[digits].copy_from_slice(sum.as_bytes());
    }
    text
}

/// A checkpoint's manifest.
fn manifest(data: &[u8]) {
    for text in [data.to_vec(), summed(data)] {
        refused(Manifest::from_text(text));
    }
}

/// A checkpoint of which one file is these bytes, whatever its manifest says.
fn checkpoint(data: &[u8]) {
    struct Whole {
        layout: Layout,
        manifest: Manifest,
        files: [(&'static str, Vec<u8>); 2],
    }
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    let Whole { layout, manifest, files } = WHOLE.get_or_init(|| {
        let (_, layout) = model();
        let column = vec![0.5; layout.len()];
        let state = State { weights: column.clone(), first: column.clone(), second: column };
        let saved = Checkpoints::at(directory());
        let path = saved.save(&layout, &Progress::default(), 1, "00", &state).unwrap();
        let files = [checkpoint::MODEL, checkpoint::OPTIMIZER];
        let files = files.map(|name| (name, fs::read(path.join(name)).unwrap()));
        Whole { layout, manifest: saved.manifest(0).unwrap(), files }
    });
    let Some((&which, content)) = data.split_first() else { return };
    let (replaced, whole) = &files[usize::from(!which.is_multiple_of(2))];
    let load = |manifest: Manifest| {
        let read = |path: &Path, most| {
            let name = path.file_name().unwrap();
            let (_, kept) = files.iter().find(|(kept, _)| *kept == name).unwrap();
            let bytes = if name == *replaced { content } else { kept };
            Ok(bytes[..bytes.len().min(most as usize)].to_vec())
        };
        refused(Checkpoint::read(manifest, Path::new("step"), layout, read))
    };
    // Half of them with their length and their hash in the manifest, half as they are.
    if which & 2 == 2 {
        assert!(content == whole || load(manifest.clone()).is_none(), "another file than was saved");
        return;
    }
    let mut manifest = manifest.clone();
    let sum = manifest.files.get_mut(*replaced).unwrap();
    (sum.length, sum.xxh3) = (content.len() as u64, format!("{:032x}", xxh3_128(content)));
    if let Some(loaded) = load(manifest) {
        assert_eq!(loaded.state.weights.len(), layout.len());
    }
}

/// A safetensors file that must hold exactly the tensors of a model.
fn safetensors(data: &[u8]) {
    let (mut one, mut two) = ([0.0; 4], [0.0; 2]);
    let targets = Targets::from([
        ("a".to_owned(), (vec![2, 2], &mut one[..])),
        ("b".to_owned(), (vec![2], &mut two[..])),
    ]);
    refused(tensors::fill(Path::new("t"), data, targets));
}

/// A file of batches: what is accepted can be used as a batch.
fn batches(data: &[u8]) {
    let Some(batches) = refused(from_safetensors(data, 2)) else { return };
    refused(check_ids(&batches, 20));
    for batch in &batches {
        for row in 0..batch.samples() {
            assert_eq!(batch.sample(row).0.len(), batch.sample(row).1.len());
            batch.predictions(row).for_each(drop);
        }
        assert!(batch.tokens() <= batch.rows * batch.seq_len);
    }
}

/// A directory of `transformers`: `config.json`, and behind its length either weights or an index of their files.
fn import(data: &[u8]) {
    let Some((&[low, high, which], rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (config, tensors) = rest.split_at(length);
    if which.is_multiple_of(2) {
        if let Some(read) = refused(import::from_bytes(config, tensors, 1)) {
            assert_eq!(read.weights.len(), Layout::new(&read.model).len());
        }
    } else if let Some(names) = refused(import::shard_names(tensors)) {
        for name in &names {
            assert_eq!(Path::new("d").join(name).parent(), Some(Path::new("d")), "{name:?}");
        }
    }
}

/// The configuration of a run: what is accepted is written and read as the same.
fn configuration(data: &[u8]) {
    let Some(config) = refused(RunConfig::from_json(data)) else { return };
    let text = config.to_json();
    let again = RunConfig::from_json(text.as_bytes()).unwrap();
    // Through text, since a number that is none is not equal to itself.
    assert_eq!(again.to_json(), text);
    assert_eq!(again.fingerprint(), config.fingerprint());
}

/// A compressed corpus: no more of it than is harmless or as dense as text.
fn compressed(data: &[u8]) {
    const HARMLESS: u64 = 1 << 16;
    let Some(compression) = Compression::of(data) else { return };
    let mut expanded = Counted(0);
    let result =
        compression.expand_into(&Held(data.to_vec()), HARMLESS, Path::new("expanded"), &mut expanded);
    let most = HARMLESS + 250 * data.len() as u64;
    assert!(refused(result).is_none() || expanded.0 <= most);
    assert!(expanded.0 <= most + 1, "{} bytes of {}", expanded.0, data.len());
}

/// Counts what is written.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Text in several encodings: a stream in pieces of any length gives what the whole gives.
fn encodings(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    let labels = ["utf-8", "utf-16le", "utf-16", "shift_jis", "euc-kr", "gb18030", "iso-2022-jp", "big5"];
    let encoding = Encoding::for_label(labels[usize::from(which % 8)]).unwrap();
    let piece = usize::from(which / 8) + 1;
    let read = |policy, piece, block| {
        let mut stream = Transcoder::with_block(block, InPieces(bytes, piece), encoding, policy);
        let mut text = Vec::new();
        let read: io::Result<usize> = stream.read_to_end(&mut text);
        (read.is_ok(), text, stream.replaced())
    };
    let (_, whole, replaced) = read(OnBadBytes::Replace, usize::MAX, bytes.len());
    let text = String::from_utf8(whole).expect("what is replaced is text");
    assert_eq!(read(OnBadBytes::Replace, piece, piece), (true, text.clone().into_bytes(), replaced));
    assert_eq!(read(OnBadBytes::Error, piece, piece).0, replaced == 0);
    let (_, kept, broken) = read(OnBadBytes::Keep, piece, piece);
    assert_eq!((broken, utf8_lossy(&kept)), (replaced, (text.clone(), replaced)));
    if encoding.is_utf8() && !bytes.starts_with(b"\xef\xbb\xbf") {
        assert_eq!(text, String::from_utf8_lossy(bytes));
        assert_eq!(encoding.decode(bytes).is_ok(), replaced == 0);
    }
    let _ = encoding.refuse_unless_text(bytes);
}

/// Gives so many bytes at a time.
struct InPieces<'b>(&'b [u8], usize);

impl Read for InPieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(self.1);
        self.0.read(&mut out[..most])
    }
}
