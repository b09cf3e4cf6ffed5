//! A run on the terminal: a progress bar with the time left where stderr is one, plain lines otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;

use super::super::bottleneck::{Situation, WAITING, bottleneck, slowest};
use super::super::log;
use super::super::output::tell;
use crate::flow::{FlowReport, StageReport};
use crate::train::{Figures, Observer, Record, StepRecord};

/// Tells people on stderr how a run goes.
pub struct Terminal {
    /// `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    quiet: bool,
    situation: Situation<'static>,
    /// The stage that was told to be slow.
    slow: Option<String>,
}

impl Terminal {
    /// For a run that stands at `step` of `total`.
    pub fn new(quiet: bool, situation: Situation<'static>, step: u64, total: u64) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = log::bar(total, "{bar:30} {pos}/{len} steps, {elapsed} gone, {eta} left {msg}");
            bar.set_position(step);
            bar.reset_eta();
            bar
        });
        Self { bar, quiet, situation, slow: None }
    }

    /// Told even where no progress is shown.
    fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => tell(text),
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Names the stage that training waits for, when that is another than before.
    fn name_slow_stage(&mut self, record: &StepRecord) {
        let slow = (record.data_wait >= WAITING).then(|| slowest(&record.stages)).flatten();
        let slow = slow.map(|stage| stage.name.clone().into_owned());
        if slow.is_some() && slow != self.slow {
            let flow = FlowReport {
                wall: Duration::from_secs_f64(record.seconds),
                stages: record.stages.clone(),
                data_wait: record.data_wait,
            };
            // Nothing is said of a time too short to tell, and so it is looked at again.
            let Some(line) = bottleneck(&flow, self.situation) else { return };
            self.line(&format!("bottleneck: {line}"));
        }
        self.slow = slow;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Terminal {
    fn advanced(&mut self, step: u64, _total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    fn recorded(&mut self, record: &Record) {
        match record {
            Record::Step(r) => {
                self.line(&step_line(r));
                self.name_slow_stage(r);
            }
            Record::Evaluation(r) => self.line(&format!(
                "test {:>5}  {}{}",
                r.step,
                losses(&r.figures),
                if r.best { "  (best so far)" } else { "" }
            )),
            Record::SkippedUpdate { step, skipped_updates, .. } => self.warn(&format!(
                "step {step:>5}  the gradient is not finite: update skipped ({skipped_updates} so far)"
            )),
            Record::RolledBack { step, to } => self.warn(&format!(
                "step {step:>5}  the training has diverged: back to what was learnt up to step {to}; the batches since \
                 are left out"
            )),
            Record::LeftOut { step, from } => self.line(&format!("step {step:>5}  left out from step {from} on")),
            Record::SmallerPasses { step, rows } => self.warn(&format!(
                "step {step:>5}  the device is out of memory: {rows} rows at once from here on, the steps are the same"
            )),
            Record::CheckpointFailed { step, reason } => self.warn(&format!(
                "step {step:>5}  no checkpoint: {reason}; training goes on, the last one is intact"
            )),
            Record::Checkpoint { step, path } => {
                tracing::debug!(step, path = %path.display(), "checkpoint");
            }
        }
    }
}

/// The figures that people watch; all of them are in `metrics.jsonl`.
fn step_line(record: &StepRecord) -> String {
    format!(
        "step {:>5}  {}  lr {:.1e}  norm {}  {:.0} tok/s  wait {:.0}%{}",
        record.step,
        losses(&record.figures),
        record.lr,
        record.grad_norm.map_or_else(|| "not finite".to_owned(), |norm| format!("{norm:.1}")),
        record.tokens_per_second,
        100.0 * record.data_wait,
        busy(&record.stages)
    )
}

/// `  sample 31%  collate 4%`: how busy the stages before the training are.
fn busy(stages: &[StageReport]) -> String {
    stages.iter().map(|stage| format!("  {} {:.0}%", stage.name, 100.0 * stage.busy)).collect()
}

/// Both losses and accuracies, each beside what guessing reaches.
fn losses(figures: &Figures) -> String {
    let (nats, share) = (|loss: f64| format!("{loss:.3}"), |share: f64| format!("{:.1}%", 100.0 * share));
    let (about, share_about) = (|loss| format!("{loss:.2}"), |share: f64| format!("{:.0}%", 100.0 * share));
    let mut text = format!("loss {}", nats(figures.loss));
    if figures.masked > 0 {
        text += &format!("  mlm {}", nats(figures.mlm_loss));
        text += &beside(figures.unigram_loss, about);
        text += &format!(" {}", share(figures.mlm_accuracy));
        text += &beside(figures.majority_accuracy, share_about);
    }
    if figures.pairs > 0 {
        text += &format!("  nsp {}", nats(figures.nsp_loss));
        text += &beside(figures.nsp_chance_loss, about);
        text += &format!(" {}", share(figures.nsp_accuracy));
        text += &beside(figures.nsp_majority_accuracy, share_about);
    }
    text
}

fn beside(guess: Option<f64>, show: impl Fn(f64) -> String) -> String {
    guess.map_or(String::new(), |guess| format!(" [{}]", show(guess)))
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, busy: f64) -> StageReport {
        StageReport { name: name.into(), threads: 1, busy, ready: 0.0, queue: 2 }
    }

    #[test]
    fn a_step_fits_into_a_line() {
        let figures = Figures {
            loss: 10.123,
            mlm_loss: 9.43,
            nsp_loss: 0.693,
            mlm_accuracy: 0.123,
            nsp_accuracy: 0.501,
            perplexity: 12456.0,
            masked: 1000,
            pairs: 64,
            unigram_loss: Some(6.5),
            majority_accuracy: Some(0.042),
            nsp_majority_accuracy: Some(0.5),
            nsp_chance_loss: Some(0.692),
        };
        let mut record = StepRecord {
            step: 12_340,
            epoch: 1,
            lr: 1e-3,
            figures,
            grad_norm: Some(1.0),
            tokens: 1,
            samples: 1,
            tokens_per_second: 23_456.0,
            samples_per_second: 100.0,
            seconds: 1.0,
            data_wait: 0.01,
            stages: vec![stage("sample", 0.308), stage("collate", 0.04)],
            skipped_updates: 0,
            digest: String::new(),
        };
        assert_eq!(
            step_line(&record),
            "step 12340  loss 10.123  mlm 9.430 [6.50] 12.3% [4%]  nsp 0.693 [0.69] 50.1% [50%]  lr 1.0e-3  \
             norm 1.0  23456 tok/s  wait 1%  sample 31%  collate 4%"
        );
        record.grad_norm = None;
        assert!(step_line(&record).contains("  norm not finite  "));
    }
}
