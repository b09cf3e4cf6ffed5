//! The BERTLM: its parameters, and the arithmetic of a training step.
//!
//! Takes [`HostBatch`]es, gives losses, gradients and updated weights. Knows nothing of corpora, files
//! or threads of the pipeline. [`Engine`] is the seam: [`fused`] is the hand-written step for the CPU,
//! [`graph`] the same model as a plain composition of candle operations with candle's own backward;
//! it is the oracle of the other, and what runs on a device that candle knows.
//!
//! A few steps, and a checkpoint of them that predicts ([`Plan::batches`](crate::pipeline::Plan::batches) makes
//! batches of a text):
//! ```
//! use bertstream::collate::HostBatch;
//! use bertstream::model::*;
//! use bertstream::sample::{Corruption, Cursor, Origin, PairLabel};
//! use bertstream::train::Progress;
//! use bertstream::train::checkpoint::Checkpoints;
//!
//! let model = ModelConfig {
//!     arch: Arch::Reference, vocab_size: 9, hidden: 8, layers: 1, heads: 2,
//!     dropout: 0.0, init: Init::default(), max_positions: 16,
//! };
//! // [CLS] [MASK:7] 8 [SEP] 5 [SEP], the second sentence following the first one.
//! let batch = HostBatch {
//!     rows: 1, seq_len: 6, ids: vec![3, 4, 8, 2, 5, 2], segments: vec![1, 1, 1, 1, 2, 2], starts: vec![],
//!     lengths: vec![6], masked: vec![1], labels: vec![7], corruptions: vec![Corruption::Mask],
//!     pairs: vec![PairLabel::IsNext], origins: vec![Origin::default()],
//!     next: Cursor::default(), ends_epoch: true,
//! };
//! let layout = Layout::new(&model);
//! let threads = 1;
//! let mut engine =
//!     FusedEngine::new(&model, Optimizer::default(), layout.initial_weights(42), Precision::F32, threads)?;
//! let mut losses = Vec::new();
//! for step in 1..=20 {
//!     let pass = Pass { seed: 42, step, first_row: 0, masked_in_step: 1, pairs_in_step: 1 };
//!     losses.push(engine.accumulate(&batch, &pass)?.mlm_loss());
//!     engine.update(&Update { step, lr: 1e-2, clip: Some(1.0) })?;
//! }
//! assert!(losses[19] < losses[0] / 2.0, "{losses:?}");
//!
//! # let directory = tempfile::tempdir()?;
//! let checkpoints = Checkpoints::at(directory.path());
//! let progress = Progress { step: 20, ..Progress::default() };
//! checkpoints.save(&layout, &progress, 42, "a configuration's fingerprint", &engine.state()?)?;
//!
//! let saved = checkpoints.load(20, &layout)?;
//! let mut again = FusedEngine::new(&model, Optimizer::default(), saved.state.weights, Precision::F32, threads)?;
//! let probabilities = again.predict(&batch)?.mlm; // (masked, vocab_size), as logarithms
//! let best = (0..9).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
//! assert_eq!(best, Some(7));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::collate::HostBatch;
use crate::sample::PairLabel;
use crate::{Error, Result};

mod batch;
pub mod device;
mod dropout;
pub mod fused;
pub mod graph;
mod layout;
pub mod optimizer;

pub use dropout::{DropoutSite, dropout_coordinate};
pub use fused::{FusedEngine, Products};
pub use graph::GraphEngine;
pub use layout::{InitRule, Layout, Parameter, Row0};
pub use optimizer::{Optimizer, OptimizerKind};

/// Which model it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// `bert-pytorch`'s BERTLM: norms before the sublayers, sinusoidal positions, an untied head.
    #[default]
    Reference,
    /// The published BERT (Devlin et al. 2018; transformers' BertForPreTraining): norms behind the
    /// sublayers, learned positions, pooler, and a transform before the head that shares the embedding.
    Bert,
}

/// How weights start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Embeddings N(0, 1), linear layers uniform so that variances are kept on the way up and down (Glorot &
    /// Bengio 2010), biases zero. The sinusoidal positions have amplitude 1 and no norm follows the sum:
    /// token embeddings must be as large to be heard.
    #[default]
    Xavier,
    /// Normal with standard deviation 0.02 cut at two of them, biases zero (Devlin et al. 2018, released
    /// code).
    Bert,
    /// PyTorch's defaults, which the reference inherits: embeddings N(0, 1), linear layers and their
    /// biases uniform within 1 / sqrt(inputs).
    Torch,
}

