//! `bertstream bench`: how fast the parts are, one line each.
//!
//! `step` measures training on made-up input; the others measure a stage of the pipeline on the user's own corpus,
//! with all stages before it, or alone, from input that is ready in memory.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::output::{bytes, grouped, print};
use super::ram;
use crate::flow::FlowReport;
use crate::{Error, Result};

mod collate;
mod corpus;
mod held;
mod mask;
mod product;
mod sample;
mod step;
mod vocab;

pub(super) use collate::{collating, collating_alone};
pub(super) use corpus::reading;
pub(super) use sample::sampling_alone;

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Whole training steps: forward, backward, clipping, optimizer.
    #[command(
        after_help = "Example:\n  bertstream bench step --arch bert --hidden 128 --layers 2 --attn-heads 2"
    )]
    Step(step::Args),
    /// A large matrix product: the peak that steps are measured against.
    #[command(after_help = "Example:\n  bertstream bench product --precision bf16 --times 5")]
    Product(product::Args),
    /// Counting the words of a text and making the vocabulary, in whole passes over it.
    #[command(after_help = "Example:\n  bertstream bench vocab --corpus train.tsv --seconds 1")]
    Vocab(vocab::Args),
    /// Documents from a corpus, in the order of training.
    #[command(after_help = "Example:\n  bertstream bench corpus --corpus train.tsv --seconds 1")]
    Corpus(corpus::Args),
    /// Samples: text or stored ids to masked samples.
    #[command(
        after_help = "Example:\n  bertstream bench sample --corpus train.tsv --vocab vocab.json \\\n\x20     --seconds 1"
    )]
    Sample(sample::Args),
    /// The masks of made-up rows, without anything around them.
    #[command(after_help = "Example:\n  bertstream bench mask --seconds 1")]
    Mask(mask::Args),
    /// Batches, as training takes them.
    #[command(
        after_help = "Example:\n  bertstream bench collate --corpus train.tsv --vocab vocab.json \\\n\x20     --seconds 1"
    )]
    Collate(collate::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Step(args) => step::run(&args),
        What::Product(args) => product::run(&args),
        What::Vocab(args) => vocab::run(&args),
        What::Corpus(args) => corpus::run(args),
        What::Sample(args) => sample::run(&args),
        What::Mask(args) => mask::run(&args),
        What::Collate(args) => collate::run(&args),
    }
}

/// Flags of every measurement of a stage.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measurement")]
struct MeasureFlags {
    /// How long to measure.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Without the stages before it: from input that is ready in memory (of a large corpus, its beginning).
    #[arg(long)]
    alone: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A length of time to measure for.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.01 to 86400 is needed".to_owned()),
    }
}

/// What passed through a stage, counted while it ran.
#[derive(Clone, Debug, Default)]
pub(super) struct Count {
    /// `None` where the stage has no samples, or nothing that is a token to it.
    pub samples: Option<u64>,
    pub tokens: Option<u64>,
    /// Text of the corpus that was worked off, in bytes; that behind stored ids as well. `None` where a stage
    /// has left the text behind it.
    pub bytes: Option<u64>,
    /// From before the first item to behind the last.
    pub elapsed: Duration,
}

impl Count {
    /// A figure for a second.
    pub fn rate(&self, of: Option<u64>) -> Option<f64> {
        of.map(|n| n as f64 / self.elapsed.as_secs_f64().max(1e-9))
    }
}

