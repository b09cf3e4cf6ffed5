//! Gradients are those of the stated loss, for every parameter, however the step is cut and padded.

use bertstream::collate::HostBatch;
use bertstream::model::{Engine, Init, ModelConfig, Outcome, Pass};
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::PairLabel;

use crate::common::{relative_error, whole_step};
use crate::{batch, bits, both, fresh, packed, rows_of, tiny, tiny_bert, widened};

const LENGTHS: [u32; 8] = [9, 3, 7, 1, 9, 5, 2, 8];

/// Sums and gradients of one pass over a fresh column of gradients.
fn pass(engine: &mut dyn Engine, batch: &HostBatch, pass: &Pass) -> (Outcome, Vec<f32>) {
    let state = engine.state().unwrap();
    engine.restore(state).unwrap();
    let outcome = engine.accumulate(batch, pass).unwrap();
    (outcome, engine.gradients().unwrap())
}

/// The largest relative error over the parameters.
fn worst(engine: &dyn Engine, actual: &[f32], expected: &[f32]) -> (f64, String) {
    let errors = engine
        .layout()
        .parameters()
        .iter()
        .map(|p| (relative_error(&actual[p.range.clone()], &expected[p.range.clone()]), p.name.clone()));
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// A key's bias moves all scores of a query alike, which the softmax does not see: its gradient is 0 in
/// exact arithmetic, and rounding in any other.
fn has_no_gradient(name: &str) -> bool {
    name.ends_with("attention.linear_layers.1.bias") || name.ends_with("attention.self.key.bias")
}

#[test]
fn every_variable_receives_one_and_padding_none() {
    for config in [both(0.0), both(0.1)].into_iter().flatten() {
        let batch = batch(&config, 10, &LENGTHS);
        for (name, mut engine) in fresh(&config) {
            let (_, gradients) = pass(&mut *engine, &batch, &whole_step(&batch, 1));
            for parameter in engine.layout().parameters() {
                let gradient = &gradients[parameter.range.clone()];
                let largest = gradient.iter().fold(0f32, |a, g| a.max(g.abs()));
                let what = format!("{name}, dropout {}: {}: {largest}", config.dropout, parameter.name);
                assert!(gradient.iter().all(|g| g.is_finite()), "{what}");
                match has_no_gradient(&parameter.name) {
                    true => assert!(largest < 1e-6, "{what}"),
                    false => assert!(largest > 1e-4, "{what}"),
                }
                if parameter.frozen_row() {
                    assert!(gradient[..parameter.shape[1]].iter().all(|&g| g == 0.0), "{what}");
                }
            }
        }
    }
}

/// Central differences of the loss at the largest gradient of each parameter and at a random place.
#[test]
fn finite_differences() {
    const STEP: f32 = 4e-3;
    let shapes = [
        ModelConfig { hidden: 8, heads: 2, layers: 2, ..tiny(0.0) },
        ModelConfig { hidden: 8, heads: 2, layers: 2, ..tiny(0.1) },
        ModelConfig { hidden: 6, heads: 3, layers: 1, ..tiny(0.1) },
        ModelConfig { hidden: 5, heads: 1, layers: 1, ..tiny(0.0) },
        ModelConfig { hidden: 6, heads: 3, layers: 1, max_positions: 9, ..tiny_bert(0.1) },
    ];
    for config in shapes {
        let batch = batch(&config, 7, &[7, 3, 5]);
        let step = whole_step(&batch, 2);
        for (name, mut engine) in fresh(&config) {
            let (_, gradients) = pass(&mut *engine, &batch, &step);
            let state = engine.state().unwrap();
            let mut loss_at = |index: usize, weight: f32| {
                let mut moved = state.clone();
                moved.weights[index] = weight;
                engine.restore(moved).unwrap();
                engine.accumulate(&batch, &step).unwrap().loss()
            };
            let mut rng = SampleRng::new(Domain::Survey, 5, &[]);
            for parameter in bertstream::model::Layout::new(&config).parameters() {
                let range = parameter.range.clone();
                let first =
                    if parameter.frozen_row() { range.start + parameter.shape[1] } else { range.start };
                let by_size = |a: &usize, b: &usize| gradients[*a].abs().total_cmp(&gradients[*b].abs());
                let places = [
                    (first..range.end).max_by(by_size).unwrap(),
                    first + rng.below((range.end - first) as u64) as usize,
                ];
                for place in places {
                    let (up, down) = (state.weights[place] + STEP, state.weights[place] - STEP);
                    let slope = (loss_at(place, up) - loss_at(place, down)) / f64::from(up - down);
                    let gradient = f64::from(gradients[place]);
                    // Rounding of the losses costs 1e-7 / STEP; curvature about STEP^2.
                    let allowed = 1e-4 + 2e-3 * gradient.abs();
                    assert!(
                        (slope - gradient).abs() < allowed,
                        "{name}, {config:?}: {} at {}: slope {slope}, gradient {gradient}",
                        parameter.name,
                        place - range.start
                    );
                }
            }
        }
    }
}

#[test]
fn two_micro_batches_are_one_batch() {
    let [reference, bert] = both(0.1);
    let batch = batch(&reference, 10, &LENGTHS);
    let whole = whole_step(&batch, 4);
    for (name, mut engine) in fresh(&reference).into_iter().chain(fresh(&bert)) {
        let (mut expected, gradients) = pass(&mut *engine, &batch, &whole);
        let (mut outcome, _) = pass(&mut *engine, &rows_of(&batch, 0..4), &whole);
        outcome.add(&engine.accumulate(&rows_of(&batch, 4..8), &Pass { first_row: 4, ..whole }).unwrap());
        let (error, place) = worst(&*engine, &engine.gradients().unwrap(), &gradients);
        assert!(error < 1e-5, "{name}: {error:e} at {place}");
        assert!((outcome.loss() - expected.loss()).abs() < 1e-6, "{name}");
        (outcome.mlm_loss_sum, outcome.nsp_loss_sum) = (0.0, 0.0);
        (expected.mlm_loss_sum, expected.nsp_loss_sum) = (0.0, 0.0);
        assert_eq!(outcome, expected, "{name}");
    }
}

/// What is done where a device has not the memory for a batch at once.
#[test]
fn a_batch_in_parts_of_any_number_of_rows_is_the_batch() {
    for config in both(0.1) {
        let batch = batch(&config, 10, &LENGTHS);
        for whole in [packed(&batch, 14), batch] {
            let step = whole_step(&whole, 4);
            for (name, mut engine) in fresh(&config) {
                let (expected, gradients) = pass(&mut *engine, &whole, &step);
                for rows in 1..whole.rows {
                    let (mut outcome, mut first_row) = (Outcome::default(), 0);
                    let state = engine.state().unwrap();
                    engine.restore(state).unwrap();
                    for part in whole.split(rows) {
                        outcome.add(&engine.accumulate(&part, &Pass { first_row, ..step }).unwrap());
                        first_row += part.samples();
                    }
                    let (error, place) = worst(&*engine, &engine.gradients().unwrap(), &gradients);
                    assert!(error < 1e-5, "{name}, {rows} rows: {error:e} at {place}");
                    assert!((outcome.loss() - expected.loss()).abs() < 1e-6, "{name}, {rows} rows");
                    assert_eq!(outcome.masked, expected.masked);
                }
            }
        }
    }
}

#[test]
fn padding_changes_nothing() {
    for config in [both(0.0), both(0.1)].into_iter().flatten() {
        let batch = batch(&config, 9, &LENGTHS);
        let step = whole_step(&batch, 4);
        for (name, mut engine) in fresh(&config) {
            let (expected, gradients) = pass(&mut *engine, &batch, &step);
            let (outcome, padded) = pass(&mut *engine, &widened(&batch, 21), &step);
            assert!((outcome.loss() - expected.loss()).abs() < 1e-6, "{name}");
            let (error, place) = worst(&*engine, &padded, &gradients);
            assert!(error < 1e-5, "{name}: {error:e} at {place}");
        }
    }
}

/// All engines against the first, which is the plain one.
#[test]
fn engines_agree() {
    let shapes = [
        (
            ModelConfig { hidden: 32, heads: 4, layers: 3, vocab_size: 101, ..tiny(0.1) },
            40,
            vec![40, 1, 17, 33],
        ),
        (ModelConfig { hidden: 6, heads: 3, layers: 1, ..tiny(0.3) }, 9, vec![4, 9, 2]),
        (ModelConfig { hidden: 5, heads: 1, layers: 1, ..tiny(0.1) }, 9, vec![9, 1]),
        (ModelConfig { hidden: 33, heads: 3, init: Init::Bert, ..tiny(0.0) }, 35, vec![35, 31, 2]),
        (tiny(0.1), 700, vec![700, 650]),
        (tiny_bert(0.1), 9, vec![9, 1, 5]),
        (
            ModelConfig { hidden: 32, heads: 4, layers: 3, vocab_size: 101, ..tiny_bert(0.1) },
            40,
            vec![40, 1, 17, 33],
        ),
        (ModelConfig { hidden: 33, heads: 3, init: Init::Bert, ..tiny_bert(0.2) }, 35, vec![35, 31, 2]),
        // Widths that a device's kernels load four numbers at a time of.
        (ModelConfig { hidden: 128, heads: 2, layers: 1, ..tiny(0.1) }, 70, vec![70, 3]),
        (ModelConfig { hidden: 256, heads: 8, layers: 1, ..tiny_bert(0.1) }, 20, vec![20, 7]),
    ];
    for (config, seq_len, lengths) in shapes {
        let mut batch = batch(&config, seq_len, &lengths);
        // A token that is padding's: it has an embedding, which does not learn through it.
        batch.ids[0] = 0;
        let step = Pass { first_row: 3, ..whole_step(&batch, 9) };
        let mut engines = fresh(&config);
        let (_, oracle) = &mut engines[0];
        let (expected, gradients) = pass(&mut **oracle, &batch, &step);
        let evaluated = oracle.evaluate(&batch).unwrap();
        for (name, engine) in &mut engines[1..] {
            let (outcome, actual) = pass(&mut **engine, &batch, &step);
            for (outcome, expected) in [(outcome, expected), (engine.evaluate(&batch).unwrap(), evaluated)] {
                let losses = |o: &Outcome| [o.mlm_loss() as f32, o.nsp_loss() as f32];
                let error = relative_error(&losses(&outcome), &losses(&expected));
                assert!(error < 1e-4, "{name}, {config:?}: losses: {error:e}");
                assert_eq!((outcome.masked, outcome.pairs), (expected.masked, expected.pairs));
            }
            let (error, place) = worst(&**engine, &actual, &gradients);
            println!("{name}, hidden {}, seq_len {seq_len}: gradients {error:.1e} at {place}", config.hidden);
            assert!(error < 1e-4, "{name}, {config:?}: gradients: {error:e} at {place}");
        }
    }
}

/// Samples that share a row do not see each other, and have the masks and positions that they have alone.
#[test]
fn packed_samples_are_the_same_samples() {
    for config in [both(0.0), both(0.2)].into_iter().flatten() {
        let apart = batch(&config, 10, &LENGTHS);
        let together = packed(&apart, 17);
        assert!(together.rows < apart.rows && together.samples() == apart.samples());
        let step = Pass { first_row: 2, ..whole_step(&apart, 4) };
        for (name, mut engine) in fresh(&config) {
            let (expected, gradients) = pass(&mut *engine, &apart, &step);
            let (outcome, actual) = pass(&mut *engine, &together, &step);
            let what = format!("{name}, {:?}, dropout {}", config.arch, config.dropout);
            if name == "fused" {
                // It works on the tokens one behind the other, wherever they lay.
                assert_eq!((outcome, bits(&actual)), (expected, bits(&gradients)), "{what}");
            }
            assert!((outcome.loss() - expected.loss()).abs() < 1e-6, "{what}");
            let (error, place) = worst(&*engine, &actual, &gradients);
            assert!(error < 1e-5, "{what}: {error:e} at {place}");
            let [alone, shared] = [&apart, &together].map(|batch| {
                let hidden = engine.encode(batch).unwrap();
                let cells = (0..batch.samples()).flat_map(|i| batch.span(i));
                cells
                    .flat_map(|at| hidden[at * config.hidden..][..config.hidden].to_vec())
                    .collect::<Vec<f32>>()
            });
            assert!(relative_error(&shared, &alone) < 1e-5, "{what}");
            let [alone, shared] = [&apart, &together].map(|batch| engine.predict(batch).unwrap());
            assert!(relative_error(&shared.mlm, &alone.mlm) < 1e-5, "{what}");
            assert!(relative_error(&shared.nsp, &alone.nsp) < 1e-5, "{what}");
        }
    }
}

/// Without anything to predict for one task, the other goes on as if alone, and nothing is NaN.
#[test]
fn a_task_without_labels_has_weight_zero() {
    let config = tiny(0.1);
    let both = batch(&config, 10, &LENGTHS);
    let unmasked = HostBatch { masked: vec![], labels: vec![], ..both.clone() };
    let unpaired = HostBatch { pairs: vec![PairLabel::None; both.rows], ..both.clone() };
    let step = whole_step(&both, 1);
    for (name, mut engine) in fresh(&config) {
        let (outcome, nsp) = pass(&mut *engine, &unmasked, &whole_step(&unmasked, 1));
        assert_eq!((outcome.masked, outcome.pairs, outcome.mlm_loss()), (0, 8, 0.0), "{name}");
        assert!(outcome.nsp_loss() > 0.0 && nsp.iter().any(|&g| g != 0.0), "{name}");
        assert_eq!(engine.predict(&unmasked).unwrap().mlm.len(), 0, "{name}");

        let (outcome, mlm) = pass(&mut *engine, &unpaired, &whole_step(&unpaired, 1));
        assert_eq!((outcome.masked, outcome.pairs), (both.masked.len() as u64, 0), "{name}");
        assert_eq!(outcome.nsp_loss(), 0.0, "{name}");
        assert_eq!(engine.predict(&unpaired).unwrap().nsp.len(), 2 * both.rows, "{name}");

        // The loss is the sum of both: so are the gradients.
        let (_, sum) = pass(&mut *engine, &both, &step);
        let added: Vec<f32> = nsp.iter().zip(&mlm).map(|(a, b)| a + b).collect();
        let (error, place) = worst(&*engine, &added, &sum);
        assert!(error < 1e-5, "{name}: {error:e} at {place}");

        // A divisor of 0 silences a task whose labels are there; its sums are still reported.
        let (outcome, silenced) = pass(&mut *engine, &both, &Pass { masked_in_step: 0, ..step });
        assert_eq!(outcome.masked, both.masked.len() as u64, "{name}");
        assert!(worst(&*engine, &silenced, &nsp).0 < 1e-5, "{name}");

        let neither = HostBatch { pairs: unpaired.pairs.clone(), ..unmasked.clone() };
        let (outcome, gradients) = pass(&mut *engine, &neither, &whole_step(&neither, 1));
        assert_eq!((outcome, bits(&gradients)), (Outcome::default(), bits(&vec![0.0; sum.len()])), "{name}");
    }
}

#[test]
fn evaluation_has_no_dropout_and_leaves_gradients_alone() {
    let config = tiny(0.5);
    let batch = batch(&config, 10, &LENGTHS);
    for ((name, mut engine), (_, mut without)) in fresh(&config).into_iter().zip(fresh(&tiny(0.0))) {
        let (noisy, gradients) = pass(&mut *engine, &batch, &whole_step(&batch, 1));
        let evaluated = engine.evaluate(&batch).unwrap();
        assert_eq!(evaluated, without.evaluate(&batch).unwrap(), "{name}");
        assert!((evaluated.loss() - noisy.loss()).abs() > 1e-3, "{name}: dropout does nothing");
        assert_eq!(bits(&engine.gradients().unwrap()), bits(&gradients), "{name}");
    }
}
