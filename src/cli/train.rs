//! `bertstream train`: a new run, or one that goes on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::flags::{Preset, ReadingFlags, SampleFlags, corpus_at};
use crate::collate::{CollateConfig, PadTo};
use crate::corpus::{self, Corpus, CorpusConfig};
use crate::model::{Engine, Init, Layout, ModelConfig, Optimizer, OptimizerKind};
use crate::pipeline::Plan;
use crate::sample::{Cursor, PairTask, SampleConfig};
use crate::train::checkpoint::{self, Checkpoint, Progress};
use crate::train::config::{FORMAT, hex};
use crate::train::evaluate::{OneEpoch, evaluation_samples};
use crate::train::run_dir::{CONFIG, METRICS, VOCAB};
use crate::train::schedule::{REFERENCE_LR, default_warmup};
use crate::train::{
    BatchSource, DataConfig, DeviceChoice, Ending, EngineKind, EpochShape, EvaluationRecord, Length,
    MetricsFile, Observer, Record, RunConfig, RunDir, Runtime, Schedule, ScheduleKind, StepRecord, Stop,
    Trainer, Unigram, engine, memory,
};
use crate::vocab::{self, Tokenizer};
use crate::{Error, ErrorKind, Result};

mod stop;
mod terminal;

pub use terminal::percent;

/// Flags of `train`. Those left out come from the preset, or on `--resume` from the run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Text to train on: two sentences a line, a tab between.
    #[arg(short = 'c', long, value_name = "FILE", required_unless_present = "resume",
          aliases = ["train_dataset", "train-dataset", "corpus_path", "corpus-path"])]
    corpus: Option<PathBuf>,
    /// Text to evaluate on after each epoch, held out from training.
    #[arg(short = 't', long, value_name = "FILE", aliases = ["test_dataset", "test-dataset"])]
    test: Option<PathBuf>,
    /// Vocabulary made by `bertstream vocab`.
    #[arg(short = 'v', long, value_name = "FILE", required_unless_present = "resume",
          aliases = ["vocab_path", "vocab-path"])]
    vocab: Option<PathBuf>,
    /// Directory of the run, which is made.
    #[arg(short = 'o', long, value_name = "DIR", required_unless_present = "resume",
          aliases = ["output_path", "output-path"])]
    output: Option<PathBuf>,
    /// Go on with the run in this directory, under its own configuration: the weights become those of a
    /// run that was never stopped. Only what changes no weight may be chosen anew, and --steps or
    /// --epochs, which lay out the schedule anew.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "preset"])]
    resume: Option<PathBuf>,
    /// Defaults of all other flags [default: default].
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,

    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    sample: SampleFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
    #[command(flatten)]
    compute: ComputeFlags,

    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// The shape of the model.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Width of the model (`-hs` of the reference) [default: 256].
    #[arg(short = 'H', long, value_name = "N")]
    hidden: Option<usize>,
    /// Transformer blocks [default: 8].
    #[arg(short = 'l', long, value_name = "N")]
    layers: Option<usize>,
    /// Attention heads; divides the width [default: 8].
    #[arg(short = 'a', long, value_name = "N", alias = "attn_heads")]
    attn_heads: Option<usize>,
    /// Rate of every dropout layer [default: 0.1].
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    /// How weights start [default: xavier; reference: torch].
    #[arg(long, value_name = "HOW")]
    init: Option<Init>,
}

