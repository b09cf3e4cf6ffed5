//! Flags of `train` and of what else computes, and the values that they take.

use std::path::PathBuf;

use super::super::flags::{threads, workers};
use super::super::ram::RamFlag;
use crate::collate::PadTo;
use crate::model::{Arch, Init, OptimizerKind, Precision};
use crate::train::{Compute, DeviceChoice, EngineKind, ScheduleKind, Steps, TensorBoard};
use crate::{Error, Result};

/// The shape of the model.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// A published size of BERT, --arch bert: tiny (2 layers of 128), mini (4 of 256), small (4 of 512),
    /// medium (8 of 512), base (12 of 768) or large (24 of 1024).
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    pub size: Option<Size>,
    /// Width of the model (`-hs` of the reference) [default: 256].
    #[arg(short = 'H', long, value_name = "N")]
    pub hidden: Option<usize>,
    /// Transformer blocks [default: 8].
    #[arg(short = 'l', long, value_name = "N")]
    pub layers: Option<usize>,
    /// Attention heads; divides the width [default: 8].
    #[arg(short = 'a', long, value_name = "N", alias = "attn_heads")]
    pub attn_heads: Option<usize>,
    /// Rate of every dropout layer [default: 0.1].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub dropout: Option<f32>,
    /// How weights start [default: xavier; with --arch bert: bert; --preset reference: torch].
    #[arg(long, value_name = "HOW")]
    pub initializer: Option<Init>,
    /// Which model is trained [default: bert for subword tokenizers, reference for words and characters].
    #[arg(long, value_name = "NAME")]
    pub arch: Option<Arch>,
}

/// The published sizes of BERT: base and large of Devlin et al. 2018 (section 3), the others of Turc et al.
/// 2019 (table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    Tiny,
    Mini,
    Small,
    Medium,
    Base,
    Large,
}

impl Size {
    /// Layers, and their width; a head has 64 columns in all of them.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Self::Tiny => (2, 128),
            Self::Mini => (4, 256),
            Self::Small => (4, 512),
            Self::Medium => (8, 512),
            Self::Base => (12, 768),
            Self::Large => (24, 1024),
        }
    }

    /// The learning rate where none is asked for: the published 1e-4 for the two large ones; small models
    /// bear, and on a CPU's budget of steps need, more.
    pub fn lr(self) -> f64 {
        match self {
            Self::Tiny | Self::Mini => 1e-3,
            Self::Small | Self::Medium => 5e-4,
            Self::Base | Self::Large => 1e-4,
        }
    }
}

/// How the model is trained.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingFlags {
    /// Samples of a batch [default: 64].
    #[arg(short = 'b', long, value_name = "N", alias = "batch_size", value_parser = positive)]
    pub batch_size: Option<u64>,
    /// Batches of a step, whose gradients are added up [default: 1].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub accumulate: Option<u64>,
    /// Stop after so many epochs [default: 10, without --steps].
    #[arg(short = 'e', long, value_name = "N", value_parser = positive)]
    pub epochs: Option<u64>,
    /// Stop after so many steps.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub steps: Option<u64>,
    /// Width of a batch: its longest sample, always --seq-len, or --seq-len with as many samples in a row as fit
    /// (packed) [default: longest; reference: fixed].
    #[arg(long, value_name = "HOW")]
    pub pad: Option<PadTo>,
    /// Peak learning rate. The reference's schedule, which there ignores it, is scaled by its ratio to
    /// 1e-3 [default: 1e-3; --size small, medium: 5e-4; base, large, and --init: 1e-4].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub lr: Option<f64>,
    /// Course of the learning rate [default: linear; reference: reference].
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<ScheduleKind>,
    /// Steps until the learning rate's peak [default: a tenth of all, at most 10000; reference's schedule:
    /// 10000].
    #[arg(long, value_name = "N", alias = "warmup-steps")]
    pub warmup: Option<u64>,
    /// Update rule [default: adamw; reference: adam].
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<OptimizerKind>,
    /// Weight decay: decoupled with adamw, an L2 term with adam [default: 0.01].
    #[arg(long, value_name = "X", alias = "adam_weight_decay", allow_negative_numbers = true)]
    pub adam_weight_decay: Option<f64>,
    /// Decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X", alias = "adam_beta1", allow_negative_numbers = true)]
    pub adam_beta1: Option<f64>,
    /// Decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X", alias = "adam_beta2", allow_negative_numbers = true)]
    pub adam_beta2: Option<f64>,
    /// Added to the root of the second moment [default: 1e-8].
    #[arg(long, value_name = "X", alias = "adam_epsilon", allow_negative_numbers = true)]
    pub adam_epsilon: Option<f64>,
    /// Gradient norm above which gradients are scaled down; 0 never does [default: 1; reference: 0].
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip: Option<f64>,
    /// What becomes of a step whose loss is far above those before: six deviations of the last 128 steps, and half a
    /// nat. Five in a row lead back to the newest checkpoint [default: skip; reference: keep].
    #[arg(long, value_name = "WHAT")]
    pub spikes: Option<OnSpike>,
    /// Leave out the batches of steps A to B-1 (A..B) or A to B (A..=B), where the loss had a spike: they take their
    /// place in the schedule and change no weight. May be given more than once.
    #[arg(long, value_name = "A..B", action = clap::ArgAction::Append)]
    pub skip_steps: Vec<Steps>,
}

/// What to do with a spike of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnSpike {
    /// Leave its update out.
    Skip,
    /// Make it, as any other.
    Keep,
}

