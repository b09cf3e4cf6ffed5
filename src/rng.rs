//! Randomness keyed by position, never by worker: the algorithms are written down here so that their
//! numbers never change between releases.
//!
//! Three generators, all pure functions of their keys:
//! * [`SampleRng`], SplitMix64 (Steele, Lea, Flood 2014) started from a key mixed out of a domain, the
//!   seed, and any coordinates (epoch, document): for masks, pairs, orders and initial weights.
//! * [`QuickRng`], wyrand (Wang Yi, wyhash final version 4), started from where a [`SampleRng`] stands: half its
//!   instructions, for the mask of a short row.
//! * [`dropout`], a counter-based hash that costs two multiplications per two elements and needs no
//!   state, so that a backward pass can recompute the mask of its forward pass.

/// Golden-ratio increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a stream of random numbers is for. Streams of different domains are unrelated even where all
/// other coordinates agree; the numbers are part of the file formats and must not be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// Masks and pairs of one document.
    Sample = 1,
    /// The keyed permutation of an epoch.
    Order = 2,
    /// Initial weights.
    Init = 3,
    /// Dropout masks.
    Dropout = 4,
    /// Draws for statistics and checks, which must not disturb training.
    Survey = 5,
    /// The keyed permutation of one source of a mixture, each time it has its turn.
    Source = 6,
    /// The permutation of the samples of a window.
    Window = 7,
    /// The permutation of the documents of some blocks.
    Blocks = 8,
}

/// SplitMix64's finaliser (variant 13 of Stafford): a bijection of 64 bits that mixes well.
#[inline(always)]
pub fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Folds coordinates into one 64-bit key; the order of the coordinates matters.
#[inline(always)]
pub fn key(domain: Domain, seed: u64, coordinates: &[u64]) -> u64 {
    let mut state = mix64(seed ^ mix64((domain as u64).wrapping_mul(GOLDEN)));
    for &c in coordinates {
        state = mix64(state.wrapping_add(GOLDEN) ^ mix64(c.wrapping_add(GOLDEN)));
    }
    state
}

/// A SplitMix64 stream.
#[derive(Clone, Debug)]
pub struct SampleRng(u64);

impl SampleRng {
    /// The stream of these coordinates in `domain`.
    pub fn new(domain: Domain, seed: u64, coordinates: &[u64]) -> Self {
        Self(key(domain, seed, coordinates))
    }

