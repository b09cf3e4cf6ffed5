//! Two segments to one finished sample: laid out and masked.
//!
//! What all ways of cutting share. Holds the scratch buffers, so that a sample allocates nothing beyond the
//! growth of the columns it is appended to.

use super::encoded::Segment;
use super::{Corruption, mask, words};
use super::{MaskCount, MaskUnit, Origin, PairLabel, SEGMENT_A, SEGMENT_B, Sample, SampleConfig, Samples};
use crate::rng::SampleRng;
use crate::vocab::{Specials, Tokenizer};
use crate::{Error, Result};

/// Makes rows `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where there is no B.
pub struct RowBuilder<'p> {
    tokenizer: &'p dyn Tokenizer,
    config: &'p SampleConfig,
    specials: Specials,
    /// Ids above this one have no role: the usual answer in one comparison.
    highest_special: u32,
    ids: Vec<u32>,
    segments: Vec<u8>,
    /// Positions that may be predicted, then those that are.
    masked: Vec<u32>,
    labels: Vec<u32>,
    corruptions: Vec<Corruption>,
    /// Chooses whole words; `None` for single tokens.
    words: Option<words::Chooser>,
}

impl<'p> RowBuilder<'p> {
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a configuration that cannot be meant, [`crate::ErrorKind::Data`]
    /// where the vocabulary has nothing to draw random replacements from.
    pub fn new(tokenizer: &'p dyn Tokenizer, config: &'p SampleConfig) -> Result<Self> {
        config.check()?;
        if tokenizer.ordinary_len() == 0 && config.random_share > 0.0 {
            return Err(Error::data(format!(
                "the vocabulary has no word besides its special tokens, but --random-share {} replaces tokens \
                 by random words: build a vocabulary from the corpus, or use --random-share 0",
                config.random_share
            )));
        }
        if config.mask_unit.needs_words() && !tokenizer.knows_words() {
            return Err(Error::usage(format!(
                "--mask-unit {}: this tokenizer does not tell words apart; use --mask-unit token",
                config.mask_unit.name()
            )));
        }
        let specials = tokenizer.specials();
        let Specials { pad, unknown, separator, classify, mask } = specials;
        Ok(Self {
            tokenizer,
            config,
            specials,
            highest_special: [unknown, separator, classify, mask].into_iter().fold(pad, u32::max),
            ids: Vec::new(),
            segments: Vec::new(),
            masked: Vec::new(),
            labels: Vec::new(),
            corruptions: Vec::new(),
            words: words::Chooser::new(config.mask_unit),
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
        self.find_candidates(a, b.unwrap_or_default());
        self.mask(rng);
        out.push(Sample {
            ids: &self.ids,
            segments: &self.segments,
            masked: &self.masked,
            labels: &self.labels,
            corruptions: &self.corruptions,
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
        self.ids.truncate(self.config.seq_len);

        self.segments.clear();
        self.segments.resize(first_len.min(self.ids.len()), SEGMENT_A);
        self.segments.resize(self.ids.len(), SEGMENT_B);
    }

    /// Leaves in `masked` the positions that may be predicted: words of the text, unknown ones by policy.
    /// Tells the chooser of words, where there is one, how they lie.
    ///
    /// Text that spells a special token (a `<pad>` within a sentence, say) must not become one: it would
    /// hide its position from attention or end a segment, so it counts as an unknown word.
    fn find_candidates(&mut self, a: Segment<'_>, b: Segment<'_>) {
        let Specials { pad, unknown, separator, classify, mask } = self.specials;
        self.masked.clear();
        if let Some(words) = &mut self.words {
            words.clear();
        }
        for (start, segment) in [(1, a), (a.ids.len() + 2, b)] {
            if let Some(words) = &mut self.words {
                words.end_run();
            }
            let end = (start + segment.ids.len()).min(self.ids.len());
            for position in start..end {
                let id = &mut self.ids[position];
                let mut candidate = true;
                if *id <= self.highest_special && [pad, unknown, separator, classify, mask].contains(id) {
                    *id = unknown;
                    candidate = self.config.predict_unknown;
                }
                if candidate {
                    self.masked.push(position as u32);
                }
                if let Some(words) = &mut self.words {
                    words.add(segment.begins[position - start], candidate);
                }
            }
        }
    }

    /// Chooses among the candidates in `masked`, and corrupts the chosen.
    fn mask(&mut self, rng: &mut SampleRng) {
        let config = self.config;
        let budget = mask::exact_count(config.mask_rate, self.masked.len());
        match (&mut self.words, config.mask_count) {
            (None, MaskCount::Exact) => mask::choose_exact(&mut self.masked, budget, rng),
            (None, MaskCount::Bernoulli) => mask::choose_bernoulli(&mut self.masked, config.mask_rate, rng),
            (Some(words), MaskCount::Exact) => words.choose_exact(budget, rng),
            (Some(words), MaskCount::Bernoulli) => words.choose_bernoulli(config.mask_rate, rng),
        }
        if let Some(words) = &mut self.words {
            words.leave_chosen(&mut self.masked);
        }
        self.labels.clear();
        self.corruptions.clear();
        let mut corruption = Corruption::Keep;
        for (i, &position) in self.masked.iter().enumerate() {
            let id = &mut self.ids[position as usize];
            // One fate for all tokens of a span (Joshi et al. 2020, section 3.1), else one for each token.
            let fate_goes_on = match &self.words {
                Some(words) if config.mask_unit == MaskUnit::Span => !words.opens(i),
                _ => false,
            };
            if !fate_goes_on {
                corruption = mask::corruption(rng.unit(), config.mask_share, config.random_share);
            }
            self.labels.push(*id);
            self.corruptions.push(corruption);
            *id = match corruption {
                Corruption::Mask => self.specials.mask,
                Corruption::Random => {
                    let k = rng.below(u64::from(self.tokenizer.ordinary_len()));
                    self.tokenizer.ordinary(k as u32)
                }
                Corruption::Keep => *id,
            };
        }
    }
}
