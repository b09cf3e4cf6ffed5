//! A text file as records by number: what all formats of a single file share.
//!
//! Takes a file, gives its lines or blocks of lines, borrowed from the map where possible. Makes, keeps and
//! checks the index, and the UTF-8 copy where an encoding needs one. Knows nothing of what a record holds.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::compressed::Compression;
use super::fault::MAX_LINE;
use super::index::{Identity, Index, MAX_BLOCK, Records, Refused, Window};
use super::{Bytes, CorpusConfig, Io, Piece, Record, announce, look, reach};
use crate::durable::{self, parent};
use crate::text::{BOM, Encoding, OnBadBytes, Transcoder};
use crate::{Error, ErrorKind, Result};

/// A window of the index that is longer is looked at piece by piece, so that its bytes need not lie in memory: what a
/// reader holds is this, or one record.
const LONG_WINDOW: u64 = 4 << 20;

/// Of a record no more is read: it has a line that is too long, or is followed by as many blank ones.
const MOST_READ: u64 = MAX_BLOCK + MAX_LINE as u64 + 4;

/// At the end of a record that is not read, as many bytes are looked at for the end of its last line.
const LINE_ENDS: u64 = 4096;

/// A text file, indexed by record.
pub struct TextFile {
    path: PathBuf,
    bytes: Box<dyn Bytes>,
    index: Index,
    index_file: IndexFile,
    /// Of the file at `path`.
    encoding: Encoding,
    /// Of `bytes`, which may be a UTF-8 copy.
    text_encoding: Encoding,
    /// Whether `bytes` begin with a byte order mark.
    marked: bool,
    used: u64,
    /// Of the file at `path`.
    content: u64,
}

/// Where an index came from and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    /// `None` where it could not be written and lives in memory only.
    pub path: Option<PathBuf>,
    /// Whether it was made just now.
    pub built: bool,
}

impl TextFile {
    /// Indexes `source`, the file that `config` names, by records of this kind.
    pub fn new(source: OpenFile, config: &CorpusConfig, encoding: Encoding, kind: Records) -> Result<Self> {
        let place = Place::of(&source.path, config.index_dir.as_deref())?;
        // Lines can be cut before they are decoded, in most encodings; whether one is blank is seen in UTF-8.
        let in_place = encoding.is_utf8() || encoding.is_ascii_compatible() && kind == Records::Lines;
        let marked = encoding.is_utf8() && source.bytes.slice(0..source.bytes.len().min(3))?[..] == *BOM;
        let (index, index_file) = place.index(&source, if in_place { kind } else { Records::Lines })?;
        let content = index.content();
        let (source, index, index_file) = match in_place {
            true => (source, index, index_file),
            false => place.copy(&source, kind, content, encoding, config.io)?,
        };
        let used = match config.lines {
            None => index.len(),
            Some(lines) => index.within_lines(&*source.bytes, lines)?,
        };
        Ok(Self {
            path: config.path.clone(),
            text_encoding: if in_place { encoding } else { Encoding::UTF_8 },
            bytes: source.bytes,
            index,
            index_file,
            encoding,
            marked,
            used,
            content,
        })
    }

    /// How many records are used.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Size in bytes, of the UTF-8 copy where there is one.
    pub fn bytes(&self) -> u64 {
        self.bytes.len()
    }

    /// The index, of the UTF-8 copy where there is one.
    pub fn index(&self) -> &Index {
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

    /// The encoding of the records.
    pub fn text_encoding(&self) -> Encoding {
        self.text_encoding
    }

    /// Whether the file begins with a UTF-8 byte order mark.
    pub fn has_byte_order_mark(&self) -> bool {
        self.marked
    }

    /// Hash of every byte of the file.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Record `id`, its line ends included.
    pub fn record(&self, id: u64) -> Result<Record<'_>> {
        if id >= self.used {
            return Err(Error::internal(format!("document {id} of a corpus of {}", self.used)));
        }
        let window = self.index.window(id);
        if is_long(&window) {
            let places = self.index.places(&*self.bytes, window.range)?;
            let place = places.get(window.before as usize).ok_or_else(|| self.changed(id))?;
            return self.read(id, place.range.clone(), window.line + place.line + 1);
        }
        let mut found = None;
        let raw = self.bytes.pick(window.range.clone(), &mut |bytes| {
            found = self.index.walk(bytes).nth(window.before as usize);
            found.as_ref().map_or(0..0, |found| self.without_mark(id, bytes, found.range.clone()))
        })?;
        let found = found.ok_or_else(|| self.changed(id))?;
        let mark = found.range.end - found.range.start - raw.len();
        let at = window.range.start + (found.range.start + mark) as u64;
        Ok(Record { line: window.line + found.line + 1, at, size: raw.len() as u64, raw })
    }

