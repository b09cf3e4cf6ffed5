//! Which format a file has. Takes its name and its first bytes, gives the format that they show, or refuses to
//! guess where a guess could as well be wrong.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::Stream;
use super::{Bytes, Shape};
use crate::text::{Encoding, OnBadBytes, Transcoder, stream_error};
use crate::{Error, Result};

/// How much of a file's beginning is looked at: a document of average length has its end there.
const GUESS: u64 = 1 << 20;

/// How text is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Two sentences a line, a tab between.
    Pairs,
    /// A sentence a line, blank lines between documents.
    Sentences,
    /// A JSON object a line, with the text of a document in one field.
    Jsonl,
    /// A document a line; of a directory, a document a file.
    Text,
    /// A sample a line, ready to be collated, as `bertstream sample --json` prints it. Never guessed.
    Samples,
}

impl Format {
    /// What its documents are.
    pub fn shape(self) -> Shape {
        match self {
            Self::Pairs => Shape::Pairs,
            Self::Sentences | Self::Jsonl | Self::Text => Shape::Documents,
            Self::Samples => Shape::Samples,
        }
    }

    /// As it is written on the command line and in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Sentences => "sentences",
            Self::Jsonl => "jsonl",
            Self::Text => "text",
            Self::Samples => "samples",
        }
    }

    /// What it looks like.
    pub fn description(self) -> &'static str {
        match self {
            Self::Pairs => "two sentences a line, a tab between",
            Self::Sentences => "a sentence a line, blank lines between documents",
            Self::Jsonl => "a JSON object a line",
            Self::Text => "plain text, a document a line or a file",
            Self::Samples => "a sample a line, as JSON",
        }
    }
}

/// The format of a file with this name, content and encoding.
///
/// # Errors
/// [`crate::ErrorKind::Data`] where nothing tells, naming the flag that does.
pub fn guess(path: &Path, bytes: &dyn Bytes, encoding: Encoding) -> Result<Format> {
    let mut head = Vec::new();
    Transcoder::new(Stream::new(bytes).take(GUESS), encoding, OnBadBytes::Replace)
        .read_to_end(&mut head)
        .map_err(stream_error)?;
    let whole = bytes.len() <= GUESS;
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    guess_from(extension.as_ref().and_then(|e| e.to_str()), &String::from_utf8_lossy(&head), whole)
}

fn guess_from(extension: Option<&str>, head: &str, whole: bool) -> Result<Format> {
    // A line that goes on behind what was looked at tells little.
    let head = match head.rfind('\n') {
        Some(end) if !whole => &head[..end],
        _ => head,
    };
    let first = head.trim_start().chars().next();
    match (extension, first) {
        (Some("tsv"), _) => return Ok(Format::Pairs),
        (Some("jsonl" | "ndjson" | "json"), Some('{')) => return Ok(Format::Jsonl),
        (Some("jsonl" | "ndjson" | "json"), Some('[')) => {
            return Err(Error::data(
                "one JSON array: it needs an object a line (jq -c '.[]' writes that), or --corpus-format",
            ));
        }
        _ => {}
    }
    let (mut lines, mut tabs, mut objects, mut breaks) = (0, 0, 0, 0);
    let mut after_blank = false;
    for line in head.lines().map(str::trim) {
        if line.is_empty() {
            after_blank = lines > 0;
            continue;
        }
        // Blank lines count where text goes on behind them.
        breaks += u64::from(after_blank);
        after_blank = false;
        lines += 1;
        tabs += u64::from(line.contains('\t'));
        objects += u64::from(line.starts_with('{') && line.ends_with('}'));
    }
    // A few bad lines change nothing: they are faults of the format that most have.
    if 2 * objects > lines {
        Ok(Format::Jsonl)
    } else if 2 * tabs >= lines && tabs > 0 {
        Ok(Format::Pairs)
    } else if breaks > 0 {
        Ok(Format::Sentences)
    } else {
        Err(Error::data(
            "its format cannot be told from its first lines, which have no tabs and no blank lines between them: \
             give --corpus-format sentences (they are all sentences of one document), text (each line is a \
             document), pairs or jsonl",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_from_name_and_content_or_asked_for() {
        use Format::*;
        let check = |extension: &str, head: &str, expected: Option<Format>| {
            let found = guess_from(Some(extension), head, true);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{extension} {head:?}");
            if let Err(error) = found {
                assert!(error.to_string().contains("--corpus-format"), "{error}");
                assert_eq!(error.kind(), crate::ErrorKind::Data);
            }
        };
        check("txt", "a\tb\nc\td\n", Some(Pairs));
        check("txt", "a\tb\nno tab\n", Some(Pairs));
        check("txt", "a\tb\n\n\nc\td\nbad\n", Some(Pairs));
        check("txt", "bad\na\tb", Some(Pairs));
        check("tsv", "no tab at all\n", Some(Pairs));
        check("TSV", "no tab at all\n", None);
        check("txt", "one\ntwo\n\nthree\n", Some(Sentences));
        check("txt", "\n\none\n \t \ntwo\twith a tab\nthree\n", Some(Sentences));
        check("txt", "one\ntwo\n", None);
        check("txt", "\n\none\ntwo\n\n\n", None);
        check("txt", "one line", None);
        check("txt", "", None);
        check("jsonl", "{\"text\": \"a\"}\n{broken\n{broken\n", Some(Jsonl));
        check("json", "\n {\"text\": \"a\"}", Some(Jsonl));
        check("json", "[{\"text\": \"a\"}]", None);
        check("jsonl", "a\tb\n", Some(Pairs));
        check("txt", "{\"text\": \"a\tb\"}\n\n{\"text\": \"b\"}\n", Some(Jsonl));
        check("txt", "{one}\ntwo\n\nthree\n", Some(Sentences));
    }

    #[test]
    fn a_line_cut_by_the_end_of_the_head_is_not_looked_at() {
        assert_eq!(guess_from(None, "a\tb\nc\td\ne", false).ok(), Some(Format::Pairs));
        assert_eq!(guess_from(None, "one\n\ntwo\nthr", false).ok(), Some(Format::Sentences));
        assert!(guess_from(None, "one\n\nthr", false).is_err());
    }
}
