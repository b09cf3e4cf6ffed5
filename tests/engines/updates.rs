//! Optimizer, state, and that training trains.

use bertstream::ErrorKind;
use bertstream::model::{Engine, Layout, Optimizer, OptimizerKind, State, Update};
use bertstream::sample::PairLabel;

use crate::common::{engines, whole_step};
use crate::{batch, bits, both, fresh, tiny};

/// One step over one batch.
fn step(engine: &mut dyn Engine, batch: &bertstream::collate::HostBatch, update: &Update) {
    engine.accumulate(batch, &whole_step(batch, update.step)).unwrap();
    assert!(engine.update(update).unwrap().applied);
}

fn same(a: &State, b: &State) -> bool {
    [(&a.weights, &b.weights), (&a.first, &b.first), (&a.second, &b.second)]
        .iter()
        .all(|(a, b)| bits(a) == bits(b))
}

/// One scalar of `torch.optim.Adam` or `AdamW`, from PyTorch's documentation, in f64.
#[derive(Clone, Copy)]
struct Scalar {
    weight: f64,
    first: f64,
    second: f64,
}

impl Scalar {
    fn update(&mut self, optimizer: &Optimizer, decays: bool, gradient: f64, step: u64, lr: f64) {
        let Optimizer { kind, beta1, beta2, epsilon, weight_decay } = *optimizer;
        let mut gradient = gradient;
        match kind {
            OptimizerKind::Adam => gradient += weight_decay * self.weight,
            OptimizerKind::Adamw if decays => self.weight -= lr * weight_decay * self.weight,
            OptimizerKind::Adamw => {}
        }
        self.first = beta1 * self.first + (1.0 - beta1) * gradient;
        self.second = beta2 * self.second + (1.0 - beta2) * gradient * gradient;
        let first = self.first / (1.0 - beta1.powi(step as i32));
        let second = self.second / (1.0 - beta2.powi(step as i32));
        self.weight -= lr * first / (second.sqrt() + epsilon);
    }
}

#[test]
fn adam_and_adamw_are_pytorchs() {
    let config = tiny(0.1);
    let batch = batch(&config, 9, &[9, 4, 1]);
    let weights = Layout::new(&config).initial_weights(1);
    let cases =
        [OptimizerKind::Adam, OptimizerKind::Adamw].map(|kind| [None, Some(0.5)].map(|clip| (kind, clip)));
    for (kind, clip) in cases.into_iter().flatten() {
        // A large decay, so that a decay at the wrong place is seen.
        let optimizer = Optimizer { kind, weight_decay: 0.1, ..Optimizer::default() };
        for (name, mut engine) in engines(&config, optimizer, &weights) {
            let layout = engine.layout().clone();
            let mut scalars: Vec<Scalar> =
                weights.iter().map(|&w| Scalar { weight: f64::from(w), first: 0.0, second: 0.0 }).collect();
            for step in 1..=10 {
                engine.accumulate(&batch, &whole_step(&batch, step)).unwrap();
                let gradients: Vec<f64> = engine.gradients().unwrap().iter().map(|&g| f64::from(g)).collect();
                let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
                assert!(norm > 0.5, "{name}: nothing to clip at {norm}");
                let scale = clip.map_or(1.0, |limit: f64| limit / (norm + 1e-6));
                let lr = 1e-2 / step as f64;
                for parameter in layout.parameters() {
                    for i in parameter.range.clone() {
                        scalars[i].update(&optimizer, parameter.decays, scale * gradients[i], step, lr);
                    }
                }
                let updated = engine.update(&Update { step, lr, clip }).unwrap();
                assert!(updated.applied && (updated.grad_norm / norm - 1.0).abs() < 1e-6, "{name}");
                assert!(engine.gradients().unwrap().iter().all(|&g| g == 0.0), "{name}");
            }
            let state = engine.state().unwrap();
            for (i, scalar) in scalars.iter().enumerate() {
                let what = format!("{name}, {optimizer:?}, clip {clip:?}: element {i}");
                let close = |a: f32, b: f64, scale: f64| (f64::from(a) - b).abs() < 2e-6 * (scale + b.abs());
                // Where the gradient is rounding (a key's bias), Adam turns it into steps of full size.
                assert!(
                    close(state.weights[i], scalar.weight, 1.0),
                    "{what}: {} {}",
                    state.weights[i],
                    scalar.weight
                );
                assert!(close(state.first[i], scalar.first, 0.1), "{what}");
                assert!(close(state.second[i], scalar.second, 0.01), "{what}");
            }
        }
    }
}

