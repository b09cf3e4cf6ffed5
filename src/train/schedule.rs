//! The learning rate as a pure function of the step.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a run. All of them begin with a warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Down to zero in a straight line.
    #[default]
    Linear,
    /// Down to zero along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
    /// The peak rate for ever.
    Constant,
    /// `hidden^-0.5 * min(step^-0.5, step * warmup^-1.5)` (Vaswani et al. 2017, section 5.3), as the
    /// reference has it.
    Reference,
}

/// The `--lr` at which [`ScheduleKind::Reference`] is exactly the reference's: its own default, which it
/// then ignores. Another `--lr` scales that schedule by the ratio of both.
pub const REFERENCE_LR: f64 = 1e-3;

/// Everything that the learning rate depends on, but for the step and the run's length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// Peak rate; for [`ScheduleKind::Reference`] see [`REFERENCE_LR`].
    pub lr: f64,
    /// Steps until the peak.
    pub warmup: u64,
    /// Width of the model, which the reference's schedule scales with.
    pub hidden: usize,
}

impl Schedule {
    /// The learning rate of `step`, counted from 1, in a run of `total` steps.
    ///
    /// The warm-up's first step has rate `lr / warmup`, its last one `lr`. The decays would reach zero at
    /// step `total + 1`, so that no step of a run is wasted at rate zero.
    pub fn lr(&self, step: u64, total: u64) -> f64 {
        if self.kind == ScheduleKind::Reference {
            let step = step as f64;
            let warmup = self.warmup.max(1) as f64;
            let scale = step.powf(-0.5).min(step * warmup.powf(-1.5));
            return self.lr / REFERENCE_LR * (self.hidden as f64).powf(-0.5) * scale;
        }
        if step < self.warmup {
            return self.lr * step as f64 / self.warmup as f64;
        }
        let span = (total + 1).saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / span).min(1.0);
        match self.kind {
            ScheduleKind::Linear => self.lr * (1.0 - done),
            ScheduleKind::Cosine => self.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            ScheduleKind::Constant | ScheduleKind::Reference => self.lr,
        }
    }
}

/// Warm-up steps where none are asked for: a tenth of the run, as BERT has it (10,000 of 1,000,000 is
/// its hundredth, but short runs need more), at most the 10,000 of BERT and of the reference, which
/// always takes them.
pub fn default_warmup(kind: ScheduleKind, total: u64) -> u64 {
    match kind {
        ScheduleKind::Reference => 10_000,
        _ => (total / 10).min(10_000),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(kind: ScheduleKind, warmup: u64, step: u64, expected: f64) {
        let lr = Schedule { kind, lr: 1e-3, warmup, hidden: 256 }.lr(step, 1000);
        assert!((lr - expected).abs() <= 1e-9 * expected, "{kind:?} {step}: {lr} is not {expected}");
    }

    #[test]
    fn each_schedule_at_known_steps() {
        check(ScheduleKind::Linear, 100, 1, 1e-5);
        check(ScheduleKind::Linear, 100, 50, 5e-4);
        check(ScheduleKind::Linear, 100, 100, 1e-3);
        check(ScheduleKind::Linear, 100, 550, 1e-3 * 451.0 / 901.0);
        check(ScheduleKind::Linear, 100, 1000, 1e-3 / 901.0);
        check(ScheduleKind::Linear, 100, 1001, 0.0);
        check(ScheduleKind::Linear, 0, 1, 1e-3 * 1000.0 / 1001.0);
        check(ScheduleKind::Cosine, 101, 101, 1e-3);
        check(ScheduleKind::Cosine, 101, 551, 5e-4);
        check(ScheduleKind::Constant, 10, 1, 1e-4);
        check(ScheduleKind::Constant, 10, 10, 1e-3);
        check(ScheduleKind::Constant, 10, 1_000_000, 1e-3);
    }

    /// Values of `ScheduledOptim` in the reference, d_model 256.
    #[test]
    fn the_reference_schedule_is_the_reference_s() {
        check(ScheduleKind::Reference, 10_000, 1, 6.25e-8);
        check(ScheduleKind::Reference, 10_000, 100, 6.25e-6);
        check(ScheduleKind::Reference, 10_000, 10_000, 6.25e-4);
        check(ScheduleKind::Reference, 10_000, 40_000, 3.125e-4);
        check(ScheduleKind::Reference, 500, 500, 0.0625 / 500f64.sqrt());
    }

    /// The reference ignores `--lr`.
    #[test]
    fn every_schedule_honours_the_rate() {
        for kind in
            [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Constant, ScheduleKind::Reference]
        {
            let at = |lr| Schedule { kind, lr, warmup: 7, hidden: 64 }.lr(5, 100);
            assert!((at(2e-3) - 2.0 * at(1e-3)).abs() < 1e-12, "{kind:?}");
        }
    }

    proptest! {
        /// Up to the peak and down again, and never below zero or above the peak.
        #[test]
        fn a_rate_rises_in_the_warm_up_and_never_after(
            kind in prop::sample::select(vec![ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Constant]),
            lr in 1e-6f64..1.0,
            warmup in 0u64..1000,
            total in 1u64..2000,
            step in 1u64..2000,
        ) {
            let schedule = Schedule { kind, lr, warmup, hidden: 256 };
            let (now, next) = (schedule.lr(step, total), schedule.lr(step + 1, total));
            prop_assert!((0.0..=lr).contains(&now), "{now}");
            prop_assert!(step > total || now > 0.0);
            prop_assert_eq!(step < warmup, next > now, "{} {}", now, next);
        }
    }

    #[test]
    fn the_warm_up_is_a_tenth_at_most_ten_thousand() {
        assert_eq!(default_warmup(ScheduleKind::Linear, 1234), 123);
        assert_eq!(default_warmup(ScheduleKind::Cosine, 5), 0);
        assert_eq!(default_warmup(ScheduleKind::Linear, 10_000_000), 10_000);
        assert_eq!(default_warmup(ScheduleKind::Reference, 50), 10_000);
    }
}
