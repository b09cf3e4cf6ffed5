//! `bertstream corpus` indexes a corpus and tells what it is; `--check`, or `bertstream doctor`, reads all of
//! it and tells what is wrong with it and what training on it will take.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::flags::CorpusFlags;
use super::log;
use super::output::{Table, bytes, grouped, json_line, percent, print, seconds, share};
use super::ram::{self, RamFlag};
use crate::corpus::check::{
    CheckConfig, Contents, Coverage, Covered, DocumentCoverage, MEMORY, RARE, Report, Spread, WordCounts,
    check,
};
use crate::corpus::{Corpus, CorpusConfig, Format, Shape, Source, Sources, TextCorpus};
use crate::model::{Arch, Init, Layout, ModelConfig, published_positions};
use crate::sample::{Shuffle, shuffle_quality};
use crate::vocab::{self, Tokenizer};
use crate::{Error, Result, durable};

/// Flags of `corpus` and `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read every line: what is wrong with it, lengths, duplicates. Exit code 65 where a line would be
    /// refused.
    #[arg(long)]
    check: bool,
    /// Vocabulary, for unknown words, truncation, padding and the size of a model (implies --check).
    #[arg(short = 'v', long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Longest sample in tokens, special tokens included.
    #[arg(short = 's', long, value_name = "N", default_value_t = 128, alias = "seq_len")]
    seq_len: usize,
    /// Samples in a batch.
    #[arg(short = 'b', long, value_name = "N", default_value_t = 64, alias = "batch_size")]
    batch_size: usize,
    /// Width of the model whose memory is estimated.
    #[arg(long, value_name = "N", default_value_t = 256)]
    hidden: usize,
    /// Blocks of that model.
    #[arg(short = 'l', long, value_name = "N", default_value_t = 8)]
    layers: usize,
    /// Attention heads of that model.
    #[arg(short = 'a', long, value_name = "N", default_value_t = 8, alias = "attn_heads")]
    attn_heads: usize,
    /// Training speed, to tell the time of an epoch (`train` prints it).
    #[arg(long, value_name = "N")]
    tokens_per_second: Option<f64>,
    /// Print the first N documents as well.
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ram: RamFlag,
    #[command(flatten)]
    corpus: CorpusFlags,
}

/// Runs `corpus`.
pub fn run(args: Args) -> Result<()> {
    let wants_check = args.check || args.vocab.is_some();
    refuse(&args)?;
    let tokenizer = args.vocab.as_deref().map(vocab::load).transpose()?;
    let sources = args.corpus.resolve()?.file_by_file()?;
    args.ram.refuse(&sources)?;
    let summaries = sources
        .iter()
        .map(|source| summary(&args, source, tokenizer.as_deref(), wants_check))
        .collect::<Result<Vec<_>>>()?;
    match &summaries[..] {
        [only] => print(match args.json {
            true => json_line(only)?,
            false => {
                let mut table = Table::default();
                only.tell(&mut table, &args);
                table.to_string()
            }
        })?,
        several => {
            let mixed = Mixed::of(&sources, several)?;
            print(match args.json {
                true => json_line(&mixed)?,
                false => mixed.table(&args),
            })?;
        }
    }
    summaries.iter().try_for_each(Summary::verdict)
}

/// Opens a source and looks at it.
fn summary(
    args: &Args,
    source: &CorpusConfig,
    tokenizer: Option<&dyn Tokenizer>,
    wants_check: bool,
) -> Result<Summary> {
    let started = Instant::now();
    let corpus = TextCorpus::open(source)?;
    if wants_check && corpus.shape() == Shape::Samples {
        return Err(Error::usage(format!(
            "corpus {}: samples have no text to be checked: `bertstream sample --corpus-format samples` reads them",
            source.path.display()
        )));
    }
    let opened = started.elapsed();
    let mut summary = Summary::of(&corpus, opened);
    summary.documents = documents(&corpus, args.limit);
    if wants_check {
        let memory = args.ram.for_counts(MEMORY, 0)?.min(MEMORY);
        let config = CheckConfig { seq_len: args.seq_len, batch_size: args.batch_size, memory };
        let bar = log::bar(corpus.len(), "checking {wide_bar} {human_pos}/{human_len}, {eta} left");
        let report = check(&corpus, tokenizer, &config, &mut |documents| bar.set_position(documents))?;
        bar.finish_and_clear();
        if let Some(tokenizer) = tokenizer {
            let sizes = match &report.contents {
                Contents::Pairs { vocabulary: Some(found), .. } => {
                    Some((report.documents, found.epoch_tokens))
                }
                Contents::Documents { vocabulary: Some(found), .. } => {
                    Some((found.samples, found.epoch_tokens))
                }
                _ => None,
            };
            let training = |(samples, tokens)| Training::of(args, samples, tokens, tokenizer.len());
            summary.training = sizes.map(training).transpose()?;
        }
        summary.check = Some(report);
        summary.peak_rss_bytes = ram::status("VmHWM:");
    }
    Ok(summary)
}

