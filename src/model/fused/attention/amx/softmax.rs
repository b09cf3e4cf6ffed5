//! Softmax of scores whose rows are keys and whose lanes are queries, with dropout, forward and backward.
//!
//! Scores lie as AMX left them: for each block of keys 32 rows of 32 queries, two lines a row. What is a row's in the
//! matrix is a lane's here: maxima and sums need no shuffling, and a sample's length no masks. A dropout hash decides two
//! keys that are 16 apart, which are also what a pair of bfloat16 holds.

use std::arch::x86_64::*;

use super::super::ahead::Ahead;
use super::super::vectors::{Keys, LANES, exp, numbers, write};
use super::operands::{BLOCK, Operand, STRIP, Sums, join, lower_halves, put, upper_halves};
use crate::model::dropout::Dropout;
use crate::model::fused::matmul::packed::lines::Line;

/// One number for each of 32 queries.
pub type OfQueries = [__m512; 2];

/// Dropout of the probabilities of 32 queries.
pub struct Mask {
    keys: [Keys; 2],
}

impl Mask {
    /// For queries with consecutive coordinates from `first_coordinate` on.
    pub fn new(drop: &Dropout, first_coordinate: u64) -> Self {
        Self { keys: [0, LANES as u64].map(|lane| Keys::new(drop, first_coordinate.wrapping_add(lane))) }
    }
}

/// Keys of a block that are of the sample, and their pairs of which one is.
fn keys_of(block: usize, len: usize) -> (usize, usize) {
    let keys = (len - block * BLOCK).min(BLOCK);
    (keys, keys.min(STRIP))
}

/// Gives the keys behind the sample's end this value.
fn pad(scores: &mut [Sums], len: usize, value: f32) {
    if let Some(last) = scores.last_mut().filter(|_| !len.is_multiple_of(BLOCK)) {
        last[len % BLOCK * 2..].fill(Line([value.to_bits(); STRIP]));
    }
}

/// From the scores of all keys the operand `weights (keys, queries)`: exponentials relative to each query's largest
/// score, with dropout but without its factor. Gives the largest scores, and the sums of exponentials.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn softmax<const PARTS: usize, const DROP: bool>(
    scores: &mut [Sums],
    len: usize,
    weights: &mut Operand<PARTS>,
    mask: &Mask,
    ahead: &mut Ahead,
) -> [OfQueries; 2] {
    pad(scores, len, f32::NEG_INFINITY);
    let largest = largest(scores);
    weights.reshape(2, scores.len());
    let [left, right] = weights.block_mut(0);
    let mut sums = [[_mm512_setzero_ps(); 2]; 2];
    for half in 0..2 {
        let weights = if half == 0 { &mut *left } else { &mut *right };
        let keys = mask.keys[half];
        let threshold = _mm512_set1_epi16(keys.threshold as i16);
        for (block, scores) in scores.iter().enumerate() {
            let (pairs, weights) = (keys_of(block, len).1, &mut weights[block]);
            for pair in 0..pairs {
                ahead.step();
                let low = exp(_mm512_sub_ps(numbers(&scores[2 * pair + half]), largest[half]));
                let high = exp(_mm512_sub_ps(numbers(&scores[2 * (pair + STRIP) + half]), largest[half]));
                sums[half][0] = _mm512_add_ps(sums[half][0], low);
                sums[half][1] = _mm512_add_ps(sums[half][1], high);
                let mut joined = join::<PARTS>(low, high);
                if DROP {
                    let hashes = keys.hash((block * STRIP + pair) as u32);
                    let kept = _mm512_cmpge_epu16_mask(hashes, threshold);
                    for words in &mut joined {
                        *words = _mm512_maskz_mov_epi16(kept, *words);
                    }
                }
                put(weights, pair, joined);
            }
            for pair in pairs..STRIP {
                put(weights, pair, [_mm512_setzero_si512(); PARTS]);
            }
        }
    }
    [largest, [_mm512_add_ps(sums[0][0], sums[0][1]), _mm512_add_ps(sums[1][0], sums[1][1])]]
}

/// Each query's largest score.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest(scores: &[Sums]) -> OfQueries {
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 8];
    for block in scores {
        for row in 0..BLOCK / 4 {
            for i in 0..8 {
                largest[i] = _mm512_max_ps(largest[i], numbers(&block[row * 8 + i]));
            }
        }
    }
    for i in 0..4 {
        largest[i] = _mm512_max_ps(largest[i], largest[i + 4]);
    }
    [_mm512_max_ps(largest[0], largest[2]), _mm512_max_ps(largest[1], largest[3])]
}

/// What the backward pass of softmax gives to the products behind it, for 32 queries.
pub struct Gradients<'a, const PARTS: usize> {
    /// Left operand `(keys, queries)`: dropped probabilities without dropout's factor.
    pub weights: &'a mut Operand<PARTS>,
    /// Left operand `(keys, queries)`: gradients of the scores.
    pub dscores: &'a mut Operand<PARTS>,
    /// The block of queries that these two get, of those that they hold.
    pub block: usize,
    /// The gradients again as a right operand, for these queries alone.
    pub dscores_of_queries: &'a mut Operand<PARTS>,
}

