//! The training loop.

use std::time::Duration;

use super::baseline::{Guesses, Unigram, labelled_pairs};
use super::checkpoint::{self, Best, Progress};
use super::config::RunConfig;
use super::evaluate::{BatchSource, Batches, evaluate};
use super::metrics::{EvaluationRecord, Figures, Observer, Record, StepRecord};
use super::run_dir::RunDir;
use crate::collate::HostBatch;
use crate::flow::StageReport;
use crate::model::{Engine, Outcome, Pass, Update};
use crate::{Error, Result};

/// A request to stop, from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT.
    Interrupt,
    /// SIGTERM and its like.
    Terminate,
}

/// How a training ended. In either case the newest checkpoint holds all that was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps, or all epochs, are done.
    Finished,
    /// A request to stop was followed.
    Stopped(Stop),
}

/// Steps in a row without a finite gradient after which a run ends: it has diverged, and since the weights
/// do not change in such a step, it will not recover.
const HOPELESS: u64 = 5;

/// Everything that a training is put together from.
pub struct Trainer<'t> {
    pub engine: &'t mut dyn Engine,
    pub config: &'t RunConfig,
    pub run: &'t RunDir,
    /// Where the run stands; the engine's state must be that of the same step.
    pub progress: Progress,
    /// What is evaluated on.
    pub test: Option<&'t dyn BatchSource>,
    pub unigram: Option<&'t Unigram>,
    pub observers: Vec<&'t mut dyn Observer>,
    /// Time since any fixed instant.
    pub clock: &'t dyn Fn() -> Duration,
    /// How the stages before the training spent their time since this was asked last.
    pub stages: &'t dyn Fn() -> Vec<StageReport>,
    /// Asked between two steps.
    pub stop: &'t dyn Fn() -> Option<Stop>,
}

/// Sums since the last record.
#[derive(Default)]
struct Window {
    outcome: Outcome,
    guesses: Guesses,
    tokens: u64,
    samples: u64,
    waiting: Duration,
    computing: Duration,
}

/// What the newest checkpoint holds.
struct Saved {
    step: u64,
    /// Step of the last evaluation that it knows of.
    evaluated: u64,
}

impl Saved {
    fn of(progress: &Progress) -> Self {
        Self { step: progress.step, evaluated: progress.evaluated }
    }
}

/// What a step leaves for the record of its window.
struct Stepped {
    epoch: u64,
    lr: f64,
    grad_norm: f64,
    applied: bool,
}

