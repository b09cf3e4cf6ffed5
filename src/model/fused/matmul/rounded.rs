//! Products of bfloat16 on any processor: operands rounded to it, multiplied in single precision.

use std::cell::RefCell;

use super::view::{Mat, MatMut};
use super::{Write, single};

/// A right operand, rounded, row by row.
#[derive(Default)]
pub struct Rounded {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

thread_local! {
    static LHS: RefCell<Rounded> = RefCell::default();
}

impl Rounded {
    /// Takes the values of `of`.
    pub fn pack(&mut self, of: Mat<'_>) {
        self.pack_scaled(of, 1.0);
    }

    fn pack_scaled(&mut self, of: Mat<'_>, scale: f32) {
        (self.rows, self.cols) = (of.rows, of.cols);
        self.values.clear();
        for row in 0..of.rows {
            self.values.extend((0..of.cols).map(|column| round(of.get(row, column) * scale)));
        }
    }

    /// `out = scale * lhs · self`, onto what `write` says.
    pub fn product(&self, out: MatMut<'_>, write: Write<'_>, lhs: Mat<'_>, scale: f32) {
        LHS.with_borrow_mut(|rounded| {
            rounded.pack_scaled(lhs, scale);
            single(out, write, rounded.view(), self.view(), 1.0);
        });
    }

    fn view(&self) -> Mat<'_> {
        Mat::new(&self.values, self.rows, self.cols)
    }
}

/// The nearest bfloat16, ties to even, in single precision.
fn round(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