/// How the model is trained.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingFlags {
    /// Samples of a batch [default: 64].
    #[arg(short = 'b', long, value_name = "N", alias = "batch_size", value_parser = positive)]
    batch_size: Option<u64>,
    /// Batches of a step, whose gradients are added up [default: 1].
    #[arg(long, value_name = "N", value_parser = positive)]
    accumulate: Option<u64>,
    /// Stop after so many epochs [default: 10, without --steps].
    #[arg(short = 'e', long, value_name = "N", value_parser = positive)]
    epochs: Option<u64>,
    /// Stop after so many steps.
    #[arg(long, value_name = "N", value_parser = positive)]
    steps: Option<u64>,
    /// Width of a batch: its longest sample, or always --seq-len [default: longest; reference: fixed].
    #[arg(long, value_name = "HOW")]
    pad: Option<PadTo>,
    /// Peak learning rate. The reference's schedule, which there ignores it, is scaled by its ratio to
    /// 1e-3 [default: 1e-3].
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Course of the learning rate [default: linear; reference: reference].
    #[arg(long, value_name = "NAME")]
    schedule: Option<ScheduleKind>,
    /// Steps until the learning rate's peak [default: a tenth of all, at most 10000; reference's schedule:
    /// 10000].
    #[arg(long, value_name = "N", alias = "warmup-steps")]
    warmup: Option<u64>,
    /// Update rule [default: adamw; reference: adam].
    #[arg(long, value_name = "NAME")]
    optimizer: Option<OptimizerKind>,
    /// Weight decay: decoupled with adamw, an L2 term with adam [default: 0.01].
    #[arg(long, value_name = "X", alias = "adam_weight_decay")]
    adam_weight_decay: Option<f64>,
    /// Decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X", alias = "adam_beta1")]
    adam_beta1: Option<f64>,
    /// Decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X", alias = "adam_beta2")]
    adam_beta2: Option<f64>,
    /// Added to the root of the second moment [default: 1e-8].
    #[arg(long, value_name = "X", alias = "adam_epsilon")]
    adam_epsilon: Option<f64>,
    /// Gradient norm above which gradients are scaled down; 0 never does [default: 1; reference: 0].
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
}

/// What changes no weight.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Run")]
pub struct RuntimeFlags {
    /// Threads that build samples; 0 builds them between the steps [default: a quarter of the cores].
    #[arg(short = 'w', long, value_name = "N", aliases = ["num_workers", "num-workers"])]
    workers: Option<usize>,
    /// Steps between two records [default: 10].
    #[arg(long, value_name = "N", alias = "log_freq", value_parser = positive)]
    log_freq: Option<u64>,
    /// Evaluate every N steps too, not only at each epoch's end.
    #[arg(long, value_name = "N", value_parser = positive)]
    eval_every: Option<u64>,
    /// Evaluate on the first N lines of the test text only.
    #[arg(long, value_name = "N", value_parser = positive)]
    eval_lines: Option<u64>,
    /// Save a checkpoint every N steps too, not only at each epoch's end.
    #[arg(long, value_name = "N", value_parser = positive)]
    save_every: Option<u64>,
    /// Keep the newest N checkpoints, and the best [default: 3].
    #[arg(long, value_name = "N", value_parser = positive)]
    keep: Option<u64>,
}

/// What computes. Shared with `eval`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Compute")]
pub struct ComputeFlags {
    /// Implementation of the model [default: fused].
    #[arg(long, value_name = "NAME")]
    pub engine: Option<EngineKind>,
    /// auto, cpu or cuda:N; CUDA with --engine graph [default: auto].
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub device: Option<DeviceFlag>,
    /// Threads of the arithmetic [default: the cores].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<u64>,
    /// The reference's spelling of `--device auto` (true) and `--device cpu` (false).
    #[arg(long, alias = "with_cuda", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set,
          conflicts_with = "device", hide = true)]
    with_cuda: Option<bool>,
    /// The reference's list of CUDA devices: here one.
    #[arg(long, alias = "cuda_devices", value_name = "N", num_args = 1.., conflicts_with = "device",
          hide = true)]
    cuda_devices: Option<Vec<usize>>,
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
    /// Engine, device and threads: these flags over those of a run begun, where there is one.
    pub fn over(
        &self,
        base: Option<(EngineKind, DeviceChoice)>,
    ) -> Result<(EngineKind, DeviceChoice, usize)> {
        let kind = self.engine.or(base.map(|b| b.0)).unwrap_or_default();
        let device = match (self.device, self.with_cuda, self.cuda_devices.as_deref()) {
            (Some(DeviceFlag::Chosen(device)), ..) => device,
            (_, Some(false), _) => DeviceChoice::Cpu,
            (_, _, Some([one])) => DeviceChoice::Cuda(*one),
            (_, _, Some(many)) => {
                return Err(Error::usage(format!("--cuda-devices names {}: one can be used", many.len())));
            }
            (Some(DeviceFlag::Auto), ..) | (_, Some(true), _) => DeviceChoice::auto(kind),
            (None, None, None) => base.map_or_else(|| DeviceChoice::auto(kind), |b| b.1),
        };
        engine::check(kind, device)?;
        Ok((kind, device, self.threads.map_or_else(cores, |n| n as usize)))
    }
}