/// Runs `doctor`: `corpus --check`.
pub fn doctor(args: Args) -> Result<()> {
    run(Args { check: true, ..args })
}

/// Where the index goes when nobody says: `None` is beside the corpus, unless nothing can be written there
/// and there is no index yet; then it is the user's cache directory.
pub fn index_dir(corpus: &Path) -> Option<PathBuf> {
    let mut beside = corpus.as_os_str().to_owned();
    beside.push(".bsidx");
    if Path::new(&beside).exists()
        || rustix::fs::access(durable::parent(corpus), rustix::fs::Access::WRITE_OK).is_ok()
    {
        return None;
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("bertstream"))
}

/// Flags that cannot be meant.
fn refuse(args: &Args) -> Result<()> {
    if args.seq_len < 5 {
        let seq_len = args.seq_len;
        return Err(Error::usage(format!(
            "--seq-len {seq_len}: two sentences and three special tokens need at least 5"
        )));
    }
    if args.batch_size == 0 {
        return Err(Error::usage("--batch-size 0: a batch has at least one sample"));
    }
    if args.tokens_per_second.is_some_and(|speed| !(speed > 0.0 && speed.is_finite())) {
        return Err(Error::usage("--tokens-per-second must be a positive number"));
    }
    Ok(())
}

/// What is printed. The field names are those of `--json` and stay.
#[derive(Serialize)]
struct Summary {
    corpus: PathBuf,
    format: Format,
    /// Whether the format was guessed.
    guessed: bool,
    /// Lines that are used; of a directory, files.
    lines: u64,
    /// Documents, those that turn out to be malformed included.
    document_count: u64,
    /// Documents that begin only because the one before was too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<u64>,
    bytes: u64,
    encoding: &'static str,
    /// Sixteen hexadecimal digits: more than a JSON number holds.
    fingerprint: String,
    /// None of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<IndexSummary>,
    shuffle_quality: ShuffleQuality,
    /// Opening, and making the index where there was none.
    open_seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    documents: Vec<DocumentSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Training>,
    /// The process' largest resident size, where the system tells it.
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct IndexSummary {
    /// `null` where it could not be kept.
    path: Option<PathBuf>,
    bytes: u64,
    /// Of the corpus.
    share: f64,
    stride: u64,
    /// Whether it was made just now.
    built: bool,
}

/// Of each `--shuffle`: entropy of neighbour differences of the first epoch, as a share of a full permutation's.
#[derive(Clone, Copy, Serialize)]
struct ShuffleQuality {
    keyed: f64,
    blocks: f64,
}

impl ShuffleQuality {
    fn of(corpus: &dyn Corpus) -> Self {
        Self {
            keyed: shuffle_quality(corpus, Shuffle::Keyed),
            blocks: shuffle_quality(corpus, Shuffle::Blocks),
        }
    }
}

#[derive(Serialize)]
struct DocumentSummary {
    line: u64,
    /// Empty where the line is no document.
    sentences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What training a model on the corpus will take.
#[derive(Serialize)]
struct Training {
    seq_len: usize,
    batch_size: usize,
    /// Samples and batches of an epoch.
    samples: u64,
    batches: u64,
    parameters: u64,
    /// Weights, gradients, and the two moments of Adam: 16 bytes a parameter.
    state_bytes: u64,
    /// What a step keeps for its backward pass, estimated.
    activation_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_seconds: Option<f64>,
}

impl Training {
    fn of(args: &Args, samples: u64, epoch_tokens: u64, vocab_size: usize) -> Result<Self> {
        let model = ModelConfig {
            arch: Arch::Reference,
            vocab_size,
            hidden: args.hidden,
            layers: args.layers,
            heads: args.attn_heads,
            dropout: 0.0,
            init: Init::default(),
            max_positions: published_positions(),
        };
        model.check()?;
        let parameters = Layout::new(&model).len() as u64;

        Ok(Self {
            seq_len: args.seq_len,
            batch_size: args.batch_size,
            samples,
            batches: samples.div_ceil(args.batch_size as u64),
            parameters,
            state_bytes: 16 * parameters,
            activation_bytes: activation_bytes(&model, args.batch_size as u64, args.seq_len as u64),
            epoch_seconds: args.tokens_per_second.map(|speed| epoch_tokens as f64 / speed),
        })
    }
}

/// Bytes of activations that a block needs again in its backward pass, in `f32`: for each position the two
/// normalised inputs, queries, keys, values, the attention's result, the residual stream twice (8 hidden
/// sizes) and the feed-forward layer before and after its activation; and the attention's probabilities.
fn activation_bytes(model: &ModelConfig, rows: u64, width: u64) -> u64 {
    let position = (8 * model.hidden + 2 * model.feed_forward()) as u64;
    let attention = model.heads as u64 * width;
    4 * model.layers as u64 * rows * width * (position + attention)
}

/// The first documents, those that are none included.
fn documents(corpus: &TextCorpus, limit: u64) -> Vec<DocumentSummary> {
    let show = |id| match corpus.document(id) {
        Ok(document) => DocumentSummary {
            line: document.sentences.first().map_or(0, |sentence| sentence.line),
            sentences: document.sentences.iter().map(|sentence| sentence.text.to_string()).collect(),
            error: None,
        },
        Err(error) => DocumentSummary { line: id + 1, sentences: Vec::new(), error: Some(error.to_string()) },
    };
    (0..corpus.len().min(limit)).map(show).collect()
}

/// What is printed of several sources.
#[derive(Serialize)]
struct Mixed<'s> {
    sources: Vec<MixedSource<'s>>,
    document_count: u64,
    bytes: u64,
    fingerprint: String,
}

#[derive(Serialize)]
struct MixedSource<'s> {
    #[serde(flatten)]
    summary: &'s Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    /// Documents of an epoch, and the share of its text that they are.
    per_epoch: u64,
    share: f64,
}

