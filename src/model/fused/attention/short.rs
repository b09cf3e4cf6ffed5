//! Attention of short samples by AVX-512, in single precision.
//!
//! What packs operands first, as AMX does and the `gemm` crate, spends more on that than on products of twenty numbers. Here
//! only queries and the gradients of their context are transposed, into lanes; every product runs over its operands as
//! they lie, with its sums in registers. Scores are keys by queries: what softmax needs of a query is in a lane.

use std::arch::x86_64::*;

use super::ahead::Ahead;
use super::vectors::{Keys, LANES, exp, keys_of, ln, load, numbers, pairs, store, write};
use super::{Inputs, Span, gradient, views};
use crate::model::dropout::{Dropout, dropout_coordinate};
use crate::model::fused::matmul::packed::lines::{Line, Lines, as_numbers, as_numbers_mut};
use crate::model::fused::matmul::packed::pack::{first_lanes, transposed};
use crate::model::fused::matmul::{Mat, MatMut};

/// Tokens of a sample that is short.
pub const MOST: usize = 64;

/// The same where there is nothing faster for single precision than these instructions.
pub const MOST_OF_SINGLE: usize = 256;

/// Whether this processor has what it takes.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Scratch, grown to the longest sample and kept.
#[derive(Default)]
pub struct Scratch {
    /// `(head width, queries)`, in whole lines.
    queries: Lines,
    dcontext: Lines,
    /// `(keys, queries)`, in whole lines.
    scores: Lines,
    gradients: Lines,
    weights: Lines,
}

/// As [`super::forward`].
pub fn forward(context: &mut [f32], log_sums: &mut [f32], inputs: Inputs<'_>, scratch: &mut Scratch) {
    assert!(is_here(), "attention by AVX-512, which is not of this machine");
    // SAFETY: just seen.
    unsafe { forward_here(context, log_sums, inputs, scratch) };
}

/// As [`super::backward`].
pub fn backward(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch,
) {
    assert!(is_here(), "attention by AVX-512, which is not of this machine");
    // SAFETY: just seen.
    unsafe { backward_here(dqkv, dcontext, log_sums, inputs, scratch) };
}

#[target_feature(enable = "avx512f")]
fn forward_here(context: &mut [f32], log_sums: &mut [f32], inputs: Inputs<'_>, scratch: &mut Scratch) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens) = (shape.hidden(), log_sums.len() / shape.heads);
    for (turn, &Span { start, len, row_of_step }) in spans.iter().enumerate() {
        let lines = len.div_ceil(LANES);
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let mut ahead = Ahead::of_forward(inputs, context, [turn, head], lines * pairs(len));
            let queries = transpose(&mut scratch.queries, q);
            let scores = scratch.scores.at_least(len * lines);
            multiply(matrix_mut(scores, lines), k, queries, shape.scale());
            let mut log_sums = MatMut::new(&mut log_sums[head * tokens + start..][..len], 1, len);
            for line in 0..lines {
                let keys = Keys::new(drop, dropout_coordinate(row_of_step, line * LANES, head));
                let log_sum = softmax(&mut scores[line..], lines, len, &keys, drop, &mut ahead);
                store(&mut log_sums, 0, line * LANES, log_sum);
            }
            let weights = matrix(scores, lines).columns(0, len).t();
            let context = &mut context[start * hidden + column..];
            multiply(MatMut::strided(context, len, shape.head_dim, hidden), weights, v, 1.0);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn backward_here(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch,
) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens) = (shape.hidden(), log_sums.len() / shape.heads);
    for (turn, &Span { start, len, row_of_step }) in spans.iter().enumerate() {
        let lines = len.div_ceil(LANES);
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let dout = Mat::strided(&dcontext[start * hidden + column..], len, shape.head_dim, hidden);
            let mut ahead = Ahead::of_backward(inputs, dqkv, dcontext, [turn, head], lines * pairs(len));
            let scores = scratch.scores.at_least(len * lines);
            let gradients = scratch.gradients.at_least(len * lines);
            let weights = scratch.weights.at_least(len * lines);
            let queries = transpose(&mut scratch.queries, q);
            multiply(matrix_mut(scores, lines), k, queries, shape.scale());
            let dcontext = transpose(&mut scratch.dcontext, dout);
            multiply(matrix_mut(gradients, lines), v, dcontext, drop.scale);
            let log_sums = Mat::new(&log_sums[head * tokens + start..][..len], 1, len);
            for line in 0..lines {
                let keys = Keys::new(drop, dropout_coordinate(row_of_step, line * LANES, head));
                let log_sums = load(log_sums, 0, line * LANES);
                let of_line = [&mut scores[line..], &mut gradients[line..], &mut weights[line..]];
                softmax_backward(of_line, lines, len, log_sums, &keys, &mut ahead);
            }
            let dscores = matrix(gradients, lines).columns(0, len);
            let weights = matrix(weights, lines).columns(0, len);
            multiply(gradient(dqkv, 0, start, len, shape, column), dscores.t(), k, shape.scale());
            multiply(gradient(dqkv, 1, start, len, shape, column), dscores, q, shape.scale());
            multiply(gradient(dqkv, 2, start, len, shape, column), weights, dout, drop.scale);
        }
    }
}

