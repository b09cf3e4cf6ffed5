//! Vocabulary files: readable JSON, one token a line, and which file is which.
//!
//! Takes bytes, gives tokens and counts, and the other way round. Trusts no file: what comes out has been
//! checked by [`Vocabulary::from_parts`] or [`SubwordTokenizer::from_json`]. A pickle is refused, because
//! reading one means running what it says.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::char::Chars;
use super::split::Kind;
use super::subword::document::{self, BertVocab};
use super::subword::{self, Beside, SubwordTokenizer};
use super::vocabulary::{Split, Vocabulary};
use super::word::Words;
use super::{SUBWORDS_FILE, Tokenizer, WORDS_FILE};
use crate::{Error, ErrorKind, Result, durable};

/// The `format` entry of our files.
const FORMAT: &str = "bertstream-vocab";

/// The version of the format that is written and read here.
const VERSION: u64 = 1;

/// Largest file that is read, in bytes: fifteen million words or so, more than any embedding matrix holds.
const MAX_BYTES: u64 = 512 << 20;

/// What must be known before the rest can be understood.
#[derive(Deserialize)]
struct Header {
    format: Option<String>,
    version: Option<u64>,
    kind: Option<String>,
}

/// What tells a `tokenizer.json`: its model. (A `format` would make it one of ours.)
#[derive(Deserialize)]
struct Shape {
    format: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
}

/// The name of a WordPiece vocabulary in a directory of `transformers`.
const WORDPIECE_FILE: &str = "vocab.txt";

#[derive(Deserialize)]
struct Body {
    tokens: Vec<Box<str>>,
    counts: Option<Vec<u64>>,
}

/// Loads the vocabulary at `path`: one of our files, a `tokenizer.json`, a WordPiece vocabulary (a file named
/// `.txt`), or a directory that holds one of these.
///
/// # Errors
/// [`ErrorKind::MissingInput`] where it is not there, [`ErrorKind::Data`] naming the file and the entry where
/// it is not a vocabulary.
pub(super) fn load(path: &Path) -> Result<Box<dyn Tokenizer>> {
    load_capped(path, MAX_BYTES)
}

fn load_capped(path: &Path, max_bytes: u64) -> Result<Box<dyn Tokenizer>> {
    read(path, max_bytes)?.tokenizer()
}

/// [`load`] of the bytes of a file and of what lies beside it.
pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>, beside: &Beside) -> Result<Box<dyn Tokenizer>> {
    Read::of(path.to_owned(), bytes, |_| Ok(beside.clone()))?.tokenizer()
}

/// The `tokenizer.json` that does what the vocabulary at `path` does, for `transformers`: a subword
/// tokenizer's own, or one made of our words or characters ([`document::word_level`] says what differs).
///
/// # Errors
/// As [`load`].
pub(super) fn as_tokenizer_json(path: &Path) -> Result<Vec<u8>> {
    let read = read(path, MAX_BYTES)?;
    let made = match read.format {
        Format::Subwords(_) => read.subwords().map(|tokenizer| tokenizer.json().to_vec()),
        Format::Ours => parse(&read.bytes).and_then(|vocabulary| {
            let header: Header = serde_json::from_slice(&read.bytes)
                .map_err(|error| Error::internal("a header that was read before").caused_by(error))?;
            let kind = if header.kind.as_deref() == Some("char") { Kind::Char } else { Kind::Word };
            let token = |id| vocabulary.token(id).map(str::to_owned);
            let tokens: Vec<String> = (0..).map_while(token).collect();
            Ok(document::word_level(kind, &tokens))
        }),
    };
    made.map_err(|error| read.named(error))
}

/// The WordPiece vocabulary at `path` with the options of its pipeline; `None` where it is none that a
/// `vocab.txt` can hold.
///
/// # Errors
/// As [`load`].
pub(super) fn bert_vocab(path: &Path) -> Result<Option<BertVocab>> {
    let read = read(path, MAX_BYTES)?;
    if matches!(read.format, Format::Ours) {
        return Ok(None);
    }
    let tokenizer = read.subwords().map_err(|error| read.named(error))?;
    Ok(document::bert_vocab(tokenizer.json(), tokenizer.tokens()))
}

