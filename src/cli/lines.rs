//! Lines to stdout and stderr, for people and programs that may leave before the last one.
//!
//! The standard library's `println!` and `eprintln!` panic where the reader is gone (`| head`, a closed
//! terminal). The macros of `cli` of the same names end here instead: nobody who left is missed, and a
//! training goes on.

use std::fmt::Arguments;
use std::io::{self, Write};

use crate::{Error, ErrorKind};

/// Prints a line to stdout.
///
/// A result that cannot be written although somebody waits for it (a full disk) ends the process with the
/// exit code of failed output: it is the last thing that a command does.
pub fn result(text: Arguments<'_>) {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let error = Error::new(ErrorKind::Io, "cannot write to stdout").caused_by(error);
            note(format_args!("error: {error}"));
            std::process::exit(error.kind().exit_code().into());
        }
        _ => {}
    }
}

/// Prints a line to stderr. Where that fails there is nobody left to tell.
pub fn note(text: Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
