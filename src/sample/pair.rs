//! The pair tasks: what becomes of the two sides of a text. The sides themselves are cut elsewhere.

use super::{PairLabel, PairTask, nsp, sop};
use crate::rng::SampleRng;

/// What a sample's segments are, given the two consecutive sides of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// The sides as they stand, under this label.
    AsIs(PairLabel),
    /// The second side first, which is not next.
    Swapped,
    /// The first side, and text of another document, which is not next.
    Other,
}

/// What `task` makes of a text of so many `sides`, 1 or 2. The task `none` draws nothing.
pub fn pairing(task: PairTask, sides: usize, next_rate: f64, rng: &mut SampleRng) -> Pairing {
    match task {
        PairTask::Nsp => nsp::pairing(sides, next_rate, rng),
        PairTask::Sop => sop::pairing(sides, next_rate, rng),
        PairTask::None => Pairing::AsIs(PairLabel::None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Domain;

    proptest! {
        /// What a pairing asks for is there to be given, and its label says what was done.
        #[test]
        fn a_pairing_needs_no_more_sides_than_there_are(
            task in prop::sample::select(vec![PairTask::Nsp, PairTask::Sop, PairTask::None]),
            sides in 1usize..=2,
            next_rate in 0.0f64..=1.0,
            seed: u64,
        ) {
            let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
            let (mut next, mut again) = (0, SampleRng::new(Domain::Survey, seed, &[]));
            for _ in 0..400 {
                let found = pairing(task, sides, next_rate, &mut rng);
                prop_assert_eq!(found, pairing(task, sides, next_rate, &mut again));
                next += u32::from(found == Pairing::AsIs(PairLabel::IsNext));
                let possible = match found {
                    Pairing::AsIs(PairLabel::IsNext) => task != PairTask::None && sides == 2 && next_rate > 0.0,
                    Pairing::AsIs(PairLabel::None) => task == PairTask::None || sides == 1,
                    Pairing::AsIs(PairLabel::NotNext) => false,
                    Pairing::Swapped => task == PairTask::Sop && sides == 2,
                    Pairing::Other => task == PairTask::Nsp && next_rate < 1.0,
                };
                prop_assert!(possible, "{:?}", found);
            }
            // Six standard deviations of 400 draws at the most.
            let expected = if task != PairTask::None && sides == 2 { 400.0 * next_rate } else { 0.0 };
            prop_assert!((f64::from(next) - expected).abs() <= 60.0, "{} of {}", next, expected);
        }
    }

    #[test]
    fn what_cannot_be_drawn_otherwise() {
        let check = |task, sides, next_rate, expected| {
            let mut rng = SampleRng::new(Domain::Survey, 3, &[]);
            for _ in 0..50 {
                assert_eq!(pairing(task, sides, next_rate, &mut rng), expected);
            }
        };
        check(PairTask::Nsp, 2, 1.0, Pairing::AsIs(PairLabel::IsNext));
        check(PairTask::Nsp, 2, 0.0, Pairing::Other);
        check(PairTask::Nsp, 1, 0.9, Pairing::Other);
        check(PairTask::Nsp, 1, 1.0, Pairing::AsIs(PairLabel::None));
        check(PairTask::Sop, 2, 1.0, Pairing::AsIs(PairLabel::IsNext));
        check(PairTask::Sop, 2, 0.0, Pairing::Swapped);
        check(PairTask::Sop, 1, 0.0, Pairing::AsIs(PairLabel::None));
        check(PairTask::None, 2, 0.0, Pairing::AsIs(PairLabel::None));
        check(PairTask::None, 1, 1.0, Pairing::AsIs(PairLabel::None));
    }
}
