//! `bertstream report`: one page that shows runs, with everything in it.
//!
//! Takes directories of runs, gives an HTML file: curves from their records, what differs between them, counts over
//! their corpora, and samples of some steps with what the model makes of them. A run is only read, also while it
//! trains.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::eval::Finished;
use super::output::{bytes, counted, grouped, seconds, tell};
use super::rebuild;
use super::statistics::{Statistics, statistics};
use super::train::{ComputeFlags, default_workers};
use crate::model::{Arch, Layout};
use crate::pipeline::Plan;
use crate::train::run_dir::{METRICS, Which};
use crate::train::{RunConfig, metrics};
use crate::{Error, ErrorKind, Result, durable};

mod curves;
mod page;
mod samples;
mod serve;

pub use serve::serve;

use curves::{Curves, curves};
use samples::Step;

/// Steps whose samples are shown where none is asked for.
const STEPS: u64 = 8;

/// Samples that the statistics are counted over: rates to half a percent, within a second.
const COUNTED: u64 = 4096;

/// Flags of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directories of runs; several are compared.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page.
    #[arg(short = 'o', long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    #[command(flatten)]
    wanted: Wanted,
}

/// Which samples are shown, and whose guesses.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// A step whose samples can be looked at; may be given several times [default: up to 8 that are found at once:
    /// any of a corpus of pairs, else the first one and those after checkpoints].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    step: Vec<u64>,
    /// Samples of each step; 0 leaves the corpus and the model alone.
    #[arg(long, value_name = "N", default_value_t = 16)]
    limit: usize,
    /// Whose predictions are shown: best, latest or a step.
    #[arg(long, value_name = "WHICH", default_value = "latest")]
    checkpoint: Which,
    #[command(flatten)]
    compute: ComputeFlags,
}

/// What the page shows. The script in it reads these fields.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// Whether the page is served while the run goes on, and asks for what is new.
    live: bool,
    runs: Vec<Run>,
}

impl Report {
    fn of(runs: Vec<Run>) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), live: false, runs }
    }
}

/// A run on the page.
#[derive(Serialize)]
struct Run {
    /// Different from those of the other runs.
    name: String,
    /// Lines of a name and a value, for people.
    facts: Vec<(&'static str, String)>,
    /// Steps of the whole run.
    total: u64,
    config: RunConfig,
    curves: Curves,
    statistics: Option<Statistics>,
    steps: Vec<Step>,
    /// Step of the checkpoint that predicted.
    checkpoint: Option<u64>,
    /// Why there is no sample, where there is none.
    without: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let runs = names(&args.runs).into_iter().zip(&args.runs);
    let runs = runs.map(|(name, path)| look(name, path, &args.wanted)).collect::<Result<Vec<_>>>()?;
    for run in &runs {
        if let Some(why) = &run.without {
            tell(format_args!("{}: no samples: {why}", run.name));
        }
    }
    let page = page::page(&Report::of(runs));
    durable::write_file(&args.output, page.as_bytes())?;
    tell(format_args!(
        "{} of {}: {}; open it in a browser",
        args.output.display(),
        counted(args.runs.len(), "run"),
        bytes(page.len() as u64)
    ));
    Ok(())
}

/// The last part of each path; the whole path where several share it.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let last = |path: &Path| {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        real.file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let short: Vec<String> = runs.iter().map(|path| last(path)).collect();
    let unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let named = short.iter().zip(runs);
    named.map(|(name, path)| if unique(name) { name.clone() } else { path.display().to_string() }).collect()
}

