//! Records of a run: one JSON object a line in `metrics.jsonl`, and whoever else looks on.
//!
//! Field names are stable. Losses are in nats; `null` stands where there was nothing to measure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::baseline::Guesses;
use crate::flow::StageReport;
use crate::model::{Engine, Outcome};
use crate::{Error, Result, durable};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    Step(StepRecord),
    Evaluation(EvaluationRecord),
    /// The loss was a spike, or it or the gradient was not finite: the weights stayed as they were.
    SkippedUpdate {
        step: u64,
        /// The loss, where it was a spike.
        #[serde(default)]
        loss: Option<f64>,
        /// Such steps so far in this run.
        skipped_updates: u64,
        /// Digest after the step, to find its batch again with `inspect`.
        digest: String,
    },
    Checkpoint {
        step: u64,
        path: PathBuf,
    },
    /// The training had diverged: it went back to what had been learnt up to step `to`, and goes on behind `step`.
    RolledBack {
        step: u64,
        to: u64,
    },
    /// The losses of the last steps were spikes, one behind the other, and there is nothing to go back to: they are
    /// what later ones are held against.
    NewLevel {
        step: u64,
    },
    /// The batches of steps `from` to `step` were left out.
    LeftOut {
        step: u64,
        from: u64,
    },
    /// The device has not the memory for more rows at once; steps are the same, in more passes.
    SmallerPasses {
        step: u64,
        /// Rows of a pass from here on.
        rows: usize,
    },
    /// A checkpoint could not be written; training went on.
    CheckpointFailed {
        step: u64,
        reason: String,
    },
}

/// The steps since the last record of this kind, training data, dropout on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub step: u64,
    /// Epoch of the step, from 0.
    pub epoch: u64,
    /// Learning rate of this step.
    pub lr: f64,
    #[serde(flatten)]
    pub figures: Figures,
    /// L2 norm of this step's gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Real tokens (no padding) of the run so far.
    pub tokens: u64,
    /// Samples of the run so far.
    pub samples: u64,
    /// Real tokens a second, evaluation and checkpoints not counted.
    pub tokens_per_second: f64,
    pub samples_per_second: f64,
    /// That time, of the steps since the last record.
    pub seconds: f64,
    /// Share of that time spent waiting for data.
    pub data_wait: f64,
    /// How the stages before the training spent the time since the last record, evaluation and checkpoints counted.
    #[serde(default)]
    pub stages: Vec<StageReport>,
    /// Steps of the run whose gradient was not finite.
    pub skipped_updates: u64,
    /// Rolling digest of all training batches of the run.
    pub digest: String,
}

/// The test corpus after a step, dropout off, the same masks every time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    pub step: u64,
    pub epoch: u64,
    #[serde(flatten)]
    pub figures: Figures,
    /// Whether no earlier evaluation of the run had a lower loss.
    pub best: bool,
}

/// Losses and accuracies beside what guessing reaches on the same labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Sum of both losses.
    pub loss: f64,
    pub mlm_loss: f64,
    pub nsp_loss: f64,
    pub mlm_accuracy: f64,
    pub nsp_accuracy: f64,
    /// `exp(mlm_loss)`.
    pub perplexity: f64,
    /// Masked tokens measured.
    pub masked: u64,
    /// Pairs measured.
    pub pairs: u64,
    /// MLM loss of guessing by the vocabulary's counts.
    pub unigram_loss: Option<f64>,
    /// Accuracy of always guessing the most frequent token.
    pub majority_accuracy: Option<f64>,
    /// Accuracy of always guessing the more frequent pair label.
    pub nsp_majority_accuracy: Option<f64>,
    /// Pair loss of guessing by the labels' share.
    pub nsp_chance_loss: Option<f64>,
}

