//! `train --config FILE`: flags from a file, where the command line does not have them itself.
//!
//! Takes a TOML file whose keys are flags of `train`; gives what the command line with those flags put into it
//! comes to. So a key means what its flag means, by the one definition that there is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys;
use crate::error::nearest;
use crate::{Error, Result, durable};

/// Most bytes of a configuration: a template with every key has some ten thousand.
const MOST: u64 = 1 << 20;

/// One key of a file.
struct Entry<'c> {
    /// The flag that it is.
    arg: &'c Arg,
    /// From 1.
    line: usize,
    /// What the command line would say instead.
    words: Vec<OsString>,
}

/// What the command line `words` comes to with its configuration, where it names one.
///
/// # Errors
/// Those of reading the file; [`crate::ErrorKind::Usage`] with file and line where it is no TOML, or holds what
/// is no flag of `train` or no value of it.
pub fn matches(command: &Command, words: &[OsString], given: ArgMatches) -> Result<ArgMatches> {
    let Some(("train", train)) = given.subcommand() else { return Ok(given) };
    let Some(path) = train.get_one::<PathBuf>("config") else { return Ok(given) };
    let bytes = durable::read_at_most(path, MOST)?;
    let text = str::from_utf8(&bytes)
        .map_err(|_| Error::usage(format!("{}: no TOML: it is not UTF-8", path.display())))?;
    let mut built = command.clone();
    built.build();
    let flags = built.find_subcommand("train").expect("it was just given");
    let mut entries = entries(path, text, flags)?;
    entries.retain(|entry| train.value_source(entry.arg.get_id().as_str()) != Some(ValueSource::CommandLine));

    let at = words.iter().position(|word| word == "train").expect("it was just given");
    let with = |entries: &[Entry<'_>]| {
        let added = entries.iter().flat_map(|entry| &entry.words);
        let words = words[..=at].iter().chain(added).chain(&words[at + 1..]);
        command.clone().try_get_matches_from(words)
    };
    with(&entries).map_err(|error| {
        let alone = entries.iter().find_map(|entry| Some((entry, with(std::slice::from_ref(entry)).err()?)));
        match alone {
            Some((entry, error)) => at_line(path, entry.line, &reason(&error)),
            None => Error::usage(format!("{}: {}", path.display(), reason(&error))),
        }
    })
}

fn at_line(path: &Path, line: usize, what: &str) -> Error {
    Error::usage(format!("{}:{line}: {what}", path.display()))
}

/// The keys of a file in its order, none twice.
fn entries<'c>(path: &Path, text: &str, train: &'c Command) -> Result<Vec<Entry<'c>>> {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        at_line(path, line, &format!("no TOML: {}", error.message().trim()))
    })?;
    let mut items: Vec<_> = table.into_inner().into_iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    let mut found: Vec<Entry<'c>> = Vec::new();
    for (key, value) in items {
        let line = line_of(key.span().start);
        let name = key.get_ref().as_ref();
        let Some(arg) = keys(train).find(|arg| is_called(arg, name)) else {
            return Err(at_line(path, line, &unknown(name, train)));
        };
        if let Some(earlier) = found.iter().find(|entry| entry.arg.get_id() == arg.get_id()) {
            return Err(at_line(path, line, &format!("{name} is line {} already", earlier.line)));
        }
        let words =
            spelled(arg, value.get_ref()).map_err(|why| at_line(path, line, &format!("{name}: {why}")))?;
        found.push(Entry { arg, line, words });
    }
    Ok(found)
}

fn is_called(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().unwrap_or_default().contains(&name)
}

fn unknown(name: &str, train: &Command) -> String {
    let hint = match nearest(name, keys(train).filter_map(Arg::get_long)) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`bertstream config` lists them all".to_owned(),
    };
    format!("unknown key {name}: {hint}")
}

/// What the command line says for a key with this value.
fn spelled(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    let name = arg.get_long().expect("keys have names");
    let flag = || OsString::from(format!("--{name}"));
    let with = |value: String| OsString::from(format!("--{name}={value}"));
    let takes_booleans = arg.get_possible_values().iter().any(|value| value.get_name() == "true");
    let may_stand_alone = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    match value {
        DeValue::Boolean(on) if may_stand_alone && !(arg.get_action().takes_values() && takes_booleans) => {
            Ok(if *on { vec![flag()] } else { vec![] })
        }
        _ if !arg.get_action().takes_values() => Err("true or false is wanted".to_owned()),
        DeValue::Array(items) if matches!(arg.get_action(), ArgAction::Append) => {
            items.iter().map(Spanned::get_ref).map(|item| scalar(item).map(with)).collect()
        }
        DeValue::Array(_) => Err("one value is wanted, not a list".to_owned()),
        value => Ok(vec![with(scalar(value)?)]),
    }
}

/// A single value as a flag has it.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => match number.radix() {
            10 => Ok(number.as_str().to_owned()),
            radix => u64::from_str_radix(number.as_str(), radix)
                .map(|number| number.to_string())
                .map_err(|error| error.to_string()),
        },
        DeValue::Datetime(_) => Err("no flag takes a date".to_owned()),
        DeValue::Array(_) => Err("no flag takes a list in a list".to_owned()),
        DeValue::Table(_) => Err("no flag takes a table: all keys stand at the top".to_owned()),
    }
}

/// What clap says in several lines, in one.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let told =
        text.split("\nUsage:").next().unwrap_or_default().split("\nFor more").next().unwrap_or_default();
    let lines: Vec<&str> = told.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").trim_start_matches("error: ").to_owned()
}
