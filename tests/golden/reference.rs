//! Every engine against numbers of the reference itself (`fixtures/golden`): outputs of every layer,
//! losses, every named gradient, and all weights after five steps of the reference's optimizer.

use bertstream::model::{
    Arch, Engine, FusedEngine, GraphEngine, Optimizer, OptimizerKind, Precision, Update,
};
use safetensors::SafeTensors;

use crate::common::{engines, whole_step};
use crate::file::{Golden, floats};
use crate::{check, check_column};

const GOLDEN: &[u8] = include_bytes!("../../fixtures/golden/seed_bertlm.safetensors");
const BLOCKS: &[u8] = include_bytes!("../../fixtures/golden/seed_bertlm_blocks.safetensors");

/// The reference's `torch.optim.Adam`, from the golden file's metadata.
const ADAM: Optimizer =
    Optimizer { kind: OptimizerKind::Adam, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

/// Every engine with the golden weights.
fn fresh(golden: &Golden) -> Vec<(&'static str, Box<dyn Engine>)> {
    engines(&golden.config, ADAM, &golden.column("param"))
}

/// The reference's schedule with a warm-up of 10 steps.
fn learning_rate(hidden: usize, step: u64) -> f64 {
    let step = step as f64;
    (hidden as f64).powf(-0.5) * step.powf(-0.5).min(step * 10f64.powf(-1.5))
}

#[test]
fn every_layers_output() {
    let golden = Golden::read(GOLDEN, Arch::Reference);
    let graph = GraphEngine::new(&golden.config, ADAM, golden.column("param")).unwrap();
    let batch = golden.batch();
    let mut fused =
        FusedEngine::new(&golden.config, ADAM, golden.column("param"), Precision::F32, 2).unwrap();
    let outputs =
        [("graph", graph.hidden_states(&batch).unwrap()), ("fused", fused.hidden_states(&batch).unwrap())];

    // The reference runs padded positions through its blocks as well; what stands there means nothing,
    // and engines need not agree on it.
    let real = |column: &[f32]| -> Vec<f32> {
        let width = golden.config.hidden;
        let rows = column.chunks(batch.seq_len * width).zip(&batch.lengths);
        rows.flat_map(|(row, &length)| row[..length as usize * width].to_vec()).collect()
    };
    let blocks = SafeTensors::deserialize(BLOCKS).unwrap();
    for (name, states) in outputs {
        assert_eq!(states.len(), 1 + golden.config.layers);
        check(&format!("{name}: embedding"), &real(&states[0]), &real(&golden.floats("out.embedding")));
        for (layer, state) in states[1..].iter().enumerate() {
            let expected = floats(&blocks, &format!("out.block.{layer}"));
            check(&format!("{name}: block {layer}"), &real(state), &real(&expected));
        }
    }
}

#[test]
fn the_distributions_of_both_heads() {
    let golden = Golden::read(GOLDEN, Arch::Reference);
    let (batch, vocab_size) = (golden.batch(), golden.config.vocab_size);
    let everywhere = golden.floats("out.mlm_logprob");
    let at = |flat: &u32| everywhere[*flat as usize * vocab_size..][..vocab_size].to_vec();
    let mlm: Vec<f32> = batch.masked.iter().flat_map(at).collect();
    for (name, mut engine) in fresh(&golden) {
        let predictions = engine.predict(&batch).unwrap();
        check(&format!("{name}: log-probabilities of tokens"), &predictions.mlm, &mlm);
        check(
            &format!("{name}: log-probabilities of pairs"),
            &predictions.nsp,
            &golden.floats("out.nsp_logprob"),
        );
    }
}

#[test]
fn both_losses_and_what_is_predicted_right() {
    let golden = Golden::read(GOLDEN, Arch::Reference);
    let batch = golden.batch();
    let pass = whole_step(&batch, 1);
    for (name, mut engine) in fresh(&golden) {
        let outcome = engine.evaluate(&batch).unwrap();
        check(&format!("{name}: MLM loss"), &[outcome.mlm_loss() as f32], &golden.floats("out.mask_loss"));
        check(&format!("{name}: NSP loss"), &[outcome.nsp_loss() as f32], &golden.floats("out.next_loss"));
        let accumulated = engine.accumulate(&batch, &pass).unwrap();
        assert!((accumulated.loss() - outcome.loss()).abs() < 1e-6, "{name}");

        let predictions = engine.predict(&batch).unwrap();
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let rows = predictions.mlm.chunks(golden.config.vocab_size).zip(&batch.labels);
        let mlm_correct = rows.filter(|(row, label)| best(row) == **label as usize).count();
        let rows = predictions.nsp.chunks(2).zip(&batch.pairs);
        let nsp_correct = rows.filter(|(row, label)| best(row) == **label as usize).count();
        assert_eq!((outcome.masked, outcome.pairs), (batch.masked.len() as u64, 4), "{name}");
        assert_eq!((outcome.mlm_correct, outcome.nsp_correct), (mlm_correct as u64, nsp_correct as u64));
    }
}

#[test]
fn every_named_gradient() {
    let golden = Golden::read(GOLDEN, Arch::Reference);
    let batch = golden.batch();
    for (name, mut engine) in fresh(&golden) {
        engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
        let gradients = engine.gradients().unwrap();
        check_column(&format!("{name}: gradients"), &golden.layout, &gradients, &golden.column("grad"));
    }
}

#[test]
fn five_steps_of_the_references_optimizer() {
    let golden = Golden::read(GOLDEN, Arch::Reference);
    let batch = golden.batch();
    for (name, mut engine) in fresh(&golden) {
        let mut losses = vec![];
        for step in 1..=5 {
            losses.push(engine.accumulate(&batch, &whole_step(&batch, step)).unwrap().loss() as f32);
            let lr = learning_rate(golden.config.hidden, step);
            assert!(engine.update(&Update { step, lr, clip: None }).unwrap().applied);
        }
        check(&format!("{name}: losses of five steps"), &losses, &golden.floats("out.loss_of_step"));
        let weights = engine.state().unwrap().weights;
        check_column(
            &format!("{name}: weights after five steps"),
            &golden.layout,
            &weights,
            &golden.column("after5"),
        );
    }
}
