//! What can be wrong with a document, in words. Knows nothing of files: whoever opened one adds its name.

use std::fmt;

/// The longest line that is read, in bytes, and the longest file that is one document: longer ones are an
/// accident, such as a file without line feeds, and would otherwise set the memory of everything downstream.
pub const MAX_LINE: usize = 16 << 20;

/// Why a line, or a file that should be one document, is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Blank,
    NoTab,
    /// A backslash and a `t` where the tab should be: text that was escaped on its way.
    LiteralTab,
    ExtraTab,
    NothingBefore,
    NothingAfter,
    /// Bytes that mean nothing in the corpus' encoding, from this byte of the line on, counted from 0.
    Malformed {
        at: usize,
    },
    TooLong {
        bytes: u64,
    },
    /// No JSON object, as the parser says, at this byte of the line, counted from 1.
    NotJson {
        byte: usize,
        what: String,
    },
    /// A JSON object that lacks the field of this name, and the one of its own that is most alike.
    NoField {
        field: String,
        nearest: Option<String>,
    },
    /// The field of this name is no string; what it is, at this byte.
    NotText {
        field: String,
        byte: usize,
        what: String,
    },
    /// Text with nothing in it but white space.
    NoSentence,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("no tab between two sentences: the line is empty"),
            Self::NoTab => f.write_str("no tab between two sentences"),
            Self::LiteralTab => {
                f.write_str("no tab between two sentences, but a backslash and a t: write a tab character")
            }
            Self::ExtraTab => f.write_str("more than one tab: a line is two sentences with one tab between"),
            Self::NothingBefore => f.write_str("no sentence before the tab"),
            Self::NothingAfter => f.write_str("no sentence after the tab"),
            Self::Malformed { at } => write!(f, "byte {}: not text in the encoding of the corpus", at + 1),
            Self::TooLong { bytes } => write!(f, "{bytes} bytes, where there may be {MAX_LINE}"),
            Self::NotJson { byte, what } => write!(f, "byte {byte}: not a JSON object: {what}"),
            Self::NoField { field, nearest: Some(nearest) } => {
                write!(f, "the JSON object has no field {field:?}: did you mean --field {nearest}?")
            }
            Self::NoField { field, nearest: None } => {
                write!(f, "the JSON object has no field {field:?}: --field names the one that holds the text")
            }
            Self::NotText { field, byte, what } => {
                write!(f, "byte {byte}: the field {field:?} is not a string: {what}")
            }
            Self::NoSentence => f.write_str("no sentence: there is nothing but white space"),
        }
    }
}
