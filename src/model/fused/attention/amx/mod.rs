//! Attention by AMX: in bfloat16, and in single precision, where each number is the sum of three bfloat16.
//!
//! Scores are computed transposed, keys by queries, 32 queries at a time: what softmax needs of a query is then in a lane,
//! and probabilities go from its registers straight to where the next product reads them, in its order. Nothing is packed
//! but queries, keys and values and their gradients, once a head; only those are transposed.

mod operands;
mod softmax;

use std::arch::x86_64::*;

pub use self::operands::BLOCK;
use self::operands::{Onto, Operand, STRIP, Square, Sums, ZERO_SUMS, blocks, multiply};
use self::softmax::{Gradients, Mask, OfQueries, softmax, softmax_backward};
use super::ahead::Ahead;
use super::vectors::{ln, load, numbers, pairs, store};
use super::{Inputs, Span, gradient, views};
use crate::model::dropout::dropout_coordinate;
use crate::model::fused::matmul::packed::Method;
use crate::model::fused::matmul::packed::pack::transposed;
use crate::model::fused::matmul::packed::tiles::AmxTiles;
use crate::model::fused::matmul::{Mat, MatMut};

/// Blocks of queries whose sums over queries are computed at a time: their probabilities stay in the second-level cache.
const QUERY_BLOCKS: usize = 4;

/// Scratch, grown to the longest sample and kept.
#[derive(Default)]
pub struct Scratch<const PARTS: usize> {
    /// Operands of a head whose depth is the head's width: keys and values from the left, 32 queries and gradients of
    /// their context from the right.
    keys: Operand<PARTS>,
    values: Operand<PARTS>,
    queries: Operand<PARTS>,
    dcontext: Operand<PARTS>,
    /// Those whose depth is keys: values or keys from the left, what is 32 queries' from the right.
    over_keys: Operand<PARTS>,
    of_queries: Operand<PARTS>,
    /// Those whose depth is some blocks of queries.
    weights: Operand<PARTS>,
    dscores: Operand<PARTS>,
    dcontext_over_queries: Operand<PARTS>,
    queries_over_queries: Operand<PARTS>,
    /// Sums, keys by queries.
    scores: Vec<Sums>,
    gradients: Vec<Sums>,
    /// The head's width by queries.
    rows: Vec<Sums>,
    /// Keys by the head's width.
    dkeys: Vec<Sums>,
    dvalues: Vec<Sums>,
}

/// The first `n` sums, made where there are fewer.
fn at_least(sums: &mut Vec<Sums>, n: usize) -> &mut [Sums] {
    if sums.len() < n {
        sums.resize(n, ZERO_SUMS);
    }
    &mut sums[..n]
}

/// As [`super::forward`].
pub fn forward<const PARTS: usize>(
    context: &mut [f32],
    log_sums: &mut [f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch<PARTS>,
) {
    assert!(Method::all().contains(&Method::Amx), "attention by AMX, which is not of this machine");
    // SAFETY: just seen.
    unsafe { forward_here(context, log_sums, inputs, scratch) };
}

/// As [`super::backward`].
pub fn backward<const PARTS: usize>(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch<PARTS>,
) {
    assert!(Method::all().contains(&Method::Amx), "attention by AMX, which is not of this machine");
    // SAFETY: just seen.
    unsafe { backward_here(dqkv, dcontext, log_sums, inputs, scratch) };
}

/// # Safety
/// AMX-BF16, leave of the kernel to use it, and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn forward_here<const PARTS: usize>(
    context: &mut [f32],
    log_sums: &mut [f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch<PARTS>,
) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens, width) = (shape.hidden(), log_sums.len() / shape.heads, blocks(shape.head_dim));
    // SAFETY: forwarded; the configuration lives to the end of this function.
    let _tiles = unsafe { AmxTiles::configure() };
    for (turn, &Span { start, len, row_of_step }) in spans.iter().enumerate() {
        let Scratch { keys, queries, over_keys, of_queries, scores, rows, .. } = &mut *scratch;
        let (scores, rows) = (at_least(scores, blocks(len)), at_least(rows, width));
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let steps = 2 * blocks(len) * pairs(len);
            let mut ahead = Ahead::of_forward(inputs, context, [turn, head], steps);
            keys.pack_left(k, 1.0);
            over_keys.pack_left(v.t(), 1.0);
            for first in (0..len).step_by(BLOCK) {
                let n = (len - first).min(BLOCK);
                queries.pack_right(q.rows_from(first, n).t(), shape.scale());
                for (block, scores) in scores.iter_mut().enumerate() {
                    // SAFETY: configured above.
                    unsafe { multiply(scores.into(), Onto::Nothing, keys.block(block), queries.block(0)) };
                }
                let mask = Mask::new(drop, dropout_coordinate(row_of_step, first, head));
                let [largest, sums] = if drop.threshold > 0 {
                    softmax::<PARTS, true>(scores, len, of_queries, &mask, &mut ahead)
                } else {
                    softmax::<PARTS, false>(scores, len, of_queries, &mask, &mut ahead)
                };
                let log_sums = &mut log_sums[head * tokens + start + first..][..n];
                let mut log_sums = MatMut::new(log_sums, 1, n);
                let mut factors = sums;
                for half in 0..2 {
                    let value = _mm512_add_ps(largest[half], ln(sums[half]));
                    store(&mut log_sums, 0, half * STRIP, value);
                    factors[half] = _mm512_div_ps(_mm512_set1_ps(drop.scale), sums[half]);
                }
                for (block, rows) in rows.iter_mut().enumerate() {
                    // SAFETY: configured above.
                    unsafe {
                        multiply(rows.into(), Onto::Nothing, over_keys.block(block), of_queries.block(0))
                    };
                }
                let context = &mut context[(start + first) * hidden + column..];
                write_transposed(MatMut::strided(context, n, shape.head_dim, hidden), rows, factors);
            }
        }
    }
}

