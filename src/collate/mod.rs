//! Stage 3: samples to batches, as plain columns on the host.
//!
//! Takes [`Sample`](crate::sample::Sample)s, gives [`HostBatch`]es: padded rows, the masked positions
//! beside them, and the cursor from which the stream goes on. Knows nothing of tensors or devices.

use crate::sample::{Corruption, Cursor, Origin, PairLabel, Sample};
use crate::{Error, Result};

mod digest;
pub mod file;
mod pad;

pub use digest::BatchDigest;
pub use pad::{Fixed, Longest};

/// One batch on the host. Row-major columns; `rows * seq_len` entries unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HostBatch {
    pub rows: usize,
    /// Width of the padded rows.
    pub seq_len: usize,
    /// Token ids, padding behind each row's `lengths[row]` tokens.
    pub ids: Vec<u32>,
    /// 1 for the first segment, 2 for the second, 0 for padding.
    pub segments: Vec<u8>,
    /// Real tokens of each row (`rows` entries, each at least 1).
    pub lengths: Vec<u32>,
    /// Flat positions `row * seq_len + column` to be predicted, ascending.
    pub masked: Vec<u32>,
    /// The true ids at `masked`.
    pub labels: Vec<u32>,
    /// What stands at `masked` instead.
    pub corruptions: Vec<Corruption>,
    /// The pair label of each row (`rows` entries).
    pub pairs: Vec<PairLabel>,
    /// Where each row came from (`rows` entries).
    pub origins: Vec<Origin>,
    /// Where the stream goes on after this batch.
    pub next: Cursor,
    /// Whether this batch is the last of its epoch.
    pub ends_epoch: bool,
}

impl HostBatch {
    /// Real tokens in the batch, padding excluded.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().map(|&n| n as usize).sum()
    }

    /// The real tokens of row `row < rows`, and the segments of each.
    pub fn row(&self, row: usize) -> (&[u32], &[u8]) {
        let from = row * self.seq_len;
        let to = from + self.lengths[row] as usize;
        (&self.ids[from..to], &self.segments[from..to])
    }

    /// The entries of `masked`, `labels` and `corruptions` that belong to row `row < rows`.
    pub fn predicted(&self, row: usize) -> std::ops::Range<usize> {
        let before = |row: usize| self.masked.partition_point(|&at| (at as usize) < row * self.seq_len);
        before(row)..before(row + 1)
    }
}

/// Samples to batches. A batch is emitted as soon as it is full.
pub trait Collator: Send {
    /// Adds a sample; gives the batch that it completed, if any.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] where a sample is longer than the collator's rows.
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>>;

    /// The incomplete batch at the end of an epoch, if there is one. The collator starts afresh.
    fn finish(&mut self) -> Option<HostBatch>;
}

/// How wide the rows of a batch are.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum PadTo {
    /// As wide as the longest sample of the batch.
    #[default]
    Longest,
    /// Always `seq_len`: what the reference does.
    Fixed,
}

/// Everything that decides how samples become batches.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CollateConfig {
    /// Rows of a full batch.
    pub batch_size: usize,
    /// Widest row, in tokens.
    pub seq_len: usize,
    pub pad_to: PadTo,
    /// Id that fills rows up.
    pub pad_id: u32,
}

impl CollateConfig {
    /// Refuses what cannot be meant, before the first thread starts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] with the flag and its value.
    pub fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::usage("--batch-size 0: a batch needs at least one row"));
        }
        if self.seq_len == 0 {
            return Err(Error::usage("--seq-len 0: a row needs at least one token"));
        }
        // Masked positions are flat 32-bit numbers.
        let cells = self.batch_size.checked_mul(self.seq_len);
        if cells.is_none_or(|cells| u32::try_from(cells).is_err()) {
            return Err(Error::usage(format!(
                "--batch-size {} times --seq-len {}: a batch may have {} cells at most",
                self.batch_size,
                self.seq_len,
                u32::MAX
            )));
        }
        Ok(())
    }
}

/// The collator that `config` asks for.
///
/// # Errors
/// Those of [`CollateConfig::check`].
pub fn collator(config: &CollateConfig) -> Result<Box<dyn Collator>> {
    config.check()?;
    Ok(match config.pad_to {
        PadTo::Longest => Box::new(Longest::new(config)),
        PadTo::Fixed => Box::new(Fixed::new(config)),
    })
}
