//! Flags to parts: each subcommand is a file, a struct of flags and a `run`.
//!
//! Time, environment and CPU count are read here and nowhere else. Results go to stdout, everything else
//! to stderr.

// Both panic where the reader is gone (`| head`, a closed terminal); `output` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{Error, Result, flow};

mod bench;
mod bottleneck;
mod collate;
mod completions;
mod config;
mod corpus;
mod embed;
mod eval;
mod export;
mod fill_mask;
mod flags;
mod inspect;
mod log;
mod man;
mod output;
mod quickstart;
mod ram;
mod rebuild;
mod report;
mod sample;
mod statistics;
mod tokenize;
mod tokenizer;
mod train;
mod trained;
mod tune;
mod version;
mod vocab;

/// Streaming BERT pretraining: from text larger than memory to a trained BERT.
#[derive(Debug, Parser)]
#[command(name = "bertstream", version, propagate_version = true)]
#[command(after_help = "Begin with:\n  bertstream quickstart")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is told on stderr besides results and errors [default: warn, or what BERTSTREAM_LOG says].
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Messages")]
    log_level: Option<log::Level>,
    /// How that is written: lines for people, or one JSON object a line.
    #[arg(long, value_name = "FORMAT", global = true, help_heading = "Messages", default_value = "text")]
    log_format: log::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a vocabulary from a corpus.
    #[command(after_help = "Example:\n\
        \x20 bertstream vocab --corpus train.tsv --vocab-size 8192 --output vocab.json")]
    Vocab(vocab::Args),
    /// Train a subword tokenizer, or show what one does to text.
    #[command(after_help = "Examples:\n\
        \x20 bertstream tokenizer train --corpus train.txt --model wordpiece \\\n\
        \x20     --vocab-size 8192 --output tokenizer.json\n\
        \x20 bertstream tokenizer encode --tokenizer tokenizer.json \"A text to cut.\"")]
    Tokenizer(tokenizer::Args),
    /// Encode a corpus once, into a file that training reads instead of its text.
    #[command(after_help = "Example:\n  bertstream tokenize --corpus train.tsv --vocab vocab.json")]
    Tokenize(tokenize::Args),
    /// Index a corpus and tell what it is.
    #[command(after_help = "Example:\n\
        \x20 bertstream corpus --check --corpus train.tsv --vocab vocab.json --seq-len 64")]
    Corpus(corpus::Args),
    /// Check a corpus before hours are spent on it: the same as `corpus --check`.
    #[command(
        after_help = "Example:\n  bertstream doctor --corpus train.tsv --vocab vocab.json --seq-len 64"
    )]
    Doctor(corpus::Args),
    /// Print training samples.
    #[command(after_help = "Example:\n\
        \x20 bertstream sample --corpus train.tsv --vocab vocab.json --seq-len 64 --limit 5")]
    Sample(sample::Args),
    /// Print or write training batches.
    #[command(after_help = "Example:\n\
        \x20 bertstream collate --corpus train.tsv --vocab vocab.json --batch-size 8 \\\n\
        \x20     --limit 1")]
    Collate(collate::Args),
    /// Train a BERT, or go on with a run.
    #[command(after_help = "Examples:\n\
        \x20 bertstream train --corpus train.txt --test held-out.txt \\\n\
        \x20     --vocab tokenizer.json --output run --size tiny --seq-len 64 --epochs 3\n\
        \x20 bertstream train --resume run\n\
        \x20 bertstream train --config run/run.toml --output again --seed 7")]
    Train(Box<train::Args>),
    /// Print a configuration of `train` to begin with: every flag, what it means, its default.
    #[command(after_help = "Examples:\n\
        \x20 bertstream config > run.toml\n\
        \x20 bertstream train --config run.toml --output configured --size tiny --epochs 1")]
    Config,
    /// Evaluate a run on a corpus or on batches from a file.
    #[command(after_help = "Example:\n  bertstream eval --run run --corpus held-out.txt")]
    Eval(eval::Args),
    /// Write a run's model for transformers: config.json, model.safetensors, tokenizer and model card.
    #[command(after_help = "Example:\n  bertstream export run my-bert")]
    Export(export::Args),
    /// Show what a model puts in place of the mask token.
    #[command(after_help = "Example:\n  bertstream fill-mask run \"the cook bakes the [MASK] .\"")]
    FillMask(fill_mask::Args),
    /// Turn lines of text into vectors.
    #[command(after_help = "Examples:\n\
        \x20 bertstream embed run lines.txt --format npy --output vectors.npy\n\
        \x20 bertstream embed my-bert - < lines.txt")]
    Embed(embed::Args),
    /// Rebuild the batch of any step of a run, without training.
    #[command(after_help = "Example:\n  bertstream inspect --run run --step 1 --limit 5")]
    Inspect(inspect::Args),
    /// Draw runs: a page with their curves, their corpora and a browser for the samples they saw.
    #[command(after_help = "Examples:\n\
        \x20 bertstream report run\n\
        \x20 bertstream report run run-2 --output comparison.html")]
    Report(report::Args),
    /// Measure the parts of the program on this machine.
    #[command(after_help = "Examples:\n\
        \x20 bertstream bench step --arch bert --hidden 128 --layers 2 --attn-heads 2\n\
        \x20 bertstream bench collate --corpus train.tsv --vocab vocab.json \\\n\
        \x20     --consumer-ms 5 --seconds 1")]
    Bench(bench::Args),
    /// Measure the data pipeline on a corpus and this machine, and tell which flags suit them.
    #[command(after_help = "Example:\n\
        \x20 bertstream tune --corpus train.tsv --vocab vocab.json --seq-len 128 \\\n\
        \x20     --batch-size 64 --seconds 0.5")]
    Tune(tune::Args),
    /// Train a small model on a made-up language that comes with the program.
    #[command(after_help = "Example:\n  bertstream quickstart --output runs/first --steps 1000")]
    Quickstart(quickstart::Args),
    /// Print what a shell needs to complete flags: for bash, zsh, fish, elvish or PowerShell.
    #[command(after_help = "Example:\n  bertstream completions bash > bertstream.bash")]
    Completions(completions::Args),
    /// Write manual pages.
    #[command(after_help = "Example:\n  bertstream man pages")]
    Man(man::Args),
}

