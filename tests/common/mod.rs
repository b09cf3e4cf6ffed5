//! What the tests of the engines share: the list of engines, and how far apart two columns are.

#[path = "../device/emulator.rs"]
pub mod emulator;

use bertstream::collate::HostBatch;
use bertstream::model::device::DeviceEngine;
use bertstream::model::{Engine, FusedEngine, GraphEngine, ModelConfig, Optimizer, Pass, Precision};
use bertstream::sample::PairLabel;
use emulator::Emulated;

/// Every engine there is, each with these weights. A new one is one more entry here.
pub fn engines(
    config: &ModelConfig,
    optimizer: Optimizer,
    weights: &[f32],
) -> Vec<(&'static str, Box<dyn Engine>)> {
    let graph = GraphEngine::new(config, optimizer, weights.to_vec()).unwrap();
    let fused = FusedEngine::new(config, optimizer, weights.to_vec(), Precision::F32, 2).unwrap();
    let device = device(config, optimizer, weights, Precision::F32, false);
    vec![("graph", Box::new(graph)), ("fused", Box::new(fused)), ("device", device)]
}

/// The engine of devices: on the emulated one, or on the GPU that BERTSTREAM_TEST_DEVICE names (`cuda:0`).
pub fn device(
    config: &ModelConfig,
    optimizer: Optimizer,
    weights: &[f32],
    precision: Precision,
    recompute: bool,
) -> Box<dyn Engine> {
    let weights = weights.to_vec();
    #[cfg(feature = "cuda")]
    if let Ok(name) = std::env::var("BERTSTREAM_TEST_DEVICE") {
        let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("cuda:N");
        let device = bertstream::model::device::cuda::Cuda::open(number).unwrap();
        return Box::new(
            DeviceEngine::new(device, config, optimizer, weights, precision, recompute).unwrap(),
        );
    }
    let device = Emulated::new();
    Box::new(DeviceEngine::new(device, config, optimizer, weights, precision, recompute).unwrap())
}

/// The pass of a batch that is a whole step by itself.
pub fn whole_step(batch: &HostBatch, step: u64) -> Pass {
    let pairs_in_step = batch.pairs.iter().filter(|&&pair| pair != PairLabel::None).count();
    Pass { seed: 7, step, first_row: 0, masked_in_step: batch.masked.len(), pairs_in_step }
}

/// Largest difference, relative to the largest expected value (to 1e-3 where all are smaller than that).
/// Infinite where a value is not finite.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let (mut scale, mut difference) = (1e-3f64, 0f64);
    for (&a, &e) in actual.iter().zip(expected) {
        if !a.is_finite() || !e.is_finite() {
            return f64::INFINITY;
        }
        scale = scale.max(f64::from(e).abs());
        difference = difference.max((f64::from(a) - f64::from(e)).abs());
    }
    difference / scale
}