impl<'s> Mixed<'s> {
    /// The sources that `summaries` are of, mixed.
    fn of(sources: &Sources, summaries: &'s [Summary]) -> Result<Self> {
        let (corpus, _) = sources.open()?;
        let parts = corpus.sources();
        let text = |summary: &Summary, part: &Source| {
            part.per_epoch as f64 * summary.bytes as f64 / summary.document_count as f64
        };
        let whole: f64 = summaries.iter().zip(&parts).map(|(summary, part)| text(summary, part)).sum();
        let each = summaries.iter().zip(&parts).zip(sources.iter());
        Ok(Self {
            document_count: corpus.len(),
            bytes: corpus.bytes(),
            fingerprint: format!("{:016x}", corpus.fingerprint()),
            sources: each
                .map(|((summary, part), source)| MixedSource {
                    summary,
                    weight: source.weight,
                    per_epoch: part.per_epoch,
                    share: text(summary, part) / whole,
                })
                .collect(),
        })
    }

    /// For people.
    fn table(&self, args: &Args) -> String {
        let mut table = Table::default();
        for source in &self.sources {
            source.summary.tell(&mut table, args);
            table.gap();
        }
        for MixedSource { summary, per_epoch, share, .. } in &self.sources {
            table.row(
                "an epoch has",
                format!(
                    "{} documents of the {} of {}: {} of its text",
                    grouped(*per_epoch),
                    grouped(summary.document_count),
                    summary.corpus.display(),
                    percent(*share)
                ),
            );
        }
        table.row("documents together", grouped(self.document_count));
        table.row("size", bytes(self.bytes));
        table.row("fingerprint", &self.fingerprint);
        table.to_string()
    }
}

