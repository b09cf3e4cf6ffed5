//! `bertstream tokenizer`: trains a subword tokenizer, and shows what a tokenizer makes of text.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::output::{Printer, Table, bytes, grouped, percent, print, seconds, share};
use super::vocab::TextArgs;
use crate::text::broken_utf8_at;
use crate::vocab::count::Summary;
use crate::vocab::subword::train::Report;
use crate::vocab::subword::{Algorithm, TrainConfig, Trained, train};
use crate::vocab::{self, Kind, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// Flags of `tokenizer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Train a tokenizer on a text of any size.
    #[command(
        after_help = "Example:\n  bertstream tokenizer train --corpus train.txt --model wordpiece \\\n\
        \x20     --vocab-size 8192 --output tokenizer.json"
    )]
    Train(TrainArgs),
    /// Print the tokens and ids of a text, or of each line of stdin.
    #[command(
        after_help = "Example:\n  bertstream tokenizer encode --tokenizer tokenizer.json \"A text to cut.\""
    )]
    Encode(EncodeArgs),
}

/// Flags of `tokenizer train`.
#[derive(Debug, clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    text: TextArgs,
    /// File to write: a tokenizer.json, as `transformers` and `tokenizers` read it.
    #[arg(short = 'o', long, value_name = "FILE", aliases = ["output_path", "output-path"])]
    output: PathBuf,
    /// What is trained.
    #[arg(long, value_name = "MODEL", default_value = "wordpiece")]
    model: Algorithm,
    /// Tokens of the vocabulary, the five special ones included.
    #[arg(short = 's', long, value_name = "N", default_value_t = 30_000, aliases = ["vocab_size", "size"])]
    vocab_size: usize,
    /// Tell upper from lower case; otherwise text is lower-cased (and loses its accents, with wordpiece).
    #[arg(long)]
    cased: bool,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `tokenizer encode`.
#[derive(Debug, clap::Args)]
struct EncodeArgs {
    /// The tokenizer: a tokenizer.json, vocab.txt or vocab.json, or a directory that holds one.
    #[arg(short = 't', long, value_name = "FILE", aliases = ["vocab", "vocab_path"])]
    tokenizer: PathBuf,
    /// Text to encode; without it, each line of stdin.
    text: Option<String>,
    /// Print a line of JSON for each text: ids, tokens, and which of them begin a word.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Train(args) => run_train(&args),
        Command::Encode(args) => run_encode(&args),
    }
}

fn run_train(args: &TrainArgs) -> Result<()> {
    let count = args.text.resolve(Kind::Word)?;
    let config = TrainConfig {
        algorithm: args.model,
        vocab_size: args.vocab_size,
        cased: args.cased,
        min_freq: args.text.min_freq,
        memory: count.memory,
    };
    args.text.check_output(&args.output)?;

    let started = Instant::now();
    let text = args.text.open()?;
    let (Trained { tokenizer, report }, summary) =
        train(&config, |each| args.text.counting(|progress| text.each_word(&count, progress, each)))?;
    tokenizer.save(&args.output)?;
    let elapsed = started.elapsed();

    for warning in warnings(&report, &summary, args.vocab_size) {
        tracing::warn!("{warning}");
    }
    let fingerprint = tokenizer.fingerprint();
    if args.json {
        print(report_json(&report, &summary, elapsed, fingerprint))
    } else {
        print(report_text(&report, &summary, elapsed, &args.output, &args.text.corpus[0].path))
    }
}

/// What somebody should know before training with this tokenizer.
fn warnings(report: &Report, summary: &Summary, asked: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.words_seen < report.words {
        warnings.push(format!(
            "{} of the words were trained on, the most frequent ones; --min-freq and --ram leave out the \
             rest, and so does a word of more than 64 kB",
            percent(share(report.words_seen, report.words))
        ));
    }
    if report.tokens < asked as u64 {
        warnings.push(format!(
            "{} tokens instead of {}: this text has no more pieces that come often enough",
            grouped(report.tokens),
            grouped(asked as u64)
        ));
    }
    if report.rare_characters > 0 {
        warnings.push(format!(
            "{} rare characters have no token: words with them are unknown; a larger --vocab-size has room \
             for more, and --model bpe knows them all",
            grouped(report.rare_characters)
        ));
    }
    if summary.replaced > 0 {
        warnings.push(format!("{} broken byte sequences were read as U+FFFD", summary.replaced));
    }
    warnings
}

