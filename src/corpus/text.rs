//! Plain text: a line, or a file of a directory, is a document; its sentences are found by Unicode's rules.

use super::fault::Fault;
use super::{Document, Sentence, split};

/// Sentences between two questions: half a millisecond of looking for their ends.
const ASKED: usize = 128;

/// The sentences of a document whose first line has number `line`, or some of them where they are `wanted` no more.
pub fn read<'t>(text: &'t str, line: u64, wanted: &dyn Fn() -> bool) -> Result<Document<'t>, Fault> {
    let mut document = Document::default();
    split::sentences(text, |sentence, below| {
        document.sentences.push(Sentence { text: sentence.into(), line: line + below });
        !document.sentences.len().is_multiple_of(ASKED) || wanted()
    });
    if document.sentences.is_empty() { Err(Fault::NoSentence) } else { Ok(document) }
}
