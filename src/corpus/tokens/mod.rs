//! The ids of a corpus, encoded once and kept in a file.
//!
//! Takes a file that [`Writer`] made, gives what it keeps of a document: for each sentence its line and its ids,
//! with what begins a word. The file belongs to one corpus and one tokenizer, and says to which by their
//! fingerprints. Knows nothing of samples, nor of where text came from.
//!
//! Documents lie in blocks of a fixed number of them, so that one is found in constant time: a table at the end
//! says where each block begins, and a table in the block where each of its documents does. A block's checksum is
//! verified when the block is first touched, so that opening reads only the ends of the file, and every byte is
//! verified before it is used. `docs/FORMATS.md` has it byte for byte.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{
    Bytes, Corpus, Document, Io, Piece, Sentence, Shape, Source, Sources, files, look, mean_bytes, reach,
};
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result};

mod write;

pub use write::{Block, Writer, encode_block};

const MAGIC: &[u8; 8] = b"bs-token";
const VERSION: u32 = 1;

/// Bytes of the header, of what stands before a block, and of what ends the file.
const HEADER: usize = 56;
const BLOCK_HEAD: usize = 16;
const TRAILER: usize = 8;

/// Text of a block, about, in bytes, and most documents of one. A ticket of a worker and a checksum cost next to
/// nothing for so much, and a random document is there within some microseconds the first time.
pub const BLOCK_TEXT: u64 = 64 << 10;
const MOST_DOCUMENTS: u64 = 1024;

/// Read at a time of what is read in order.
const PIECE: u64 = 1 << 18;

/// What a file holds, and whose ids: the first bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of an id: 2 where all ids fit, else 4.
    width: u8,
    /// Whether it is kept what begins a word.
    words: bool,
    shape: Shape,
    corpus: u64,
    tokenizer: u64,
    documents: u64,
    per_block: u64,
}

impl Header {
    /// The header of the file for this corpus and this tokenizer.
    pub fn new(corpus: &dyn Corpus, tokenizer: &dyn Tokenizer) -> Self {
        Self {
            width: if tokenizer.len() <= 1 << 16 { 2 } else { 4 },
            words: tokenizer.knows_words(),
            shape: corpus.shape(),
            corpus: corpus.fingerprint(),
            tokenizer: tokenizer.fingerprint(),
            documents: corpus.len(),
            per_block: (BLOCK_TEXT / mean_bytes(corpus)).clamp(1, MOST_DOCUMENTS),
        }
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.documents.div_ceil(self.per_block)
    }

    /// The documents of a block.
    pub fn documents_of(&self, block: u64) -> Range<u64> {
        let first = block * self.per_block;
        first..self.documents.min(first + self.per_block)
    }

    fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12] = self.width;
        bytes[13] = self.words.into();
        bytes[14] = (self.shape == Shape::Documents).into();
        let numbers = [self.corpus, self.tokenizer, self.documents, self.per_block];
        for (place, number) in bytes[16..48].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let hash = xxh3_64(&bytes[..48]);
        bytes[48..].copy_from_slice(&hash.to_le_bytes());
        bytes
    }
}

/// The file with the ids of `sources` where nobody names another: beside the first of them.
///
/// # Errors
/// Those of [`super::files()`].
pub fn beside(sources: &Sources, tokenizer: &dyn Tokenizer) -> Result<PathBuf> {
    let files: Vec<_> = sources.iter().map(|source| files(&source.path)).collect::<Result<_>>()?;
    let files = files.concat();
    let mut name = files[0].clone().into_os_string();
    if files.len() > 1 {
        name.push(format!("+{}", files.len() - 1));
    }
    name.push(format!(".{:016x}.bstok", tokenizer.fingerprint()));
    Ok(name.into())
}

/// The corpus of these sources with its ids, where they have been encoded before: in the file that is `named`, or
/// else in the one beside it, if that is there and fits.
///
/// # Errors
/// Those of [`TokenFile::open`], of a named file. One beside the corpus that does not fit is told of and left alone.
pub fn attach(
    corpus: Box<dyn Corpus>,
    sources: &Sources,
    named: Option<&Path>,
    tokenizer: &dyn Tokenizer,
) -> Result<Box<dyn Corpus>> {
    let path = named.map_or_else(|| beside(sources, tokenizer), |path| Ok(path.to_owned()))?;
    match TokenFile::open(&path, sources[0].io, &*corpus, tokenizer) {
        Ok(tokens) => Ok(Box::new(Tokenized::new(corpus, tokens))),
        Err(error) if named.is_some() => Err(error),
        Err(error) => {
            if error.kind() != ErrorKind::MissingInput {
                tracing::warn!(target: "corpus", "text is encoded anew: {error}");
            }
            Ok(corpus)
        }
    }
}

