//! What holds for every engine, whatever its arithmetic: each test runs over `common::engines`.
//!
//! `gradients` (are they the losses' own, whatever the cut into micro-batches and the padding),
//! `dropout` (are the masks those that are written down), `updates` (optimizer, state, training),
//! `batches` (which are refused, which odd ones work). Here: the models and batches that they use.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/distance.rs"]
mod distance;

mod batches;
mod device;
mod dropout;
mod gradients;
mod updates;

use bertstream::collate::HostBatch;
use bertstream::model::{Arch, Engine, Init, Layout, ModelConfig, Optimizer};
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::PairLabel;

/// A model small enough for thousands of steps.
fn tiny(dropout: f32) -> ModelConfig {
    ModelConfig {
        arch: Arch::Reference,
        vocab_size: 23,
        hidden: 8,
        layers: 2,
        heads: 2,
        dropout,
        init: Init::Torch,
        max_positions: 512,
    }
}

/// The same, of the published architecture.
fn tiny_bert(dropout: f32) -> ModelConfig {
    ModelConfig { arch: Arch::Bert, max_positions: 48, ..tiny(dropout) }
}

/// Both architectures.
fn both(dropout: f32) -> [ModelConfig; 2] {
    [tiny(dropout), tiny_bert(dropout)]
}

/// Every engine with fresh weights of this configuration.
fn fresh(config: &ModelConfig) -> Vec<(&'static str, Box<dyn Engine>)> {
    let weights = Layout::new(config).initial_weights(11);
    common::engines(config, Optimizer::default(), &weights)
}

/// Rows of these lengths, padded to `seq_len`; about every fourth token is masked, at least one a row,
/// and the pair labels alternate.
fn batch(config: &ModelConfig, seq_len: usize, lengths: &[u32]) -> HostBatch {
    let mut rng = SampleRng::new(Domain::Survey, 3, &[seq_len as u64]);
    let mut batch =
        HostBatch { rows: lengths.len(), seq_len, lengths: lengths.into(), ..HostBatch::default() };
    for (row, &length) in lengths.iter().enumerate() {
        let certain = rng.below(u64::from(length)) as u32;
        for column in 0..seq_len as u32 {
            let real = column < length;
            let word = 1 + rng.below(config.vocab_size as u64 - 1) as u32;
            batch.ids.push(if real { word } else { 0 });
            batch.segments.push(if real { 1 + u8::from(2 * column > length) } else { 0 });
            if real && (column == certain || rng.below(4) == 0) {
                batch.masked.push((row * seq_len) as u32 + column);
                batch.labels.push(1 + rng.below(config.vocab_size as u64 - 1) as u32);
            }
        }
        batch.pairs.push(if row % 2 == 0 { PairLabel::IsNext } else { PairLabel::NotNext });
    }
    batch
}

/// The same samples, several one behind the other in rows of `seq_len`, in their order.
fn packed(batch: &HostBatch, seq_len: usize) -> HostBatch {
    let mut packed =
        HostBatch { rows: 1, seq_len, ids: vec![], segments: vec![], masked: vec![], ..batch.clone() };
    let mut free = 0;
    for sample in 0..batch.samples() {
        let len = batch.lengths[sample] as usize;
        if free + len > packed.rows * seq_len {
            free = packed.rows * seq_len;
            packed.rows += 1;
        }
        let (ids, segments) = batch.sample(sample);
        packed.ids.resize(free, 0);
        packed.segments.resize(free, 0);
        packed.ids.extend(ids);
        packed.segments.extend(segments);
        packed.starts.push(free as u32);
        let moved = batch.masked[batch.predicted(sample)]
            .iter()
            .map(|&flat| flat as usize - batch.start(sample) + free);
        packed.masked.extend(moved.map(|flat| flat as u32));
        free += len;
    }
    packed.ids.resize(packed.rows * seq_len, 0);
    packed.segments.resize(packed.rows * seq_len, 0);
    packed
}

/// The rows `range` of a batch, as a batch of their own.
fn rows_of(batch: &HostBatch, range: std::ops::Range<usize>) -> HostBatch {
    let seq_len = batch.seq_len;
    let tokens = range.start * seq_len..range.end * seq_len;
    let masks =
        (batch.masked.iter().zip(&batch.labels)).filter(|(flat, _)| tokens.contains(&(**flat as usize)));
    let (masked, labels) = masks.map(|(flat, label)| (flat - tokens.start as u32, *label)).unzip();
    HostBatch {
        rows: range.len(),
        seq_len,
        ids: batch.ids[tokens.clone()].into(),
        segments: batch.segments[tokens].into(),
        starts: vec![],
        lengths: batch.lengths[range.clone()].into(),
        masked,
        labels,
        pairs: batch.pairs[range].into(),
        ..HostBatch::default()
    }
}

/// The same samples in wider rows.
fn widened(batch: &HostBatch, seq_len: usize) -> HostBatch {
    let wide = |flat: u32| flat / batch.seq_len as u32 * seq_len as u32 + flat % batch.seq_len as u32;
    let mut wider = HostBatch { seq_len, ids: vec![], segments: vec![], ..batch.clone() };
    for (ids, segments) in batch.ids.chunks(batch.seq_len).zip(batch.segments.chunks(batch.seq_len)) {
        wider.ids.extend_from_slice(ids);
        wider.ids.resize(wider.ids.len() + seq_len - batch.seq_len, 0);
        wider.segments.extend_from_slice(segments);
        wider.segments.resize(wider.ids.len(), 0);
    }
    wider.masked = batch.masked.iter().map(|&flat| wide(flat)).collect();
    wider
}

fn bits(column: &[f32]) -> Vec<u32> {
    column.iter().map(|x| x.to_bits()).collect()
}
