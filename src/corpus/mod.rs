//! Stage 1: text to documents, with random access in constant time.
//!
//! Takes files, gives [`Document`]s: the sentences of one unit of text, borrowed from the map where
//! possible, each with its line for error messages and inspection. Knows nothing of masks, and of tokens no more
//! than that a corpus may come with a file of them.
//! Two seams meet here: [`Bytes`] (how bytes are reached: mapped, read in pieces, or in memory) and [`Corpus`]
//! (how bytes are cut into documents). In the reference's format a line is a document of two sentences.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Error, ErrorKind, Result};

pub mod check;
mod compressed;
mod directory;
mod fault;
mod file;
mod files;
mod format;
pub mod index;
mod jsonl;
mod memory;
mod mixture;
mod mmap;
mod outline;
mod pairs;
mod pread;
mod sentences;
mod source;
mod split;
mod text;
pub mod tokens;

pub use compressed::Compression;
pub use fault::Fault;
pub use file::{IndexFile, TextFile};
pub use files::files;
pub use format::Format;
pub use memory::InMemory;
pub use mixture::Mixture;
pub use mmap::Mapped;
pub use pread::Positioned;
pub use source::TextCorpus;
pub use tokens::{DocumentIds, TokenFile, Tokenized};

/// One sentence and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence<'c> {
    pub text: Cow<'c, str>,
    /// 1-based line in the file.
    pub line: u64,
}

/// A unit of text whose sentences follow each other. Two in the pair format, any number elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document<'c> {
    pub sentences: SmallVec<[Sentence<'c>; 2]>,
}

impl Document<'_> {
    /// The same document, borrowing nothing.
    fn into_owned<'o>(self) -> Document<'o> {
        let own = |Sentence { text, line }| Sentence { text: Cow::Owned(text.into_owned()), line };
        Document { sentences: self.sentences.into_iter().map(own).collect() }
    }
}

/// The bytes that hold a document, as they lie in their file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'c> {
    /// Line of the file that it begins with, from 1.
    pub line: u64,
    /// Where it begins among the bytes of its file, or of the UTF-8 copy that is read in its place.
    pub at: u64,
    /// Size in bytes; more than are in `raw` where there are too many to be read, which are never a document.
    pub size: u64,
    pub raw: Piece<'c>,
}

/// What a document is, and so how samples are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Two sentences, which are one sample: the reference's format.
    Pairs,
    /// Any number of sentences, of which samples are filled.
    Documents,
    /// One line, which is a sample.
    Samples,
}

/// One source of a corpus, and its part in the mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The documents of this source.
    pub documents: Range<u64>,
    /// How many documents of it an epoch has. Fewer than there are: the next epoch goes on behind them; more:
    /// they come again.
    pub per_epoch: u64,
}

/// Documents by number, in the order of the corpus. Shared by all workers.
pub trait Corpus: Send + Sync {
    /// How many documents there are, those that turn out to be malformed included.
    fn len(&self) -> u64;

    /// Whether there is no document.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Document `id < len()`, in time independent of the corpus' size.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] with file and line where the document is malformed (the caller's
    /// policy decides whether that ends the run), [`crate::ErrorKind::Io`] where it cannot be read.
    fn document(&self, id: u64) -> Result<Document<'_>>;

    /// [`Corpus::document`], which may be given up where it is `wanted` no more and will not be again: reading a long
    /// one takes a second.
    ///
    /// # Errors
    /// As there; [`crate::ErrorKind::Internal`], which nobody sees, where it was given up.
    fn document_while(&self, id: u64, _wanted: &dyn Fn() -> bool) -> Result<Document<'_>> {
        self.document(id)
    }

    /// Shows `see` sentences of document `id`, one after the other until it says false: from the one on that `from`
    /// chooses, which is told how many there are. Gives that number; of none, none is chosen. A document may be a book:
    /// it is read in proportion to what is shown of it, once it has been read as a whole.
    ///
    /// # Errors
    /// As [`Corpus::document_while`].
    fn excerpt(
        &self,
        id: u64,
        wanted: &dyn Fn() -> bool,
        from: &mut dyn FnMut(usize) -> usize,
        see: &mut dyn FnMut(&Sentence<'_>) -> bool,
    ) -> Result<usize> {
        let document = self.document_while(id, wanted)?;
        Ok(show(&document, from, see))
    }

    /// What its documents are.
    fn shape(&self) -> Shape;

    /// Size of all documents in bytes, as they lie in their files.
    fn bytes(&self) -> u64;

    /// The sources, whose ranges of documents lie one behind the other from 0 to `len()`: a single one, each
    /// document once an epoch, where nothing is mixed.
    fn sources(&self) -> Vec<Source> {
        vec![Source { documents: 0..self.len(), per_epoch: self.len() }]
    }

    /// The file that documents come from, or all of them, for messages.
    fn path(&self) -> &Path;

    /// The file that document `id` comes from.
    fn file(&self, _id: u64) -> &Path {
        self.path()
    }

    /// 64 bits that identify the content that was indexed.
    fn fingerprint(&self) -> u64;

    /// Tells that these documents are wanted soon. A hint: nothing waits for it, and nothing depends on it.
    fn announce(&self, _documents: Range<u64>) {}

    /// Bounds the bytes that are kept of what was announced and of what excerpts are found by. Nothing that is read
    /// depends on it.
    fn keep_at_most(&self, _bytes: u64) {}

    /// The ids of its documents, where they have been encoded before.
    fn tokens(&self) -> Option<&TokenFile> {
        None
    }
}

