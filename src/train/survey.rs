//! What the beginning of a run's data tells about all of it: how many samples and batches an epoch has, how
//! long samples are, and how often each token comes.
//!
//! Takes a pipeline, gives counts and estimates, the same for any number of workers. It also proves, before
//! anything is written, that samples can be made of the corpus at all.

use super::steps::Epoch;
use crate::collate::{self, CollateConfig, HostBatch};
use crate::pipeline::Plan;
use crate::sample::{Cursor, positions};
use crate::{Error, Result};

/// Tokens looked at for lengths and counts of samples.
const ENOUGH: u64 = 1 << 16;

/// Tokens looked at where the frequencies of the tokens are wanted too: a thousand of each of a thousand
/// tokens, if all were equally frequent.
const ENOUGH_FOR_COUNTS: u64 = 1 << 20;

/// Samples of the batch that is tried.
const FEW: usize = 8;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    pub epoch: Epoch,
    /// Special tokens included.
    pub tokens_per_sample: f64,
    /// Of a full batch.
    pub tokens_per_batch: f64,
    /// A few samples of the beginning as a batch, to try how long a step takes.
    pub trial: HostBatch,
    /// How often each id came, in id order; special tokens that stand around a text are left out. `None` where
    /// the vocabulary brings its own counts.
    pub token_counts: Option<Vec<u64>>,
}

impl Survey {
    /// Looks at the first samples of an epoch, or all of a small one.
    ///
    /// # Errors
    /// Those of the pipeline; [`crate::ErrorKind::Data`] where the corpus gives no sample.
    pub fn of(plan: Plan<'_>, collate: &CollateConfig) -> Result<Self> {
        let tokenizer = plan.tokenizer;
        let mut counts = tokenizer.counts().is_none().then(|| vec![0; tokenizer.len()]);
        let enough = if counts.is_some() { ENOUGH_FOR_COUNTS } else { ENOUGH };
        let mut collator = collate::collator(collate)?;
        let mut few =
            collate::collator(&CollateConfig { batch_size: collate.batch_size.min(FEW), ..collate.clone() })?;
        let mut trial = None;
        let mut seen = Seen::default();
        let whole = plan.samples(Cursor::default(), 1, |parts| {
            for part in parts {
                for sample in part?.iter() {
                    seen.samples += 1;
                    seen.tokens += sample.ids.len() as u64;
                    seen.last = sample.origin.cursor;
                    counts.iter_mut().for_each(|counts| sample.count_tokens(counts));
                    if trial.is_none() {
                        trial = few.push(sample)?;
                    }
                    seen.batches += u64::from(collator.push(sample)?.is_some());
                }
                if seen.tokens >= enough {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        if seen.samples == 0 {
            return Err(Error::data(format!(
                "corpus {}: no sample can be made of it; `bertstream corpus --check` tells why",
                plan.corpus.path().display()
            )));
        }
        seen.batches += u64::from(collator.finish().is_some());
        if let Some(counts) = &mut counts {
            let specials = tokenizer.specials();
            for id in [specials.pad, specials.classify, specials.separator, specials.mask] {
                counts[id as usize] = 0;
            }
        }
        let tokens_per_sample = seen.tokens as f64 / seen.samples as f64;
        Ok(Self {
            epoch: seen.epoch(whole, plan),
            tokens_per_sample,
            trial: trial.or_else(|| few.finish()).unwrap_or_default(),
            tokens_per_batch: tokens_per_sample * seen.samples as f64 / seen.batches as f64,
            token_counts: counts,
        })
    }
}

/// Sums over what was looked at.
#[derive(Default)]
struct Seen {
    samples: u64,
    tokens: u64,
    batches: u64,
    last: Cursor,
}

impl Seen {
    /// What a whole epoch has, of which this is the beginning or all.
    fn epoch(&self, whole: bool, plan: Plan<'_>) -> Epoch {
        if whole {
            return Epoch { samples: self.samples, batches: self.batches, exact: true };
        }
        let positions = positions(plan.corpus);
        // A window is built as a whole, and its samples are numbered from its first position.
        let passed = positions.min(self.last.position + plan.sample.window_for(plan.corpus));
        let share = positions as f64 / passed as f64;
        let scaled = |n: u64| (n as f64 * share).round() as u64;
        Epoch { samples: scaled(self.samples), batches: scaled(self.batches), exact: false }
    }
}
