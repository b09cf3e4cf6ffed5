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
    /// Stretches of consecutive predicted words.
    pub runs: u64,
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
        let go_on = sample.masked.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        self.runs += (sample.masked.len() - go_on) as u64;
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

    /// Mean length of a stretch of consecutive predicted words.
    pub fn mean_run(&self) -> f64 {
        ratio(self.predicted(), self.runs)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Origin;

    #[test]
    fn a_sample_is_counted_by_its_true_words() {
        let specials = Specials { pad: 0, unknown: 1, separator: 2, classify: 3, mask: 4 };
        let sample = Sample {
            // [CLS] [MASK:<unk>] [9<-8] <unk> [SEP] (7) [SEP]
            ids: &[3, 4, 9, 1, 2, 7, 2],
            segments: &[1, 1, 1, 1, 1, 2, 2],
            masked: &[1, 2, 5],
            labels: &[1, 8, 7],
            corruptions: &[Corruption::Mask, Corruption::Random, Corruption::Keep],
            pair: PairLabel::NotNext,
            origin: Origin::default(),
        };
        let mut tally = Tally::default();
        assert_eq!((tally.unknown_rate(), tally.next_rate()), (0.0, None));
        tally.add(&sample, &specials);
        tally.add(&Sample { pair: PairLabel::IsNext, ..sample }, &specials);
        assert_eq!((tally.samples, tally.tokens, tally.words, tally.unknown), (2, 14, 8, 4));
        assert_eq!((tally.predicted(), tally.predicted_rate()), (6, 0.75));
        assert_eq!((tally.runs, tally.mean_run()), (4, 1.5));
        assert_eq!((tally.split(), tally.next_rate()), ([1.0 / 3.0; 3], Some(0.5)));
    }
}
