//! `bertstream tune`: which flags suit a corpus and a machine, by measuring.
//!
//! The stages are measured alone and together over numbers of workers; what follows from the table is a pure
//! function of it (`recommend`).

use std::time::Duration;

use serde_json::json;

use super::bench::{Count, collating, collating_alone, reading, sampling_alone, seconds};
use super::collate::BatchArgs;
use super::flags::workers;
use super::output::{Grid, bytes, grouped, or_dash, print};
use super::ram::RamFlag;
use super::sample::SourceArgs;
use super::train::cores;
use crate::{Error, Result};
use recommend::{Advice, Row, Wanted, recommend};

mod recommend;

/// Flags of `tune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Most workers to try [default: the number of cores].
    #[arg(long, value_name = "N", value_parser = workers)]
    most_workers: Option<usize>,
    /// How long a training step takes, where that is known: the fewest workers that keep up with it are
    /// recommended.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    consumer_ms: Option<u64>,
    /// How long to measure each.
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let config = args.batch.resolve(&args.source)?;
    let source = args.source.open(RamFlag::default())?;
    let config = source.padded(config);
    let (corpus, time) = (&*source.corpus, args.seconds);

    let mut rows = Vec::new();
    let counts = counts(args.most_workers.unwrap_or_else(cores));
    let with_threads = || counts.iter().copied().filter(|&workers| workers > 0);
    // Text is read only where its ids are not stored.
    let encoded = corpus.tokens().is_some();
    for workers in with_threads().filter(|_| !encoded) {
        let (count, ..) = reading(corpus, source.sample.shuffle, workers, time)?;
        rows.push(row("corpus", true, Some(workers), &count));
    }
    for workers in with_threads() {
        let (count, _) = sampling_alone(source.plan(workers), time)?;
        rows.push(row("sample", true, Some(workers), &count));
    }
    rows.push(row("collate", true, None, &collating_alone(source.plan(0), &config, time)?));
    for &workers in &counts {
        let (count, ..) = collating(source.plan(workers), &config, Duration::ZERO, time)?;
        rows.push(row("collate", false, Some(workers), &count));
    }

    let wanted = Wanted {
        samples_per_second: args.consumer_ms.map(|ms| 1e3 * config.batch_size as f64 / ms as f64),
        batch_size: config.batch_size,
        encoded,
    };
    let advice = recommend(&rows, wanted).ok_or_else(|| Error::internal("nothing was measured"))?;
    if args.json {
        return print(json!({ "rows": rows, "recommended": advice }));
    }
    print(report(&rows, &advice))
}

/// The numbers of workers to try: none, and powers of two up to the most.
fn counts(most: usize) -> Vec<usize> {
    let doubling = std::iter::successors(Some(1), |n: &usize| n.checked_mul(2));
    let mut counts: Vec<usize> = [0].into_iter().chain(doubling.take_while(|&n| n < most)).collect();
    if most > 0 {
        counts.push(most);
    }
    counts
}

fn row(stage: &'static str, alone: bool, workers: Option<usize>, count: &Count) -> Row {
    Row {
        stage,
        alone,
        workers,
        samples_per_second: count.rate(count.samples),
        tokens_per_second: count.rate(count.tokens),
        bytes_per_second: count.rate(count.bytes),
    }
}

/// The table, what is recommended, and why.
fn report(rows: &[Row], advice: &Advice) -> String {
    let mut grid = Grid::new(["stage", "workers", "samples/s", "tokens/s", "text/s"]);
    let whole = |rate: Option<f64>| or_dash(rate, |rate| grouped(rate as u64));
    for row in rows {
        let stage = match (row.stage, row.alone) {
            (stage, true) => format!("{stage} alone"),
            (_, false) => "all together".to_owned(),
        };
        grid.row([
            stage,
            or_dash(row.workers, |n| n.to_string()),
            whole(row.samples_per_second),
            whole(row.tokens_per_second),
            or_dash(row.bytes_per_second, |rate| bytes(rate as u64)),
        ]);
    }
    let mut report = format!("{grid}\nrecommended: {}\n", advice.flags);
    advice.why.iter().for_each(|why| report += &format!("  {why}\n"));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_workers_double_up_to_the_most() {
        let check = |most, expected: &[usize]| assert_eq!(counts(most), expected);
        check(0, &[0]);
        check(1, &[0, 1]);
        check(2, &[0, 1, 2]);
        check(6, &[0, 1, 2, 4, 6]);
        check(8, &[0, 1, 2, 4, 8]);
    }

    #[test]
    fn a_table_has_a_row_for_each_measurement() {
        let row = |stage, alone, workers, samples_per_second| Row {
            stage,
            alone,
            workers,
            samples_per_second,
            tokens_per_second: None,
            bytes_per_second: Some(1.5e6),
        };
        let rows = [
            row("corpus", true, Some(2), None),
            row("collate", true, None, Some(9.0)),
            row("collate", false, Some(0), Some(1234.0)),
        ];
        let advice = Advice { workers: 1, flags: "--workers 1".into(), why: vec!["it is best".into()] };
        let expected = "\
stage          workers  samples/s  tokens/s  text/s
corpus alone         2          -         -  1.5 MB
collate alone        -          9         -  1.5 MB
all together         0      1,234         -  1.5 MB

recommended: --workers 1
  it is best
";
        assert_eq!(report(&rows, &advice), expected);
    }
}
