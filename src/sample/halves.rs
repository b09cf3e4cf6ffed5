//! One sample a document, its two halves: the pair format.

use super::encoded::{Encoded, Segment};
use super::order::Place;
use super::pair::{Pairing, pairing};
use super::row::RowBuilder;
use super::walk::{Cut, read};
use super::{Cursor, Origin, PairLabel, PairTask, SampleConfig, Samples, Truncate, nsp, truncate};
use crate::Result;
use crate::corpus::{Corpus, Document, Sentence};
use crate::rng::{Domain, SampleRng};
use crate::vocab::Tokenizer;

/// A document's number, and its sentences that are one side of a pair.
type Side<'d, 'c> = (u64, &'d [Sentence<'c>]);

/// Makes one sample of each document.
pub struct Halves<'p> {
    corpus: &'p dyn Corpus,
    tokenizer: &'p dyn Tokenizer,
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
        Ok(Self { corpus, tokenizer, config, row, first: Encoded::default(), second: Encoded::default() })
    }

    /// Appends the sample of sides `a` and `b`. Without a sentence in `b` there is no second segment.
    fn push(
        &mut self,
        (a, b): (Side<'_, '_>, Side<'_, '_>),
        pair: PairLabel,
        cursor: Cursor,
        rng: &mut SampleRng,
        out: &mut Samples,
    ) {
        let words = self.config.mask_unit.needs_words();
        for (encoded, side) in [(&mut self.first, a.1), (&mut self.second, b.1)] {
            encoded.clear();
            side.iter().for_each(|sentence| encoded.push(sentence, self.tokenizer, words));
        }
        let paired = !b.1.is_empty();
        let (mut keep_a, mut keep_b) = (self.first.len(), self.second.len());
        if self.config.truncate == Truncate::Longest {
            let budget = self.config.seq_len - if paired { 3 } else { 2 };
            (keep_a, keep_b) = truncate::longest_first(keep_a, keep_b, budget);
        }
        let b_segment: Option<Segment<'_>> = paired.then(|| self.second.segment(0..keep_b));
        self.row.push((self.first.segment(0..keep_a), b_segment), pair, origin(cursor, a, b), rng, out);
    }
}

impl Cut for Halves<'_> {
    fn sentences_needed(&self) -> usize {
        needed(self.config.pair)
    }

    fn cut(
        &mut self,
        document: &Document<'_>,
        place: &Place,
        cursor: Cursor,
        out: &mut Samples,
    ) -> Result<()> {
        let SampleConfig { pair, next_rate, seed, skip_bad_lines, .. } = *self.config;
        let corpus = self.corpus;
        let own = place.document;
        let mut rng = SampleRng::new(Domain::Sample, seed, &[place.pass, own, 0]);
        let (a, truth) = sides(document);
        let both = 1 + usize::from(!truth.is_empty());
        match pairing(pair, both, next_rate, &mut rng) {
            Pairing::AsIs(label) => self.push(((own, a), (own, truth)), label, cursor, &mut rng, out),
            Pairing::Swapped => {
                self.push(((own, truth), (own, a)), PairLabel::NotNext, cursor, &mut rng, out);
            }
            Pairing::Other => {
                // A text that reads like the true one is no negative.
                let need = "no usable second part differs from that of";
                let take = |id, _: &mut SampleRng| {
                    let document = read(corpus, id, needed(pair), skip_bad_lines)?;
                    Ok(document.filter(|document| !same_text(sides(document).1, truth)))
                };
                let (other, document) = nsp::another(corpus, &place.source, own, need, &mut rng, take)?;
                let b = (other, sides(&document).1);
                self.push(((own, a), b), PairLabel::NotNext, cursor, &mut rng, out);
            }
        }
        Ok(())
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
fn sides<'d, 'c>(document: &'d Document<'c>) -> (&'d [Sentence<'c>], &'d [Sentence<'c>]) {
    document.sentences.split_at(document.sentences.len().div_ceil(2))
}

fn same_text(a: &[Sentence<'_>], b: &[Sentence<'_>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.text == b.text)
}

/// Where both sides begin.
fn origin(cursor: Cursor, a: Side<'_, '_>, b: Side<'_, '_>) -> Origin {
    // A missing side is said to begin where the other one does.
    let line = |side: &[Sentence<'_>]| side.first().map(|sentence| sentence.line);
    Origin {
        cursor,
        document_a: a.0,
        line_a: line(a.1).or(line(b.1)).unwrap_or(0),
        document_b: b.0,
        line_b: line(b.1).or(line(a.1)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_any_number_of_sentences() {
        let check = |sentences: usize, expected| {
            let sentence = Sentence { text: "x".into(), line: 1 };
            let document = Document { sentences: std::iter::repeat_n(sentence, sentences).collect() };
            let (a, b) = sides(&document);
            assert_eq!((a.len(), b.len()), expected);
        };
        check(0, (0, 0));
        check(1, (1, 0));
        check(2, (1, 1));
        check(3, (2, 1));
        check(6, (3, 3));
    }
}