/// An excerpt of a document that is there as a whole.
fn show(
    document: &Document<'_>,
    from: &mut dyn FnMut(usize) -> usize,
    see: &mut dyn FnMut(&Sentence<'_>) -> bool,
) -> usize {
    let sentences = &document.sentences;
    if !sentences.is_empty() {
        sentences[from(sentences.len())..].iter().all(see);
    }
    sentences.len()
}

/// What was given up, since whoever it was for has gone.
pub fn unwanted(id: u64) -> Error {
    Error::internal(format!("document {id} is wanted no more"))
}

/// Mean size of a document in bytes, at least 1.
pub fn mean_bytes(corpus: &dyn Corpus) -> u64 {
    (corpus.bytes() / corpus.len().max(1)).max(1)
}

/// Bytes of a file, with whatever keeps them in memory.
#[derive(Clone, Debug)]
pub enum Piece<'b> {
    /// Of all the file's bytes, which are at hand.
    Borrowed(&'b [u8]),
    /// Read for whoever asked, who wants this range of them.
    Read(Vec<u8>, Range<usize>),
    /// The same of a page that the reader keeps for others as well.
    Kept(Arc<[u8]>, Range<usize>),
}

impl Piece<'_> {
    /// A part of it, by places in it.
    pub fn cut(self, part: Range<usize>) -> Self {
        let within = |range: &Range<usize>| range.start + part.start..range.start + part.end;
        match self {
            Self::Borrowed(bytes) => Self::Borrowed(&bytes[part]),
            Self::Read(bytes, range) => Self::Read(bytes, within(&range)),
            Self::Kept(page, range) => Self::Kept(page, within(&range)),
        }
    }
}

impl Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Read(bytes, range) => &bytes[range.clone()],
            Self::Kept(page, range) => &page[range.clone()],
        }
    }
}

impl PartialEq for Piece<'_> {
    /// Whether the bytes are the same, wherever they are.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl From<Vec<u8>> for Piece<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        let all = 0..bytes.len();
        Self::Read(bytes, all)
    }
}

impl<'b> From<&'b [u8]> for Piece<'b> {
    fn from(bytes: &'b [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl Default for Piece<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

/// Bytes of one file by range. Shared by all workers.
pub trait Bytes: Send + Sync {
    /// Length in bytes, pinned when the file was opened.
    fn len(&self) -> u64;

    /// Whether the file is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which must lie within `0..len()`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] where the file cannot be read any more.
    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>>;

    /// The part of `range` that `choose` picks from its bytes, as a place among them. They may change while it looks
    /// at them, another process doing so, and what it makes of them is of use only where this returns a part.
    ///
    /// # Errors
    /// As [`Bytes::slice`].
    fn pick(&self, range: Range<u64>, choose: &mut dyn FnMut(&[u8]) -> Range<usize>) -> Result<Piece<'_>> {
        let all = self.slice(range)?;
        let part = choose(&all);
        Ok(all.cut(part))
    }

    /// Tells that `range` is wanted soon: the system may read it meanwhile. A hint, which may fail silently.
    fn announce(&self, _range: Range<u64>) {}

    /// Bounds the bytes that are kept of what was announced.
    fn keep_at_most(&self, _bytes: u64) {}
}

/// Shows `see` the bytes of `range` and keeps none: what [`Bytes::pick`] says goes for what it makes of them.
fn look(bytes: &dyn Bytes, range: Range<u64>, mut see: impl FnMut(&[u8])) -> Result<()> {
    let nothing = &mut |all: &[u8]| {
        see(all);
        0..0
    };
    bytes.pick(range, nothing).map(drop)
}

