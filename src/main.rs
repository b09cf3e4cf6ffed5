//! Dispatches to the subcommands and reports errors, once, with the exit code of their class.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

// A training step must not pay for fresh pages from the kernel; mimalloc keeps large blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match bertstream::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is gone the code still tells.
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::from(error.kind().exit_code())
        }
    }
}