/// Shape of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    #[serde(default)]
    pub arch: Arch,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Dropout rate of every dropout layer, `0.0..=0.99999`.
    pub dropout: f32,
    /// How weights start.
    pub init: Init,
    /// Rows of [`Arch::Bert`]'s position embedding: the longest sample it can read.
    #[serde(default = "published_positions")]
    pub max_positions: usize,
}

/// Positions of the published BERT models.
pub fn published_positions() -> usize {
    512
}

impl ModelConfig {
    /// Width of the feed-forward layer: four times the hidden size (Devlin et al. 2018, section 3).
    pub fn feed_forward(&self) -> usize {
        4 * self.hidden
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Refuses shapes that cannot be built, before anything is allocated.
    pub fn check(&self) -> Result<()> {
        if self.hidden == 0 || self.layers == 0 || self.heads == 0 || self.vocab_size == 0 {
            return Err(Error::usage(format!(
                "--hidden {}, --layers {}, --attn-heads {} and the vocabulary's {} tokens must all be positive",
                self.hidden, self.layers, self.heads, self.vocab_size
            )));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(Error::usage(format!(
                "--hidden {} is not divisible by --attn-heads {}: choose a multiple of the heads",
                self.hidden, self.heads
            )));
        }
        // A layer norm with the unbiased standard deviation divides by hidden - 1.
        if self.hidden < 2 {
            return Err(Error::usage("--hidden 1 has no variance to normalise by: choose at least 2"));
        }
        // The masks know 65,536 rates; above, everything would be dropped.
        if !(0.0..=0.99999).contains(&self.dropout) {
            return Err(Error::usage(format!("--dropout {} must lie in 0..=0.99999", self.dropout)));
        }
        Ok(())
    }
}

/// Sinusoidal positions `(len, hidden)` for any length and any width (Vaswani et al. 2017, section 3.5):
/// even columns are sines, odd ones cosines of `position * 10000^(-even column / hidden)`.
pub fn sinusoids(len: usize, hidden: usize) -> Vec<f32> {
    let angle = |position: usize, column: usize| {
        // Rounded where the reference rounds: the factor to single precision, then the product.
        let factor = -(10_000f64.ln() / hidden as f64) as f32;
        let rate = ((column - column % 2) as f32 * factor).exp();
        position as f32 * rate
    };
    let value = |position, column| match column % 2 {
        0 => angle(position, column).sin(),
        _ => angle(position, column).cos(),
    };
    (0..len).flat_map(|position| (0..hidden).map(move |column| value(position, column))).collect()
}

/// What the matrix products of a step compute in; weights, moments, sums and everything else are single
/// precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Operands rounded to bfloat16, sums in single precision.
    Bf16,
}

/// Which tokens' states are wanted behind the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// The masked ones and each sample's first.
    Predicted,
}

/// What one micro-batch contributes to a step.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Seed of the run, for dropout.
    pub seed: u64,
    /// Step from 1, for dropout.
    pub step: u64,
    /// Samples of the step that earlier micro-batches held, for dropout.
    pub first_row: usize,
    /// Masked tokens in the whole step: the divisor of the MLM loss. 0 gives that loss weight 0.
    pub masked_in_step: usize,
    /// Pairs with a label in the whole step: the divisor of the NSP loss. 0 gives it weight 0.
    pub pairs_in_step: usize,
}

/// Sums over a batch, so that they add up over batches; the means are methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Sum of the negative log-likelihoods (nats) of the masked tokens.
    pub mlm_loss_sum: f64,
    /// Masked tokens.
    pub masked: u64,
    /// Masked tokens whose most probable token is the true one.
    pub mlm_correct: u64,
    /// Sum of the negative log-likelihoods (nats) of the pair labels.
    pub nsp_loss_sum: f64,
    /// Rows with a pair label.
    pub pairs: u64,
    /// Rows whose more probable pair label is the true one.
    pub nsp_correct: u64,
}

impl Outcome {
    /// Adds the sums of another batch.
    pub fn add(&mut self, other: &Self) {
        self.mlm_loss_sum += other.mlm_loss_sum;
        self.masked += other.masked;
        self.mlm_correct += other.mlm_correct;
        self.nsp_loss_sum += other.nsp_loss_sum;
        self.pairs += other.pairs;
        self.nsp_correct += other.nsp_correct;
    }

