//! `bertstream bench vocab`: a text to its vocabulary.

use std::io::Read;
use std::time::Instant;

use serde_json::json;

use super::super::vocab::{Text, TextArgs, of_documents};
use super::{Count, Line, MeasureFlags};
use crate::corpus::TextReader;
use crate::vocab::Kind;
use crate::vocab::count::{self, Selection};
use crate::{Error, Result};

/// Flags of `bench vocab`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// Most words to keep.
    #[arg(long, value_name = "N", default_value_t = 30_000)]
    vocab_size: usize,
    /// What a token is: what stands between white space, or each character.
    #[arg(long, value_name = "KIND", default_value = "word")]
    tokens: Kind,
    #[command(flatten)]
    measure: MeasureFlags,
}

/// Runs the subcommand: whole passes, of which none begins after the time is up.
pub fn run(args: &Args) -> Result<()> {
    let mut config = args.text.resolve(args.tokens)?;
    let selection = Selection { max_size: Some(args.vocab_size), min_freq: args.text.min_freq };
    let text = args.text.open()?;
    let mut held = Vec::new();
    match (&text, args.measure.alone) {
        (Text::StandardInput, _) => {
            return Err(Error::usage("--corpus -: what is measured is read again and again: name a file"));
        }
        (Text::File(path), true) => {
            held = std::fs::read(path).map_err(|error| Error::reading(path, error))?;
        }
        (Text::Documents(corpus), true) => {
            TextReader::new(&**corpus)
                .read_to_end(&mut held)
                .map_err(|error| Error::reading(corpus.path(), error))?;
            config = of_documents(&config);
        }
        (_, false) => {}
    }
    let (mut words, mut bytes, mut passes) = (0, 0, 0);
    let started = Instant::now();
    while passes == 0 || started.elapsed() < args.measure.seconds {
        let (_, summary) = match args.measure.alone {
            true => count::build_from(&held[..], &config, &selection, &|_| {})?,
            false => text.build(&config, &selection, &|_| {})?,
        };
        words += summary.words;
        bytes += summary.bytes;
        passes += 1;
    }
    let elapsed = started.elapsed();
    let count = Count { samples: None, tokens: Some(words), bytes: Some(bytes), elapsed };
    let pass = elapsed.as_secs_f64() / f64::from(passes);
    let more = vec![("passes", json!(passes)), ("seconds_per_pass", json!(pass))];
    Line { stage: "vocab", workers: Some(config.workers), count, flow: None, more }.print(&args.measure)
}