/// What a run reads, opened.
pub struct Opened {
    pub tokenizer: Box<dyn Tokenizer>,
    pub corpus: Box<dyn Corpus>,
    pub test: Option<Box<dyn Corpus>>,
}

impl Opened {
    /// Opens the corpora; indexes them first where that has not been done.
    pub fn open(
        tokenizer: Box<dyn Tokenizer>,
        corpus: &CorpusConfig,
        test: Option<&CorpusConfig>,
    ) -> Result<Self> {
        if tokenizer.ordinary_len() == 0 {
            return Err(Error::data("vocabulary: it holds no word: build it with `bertstream vocab`"));
        }
        Ok(Self { tokenizer, corpus: corpus::open(corpus)?, test: test.map(corpus::open).transpose()? })
    }

    /// The pipeline of the training corpus.
    pub fn plan<'p>(&'p self, config: &'p RunConfig, workers: usize) -> Plan<'p> {
        Plan { corpus: &*self.corpus, tokenizer: &*self.tokenizer, sample: &config.sample, workers }
    }

    /// What of the configuration follows from what was opened.
    pub fn data(&self, corpus: CorpusConfig, test: Option<CorpusConfig>, vocab: PathBuf) -> DataConfig {
        DataConfig {
            corpus,
            corpus_fingerprint: hex(self.corpus.fingerprint()),
            documents: self.corpus.len(),
            test,
            test_fingerprint: self.test.as_ref().map(|t| hex(t.fingerprint())),
            vocab,
            vocab_fingerprint: hex(self.tokenizer.fingerprint()),
        }
    }
}

/// The configuration of a new run that gives no flag.
pub fn defaults(preset: Preset, data: DataConfig, tokenizer: &dyn Tokenizer) -> RunConfig {
    let reference = preset == Preset::Reference;
    let sample = if reference { SampleConfig::reference() } else { SampleConfig::default() };
    let hidden = 256;
    RunConfig {
        format: FORMAT,
        data,
        collate: CollateConfig {
            batch_size: 64,
            seq_len: sample.seq_len,
            pad_to: if reference { PadTo::Fixed } else { PadTo::Longest },
            pad_id: tokenizer.specials().pad,
        },
        sample,
        model: ModelConfig {
            vocab_size: tokenizer.len(),
            hidden,
            layers: 8,
            heads: 8,
            dropout: 0.1,
            init: if reference { Init::Torch } else { Init::default() },
        },
        optimizer: Optimizer {
            kind: if reference { OptimizerKind::Adam } else { OptimizerKind::Adamw },
            ..Optimizer::default()
        },
        schedule: Schedule {
            kind: if reference { ScheduleKind::Reference } else { ScheduleKind::Linear },
            lr: REFERENCE_LR,
            warmup: 0,
            hidden,
        },
        accumulate: 1,
        clip: (!reference).then_some(1.0),
        engine: EngineKind::Fused,
        device: DeviceChoice::Cpu,
        length: Length { epochs: None, steps: None, total: 0 },
        runtime: Runtime {
            workers: default_workers(),
            threads: cores(),
            log_freq: 10,
            eval_every: None,
            save_every: None,
            keep: 3,
        },
    }
}

