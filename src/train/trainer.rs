//! The training loop.
//!
//! What it never does: let a value that is not finite reach the weights, keep one in a checkpoint, or end for a
//! checkpoint that cannot be written on the way.

use std::time::Duration;

use super::baseline::{Guesses, Unigram, labelled_pairs};
use super::checkpoint::{Best, Checkpoint, Progress};
use super::config::RunConfig;
use super::evaluate::{BatchSource, Batches, evaluate};
use super::metrics::{EvaluationRecord, Figures, Observer, Record, StepRecord};
use super::run_dir::RunDir;
use super::skips::Skips;
use super::spikes::Level;
use crate::collate::HostBatch;
use crate::flow::StageReport;
use crate::model::{Engine, Outcome, Pass, Update};
use crate::{Error, ErrorKind, Result};

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

/// Steps in a row without a finite loss and gradient after which a run goes back to a checkpoint: it has diverged,
/// and since the weights do not change in such a step, it will not recover.
const HOPELESS: u64 = 5;

/// Why the weights stayed as they were in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Skipped {
    /// Loss or gradient was not finite.
    NotFinite,
    /// The loss, of this many nats, was a spike.
    Spike(f64),
}

/// Everything that a training is put together from.
pub struct Trainer<'t> {
    pub engine: &'t mut dyn Engine,
    pub config: &'t RunConfig,
    pub run: &'t RunDir,
    /// Where the run stands; the engine's state must be that of the same step.
    pub progress: Progress,
    /// As large as any batch there will be: whether the device has the memory for it is found out before the first
    /// step.
    pub probe: Option<&'t HostBatch>,
    /// What is evaluated on.
    pub test: Option<&'t dyn BatchSource>,
    pub unigram: Option<&'t Unigram>,
    pub observers: Vec<&'t mut dyn Observer>,
    /// Time since any fixed instant.
    pub clock: &'t dyn Fn() -> Duration,
    /// How the stages before the training spent their time since this was asked last.
    pub stages: &'t dyn Fn() -> Vec<StageReport>,
    /// Asked before each step, when its batches have come; where they may take long, they should come to an end by it.
    pub stop: &'t dyn Fn() -> Option<Stop>,
}

/// What a run learns of its own course.
struct Course {
    /// Steps that are left out.
    skips: Skips,
    /// Rows that the device has the memory for at once, as far as is known.
    rows_at_once: usize,
    saved: Saved,
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
    skipped: Option<Skipped>,
}

