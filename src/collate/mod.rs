//! Stage 3: samples to batches, as plain columns on the host.
//!
//! Takes [`Sample`](crate::sample::Sample)s, gives [`HostBatch`]es: padded rows, the masked positions
//! beside them, and the cursor from which the stream goes on. Knows nothing of tensors or devices.

use crate::Result;
use crate::sample::{Corruption, Cursor, Origin, PairLabel, Sample};

/// One batch on the host. Row-major columns; `rows * seq_len` entries unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
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
