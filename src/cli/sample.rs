//! `bertstream sample`.

use crate::Result;

/// Flags of `sample`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("sample is not written yet"))
}
