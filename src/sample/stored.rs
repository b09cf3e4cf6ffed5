//! Documents whose ids were encoded before: what [`super::texts`] gives from text, from a file of ids.
//!
//! The text is asked for only where ids cannot tell: why a document is malformed, and whether two sentences of
//! the same ids read the same. Knows nothing of how the file lies on the disk.

use std::ops::Range;

use super::encoded::Encoded;
use super::texts::{Slot, Slots, Texts};
use crate::corpus::{Corpus, DocumentIds, TokenFile};
use crate::{Error, Result};

/// Documents read from a file of ids.
pub struct Stored<'p> {
    corpus: &'p dyn Corpus,
    tokens: &'p TokenFile,
    words: bool,
    open: Slots<Open<'p>>,
}

/// An open document, and its number.
#[derive(Default)]
struct Open<'p> {
    id: u64,
    ids: DocumentIds<'p>,
}

impl<'p> Stored<'p> {
    /// The documents of `corpus`, whose ids are in `tokens`, with what begins a word where `words` is asked for.
    pub fn new(corpus: &'p dyn Corpus, tokens: &'p TokenFile, words: bool) -> Self {
        Self { corpus, tokens, words, open: Slots::default() }
    }
}

impl Texts for Stored<'_> {
    fn open(&mut self, slot: Slot, id: u64) -> Result<usize> {
        let open = &mut self.open[slot];
        open.id = id;
        if self.tokens.document(id, &mut open.ids)? {
            return Ok(open.ids.len());
        }
        // The corpus says what is wrong with it.
        self.corpus.document(id)?;
        Err(Error::mismatch(format!(
            "tokens {}: document {id} was malformed when they were made and is not any more: make them again \
             with `bertstream tokenize`",
            self.tokens.path().display()
        )))
    }

    fn line(&self, slot: Slot, sentence: usize) -> u64 {
        self.open[slot].ids.line(sentence)
    }

    fn encode(&mut self, slot: Slot, sentences: Range<usize>, out: &mut Encoded) -> Result<()> {
        push(&self.open[slot].ids, sentences, self.words, usize::MAX, out);
        Ok(())
    }

    fn excerpt(
        &mut self,
        id: u64,
        from: &mut dyn FnMut(usize) -> usize,
        enough: usize,
        out: &mut Encoded,
    ) -> Result<usize> {
        let sentences = self.open(Slot::Other, id)?;
        if sentences > 0 {
            push(&self.open[Slot::Other].ids, from(sentences)..sentences, self.words, enough, out);
        }
        Ok(sentences)
    }

    fn read_alike(&mut self, own: Range<usize>, other: Range<usize>) -> Result<bool> {
        let (open_own, open_other) = (&self.open[Slot::Own], &self.open[Slot::Other]);
        // What reads the same has the same ids.
        let same_ids = |(a, b)| {
            let (ours, theirs) = (open_own.ids.sentence(a), open_other.ids.sentence(b));
            ours.len() == theirs.len() && open_own.ids.ids(ours).eq(open_other.ids.ids(theirs))
        };
        if own.len() != other.len() || !own.clone().zip(other.clone()).all(same_ids) {
            return Ok(false);
        }
        let (ours, theirs) = (self.corpus.document(open_own.id)?, self.corpus.document(open_other.id)?);
        let texts = (ours.sentences.get(own), theirs.sentences.get(other));
        Ok(matches!(texts, (Some(a), Some(b)) if a.iter().zip(b).all(|(a, b)| a.text == b.text)))
    }
}

/// Leaves these sentences in `out`, as many as it takes to have `enough` tokens.
fn push(ids: &DocumentIds<'_>, sentences: Range<usize>, words: bool, enough: usize, out: &mut Encoded) {
    out.clear();
    for at in sentences {
        let tokens = ids.sentence(at);
        let begins = words.then(|| ids.begins(tokens.clone()));
        out.push_stored(ids.ids(tokens), begins, ids.line(at));
        if out.len() >= enough {
            break;
        }
    }
}
