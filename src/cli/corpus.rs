//! `bertstream corpus`.

use crate::Result;

/// Flags of `corpus`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("corpus is not written yet"))
}
