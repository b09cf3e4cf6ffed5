//! The reference's format: a line is a document of two sentences with a tab between.
//!
//! Takes a file, gives its lines as documents. Knows what a line is and where a document is malformed; what
//! happens then is the caller's policy, so nothing is skipped or repaired here: a line's number is its
//! document's number plus one, whatever stands in the lines before it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memchr::{memchr, memchr_iter, memmem};
use smallvec::smallvec;
use xxhash_rust::xxh3::xxh3_64;

use super::index::{Identity, LineIndex, Refused};
use super::{Bytes, Corpus, CorpusConfig, Document, Io, Sentence, Shape, reach};
use crate::durable::{self, parent};
use crate::text::{BOM, Encoding, HEAD, OnBadBytes, Transcoder};
use crate::{Error, ErrorKind, Result};

/// The longest line that is read, in bytes: longer ones are no pair of sentences but an accident, such as a
/// file without line feeds, and would otherwise set the memory of everything downstream.
pub const MAX_LINE: usize = 16 << 20;

/// Why a line is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    Blank,
    NoTab,
    /// A backslash and a `t` where the tab should be: text that was escaped on its way.
    LiteralTab,
    ExtraTab,
    NothingBefore,
    NothingAfter,
    /// Bytes that mean nothing in the corpus' encoding, from this byte of the line on, counted from 0.
    Malformed {
        at: usize,
    },
    TooLong {
        bytes: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("no tab between two sentences: the line is empty"),
            Self::NoTab => f.write_str("no tab between two sentences"),
            Self::LiteralTab => {
                f.write_str("no tab between two sentences, but a backslash and a t: write a tab character")
            }
            Self::ExtraTab => f.write_str("more than one tab: a line is two sentences with one tab between"),
            Self::NothingBefore => f.write_str("no sentence before the tab"),
            Self::NothingAfter => f.write_str("no sentence after the tab"),
            Self::Malformed { at } => write!(f, "byte {}: not text in the encoding of the corpus", at + 1),
            Self::TooLong { bytes } => write!(f, "{bytes} bytes, where a line may have {MAX_LINE}"),
        }
    }
}

/// Text in pairs, indexed by line.
pub struct PairCorpus {
    path: PathBuf,
    bytes: Box<dyn Bytes>,
    index: LineIndex,
    index_file: IndexFile,
    /// Of the file at `path`.
    encoding: Encoding,
    /// Of `bytes`, which may be a UTF-8 copy.
    text_encoding: Encoding,
    /// Whether `bytes` begin with a byte order mark.
    marked: bool,
    lines: u64,
    fingerprint: u64,
}

/// Where an index came from and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    /// `None` where it could not be written and lives in memory only.
    pub path: Option<PathBuf>,
    /// Whether it was made just now.
    pub built: bool,
}

impl PairCorpus {
    /// Opens the corpus that `config` names; errors as [`super::open`].
    pub fn open(config: &CorpusConfig) -> Result<Self> {
        let path = &config.path;
        let fail = |error: Error| error.context(format!("corpus {}", path.display()));
        let declared = Encoding::for_label(&config.encoding)?;
        if config.lines == Some(0) {
            return Err(Error::usage("--corpus-lines 0 leaves nothing of the corpus"));
        }
        let place = Place::of(config).map_err(fail)?;
        let source = Source::open(path, config.io).map_err(fail)?;
        let head = source.bytes.slice(0..source.bytes.len().min(HEAD as u64))?;
        let empty =
            || fail(Error::data("the file is empty: it needs lines of two sentences with a tab between"));
        if head.is_empty() || &head[..] == BOM {
            return Err(empty());
        }
        declared.refuse_unless_text(&head).map_err(fail)?;
        let marked = declared.is_utf8() && head.starts_with(BOM);
        drop(head);

        let (index, index_file) = place.index(&source).map_err(fail)?;
        let content = index.content();
        let (source, index, index_file) = if declared.is_ascii_compatible() {
            (source, index, index_file)
        } else {
            place.copy(&source, content, declared, config.io).map_err(fail)?
        };
        // Nothing but a byte order mark, in an encoding that is copied.
        if index.lines() == 0 {
            return Err(empty());
        }
        let lines = config.lines.map_or(index.lines(), |most| most.min(index.lines()));
        Ok(Self {
            path: path.clone(),
            fingerprint: fingerprint(content, declared, (lines < index.lines()).then_some(lines)),
            encoding: declared,
            text_encoding: if declared.is_ascii_compatible() { declared } else { Encoding::UTF_8 },
            bytes: source.bytes,
            index,
            index_file,
            marked,
            lines,
        })
    }