impl Summary {
    fn of(corpus: &TextCorpus, opened: Duration) -> Self {
        let file = corpus.text_file();
        let index = file.map(|file| IndexSummary {
            path: file.index_file().path.clone(),
            bytes: file.index().file_len(),
            share: file.index().file_len() as f64 / corpus.bytes() as f64,
            stride: file.index().stride(),
            built: file.index_file().built,
        });
        let sentences = corpus.format() == Format::Sentences;
        Self {
            corpus: corpus.path().to_owned(),
            format: corpus.format(),
            guessed: corpus.is_guessed(),
            lines: match file {
                Some(file) if sentences => {
                    corpus.config().lines.unwrap_or(u64::MAX).min(file.index().lines())
                }
                _ => corpus.len(),
            },
            document_count: corpus.len(),
            cut: file.filter(|_| sentences).map(|file| file.index().cuts()),
            bytes: corpus.bytes(),
            encoding: corpus.encoding().name(),
            fingerprint: format!("{:016x}", corpus.fingerprint()),
            index,
            shuffle_quality: ShuffleQuality::of(corpus),
            open_seconds: opened.as_secs_f64(),
            documents: Vec::new(),
            check: None,
            training: None,
            peak_rss_bytes: ram::status("VmHWM:"),
        }
    }

    /// Whether all documents are sound, as far as that was looked at.
    fn verdict(&self) -> Result<()> {
        let Some(Report { refused: refused @ 1.., lines, .. }) = &self.check else { return Ok(()) };
        let path = self.corpus.display();
        Err(Error::data(match self.format.shape() {
            Shape::Pairs => format!(
                "corpus {path}: {refused} of {lines} lines are not two sentences with a tab between: mend them, or \
                 train with --on-bad-line skip",
            ),
            Shape::Documents | Shape::Samples => format!(
                "corpus {path}: {refused} of {} documents are malformed: mend them, or train with --on-bad-line skip",
                self.document_count
            ),
        }))
    }

    /// For people.
    fn tell(&self, table: &mut Table, args: &Args) {
        for document in &self.documents {
            table.row(
                &document.line.to_string(),
                &match &document.error {
                    Some(error) => error.clone(),
                    None => document.sentences.join("  |  "),
                },
            );
        }
        if !self.documents.is_empty() {
            table.gap();
        }
        table.row("corpus", self.corpus.display());
        let guessed = if self.guessed { " (guessed; --corpus-format names another)" } else { "" };
        table.row("format", format!("{}: {}{guessed}", self.format.name(), self.format.description()));
        if self.format != Format::Pairs {
            table.row("documents", grouped(self.document_count));
        }
        if let Some(cut @ 1..) = self.cut {
            table.row("  cut at 1 MiB", format!("{}: no blank line for as long", grouped(cut)));
        }
        table.row(if self.index.is_some() { "lines" } else { "files" }, grouped(self.lines));
        table.row("size", format!("{}, {}", bytes(self.bytes), self.encoding));
        table.row("fingerprint", &self.fingerprint);
        if let Some(index) = &self.index {
            let unit = if self.format == Format::Sentences { "documents" } else { "lines" };
            table.row(
                "index",
                format!(
                    "{}, {} ({} of the corpus), one offset in {} {unit}",
                    index.path.as_ref().map_or("not kept".to_owned(), |path| path.display().to_string()),
                    bytes(index.bytes),
                    percent(index.share),
                    index.stride,
                ),
            );
        }
        let built = self.index.as_ref().is_some_and(|index| index.built);
        let what = if built { "indexed in" } else { "opened in" };
        let speed = self.bytes as f64 / self.open_seconds.max(1e-9);
        table.row(
            what,
            &match built {
                true => format!("{} ({}/s)", seconds(self.open_seconds), bytes(speed as u64)),
                false => seconds(self.open_seconds),
            },
        );
        let ShuffleQuality { keyed, blocks } = self.shuffle_quality;
        table.row(
            "shuffle quality",
            format!("keyed {keyed:.3}, blocks {blocks:.3} of a full permutation (entropy of neighbour differences)"),
        );
        if let Some(report) = &self.check {
            table.gap();
            tell_report(table, report);
            match &report.contents {
                Contents::Pairs { vocabulary: Some(coverage), .. } => {
                    table.gap();
                    tell_coverage(table, coverage, args);
                }
                Contents::Documents { vocabulary: Some(coverage), .. } => {
                    table.gap();
                    tell_document_coverage(table, coverage, args);
                }
                _ => {}
            }
        }
        if let Some(training) = &self.training {
            tell_training(table, training, args);
        }
    }
}

