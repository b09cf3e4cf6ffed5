//! A file mapped into memory: any size, one copy for all threads, pages read when they are touched. Takes an
//! open file, gives its bytes. Knows nothing of lines.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions};

use super::{Bytes, Piece, within};
use crate::{Error, Result};

/// The bytes of a mapped file.
pub struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps what `file` holds now; `path` is for messages.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] where the file system cannot map.
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        let length = file.metadata().map_err(|error| Error::reading(path, error))?.len();
        let length = usize::try_from(length)
            .map_err(|_| Error::data(format!("{}: too large for this address space", path.display())))?;
        // SAFETY: the map is read-only and private to this struct, and lives as long as every slice
        // borrowed from it. What cannot be promised is that no other process changes the file meanwhile,
        // and memmap2 asks for that too. The limits are these. Bytes overwritten in place are seen by
        // later accesses, and Rust's aliasing rules do not cover them: all code above therefore takes
        // what it reads as untrusted, checks it at each access (the bounds of a line, UTF-8), keeps
        // nothing but a sentence's text, and that only until it is tokenised. A file truncated under the
        // map raises SIGBUS where a lost page is touched, which ends the process; `--io pread` and
        // `--io memory` are the readers without this limit. A file that is appended to is safe: the length is pinned here.
        let map = unsafe { MmapOptions::new().len(length).map(file) };
        Ok(Self { map: map.map_err(|error| Error::reading(path, error))? })
    }
}

impl Bytes for Mapped {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        Ok(Piece::Borrowed(&self.map[within(range, self.map.len())?]))
    }

    fn announce(&self, range: Range<u64>) {
        if let Ok(range) = within(range, self.map.len())
            && let Err(error) = self.map.advise_range(Advice::WillNeed, range.start, range.len())
        {
            tracing::trace!(target: "corpus", %error, "not read ahead");
        }
    }
}