/// The summary for people, and the command that comes next.
fn report_text(
    report: &Report,
    summary: &Summary,
    elapsed: Duration,
    output: &Path,
    corpus: &Path,
) -> String {
    let seen = |seen: u64, of: u64| format!("{} ({} trained on)", grouped(of), percent(share(seen, of)));
    let mut table = Table::default();
    table.row("lines", grouped(summary.lines));
    table.row("words", seen(report.words_seen, report.words));
    table.row("distinct", seen(report.distinct_seen, report.distinct));
    table.row("pieces", format!("{} different ones, before any is cut", grouped(report.pieces)));
    table.row(
        "characters",
        format!("{} ({} too rare left out)", grouped(report.characters), grouped(report.rare_characters)),
    );
    table.row("vocabulary", format!("{} tokens, 5 of them special", grouped(report.tokens)));
    table.row("cut", format!("{:.3} tokens a word of this text", report.tokens_per_word));
    table.row("read", format!("{} in {}", bytes(summary.bytes), seconds(elapsed.as_secs_f64())));
    if summary.spilled > 0 {
        table.row("to disk", format!("{} of counts (--ram)", bytes(summary.spilled)));
    }
    table.row("written", output.display());
    format!(
        "{table}\nnext:\n  bertstream train --corpus {} --vocab {} --output run\n",
        corpus.display(),
        output.display()
    )
}

/// The same for scripts, on one line.
fn report_json(report: &Report, summary: &Summary, elapsed: Duration, fingerprint: u64) -> String {
    let mut all = json!(report);
    all["share_seen"] = share(report.words_seen, report.words).into();
    for (name, value) in [
        ("bytes", summary.bytes),
        ("lines", summary.lines),
        ("overlong", summary.overlong),
        ("replaced", summary.replaced),
        ("spilled", summary.spilled),
    ] {
        all[name] = value.into();
    }
    all["seconds"] = elapsed.as_secs_f64().into();
    all["fingerprint"] = format!("{fingerprint:016x}").into();
    format!("{all}\n")
}

fn run_encode(args: &EncodeArgs) -> Result<()> {
    let tokenizer = vocab::load(&args.tokenizer)?;
    let mut printer = Printer::new();
    if let Some(text) = &args.text {
        printer.line(encoded(tokenizer.as_ref(), text, args.json))?;
        return printer.finish().map(|_| ());
    }
    let mut stdin = io::stdin().lock();
    let (mut line, mut number) = (Vec::new(), 0_u64);
    while !printer.closed {
        line.clear();
        let read = stdin
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::new(ErrorKind::Io, "cannot read stdin").caused_by(error))?;
        if read == 0 {
            break;
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = std::str::from_utf8(text).map_err(|_| {
            let at = broken_utf8_at(text) + 1;
            Error::data(format!("stdin: line {number}, byte {at} of the line: invalid UTF-8"))
        })?;
        printer.line(encoded(tokenizer.as_ref(), text, args.json))?;
    }
    printer.finish().map(|_| ())
}

/// The tokens of a text with their ids: `token/id` for people, columns for scripts.
fn encoded(tokenizer: &dyn Tokenizer, text: &str, as_json: bool) -> String {
    let (mut ids, mut begins) = (Vec::new(), Vec::new());
    if tokenizer.knows_words() {
        tokenizer.encode_words(text, &mut ids, &mut begins);
    } else {
        tokenizer.encode(text, &mut ids);
    }
    let token = |&id: &u32| tokenizer.token(id).unwrap_or_default();
    if as_json {
        let tokens: Vec<&str> = ids.iter().map(token).collect();
        let mut line = json!({ "ids": ids, "tokens": tokens });
        if tokenizer.knows_words() {
            line["begins"] = begins.into();
        }
        return line.to_string();
    }
    ids.iter().map(|id| format!("{}/{id}", token(id))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_be_known_is_warned_of() {
        let fine = Report {
            words: 100,
            words_seen: 100,
            distinct: 10,
            distinct_seen: 10,
            pieces: 10,
            characters: 9,
            rare_characters: 0,
            tokens: 64,
            tokens_per_word: 1.5,
        };
        let check = |report: Report, replaced, expected: &[&str]| {
            let summary = Summary { replaced, ..Summary::default() };
            let warnings = warnings(&report, &summary, 64);
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            for (warning, part) in warnings.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        };
        check(fine, 0, &[]);
        check(Report { words_seen: 93, ..fine }, 0, &["93.00 % of the words"]);
        check(Report { tokens: 60, ..fine }, 0, &["60 tokens instead of 64"]);
        check(Report { rare_characters: 3, ..fine }, 2, &["3 rare characters", "2 broken"]);
    }

    #[test]
    fn a_text_is_shown_with_its_ids() {
        let words = vocab::WordVocab::from_texts(["a b a"], None, 1);
        assert_eq!(encoded(&words, "b a x", false), "b/6 a/5 <unk>/1");
        assert_eq!(encoded(&words, "b", true), r#"{"begins":[true],"ids":[6],"tokens":["b"]}"#);
    }
}
