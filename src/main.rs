//! Dispatches to the subcommands and reports errors, once, with the exit code of their class.

use std::process::ExitCode;

use clap::Parser;

// A training step must not pay for fresh pages from the kernel; mimalloc keeps large blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match bertstream::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}
