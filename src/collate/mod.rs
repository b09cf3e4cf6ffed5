//! Stage 3: samples to batches, as plain columns on the host.
//!
//! Takes [`Sample`]s, gives [`HostBatch`]es: padded rows, the masked positions
//! beside them, and the cursor from which the stream goes on. Knows nothing of tensors or devices.

use crate::sample::{Corruption, Cursor, Origin, PairLabel, Sample};
use crate::{Error, Result};

mod digest;
pub mod file;
mod pack;
mod pad;
mod rows;
mod split;

pub use digest::BatchDigest;
pub use pack::Packed;
pub use pad::Padded;

/// One batch on the host. Row-major columns; `rows * seq_len` entries unless said otherwise. A row holds one
/// sample or, packed, several one behind the other, which must not attend to each other.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HostBatch {
    pub rows: usize,
    /// Width of the padded rows.
    pub seq_len: usize,
    /// Token ids, padding behind each row's `lengths[row]` tokens.
    pub ids: Vec<u32>,
    /// 1 for the first segment, 2 for the second, 0 for padding.
    pub segments: Vec<u8>,
    /// Flat position of each sample's first token, ascending; empty where each row holds one sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starts: Vec<u32>,
    /// Real tokens of each sample, at least 1.
    pub lengths: Vec<u32>,
    /// Flat positions `row * seq_len + column` to be predicted, ascending.
    pub masked: Vec<u32>,
    /// The true ids at `masked`.
    pub labels: Vec<u32>,
    /// What stands at `masked` instead.
    pub corruptions: Vec<Corruption>,
    /// The pair label of each sample.
    pub pairs: Vec<PairLabel>,
    /// Where each sample came from.
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

    /// How many samples there are: as many as rows, more where they are packed.
    pub fn samples(&self) -> usize {
        self.lengths.len()
    }

    /// Flat position of the first token of sample `i < samples()`.
    pub fn start(&self, i: usize) -> usize {
        self.starts.get(i).map_or(i * self.seq_len, |&start| start as usize)
    }

    /// Flat positions of the tokens of sample `i < samples()`.
    pub fn span(&self, i: usize) -> std::ops::Range<usize> {
        self.start(i)..self.start(i) + self.lengths[i] as usize
    }

    /// The sample that the token at this flat position belongs to, where it belongs to any; else one before
    /// it.
    pub fn sample_at(&self, flat: usize) -> usize {
        match self.starts.as_slice() {
            [] => flat / self.seq_len,
            starts => starts.partition_point(|&start| start as usize <= flat).saturating_sub(1),
        }
    }

    /// The tokens of sample `i < samples()`, and the segments of each.
    pub fn sample(&self, i: usize) -> (&[u32], &[u8]) {
        (&self.ids[self.span(i)], &self.segments[self.span(i)])
    }

    /// What is predicted of sample `i < samples()`: its place within the sample, the true id, and what stands
    /// there instead; ascending.
    pub fn predictions(&self, i: usize) -> impl Iterator<Item = (usize, u32, Corruption)> + '_ {
        let start = self.start(i);
        self.predicted(i).map(move |k| (self.masked[k] as usize - start, self.labels[k], self.corruptions[k]))
    }

    /// Sample `i < samples()` as it was before it came into the batch; `places` are those of
    /// [`HostBatch::places`].
    pub fn as_sample<'b>(&'b self, i: usize, places: &'b [u32]) -> Sample<'b> {
        let (ids, segments) = self.sample(i);
        let predicted = self.predicted(i);
        Sample {
            ids,
            segments,
            masked: places,
            labels: &self.labels[predicted.clone()],
            corruptions: &self.corruptions[predicted],
            pair: self.pairs[i],
            origin: self.origins[i],
        }
    }

    /// Places within sample `i < samples()` that are predicted, ascending.
    pub fn places(&self, i: usize) -> Vec<u32> {
        self.predictions(i).map(|(at, ..)| at as u32).collect()
    }

    /// The entries of `masked`, `labels` and `corruptions` that belong to sample `i < samples()`.
    pub fn predicted(&self, i: usize) -> std::ops::Range<usize> {
        let before = |flat: usize| self.masked.partition_point(|&at| (at as usize) < flat);
        before(self.span(i).start)..before(self.span(i).end)
    }
}

/// Samples to batches. A batch is given when the first sample behind it comes: not before it is known whether
/// that one still fits.
pub trait Collator: Send {
    /// Keeps a sample; gives the batch of those before it where it is not of that batch, and begins the next.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] where a sample is longer than the collator's rows.
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>>;

    /// Whether no sample can be added to the batch in the making, whatever it is.
    fn is_full(&self) -> bool;

    /// The last batch of an epoch, full or not, if there is one. The collator starts afresh.
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
    /// Always `seq_len`, each filled with as many samples as fit, which do not attend to each other.
    Packed,
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
        PadTo::Longest => Box::new(Padded::longest(config)),
        PadTo::Fixed => Box::new(Padded::fixed(config)),
        PadTo::Packed => Box::new(Packed::new(config)),
    })
}
