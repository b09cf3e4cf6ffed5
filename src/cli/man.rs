//! `bertstream man`: manual pages, one for each command, made from the definitions of their flags.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;

use super::output::print;
use crate::{Error, Result, durable};

/// Flags of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for the pages, which is made: bertstream.1, bertstream-train.1 and so on.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs the subcommand, for the whole program's `command`.
pub fn run(args: &Args, command: Command) -> Result<()> {
    fs::create_dir_all(&args.directory).map_err(|error| Error::writing(&args.directory, error))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let pages = write_pages(&command, &args.directory)?;
    print(format_args!("{pages} pages; for example: man {}/bertstream-train.1", args.directory.display()))
}

/// Writes the page of a command and those of its subcommands; gives how many there were.
fn write_pages(command: &Command, directory: &Path) -> Result<usize> {
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)
        .map_err(|error| Error::internal("man: a page cannot be written").caused_by(error))?;
    durable::write_file(&directory.join(page.get_filename()), &text)?;
    let below = command.get_subcommands().filter(|command| !command.is_hide_set());
    below.map(|command| write_pages(command, directory)).sum::<Result<usize>>().map(|pages| pages + 1)
}