/// Gives `take` one item after the other until `time` is up, at least one, and tells how long that took. It ends
/// with the items as well.
fn take_for<T>(
    time: Duration,
    items: &mut dyn Iterator<Item = Result<T>>,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<Duration> {
    let started = Instant::now();
    for item in items {
        take(item?)?;
        if started.elapsed() >= time {
            break;
        }
    }
    Ok(started.elapsed())
}

/// A measurement as it is printed.
struct Line {
    stage: &'static str,
    /// Threads that made its items; `None` where they were made one by one on a single one.
    workers: Option<usize>,
    count: Count,
    flow: Option<FlowReport>,
    /// Further figures of this stage, under their names.
    more: Vec<(&'static str, Value)>,
}

impl Line {
    /// Prints it, for people or as an object of JSON.
    fn print(self, flags: &MeasureFlags) -> Result<()> {
        let peak = peak_rss_bytes()?;
        if flags.json { print(self.json(flags.alone, peak)) } else { print(self.text(peak)) }
    }

    fn json(self, alone: bool, peak: u64) -> Value {
        let count = &self.count;
        let mut line: Map<String, Value> = [
            ("stage", json!(self.stage)),
            ("alone", json!(alone)),
            ("workers", json!(self.workers)),
            ("seconds", json!(count.elapsed.as_secs_f64())),
            ("samples_per_second", json!(count.rate(count.samples))),
            ("tokens_per_second", json!(count.rate(count.tokens))),
            ("bytes_per_second", json!(count.rate(count.bytes))),
            ("peak_rss_bytes", json!(peak)),
        ]
        .into_iter()
        .chain(self.more)
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(flow) = &self.flow {
            line.insert("data_wait".to_owned(), json!(flow.data_wait));
            line.insert("stages".to_owned(), json!(flow.stages));
        }
        line.into()
    }

    /// `sample: 81,234 samples/s, 4,012,345 tokens/s, 21.3 MB/s; ...`.
    fn text(self, peak: u64) -> String {
        let count = &self.count;
        let whole = |rate: f64| rate as u64;
        let mut rates: Vec<String> = [(count.samples, "samples"), (count.tokens, "tokens")]
            .into_iter()
            .filter_map(|(n, name)| Some(format!("{} {name}/s", grouped(whole(count.rate(n)?)))))
            .collect();
        rates.extend(count.rate(count.bytes).map(|rate| format!("{}/s", bytes(whole(rate)))));
        let mut parts = vec![format!("{}: {}", self.stage, rates.join(", "))];
        for (name, value) in self.more {
            let value = match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => format!("{number:.1}"),
                None => value.to_string(),
            };
            parts.push(format!("{} {value}", name.replace('_', " ")));
        }
        if let Some(flow) = &self.flow {
            for stage in &flow.stages {
                let queue = match stage.queue {
                    0 => String::new(),
                    room => format!(", {:.1} of {room} ready", stage.ready),
                };
                parts.push(format!("{} {:.0} % busy{queue}", stage.name, 100.0 * stage.busy));
            }
            parts.push(format!("blocked on data {:.1} % of the time", 100.0 * flow.data_wait));
        }
        if let Some(workers) = self.workers {
            parts.push(format!("--workers {workers}"));
        }
        parts.push(format!("{:.1} s", count.elapsed.as_secs_f64()));
        parts.push(format!("{} MiB at most", peak >> 20));
        parts.join("; ")
    }
}

/// The process' largest resident size so far, as the kernel accounts it.
fn peak_rss_bytes() -> Result<u64> {
    ram::status("VmHWM:").ok_or_else(|| Error::internal("no VmHWM in /proc/self/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(samples: Option<u64>) -> Line {
        let count = Count { samples, tokens: Some(1_000_000), bytes: None, elapsed: Duration::from_secs(2) };
        Line { stage: "sample", workers: Some(2), count, flow: None, more: vec![] }
    }

    #[test]
    fn what_a_stage_has_not_is_null_and_not_told() {
        let json = line(None).json(true, 1 << 20);
        assert_eq!((&json["samples_per_second"], &json["bytes_per_second"]), (&Value::Null, &Value::Null));
        assert_eq!(json["tokens_per_second"], json!(500_000.0));
        assert_eq!(line(None).text(1 << 20), "sample: 500,000 tokens/s; --workers 2; 2.0 s; 1 MiB at most");
        assert!(line(Some(4)).text(0).starts_with("sample: 2 samples/s, 500,000 tokens/s;"));
    }

    #[test]
    fn at_least_one_item_is_taken_and_an_error_ends_it() {
        let mut taken = 0;
        let mut take = |items: Vec<Result<u32>>| {
            take_for(Duration::ZERO, &mut items.into_iter(), |_| {
                taken += 1;
                Ok(())
            })
        };
        assert!(take(vec![Ok(1), Ok(2)]).is_ok());
        assert!(take(vec![]).is_ok());
        assert!(take(vec![Err(Error::data("bad"))]).is_err());
        assert_eq!(taken, 1);
    }

    #[test]
    fn a_time_is_a_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        ["0", "-1", "nan", "inf", "1e9", "long"]
            .iter()
            .for_each(|text| assert!(seconds(text).is_err(), "{text}"));
    }
}
