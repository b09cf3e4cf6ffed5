//! `bertstream sample`: training samples as the model will see them, for people or as JSON lines.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;

use super::bottleneck::{Situation, bottleneck};
use super::flags::{CorpusFlags, Preset, SampleFlags, TokensFlag, spooled};
use super::output::{Printer, Table, grouped, json_line, print, tell};
use super::ram::RamFlag;
use super::statistics::{statistics, tell_tally};
use super::train::cores;
use crate::collate::CollateConfig;
use crate::corpus::{Corpus, Shape};
use crate::flow::FlowReport;
use crate::pipeline::Plan;
use crate::sample::{Corruption, Cursor, Origin, Paint, PairLabel, Sample, SampleConfig, Tally, show};
use crate::vocab::Tokenizer;
use crate::{Result, vocab};

/// Flags of `sample`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop after so many samples.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// How samples are printed.
    #[arg(long, value_name = "HOW", default_value = "text")]
    format: Format,
    /// Short for `--format jsonl`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// In place of samples, what they look like in numbers: lengths, rates of masks and pairs, padding in batches of 64,
    /// coverage of the vocabulary. With --json one JSON object.
    #[arg(long, conflicts_with = "format")]
    stats: bool,
    #[command(flatten)]
    epochs: EpochsFlag,
    #[command(flatten)]
    workers: WorkersFlag,
    #[command(flatten)]
    ram: RamFlag,
    #[command(flatten)]
    source: SourceArgs,
}

/// Rows of the batches whose padding is told.
const ROWS: usize = 64;

/// How often a command goes through the corpus.
#[derive(Debug, clap::Args)]
pub(super) struct EpochsFlag {
    /// Epochs to go through.
    #[arg(short = 'e', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
}

/// How many threads a command builds samples with.
#[derive(Debug, clap::Args)]
pub(super) struct WorkersFlag {
    /// Threads that build samples; 0 builds them without threads [default: the number of cores].
    #[arg(short = 'w', long, value_name = "N", aliases = ["num_workers", "num-workers"],
          value_parser = super::flags::workers)]
    workers: Option<usize>,
}

impl WorkersFlag {
    /// The number of worker threads: asked for, or the cores of this machine.
    pub fn count(&self) -> usize {
        self.workers.unwrap_or_else(cores)
    }
}

/// Flags of every command that makes samples and nothing else.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// Vocabulary: made by `vocab` or `tokenizer train`, or any tokenizer.json, vocab.txt, or directory with one.
    #[arg(short = 'v', long, value_name = "FILE", aliases = ["vocab_path", "vocab-path"])]
    pub vocab: PathBuf,
    /// Where the flags left out come from.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub preset: Preset,
    #[command(flatten)]
    pub corpus: CorpusFlags,
    #[command(flatten)]
    pub tokens: TokensFlag,
    #[command(flatten)]
    pub sample: SampleFlags,
}

impl SourceArgs {
    /// Opens what samples are made of, where that fits into `ram`: the corpus with its ids, where they have been encoded.
    pub fn open(&self, ram: RamFlag) -> Result<Source> {
        let sample = self.sample.resolve(self.preset);
        sample.check()?;
        let tokenizer = vocab::load(&self.vocab)?;
        let (sources, spool) = spooled(self.corpus.resolve()?)?;
        ram.refuse(&sources)?;
        let (corpus, _) = self.tokens.open(&sources, tokenizer.as_ref())?;
        let sample = sample.for_corpus(corpus.as_ref());
        Ok(Source { tokenizer, corpus, sample, _spool: spool })
    }
}

/// What samples are made of, opened.
pub(super) struct Source {
    pub tokenizer: Box<dyn Tokenizer>,
    pub corpus: Box<dyn Corpus>,
    pub sample: SampleConfig,
    /// Where standard input was written to, removed at the end.
    _spool: Option<TempDir>,
}

