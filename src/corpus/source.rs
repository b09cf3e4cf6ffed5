//! One source of text behind [`Corpus`]: a file or a directory, in one of the formats.
//!
//! Takes a configuration, gives documents. Puts together where records lie ([`TextFile`], [`Directory`]) and
//! what one holds (a file for each format). Knows where a document is malformed; what happens then is the
//! caller's policy, so nothing is skipped or repaired here: a document's number does not depend on those
//! before it.

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::smallvec;
use xxhash_rust::xxh3::xxh3_64;

use super::compressed::Compression;
use super::directory::Directory;
use super::fault::{Fault, MAX_LINE};
use super::file::{OpenFile, TextFile};
use super::index::Records;
use super::outline::{self, Begin, LONG, Outline, Outlines, Stretch};
use super::{
    Corpus, CorpusConfig, Document, Format, Piece, Record, Sentence, Shape, format, jsonl, pairs, sentences,
    show, split, text, unwanted,
};
use crate::text::{BOM, Encoding, HEAD};
use crate::{Error, ErrorKind, Result};

/// The field of a JSON object that holds the text, unless another is named.
const FIELD: &str = "text";

/// One source of text.
pub struct TextCorpus {
    /// As it was asked for, with the format and the field that were found out.
    config: CorpusConfig,
    format: Format,
    field: String,
    guessed: bool,
    store: Store,
    fingerprint: u64,
    /// Whether it has been told that bytes are replaced.
    told: AtomicBool,
    /// Of long documents that excerpts were read of.
    outlines: Outlines,
}

/// A long document that sentences are wanted of.
enum Opened<'c> {
    Outlined(Arc<Outline>),
    /// One whose text does not lie in its file as it is: it is read as a whole each time.
    Whole(Document<'c>),
}

/// Where records lie.
enum Store {
    File(TextFile),
    Directory(Directory),
}

impl TextCorpus {
    /// Opens the corpus that `config` names; errors as [`super::open`].
    pub fn open(config: &CorpusConfig) -> Result<Self> {
        let encoding = Encoding::for_label(&config.encoding)?;
        if config.lines == Some(0) {
            return Err(Error::usage("--corpus-lines 0 leaves nothing of the corpus"));
        }
        Self::open_as(config, encoding)
            .map_err(|error| error.context(format!("corpus {}", config.path.display())))
    }

    fn open_as(config: &CorpusConfig, encoding: Encoding) -> Result<Self> {
        let is_directory =
            fs::metadata(&config.path).map_err(|error| Error::reading(&config.path, error))?.is_dir();
        let (format, store) = match is_directory {
            true => (directory_format(config)?, Store::Directory(Directory::open(config, encoding)?)),
            false => open_file(config, encoding)?,
        };
        let guessed = config.format.is_none();
        if guessed {
            tracing::info!(target: "corpus", path = %config.path.display(), format = format.name(),
                "format guessed; --corpus-format names another");
        }
        let field = config.field.clone().unwrap_or_else(|| FIELD.to_owned());
        let (content, part) = match &store {
            Store::File(file) => (file.content(), (file.used() < file.index().len()).then_some(file.used())),
            Store::Directory(directory) => (directory.content(), None),
        };
        Ok(Self {
            config: CorpusConfig {
                format: Some(format),
                field: (format == Format::Jsonl).then(|| field.clone()),
                ..config.clone()
            },
            fingerprint: match config.replace_bad_bytes {
                false => fingerprint(content, encoding, part, format, &field),
                true => !fingerprint(content, encoding, part, format, &field),
            },
            told: AtomicBool::new(false),
            outlines: Outlines::default(),
            format,
            field,
            guessed,
            store,
        })
    }

    /// The configuration with everything in it that was found out.
    pub fn config(&self) -> &CorpusConfig {
        &self.config
    }

    /// How its text is written down.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether the format was guessed.
    pub fn is_guessed(&self) -> bool {
        self.guessed
    }

    /// The file with its index, where it is one.
    pub fn text_file(&self) -> Option<&TextFile> {
        match &self.store {
            Store::File(file) => Some(file),
            Store::Directory(_) => None,
        }
    }

    /// The encoding of the text.
    pub fn encoding(&self) -> Encoding {
        match &self.store {
            Store::File(file) => file.encoding(),
            Store::Directory(directory) => directory.encoding(),
        }
    }

