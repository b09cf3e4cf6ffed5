//! Sentence-order prediction (Lan et al. 2020, ALBERT, section 3.1): two consecutive segments, in their order
//! or swapped.

use super::PairLabel;
use super::pair::Pairing;
use crate::rng::SampleRng;

/// In order (the class "is next") with probability `next_rate`, else swapped. A lone side has no order, and
/// is kept without a label for its masked tokens.
pub fn pairing(sides: usize, next_rate: f64, rng: &mut SampleRng) -> Pairing {
    if sides < 2 {
        Pairing::AsIs(PairLabel::None)
    } else if rng.unit() < next_rate {
        Pairing::AsIs(PairLabel::IsNext)
    } else {
        Pairing::Swapped
    }
}