/// Gathers what there is to see of a run.
fn look(name: String, path: &Path, wanted: &Wanted) -> Result<Run> {
    let finished = Finished::open(path, None)?;
    let curves = curves(&metrics::text(&path.join(METRICS))?);
    let facts = facts(&finished.config, &curves);
    let (mut statistics, mut steps, mut checkpoint, mut without) = (None, Vec::new(), None, None);
    if wanted.limit == 0 {
        without = Some("left out by --limit 0".to_owned());
    } else {
        match seen(&finished, path, &curves, wanted) {
            Ok(seen) => {
                (statistics, steps, checkpoint) = (Some(seen.statistics), seen.steps, Some(seen.checkpoint))
            }
            // A page about a run whose corpus is elsewhere still has its curves.
            Err(error) if error.kind() != ErrorKind::Internal && wanted.step.is_empty() => {
                without = Some(error.to_string());
            }
            Err(error) => return Err(error.context(format!("run {}", path.display()))),
        }
    }
    let total = finished.config.length.total;
    Ok(Run { name, facts, total, config: finished.config, curves, statistics, steps, checkpoint, without })
}

/// What corpus and model tell.
struct Seen {
    statistics: Statistics,
    steps: Vec<Step>,
    checkpoint: u64,
}

fn seen(finished: &Finished, path: &Path, curves: &Curves, wanted: &Wanted) -> Result<Seen> {
    let Finished { config, tokenizer } = finished;
    if let Some(beyond) = wanted.step.iter().find(|&&step| step > config.length.total) {
        return Err(Error::usage(format!("--step {beyond}: the run has {}", config.length.total)));
    }
    let (mut engine, checkpoint) = finished.engine(path, wanted.checkpoint, &wanted.compute)?;
    let corpus = rebuild::corpus(config, &config.data.corpus, &**tokenizer)?;
    let sample = config.sample.clone().for_corpus(&*corpus);
    let plan =
        Plan { corpus: &*corpus, tokenizer: &**tokenizer, sample: &sample, workers: default_workers() };
    let reached = curves.training.reached().max(checkpoint);
    let asked = match &wanted.step[..] {
        [] => rebuild::at_once(path, config, &*corpus, reached, STEPS)?,
        given => given.to_vec(),
    };
    let mut steps = Vec::new();
    for step in asked {
        let from = rebuild::nearest(path, config, &*corpus, step)?;
        let (batches, _) = rebuild::batches(plan, config, from, step)?;
        let parts = (&*corpus, &**tokenizer);
        steps.push(samples::step(step, &batches, wanted.limit, parts, &mut *engine, &config.collate)?);
    }
    Ok(Seen { statistics: statistics(plan, config.collate.batch_size, COUNTED)?, steps, checkpoint })
}

/// What a run is, in lines.
fn facts(config: &RunConfig, curves: &Curves) -> Vec<(&'static str, String)> {
    let RunConfig { data, sample, collate, model, .. } = config;
    let arch = match model.arch {
        Arch::Bert => "bert",
        Arch::Reference => "reference",
    };
    let parameters = grouped(Layout::new(model).len() as u64);
    let samples = grouped(data.epoch.samples);
    let about = if data.epoch.exact { "" } else { "about " };
    let mut facts = vec![
        ("model", format!("{arch}, {} layers of {}, {parameters} parameters", model.layers, model.hidden)),
        ("vocabulary", format!("{} tokens", grouped(model.vocab_size as u64))),
        ("corpus", data.corpus.to_string()),
        ("", format!("{} documents, {about}{samples} samples an epoch", grouped(data.documents))),
        ("batches", format!("{} x {} tokens", collate.batch_size * config.accumulate, sample.seq_len)),
    ];
    let last = |figure| curves.training.last(figure);
    if let (Some(tokens), Some(time)) = (last("tokens"), last("seconds")) {
        facts.push(("seen", format!("{} tokens in {}", grouped(tokens as u64), seconds(time))));
    }
    if !curves.skipped.is_empty() {
        facts.push(("skipped", counted(curves.skipped.len(), "update")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_runs_apart() {
        let check = |runs: &[&str], expected: &[&str]| {
            let runs: Vec<PathBuf> = runs.iter().map(PathBuf::from).collect();
            assert_eq!(names(&runs), expected);
        };
        check(&["runs/a", "runs/b/"], &["a", "b"]);
        check(&["x/run", "y/run", "z"], &["x/run", "y/run", "z"]);
    }
}
