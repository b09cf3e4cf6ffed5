//! The text of documents as ids: what every way of cutting asks for, wherever the ids come from.
//!
//! A sample is made of one or two documents, its own and another, so two are open at a time. What is encoded
//! here from text ([`FromText`]) can be read from a file instead ([`Stored`]); samples do not know the difference. Knows
//! nothing of segments.

use std::ops::{Index, IndexMut, Range};

use super::Wanted;
use super::encoded::Encoded;
use super::stored::Stored;
use crate::corpus::{Corpus, Document, unwanted};
use crate::rng::SampleRng;
use crate::vocab::{Encoder, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// Which of the two open documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Own,
    Other,
}

/// Something for each of the two.
#[derive(Default)]
pub struct Slots<T> {
    own: T,
    other: T,
}

impl<T> Index<Slot> for Slots<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        match slot {
            Slot::Own => &self.own,
            Slot::Other => &self.other,
        }
    }
}

impl<T> IndexMut<Slot> for Slots<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        match slot {
            Slot::Own => &mut self.own,
            Slot::Other => &mut self.other,
        }
    }
}

/// Documents as ids. Sentences are numbered from 0, those without any token included.
pub trait Texts: Send {
    /// Opens document `id` in place of the one in `slot`, and tells how many sentences it has.
    ///
    /// # Errors
    /// Those of [`Corpus::document`].
    fn open(&mut self, slot: Slot, id: u64) -> Result<usize>;

    /// The line in which a sentence stands.
    fn line(&self, slot: Slot, sentence: usize) -> u64;

    /// Leaves these sentences in `out`. One without any token is left out.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], which nobody sees, where nothing is wanted any more.
    fn encode(&mut self, slot: Slot, sentences: Range<usize>, out: &mut Encoded) -> Result<()>;

    /// Leaves in `out` sentences of document `id` from the one on that `from` chooses, told how many there are; as many as
    /// it takes to have `enough` tokens. One without any token is left out. Gives the number of sentences; of none, none is
    /// chosen. What is open stays so.
    ///
    /// # Errors
    /// Those of [`Corpus::excerpt`].
    fn excerpt(
        &mut self,
        id: u64,
        from: &mut dyn FnMut(usize) -> usize,
        enough: usize,
        out: &mut Encoded,
    ) -> Result<usize>;

    /// Whether sentences of the two documents read the same, character by character.
    ///
    /// # Errors
    /// Those of [`Corpus::document`].
    fn read_alike(&mut self, own: Range<usize>, other: Range<usize>) -> Result<bool>;
}

/// Opens documents as a run wants them.
pub struct Reader<'p> {
    corpus: &'p dyn Corpus,
    texts: Box<dyn Texts + 'p>,
    skip_bad: bool,
    wanted: Wanted,
}