fn tell_report(table: &mut Table, report: &Report) {
    let places = |lines: &[u64], count: u64| {
        let mut text: Vec<_> = lines.iter().map(u64::to_string).collect();
        if count > lines.len() as u64 {
            text.push("...".into());
        }
        format!("{} (line {})", grouped(count), text.join(", "))
    };
    let pairs = matches!(report.contents, Contents::Pairs { .. });
    let one = if pairs { "line" } else { "document" };
    let found = match pairs {
        true => format!("{} of {} lines", grouped(report.documents), grouped(report.lines)),
        false => format!("{} in {} lines", grouped(report.documents), grouped(report.lines)),
    };
    table.row("documents", found);
    table.row(&format!("refused {one}s"), grouped(report.refused));
    for (reason, finding) in report.refusals.named() {
        if finding.count > 0 {
            table.row(&format!("  {reason}"), places(&finding.lines, finding.count));
        }
    }
    if report.crlf.count > 0 {
        let lines = places(&report.crlf.lines, report.crlf.count);
        table.row("CRLF line ends", format!("{lines}: read as LF"));
    }
    if report.byte_order_mark {
        table.row("byte order mark", "at the start: not part of the text");
    }
    if report.stray_byte_order_marks.count > 0 {
        let stray = &report.stray_byte_order_marks;
        table.row("byte order marks inside", places(&stray.lines, stray.count));
    }
    if report.replaced > 0 {
        let lines = places(&report.replaced_in.lines, report.replaced_in.count);
        table.row("bytes replaced", format!("{} sequences in {one}s: {lines}", grouped(report.replaced)));
    }
    let duplicates = &report.duplicates;
    let mut text = format!(
        "{} ({} of the documents)",
        grouped(duplicates.count),
        percent(share(duplicates.count, report.documents))
    );
    if duplicates.one_in > 1 {
        write!(text, ", estimated from one {one} in {}", duplicates.one_in).expect("a string takes all");
    }
    for [line, first] in &duplicates.lines {
        write!(text, "; {line} repeats {first}").expect("a string takes everything");
    }
    table.row(&format!("duplicate {one}s"), &text);
    table.gap();
    table.row(&format!("bytes of a {one}"), spread(&report.line_bytes));
    let most = report.line_bytes_histogram.iter().map(|bar| bar.lines).max().unwrap_or(0).max(1);
    for bar in &report.line_bytes_histogram {
        let length = (40 * bar.lines).div_ceil(most) as usize;
        table.row(
            &format!("  {:>9} - {:<9}", bar.from, bar.to),
            format!("{:<40} {}", "#".repeat(length), grouped(bar.lines)),
        );
    }
    match &report.contents {
        Contents::Pairs { words: [first, second], .. } => {
            table.row("words of the first", spread(first));
            table.row("words of the second", spread(second));
        }
        Contents::Documents { sentences, sentence_words, .. } => {
            table.row("sentences of a document", spread(sentences));
            table.row("words of a sentence", spread(sentence_words));
        }
    }
    tell_words(table, &report.word_counts);
}

fn tell_words(table: &mut Table, words: &WordCounts) {
    let estimated = match words.one_in {
        1 => String::new(),
        one_in => format!(", estimated from one word in {one_in}"),
    };
    table.row(
        "words",
        format!("{}, {} different{estimated}", grouped(words.running), grouped(words.distinct)),
    );
    table.row(
        "rare words",
        format!(
            "{} come fewer than {RARE} times ({} once): {} of the text",
            grouped(words.rare),
            grouped(words.once),
            percent(words.rare_rate)
        ),
    );
}

