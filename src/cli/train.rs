//! `bertstream train`.

use crate::Result;

/// Flags of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("train is not written yet"))
}
