//! `bertstream export`: a run's model for transformers.

use std::path::PathBuf;

use super::eval::Finished;
use super::output::print;
use crate::Result;
use crate::model::Layout;
use crate::train::metrics;
use crate::train::run_dir::{self, METRICS, Which};
use crate::train::transformers::card::{self, Facts};
use crate::train::transformers::export;

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the run.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Directory to make.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// best, latest or a step.
    #[arg(long, value_name = "WHICH", default_value = "latest")]
    checkpoint: Which,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let Finished { config, tokenizer } = Finished::open(&args.run, None)?;
    export::check(&config.model)?;
    let layout = Layout::new(&config.model);
    let checkpoint = run_dir::load(&args.run, &config, &layout, args.checkpoint)?;
    let name = args.directory.file_name().unwrap_or_default().to_string_lossy();
    let card = card::text(&Facts {
        name: &name,
        config: &config,
        progress: &checkpoint.manifest.progress,
        tokenizer: &*tokenizer,
        records: &metrics::records(&args.run.join(METRICS))?,
    });
    export::write(&args.directory, &config.model, &checkpoint.state.weights, &*tokenizer, &card)?;
    print(format_args!(
        "{}: the model after step {}, read back and found the same; in Python: \
         transformers.BertForPreTraining.from_pretrained(\"{}\")",
        args.directory.display(),
        checkpoint.manifest.progress.step,
        args.directory.display()
    ))
}
