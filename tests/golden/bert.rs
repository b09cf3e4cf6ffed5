//! Architecture `bert`, every engine against numbers of transformers' BertForPreTraining (`fixtures/golden`):
//! hidden states, logits, loss, gradient norm, every named gradient, and all weights after five steps of
//! AdamW.

use bertstream::model::{
    Arch, Engine, FusedEngine, GraphEngine, Optimizer, OptimizerKind, Precision, Update,
};

use crate::common::{engines, whole_step};
use crate::file::Golden;
use crate::{check, check_column};

const GOLDEN: &[u8] = include_bytes!("../../fixtures/golden/standard_bert.safetensors");

/// `torch.optim.AdamW`, from the golden file's metadata.
const ADAMW: Optimizer =
    Optimizer { kind: OptimizerKind::Adamw, beta1: 0.9, beta2: 0.999, epsilon: 1e-6, weight_decay: 0.01 };

/// Every engine with the golden weights.
fn fresh(golden: &Golden) -> Vec<(&'static str, Box<dyn Engine>)> {
    engines(&golden.config, ADAMW, &golden.column("param"))
}

#[test]
fn hidden_states() {
    let golden = Golden::read(GOLDEN, Arch::Bert);
    let batch = golden.batch();
    let width = golden.config.hidden;
    let graph = GraphEngine::new(&golden.config, ADAMW, golden.column("param")).unwrap();
    let mut fused =
        FusedEngine::new(&golden.config, ADAMW, golden.column("param"), Precision::F32, 2).unwrap();
    let real = |column: &[f32]| -> Vec<f32> {
        let rows = column.chunks(batch.seq_len * width).zip(&batch.lengths);
        rows.flat_map(|(row, &length)| row[..length as usize * width].to_vec()).collect()
    };
    let states =
        [("graph", graph.hidden_states(&batch).unwrap()), ("fused", fused.hidden_states(&batch).unwrap())];
    for (name, states) in states {
        assert_eq!(states.len(), 3);
        for (layer, state) in states.iter().enumerate() {
            let expected = golden.floats(&format!("out.hidden.{layer}"));
            check(&format!("{name}: hidden state {layer}"), &real(state), &real(&expected));
        }
    }
    for (name, mut engine) in fresh(&golden) {
        let encoded = engine.encode(&batch).unwrap();
        check(&format!("{name}: encoded"), &real(&encoded), &real(&golden.floats("out.hidden.2")));
    }
}

#[test]
fn logits_and_loss() {
    let golden = Golden::read(GOLDEN, Arch::Bert);
    let batch = golden.batch();
    let vocab_size = golden.config.vocab_size;
    let log_softmax = |logits: &[f32]| -> Vec<f32> {
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        logits.iter().map(|&x| (f64::from(x) - sum.ln()) as f32).collect()
    };
    let logits = golden.floats("out.mlm_logits");
    let tokens: Vec<f32> = batch
        .masked
        .iter()
        .flat_map(|&i| log_softmax(&logits[i as usize * vocab_size..][..vocab_size]))
        .collect();
    // transformers' class 0 is our class 1.
    let pairs: Vec<f32> =
        golden.floats("out.nsp_logits").chunks(2).flat_map(|pair| log_softmax(&[pair[1], pair[0]])).collect();
    for (name, mut engine) in fresh(&golden) {
        let predictions = engine.predict(&batch).unwrap();
        check(&format!("{name}: log-probabilities of tokens"), &predictions.mlm, &tokens);
        check(&format!("{name}: log-probabilities of pairs"), &predictions.nsp, &pairs);
        let outcome = engine.evaluate(&batch).unwrap();
        check(&format!("{name}: loss"), &[outcome.loss() as f32], &golden.floats("out.loss"));
    }
}

#[test]
fn every_named_gradient() {
    let golden = Golden::read(GOLDEN, Arch::Bert);
    let batch = golden.batch();
    for (name, mut engine) in fresh(&golden) {
        engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
        let gradients = engine.gradients().unwrap();
        check_column(&format!("{name}: gradients"), &golden.layout, &gradients, &golden.column("grad"));
    }
}

#[test]
fn five_steps_of_adamw() {
    let golden = Golden::read(GOLDEN, Arch::Bert);
    let batch = golden.batch();
    for (name, mut engine) in fresh(&golden) {
        let mut losses = vec![];
        for step in 1..=5 {
            let outcome = engine.accumulate(&batch, &whole_step(&batch, step)).unwrap();
            losses.push(outcome.loss() as f32);
            let lr = 1e-3 * (step as f64 / 10.0).min(1.0);
            let updated = engine.update(&Update { step, lr, clip: Some(1.0) }).unwrap();
            if step == 1 {
                let norm = &[updated.grad_norm as f32];
                check(&format!("{name}: gradient norm"), norm, &golden.floats("out.grad_norm"));
            }
        }
        check(&format!("{name}: losses of five steps"), &losses, &golden.floats("out.loss_of_step"));
        let weights = engine.state().unwrap().weights;
        let what = format!("{name}: weights after five steps");
        check_column(&what, &golden.layout, &weights, &golden.column("after5"));
    }
}

/// Central differences of a few coordinates of every parameter, dropout on, rows of odd lengths.
#[test]
fn gradients_agree_with_finite_differences() {
    let golden = Golden::read(GOLDEN, Arch::Bert);
    let mut batch = golden.batch();
    batch.lengths[0] -= 1;
    batch.masked.retain(|&flat| {
        flat as usize % batch.seq_len < batch.lengths[flat as usize / batch.seq_len] as usize
    });
    batch.labels.truncate(batch.masked.len());
    let config = bertstream::model::ModelConfig { dropout: 0.2, ..golden.config.clone() };
    let mut engine = FusedEngine::new(&config, ADAMW, golden.column("param"), Precision::F32, 1).unwrap();
    let pass = whole_step(&batch, 3);
    engine.accumulate(&batch, &pass).unwrap();
    let (gradients, state) = (engine.gradients().unwrap(), engine.state().unwrap());
    let mut loss_at = |place: usize, change: f32| {
        let mut moved = state.clone();
        moved.weights[place] += change;
        engine.restore(moved).unwrap();
        engine.accumulate(&batch, &pass).unwrap().loss()
    };
    for parameter in golden.layout.parameters() {
        let places = parameter.range.clone();
        let largest =
            places.clone().max_by(|&a, &b| gradients[a].abs().total_cmp(&gradients[b].abs())).unwrap();
        for place in [largest, places.start + places.len() / 2] {
            let numeric = (loss_at(place, 1e-2) - loss_at(place, -1e-2)) / 2e-2;
            let exact = f64::from(gradients[place]);
            let error = (numeric - exact).abs();
            assert!(
                error < 2e-3 + 0.03 * exact.abs(),
                "{} at {place}: {exact} not {numeric}",
                parameter.name
            );
        }
    }
}
