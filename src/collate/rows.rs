//! The samples of a batch in the making, and how they become its columns.

use super::{CollateConfig, HostBatch};
use crate::sample::{Cursor, SEGMENT_PAD, Sample, Samples};
use crate::{Error, Result};

/// Samples, one behind the other without padding.
pub struct Rows {
    pub config: CollateConfig,
    samples: Samples,
}

impl Rows {
    /// No sample yet.
    pub fn new(config: &CollateConfig) -> Self {
        Self { config: config.clone(), samples: Samples::default() }
    }

    /// Refuses a sample that no row can hold.
    pub fn check(&self, sample: &Sample<'_>) -> Result<()> {
        let (len, most) = (sample.ids.len(), self.config.seq_len);
        if len == 0 || len > most {
            let Cursor { epoch, position, .. } = sample.origin.cursor;
            return Err(Error::internal(format!(
                "stage collate: the sample at epoch {epoch}, position {position} has {len} tokens where rows \
                 have 1 to {most}"
            )));
        }
        Ok(())
    }

    /// Adds a sample that has been checked.
    pub fn push(&mut self, sample: Sample<'_>) {
        self.samples.push(sample);
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Tokens of the longest sample.
    pub fn longest(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0)
    }

    /// Takes the samples out as a batch of `rows` rows of `width`; `None` where there is none. `places` gives
    /// each sample's number and the flat position of its first token, by position.
    pub fn lay_out(
        &mut self,
        rows: usize,
        width: usize,
        places: impl Iterator<Item = (usize, usize)>,
    ) -> Option<HostBatch> {
        let last = self.samples.iter().next_back()?.origin.cursor;
        let samples = self.samples.len();
        let mut batch = HostBatch {
            rows,
            seq_len: width,
            ids: Vec::with_capacity(rows * width),
            segments: Vec::with_capacity(rows * width),
            lengths: Vec::with_capacity(samples),
            pairs: Vec::with_capacity(samples),
            origins: Vec::with_capacity(samples),
            // A collator knows no more than that the stream goes on behind its last sample.
            next: Cursor { part: last.part + 1, ..last },
            ..HostBatch::default()
        };
        for (i, start) in places {
            let sample = self.samples.get(i);
            batch.ids.resize(start, self.config.pad_id);
            batch.ids.extend_from_slice(sample.ids);
            batch.segments.resize(start, SEGMENT_PAD);
            batch.segments.extend_from_slice(sample.segments);
            batch.lengths.push(sample.ids.len() as u32);
            batch.masked.extend(sample.masked.iter().map(|&at| start as u32 + at));
            batch.labels.extend_from_slice(sample.labels);
            batch.corruptions.extend_from_slice(sample.corruptions);
            batch.pairs.push(sample.pair);
            batch.origins.push(sample.origin);
        }
        batch.ids.resize(rows * width, self.config.pad_id);
        batch.segments.resize(rows * width, SEGMENT_PAD);
        self.samples.clear();
        Some(batch)
    }
}
