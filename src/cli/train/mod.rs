//! `bertstream train`: a new run, or one that goes on.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::ArgAction;

use super::bottleneck::Situation;
use super::flags::{
    Preset, ReadingFlags, SampleFlags, SourceArg, TokensFlag, is_standard_input, keep_standard_input,
    with_standard_input,
};
use super::output::tell;
use super::report;
use crate::collate::{CollateConfig, PadTo};
use crate::corpus::{Corpus, Sources};
use crate::flow::{FlowReport, Wanted};
use crate::model::{Engine, Layout, ModelConfig};
use crate::pipeline::{Gauges, Plan};
use crate::sample::positions;
use crate::train::checkpoint::{Checkpoint, Progress};
use crate::train::config::hex;
use crate::train::evaluate::{OneEpoch, evaluation_samples};
use crate::train::probe::full_batch;
use crate::train::run_dir::{self, CONFIG, FLAGS, METRICS, TOKEN_COUNTS};
use crate::train::tensorboard::Examples;
use crate::train::{
    BatchSource, DataConfig, DeviceChoice, Ending, Epoch, EvaluationRecord, EventWriter, MetricsFile,
    Observer, Record, RunConfig, RunDir, StepRecord, Survey, TensorBoard, Trainer, Unigram, baseline, engine,
    metrics,
};
use crate::vocab::{self, Tokenizer};
use crate::{Error, Result, durable};

mod configure;
mod flags;
mod init;
mod live;
mod resolved;
mod stop;
mod summary;
mod terminal;

pub use configure::{check, defaults};
pub use flags::{ComputeFlags, cores, default_workers};
use flags::{ModelFlags, RuntimeFlags, TensorBoardFlags, TrainingFlags};
pub use summary::introduce;
use summary::{already_finished, check_memory, conclude, within_ram};

/// Flags of `train`. Those left out come from the preset, or on `--resume` from the run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input and output")]
pub struct Args {
    /// Text to train on, a file or a directory of files (--corpus-format tells the formats). Several, each
    /// with this flag, are mixed; FILE:NUMBER gives each a share of the text of an epoch.
    #[arg(short = 'c', long, value_name = "FILE", required_unless_present_any = ["resume", "samples", "config"],
          action = ArgAction::Append,
          aliases = ["train_dataset", "train-dataset", "corpus_path", "corpus-path"])]
    corpus: Vec<SourceArg>,
    /// Samples to train on in place of a text, a JSON object a line, as `bertstream sample --json` prints them; `-`
    /// is standard input, which is kept in the run. They come in their order, unless --shuffle says otherwise. What
    /// else is said of samples goes for --test alone.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["corpus", "corpus_format", "tokens", "resume"])]
    samples: Option<PathBuf>,
    /// Text to evaluate on after each epoch, held out from training.
    #[arg(short = 't', long, value_name = "FILE", action = ArgAction::Append,
          aliases = ["test_dataset", "test-dataset"])]
    test: Vec<SourceArg>,
    /// Vocabulary: made by `vocab` or `tokenizer train`, or any tokenizer.json, vocab.txt, or directory with one.
    #[arg(short = 'v', long, value_name = "FILE", required_unless_present_any = ["resume", "init", "config"],
          aliases = ["vocab_path", "vocab-path"])]
    vocab: Option<PathBuf>,
    /// Directory of the run, which is made.
    #[arg(short = 'o', long, value_name = "DIR", required_unless_present_any = ["resume", "config"],
          aliases = ["output_path", "output-path"])]
    output: Option<PathBuf>,
    /// Go on with the run in this directory, under its own configuration: the weights become those of a
    /// run that was never stopped. Only what changes no weight may be chosen anew, --batch-size with --accumulate as
    /// long as a step has the same rows (then sums round otherwise), and --steps or --epochs, which lay out the
    /// schedule anew.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "preset"])]
    resume: Option<PathBuf>,
    /// Start from the weights of a BERT in this directory, as transformers' `save_pretrained` wrote it
    /// (safetensors). The model's shape is the checkpoint's; its vocabulary is, unless --vocab names another.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "initializer", "size"])]
    init: Option<PathBuf>,
    /// Defaults of all other flags [default: default].
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Take the flags that are not given here from this file: what `bertstream config` prints, or the run.toml
    /// of another run.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,

    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    tokens: TokensFlag,
    #[command(flatten)]
    sample: SampleFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
    #[command(flatten)]
    tensorboard: TensorBoardFlags,
    #[command(flatten)]
    compute: ComputeFlags,

    /// Show the run to browsers while it trains: PORT of this machine alone, or HOST:PORT.
    #[arg(long, value_name = "ADDRESS", help_heading = "Run")]
    dashboard: Option<String>,
    /// Print the summary as one line of JSON.
    #[arg(long, help_heading = "Run")]
    json: bool,
    /// Show no progress.
    #[arg(short = 'q', long, help_heading = "Run")]
    quiet: bool,
}

