//! `bertstream collate`: training batches, for people, as JSON lines, or as a safetensors file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::flags::Preset;
use super::output::{self, Printer, grouped, json_line, percent, tell};
use super::ram::{self, RamFlag};
use super::sample::{EpochsFlag, LEGEND, SourceArgs, WorkersFlag, add_bottleneck, heading, summary};
use super::statistics::add_batch;
use crate::collate::{BatchDigest, CollateConfig, HostBatch, PadTo, file};
use crate::corpus::Shape;
use crate::pipeline::Plan;
use crate::sample::{Cursor, Paint, Tally, show};
use crate::vocab::{Specials, Tokenizer};
use crate::{Error, Result, durable};

/// Flags of `collate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    /// Stop after so many batches.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// How batches are printed or written.
    #[arg(long, value_name = "HOW", default_value = "text")]
    format: Format,
    /// Short for `--format jsonl`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// In place of batches, what they look like in numbers: rates of masks and pairs, padding, digest. With --json one
    /// JSON object.
    #[arg(long, conflicts_with = "format")]
    stats: bool,
    /// File for `--format safetensors`. All batches are held in memory until it is written.
    #[arg(short = 'o', long, value_name = "FILE", aliases = ["output_path", "output-path"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    epochs: EpochsFlag,
    #[command(flatten)]
    workers: WorkersFlag,
    #[command(flatten)]
    ram: RamFlag,
    #[command(flatten)]
    source: SourceArgs,
}

/// What batches look like, for every command that makes batches and nothing else.
#[derive(Debug, clap::Args)]
pub(super) struct BatchArgs {
    /// Rows of a batch.
    #[arg(short = 'b', long, value_name = "N", alias = "batch_size", default_value_t = 64)]
    pub batch_size: usize,
    /// How wide rows are, and whether several samples share one [default: longest; reference: fixed].
    #[arg(long, value_name = "HOW")]
    pad: Option<PadTo>,
}

impl BatchArgs {
    /// How samples of `source` become batches, checked; the padding is still to come from the vocabulary.
    pub fn resolve(&self, source: &SourceArgs) -> Result<CollateConfig> {
        let config = CollateConfig {
            batch_size: self.batch_size,
            seq_len: source.sample.resolve(source.preset).seq_len,
            pad_to: self.pad.unwrap_or(default_pad(source.preset)),
            pad_id: 0,
        };
        config.check().map(|()| config)
    }
}

/// How batches are printed or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Rows of words with their masks visible, labels and origins.
    Text,
    /// A JSON object a line: the columns of the batch.
    Jsonl,
    /// The reference's tensors `bert_input`, `segment_label`, `bert_label` and `is_next`.
    Safetensors,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    let format = if args.json { Format::Jsonl } else { args.format };
    let collate = args.batch.resolve(&args.source)?;
    let output = file_to_write(format, args.output)?;
    if let Some(path) = &output {
        let corpora = args.source.corpus.corpus.iter().map(|source| &*source.path);
        let inputs: Vec<&Path> = corpora.chain([&*args.source.vocab]).collect();
        super::flags::keep_inputs(path, &inputs)?;
    }
    if output.is_some() && args.ram.ram.is_some() {
        return Err(Error::usage("--ram: --format safetensors holds all batches until it writes them"));
    }
    let source = args.source.open(args.ram)?;
    let plan = source.plan(args.workers.count());
    let plan = Plan { workers: args.ram.part(plan, Some(&collate), 0)?.workers, ..plan };
    let Plan { corpus, tokenizer, .. } = plan;
    let specials = tokenizer.specials();
    let collate = source.padded(collate);
    let limit = args.limit.unwrap_or(u64::MAX);

    let mut printer = Printer::new();
    let mut count = Count::default();
    let mut kept = Vec::new();
    let start = Instant::now();
    let ((), flow) = plan.measured_batches(&collate, Cursor::default(), args.epochs.epochs, |batches| {
        while count.batches < limit && !printer.closed {
            let Some(batch) = batches.next().transpose()? else { break };
            let number = count.batches;
            count.add(&batch, &specials);
            if args.stats {
                continue;
            }
            if format == Format::Text && number == 0 {
                printer.line(LEGEND)?;
            }
            match format {
                Format::Text => {
                    printer.line(text(number, &batch, corpus.shape(), tokenizer, printer.paint))?;
                }
                Format::Jsonl => printer.write(|out| file::write_json_line(out, &batch))?,
                Format::Safetensors => kept.push(batch),
            }
        }
        Ok(())
    })?;
    if let Some(path) = output {
        let info = file::FileInfo::new(source.sample.seed, tokenizer.fingerprint(), specials.mask);
        let bytes = file::to_safetensors(&kept, &info)?;
        durable::write_file(&path, &bytes)?;
        tell(format_args!("{:<10} {} ({})", "written", path.display(), output::bytes(bytes.len() as u64)));
    }
    if args.stats && args.json {
        printer.line(json_line(&count.statistics(start.elapsed()))?)?;
        return printer.finish().map(|_| ());
    }
    let mut table = summary(&count.tally, start.elapsed());
    table.row("batches", format!("{} ({} padding)", grouped(count.batches), percent(count.waste())));
    table.row("digest", count.digest);
    add_bottleneck(&mut table, &flow, corpus);
    if args.stats {
        printer.line(&table)?;
    }
    if printer.finish()? && !args.stats {
        tell(table);
    }
    Ok(())
}

