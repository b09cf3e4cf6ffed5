//! Measuring a model on batches that stay the same: dropout off, nothing learnt.

use super::baseline::{Guesses, Unigram};
use super::metrics::Figures;
use crate::Result;
use crate::collate::{CollateConfig, HostBatch};
use crate::flow::Wanted;
use crate::model::{Engine, Outcome};
use crate::pipeline::{Gauges, Plan};
use crate::sample::{Cursor, SampleConfig, Shuffle};

/// Seed of the masks and pairs of every evaluation, whatever the run's own: curves of different runs
/// then compare.
pub const EVALUATION_SEED: u64 = 0;

/// What one pass consumes.
pub type Batches<'b> = dyn Iterator<Item = Result<HostBatch>> + 'b;

/// Batches that can be gone through again from the start, the same every time.
pub trait BatchSource {
    /// Gives all of them, in order, to `consume`, which may stop early.
    fn pass(&self, consume: &mut dyn FnMut(&mut Batches<'_>) -> Result<()>) -> Result<()>;
}

impl BatchSource for Vec<HostBatch> {
    fn pass(&self, consume: &mut dyn FnMut(&mut Batches<'_>) -> Result<()>) -> Result<()> {
        consume(&mut self.iter().cloned().map(Ok))
    }
}

/// One epoch of a corpus through the pipeline.
#[derive(Clone)]
pub struct OneEpoch<'p> {
    pub plan: Plan<'p>,
    pub collate: &'p CollateConfig,
    /// A pass that is wanted no more ends with an error, which nobody sees who says so.
    pub until: Wanted,
}

impl BatchSource for OneEpoch<'_> {
    fn pass(&self, consume: &mut dyn FnMut(&mut Batches<'_>) -> Result<()>) -> Result<()> {
        let gauges = Gauges::until(self.until.clone());
        self.plan.gauged_batches(self.collate, Cursor::default(), 1, &gauges, |batches| consume(batches))
    }
}

/// The run's samples as evaluation sees them: in the corpus' order, under [`EVALUATION_SEED`], whatever version began
/// the run.
pub fn evaluation_samples(sample: &SampleConfig) -> SampleConfig {
    let draws = SampleConfig::DRAWS;
    SampleConfig { seed: EVALUATION_SEED, draws, shuffle: Shuffle::None, ..sample.clone() }
}

/// Sums over all batches of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    pub outcome: Outcome,
    pub guesses: Guesses,
}

impl Evaluation {
    /// The means.
    pub fn figures(&self) -> Figures {
        Figures::new(&self.outcome, &self.guesses)
    }
}

/// Measures the model on all batches; `None` where `stopped` said so in between.
pub fn evaluate(
    engine: &mut dyn Engine,
    source: &dyn BatchSource,
    unigram: Option<&Unigram>,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let mut sum = Evaluation::default();
    let mut whole = true;
    source.pass(&mut |batches| {
        for batch in batches {
            if stopped() {
                whole = false;
                break;
            }
            let batch = batch?;
            sum.outcome.add(&engine.evaluate(&batch)?);
            sum.guesses.add(&Guesses::on(unigram, &batch));
        }
        Ok(())
    })?;
    Ok(whole.then_some(sum))
}
