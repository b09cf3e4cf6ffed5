//! When the loss of a step is a spike: far above those of the steps before.
//!
//! A pure function of the losses so far, of which a checkpoint keeps three numbers, so that a resumed run and a replay
//! judge alike. Knows nothing of what follows from it.

use serde::{Deserialize, Serialize};

/// Steps that are looked back at, and deviations from their mean that are too many: those of OLMo-core's
/// `SkipStepOptimizer`.
const STEPS: u64 = 128;
const DEVIATIONS: f64 = 6.0;

/// Before so many steps nothing is a spike.
const FEWEST: u64 = STEPS / 2;

/// Nats that a spike is above the mean at least. Where a text is nearly known by heart, losses hardly deviate, and a
/// hard sample is no accident.
const RISE: f64 = 0.5;

/// About what the losses of the last steps were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Steps that it is the level of.
    steps: u64,
    /// Their mean loss and its variance, older steps counting less. Single precision, whose decimal digits any JSON
    /// reader gives back exactly.
    mean: f32,
    variance: f32,
}

impl Level {
    /// Takes up the loss of a step that was made, in nats.
    pub fn add(&mut self, loss: f64) {
        self.steps += 1;
        let weight = 1.0 / self.steps.min(STEPS) as f64;
        let (mean, variance) = (f64::from(self.mean), f64::from(self.variance));
        let deviation = loss - mean;
        self.mean = (mean + weight * deviation) as f32;
        // West's update of a weighted variance (1979).
        self.variance = ((1.0 - weight) * (variance + weight * deviation * deviation)) as f32;
    }

    /// Whether a finite loss is too far above it.
    pub fn is_below(&self, loss: f64) -> bool {
        let rise = (DEVIATIONS * f64::from(self.variance).sqrt()).max(RISE);
        self.steps >= FEWEST && loss > f64::from(self.mean) + rise
    }

    /// Whether no step was taken up yet.
    pub fn is_unknown(&self) -> bool {
        self.steps == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After `steps` losses about `mean`, `noise` above and below.
    fn level(steps: u64, mean: f64, noise: f64) -> Level {
        let mut level = Level::default();
        (0..steps).for_each(|step| level.add(mean + if step % 2 == 0 { noise } else { -noise }));
        level
    }

    #[test]
    fn a_spike_is_six_deviations_and_half_a_nat_above_the_last_steps() {
        let check =
            |level: Level, loss, expected| assert_eq!(level.is_below(loss), expected, "{level:?} {loss}");
        check(level(63, 3.0, 0.2), 99.0, false);
        check(level(64, 3.0, 0.2), 4.1, false);
        check(level(64, 3.0, 0.2), 4.3, true);
        check(level(1000, 3.0, 0.2), 4.3, true);
        check(level(1000, 3.0, 0.2), 0.0, false);
        check(level(1000, 0.01, 0.001), 0.4, false);
        check(level(1000, 0.01, 0.001), 0.6, true);
        // A loss that falls fast deviates much.
        let mut falling = Level::default();
        (0..200).for_each(|step| falling.add(9.0 - f64::from(step) * 0.03));
        check(falling, 9.0, false);
    }

    #[test]
    fn what_is_long_past_is_forgotten_and_json_keeps_the_rest() {
        let mut level = level(1000, 9.0, 0.1);
        (0..2000).for_each(|_| level.add(1.0 / 3.0));
        assert!((f64::from(level.mean) - 1.0 / 3.0).abs() < 1e-3, "{level:?}");
        assert!(level.is_below(1.0));
        let text = serde_json::to_string(&level).unwrap();
        assert_eq!(serde_json::from_str::<Level>(&text).unwrap(), level);
    }
}
