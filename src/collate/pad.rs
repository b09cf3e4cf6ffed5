//! Rows of different lengths to rectangles: as wide as the longest of the batch, or always the same.

use super::{CollateConfig, Collator, HostBatch};
use crate::sample::{Corruption, Cursor, Origin, PairLabel, SEGMENT_PAD, Sample};
use crate::{Error, Result};

/// Batches as wide as their longest sample.
pub struct Longest(Rows);

impl Longest {
    /// A collator for a configuration that has been checked.
    pub fn new(config: &CollateConfig) -> Self {
        Self(Rows::new(config))
    }
}

impl Collator for Longest {
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>> {
        Ok(if self.0.push(sample)? { self.finish() } else { None })
    }

    fn finish(&mut self) -> Option<HostBatch> {
        let width = self.0.lengths.iter().max().map_or(0, |&n| n as usize);
        self.0.lay_out(width)
    }
}

/// Batches of `seq_len` columns, whatever is in them: what the reference does.
pub struct Fixed(Rows);

impl Fixed {
    /// A collator for a configuration that has been checked.
    pub fn new(config: &CollateConfig) -> Self {
        Self(Rows::new(config))
    }
}

impl Collator for Fixed {
    fn push(&mut self, sample: Sample<'_>) -> Result<Option<HostBatch>> {
        Ok(if self.0.push(sample)? { self.finish() } else { None })
    }

    fn finish(&mut self) -> Option<HostBatch> {
        self.0.lay_out(self.0.seq_len)
    }
}

/// The samples of a batch in the making, one behind the other without padding.
struct Rows {
    batch_size: usize,
    seq_len: usize,
    pad_id: u32,
    ids: Vec<u32>,
    segments: Vec<u8>,
    lengths: Vec<u32>,
    /// (Row, column) to be predicted.
    masked: Vec<(u32, u32)>,
    labels: Vec<u32>,
    corruptions: Vec<Corruption>,
    pairs: Vec<PairLabel>,
    origins: Vec<Origin>,
}

impl Rows {
    fn new(config: &CollateConfig) -> Self {
        Self {
            batch_size: config.batch_size,
            seq_len: config.seq_len,
            pad_id: config.pad_id,
            ids: Vec::new(),
            segments: Vec::new(),
            lengths: Vec::new(),
            masked: Vec::new(),
            labels: Vec::new(),
            corruptions: Vec::new(),
            pairs: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Adds a sample; tells whether the batch is full.
    fn push(&mut self, sample: Sample<'_>) -> Result<bool> {
        let len = sample.ids.len();
        if len == 0 || len > self.seq_len {
            let Cursor { epoch, position, .. } = sample.origin.cursor;
            return Err(Error::internal(format!(
                "stage collate: the sample at epoch {epoch}, position {position} has {len} tokens where rows \
                 have 1 to {}",
                self.seq_len
            )));
        }
        let row = self.lengths.len() as u32;
        self.ids.extend_from_slice(sample.ids);
        self.segments.extend_from_slice(sample.segments);
        self.lengths.push(len as u32);
        self.masked.extend(sample.masked.iter().map(|&column| (row, column)));
        self.labels.extend_from_slice(sample.labels);
        self.corruptions.extend_from_slice(sample.corruptions);
        self.pairs.push(sample.pair);
        self.origins.push(sample.origin);
        Ok(self.lengths.len() == self.batch_size)
    }

    /// Takes the samples out as a batch of rows of `width`; `None` where there is none.
    fn lay_out(&mut self, width: usize) -> Option<HostBatch> {
        let last = self.origins.last()?.cursor;
        let rows = self.lengths.len();
        let mut ids = Vec::with_capacity(rows * width);
        let mut segments = Vec::with_capacity(rows * width);
        let mut from = 0;
        for (row, &len) in self.lengths.iter().enumerate() {
            let to = from + len as usize;
            ids.extend_from_slice(&self.ids[from..to]);
            ids.resize((row + 1) * width, self.pad_id);
            segments.extend_from_slice(&self.segments[from..to]);
            segments.resize((row + 1) * width, SEGMENT_PAD);
            from = to;
        }
        self.ids.clear();
        self.segments.clear();
        Some(HostBatch {
            rows,
            seq_len: width,
            ids,
            segments,
            starts: Vec::new(),
            lengths: std::mem::take(&mut self.lengths),
            masked: self.masked.drain(..).map(|(row, column)| row * width as u32 + column).collect(),
            labels: std::mem::take(&mut self.labels),
            corruptions: std::mem::take(&mut self.corruptions),
            pairs: std::mem::take(&mut self.pairs),
            origins: std::mem::take(&mut self.origins),
            // A collator knows no more than that the stream goes on behind its last sample.
            next: Cursor { part: last.part + 1, ..last },
            ends_epoch: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collate::{PadTo, collator};
    use crate::sample::Samples;

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
