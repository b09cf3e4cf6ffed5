//! TFRecord, in which event files hold their events: length, its checksum, the bytes, their checksum.
//!
//! ```text
//! length    u64, little endian
//! checksum  u32, masked CRC-32C of the eight bytes of the length
//! bytes     length of them
//! checksum  u32, masked CRC-32C of the bytes
//! ```
//! (tensorflow/core/lib/io/record_writer.h). What a kill cuts short is the last record, which readers leave out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An event file that records are appended to.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Makes a file in `directory` that sorts behind all that are there: TensorBoard reads them in the order of
    /// their names. `seconds` since 1970.
    ///
    /// # Errors
    /// Those of making the directory and the file.
    pub fn create(directory: &Path, seconds: u64) -> Result<Self> {
        let failed = |path: &Path, error: io::Error| Error::writing(path, error).context("--tensorboard");
        fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
        let listed = fs::read_dir(directory).map_err(|error| failed(directory, error))?;
        let newest = listed
            .filter_map(|entry| number_of(entry.ok()?.file_name().to_str()?))
            .max()
            .map_or(seconds, |newest| seconds.max(newest + 1));
        let path = directory.join(format!("{PREFIX}{newest:010}.bertstream"));
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        Ok(Self { path, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one record, in one write.
    ///
    /// # Errors
    /// Those of writing.
    pub fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(&framed(record))
    }
}

/// By the second part of the name TensorBoard knows its files, by the third it sorts them.
const PREFIX: &str = "events.out.tfevents.";

/// The number that a file's name is sorted by.
fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// A record in its frame.
pub fn framed(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(record.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(crc32c(&length)).to_le_bytes());
    bytes.extend(record);
    bytes.extend(masked(crc32c(record)).to_le_bytes());
    bytes
}

/// A checksum as TFRecord stores it, so that the checksum of what holds checksums stays a good one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), the polynomial 0x1edc6f41 reflected.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8))
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        let check = |bytes: &[u8], expected| assert_eq!(crc32c(bytes), expected, "{bytes:?}");
        check(&[0; 32], 0x8a91_36aa);
        check(&[0xff; 32], 0x62a8_ab43);
        check(&(0..32).collect::<Vec<u8>>(), 0x46dd_794e);
        check(b"123456789", 0xe306_9283);
    }

    #[test]
    fn a_new_file_sorts_behind_those_that_are_there_whatever_the_clock_says() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("deep/board");
        let names: Vec<_> = [100, 100, 50, 200]
            .into_iter()
            .map(|now| EventFile::create(&below, now).unwrap().path().to_owned())
            .collect();
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, names);
        let taken = EventFile::create(&names[0], 1).unwrap_err();
        assert_eq!(taken.kind().exit_code(), 73, "{taken}");
    }
}
