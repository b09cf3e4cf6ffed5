//! Products in bfloat16 against the same numbers, within the rounding of bfloat16 (8 bits of a mantissa), on
//! whatever this machine multiplies it with.

use bertstream::model::{Arch, Engine, FusedEngine, Optimizer, Precision};

use crate::common::{device, whole_step};
use crate::distance::distance;
use crate::file::Golden;

const REFERENCE: &[u8] = include_bytes!("../../fixtures/golden/seed_bertlm.safetensors");
const BERT: &[u8] = include_bytes!("../../fixtures/golden/standard_bert.safetensors");

#[test]
fn losses_and_gradients_are_within_the_rounding() {
    for (arch, bytes) in [(Arch::Reference, REFERENCE), (Arch::Bert, BERT)] {
        let golden = Golden::read(bytes, arch);
        let batch = golden.batch();
        let run = |mut engine: Box<dyn Engine>| {
            let outcome = engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
            (outcome.loss(), engine.gradients().unwrap())
        };
        let (config, optimizer, weights) = (&golden.config, Optimizer::default(), golden.column("param"));
        let fused = |precision| {
            FusedEngine::new(config, optimizer, weights.clone(), precision, 2).map(Box::new).unwrap()
        };
        let (exact, _) = run(fused(Precision::F32));
        let rounded: [(_, Box<dyn Engine>); 2] = [
            ("fused", fused(Precision::Bf16)),
            ("device", device(config, optimizer, &weights, Precision::Bf16, false)),
        ];
        for (name, engine) in rounded {
            let (loss, gradients) = run(engine);
            assert!((loss / exact - 1.0).abs() < 2e-3, "{name}, {arch:?}: loss {loss} beside {exact}");
            let off = distance(&gradients, &golden.column("grad"));
            println!("{name}, {arch:?}: loss {loss} beside {exact}, gradients are off by {off:.1e}");
            assert!((1e-5..1e-2).contains(&off), "{name}, {arch:?}: gradients are off by {off}");
        }
    }
}
