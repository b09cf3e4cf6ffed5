//! How documents, batches, steps and epochs count into each other.

use serde::{Deserialize, Serialize};

use crate::sample::Cursor;

/// What an epoch holds: counted where each document gives one sample, else estimated from its beginning.
///
/// No malformed document is left out here: where lines are skipped the numbers are upper bounds, and a run by
/// epochs ends before its schedule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub samples: u64,
    pub batches: u64,
    /// Whether these are counts and no estimates.
    pub exact: bool,
}

impl Epoch {
    /// An epoch of `samples` in full batches of `batch_size`, but for the last.
    pub fn counted(samples: u64, batch_size: u64) -> Self {
        Self { samples, batches: samples.div_ceil(batch_size), exact: true }
    }

    /// Steps of one epoch. Neither a batch nor a step of `accumulate` batches crosses an epoch's end: the last
    /// of each may be smaller.
    pub fn steps(&self, accumulate: usize) -> u64 {
        self.batches.div_ceil(accumulate as u64)
    }
}

/// Where the data of `step`, counted from 1, begins, where every one of `documents` gives one sample and a
/// full step has `per_step` of them.
pub fn start_of_step(step: u64, documents: u64, per_step: u64) -> Cursor {
    let steps = documents.div_ceil(per_step).max(1);
    let before = step.saturating_sub(1);
    Cursor { epoch: before / steps, position: before % steps * per_step, part: 0 }
}

/// How long a run is, as asked for, and the number of steps that comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Length {
    /// Stop after so many epochs; `None`: as many as the steps take.
    pub epochs: Option<u64>,
    /// Stop after so many steps; `None`: as many as the epochs have.
    pub steps: Option<u64>,
    /// Steps of the whole run, which the schedule is laid out for.
    pub total: u64,
}

/// Epochs of a run that asks for nothing, as in the reference.
pub const DEFAULT_EPOCHS: u64 = 10;

impl Length {
    /// Of epochs of `steps_of_epoch`. Whichever of both ends first; [`DEFAULT_EPOCHS`] where neither is given.
    pub fn new(epochs: Option<u64>, steps: Option<u64>, steps_of_epoch: u64) -> Self {
        let epochs = match (epochs, steps) {
            (None, None) => Some(DEFAULT_EPOCHS),
            _ => epochs,
        };
        let by_epochs = epochs.map(|e| e.saturating_mul(steps_of_epoch));
        let total = match (by_epochs, steps) {
            (Some(e), Some(s)) => e.min(s),
            (Some(n), None) | (None, Some(n)) => n,
            (None, None) => 0,
        };
        Self { epochs, steps, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_an_epoch_round_up_twice() {
        for (samples, batch_size, accumulate, expected) in
            [(64, 64, 1, 1), (65, 64, 1, 2), (1, 64, 8, 1), (1000, 10, 3, 34), (0, 10, 3, 0)]
        {
            let epoch = Epoch::counted(samples, batch_size);
            assert_eq!(epoch.steps(accumulate), expected, "{epoch:?}");
        }
    }

    #[test]
    fn the_total_is_whichever_ends_first() {
        let check = |epochs, steps, total| {
            assert_eq!(Length::new(epochs, steps, 10).total, total, "{epochs:?} {steps:?}");
        };
        check(None, None, 100);
        check(Some(3), None, 30);
        check(None, Some(7), 7);
        check(None, Some(1234), 1234);
        check(Some(3), Some(7), 7);
        check(Some(3), Some(70), 30);
    }

    #[test]
    fn a_step_s_data_begins_where_the_one_before_ended() {
        let check = |documents, per_step, step, epoch, position| {
            let expected = Cursor { epoch, position, part: 0 };
            assert_eq!(start_of_step(step, documents, per_step), expected, "{documents} {per_step} {step}");
        };
        check(100, 10, 1, 0, 0);
        check(100, 10, 10, 0, 90);
        check(100, 10, 11, 1, 0);
        check(95, 40, 3, 0, 80);
        check(95, 40, 4, 1, 0);
        check(95, 40, 5, 1, 40);
    }
}