impl Args {
    /// These flags over a configuration. `resumed` tells whether that is of a run already begun, whose
    /// length and warm-up hold where no flag says otherwise.
    fn over(&self, base: RunConfig, resumed: bool) -> Result<RunConfig> {
        let (model, training, runtime) = (&self.model, &self.training, &self.runtime);
        let sample = self.sample.over(base.sample);
        let size = |flag: Option<u64>, base: usize| flag.map_or(base, |n| n as usize);
        let collate = CollateConfig {
            batch_size: size(training.batch_size, base.collate.batch_size),
            seq_len: sample.seq_len,
            pad_to: training.pad.unwrap_or(base.collate.pad_to),
            pad_id: base.collate.pad_id,
        };
        let accumulate = size(training.accumulate, base.accumulate);
        let shape = EpochShape {
            documents: base.data.documents,
            batch_size: collate.batch_size as u64,
            accumulate: accumulate as u64,
        };
        let length = match (training.epochs, training.steps) {
            (None, None) if resumed => base.length,
            (epochs, steps) => Length::new(epochs, steps, shape),
        };
        let hidden = model.hidden.unwrap_or(base.model.hidden);
        let kind = training.schedule.unwrap_or(base.schedule.kind);
        let (engine, device, threads) = self.compute.over(resumed.then_some((base.engine, base.device)))?;
        let config = RunConfig {
            format: base.format,
            data: base.data,
            sample,
            collate,
            model: ModelConfig {
                vocab_size: base.model.vocab_size,
                hidden,
                layers: model.layers.unwrap_or(base.model.layers),
                heads: model.attn_heads.unwrap_or(base.model.heads),
                dropout: model.dropout.unwrap_or(base.model.dropout),
                init: model.init.unwrap_or(base.model.init),
            },
            optimizer: Optimizer {
                kind: training.optimizer.unwrap_or(base.optimizer.kind),
                beta1: training.adam_beta1.unwrap_or(base.optimizer.beta1),
                beta2: training.adam_beta2.unwrap_or(base.optimizer.beta2),
                epsilon: training.adam_epsilon.unwrap_or(base.optimizer.epsilon),
                weight_decay: training.adam_weight_decay.unwrap_or(base.optimizer.weight_decay),
            },
            schedule: Schedule {
                kind,
                lr: training.lr.unwrap_or(base.schedule.lr),
                warmup: match training.warmup {
                    Some(warmup) => warmup,
                    None if resumed => base.schedule.warmup,
                    None => default_warmup(kind, length.total),
                },
                hidden,
            },
            accumulate,
            clip: match training.clip {
                None => base.clip,
                Some(0.0) => None,
                Some(norm) => Some(norm),
            },
            engine,
            device,
            length,
            runtime: Runtime {
                workers: runtime.workers.unwrap_or(base.runtime.workers),
                threads,
                log_freq: runtime.log_freq.unwrap_or(base.runtime.log_freq),
                eval_every: runtime.eval_every.or(base.runtime.eval_every),
                save_every: runtime.save_every.or(base.runtime.save_every),
                keep: size(runtime.keep, base.runtime.keep),
            },
        };
        check(&config)?;
        Ok(config)
    }

    /// The corpus and the test corpus that these flags name, over those of a run.
    fn corpora(&self, base: Option<&DataConfig>) -> Result<(CorpusConfig, Option<CorpusConfig>)> {
        // Elsewhere, the index lies elsewhere too.
        let moved = |path: &Path, base: &CorpusConfig| CorpusConfig {
            path: path.to_owned(),
            index_dir: corpus_at(path).index_dir,
            ..base.clone()
        };
        let base_corpus = match (&self.corpus, base) {
            (Some(path), Some(data)) => moved(path, &data.corpus),
            (None, Some(data)) => data.corpus.clone(),
            (Some(path), None) => corpus_at(path),
            (None, None) => return Err(Error::usage("--corpus is missing")),
        };
        let corpus = self.reading.over(base_corpus);
        let test = match (&self.test, base.and_then(|data| data.test.as_ref())) {
            (Some(path), Some(test)) => Some(moved(path, test)),
            (Some(path), None) => Some(corpus_at(path)),
            (None, test) => test.cloned(),
        };
        // How bytes are reached and decoded goes for both texts; of how many lines, each has its own flag.
        let test = test.map(|test| CorpusConfig {
            path: test.path,
            io: corpus.io,
            lines: self.runtime.eval_lines.or(test.lines),
            encoding: corpus.encoding.clone(),
            index_dir: self.reading.index_dir.clone().or(test.index_dir),
        });
        Ok((corpus, test))
    }
}