/// The bytes of a vocabulary file, and what they are.
struct Read {
    path: PathBuf,
    bytes: Vec<u8>,
    format: Format,
}

enum Format {
    /// `vocab.json`, or nothing that is known.
    Ours,
    /// `tokenizer.json` or `vocab.txt`, with what lies beside it.
    Subwords(Beside),
}

impl Read {
    /// The bytes of the file `path` as what they are; `beside` gives what lies beside it.
    fn of(path: PathBuf, bytes: Vec<u8>, beside: impl FnOnce(&Path) -> Result<Beside>) -> Result<Self> {
        // What is too large for a tokenizer.json is not searched for its model.
        let small = bytes.len() as u64 <= subword::MAX_BYTES;
        let shape = || serde_json::from_slice::<Shape>(&bytes);
        let model = || small && shape().is_ok_and(|shape| shape.format.is_none() && shape.model.is_some());
        let format = if is_text(&path) && !is_pickle(&bytes) || model() {
            Format::Subwords(beside(&path)?)
        } else {
            Format::Ours
        };
        Ok(Self { path, bytes, format })
    }

    /// The vocabulary in these bytes.
    fn tokenizer(&self) -> Result<Box<dyn Tokenizer>> {
        let made = match self.format {
            Format::Ours => parse(&self.bytes),
            Format::Subwords(_) => self.subwords().map(|tokenizer| Box::new(tokenizer) as _),
        };
        made.map_err(|error| self.named(error))
    }

    /// The subword tokenizer in these bytes.
    fn subwords(&self) -> Result<SubwordTokenizer> {
        let Format::Subwords(beside) = &self.format else {
            return Err(Error::internal("a word vocabulary is no subword tokenizer"));
        };
        if is_text(&self.path) {
            SubwordTokenizer::from_json(&document::from_vocab_txt(&self.bytes, beside)?, beside)
        } else {
            SubwordTokenizer::from_json(&self.bytes, beside)
        }
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("vocabulary {}", self.path.display()))
    }
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

fn read(path: &Path, max_bytes: u64) -> Result<Read> {
    let path = if path.is_dir() { in_directory(path)? } else { path.to_owned() };
    let most = if is_text(&path) { subword::MAX_BYTES.min(max_bytes) } else { max_bytes };
    // Asked first: reading up to the limit takes as much memory.
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > most) {
        return Err(Error::data(format!("cannot read {}: larger than {most} bytes", path.display())));
    }
    let bytes = durable::read_at_most(&path, most)?;
    Read::of(path, bytes, |path| Beside::read(durable::parent(path)))
}

/// The vocabulary in a directory: that of a run, or of a model of `transformers`.
fn in_directory(directory: &Path) -> Result<PathBuf> {
    let names = [SUBWORDS_FILE, WORDPIECE_FILE, WORDS_FILE];
    names.iter().map(|name| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let looked_for = names.join(", ");
        Error::new(
            ErrorKind::MissingInput,
            format!("vocabulary {}: a directory without any of {looked_for}", directory.display()),
        )
    })
}

fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, ..] | [b'P', b'K', 3, 4, ..])
}

/// The vocabulary in the bytes of one of our files.
pub(super) fn parse(bytes: &[u8]) -> Result<Box<dyn Tokenizer>> {
    if is_pickle(bytes) {
        return Err(Error::data(
            "this is a pickle or a PyTorch archive, which is never unpickled here because that runs code \
             from the file; build the vocabulary anew: bertstream vocab -c CORPUS -o vocab.json",
        ));
    }
    let not_json = |error: serde_json::Error| Error::data("not a vocabulary in JSON").caused_by(error);
    let header: Header = serde_json::from_slice(bytes).map_err(not_json)?;
    if header.format.as_deref() != Some(FORMAT) {
        let found = header.format.map_or_else(|| "missing".to_owned(), |format| format!("{format:?}"));
        return Err(Error::data(format!("\"format\" is {found}, not {FORMAT:?}")));
    }
    if header.version != Some(VERSION) {
        let found = header.version.map_or_else(|| "missing".to_owned(), |version| version.to_string());
        return Err(Error::data(format!("\"version\" is {found}; this program reads version {VERSION}")));
    }
    match header.kind.as_deref() {
        Some("word") => build::<Words>(bytes),
        Some("char") => build::<Chars>(bytes),
        Some(kind) => Err(Error::data(format!("\"kind\" is {kind:?}, neither \"word\" nor \"char\""))),
        None => Err(Error::data("\"kind\" is missing")),
    }
}