/// What changes no weight.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Run")]
pub struct RuntimeFlags {
    /// Threads that build samples; 0 builds them between the steps [default: a quarter of the cores].
    #[arg(short = 'w', long, value_name = "N", aliases = ["num_workers", "num-workers"],
          value_parser = workers)]
    pub workers: Option<usize>,
    /// Steps between two records [default: 10].
    #[arg(long, value_name = "N", alias = "log_freq", value_parser = positive)]
    pub log_freq: Option<u64>,
    /// Evaluate every N steps too, not only at each epoch's end.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub eval_every: Option<u64>,
    /// Evaluate on the first N lines of the test text only.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub eval_lines: Option<u64>,
    /// Save a checkpoint every N steps too, so that a crash in a long epoch costs little; 0: only at each
    /// epoch's end [default: 1000].
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Keep the newest N checkpoints, and the best [default: 3].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub keep: Option<u64>,
    #[command(flatten)]
    pub ram: RamFlag,
}

/// What is written for TensorBoard.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "TensorBoard")]
pub struct TensorBoardFlags {
    /// Write event files that TensorBoard reads, into this directory [default: tensorboard in the run's].
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub tensorboard: Option<Option<PathBuf>>,
    /// Steps between two histograms of every weight and gradient, each a copy of all weights; 0: none [default: 500].
    #[arg(long, value_name = "N")]
    pub histogram_every: Option<u64>,
    /// Steps between two looks at the same examples and what is predicted there; 0: none [default: 100].
    #[arg(long, value_name = "N")]
    pub examples_every: Option<u64>,
}

impl TensorBoardFlags {
    /// What is written: these flags over those of a run begun.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] where something is asked of what is not written.
    pub fn over(&self, base: Option<TensorBoard>) -> Result<Option<TensorBoard>> {
        let fresh = || TensorBoard { directory: None, histogram_every: Some(500), examples_every: Some(100) };
        let Some(base) = base.or_else(|| self.tensorboard.is_some().then(fresh)) else {
            let asked = [("histogram", self.histogram_every), ("examples", self.examples_every)];
            return match asked.into_iter().find_map(|(name, steps)| Some((name, steps?))) {
                Some((name, n)) => Err(Error::usage(format!("--{name}-every {n} needs --tensorboard"))),
                None => Ok(None),
            };
        };
        let every = |flag: Option<u64>, base: Option<u64>| flag.map_or(base, |n| (n > 0).then_some(n));
        let directory = match &self.tensorboard {
            Some(directory) => directory.clone(),
            None => base.directory,
        };
        Ok(Some(TensorBoard {
            directory,
            histogram_every: every(self.histogram_every, base.histogram_every),
            examples_every: every(self.examples_every, base.examples_every),
        }))
    }
}

/// What computes. Shared with `eval`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Compute")]
pub struct ComputeFlags {
    /// Implementation of the model [default: fused].
    #[arg(long, value_name = "NAME")]
    pub engine: Option<EngineKind>,
    /// auto, cpu or cuda:N; auto is the first GPU where there is one [default: auto].
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub device: Option<DeviceFlag>,
    /// What matrix products compute in: f32, or bf16 with sums in f32, several times as fast on GPUs and on processors
    /// with instructions for it [default: f32].
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    pub precision: Option<Precision>,
    /// Threads of the arithmetic [default: the cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// On a GPU, compute a block's activations again in the backward pass: the same numbers in less memory, a third
    /// more time.
    #[arg(long)]
    pub recompute: bool,
    /// The reference's spelling of `--device auto` (true) and `--device cpu` (false).
    #[arg(long, alias = "with_cuda", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set,
          conflicts_with = "device", hide = true)]
    pub with_cuda: Option<bool>,
    /// The reference's list of CUDA devices: here one.
    #[arg(long, alias = "cuda_devices", value_name = "N", num_args = 1.., conflicts_with = "device",
          hide = true)]
    pub cuda_devices: Option<Vec<usize>>,
}

/// What `--device` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFlag {
    Auto,
    Chosen(DeviceChoice),
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("0 is too few: at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("a whole number is needed".to_owned()),
    }
}

fn device(text: &str) -> Result<DeviceFlag, String> {
    match text {
        "auto" => Ok(DeviceFlag::Auto),
        _ => text.parse().map(DeviceFlag::Chosen),
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that build samples where nothing is asked for: building is cheap beside training.
pub fn default_workers() -> usize {
    cores().div_ceil(4).min(8)
}

impl ComputeFlags {
    /// What computes, and in how many threads: these flags over those of a run begun, where there is one.
    pub fn over(&self, base: Option<Compute>) -> Result<(Compute, usize)> {
        let engine = self.engine.or(base.map(|b| b.engine)).unwrap_or_default();
        let precision = self.precision.or(base.map(|b| b.precision)).unwrap_or_default();
        let device = match (self.device, self.with_cuda, self.cuda_devices.as_deref()) {
            (Some(DeviceFlag::Chosen(device)), ..) => device,
            (_, Some(false), _) => DeviceChoice::Cpu,
            (_, _, Some([one])) => DeviceChoice::Cuda(*one),
            (_, _, Some(many)) => {
                return Err(Error::usage(format!("--cuda-devices names {}: one can be used", many.len())));
            }
            (Some(DeviceFlag::Auto), ..) | (_, Some(true), _) => DeviceChoice::auto(engine),
            (None, None, None) => base.map_or_else(|| DeviceChoice::auto(engine), |b| b.device),
        };
        let recompute = self.recompute || base.is_some_and(|b| b.recompute && device == b.device);
        Ok((Compute { engine, device, precision, recompute }, self.threads.unwrap_or_else(cores)))
    }
}