impl Trainer<'_> {
    /// Trains on `batches`, which must begin at the progress' cursor, until the configured number of steps
    /// is done or the batches end.
    ///
    /// # Errors
    /// Those of the batches, after a checkpoint was saved; those of the engine; those of writing the last
    /// checkpoint. One that cannot be written on the way is told and left out.
    pub fn run(&mut self, batches: &mut Batches<'_>) -> Result<Ending> {
        let mut course = Course {
            skips: self.config.skip_steps.clone(),
            rows_at_once: usize::MAX,
            saved: Saved::of(&self.progress),
        };
        let mut window = Window::default();
        if let Some(probe) = self.probe {
            self.passes(std::slice::from_ref(probe), &mut course)?;
            self.engine.forget_gradients()?;
        }
        // A stop during an evaluation left it open: it is made up for, so that the best stays the best.
        if self.evaluation_due(&course) && self.evaluate()? {
            self.save_on_the_way(&mut course);
        }
        while self.progress.step < self.config.length.total {
            let fetched = self.fetch(batches, &mut window);
            // Asked behind it: who waits for a batch is woken by a stop, and what has come by then is left for the resume.
            if let Some(stop) = (self.stop)() {
                self.save_at_end(&mut course)?;
                return Ok(Ending::Stopped(stop));
            }
            let micro = match fetched {
                Ok(micro) if micro.is_empty() => break,
                Ok(micro) => micro,
                Err(error) => return Err(self.save_before(error, &mut course)),
            };
            let mut skipped = None;
            if course.skips.contains(self.progress.step + 1) {
                self.leave_out(&micro, &course)?;
            } else {
                let lr = self.config.schedule.lr(self.progress.step + 1, self.config.length.total);
                let stepped = self.step(&micro, lr, &mut course, &mut window)?;
                self.log(&stepped, &mut window);
                skipped = stepped.skipped;
            }
            let diverged = self.progress.skipped_in_a_row >= HOPELESS;
            if diverged {
                self.roll_back(&mut course, skipped)?;
            }
            let improved = self.evaluation_due(&course) && self.evaluate()?;
            if improved || diverged || self.save_due(&course) {
                self.save_on_the_way(&mut course);
            }
        }
        self.save_at_end(&mut course)?;
        Ok(match (self.stop)() {
            Some(stop) if self.evaluation_due(&course) => Ending::Stopped(stop),
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
    fn step(
        &mut self,
        micro: &[HostBatch],
        lr: f64,
        course: &mut Course,
        window: &mut Window,
    ) -> Result<Stepped> {
        let start = (self.clock)();
        let outcome = self.passes(micro, course)?;
        window.computing += (self.clock)().saturating_sub(start);
        // Who looks on takes nothing of the time that is reported.
        let step = self.progress.step + 1;
        self.observers.iter_mut().for_each(|o| o.differentiated(step, &*self.engine));
        let start = (self.clock)();
        let loss = outcome.loss();
        let mut skipped = match loss.is_finite() {
            false => Some(Skipped::NotFinite),
            true if self.config.skip_spikes && self.progress.level.is_below(loss) => {
                Some(Skipped::Spike(loss))
            }
            true => None,
        };
        let mut grad_norm = f64::NAN;
        if skipped.is_some() {
            self.engine.forget_gradients()?;
        } else {
            window.outcome.add(&outcome);
            let updated = self.engine.update(&Update { step, lr, clip: self.config.clip })?;
            grad_norm = updated.grad_norm;
            skipped = (!updated.applied).then_some(Skipped::NotFinite);
        }
        if self.config.skip_spikes && skipped.is_none() {
            self.progress.level.add(loss);
        }
        for batch in micro {
            window.guesses.add(&Guesses::on(self.unigram, batch));
            let (tokens, samples) = (batch.tokens() as u64, batch.samples() as u64);
            self.progress.tokens += tokens;
            self.progress.samples += samples;
            window.tokens += tokens;
            window.samples += samples;
        }
        self.pass_by(micro)?;
        self.progress.skipped_updates += u64::from(skipped.is_some());
        self.progress.skipped_in_a_row =
            if skipped.is_some() { self.progress.skipped_in_a_row + 1 } else { 0 };
        window.computing += (self.clock)().saturating_sub(start);
        let epoch = micro[0].origins.first().map_or(self.progress.cursor.epoch, |o| o.cursor.epoch);
        Ok(Stepped { epoch, lr, grad_norm, skipped })
    }

    /// Forward and backward over all rows of the next step: in passes of fewer rows where the device has not the memory
    /// for a batch at once. Divisors and places of the rows are those of the whole step, so that it is the same step.
    fn passes(&mut self, micro: &[HostBatch], course: &mut Course) -> Result<Outcome> {
        loop {
            let widest = micro.iter().map(|batch| batch.rows).max().unwrap_or(0);
            let rows = widest.min(course.rows_at_once);
            match self.passes_of(micro, rows) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory && rows > 1 => {
                    // Some of the passes may have added to them.
                    self.engine.forget_gradients()?;
                    course.rows_at_once = rows.div_ceil(2);
                    self.record(&Record::SmallerPasses {
                        step: self.progress.step,
                        rows: course.rows_at_once,
                    });
                }
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                    return Err(error.context(
                        "train: the device has not the memory for a single row: choose a smaller --hidden, \
                         --layers or --seq-len",
                    ));
                }
                outcome => return outcome,
            }
        }
    }

    fn passes_of(&mut self, micro: &[HostBatch], rows: usize) -> Result<Outcome> {
        let mut pass = Pass {
            seed: self.config.sample.seed,
            step: self.progress.step + 1,
            first_row: 0,
            masked_in_step: micro.iter().map(|b| b.masked.len()).sum(),
            pairs_in_step: micro.iter().map(labelled_pairs).sum(),
        };
        let mut outcome = Outcome::default();
        for batch in micro {
            let parts = if batch.rows <= rows { vec![] } else { batch.split(rows) };
            for part in if parts.is_empty() { std::slice::from_ref(batch) } else { &parts } {
                outcome.add(&self.engine.accumulate(part, &pass)?);
                pass.first_row += part.samples();
            }
        }
        Ok(outcome)
    }

    /// One step further in the stream of batches.
    fn pass_by(&mut self, micro: &[HostBatch]) -> Result<()> {
        let last = micro.last().ok_or_else(|| Error::internal("train: a step without a batch"))?;
        micro.iter().for_each(|batch| self.progress.digest.update(batch));
        self.progress.step += 1;
        self.progress.cursor = last.next;
        self.progress.ends_epoch = last.ends_epoch;
        Ok(())
    }

    /// A step that changes no weight.
    fn leave_out(&mut self, micro: &[HostBatch], course: &Course) -> Result<()> {
        self.pass_by(micro)?;
        self.progress.left_out += 1;
        let (step, total) = (self.progress.step, self.config.length.total);
        self.observers.iter_mut().for_each(|o| o.advanced(step, total));
        if !course.skips.amidst(step) || step == total {
            let left_out = |from: &u64| course.skips.contains(*from);
            let from = (1..=step).rev().take_while(left_out).last().unwrap_or(step);
            self.record(&Record::LeftOut { step, from });
        }
        Ok(())
    }

    /// Goes back to what had been learnt at the newest checkpoint from before the training diverged, and on from here:
    /// the batches since are left out, which becomes part of the run. A checkpoint is gone back to once; if that
    /// did not help, to the one before. What is finite all the same, as after a change of the text that lasts, is
    /// not worth more than the newest checkpoint: then it is the level from here on.
    fn roll_back(&mut self, course: &mut Course, skipped: Option<Skipped>) -> Result<()> {
        let finite = matches!(skipped, Some(Skipped::Spike(_)));
        let checkpoints = self.run.checkpoints();
        let step = self.progress.step;
        let configuration = self.config.fingerprint();
        let sound = |found: &Checkpoint| {
            found.manifest.progress.skipped_in_a_row == 0 && found.manifest.configuration == configuration
        };
        let before = checkpoints.steps()?.into_iter().filter(|&s| s < step);
        let mut before = before.filter_map(|s| checkpoints.load(s, self.engine.layout()).ok()).filter(sound);
        let untried = |found: &Checkpoint| !course.skips.tried_from(found.manifest.progress.step);
        let found = if finite { before.next().filter(untried) } else { before.find(untried) };
        let Some(Checkpoint { manifest, state }) = found else {
            if finite {
                self.progress.level = Level::default();
                self.progress.skipped_in_a_row = 0;
                self.record(&Record::NewLevel { step });
                return Ok(());
            }
            return Err(Error::data(format!(
                "train: step {step}: neither loss nor gradient were finite in {HOPELESS} steps in a row, and there is \
                 no checkpoint to go back to: the training has diverged; start again with a lower --lr, a longer \
                 --warmup or a lower --clip"
            )));
        };
        self.engine.restore(state)?;
        let back = manifest.progress;
        let to = back.step;
        course.skips = course.skips.and(to + 1..step + 1);
        // In this order: killed in between, the run goes on from there, diverges again and comes back to here.
        checkpoints.retract_behind(to)?;
        self.run.write_config(&RunConfig { skip_steps: course.skips.clone(), ..self.config.clone() })?;
        self.progress = Progress {
            step,
            cursor: self.progress.cursor,
            ends_epoch: self.progress.ends_epoch,
            digest: self.progress.digest,
            left_out: back.left_out + (step - to),
            ..back
        };
        course.saved = Saved { step: to, evaluated: self.progress.evaluated };
        self.record(&Record::RolledBack { step, to });
        Ok(())
    }

    /// Tells the observers.
    fn log(&mut self, stepped: &Stepped, window: &mut Window) {
        let Progress { step, skipped_updates, .. } = self.progress;
        let total = self.config.length.total;
        for observer in &mut self.observers {
            observer.updated(step, self.engine);
            observer.advanced(step, total);
        }
        if let Some(skipped) = stepped.skipped {
            let digest = self.progress.digest.to_string();
            let loss = match skipped {
                Skipped::Spike(loss) => Some(loss),
                Skipped::NotFinite => None,
            };
            self.record(&Record::SkippedUpdate { step, loss, skipped_updates, digest });
        }
        if step.is_multiple_of(self.config.runtime.log_freq) || step == total || self.progress.ends_epoch {
            let record = self.step_record(stepped, window);
            self.record(&Record::Step(record));
            *window = Window::default();
        }
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
    fn evaluation_due(&self, course: &Course) -> bool {
        let Progress { step, ends_epoch, evaluated, .. } = self.progress;
        let asked = self.config.runtime.eval_every.is_some_and(|n| step.is_multiple_of(n));
        let due = ends_epoch || asked || step == self.config.length.total;
        self.test.is_some() && step > 0 && evaluated < step && due && !self.amidst_skips(course)
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

    fn save_due(&self, course: &Course) -> bool {
        let Progress { step, ends_epoch, .. } = self.progress;
        let asked = self.config.runtime.save_every.is_some_and(|n| step.is_multiple_of(n));
        (ends_epoch || asked) && !self.amidst_skips(course)
    }

    /// Whether the step just done is left out and the next will be: nothing is measured or saved until something is
    /// learnt again, so that a replay does the same as the run that had diverged there.
    fn amidst_skips(&self, course: &Course) -> bool {
        course.skips.amidst(self.progress.step) && self.progress.step < self.config.length.total
    }

    fn save(&mut self, course: &mut Course) -> Result<()> {
        let saved = &mut course.saved;
        let step = self.progress.step;
        let best = self.progress.best.map(|best| best.step);
        let checkpoints = self.run.checkpoints();
        let now = Saved::of(&self.progress);
        if saved.step == now.step && saved.evaluated != now.evaluated {
            // The weights lie there; what became known of them since does not.
            checkpoints.amend(&self.progress)?;
            *saved = now;
        } else if saved.step != now.step {
            let path = checkpoints.save(
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
        checkpoints.prune(self.config.runtime.keep, best)
    }

    /// A full disk must not end hours of training: the checkpoint before is intact, the next one may
    /// succeed.
    fn save_on_the_way(&mut self, course: &mut Course) {
        if let Err(error) = self.save(course) {
            let step = self.progress.step;
            self.record(&Record::CheckpointFailed { step, reason: error.to_string() });
        }
    }

    fn save_at_end(&mut self, course: &mut Course) -> Result<()> {
        if self.progress.step == 0 {
            return Ok(());
        }
        self.save(course).map_err(|e| e.context(format!("last checkpoint, step {}", self.progress.step)))
    }

    /// Saves what was learnt before the data failed, and gives the failure back.
    fn save_before(&mut self, error: Error, course: &mut Course) -> Error {
        if let Err(second) = self.save_at_end(course) {
            let step = self.progress.step;
            self.record(&Record::CheckpointFailed { step, reason: second.to_string() });
        }
        error.context(format!("train: no data for step {}", self.progress.step + 1))
    }

    fn record(&mut self, record: &Record) {
        self.observers.iter_mut().for_each(|o| o.recorded(record));
    }
}
