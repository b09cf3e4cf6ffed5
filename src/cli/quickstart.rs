//! `bertstream quickstart`.

use crate::Result;

/// Flags of `quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<()> {
    Err(crate::Error::internal("quickstart is not written yet"))
}