/// What every kind of corpus has of a vocabulary.
fn tell_covered(table: &mut Table, covered: &Covered) {
    table.row("tokens of the text", grouped(covered.tokens));
    table.row("unknown tokens", format!("{} ({})", grouped(covered.unknown), percent(covered.unknown_rate)));
    if covered.words > 0 {
        table.row(
            "words covered",
            format!(
                "{}, {} by a token of their own; {:.2} tokens a word",
                percent(covered.words_covered),
                percent(covered.words_whole),
                covered.tokens as f64 / covered.words as f64
            ),
        );
    }
    table.row(
        "vocabulary used",
        format!(
            "{} of {} tokens come ({}), {} of them fewer than {RARE} times",
            grouped(covered.entries_seen),
            grouped(covered.entries),
            percent(share(covered.entries_seen, covered.entries)),
            grouped(covered.entries_rare)
        ),
    );
}

fn tell_document_coverage(table: &mut Table, coverage: &DocumentCoverage, args: &Args) {
    tell_covered(table, &coverage.covered);
    table.row("tokens of a sentence", spread(&coverage.sentence_tokens));
    table.row(
        "samples, estimated",
        format!("{} of {} tokens, if all are filled", grouped(coverage.samples), args.seq_len),
    );
}

fn tell_coverage(table: &mut Table, coverage: &Coverage, args: &Args) {
    tell_covered(table, &coverage.covered);
    table.row("tokens of a sample", spread(&coverage.sample_tokens));
    table.row(
        &format!("truncated at {}", args.seq_len),
        format!("{} ({})", grouped(coverage.truncated), percent(coverage.truncated_rate)),
    );
    table.row(
        "padding",
        format!(
            "{} with rows of {}, {} with rows as long as the longest of {} ({:.1} on average)",
            percent(coverage.padding_fixed),
            args.seq_len,
            percent(coverage.padding_longest),
            args.batch_size,
            coverage.batch_width,
        ),
    );
    table.row("tokens of an epoch", grouped(coverage.epoch_tokens));
}

fn tell_training(table: &mut Table, training: &Training, args: &Args) {
    table.row(
        "samples of an epoch",
        format!("{} in {} batches", grouped(training.samples), grouped(training.batches)),
    );
    table.row(
        "model",
        format!(
            "{} parameters (--hidden {} --layers {} --attn-heads {})",
            grouped(training.parameters),
            args.hidden,
            args.layers,
            args.attn_heads
        ),
    );
    table.row(
        "memory",
        format!(
            "{} for weights, gradients and moments; about {} for a batch of {} x {}",
            bytes(training.state_bytes),
            bytes(training.activation_bytes),
            args.batch_size,
            args.seq_len
        ),
    );
    match training.epoch_seconds {
        Some(time) => table.row("time of an epoch", seconds(time)),
        None => table.row("time of an epoch", "give --tokens-per-second to have it told"),
    }
}

fn spread(spread: &Spread) -> String {
    let [min, median, p99, max] = [spread.min, spread.median, spread.p99, spread.max].map(grouped);
    format!("min {min}, mean {:.1}, median {median}, 99 % {p99}, max {max}", spread.mean)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        Line::parse_from([&["corpus", "-c", "text"], flags].concat()).args
    }

    #[test]
    fn training_is_foretold_from_the_samples_and_the_model() {
        let flags = ["--hidden", "8", "--layers", "2", "--attn-heads", "2", "--tokens-per-second", "50"];
        let training = Training::of(&args(&flags), 130, 2000, 11).unwrap();
        assert_eq!((training.samples, training.batches), (130, 3));
        assert_eq!(training.epoch_seconds, Some(40.0));
        // Tokens and segments; four projections, two layers and two norms in each block; two heads.
        let parameters = 11 * 8 + 3 * 8 + 2 * (4 * 72 + 8 * 32 + 32 + 32 * 8 + 8 + 4 * 8) + 18 + 11 * 9;
        assert_eq!((training.parameters, training.state_bytes), (parameters, 16 * parameters));
        let refused = Training::of(&args(&["--hidden", "8", "--attn-heads", "3"]), 1, 1, 11);
        assert_eq!(refused.err().map(|error| error.kind()), Some(crate::ErrorKind::Usage));
    }
}
