//! Text that is compressed: by gzip or zstd, of any number of members or frames. Takes bytes, gives a file with what
//! they stand for. Knows nothing of lines.
//!
//! Documents are read in any order, which no compressed stream allows, so a copy is made once. A few bytes can stand
//! for terabytes, so it ends where no text would compress so well, long before a disk is full.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::Bytes;
use super::file::Stream;
use crate::{Error, Result, durable};

/// Text takes a third to a tenth of its length. Where a stream gives more than so many times its own length, beyond
/// a length that does no harm, it was made to fill a disk.
const MOST_TIMES: u64 = 250;
const HARMLESS: u64 = 64 << 20;

/// Read at a time of what is compressed.
const PIECE: usize = 128 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// Of a file that begins with these bytes; `None` where they are not compressed, or not in a way known here.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The end that names of such files have, and what unpacks them by hand.
    fn names(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Gzip => (&["gz", "gzip"], "gzip -d"),
            Self::Zstd => (&["zst", "zstd"], "zstd -d"),
        }
    }

    /// The name that a file of this name had before: what its format is guessed from.
    pub fn before(self, path: &Path) -> &Path {
        let (ends, _) = self.names();
        let named = path.extension().is_some_and(|end| ends.iter().any(|known| end == *known));
        match (named, path.file_stem()) {
            (true, Some(stem)) => Path::new(stem),
            _ => path,
        }
    }

    /// Writes what `bytes` stand for to the new file `to`, in constant memory and durably.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where they are damaged, cut short, or stand for far too much; those of
    /// [`durable::write_stream`]. No file is made then.
    pub fn expand(self, bytes: &dyn Bytes, to: &Path) -> Result<()> {
        durable::write_stream(to, None, |out| self.expand_into(bytes, HARMLESS, to, out))
    }

    /// Writes what `bytes` stand for to `out`, which errors call `to`; no more than `harmless` bytes and those that
    /// text may have.
    ///
    /// # Errors
    /// As [`Compression::expand`].
    pub fn expand_into(self, bytes: &dyn Bytes, harmless: u64, to: &Path, out: &mut dyn Write) -> Result<()> {
        let piece = bytes.len().clamp(1, PIECE as u64) as usize;
        let input = BufReader::with_capacity(piece, Stream::new(bytes));
        let most = harmless.saturating_add(bytes.len().saturating_mul(MOST_TIMES));
        match self {
            Self::Gzip => self.write(MultiGzDecoder::new(input), most, to, out),
            // It refuses frames that take more than 128 MiB of memory.
            Self::Zstd => {
                let decoder = zstd::Decoder::with_buffer(input).map_err(|error| self.damaged(error))?;
                self.write(decoder, most, to, out)
            }
        }
    }

    fn write(self, from: impl Read, most: u64, to: &Path, out: &mut dyn Write) -> Result<()> {
        // What fails to be read is told apart from what fails to be written.
        let mut from = Marked(from.take(most + 1));
        match io::copy(&mut from, out) {
            Ok(written) if written > most => Err(Error::data(format!(
                "it gives more than {MOST_TIMES} times its own length, which no text does: if it is meant so, unpack \
                 it yourself ({})",
                self.names().1
            ))),
            Ok(_) => Ok(()),
            Err(error) => Err(match error.downcast::<Unread>() {
                Ok(Unread(error)) => error.downcast().unwrap_or_else(|error| self.damaged(error)),
                Err(error) => durable::failed_write(to, None, error),
            }),
        }
    }

    fn damaged(self, error: io::Error) -> Error {
        let test = match self {
            Self::Gzip => "gzip -t",
            Self::Zstd => "zstd -t",
        };
        Error::data(format!("damaged or cut short ({test} tells more): fetch it again")).caused_by(error)
    }
}

/// A reader whose errors say that they are its own.
struct Marked<R>(R);

/// An error of [`Marked`].
#[derive(Debug)]
struct Unread(io::Error);

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unread {}

impl<R: Read> Read for Marked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(Unread(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_loses_the_end_that_its_compression_gave_it() {
        let check = |compression: Compression, name: &str, expected: &str| {
            assert_eq!(compression.before(Path::new(name)), Path::new(expected), "{name}");
        };
        check(Compression::Gzip, "wiki.jsonl.gz", "wiki.jsonl");
        check(Compression::Zstd, "wiki.txt.zst", "wiki.txt");
        check(Compression::Gzip, "wiki.txt", "wiki.txt");
        check(Compression::Gzip, "wiki.zst", "wiki.zst");
    }
}
