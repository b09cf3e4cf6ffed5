//! The resolved configuration of a run: `config.json`, complete, and what of it may change on resume.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::Compute;
use super::schedule::Schedule;
use super::skips::Skips;
use super::steps::{Epoch, Length};
use super::tensorboard::TensorBoard;
use crate::collate::{CollateConfig, PadTo};
use crate::corpus::Sources;
use crate::model::{ModelConfig, Optimizer};
use crate::sample::SampleConfig;
use crate::{Error, ErrorKind, Result, durable};

/// Version of the run directory's layout and of its files.
pub const FORMAT: u32 = 1;

/// Most bytes of a `config.json`, which holds some sixty short fields and a few paths.
const MOST_OF_A_CONFIGURATION: u64 = 1 << 20;

/// Everything a run was started with, nothing left to defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    pub format: u32,
    pub data: DataConfig,
    pub sample: SampleConfig,
    pub collate: CollateConfig,
    pub model: ModelConfig,
    /// Where the weights came from; absent where they were drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<InitFrom>,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    /// Batches of one step.
    pub accumulate: usize,
    /// Global gradient norm above which gradients are scaled down.
    pub clip: Option<f64>,
    #[serde(flatten)]
    pub compute: Compute,
    pub length: Length,
    /// Whether a step whose loss is a spike ([`super::spikes`]) changes no weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_spikes: bool,
    /// Steps whose batches are left out.
    #[serde(default, skip_serializing_if = "Skips::is_empty")]
    pub skip_steps: Skips,
    /// How the rows of earlier steps were parted into batches, where that was otherwise; ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regrouped: Vec<Grouping>,
    pub runtime: Runtime,
}

/// How the rows of steps are parted into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grouping {
    /// The last step of which that holds.
    pub until: u64,
    pub batch_size: usize,
    pub accumulate: usize,
}

/// What the run reads, with fingerprints of the content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    pub corpus: Sources,
    /// 16 hexadecimal digits.
    pub corpus_fingerprint: String,
    /// Documents of an epoch.
    pub documents: u64,
    /// What an epoch of the corpus holds.
    pub epoch: Epoch,
    /// What is evaluated on after each epoch.
    pub test: Option<Sources>,
    pub test_fingerprint: Option<String>,
    /// The ids of the corpus, where a file of them was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
    /// The file that the vocabulary in the run directory was made from.
    pub vocab: PathBuf,
    pub vocab_fingerprint: String,
}

/// A checkpoint of transformers that a run's weights started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitFrom {
    pub directory: PathBuf,
    /// Of the tensors read: 16 hexadecimal digits.
    pub fingerprint: String,
}

/// What never changes a weight, and so may be chosen anew on every resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    /// Threads that build samples; 0 builds them on the training thread.
    pub workers: usize,
    /// Threads of the arithmetic.
    pub threads: usize,
    /// Steps between two records.
    pub log_freq: u64,
    /// Steps between two evaluations, besides those at each epoch's end.
    pub eval_every: Option<u64>,
    /// Steps between two checkpoints, besides those at each epoch's end.
    pub save_every: Option<u64>,
    /// Newest checkpoints that are kept, besides the best.
    pub keep: usize,
    /// Most bytes of memory; absent: each part has its own bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<u64>,
    /// What is written for TensorBoard; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<TensorBoard>,
}

/// A fingerprint as it is written down.
pub fn hex(fingerprint: u64) -> String {
    format!("{fingerprint:016x}")
}

/// A field whose value in the run differs from the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path in `config.json`.
    pub field: String,
    pub stored: String,
    pub given: String,
}

/// Fields that may differ on resume, as dotted prefixes without places in lists. The paths may: content is
/// held by fingerprints.
const FREE: [&str; 16] = [
    // Another device rounds otherwise, and goes on from the same weights.
    "device",
    "recompute",
    "data.corpus.path",
    "data.corpus.io",
    "data.corpus.index_dir",
    "data.test.path",
    "data.test.io",
    "data.test.index_dir",
    "data.tokens",
    "data.vocab",
    "data.epoch",
    "init_from.directory",
    "length",
    "runtime",
    "regrouped",
    // Of steps to come only, which is held by `RunConfig::accept_skips`.
    "skip_steps",
];

/// Fields that may differ where their product does not, and each row has a sample of its own.
const GROUPING: [&str; 2] = ["collate.batch_size", "accumulate"];