/// A file of ids, opened.
pub struct TokenFile {
    path: PathBuf,
    bytes: Box<dyn Bytes>,
    header: Header,
    /// Where the table of blocks begins.
    table: u64,
    /// Ids are below this.
    ids: u32,
    /// A bit for each block that has been verified.
    verified: Box<[AtomicU64]>,
}

impl TokenFile {
    /// Opens the file at `path`, read the way `io` says, for the corpus and the tokenizer that it must have been made of.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MissingInput`] where it is not there, [`crate::ErrorKind::Mismatch`] where it was made
    /// of another corpus or by another tokenizer, [`crate::ErrorKind::Data`] where it is damaged or no such file.
    pub fn open(path: &Path, io: Io, corpus: &dyn Corpus, tokenizer: &dyn Tokenizer) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::reading(path, error))?;
        Self::over(path, reach(path, &file, io)?, corpus, tokenizer)
    }

    /// [`TokenFile::open`] of bytes that were reached; `path` is for messages.
    ///
    /// # Errors
    /// As there.
    pub fn over(
        path: &Path,
        bytes: Box<dyn Bytes>,
        corpus: &dyn Corpus,
        tokenizer: &dyn Tokenizer,
    ) -> Result<Self> {
        let damaged = |what: &str| damaged(path, what);
        let length = bytes.len();
        if length < (HEADER + TRAILER) as u64 {
            return Err(damaged("it ends within its header"));
        }
        let header = Header::new(corpus, tokenizer);
        compare(path, &bytes.slice(0..HEADER as u64)?, &header)?;
        let table = header.blocks().checked_mul(8).and_then(|t| length.checked_sub(t + TRAILER as u64));
        let Some(table) = table.filter(|&table| table >= HEADER as u64) else {
            return Err(damaged("it ends before its table of blocks"));
        };
        let end = length - TRAILER as u64;
        if read_u64(&bytes.slice(end..length)?, 0) != Some(hash(&*bytes, table..end)?) {
            return Err(damaged("its table of blocks is not what was written"));
        }
        let words = usize::try_from(header.blocks().div_ceil(64))
            .map_err(|_| damaged("it has more blocks than this machine can count"))?;
        let verified = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        let ids = u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        Ok(Self { path: path.to_owned(), bytes, header, table, ids, verified })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this tokenizer gave its ids.
    pub fn is_of(&self, tokenizer: &dyn Tokenizer) -> bool {
        self.header.tokenizer == tokenizer.fingerprint()
    }

    /// Leaves in `out` what there is of document `id`; tells whether it is a document at all, or was malformed
    /// when it was to be encoded.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where its block is damaged, [`crate::ErrorKind::Io`] where it cannot be read.
    pub fn document<'f>(&'f self, id: u64, out: &mut DocumentIds<'f>) -> Result<bool> {
        if id >= self.header.documents {
            return Err(Error::internal(format!("document {id} of a corpus of {}", self.header.documents)));
        }
        let block = id / self.header.per_block;
        let start = self.number(block, self.table + 8 * block)?;
        let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
        if self.verified[word].load(Ordering::Relaxed) & bit == 0 {
            self.verify(block, start)?;
            self.verified[word].fetch_or(bit, Ordering::Relaxed);
        }
        // Of the block no more is read than the document and its place.
        let body = self.place(block, start, BLOCK_HEAD as u64)?.end;
        let at = id - self.header.documents_of(block).start;
        let end = self.place(block, body, 4 * at + 8)?.end;
        let places = self.number(block, end - 8)?;
        let (from, to) = (body + (places & u64::from(u32::MAX)), body + (places >> 32));
        let length = to.checked_sub(from).ok_or_else(|| self.damaged_block(block))?;
        out.bytes = self.bytes.slice(self.place(block, from, length)?)?;
        self.parse(out).ok_or_else(|| self.damaged_block(block))
    }

    /// Tells that these documents are wanted soon.
    fn announce(&self, documents: Range<u64>) {
        let blocks = documents.start / self.header.per_block..documents.end.div_ceil(self.header.per_block);
        let begin = |block| match block < self.header.blocks() {
            true => self.number(block, self.table + 8 * block).unwrap_or_default().min(self.table),
            false => self.table,
        };
        super::announce(&*self.bytes, begin(blocks.start)..begin(blocks.end));
    }

    /// The `length` bytes from `start` on, which must lie before the table of blocks.
    fn place(&self, block: u64, start: u64, length: u64) -> Result<Range<u64>> {
        let end = start.checked_add(length).filter(|&end| end <= self.table);
        Ok(start..end.ok_or_else(|| self.damaged_block(block))?)
    }

    /// The eight bytes at `start` as a number.
    fn number(&self, block: u64, start: u64) -> Result<u64> {
        let mut number = None;
        look(&*self.bytes, start..start + 8, |bytes| number = read_u64(bytes, 0))?;
        number.ok_or_else(|| self.damaged_block(block))
    }

    /// Refuses a block that is not what was written, or of which a document makes no sense.
    fn verify(&self, block: u64, start: u64) -> Result<()> {
        let head = self.bytes.slice(self.place(block, start, BLOCK_HEAD as u64)?)?;
        let (length, hash) = (read_u64(&head, 0).unwrap_or_default(), read_u64(&head, 8));
        let body = self.bytes.slice(self.place(block, start + BLOCK_HEAD as u64, length)?)?;
        let documents = self.header.documents_of(block);
        let mut ids = DocumentIds::default();
        let mut is_sound = |at: usize| {
            let (from, to) = (read_u32(&body, 4 * at)?, read_u32(&body, 4 * at + 4)?);
            ids.bytes = Piece::Borrowed(body.get(from as usize..to as usize)?);
            self.parse(&mut ids)?;
            ids.ids(0..ids.tokens()).all(|id| id < self.ids).then_some(())
        };
        let whole = hash == Some(xxh3_64(&body))
            && (0..documents.end - documents.start).all(|at| is_sound(at as usize).is_some());
        if whole { Ok(()) } else { Err(self.damaged_block(block)) }
    }

    /// Finds its way in the bytes of a document: [`TokenFile::document`], or `None` where they make no sense.
    fn parse(&self, out: &mut DocumentIds<'_>) -> Option<bool> {
        let mut rest = &out.bytes[..];
        out.sentences.clear();
        (out.ids, out.begins, out.wide) = (0..0, 0..0, self.header.width == 4);
        let Some(sentences) = read_varint(&mut rest)?.checked_sub(1) else {
            return rest.is_empty().then_some(false);
        };
        // Each has two bytes here at least.
        if sentences > rest.len() as u64 / 2 {
            return None;
        }
        let (mut line, mut tokens) = (0u64, 0usize);
        for _ in 0..sentences {
            line = line.wrapping_add(read_varint(&mut rest)?);
            tokens = tokens.checked_add(usize::try_from(read_varint(&mut rest)?).ok()?)?;
            out.sentences.push(Stored { line, end: tokens });
        }
        let from = out.bytes.len() - rest.len();
        let to = from.checked_add(tokens.checked_mul(self.header.width.into())?)?;
        (out.ids, out.begins) = (from..to, to..out.bytes.len());
        let bits = if self.header.words { tokens.div_ceil(8) } else { 0 };
        (out.bytes.len().checked_sub(to) == Some(bits)).then_some(true)
    }

    fn damaged_block(&self, block: u64) -> Error {
        damaged(&self.path, &format!("block {block} is not what was written"))
    }
}

