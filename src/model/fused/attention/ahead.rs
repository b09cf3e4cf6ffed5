//! Fetching of the next head's rows into the second-level cache while this head is computed.
//!
//! A head's rows lie a token's width apart, too far for the processor to guess the next; where they come from memory they
//! take as long as what is computed from them.

use std::arch::x86_64::*;

use super::{Inputs, Shape, Span, views};
use crate::model::fused::matmul::Mat;

/// Rows of the next head that are read or written, some of them fetched at each step of this one.
pub struct Ahead {
    /// First element of each matrix, and how far its rows lie apart; those that are read, then those that are written.
    columns: [(*const f32, usize); MOST],
    read: usize,
    all: usize,
    lines: usize,
    /// The next row and matrix, the number of rows, and how many of a matrix' rows a step fetches.
    row: usize,
    column: usize,
    rows: usize,
    per_step: usize,
}

/// Queries, keys, values and the gradients of all four.
const MOST: usize = 7;

impl Ahead {
    /// What the forward pass of the turn behind this one reads and writes, within so many steps of this one.
    pub fn of_forward(inputs: Inputs<'_>, context: &[f32], turn: [usize; 2], steps: usize) -> Self {
        let Inputs { qkv, spans, shape, .. } = inputs;
        let Some((span, column)) = following(spans, turn, shape) else { return Self::nothing() };
        let read = views(qkv, span.start, span.len, shape, column).map(place);
        let hidden = shape.hidden();
        let written = (context.as_ptr().wrapping_add(span.start * hidden + column), hidden);
        Self::of(&read, &[written], span.len, shape.head_dim, steps)
    }

    /// The same of the backward pass.
    pub fn of_backward(
        inputs: Inputs<'_>,
        dqkv: &[f32],
        dcontext: &[f32],
        turn: [usize; 2],
        steps: usize,
    ) -> Self {
        let Inputs { qkv, spans, shape, .. } = inputs;
        let Some((span, column)) = following(spans, turn, shape) else { return Self::nothing() };
        let [q, k, v] = views(qkv, span.start, span.len, shape, column).map(place);
        let hidden = shape.hidden();
        let dout = (dcontext.as_ptr().wrapping_add(span.start * hidden + column), hidden);
        let written = [0, 1, 2].map(|part| {
            let from = span.start * 3 * hidden + part * hidden + column;
            (dqkv.as_ptr().wrapping_add(from), 3 * hidden)
        });
        Self::of(&[q, k, v, dout], &written, span.len, shape.head_dim, steps)
    }

    /// Nothing is to be fetched.
    fn nothing() -> Self {
        let columns = [(std::ptr::null(), 0); MOST];
        Self { columns, read: 0, all: 0, lines: 0, row: 0, column: 0, rows: 0, per_step: 0 }
    }

    /// `rows` rows of `width` numbers of each of these matrices, within so many steps.
    fn of(
        read: &[(*const f32, usize)],
        written: &[(*const f32, usize)],
        rows: usize,
        width: usize,
        steps: usize,
    ) -> Self {
        let mut columns = [(std::ptr::null(), 0); MOST];
        let all = read.len() + written.len();
        for (to, from) in columns.iter_mut().zip(read.iter().chain(written)) {
            *to = *from;
        }
        let (lines, per_step) = (width.div_ceil(16), (rows * all).div_ceil(steps.max(1)));
        Self { columns, read: read.len(), all, lines, row: 0, column: 0, rows, per_step }
    }

    /// Fetches a share.
    #[inline(always)]
    pub fn step(&mut self) {
        for _ in 0..self.per_step {
            if self.row == self.rows {
                return;
            }
            let (at, stride) = self.columns[self.column];
            let at = at.wrapping_add(self.row * stride);
            for line in 0..self.lines {
                let at = at.wrapping_add(16 * line).cast::<i8>();
                // SAFETY: hints, which cannot fail.
                unsafe {
                    if self.column < self.read {
                        _mm_prefetch::<_MM_HINT_T1>(at);
                    } else {
                        _mm_prefetch::<_MM_HINT_ET0>(at);
                    }
                }
            }
            self.column += 1;
            if self.column == self.all {
                (self.column, self.row) = (0, self.row + 1);
            }
        }
    }
}

/// The turn behind this one, of a span and a head: its span, and the first column of its head.
fn following(spans: &[Span], [span, head]: [usize; 2], shape: Shape) -> Option<(Span, usize)> {
    if head + 1 < shape.heads {
        return Some((spans[span], (head + 1) * shape.head_dim));
    }
    spans.get(span + 1).map(|&span| (span, 0))
}

/// Where a matrix starts, and how far its rows lie apart.
fn place(of: Mat<'_>) -> (*const f32, usize) {
    (of.address(0, 0), of.row_stride())
}
