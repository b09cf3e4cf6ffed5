//! `--ram`: one budget for the memory of a command.
//!
//! What a command holds already is measured, what it will take is estimated, and what is left is parted among what
//! can do with less: workers with the samples under way, pages kept of files, counted words. How it is parted is a pure
//! function; no sample, batch or count depends on it.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use super::output::{bytes, grouped};
use crate::collate::CollateConfig;
use crate::corpus::{Io, Sources, files};
use crate::flow::IN_FLIGHT_PER_WORKER;
use crate::pipeline::Plan;
use crate::vocab::{SUBWORDS_FILE, Tokenizer};
use crate::{Error, Result};

/// A number of bytes as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit =
            match text[digits..].trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
                "" => Some(0),
                "k" => Some(10),
                "m" => Some(20),
                "g" => Some(30),
                "t" => Some(40),
                _ => None,
            };
        let size =
            text[..digits].parse().ok().zip(unit).and_then(|(n, unit): (u64, u32)| n.checked_mul(1 << unit));
        match size {
            Some(size @ 1..) => Ok(Self(size)),
            _ => Err(format!("{text}: a size is wanted, such as 512M or 2G (of 1024 each)")),
        }
    }
}

/// How much memory a command may hold.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = "Memory")]
pub struct RamFlag {
    /// Most memory to hold, as 512M or 2G, the program itself included; pages of a mapped file, which the system takes
    /// back when it needs them, are not. Fewer workers, fewer kept pages and counted words on the disk make it do;
    /// results are the same. Refused where it cannot do [default: each part has its own bound].
    #[arg(long, value_name = "SIZE")]
    pub ram: Option<Size>,
}

/// What a pipeline will take.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// Whatever the number of workers.
    fixed: u64,
    /// A unit of samples.
    unit: u64,
    /// What a worker remembers of what it encoded.
    encoder: u64,
    /// Workers that are wanted.
    workers: usize,
}

/// How the memory that is left is parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Threads that build samples.
    pub workers: usize,
    /// Bytes of pages that are kept of files read in pieces; `None` is no bound of ours.
    pub pages: Option<u64>,
}

/// Fewest and most bytes of pages that are worth to be kept.
const PAGES: (u64, u64) = (1 << 20, 64 << 20);

/// What a subword tokenizer remembers for a thread, and what any other encoder takes.
const SUBWORDS: u64 = 16 << 20;
const WORDS: u64 = 1 << 20;

/// What cannot be told apart: buffers, stacks, memory that was freed and is kept for the next, and pages of the program
/// that were not needed yet.
const SLACK: u64 = 8 << 20;

impl RamFlag {
    /// Refuses corpora whose index, or whose text where that is read into memory, does not fit, before they are opened.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] with an estimate.
    pub fn refuse(self, sources: &Sources) -> Result<()> {
        let Some(Size(ram)) = self.ram else { return Ok(()) };
        let mut needed = 0;
        for source in sources.iter() {
            for path in files(&source.path).unwrap_or_default() {
                let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
                needed += index_bytes(length) + if source.io == Io::Memory { length } else { 0 };
            }
        }
        let needed = held() + needed + SLACK;
        match needed <= ram {
            true => Ok(()),
            false => Err(too_small(ram, needed, "the index of the corpus (with --io memory its text)")),
        }
    }

    /// How a pipeline over `plan` is to be run that makes such batches, where `others` bytes go to what it feeds. Bounds
    /// what its corpus keeps.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] with an estimate, where there is too little for a single thread.
    pub fn part(self, plan: Plan<'_>, collate: Option<&CollateConfig>, others: u64) -> Result<Parts> {
        let batch = collate.map_or(0, |c| (c.batch_size * c.seq_len) as u64 * BYTES_OF_A_PLACE);
        let needs = Needs {
            fixed: others + BATCHES * batch,
            unit: plan.unit_bytes(),
            encoder: encoder_bytes(plan.tokenizer),
            workers: plan.workers,
        };
        let parts = self.parts(needs)?;
        if let Some(pages) = parts.pages {
            plan.corpus.keep_at_most(pages);
        }
        Ok(parts)
    }

    /// The workers that encode blocks of text, each of at most so many bytes.
    ///
    /// # Errors
    /// As [`Self::part`].
    pub fn encoders(self, tokenizer: &dyn Tokenizer, block: u64, workers: usize) -> Result<usize> {
        // A block's text and its ids.
        let needs = Needs { fixed: 0, unit: 4 * block, encoder: encoder_bytes(tokenizer), workers };
        self.parts(needs).map(|parts| parts.workers)
    }

