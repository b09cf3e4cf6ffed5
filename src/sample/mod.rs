//! Stage 2: documents to training samples, as a pure function of (seed, epoch, document).
//!
//! Takes a [`Corpus`] and a [`Tokenizer`], gives [`Samples`]: pairs of segments with masked tokens. Knows nothing of batches, threads or tensors.

use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::vocab::Tokenizer;
use crate::{Error, Result};

pub mod mask;
mod nsp;
mod order;
pub mod pair;
mod plain;
mod row;
mod show;
mod tally;
pub mod truncate;

pub use nsp::NspBuilder;
pub use order::Order;
pub use plain::PlainBuilder;
pub use show::{Paint, show};
pub use tally::Tally;

/// A run of consecutive positions in the order of one epoch: what one worker takes at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Positions in the epoch's order (not document numbers: the order maps them).
    pub positions: std::ops::Range<u64>,
}

/// Where a stream of samples stands: the next sample is part `part` of position `position`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    pub position: u64,
    pub part: u32,
}

/// Where one sample came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The sample's own place in the stream.
    pub cursor: Cursor,
    /// Document of the first segment, and 1-based line where the segment begins.
    pub document_a: u64,
    pub line_a: u64,
    /// Document of the second segment, and 1-based line where the segment begins.
    pub document_b: u64,
    pub line_b: u64,
}

/// What was done to a masked position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Corruption {
    /// Replaced by the mask token.
    Mask,
    /// Replaced by a random ordinary token.
    Random,
    /// Left as it was, though predicted.
    Keep,
}

/// Whether the second segment really follows the first. The reference's polarity: 1 = is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum PairLabel {
    NotNext = 0,
    IsNext = 1,
    /// There is no pair task for this sample.
    None = 2,
}

/// Segment numbers as the reference has them.
pub const SEGMENT_PAD: u8 = 0;
pub const SEGMENT_A: u8 = 1;
pub const SEGMENT_B: u8 = 2;

/// One sample, borrowed from its [`Samples`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'s> {
    /// Token ids with classification and separator tokens, corrupted as `corruptions` says.
    pub ids: &'s [u32],
    /// [`SEGMENT_A`] or [`SEGMENT_B`] for each of `ids`.
    pub segments: &'s [u8],
    /// Positions in `ids` to be predicted, ascending.
    pub masked: &'s [u32],
    /// The true ids at `masked`.
    pub labels: &'s [u32],
    /// What stands at `masked` instead.
    pub corruptions: &'s [Corruption],
    pub pair: PairLabel,
    pub origin: Origin,
}

/// Samples of one unit, as columns: one allocation each for all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    ids: Vec<u32>,
    segments: Vec<u8>,
    masked: Vec<u32>,
    labels: Vec<u32>,
    corruptions: Vec<Corruption>,
    rows: Vec<Row>,
    /// Documents that were malformed and left out by the policy of the run.
    pub skipped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    ids_end: usize,
    masked_end: usize,
    pair: PairLabel,
    origin: Origin,
}

impl Samples {
    /// Appends a sample. Columns of one sample must agree in length as [`Sample`] says.
    pub fn push(&mut self, sample: Sample<'_>) {
        debug_assert_eq!(sample.ids.len(), sample.segments.len());
        debug_assert_eq!(sample.masked.len(), sample.labels.len());
        debug_assert_eq!(sample.masked.len(), sample.corruptions.len());
        self.ids.extend_from_slice(sample.ids);
        self.segments.extend_from_slice(sample.segments);
        self.masked.extend_from_slice(sample.masked);
        self.labels.extend_from_slice(sample.labels);
        self.corruptions.extend_from_slice(sample.corruptions);
        self.rows.push(Row {
            ids_end: self.ids.len(),
            masked_end: self.masked.len(),
            pair: sample.pair,
            origin: sample.origin,
        });
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sample `i < len()`.
    pub fn get(&self, i: usize) -> Sample<'_> {
        let (from, masked_from) = match i {
            0 => (0, 0),
            _ => (self.rows[i - 1].ids_end, self.rows[i - 1].masked_end),
        };
        let row = self.rows[i];
        Sample {
            ids: &self.ids[from..row.ids_end],
            segments: &self.segments[from..row.ids_end],
            masked: &self.masked[masked_from..row.masked_end],
            labels: &self.labels[masked_from..row.masked_end],
            corruptions: &self.corruptions[masked_from..row.masked_end],
            pair: row.pair,
            origin: row.origin,
        }
    }

    /// All samples in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// Units to samples. `&mut self` is scratch only: the output depends on the unit and on what the
/// builder was made with (corpus, tokenizer, configuration, seed), never on earlier calls.
pub trait SampleBuilder: Send {
    /// Appends the samples of `unit` to `out`, in the unit's order.
    ///
    /// # Errors
    /// Those of [`Corpus::document`], and [`crate::ErrorKind::Data`] where the corpus cannot give a negative.
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()>;
}

/// Which pair task samples carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PairTask {
    /// Next-sentence prediction (Devlin et al. 2018, section 3.1).
    #[default]
    Nsp,
    /// No pair task: the document's own sentences, no label.
    None,
}

