//! Several short samples in one row: less padding. Samples of one row must not attend to each other; where
//! each begins is told ([`HostBatch::starts`]).
//!
//! Samples are taken in order, and each goes into the first row that has room for it. One that fits into no
//! row completes the batch and begins the next one. Within the batch samples then stand row by row.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collate::PadTo;
    use crate::sample::{Corruption, Cursor, Origin, PairLabel, Samples};

    const WIDTH: usize = 12;

    /// A sample for each length: ids from 1 on, the last token masked, the number as its position.
    fn samples(lengths: &[usize]) -> Samples {
        let mut samples = Samples::default();
        for (position, &len) in (0..).zip(lengths) {
            let cursor = Cursor { epoch: 0, position, part: 0 };
            samples.push(Sample {
                ids: &(1..=len as u32).collect::<Vec<_>>(),
                segments: &vec![1; len],
                masked: &[len as u32 - 1],
                labels: &[100 + position as u32],
                corruptions: &[Corruption::Keep],
                pair: if position % 2 == 0 { PairLabel::IsNext } else { PairLabel::NotNext },
                origin: Origin { cursor, ..Origin::default() },
            });
        }
        samples
    }

    /// The batches of these samples, each with the sample that completed it.
    fn packed(batch_size: usize, samples: &Samples) -> Vec<(HostBatch, usize)> {
        let config = CollateConfig { batch_size, seq_len: WIDTH, pad_to: PadTo::Packed, pad_id: 0 };
        let mut collator = super::super::collator(&config).unwrap();
        let mut batches = Vec::new();
        for (i, sample) in samples.iter().enumerate() {
            batches.extend(collator.push(sample).unwrap().map(|batch| (batch, i)));
        }
        batches.extend(collator.finish().map(|batch| (batch, samples.len())));
        assert!(collator.finish().is_none(), "a finished collator starts afresh");
        batches
    }

    #[test]
    fn the_first_row_with_room_takes_a_sample() {
        let all = packed(2, &samples(&[5, 10, 6, 2, 1, 3]));
        let (batch, next) = &all[0];
        assert_eq!((batch.rows, batch.seq_len, batch.samples(), *next), (2, WIDTH, 5, 5));
        assert_eq!(batch.ids[..WIDTH], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 1]);
        assert_eq!(batch.ids[WIDTH..], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]);
        assert_eq!(batch.starts, [0, 5, 11, 12, 22]);
        assert_eq!(batch.lengths, [5, 6, 1, 10, 2]);
        assert_eq!(batch.masked, [4, 10, 11, 21, 23]);
        assert_eq!(batch.labels, [100, 102, 104, 101, 103]);
        let next = Cursor { epoch: 0, position: 4, part: 1 };
        assert_eq!(batch.next, next, "behind the last sample that was taken, not the last in the rows");
        let (last, _) = &all[1];
        assert_eq!((last.rows, &last.starts[..]), (1, &[0][..]));
        assert_eq!(last.ids, [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn packing_loses_and_invents_nothing(
            lengths in prop::collection::vec(1usize..=WIDTH, 1..60),
            batch_size in 1usize..5,
        ) {
            let samples = samples(&lengths);
            let mut from = 0;
            for (batch, to) in packed(batch_size, &samples) {
                prop_assert!(batch.rows <= batch_size && batch.ids.len() == batch.rows * WIDTH);
                prop_assert!(batch.starts.windows(2).all(|w| w[0] < w[1]));
                prop_assert!(batch.masked.windows(2).all(|w| w[0] < w[1]));
                prop_assert_eq!(batch.tokens(), batch.segments.iter().filter(|&&s| s > 0).count());
                // Each of the samples of the batch, once, as it was.
                let mut seen: Vec<usize> = Vec::new();
                for i in 0..batch.samples() {
                    let number = batch.origins[i].cursor.position as usize;
                    let sample = samples.get(number);
                    prop_assert_eq!(batch.sample(i), (sample.ids, sample.segments));
                    prop_assert_eq!(batch.pairs[i], sample.pair);
                    let predictions: Vec<_> = batch.predictions(i).collect();
                    prop_assert_eq!(predictions, [(sample.ids.len() - 1, sample.labels[0], Corruption::Keep)]);
                    let span = batch.span(i);
                    prop_assert_eq!(span.start / WIDTH, (span.end - 1) / WIDTH, "in one row");
                    prop_assert_eq!(batch.sample_at(span.end - 1), i);
                    seen.push(number);
                }
                seen.sort_unstable();
                prop_assert!(seen.into_iter().eq(from..to));
                from = to;
            }
            prop_assert_eq!(from, lengths.len());
        }
    }
}
