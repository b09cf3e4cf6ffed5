//! `bertstream eval`.

use crate::Result;

/// Flags of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("eval is not written yet"))
}