    /// The line index, of the UTF-8 copy where there is one.
    pub fn index(&self) -> &LineIndex {
        &self.index
    }

    /// Where the index is.
    pub fn index_file(&self) -> &IndexFile {
        &self.index_file
    }

    /// The encoding of the file.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whether the file begins with a UTF-8 byte order mark.
    pub fn has_byte_order_mark(&self) -> bool {
        self.marked
    }

    /// Gives `see` every line in order with its document number, its line end included.
    pub fn scan(&self, mut see: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut id = 0;
        while id < self.lines {
            let (range, _) = self.index.window(id);
            let window = self.bytes.slice(range)?;
            let window = &window[..];
            let stop = self.lines.min(id + self.index.stride());
            let mut start = 0;
            while id < stop && start < window.len() {
                let end = memchr(b'\n', &window[start..]).map_or(window.len(), |at| start + at + 1);
                see(id, &window[start..end])?;
                start = end;
                id += 1;
            }
            if id < stop {
                return Err(self.changed(id));
            }
        }
        Ok(())
    }

    /// The two sentences of `raw`, which is line `id` with its line end.
    pub fn parse<'l>(&self, id: u64, raw: &'l [u8]) -> Result<[Cow<'l, str>; 2], Fault> {
        let mut line = strip_line_end(raw);
        if id == 0 && self.marked {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.len() > MAX_LINE {
            return Err(Fault::TooLong { bytes: line.len() });
        }
        match self.text_encoding.decode(line).map_err(|at| Fault::Malformed { at })? {
            Cow::Borrowed(text) => split(text).map(|(a, b)| [Cow::Borrowed(a), Cow::Borrowed(b)]),
            Cow::Owned(text) => split(&text).map(|(a, b)| [Cow::Owned(a.into()), Cow::Owned(b.into())]),
        }
    }

    /// Line `id` with its line end.
    fn line(&self, id: u64) -> Result<Cow<'_, [u8]>> {
        if id >= self.lines {
            return Err(Error::internal(format!("document {id} of a corpus of {}", self.lines)));
        }
        let (range, before) = self.index.window(id);
        let window = self.bytes.slice(range)?;
        let start = match before.checked_sub(1) {
            None => 0,
            Some(last) => match memchr_iter(b'\n', &window).nth(last as usize) {
                Some(at) if at + 1 < window.len() => at + 1,
                _ => return Err(self.changed(id)),
            },
        };
        let end = memchr(b'\n', &window[start..]).map_or(window.len(), |at| start + at + 1);
        Ok(match window {
            Cow::Borrowed(window) => Cow::Borrowed(&window[start..end]),
            Cow::Owned(window) => Cow::Owned(window[start..end].to_vec()),
        })
    }

    fn fault(&self, id: u64, fault: Fault) -> Error {
        Error::data(format!(
            "corpus {}: line {}: {fault}{}; --on-bad-line skip leaves such lines out",
            self.path.display(),
            id + 1,
            match fault {
                Fault::Malformed { .. } => format!(" ({})", self.encoding.name()),
                _ => String::new(),
            }
        ))
    }

    /// Fewer lines than the index promises.
    fn changed(&self, id: u64) -> Error {
        let what = format!(
            "corpus {}: line {} is not where the index says: the file changed while it was used",
            self.path.display(),
            id + 1
        );
        Error::new(ErrorKind::Io, what)
    }
}

impl Corpus for PairCorpus {
    fn len(&self) -> u64 {
        self.lines
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        let sentences = match self.line(id)? {
            Cow::Borrowed(raw) => self.parse(id, raw),
            Cow::Owned(raw) => self.parse(id, &raw).map(|pair| pair.map(|text| text.into_owned().into())),
        };
        let [a, b] = sentences.map_err(|fault| self.fault(id, fault))?;
        let line = id + 1;
        Ok(Document { sentences: smallvec![Sentence { text: a, line }, Sentence { text: b, line }] })
    }

