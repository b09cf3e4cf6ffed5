//! `bertstream inspect`: what the model saw at any step of a run, rebuilt without training.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::ArgAction;
use serde::Serialize;

use super::eval::Finished;
use super::flags::{ReadingFlags, SourceArg};
use super::output::{Printer, Table, grouped, json_line, tell};
use super::rebuild;
use super::sample::LEGEND;
use super::statistics::{add_batch, tell_tally};
use super::train::default_workers;
use crate::collate::{BatchDigest, HostBatch};
use crate::corpus::{Corpus, CorpusConfig, Sources};
use crate::pipeline::Plan;
use crate::sample::{Corruption, Cursor, Origin, Paint, PairLabel, Tally, show};
use crate::train::metrics;
use crate::train::run_dir::{self, METRICS};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the run.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Step, from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// Show only the first N samples of the step.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The run's corpus, where it was moved.
    #[arg(short = 'c', long, value_name = "FILE", action = ArgAction::Append)]
    corpus: Vec<SourceArg>,
    /// Rebuild every batch from the first on, and compare their digest with what the run recorded.
    #[arg(long)]
    verify: bool,
    /// Print one line of JSON a sample.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingFlags,
}

/// One sample as `--json` prints it.
#[derive(Serialize)]
struct Line<'l> {
    step: u64,
    /// Batch within the step, row within the batch, and where the sample begins in its row.
    batch: usize,
    row: usize,
    column: usize,
    tokens: Vec<&'l str>,
    segments: &'l [u8],
    predicted: Vec<Predicted<'l>>,
    pair: PairLabel,
    file: &'l Path,
    origin: Origin,
}

#[derive(Serialize)]
struct Predicted<'l> {
    position: usize,
    token: &'l str,
    corruption: Corruption,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let Finished { config, tokenizer } = Finished::open(&args.run, None)?;
    let sources = args.reading.over(&moved(&config.data.corpus, &args.corpus)?)?;
    let corpus = rebuild::corpus(&config, &sources, &*tokenizer)?;
    if args.step > config.length.total {
        return Err(Error::usage(format!("--step {}: the run has {}", args.step, config.length.total)));
    }
    let recorded = Recorded::of(&args.run)?;
    if args.verify {
        recorded.check(args.step)?;
    }
    let reached = recorded.reached();
    if args.step > reached {
        tell(format_args!(
            "step {}: the run's last record is of step {reached}; this is what comes after it",
            args.step
        ));
    }
    let sample = config.sample.clone().for_corpus(&*corpus);
    let plan = Plan { corpus: &*corpus, tokenizer: &*tokenizer, sample: &sample, workers: default_workers() };
    let from = match args.verify {
        true => (1, Cursor::default()),
        false => rebuild::nearest(&args.run, &config, &*corpus, args.step)?,
    };
    let (batches, digest) = rebuild::batches(plan, &config, from, args.step)?;
    let shown = batches.iter().map(HostBatch::samples).sum::<usize>().min(args.limit.unwrap_or(usize::MAX));
    let samples = |(b, batch)| (0..HostBatch::samples(batch)).map(move |i| (b, batch, i));
    let samples = batches.iter().enumerate().flat_map(samples);
    let mut printer = Printer::new();
    if !args.json && shown > 0 {
        printer.line(LEGEND)?;
    }
    for (number, batch, i) in samples.take(shown) {
        printer.line(match args.json {
            true => json_line(&line(args.step, number, batch, i, &*tokenizer, &*corpus))?,
            false => text(number, batch, i, &*tokenizer, &*corpus, printer.paint),
        })?;
    }
    printer.finish()?;
    tell(summary(args.step, &batches, &*tokenizer));
    if args.verify { recorded.verify(&args.run, args.step, &digest) } else { Ok(()) }
}

/// The sources of the run, where they are now.
fn moved(sources: &Sources, given: &[SourceArg]) -> Result<Sources> {
    if given.is_empty() {
        return Ok(sources.clone());
    }
    if given.len() != sources.len() {
        return Err(Error::usage(format!("--corpus: the run was made of {sources}: name each of them")));
    }
    let at = |(source, given): (&CorpusConfig, &SourceArg)| CorpusConfig {
        path: given.path.clone(),
        ..source.clone()
    };
    Sources::new(sources.iter().zip(given).map(at).collect())
}

/// What a run wrote down of the batches that it saw.
struct Recorded {
    /// Digests of metrics.jsonl, by step.
    metrics: BTreeMap<u64, String>,
    /// Steps of the checkpoints that are kept.
    checkpoints: BTreeSet<u64>,
}

impl Recorded {
    fn of(run: &Path) -> Result<Self> {
        let checkpoints = run_dir::checkpoints(run).steps()?.into_iter().collect();
        Ok(Self { metrics: metrics::recorded_digests(&run.join(METRICS))?, checkpoints })
    }