/// How wide rows are where the flags do not say.
fn default_pad(preset: Preset) -> PadTo {
    match preset {
        Preset::Default => PadTo::Longest,
        Preset::Reference => PadTo::Fixed,
    }
}

/// The file to write, where the format writes one.
fn file_to_write(format: Format, output: Option<PathBuf>) -> Result<Option<PathBuf>> {
    match (format, output) {
        (Format::Safetensors, None) => {
            Err(Error::usage("--format safetensors writes a file: say which with --output FILE"))
        }
        (Format::Safetensors, output) => Ok(output),
        (_, Some(path)) => Err(Error::usage(format!(
            "--output {}: this format goes to stdout; use --format safetensors, or redirect stdout",
            path.display()
        ))),
        (_, None) => Ok(None),
    }
}

/// Counts over batches.
#[derive(Default)]
struct Count {
    batches: u64,
    rows: u64,
    cells: u64,
    tally: Tally,
    digest: BatchDigest,
}

impl Count {
    fn add(&mut self, batch: &HostBatch, specials: &Specials) {
        self.batches += 1;
        self.rows += batch.rows as u64;
        self.cells += batch.ids.len() as u64;
        self.digest.update(batch);
        add_batch(&mut self.tally, batch, specials);
    }

    /// Share of the cells that are padding.
    fn waste(&self) -> f64 {
        if self.cells == 0 { 0.0 } else { 1.0 - self.tally.tokens as f64 / self.cells as f64 }
    }

    fn statistics(&self, elapsed: Duration) -> Statistics {
        Statistics {
            tally: self.tally,
            batches: self.batches,
            rows: self.rows,
            cells: self.cells,
            padding: self.waste(),
            digest: self.digest.to_string(),
            seconds: elapsed.as_secs_f64(),
            peak_rss_bytes: ram::status("VmHWM:"),
        }
    }
}

/// What `--stats --json` prints; `docs/FORMATS.md` has the fields.
#[derive(Serialize)]
struct Statistics {
    #[serde(flatten)]
    tally: Tally,
    batches: u64,
    rows: u64,
    /// Places in all rows, and the share of them that is padding.
    cells: u64,
    padding: f64,
    digest: String,
    seconds: f64,
    /// The process' largest resident size, where the system tells it.
    peak_rss_bytes: Option<u64>,
}

/// A batch for people: its shape, then its samples.
fn text(number: u64, batch: &HostBatch, shape: Shape, tokenizer: &dyn Tokenizer, paint: Paint) -> String {
    let end = if batch.ends_epoch { ", ends the epoch" } else { "" };
    let packed = match batch.starts.is_empty() {
        true => String::new(),
        false => format!("{} samples in ", batch.samples()),
    };
    let mut lines = vec![format!(
        "batch {number}: {packed}{} rows of {}, {} tokens, {} predicted{end}",
        batch.rows,
        batch.seq_len,
        batch.tokens(),
        batch.masked.len()
    )];
    for i in 0..batch.samples() {
        let (ids, segments) = batch.sample(i);
        let row = match batch.starts.is_empty() {
            true => String::new(),
            false => format!("row {}: ", batch.start(i) / batch.seq_len),
        };
        lines.push(format!("  {row}{}", heading(&batch.origins[i], batch.pairs[i], shape)));
        lines.push(format!("    {}", show(ids, segments, batch.predictions(i), tokenizer, paint)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_file_is_named_where_one_is_written_and_only_there() {
        let check = |format, path: Option<&str>, expected: Result<(), ErrorKind>| {
            let found = file_to_write(format, path.map(PathBuf::from));
            assert_eq!(found.map(|_| ()).map_err(|error| error.kind()), expected);
        };
        check(Format::Safetensors, Some("a"), Ok(()));
        check(Format::Safetensors, None, Err(ErrorKind::Usage));
        check(Format::Text, None, Ok(()));
        check(Format::Jsonl, Some("a"), Err(ErrorKind::Usage));
    }
}