/// Rows of so many lines as a matrix.
fn matrix(of: &[Line], lines: usize) -> Mat<'_> {
    Mat::new(as_numbers(of), of.len() / lines, lines * LANES)
}

/// The same, writable.
fn matrix_mut(of: &mut [Line], lines: usize) -> MatMut<'_> {
    let rows = of.len() / lines;
    MatMut::new(as_numbers_mut(of), rows, lines * LANES)
}

/// `of (queries, width)` as `(width, queries)`, with zeros behind in the last line of each row.
#[target_feature(enable = "avx512f")]
fn transpose<'a>(out: &'a mut Lines, of: Mat<'_>) -> Mat<'a> {
    let (queries, width) = of.shape();
    let lines = queries.div_ceil(LANES);
    let out = out.at_least(width * lines);
    for line in 0..lines {
        for column in (0..width).step_by(LANES) {
            let mut values = [_mm512_setzero_si512(); LANES];
            for (row, value) in values.iter_mut().enumerate() {
                *value = _mm512_castps_si512(load(of, line * LANES + row, column));
            }
            let of_columns = out[line..].iter_mut().step_by(lines).skip(column);
            for (value, out) in transposed(values).into_iter().zip(of_columns) {
                write(out, value);
            }
        }
    }
    matrix(out, lines)
}

/// From 16 queries' scores of all keys, `lines` apart, their probabilities with dropout, in place; gives the logarithms of
/// their sums of exponentials.
#[inline]
#[target_feature(enable = "avx512f")]
fn softmax(
    scores: &mut [Line],
    lines: usize,
    len: usize,
    keys: &Keys,
    drop: &Dropout,
    ahead: &mut Ahead,
) -> __m512 {
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for key in 0..len {
        largest[key % 2] = _mm512_max_ps(largest[key % 2], numbers(&scores[key * lines]));
    }
    let largest = _mm512_max_ps(largest[0], largest[1]);
    let mut sums = [_mm512_setzero_ps(); 2];
    for pair in 0..pairs(len) {
        ahead.step();
        let keeps = keys.keeps(pair as u32);
        for (half, key) in keys_of(pair).into_iter().enumerate().filter(|&(_, key)| key < len) {
            let at = key * lines;
            let value = exp(_mm512_sub_ps(numbers(&scores[at]), largest));
            sums[half] = _mm512_add_ps(sums[half], value);
            write(&mut scores[at], _mm512_castps_si512(_mm512_maskz_mov_ps(keeps[half], value)));
        }
    }
    let sum = _mm512_add_ps(sums[0], sums[1]);
    let factor = _mm512_div_ps(_mm512_set1_ps(drop.scale), sum);
    for key in 0..len {
        let value = _mm512_mul_ps(numbers(&scores[key * lines]), factor);
        write(&mut scores[key * lines], _mm512_castps_si512(value));
    }
    _mm512_add_ps(largest, ln(sum))
}

