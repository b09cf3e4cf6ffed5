//! What TensorBoard shows of a run: event files that `tensorboard --logdir DIR` reads.
//!
//! Takes the records of a run, the engine between two steps and a batch whose predictions are shown; gives
//! scalars, text and histograms. A look at the engine copies columns and runs a forward pass without dropout:
//! it changes nothing of the run. The formats are written out in [`event`] and [`frame`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::metrics::{Figures, Observer, Record, StepRecord};
use crate::Result;
use crate::collate::HostBatch;
use crate::model::Engine;
use crate::vocab::Tokenizer;

pub mod event;
mod examples;
pub mod frame;
mod histogram;

use event::{Event, Value};
use frame::EventFile;
pub use histogram::Histogram;

/// What is written for TensorBoard, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorBoard {
    /// Where event files go; `None`: into [`DIRECTORY`] of the run.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Steps between two histograms of every weight and gradient; `None` writes none.
    #[serde(default)]
    pub histogram_every: Option<u64>,
    /// Steps between two looks at the same examples; `None` has none.
    #[serde(default)]
    pub examples_every: Option<u64>,
}

/// Where event files go in a run's directory.
pub const DIRECTORY: &str = "tensorboard";

/// What is predicted now and then, the same every time.
pub struct Examples<'e> {
    pub batch: HostBatch,
    pub tokenizer: &'e dyn Tokenizer,
    /// Whether training never sees them.
    pub held_out: bool,
}

/// Writes an event file for one session of a run.
pub struct EventWriter<'w> {
    file: EventFile,
    /// Seconds since 1970.
    now: &'w dyn Fn() -> f64,
    histogram_every: Option<u64>,
    examples: Option<(u64, Examples<'w>)>,
    failed: bool,
}

impl<'w> EventWriter<'w> {
    /// Begins a new file in `directory`, which is made, for a run that stands at `step`: what earlier files say
    /// of later steps, which the run is about to make again, TensorBoard then forgets.
    ///
    /// # Errors
    /// Those of making the directory and the file.
    pub fn begin(
        directory: &Path,
        step: u64,
        what: &TensorBoard,
        examples: Option<Examples<'w>>,
        now: &'w dyn Fn() -> f64,
    ) -> Result<Self> {
        let mut writer = Self {
            file: EventFile::create(directory, now() as u64)?,
            now,
            histogram_every: what.histogram_every,
            examples: what.examples_every.zip(examples),
            failed: false,
        };
        writer.write(Event::version);
        writer.write(|time| Event::session_start(time, step + 1));
        Ok(writer)
    }

    /// Appends an event. A full disk must not end hours of training: it is told once.
    fn write(&mut self, event: impl FnOnce(f64) -> Event) {
        let event = event((self.now)());
        if let Err(error) = self.file.append(event.bytes())
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("tensorboard {}: {error}; training goes on", self.file.path().display());
        }
    }

    fn values(&mut self, step: u64, values: Vec<Value>) {
        if !values.is_empty() {
            self.write(|time| Event::summary(time, step, values));
        }
    }

    /// Tells once that there was nothing to be seen of the engine.
    fn unseen(&mut self, what: &str, error: &crate::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!("tensorboard: no {what}: {error}; training goes on");
        }
    }
}

impl Observer for EventWriter<'_> {
    fn differentiated(&mut self, step: u64, engine: &dyn Engine) {
        if !self.histogram_every.is_some_and(|n| step.is_multiple_of(n)) {
            return;
        }
        let columns = engine.gradients().and_then(|gradients| Ok((gradients, engine.state()?.weights)));
        let (gradients, weights) = match columns {
            Ok(columns) => columns,
            Err(error) => return self.unseen("histograms", &error),
        };
        // One event a parameter: none is large, whatever the model.
        for parameter in engine.layout().parameters() {
            let of = |kind: &str, column: &[f32]| {
                let histogram = Histogram::of(&column[parameter.range.clone()])?;
                Some(Value::histogram(&format!("{kind}/{}", parameter.name), &histogram))
            };
            let both = [of("weights", &weights), of("gradients", &gradients)];
            self.values(step, both.into_iter().flatten().collect());
        }
    }

    fn updated(&mut self, step: u64, engine: &mut dyn Engine) {
        let Some((_, examples)) = self.examples.as_ref().filter(|(every, _)| step.is_multiple_of(*every))
        else {
            return;
        };
        let name = if examples.held_out { "examples/held_out" } else { "examples/training" };
        match engine.predict(&examples.batch) {
            Ok(predictions) => {
                let text = examples::table(&examples.batch, &predictions, examples.tokenizer);
                self.values(step, vec![Value::text(name, &text)]);
            }
            Err(error) => self.unseen("examples", &error),
        }
    }

    fn recorded(&mut self, record: &Record) {
        match record {
            Record::Step(record) => self.values(record.step, of_step(record)),
            Record::Evaluation(record) => self.values(record.step, of_figures("test", &record.figures)),
            _ => {}
        }
    }
}

fn of_step(record: &StepRecord) -> Vec<Value> {
    let mut values = of_figures("train", &record.figures);
    let mut add = |name: &str, value: f64| values.push(Value::scalar(name, value));
    add("optimizer/learning_rate", record.lr);
    if let Some(norm) = record.grad_norm {
        add("optimizer/gradient_norm", norm);
    }
    add("optimizer/skipped_updates", record.skipped_updates as f64);
    add("speed/tokens_per_second", record.tokens_per_second);
    add("speed/samples_per_second", record.samples_per_second);
    add("speed/data_wait", record.data_wait);
    add("progress/epoch", record.epoch as f64);
    add("progress/tokens", record.tokens as f64);
    for stage in &record.stages {
        add(&format!("stages/{}_busy", stage.name), stage.busy);
    }
    values
}

/// Figures of `part`, and beside them what guessing reaches.
fn of_figures(part: &str, figures: &Figures) -> Vec<Value> {
    let masked = [
        ("mlm_loss", Some(figures.mlm_loss)),
        ("mlm_accuracy", Some(figures.mlm_accuracy)),
        ("guessing/mlm_loss", figures.unigram_loss),
        ("guessing/mlm_accuracy", figures.majority_accuracy),
    ];
    let pairs = [
        ("nsp_loss", Some(figures.nsp_loss)),
        ("nsp_accuracy", Some(figures.nsp_accuracy)),
        ("guessing/nsp_loss", figures.nsp_chance_loss),
        ("guessing/nsp_accuracy", figures.nsp_majority_accuracy),
    ];
    let loss = [("loss", Some(figures.loss))];
    let masked = masked.iter().filter(|_| figures.masked > 0);
    let pairs = pairs.iter().filter(|_| figures.pairs > 0);
    loss.iter()
        .chain(masked)
        .chain(pairs)
        .filter_map(|(name, value)| Some(Value::scalar(&format!("{part}/{name}"), (*value)?)))
        .collect()
}
