//! Google's format: a sentence a line, blank lines between documents. Takes the lines of a document, gives
//! each that is not blank as a sentence. Where documents begin is the index' matter ([`super::index`]).

use super::{Document, Sentence};

/// The sentences of a block of lines, the first of which has number `line`. There is a megabyte of them at most, but for
/// the last.
pub fn read(block: &str, line: u64) -> Document<'_> {
    let numbered = block.split('\n').zip(line..);
    let sentences = numbered.map(|(text, line)| Sentence { text: text.trim().into(), line });
    Document { sentences: sentences.filter(|sentence| !sentence.text.is_empty()).collect() }
}
