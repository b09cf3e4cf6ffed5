//! Attention through products of matrices, on any processor: some rows of scores at a time.

use super::{Inputs, Span, gradient, views};
use crate::model::dropout::dropout_coordinate;
use crate::model::fused::kernels;
use crate::model::fused::matmul::{Mat, MatMut, Packed, Rhs, Write, product};

/// Rows of scores at a time, so that they stay in the second-level cache whatever the length of a sample.
const ROWS: usize = 128;

/// Scratch, grown to the longest sample and kept.
#[derive(Default)]
pub struct Scratch {
    probabilities: Vec<f32>,
    gradients: Vec<f32>,
    factors: Vec<f32>,
    /// Right operands: three that serve a head, and one for some rows.
    of_head: [Packed; 3],
    of_rows: Packed,
}

impl Scratch {
    fn reserve(&mut self, len: usize) {
        if self.probabilities.len() < ROWS * len {
            self.probabilities.resize(ROWS * len, 0.0);
            self.gradients.resize(ROWS * len, 0.0);
            self.factors.resize(kernels::ROWS_AT_ONCE * len, 0.0);
        }
    }
}

/// As [`super::forward`].
pub fn forward(context: &mut [f32], log_sums: &mut [f32], inputs: Inputs<'_>, scratch: &mut Scratch) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens, kernel) = (shape.hidden(), log_sums.len() / shape.heads, shape.kernel);
    for &Span { start, len, row_of_step } in spans {
        scratch.reserve(len);
        let Scratch { probabilities, factors, of_head: [k_t, v_space, _], .. } = scratch;
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let (k_t, v) = (kernel.rhs(k.t(), k_t), kernel.rhs(v, v_space));
            for first in (0..len).step_by(ROWS) {
                let rows = (len - first).min(ROWS);
                let scores = &mut probabilities[..rows * len];
                let q = q.rows_from(first, rows);
                product(MatMut::new(scores, rows, len), Write::Store, q, k_t, shape.scale());
                let log_sums = &mut log_sums[head * tokens + start + first..][..rows];
                let coordinate = dropout_coordinate(row_of_step, first, head);
                kernels::softmax(scores, len, log_sums, coordinate, drop, factors);
                let out = &mut context[(start + first) * hidden + column..];
                let out = MatMut::strided(out, rows, shape.head_dim, hidden);
                product(out, Write::Store, Mat::new(scores, rows, len), v, 1.0);
            }
        }
    }
}

/// As [`super::backward`].
pub fn backward(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch,
) {
    let Inputs { qkv, spans, shape, drop } = inputs;
    let (hidden, tokens, kernel) = (shape.hidden(), log_sums.len() / shape.heads, shape.kernel);
    for &Span { start, len, row_of_step } in spans {
        scratch.reserve(len);
        let Scratch { probabilities, gradients, factors, of_head: [k_t, k_space, v_t], of_rows } = scratch;
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let (k_t, k, v_t) = (kernel.rhs(k.t(), k_t), kernel.rhs(k, k_space), kernel.rhs(v.t(), v_t));
            let mut add = |part: usize, first: usize, write, lhs: Mat<'_>, rhs: Rhs<'_>, scale| {
                let out = gradient(dqkv, part, start + first, lhs.shape().0, shape, column);
                product(out, write, lhs, rhs, scale);
            };
            for first in (0..len).step_by(ROWS) {
                let rows = (len - first).min(ROWS);
                let (p, dp) = (&mut probabilities[..rows * len], &mut gradients[..rows * len]);
                let dout = &dcontext[(start + first) * hidden + column..];
                let (q, dout) = (q.rows_from(first, rows), Mat::strided(dout, rows, shape.head_dim, hidden));

                product(MatMut::new(p, rows, len), Write::Store, q, k_t, shape.scale());
                product(MatMut::new(dp, rows, len), Write::Store, dout, v_t, 1.0);
                let log_sums = &log_sums[head * tokens + start + first..][..rows];
                let coordinate = dropout_coordinate(row_of_step, first, head);
                kernels::softmax_backward(p, dp, len, log_sums, coordinate, drop, factors);

                let (p, dscores) = (Mat::new(p, rows, len), Mat::new(dp, rows, len));
                add(0, first, Write::Store, dscores, k, shape.scale());
                // All rows add to all keys and values.
                let write = if first == 0 { Write::Store } else { Write::Add };
                add(1, 0, write, dscores.t(), kernel.rhs(q, of_rows), shape.scale());
                add(2, 0, write, p.t(), kernel.rhs(dout, of_rows), 1.0);
            }
        }
    }
}