/// Of a range that is announced, as much is at a time: systems take no more than the largest piece that a disk
/// reads at once.
const ANNOUNCED: u64 = 128 << 10;

/// Announces a range of any length.
fn announce(bytes: &dyn Bytes, range: Range<u64>) {
    for start in range.clone().step_by(ANNOUNCED as usize) {
        bytes.announce(start..range.end.min(start + ANNOUNCED));
    }
}

/// How the bytes of a corpus are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// Mapped: files larger than memory, shared by all threads.
    #[default]
    Mmap,
    /// Read in pieces, as they are wanted: for a limited address space and for network file systems; a file that
    /// shrinks is an error.
    Pread,
    /// Read into memory once.
    Memory,
}

/// Which corpus, and how it is read. `io` and `index_dir` never change what is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusConfig {
    /// A file, a directory, or a pattern for the names of files that are one corpus ([`files()`]).
    pub path: PathBuf,
    /// Part of the text of an epoch, where there are several sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// `None` is to be guessed, which a run does once: what it found is written down. Left out of a file, it
    /// is that of the first release, which had no other.
    #[serde(default = "first_format", skip_serializing_if = "is_first_format")]
    pub format: Option<Format>,
    /// Which field of a JSON object is the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub io: Io,
    /// Only the documents that begin in the first so many lines; of a directory, the first so many files.
    pub lines: Option<u64>,
    /// WHATWG label of the encoding.
    pub encoding: String,
    /// Whether a broken sequence of bytes is read as U+FFFD; else it makes its document malformed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_bad_bytes: bool,
    /// Where the index is kept; `None` is beside the corpus, or in the cache directory where that
    /// cannot be written.
    pub index_dir: Option<PathBuf>,
}

impl CorpusConfig {
    /// The corpus at `path`, in UTF-8, mapped, its format to be guessed, its index beside it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            weight: None,
            format: None,
            field: None,
            io: Io::default(),
            lines: None,
            encoding: "utf-8".to_owned(),
            replace_bad_bytes: false,
            index_dir: None,
        }
    }
}

fn first_format() -> Option<Format> {
    Some(Format::Pairs)
}

fn is_first_format(format: &Option<Format>) -> bool {
    *format == first_format()
}

/// The sources of a corpus, one or several. Written down as one source, or as a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Listed", into = "Listed")]
pub struct Sources(Vec<CorpusConfig>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Listed {
    One(CorpusConfig),
    Several(Vec<CorpusConfig>),
}

impl Sources {
    /// # Errors
    /// [`crate::ErrorKind::Usage`] where there is none, or where a weight is no positive number.
    pub fn new(sources: Vec<CorpusConfig>) -> Result<Self> {
        let bad = |source: &&CorpusConfig| source.weight.is_some_and(|w| !(w > 0.0 && w.is_finite()));
        match sources.iter().find(bad) {
            Some(CorpusConfig { path, weight, .. }) => Err(Error::usage(format!(
                "--corpus {}:{}: a weight is a positive number",
                path.display(),
                weight.unwrap_or_default()
            ))),
            None if sources.is_empty() => Err(Error::usage("--corpus is missing")),
            None => Ok(Self(sources)),
        }
    }

    /// Opens them as one corpus, and tells them with everything in them that was found out.
    ///
    /// # Errors
    /// Those of [`open`] and of [`Mixture::new`].
    pub fn open(&self) -> Result<(Box<dyn Corpus>, Self)> {
        let opened = self.0.iter().map(open_source).collect::<Result<Vec<_>>>()?;
        if self.0.iter().any(|source| source.field.is_some())
            && opened.iter().all(|(_, found)| found.format != Some(Format::Jsonl))
        {
            return Err(Error::usage(format!("--field: {self} has no fields, being no JSON lines")));
        }
        let found = Self(opened.iter().map(|(_, found)| found.clone()).collect());
        let mut weighted: Vec<(Box<dyn Corpus>, Option<f64>)> =
            opened.into_iter().map(|(corpus, found)| (corpus, found.weight)).collect();
        let corpus = match weighted.pop() {
            Some((only, _)) if weighted.is_empty() => only,
            last => {
                weighted.extend(last);
                Box::new(Mixture::new(weighted)?)
            }
        };
        Ok((corpus, found))
    }

    /// The same sources with each file of a pattern by itself, its part of the weight going by its size.
    ///
    /// # Errors
    /// Those of [`files()`].
    pub fn file_by_file(&self) -> Result<Self> {
        let mut each = Vec::new();
        for source in &self.0 {
            let files = files(&source.path)?;
            let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len()) as f64;
            let whole: f64 = files.iter().map(size).sum();
            let alone = files.len() == 1;
            each.extend(files.into_iter().map(|path| CorpusConfig {
                weight: source.weight.map(|weight| if alone { weight } else { weight * size(&path) / whole }),
                path,
                ..source.clone()
            }));
        }
        Self::new(each)
    }
}