    fn parts(self, needs: Needs) -> Result<Parts> {
        let Some(Size(ram)) = self.ram else { return Ok(Parts { workers: needs.workers, pages: None }) };
        let parts = part(ram, held() + SLACK, needs)?;
        if parts.workers < needs.workers {
            tracing::warn!(
                target: "ram",
                "--ram {}: {} workers in place of {}",
                bytes(ram),
                parts.workers,
                grouped(needs.workers as u64)
            );
        }
        Ok(parts)
    }

    /// What is left for tables of counts beside so many bytes of buffers: a quarter, since a table that grows is there
    /// twice, and what it grew out of is not given back at once. `without` is how much that is where there is no budget.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] where that is next to nothing.
    pub fn for_counts(self, without: u64, buffers: u64) -> Result<u64> {
        const LEAST: u64 = 12 << 20;
        let Some(Size(ram)) = self.ram else { return Ok(without) };
        let taken = held() + SLACK + buffers;
        match ram.checked_sub(taken).filter(|&left| left >= LEAST) {
            Some(left) => Ok(left / 4),
            None => Err(too_small(ram, taken + LEAST, "counts")),
        }
    }
}

/// Batches that are there at once at most: being made, ready, and being trained on.
const BATCHES: u64 = 4;

/// Of a batch: an id, a segment, and of some places a label, a position and what was done to it.
const BYTES_OF_A_PLACE: u64 = 8;

/// Most bytes of the index of a text.
fn index_bytes(text: u64) -> u64 {
    (text / 200 + 4096).min(128 << 20)
}

fn encoder_bytes(tokenizer: &dyn Tokenizer) -> u64 {
    if tokenizer.file_name() == SUBWORDS_FILE { SUBWORDS } else { WORDS }
}

/// As many workers as half of what is left can feed, since a worker without pages waits for the disk, and half of the
/// rest for pages: what was freed is not given back at once.
fn part(ram: u64, held: u64, needs: Needs) -> Result<Parts> {
    let Needs { fixed, unit, encoder, workers } = needs;
    let least = held + fixed + unit + encoder + PAGES.0;
    if least > ram {
        return Err(too_small(ram, least, "one unit of samples"));
    }
    let left = ram - held - fixed - PAGES.0;
    let each = IN_FLIGHT_PER_WORKER as u64 * unit + encoder;
    let fed = usize::try_from(left / 2 / each.max(1)).unwrap_or(usize::MAX);
    let workers = workers.min(fed);
    let taken = if workers == 0 { unit + encoder } else { workers as u64 * each };
    Ok(Parts { workers, pages: Some((PAGES.0 + (left - taken) / 2).min(PAGES.1)) })
}

fn too_small(ram: u64, needed: u64, what: &str) -> Error {
    Error::usage(format!(
        "--ram {}: about {} are needed for the program, what it has opened and {what}: give more",
        bytes(ram),
        bytes(needed)
    ))
}

/// Memory that this process holds, pages of mapped files aside; 0 where the system does not tell.
fn held() -> u64 {
    status("RssAnon:").unwrap_or(0) + status("RssFile:").unwrap_or(0).min(PROGRAM)
}

/// Most of the program's own pages that are in memory.
const PROGRAM: u64 = 32 << 20;

/// A line of what Linux tells of this process' memory, in bytes.
pub fn status(name: &str) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(1024 * kibibytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<Size>().ok(), expected.map(Size), "{text}");
        };
        check("1000", Some(1000));
        check("512M", Some(512 << 20));
        check("512 MiB", Some(512 << 20));
        check("2g", Some(2 << 30));
        check("64KB", Some(64 << 10));
        for wrong in ["", "M", "0", "0G", "-1", "1.5G", "12X", "99999999999T"] {
            check(wrong, None);
        }
    }

    #[test]
    fn half_of_what_is_left_feeds_workers_and_half_of_the_rest_keeps_pages() {
        const MIB: u64 = 1 << 20;
        let check = |ram: u64, unit: u64, workers: usize, expected: Option<(usize, u64)>| {
            let needs = Needs { fixed: 10 * MIB, unit: unit * MIB, encoder: MIB, workers };
            let found = part(ram * MIB, 20 * MIB, needs).ok();
            let expected = expected.map(|(workers, pages)| Parts { workers, pages: Some(pages * MIB / 2) });
            assert_eq!(found, expected, "{ram} {unit} {workers}");
        };
        // 20 are held, 10 fixed, 1 for pages: 9 are left. A worker takes 4 units and 1. Pages in halves.
        check(40, 0, 4, Some((4, 7)));
        check(40, 1, 4, Some((0, 9)));
        check(50, 1, 4, Some((1, 16)));
        check(1000, 1, 4, Some((4, 128)));
        check(40, 8, 4, Some((0, 2)));
        check(40, 9, 4, None);
        check(20, 0, 0, None);
    }
}