impl Figures {
    /// The means of these sums.
    pub fn new(outcome: &Outcome, guesses: &Guesses) -> Self {
        Self {
            loss: outcome.loss(),
            mlm_loss: outcome.mlm_loss(),
            nsp_loss: outcome.nsp_loss(),
            mlm_accuracy: outcome.mlm_accuracy(),
            nsp_accuracy: outcome.nsp_accuracy(),
            perplexity: outcome.mlm_loss().exp(),
            masked: outcome.masked,
            pairs: outcome.pairs,
            unigram_loss: guesses.unigram_loss(),
            majority_accuracy: guesses.majority_accuracy(),
            nsp_majority_accuracy: guesses.nsp_majority_accuracy(),
            nsp_chance_loss: guesses.nsp_chance_loss(),
        }
    }
}

/// Somebody who looks on. Nothing that an observer meets ends a run.
pub trait Observer {
    /// Step `step` of `total` is done.
    fn advanced(&mut self, step: u64, total: u64) {
        let _ = (step, total);
    }

    /// The gradients of `step` are there, and the weights still those that they were made with.
    fn differentiated(&mut self, step: u64, engine: &dyn Engine) {
        let _ = (step, engine);
    }

    /// The weights are those after `step`. Nothing but forward passes without dropout may be asked for.
    fn updated(&mut self, step: u64, engine: &mut dyn Engine) {
        let _ = (step, engine);
    }

    /// Something was recorded.
    fn recorded(&mut self, record: &Record);
}

/// `metrics.jsonl`: appended record by record.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    failed: bool,
}

impl MetricsFile {
    /// Opens the file for a run that stands at `step`: lines of later steps, which the run is about to
    /// make again, are dropped, and so is a line that a kill cut short.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        if let Some(text) = read_if_there(path)? {
            let kept: String = text
                .lines()
                .filter(|line| step_of(line).is_some_and(|s| s <= step))
                .flat_map(|l| [l, "\n"])
                .collect();
            if kept != text {
                durable::write_file(path, kept.as_bytes())?;
            }
        }
        let file =
            File::options().create(true).append(true).open(path).map_err(|e| Error::writing(path, e))?;
        Ok(Self { path: path.to_owned(), file, failed: false })
    }
}

impl Observer for MetricsFile {
    fn recorded(&mut self, record: &Record) {
        let line = serde_json::to_string(record).expect("no map with keys that are not strings") + "\n";
        // One write a line, so that lines stay whole. A full disk must not end hours of training: it is
        // told once, and the records that follow are tried again.
        if let Err(error) = self.file.write_all(line.as_bytes())
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("metrics {}: {error}; training goes on", self.path.display());
        }
    }
}

/// Most bytes of a `metrics.jsonl`: more than a million records.
const MOST_OF_METRICS: u64 = 1 << 30;

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => {
            let bytes = durable::read_at_most(path, MOST_OF_METRICS)
                .map_err(|e| e.context("metrics: move the file away to go on without it"))?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
}

/// The text of `metrics.jsonl`; empty where there is no such file.
pub fn text(path: &Path) -> Result<String> {
    Ok(read_if_there(path)?.unwrap_or_default())
}

/// The records in `metrics.jsonl`, in their order; none where there is no such file.
pub fn records(path: &Path) -> Result<Vec<Record>> {
    let text = text(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The digests that `metrics.jsonl` recorded, by step.
pub fn recorded_digests(path: &Path) -> Result<BTreeMap<u64, String>> {
    Ok(records(path)?
        .into_iter()
        .filter_map(|record| match record {
            Record::Step(r) => Some((r.step, r.digest)),
            Record::SkippedUpdate { step, digest, .. } => Some((step, digest)),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_costs_records_and_nothing_else() {
        let path = PathBuf::from("/dev/full");
        let mut metrics =
            MetricsFile { file: File::options().write(true).open(&path).unwrap(), path, failed: false };
        for step in 1..4 {
            metrics.recorded(&Record::LeftOut { step, from: 1 });
        }
        assert!(metrics.failed);
    }
}
