//! A file read piece by piece at the places that are asked for: no map, no copy of the whole. Takes an open file,
//! gives its bytes. Knows nothing of lines.
//!
//! Each piece is a buffer of its own, freed by whoever asked for it; the longest are bounded by those who ask (a
//! window of the index, a record). What is announced is kept in pages from its first use on, since it will be asked
//! for many times, a piece at a time: a call for each would cost more than the text in it. So the address space stays
//! small whatever the file's size, a network file system is read by calls that can fail, and a file that was
//! truncated is an error and not a signal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind as Io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rustix::fs::{Advice, fadvise};

use super::{Bytes, Piece, shrank, within};
use crate::{Error, Result};

/// Kept at a time: small enough that the ends of what is announced waste little, many times a piece.
const PAGE: u64 = 64 << 10;

/// Most pages that are kept unless fewer are asked for, 64 MiB: as much as two windows of the order in blocks have, of
/// which one is in use.
const KEPT: usize = 1024;

/// The bytes of an open file.
pub struct Positioned {
    path: PathBuf,
    file: File,
    length: usize,
    pages: RwLock<Pages>,
}

/// Pages by number, from the first announced to the last, each read when it is first used.
struct Pages {
    kept: HashMap<u64, Arc<OnceLock<Arc<[u8]>>>, RandomState>,
    order: VecDeque<u64>,
    /// How many are kept, at least one.
    most: usize,
}

impl Default for Pages {
    fn default() -> Self {
        Self { kept: HashMap::default(), order: VecDeque::new(), most: KEPT }
    }
}

impl Pages {
    fn keep(&mut self, page: u64) {
        if self.kept.contains_key(&page) {
            return;
        }
        self.shrink_to(self.most - 1);
        self.kept.insert(page, Arc::default());
        self.order.push_back(page);
    }

    fn shrink_to(&mut self, pages: usize) {
        while self.order.len() > pages
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }
}

impl Positioned {
    /// Takes what `file` holds now; `path` is for messages.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] where the system tells nothing about the file.
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        let failed = |error| Error::reading(path, error);
        let length = usize::try_from(file.metadata().map_err(failed)?.len())
            .map_err(|_| Error::data(format!("{}: too large for this system", path.display())))?;
        let file = file.try_clone().map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, length, pages: RwLock::default() })
    }

    /// Page `page` where it is kept, read now where it was not before.
    fn page(&self, page: u64) -> Result<Option<Arc<[u8]>>> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = pages.kept.get(&page) else { return Ok(None) };
        if let Some(bytes) = slot.get() {
            return Ok(Some(bytes.clone()));
        }
        let slot = slot.clone();
        drop(pages);
        let start = page * PAGE;
        let length = PAGE.min(self.length as u64 - start) as usize;
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        self.read(start, Arc::get_mut(&mut bytes).expect("nobody else has it yet"))?;
        // Another thread may have been as quick: its copy is as good.
        Ok(Some(slot.get_or_init(|| bytes).clone()))
    }

    /// Fills `bytes` with what the file holds from `start` on.
    fn read(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        match self.file.read_exact_at(bytes, start) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == Io::UnexpectedEof => Err(shrank(&self.path, self.length)),
            Err(error) => Err(Error::reading(&self.path, error)),
        }
    }
}

impl Bytes for Positioned {
    fn len(&self) -> u64 {
        self.length as u64
    }

    fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
        let length = within(range.clone(), self.length)?.len();
        let page = range.start / PAGE;
        let (from, to) = (range.start - page * PAGE, range.end - page * PAGE);
        // Few pieces lie in two pages: they are read by themselves.
        if to <= PAGE
            && let Some(bytes) = self.page(page)?
        {
            return Ok(Piece::Kept(bytes, from as usize..to as usize));
        }
        let mut bytes = vec![0; length];
        self.read(range.start, &mut bytes)?;
        Ok(bytes.into())
    }

    fn announce(&self, range: Range<u64>) {
        let length = NonZeroU64::new(range.end - range.start);
        if let Err(error) = fadvise(&self.file, range.start, length, Advice::WillNeed) {
            tracing::trace!(target: "corpus", %error, "not read ahead");
        }
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        (range.start / PAGE..range.end.div_ceil(PAGE)).for_each(|page| pages.keep(page));
    }

    fn keep_at_most(&self, bytes: u64) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.most = usize::try_from(bytes / PAGE).unwrap_or(usize::MAX).clamp(1, KEPT);
        let most = pages.most;
        pages.shrink_to(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_announced_hold_what_the_file_holds_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bytes");
        let content: Vec<u8> = (0..200_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = Positioned::new(&path, &File::open(&path).unwrap()).unwrap();
        bytes.announce(70_000..200_000);
        for range in
            [0..10, 65_530..65_540, 70_000..70_100, 131_000..131_072, 131_000..131_073, 199_999..200_000]
        {
            let piece = bytes.slice(range.clone()).unwrap();
            assert_eq!(*piece, content[range.start as usize..range.end as usize], "{range:?}");
            let kept = range.start >= PAGE && range.start / PAGE == (range.end - 1) / PAGE;
            assert_eq!(matches!(piece, Piece::Kept(..)), kept, "{range:?}");
        }
        let mut pages = Pages::default();
        (0..2 * KEPT as u64).for_each(|page| pages.keep(page));
        pages.keep(2 * KEPT as u64 - 1);
        assert_eq!((pages.kept.len(), pages.order.len()), (KEPT, KEPT));
        assert!(pages.kept.contains_key(&(KEPT as u64)) && !pages.kept.contains_key(&0));
        for (most, expected) in [(0, 1), (3 * PAGE, 3), (u64::MAX, KEPT)] {
            bytes.keep_at_most(most);
            bytes.announce(0..200_000);
            assert_eq!(bytes.pages.read().unwrap().order.len(), expected.min(4));
            assert_eq!(*bytes.slice(70_000..70_100).unwrap(), content[70_000..70_100]);
        }
    }
}
