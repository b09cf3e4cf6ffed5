//! Softmax of attention's scores and of the vocabulary's logits, from sums of exponentials that are kept as logarithms.

use multiversion::multiversion;

use super::activations::exp;
use super::sums::{LANES, join, max_of, replace_and_sum, sum_of};
use crate::model::dropout::Dropout;

/// Rows of scores that go through each pass together, so that one's sum is joined while the next is computed.
pub const ROWS_AT_ONCE: usize = 8;

/// Softmax by rows with dropout behind it, in place, for consecutive coordinates from `first_coordinate` on; keeps
/// the log of each row's sum of exponentials.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax(
    scores: &mut [f32],
    width: usize,
    log_sums: &mut [f32],
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    let groups = scores.chunks_mut(ROWS_AT_ONCE * width).zip(log_sums.chunks_mut(ROWS_AT_ONCE));
    for ((scores, log_sums), first_coordinate) in groups.zip((first_coordinate..).step_by(ROWS_AT_ONCE)) {
        for (row, log_sum) in scores.chunks_exact(width).zip(log_sums.iter_mut()) {
            *log_sum = max_of(row);
        }
        let mut sums = [0.0; ROWS_AT_ONCE];
        for ((row, &mut max), sum) in scores.chunks_exact_mut(width).zip(log_sums.iter_mut()).zip(&mut sums) {
            *sum = replace_and_sum(row, |score| exp(score - max));
        }
        for ((row, sum), coordinate) in scores.chunks_exact_mut(width).zip(&sums).zip(first_coordinate..) {
            drop.fill(coordinate, factors);
            let inverse = 1.0 / sum;
            for (score, factor) in row.iter_mut().zip(&*factors) {
                *score *= inverse * factor;
            }
        }
        for (log_sum, sum) in log_sums.iter_mut().zip(&sums) {
            *log_sum += sum.ln();
        }
    }
}

/// Backward of [`softmax`], by rows; `factors` is room for [`ROWS_AT_ONCE`] of them. `p` are the scores, `dp` the gradients
/// behind the dropout. Afterwards `dp` holds the gradients of the scores, and `p` the dropped probabilities.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax_backward(
    p: &mut [f32],
    dp: &mut [f32],
    width: usize,
    log_sums: &[f32],
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let groups = p.chunks_mut(ROWS_AT_ONCE * width).zip(dp.chunks_mut(ROWS_AT_ONCE * width));
    let groups = groups.zip(log_sums.chunks(ROWS_AT_ONCE));
    for (((p, dp), log_sums), first_coordinate) in groups.zip((first_coordinate..).step_by(ROWS_AT_ONCE)) {
        let mut dots = [0.0; ROWS_AT_ONCE];
        let rows =
            p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(factors.chunks_exact_mut(width));
        for (((((p, dp), factors), log_sum), dot), coordinate) in
            rows.zip(log_sums).zip(&mut dots).zip(first_coordinate..)
        {
            drop.fill(coordinate, factors);
            let mut lanes = [0.0; LANES];
            for ((p, dp), factors) in p.chunks_mut(LANES).zip(dp.chunks_mut(LANES)).zip(factors.chunks(LANES))
            {
                for (((lane, p), dp), factor) in lanes.iter_mut().zip(p).zip(dp).zip(factors) {
                    *p = exp(*p - log_sum);
                    *dp *= factor;
                    *lane += *p * *dp;
                }
            }
            *dot = join(lanes);
        }
        let rows = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(factors.chunks_exact(width));
        for (((p, dp), factors), dot) in rows.zip(&dots) {
            for ((p, dp), factor) in p.iter_mut().zip(dp.iter_mut()).zip(factors) {
                *dp = *p * (*dp - dot);
                *p *= factor;
            }
        }
    }
}

/// Largest value of each row, and the sum of its exponentials relative to that value.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn max_and_sum(values: &[f32], width: usize, partials: &mut [(f32, f32)]) {
    for (row, partial) in values.chunks_exact(width).zip(partials) {
        let max = max_of(row);
        *partial = (max, sum_of(row, |x| exp(x - max)));
    }
}

/// `values = scale * exp(values - log_sum of the row)`: probabilities, scaled.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax_scaled(values: &mut [f32], width: usize, log_sums: &[f32], scale: f32) {
    for (row, &log_sum) in values.chunks_exact_mut(width).zip(log_sums) {
        for value in row.iter_mut() {
            *value = scale * exp(*value - log_sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::draws;
    use super::*;

    #[test]
    fn softmax_from_kept_log_sums_is_the_softmax() {
        for width in [1, 7, 16, 50, 150] {
            let scores = draws(8, 3 * width);
            let (mut once, mut again, mut sums) = (scores.clone(), scores.clone(), vec![0.0; 3]);
            softmax(&mut once, width, &mut sums, 0, &Dropout::OFF, &mut vec![0.0; width]);
            softmax_scaled(&mut again, width, &sums, 1.0);
            for (a, b) in once.iter().zip(&again) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
            let mut partials = vec![(0.0, 0.0); 3];
            max_and_sum(&scores, width, &mut partials);
            for ((max, sum), log_sum) in partials.iter().zip(&sums) {
                assert!((max + sum.ln() - log_sum).abs() < 1e-6);
            }
        }
    }
}