    /// Gives `see` the record of every document in order.
    pub fn scan(&self, mut see: impl FnMut(u64, Record<'_>) -> Result<()>) -> Result<()> {
        match &self.store {
            Store::File(file) => file.scan(see),
            Store::Directory(directory) => {
                (0..directory.len()).try_for_each(|id| see(id, directory.record(id)?))
            }
        }
    }

    /// The document that a record holds.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn parse<'r>(&self, raw: &'r [u8], line: u64, size: u64) -> Result<Document<'r>, (u64, Fault)> {
        self.parse_while(raw, line, size, &|| true)
    }

    fn parse_while<'r>(
        &self,
        raw: &'r [u8],
        line: u64,
        size: u64,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Document<'r>, (u64, Fault)> {
        let text = self.text(raw, line, size)?;
        self.read_all(text, line, wanted).map_err(|fault| (line, fault))
    }

    /// The text of a record.
    fn text<'r>(&self, raw: &'r [u8], line: u64, size: u64) -> Result<Cow<'r, str>, (u64, Fault)> {
        let encoding = self.record_encoding();
        let whole = raw.len() as u64;
        let raw = match self.records() {
            Some(Records::Lines) => strip_line_end(raw),
            _ => raw,
        };
        // Of what is too long only a part was read.
        let size = if size > whole { size } else { raw.len() as u64 };
        self.refuse_too_long(raw, line, size)?;
        match encoding.decode(raw) {
            Ok(text) => Ok(text),
            Err(_) if self.config.replace_bad_bytes => {
                self.tell_replaced();
                Ok(Cow::Owned(encoding.decode_lossy(raw).0))
            }
            Err(at) => {
                let before = &raw[..at];
                let start = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
                let below = memchr::memchr_iter(b'\n', before).count() as u64;
                Err((line + below, Fault::Malformed { at: at - start }))
            }
        }
    }

    /// The sentences of a text, or some of them where they are wanted no more.
    fn read_all<'t>(
        &self,
        text: Cow<'t, str>,
        line: u64,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Document<'t>, Fault> {
        match text {
            Cow::Borrowed(text) => self.read(text, line, wanted),
            Cow::Owned(text) => self.read(&text, line, wanted).map(Document::into_owned),
        }
    }

    /// How many broken sequences of a record [`TextCorpus::parse`] reads as U+FFFD.
    pub fn replaced(&self, raw: &[u8]) -> u64 {
        let encoding = self.record_encoding();
        match self.config.replace_bad_bytes && encoding.decode(raw).is_err() {
            true => encoding.decode_lossy(raw).1,
            false => 0,
        }
    }

    fn tell_replaced(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "corpus", path = %self.config.path.display(), "bytes that are not text in the \
                encoding are read as U+FFFD (told once; bertstream doctor counts them and names the first lines)");
        }
    }

    /// The encoding of the records.
    fn record_encoding(&self) -> Encoding {
        match &self.store {
            Store::File(file) => file.text_encoding(),
            Store::Directory(directory) => directory.encoding(),
        }
    }

    fn record(&self, id: u64) -> Result<Record<'_>> {
        match &self.store {
            Store::File(file) => file.record(id),
            Store::Directory(directory) => directory.record(id),
        }
    }

    /// Bytes among which document `id` is found.
    fn span(&self, id: u64) -> Result<u64> {
        match &self.store {
            Store::File(file) => Ok(file.span(id)),
            Store::Directory(directory) => directory.size(id),
        }
    }

    /// Document `id`, or where its sentences lie, which is kept. The text of a long one must lie in its file as it is.
    fn open_long(&self, id: u64, wanted: &dyn Fn() -> bool) -> Result<Opened<'_>> {
        let Record { line, at, size, raw } = self.record(id)?;
        let read = || {
            let text = self.text(&raw, line, size)?;
            let Cow::Borrowed(text) = text else {
                let document = self.read_all(text, line, wanted).map_err(|fault| (line, fault))?;
                return Ok(Opened::Whole(document.into_owned()));
            };
            let begins = match self.format {
                Format::Jsonl => jsonl::begins(text, &self.field, wanted),
                format => self.read(text, line, wanted).map(|document| begins(text, &document, line, format)),
            };
            let begins = begins.map_err(|fault| (line, fault))?;
            Ok(match Outline::new((at, line), &begins, text.len(), outline::step(self.bytes())) {
                Some(outline) => Opened::Outlined(Arc::new(outline)),
                None => Opened::Whole(Document::default()),
            })
        };
        let opened = read();
        // It may be no more than its beginning.
        if !wanted() {
            return Err(unwanted(id));
        }
        let opened = opened.map_err(|fault| self.fault(id, fault))?;
        if let Opened::Outlined(outline) = &opened {
            self.outlines.keep(id, Arc::clone(outline));
        }
        Ok(opened)
    }

    /// An excerpt of a document from where its sentences lie.
    fn show_outlined(
        &self,
        id: u64,
        outline: &Outline,
        from: &mut dyn FnMut(usize) -> usize,
        see: &mut dyn FnMut(&Sentence<'_>) -> bool,
    ) -> Result<usize> {
        let first = from(outline.sentences());
        for Stretch { bytes, sentences, line } in outline.from(first) {
            let raw = match &self.store {
                Store::File(file) => file.piece(bytes),
                Store::Directory(directory) => directory.piece(id, bytes),
            }?;
            let text = self.record_encoding().decode(&raw).map_err(|_| self.changed(id))?;
            let document = match self.format {
                Format::Jsonl => jsonl::read_part(&text, line),
                _ => self.read(&text, line, &|| true),
            }
            .map_err(|_| self.changed(id))?;
            let numbered = (sentences..).zip(&document.sentences);
            if !numbered.filter(|(number, _)| *number >= first).all(|(_, sentence)| see(sentence)) {
                break;
            }
        }
        Ok(outline.sentences())
    }

    /// What was text is none any more.
    fn changed(&self, id: u64) -> Error {
        let path = self.file(id).display();
        Error::new(ErrorKind::Io, format!("corpus {path}: document {id}: the file changed while it was used"))
    }

    fn refuse_too_long(&self, raw: &[u8], line: u64, size: u64) -> Result<(), (u64, Fault)> {
        if self.records() == Some(Records::Blocks) {
            // A block of short lines is as long as it may be.
            let mut start = 0;
            for (below, end) in memchr::memchr_iter(b'\n', raw).chain([raw.len()]).enumerate() {
                if end - start > MAX_LINE {
                    let unread = if end == raw.len() { size.saturating_sub(end as u64) } else { 0 };
                    let bytes = (end - start) as u64 + unread;
                    return Err((line + below as u64, Fault::TooLong { bytes }));
                }
                start = end + 1;
            }
            return Ok(());
        }
        if size > MAX_LINE as u64 { Err((line, Fault::TooLong { bytes: size })) } else { Ok(()) }
    }

    fn read<'t>(&self, text: &'t str, line: u64, wanted: &dyn Fn() -> bool) -> Result<Document<'t>, Fault> {
        match self.format {
            Format::Pairs => pairs::read(text, line),
            Format::Sentences => Ok(sentences::read(text, line)),
            Format::Jsonl => jsonl::read(text, &self.field, line, wanted),
            Format::Text => text::read(text, line, wanted),
            // Whoever makes a sample of it says what is wrong with it.
            Format::Samples if text.trim().is_empty() => Err(Fault::NoSentence),
            Format::Samples => Ok(Document { sentences: smallvec![Sentence { text: text.into(), line }] }),
        }
    }

    /// What the records of its file are; `None` in a directory.
    fn records(&self) -> Option<Records> {
        self.text_file().map(|_| records(self.format))
    }

    fn fault(&self, id: u64, (line, fault): (u64, Fault)) -> Error {
        let encoding = match fault {
            Fault::Malformed { .. } => format!(" ({})", self.encoding().name()),
            _ => String::new(),
        };
        let what = match self.records() {
            Some(Records::Lines) => "lines",
            _ => "documents",
        };
        Error::data(format!(
            "corpus {}: line {line}: {fault}{encoding}; --on-bad-line skip leaves such {what} out",
            self.file(id).display(),
        ))
    }
}

