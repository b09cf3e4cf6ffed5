//! A batch in parts of fewer rows, for a device that has not the memory for all of them at once.

use super::HostBatch;

impl HostBatch {
    /// The rows of this batch in order, `most` at a time or fewer. What is said of the whole (where the stream goes on,
    /// whether an epoch ends) is said of each part.
    pub fn split(&self, most: usize) -> Vec<HostBatch> {
        let starts = (0..self.rows).step_by(most.max(1));
        starts.map(|from| self.part(from, self.rows.min(from + most.max(1)))).collect()
    }

    /// Rows `from..to`.
    fn part(&self, from: usize, to: usize) -> HostBatch {
        let cells = from * self.seq_len..to * self.seq_len;
        let samples = match self.starts.as_slice() {
            [] => from..to,
            starts => {
                let before = |cell| starts.partition_point(|&start| (start as usize) < cell);
                before(cells.start)..before(cells.end)
            }
        };
        let before = |cell| self.masked.partition_point(|&at| (at as usize) < cell);
        let masked = before(cells.start)..before(cells.end);
        let moved = |places: &[u32]| places.iter().map(|&at| at - cells.start as u32).collect();
        HostBatch {
            rows: to - from,
            seq_len: self.seq_len,
            ids: self.ids[cells.clone()].to_vec(),
            segments: self.segments[cells.clone()].to_vec(),
            starts: self.starts.get(samples.clone()).map_or_else(Vec::new, moved),
            lengths: self.lengths[samples.clone()].to_vec(),
            masked: moved(&self.masked[masked.clone()]),
            labels: self.labels[masked.clone()].to_vec(),
            // Batches that were made up have neither.
            corruptions: self.corruptions.get(masked).unwrap_or_default().to_vec(),
            pairs: self.pairs[samples.clone()].to_vec(),
            origins: self.origins.get(samples).unwrap_or_default().to_vec(),
            next: self.next,
            ends_epoch: self.ends_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::PairLabel;

    /// Three rows of four cells, the second of two samples where they are packed.
    fn batch(packed: bool) -> HostBatch {
        let lengths = if packed { vec![4, 1, 2, 3] } else { vec![4, 2, 3] };
        HostBatch {
            rows: 3,
            seq_len: 4,
            ids: (0..12).collect(),
            segments: vec![1, 1, 2, 2, 1, 1, 1, 0, 1, 2, 2, 0],
            starts: if packed { vec![0, 4, 5, 8] } else { vec![] },
            pairs: vec![PairLabel::IsNext; lengths.len()],
            lengths,
            masked: vec![1, 3, 5, 10],
            labels: vec![11, 13, 15, 20],
            ..HostBatch::default()
        }
    }

    #[test]
    fn the_parts_hold_the_samples_of_the_whole_in_order() {
        for (packed, most) in [false, true].into_iter().flat_map(|p| (0..5).map(move |most| (p, most))) {
            let whole = batch(packed);
            let parts = whole.split(most);
            assert_eq!(parts.len(), 3usize.div_ceil(most.max(1)), "{most}");
            let samples = |batches: &[HostBatch]| -> Vec<_> {
                let of = |batch: &HostBatch| {
                    let sample = |i| {
                        let predicted = batch.predicted(i);
                        let places =
                            batch.masked[predicted.clone()].iter().map(|&m| m as usize - batch.start(i));
                        let (ids, segments) = batch.sample(i);
                        let labels = batch.labels[predicted].to_vec();
                        (ids.to_vec(), segments.to_vec(), places.collect::<Vec<_>>(), labels, batch.pairs[i])
                    };
                    (0..batch.samples()).map(sample).collect::<Vec<_>>()
                };
                batches.iter().flat_map(of).collect()
            };
            assert_eq!(samples(&parts), samples(&[whole]), "{packed} {most}");
        }
    }
}