impl<'p> Reader<'p> {
    /// Documents of `corpus` as `tokenizer` encodes them, with what begins a word where `words` is asked for.
    /// Malformed ones are an error unless they are to be left out; none is opened that is not `wanted`.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        words: bool,
        skip_bad: bool,
        wanted: Wanted,
    ) -> Self {
        let texts: Box<dyn Texts> = match corpus.tokens().filter(|tokens| tokens.is_of(tokenizer)) {
            Some(tokens) => Box::new(Stored::new(corpus, tokens, words)),
            None => Box::new(FromText::new(corpus, tokenizer, words, Wanted::clone(&wanted))),
        };
        Self { corpus, texts, skip_bad, wanted }
    }

    /// The documents that are open.
    pub fn texts(&mut self) -> &mut dyn Texts {
        &mut *self.texts
    }

    /// Opens document `id`, which must have `needed` sentences or more, and tells how many it has; `None` where
    /// it is malformed and the policy is to leave such documents out.
    ///
    /// # Errors
    /// Those of [`Corpus::document`]; [`ErrorKind::Data`] where sentences are missing; [`ErrorKind::Internal`], which
    /// nobody sees, where nothing is wanted any more.
    pub fn open(&mut self, slot: Slot, id: u64, needed: usize) -> Result<Option<usize>> {
        self.go_on(id)?;
        let opened = self.texts.open(slot, id).and_then(|sentences| match sentences {
            _ if sentences >= needed => Ok(sentences),
            0 => Err(self.too_few(id, String::new(), 0, needed)),
            _ => Err(self.too_few(id, format!(" (line {})", self.texts.line(slot, 0)), sentences, needed)),
        });
        self.unless_left_out(id, opened)
    }

    /// Leaves in `out` sentences of document `id`, from a random one on: as many as have `enough` tokens, at least one, and
    /// fewer where the document ends. `None` where it is left out.
    ///
    /// # Errors
    /// As [`Self::open`], for one sentence.
    pub fn excerpt(
        &mut self,
        id: u64,
        enough: usize,
        rng: &mut SampleRng,
        out: &mut Encoded,
    ) -> Result<Option<usize>> {
        let mut from = |sentences| rng.below(sentences as u64) as usize;
        let found = self.texts.excerpt(id, &mut from, enough, out).and_then(|sentences| match sentences {
            0 => Err(self.too_few(id, String::new(), 0, 1)),
            _ => Ok(sentences),
        });
        self.unless_left_out(id, found)
    }

    /// Asks in the midst of what is made of document `id`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], which nobody sees, where nothing is wanted any more.
    pub fn go_on(&self, id: u64) -> Result<()> {
        if (self.wanted)() { Ok(()) } else { Err(unwanted(id)) }
    }

    /// What was found of document `id`; `None` where it is malformed and the policy is to leave such documents out.
    fn unless_left_out(&self, id: u64, found: Result<usize>) -> Result<Option<usize>> {
        match found {
            Ok(sentences) => Ok(Some(sentences)),
            Err(error) if self.skip_bad && error.kind() == ErrorKind::Data => {
                tracing::debug!(target: "sample", document = id, %error, "document left out");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn too_few(&self, id: u64, line: String, sentences: usize, needed: usize) -> Error {
        Error::data(format!(
            "corpus {}: document {id}{line} has {sentences} sentences, the samples need {needed}",
            self.corpus.path().display(),
        ))
    }
}

/// Documents encoded when they are asked for.
struct FromText<'p> {
    corpus: &'p dyn Corpus,
    encoder: Box<dyn Encoder + 'p>,
    words: bool,
    wanted: Wanted,
    open: Slots<Document<'p>>,
}

impl<'p> FromText<'p> {
    fn new(corpus: &'p dyn Corpus, tokenizer: &'p dyn Tokenizer, words: bool, wanted: Wanted) -> Self {
        let encoder = tokenizer.encoder();
        Self { corpus, encoder, words, wanted, open: Slots::default() }
    }
}

impl Texts for FromText<'_> {
    fn open(&mut self, slot: Slot, id: u64) -> Result<usize> {
        self.open[slot] = self.corpus.document_while(id, &*self.wanted)?;
        Ok(self.open[slot].sentences.len())
    }

    fn line(&self, slot: Slot, sentence: usize) -> u64 {
        self.open[slot].sentences[sentence].line
    }

    fn encode(&mut self, slot: Slot, sentences: Range<usize>, out: &mut Encoded) -> Result<()> {
        out.clear();
        for sentence in &self.open[slot].sentences[sentences] {
            // A document may be a book.
            if !out.is_empty() && !(self.wanted)() {
                return Err(Error::internal("a document is wanted no more"));
            }
            out.push(sentence, &mut *self.encoder, self.words);
        }
        Ok(())
    }

    fn excerpt(
        &mut self,
        id: u64,
        from: &mut dyn FnMut(usize) -> usize,
        enough: usize,
        out: &mut Encoded,
    ) -> Result<usize> {
        out.clear();
        let (encoder, words) = (&mut *self.encoder, self.words);
        self.corpus.excerpt(id, &*self.wanted, from, &mut |sentence| {
            out.push(sentence, encoder, words);
            out.len() < enough
        })
    }

    fn read_alike(&mut self, own: Range<usize>, other: Range<usize>) -> Result<bool> {
        let (own, other) = (&self.open[Slot::Own].sentences[own], &self.open[Slot::Other].sentences[other]);
        Ok(own.len() == other.len() && own.iter().zip(other).all(|(a, b)| a.text == b.text))
    }
}