impl Source {
    /// The collation with this vocabulary's padding.
    pub fn padded(&self, collate: CollateConfig) -> CollateConfig {
        CollateConfig { pad_id: self.tokenizer.specials().pad, ..collate }
    }

    /// The pipeline over it, with so many threads that build samples.
    pub fn plan(&self, workers: usize) -> Plan<'_> {
        Plan { corpus: &*self.corpus, tokenizer: &*self.tokenizer, sample: &self.sample, workers }
    }
}

/// How samples are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Words with their masks visible, labels and origins.
    Text,
    /// A JSON object a line.
    Jsonl,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let source = args.source.open(args.ram)?;
    let plan = source.plan(args.workers.count());
    let plan = Plan { workers: args.ram.part(plan, None, 0)?.workers, ..plan };
    let Plan { corpus, tokenizer, .. } = plan;
    let format = if args.json { Format::Jsonl } else { args.format };
    let limit = args.limit.unwrap_or(u64::MAX);
    if args.stats {
        let found = statistics(plan, ROWS, limit)?;
        return match args.json {
            true => print(json_line(&found)?),
            false => print(found.table()),
        };
    }

    let mut printer = Printer::new();
    let (mut tally, mut skipped) = (Tally::default(), 0);
    let start = Instant::now();
    let ((), flow) = plan.measured_samples(Cursor::default(), args.epochs.epochs, |units| {
        while tally.samples < limit && !printer.closed {
            let Some(unit) = units.next().transpose()? else { break };
            skipped += unit.skipped;
            let left = usize::try_from(limit - tally.samples).unwrap_or(usize::MAX);
            for sample in unit.iter().take(left) {
                if format == Format::Text && tally.samples == 0 {
                    printer.line(LEGEND)?;
                }
                tally.add(&sample, &tokenizer.specials());
                let line = match format {
                    Format::Text => text(&sample, corpus.shape(), tokenizer, printer.paint),
                    Format::Jsonl => json(&sample, tokenizer),
                };
                printer.line(line)?;
            }
        }
        Ok(())
    })?;
    if printer.finish()? {
        let mut table = summary(&tally, start.elapsed());
        table.row("left out", format!("{} malformed documents", grouped(skipped)));
        add_bottleneck(&mut table, &flow, corpus);
        tell(table);
    }
    Ok(())
}

/// Adds the row that names the slow stage of what was printed, where there was enough to tell.
pub(super) fn add_bottleneck(table: &mut Table, flow: &FlowReport, corpus: &dyn Corpus) {
    if let Some(line) = bottleneck(flow, Situation::here("output", corpus)) {
        table.row("bottleneck", line);
    }
}

/// What stands before the first sample that people read.
pub(super) const LEGEND: &str = "w is predicted where it is masked [MASK:w], replaced by a random word [x<-w] or \
                                 kept (w); | parts the two segments";

/// A sample for people: where it came from and its label, then its words.
fn text(sample: &Sample<'_>, shape: Shape, tokenizer: &dyn Tokenizer, paint: Paint) -> String {
    let predicted = sample.masked.iter().zip(sample.labels).zip(sample.corruptions);
    let predicted = predicted.map(|((&at, &label), &corruption)| (at as usize, label, corruption));
    format!(
        "{}\n    {}",
        heading(&sample.origin, sample.pair, shape),
        show(sample.ids, sample.segments, predicted, tokenizer, paint)
    )
}