#[test]
fn frozen_rows_stay_exactly_zero() {
    let config = tiny(0.1);
    let mut batch = batch(&config, 9, &[9, 4, 1]);
    // Padding gets no gradient anyhow; its rows are frozen where they are used as tokens, too.
    (batch.ids[2], batch.segments[2]) = (0, 0);
    let weights = Layout::new(&config).initial_weights(1);
    for kind in [OptimizerKind::Adam, OptimizerKind::Adamw] {
        let optimizer = Optimizer { kind, ..Optimizer::default() };
        for (name, mut engine) in engines(&config, optimizer, &weights) {
            for n in 1..=3 {
                step(&mut *engine, &batch, &Update { step: n, lr: 0.1, clip: None });
            }
            let state = engine.state().unwrap();
            for parameter in engine.layout().parameters().iter().filter(|p| p.frozen_row()) {
                let row = parameter.range.start..parameter.range.start + parameter.shape[1];
                for column in [&state.weights, &state.first, &state.second] {
                    assert!(column[row.clone()].iter().all(|&x| x == 0.0), "{name}: {}", parameter.name);
                }
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let config = tiny(0.1);
    let batch = batch(&config, 9, &[9, 4, 1]);
    for (name, mut engine) in fresh(&config) {
        for n in 1..=2 {
            step(&mut *engine, &batch, &Update { step: n, lr: 0.01, clip: Some(1.0) });
        }
        let healthy = engine.state().unwrap();
        for poison in [f32::NAN, f32::INFINITY] {
            let mut poisoned = healthy.clone();
            poisoned.weights[engine.layout().get("mask_lm.linear.bias").unwrap().range.start + 3] = poison;
            engine.restore(poisoned.clone()).unwrap();
            engine.accumulate(&batch, &whole_step(&batch, 3)).unwrap();
            let updated = engine.update(&Update { step: 3, lr: 0.01, clip: Some(1.0) }).unwrap();
            assert!(!updated.applied && !updated.grad_norm.is_finite(), "{name}");
            assert!(same(&engine.state().unwrap(), &poisoned), "{name}");
            assert!(engine.gradients().unwrap().iter().all(|&g| g == 0.0), "{name}");
        }
        engine.restore(healthy).unwrap();
        step(&mut *engine, &batch, &Update { step: 3, lr: 0.01, clip: Some(1.0) });
    }
}

#[test]
fn a_restored_state_goes_on_bitwise() {
    let config = tiny(0.1);
    let batch = batch(&config, 9, &[9, 4, 1]);
    for ((name, mut engine), (_, mut other)) in fresh(&config).into_iter().zip(fresh(&config)) {
        let update = |step| Update { step, lr: 0.01, clip: Some(1.0) };
        (1..=3).for_each(|n| step(&mut *engine, &batch, &update(n)));
        let saved = engine.state().unwrap();
        (4..=6).for_each(|n| step(&mut *engine, &batch, &update(n)));
        // Gradients of an unfinished step must not survive.
        other.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
        other.restore(saved).unwrap();
        (4..=6).for_each(|n| step(&mut *other, &batch, &update(n)));
        assert!(same(&engine.state().unwrap(), &other.state().unwrap()), "{name}");
        let outcomes = [engine.evaluate(&batch).unwrap(), other.evaluate(&batch).unwrap()];
        assert_eq!(outcomes[0], outcomes[1], "{name}");
    }
}

#[test]
fn a_state_of_another_shape_is_refused() {
    for (name, mut engine) in fresh(&tiny(0.0)) {
        let good = engine.state().unwrap();
        for bad in [
            State { weights: vec![0.0; 3], ..good.clone() },
            State { first: vec![], ..good.clone() },
            State { second: vec![0.0; good.second.len() + 1], ..good.clone() },
        ] {
            assert_eq!(engine.restore(bad).unwrap_err().kind(), ErrorKind::Internal, "{name}");
        }
        assert!(same(&engine.state().unwrap(), &good), "{name}");
    }
}

#[test]
fn one_batch_can_be_overfitted() {
    let [reference, bert] = both(0.0);
    let batch = batch(&reference, 9, &[9, 4, 7, 6]);
    for (name, mut engine) in fresh(&reference).into_iter().chain(fresh(&bert)) {
        let before = engine.evaluate(&batch).unwrap();
        assert!(before.mlm_loss() > 1.0 && before.nsp_loss() > 0.1, "{name}: {before:?}");
        (1..=100).for_each(|n| step(&mut *engine, &batch, &Update { step: n, lr: 0.02, clip: Some(1.0) }));
        let after = engine.evaluate(&batch).unwrap();
        assert!(after.mlm_loss() < 0.05 && after.nsp_loss() < 0.05, "{name}: {after:?}");
        assert_eq!((after.mlm_accuracy(), after.nsp_accuracy()), (1.0, 1.0), "{name}");
    }
}

#[test]
fn each_task_is_learnt_without_the_other() {
    let config = tiny(0.0);
    let both = batch(&config, 9, &[9, 4, 7, 6]);
    let unmasked = bertstream::collate::HostBatch { masked: vec![], labels: vec![], ..both.clone() };
    let unpaired = bertstream::collate::HostBatch { pairs: vec![PairLabel::None; 4], ..both.clone() };
    for batch in [unmasked, unpaired] {
        for (name, mut engine) in fresh(&config) {
            (1..=100)
                .for_each(|n| step(&mut *engine, &batch, &Update { step: n, lr: 0.02, clip: Some(1.0) }));
            let after = engine.evaluate(&batch).unwrap();
            assert!(after.loss() < 0.05, "{name}: {after:?}");
        }
    }
}
