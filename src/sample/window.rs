//! A shuffled window, so that samples of one document do not stand next to each other in a batch.
//!
//! The positions of an epoch are grouped, from its start on, in windows of a fixed number. All samples of a
//! window are built, permuted by a key of (seed, epoch, window) and numbered anew: the cursor of each is the
//! window's first position and its place in the window. What a worker holds is a window more than its unit.

use super::{Cursor, Origin, Sample, SampleBuilder, SampleConfig, Samples, Unit};
use crate::Result;
use crate::rng::{Domain, SampleRng};

/// Permutes what another builder makes of each window.
pub struct Window<B> {
    inner: B,
    seed: u64,
    /// Positions of a window, at least 1.
    width: u64,
    samples: Samples,
    order: Vec<u32>,
}

impl<B> Window<B> {
    /// Permutes windows of `width > 0` positions.
    pub fn new(inner: B, config: &SampleConfig, width: u64) -> Self {
        Self { inner, seed: config.seed, width, samples: Samples::default(), order: Vec::new() }
    }
}

impl<B: SampleBuilder> SampleBuilder for Window<B> {
    /// The unit must begin where a window does, and end where one does or with its epoch. A window in which
    /// there is an error gives no sample.
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        debug_assert!(unit.positions.start.is_multiple_of(self.width));
        let mut next = unit.positions.start;
        while next < unit.positions.end {
            let first = next;
            next = unit.positions.end.min(first + self.width);
            self.samples.clear();
            self.inner.build(&Unit { epoch: unit.epoch, positions: first..next }, &mut self.samples)?;
            out.skipped += self.samples.skipped;

            let mut rng = SampleRng::new(Domain::Window, self.seed, &[unit.epoch, first / self.width]);
            self.order.clear();
            self.order.extend(0..self.samples.len() as u32);
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, rng.below(i as u64 + 1) as usize);
            }
            for (part, &i) in (0..).zip(&self.order) {
                let sample = self.samples.get(i as usize);
                let cursor = Cursor { epoch: unit.epoch, position: first, part };
                out.push(Sample { origin: Origin { cursor, ..sample.origin }, ..sample });
            }
        }
        Ok(())
    }
}
