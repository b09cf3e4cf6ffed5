//! What a run was shown, for the page's browser: samples of some steps with their masks, and what the model makes of
//! them now.

use serde::Serialize;

use super::super::fill_mask::best;
use super::super::sample::heading;
use super::super::statistics::spelled;
use crate::collate::{CollateConfig, Collator, HostBatch, Padded};
use crate::corpus::Corpus;
use crate::model::Engine;
use crate::sample::{Corruption, PairLabel, SEGMENT_B};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// Guesses that are shown at a predicted position.
const GUESSES: usize = 5;

/// The samples of a step.
#[derive(Debug, Serialize)]
pub struct Step {
    pub step: u64,
    pub shown: Vec<Shown>,
    /// How many the step had.
    pub of: usize,
}

/// A sample, spelled.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What the model sees.
    pub tokens: Vec<String>,
    /// Where the second segment begins; as many as there are tokens where there is none.
    pub second: usize,
    pub predicted: Vec<Predicted>,
    pub pair: PairLabel,
    /// Probability that the model gives to "is next"; `None` where there is no pair.
    pub is_next: Option<f32>,
    /// Where it came from.
    pub place: String,
}

/// A position that is predicted.
#[derive(Debug, Serialize)]
pub struct Predicted {
    pub at: usize,
    pub truth: String,
    pub corruption: Corruption,
    /// What the model gives to the truth.
    pub probability: f32,
    /// The most probable tokens, best first.
    pub guesses: Vec<(String, f32)>,
}

/// The first `most` samples of a step's batches, and what `engine` makes of them.
pub fn step(
    step: u64,
    batches: &[HostBatch],
    most: usize,
    (corpus, tokenizer): (&dyn Corpus, &dyn Tokenizer),
    engine: &mut dyn Engine,
    collate: &CollateConfig,
) -> Result<Step> {
    let of = batches.iter().map(HostBatch::samples).sum();
    let mut shown = Vec::new();
    if let Some(batch) = first(batches, most, collate)? {
        let predictions = engine.predict(&batch)?;
        let width = predictions.mlm.len() / batch.masked.len().max(1);
        for i in 0..batch.samples() {
            let (ids, segments) = batch.sample(i);
            let distributions = batch.predicted(i).map(|k| &predictions.mlm[k * width..(k + 1) * width]);
            let predicted =
                batch.predictions(i).zip(distributions).map(|((at, label, corruption), among)| {
                    let guess = |(id, log): (u32, f32)| (spelled(tokenizer, id), log.exp());
                    Predicted {
                        at,
                        truth: spelled(tokenizer, label),
                        corruption,
                        probability: among.get(label as usize).map_or(0.0, |log| log.exp()),
                        guesses: best(among, GUESSES).into_iter().map(guess).collect(),
                    }
                });
            let (pair, origin) = (batch.pairs[i], &batch.origins[i]);
            shown.push(Shown {
                tokens: ids.iter().map(|&id| spelled(tokenizer, id)).collect(),
                second: segments.iter().position(|&s| s == SEGMENT_B).unwrap_or(ids.len()),
                predicted: predicted.collect(),
                pair,
                is_next: (pair != PairLabel::None).then(|| predictions.nsp[2 * i + 1].exp()),
                place: format!(
                    "{}: {}",
                    corpus.file(origin.document_a).display(),
                    heading(origin, pair, corpus.shape())
                ),
            });
        }
    }
    Ok(Step { step, shown, of })
}

/// The first `most` samples as one batch, a sample a row.
fn first(batches: &[HostBatch], most: usize, collate: &CollateConfig) -> Result<Option<HostBatch>> {
    let samples = batches.iter().flat_map(|batch| (0..batch.samples()).map(move |i| (batch, i)));
    let mut rows = Padded::longest(&CollateConfig { batch_size: most.max(1), ..collate.clone() });
    for (batch, i) in samples.take(most) {
        let places = batch.places(i);
        if rows.push(batch.as_sample(i, &places))?.is_some() {
            return Err(Error::internal("report: a batch was full before its last sample"));
        }
    }
    Ok(rows.finish())
}
