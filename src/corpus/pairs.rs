//! The reference's format: a line is a document of two sentences with a tab between. Takes a line, gives both.

use memchr::{memchr, memmem};
use smallvec::smallvec;

use super::fault::Fault;
use super::{Document, Sentence};

/// The two sentences of line number `line`.
pub fn read(text: &str, line: u64) -> Result<Document<'_>, Fault> {
    let (a, b) = split(text)?;
    Ok(Document {
        sentences: smallvec![Sentence { text: a.into(), line }, Sentence { text: b.into(), line }],
    })
}

fn split(text: &str) -> Result<(&str, &str), Fault> {
    let Some(tab) = memchr(b'\t', text.as_bytes()) else {
        return Err(if text.trim_start().is_empty() {
            Fault::Blank
        } else if memmem::find(text.as_bytes(), b"\\t").is_some() {
            Fault::LiteralTab
        } else {
            Fault::NoTab
        });
    };
    let (a, b) = (&text[..tab], &text[tab + 1..]);
    if memchr(b'\t', b.as_bytes()).is_some() {
        Err(Fault::ExtraTab)
    } else if a.trim_start().is_empty() {
        Err(Fault::NothingBefore)
    } else if b.trim_start().is_empty() {
        Err(Fault::NothingAfter)
    } else {
        Ok((a, b))
    }
}