/// Backward of [`softmax`], from the scores of all keys and the gradients behind the dropout, which carry its factor.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn softmax_backward<const PARTS: usize, const DROP: bool>(
    scores: &mut [Sums],
    gradients: &mut [Sums],
    len: usize,
    log_sums: OfQueries,
    mask: &Mask,
    out: Gradients<'_, PARTS>,
    ahead: &mut Ahead,
) {
    pad(scores, len, f32::NEG_INFINITY);
    let zero = [_mm512_setzero_si512(); PARTS];
    let mut dots = [_mm512_setzero_ps(); 4];
    for (block, (scores, gradients)) in scores.iter_mut().zip(gradients.iter_mut()).enumerate() {
        let pairs = keys_of(block, len).1;
        let [upper, lower] = out.weights.block_mut(block);
        let (upper, lower) = (&mut upper[out.block], &mut lower[out.block]);
        for pair in 0..pairs {
            ahead.step();
            let mut dropped = [_mm512_setzero_ps(); 4];
            for half in 0..2 {
                let (low, high) = (2 * pair + half, 2 * (pair + STRIP) + half);
                let p_low = exp(_mm512_sub_ps(numbers(&scores[low]), log_sums[half]));
                let p_high = exp(_mm512_sub_ps(numbers(&scores[high]), log_sums[half]));
                let (mut d_low, mut d_high) = (numbers(&gradients[low]), numbers(&gradients[high]));
                write(&mut scores[low], _mm512_castps_si512(p_low));
                write(&mut scores[high], _mm512_castps_si512(p_high));
                (dropped[half], dropped[2 + half]) = (p_low, p_high);
                if DROP {
                    let [keep_low, keep_high] = mask.keys[half].keeps((block * STRIP + pair) as u32);
                    dropped[half] = _mm512_maskz_mov_ps(keep_low, p_low);
                    dropped[2 + half] = _mm512_maskz_mov_ps(keep_high, p_high);
                    d_low = _mm512_maskz_mov_ps(keep_low, d_low);
                    d_high = _mm512_maskz_mov_ps(keep_high, d_high);
                    write(&mut gradients[low], _mm512_castps_si512(d_low));
                    write(&mut gradients[high], _mm512_castps_si512(d_high));
                }
                dots[half] = _mm512_fmadd_ps(p_low, d_low, dots[half]);
                dots[2 + half] = _mm512_fmadd_ps(p_high, d_high, dots[2 + half]);
            }
            put(upper, pair, join::<PARTS>(dropped[0], dropped[1]));
            put(lower, pair, join::<PARTS>(dropped[2], dropped[3]));
        }
        for pair in pairs..STRIP {
            put(upper, pair, zero);
            put(lower, pair, zero);
        }
    }
    let dots = [_mm512_add_ps(dots[0], dots[2]), _mm512_add_ps(dots[1], dots[3])];
    pad(scores, len, 0.0);
    out.dscores_of_queries.reshape(2, scores.len());
    let [first, second] = out.dscores_of_queries.block_mut(0);
    for (block, (scores, gradients)) in scores.iter().zip(gradients.iter()).enumerate() {
        let pairs = keys_of(block, len).1;
        let [upper, lower] = out.dscores.block_mut(block);
        let (upper, lower) = (&mut upper[out.block], &mut lower[out.block]);
        let (first, second) = (&mut first[block], &mut second[block]);
        for pair in 0..pairs {
            ahead.step();
            let (low, high) = (2 * pair, 2 * (pair + STRIP));
            let above = join::<PARTS>(
                dscore(&scores[low], &gradients[low], dots[0]),
                dscore(&scores[low + 1], &gradients[low + 1], dots[1]),
            );
            let below = join::<PARTS>(
                dscore(&scores[high], &gradients[high], dots[0]),
                dscore(&scores[high + 1], &gradients[high + 1], dots[1]),
            );
            put(upper, pair, above);
            put(lower, pair, below);
            for part in 0..PARTS {
                write(&mut first[part][pair], lower_halves(above[part], below[part]));
                write(&mut second[part][pair], upper_halves(above[part], below[part]));
            }
        }
        for pair in pairs..STRIP {
            put(upper, pair, zero);
            put(lower, pair, zero);
            put(first, pair, zero);
            put(second, pair, zero);
        }
    }
}

/// Gradients of scores from probabilities, the gradients behind the dropout, and each query's sum of their products.
#[inline]
#[target_feature(enable = "avx512f")]
fn dscore(probabilities: &Line, gradients: &Line, dots: __m512) -> __m512 {
    _mm512_mul_ps(numbers(probabilities), _mm512_sub_ps(numbers(gradients), dots))
}