fn build<S: Split>(bytes: &[u8]) -> Result<Box<dyn Tokenizer>> {
    let Body { tokens, counts } = serde_json::from_slice(bytes)
        .map_err(|error| Error::data("not a vocabulary in JSON").caused_by(error))?;
    Ok(Box::new(Vocabulary::<S>::from_parts(tokens, counts)?))
}

/// Writes a vocabulary file: `tokens` in id order, a line each, then `counts` likewise.
pub(super) fn write(
    out: &mut impl Write,
    kind: Kind,
    tokens: &[Box<str>],
    counts: Option<&[u64]>,
) -> io::Result<()> {
    let kind = kind.name();
    write!(
        out,
        "{{\n\"format\": \"{FORMAT}\",\n\"version\": {VERSION},\n\"kind\": \"{kind}\",\n\"tokens\": ["
    )?;
    for (id, token) in tokens.iter().enumerate() {
        out.write_all(if id == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, token)?;
    }
    out.write_all(b"\n]")?;
    if let Some(counts) = counts {
        out.write_all(b",\n\"counts\": [")?;
        for (id, count) in counts.iter().enumerate() {
            out.write_all(if id == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, count)?;
        }
        out.write_all(b"\n]")?;
    }
    out.write_all(b"\n}\n")
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;
    use crate::vocab::{CharVocab, SPECIAL_TOKENS, WordVocab};

    fn bytes_of<S: Split>(vocab: &Vocabulary<S>) -> Vec<u8> {
        let tokens: Vec<Box<str>> = vocab.tokens().map(Into::into).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, S::KIND, &tokens, vocab.counts()).unwrap();
        bytes
    }

    /// A file with `tokens` behind the specials, and these `counts`.
    fn text(tokens: &str, counts: &str) -> String {
        let specials = r#""<pad>","<unk>","<eos>","<sos>","<mask>""#;
        format!(
            r#"{{"format":"bertstream-vocab","version":1,"kind":"word","tokens":[{specials}{tokens}]{counts}}}"#
        )
    }

    #[test]
    fn a_file_is_readable_and_has_a_line_for_each_token() {
        let vocab = WordVocab::from_texts(["say \"hi\" \"hi\""], None, 1);
        let expected = "{\n\"format\": \"bertstream-vocab\",\n\"version\": 1,\n\"kind\": \"word\",\n\"tokens\": [\n\
            \"<pad>\",\n\"<unk>\",\n\"<eos>\",\n\"<sos>\",\n\"<mask>\",\n\"\\\"hi\\\"\",\n\"say\"\n],\n\
            \"counts\": [\n0,\n0,\n0,\n0,\n0,\n2,\n1\n]\n}\n";
        assert_eq!(String::from_utf8(bytes_of(&vocab)).unwrap(), expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let words = WordVocab::from_texts(["a \0 \u{7f} é 나 \"\\ a"], None, 1);
        let chars = CharVocab::from_texts(["東京"], None, 1);
        for (bytes, original) in [(bytes_of(&words), &words as &dyn Tokenizer), (bytes_of(&chars), &chars)] {
            let back = parse(&bytes).unwrap();
            assert_eq!(back.fingerprint(), original.fingerprint());
            assert_eq!(back.counts(), original.counts());
        }
        assert_eq!(parse(text("", "").as_bytes()).unwrap().counts(), None, "counts may be left out");
    }

    #[test]
    fn a_bad_file_is_refused_and_the_entry_named() {
        let check = |bytes: &[u8], expected: &str| {
            let error = parse(bytes).err().expect(expected);
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains(expected), "{error}");
        };
        let changed = |from: &str, to: &str| text(r#","a""#, "").replace(from, to).into_bytes();
        check(b"", "EOF");
        check(b"[1, 2]", "not a vocabulary in JSON");
        check(b"{}", "\"format\" is missing");
        check(&changed("bertstream-vocab", "gguf"), "\"format\" is \"gguf\"");
        check(&changed("\"version\":1", "\"version\":2"), "\"version\" is 2; this program reads version 1");
        check(&changed("\"word\"", "\"bpe\""), "\"kind\" is \"bpe\"");
        check(&changed("\"kind\":\"word\",", ""), "\"kind\" is missing");
        check(&changed("\"tokens\"", "\"words\""), "missing field `tokens`");
        check(&changed("<sos>", "<bos>"), "token 3 is \"<bos>\" where \"<sos>\" must stand");
        check(&changed(",\"<mask>\",\"a\"", ""), "token 4, \"<mask>\", is missing");
        check(text(r#","a","b","a""#, "").as_bytes(), "token 7, \"a\", is token 5 already");
        check(text(r#","<unk>""#, "").as_bytes(), "token 5, \"<unk>\", is token 1 already");
        check(text(r#","""#, "").as_bytes(), "token 5, \"\", is empty");
        check(text(r#","a b""#, "").as_bytes(), "token 5, \"a b\", contains white space");
        check(text("", r#","counts":[1,2]"#).as_bytes(), "2 counts for 5 tokens");
        check(text("", r#","counts":[0,-1,0,0,0]"#).as_bytes(), "not a vocabulary in JSON");
        check("[".repeat(1 << 20).as_bytes(), "not a vocabulary in JSON");
        let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
        check(deep.as_bytes(), "not a vocabulary in JSON");
    }

    #[test]
    fn a_pickle_is_refused_and_never_executed() {
        // pickle.dumps of an object whose __reduce__ calls os.system; and the head of a .pt archive.
        let pickle = b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.";
        for bytes in [&pickle[..], b"PK\x03\x04vocab/data.pkl"] {
            let error = parse(bytes).err().unwrap();
            assert_eq!(error.kind().exit_code(), 65);
            assert!(error.to_string().contains("never unpickled"), "{error}");
            assert!(error.to_string().contains("bertstream vocab -c"), "{error}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn loading_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.json");
        assert_eq!(load(&path).err().unwrap().kind().exit_code(), 66);
        std::fs::write(&path, "{}").unwrap();
        let message = load(&path).err().unwrap().to_string();
        assert_eq!(
            message,
            format!("vocabulary {}: \"format\" is missing, not \"bertstream-vocab\"", path.display())
        );
        let good = text(r#","a""#, "");
        std::fs::write(&path, &good).unwrap();
        assert_eq!(load(&path).unwrap().len(), 6);
        assert!(load_capped(&path, good.len() as u64).is_ok());
        let error = load_capped(&path, good.len() as u64 - 1).err().unwrap();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    proptest! {
        #[test]
        fn any_vocabulary_survives_its_file(words in btree_map("[^\\s\\p{Cc}<]{1,20}", 0_u64..1 << 60, 0..20)) {
            let tokens = SPECIAL_TOKENS.iter().map(|&t| t.into()).chain(words.keys().map(|w| (**w).into()));
            let counts = [0; 5].into_iter().chain(words.values().copied());
            let vocab = WordVocab::from_parts(tokens.collect(), Some(counts.collect())).unwrap();
            let back = parse(&bytes_of(&vocab)).unwrap();
            prop_assert_eq!(back.fingerprint(), vocab.fingerprint());
            prop_assert_eq!(back.counts(), vocab.counts());
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in 0_usize..150, at in 0_usize..150,
        ) {
            let _ = parse(&bytes);
            let mut damaged = text(r#","a","b""#, r#","counts":[0,0,0,0,0,1,1]"#).into_bytes();
            damaged.truncate(cut.max(1));
            let at = at % damaged.len();
            damaged[at] ^= bytes.first().copied().unwrap_or(1);
            let _ = parse(&damaged);
        }
    }
}
