//! Flags to parts: each subcommand is a file, a struct of flags and a `run`.
//!
//! Time, environment and CPU count are read here and nowhere else. Results go to stdout, everything else
//! to stderr.

use clap::{Parser, Subcommand};

use crate::Result;

mod lines;

// In place of the standard library's, which panic where the reader is gone.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::lines::result(format_args!($($text)*)) };
}
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::lines::note(format_args!($($text)*)) };
}

mod bench;
mod collate;
mod corpus;
mod eval;
mod flags;
mod inspect;
mod log;
mod output;
mod quickstart;
mod sample;
mod train;
mod vocab;

/// Streaming BERT pretraining: from text larger than memory to a trained BERT.
#[derive(Debug, Parser)]
#[command(name = "bertstream", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is told on stderr besides results and errors [default: warn, or what BERTSTREAM_LOG says].
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<log::Level>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a vocabulary from a corpus.
    Vocab(vocab::Args),
    /// Index a corpus and tell what it is.
    Corpus(corpus::Args),
    /// Check a corpus before hours are spent on it: the same as `corpus --check`.
    Doctor(corpus::Args),
    /// Print training samples.
    Sample(sample::Args),
    /// Print or write training batches.
    Collate(collate::Args),
    /// Train a BERTLM, or go on with a run.
    Train(Box<train::Args>),
    /// Evaluate a run on a corpus or on batches from a file.
    Eval(eval::Args),
    /// Rebuild the batch of any step of a run, without training.
    Inspect(inspect::Args),
    /// Measure the parts of the program on this machine.
    Bench(bench::Args),
    /// Train a small model on a made-up language that comes with the program.
    Quickstart(quickstart::Args),
}

impl Cli {
    /// Runs the chosen subcommand, with what the rooms tell shown on stderr.
    pub fn run(self) -> Result<()> {
        log::show(self.log_level)?;
        match self.command {
            Command::Vocab(args) => vocab::run(args),
            Command::Corpus(args) => corpus::run(args),
            Command::Doctor(args) => corpus::doctor(args),
            Command::Sample(args) => sample::run(args),
            Command::Collate(args) => collate::run(args),
            Command::Train(args) => train::run(&args),
            Command::Eval(args) => eval::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Quickstart(args) => quickstart::run(args),
        }
    }
}
