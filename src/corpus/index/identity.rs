//! What tells one state of a corpus from another: length, time of modification, and a hash of some of its bytes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use crate::corpus::{Bytes, look};
use crate::{Error, Result};

/// What tells one state of a file from another without reading all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Length in bytes.
    pub bytes: u64,
    /// Last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// Hash of the length and of pieces spread over the file.
    pub sample: u64,
}

impl Identity {
    /// Last modification of `file`; to be asked before its content is read. `path` is for messages.
    pub fn modified(path: &Path, file: &File) -> Result<i64> {
        let metadata = file.metadata().map_err(|error| Error::reading(path, error))?;
        Ok(metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()))
    }

    /// Of a file with this content and last modification.
    pub fn of(modified: i64, bytes: &dyn Bytes) -> Result<Self> {
        Ok(Self { bytes: bytes.len(), modified, sample: sample(bytes)? })
    }
}

/// Hash of the length, the first and last 64 KiB, and 62 blocks of 4 KiB evenly spread in between: an edit in
/// place that keeps length and time still has to miss all of them. Of everything, where that is not more.
fn sample(bytes: &dyn Bytes) -> Result<u64> {
    const END: u64 = 64 << 10;
    const BLOCK: u64 = 4 << 10;
    const BLOCKS: u64 = 62;
    let length = bytes.len();
    let mut hash = Xxh3Default::new();
    hash.update(&length.to_le_bytes());
    if length <= 2 * END + BLOCKS * BLOCK {
        look(bytes, 0..length, |piece| hash.update(piece))?;
        return Ok(hash.digest());
    }
    look(bytes, 0..END, |piece| hash.update(piece))?;
    let between = length - 2 * END - BLOCK;
    // 128 bits: a file's length times 62 may leave 64.
    let block = |i| END + (u128::from(between) * u128::from(i) / u128::from(BLOCKS - 1)) as u64;
    // A disk finds them all at once faster than one after the other.
    for start in (0..BLOCKS).map(block).chain([length - END]) {
        bytes.announce(start..start + BLOCK);
    }
    for start in (0..BLOCKS).map(block) {
        look(bytes, start..start + BLOCK, |piece| hash.update(piece))?;
    }
    look(bytes, length - END..length, |piece| hash.update(piece))?;
    Ok(hash.digest())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fake;
    use super::*;

    #[test]
    fn a_sample_sees_the_ends_the_blocks_and_the_length() {
        let content = vec![b'x'; 2_000_000];
        let of = |content: &[u8]| sample(&Fake(content.to_vec())).unwrap();
        let whole = of(&content);
        for at in [0, 65_535, 65_536, 1_934_463, 1_934_464, 1_999_999] {
            let mut edited = content.clone();
            edited[at] = b'y';
            assert_ne!(of(&edited), whole, "byte {at}");
        }
        assert_ne!(of(&content[1..]), whole);
    }
}