/// A sentence of a document: the line it stands in, and where its tokens end.
#[derive(Clone, Copy, Debug)]
struct Stored {
    line: u64,
    end: usize,
}

/// What is kept of one document.
#[derive(Clone, Debug, Default)]
pub struct DocumentIds<'f> {
    /// As they lie in the file.
    bytes: Piece<'f>,
    sentences: Vec<Stored>,
    /// Where its ids are in its bytes.
    ids: Range<usize>,
    wide: bool,
    /// Where there is a bit for each token.
    begins: Range<usize>,
}

impl DocumentIds<'_> {
    /// Number of sentences, those without any token included.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// Whether there is no sentence.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.sentences.last().map_or(0, |sentence| sentence.end)
    }

    /// The line of sentence `at < len()`.
    pub fn line(&self, at: usize) -> u64 {
        self.sentences[at].line
    }

    /// The tokens of sentence `at < len()`, as places in the document.
    pub fn sentence(&self, at: usize) -> Range<usize> {
        let start = if at == 0 { 0 } else { self.sentences[at - 1].end };
        start..self.sentences[at].end
    }

    /// The ids at these places.
    pub fn ids(&self, tokens: Range<usize>) -> impl Iterator<Item = u32> {
        // One of the two is empty, so that either is a loop without a choice in it.
        let ids = &self.bytes[self.ids.clone()];
        let (wide, narrow) = match self.wide {
            true => (&ids[4 * tokens.start..4 * tokens.end], &[][..]),
            false => (&[][..], &ids[2 * tokens.start..2 * tokens.end]),
        };
        let wide = wide.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes));
        let narrow = narrow.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes).into());
        wide.chain(narrow)
    }

    /// Whether a word begins at each of these places. Only of a tokenizer that knows words.
    pub fn begins(&self, tokens: Range<usize>) -> impl Iterator<Item = bool> {
        let begins = &self.bytes[self.begins.clone()];
        tokens.map(|at| begins[at / 8] >> (at % 8) & 1 == 1)
    }
}

