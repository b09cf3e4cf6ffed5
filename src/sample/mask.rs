//! Which positions are predicted, and what stands there instead. Pure functions of candidates and draws.

use super::Corruption;
use crate::rng::SampleRng;

/// How many of `candidates` are predicted at `rate`: rounded, and at least one where there is any and
/// the rate is not 0 (`create_pretraining_data.py` of Devlin et al. 2018).
pub fn exact_count(rate: f64, candidates: usize) -> usize {
    if rate == 0.0 {
        return 0;
    }
    ((rate * candidates as f64).round() as usize).max(1).min(candidates)
}

/// Candidates below this are put in order by a set of bits: rows are rarely longer.
const IN_BITS: usize = 512;

/// Leaves `count <= candidates.len()` of the ascending candidates, each subset equally likely, ascending: a
/// Fisher-Yates shuffle that stops after `count` elements.
pub fn choose_exact(candidates: &mut Vec<u32>, count: usize, rng: &mut SampleRng) {
    let few = candidates.last().is_none_or(|&last| (last as usize) < IN_BITS);
    let len = candidates.len();
    for i in 0..count {
        let j = i + rng.below((len - i) as u64) as usize;
        candidates.swap(i, j);
    }
    candidates.truncate(count);
    if few { sort_few(candidates) } else { candidates.sort_unstable() }
}

/// Sorts different numbers below [`IN_BITS`]: each is a bit, and bits come out in their order. A comparison would be
/// guessed wrongly every other time.
fn sort_few(numbers: &mut [u32]) {
    let mut bits = [0_u64; IN_BITS / 64];
    for &number in &*numbers {
        bits[number as usize / 64] |= 1 << (number % 64);
    }
    let mut sorted = numbers.iter_mut();
    for (base, mut word) in (0..).step_by(64).zip(bits) {
        while word != 0
            && let Some(next) = sorted.next()
        {
            *next = base + word.trailing_zeros();
            word &= word - 1;
        }
    }
}

/// Leaves each candidate with probability `rate`, in order.
pub fn choose_bernoulli(candidates: &mut Vec<u32>, rate: f64, rng: &mut SampleRng) {
    candidates.retain(|_| rng.unit() < rate);
}

/// What a uniform `draw` in `[0, 1)` does to a chosen token.
pub fn corruption(draw: f64, mask_share: f64, random_share: f64) -> Corruption {
    if draw < mask_share {
        Corruption::Mask
    } else if draw < mask_share + random_share {
        Corruption::Random
    } else {
        Corruption::Keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Domain;

    #[test]
    fn counts() {
        let check = |rate, candidates, expected| assert_eq!(exact_count(rate, candidates), expected);
        check(0.15, 100, 15);
        check(0.15, 10, 2);
        // reference.md: "half of the 4-word lines have no masked token".
        check(0.15, 4, 1);
        check(0.15, 1, 1);
        check(0.15, 0, 0);
        check(0.0, 50, 0);
        check(1.0, 50, 50);
    }

    #[test]
    fn shares() {
        let check = |draw, expected| assert_eq!(corruption(draw, 0.8, 0.1), expected);
        check(0.0, Corruption::Mask);
        check(0.79, Corruption::Mask);
        check(0.8, Corruption::Random);
        check(0.89, Corruption::Random);
        check(0.95, Corruption::Keep);
        assert_eq!(corruption(0.999_999, 1.0, 0.0), Corruption::Mask);
        assert_eq!(corruption(0.0, 0.0, 0.0), Corruption::Keep);
    }

    proptest! {
        #[test]
        fn bits_sort_as_comparisons_do(numbers in proptest::collection::hash_set(0..IN_BITS as u32, 0..100)) {
            let mut sorted: Vec<u32> = numbers.into_iter().collect();
            let mut expected = sorted.clone();
            expected.sort_unstable();
            sort_few(&mut sorted);
            prop_assert_eq!(sorted, expected);
        }

        #[test]
        fn the_chosen_are_distinct_ascending_candidates(len in 1usize..300, share in 0.0f64..=1.0, seed: u64) {
            let count = (share * len as f64) as usize;
            let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
            let mut chosen: Vec<u32> = (0..len as u32).map(|i| 3 * i + 1).collect();
            choose_exact(&mut chosen, count, &mut rng);
            prop_assert_eq!(chosen.len(), count);
            prop_assert!(chosen.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(chosen.iter().all(|&p| p % 3 == 1 && p < 3 * len as u32));
        }
    }

    #[test]
    fn every_candidate_is_chosen_equally_often() {
        let mut counts = [0u32; 10];
        let mut rng = SampleRng::new(Domain::Survey, 5, &[]);
        for _ in 0..10_000 {
            let mut chosen: Vec<u32> = (0..10).collect();
            choose_exact(&mut chosen, 3, &mut rng);
            chosen.iter().for_each(|&p| counts[p as usize] += 1);
        }
        // 3,000 expected each, standard deviation 45.8.
        assert!(counts.iter().all(|&c| (f64::from(c) - 3e3).abs() < 4.0 * 45.8), "{counts:?}");
    }
}
