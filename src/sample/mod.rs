//! Stage 2: documents to training samples, as a pure function of (seed, epoch, document).
//!
//! Takes a [`Corpus`] and a [`Tokenizer`], gives [`Samples`]: pairs of segments with masked tokens. Knows
//! nothing of batches, threads or tensors. How a document is cut into segments ([`Shape`] decides), what the
//! pair task makes of two of them, and which of their tokens are masked are separate files.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::corpus::{Corpus, Shape, mean_bytes};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

mod blocks;
mod encoded;
mod fill;
mod given;
mod halves;
pub mod mask;
mod masker;
mod nsp;
mod order;
mod pair;
mod quality;
mod row;
mod short;
mod show;
mod sop;
mod stored;
mod tally;
mod texts;
pub mod truncate;
mod walk;
mod window;
mod words;

pub use blocks::documents_of_block;
use fill::Fill;
use given::Given;
use halves::Halves;
pub use masker::Masker;
pub use order::EpochOrder;
pub use quality::shuffle_quality;
pub use show::{Paint, show};
pub use tally::Tally;
use walk::Walk;
use window::Window;

/// A run of consecutive positions in the order of one epoch: what one worker takes at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Positions in the epoch's order (not document numbers: the order maps them).
    pub positions: std::ops::Range<u64>,
}

/// Where a stream of samples stands: the next sample is part `part` of position `position`. Where a window of
/// positions is shuffled, all its samples are parts of its first one.
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

/// Whether the second segment really follows the first. The reference's polarity: 1 = is next. For sentence
/// order 1 = in order, 0 = swapped.
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

impl Sample<'_> {
    /// Adds each of its true tokens to `counts`, by id.
    pub fn count_tokens(&self, counts: &mut [u64]) {
        self.ids.iter().for_each(|&id| counts[id as usize] += 1);
        for (&at, &label) in self.masked.iter().zip(self.labels) {
            counts[self.ids[at as usize] as usize] -= 1;
            counts[label as usize] += 1;
        }
    }
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

    /// Leaves no sample, and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.segments.clear();
        self.masked.clear();
        self.labels.clear();
        self.corruptions.clear();
        self.rows.clear();
        self.skipped = 0;
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
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Sample<'_>> + DoubleEndedIterator {
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

impl<B: SampleBuilder + ?Sized> SampleBuilder for Box<B> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        (**self).build(unit, out)
    }
}

/// Which pair task samples carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PairTask {
    /// Next-sentence prediction (Devlin et al. 2018, section 3.1).
    #[default]
    Nsp,
    /// Sentence order (Lan et al. 2020, section 3.1): two consecutive segments, in their order or swapped.
    Sop,
    /// No pair task: the document's own sentences, no label. Of documents one segment is filled.
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

/// What is masked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MaskUnit {
    /// Single tokens.
    #[default]
    Token,
    /// All tokens of a word (Google's whole-word masking).
    Word,
    /// One to three consecutive words, shorter ones more often (Lan et al. 2020, section 3.1).
    Ngram,
    /// One to ten consecutive words, 3.8 on average, replaced as one (Joshi et al. 2020, section 3.1).
    Span,
}

impl MaskUnit {
    /// Whether it takes a tokenizer that tells words apart.
    pub fn needs_words(self) -> bool {
        self != Self::Token
    }

    /// The name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Word => "word",
            Self::Ngram => "ngram",
            Self::Span => "span",
        }
    }
}

/// The order of documents within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shuffle {
    /// `keyed` up to 8 GiB of text, `blocks` beyond.
    #[default]
    Auto,
    /// A permutation keyed by seed and epoch, in constant memory.
    Keyed,
    /// Blocks of some 1 MiB of text permuted, and the documents of 32 blocks at a time; negatives come from the
    /// same block. For corpora larger than memory: the disk is read in stretches, ahead of time.
    Blocks,
    /// The order of the corpus, the same every epoch: what the reference does.
    None,
}

impl Shuffle {
    /// Text from which on a corpus is taken to be larger than memory, whatever the memory of the machine: the order
    /// is the same on all.
    const LARGE: u64 = 8 << 30;

    /// The order of this corpus.
    pub fn for_corpus(self, corpus: &dyn Corpus) -> Self {
        match self {
            Self::Auto if corpus.bytes() > Self::LARGE => Self::Blocks,
            Self::Auto => Self::Keyed,
            asked => asked,
        }
    }
}

/// Everything that decides what the samples of a corpus are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleConfig {
    /// Key of all randomness.
    pub seed: u64,
    /// What becomes of it: [`SampleConfig::DRAWS`] of the version that made this.
    #[serde(default = "first_draws", skip_serializing_if = "are_first_draws")]
    pub draws: u32,
    /// Longest sample in tokens, special tokens included.
    pub seq_len: usize,
    pub pair: PairTask,
    /// Probability that a pair is a true one, or in order.
    pub next_rate: f64,
    /// Probability that a sample filled from a document aims at a random shorter length.
    #[serde(default = "short_rate")]
    pub short_rate: f64,
    pub truncate: Truncate,
    pub shuffle: Shuffle,
    /// Positions whose samples are shuffled together, so that those of one document do not stand next to each
    /// other; 0 goes by the corpus. See [`SampleConfig::for_corpus`].
    #[serde(default = "no_window")]
    pub window: u64,
    /// Share of the ordinary tokens that are predicted.
    pub mask_rate: f64,
    pub mask_count: MaskCount,
    #[serde(default)]
    pub mask_unit: MaskUnit,
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

/// The share of short samples in Google's code, and where a configuration is older than documents.
fn short_rate() -> f64 {
    0.1
}

/// The draws of configurations that do not say theirs.
fn first_draws() -> u32 {
    1
}

