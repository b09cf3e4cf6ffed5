//! Fetching of the next head's rows into the second-level cache while this head is computed.
//!
//! A head's rows lie a token's width apart, too far for the processor to guess the next; where they come from memory they
//! take as long as what is computed from them.

use std::arch::x86_64::*;

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
    /// Nothing is to be fetched.
    pub fn nothing() -> Self {
        let columns = [(std::ptr::null(), 0); MOST];
        Self { columns, read: 0, all: 0, lines: 0, row: 0, column: 0, rows: 0, per_step: 0 }
    }

    /// `rows` rows of `width` numbers of each of these matrices, within so many steps.
    pub fn of(
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
