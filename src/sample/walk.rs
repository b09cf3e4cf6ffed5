//! Units to samples, document by document: what every way of cutting shares.
//!
//! Takes positions of an epoch, finds their documents and reads them, and hands each to a [`Cut`].

use super::order::{EpochOrder, Place};
use super::{Cursor, SampleBuilder, SampleConfig, Samples, Unit, nsp};
use super::{PairTask, positions};
use crate::corpus::{Corpus, Document, Source};
use crate::{Error, ErrorKind, Result};

/// How a document becomes samples. `&mut self` is scratch.
pub trait Cut: Send {
    /// Sentences that a document must have.
    fn sentences_needed(&self) -> usize;

    /// Appends the samples of a document that has them. `cursor` is that of the first.
    ///
    /// # Errors
    /// Those of reading other documents of the corpus.
    fn cut(
        &mut self,
        document: &Document<'_>,
        place: &Place,
        cursor: Cursor,
        out: &mut Samples,
    ) -> Result<()>;
}

/// Builds the samples of the documents at a unit's positions, in their order.
pub struct Walk<'p, C> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    sources: Vec<Source>,
    cut: C,
}

impl<'p, C: Cut> Walk<'p, C> {
    /// # Errors
    /// [`ErrorKind::Data`] where the corpus can give no sample or no negative.
    pub fn new(corpus: &'p dyn Corpus, config: &'p SampleConfig, cut: C) -> Result<Self> {
        let sources = corpus.sources();
        if positions(corpus) == 0 {
            return Err(Error::data(format!(
                "corpus {}: there is no document in it",
                corpus.path().display()
            )));
        }
        if config.pair == PairTask::Nsp {
            nsp::check(corpus, &sources, config.next_rate)?;
        }
        Ok(Self { corpus, config, sources, cut })
    }
}

impl<C: Cut> SampleBuilder for Walk<'_, C> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let SampleConfig { shuffle, seed, skip_bad_lines, .. } = *self.config;
        let order = EpochOrder::new(&self.sources, shuffle, seed, unit.epoch);
        for position in unit.positions.clone() {
            let place = order.place(position);
            let needed = self.cut.sentences_needed();
            match read(self.corpus, place.document, needed, skip_bad_lines)? {
                Some(document) => {
                    let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
                    self.cut.cut(&document, &place, cursor, out)?;
                }
                None => out.skipped += 1,
            }
        }
        Ok(())
    }
}

/// Reads document `id`, which must have `sentences` or more; `None` where it is malformed and the policy
/// is to leave such documents out.
pub fn read<'c>(
    corpus: &'c dyn Corpus,
    id: u64,
    sentences: usize,
    skip_bad: bool,
) -> Result<Option<Document<'c>>> {
    let document = corpus.document(id).and_then(|document| {
        if document.sentences.len() >= sentences {
            return Ok(document);
        }
        let line = document.sentences.first().map_or(String::new(), |s| format!(" (line {})", s.line));
        Err(Error::data(format!(
            "corpus {}: document {id}{line} has {} sentences, the samples need {sentences}",
            corpus.path().display(),
            document.sentences.len(),
        )))
    });
    match document {
        Ok(document) => Ok(Some(document)),
        Err(error) if skip_bad && error.kind() == ErrorKind::Data => {
            tracing::debug!(target: "sample", document = id, %error, "document left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
