//! `bertstream bench sample`: documents to masked samples.

use std::time::Duration;

use super::super::sample::{SourceArgs, WorkersFlag};
use super::held::Held;
use super::{Count, Line, MeasureFlags, take_for};
use crate::Result;
use crate::corpus::{Corpus, mean_bytes};
use crate::flow::FlowReport;
use crate::pipeline::Plan;
use crate::sample::{Cursor, positions};

/// Flags of `bench sample`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    workers: WorkersFlag,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let source = args.source.open()?;
    let (workers, time) = (args.workers.count(), args.measure.seconds);
    let (count, flow) = match args.measure.alone {
        true => sampling_alone(source.plan(workers), time)?,
        false => sampling(source.plan(workers), time)?,
    };
    let workers = Some(workers);
    Line { stage: "sample", workers, count, flow: Some(flow), more: vec![] }.print(&args.measure)
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