/// # Safety
/// AMX-BF16, leave of the kernel to use it, and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn backward_here<const PARTS: usize>(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch<PARTS>,
) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens, width) = (shape.hidden(), log_sums.len() / shape.heads, blocks(shape.head_dim));
    // SAFETY: forwarded; the configuration lives to the end of this function.
    let _tiles = unsafe { AmxTiles::configure() };
    for (turn, &Span { start, len, row_of_step }) in spans.iter().enumerate() {
        let of_keys = blocks(len);
        let scratch = &mut *scratch;
        let (scores, gradients) =
            (at_least(&mut scratch.scores, of_keys), at_least(&mut scratch.gradients, of_keys));
        let rows = at_least(&mut scratch.rows, width);
        let dkeys = at_least(&mut scratch.dkeys, of_keys * width);
        let dvalues = at_least(&mut scratch.dvalues, of_keys * width);
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let dout = Mat::strided(&dcontext[start * hidden + column..], len, shape.head_dim, hidden);
            let steps = 2 * blocks(len) * pairs(len);
            let mut ahead = Ahead::of_backward(inputs, dqkv, dcontext, [turn, head], steps);
            scratch.keys.pack_left(k, 1.0);
            scratch.values.pack_left(v, 1.0);
            scratch.over_keys.reshape(2 * width, of_keys);
            for block in 0..of_keys {
                scratch.over_keys.take_exchanged(block, scratch.keys.block(block));
            }
            scratch.over_keys.turn(width);
            for first in (0..len).step_by(QUERY_BLOCKS * BLOCK) {
                let n = (len - first).min(QUERY_BLOCKS * BLOCK);
                let (q, dout) = (q.rows_from(first, n), dout.rows_from(first, n));
                scratch.queries_over_queries.reshape(2 * width, blocks(n));
                scratch.dcontext_over_queries.reshape(2 * width, blocks(n));
                scratch.weights.reshape(2 * of_keys, blocks(n));
                scratch.dscores.reshape(2 * of_keys, blocks(n));
                for query_block in 0..blocks(n) {
                    let first_of_block = query_block * BLOCK;
                    let n = (n - first_of_block).min(BLOCK);
                    let (q, dout) = (q.rows_from(first_of_block, n), dout.rows_from(first_of_block, n));
                    let first = first + first_of_block;
                    scratch.queries.pack_left(q, shape.scale());
                    scratch.queries_over_queries.take_exchanged(query_block, scratch.queries.block(0));
                    scratch.queries.turn(1);
                    scratch.dcontext.pack_left(dout, drop.scale);
                    scratch.dcontext_over_queries.take_exchanged(query_block, scratch.dcontext.block(0));
                    scratch.dcontext.turn(1);
                    for block in 0..of_keys {
                        let (keys, values) = (scratch.keys.block(block), scratch.values.block(block));
                        // SAFETY: configured above.
                        unsafe {
                            multiply(
                                (&mut scores[block]).into(),
                                Onto::Nothing,
                                keys,
                                scratch.queries.block(0),
                            );
                            multiply(
                                (&mut gradients[block]).into(),
                                Onto::Nothing,
                                values,
                                scratch.dcontext.block(0),
                            );
                        }
                    }
                    let log_sums = Mat::new(&log_sums[head * tokens + start + first..][..n], 1, n);
                    let log_sums = [load(log_sums, 0, 0), load(log_sums, 0, STRIP)];
                    let mask = Mask::new(drop, dropout_coordinate(row_of_step, first, head));
                    let out = Gradients {
                        weights: &mut scratch.weights,
                        dscores: &mut scratch.dscores,
                        block: query_block,
                        dscores_of_queries: &mut scratch.of_queries,
                    };
                    if drop.threshold > 0 {
                        softmax_backward::<PARTS, true>(
                            scores, gradients, len, log_sums, &mask, out, &mut ahead,
                        );
                    } else {
                        softmax_backward::<PARTS, false>(
                            scores, gradients, len, log_sums, &mask, out, &mut ahead,
                        );
                    }
                    for (block, rows) in rows.iter_mut().enumerate() {
                        let (keys, dscores) = (scratch.over_keys.block(block), scratch.of_queries.block(0));
                        // SAFETY: configured above.
                        unsafe { multiply(rows.into(), Onto::Nothing, keys, dscores) };
                    }
                    let out = gradient(dqkv, 0, start + first, n, shape, column);
                    write_transposed(out, rows, [_mm512_set1_ps(shape.scale()); 2]);
                }
                // All queries add to all keys and values.
                let onto = if first == 0 { Onto::Nothing } else { Onto::Itself };
                for block in 0..of_keys {
                    let (weights, dscores) = (scratch.weights.block(block), scratch.dscores.block(block));
                    for of_width in 0..width {
                        let queries = scratch.queries_over_queries.block(of_width);
                        let dcontext = scratch.dcontext_over_queries.block(of_width);
                        let products =
                            [(1, &mut *dkeys, dscores, queries), (2, &mut *dvalues, weights, dcontext)];
                        for (part, sums, left, right) in products {
                            let mut out = gradient(dqkv, part, start, len, shape, column);
                            let square = Square::of(&mut out, block * BLOCK, of_width * BLOCK);
                            let square =
                                square.unwrap_or_else(|| (&mut sums[block * width + of_width]).into());
                            // SAFETY: configured above.
                            unsafe { multiply(square, onto, left, right) };
                        }
                    }
                }
            }
            write_edges(gradient(dqkv, 1, start, len, shape, column), dkeys, width);
            write_edges(gradient(dqkv, 2, start, len, shape, column), dvalues, width);
        }
    }
}

