//! Operands in single precision: as they are, or rounded to bfloat16 for products of it on any processor.

use std::cell::RefCell;

use super::view::{Mat, MatMut};
use super::{Write, single};

/// A matrix row by row.
#[derive(Default)]
pub struct Values {
    rounds: bool,
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

thread_local! {
    static LHS: RefCell<Values> = RefCell::new(Values::rounding());
}

impl Values {
    /// Rounds to bfloat16 what is put there.
    pub fn rounding() -> Self {
        Self { rounds: true, ..Self::default() }
    }

    pub fn rounds(&self) -> bool {
        self.rounds
    }

    /// Makes room for another matrix, whose content is unspecified until it is put there.
    pub fn reshape(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        if self.values.len() < rows * cols {
            self.values.resize(rows * cols, 0.0);
        }
    }

    /// Takes the values of a part, whose first row and column are these.
    pub fn put(&mut self, first_row: usize, first_column: usize, of: Mat<'_>) {
        self.put_scaled(first_row, first_column, of, 1.0);
    }

    fn put_scaled(&mut self, first_row: usize, first_column: usize, of: Mat<'_>, scale: f32) {
        assert!(
            first_row + of.rows <= self.rows && first_column + of.cols <= self.cols,
            "beyond its operand"
        );
        let rows = self.values[first_row * self.cols..].chunks_mut(self.cols.max(1));
        for (row, out) in rows.enumerate().take(of.rows) {
            let out = &mut out[first_column..first_column + of.cols];
            for (column, out) in out.iter_mut().enumerate() {
                let value = of.get(row, column) * scale;
                *out = if self.rounds { round(value) } else { value };
            }
        }
    }

    pub fn view(&self) -> Mat<'_> {
        Mat::new(&self.values, self.rows, self.cols)
    }
}

/// `out = scale * lhs · rhs`, onto what `write` says, with `lhs` rounded to bfloat16 on the way.
pub fn rounded_product(out: MatMut<'_>, write: Write<'_>, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    LHS.with_borrow_mut(|rounded| {
        rounded.reshape(lhs.rows, lhs.cols);
        rounded.put_scaled(0, 0, lhs, scale);
        single(out, write, rounded.view(), rhs, 1.0);
    });
}

/// The nearest bfloat16, ties to even, in single precision.
fn round(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