    /// Bytes among which record `id < used()` is found.
    pub fn span(&self, id: u64) -> u64 {
        let Window { range, .. } = self.index.window(id);
        range.end - range.start
    }

    /// The bytes at these places in the file, or in its UTF-8 copy.
    pub fn piece(&self, range: Range<u64>) -> Result<Piece<'_>> {
        self.bytes.slice(range)
    }

    /// Gives `see` every record in order with its number.
    pub fn scan(&self, mut see: impl FnMut(u64, Record<'_>) -> Result<()>) -> Result<()> {
        let mut id = 0;
        while id < self.used {
            let window = self.index.window(id);
            let stop = self.used.min(id + self.index.stride());
            let count = (stop - id) as usize;
            if is_long(&window) {
                for place in self.index.places(&*self.bytes, window.range)?.into_iter().take(count) {
                    see(id, self.read(id, place.range, window.line + place.line + 1)?)?;
                    id += 1;
                }
            } else {
                let start = window.range.start;
                let bytes = self.bytes.slice(window.range)?;
                for found in self.index.walk(&bytes).take(count) {
                    let places = self.without_mark(id, &bytes, found.range);
                    let at = start + places.start as u64;
                    let raw = &bytes[places];
                    let line = window.line + found.line + 1;
                    see(id, Record { line, at, size: raw.len() as u64, raw: raw.into() })?;
                    id += 1;
                }
            }
            if id < stop {
                return Err(self.changed(id));
            }
        }
        Ok(())
    }

    /// The record at a place in the file, of which no more is read than tells that it is too long.
    fn read(&self, id: u64, range: Range<u64>, line: u64) -> Result<Record<'_>> {
        let kept = self.bytes.slice(range.start..range.end.min(range.start + MOST_READ))?;
        let place = self.without_mark(id, &kept, 0..kept.len());
        let mut size = place.len() as u64;
        if range.end - range.start > MOST_READ {
            let tail = self.bytes.slice(range.end - LINE_ENDS..range.end)?;
            let ends = tail.iter().rev().take_while(|&byte| b"\r\n".contains(byte)).count() as u64;
            size = range.end - range.start - ends;
        }
        Ok(Record { line, at: range.start + place.start as u64, size, raw: kept.cut(place) })
    }

    /// Bounds the bytes that are kept of what was announced.
    pub fn keep_at_most(&self, bytes: u64) {
        self.bytes.keep_at_most(bytes);
    }

    /// Tells that these records are wanted soon.
    pub fn announce(&self, records: Range<u64>) {
        if records.start < records.end && records.end <= self.used {
            let (first, last) = (self.index.window(records.start), self.index.window(records.end - 1));
            announce(&*self.bytes, first.range.start..last.range.end);
        }
    }

    /// A record's place, behind the byte order mark.
    fn without_mark(&self, id: u64, bytes: &[u8], range: Range<usize>) -> Range<usize> {
        let mark = id == 0 && self.marked && bytes[range.clone()].starts_with(BOM);
        range.start + if mark { BOM.len() } else { 0 }..range.end
    }

    /// Fewer records than the index promises.
    fn changed(&self, id: u64) -> Error {
        let what = format!(
            "corpus {}: document {id} is not where the index says: the file changed while it was used",
            self.path.display(),
        );
        Error::new(ErrorKind::Io, what)
    }
}

/// An open text file and what identifies its present state.
pub struct OpenFile {
    path: PathBuf,
    pub bytes: Box<dyn Bytes>,
    identity: Identity,
}

