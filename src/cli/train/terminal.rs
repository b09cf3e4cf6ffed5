//! A run on the terminal: a block that is drawn over itself where stderr is one, plain lines or JSON otherwise.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::super::bottleneck::{Situation, WAITING, bottleneck, slowest};
use super::super::log;
use super::super::output::tell;
use super::super::ram;
use super::live::View;
use crate::flow::{FlowReport, StageReport};
use crate::sample::Paint;
use crate::train::{Figures, Observer, Record, StepRecord};

/// Tells people on stderr how a run goes.
pub struct Terminal {
    shown: Shown,
    situation: Situation<'static>,
    /// The stage that was told to be slow.
    slow: Option<String>,
}

/// In which form.
enum Shown {
    Live(Box<Live>),
    Lines,
    /// Each record as it is in `metrics.jsonl`.
    Json,
    /// Warnings only.
    Quiet,
}

/// A block of lines that is drawn over itself.
struct Live {
    bar: ProgressBar,
    view: View,
    drawn: Instant,
}

/// Time between two drawings of what changes with every step: the eye follows no faster, and a step of a
/// millisecond must not wait for it.
const REDRAW: Duration = Duration::from_millis(200);

impl Live {
    /// For a run that stands at `step` of `total` and has left these records.
    fn new(step: u64, total: u64, earlier: &[Record]) -> Self {
        // It begins with an empty line: `^C`, which the terminal writes behind the filled-up last one, is a line more than
        // indicatif knows of when it wipes the block, and the first one stays.
        let first = "\n{spinner} {wide_bar:.cyan} {percent:>3} %  {human_pos} of {human_len} steps  \
                     {elapsed_precise} gone, {eta_precise} left\n{msg}";
        let bar = log::bar(total, first);
        let style = bar.style().progress_chars("━╸─").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏━");
        bar.set_style(style);
        bar.set_position(step);
        bar.reset_eta();
        // A step may take a minute: something moves meanwhile.
        bar.enable_steady_tick(REDRAW);
        let mut view = View::default();
        earlier.iter().for_each(|record| view.record(record));
        Self { bar, view, drawn: Instant::now() }
    }

    fn draw(&mut self) {
        self.view.memory = ram::status("VmRSS:");
        let paint = if log::minds_colours() { Paint::Plain } else { Paint::Ansi };
        self.bar.set_message(self.view.block(log::columns().saturating_sub(1), paint));
        self.drawn = Instant::now();
    }
}

impl Terminal {
    /// For a run that stands at `step` of `total` and has left these records.
    pub fn new(
        quiet: bool,
        situation: Situation<'static>,
        step: u64,
        total: u64,
        earlier: &[Record],
    ) -> Self {
        let shown = match log::format() {
            _ if quiet => Shown::Quiet,
            log::Format::Json => Shown::Json,
            log::Format::Text if log::is_live() => Shown::Live(Box::new(Live::new(step, total, earlier))),
            log::Format::Text => Shown::Lines,
        };
        Self { shown, situation, slow: None }
    }

    /// Told unless nothing is to be.
    fn line(&self, text: &str) {
        if !matches!(self.shown, Shown::Quiet) {
            tell(text);
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
    /// The block stays, as it was last: as lines, since what is still drawn is wiped for the next line told.
    fn drop(&mut self) {
        if let Shown::Live(live) = &mut self.shown {
            live.draw();
            live.bar.finish_and_clear();
            let block = live.bar.message();
            if !block.is_empty() {
                tell(block);
            }
        }
    }
}

impl Observer for Terminal {
    fn advanced(&mut self, step: u64, _total: u64) {
        if let Shown::Live(live) = &mut self.shown {
            live.bar.set_position(step);
            if live.drawn.elapsed() >= REDRAW {
                live.draw();
            }
        }
    }

    fn recorded(&mut self, record: &Record) {
        match &mut self.shown {
            Shown::Json => return log::object(record),
            Shown::Live(live) => {
                live.view.record(record);
                live.draw();
            }
            Shown::Lines | Shown::Quiet => {}
        }
        let lines = matches!(self.shown, Shown::Lines);
        match record {
            Record::Step(r) => {
                if lines {
                    tell(step_line(r));
                }
                // The block shows it anyway.
                if !matches!(self.shown, Shown::Live(_)) {
                    self.name_slow_stage(r);
                }
            }
            Record::Evaluation(r) if lines => tell(format_args!(
                "test {:>5}  {}{}",
                r.step,
                losses(&r.figures),
                if r.best { "  (best so far)" } else { "" }
            )),
            Record::Evaluation(_) => {}
            Record::SkippedUpdate { step, loss: Some(loss), skipped_updates, .. } => tell(format_args!(
                "step {step:>5}  the loss jumped to {loss:.3}: update skipped ({skipped_updates} so far; --spikes keep \
                 makes them)"
            )),
            Record::NewLevel { step } => tell(format_args!(
                "step {step:>5}  the loss stays where it jumped to, and there is no other checkpoint to go back to: \
                 it is trained on"
            )),
            Record::SkippedUpdate { step, loss: None, skipped_updates, .. } => tell(format_args!(
                "step {step:>5}  the gradient is not finite: update skipped ({skipped_updates} so far)"
            )),
            Record::RolledBack { step, to } => tell(format_args!(
                "step {step:>5}  the training has diverged: back to what was learnt up to step {to}; the batches since \
                 are left out"
            )),
            Record::LeftOut { step, from } => {
                self.line(&format!("step {step:>5}  left out from step {from} on"))
            }
            Record::SmallerPasses { step, rows } => tell(format_args!(
                "step {step:>5}  the device is out of memory: {rows} rows at once from here on, the steps are the same"
            )),
            Record::CheckpointFailed { step, reason } => tell(format_args!(
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

#[cfg(test)]
pub mod tests {
    use super::*;

    fn stage(name: &'static str, busy: f64) -> StageReport {
        StageReport { name: name.into(), threads: 1, busy, ready: 0.0, queue: 2 }
    }

    /// A record with every figure.
    pub fn step_record(step: u64) -> StepRecord {
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
        StepRecord {
            step,
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
        }
    }

    #[test]
    fn a_step_fits_into_a_line() {
        let mut record = step_record(12_340);
        assert_eq!(
            step_line(&record),
            "step 12340  loss 10.123  mlm 9.430 [6.50] 12.3% [4%]  nsp 0.693 [0.69] 50.1% [50%]  lr 1.0e-3  \
             norm 1.0  23456 tok/s  wait 1%  sample 31%  collate 4%"
        );
        record.grad_norm = None;
        assert!(step_line(&record).contains("  norm not finite  "));
    }
}
