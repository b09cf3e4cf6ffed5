//! Scaled dot-product attention over the real tokens of each sample, forward and backward.
//!
//! Works on a chunk's packed `(tokens, 3 * hidden)` queries, keys and values: samples lie behind each other
//! without padding, so each attends to itself by construction and no mask is needed. Keeps only the log-sum of
//! each row of scores; the backward pass computes the probabilities again from it (Dao et al. 2022), and
//! their dropout from its key.

use super::kernels::{self, Dropout};
use super::matmul::{Kernel, Mat, MatMut, Packed, Write, product};
use crate::model::dropout_coordinate;

/// Widths that a chunk's attention needs, and what computes its products.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub head_dim: usize,
    pub kernel: Kernel,
}

impl Shape {
    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }

    /// Scores are divided by the square root of a head's width (Vaswani et al. 2017, section 3.2.1).
    fn scale(self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

/// One sample's place in its chunk.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First token in the chunk.
    pub start: usize,
    /// Real tokens.
    pub len: usize,
    /// Row in the step's whole batch.
    pub row_of_step: usize,
}

/// Scratch of one chunk, grown to the longest sample and kept.
#[derive(Default)]
pub struct Scratch {
    probabilities: Vec<f32>,
    gradients: Vec<f32>,
    factors: Vec<f32>,
    /// A right operand at a time.
    packed: Packed,
}

impl Scratch {
    fn reserve(&mut self, len: usize) {
        if self.factors.len() < len {
            self.probabilities.resize(len * len, 0.0);
            self.gradients.resize(len * len, 0.0);
            self.factors.resize(len, 0.0);
        }
    }
}

/// `context (tokens, hidden)` from `qkv (tokens, 3 * hidden)`; `log_sums (heads, tokens)` for the way back.
pub fn forward(
    context: &mut [f32],
    log_sums: &mut [f32],
    qkv: &[f32],
    spans: &[Span],
    shape: Shape,
    drop: &Dropout,
    scratch: &mut Scratch,
) {
    let (hidden, tokens) = (shape.hidden(), log_sums.len() / shape.heads);
    for &Span { start, len, row_of_step } in spans {
        scratch.reserve(len);
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let scores = &mut scratch.probabilities[..len * len];
            let k_t = shape.kernel.rhs(k.t(), &mut scratch.packed);
            product(MatMut::new(scores, len, len), Write::Store, q, k_t, shape.scale());
            let log_sums = &mut log_sums[head * tokens + start..][..len];
            kernels::softmax(scores, len, log_sums);
            let coordinate = dropout_coordinate(row_of_step, 0, head);
            kernels::drop_consecutive(scores, len, coordinate, drop, &mut scratch.factors);
            let out = &mut context[start * hidden + column..];
            let out = MatMut::strided(out, len, shape.head_dim, hidden);
            let v = shape.kernel.rhs(v, &mut scratch.packed);
            product(out, Write::Store, Mat::new(scores, len, len), v, 1.0);
        }
    }
}

/// `dqkv (tokens, 3 * hidden)` from `dcontext (tokens, hidden)` and what the forward pass kept.
#[expect(
    clippy::too_many_arguments,
    reason = "two gradients, two kept values, and what the forward pass takes"
)]
pub fn backward(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    qkv: &[f32],
    spans: &[Span],
    shape: Shape,
    drop: &Dropout,
    scratch: &mut Scratch,
) {
    let (hidden, tokens) = (shape.hidden(), log_sums.len() / shape.heads);
    for &Span { start, len, row_of_step } in spans {
        scratch.reserve(len);
        for head in 0..shape.heads {
            let column = head * shape.head_dim;
            let [q, k, v] = views(qkv, start, len, shape, column);
            let p = &mut scratch.probabilities[..len * len];
            let dp = &mut scratch.gradients[..len * len];
            let dout = Mat::strided(&dcontext[start * hidden + column..], len, shape.head_dim, hidden);

            let k_t = shape.kernel.rhs(k.t(), &mut scratch.packed);
            product(MatMut::new(p, len, len), Write::Store, q, k_t, shape.scale());
            kernels::softmax_scaled(p, len, &log_sums[head * tokens + start..][..len], 1.0);
            let v_t = shape.kernel.rhs(v.t(), &mut scratch.packed);
            product(MatMut::new(dp, len, len), Write::Store, dout, v_t, 1.0);
            let coordinate = dropout_coordinate(row_of_step, 0, head);
            kernels::softmax_backward(p, dp, len, coordinate, drop, &mut scratch.factors);

            let (p, dscores) = (Mat::new(p, len, len), Mat::new(dp, len, len));
            let mut gradient = |part: usize, lhs, rhs, scale| {
                let rhs = shape.kernel.rhs(rhs, &mut scratch.packed);
                let out = &mut dqkv[start * 3 * hidden + part * hidden + column..];
                let out = MatMut::strided(out, len, shape.head_dim, 3 * hidden);
                product(out, Write::Store, lhs, rhs, scale);
            };
            gradient(0, dscores, k, shape.scale());
            gradient(1, dscores.t(), q, shape.scale());
            gradient(2, p.t(), dout, 1.0);
        }
    }
}

/// One head's queries, keys and values of one sample, each `(len, head_dim)`.
fn views(qkv: &[f32], start: usize, len: usize, shape: Shape, column: usize) -> [Mat<'_>; 3] {
    let hidden = shape.hidden();
    [0, 1, 2].map(|part| {
        let from = start * 3 * hidden + part * hidden + column;
        Mat::strided(&qkv[from..], len, shape.head_dim, 3 * hidden)
    })
}