    /// The next 64 uniform bits.
    #[inline(always)]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix64(self.0)
    }

    /// A quicker stream that starts from here. The next one of the same stream is another.
    #[inline(always)]
    pub fn quick(&mut self) -> QuickRng {
        let state = self.0;
        self.0 = self.0.wrapping_add(GOLDEN);
        QuickRng(state)
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` must not be 0.
    #[inline(always)]
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no element to draw");
        let mut product = u128::from(self.next_u64()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(bound);
            }
        }
        (product >> 64) as u64
    }

    /// Uniform in `[0, 1)`, 53 bits.
    #[inline(always)]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }
}

/// A stream of wyrand: the two halves of one product for each number.
#[derive(Clone, Debug)]
pub struct QuickRng(u64);

impl QuickRng {
    /// The next 64 uniform bits.
    #[inline(always)]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x2d35_8dcc_aa6c_78a5);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0x8bb8_4b93_962e_acc9);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Dropout masks without state: element `j` of a row is a pure function of the row's key and `j`.
///
/// A row's key is made of (seed, step, site in the model, row of the global batch, position), so that
/// masks depend neither on padding, nor on how a batch is cut into micro-batches, nor on threads.
/// Rates are exact to 2^-16.
pub mod dropout {
    use super::{Domain, key};

    /// The key of one dropout site in one training step. `site` numbers the dropout layers of the model.
    pub fn site(seed: u64, step: u64, site: u64) -> u64 {
        key(Domain::Dropout, seed, &[step, site])
    }

    /// The key of one row of a site. `coordinate` tells the rows of a site apart.
    #[inline(always)]
    pub fn row(site: u64, coordinate: u64) -> (u32, u32) {
        let k = super::mix64(site ^ coordinate.wrapping_mul(super::GOLDEN));
        (k as u32, (k >> 32) as u32)
    }

    /// Elements that [`hash`] covers in one run: 16 lanes of 32 bits, two elements each.
    pub const BLOCK: usize = 32;

    /// 32 hashed bits for counter `i` of a row; the low half decides element `(i / 16) * 32 + i % 16`,
    /// the high half the one 16 further on. The mixing is Wellons' `lowbias32` with both key words.
    #[inline(always)]
    pub fn hash(row: (u32, u32), i: u32) -> u32 {
        let mut x = i.wrapping_mul(0x9e37_79b9) ^ row.0;
        x ^= x >> 16;
        x = x.wrapping_mul(0x21f0_aaad).wrapping_add(row.1);
        x ^= x >> 15;
        x = x.wrapping_mul(0xd35a_2d97);
        x ^ (x >> 15)
    }

    /// The threshold of a rate: an element is dropped where its 16 bits lie below it.
    pub fn threshold(rate: f32) -> u32 {
        (rate * 65536.0).round() as u32
    }

    /// What a kept element is multiplied by, `1 / (1 - rate)` with the rate that [`threshold`] realises.
    pub fn scale(rate: f32) -> f32 {
        (65536.0 / (65536.0 - f64::from(threshold(rate)))) as f32
    }

    /// Whether element `j` of a row is kept: the definition that fast code must agree with.
    #[inline(always)]
    pub fn keeps(row: (u32, u32), j: usize, threshold: u32) -> bool {
        let bits = hash(row, (j / BLOCK * 16 + j % 16) as u32);
        let half = if j % BLOCK < 16 { bits & 0xffff } else { bits >> 16 };
        half >= threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are promised to every file and run made so far.
    #[test]
    fn the_numbers_are_pinned() {
        let mut rng = SampleRng::new(Domain::Sample, 42, &[0, 7]);
        let drawn = [rng.next_u64(), rng.next_u64(), rng.below(1000)];
        assert_eq!(drawn, PINNED_STREAM);
        let mut rng = SampleRng::new(Domain::Sample, 42, &[0, 7]);
        let (mut quick, mut again) = (rng.quick(), rng.quick());
        assert_eq!([quick.next_u64(), quick.next_u64(), again.next_u64()], PINNED_QUICK);
        assert_eq!(dropout::hash(dropout::row(dropout::site(42, 1, 2), 3), 4), PINNED_HASH);
    }
    const PINNED_STREAM: [u64; 3] = [4407451024261908814, 324244502015816311, 431];
    const PINNED_QUICK: [u64; 3] = [2387139137284970481, 10828742389541907197, 8838785560971682177];
    const PINNED_HASH: u32 = 2576155857;

    #[test]
    fn below_is_uniform() {
        let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        // Chi-squared with 6 degrees of freedom: 22.5 is exceeded once in a thousand seeds.
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 22.5, "{counts:?}: {chi2}");
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = SampleRng::new(Domain::Survey, 2, &[]);
        let draws: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 1e5 - mean * mean;
        assert!(mean.abs() < 0.0135 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn dropout_drops_at_its_rate_and_rows_are_unrelated() {
        let threshold = dropout::threshold(0.1);
        let site = dropout::site(1, 1, 1);
        let (mut dropped, mut both) = (0u32, 0u32);
        for r in 0..1000 {
            for j in 0..256 {
                let here = !dropout::keeps(dropout::row(site, r), j, threshold);
                let there = !dropout::keeps(dropout::row(site, r + 1), j, threshold);
                dropped += u32::from(here);
                both += u32::from(here && there);
            }
        }
        // 256,000 draws: four standard deviations around 10 % and 1 %.
        assert!((f64::from(dropped) / 256e3 - 0.1).abs() < 4.0 * (0.09f64 / 256e3).sqrt());
        assert!((f64::from(both) / 256e3 - 0.01).abs() < 4.0 * (0.0099f64 / 256e3).sqrt());
    }
}
