//! Which tokens of a row are predicted, and what stands there instead.
//!
//! Takes a row of ids and where its text lies, masks it in place. Holds the scratch buffers, so that a row allocates
//! nothing. Knows nothing of documents or pairs.

use std::ops::Range;

use multiversion::multiversion;

use super::short::{self, ShortRows};
use super::{Corruption, mask, words};
use super::{MaskCount, MaskUnit, SampleConfig};
use crate::rng::SampleRng;
use crate::vocab::{Specials, Tokenizer};
use crate::{Error, Result};

/// Masks rows, one after the other.
pub struct Masker<'p> {
    tokenizer: &'p dyn Tokenizer,
    config: &'p SampleConfig,
    specials: Specials,
    /// Ids above this one have no role: the usual answer in one comparison.
    highest_special: u32,
    /// Each number at its own place, as far as the longest row reached.
    numbers: Vec<u32>,
    /// Positions that may be predicted, then those that are.
    masked: Vec<u32>,
    labels: Vec<u32>,
    corruptions: Vec<Corruption>,
    /// Masks the usual rows; `None` where the configuration wants another kind of mask.
    short: Option<ShortRows>,
    /// What it chose in the last row, if that was such a row.
    chosen: short::Chosen,
    was_short: bool,
    /// Chooses whole words; `None` for single tokens.
    words: Option<words::Chooser>,
}

/// Where a stretch of text lies in its row, and for each of its tokens whether it begins a word; nothing of that
/// where words are not asked for.
pub type TextOfRow<'t> = (Range<usize>, &'t [bool]);

impl<'p> Masker<'p> {
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
            numbers: Vec::new(),
            masked: Vec::new(),
            labels: Vec::new(),
            corruptions: Vec::new(),
            short: ShortRows::new(tokenizer, config),
            chosen: short::Chosen::new(),
            was_short: false,
            words: words::Chooser::new(config.mask_unit),
        })
    }

    /// Masks a row with this text in it: some of its tokens are replaced. What is not text are tokens with a role.
    pub fn mask(&mut self, ids: &mut [u32], texts: [TextOfRow<'_>; 2], rng: &mut SampleRng) {
        let text = texts[0].0.len() + texts[1].0.len();
        let chosen = &mut self.chosen;
        self.was_short =
            self.short.as_ref().is_some_and(|rows| rows.mask(self.tokenizer, ids, text, rng, chosen));
        if self.was_short {
            return;
        }
        self.find_candidates(ids, texts);
        self.choose(rng);
        self.corrupt(ids, rng);
    }

    /// Positions of the last row that are to be predicted, ascending.
    pub fn masked(&self) -> &[u32] {
        if self.was_short { self.chosen.places() } else { &self.masked }
    }

    /// The true ids there.
    pub fn labels(&self) -> &[u32] {
        if self.was_short { self.chosen.labels() } else { &self.labels }
    }

    /// What was done to them.
    pub fn corruptions(&self) -> &[Corruption] {
        if self.was_short { self.chosen.corruptions() } else { &self.corruptions }
    }

    /// Leaves in `masked` the positions that may be predicted: words of the text, unknown ones by policy.
    /// Tells the chooser of words, where there is one, how they lie.
    ///
    /// Text that spells a special token (a `<pad>` within a sentence, say) must not become one: it would
    /// hide its position from attention or end a segment, so it counts as an unknown word.
    fn find_candidates(&mut self, ids: &mut [u32], texts: [TextOfRow<'_>; 2]) {
        let Specials { pad, unknown, separator, classify, mask } = self.specials;
        self.masked.clear();
        self.numbers.extend(self.numbers.len() as u32..ids.len() as u32);
        if let Some(words) = &mut self.words {
            words.clear();
        }
        for (places, begins) in texts {
            if self.words.is_none() && lowest(&ids[places.clone()]) > self.highest_special {
                // Copied, which takes several at a time; counting up takes one.
                self.masked.extend_from_slice(&self.numbers[places]);
                continue;
            }
            if let Some(words) = &mut self.words {
                words.end_run();
            }
            for (at, position) in places.enumerate() {
                let id = &mut ids[position];
                let mut candidate = true;
                if *id <= self.highest_special && [pad, unknown, separator, classify, mask].contains(id) {
                    *id = unknown;
                    candidate = self.config.predict_unknown;
                }
                if candidate {
                    self.masked.push(position as u32);
                }
                if let Some(words) = &mut self.words {
                    words.add(begins[at], candidate);
                }
            }
        }
    }

    /// Leaves in `masked` those that are chosen.
    fn choose(&mut self, rng: &mut SampleRng) {
        let rate = self.config.mask_rate;
        let budget = mask::exact_count(rate, self.masked.len());
        match (&mut self.words, self.config.mask_count) {
            (None, MaskCount::Exact) => mask::choose_exact(&mut self.masked, budget, rng),
            (None, MaskCount::Bernoulli) => mask::choose_bernoulli(&mut self.masked, rate, rng),
            (Some(words), MaskCount::Exact) => words.choose_exact(budget, rng),
            (Some(words), MaskCount::Bernoulli) => words.choose_bernoulli(rate, rng),
        }
        if let Some(words) = &mut self.words {
            words.leave_chosen(&mut self.masked);
        }
    }

    /// Replaces the chosen tokens, and keeps what they were.
    fn corrupt(&mut self, ids: &mut [u32], rng: &mut SampleRng) {
        let SampleConfig { mask_unit, mask_share, random_share, .. } = *self.config;
        self.labels.clear();
        self.labels.extend(self.masked.iter().map(|&position| ids[position as usize]));
        self.corruptions.clear();
        let mut corruption = Corruption::Keep;
        for (i, &position) in self.masked.iter().enumerate() {
            // One fate for all tokens of a span (Joshi et al. 2020, section 3.1), else one for each token.
            let fate_goes_on = match &self.words {
                Some(words) if mask_unit == MaskUnit::Span => !words.opens(i),
                _ => false,
            };
            if !fate_goes_on {
                corruption = mask::corruption(rng.unit(), mask_share, random_share);
            }
            self.corruptions.push(corruption);
            let id = &mut ids[position as usize];
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

/// The lowest id, of none the highest there is.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
fn lowest(ids: &[u32]) -> u32 {
    ids.iter().fold(u32::MAX, |lowest, &id| lowest.min(id))
}