    /// Counts a pair by the log-probabilities of "not next" and "is next".
    fn count_pair(&mut self, log_probabilities: [f32; 2], label: PairLabel) {
        if label == PairLabel::None {
            return;
        }
        self.pairs += 1;
        self.nsp_loss_sum -= f64::from(log_probabilities[label as usize]);
        let guess = usize::from(log_probabilities[1] > log_probabilities[0]);
        self.nsp_correct += u64::from(guess == label as usize);
    }

    /// Mean NLL of a masked token in nats; 0 where there was none.
    pub fn mlm_loss(&self) -> f64 {
        ratio(self.mlm_loss_sum, self.masked)
    }

    /// Mean NLL of a pair label in nats; 0 where there was none.
    pub fn nsp_loss(&self) -> f64 {
        ratio(self.nsp_loss_sum, self.pairs)
    }

    /// The loss that is minimised: both means, added (Devlin et al. 2018, appendix A.2).
    pub fn loss(&self) -> f64 {
        self.mlm_loss() + self.nsp_loss()
    }

    /// Share of masked tokens predicted exactly.
    pub fn mlm_accuracy(&self) -> f64 {
        ratio(self.mlm_correct as f64, self.masked)
    }

    /// Share of pairs told right.
    pub fn nsp_accuracy(&self) -> f64 {
        ratio(self.nsp_correct as f64, self.pairs)
    }
}

fn ratio(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// The weight of one summand in a mean over `count`; 0 where there is none, so that no loss is no gradient.
fn weight_of(count: usize) -> f32 {
    if count == 0 { 0.0 } else { 1.0 / count as f32 }
}

/// What a step changes the weights with.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Step from 1, for Adam's bias correction.
    pub step: u64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Global gradient norm above which gradients are scaled down; `None` leaves them alone.
    pub clip: Option<f64>,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Updated {
    /// L2 norm over all gradients, before clipping.
    pub grad_norm: f64,
    /// Whether the weights changed. They do not where the norm is not finite.
    pub applied: bool,
}

/// Predictions for a batch.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// Log-probabilities `(masked, vocab_size)`.
    pub mlm: Vec<f32>,
    /// Log-probabilities `(rows, 2)`; index 1 is "is next".
    pub nsp: Vec<f32>,
}

/// Everything that training changes, in the order of the [`Layout`].
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub weights: Vec<f32>,
    /// Adam's first moments.
    pub first: Vec<f32>,
    /// Adam's second moments.
    pub second: Vec<f32>,
}

impl State {
    /// Refuses columns that are not the layout's.
    fn check(&self, layout: &Layout) -> Result<()> {
        for (what, column) in
            [("weights", &self.weights), ("first moments", &self.first), ("second moments", &self.second)]
        {
            if column.len() != layout.len() {
                return Err(Error::internal(format!(
                    "model: {} {what} given where the layout has {} parameters",
                    column.len(),
                    layout.len()
                )));
            }
        }
        Ok(())
    }
}

/// A model on its device, with its gradients and its optimizer's moments. Lives on one thread.
pub trait Engine {
    /// Names, shapes and places of all parameters.
    fn layout(&self) -> &Layout;

    /// Forward and backward over one micro-batch: adds to the gradients, gives the batch's sums.
    /// Dropout is on where the configured rate is positive.
    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome>;

    /// Clips, updates the weights from the gradients, and zeroes the gradients. Where the gradient's norm
    /// is not finite the weights and moments stay bitwise as they were.
    fn update(&mut self, update: &Update) -> Result<Updated>;

    /// Forward only, dropout off.
    fn evaluate(&mut self, batch: &HostBatch) -> Result<Outcome>;

    /// Forward only, dropout off: the distributions themselves.
    fn predict(&mut self, batch: &HostBatch) -> Result<Predictions>;

    /// Forward only, dropout off: the last block's output, `(rows, seq_len, hidden)`. What stands at padded
    /// positions means nothing.
    fn encode(&mut self, batch: &HostBatch) -> Result<Vec<f32>>;

    /// Zeroes the gradients; weights and moments stay bitwise as they are.
    fn forget_gradients(&mut self) -> Result<()>;

    /// The gradients accumulated so far, in the order of the layout.
    fn gradients(&self) -> Result<Vec<f32>>;

    /// A copy of everything that training changes.
    fn state(&self) -> Result<State>;

    /// Replaces everything that training changes; gradients are zeroed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] where lengths differ from the layout's.
    fn restore(&mut self, state: State) -> Result<()>;
}