impl Corpus for TextCorpus {
    fn len(&self) -> u64 {
        match &self.store {
            Store::File(file) => file.used(),
            Store::Directory(directory) => directory.len(),
        }
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.document_while(id, &|| true)
    }

    fn document_while(&self, id: u64, wanted: &dyn Fn() -> bool) -> Result<Document<'_>> {
        let Record { line, size, raw, .. } = self.record(id)?;
        let long = size >= LONG;
        let read = match raw {
            Piece::Borrowed(raw) => self.parse_while(raw, line, size, wanted),
            raw => self.parse_while(&raw, line, size, wanted).map(Document::into_owned),
        };
        // It may be no more than its beginning.
        if long && !wanted() {
            return Err(unwanted(id));
        }
        read.map_err(|fault| self.fault(id, fault))
    }

    fn excerpt(
        &self,
        id: u64,
        wanted: &dyn Fn() -> bool,
        from: &mut dyn FnMut(usize) -> usize,
        see: &mut dyn FnMut(&Sentence<'_>) -> bool,
    ) -> Result<usize> {
        if self.span(id)? < LONG {
            return Ok(show(&self.document_while(id, wanted)?, from, see));
        }
        let opened = match self.outlines.get(id) {
            Some(outline) => Opened::Outlined(outline),
            None => self.open_long(id, wanted)?,
        };
        match opened {
            Opened::Outlined(outline) => self.show_outlined(id, &outline, from, see),
            Opened::Whole(document) => Ok(show(&document, from, see)),
        }
    }

    fn shape(&self) -> Shape {
        self.format.shape()
    }

    fn bytes(&self) -> u64 {
        match &self.store {
            Store::File(file) => file.bytes(),
            Store::Directory(directory) => directory.bytes(),
        }
    }

    fn path(&self) -> &Path {
        &self.config.path
    }

    fn file(&self, id: u64) -> &Path {
        match &self.store {
            Store::File(_) => self.path(),
            Store::Directory(directory) => directory.path(id).unwrap_or(self.path()),
        }
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn announce(&self, documents: Range<u64>) {
        if let Store::File(file) = &self.store {
            file.announce(documents);
        }
    }

    fn keep_at_most(&self, bytes: u64) {
        let places = bytes / 4;
        self.outlines.keep_at_most(places);
        if let Store::File(file) = &self.store {
            file.keep_at_most(bytes - places);
        }
    }
}

/// Where the sentences of a document begin in `text`, of which they are parts.
fn begins(text: &str, document: &Document<'_>, line: u64, format: Format) -> Vec<Begin> {
    let begin = |sentence: &Sentence<'_>| Begin {
        at: place_in(&sentence.text, text),
        line: sentence.line - line,
        // A line is a sentence, whatever stands before it.
        opens: format == Format::Sentences || split::opens(&sentence.text),
    };
    document.sentences.iter().map(begin).collect()
}

