//! What guessing without reading would reach: the figures beside which a model's own mean something.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::collate::HostBatch;
use crate::sample::PairLabel;
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result, durable};

/// The guess by frequency: every masked token is predicted from the counts of the vocabulary.
#[derive(Clone, Debug)]
pub struct Unigram {
    /// Negative log-probability of each id, in nats.
    cost: Vec<f64>,
    most_frequent: u32,
}

/// Sums over the labels of batches, so that they add up; the means are methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guesses {
    pub unigram_loss_sum: f64,
    /// Labels that are the most frequent token.
    pub majority_correct: u64,
    pub masked: u64,
    pub is_next: u64,
    pub pairs: u64,
}

impl Unigram {
    /// From how often each id comes: the vocabulary's own counts or, where its file has none, `counted` by
    /// the run; `None` where nobody counted. The distribution covers what can be a label: ordinary tokens, and
    /// the unknown token where that may be predicted. Each count is raised by one, so that a word of an
    /// extended vocabulary does not cost infinitely much.
    pub fn new(tokenizer: &dyn Tokenizer, counted: Option<&[u64]>, predict_unknown: bool) -> Option<Self> {
        let counts = tokenizer.counts().or(counted)?;
        let unknown = predict_unknown.then(|| tokenizer.specials().unknown);
        let candidates = || (0..tokenizer.ordinary_len()).map(|k| tokenizer.ordinary(k)).chain(unknown);
        let count = |id: u32| counts.get(id as usize).copied().unwrap_or(0);
        let total: f64 = candidates().map(|id| count(id) as f64 + 1.0).sum();
        // Ties go to the smaller id, so that the figure does not depend on the iteration.
        let most_frequent = candidates().max_by_key(|&id| (count(id), std::cmp::Reverse(id)))?;
        let mut cost = vec![total.ln(); tokenizer.len()];
        for id in candidates() {
            cost[id as usize] = (total / (count(id) as f64 + 1.0)).ln();
        }
        Some(Self { cost, most_frequent })
    }
}

/// Most bytes of a file of counts: a million tokens with counts of sixteen digits.
const MOST_OF_COUNTS: u64 = 16 << 20;

/// Writes the counts of the tokens, in id order, as a JSON list.
pub fn write_counts(path: &Path, counts: &[u64]) -> Result<()> {
    let text = serde_json::to_vec(counts).expect("numbers always have a JSON form");
    durable::write_file(path, &text)
}

/// Reads what [`write_counts`] wrote; `None` where there is no such file.
///
/// # Errors
/// [`ErrorKind::Data`] where it is something else.
pub fn read_counts(path: &Path) -> Result<Option<Vec<u64>>> {
    match durable::read_at_most(path, MOST_OF_COUNTS) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::data(format!("token counts {}: malformed", path.display())).caused_by(e)),
        Err(error) if error.kind() == ErrorKind::MissingInput => Ok(None),
        Err(error) => Err(error),
    }
}

impl Guesses {
    /// What the guesses reach on one batch. Without a `unigram` only the pairs are counted.
    pub fn on(unigram: Option<&Unigram>, batch: &HostBatch) -> Self {
        let mut guesses = Self::default();
        if let Some(unigram) = unigram {
            guesses.masked = batch.labels.len() as u64;
            for &label in &batch.labels {
                guesses.unigram_loss_sum += unigram.cost[label as usize];
                guesses.majority_correct += u64::from(label == unigram.most_frequent);
            }
        }
        guesses.is_next = batch.pairs.iter().filter(|&&p| p == PairLabel::IsNext).count() as u64;
        guesses.pairs = labelled_pairs(batch) as u64;
        guesses
    }

    /// Adds the sums of another batch.
    pub fn add(&mut self, other: &Self) {
        self.unigram_loss_sum += other.unigram_loss_sum;
        self.majority_correct += other.majority_correct;
        self.masked += other.masked;
        self.is_next += other.is_next;
        self.pairs += other.pairs;
    }

    /// Mean loss (nats) of guessing by frequency; `None` without counts or masked tokens.
    pub fn unigram_loss(&self) -> Option<f64> {
        (self.masked > 0).then(|| self.unigram_loss_sum / self.masked as f64)
    }

    /// Accuracy of always guessing the most frequent token.
    pub fn majority_accuracy(&self) -> Option<f64> {
        (self.masked > 0).then(|| self.majority_correct as f64 / self.masked as f64)
    }

    /// Accuracy of always guessing the more frequent pair label.
    pub fn nsp_majority_accuracy(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.is_next.max(self.pairs - self.is_next) as f64 / self.pairs as f64)
    }

    /// Loss (nats) of guessing pairs by the share of their labels: ln 2 where that is a half.
    pub fn nsp_chance_loss(&self) -> Option<f64> {
        let share = self.is_next as f64 / self.pairs as f64;
        let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        (self.pairs > 0).then(|| term(share) + term(1.0 - share))
    }
}

/// Rows of a batch that have a pair label.
pub fn labelled_pairs(batch: &HostBatch) -> usize {
    batch.pairs.iter().filter(|&&p| p != PairLabel::None).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(labels: &[u32], pairs: &[PairLabel]) -> HostBatch {
        HostBatch { labels: labels.to_vec(), pairs: pairs.to_vec(), ..HostBatch::default() }
    }

    #[test]
    fn guessing_by_frequency_costs_the_cross_entropy_with_the_counts() {
        let unigram = Unigram { cost: vec![0.0, 2f64.ln(), 4f64.ln(), 4f64.ln()], most_frequent: 1 };
        let mut sum = Guesses::on(Some(&unigram), &batch(&[1, 1, 2], &[PairLabel::IsNext]));
        sum.add(&Guesses::on(Some(&unigram), &batch(&[3], &[PairLabel::NotNext, PairLabel::None])));
        assert!((sum.unigram_loss().unwrap() - 1.5 * 2f64.ln()).abs() < 1e-12);
        assert_eq!(sum.majority_accuracy(), Some(0.5));
        assert_eq!(sum.nsp_majority_accuracy(), Some(0.5));
        assert!((sum.nsp_chance_loss().unwrap() - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn counts_come_back_from_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token_counts.json");
        assert_eq!(read_counts(&path).unwrap(), None);
        write_counts(&path, &[0, 7, u64::MAX]).unwrap();
        assert_eq!(read_counts(&path).unwrap(), Some(vec![0, 7, u64::MAX]));
        std::fs::write(&path, "[-1]").unwrap();
        assert_eq!(read_counts(&path).unwrap_err().kind(), ErrorKind::Data);
    }

    #[test]
    fn nothing_to_guess_gives_no_figure() {
        let none = Guesses::on(None, &batch(&[1], &[]));
        assert_eq!((none.unigram_loss(), none.nsp_chance_loss()), (None, None));
        let one_sided = Guesses::on(None, &batch(&[], &[PairLabel::IsNext; 3]));
        assert_eq!(one_sided.nsp_majority_accuracy(), Some(1.0));
        assert_eq!(one_sided.nsp_chance_loss(), Some(0.0));
    }
}
