//! A batch as large as any of a run, made up: whether a device has the memory for it is known before the first step.

use crate::collate::HostBatch;
use crate::rng::{Domain, SampleRng};
use crate::sample::{Corruption, Origin, PairLabel, SEGMENT_A, SEGMENT_B};

/// `rows` full rows of `seq_len` tokens of a vocabulary of `vocab_size`, 15 % of them masked, and a pair
/// label for each.
pub fn full_batch(rows: usize, seq_len: usize, vocab_size: usize) -> HostBatch {
    let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
    let mut id = || rng.below(vocab_size as u64) as u32;
    let cells = rows * seq_len;
    let ids: Vec<u32> = (0..cells).map(|_| id()).collect();
    let masked: Vec<u32> = (0..cells as u32).filter(|i| i * 3 % 20 < 3).collect();
    HostBatch {
        rows,
        seq_len,
        segments: (0..cells).map(|i| if i % seq_len < seq_len / 2 { SEGMENT_A } else { SEGMENT_B }).collect(),
        starts: vec![],
        lengths: vec![seq_len as u32; rows],
        labels: masked.iter().map(|_| id()).collect(),
        corruptions: vec![Corruption::Mask; masked.len()],
        masked,
        pairs: (0..rows).map(|i| if i % 2 == 0 { PairLabel::IsNext } else { PairLabel::NotNext }).collect(),
        origins: vec![Origin::default(); rows],
        ids,
        ..HostBatch::default()
    }
}
