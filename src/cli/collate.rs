//! `bertstream collate`.

use crate::Result;

/// Flags of `collate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("collate is not written yet"))
}
