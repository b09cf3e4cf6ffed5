//! A file mapped into memory: any size, one copy for all threads, pages read when they are touched. Takes an
//! open file, gives its bytes. Knows nothing of lines.
//!
//! Nobody gets a reference into the map. What is wanted of it is copied out, then it is asked whether the file was
//! still all there, and only then the copy is handed on: so what anybody holds is what the file held, and does not
//! change.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use memmap2::{Advice, Mmap, MmapOptions};

use super::{Bytes, Piece, shrank, within};
use crate::{Error, ErrorKind, Result};

mod lost;

use lost::Watched;

/// The bytes of a mapped file.
pub struct Mapped {
    path: PathBuf,
    /// Kept only where its length must be asked for: a corpus may have more files than a process may have open.
    file: Option<File>,
    /// Before the map, which must not go while it is watched.
    watched: Watched,
    map: Mmap,
    /// The last byte, which tells whether a file was cut off, as long as it is not what stands behind an end.
    last: Option<u8>,
}

impl Mapped {
    /// Maps what `file` holds now; `path` is for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the file system cannot map.
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        let failed = |error| Error::reading(path, error);
        let length = file.metadata().map_err(failed)?.len();
        let length = usize::try_from(length)
            .map_err(|_| Error::data(format!("{}: too large for this address space", path.display())))?;
        // SAFETY: the map is read-only and private to this struct. What cannot be promised is that no other process
        // changes the file meanwhile, and memmap2 asks for that too. The limits are these. A byte of the map may
        // change between two looks at it: nobody but `pick` looks, through a slice that ends with the call; whoever
        // chooses a part there compares bytes and keeps nothing but places, which are held against the length again;
        // the part is copied, and all that is believed of it (that it is UTF-8, above all) is checked on the copy.
        // A file cut off under the map loses pages, which `lost` fills with zeros and tells of. A file that is
        // appended to is safe: the length is pinned here.
        let map = unsafe { MmapOptions::new().len(length).map(file) }.map_err(failed)?;
        let watched = Watched::new(&map);
        let mut mapped = Self { path: path.to_owned(), file: None, watched, map, last: None };
        mapped.last = mapped.last_byte().filter(|&byte| byte != 0);
        if mapped.last.is_none() {
            mapped.file = Some(file.try_clone().map_err(failed)?);
        }
        mapped.verify()?;
        Ok(mapped)
    }

    /// What the last byte is now.
    fn last_byte(&self) -> Option<u8> {
        // The compiler must not know it from before.
        self.map.last().map(std::hint::black_box).copied()
    }

    /// Whether all that was read of the map until now was in the file. Behind the end of a file that was cut off, the
    /// rest of a page reads as zeros, and the pages behind that are lost: so the last byte of all is another one, or
    /// looking at it loses it. Where it was zero from the start, the system is asked for the file's length.
    fn verify(&self) -> Result<()> {
        fence(Ordering::Acquire);
        let whole = match self.last {
            Some(_) => self.last_byte() == self.last,
            None => self.length_now()? >= self.map.len() as u64,
        };
        if whole && !self.watched.is_lost() {
            return Ok(());
        }
        Err(match self.length_now().is_ok_and(|now| now < self.map.len() as u64) {
            true => shrank(&self.path, self.map.len()),
            false => Error::new(
                ErrorKind::Io,
                format!(
                    "cannot read {}: it was changed while it was used, or its disk failed",
                    self.path.display()
                ),
            ),
        })
    }

    fn length_now(&self) -> Result<u64> {
        let metadata = self.file.as_ref().map_or_else(|| fs::metadata(&self.path), File::metadata);
        Ok(metadata.map_err(|error| Error::reading(&self.path, error))?.len())
    }
}

impl Bytes for Mapped {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        self.pick(range, &mut |all| 0..all.len())
    }

    fn pick(&self, range: Range<u64>, choose: &mut dyn FnMut(&[u8]) -> Range<usize>) -> Result<Piece<'_>> {
        let all = &self.map[within(range, self.map.len())?];
        let part = choose(all);
        let copy = all.get(part.clone()).map(<[u8]>::to_vec);
        self.verify()?;
        copy.map(Piece::from).ok_or_else(|| Error::internal(format!("bytes {part:?} of {}", all.len())))
    }

    fn announce(&self, range: Range<u64>) {
        if let Ok(range) = within(range, self.map.len())
            && let Err(error) = self.map.advise_range(Advice::WillNeed, range.start, range.len())
        {
            tracing::trace!(target: "corpus", %error, "not read ahead");
        }
    }
}
