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
    use super::*;
    use crate::rng::Domain;

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
