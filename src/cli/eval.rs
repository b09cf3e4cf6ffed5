//! `bertstream eval`: how good a model is, beside what guessing reaches.

use std::path::{Path, PathBuf};

use clap::ArgAction;
use serde::Serialize;

use super::flags::{ReadingFlags, SourceArg, TokensFlag, sources_at};
use super::output::{Grid, grouped, json_line, or_dash, percent, print};
use super::train::{ComputeFlags, default_workers};
use super::trained::{Origin, Trained};
use crate::collate::{CollateConfig, HostBatch, PadTo, file};
use crate::corpus::{CorpusConfig, Sources};
use crate::error::near;
use crate::flow::Wanted;
use crate::model::{Engine, Layout, Predictions};
use crate::pipeline::Plan;
use crate::sample::{Corruption, SampleConfig};
use crate::train::config::hex;
use crate::train::evaluate::{OneEpoch, evaluation_samples};
use crate::train::run_dir::{self, CONFIG, TOKEN_COUNTS, Which};
use crate::train::{BatchSource, Figures, Guesses, RunConfig, Unigram, baseline, engine, evaluate};
use crate::vocab::{self, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// Flags of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the run, or of a model of transformers.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Text to evaluate on [default: the run's test corpus].
    #[arg(short = 'c', long, value_name = "FILE", action = ArgAction::Append, conflicts_with = "batches")]
    corpus: Vec<SourceArg>,
    /// Batches written by `bertstream collate --format safetensors`, in place of a text.
    #[arg(long, value_name = "FILE")]
    batches: Option<PathBuf>,
    /// best, latest or a step.
    #[arg(long, value_name = "WHICH", default_value = "latest")]
    checkpoint: Which,
    /// The vocabulary, which must be the run's [default: the run's].
    #[arg(short = 'v', long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Longest sample in tokens [default: the run's].
    #[arg(short = 's', long, value_name = "N", alias = "seq_len")]
    seq_len: Option<usize>,
    /// Samples of a batch; changes speed and memory, not the result [default: the run's].
    #[arg(short = 'b', long, value_name = "N", alias = "batch_size")]
    batch_size: Option<usize>,
    /// Threads that build samples [default: a quarter of the cores].
    #[arg(short = 'w', long, value_name = "N", aliases = ["num_workers", "num-workers"],
          value_parser = super::flags::workers)]
    workers: Option<usize>,
    /// Also tell apart what was masked, replaced by a random word and kept; takes a second forward pass.
    #[arg(long)]
    by_corruption: bool,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    tokens: TokensFlag,
    #[command(flatten)]
    compute: ComputeFlags,
}

/// A run opened for reading.
pub struct Finished {
    pub config: RunConfig,
    pub tokenizer: Box<dyn Tokenizer>,
}

impl Finished {
    /// Reads configuration and vocabulary.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`] where no run is; [`ErrorKind::Mismatch`] where the vocabulary is not the
    /// one that the run was made with.
    pub fn open(run: &Path, vocab: Option<&Path>) -> Result<Self> {
        let file = run.join(CONFIG);
        if matches!(file.try_exists(), Ok(false)) {
            return Err(Error::new(
                ErrorKind::MissingInput,
                format!(
                    "{}: no run there{}: a run is made by `bertstream train -o DIR`; --run takes that directory",
                    run.display(),
                    near(run)
                ),
            ));
        }
        let config = RunConfig::read(&file)?;
        let path = vocab.map_or_else(|| run_dir::vocabulary(run), Path::to_owned);
        let tokenizer = vocab::load(&path)?;
        let found = hex(tokenizer.fingerprint());
        if found != config.data.vocab_fingerprint {
            return Err(Error::mismatch(format!(
                "vocabulary {}: fingerprint {found}, the run was made with {}: use the run's own",
                path.display(),
                config.data.vocab_fingerprint
            )));
        }
        Ok(Self { config, tokenizer })
    }

