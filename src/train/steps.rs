//! How documents, batches, steps and epochs count into each other.

use serde::{Deserialize, Serialize};

use crate::sample::Cursor;

/// What decides how many steps an epoch has.
///
/// One sample a document is assumed, and no malformed document left out: where lines are skipped the
/// numbers are upper bounds, and a run by epochs ends before its schedule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochShape {
    pub documents: u64,
    /// Rows of a full batch.
    pub batch_size: u64,
    /// Batches of a full step.
    pub accumulate: u64,
}

impl EpochShape {
    /// Steps of one epoch. Neither a batch nor a step crosses an epoch's end: the last of each may be
    /// smaller.
    pub fn steps(&self) -> u64 {
        self.documents.div_ceil(self.batch_size).div_ceil(self.accumulate)
    }

    /// Where the data of `step`, counted from 1, begins.
    pub fn cursor(&self, step: u64) -> Cursor {
        let steps = self.steps().max(1);
        let before = step.saturating_sub(1);
        Cursor {
            epoch: before / steps,
            position: before % steps * self.accumulate * self.batch_size,
            part: 0,
        }
    }
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
    /// Whichever of both ends first; [`DEFAULT_EPOCHS`] where neither is given.
    pub fn new(epochs: Option<u64>, steps: Option<u64>, shape: EpochShape) -> Self {
        let epochs = match (epochs, steps) {
            (None, None) => Some(DEFAULT_EPOCHS),
            _ => epochs,
        };
        let by_epochs = epochs.map(|e| e.saturating_mul(shape.steps()));
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

    fn shape(documents: u64, batch_size: u64, accumulate: u64) -> EpochShape {
        EpochShape { documents, batch_size, accumulate }
    }

    #[test]
    fn steps_of_an_epoch_round_up_twice() {
        for (shape, expected) in [
            (shape(64, 64, 1), 1),
            (shape(65, 64, 1), 2),
            (shape(1, 64, 8), 1),
            (shape(1000, 10, 3), 34),
            (shape(0, 10, 3), 0),
        ] {
            assert_eq!(shape.steps(), expected, "{shape:?}");
        }
    }

    #[test]
    fn the_total_is_whichever_ends_first() {
        let check = |epochs, steps, total| {
            assert_eq!(Length::new(epochs, steps, shape(100, 10, 1)).total, total, "{epochs:?} {steps:?}");
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
        let check = |shape: EpochShape, step, epoch, position| {
            assert_eq!(shape.cursor(step), Cursor { epoch, position, part: 0 }, "{shape:?} {step}");
        };
        check(shape(100, 10, 1), 1, 0, 0);
        check(shape(100, 10, 1), 10, 0, 90);
        check(shape(100, 10, 1), 11, 1, 0);
        check(shape(95, 10, 4), 3, 0, 80);
        check(shape(95, 10, 4), 4, 1, 0);
        check(shape(95, 10, 4), 5, 1, 40);
    }
}
