//! What a stream of samples looks like in numbers: counts that add up, and the rates that follow.

use serde::Serialize;

use super::{Corruption, PairLabel, Sample};
use crate::vocab::Specials;

/// Counts over samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub samples: u64,
    /// Tokens, special ones included.
    pub tokens: u64,
    /// Tokens of the text: classification token and separators excluded.
    pub words: u64,
    /// Words outside the vocabulary, hidden ones included.
    pub unknown: u64,
    /// Predicted words by what stands in their place.
    pub masked: u64,
    pub randomised: u64,
    pub kept: u64,
    /// Samples whose second segment is the true one, and another one; neither without a pair task.
    pub next: u64,
    pub not_next: u64,
}

impl Tally {
    /// Counts a sample.
    pub fn add(&mut self, sample: &Sample<'_>, specials: &Specials) {
        let around = |id: u32| id == specials.classify || id == specials.separator;
        self.samples += 1;
        self.tokens += sample.ids.len() as u64;
        let mut predicted = sample.masked.iter().zip(sample.labels).peekable();
        for (position, &id) in sample.ids.iter().enumerate() {
            let hidden = predicted.next_if(|&(&at, _)| at as usize == position);
            let truth = hidden.map_or(id, |(_, &label)| label);
            self.words += u64::from(!around(truth));
            self.unknown += u64::from(truth == specials.unknown);
        }
        for corruption in sample.corruptions {
            match corruption {
                Corruption::Mask => self.masked += 1,
                Corruption::Random => self.randomised += 1,
                Corruption::Keep => self.kept += 1,
            }
        }
        match sample.pair {
            PairLabel::IsNext => self.next += 1,
            PairLabel::NotNext => self.not_next += 1,
            PairLabel::None => {}
        }
    }

    /// Words that are predicted.
    pub fn predicted(&self) -> u64 {
        self.masked + self.randomised + self.kept
    }

    /// Share of the words outside the vocabulary.
    pub fn unknown_rate(&self) -> f64 {
        ratio(self.unknown, self.words)
    }

    /// Share of the words that are predicted.
    pub fn predicted_rate(&self) -> f64 {
        ratio(self.predicted(), self.words)
    }

    /// Of the predicted words, the shares that are masked, replaced and kept.
    pub fn split(&self) -> [f64; 3] {
        [self.masked, self.randomised, self.kept].map(|count| ratio(count, self.predicted()))
    }

    /// Share of true pairs; `None` without a pair task.
    pub fn next_rate(&self) -> Option<f64> {
        let pairs = self.next + self.not_next;
        (pairs > 0).then(|| ratio(self.next, pairs))
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
