//! Several short samples in one row: less padding. Samples of one row must not attend to each other; where each
//! begins is told ([`HostBatch::starts`]).
//!
//! Samples are taken in order, and each goes into the first row that has room for it. One that fits into no row
//! completes the batch and begins the next one. Within the batch samples then stand row by row.

use super::rows::Rows;
use super::{CollateConfig, Collator, HostBatch};
use crate::Result;
use crate::sample::Sample;

/// Batches of rows of `seq_len` columns with as many samples as fit.
pub struct Packed {
    samples: Rows,
    /// Tokens of each row begun.
    used: Vec<usize>,
    /// Row and first column of each sample.
    places: Vec<(usize, usize)>,
}

impl Packed {
    /// A collator for a configuration that has been checked.
    pub fn new(config: &CollateConfig) -> Self {
        Self { samples: Rows::new(config), used: Vec::new(), places: Vec::new() }
    }

    /// The first row with room for `len` tokens, which may be a new one; `None` where there is none.
    fn row_for(&self, len: usize) -> Option<usize> {
        let CollateConfig { batch_size, seq_len, .. } = self.samples.config;
        let begun = self.used.iter().position(|used| used + len <= seq_len);
        begun.or((self.used.len() < batch_size).then_some(self.used.len()))
    }
}

impl Collator for Packed {
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>> {
        self.samples.check(&sample)?;
        let len = sample.ids.len();
        let (complete, row) = match self.row_for(len) {
            Some(row) => (None, row),
            None => (self.finish(), 0),
        };
        if row == self.used.len() {
            self.used.push(0);
        }
        self.places.push((row, self.used[row]));
        self.used[row] += len;
        self.samples.push(sample);
        Ok(complete)
    }

    fn is_full(&self) -> bool {
        self.row_for(1).is_none()
    }

    fn finish(&mut self) -> Option<HostBatch> {
        let width = self.samples.config.seq_len;
        let flat = |&(row, column): &(usize, usize)| row * width + column;
        let mut starts: Vec<(usize, usize)> = self.places.iter().map(flat).enumerate().collect();
        starts.sort_unstable_by_key(|&(_, start)| start);
        let batch = self.samples.lay_out(self.used.len(), width, starts.iter().copied());
        self.used.clear();
        self.places.clear();
        batch.map(|batch| {
            let starts = starts.into_iter().map(|(_, start)| start as u32).collect();
            HostBatch { starts, ..batch }
        })
    }
}
