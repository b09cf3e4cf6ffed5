//! `bertstream vocab`.

use crate::Result;

/// Flags of `vocab`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("vocab is not written yet"))
}
