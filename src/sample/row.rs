//! Two sides of text to one finished sample: encoded, truncated, laid out, masked.
//!
//! What both builders share. Holds the scratch buffers, so that a sample allocates nothing beyond the
//! growth of the columns it is appended to.

use super::{Corruption, mask, truncate};
use super::{MaskCount, Origin, PairLabel, SEGMENT_A, SEGMENT_B, Sample, SampleConfig, Samples, Truncate};
use crate::corpus::Sentence;
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
    second: Vec<u32>,
    segments: Vec<u8>,
    /// Positions that may be predicted, then those that are.
    masked: Vec<u32>,
    labels: Vec<u32>,
    corruptions: Vec<Corruption>,
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
        let specials = tokenizer.specials();
        let Specials { pad, unknown, separator, classify, mask } = specials;
        Ok(Self {
            tokenizer,
            config,
            specials,
            highest_special: [unknown, separator, classify, mask].into_iter().fold(pad, u32::max),
            ids: Vec::new(),
            second: Vec::new(),
            segments: Vec::new(),
            masked: Vec::new(),
            labels: Vec::new(),
            corruptions: Vec::new(),
        })
    }

    /// Appends the sample of sides `a` and `b` to `out`.
    pub fn push(
        &mut self,
        (a, b): (&[Sentence<'_>], &[Sentence<'_>]),
        pair: PairLabel,
        origin: Origin,
        rng: &mut SampleRng,
        out: &mut Samples,
    ) {
        let first_len = self.lay_out(a, b);
        self.find_candidates(first_len);
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

    /// Fills `ids` and `segments`; gives the number of tokens of the first segment, its specials included.
    fn lay_out(&mut self, a: &[Sentence<'_>], b: &[Sentence<'_>]) -> usize {
        let Specials { separator, classify, .. } = self.specials;
        self.ids.clear();
        self.second.clear();
        self.ids.push(classify);
        a.iter().for_each(|sentence| self.tokenizer.encode(&sentence.text, &mut self.ids));
        b.iter().for_each(|sentence| self.tokenizer.encode(&sentence.text, &mut self.second));

        if self.config.truncate == Truncate::Longest {
            let specials = if b.is_empty() { 2 } else { 3 };
            let budget = self.config.seq_len - specials;
            let (keep_a, keep_b) = truncate::longest_first(self.ids.len() - 1, self.second.len(), budget);
            self.ids.truncate(1 + keep_a);
            self.second.truncate(keep_b);
        }
        self.ids.push(separator);
        let first_len = self.ids.len();
        if !b.is_empty() {
            self.ids.extend_from_slice(&self.second);
            self.ids.push(separator);
        }
        // Already so after `Longest`; the hard cut is nothing else than this.
        self.ids.truncate(self.config.seq_len);

        self.segments.clear();
        self.segments.resize(first_len.min(self.ids.len()), SEGMENT_A);
        self.segments.resize(self.ids.len(), SEGMENT_B);
        first_len
    }

    /// Leaves in `masked` the positions that may be predicted: words of the text, unknown ones by policy.
    ///
    /// Text that spells a special token (a `<pad>` within a sentence, say) must not become one: it would
    /// hide its position from attention or end a segment, so it counts as an unknown word.
    fn find_candidates(&mut self, first_len: usize) {
        let Specials { pad, unknown, separator, classify, mask } = self.specials;
        let len = self.ids.len();
        let first = 1..(first_len - 1).min(len);
        let second = first_len.min(len)..(first_len + self.second.len()).min(len);
        self.masked.clear();
        for position in first.chain(second) {
            let id = &mut self.ids[position];
            if *id <= self.highest_special && [pad, unknown, separator, classify, mask].contains(id) {
                *id = unknown;
                if !self.config.predict_unknown {
                    continue;
                }
            }
            self.masked.push(position as u32);
        }
    }

    /// Chooses among the candidates in `masked`, and corrupts the chosen.
    fn mask(&mut self, rng: &mut SampleRng) {
        let config = self.config;
        match config.mask_count {
            MaskCount::Exact => {
                let count = mask::exact_count(config.mask_rate, self.masked.len());
                mask::choose_exact(&mut self.masked, count, rng);
            }
            MaskCount::Bernoulli => mask::choose_bernoulli(&mut self.masked, config.mask_rate, rng),
        }
        self.labels.clear();
        self.corruptions.clear();
        for &position in &self.masked {
            let id = &mut self.ids[position as usize];
            let corruption = mask::corruption(rng.unit(), config.mask_share, config.random_share);
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
