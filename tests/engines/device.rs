//! What only the engine of devices has: activations made again, memory that may be missing, and a state that comes
//! from the CPU and goes back there.

use bertstream::model::device::{Address, Device, DeviceEngine, Grid, Product, Source};
use bertstream::model::{Engine, FusedEngine, Layout, ModelConfig, Optimizer, Precision, Update};
use bertstream::{Error, ErrorKind, Result};

use crate::common::emulator::Emulated;
use crate::common::{device, relative_error, whole_step};
use crate::distance::distance;
use crate::{batch, bits, both};

#[test]
fn activations_made_again_are_the_same_to_the_bit() {
    for config in both(0.1) {
        let batch = batch(&config, 10, &[9, 3, 7, 1]);
        let weights = Layout::new(&config).initial_weights(11);
        for precision in [Precision::F32, Precision::Bf16] {
            let gradients = |recompute| {
                let mut engine = device(&config, Optimizer::default(), &weights, precision, recompute);
                let outcome = engine.accumulate(&batch, &whole_step(&batch, 3)).unwrap();
                (outcome, bits(&engine.gradients().unwrap()))
            };
            assert!(gradients(false) == gradients(true), "{:?} {precision:?}", config.arch);
        }
    }
}

/// Each parameter's gradient in bfloat16 beside single precision's, dropout included, for widths of heads with tensor
/// cores and without, and lengths about the edges of their tiles.
#[test]
fn bfloat16_stays_within_its_rounding() {
    for (hidden, heads) in [(32, 2), (64, 2), (48, 1), (128, 2), (24, 3)] {
        for config in both(0.1).map(|config| ModelConfig { hidden, heads, max_positions: 130, ..config }) {
            let lengths = if hidden == 128 { [130, 64, 65, 1] } else { [63, 33, 32, 5] };
            let batch = batch(&config, 130, &lengths);
            let weights = Layout::new(&config).initial_weights(11);
            let gradients = |precision| {
                let mut engine = device(&config, Optimizer::default(), &weights, precision, false);
                let outcome = engine.accumulate(&batch, &whole_step(&batch, 3)).unwrap();
                (outcome, engine.gradients().unwrap())
            };
            let ((exact, expected), (outcome, actual)) =
                (gradients(Precision::F32), gradients(Precision::Bf16));
            let what = format!("{:?}, {hidden} in {heads} heads", config.arch);
            assert!((outcome.loss() / exact.loss() - 1.0).abs() < 5e-3, "{what}: loss");
            for parameter in Layout::new(&config).parameters() {
                // A key's bias has no gradient but rounding.
                if parameter.name.contains(".1.bias") || parameter.name.contains("key.bias") {
                    continue;
                }
                let range = parameter.range.clone();
                let off = distance(&actual[range.clone()], &expected[range]);
                assert!(off < 0.03, "{what}: {} is off by {off:.1e}", parameter.name);
            }
            let off = distance(&actual, &expected);
            println!("{what}: off by {off:.1e}");
            assert!((1e-4..2e-2).contains(&off), "{what}: off by {off:.1e}");
        }
    }
}

#[test]
fn a_state_goes_from_the_cpu_to_a_device_and_back() {
    for config in both(0.1) {
        let batch = batch(&config, 10, &[9, 3, 7, 1]);
        let weights = Layout::new(&config).initial_weights(11);
        let mut cpu =
            FusedEngine::new(&config, Optimizer::default(), weights.clone(), Precision::F32, 1).unwrap();
        let mut device = device(&config, Optimizer::default(), &weights, Precision::F32, false);
        let step = |engine: &mut dyn Engine, step| {
            engine.accumulate(&batch, &whole_step(&batch, step)).unwrap();
            engine.update(&Update { step, lr: 1e-3, clip: Some(1.0) }).unwrap();
        };
        (1..4).for_each(|n| step(&mut cpu, n));
        device.restore(cpu.state().unwrap()).unwrap();
        assert!(device.state().unwrap() == cpu.state().unwrap(), "{:?}", config.arch);
        (4..6).for_each(|n| step(&mut *device, n));
        let moved = device.state().unwrap();
        (4..6).for_each(|n| step(&mut cpu, n));
        let stayed = cpu.state().unwrap();
        let error = relative_error(&moved.weights, &stayed.weights);
        assert!(error < 1e-4 && moved != stayed, "{:?}: {error:e}", config.arch);
        cpu.restore(moved.clone()).unwrap();
        assert!(cpu.state().unwrap() == moved);
    }
}

/// A device with so much memory and no more.
struct Small {
    device: Emulated,
    left: usize,
    sizes: std::collections::HashMap<u64, usize>,
}

impl Device for Small {
    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        if bytes > self.left {
            return Err(Error::new(ErrorKind::OutOfMemory, format!("{bytes} bytes of {}", self.left)));
        }
        let at = self.device.allocate(bytes)?;
        self.left -= bytes;
        self.sizes.insert(at.0, bytes);
        Ok(at)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.left += self.sizes.remove(&at.0).unwrap();
        self.device.free(at)
    }

    fn compile(&mut self, source: &Source) -> Result<()> {
        self.device.compile(source)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.device.upload(to, bytes)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.device.download(from, bytes)
    }

    fn fetch(&mut self, from: Address, bytes: usize) -> Result<()> {
        self.device.fetch(from, bytes)
    }

    fn fetched(&mut self) -> Result<Vec<u8>> {
        self.device.fetched()
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<()> {
        self.device.zero(at, bytes)
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[u8]) -> Result<()> {
        self.device.launch(kernel, grid, arguments)
    }

    fn multiply(&mut self, product: &Product) -> Result<()> {
        self.device.multiply(product)
    }
}

/// The trainer then tries fewer rows, and expects gradients as they were before.
#[test]
fn memory_that_is_missing_is_found_before_anything_is_computed() {
    let [config, _] = both(0.1);
    let (small, large) = (batch(&config, 10, &[9, 3]), batch(&config, 10, &[10; 40]));
    let weights = Layout::new(&config).initial_weights(11);
    let with = |left| {
        let device = Small { device: Emulated::new(), left, sizes: Default::default() };
        DeviceEngine::new(device, &config, Optimizer::default(), weights.clone(), Precision::F32, false)
    };
    assert_eq!(with(1000).err().map(|e| e.kind()), Some(ErrorKind::OutOfMemory));
    let mut engine = with(1 << 18).unwrap();
    engine.accumulate(&small, &whole_step(&small, 1)).unwrap();
    let before = bits(&engine.gradients().unwrap());
    let refused = engine.accumulate(&large, &whole_step(&large, 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory, "{refused}");
    assert!(bits(&engine.gradients().unwrap()) == before);
    engine.accumulate(&small, &whole_step(&small, 1)).unwrap();
}

#[test]
fn a_head_too_wide_for_the_kernels_is_refused_before_they_are_compiled() {
    let config = ModelConfig { hidden: 520, heads: 1, ..both(0.0)[0].clone() };
    let device = DeviceEngine::new(
        Emulated::new(),
        &config,
        Optimizer::default(),
        Layout::new(&config).initial_weights(1),
        Precision::F32,
        false,
    );
    let refused = device.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.to_string().contains("heads of 520 columns"), "{refused}");
}