/// Writes `out (queries, head width)` from sums `(head width, queries)`, times each query's factor.
#[target_feature(enable = "avx512f")]
fn write_transposed(mut out: MatMut<'_>, sums: &[Sums], factors: OfQueries) {
    let (rows, columns) = out.shape();
    for column in (0..columns).step_by(STRIP) {
        let lines = &sums[column / BLOCK][column % BLOCK * 2..][..2 * STRIP];
        for row in (0..rows).step_by(STRIP) {
            let half = row / STRIP;
            let mut values = [_mm512_setzero_si512(); STRIP];
            for (i, value) in values.iter_mut().enumerate() {
                *value = _mm512_castps_si512(_mm512_mul_ps(numbers(&lines[2 * i + half]), factors[half]));
            }
            for (i, value) in transposed(values).into_iter().enumerate() {
                store(&mut out, row + i, column, _mm512_castsi512_ps(value));
            }
        }
    }
}

/// Writes those blocks of `out (keys, head width)` from sums that it has not all of, `width` blocks beside each other.
#[inline]
#[target_feature(enable = "avx512f")]
fn write_edges(mut out: MatMut<'_>, sums: &[Sums], width: usize) {
    let (rows, columns) = out.shape();
    for (i, sums) in sums.iter().enumerate() {
        let (row, column) = (i / width * BLOCK, i % width * BLOCK);
        if row + BLOCK > rows || column + BLOCK > columns {
            for (j, line) in sums.iter().enumerate() {
                store(&mut out, row + j / 2, column + j % 2 * STRIP, numbers(line));
            }
        }
    }
}
