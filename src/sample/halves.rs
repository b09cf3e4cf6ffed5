//! One sample a document, its two halves: the pair format.

use std::ops::Range;

use super::encoded::{Encoded, Segment};
use super::order::Place;
use super::pair::{Pairing, pairing};
use super::row::RowBuilder;
use super::texts::{Reader, Slot};
use super::walk::Cut;
use super::{Cursor, Origin, PairLabel, PairTask, SampleConfig, Samples, Truncate, nsp, truncate};
use crate::Result;
use crate::corpus::Corpus;
use crate::rng::{Domain, SampleRng};
use crate::vocab::Tokenizer;

/// One side of a pair: sentences of an open document.
struct Side {
    document: u64,
    slot: Slot,
    sentences: Range<usize>,
}

/// Makes one sample of each document.
pub struct Halves<'p> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    row: RowBuilder<'p>,
    first: Encoded,
    second: Encoded,
}

impl<'p> Halves<'p> {
    /// # Errors
    /// Those of [`RowBuilder::new`].
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
    ) -> Result<Self> {
        let row = RowBuilder::new(tokenizer, config)?;
        Ok(Self { corpus, config, row, first: Encoded::default(), second: Encoded::default() })
    }

    /// Appends the sample of sides `a` and `b`. Without a sentence in `b` there is no second segment.
    fn push(
        &mut self,
        reader: &mut Reader<'_>,
        (a, b): (Side, Side),
        pair: PairLabel,
        cursor: Cursor,
        rng: &mut SampleRng,
        out: &mut Samples,
    ) -> Result<()> {
        for (encoded, side) in [(&mut self.first, &a), (&mut self.second, &b)] {
            reader.texts().encode(side.slot, side.sentences.clone(), encoded)?;
        }
        let paired = !b.sentences.is_empty();
        let (mut keep_a, mut keep_b) = (self.first.len(), self.second.len());
        if self.config.truncate == Truncate::Longest {
            let budget = self.config.seq_len - if paired { 3 } else { 2 };
            (keep_a, keep_b) = truncate::longest_first(keep_a, keep_b, budget);
        }
        let b_segment: Option<Segment<'_>> = paired.then(|| self.second.segment(0..keep_b));
        let origin = origin(cursor, reader, &a, &b);
        self.row.push((self.first.segment(0..keep_a), b_segment), pair, origin, rng, out);
        Ok(())
    }
}

impl Cut for Halves<'_> {
    fn sentences_needed(&self) -> usize {
        needed(self.config.pair)
    }

    fn probable_other(&self, place: &Place) -> Option<u64> {
        let SampleConfig { pair, next_rate, seed, .. } = *self.config;
        let mut rng = SampleRng::new(Domain::Sample, seed, &[place.pass, place.document, 0]);
        // As in `cut`, of a document that has two sides and a first draw that will do.
        let other = pairing(pair, 2, next_rate, &mut rng) == Pairing::Other;
        other.then(|| nsp::first_drawn(&place.source, place.document, &mut rng))
    }

    fn cut(
        &mut self,
        reader: &mut Reader<'_>,
        sentences: usize,
        place: &Place,
        cursor: Cursor,
        out: &mut Samples,
    ) -> Result<()> {
        let SampleConfig { pair, next_rate, seed, .. } = *self.config;
        let own = place.document;
        let mut rng = SampleRng::new(Domain::Sample, seed, &[place.pass, own, 0]);
        let (a, truth) = sides(sentences);
        let both = 1 + usize::from(!truth.is_empty());
        let side = |sentences| Side { document: own, slot: Slot::Own, sentences };
        match pairing(pair, both, next_rate, &mut rng) {
            Pairing::AsIs(label) => self.push(reader, (side(a), side(truth)), label, cursor, &mut rng, out),
            Pairing::Swapped => {
                self.push(reader, (side(truth), side(a)), PairLabel::NotNext, cursor, &mut rng, out)
            }
            Pairing::Other => {
                // A text that reads like the true one is no negative.
                let need = "no usable second part differs from that of";
                let take = |id, _: &mut SampleRng| {
                    let Some(sentences) = reader.open(Slot::Other, id, needed(pair))? else {
                        return Ok(None);
                    };
                    let (_, second) = sides(sentences);
                    let alike = reader.texts().read_alike(truth.clone(), second.clone())?;
                    Ok((!alike).then_some(second))
                };
                let (other, second) = nsp::another(self.corpus, &place.source, own, need, &mut rng, take)?;
                let b = Side { document: other, slot: Slot::Other, sentences: second };
                self.push(reader, (side(a), b), PairLabel::NotNext, cursor, &mut rng, out)
            }
        }
    }
}

/// Sentences that a document must have for this task.
fn needed(task: PairTask) -> usize {
    match task {
        PairTask::Nsp | PairTask::Sop => 2,
        PairTask::None => 1,
    }
}

/// A document's sentences as two sides: its two sentences in the pair format, else its first half (the
/// longer one, for an odd number) and the rest.
fn sides(sentences: usize) -> (Range<usize>, Range<usize>) {
    let first = sentences.div_ceil(2);
    (0..first, first..sentences)
}

/// Where both sides begin.
fn origin(cursor: Cursor, reader: &mut Reader<'_>, a: &Side, b: &Side) -> Origin {
    // A missing side is said to begin where the other one does.
    let mut line = |side: &Side| {
        (!side.sentences.is_empty()).then(|| reader.texts().line(side.slot, side.sentences.start))
    };
    let (of_a, of_b) = (line(a), line(b));
    Origin {
        cursor,
        document_a: a.document,
        line_a: of_a.or(of_b).unwrap_or(0),
        document_b: b.document,
        line_b: of_b.or(of_a).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_any_number_of_sentences() {
        let check = |sentences, expected| {
            let (a, b) = sides(sentences);
            assert_eq!((a.start, a.end, b.end), (0, b.start, sentences));
            assert_eq!((a.len(), b.len()), expected);
        };
        check(0, (0, 0));
        check(1, (1, 0));
        check(2, (1, 1));
        check(3, (2, 1));
        check(6, (3, 3));
    }
}
