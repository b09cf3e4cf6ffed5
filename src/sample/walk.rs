//! Units to samples, document by document: what every way of cutting shares.
//!
//! Takes positions of an epoch, finds their documents and opens them, and hands each to a [`Cut`].

use super::order::{EpochOrder, Place};
use super::texts::{Reader, Slot};
use super::{Cursor, SampleBuilder, SampleConfig, Samples, Unit, nsp};
use super::{PairTask, positions};
use crate::corpus::{Corpus, Source};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// How a document becomes samples. `&mut self` is scratch.
pub trait Cut: Send {
    /// Sentences that a document must have.
    fn sentences_needed(&self) -> usize;

    /// Appends the samples of the document that is open as the own one, of so many `sentences`. `cursor` is
    /// that of the first.
    ///
    /// # Errors
    /// Those of reading other documents of the corpus.
    fn cut(
        &mut self,
        reader: &mut Reader<'_>,
        sentences: usize,
        place: &Place,
        cursor: Cursor,
        out: &mut Samples,
    ) -> Result<()>;
}

/// Builds the samples of the documents at a unit's positions, in their order.
pub struct Walk<'p, C> {
    reader: Reader<'p>,
    config: &'p SampleConfig,
    sources: Vec<Source>,
    cut: C,
}

impl<'p, C: Cut> Walk<'p, C> {
    /// # Errors
    /// [`crate::ErrorKind::Data`] where the corpus can give no sample or no negative.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
        cut: C,
    ) -> Result<Self> {
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
        let reader = Reader::new(corpus, tokenizer, config.mask_unit.needs_words(), config.skip_bad_lines);
        Ok(Self { reader, config, sources, cut })
    }
}

impl<C: Cut> SampleBuilder for Walk<'_, C> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let SampleConfig { shuffle, seed, .. } = *self.config;
        let order = EpochOrder::new(&self.sources, shuffle, seed, unit.epoch);
        for position in unit.positions.clone() {
            let place = order.place(position);
            let needed = self.cut.sentences_needed();
            match self.reader.open(Slot::Own, place.document, needed)? {
                Some(sentences) => {
                    let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
                    self.cut.cut(&mut self.reader, sentences, &place, cursor, out)?;
                }
                None => out.skipped += 1,
            }
        }
        Ok(())
    }
}