/// What a run reads, opened.
pub struct Opened {
    pub tokenizer: Box<dyn Tokenizer>,
    pub corpus: Box<dyn Corpus>,
    pub test: Option<Box<dyn Corpus>>,
    /// Where they come from, and all that was found out about them.
    sources: (Sources, Option<Sources>),
    /// The ids of the training corpus, where a file of them was named.
    tokens: Option<PathBuf>,
}

impl Opened {
    /// Opens the corpora; indexes them first where that has not been done. `tokens` are those of the training
    /// corpus.
    pub fn open(
        tokenizer: Box<dyn Tokenizer>,
        corpus: &Sources,
        test: Option<&Sources>,
        tokens: &TokensFlag,
    ) -> Result<Self> {
        if tokenizer.ordinary_len() == 0 {
            return Err(Error::data("vocabulary: it holds no word: build it with `bertstream vocab`"));
        }
        let (corpus, sources) = tokens.open(corpus, &*tokenizer)?;
        let beside = |test| TokensFlag::default().open(test, &*tokenizer);
        let (test, test_sources) = test.map(beside).transpose()?.unzip();
        Ok(Self { tokenizer, corpus, test, sources: (sources, test_sources), tokens: tokens.tokens.clone() })
    }

    /// The pipeline of the training corpus.
    pub fn plan<'p>(&'p self, config: &'p RunConfig, workers: usize) -> Plan<'p> {
        Plan { corpus: &*self.corpus, tokenizer: &*self.tokenizer, sample: &config.sample, workers }
    }

    /// A configuration with nothing of its samples left to the corpus.
    pub fn settle(&self, config: RunConfig) -> RunConfig {
        RunConfig { sample: config.sample.for_corpus(&*self.corpus), ..config }
    }

    /// Looks at the beginning of the training data, before anything is written.
    pub fn survey(&self, config: &RunConfig) -> Result<Survey> {
        Survey::of(self.plan(config, config.runtime.workers), &config.collate)
    }

    /// What of the configuration follows from what was opened; the epoch as if each document gave a sample.
    pub fn data(&self, vocab: PathBuf) -> DataConfig {
        let (corpus, test) = self.sources.clone();
        let documents = positions(&*self.corpus);
        DataConfig {
            corpus,
            corpus_fingerprint: hex(self.corpus.fingerprint()),
            documents,
            epoch: Epoch::counted(documents, 1),
            test,
            test_fingerprint: self.test.as_ref().map(|t| hex(t.fingerprint())),
            tokens: self.tokens.clone(),
            vocab,
            vocab_fingerprint: hex(self.tokenizer.fingerprint()),
        }
    }
}

/// Samples that came by standard input, in the run that was made of them.
const SAMPLES: &str = "samples.jsonl";

impl Args {
    /// The corpus, with samples that come by a pipe kept in the directory of the run: there they are as long as the
    /// run may want them again.
    fn keep_piped_samples(&self, corpus: Sources, output: &Path) -> Result<Sources> {
        if !self.samples.as_deref().is_some_and(is_standard_input) {
            return Ok(corpus);
        }
        // Refused before the pipe is emptied, where there is a run already.
        drop(RunDir::create(output)?);
        let kept = output.join(SAMPLES);
        keep_standard_input(&kept)?;
        with_standard_input(corpus, &kept)
    }

