//! Files that must survive a kill or a power loss at any instant: the old or the new one is there, never
//! a third state. Takes bytes and directories, knows nothing of what they mean.

use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a reader sees the old file or the new one: a temporary beside it,
/// created exclusively, synced, renamed over `path`, and the directory synced.
pub fn write_file(path: &Path, _bytes: &[u8]) -> Result<()> {
    Err(Error::internal(format!("{}: not written yet", path.display())))
}

/// Makes directory `path` with the files that `fill` writes into the temporary directory it is given: files
/// and directory are synced, then renamed to `path`, which must not exist, and the parent is synced.
pub fn write_dir(path: &Path, _fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    Err(Error::internal(format!("{}: not written yet", path.display())))
}
