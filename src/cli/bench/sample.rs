//! `bertstream bench sample`: documents to masked samples.

use std::time::Duration;

use serde_json::json;

use super::super::ram::RamFlag;
use super::super::sample::{SourceArgs, WorkersFlag};
use super::held::Held;
use super::{Count, Line, MeasureFlags, take_for};
use crate::corpus::{Corpus, mean_bytes};
use crate::flow::FlowReport;
use crate::pipeline::Plan;
use crate::sample::{Cursor, positions};
use crate::{Error, Result};

/// Flags of `bench sample`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    workers: WorkersFlag,
    /// Take units as they are finished, in no order: what keeping the order costs is the difference.
    #[arg(long, conflicts_with = "alone")]
    unordered: bool,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let source = args.source.open(RamFlag::default())?;
    let (workers, time) = (args.workers.count(), args.measure.seconds);
    let plan = source.plan(workers);
    let (count, flow) = match (args.measure.alone, args.unordered) {
        (true, _) => sampling_alone(plan, time)?,
        (_, true) => sampling_unordered(plan, time)?,
        _ => sampling(plan, time)?,
    };
    let more = if args.unordered { vec![("unordered", json!(true))] } else { vec![] };
    Line { stage: "sample", workers: Some(workers), count, flow: Some(flow), more }.print(&args.measure)
}

/// The same in no order.
fn sampling_unordered(plan: Plan<'_>, time: Duration) -> Result<(Count, FlowReport)> {
    if plan.workers == 0 {
        return Err(Error::usage(
            "--unordered: without workers there is one order only; use --workers 1 or more",
        ));
    }
    let (mut samples, mut tokens) = (0, 0);
    let (elapsed, flow) = plan.unordered_samples(|units| {
        take_for(time, units, |unit| {
            samples += unit.len() as u64;
            tokens += unit.iter().map(|sample| sample.ids.len() as u64).sum::<u64>();
            Ok(())
        })
    })?;
    Ok((Count { samples: Some(samples), tokens: Some(tokens), bytes: None, elapsed }, flow))
}

/// Makes samples for `time`, epoch after epoch.
pub fn sampling(plan: Plan<'_>, time: Duration) -> Result<(Count, FlowReport)> {
    let (mut samples, mut tokens, mut last) = (0, 0, Cursor::default());
    let (elapsed, flow) = plan.measured_samples(Cursor::default(), u64::MAX, |units| {
        take_for(time, units, |unit| {
            samples += unit.len() as u64;
            tokens += unit.iter().map(|sample| sample.ids.len() as u64).sum::<u64>();
            if let Some(sample) = unit.iter().next_back() {
                last = sample.origin.cursor;
            }
            Ok(())
        })
    })?;
    // All documents of a window have been read for the first of its samples.
    let next = Cursor { position: last.position + plan.sample.window_for(plan.corpus), ..last };
    let bytes = text_before(plan.corpus, next);
    Ok((Count { samples: Some(samples), tokens: Some(tokens), bytes, elapsed }, flow))
}

/// The same of documents that lie ready in memory, or of their ids where they are stored.
pub fn sampling_alone(plan: Plan<'_>, time: Duration) -> Result<(Count, FlowReport)> {
    if plan.corpus.tokens().is_some() {
        return sampling(plan, time);
    }
    let held = Held::beginning(plan.corpus, plan.sample.skip_bad_lines)?;
    sampling(Plan { corpus: &held, ..plan }, time)
}

/// About the text that lies before a place in the stream, in bytes; `None` within its first window, where a
/// cursor does not tell.
pub fn text_before(corpus: &dyn Corpus, cursor: Cursor) -> Option<u64> {
    let positions = positions(corpus);
    let before = cursor.epoch * positions + cursor.position.min(positions);
    (before > 0).then(|| before * mean_bytes(corpus))
}
