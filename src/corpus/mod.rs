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

use crate::Result;

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
pub fn open(config: &CorpusConfig) -> Result<Box<dyn Corpus>> {
    Err(crate::Error::internal(format!("{}: no reader yet", config.path.display())))
}
