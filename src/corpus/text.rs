//! Plain text: a line, or a file of a directory, is a document; its sentences are found by Unicode's rules.

use super::fault::Fault;
use super::{Document, Sentence, split};

/// The sentences of a document whose first line has number `line`.
pub fn read(text: &str, line: u64) -> Result<Document<'_>, Fault> {
    let mut document = Document::default();
    split::sentences(text, |sentence, below| {
        document.sentences.push(Sentence { text: sentence.into(), line: line + below });
    });
    if document.sentences.is_empty() { Err(Fault::NoSentence) } else { Ok(document) }
}
