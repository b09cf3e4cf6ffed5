//! The program: everything is in the library, but the allocator.

use std::process::ExitCode;

// A training step must not pay for fresh pages from the kernel; mimalloc keeps large blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bertstream::cli::main()
}
