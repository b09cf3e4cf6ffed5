//! `cargo bench`: the pieces of a training step and of the pipeline, each by itself. Whole steps and stages are
//! measured by `bertstream bench`, on shapes and corpora of one's own.

use bertstream::collate::HostBatch;
use bertstream::model::{
    Arch, Engine, FusedEngine, Init, Layout, ModelConfig, Optimizer, Pass, Precision, Products, Update,
};
use bertstream::rng::{Domain, SampleRng};
use bertstream::sample::{Corruption, Origin, PairLabel, mask};
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// Shapes of BERT's products: a feed-forward layer of 256 and of 768, and a large square.
#[divan::bench(args = [[512, 1024, 256], [512, 3072, 768], [512, 768, 3072], [2048, 2048, 2048]],
               consts = [false, true], sample_count = 10, sample_size = 2)]
fn product<const BF16: bool>(bencher: Bencher<'_, '_>, shape: [usize; 3]) {
    let mut products = Products::new(shape, precision(BF16), 1).unwrap();
    // Items are floating-point operations: `Gitem/s` is GFLOP/s.
    let operations = ItemsCount::new(products.operations() as u64);
    bencher.counter(operations).bench_local(|| products.run());
}

#[divan::bench(args = [Arch::Reference, Arch::Bert], consts = [false, true], sample_count = 5, sample_size = 1)]
fn forward_and_backward<const BF16: bool>(bencher: Bencher<'_, '_>, arch: Arch) {
    let (mut engine, batch) = engine(arch, precision(BF16));
    let pass = Pass {
        seed: 1,
        step: 1,
        first_row: 0,
        masked_in_step: batch.masked.len(),
        pairs_in_step: batch.rows,
    };
    let tokens = ItemsCount::new(batch.tokens());
    bencher.counter(tokens).bench_local(|| engine.accumulate(&batch, &pass).unwrap());
}

#[divan::bench(sample_count = 10, sample_size = 2)]
fn optimizer_update(bencher: Bencher<'_, '_>) {
    let (mut engine, _) = engine(Arch::Bert, Precision::F32);
    let parameters = ItemsCount::new(engine.layout().len());
    let update = Update { step: 1, lr: 1e-4, clip: Some(1.0) };
    bencher.counter(parameters).bench_local(|| engine.update(&update).unwrap());
}

/// The choice of 76 of 509 tokens and what becomes of them: the mask of a sample of 512. (That of 128 is another one:
/// `bertstream bench mask`.)
#[divan::bench(sample_size = 1000)]
fn mask_of_512_tokens(bencher: Bencher<'_, '_>) {
    let (mut candidates, mut sample) = (Vec::with_capacity(512), 0);
    bencher.bench_local(|| {
        sample += 1;
        let mut rng = SampleRng::new(Domain::Sample, 1, &[sample]);
        candidates.clear();
        candidates.extend(1..510);
        let count = mask::exact_count(0.15, candidates.len());
        mask::choose_exact(&mut candidates, count, &mut rng);
        candidates.iter().filter(|_| mask::corruption(rng.unit(), 0.8, 0.1) == Corruption::Mask).count()
    });
}

fn precision(bf16: bool) -> Precision {
    if bf16 { Precision::Bf16 } else { Precision::F32 }
}

/// A model of hidden size 256 with two blocks, and a batch of 16 full rows of 128 tokens.
fn engine(arch: Arch, precision: Precision) -> (FusedEngine, HostBatch) {
    let config = ModelConfig {
        arch,
        vocab_size: 8192,
        hidden: 256,
        layers: 2,
        heads: 8,
        dropout: 0.1,
        init: Init::Bert,
        max_positions: 512,
    };
    let weights = Layout::new(&config).initial_weights(1);
    let engine = FusedEngine::new(&config, Optimizer::default(), weights, precision, 1).unwrap();
    let (rows, seq_len) = (16, 128);
    let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
    let mut id = || 5 + rng.below(8187) as u32;
    let masked: Vec<u32> = (0..(rows * seq_len) as u32).filter(|i| i * 3 % 20 < 3).collect();
    let batch = HostBatch {
        rows,
        seq_len,
        ids: (0..rows * seq_len).map(|_| id()).collect(),
        segments: (0..rows * seq_len).map(|i| 1 + (i / 64 % 2) as u8).collect(),
        lengths: vec![seq_len as u32; rows],
        labels: masked.iter().map(|_| id()).collect(),
        corruptions: vec![Corruption::Mask; masked.len()],
        masked,
        pairs: vec![PairLabel::IsNext; rows],
        origins: vec![Origin::default(); rows],
        ..HostBatch::default()
    };
    (engine, batch)
}
