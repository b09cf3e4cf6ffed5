//! `bertstream bench collate`: batches, as training takes them.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::collate::BatchArgs;
use super::super::ram::RamFlag;
use super::super::sample::{SourceArgs, WorkersFlag};
use super::sample::text_before;
use super::{Count, Line, MeasureFlags, take_for};
use crate::Result;
use crate::collate::{CollateConfig, collator};
use crate::flow::FlowReport;
use crate::pipeline::Plan;
use crate::sample::{Cursor, Samples};

/// Samples that are ready where collating is measured alone: some hundred batches.
const READY: usize = 1 << 14;

/// Flags of `bench collate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    /// Hold each batch for so many milliseconds, as a training step on a device would, and tell the share of the
    /// time that was then spent waiting for the next.
    #[arg(long, value_name = "MS", default_value_t = 0, conflicts_with = "alone")]
    consumer_ms: u64,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    workers: WorkersFlag,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let config = args.batch.resolve(&args.source)?;
    let source = args.source.open(RamFlag::default())?;
    let config = source.padded(config);
    let (workers, time) = (args.workers.count(), args.measure.seconds);
    if args.measure.alone {
        let count = collating_alone(source.plan(workers), &config, time)?;
        return Line { stage: "collate", workers: None, count, flow: None, more: vec![] }
            .print(&args.measure);
    }
    let hold = Duration::from_millis(args.consumer_ms);
    let (count, flow, joined) = collating(source.plan(workers), &config, hold, time)?;
    let mut more = match args.consumer_ms {
        0 => vec![],
        ms => vec![("consumer_ms", json!(ms))],
    };
    more.push(("stop_ms", json!(1e3 * joined.as_secs_f64())));
    Line { stage: "collate", workers: Some(workers), count, flow: Some(flow), more }.print(&args.measure)
}

/// Takes batches for `time`, and holds each for `hold`. Tells as well how long it then took until every thread had ended.
pub fn collating(
    plan: Plan<'_>,
    config: &CollateConfig,
    hold: Duration,
    time: Duration,
) -> Result<(Count, FlowReport, Duration)> {
    let (mut samples, mut tokens, mut next) = (0, 0, Cursor::default());
    let ((elapsed, left), flow) = plan.measured_batches(config, Cursor::default(), u64::MAX, |batches| {
        let elapsed = take_for(time, batches, |batch| {
            samples += batch.samples() as u64;
            tokens += batch.tokens() as u64;
            next = batch.next;
            pass(hold);
            Ok(())
        })?;
        Ok((elapsed, Instant::now()))
    })?;
    let joined = left.elapsed();
    let bytes = text_before(plan.corpus, next);
    Ok((Count { samples: Some(samples), tokens: Some(tokens), bytes, elapsed }, flow, joined))
}

/// Lets time pass, as the host does while a device computes.
#[expect(clippy::disallowed_methods, reason = "it stands for a device; nothing of the pipeline waits so")]
fn pass(time: Duration) {
    if !time.is_zero() {
        thread::sleep(time);
    }
}

/// Collates samples that lie ready in memory, over and over, on this thread.
pub fn collating_alone(plan: Plan<'_>, config: &CollateConfig, time: Duration) -> Result<Count> {
    let ready: Vec<Samples> = plan.samples(Cursor::default(), 1, |units| {
        let mut ready = Vec::new();
        let mut samples = 0;
        while samples < READY
            && let Some(unit) = units.next().transpose()?
        {
            samples += unit.len();
            ready.push(unit);
        }
        Ok(ready)
    })?;
    let mut collator = collator(config)?;
    let (mut samples, mut tokens) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < time {
        for sample in ready.iter().flat_map(Samples::iter) {
            if let Some(batch) = collator.push(sample)? {
                samples += batch.samples() as u64;
                tokens += batch.tokens() as u64;
            }
        }
    }
    let elapsed = started.elapsed();
    Ok(Count { samples: Some(samples), tokens: Some(tokens), bytes: None, elapsed })
}