    fn shape(&self) -> Shape {
        Shape::Pairs
    }

    fn bytes(&self) -> u64 {
        self.bytes.len()
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// A line without its line feed, and without the carriage return before that. Behind the last line feed of a
/// file nothing is a line end: the reference's `line[:-1]` takes a character of text there.
pub(super) fn strip_line_end(raw: &[u8]) -> &[u8] {
    match raw {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
        line => line,
    }
}

/// A line's two sentences.
fn split(text: &str) -> Result<(&str, &str), Fault> {
    let Some(tab) = memchr(b'\t', text.as_bytes()) else {
        return Err(if text.trim_start().is_empty() {
            Fault::Blank
        } else if memmem::find(text.as_bytes(), b"\\t").is_some() {
            Fault::LiteralTab
        } else {
            Fault::NoTab
        });
    };
    let (a, b) = (&text[..tab], &text[tab + 1..]);
    if memchr(b'\t', b.as_bytes()).is_some() {
        Err(Fault::ExtraTab)
    } else if a.trim_start().is_empty() {
        Err(Fault::NothingBefore)
    } else if b.trim_start().is_empty() {
        Err(Fault::NothingAfter)
    } else {
        Ok((a, b))
    }
}

/// What identifies the documents: every byte of the file, how bytes are read, and how many lines are used.
/// The hash of the bytes alone where they are all used and UTF-8.
fn fingerprint(content: u64, encoding: Encoding, lines: Option<u64>) -> u64 {
    if encoding.is_utf8() && lines.is_none() {
        return content;
    }
    let mut key = content.to_le_bytes().to_vec();
    key.extend(lines.unwrap_or(u64::MAX).to_le_bytes());
    key.extend(encoding.name().as_bytes());
    xxh3_64(&key)
}

/// An open file and what identifies its present state.
struct Source {
    path: PathBuf,
    bytes: Box<dyn Bytes>,
    identity: Identity,
}

impl Source {
    fn open(path: &Path, io: Io) -> Result<Self> {
        // Asked by name first: opening a pipe would wait for a writer.
        let metadata = fs::metadata(path).map_err(|error| Error::reading(path, error))?;
        if metadata.is_dir() {
            return Err(Error::reading(path, io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return Err(Error::data(
                "not a regular file: lines are read in any order, so write it to a file",
            ));
        }
        let file = File::open(path).map_err(|error| Error::reading(path, error))?;
        let modified = Identity::modified(path, &file)?;
        let bytes = reach(path, &file, io)?;
        let identity = Identity::of(modified, &*bytes)?;
        Ok(Self { path: path.to_owned(), bytes, identity })
    }
}

/// Where the index and the UTF-8 copy of a corpus are kept.
struct Place {
    directory: PathBuf,
    /// First part of the names of all files kept.
    stem: OsString,
    /// Whether the directory was asked for, so that failing to write there is an error.
    given: bool,
}

impl Place {
    fn of(config: &CorpusConfig) -> Result<Self> {
        let path = &config.path;
        let mut stem = path.file_name().unwrap_or_default().to_owned();
        match &config.index_dir {
            None => {
                let directory = parent(path).to_owned();
                Ok(Self { directory, stem, given: false })
            }
            Some(directory) => {
                // Corpora of one name and several directories meet here.
                let whole = fs::canonicalize(path).map_err(|error| Error::reading(path, error))?;
                stem.push(format!(".{:016x}", xxh3_64(whole.as_os_str().as_encoded_bytes())));
                fs::create_dir_all(directory).map_err(|error| Error::writing(directory, error))?;
                Ok(Self { directory: directory.clone(), stem, given: true })
            }
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        let mut name = self.stem.clone();
        name.push(extension);
        self.directory.join(name)
    }

    /// The index of `source`, made and kept here where the one that is here cannot be used.
    fn index(&self, source: &Source) -> Result<(LineIndex, IndexFile)> {
        let path = self.file(".bsidx");
        match LineIndex::load(&path, &source.identity) {
            Ok(index) => Ok((index, IndexFile { path: Some(path), built: false })),
            Err(refused) => {
                log_refusal(&path, refused);
                self.make_index(source, path)
            }
        }
    }

    fn make_index(&self, source: &Source, path: PathBuf) -> Result<(LineIndex, IndexFile)> {
        let index = LineIndex::build(&*source.bytes)?;
        // What was appended meanwhile does not count; what was changed does.
        if Identity::of(source.identity.modified, &*source.bytes)? != source.identity {
            return Err(Error::new(ErrorKind::Io, "the file changed while it was being indexed"));
        }
        // What a killed maker of an index left here. Not being able to look is no reason to stop.
        if let Err(error) = durable::clean_temporaries(parent(&path)) {
            tracing::debug!(target: "corpus", %error, "temporaries of earlier runs may remain");
        }
        match index.save(&path, &source.identity) {
            Ok(()) => Ok((index, IndexFile { path: Some(path), built: true })),
            Err(error) if self.given => Err(error),
            Err(error) => {
                tracing::warn!(target: "corpus", %error, "the line index is not kept and will be made again at \
                     the next start: name a directory for it with --index-dir");
                Ok((index, IndexFile { path: None, built: true }))
            }
        }
    }

    /// The UTF-8 copy of `source`, named after its content, with its own index. That index is written
    /// last: a copy without a valid one is taken for damaged and made again.
    fn copy(
        &self,
        source: &Source,
        content: u64,
        encoding: Encoding,
        io: Io,
    ) -> Result<(Source, LineIndex, IndexFile)> {
        let copy = self.file(&format!(".{content:016x}.{}.utf8", encoding.name().to_ascii_lowercase()));
        let mut index_path = copy.clone().into_os_string();
        index_path.push(".bsidx");
        let index_path = PathBuf::from(index_path);
        let kept = match Source::open(&copy, io) {
            Ok(source) => LineIndex::load(&index_path, &source.identity).map(|index| (source, index)),
            Err(error) if error.kind() == ErrorKind::MissingInput => Err(Refused::Absent),
            Err(error) => return Err(error),
        };
        match kept {
            Ok((source, index)) => Ok((source, index, IndexFile { path: Some(index_path), built: false })),
            Err(refused) => {
                log_refusal(&index_path, refused);
                tracing::info!(target: "corpus", from = %source.path.display(), to = %copy.display(),
                    encoding = encoding.name(), "copying the corpus to UTF-8");
                copy_as_utf8(&*source.bytes, encoding, &copy).map_err(|error| {
                    error.context("a corpus in this encoding needs a copy in UTF-8 (--index-dir says where)")
                })?;
                let source = Source::open(&copy, io)?;
                let (index, file) = self.make_index(&source, index_path)?;
                Ok((source, index, file))
            }
        }
    }
}

/// Writes `bytes` to `path` as UTF-8, in constant memory and durably. What is malformed makes its line
/// malformed in the copy.
fn copy_as_utf8(bytes: &dyn Bytes, encoding: Encoding, path: &Path) -> Result<()> {
    let mut text = Transcoder::new(Stream { bytes, at: 0 }, encoding, OnBadBytes::Keep);
    durable::write_stream(path, None, |out| match io::copy(&mut text, out) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.downcast().unwrap_or_else(|error| durable::failed_write(path, None, error))),
    })
}

/// Bytes from the first to the last.
struct Stream<'b> {
    bytes: &'b dyn Bytes,
    at: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.bytes.len().min(self.at + out.len() as u64);
        let part = self.bytes.slice(self.at..end).map_err(io::Error::other)?;
        out[..part.len()].copy_from_slice(&part);
        self.at = end;
        Ok(part.len())
    }
}

fn log_refusal(path: &Path, refused: Refused) {
    let path = path.display();
    match refused {
        Refused::Absent => tracing::info!(target: "corpus", index = %path, "making the line index"),
        Refused::Stale(why) => tracing::info!(target: "corpus", index = %path, why, "stale: making it again"),
        Refused::Corrupt(why) => {
            tracing::warn!(target: "corpus", index = %path, why, "damaged: making it again");
        }
    }
}