/// Refuses what cannot be trained, before anything is written.
pub fn check(config: &RunConfig) -> Result<()> {
    config.model.check()?;
    let Optimizer { beta1, beta2, epsilon, weight_decay, .. } = config.optimizer;
    let at_least = |flag: &str, value: f64, wanted: &str, fine: bool| match fine && value.is_finite() {
        true => Ok(()),
        false => Err(Error::usage(format!("{flag} {value} must be {wanted}"))),
    };
    at_least("--lr", config.schedule.lr, "above 0", config.schedule.lr > 0.0)?;
    at_least("--adam-beta1", beta1, "in 0..1", (0.0..1.0).contains(&beta1))?;
    at_least("--adam-beta2", beta2, "in 0..1", (0.0..1.0).contains(&beta2))?;
    at_least("--adam-epsilon", epsilon, "above 0", epsilon > 0.0)?;
    at_least("--adam-weight-decay", weight_decay, "0 or more", weight_decay >= 0.0)?;
    let clip = config.clip.unwrap_or(1.0);
    at_least("--clip", clip, "0 (off) or more", clip > 0.0)?;
    if config.data.documents < 2 && config.sample.pair == PairTask::Nsp {
        return Err(Error::data(format!(
            "corpus {}: {} document(s), and a pair that is not next needs two: give more text, or --pair none",
            config.data.corpus.path.display(),
            config.data.documents
        )));
    }
    match config.length.total {
        0 => Err(Error::data(format!("corpus {}: no document", config.data.corpus.path.display()))),
        _ => Ok(()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    match &args.resume {
        Some(directory) => resume(args, directory),
        None => start(args),
    }
}

fn start(args: &Args) -> Result<()> {
    let (Some(vocab), Some(output)) = (&args.vocab, &args.output) else {
        return Err(Error::usage("a new run needs --vocab and --output"));
    };
    let (corpus, test) = args.corpora(None)?;
    let opened = Opened::open(vocab::load(vocab)?, &corpus, test.as_ref())?;
    let data = opened.data(corpus, test, vocab.clone());
    let base = defaults(args.preset.unwrap_or_default(), data, &*opened.tokenizer);
    let config = args.over(base, false)?;
    let tokens_per_sample = survey(&config, &opened)?;
    let run = begin(&config, &opened, output)?;
    if !args.quiet {
        introduce(&config, &opened, &run, tokens_per_sample);
    }
    let done = execute(&config, &opened, &run, None, args.quiet)?;
    conclude(&config, &run, &done, args.json)
}

/// Makes the directory of a new run, with all that is in it before the first step.
pub fn begin(config: &RunConfig, opened: &Opened, output: &Path) -> Result<RunDir> {
    let run = RunDir::create(output)?;
    opened.tokenizer.save(&run.file(VOCAB))?;
    run.write_config(config)?;
    Ok(run)
}

fn resume(args: &Args, directory: &Path) -> Result<()> {
    let run = RunDir::resume(directory)?;
    let stored = RunConfig::read(&run.file(CONFIG))?;
    let (corpus, test) = args.corpora(Some(&stored.data))?;
    let vocab = args.vocab.clone().unwrap_or_else(|| run.file(VOCAB));
    let opened = Opened::open(vocab::load(&vocab)?, &corpus, test.as_ref())?;
    let base = RunConfig {
        data: opened.data(corpus, test, stored.data.vocab.clone()),
        model: ModelConfig { vocab_size: opened.tokenizer.len(), ..stored.model.clone() },
        ..stored.clone()
    };
    let config = args.over(base, true)?;
    stored.accept(&config)?;
    let layout = Layout::reference(&config.model);
    let (found, refused) = checkpoint::load_newest(&run.checkpoints(), &layout, &config.fingerprint())?;
    let step = found.as_ref().map_or(0, |c| c.manifest.progress.step);
    if !refused.is_empty() {
        eprintln!("{} damaged checkpoint(s) left out: {}", refused.len(), join(&refused));
    }
    eprintln!("{} goes on after step {step}", directory.display());
    if config.length != stored.length {
        eprintln!(
            "{} steps in all instead of {}: the learning rate from here on differs from the first plan's",
            config.length.total, stored.length.total
        );
    }
    if config != stored {
        run.write_config(&config)?;
    }
    if !args.quiet {
        introduce(&config, &opened, &run, survey(&config, &opened)?);
    }
    let done = execute(&config, &opened, &run, found, args.quiet)?;
    conclude(&config, &run, &done, args.json)
}

fn join(errors: &[Error]) -> String {
    errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

/// A training that came to an end.
pub struct Done {
    pub ending: Ending,
    pub progress: Progress,
    pub engine: Box<dyn Engine>,
    pub last_step: Option<StepRecord>,
    pub last_test: Option<EvaluationRecord>,
}

/// Keeps the newest record of each kind.
#[derive(Default)]
struct Newest {
    step: Option<StepRecord>,
    test: Option<EvaluationRecord>,
}

impl Observer for Newest {
    fn recorded(&mut self, record: &Record) {
        match record {
            Record::Step(r) => self.step = Some(r.clone()),
            Record::Evaluation(r) => self.test = Some(r.clone()),
            Record::SkippedUpdate { .. } | Record::Checkpoint { .. } | Record::CheckpointFailed { .. } => {}
        }
    }
}

/// Trains to the end, from a checkpoint or from fresh weights.
pub fn execute(
    config: &RunConfig,
    opened: &Opened,
    run: &RunDir,
    from: Option<Checkpoint>,
    quiet: bool,
) -> Result<Done> {
    let signals = stop::Signals::listen()?;
    let layout = Layout::reference(&config.model);
    let weights = match &from {
        // Replaced as a whole below.
        Some(_) => vec![0.0; layout.len()],
        None => layout.initial_weights(config.sample.seed),
    };
    let plan = opened.plan(config, config.runtime.workers);
    let progress = from.as_ref().map(|c| c.manifest.progress.clone()).unwrap_or_default();
    let mut engine = engine::build(
        config.engine,
        config.device,
        &config.model,
        config.optimizer,
        weights,
        config.runtime.threads,
    )?;
    if let Some(checkpoint) = from {
        engine.restore(checkpoint.state)?;
    }
    let unigram = Unigram::new(&*opened.tokenizer, config.sample.predict_unknown);
    let test_samples = evaluation_samples(&config.sample);
    let test_collate = CollateConfig { pad_to: PadTo::Longest, ..config.collate.clone() };
    let test = opened.test.as_deref().map(|corpus| OneEpoch {
        plan: Plan { corpus, sample: &test_samples, ..plan },
        collate: &test_collate,
    });
    let mut metrics = MetricsFile::open(&run.file(METRICS), progress.step)?;
    let mut terminal = terminal::Terminal::new(quiet, progress.step, config.length.total);
    let mut newest = Newest::default();
    let started = Instant::now();
    let cursor = progress.cursor;
    let mut trainer = Trainer {
        engine: &mut *engine,
        config,
        run,
        progress,
        test: test.as_ref().map(|t| t as &dyn BatchSource),
        unigram: unigram.as_ref(),
        observers: vec![&mut metrics, &mut terminal, &mut newest],
        clock: &|| started.elapsed(),
        stop: &|| signals.request(),
    };
    let epochs = config.length.epochs.unwrap_or(u64::MAX);
    let ending = plan.batches(&config.collate, cursor, epochs, |batches| trainer.run(batches))?;
    let progress = trainer.progress;
    Ok(Done { ending, progress, engine, last_step: newest.step, last_test: newest.test })
}

/// Tokens of a sample, from the first batches: they prove that samples can be made of the corpus, before
/// anything is written.
pub fn survey(config: &RunConfig, opened: &Opened) -> Result<f64> {
    const SURVEYED: usize = 4;
    let plan = opened.plan(config, 0);
    let (rows, tokens) = plan.batches(&config.collate, Cursor::default(), 1, |batches| {
        let mut sum = (0, 0);
        for batch in batches.take(SURVEYED) {
            let batch = batch?;
            sum = (sum.0 + batch.rows, sum.1 + batch.tokens());
        }
        Ok(sum)
    })?;
    if rows == 0 {
        return Err(Error::data(format!(
            "corpus {}: no sample can be made of it; `bertstream corpus --check` tells why",
            config.data.corpus.path.display()
        )));
    }
    Ok(tokens as f64 / rows as f64)
}

/// Tells what is about to happen.
pub fn introduce(config: &RunConfig, opened: &Opened, run: &RunDir, tokens_per_sample: f64) {
    let documents = config.data.documents;
    let shape = EpochShape {
        documents,
        batch_size: config.collate.batch_size as u64,
        accumulate: config.accumulate as u64,
    };
    let layout = Layout::reference(&config.model);
    let state = memory::parameter_bytes(layout.len());
    let batch = memory::activation_bytes(&config.model, config.collate.batch_size, config.collate.seq_len);
    let Runtime { workers, threads, .. } = config.runtime;
    eprintln!(
        "model     {:.2} M parameters: {} words, hidden {}, {} layers, {} heads",
        layout.len() as f64 / 1e6,
        config.model.vocab_size,
        config.model.hidden,
        config.model.layers,
        config.model.heads
    );
    eprintln!(
        "data      {}: {documents} samples and about {:.2} M tokens an epoch ({tokens_per_sample:.1} a sample)",
        config.data.corpus.path.display(),
        documents as f64 * tokens_per_sample / 1e6
    );
    if let (Some(test), Some(path)) = (&opened.test, &config.data.test) {
        eprintln!("test      {}: {} samples", path.path.display(), test.len());
    }
    eprintln!(
        "length    {} steps of {} x {} samples, {} an epoch, warm-up {}",
        config.length.total,
        config.accumulate,
        config.collate.batch_size,
        shape.steps(),
        config.schedule.warmup
    );
    eprintln!(
        "compute   {:?} engine on {}, {threads} threads, {workers} workers; about {} MiB of memory",
        config.engine,
        config.device,
        (state + batch) >> 20
    );
    eprintln!("run       {}", run.path().display());
}

/// Tells what was made and what to type next.
fn conclude(config: &RunConfig, run: &RunDir, done: &Done, json: bool) -> Result<()> {
    let directory = run.path().display();
    let Progress { step, tokens, samples, skipped_updates, digest, best, .. } = &done.progress;
    if let Ending::Stopped(stop) = done.ending {
        let saved = if *step > 0 { "a checkpoint is saved" } else { "nothing was learnt yet" };
        return Err(Error::new(
            ErrorKind::Stopped { interrupt: stop == Stop::Interrupt },
            format!(
                "stopped by a signal after step {step} of {}; {saved}; go on with `bertstream train --resume \
                 {directory}`",
                config.length.total
            ),
        ));
    }
    if json {
        let summary = serde_json::json!({
            "run": run.path(),
            "step": step,
            "tokens": tokens,
            "samples": samples,
            "skipped_updates": skipped_updates,
            "digest": digest,
            "best": best,
            "train": done.last_step.as_ref().map(|r| &r.figures),
            "test": done.last_test.as_ref().map(|r| &r.figures),
        });
        println!("{summary}");
        return Ok(());
    }
    println!("{directory}: step {step}, {samples} samples, {tokens} tokens, batches {digest}");
    if *skipped_updates > 0 {
        println!("{skipped_updates} updates skipped: their gradient was not finite");
    }
    if let Some(best) = best {
        println!("best on the test corpus: loss {:.4} after step {}", best.loss, best.step);
    }
    println!("weights for PyTorch: {directory}/model.safetensors");
    match &config.data.test {
        Some(test) => println!("next: bertstream eval --run {directory} --corpus {}", test.path.display()),
        None => println!("next: bertstream eval --run {directory} --corpus HELD-OUT-FILE"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::sample::{MaskCount, Shuffle, Truncate};
    use crate::vocab::WordVocab;

    /// Every flag of the reference's `bert`, spelled as there (but `-hs`, which is `-H` here).
    #[test]
    fn the_reference_s_command_line_is_understood() {
        let short = "bertstream train -c a -t b -v c -o d -H 64 -l 2 -a 4 -s 20 -b 32 -e 3 -w 5 --lr 0.001 \
                     --adam_weight_decay 0.02 --adam_beta1 0.8 --adam_beta2 0.99 --with_cuda False \
                     --log_freq 7 --corpus_lines 100 --on_memory True";
        let long = "bertstream train --train_dataset a --test_dataset b --vocab_path c --output_path d \
                    --hidden 64 --layers 2 --attn_heads 4 --seq_len 20 --batch_size 32 --epochs 3 \
                    --num_workers 5 --cuda_devices 0";
        for words in [short, long] {
            if let Err(error) = Cli::try_parse_from(words.split_whitespace()) {
                panic!("{error}");
            }
        }
    }

    #[derive(Parser)]
    struct Train {
        #[command(flatten)]
        args: Args,
    }

    /// The configuration of a run over 1000 documents and a vocabulary of 7.
    fn configure(flags: &str) -> Result<RunConfig> {
        let words = format!("train -c a.tsv -v v.json -o run {flags}");
        let args = match Train::try_parse_from(words.split_whitespace()) {
            Ok(train) => train.args,
            Err(error) => panic!("{error}"),
        };
        let vocab = WordVocab::from_texts(["one two"], None, 1);
        let (corpus, test) = args.corpora(None)?;
        let data = DataConfig {
            corpus,
            corpus_fingerprint: hex(1),
            documents: 1000,
            test,
            test_fingerprint: None,
            vocab: "v.json".into(),
            vocab_fingerprint: hex(vocab.fingerprint()),
        };
        args.over(defaults(args.preset.unwrap_or_default(), data, &vocab), false)
    }

    #[test]
    fn the_reference_preset_is_the_reference_and_flags_come_before_it() {
        let config = configure("--preset reference").unwrap();
        assert_eq!(config.optimizer, Optimizer { kind: OptimizerKind::Adam, ..Optimizer::default() });
        assert_eq!((config.clip, config.model.init, config.accumulate), (None, Init::Torch, 1));
        assert_eq!((config.model.hidden, config.model.layers, config.model.heads), (256, 8, 8));
        assert_eq!((config.collate.seq_len, config.collate.batch_size), (20, 64));
        assert_eq!((config.collate.pad_to, config.collate.pad_id), (PadTo::Fixed, 0));
        let SampleConfig { truncate, shuffle, mask_count, .. } = config.sample;
        assert_eq!((truncate, shuffle, mask_count), (Truncate::Cut, Shuffle::None, MaskCount::Bernoulli));
        // 1000 documents in batches of 64 are 16 steps, ten times; --lr as there changes nothing.
        assert_eq!(config.length.total, 160);
        assert_eq!(config.schedule.lr(100, 160), 256f64.powf(-0.5) * 100.0 * 10_000f64.powf(-1.5));
        assert_eq!(configure("--preset reference --lr 1e-3").unwrap(), config);

        let flags =
            "--preset reference --clip 2 --init bert -s 64 --pad longest --warmup 7 --optimizer adamw";
        let config = configure(flags).unwrap();
        assert_eq!((config.clip, config.model.init, config.schedule.warmup), (Some(2.0), Init::Bert, 7));
        assert_eq!((config.sample.seq_len, config.collate.seq_len), (64, 64));
        assert_eq!((config.collate.pad_to, config.optimizer.kind), (PadTo::Longest, OptimizerKind::Adamw));
    }

    #[test]
    fn what_is_not_asked_for_is_filled_in() {
        let config = configure("--steps 2000 -t test.tsv --eval-lines 50 --corpus-lines 900").unwrap();
        assert_eq!((config.length.total, config.schedule.warmup), (2000, 200));
        let test = config.data.test.unwrap();
        assert_eq!((test.lines, config.data.corpus.lines), (Some(50), Some(900)));
        assert_eq!((config.clip, config.schedule.lr), (Some(1.0), 1e-3));
        assert_eq!(configure("--clip 0").unwrap().clip, None);
    }

    #[test]
    fn flags_that_cannot_be_meant_are_refused_with_their_value() {
        for (flags, named) in [
            ("--hidden 10 -a 4", "--hidden 10"),
            ("--lr 0", "--lr 0"),
            ("--lr NaN", "--lr NaN"),
            ("--adam-beta2 1", "--adam-beta2 1"),
            ("--adam-epsilon 0", "--adam-epsilon 0"),
            ("--dropout 1", "--dropout 1"),
            ("--device cuda:0", "--device cuda:0"),
            ("--cuda-devices 0 1", "--cuda-devices"),
        ] {
            let error = configure(flags).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{flags}");
            assert!(error.to_string().contains(named), "{flags}: {error}");
        }
        for flags in ["--steps 0", "-b 0", "--accumulate 0", "--clip x", "--resume run"] {
            let words = format!("train -c a.tsv -v v.json -o run {flags}");
            assert!(Train::try_parse_from(words.split_whitespace()).is_err(), "{flags}");
        }
        assert!(Train::try_parse_from(["train", "--resume", "run", "--io", "memory"]).is_ok());
    }
}