impl From<CorpusConfig> for Sources {
    fn from(source: CorpusConfig) -> Self {
        Self(vec![source])
    }
}

impl TryFrom<Listed> for Sources {
    type Error = Error;

    fn try_from(listed: Listed) -> Result<Self> {
        Self::new(match listed {
            Listed::One(source) => vec![source],
            Listed::Several(sources) => sources,
        })
    }
}

impl From<Sources> for Listed {
    fn from(Sources(mut sources): Sources) -> Self {
        match sources.pop() {
            Some(only) if sources.is_empty() => Self::One(only),
            last => {
                sources.extend(last);
                Self::Several(sources)
            }
        }
    }
}

impl Deref for Sources {
    type Target = [CorpusConfig];

    fn deref(&self) -> &[CorpusConfig] {
        &self.0
    }
}

/// Their paths.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, source) in self.0.iter().enumerate() {
            let between = if at > 0 { " + " } else { "" };
            write!(f, "{between}{}", source.path.display())?;
        }
        Ok(())
    }
}

/// Opens a corpus of one source, making its index first where there is none or a stale one.
///
/// ```
/// use bertstream::corpus::{self, CorpusConfig};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("text.txt");
/// std::fs::write(&path, "A sentence.\nIts neighbour.\n\nAnother document.\n")?;
/// let corpus = corpus::open(&CorpusConfig::at(&path))?;
/// assert_eq!(corpus.len(), 2); // blank lines stand between documents
/// assert_eq!(corpus.document(0)?.sentences[1].text, "Its neighbour.");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`crate::ErrorKind::MissingInput`] where there is no such file, [`crate::ErrorKind::Data`] where it is
/// empty, no text in the encoding that was given, or its format can only be guessed wrongly,
/// [`crate::ErrorKind::Usage`] where there is no such encoding, [`crate::ErrorKind::CannotCreate`] where an
/// index directory was given and cannot be written.
pub fn open(config: &CorpusConfig) -> Result<Box<dyn Corpus>> {
    open_source(config).map(|(corpus, _)| corpus)
}

/// A source and its configuration with everything in it that was found out.
fn open_source(config: &CorpusConfig) -> Result<(Box<dyn Corpus>, CorpusConfig)> {
    let files = files(&config.path)?;
    if files.len() > 1 && config.lines.is_some() {
        let path = config.path.display();
        return Err(Error::usage(format!(
            "--corpus-lines: {path} is several files: give the one that is to be cut"
        )));
    }
    let mut found = config.clone();
    let mut opened: Vec<Box<dyn Corpus>> = Vec::with_capacity(files.len());
    // What is found out about the first file goes for all.
    for path in files {
        let corpus = TextCorpus::open(&CorpusConfig { path, ..found })?;
        found = corpus.config().clone();
        opened.push(Box::new(corpus));
    }
    let corpus = match opened.pop() {
        Some(only) if opened.is_empty() => only,
        last => {
            opened.extend(last);
            Box::new(Mixture::joined(config.path.clone(), opened)?)
        }
    };
    Ok((corpus, CorpusConfig { path: config.path.clone(), ..found }))
}

/// The text of a corpus as a stream of UTF-8: its documents in order, a sentence a line, a blank line behind
/// each document. What counts words reads this where a file is not text as it lies there.
pub struct TextReader<'c> {
    corpus: &'c dyn Corpus,
    next: u64,
    document: Vec<u8>,
    /// How much of `document` has been read.
    at: usize,
}

impl<'c> TextReader<'c> {
    /// Reads from the first document on.
    pub fn new(corpus: &'c dyn Corpus) -> Self {
        Self { corpus, next: 0, document: Vec::new(), at: 0 }
    }
}

impl Read for TextReader<'_> {
    /// # Errors
    /// Those of [`Corpus::document`], within an [`io::Error`].
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.document.len() && self.next < self.corpus.len() {
            let document = self.corpus.document(self.next).map_err(io::Error::other)?;
            self.next += 1;
            self.at = 0;
            self.document.clear();
            for sentence in &document.sentences {
                self.document.extend_from_slice(sentence.text.as_bytes());
                self.document.push(b'\n');
            }
            self.document.push(b'\n');
        }
        let rest = &self.document[self.at..];
        let read = rest.len().min(out.len());
        out[..read].copy_from_slice(&rest[..read]);
        self.at += read;
        Ok(read)
    }
}

