//! What the fused engine promises beyond the seam: the same bits for any number of threads.

use bertstream::collate::HostBatch;
use bertstream::model::{
    Arch, Engine, FusedEngine, Init, Layout, ModelConfig, Optimizer, Pass, Precision, Update,
};
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::{Corruption, Origin, PairLabel};

fn batch(config: &ModelConfig, lengths: &[u32], seed: u64) -> HostBatch {
    let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
    let seq_len = lengths.iter().copied().max().unwrap() as usize;
    let rows = lengths.len();
    let mut batch = HostBatch {
        rows,
        seq_len,
        ids: vec![0; rows * seq_len],
        segments: vec![0; rows * seq_len],
        starts: vec![],
        lengths: lengths.to_vec(),
        origins: vec![Origin::default(); rows],
        ..HostBatch::default()
    };
    for (row, &len) in lengths.iter().enumerate() {
        for column in 0..len as usize {
            let cell = row * seq_len + column;
            batch.ids[cell] = 5 + rng.below(config.vocab_size as u64 - 5) as u32;
            batch.segments[cell] = if column < len as usize / 2 { 1 } else { 2 };
            if column > 0 && rng.below(6) == 0 {
                batch.masked.push(cell as u32);
                batch.labels.push(5 + rng.below(config.vocab_size as u64 - 5) as u32);
                batch.corruptions.push(Corruption::Mask);
            }
        }
        batch.pairs.push([PairLabel::NotNext, PairLabel::IsNext, PairLabel::None][row % 3]);
    }
    batch
}

/// Several chunks, slices of the vocabulary and tasks of weights; lengths from 1 up.
#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    for arch in [Arch::Reference, Arch::Bert] {
        for precision in [Precision::F32, Precision::Bf16] {
            check_threads(arch, precision);
        }
    }
}

fn check_threads(arch: Arch, precision: Precision) {
    let config = ModelConfig {
        arch,
        max_positions: 512,
        vocab_size: 2500,
        hidden: 24,
        layers: 2,
        heads: 3,
        dropout: 0.1,
        init: Init::Torch,
    };
    let lengths: Vec<u32> = (0..40).map(|i| 1 + i * 37 % 61).collect();
    let batches: Vec<HostBatch> = (0..3).map(|i| batch(&config, &lengths, i)).collect();
    let run = |threads| {
        let weights = Layout::new(&config).initial_weights(9);
        let mut engine =
            FusedEngine::new(&config, Optimizer::default(), weights, precision, threads).unwrap();
        let mut outcomes = vec![];
        for (step, batch) in (1..).zip(&batches) {
            let pass = Pass {
                seed: 3,
                step,
                first_row: 0,
                masked_in_step: batch.masked.len(),
                pairs_in_step: batch.rows,
            };
            outcomes.push(engine.accumulate(batch, &pass).unwrap());
            engine.update(&Update { step, lr: 1e-3, clip: Some(1.0) }).unwrap();
            outcomes.push(engine.evaluate(batch).unwrap());
        }
        (outcomes, engine.state().unwrap())
    };
    let single = run(1);
    assert!(single.0.iter().all(|o| o.masked > 100 && o.mlm_loss_sum.is_finite()));
    for threads in [2, 3, 5] {
        assert_eq!(run(threads), single, "{arch:?}, {precision:?}, {threads} threads");
    }
}

/// A batch smaller than its predecessors must not see what they left in the buffers.
#[test]
fn buffers_of_earlier_batches_leave_no_trace() {
    let config = ModelConfig {
        arch: Arch::Reference,
        max_positions: 512,
        vocab_size: 60,
        hidden: 10,
        layers: 1,
        heads: 2,
        dropout: 0.0,
        init: Init::Bert,
    };
    let weights = Layout::new(&config).initial_weights(4);
    let (large, small) = (batch(&config, &[50; 30], 1), batch(&config, &[3, 1, 7], 2));
    let engine =
        || FusedEngine::new(&config, Optimizer::default(), weights.clone(), Precision::F32, 2).unwrap();
    let gradients_of = |engine: &mut FusedEngine| {
        let pass = Pass { seed: 1, step: 1, first_row: 0, masked_in_step: 2, pairs_in_step: 2 };
        let outcome = engine.accumulate(&small, &pass).unwrap();
        (outcome, engine.gradients().unwrap())
    };
    let mut used = engine();
    used.evaluate(&large).unwrap();
    assert_eq!(gradients_of(&mut used), gradients_of(&mut engine()));
}
