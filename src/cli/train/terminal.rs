//! A run on the terminal: a progress bar with the time left where stderr is one, plain lines otherwise.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{Figures, Observer, Record};

/// Tells people on stderr how a run goes.
pub struct Terminal {
    /// `None` where stderr is not a terminal.
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Terminal {
    /// For a run that stands at `step` of `total`.
    pub fn new(quiet: bool, step: u64, total: u64) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = "{bar:30} {pos}/{len} steps, {elapsed} gone, {eta} left {msg}";
            let bar = ProgressBar::new(total)
                .with_style(ProgressStyle::with_template(style).expect("the template above is well formed"));
            bar.set_position(step);
            bar.reset_eta();
            bar
        });
        Self { bar, quiet }
    }

    /// Told even where no progress is shown.
    fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // Training goes on where stderr is gone.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
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
            Record::Step(r) => self.line(&format!(
                "step {:>6}  {}  lr {:.2e}  norm {}  {:.0} tokens/s, {:.0} samples/s, {:.0} % waiting",
                r.step,
                losses(&r.figures),
                r.lr,
                r.grad_norm.map_or("not finite".to_owned(), |norm| format!("{norm:.2}")),
                r.tokens_per_second,
                r.samples_per_second,
                100.0 * r.data_wait,
            )),
            Record::Evaluation(r) => self.line(&format!(
                "test {:>6}  {}{}",
                r.step,
                losses(&r.figures),
                if r.best { "  (best so far)" } else { "" }
            )),
            Record::SkippedUpdate { step, skipped_updates, .. } => self.warn(&format!(
                "step {step:>6}  the gradient is not finite: update skipped ({skipped_updates} so far)"
            )),
            Record::CheckpointFailed { step, reason } => self.warn(&format!(
                "step {step:>6}  no checkpoint: {reason}; training goes on, the last one is intact"
            )),
            Record::Checkpoint { step, path } => {
                tracing::debug!(step, path = %path.display(), "checkpoint");
            }
        }
    }
}

/// Both losses and accuracies, each beside what guessing reaches.
fn losses(figures: &Figures) -> String {
    let mut text = format!("loss {:.4}", figures.loss);
    if figures.masked > 0 {
        text += &format!("  mlm {:.4}", figures.mlm_loss);
        text += &beside(figures.unigram_loss, |guess| format!("{guess:.4}"));
        text += &format!(" {}", percent(figures.mlm_accuracy));
        text += &beside(figures.majority_accuracy, percent);
    }
    if figures.pairs > 0 {
        text += &format!("  pairs {:.4}", figures.nsp_loss);
        text += &beside(figures.nsp_chance_loss, |guess| format!("{guess:.4}"));
        text += &format!(" {}", percent(figures.nsp_accuracy));
        text += &beside(figures.nsp_majority_accuracy, percent);
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
