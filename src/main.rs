//! Dispatches to the subcommands and reports errors, once, with the exit code of their class.

use std::io::Write;
use std::process::ExitCode;

use bertstream::ErrorKind;
use clap::Parser;

// A training step must not pay for fresh pages from the kernel; mimalloc keeps large blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match bertstream::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Stopping where one was asked to is no error. Where stderr is gone the code still tells.
            let prefix = if matches!(error.kind(), ErrorKind::Stopped { .. }) { "" } else { "error: " };
            drop(writeln!(std::io::stderr(), "{prefix}{error}"));
            ExitCode::from(error.kind().exit_code())
        }
    }
}
