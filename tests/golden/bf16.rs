//! Products in bfloat16 against the same numbers, within the rounding of bfloat16 (8 bits of a mantissa), on
//! whatever this machine multiplies it with.

use bertstream::model::{Arch, Engine, FusedEngine, Optimizer, Precision};

use crate::common::whole_step;
use crate::file::Golden;

const REFERENCE: &[u8] = include_bytes!("../../fixtures/golden/seed_bertlm.safetensors");
const BERT: &[u8] = include_bytes!("../../fixtures/golden/standard_bert.safetensors");

/// Length of the difference of two vectors, relative to the second.
fn distance(actual: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = actual.iter().zip(expected).map(|(a, e)| square(a - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

#[test]
fn losses_and_gradients_are_within_the_rounding() {
    for (arch, bytes) in [(Arch::Reference, REFERENCE), (Arch::Bert, BERT)] {
        let golden = Golden::read(bytes, arch);
        let batch = golden.batch();
        let run = |precision| {
            let weights = golden.column("param");
            let optimizer = Optimizer::default();
            let mut engine = FusedEngine::new(&golden.config, optimizer, weights, precision, 2).unwrap();
            let outcome = engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
            (outcome.loss(), engine.gradients().unwrap())
        };
        let ((exact, _), (loss, gradients)) = (run(Precision::F32), run(Precision::Bf16));
        assert!((loss / exact - 1.0).abs() < 2e-3, "{arch:?}: loss {loss} beside {exact}");
        let off = distance(&gradients, &golden.column("grad"));
        assert!((1e-5..1e-2).contains(&off), "{arch:?}: gradients are off by {off}");
    }
}