/// Backward of [`softmax`]: from scores and the gradients behind the dropout, which carry its factor, the gradients of the
/// scores in place of those, and as `weights` the dropped probabilities without that factor.
#[inline]
#[target_feature(enable = "avx512f")]
fn softmax_backward(
    [scores, gradients, weights]: [&mut [Line]; 3],
    lines: usize,
    len: usize,
    log_sums: __m512,
    keys: &Keys,
    ahead: &mut Ahead,
) {
    let mut dots = [_mm512_setzero_ps(); 2];
    for pair in 0..pairs(len) {
        ahead.step();
        let keeps = keys.keeps(pair as u32);
        for (half, key) in keys_of(pair).into_iter().enumerate().filter(|&(_, key)| key < len) {
            let at = key * lines;
            let p = exp(_mm512_sub_ps(numbers(&scores[at]), log_sums));
            let gradient = _mm512_maskz_mov_ps(keeps[half], numbers(&gradients[at]));
            dots[half] = _mm512_fmadd_ps(p, gradient, dots[half]);
            write(&mut scores[at], _mm512_castps_si512(p));
            write(&mut gradients[at], _mm512_castps_si512(gradient));
            write(&mut weights[at], _mm512_castps_si512(_mm512_maskz_mov_ps(keeps[half], p)));
        }
    }
    let dot = _mm512_add_ps(dots[0], dots[1]);
    for at in (0..len * lines).step_by(lines) {
        let value = _mm512_mul_ps(numbers(&scores[at]), _mm512_sub_ps(numbers(&gradients[at]), dot));
        write(&mut gradients[at], _mm512_castps_si512(value));
    }
}

/// `out (rows, columns) = factor * a (rows, depth) · b (depth, columns)`, where rows of `b` are contiguous.
#[target_feature(enable = "avx512f")]
fn multiply(mut out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, factor: f32) {
    let ((rows, columns), (depth, _)) = (out.shape(), b.shape());
    assert!(a.shape() == (rows, depth) && b.shape().1 == columns && b.rows_are_contiguous());
    for column in (0..columns).step_by(2 * LANES) {
        let is_wide = columns - column > LANES;
        let mut row = 0;
        while row < rows {
            let place = [row, column];
            row += match (rows - row, is_wide) {
                (4.., true) => some::<4, 2>(&mut out, a, b, place, factor),
                (4.., false) => some::<4, 1>(&mut out, a, b, place, factor),
                (_, true) => some::<1, 2>(&mut out, a, b, place, factor),
                (_, false) => some::<1, 1>(&mut out, a, b, place, factor),
            };
        }
    }
}

/// Some rows of [`multiply`] by some lines, from a place on; gives the number of rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn some<const ROWS: usize, const LINES: usize>(
    out: &mut MatMut<'_>,
    a: Mat<'_>,
    b: Mat<'_>,
    [row, column]: [usize; 2],
    factor: f32,
) -> usize {
    let (depth, columns) = b.shape();
    assert!(row + ROWS <= a.shape().0 && column + (LINES - 1) * LANES < columns);
    let mask = first_lanes(columns - column - (LINES - 1) * LANES);
    let mut sums = [[_mm512_setzero_ps(); LINES]; ROWS];
    let (mut left, mut right) = (a.address(row, 0), b.address(0, column));
    let (of_row, of_depth, of_right) = (a.row_stride(), a.column_stride(), b.row_stride());
    for _ in 0..depth {
        let mut line = [_mm512_setzero_ps(); LINES];
        // SAFETY: rows of `b` from the column on, of the last line as many as there are; elements of `a`.
        unsafe {
            for (i, line) in line.iter_mut().enumerate() {
                let at = right.wrapping_add(i * LANES);
                *line = if i + 1 == LINES { _mm512_maskz_loadu_ps(mask, at) } else { _mm512_loadu_ps(at) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*left.wrapping_add(i * of_row));
                for (sum, line) in sums.iter_mut().zip(line) {
                    *sum = _mm512_fmadd_ps(x, line, *sum);
                }
            }
        }
        (left, right) = (left.wrapping_add(of_depth), right.wrapping_add(of_right));
    }
    let factor = _mm512_set1_ps(factor);
    for (i, sums) in sums.into_iter().enumerate() {
        for (line, sum) in sums.into_iter().enumerate() {
            store(out, row + i, column + line * LANES, _mm512_mul_ps(sum, factor));
        }
    }
    ROWS
}
