//! Stage 1: text to documents, with random access in constant time.
//!
//! Takes files, gives [`Document`]s: the sentences of one unit of text, borrowed from the map where
//! possible, each with its line for error messages and inspection. Knows nothing of tokens or masks.
//! Two seams meet here: [`Bytes`] (how bytes are reached: mapped or in memory) and [`Corpus`] (how
//! bytes are cut into documents). In the reference's format a line is a document of two sentences.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Error, Result};

pub mod check;
pub mod index;
mod memory;
mod mmap;
mod pairs;

pub use memory::InMemory;
pub use mmap::Mapped;
pub use pairs::{Fault, PairCorpus};

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

/// What a document is, and so how samples are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Two sentences, which are one sample: the reference's format.
    Pairs,
    /// Any number of sentences, of which samples are filled.
    Documents,
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

    /// What its documents are.
    fn shape(&self) -> Shape;

    /// Size of all documents in bytes, as they lie in their files.
    fn bytes(&self) -> u64;

    /// The sources, whose ranges of documents lie one behind the other from 0 to `len()`: a single one, each
    /// document once an epoch, where nothing is mixed.
    fn sources(&self) -> Vec<Source> {
        vec![Source { documents: 0..self.len(), per_epoch: self.len() }]
    }

    /// The file that documents come from, for messages.
    fn path(&self) -> &Path;

    /// 64 bits that identify the content that was indexed.
    fn fingerprint(&self) -> u64;
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
    fn slice(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;
}

/// How the bytes of a corpus are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// Mapped: files larger than memory, shared by all threads.
    #[default]
    Mmap,
    /// Read into memory once.
    Memory,
}

/// Which corpus, and how it is read. `io` and `index_dir` never change what is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusConfig {
    pub path: PathBuf,
    pub io: Io,
    /// Only the first so many lines.
    pub lines: Option<u64>,
    /// WHATWG label of the encoding.
    pub encoding: String,
    /// Where the line index is kept; `None` is beside the corpus, or in the cache directory where that
    /// cannot be written.
    pub index_dir: Option<PathBuf>,
}

/// Opens a corpus, making its index first where there is none or a stale one.
///
/// # Errors
/// [`crate::ErrorKind::MissingInput`] where there is no such file, [`crate::ErrorKind::Data`] where it is
/// empty or no text in the encoding that was given, [`crate::ErrorKind::Usage`] where there is no such
/// encoding, [`crate::ErrorKind::CannotCreate`] where an index directory was given and cannot be written.
pub fn open(config: &CorpusConfig) -> Result<Box<dyn Corpus>> {
    Ok(Box::new(PairCorpus::open(config)?))
}

/// The bytes of the regular file behind `file`, the way `io` says.
fn reach(path: &Path, file: &std::fs::File, io: Io) -> Result<Box<dyn Bytes>> {
    Ok(match io {
        Io::Mmap => Box::new(Mapped::new(path, file)?),
        Io::Memory => Box::new(InMemory::new(path, file)?),
    })
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
            assert_eq!(bytes.slice(range).unwrap(), expected, "{io:?}");
        }
        for (start, end) in [(0, 100_001), (100_001, 100_001), (5, 4), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            let error = bytes.slice(start..end).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal, "{io:?} {start}..{end}");
        }
        // What is appended later does not exist: the length was pinned when the file was opened.
        std::fs::write(&path, [&content[..], b"more"].concat()).unwrap();
        assert_eq!(bytes.len(), 100_000, "{io:?}");
        assert_eq!(bytes.slice(0..100_000).unwrap(), content, "{io:?}");

        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        let bytes = reach(&empty, &std::fs::File::open(&empty).unwrap(), io).unwrap();
        assert!(bytes.is_empty() && bytes.slice(0..0).unwrap().is_empty(), "{io:?}");
    }

    #[test]
    fn both_readers_give_the_same_bytes() {
        check_reader(Io::Mmap);
        check_reader(Io::Memory);
    }
}
