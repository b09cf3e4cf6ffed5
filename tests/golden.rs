//! Every engine against numbers of the reference itself (`fixtures/golden`): outputs of every layer,
//! losses, every named gradient, and all weights after five steps of the reference's optimizer.
//!
//! An error is the largest difference within a tensor over its largest value (`relative_error`). Run with
//! `--nocapture` to see what is reached.

mod common;

use bertstream::collate::HostBatch;
use bertstream::model::{Engine, GraphEngine, Init, Layout, ModelConfig, Optimizer, OptimizerKind, Update};
use bertstream::sample::PairLabel;
use common::{engines, relative_error, whole_step};
use safetensors::{Dtype, SafeTensors};

const GOLDEN: &[u8] = include_bytes!("../fixtures/golden/seed_bertlm.safetensors");
const BLOCKS: &[u8] = include_bytes!("../fixtures/golden/seed_bertlm_blocks.safetensors");

/// What is promised; what is reached is printed.
const TOLERANCE: f64 = 1e-4;

/// The reference's `torch.optim.Adam`, from the golden file's metadata.
const ADAM: Optimizer =
    Optimizer { kind: OptimizerKind::Adam, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

struct Golden {
    file: SafeTensors<'static>,
    config: ModelConfig,
    layout: Layout,
}

impl Golden {
    fn read() -> Self {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let (_, header) = SafeTensors::read_metadata(GOLDEN).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let number = |name: &str| metadata[name].parse().unwrap();
        let config = ModelConfig {
            vocab_size: number("vocab_size"),
            hidden: number("hidden"),
            layers: number("layers"),
            heads: number("heads"),
            dropout: 0.0,
            init: Init::Torch,
        };
        let layout = Layout::reference(&config);
        Self { file, config, layout }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        floats(&self.file, name)
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        let tensor = self.file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        let values = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        values.map(|value| value.try_into().unwrap()).collect()
    }

    /// One flat column of the tensors `prefix.NAME`, in the layout's order.
    fn column(&self, prefix: &str) -> Vec<f32> {
        let named = self.file.names().iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!(named, self.layout.parameters().len(), "the layout misses a parameter of the reference");
        let mut column = vec![];
        for parameter in self.layout.parameters() {
            let name = format!("{prefix}.{}", parameter.name);
            assert_eq!(self.file.tensor(&name).unwrap().shape(), parameter.shape, "{name}");
            column.extend(self.floats(&name));
        }
        column
    }

    fn batch(&self) -> HostBatch {
        let shape = self.file.tensor("in.bert_input").unwrap().shape().to_vec();
        let (rows, seq_len) = (shape[0], shape[1]);
        let ids = self.integers("in.bert_input");
        let segments = self.integers("in.segment_label").into_iter().map(|s| s as u8).collect();
        let labels = self.integers("in.bert_label");
        let masked: Vec<u32> = (0..).zip(&labels).filter(|(_, l)| **l > 0).map(|(i, _)| i).collect();
        let length = |row: &[u32]| row.iter().filter(|id| **id > 0).count() as u32;
        let pair = |label: u32| if label == 1 { PairLabel::IsNext } else { PairLabel::NotNext };
        HostBatch {
            rows,
            seq_len,
            lengths: ids.chunks(seq_len).map(length).collect(),
            labels: masked.iter().map(|&i| labels[i as usize]).collect(),
            pairs: self.integers("in.is_next").into_iter().map(pair).collect(),
            ids,
            segments,
            masked,
            ..HostBatch::default()
        }
    }

    fn engines(&self) -> Vec<(&'static str, Box<dyn Engine>)> {
        engines(&self.config, ADAM, &self.column("param"))
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Compares and prints; a column of one value serves for a number.
fn check(what: &str, actual: &[f32], expected: &[f32]) {
    let error = relative_error(actual, expected);
    println!("{what}: {error:.1e}");
    assert!(error < TOLERANCE, "{what}: relative error {error:e}");
}

/// Compares parameter by parameter and prints the worst.
fn check_column(what: &str, layout: &Layout, actual: &[f32], expected: &[f32]) {
    let errors = layout.parameters().iter().map(|parameter| {
        let range = parameter.range.clone();
        (relative_error(&actual[range.clone()], &expected[range]), &parameter.name)
    });
    let (error, worst) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    println!("{what}: {error:.1e}, worst {worst}");
    assert!(error < TOLERANCE, "{what}: relative error {error:e} of {worst}");
}

/// The reference's schedule with a warm-up of 10 steps.
fn learning_rate(hidden: usize, step: u64) -> f64 {
    let step = step as f64;
    (hidden as f64).powf(-0.5) * step.powf(-0.5).min(step * 10f64.powf(-1.5))
}

#[test]
fn every_layers_output() {
    let golden = Golden::read();
    let cpu = candle_core::Device::Cpu;
    let graph = GraphEngine::new(&golden.config, ADAM, golden.column("param"), cpu).unwrap();
    let batch = golden.batch();
    let states = graph.hidden_states(&batch).unwrap();
    assert_eq!(states.len(), 1 + golden.config.layers);
    check("graph: embedding", &states[0], &golden.floats("out.embedding"));

    // The reference runs padded positions through its blocks as well; what stands there means nothing,
    // and engines need not agree on it.
    let real = |column: &[f32]| -> Vec<f32> {
        let width = golden.config.hidden;
        let rows = column.chunks(batch.seq_len * width).zip(&batch.lengths);
        rows.flat_map(|(row, &length)| row[..length as usize * width].to_vec()).collect()
    };
    let blocks = SafeTensors::deserialize(BLOCKS).unwrap();
    for (layer, state) in states[1..].iter().enumerate() {
        let expected = floats(&blocks, &format!("out.block.{layer}"));
        check(&format!("graph: block {layer}"), &real(state), &real(&expected));
    }
}

#[test]
fn the_distributions_of_both_heads() {
    let golden = Golden::read();
    let (batch, vocab_size) = (golden.batch(), golden.config.vocab_size);
    let everywhere = golden.floats("out.mlm_logprob");
    let at = |flat: &u32| everywhere[*flat as usize * vocab_size..][..vocab_size].to_vec();
    let mlm: Vec<f32> = batch.masked.iter().flat_map(at).collect();
    for (name, mut engine) in golden.engines() {
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
    let golden = Golden::read();
    let batch = golden.batch();
    let pass = whole_step(&batch, 1);
    for (name, mut engine) in golden.engines() {
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
    let golden = Golden::read();
    let batch = golden.batch();
    for (name, mut engine) in golden.engines() {
        engine.accumulate(&batch, &whole_step(&batch, 1)).unwrap();
        let gradients = engine.gradients().unwrap();
        check_column(&format!("{name}: gradients"), &golden.layout, &gradients, &golden.column("grad"));
    }
}

#[test]
fn five_steps_of_the_references_optimizer() {
    let golden = Golden::read();
    let batch = golden.batch();
    for (name, mut engine) in golden.engines() {
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
