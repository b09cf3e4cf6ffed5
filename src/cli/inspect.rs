//! `bertstream inspect`.

use crate::Result;

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("inspect is not written yet"))
}