/// How a pair is cut to the maximal length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    /// The longer segment loses its last token until the pair fits with all its separators.
    #[default]
    Longest,
    /// The finished row is cut at its end, final separator included: what the reference does.
    Cut,
}

/// How many tokens of a sample are masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MaskCount {
    /// The rate times the candidates, rounded, at least one (Google's released code).
    #[default]
    Exact,
    /// Each candidate by a coin of its own; a short sample may stay without any: what the reference does.
    Bernoulli,
}

/// The order of documents within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shuffle {
    /// A permutation keyed by seed and epoch, in constant memory.
    #[default]
    Keyed,
    /// The order of the corpus, the same every epoch: what the reference does.
    None,
}

/// Everything that decides what the samples of a corpus are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleConfig {
    /// Key of all randomness.
    pub seed: u64,
    /// Longest sample in tokens, special tokens included.
    pub seq_len: usize,
    pub pair: PairTask,
    /// Probability that a pair is a true one.
    pub next_rate: f64,
    pub truncate: Truncate,
    pub shuffle: Shuffle,
    /// Share of the ordinary tokens that are predicted.
    pub mask_rate: f64,
    pub mask_count: MaskCount,
    /// Of the predicted tokens, the share replaced by the mask token.
    pub mask_share: f64,
    /// Of the predicted tokens, the share replaced by a random ordinary token; the rest is kept.
    pub random_share: f64,
    /// Whether words outside the vocabulary may be chosen for prediction (their label is the unknown
    /// token): what the reference does.
    pub predict_unknown: bool,
    /// Whether malformed documents are left out and counted, or end the run.
    pub skip_bad_lines: bool,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            seq_len: 128,
            pair: PairTask::Nsp,
            next_rate: 0.5,
            truncate: Truncate::Longest,
            shuffle: Shuffle::Keyed,
            mask_rate: 0.15,
            mask_count: MaskCount::Exact,
            mask_share: 0.8,
            random_share: 0.1,
            predict_unknown: false,
            skip_bad_lines: false,
        }
    }
}

impl SampleConfig {
    /// What the reference does wherever it does something else on purpose.
    pub fn reference() -> Self {
        Self {
            seq_len: 20,
            truncate: Truncate::Cut,
            shuffle: Shuffle::None,
            mask_count: MaskCount::Bernoulli,
            predict_unknown: true,
            ..Self::default()
        }
    }
}

impl SampleConfig {
    /// Shortest row that holds its three special tokens and a word of each side.
    const SHORTEST: usize = 5;

    /// Refuses what cannot be meant, before the first thread starts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] with the flag and its value.
    pub fn check(&self) -> Result<()> {
        if self.seq_len < Self::SHORTEST {
            return Err(Error::usage(format!(
                "--seq-len {}: three special tokens and a word of each sentence need at least {}",
                self.seq_len,
                Self::SHORTEST
            )));
        }
        if u32::try_from(self.seq_len).is_err() {
            return Err(Error::usage(format!("--seq-len {}: at most {}", self.seq_len, u32::MAX)));
        }
        for (flag, value) in [
            ("--next-rate", self.next_rate),
            ("--mask-rate", self.mask_rate),
            ("--mask-share", self.mask_share),
            ("--random-share", self.random_share),
        ] {
            // Not a number lies in no range, and is refused as well.
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::usage(format!("{flag} {value}: must lie between 0 and 1")));
            }
        }
        // Shares written in decimals may exceed 1 by their rounding.
        if self.mask_share + self.random_share > 1.0 + 1e-9 {
            return Err(Error::usage(format!(
                "--mask-share {} and --random-share {} together exceed 1: they are parts of one whole",
                self.mask_share, self.random_share
            )));
        }
        Ok(())
    }
}

/// The builder that `config` asks for.
///
/// # Errors
/// Those of the builders' constructors.
pub fn builder<'p>(
    corpus: &'p dyn Corpus,
    tokenizer: &'p dyn Tokenizer,
    config: &'p SampleConfig,
) -> Result<Box<dyn SampleBuilder + 'p>> {
    Ok(match config.pair {
        PairTask::Nsp => Box::new(NspBuilder::new(corpus, tokenizer, config)?),
        PairTask::None => Box::new(PlainBuilder::new(corpus, tokenizer, config)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_by_name_and_value() {
        let check = |change: fn(&mut SampleConfig), expected: &str| {
            let mut config = SampleConfig::default();
            change(&mut config);
            let error = config.check().expect_err(expected);
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(|c| c.seq_len = 4, "--seq-len 4");
        check(|c| c.mask_rate = 1.5, "--mask-rate 1.5");
        check(|c| c.mask_rate = f64::NAN, "--mask-rate NaN");
        check(|c| c.next_rate = -0.1, "--next-rate -0.1");
        check(|c| c.random_share = 0.3, "--mask-share 0.8 and --random-share 0.3");
        assert!(SampleConfig::default().check().is_ok());
        assert!(SampleConfig::reference().check().is_ok());
    }
}