/// A corpus, with its ids in a file.
pub struct Tokenized {
    corpus: Box<dyn Corpus>,
    tokens: TokenFile,
}

impl Tokenized {
    /// Puts together what [`TokenFile::open`] has found to belong together.
    pub fn new(corpus: Box<dyn Corpus>, tokens: TokenFile) -> Self {
        Self { corpus, tokens }
    }
}

impl Corpus for Tokenized {
    fn len(&self) -> u64 {
        self.corpus.len()
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.corpus.document(id)
    }

    fn document_while(&self, id: u64, wanted: &dyn Fn() -> bool) -> Result<Document<'_>> {
        self.corpus.document_while(id, wanted)
    }

    fn excerpt(
        &self,
        id: u64,
        wanted: &dyn Fn() -> bool,
        from: &mut dyn FnMut(usize) -> usize,
        see: &mut dyn FnMut(&Sentence<'_>) -> bool,
    ) -> Result<usize> {
        self.corpus.excerpt(id, wanted, from, see)
    }

    fn shape(&self) -> Shape {
        self.corpus.shape()
    }

    fn bytes(&self) -> u64 {
        self.corpus.bytes()
    }

    fn sources(&self) -> Vec<Source> {
        self.corpus.sources()
    }

    fn path(&self) -> &Path {
        self.corpus.path()
    }

    fn file(&self, id: u64) -> &Path {
        self.corpus.file(id)
    }

    fn fingerprint(&self) -> u64 {
        self.corpus.fingerprint()
    }

    /// The ids, since the text is hardly ever wanted beside them.
    fn announce(&self, documents: Range<u64>) {
        self.tokens.announce(documents);
    }

    fn keep_at_most(&self, bytes: u64) {
        self.tokens.bytes.keep_at_most(bytes);
    }

    fn tokens(&self) -> Option<&TokenFile> {
        Some(&self.tokens)
    }
}

/// Refuses a file whose header is not the expected one, and says what differs.
fn compare(path: &Path, found: &[u8], expected: &Header) -> Result<()> {
    let wanted = expected.to_bytes();
    if !found.starts_with(MAGIC) {
        return Err(damaged(path, "it is no such file"));
    }
    if found[8..12] != wanted[8..12] {
        return Err(Error::mismatch(format!(
            "tokens {}: not of version {VERSION}, the one known here: make it again with `bertstream tokenize`",
            path.display()
        )));
    }
    if read_u64(found, 48) != Some(xxh3_64(&found[..48])) {
        return Err(damaged(path, "its header is not what was written"));
    }
    for (range, what) in [(16..24, "of another corpus"), (24..32, "by another tokenizer")] {
        if found[range.clone()] != wanted[range.clone()] {
            let number = |bytes: &[u8]| read_u64(bytes, range.start).unwrap_or_default();
            return Err(Error::mismatch(format!(
                "tokens {}: made {what} (fingerprint {:016x}, here {:016x}): make it again with `bertstream \
                 tokenize`",
                path.display(),
                number(found),
                number(&wanted)
            )));
        }
    }
    if found != wanted { Err(damaged(path, "its header contradicts its corpus")) } else { Ok(()) }
}

/// Hash of a range of any length, read piece by piece.
fn hash(bytes: &dyn Bytes, range: Range<u64>) -> Result<u64> {
    let mut hash = Xxh3Default::new();
    for start in range.clone().step_by(PIECE as usize) {
        look(bytes, start..range.end.min(start + PIECE), |piece| hash.update(piece))?;
    }
    Ok(hash.digest())
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::data(format!(
        "tokens {}: {what}: remove the file, or make it again with `bertstream tokenize`",
        path.display()
    ))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Takes a number off the front: seven bits a byte, the low ones first, the eighth where more follow.
fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
