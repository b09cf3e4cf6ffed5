//! The batches that a run trained on, made again from its corpus without training.

use std::path::Path;

use super::flags::TokensFlag;
use crate::collate::{BatchDigest, CollateConfig, HostBatch, PadTo};
use crate::corpus::{Corpus, Shape, Sources};
use crate::pipeline::Plan;
use crate::sample::{Cursor, positions};
use crate::train::config::hex;
use crate::train::{Grouping, RunConfig, run_dir, start_of_step};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// Opens `sources`, which must hold the text that the run was made with.
///
/// # Errors
/// [`crate::ErrorKind::Mismatch`] where it is another text; those of opening it.
pub fn corpus(config: &RunConfig, sources: &Sources, tokenizer: &dyn Tokenizer) -> Result<Box<dyn Corpus>> {
    let (corpus, _) = TokensFlag::default().open(sources, tokenizer)?;
    let found = hex(corpus.fingerprint());
    if found != config.data.corpus_fingerprint {
        return Err(Error::mismatch(format!(
            "corpus {}: fingerprint {found}, the run was made with {}: its text changed since",
            corpus.path().display(),
            config.data.corpus_fingerprint
        )));
    }
    Ok(corpus)
}

/// The step at or before `step` whose data can be found at once, and where they begin. Where every position
/// gives one sample, and every row has one, that is the step itself; else the one after the nearest
/// checkpoint.
pub fn nearest(run: &Path, config: &RunConfig, corpus: &dyn Corpus, step: u64) -> Result<(u64, Cursor)> {
    let one_a_position = matches!(corpus.shape(), Shape::Pairs | Shape::Samples)
        && !config.sample.skip_bad_lines
        && config.sample.window_for(corpus) == 1;
    if one_a_position && config.collate.pad_to != PadTo::Packed {
        let per_step = (config.collate.batch_size * config.accumulate) as u64;
        return Ok((step, start_of_step(step, positions(corpus), per_step)));
    }
    let checkpoints = run_dir::checkpoints(run);
    for saved in checkpoints.steps()? {
        if saved < step
            && let Ok(manifest) = checkpoints.manifest(saved)
        {
            return Ok((saved + 1, manifest.progress.cursor));
        }
    }
    Ok((1, Cursor::default()))
}

/// The batches of `step`, and the digest of all from the step that `from` names to it.
pub fn batches(
    plan: Plan<'_>,
    config: &RunConfig,
    from: (u64, Cursor),
    step: u64,
) -> Result<(Vec<HostBatch>, BatchDigest)> {
    let (mut next, mut cursor) = from;
    let mut digest = BatchDigest::default();
    let mut micro: Vec<HostBatch> = Vec::new();
    while next <= step {
        let Grouping { until, batch_size, accumulate } = config.grouping(next);
        let collate = CollateConfig { batch_size, ..config.collate.clone() };
        let last = step.min(until);
        plan.batches(&collate, cursor, u64::MAX, |batches| {
            for _ in next..=last {
                micro.clear();
                while micro.len() < accumulate && !micro.last().is_some_and(|b| b.ends_epoch) {
                    let batch = batches.next().ok_or_else(|| {
                        Error::internal(format!("rebuilding: the batches end before step {step}"))
                    })??;
                    digest.update(&batch);
                    cursor = batch.next;
                    micro.push(batch);
                }
            }
            Ok(())
        })?;
        next = last + 1;
    }
    Ok((micro, digest))
}

/// Steps up to `reached` whose data are found at once, `most` of them at most, spread evenly: any step, or the first
/// one and those after the checkpoints.
pub fn at_once(
    run: &Path,
    config: &RunConfig,
    corpus: &dyn Corpus,
    reached: u64,
    most: u64,
) -> Result<Vec<u64>> {
    let after = run_dir::checkpoints(run).steps()?.into_iter().map(|step| step + 1);
    let spread = (0..most).map(|i| 1 + i * reached.saturating_sub(1) / most.saturating_sub(1).max(1));
    let mut found = Vec::new();
    for step in after.chain(spread).filter(|&step| step <= reached) {
        if nearest(run, config, corpus, step)?.0 == step {
            found.push(step);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(evenly(&found, most))
}

/// At most `most` of them, with the first and the last.
fn evenly(steps: &[u64], most: u64) -> Vec<u64> {
    let (last, most) = (steps.len().saturating_sub(1), most as usize);
    if steps.len() <= most {
        return steps.to_vec();
    }
    (0..most).map(|i| steps[i * last / most.saturating_sub(1).max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spread_from_the_first_to_the_last() {
        let check = |most, expected: &[u64]| assert_eq!(evenly(&[1, 5, 6, 8, 20], most), expected);
        check(9, &[1, 5, 6, 8, 20]);
        check(3, &[1, 6, 20]);
        check(2, &[1, 20]);
        check(1, &[1]);
        check(0, &[]);
        assert_eq!(evenly(&[], 3), [0; 0]);
    }
}
