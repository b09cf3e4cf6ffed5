//! Rows of different lengths to rectangles, a sample a row: as wide as the longest of the batch, or always the
//! same.

use super::rows::Rows;
use super::{CollateConfig, Collator, HostBatch};
use crate::Result;
use crate::sample::Sample;

/// Batches of `batch_size` samples, a row each.
pub struct Padded {
    samples: Rows,
    /// Width of every batch; `None` is that of its longest sample.
    width: Option<usize>,
}

impl Padded {
    /// Batches as wide as their longest sample, for a configuration that has been checked.
    pub fn longest(config: &CollateConfig) -> Self {
        Self { samples: Rows::new(config), width: None }
    }

    /// Batches of `seq_len` columns, whatever is in them: what the reference does.
    pub fn fixed(config: &CollateConfig) -> Self {
        Self { samples: Rows::new(config), width: Some(config.seq_len) }
    }
}

impl Collator for Padded {
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>> {
        self.samples.check(&sample)?;
        let complete = if self.is_full() { self.finish() } else { None };
        self.samples.push(sample);
        Ok(complete)
    }

    fn is_full(&self) -> bool {
        self.samples.len() == self.samples.config.batch_size
    }

    fn finish(&mut self) -> Option<HostBatch> {
        let rows = self.samples.len();
        let width = self.width.unwrap_or(self.samples.longest());
        self.samples.lay_out(rows, width, (0..rows).map(|row| (row, row * width)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collate::{PadTo, collator};
    use crate::sample::{Corruption, Cursor, Origin, PairLabel, SEGMENT_PAD, Samples};

    const PAD: u32 = 9999;

    fn config(batch_size: usize, seq_len: usize, pad_to: PadTo) -> CollateConfig {
        CollateConfig { batch_size, seq_len, pad_to, pad_id: PAD }
    }

    /// Rows of true ids with the columns to be predicted; the corrupted id is the true one plus 1000.
    fn samples(rows: &[(Vec<u32>, Vec<u32>)]) -> Samples {
        let mut samples = Samples::default();
        for (position, (truth, masked)) in rows.iter().enumerate() {
            let mut ids = truth.clone();
            masked.iter().for_each(|&at| ids[at as usize] += 1000);
            samples.push(Sample {
                ids: &ids,
                segments: &vec![1; ids.len()],
                masked,
                labels: &masked.iter().map(|&at| truth[at as usize]).collect::<Vec<_>>(),
                corruptions: &vec![Corruption::Random; masked.len()],
                pair: PairLabel::IsNext,
                origin: Origin {
                    cursor: Cursor { epoch: 0, position: position as u64, part: 0 },
                    ..Origin::default()
                },
            });
        }
        samples
    }

    fn collate(config: &CollateConfig, samples: &Samples) -> Vec<HostBatch> {
        let mut collator = collator(config).unwrap();
        let mut batches = Vec::new();
        for sample in samples.iter() {
            batches.extend(collator.push(sample).unwrap());
        }
        batches.extend(collator.finish());
        assert!(collator.finish().is_none(), "a finished collator starts afresh");
        batches
    }

    #[test]
    fn a_small_batch_to_the_letter() {
        let samples = samples(&[(vec![5, 6, 7], vec![1]), (vec![8, 9], vec![0, 1])]);
        let check = |pad_to, seq_len, ids: &[u32], masked: &[u32]| {
            let batch = collate(&config(2, 4, pad_to), &samples).remove(0);
            assert_eq!((batch.rows, batch.seq_len), (2, seq_len));
            assert_eq!(batch.ids, ids);
            assert_eq!(batch.masked, masked);
            assert_eq!(batch.lengths, [3, 2]);
            assert_eq!(batch.labels, [6, 8, 9]);
            assert_eq!(batch.next, Cursor { epoch: 0, position: 1, part: 1 });
            assert_eq!((batch.predicted(0), batch.predicted(1)), (0..1, 1..3));
        };
        check(PadTo::Longest, 3, &[5, 1006, 7, 1008, 1009, PAD], &[1, 3, 4]);
        check(PadTo::Fixed, 4, &[5, 1006, 7, PAD, 1008, 1009, PAD, PAD], &[1, 4, 5]);
    }

    #[test]
    fn a_sample_that_does_not_fit_is_an_error_of_this_program() {
        for rows in [vec![(vec![1; 5], vec![])], vec![(vec![], vec![])]] {
            let mut collator = collator(&config(2, 4, PadTo::Longest)).unwrap();
            let error = collator.push(samples(&rows).get(0)).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let check = |batch_size, seq_len, expected: &str| {
            let error = config(batch_size, seq_len, PadTo::Fixed).check().unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(0, 8, "--batch-size 0");
        check(8, 0, "--seq-len 0");
        check(1 << 20, 1 << 12, "--batch-size 1048576 times --seq-len 4096");
    }

    fn row() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
        prop::collection::vec((1u32..900, any::<bool>()), 1..12).prop_map(|cells| {
            let masked = (0..cells.len() as u32).filter(|&at| cells[at as usize].1).collect();
            (cells.into_iter().map(|(id, _)| id).collect(), masked)
        })
    }

    proptest! {
        #[test]
        fn collation_loses_and_invents_nothing(
            rows in prop::collection::vec(row(), 1..20),
            batch_size in 1usize..6,
            fixed: bool,
        ) {
            let config = config(batch_size, 12, if fixed { PadTo::Fixed } else { PadTo::Longest });
            let batches = collate(&config, &samples(&rows));
            let (last, full) = batches.split_last().expect("there is at least one row");
            prop_assert!(full.iter().all(|batch| batch.rows == batch_size));
            prop_assert!(last.rows <= batch_size);

            let mut seen = Vec::new();
            for batch in &batches {
                let longest = batch.lengths.iter().max().copied().unwrap_or(0) as usize;
                prop_assert_eq!(batch.seq_len, if fixed { 12 } else { longest });
                prop_assert!(batch.masked.windows(2).all(|w| w[0] < w[1]));
                // Restoring the labels gives the true ids.
                let mut ids = batch.ids.clone();
                for (&at, &label) in batch.masked.iter().zip(&batch.labels) {
                    prop_assert_eq!(ids[at as usize], label + 1000);
                    ids[at as usize] = label;
                }
                for row in 0..batch.rows {
                    let cells = row * batch.seq_len..(row + 1) * batch.seq_len;
                    let (real, padding) = ids[cells.clone()].split_at(batch.lengths[row] as usize);
                    prop_assert!(padding.iter().all(|&id| id == PAD));
                    for (column, &segment) in batch.segments[cells].iter().enumerate() {
                        prop_assert_eq!(segment == SEGMENT_PAD, column >= real.len());
                    }
                    let columns = batch.masked[batch.predicted(row)].iter();
                    let columns = columns.map(|&at| at - (row * batch.seq_len) as u32).collect();
                    seen.push((real.to_vec(), columns));
                }
            }
            prop_assert_eq!(seen, rows);
        }
    }
}