impl OpenFile {
    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`] where there is none, [`ErrorKind::Data`] where it is a pipe or a device.
    pub fn open(path: &Path, io: Io) -> Result<Self> {
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

    /// What this compressed file stands for: a copy beside it or in the index directory, made the first time. It is
    /// named after the content, which the index of the compressed file keeps, so that nothing is read twice.
    ///
    /// # Errors
    /// Those of [`Compression::expand`], and of writing there.
    pub fn expanded(self, compression: Compression, config: &CorpusConfig) -> Result<Self> {
        let place = Place::of(&self.path, config.index_dir.as_deref())?;
        let (index, _) = place.index(&self, Records::Lines)?;
        let copy = place.file(&format!(".{:016x}.unpacked", index.content()));
        match Self::open(&copy, config.io) {
            Err(error) if error.kind() == ErrorKind::MissingInput => {}
            opened => return opened,
        }
        tracing::info!(target: "corpus", from = %self.path.display(), to = %copy.display(), "expanding the corpus");
        compression.expand(&*self.bytes, &copy).map_err(|error| {
            error.context("a compressed corpus is copied out once (--index-dir says where)")
        })?;
        Self::open(&copy, config.io)
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
    fn of(path: &Path, index_dir: Option<&Path>) -> Result<Self> {
        let mut stem = path.file_name().unwrap_or_default().to_owned();
        match index_dir {
            None => {
                let directory = parent(path).to_owned();
                Ok(Self { directory, stem, given: false })
            }
            Some(directory) => {
                // Corpora of one name and several directories meet here.
                let whole = fs::canonicalize(path).map_err(|error| Error::reading(path, error))?;
                stem.push(format!(".{:016x}", xxh3_64(whole.as_os_str().as_encoded_bytes())));
                fs::create_dir_all(directory).map_err(|error| Error::writing(directory, error))?;
                Ok(Self { directory: directory.to_owned(), stem, given: true })
            }
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        let mut name = self.stem.clone();
        name.push(extension);
        self.directory.join(name)
    }

    /// The index of `source`, made and kept here where the one that is here cannot be used.
    fn index(&self, source: &OpenFile, kind: Records) -> Result<(Index, IndexFile)> {
        let path = self.file(".bsidx");
        match Index::load(&path, kind, &source.identity) {
            Ok(index) => Ok((index, IndexFile { path: Some(path), built: false })),
            Err(refused) => {
                log_refusal(&path, refused);
                self.make_index(source, kind, path)
            }
        }
    }

    fn make_index(&self, source: &OpenFile, kind: Records, path: PathBuf) -> Result<(Index, IndexFile)> {
        let index = Index::build(&*source.bytes, kind)?;
        // What was appended meanwhile does not count; what was changed does.
        if Identity::of(source.identity.modified, &*source.bytes)? != source.identity {
            return Err(Error::new(ErrorKind::Io, "the file changed while it was being indexed"));
        }
        if index.is_empty() {
            return Ok((index, IndexFile { path: None, built: true }));
        }
        // What a killed maker of an index left here. Not being able to look is no reason to stop.
        if let Err(error) = durable::clean_temporaries(parent(&path)) {
            tracing::debug!(target: "corpus", %error, "temporaries of earlier runs may remain");
        }
        match index.save(&path, &source.identity) {
            Ok(()) => Ok((index, IndexFile { path: Some(path), built: true })),
            Err(error) if self.given => Err(error),
            Err(error) => {
                tracing::warn!(target: "corpus", %error, "the index is not kept and will be made again at \
                     the next start: name a directory for it with --index-dir");
                Ok((index, IndexFile { path: None, built: true }))
            }
        }
    }

    /// The UTF-8 copy of `source`, named after its content, with its own index. That index is written
    /// last: a copy without a valid one is taken for damaged and made again.
    fn copy(
        &self,
        source: &OpenFile,
        kind: Records,
        content: u64,
        encoding: Encoding,
        io: Io,
    ) -> Result<(OpenFile, Index, IndexFile)> {
        let copy = self.file(&format!(".{content:016x}.{}.utf8", encoding.name().to_ascii_lowercase()));
        let mut index_path = copy.clone().into_os_string();
        index_path.push(".bsidx");
        let index_path = PathBuf::from(index_path);
        let kept = match OpenFile::open(&copy, io) {
            Ok(source) => Index::load(&index_path, kind, &source.identity).map(|index| (source, index)),
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
                let source = OpenFile::open(&copy, io)?;
                let (index, file) = self.make_index(&source, kind, index_path)?;
                Ok((source, index, file))
            }
        }
    }
}

/// Writes `bytes` to `path` as UTF-8, in constant memory and durably. What is malformed makes its line
/// malformed in the copy.
fn copy_as_utf8(bytes: &dyn Bytes, encoding: Encoding, path: &Path) -> Result<()> {
    let mut text = Transcoder::new(Stream::new(bytes), encoding, OnBadBytes::Keep);
    durable::write_stream(path, None, |out| match io::copy(&mut text, out) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.downcast().unwrap_or_else(|error| durable::failed_write(path, None, error))),
    })
}

/// Bytes from the first to the last.
pub struct Stream<'b> {
    bytes: &'b dyn Bytes,
    at: u64,
}

impl<'b> Stream<'b> {
    /// All of `bytes`.
    pub fn new(bytes: &'b dyn Bytes) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.bytes.len().min(self.at + out.len() as u64);
        let length = (end - self.at) as usize;
        look(self.bytes, self.at..end, |part| out[..length].copy_from_slice(part))
            .map_err(io::Error::other)?;
        self.at = end;
        Ok(length)
    }
}

fn is_long(window: &Window) -> bool {
    window.range.end - window.range.start > LONG_WINDOW
}

fn log_refusal(path: &Path, refused: Refused) {
    let path = path.display();
    match refused {
        Refused::Absent => tracing::info!(target: "corpus", index = %path, "making the index"),
        Refused::Stale(why) => tracing::info!(target: "corpus", index = %path, why, "stale: making it again"),
        Refused::Corrupt(why) => {
            tracing::warn!(target: "corpus", index = %path, why, "damaged: making it again");
        }
    }
}