impl Trainer<'_> {
    /// Trains on `batches`, which must begin at the progress' cursor, until the configured number of steps
    /// is done or the batches end.
    ///
    /// # Errors
    /// Those of the batches, after a checkpoint was saved; those of the engine; those of writing the last
    /// checkpoint. One that cannot be written on the way is told and left out.
    pub fn run(&mut self, batches: &mut Batches<'_>) -> Result<Ending> {
        let mut saved = Saved::of(&self.progress);
        let mut window = Window::default();
        // A stop during an evaluation left it open: it is made up for, so that the best stays the best.
        if self.evaluation_due() && self.evaluate()? {
            self.save_on_the_way(&mut saved);
        }
        while self.progress.step < self.config.length.total {
            if let Some(stop) = (self.stop)() {
                self.save_at_end(&mut saved)?;
                return Ok(Ending::Stopped(stop));
            }
            let micro = match self.fetch(batches, &mut window) {
                Ok(micro) if micro.is_empty() => break,
                Ok(micro) => micro,
                Err(error) => return Err(self.save_before(error, &mut saved)),
            };
            let lr = self.config.schedule.lr(self.progress.step + 1, self.config.length.total);
            let stepped = self.step(&micro, lr, &mut window)?;
            self.log(&stepped, &mut window)?;
            let improved = self.evaluation_due() && self.evaluate()?;
            if improved || self.save_due() {
                self.save_on_the_way(&mut saved);
            }
        }
        self.save_at_end(&mut saved)?;
        Ok(match (self.stop)() {
            Some(stop) if self.evaluation_due() => Ending::Stopped(stop),
            _ => Ending::Finished,
        })
    }

    /// The batches of the next step: as many as are accumulated, fewer at an epoch's end, none at the end
    /// of the data.
    fn fetch(&self, batches: &mut Batches<'_>, window: &mut Window) -> Result<Vec<HostBatch>> {
        let start = (self.clock)();
        let mut micro: Vec<HostBatch> = Vec::new();
        while micro.len() < self.config.accumulate && !micro.last().is_some_and(|b| b.ends_epoch) {
            match batches.next() {
                Some(batch) => micro.push(batch?),
                None => break,
            }
        }
        window.waiting += (self.clock)().saturating_sub(start);
        Ok(micro)
    }

    /// Forward and backward over the micro-batches, then one update of the weights.
    fn step(&mut self, micro: &[HostBatch], lr: f64, window: &mut Window) -> Result<Stepped> {
        let start = (self.clock)();
        let step = self.progress.step + 1;
        let mut pass = Pass {
            seed: self.config.sample.seed,
            step,
            first_row: 0,
            masked_in_step: micro.iter().map(|b| b.masked.len()).sum(),
            pairs_in_step: micro.iter().map(labelled_pairs).sum(),
        };
        for batch in micro {
            window.outcome.add(&self.engine.accumulate(batch, &pass)?);
            window.guesses.add(&Guesses::on(self.unigram, batch));
            pass.first_row += batch.samples();
            self.progress.digest.update(batch);
            self.progress.tokens += batch.tokens() as u64;
            window.tokens += batch.tokens() as u64;
        }
        let updated = self.engine.update(&Update { step, lr, clip: self.config.clip })?;
        let last = micro.last().ok_or_else(|| Error::internal("train: a step without a batch"))?;
        self.progress.step = step;
        self.progress.cursor = last.next;
        self.progress.ends_epoch = last.ends_epoch;
        self.progress.samples += pass.first_row as u64;
        self.progress.skipped_updates += u64::from(!updated.applied);
        self.progress.skipped_in_a_row = if updated.applied { 0 } else { self.progress.skipped_in_a_row + 1 };
        window.samples += pass.first_row as u64;
        window.computing += (self.clock)().saturating_sub(start);
        let epoch = micro[0].origins.first().map_or(self.progress.cursor.epoch, |o| o.cursor.epoch);
        Ok(Stepped { epoch, lr, grad_norm: updated.grad_norm, applied: updated.applied })
    }

    /// Tells the observers, and ends a run that has diverged.
    fn log(&mut self, stepped: &Stepped, window: &mut Window) -> Result<()> {
        let Progress { step, skipped_updates, skipped_in_a_row, .. } = self.progress;
        let total = self.config.length.total;
        self.observers.iter_mut().for_each(|o| o.advanced(step, total));
        if !stepped.applied {
            let digest = self.progress.digest.to_string();
            self.record(&Record::SkippedUpdate { step, skipped_updates, digest });
        }
        if step.is_multiple_of(self.config.runtime.log_freq) || step == total || self.progress.ends_epoch {
            let record = self.step_record(stepped, window);
            self.record(&Record::Step(record));
            *window = Window::default();
        }
        if skipped_in_a_row >= HOPELESS {
            return Err(Error::data(format!(
                "train: step {step}: the gradient was not finite in {HOPELESS} steps in a row: the training \
                 has diverged; start again with a lower --lr, a longer --warmup or a lower --clip"
            )));
        }
        Ok(())
    }

    fn step_record(&self, stepped: &Stepped, window: &Window) -> StepRecord {
        let seconds = (window.waiting + window.computing).as_secs_f64();
        // A clock too coarse for one step gives zero seconds, and no rate.
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        StepRecord {
            step: self.progress.step,
            epoch: stepped.epoch,
            lr: stepped.lr,
            figures: Figures::new(&window.outcome, &window.guesses),
            grad_norm: stepped.grad_norm.is_finite().then_some(stepped.grad_norm),
            tokens: self.progress.tokens,
            samples: self.progress.samples,
            tokens_per_second: per_second(window.tokens as f64),
            samples_per_second: per_second(window.samples as f64),
            seconds,
            data_wait: per_second(window.waiting.as_secs_f64()),
            stages: (self.stages)(),
            skipped_updates: self.progress.skipped_updates,
            digest: self.progress.digest.to_string(),
        }
    }

    /// Whether the step just done is one to evaluate after, and it has not been done yet.
    fn evaluation_due(&self) -> bool {
        let Progress { step, ends_epoch, evaluated, .. } = self.progress;
        let asked = self.config.runtime.eval_every.is_some_and(|n| step.is_multiple_of(n));
        let due = ends_epoch || asked || step == self.config.length.total;
        self.test.is_some() && step > 0 && evaluated < step && due
    }

    /// Measures on the test corpus; gives whether the model is the best so far.
    fn evaluate(&mut self) -> Result<bool> {
        let Some(test) = self.test else { return Ok(false) };
        let stopped = || (self.stop)().is_some();
        let Some(evaluation) = evaluate(self.engine, test, self.unigram, &stopped)? else {
            return Ok(false);
        };
        let step = self.progress.step;
        let figures = evaluation.figures();
        let loss = figures.loss as f32;
        let best = loss.is_finite() && self.progress.best.is_none_or(|best| loss < best.loss);
        if best {
            self.progress.best = Some(Best { step, loss });
        }
        self.progress.evaluated = step;
        let epoch = self.progress.cursor.epoch.saturating_sub(u64::from(self.progress.ends_epoch));
        self.record(&Record::Evaluation(EvaluationRecord { step, epoch, figures, best }));
        Ok(best)
    }

    fn save_due(&self) -> bool {
        let Progress { step, ends_epoch, .. } = self.progress;
        ends_epoch || self.config.runtime.save_every.is_some_and(|n| step.is_multiple_of(n))
    }

    fn save(&mut self, saved: &mut Saved) -> Result<()> {
        let step = self.progress.step;
        let best = self.progress.best.map(|best| best.step);
        let checkpoints = self.run.checkpoints();
        let now = Saved::of(&self.progress);
        if saved.step == now.step && saved.evaluated != now.evaluated {
            // The weights lie there; what became known of them since does not.
            checkpoint::amend(&checkpoints, &self.progress)?;
            *saved = now;
        } else if saved.step != now.step {
            let path = checkpoint::save(
                &checkpoints,
                self.engine.layout(),
                &self.progress,
                self.config.sample.seed,
                &self.config.fingerprint(),
                &self.engine.state()?,
            )?;
            *saved = now;
            self.record(&Record::Checkpoint { step, path });
        }
        self.run.publish(step, best)?;
        checkpoint::prune(&checkpoints, self.config.runtime.keep, best)
    }

    /// A full disk must not end hours of training: the checkpoint before is intact, the next one may
    /// succeed.
    fn save_on_the_way(&mut self, saved: &mut Saved) {
        if let Err(error) = self.save(saved) {
            let step = self.progress.step;
            self.record(&Record::CheckpointFailed { step, reason: error.to_string() });
        }
    }

    fn save_at_end(&mut self, saved: &mut Saved) -> Result<()> {
        if self.progress.step == 0 {
            return Ok(());
        }
        self.save(saved).map_err(|e| e.context(format!("last checkpoint, step {}", self.progress.step)))
    }

    /// Saves what was learnt before the data failed, and gives the failure back.
    fn save_before(&mut self, error: Error, saved: &mut Saved) -> Error {
        if let Err(second) = self.save_at_end(saved) {
            let step = self.progress.step;
            self.record(&Record::CheckpointFailed { step, reason: second.to_string() });
        }
        error.context(format!("train: no data for step {}", self.progress.step + 1))
    }

    fn record(&mut self, record: &Record) {
        self.observers.iter_mut().for_each(|o| o.recorded(record));
    }
}
