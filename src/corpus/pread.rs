//! A file read piece by piece at the places that are asked for: no map, no copy of the whole. Takes an open file,
//! gives its bytes. Knows nothing of lines.
//!
//! Each piece is a buffer of its own, freed by whoever asked for it; the longest are bounded by those who ask (a
//! window of the index, a record). So the address space stays small whatever the file's size, a network file system
//! is read by calls that can fail, and a file that was truncated is an error and not a signal.

use std::borrow::Cow;
use std::fs::File;
use std::io::ErrorKind as Io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::{Bytes, within};
use crate::{Error, ErrorKind, Result};

/// The bytes of an open file.
pub struct Positioned {
    path: PathBuf,
    file: File,
    length: usize,
}

impl Positioned {
    /// Takes what `file` holds now; `path` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the system tells nothing about the file.
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        let failed = |error| Error::reading(path, error);
        let length = usize::try_from(file.metadata().map_err(failed)?.len())
            .map_err(|_| Error::data(format!("{}: too large for this system", path.display())))?;
        Ok(Self { path: path.to_owned(), file: file.try_clone().map_err(failed)?, length })
    }
}

impl Bytes for Positioned {
    fn len(&self) -> u64 {
        self.length as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let start = range.start;
        let mut bytes = vec![0; within(range, self.length)?.len()];
        match self.file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(Cow::Owned(bytes)),
            Err(error) if error.kind() == Io::UnexpectedEof => Err(Error::new(
                ErrorKind::Io,
                format!(
                    "cannot read {}: it shrank from {} bytes while it was used",
                    self.path.display(),
                    self.length
                ),
            )),
            Err(error) => Err(Error::reading(&self.path, error)),
        }
    }

    fn announce(&self, range: Range<u64>) {
        let length = NonZeroU64::new(range.end - range.start);
        if let Err(error) = fadvise(&self.file, range.start, length, Advice::WillNeed) {
            tracing::trace!(target: "corpus", %error, "not read ahead");
        }
    }
}