/// The line above a sample: `epoch 0 position 3: lines 17 + 4 (not next)`, or of documents
/// `epoch 0 position 3 part 1: document 5 lines 17 + 23 (is next)`.
pub(super) fn heading(origin: &Origin, pair: PairLabel, shape: Shape) -> String {
    let &Origin { cursor: Cursor { epoch, position, part }, document_a, line_a, document_b, line_b } = origin;
    let label = match pair {
        PairLabel::IsNext => " (is next)",
        PairLabel::NotNext => " (not next)",
        PairLabel::None => "",
    };
    let place = match shape {
        Shape::Pairs => {
            return format!("epoch {epoch} position {position}: lines {line_a} + {line_b}{label}");
        }
        Shape::Samples => format!("line {line_a}"),
        Shape::Documents if pair == PairLabel::None => format!("document {document_a} line {line_a}"),
        Shape::Documents if document_a == document_b => {
            format!("document {document_a} lines {line_a} + {line_b}")
        }
        Shape::Documents => {
            format!("document {document_a} line {line_a} + document {document_b} line {line_b}")
        }
    };
    format!("epoch {epoch} position {position} part {part}: {place}{label}")
}

/// A sample as a line of JSON.
fn json(sample: &Sample<'_>, tokenizer: &dyn Tokenizer) -> String {
    /// The fields, in this order; those of [`Sample`], with the ids spelled beside them.
    #[derive(Serialize)]
    struct Line<'s> {
        tokens: Vec<Option<&'s str>>,
        ids: &'s [u32],
        segments: &'s [u8],
        masked: &'s [u32],
        labels: &'s [u32],
        corruptions: &'s [Corruption],
        pair: PairLabel,
        origin: Origin,
    }
    let &Sample { ids, segments, masked, labels, corruptions, pair, origin } = sample;
    let tokens = ids.iter().map(|&id| tokenizer.token(id)).collect();
    serde_json::to_string(&Line { tokens, ids, segments, masked, labels, corruptions, pair, origin })
        .expect("plain fields always have a JSON form")
}

/// What a person can check.
pub(super) fn summary(tally: &Tally, elapsed: Duration) -> Table {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut table = Table::default();
    tell_tally(&mut table, tally);
    let [samples, tokens] = [tally.samples, tally.tokens].map(|n| grouped((n as f64 / seconds) as u64));
    table.row("speed", format!("{samples} samples/s, {tokens} tokens/s, printing included"));
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &str) -> clap::error::Result<Args> {
        Line::try_parse_from(format!("sample {flags}").split_whitespace()).map(|line| line.args)
    }

    #[test]
    fn the_letters_and_spellings_of_the_reference_are_understood() {
        let args = parse("-c a.tsv -v v.json -s 20 -e 3 -w 5").unwrap();
        assert_eq!((args.epochs.epochs, args.workers.count()), (3, 5));
        assert_eq!(args.source.sample.resolve(args.source.preset).seq_len, 20);
        let args = parse("--train_dataset a.tsv --vocab_path v.json --seq_len 20 --num_workers 0").unwrap();
        assert_eq!(args.workers.count(), 0);
    }

    #[test]
    fn two_formats_at_once_are_refused() {
        assert!(parse("-c a -v v --json").unwrap().json);
        assert!(parse("-c a -v v --json --format text").is_err());
    }

    #[test]
    fn headings() {
        let cursor = Cursor { epoch: 1, position: 2, part: 0 };
        let origin = Origin { cursor, document_a: 6, line_a: 7, document_b: 8, line_b: 9 };
        let check = |pair, expected: &str| assert_eq!(heading(&origin, pair, Shape::Pairs), expected);
        check(PairLabel::IsNext, "epoch 1 position 2: lines 7 + 9 (is next)");
        check(PairLabel::NotNext, "epoch 1 position 2: lines 7 + 9 (not next)");
        check(PairLabel::None, "epoch 1 position 2: lines 7 + 9");
        let check = |document_b, pair, expected: &str| {
            let origin = Origin { document_b, ..origin };
            assert_eq!(heading(&origin, pair, Shape::Documents), expected);
        };
        check(
            8,
            PairLabel::NotNext,
            "epoch 1 position 2 part 0: document 6 line 7 + document 8 line 9 (not next)",
        );
        check(6, PairLabel::IsNext, "epoch 1 position 2 part 0: document 6 lines 7 + 9 (is next)");
        check(6, PairLabel::None, "epoch 1 position 2 part 0: document 6 line 7");
    }
}