/// Whether nothing is said of them, so that a configuration of then is written as it was.
fn are_first_draws(draws: &u32) -> bool {
    *draws == first_draws()
}

/// The window of configurations that are older than windows.
fn no_window() -> u64 {
    1
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            draws: Self::DRAWS,
            seq_len: 128,
            pair: PairTask::Nsp,
            next_rate: 0.5,
            short_rate: short_rate(),
            truncate: Truncate::Longest,
            shuffle: Shuffle::Auto,
            window: 0,
            mask_rate: 0.15,
            mask_count: MaskCount::Exact,
            mask_unit: MaskUnit::Token,
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

    /// Counts the changes of what a seed gives. Samples of other draws than these cannot be made any more.
    pub const DRAWS: u32 = 2;

    /// Text of an automatic window, in bytes: long documents follow each other at a distance of hundreds of
    /// samples, while the samples of a window, which are in memory at once, take some 10 MB.
    const WINDOW_BYTES: u64 = 4 << 20;

    /// Most positions of an automatic window.
    const WIDEST_WINDOW: u64 = 4096;

    /// This configuration with nothing left to the corpus: what is stored beside a run.
    pub fn for_corpus(self, corpus: &dyn Corpus) -> Self {
        Self { window: self.window_for(corpus), shuffle: self.shuffle.for_corpus(corpus), ..self }
    }

    /// Positions of a window, at least 1: as asked for, else 1 where a document is one sample, and some text's
    /// worth where it is several. Without a shuffle nothing is shuffled.
    pub fn window_for(&self, corpus: &dyn Corpus) -> u64 {
        match (self.shuffle, self.window, corpus.shape()) {
            (Shuffle::None, ..) | (_, 0, Shape::Pairs | Shape::Samples) => 1,
            (_, 0, Shape::Documents) => {
                (Self::WINDOW_BYTES / mean_bytes(corpus)).clamp(1, Self::WIDEST_WINDOW)
            }
            (_, asked, _) => asked,
        }
    }

    /// Refuses what cannot be meant, before the first thread starts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] with the flag and its value, [`crate::ErrorKind::Mismatch`] for the configuration of
    /// a version whose seeds gave other samples.
    pub fn check(&self) -> Result<()> {
        if self.draws != Self::DRAWS {
            return Err(Error::mismatch(format!(
                "samples with draws {}: this program's seeds give those with draws {}; go on with the version that \
                 began the run, or begin another run",
                self.draws,
                Self::DRAWS
            )));
        }
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
            ("--short-seq-prob", self.short_rate),
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

/// Positions of an epoch: how many documents all sources together are asked for.
pub fn positions(corpus: &dyn Corpus) -> u64 {
    order::positions(&corpus.sources())
}

/// Whether anyone still waits for what is built: a unit of long documents may take seconds, which it need not where it
/// is for nobody.
pub type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// The builder that `config` asks for. Its units must begin at a multiple of [`SampleConfig::window_for`]. It fails between
/// two documents where what it builds is not `wanted`.
///
/// # Errors
/// [`crate::ErrorKind::Usage`] for a configuration that cannot be meant, or not with this corpus and
/// tokenizer; [`crate::ErrorKind::Data`] where the corpus can give no sample or no negative, or where the
/// vocabulary has nothing to draw random replacements from.
pub fn builder<'p>(
    corpus: &'p dyn Corpus,
    tokenizer: &'p dyn Tokenizer,
    config: &'p SampleConfig,
    wanted: Wanted,
) -> Result<Box<dyn SampleBuilder + 'p>> {
    match corpus.shape() {
        Shape::Pairs => {
            let cut = Halves::new(corpus, tokenizer, config)?;
            windowed(Walk::new(corpus, tokenizer, config, wanted, cut)?, config, corpus)
        }
        Shape::Documents => {
            let cut = Fill::new(corpus, tokenizer, config)?;
            windowed(Walk::new(corpus, tokenizer, config, wanted, cut)?, config, corpus)
        }
        Shape::Samples => windowed(Given::new(corpus, tokenizer, config)?, config, corpus),
    }
}

/// `inner`, behind a window where there is one.
fn windowed<'p>(
    inner: impl SampleBuilder + 'p,
    config: &'p SampleConfig,
    corpus: &'p dyn Corpus,
) -> Result<Box<dyn SampleBuilder + 'p>> {
    Ok(match config.window_for(corpus) {
        1 => Box::new(inner),
        width => Box::new(Window::new(inner, config, width)),
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
        check(|c| c.short_rate = 1.1, "--short-seq-prob 1.1");
        check(|c| c.random_share = 0.3, "--mask-share 0.8 and --random-share 0.3");
        assert!(SampleConfig::default().check().is_ok());
        assert!(SampleConfig::reference().check().is_ok());
    }

    #[test]
    fn configurations_from_before_documents_are_read() {
        let mut json = serde_json::to_value(SampleConfig::default()).unwrap();
        for field in ["short_rate", "window", "mask_unit"] {
            json.as_object_mut().unwrap().remove(field).unwrap();
        }
        let read: SampleConfig = serde_json::from_value(json).unwrap();
        assert_eq!(read, SampleConfig { window: 1, ..SampleConfig::default() });
    }

    #[test]
    fn samples_of_other_draws_are_refused() {
        let mut json = serde_json::to_value(SampleConfig::default()).unwrap();
        json.as_object_mut().unwrap().remove("draws").unwrap();
        let read: SampleConfig = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), json, "its fingerprint is what it was");
        let error = read.check().unwrap_err();
        assert_eq!((read.draws, error.kind()), (1, crate::ErrorKind::Mismatch), "{error}");
        assert!(error.to_string().contains("draws 1"), "{error}");
    }
}
