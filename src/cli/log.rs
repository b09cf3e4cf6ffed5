//! What the rooms say while they work, as lines on stderr that do not break a progress bar.
//!
//! Takes `tracing` events, gives `warning: corpus: what happened`, or a JSON object. No time stands before a line:
//! people read these as they come, and what must be dated is in a run's records.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::{Error, ErrorKind, Result};

/// Names the level where no flag does.
const VARIABLE: &str = "BERTSTREAM_LOG";

/// All bars of the program, so that a line can be written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The least important events that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What goes wrong.
    Error,
    /// And what should be known.
    Warn,
    /// And what is going on.
    Info,
    /// And what explains it.
    Debug,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
        }
    }
}

/// How lines on stderr are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object each, whose `kind` tells its other fields.
    Json,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// How lines are written: for people, until [`show`] was told otherwise.
pub fn format() -> Format {
    FORMAT.get().copied().unwrap_or_default()
}

/// Writes a line above the bars. That stderr is gone is no reason to stop.
fn write(line: &str) {
    let line = if line.ends_with('\n') { line.to_owned() } else { format!("{line}\n") };
    drop(BARS.suspend(|| io::stderr().write_all(line.as_bytes())));
}

/// Tells people something.
pub fn note(text: &str) {
    match format() {
        Format::Text => write(text),
        Format::Json => object(&json!({ "kind": "note", "text": text.trim_end() })),
    }
}

/// Tells programs something: a JSON object.
pub fn object(value: &impl serde::Serialize) {
    write(&serde_json::to_string(value).expect("no map with keys that are not strings"));
}

/// Tells what ended the program. To stop where one was asked to is no error.
pub fn fail(error: &Error) {
    let stopped = matches!(error.kind(), ErrorKind::Stopped { .. });
    match format() {
        Format::Text if stopped => write(&error.to_string()),
        Format::Text => write(&format!("error: {error}")),
        Format::Json => object(&json!({
            "kind": if stopped { "stopped" } else { "error" },
            "text": error.to_string(),
            "exit_code": error.kind().exit_code(),
        })),
    }
}

/// Shows events from now on, in this format, down to the level of the flag, of the environment, or warnings.
///
/// # Errors
/// [`ErrorKind::Usage`] where the environment names no level.
pub fn show(flag: Option<Level>, format: Format) -> Result<()> {
    FORMAT.get_or_init(|| format);
    let level = match (flag, std::env::var_os(VARIABLE)) {
        (Some(level), _) => level,
        (None, Some(name)) if !name.is_empty() => Level::from_str(&name.to_string_lossy(), true)
            .map_err(|_| Error::usage(format!("{VARIABLE}={name:?}: error, warn, info or debug")))?,
        (None, _) => Level::Warn,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(level))
        .with_ansi(io::stderr().is_terminal() && !minds_colours())
        .with_writer(AboveBars)
        // It would tell on stderr, by a macro that panics, that stderr is gone.
        .log_internal_errors(false)
        .event_format(Line)
        .finish();
    // Whoever has this library in a program of theirs, and a subscriber of their own, keeps it.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}

/// Whether the user minds colours (<https://no-color.org>).
pub fn minds_colours() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether somebody looks at stderr on a terminal that can draw over what it showed.
pub fn is_live() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    format() == Format::Text && io::stderr().is_terminal() && !dumb
}

/// Columns of the terminal behind stderr; 80 where it does not tell.
pub fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(80)
}

/// A bar on stderr where that is a terminal, nothing elsewhere. Events are shown above it.
///
/// # Panics
/// Where `template` is not one of indicatif's: it is a constant of this program.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a constant that is well-formed");
    BARS.add(ProgressBar::new(length).with_style(style))
}

/// One event on one line: how bad, which room, what, and its fields.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if format() == Format::Json {
            let mut text = String::new();
            context.field_format().format_fields(Writer::new(&mut text), event)?;
            let level = metadata.level().as_str().to_lowercase();
            let line =
                json!({ "kind": "log", "level": level, "room": room(metadata.target()), "text": text });
            return writeln!(writer, "{line}");
        }
        let (word, colour) = match *metadata.level() {
            tracing::Level::ERROR => ("error", 31),
            tracing::Level::WARN => ("warning", 33),
            tracing::Level::INFO => ("info", 32),
            _ => ("debug", 34),
        };
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[{colour}m{word}\x1b[0m: ")?;
        } else {
            write!(writer, "{word}: ")?;
        }
        write!(writer, "{}: ", room(metadata.target()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The room that a target lies in: the module's name below this crate, and below `cli` the command's.
fn room(target: &str) -> &str {
    let below = target.strip_prefix("bertstream::").unwrap_or(target);
    let below = below.strip_prefix("cli::").unwrap_or(below);
    below.split("::").next().unwrap_or(below)
}

/// Writes to stderr while the bars are out of the way.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for AboveBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Takes what is written, for all clones.
    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Vec<u8>>>);

    impl Write for Taken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_a_line_of_how_bad_where_and_what() {
        let check = |colours, event: &dyn Fn(), expected: &str| {
            let taken = Taken::default();
            let writer = taken.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::INFO)
                .with_ansi(colours)
                .with_writer(move || writer.clone())
                .event_format(Line)
                .finish();
            tracing::subscriber::with_default(subscriber, event);
            assert_eq!(String::from_utf8(taken.0.lock().unwrap().clone()).unwrap(), expected);
        };
        check(false, &|| tracing::warn!("{} words", 3), "warning: log: 3 words\n");
        check(
            false,
            &|| tracing::info!(target: "corpus", why = "longer", "stale"),
            "info: corpus: stale why=\"longer\"\n",
        );
        check(
            true,
            &|| tracing::error!(target: "train", "disk full"),
            "\x1b[31merror\x1b[0m: train: disk full\n",
        );
        check(false, &|| tracing::debug!("not shown"), "");
    }

    #[test]
    fn a_target_is_shown_as_its_room() {
        for (target, expected) in [
            ("bertstream::train::run_dir", "train"),
            ("bertstream::cli::vocab", "vocab"),
            ("bertstream::durable", "durable"),
            ("corpus", "corpus"),
        ] {
            assert_eq!(room(target), expected);
        }
    }
}
