//! What a run was shown, for the page's browser and its statistics: samples of some steps with their masks and with
//! what the model makes of them now, and counts over the beginning of the corpus.

use serde::Serialize;

use super::super::fill_mask::best;
use super::super::sample::heading;
use crate::collate::{CollateConfig, Collator, HostBatch, Padded};
use crate::corpus::Corpus;
use crate::model::Engine;
use crate::pipeline::Plan;
use crate::sample::{Corruption, Cursor, PairLabel, SEGMENT_B, Tally};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// Guesses that are shown at a predicted position.
const GUESSES: usize = 5;

/// Samples that the statistics are counted over: rates to half a percent, within a second.
const COUNTED: u64 = 4096;

/// Ranges of lengths that are counted.
const BARS: usize = 24;

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

fn spelled(tokenizer: &dyn Tokenizer, id: u32) -> String {
    tokenizer.token(id).map_or_else(|| format!("<{id}>"), str::to_owned)
}

/// Counts over the first samples of a run.
#[derive(Debug, Serialize)]
pub struct Statistics {
    #[serde(flatten)]
    pub tally: Tally,
    /// Whether these are all samples of an epoch.
    pub whole: bool,
    /// Samples by length: the shortest of each range and how many; ranges are equally wide.
    pub lengths: Vec<(usize, u64)>,
    /// Share of padding in rows as long as the longest sample of their batch, and in rows of full length.
    pub padding_longest: f64,
    pub padding_fixed: f64,
    /// Different tokens that came, of so many that can.
    pub distinct: usize,
    pub vocabulary: usize,
    /// Tokens that came most often, special ones apart, with their counts.
    pub frequent: Vec<(String, u64)>,
    /// How often the tokens came, most frequent first: the counts at ranks 1, 2, 4, 8, ...
    pub ranks: Vec<(usize, u64)>,
}

/// Counts over the first samples of `plan`.
pub fn statistics(plan: Plan<'_>, collate: &CollateConfig) -> Result<Statistics> {
    let Plan { tokenizer, sample, .. } = plan;
    let specials = tokenizer.specials();
    let bar = sample.seq_len.div_ceil(BARS).max(1);
    let mut tally = Tally::default();
    let mut lengths = vec![0; sample.seq_len / bar + 1];
    let mut counts = vec![0; tokenizer.len()];
    let (mut cells, mut longest, mut rows) = (0, 0, 0);
    let whole = plan.samples(Cursor::default(), 1, |parts| {
        for part in parts {
            for sample in part?.iter() {
                if tally.samples == COUNTED {
                    return Ok(false);
                }
                tally.add(&sample, &specials);
                lengths[sample.ids.len() / bar] += 1;
                sample.count_tokens(&mut counts);
                (longest, rows) = (longest.max(sample.ids.len()), rows + 1);
                if rows == collate.batch_size {
                    cells += rows * longest;
                    (longest, rows) = (0, 0);
                }
            }
        }
        Ok(true)
    })?;
    cells += rows * longest;
    let padding = |cells: usize| 1.0 - tally.tokens as f64 / (cells as f64).max(1.0);
    let ordinary: Vec<u32> = (0..tokenizer.ordinary_len()).map(|k| tokenizer.ordinary(k)).collect();
    let mut ranked: Vec<(u32, u64)> = ordinary.iter().map(|&id| (id, counts[id as usize])).collect();
    ranked.retain(|&(_, count)| count > 0);
    ranked.sort_by_key(|&(id, count)| (std::cmp::Reverse(count), id));
    let ranks = (0..).map(|power| 1usize << power).take_while(|&rank| rank <= ranked.len());
    Ok(Statistics {
        tally,
        whole,
        lengths: lengths.into_iter().enumerate().map(|(i, count)| (i * bar, count)).collect(),
        padding_longest: padding(cells),
        padding_fixed: padding(tally.samples as usize * sample.seq_len),
        distinct: ranked.len(),
        vocabulary: ordinary.len(),
        frequent: ranked.iter().take(20).map(|&(id, count)| (spelled(tokenizer, id), count)).collect(),
        ranks: ranks.map(|rank| (rank, ranked[rank - 1].1)).collect(),
    })
}
