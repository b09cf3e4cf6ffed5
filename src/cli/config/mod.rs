//! `bertstream config`: a configuration of `train` to begin with, every flag with what it means.
//!
//! Made from the definitions of the flags themselves, so that it says what the program does.

use clap::{Arg, Command};

use super::output::print;
use crate::Result;

mod file;

pub use file::matches;

/// What has no default, and stands in the template as something to replace.
const ESSENTIAL: [(&str, &str); 3] =
    [("corpus", "train.txt"), ("vocab", "tokenizer.json"), ("output", "run")];

/// Flags that are about the command line itself, and so are no keys of a file.
const NO_KEYS: [&str; 4] = ["config", "resume", "help", "version"];

/// Widest line of a comment.
const WIDTH: usize = 100;

const HEAD: &str = "\
# A configuration of `bertstream train`: its flags, by their names.
#
#     bertstream train --config run.toml
#
# A flag on the command line comes before this file, this file before the preset, the preset before
# the defaults. Paths are relative to where the command is run. A line that begins with `#` is off:
# what stands there is the default or, in angle brackets, what is wanted.
";

/// Runs the subcommand.
pub fn run(command: Command) -> Result<()> {
    print(template(command))
}

/// The flags of `train` that a file may have as keys, in the order of its help.
fn keys(train: &Command) -> impl Iterator<Item = &Arg> {
    train.get_arguments().filter(|arg| {
        arg.get_long().is_some() && !arg.is_hide_set() && !NO_KEYS.contains(&arg.get_id().as_str())
    })
}

/// The template, of the whole program's `command`.
fn template(mut command: Command) -> String {
    command.build();
    let train = command.find_subcommand("train").expect("train is a subcommand");
    let mut headings: Vec<&str> = Vec::new();
    for heading in keys(train).map(heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = HEAD.to_owned();
    for wanted in headings {
        text += &format!("\n\n# {wanted}\n# {}\n", "-".repeat(wanted.len()));
        for arg in keys(train).filter(|arg| heading(arg) == wanted) {
            text += &format!("\n{}", entry(arg));
        }
    }
    text
}

fn heading(arg: &Arg) -> &str {
    arg.get_help_heading().unwrap_or("Options")
}

/// A key with its meaning and its default.
fn entry(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut text: String = wrapped(&help).iter().map(|line| format!("# {line}\n")).collect();
    let values: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let switch = !arg.get_action().takes_values();
    if !values.is_empty() && !switch {
        text += &format!("# One of {}.\n", values.join(", "));
    }
    let name = arg.get_long().expect("keys have names");
    if let Some((_, value)) = ESSENTIAL.iter().find(|(essential, _)| *essential == name) {
        return text + &format!("{name} = \"{value}\"\n");
    }
    let default = arg.get_default_values().first().and_then(|value| value.to_str());
    let value = match default.or_else(|| default_in(&help)) {
        _ if switch => "false".to_owned(),
        Some(value) if value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok() => value.to_owned(),
        Some(value) => format!("\"{value}\""),
        None => {
            let names = arg.get_value_names().unwrap_or_default();
            format!("<{}>", names.first().map_or("VALUE", |name| name.as_str()))
        }
    };
    text + &format!("#{name} = {value}\n")
}

/// The default that a flag's help tells, where that is a value and not a sentence: of
/// `[default: longest; reference: fixed]`, `longest`.
pub(super) fn default_in(help: &str) -> Option<&str> {
    let told = help.split_once("[default: ")?.1;
    let value = &told[..told.find([',', ';', ']'])?];
    (!value.contains(char::is_whitespace)).then_some(value)
}

/// The text in lines of at most [`WIDTH`] with the comment's sign.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + word.chars().count() + 3 > WIDTH {
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_told_where_it_is_a_value() {
        let check = |help: &str, expected| assert_eq!(default_in(help), expected, "{help}");
        check("Rows [default: 64].", Some("64"));
        check("Width [default: longest; reference: fixed].", Some("longest"));
        check("Stop [default: 10, without --steps].", Some("10"));
        check("Threads [default: the cores].", None);
        check("Stop after so many steps.", None);
    }

    #[test]
    fn every_line_of_the_template_is_a_comment_or_a_key_and_none_is_too_wide() {
        let text = template(crate::cli::command());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let on: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(on, ["corpus = \"train.txt\"", "vocab = \"tokenizer.json\"", "output = \"run\""]);
        for key in ["#seq-len = 128", "#lr = 1e-3", "#pad = \"longest\"", "#test = <FILE>", "#quiet = false"]
        {
            assert_eq!(text.lines().filter(|line| *line == key).count(), 1, "{key}\n{text}");
        }
    }
}
