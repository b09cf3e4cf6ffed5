//! A file read into memory once: independent of what happens to it later. Takes an open file, gives its
//! bytes. Knows nothing of lines.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::{Bytes, Piece, within};
use crate::{Error, ErrorKind, Result};

/// The bytes of a file, in memory.
pub struct InMemory {
    bytes: Vec<u8>,
}

impl InMemory {
    /// Reads what `file` holds now, from its start; `path` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where reading fails, the file shrinks meanwhile, or memory does not suffice.
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        let length = file.metadata().map_err(|error| Error::reading(path, error))?.len();
        let mut bytes = Vec::new();
        if usize::try_from(length).ok().is_none_or(|length| bytes.try_reserve_exact(length).is_err()) {
            let what = format!(
                "cannot read {}: no memory for {length} bytes: read it in pieces with --io pread",
                path.display()
            );
            return Err(Error::new(ErrorKind::Io, what));
        }
        let read = file.take(length).read_to_end(&mut bytes).map_err(|error| Error::reading(path, error))?;
        if read as u64 != length {
            let what = format!("cannot read {}: it shrank from {length} to {read} bytes", path.display());
            return Err(Error::new(ErrorKind::Io, what));
        }
        Ok(Self { bytes })
    }
}

impl Bytes for InMemory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        Ok(Piece::Borrowed(&self.bytes[within(range, self.bytes.len())?]))
    }
}