/// The bytes of the regular file behind `file`, the way `io` says.
fn reach(path: &Path, file: &std::fs::File, io: Io) -> Result<Box<dyn Bytes>> {
    Ok(match io {
        Io::Mmap => Box::new(Mapped::new(path, file)?),
        Io::Pread => Box::new(Positioned::new(path, file)?),
        Io::Memory => Box::new(InMemory::new(path, file)?),
    })
}

/// A file has fewer bytes than the `length` that it had when it was opened.
fn shrank(path: &Path, length: usize) -> Error {
    let what = format!("cannot read {}: it shrank from {length} bytes while it was used", path.display());
    Error::new(ErrorKind::Io, what)
}

/// `range` as places in memory, if it lies within `0..len`.
fn within(range: Range<u64>, len: usize) -> Result<Range<usize>> {
    match (usize::try_from(range.start), usize::try_from(range.end)) {
        (Ok(start), Ok(end)) if start <= end && end <= len => Ok(start..end),
        _ => Err(Error::internal(format!("bytes {range:?} of a file of {len}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every reader must do, run for each of them.
    fn check_reader(io: Io) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        let content: Vec<u8> = (0..100_000u64).map(|i| ((i * i) >> 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let bytes = reach(&path, &file, io).unwrap();
        assert_eq!(bytes.len(), 100_000);
        for range in [0..0, 0..1, 4095..4097, 99_999..100_000, 100_000..100_000, 0..100_000] {
            let expected = &content[range.start as usize..range.end as usize];
            assert_eq!(*bytes.slice(range).unwrap(), *expected, "{io:?}");
        }
        for (start, end) in [(0, 100_001), (100_001, 100_001), (5, 4), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            let error = bytes.slice(start..end).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal, "{io:?} {start}..{end}");
        }
        // What is appended later does not exist: the length was pinned when the file was opened.
        std::fs::write(&path, [&content[..], b"more"].concat()).unwrap();
        assert_eq!(bytes.len(), 100_000, "{io:?}");
        assert_eq!(*bytes.slice(0..100_000).unwrap(), *content, "{io:?}");

        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        let bytes = reach(&empty, &std::fs::File::open(&empty).unwrap(), io).unwrap();
        assert!(bytes.is_empty() && bytes.slice(0..0).unwrap().is_empty(), "{io:?}");
    }

    #[test]
    fn all_readers_give_the_same_bytes() {
        check_reader(Io::Mmap);
        check_reader(Io::Pread);
        check_reader(Io::Memory);
    }

    /// Of what is still there, a map tells no more than that the file is not whole; `--io memory` has it all.
    #[test]
    fn a_file_that_shrank_is_an_error_and_never_a_signal() {
        let check = |io: Io, last: u8, cut: u64, kept: u64| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bytes");
            std::fs::write(&path, [&[7; 49_999][..], &[last]].concat()).unwrap();
            let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
            let bytes = reach(&path, &file, io).unwrap();
            assert_eq!(*bytes.slice(0..kept).unwrap(), vec![7; kept as usize]);
            file.set_len(cut).unwrap();
            if io == Io::Memory {
                assert_eq!(*bytes.slice(0..49_999).unwrap(), [7; 49_999]);
                return;
            }
            for range in [49_999..50_000, 0..50_000, cut..cut + 1, 40_000..49_000] {
                let error = bytes.slice(range.clone()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{io:?} {range:?}");
                assert!(error.to_string().contains("it shrank from 50000 bytes"), "{error}");
                assert!(bytes.pick(range, &mut |_| 0..0).is_err(), "what was looked at is not told");
            }
            assert_eq!(bytes.slice(0..kept).is_ok(), io == Io::Pread);
        };
        for io in [Io::Mmap, Io::Pread, Io::Memory] {
            for last in [7, 0] {
                for cut in [0, 1, 4095, 4096, 4097, 39_999] {
                    check(io, last, cut, cut);
                }
            }
        }
        // Within the last page nothing faults.
        for (io, last) in [(Io::Mmap, 7), (Io::Mmap, 0), (Io::Pread, 7)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bytes");
            std::fs::write(&path, [&[7; 5000][..], &[last]].concat()).unwrap();
            let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
            let bytes = reach(&path, &file, io).unwrap();
            file.set_len(5000).unwrap();
            assert_eq!(bytes.slice(4990..5001).unwrap_err().kind(), ErrorKind::Io, "{io:?} {last}");
        }
    }
}
