//! `bertstream completions`: what a shell must know to complete flags and their values.

use clap::Command;
use clap_complete::Shell;

use super::output::print;
use crate::{Error, Result};

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose completions.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the subcommand, for the whole program's `command`.
pub fn run(args: &Args, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "bertstream", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Error::internal("completions: not UTF-8").caused_by(error))?;
    print(script)
}
