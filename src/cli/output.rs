//! What commands say: results to stdout, the rest to stderr, numbers as people read them.
//!
//! In place of the standard library's `println!` and `eprintln!`, which panic where the reader is gone
//! (`| head`, a closed terminal); `cli` has clippy refuse those. Knows nothing of what is said.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use super::log::{self, minds_colours};
use crate::sample::Paint;
use crate::{Error, ErrorKind, Result};

/// Prints whole lines of a result.
///
/// # Errors
/// [`ErrorKind::Io`]; a reader that has gone is none, so that the exit code still tells what was found.
pub fn print(text: impl Display) -> Result<()> {
    let mut printer = Printer::new();
    printer.line(text)?;
    printer.finish().map(|_| ())
}

/// Tells people whole lines on stderr, above any bar. That it is gone is no reason to stop.
pub fn tell(text: impl Display) {
    log::note(&text.to_string());
}

/// What was found as a line of JSON, for scripts.
///
/// # Errors
/// [`ErrorKind::Internal`]: every result of this program has such a form.
pub fn json_line(found: &impl Serialize) -> Result<String> {
    serde_json::to_string(found)
        .map_err(|error| Error::internal("a result cannot be written as JSON").caused_by(error))
}

/// A value below the values of other rows, each begun by a name of up to eight letters: cut between words into lines
/// that a terminal holds, where one shows them.
pub fn tell_row(name: &str, value: impl Display) {
    let room = if log::is_live() { log::columns().saturating_sub(BEHIND_NAMES) } else { usize::MAX };
    let mut lines = vec![String::new()];
    for word in value.to_string().split(' ') {
        let line = lines.last_mut().expect("never empty");
        match line.is_empty() || line.chars().count() + 1 + word.chars().count() <= room {
            true if line.is_empty() => *line += word,
            true => *line += &format!(" {word}"),
            false => lines.push(word.to_owned()),
        }
    }
    let below = format!("\n{:BEHIND_NAMES$}", "");
    tell(format_args!("{name:<BEHIND_NAMES$}{}", lines.join(&below)));
}

/// Columns of the name and of the gap behind it.
const BEHIND_NAMES: usize = 10;

/// Text with a line's end where it has none.
fn ended(text: impl Display) -> String {
    let mut text = text.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Lines to stdout. A reader that has seen enough (`| head`) closes it, which is no error.
pub struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    /// Colours only where a person looks, and does not mind (<https://no-color.org>).
    pub paint: Paint,
    /// Whether the reader is gone.
    pub closed: bool,
}

impl Printer {
    pub fn new() -> Self {
        let paint = if io::stdout().is_terminal() && !minds_colours() { Paint::Ansi } else { Paint::Plain };
        Self { out: BufWriter::new(io::stdout().lock()), paint, closed: false }
    }

    /// Prints `line`, and a line's end where it has none.
    pub fn line(&mut self, line: impl Display) -> Result<()> {
        self.write(|out| out.write_all(ended(line).as_bytes()))
    }

    /// Lets `write` print, unless the reader is gone.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
    ) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            Err(error) => {
                return Err(Error::new(ErrorKind::Io, "cannot write to stdout").caused_by(error));
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Prints what is left; tells whether the reader stayed to the end.
    pub fn finish(mut self) -> Result<bool> {
        self.write(Write::flush)?;
        Ok(!self.closed)
    }
}

/// Rows of a name and a value, the values below each other: what a command found, a fact a line.
#[derive(Default)]
pub struct Table {
    /// `None` is an empty line.
    rows: Vec<Option<(String, String)>>,
}

impl Table {
    /// Adds a row.
    pub fn row(&mut self, name: &str, value: impl Display) {
        self.rows.push(Some((name.to_owned(), value.to_string())));
    }

    /// Adds an empty line.
    pub fn gap(&mut self) {
        self.rows.push(None);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.rows.iter().flatten().map(|(name, _)| name.chars().count());
        let width = names.max().unwrap_or(0);
        self.rows.iter().try_for_each(|row| match row {
            Some((name, value)) => writeln!(f, "{name:<width$}  {value}"),
            None => writeln!(f),
        })
    }
}

/// Columns below their heads, as wide as their longest entry: the first one to the left, figures to the right.
pub struct Grid<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Grid<N> {
    /// A grid with these heads.
    pub fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    /// Adds a row.
    pub fn row(&mut self, entries: [String; N]) {
        self.rows.push(entries);
    }
}

impl<const N: usize> Display for Grid<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| self.rows.iter().map(move |row| row[column].chars().count()).max();
        for row in &self.rows {
            for (column, entry) in row.iter().enumerate() {
                let width = width(column).unwrap_or(0);
                match column {
                    0 => write!(f, "{entry:<width$}")?,
                    _ => write!(f, "  {entry:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A figure that may be missing.
pub fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// What share of `whole` is `part`; none of nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A share as `12.34 %`.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `1 worker`, `2 workers`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 1536000 as `1.5 MB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} bytes");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    // Rounding must not give "1000.0 kB".
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in the unit that suits it.
pub fn seconds(time: f64) -> String {
    match time {
        t if t < 1e-3 => format!("{:.0} us", t * 1e6),
        t if t < 1.0 => format!("{:.1} ms", t * 1e3),
        t if t < 120.0 => format!("{t:.1} s"),
        t if t < 7200.0 => format!("{:.1} min", t / 60.0),
        t => format!("{:.1} h", t / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
        for (number, expected) in
            [(0, "0 bytes"), (999, "999 bytes"), (1536, "1.5 kB"), (999_999, "1.0 MB"), (7_875_578, "7.9 MB")]
        {
            assert_eq!(bytes(number), expected);
        }
        for (time, expected) in
            [(12e-6, "12 us"), (0.0125, "12.5 ms"), (90.0, "90.0 s"), (5400.0, "90.0 min")]
        {
            assert_eq!(seconds(time), expected);
        }
    }

    #[test]
    fn a_table_has_its_values_below_each_other() {
        let mut table = Table::default();
        table.row("lines", grouped(1000));
        table.gap();
        table.row("unknown", percent(share(1, 8)));
        assert_eq!(table.to_string(), "lines    1,000\n\nunknown  12.50 %\n");
        assert_eq!(share(0, 0), 0.0);
    }

    #[test]
    fn a_grid_is_as_wide_as_its_entries() {
        let mut grid = Grid::new(["", "model", "guess"]);
        grid.row(["loss".into(), "1.25".into(), or_dash(Some(10), |n: u64| grouped(n * 1000))]);
        grid.row(["a longer one".into(), "3".into(), or_dash(None, grouped)]);
        assert_eq!(
            grid.to_string(),
            "              model   guess\nloss           1.25  10,000\na longer one      3       -\n"
        );
    }
}
