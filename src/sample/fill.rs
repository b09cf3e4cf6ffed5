//! Samples filled from documents, up to the maximal length: Google's `create_instances_from_document` (Devlin
//! et al. 2018, appendix A.2).
//!
//! Sentences are added until the target length is reached or the document ends; the pair task makes two
//! segments of them. Sentences that a sample does not use go back to the document. Two departures: the target
//! is drawn for each sample, not once for a document (there a long document is cut short as a whole), and a
//! pair that is too long loses what lies away from the boundary of its segments, A its first tokens and B its
//! last (there a coin for each token says at which end). A lone sentence without a second segment keeps its
//! beginning. Without a pair task one segment is filled, and a sentence that does not fit goes on in the next
//! sample, so that nothing is lost.

use std::ops::Range;

use super::encoded::Encoded;
use super::order::Place;
use super::pair::{Pairing, pairing};
use super::row::RowBuilder;
use super::texts::{Reader, Slot};
use super::walk::Cut;
use super::{Cursor, Origin, PairLabel, PairTask, SampleConfig, Samples, Truncate, nsp, truncate};
use crate::corpus::Corpus;
use crate::rng::{Domain, SampleRng};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// Shortest target in tokens: one for each segment.
const SHORTEST: usize = 2;

/// Samples of a document between two questions whether they are wanted: a millisecond.
const ASKED: u32 = 64;

/// Fills samples from each document.
pub struct Fill<'p> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    row: RowBuilder<'p>,
    own: Encoded,
    other: Encoded,
}

/// Sentences of a document, as places of its tokens.
struct Chunk {
    tokens: Range<usize>,
    /// Where the second segment begins; at the end where there is but one sentence.
    second: usize,
}

impl<'p> Fill<'p> {
    /// # Errors
    /// Those of [`RowBuilder::new`]; [`crate::ErrorKind::Usage`] for a hard cut, which belongs to pairs.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
    ) -> Result<Self> {
        if config.truncate == Truncate::Cut {
            return Err(Error::usage(format!(
                "--truncate cut: corpus {} has documents, of which samples are filled; the hard cut is for \
                 lines of two sentences: use --truncate longest",
                corpus.path().display()
            )));
        }
        let row = RowBuilder::new(tokenizer, config)?;
        Ok(Self { corpus, config, row, own: Encoded::default(), other: Encoded::default() })
    }

    /// The sentences of the next sample, which begins at token `from`.
    fn chunk(&self, from: usize, target: usize, rng: &mut SampleRng) -> Chunk {
        let first = self.own.sentence(from);
        let last = self.own.sentence((from + target).min(self.own.len()) - 1);
        let end = self.own.end(last);
        let second = match last - first {
            0 => end,
            others => self.own.end(first + rng.below(others as u64) as usize),
        };
        Chunk { tokens: from..end, second }
    }

    /// Leaves in `other` sentences of another document of the source, from a random one on: `tokens` or more,
    /// at least one sentence, and fewer where the document ends. Gives its number.
    fn draw_other(
        &mut self,
        reader: &mut Reader<'_>,
        place: &Place,
        tokens: usize,
        rng: &mut SampleRng,
    ) -> Result<u64> {
        let other = &mut self.other;
        let take = |id, rng: &mut SampleRng| {
            let found = reader.excerpt(id, tokens.max(1), rng, other)?;
            Ok(found.filter(|_| !other.is_empty()).map(drop))
        };
        let need = "no other document has a token to pair with";
        nsp::another(self.corpus, &place.source, place.document, need, rng, take).map(|(id, ())| id)
    }

    /// Appends the sample whose one segment is `tokens` of the document, as far as they fit.
    fn push_one(
        &mut self,
        tokens: Range<usize>,
        place: &Place,
        cursor: Cursor,
        rng: &mut SampleRng,
        out: &mut Samples,
    ) {
        let line = self.own.line(tokens.start);
        let tokens = tokens.start..tokens.end.min(tokens.start + self.config.seq_len - 2);
        let (document_a, document_b) = (place.document, place.document);
        let origin = Origin { cursor, document_a, line_a: line, document_b, line_b: line };
        self.row.push((self.own.segment(tokens), None), PairLabel::None, origin, rng, out);
    }

    /// Appends the sample of segment `a` of the document and `b` of document `of_b`, whose text is in `other`
    /// where it is not the same.
    fn push_two(
        &mut self,
        (a, b, of_b): (Range<usize>, Range<usize>, u64),
        pair: PairLabel,
        (place, cursor): (&Place, Cursor),
        rng: &mut SampleRng,
        out: &mut Samples,
    ) {
        let (keep_a, keep_b) = truncate::longest_first(a.len(), b.len(), self.config.seq_len - 3);
        let (a, b) = (a.end - keep_a..a.end, b.start..b.start + keep_b);
        let text_b = if of_b == place.document { &self.own } else { &self.other };
        let origin = Origin {
            cursor,
            document_a: place.document,
            line_a: self.own.line(a.start),
            document_b: of_b,
            line_b: text_b.line(b.start),
        };
        self.row.push((self.own.segment(a), Some(text_b.segment(b))), pair, origin, rng, out);
    }
}

impl Cut for Fill<'_> {
    fn sentences_needed(&self) -> usize {
        1
    }

    fn probable_other(&self, _: &Place) -> Option<u64> {
        None
    }

    fn cut(
        &mut self,
        reader: &mut Reader<'_>,
        sentences: usize,
        place: &Place,
        cursor: Cursor,
        out: &mut Samples,
    ) -> Result<()> {
        let SampleConfig { pair, next_rate, short_rate, seed, seq_len, .. } = *self.config;
        reader.texts().encode(Slot::Own, 0..sentences, &mut self.own)?;

        let room = seq_len - if pair == PairTask::None { 2 } else { 3 };
        let (mut from, mut cursor) = (0, cursor);
        while from < self.own.len() {
            if cursor.part.is_multiple_of(ASKED) {
                reader.go_on(place.document)?;
            }
            // A stream for each part: what a part draws moves no other.
            let key = [place.pass, place.document, cursor.part.into()];
            let mut rng = SampleRng::new(Domain::Sample, seed, &key);
            let target = match rng.unit() < short_rate {
                true => SHORTEST + rng.below((room - SHORTEST + 1) as u64) as usize,
                false => room,
            };
            let Chunk { tokens, second } = self.chunk(from, target, &mut rng);
            let sides = 1 + usize::from(second < tokens.end);
            from = tokens.end;
            let (a, b) = (tokens.start..second, second..tokens.end);
            let at = (place, cursor);
            match pairing(pair, sides, next_rate, &mut rng) {
                Pairing::AsIs(PairLabel::None) => {
                    if pair == PairTask::None {
                        from = tokens.end.min(tokens.start + room);
                    }
                    self.push_one(tokens.start..from, place, cursor, &mut rng, out);
                }
                Pairing::AsIs(label) => self.push_two((a, b, place.document), label, at, &mut rng, out),
                Pairing::Swapped => {
                    self.push_two((b, a, place.document), PairLabel::NotNext, at, &mut rng, out);
                }
                Pairing::Other => {
                    let other = self.draw_other(reader, place, target.saturating_sub(a.len()), &mut rng)?;
                    from = second;
                    let drawn = 0..self.other.len();
                    self.push_two((a, drawn, other), PairLabel::NotNext, at, &mut rng, out);
                }
            }
            cursor.part += 1;
        }
        Ok(())
    }
}