    /// An engine with the weights of a checkpoint, and that checkpoint's step.
    pub fn engine(&self, run: &Path, which: Which, compute: &ComputeFlags) -> Result<(Box<dyn Engine>, u64)> {
        let (compute, threads) = compute.over(None)?;
        let layout = Layout::new(&self.config.model);
        let checkpoint = run_dir::load(run, &self.config, &layout, which)?;
        let step = checkpoint.manifest.progress.step;
        let weights = checkpoint.state.weights;
        let model = &self.config.model;
        let engine = engine::build(compute, model, self.config.optimizer, weights, threads)?;
        Ok((engine, step))
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Line<'l> {
    run: &'l Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    /// The text or the file of batches.
    on: &'l Path,
    #[serde(flatten)]
    figures: &'l Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_corruption: Option<ByCorruption>,
}

/// What samples and batches look like where no flag says otherwise.
struct Basis {
    sample: SampleConfig,
    collate: CollateConfig,
    test: Option<Sources>,
    encoding: Option<String>,
}

impl Basis {
    /// As in the run; as the defaults have it for a model that no run is known of.
    fn of(trained: &Trained) -> Self {
        match &trained.origin {
            Origin::Run(config, _) => Self {
                sample: config.sample.clone(),
                collate: config.collate.clone(),
                test: config.data.test.clone(),
                encoding: Some(config.data.corpus[0].encoding.clone()),
            },
            Origin::Transformers(_) => {
                let sample = SampleConfig::default();
                let seq_len = sample.seq_len.min(trained.longest());
                let pad_id = trained.tokenizer.specials().pad;
                Self {
                    collate: CollateConfig { batch_size: 64, seq_len, pad_to: PadTo::Longest, pad_id },
                    sample: SampleConfig { seq_len, ..sample },
                    test: None,
                    encoding: None,
                }
            }
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let mut trained = Trained::open(&args.run, args.checkpoint, args.vocab.as_deref(), &args.compute)?;
    trained.needs_masked_head(&args.run)?;
    let basis = Basis::of(&trained);
    let seq_len = args.seq_len.unwrap_or(basis.sample.seq_len);
    let collate = CollateConfig {
        batch_size: args.batch_size.unwrap_or(basis.collate.batch_size),
        seq_len,
        pad_to: PadTo::Longest,
        pad_id: basis.collate.pad_id,
    };
    if let Some(path) = &args.batches {
        let batches = file::read_batches(path, collate.batch_size)?;
        file::check_ids(&batches, trained.model.vocab_size)
            .map_err(|e| e.context(format!("batches {}", path.display())))?;
        return measure(&args, &*trained.tokenizer, &mut *trained.engine, &trained.origin, path, &batches);
    }
    let (corpus, _) = args.tokens.open(&sources(&args, &basis)?, &*trained.tokenizer)?;
    let sample = SampleConfig { seq_len, ..evaluation_samples(&basis.sample) };
    let Trained { engine, tokenizer, origin, .. } = &mut trained;
    let plan = Plan {
        corpus: &*corpus,
        tokenizer: &**tokenizer,
        sample: &sample,
        workers: args.workers.unwrap_or_else(default_workers),
    };
    let source = OneEpoch { plan, collate: &collate, until: Wanted::always() };
    measure(&args, &**tokenizer, &mut **engine, origin, corpus.path(), &source)
}

fn sources(args: &Args, basis: &Basis) -> Result<Sources> {
    let base = match (&args.corpus[..], &basis.test) {
        ([], Some(test)) => test.clone(),
        ([], None) => {
            return Err(Error::usage(
                "--corpus or --batches is missing, and the model has no test corpus to fall back on",
            ));
        }
        (given, _) => {
            let encoding = |given: &CorpusConfig| basis.encoding.clone().unwrap_or(given.encoding.clone());
            let given = sources_at(given)?;
            Sources::new(given.iter().map(|g| CorpusConfig { encoding: encoding(g), ..g.clone() }).collect())?
        }
    };
    args.reading.over(&base)
}

fn measure(
    args: &Args,
    tokenizer: &dyn Tokenizer,
    engine: &mut dyn Engine,
    origin: &Origin,
    on: &Path,
    source: &dyn BatchSource,
) -> Result<()> {
    let (step, predict_unknown) = match origin {
        Origin::Run(config, step) => (Some(*step), config.sample.predict_unknown),
        Origin::Transformers(_) => (None, SampleConfig::default().predict_unknown),
    };
    let counts = baseline::read_counts(&args.run.join(TOKEN_COUNTS))?;
    let unigram = Unigram::new(tokenizer, counts.as_deref(), predict_unknown);
    let evaluation = evaluate(engine, source, unigram.as_ref(), &|| false)?.expect("nothing stops it");
    let figures = evaluation.figures();
    if figures.masked + figures.pairs == 0 {
        return Err(Error::data(format!("{}: nothing to predict in it", on.display())));
    }
    let by_corruption = match args.by_corruption {
        true => Some(by_corruption(engine, source, unigram.as_ref())?),
        false => None,
    };
    if args.json {
        let line = Line { run: &args.run, step, on, figures: &figures, by_corruption };
        return print(json_line(&line)?);
    }
    let parts = by_corruption.map_or(String::new(), |parts| parts_table(&parts));
    let on = on.display();
    let step = step.map_or(String::new(), |step| format!(", step {step}"));
    print(format_args!("{}{step}, on {on}\n{}{parts}", args.run.display(), table(&figures)))
}

/// The figures as lines of a table, each beside what guessing reaches.
pub fn table(figures: &Figures) -> String {
    let mut grid = Grid::new(["", "model", "guessing"]);
    let mut row = |name: &str, value: String, guess: String| grid.row([name.to_owned(), value, guess]);
    if figures.masked > 0 {
        row("predicted tokens: loss", nats(figures.mlm_loss), or_dash(figures.unigram_loss, nats));
        let perplexity = |x: f64| format!("{x:.1}");
        let guess = or_dash(figures.unigram_loss, |loss| perplexity(loss.exp()));
        row("  perplexity", perplexity(figures.perplexity), guess);
        row("  accuracy", percent(figures.mlm_accuracy), or_dash(figures.majority_accuracy, percent));
    }
    if figures.pairs > 0 {
        row("pairs: loss", nats(figures.nsp_loss), or_dash(figures.nsp_chance_loss, nats));
        row("  accuracy", percent(figures.nsp_accuracy), or_dash(figures.nsp_majority_accuracy, percent));
    }
    format!("{grid}over {} predicted tokens and {} pairs\n", grouped(figures.masked), grouped(figures.pairs))
}

fn nats(loss: f64) -> String {
    format!("{loss:.4}")
}

/// What is predicted at positions of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Part {
    masked: u64,
    mlm_loss: f64,
    mlm_accuracy: f64,
    /// What guessing by frequency reaches on the same tokens.
    unigram_loss: Option<f64>,
    majority_accuracy: Option<f64>,
}

/// Positions told apart by what stands there.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct ByCorruption {
    mask: Part,
    random: Part,
    keep: Part,
}

fn by_corruption(
    engine: &mut dyn Engine,
    source: &dyn BatchSource,
    unigram: Option<&Unigram>,
) -> Result<ByCorruption> {
    let mut parts = ByCorruption::default();
    let mut guesses = [Guesses::default(); 3];
    source.pass(&mut |batches| {
        for batch in batches {
            let batch = batch?;
            let predictions = engine.predict(&batch)?;
            tally(&batch, &predictions, &mut parts);
            for (sums, corruption) in guesses.iter_mut().zip(CORRUPTIONS) {
                sums.add(&Guesses::on(unigram, &only(&batch, corruption)));
            }
        }
        Ok(())
    })?;
    for (part, guesses) in [&mut parts.mask, &mut parts.random, &mut parts.keep].into_iter().zip(guesses) {
        let count = part.masked.max(1) as f64;
        part.mlm_loss /= count;
        part.mlm_accuracy /= count;
        part.unigram_loss = guesses.unigram_loss();
        part.majority_accuracy = guesses.majority_accuracy();
    }
    Ok(parts)
}

/// In the order of the fields of [`ByCorruption`].
const CORRUPTIONS: [Corruption; 3] = [Corruption::Mask, Corruption::Random, Corruption::Keep];

/// The labels of a batch at positions of one kind.
fn only(batch: &HostBatch, corruption: Corruption) -> HostBatch {
    let labels = batch.labels.iter().zip(&batch.corruptions);
    let labels = labels.filter(|&(_, &c)| c == corruption).map(|(&label, _)| label).collect();
    HostBatch { labels, ..HostBatch::default() }
}

/// Adds up losses and hits of a batch.
fn tally(batch: &HostBatch, predictions: &Predictions, parts: &mut ByCorruption) {
    let width = predictions.mlm.len() / batch.labels.len().max(1);
    let rows = predictions.mlm.chunks_exact(width.max(1));
    for ((row, &label), corruption) in rows.zip(&batch.labels).zip(&batch.corruptions) {
        let part = match corruption {
            Corruption::Mask => &mut parts.mask,
            Corruption::Random => &mut parts.random,
            Corruption::Keep => &mut parts.keep,
        };
        let truth = row[label as usize];
        part.masked += 1;
        part.mlm_loss -= f64::from(truth);
        part.mlm_accuracy += f64::from(u8::from(row.iter().all(|&other| other <= truth)));
    }
}

/// The predicted tokens told apart, a line each.
fn parts_table(parts: &ByCorruption) -> String {
    let mut grid = Grid::new(["", "tokens", "loss", "guessing", "accuracy", "guessing"]);
    for (name, part) in [("masked", parts.mask), ("random", parts.random), ("kept", parts.keep)] {
        grid.row([
            name.to_owned(),
            grouped(part.masked),
            nats(part.mlm_loss),
            or_dash(part.unigram_loss, nats),
            percent(part.mlm_accuracy),
            or_dash(part.majority_accuracy, percent),
        ]);
    }
    format!("\n{grid}")
}