/// Where `part` of `whole` begins in it.
pub(super) fn place_in(part: &str, whole: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

fn directory_format(config: &CorpusConfig) -> Result<Format> {
    match config.format {
        None | Some(Format::Text) => Ok(Format::Text),
        Some(other) => Err(Error::usage(format!(
            "a directory is read as text, a document a file, and not as --corpus-format {}: name its files one by \
             one with --corpus",
            other.name()
        ))),
    }
}

fn open_file(config: &CorpusConfig, encoding: Encoding) -> Result<(Format, Store)> {
    let (mut source, mut name) = (OpenFile::open(&config.path, config.io)?, &*config.path);
    let compression = Compression::of(&source.bytes.slice(0..source.bytes.len().min(4))?);
    if let Some(compression) = compression {
        source = source.expanded(compression, config)?;
        name = compression.before(name);
    }
    let head = source.bytes.slice(0..source.bytes.len().min(HEAD as u64))?;
    let empty = || Error::data("the file is empty: there is no document in it");
    if head.is_empty() || &head[..] == BOM {
        return Err(empty());
    }
    encoding.refuse_unless_text(&head)?;
    drop(head);
    let format = match config.format {
        Some(format) => format,
        None => format::guess(name, &*source.bytes, encoding)?,
    };
    let file = TextFile::new(source, config, encoding, records(format))?;
    match (file.index().len(), file.used()) {
        // Nothing but a byte order mark, in an encoding that is copied, or nothing but blank lines.
        (0, _) => Err(empty()),
        (_, 0) => Err(Error::usage("--corpus-lines: the first document begins behind these lines")),
        _ => Ok((format, Store::File(file))),
    }
}

/// What the records of a file are.
fn records(format: Format) -> Records {
    match format {
        Format::Pairs | Format::Jsonl | Format::Text | Format::Samples => Records::Lines,
        Format::Sentences => Records::Blocks,
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

/// What identifies the documents: every byte of the file, how bytes are read, and how many records are used.
/// The hash of the bytes alone where these are pairs, all used, in UTF-8.
fn fingerprint(content: u64, encoding: Encoding, part: Option<u64>, format: Format, field: &str) -> u64 {
    if encoding.is_utf8() && part.is_none() && format == Format::Pairs {
        return content;
    }
    let mut key = content.to_le_bytes().to_vec();
    key.extend(part.unwrap_or(u64::MAX).to_le_bytes());
    key.extend(encoding.name().as_bytes());
    if format != Format::Pairs {
        key.push(0);
        key.extend(format.name().as_bytes());
    }
    if format == Format::Jsonl {
        key.push(0);
        key.extend(field.as_bytes());
    }
    xxh3_64(&key)
}