/// Runs the program as it was called. What goes wrong is told here, once; the exit code is that of its class.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    match Cli::of(&words).and_then(Cli::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::fail(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Where a stage is to panic, as `STAGE:ITEM`: for trying what a bug in it would cost (docs/RELIABILITY.md, row 20).
const FAIL_POINT: &str = "BERTSTREAM_FAIL_POINT";

/// Has a stage panic where the environment says so.
fn fail_point() -> Result<()> {
    let Some(place) = std::env::var_os(FAIL_POINT) else { return Ok(()) };
    let place = place.to_string_lossy();
    let parted = place.split_once(':').and_then(|(stage, item)| Some((stage, item.parse().ok()?)));
    let (stage, item) =
        parted.ok_or_else(|| Error::usage(format!("{FAIL_POINT}={place}: STAGE:ITEM is wanted")))?;
    flow::fail_at(stage, item);
    Ok(())
}

/// The command line's definition, with what is only known at run time.
fn command() -> clap::Command {
    Cli::command().long_version(version::long())
}

impl Cli {
    /// What these words ask for. Ends the process with clap's own message where they do not make sense.
    fn of(words: &[OsString]) -> Result<Self> {
        let command = command();
        let given = command.clone().try_get_matches_from(words).unwrap_or_else(|error| error.exit());
        let matches = config::matches(&command, words, given)?;
        Ok(Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
    }

    /// Runs the chosen subcommand, with what the rooms tell shown on stderr.
    fn run(self) -> Result<()> {
        log::show(self.log_level, self.log_format)?;
        fail_point()?;
        match self.command {
            Command::Vocab(args) => vocab::run(args),
            Command::Tokenizer(args) => tokenizer::run(args),
            Command::Tokenize(args) => tokenize::run(args),
            Command::Corpus(args) => corpus::run(args),
            Command::Doctor(args) => corpus::doctor(args),
            Command::Sample(args) => sample::run(args),
            Command::Collate(args) => collate::run(args),
            Command::Train(args) => train::run(&args),
            Command::Config => config::run(command()),
            Command::Eval(args) => eval::run(args),
            Command::Export(args) => export::run(&args),
            Command::FillMask(args) => fill_mask::run(&args),
            Command::Embed(args) => embed::run(&args),
            Command::Inspect(args) => inspect::run(args),
            Command::Report(args) => report::run(&args),
            Command::Bench(args) => bench::run(args),
            Command::Tune(args) => tune::run(&args),
            Command::Quickstart(args) => quickstart::run(args),
            Command::Completions(args) => completions::run(&args, command()),
            Command::Man(args) => man::run(&args, command()),
        }
    }
}