    /// Shows the run in `run` to browsers, where that is asked for.
    fn show(&self, run: &Path) -> Result<()> {
        self.dashboard.as_ref().map_or(Ok(()), |address| report::serve(address, run))
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
    let Some(output) = &args.output else { return Err(Error::usage("a new run needs --output DIR")) };
    if args.corpus.is_empty() && args.samples.is_none() {
        return Err(Error::usage("a new run needs --corpus FILE"));
    }
    if args.corpus.iter().chain(&args.test).any(|source| is_standard_input(&source.path)) {
        let what =
            "--corpus -: a run reads its text epoch after epoch, and again on --resume: write it to a file";
        return Err(Error::usage(what));
    }
    let vocab = init::vocabulary(args)?;
    let (corpus, test) = args.corpora(None)?;
    let corpus = args.keep_piped_samples(corpus, output)?;
    args.runtime.ram.refuse(&corpus)?;
    let opened = Opened::open(vocab::load(&vocab)?, &corpus, test.as_ref(), &args.tokens)?;
    let data = opened.data(vocab);
    let base = defaults(args.preset.unwrap_or_default(), data, &*opened.tokenizer);
    let base = init::over(args, base, &*opened.tokenizer)?;
    let base = within_ram(opened.settle(args.stages_over(base)), &opened, None)?;
    let survey = opened.survey(&base)?;
    let config = args.over(base, survey.epoch, false)?;
    check_memory(&config, &survey)?;
    let config = within_ram(config, &opened, Some(&survey))?;
    args.show(output)?;
    let run = begin(&config, &opened, &survey, output)?;
    if !args.quiet {
        introduce(&config, &opened, &run, &survey);
    }
    let done = execute(&config, &opened, &survey, &run, None, args.quiet)?;
    conclude(&config, &opened, &run, &done, args.json)
}

/// Makes the directory of a new run, with all that is in it before the first step.
pub fn begin(config: &RunConfig, opened: &Opened, survey: &Survey, output: &Path) -> Result<RunDir> {
    let run = RunDir::create(output)?;
    opened.tokenizer.save(&run.file(opened.tokenizer.file_name()))?;
    if let Some(counts) = &survey.token_counts {
        baseline::write_counts(&run.file(TOKEN_COUNTS), counts)?;
    }
    write_config(&run, config)?;
    Ok(run)
}

/// Writes down what the run was begun with, as flags and, which makes the directory a run, in full.
fn write_config(run: &RunDir, config: &RunConfig) -> Result<()> {
    durable::write_file(&run.file(FLAGS), resolved::text(config).as_bytes())?;
    run.write_config(config)
}

fn resume(args: &Args, directory: &Path) -> Result<()> {
    let run = RunDir::resume(directory)?;
    let stored = RunConfig::read(&run.file(CONFIG))?;
    let (corpus, test) = args.corpora(Some(&stored.data))?;
    let vocab = args.vocab.clone().unwrap_or_else(|| run_dir::vocabulary(directory));
    let tokens = TokensFlag { tokens: args.tokens.tokens.clone().or_else(|| stored.data.tokens.clone()) };
    let opened = Opened::open(vocab::load(&vocab)?, &corpus, test.as_ref(), &tokens)?;
    let base = RunConfig {
        data: opened.data(stored.data.vocab.clone()),
        model: ModelConfig { vocab_size: opened.tokenizer.len(), ..stored.model.clone() },
        ..stored.clone()
    };
    let base = within_ram(opened.settle(args.stages_over(base)), &opened, None)?;
    let survey = opened.survey(&base)?;
    let config = args.over(base, survey.epoch, true)?;
    stored.accept(&config)?;
    check_memory(&config, &survey)?;
    let config = within_ram(config, &opened, Some(&survey))?;
    let layout = Layout::new(&config.model);
    let (found, refused) = run.checkpoints().newest(&layout, &config.fingerprint())?;
    let step = found.as_ref().map_or(0, |c| c.manifest.progress.step);
    stored.accept_skips(&config, step)?;
    let config = RunConfig { regrouped: config.regrouped_behind(step, &stored), ..config };
    if !refused.is_empty() {
        tell(format_args!("{} damaged checkpoint(s) left out: {}", refused.len(), join(&refused)));
    }
    if let Some(checkpoint) = &found
        && is_finished(&config, &checkpoint.manifest.progress)
    {
        return already_finished(&run, &checkpoint.manifest.progress, args.json);
    }
    tell(format_args!("{} goes on after step {step}", directory.display()));
    if config.length != stored.length {
        tell(format_args!(
            "{} steps in all instead of {}: the learning rate from here on differs from the first plan's",
            config.length.total, stored.length.total
        ));
    }
    args.show(directory)?;
    if config != stored {
        write_config(&run, &config)?;
    }
    if !args.quiet {
        introduce(&config, &opened, &run, &survey);
    }
    let done = execute(&config, &opened, &survey, &run, found, args.quiet)?;
    conclude(&config, &opened, &run, &done, args.json)
}

/// Whether all steps, or all epochs, are done, and so is the evaluation at their end.
fn is_finished(config: &RunConfig, progress: &Progress) -> bool {
    let epochs_done = config.length.epochs.is_some_and(|n| progress.cursor.epoch >= n);
    let evaluated = config.data.test.is_none() || progress.evaluated == progress.step;
    (progress.step >= config.length.total || epochs_done) && evaluated
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
    /// How the stages before the training spent their time.
    pub flow: FlowReport,
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
            Record::SkippedUpdate { .. }
            | Record::RolledBack { .. }
            | Record::NewLevel { .. }
            | Record::LeftOut { .. }
            | Record::SmallerPasses { .. }
            | Record::Checkpoint { .. }
            | Record::CheckpointFailed { .. } => {}
        }
    }
}