    /// All steps with a digest.
    fn steps(&self) -> BTreeSet<u64> {
        self.metrics.keys().chain(&self.checkpoints).copied().collect()
    }

    /// The last step that is known to have been made.
    fn reached(&self) -> u64 {
        self.steps().last().copied().unwrap_or(0)
    }

    /// Refuses to verify a step without a digest, before its batches are rebuilt.
    fn check(&self, step: u64) -> Result<()> {
        let steps = self.steps();
        if steps.contains(&step) {
            return Ok(());
        }
        let nearest: Vec<String> = [steps.range(..step).next_back(), steps.range(step..).next()]
            .into_iter()
            .flatten()
            .map(u64::to_string)
            .collect();
        let remedy = match nearest.is_empty() {
            true => "nor at any other".to_owned(),
            false => format!("the nearest with one: {}", nearest.join(" and ")),
        };
        Err(Error::usage(format!("--verify: the run recorded no digest at step {step}; {remedy}")))
    }

    /// Compares with what was written down at this step.
    fn verify(&self, run: &Path, step: u64, digest: &BatchDigest) -> Result<()> {
        let recorded = match self.metrics.get(&step) {
            Some(recorded) => recorded.clone(),
            None => run_dir::checkpoints(run).manifest(step)?.progress.digest.to_string(),
        };
        if recorded != digest.to_string() {
            return Err(Error::mismatch(format!(
                "step {step}: the batches rebuilt have digest {digest}, the run recorded {recorded}: it saw \
                 other data"
            )));
        }
        tell(format_args!("verified: the run saw the same batches up to step {step} (digest {digest})"));
        Ok(())
    }
}

fn line<'l>(
    step: u64,
    number: usize,
    batch: &'l HostBatch,
    i: usize,
    tokenizer: &'l dyn Tokenizer,
    corpus: &'l dyn Corpus,
) -> Line<'l> {
    let token = |id: u32| tokenizer.token(id).unwrap_or("?");
    let (ids, segments) = batch.sample(i);
    let predicted = |(position, label, corruption)| Predicted { position, token: token(label), corruption };
    Line {
        step,
        batch: number,
        row: batch.start(i) / batch.seq_len,
        column: batch.start(i) % batch.seq_len,
        tokens: ids.iter().map(|&id| token(id)).collect(),
        segments,
        predicted: batch.predictions(i).map(predicted).collect(),
        pair: batch.pairs[i],
        file: corpus.file(batch.origins[i].document_a),
        origin: batch.origins[i],
    }
}

/// A sample for people: where it stands and came from and its label, then its words.
fn text(
    number: usize,
    batch: &HostBatch,
    i: usize,
    tokenizer: &dyn Tokenizer,
    corpus: &dyn Corpus,
    paint: Paint,
) -> String {
    let Origin { cursor, document_a, line_a, document_b, line_b } = batch.origins[i];
    let pair = match batch.pairs[i] {
        PairLabel::IsNext => "is next",
        PairLabel::NotNext => "not next",
        PairLabel::None => "no pair",
    };
    let [file_a, file_b] = [document_a, document_b].map(|id| corpus.file(id).display());
    let (ids, segments) = batch.sample(i);
    format!(
        "batch {number} row {} column {}: {pair}, {file_a}:{line_a} (document {document_a}) and {file_b}:{line_b} \
         (document {document_b}), epoch {} position {} part {}\n  {}",
        batch.start(i) / batch.seq_len,
        batch.start(i) % batch.seq_len,
        cursor.epoch,
        cursor.position,
        cursor.part,
        show(ids, segments, batch.predictions(i), tokenizer, paint)
    )
}

/// Counts over a step's batches, in the words of `sample`.
fn summary(step: u64, batches: &[HostBatch], tokenizer: &dyn Tokenizer) -> Table {
    let mut tally = Tally::default();
    for batch in batches {
        add_batch(&mut tally, batch, &tokenizer.specials());
    }
    let mut table = Table::default();
    table.row("step", grouped(step));
    tell_tally(&mut table, &tally);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_recorded_steps_are_named() {
        let recorded = Recorded {
            metrics: [10, 20].map(|step| (step, String::new())).into(),
            checkpoints: [15, 25].into(),
        };
        assert_eq!(recorded.reached(), 25);
        let check = |step, expected: Option<&str>| {
            let told = recorded.check(step).err().map(|e| e.to_string());
            let named = told.as_ref().map(|told| told.rsplit("; ").next().unwrap());
            assert_eq!(named, expected);
        };
        check(10, None);
        check(25, None);
        check(3, Some("the nearest with one: 10"));
        check(17, Some("the nearest with one: 15 and 20"));
        check(30, Some("the nearest with one: 25"));
    }
}
