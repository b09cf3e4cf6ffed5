//! `bertstream bench corpus`: documents by number, in the order of training.

use std::time::Duration;

use serde_json::json;

use super::super::flags::{CorpusFlags, workers};
use super::super::train::cores;
use super::{Count, Line, MeasureFlags, take_for};
use crate::Result;
use crate::corpus::{Corpus, Io};
use crate::flow::FlowReport;
use crate::pipeline::documents;
use crate::sample::Shuffle;

/// Flags of `bench corpus`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    corpus: CorpusFlags,
    /// Order of the documents.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    shuffle: Shuffle,
    /// Threads that read; 0 reads without threads [default: the number of cores].
    #[arg(short = 'w', long, value_name = "N", value_parser = workers)]
    workers: Option<usize>,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand. There is no stage before this one: alone, it reads from files held in memory.
pub fn run(mut args: Args) -> Result<()> {
    if args.measure.alone {
        args.corpus.reading.io = Some(Io::Memory);
    }
    let (corpus, _) = args.corpus.resolve()?.open()?;
    let workers = args.workers.unwrap_or_else(cores);
    let (count, documents, flow) = reading(&*corpus, args.shuffle, workers, args.measure.seconds)?;
    let more = vec![("documents_per_second", json!(count.rate(Some(documents))))];
    Line { stage: "corpus", workers: Some(workers), count, flow: Some(flow), more }.print(&args.measure)
}

/// Reads documents for `time`, malformed ones included; tells how many they were.
pub fn reading(
    corpus: &dyn Corpus,
    shuffle: Shuffle,
    workers: usize,
    time: Duration,
) -> Result<(Count, u64, FlowReport)> {
    let (mut bytes, mut read) = (0, 0);
    let (elapsed, flow) = documents(corpus, shuffle, workers, |units| {
        take_for(time, units, |unit| {
            bytes += unit.bytes;
            read += unit.documents;
            Ok(())
        })
    })?;
    Ok((Count { bytes: Some(bytes), elapsed, ..Count::default() }, read, flow))
}