impl RunConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] where it is malformed, [`ErrorKind::Mismatch`] where another version of the
    /// layout wrote it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = durable::read_at_most(path, MOST_OF_A_CONFIGURATION)?;
        Self::from_json(&bytes)
            .map_err(|error| error.context(format!("run configuration {}", path.display())))
    }

    /// The configuration in the text of a `config.json`.
    ///
    /// # Errors
    /// As [`RunConfig::read`].
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let malformed = |e: serde_json::Error| Error::data("malformed").caused_by(e);
        let value: Value = serde_json::from_slice(text).map_err(malformed)?;
        match value.get("format").and_then(Value::as_u64) {
            Some(n) if n == u64::from(FORMAT) => serde_json::from_value(value).map_err(malformed),
            Some(n) => Err(Error::mismatch(format!("format {n}, this program reads format {FORMAT}"))),
            None => Err(Error::data("no format number: this is not a run of bertstream")),
        }
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("no map with keys that are not strings") + "\n"
    }

    /// Fields that would make another run of this one: those in which `given` differs and must not.
    pub fn differences(&self, given: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        compare("", &value_of(self), &value_of(given), &mut found);
        found.retain(|d| !FREE.iter().any(|free| is_within(&d.field, free)));
        if self.rows_of_a_step().is_some() && self.rows_of_a_step() == given.rows_of_a_step() {
            found.retain(|d| !GROUPING.contains(&&*d.field));
        }
        found
    }

    /// Rows of a full step; `None` where they depend on the batches that they come in.
    fn rows_of_a_step(&self) -> Option<usize> {
        let packed = self.collate.pad_to == PadTo::Packed;
        (!packed).then_some(self.collate.batch_size * self.accumulate)
    }

    /// How the rows of `step` are parted.
    pub fn grouping(&self, step: u64) -> Grouping {
        let now =
            Grouping { until: u64::MAX, batch_size: self.collate.batch_size, accumulate: self.accumulate };
        self.regrouped.iter().copied().find(|earlier| step <= earlier.until).unwrap_or(now)
    }

    /// [`Self::regrouped`] of a run that goes on behind `step` under this configuration and was under `stored` before.
    pub fn regrouped_behind(&self, step: u64, stored: &Self) -> Vec<Grouping> {
        let mut earlier: Vec<Grouping> = Vec::new();
        for grouping in stored.regrouped.iter().copied().chain([stored.grouping(u64::MAX)]) {
            // What was done behind the step will be done again.
            let until = grouping.until.min(step);
            if earlier.last().map_or(0, |last| last.until) < until {
                earlier.push(Grouping { until, ..grouping });
            }
        }
        let now = self.grouping(u64::MAX);
        let goes_on =
            |last: &Grouping| (last.batch_size, last.accumulate) == (now.batch_size, now.accumulate);
        if earlier.last().is_some_and(goes_on) {
            earlier.pop();
        }
        earlier
    }

    /// Refuses to go on with a run under `given` where that differs, naming every field.
    pub fn accept(&self, given: &Self) -> Result<()> {
        let differences = self.differences(given);
        if differences.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = differences
            .iter()
            .map(|d| format!("{}: {} in the run, {} now", d.field, d.stored, d.given))
            .collect();
        Err(Error::new(
            ErrorKind::Mismatch,
            format!(
                "cannot resume with another configuration ({}); leave those flags out, or start a new run \
                 with another --output",
                listed.join("; ")
            ),
        ))
    }

    /// Refuses to leave out other steps than before of those up to `step`, which are done.
    pub fn accept_skips(&self, given: &Self, step: u64) -> Result<()> {
        match self.skip_steps.first_difference(&given.skip_steps) {
            Some(first) if first <= step => Err(Error::mismatch(format!(
                "--skip-steps: step {first} is done, the run stands at step {step}: remove the checkpoints behind step \
                 {} to go back there, or leave out later steps",
                first - 1
            ))),
            _ => Ok(()),
        }
    }

    /// Identifies what a checkpoint belongs to: 16 hexadecimal digits over all fields that must not
    /// change.
    pub fn fingerprint(&self) -> String {
        let mut leaves = Vec::new();
        let mut of = self.clone();
        if let Some(rows) = self.rows_of_a_step() {
            (of.collate.batch_size, of.accumulate) = (rows, 1);
        }
        flatten("", &value_of(&of), &mut leaves);
        leaves.retain(|(field, _)| !FREE.iter().any(|free| is_within(field, free)));
        leaves.sort();
        let text: String = leaves.iter().map(|(field, value)| format!("{field}={value}\n")).collect();
        hex(xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }
}

fn value_of(config: &RunConfig) -> Value {
    serde_json::to_value(config).expect("no map with keys that are not strings")
}

fn is_within(field: &str, prefix: &str) -> bool {
    let names: Vec<&str> = field.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
    names.join(".").strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(&join(prefix, key), value, out));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, item)| flatten(&join(prefix, &at.to_string()), item, out));
        }
        leaf => out.push((prefix.to_owned(), leaf.to_string())),
    }
}

fn compare(prefix: &str, stored: &Value, given: &Value, out: &mut Vec<Difference>) {
    match (stored, given) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let side =
                    |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or(Value::Null);
                compare(&join(prefix, key), &side(a), &side(b), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&join(prefix, &at.to_string()), a, b, out);
            }
        }
        (a, b) if a != b => {
            out.push(Difference { field: prefix.to_owned(), stored: a.to_string(), given: b.to_string() });
        }
        _ => {}
    }
}
