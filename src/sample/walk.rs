//! Units to samples, document by document: what every way of cutting shares.
//!
//! Takes positions of an epoch, finds their documents and opens them, and hands each to a [`Cut`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::blocks::documents_of_block;
use super::order::{EpochOrder, Place};
use super::texts::{Reader, Slot};
use super::{Cursor, SampleBuilder, SampleConfig, Samples, Unit, Wanted, nsp};
use super::{PairTask, positions};
use crate::corpus::{Corpus, Source};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// How a document becomes samples. `&mut self` is scratch.
pub trait Cut: Send {
    /// Sentences that a document must have.
    fn sentences_needed(&self) -> usize;

    /// The other document that a document's samples will probably be made with, where that is known before either is
    /// read. A guess, on which nothing depends.
    fn probable_other(&self, place: &Place) -> Option<u64>;

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

/// Units at the beginning whose documents are announced one by one: the first batch waits for them. Later a call for
/// each would cost more than it saves, since most of a corpus that is read in any order is in memory by then.
const FIRST_UNITS: u32 = 4;

/// Builds the samples of the documents at a unit's positions, in their order.
pub struct Walk<'p, C> {
    reader: Reader<'p>,
    config: &'p SampleConfig,
    corpus: &'p dyn Corpus,
    sources: Vec<Source>,
    /// Documents of a block, where the order is in blocks.
    block: u64,
    /// Epoch and window of the blocks that were asked for last.
    announced: Option<(u64, u64)>,
    /// Units that are still announced before they are built.
    first: u32,
    cut: C,
}

impl<'p, C: Cut> Walk<'p, C> {
    /// # Errors
    /// [`crate::ErrorKind::Data`] where the corpus can give no sample or no negative.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
        wanted: Wanted,
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
        let words = config.mask_unit.needs_words();
        let reader = Reader::new(corpus, tokenizer, words, config.skip_bad_lines, wanted);
        let block = documents_of_block(corpus);
        Ok(Self { reader, config, corpus, sources, block, announced: None, first: FIRST_UNITS, cut })
    }
}

impl<C: Cut> Walk<'_, C> {
    /// Announces the documents of a unit all at once: where nothing of a corpus is in memory yet, a disk finds
    /// hundreds of them in the time of a few.
    fn announce_unit(&self, order: &EpochOrder<'_>, unit: &Unit) {
        for place in unit.positions.clone().map(|position| order.place(position)) {
            for document in [Some(place.document), self.cut.probable_other(&place)].into_iter().flatten() {
                self.corpus.announce(document..document + 1);
            }
        }
    }
}

impl<C: Cut> SampleBuilder for Walk<'_, C> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let SampleConfig { shuffle, seed, .. } = *self.config;
        let shuffle = shuffle.for_corpus(self.corpus);
        let order = EpochOrder::new(&self.sources, (shuffle, self.block), seed, unit.epoch);
        if self.first > 0 {
            self.first -= 1;
            self.announce_unit(&order, unit);
        }
        let now = order.window(unit.positions.start).map(|window| (unit.epoch, window));
        if let Some(now) = now.filter(|_| now != self.announced) {
            announce(self.corpus, &order, now, self.announced.replace(now));
        }
        for position in unit.positions.clone() {
            let place = order.place(position);
            let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
            // Whoever sees the error builds nothing more: what the panic left half done is never looked at.
            let (reader, cut) = (&mut self.reader, &mut self.cut);
            let build = AssertUnwindSafe(|| one(reader, cut, &place, cursor, out));
            catch_unwind(build).unwrap_or_else(|payload| {
                let corpus = self.corpus.file(place.document).display();
                let what = format!(
                    "stage sample, corpus {corpus}, document {} (epoch {}, position {position}, --seed {seed})",
                    place.document, unit.epoch
                );
                Err(Error::of_panic(what, &*payload))
            })?;
        }
        Ok(())
    }
}

/// Appends the samples of the document at a place.
fn one(
    reader: &mut Reader<'_>,
    cut: &mut impl Cut,
    place: &Place,
    cursor: Cursor,
    out: &mut Samples,
) -> Result<()> {
    match reader.open(Slot::Own, place.document, cut.sentences_needed())? {
        Some(sentences) => cut.cut(reader, sentences, place, cursor, out)?,
        None => out.skipped += 1,
    }
    Ok(())
}

/// Announces to the corpus the documents of a window, given with its epoch, and of the next one, but for those
/// announced with the window `before`.
fn announce(
    corpus: &dyn Corpus,
    order: &EpochOrder<'_>,
    (epoch, window): (u64, u64),
    before: Option<(u64, u64)>,
) {
    let known = before.is_some_and(|(other, last)| other == epoch && last + 1 == window);
    let first = if known { window + 1 } else { window };
    for window in first..=window + 1 {
        order.stretches(window).into_iter().for_each(|stretch| corpus.announce(stretch));
    }
}