/// Trains to the end, from a checkpoint or from fresh weights.
pub fn execute(
    config: &RunConfig,
    opened: &Opened,
    survey: &Survey,
    run: &RunDir,
    from: Option<Checkpoint>,
    quiet: bool,
) -> Result<Done> {
    let layout = Layout::new(&config.model);
    let weights = match &from {
        // Replaced as a whole below.
        Some(_) => vec![0.0; layout.len()],
        None => init::weights(config, &*opened.tokenizer)?,
    };
    let plan = opened.plan(config, config.runtime.workers);
    let progress = from.as_ref().map(|c| c.manifest.progress.clone()).unwrap_or_default();
    let mut engine =
        engine::build(config.compute, &config.model, config.optimizer, weights, config.runtime.threads)?;
    if let Some(checkpoint) = from {
        engine.restore(checkpoint.state)?;
    }
    let counts = baseline::read_counts(&run.file(TOKEN_COUNTS))?;
    let unigram = Unigram::new(&*opened.tokenizer, counts.as_deref(), config.sample.predict_unknown);
    let test_samples = evaluation_samples(&config.sample);
    let test_collate = CollateConfig { pad_to: PadTo::Longest, ..config.collate.clone() };
    if !quiet {
        let steps = config.length.total.saturating_sub(progress.step);
        summary::estimate(&mut *engine, survey, config.accumulate, steps)?;
    }
    let mut metrics = MetricsFile::open(&run.file(METRICS), progress.step)?;
    let earlier = metrics::records(&run.file(METRICS))?;
    let situation = Situation::here("train", &*opened.corpus);
    let mut terminal =
        terminal::Terminal::new(quiet, situation, progress.step, config.length.total, &earlier);
    #[expect(
        clippy::disallowed_methods,
        reason = "TensorBoard dates events; nothing is ordered or measured by it"
    )]
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut events = match &config.runtime.tensorboard {
        None => None,
        Some(board) => {
            let directory = summary::board_directory(board, run);
            let examples = examples(board, opened, plan, config)?;
            Some(EventWriter::begin(&directory, progress.step, board, examples, &now)?)
        }
    };
    let mut newest = Newest::default();
    let started = Instant::now();
    let cursor = progress.cursor;
    // Only from here on is there anything to save: until now a signal ends the process at once.
    // The memory of the CPU was asked after before anything was taken of it.
    let probe = (config.compute.device != DeviceChoice::Cpu)
        .then(|| full_batch(config.collate.batch_size, config.collate.seq_len, config.model.vocab_size));
    let signals = stop::Signals::listen(run.path())?;
    let gauges = Gauges::until(signals.wanted());
    let test = opened.test.as_deref().map(|corpus| OneEpoch {
        plan: Plan { corpus, sample: &test_samples, ..plan },
        collate: &test_collate,
        until: signals.wanted(),
    });
    let mut observers: Vec<&mut dyn Observer> = vec![&mut metrics, &mut terminal, &mut newest];
    observers.extend(events.as_mut().map(|events| events as &mut dyn Observer));
    let mut trainer = Trainer {
        engine: &mut *engine,
        probe: probe.as_ref(),
        config,
        run,
        progress,
        test: test.as_ref().map(|t| t as &dyn BatchSource),
        unigram: unigram.as_ref(),
        observers,
        clock: &|| started.elapsed(),
        stages: &|| gauges.lap().stages,
        stop: &|| signals.request(),
    };
    let epochs = config.length.epochs.unwrap_or(u64::MAX);
    let ending =
        plan.gauged_batches(&config.collate, cursor, epochs, &gauges, |batches| trainer.run(batches))?;
    let (progress, flow) = (trainer.progress, gauges.total());
    drop(terminal);
    Ok(Done { ending, progress, engine, last_step: newest.step, last_test: newest.test, flow })
}

/// What is predicted now and then for TensorBoard: the first samples of the test corpus, or of the training where
/// there is none.
fn examples<'o>(
    board: &TensorBoard,
    opened: &'o Opened,
    training: Plan<'_>,
    config: &RunConfig,
) -> Result<Option<Examples<'o>>> {
    const SHOWN: usize = 4;
    if board.examples_every.is_none() {
        return Ok(None);
    }
    let sample = evaluation_samples(&config.sample);
    let collate = CollateConfig { batch_size: SHOWN, pad_to: PadTo::Longest, ..config.collate.clone() };
    let corpus = opened.test.as_deref().unwrap_or(training.corpus);
    let plan = Plan { corpus, sample: &sample, workers: 0, ..training };
    let mut first = None;
    OneEpoch { plan, collate: &collate, until: Wanted::always() }.pass(&mut |batches| {
        first = batches.next().transpose()?;
        Ok(())
    })?;
    let held_out = opened.test.is_some();
    Ok(first.map(|batch| Examples { batch, tokenizer: &*opened.tokenizer, held_out }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

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
}
