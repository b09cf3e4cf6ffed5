//! Steps whose batches are left out of the training: those that a person asked for, and those behind the checkpoint
//! to which a run went back that had diverged.
//!
//! A step that is left out takes its batches from the stream and its place in the schedule; weights and moments stay
//! bitwise. The list is part of the run, so that a replay leaves out the same.

use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Steps `from..to`, counted from 1, the last one not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Steps {
    pub from: u64,
    pub to: u64,
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text}: two steps are wanted, 1000..1010 or 1000..=1009");
        let (from, to) = text.split_once("..").ok_or_else(wanted)?;
        let from: u64 = from.parse().map_err(|_| wanted())?;
        let to = match to.strip_prefix('=') {
            Some(last) => last.parse().map(|last: u64| last.saturating_add(1)),
            None => to.parse(),
        };
        let to = to.map_err(|_| wanted())?;
        match 0 < from && from < to {
            true => Ok(Self { from, to }),
            false => Err(format!("{text}: holds no step; they count from 1")),
        }
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

/// All steps that a run leaves out: ascending, with steps between any two ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skips(Vec<Steps>);

impl Skips {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[Steps] {
        &self.0
    }

    /// Whether `step` is left out.
    pub fn contains(&self, step: u64) -> bool {
        self.0.iter().any(|steps| (steps.from..steps.to).contains(&step))
    }

    /// Whether `step` is left out and so is the next.
    pub fn amidst(&self, step: u64) -> bool {
        self.contains(step) && self.contains(step + 1)
    }

    /// These, and `steps`.
    pub fn and(&self, steps: Range<u64>) -> Self {
        let mut all = self.0.clone();
        all.push(Steps { from: steps.start, to: steps.end });
        all.sort_unstable();
        let mut joined: Vec<Steps> = Vec::new();
        for steps in all {
            match joined.last_mut() {
                Some(last) if steps.from <= last.to => last.to = last.to.max(steps.to),
                _ => joined.push(steps),
            }
        }
        Self(joined)
    }

    /// The first step that one of both leaves out and the other does not.
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let differs = |step: &u64| self.contains(*step) != other.contains(*step);
        // Where one changes its mind between two steps, its ranges begin or end.
        let turns = self.0.iter().chain(&other.0).flat_map(|steps| [steps.from, steps.to]);
        turns.filter(differs).min()
    }

    /// Whether what was learnt up to `step` was gone back to already: the steps behind it, or it itself, are left
    /// out.
    pub fn tried_from(&self, step: u64) -> bool {
        self.contains(step) || self.contains(step + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rust_writes_them() {
        let check = |text: &str, expected| assert_eq!(text.parse().ok(), expected, "{text}");
        check("3..5", Some(Steps { from: 3, to: 5 }));
        check("3..=5", Some(Steps { from: 3, to: 6 }));
        check("1..2", Some(Steps { from: 1, to: 2 }));
        for wrong in ["", "3", "3..", "..5", "3..3", "5..3", "0..3", "a..b", "3-5", "-1..4", "3..==5"] {
            check(wrong, None);
        }
    }

    fn skips(ranges: &str) -> Skips {
        let ranges = ranges.split_whitespace().map(|text| text.parse::<Steps>().unwrap());
        ranges.fold(Skips::default(), |skips, steps| skips.and(steps.from..steps.to))
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let check = |ranges: &str, expected: &str| {
            let found: Vec<_> = skips(ranges).0.iter().map(Steps::to_string).collect();
            assert_eq!(found.join(" "), expected, "{ranges}");
        };
        check("5..7 1..3", "1..3 5..7");
        check("5..7 1..5", "1..7");
        check("5..7 6..7 2..9", "2..9");
        check("5..7 8..9", "5..7 8..9");
    }

    #[test]
    fn the_first_difference_is_a_step() {
        let check = |a: &str, b: &str, expected| {
            assert_eq!(skips(a).first_difference(&skips(b)), expected, "{a} {b}");
            assert_eq!(skips(b).first_difference(&skips(a)), expected, "{b} {a}");
        };
        check("", "", None);
        check("3..5", "3..5", None);
        check("3..5", "", Some(3));
        check("3..5", "3..8", Some(5));
        check("3..5 9..10", "3..5 8..10", Some(8));
        check("3..9", "5..9", Some(3));
    }
}
