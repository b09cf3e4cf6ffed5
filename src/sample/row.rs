//! Two segments to one finished sample: laid out and masked.
//!
//! What all ways of cutting share. Holds the scratch buffers, so that a sample allocates nothing beyond the
//! growth of the columns it is appended to.

use super::encoded::Segment;
use super::masker::Masker;
use super::{Origin, PairLabel, SEGMENT_A, SEGMENT_B, Sample, SampleConfig, Samples};
use crate::Result;
use crate::rng::SampleRng;
use crate::vocab::{Specials, Tokenizer};

/// Makes rows `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where there is no B.
pub struct RowBuilder<'p> {
    masker: Masker<'p>,
    specials: Specials,
    seq_len: usize,
    ids: Vec<u32>,
    segments: Vec<u8>,
}

impl<'p> RowBuilder<'p> {
    /// # Errors
    /// Those of [`Masker::new`].
    pub fn new(tokenizer: &'p dyn Tokenizer, config: &'p SampleConfig) -> Result<Self> {
        Ok(Self {
            masker: Masker::new(tokenizer, config)?,
            specials: tokenizer.specials(),
            seq_len: config.seq_len,
            ids: Vec::new(),
            segments: Vec::new(),
        })
    }

    /// Appends the sample of segments `a` and `b` to `out`. A row that is too long is cut at its end, final
    /// separator included: what the hard cut of the reference is, and what never happens to segments that
    /// leave room for the special tokens.
    pub fn push(
        &mut self,
        (a, b): (Segment<'_>, Option<Segment<'_>>),
        pair: PairLabel,
        origin: Origin,
        rng: &mut SampleRng,
        out: &mut Samples,
    ) {
        self.lay_out(a.ids, b.map(|b| b.ids));
        let length = self.ids.len();
        let text =
            |start: usize, segment: Segment<'_>| start.min(length)..length.min(start + segment.ids.len());
        let (places_a, segment_b) = (text(1, a), b.unwrap_or_default());
        let places_b = text(a.ids.len() + 2, segment_b);
        self.masker.mask(&mut self.ids, [(places_a, a.begins), (places_b, segment_b.begins)], rng);
        out.push(Sample {
            ids: &self.ids,
            segments: &self.segments,
            masked: self.masker.masked(),
            labels: self.masker.labels(),
            corruptions: self.masker.corruptions(),
            pair,
            origin,
        });
    }

    /// Fills `ids` and `segments`.
    fn lay_out(&mut self, a: &[u32], b: Option<&[u32]>) {
        let Specials { separator, classify, .. } = self.specials;
        self.ids.clear();
        self.ids.push(classify);
        self.ids.extend_from_slice(a);
        self.ids.push(separator);
        let first_len = self.ids.len();
        if let Some(b) = b {
            self.ids.extend_from_slice(b);
            self.ids.push(separator);
        }
        self.ids.truncate(self.seq_len);

        self.segments.clear();
        self.segments.resize(first_len.min(self.ids.len()), SEGMENT_A);
        self.segments.resize(self.ids.len(), SEGMENT_B);
    }
}
