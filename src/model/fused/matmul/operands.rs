//! Operands as kernels read them, and parts of them.
//!
//! What is stored is put there piece by piece, by who has it in the caches; a right operand that serves one product only,
//! or a left one, may as well be a plain view, which a kernel packs on the way if it must.

use std::ops::Range;

use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::packed;
use super::values::Values;
use super::view::Mat;

/// Parts of stored operands begin at multiples of this: of depth, and of rows or columns.
pub const PIECE: usize = 256;

/// An operand in the form that a kernel reads.
enum Form {
    /// Depth by columns, in either case: a left operand is transposed.
    Values(Values),
    #[cfg(target_arch = "x86_64")]
    Packed(packed::Operand),
}

impl Default for Form {
    fn default() -> Self {
        Self::Values(Values::default())
    }
}

impl Form {
    fn of(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Single => Self::Values(Values::default()),
            Kernel::Rounded => Self::Values(Values::rounding()),
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(method) => Self::Packed(packed::Operand::new(method)),
        }
    }

    fn kernel(&self) -> Kernel {
        match self {
            Self::Values(values) if values.rounds() => Kernel::Rounded,
            Self::Values(_) => Kernel::Single,
            #[cfg(target_arch = "x86_64")]
            Self::Packed(operand) => Kernel::Packed(operand.method()),
        }
    }

    /// Makes room; keeps the buffer from one time to the next.
    fn reshape(&mut self, kernel: Kernel, lanes: usize, depth: usize) {
        if self.kernel() != kernel {
            *self = Self::of(kernel);
        }
        match self {
            Self::Values(values) => values.reshape(depth, lanes),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(operand) => operand.reshape(lanes, depth),
        }
    }
}

/// A left operand, stored.
#[derive(Default)]
pub struct PackedRows(Form);

impl PackedRows {
    /// Makes room for `rows` of this depth, whose content is unspecified until it is put there.
    pub fn reshape(&mut self, kernel: Kernel, rows: usize, depth: usize) {
        self.0.reshape(kernel, rows, depth);
    }

    /// Takes a part, `of (rows, depth)`, whose first row and depth are multiples of [`PIECE`].
    pub fn put(&mut self, first_row: usize, first_k: usize, of: Mat<'_>) {
        match &mut self.0 {
            Form::Values(values) => values.put(first_k, first_row, of.t()),
            #[cfg(target_arch = "x86_64")]
            Form::Packed(operand) => operand.put_rows(first_row, first_k, of),
        }
    }

    /// Rows `first..first + rows`; `first` is a multiple of 32.
    pub fn rows(&self, first: usize, rows: usize) -> Lhs<'_> {
        match &self.0 {
            Form::Values(values) => Lhs(Left::Values(values, values.view().t().rows_from(first, rows))),
            #[cfg(target_arch = "x86_64")]
            Form::Packed(operand) => Lhs(Left::Packed(packed::Window::new(operand).lanes(first, rows))),
        }
    }
}

/// A right operand, stored.
#[derive(Default)]
pub struct Packed(Form);

impl Packed {
    /// Takes the values of `of`; keeps its buffer from one time to the next.
    pub fn pack(&mut self, kernel: Kernel, of: Mat<'_>) {
        self.reshape(kernel, of.rows, of.cols);
        self.put(0, 0, of);
    }

    /// The same, on all threads of the pool where the kernel packs.
    pub fn pack_on_all_threads(&mut self, kernel: Kernel, of: Mat<'_>) {
        self.reshape(kernel, of.rows, of.cols);
        match &mut self.0 {
            Form::Values(values) => values.put(0, 0, of),
            #[cfg(target_arch = "x86_64")]
            Form::Packed(operand) => operand.put_columns_on_all_threads(of),
        }
    }

    /// Makes room for `columns` of this depth, whose content is unspecified until it is put there.
    pub fn reshape(&mut self, kernel: Kernel, depth: usize, columns: usize) {
        self.0.reshape(kernel, columns, depth);
    }

    /// Takes a part, `of (depth, columns)`, whose first depth and column are multiples of [`PIECE`].
    pub fn put(&mut self, first_k: usize, first_column: usize, of: Mat<'_>) {
        match &mut self.0 {
            Form::Values(values) => values.put(first_k, first_column, of),
            #[cfg(target_arch = "x86_64")]
            Form::Packed(operand) => operand.put_columns(first_k, first_column, of),
        }
    }

    /// All of it.
    pub fn rhs(&self) -> Rhs<'_> {
        match &self.0 {
            Form::Values(values) => Rhs(Right::Values(values, values.view())),
            #[cfg(target_arch = "x86_64")]
            Form::Packed(operand) => Rhs(Right::Packed(packed::Window::new(operand))),
        }
    }
}

impl Kernel {
    /// A left operand for several products; `space` holds it where it must be changed for that.
    pub fn lhs<'a>(self, of: Mat<'a>, space: &'a mut PackedRows) -> Lhs<'a> {
        match self {
            Self::Single | Self::Rounded => of.into(),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(_) => {
                space.reshape(self, of.rows, of.cols);
                space.put(0, 0, of);
                space.rows(0, of.rows)
            }
        }
    }

    /// A right operand; `space` holds it where it must be changed for that.
    pub fn rhs<'a>(self, of: Mat<'a>, space: &'a mut Packed) -> Rhs<'a> {
        match self {
            Self::Single => of.into(),
            _ => {
                space.pack(self, of);
                space.rhs()
            }
        }
    }
}

/// A left operand.
#[derive(Clone, Copy)]
pub struct Lhs<'a>(pub(super) Left<'a>);

#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Goes with right operands of all kernels.
    Plain(Mat<'a>),
    /// Goes with right operands of the same kernel.
    Values(&'a Values, Mat<'a>),
    #[cfg(target_arch = "x86_64")]
    Packed(packed::Window<'a>),
}

impl<'a> From<Mat<'a>> for Lhs<'a> {
    fn from(view: Mat<'a>) -> Self {
        Self(Left::Plain(view))
    }
}

/// A right operand; what it is decides what computes.
#[derive(Clone, Copy)]
pub struct Rhs<'a>(pub(super) Right<'a>);

#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// [`Kernel::Single`].
    Plain(Mat<'a>),
    Values(&'a Values, Mat<'a>),
    #[cfg(target_arch = "x86_64")]
    Packed(packed::Window<'a>),
}

impl<'a> From<Mat<'a>> for Rhs<'a> {
    fn from(view: Mat<'a>) -> Self {
        Self(Right::Plain(view))
    }
}

impl Rhs<'_> {
    /// Some columns of this operand; the first one is a multiple of [`PIECE`].
    pub fn columns(self, range: Range<usize>) -> Self {
        let (first, columns) = (range.start, range.len());
        Self(match self.0 {
            Right::Plain(view) => Right::Plain(view.columns(first, columns)),
            Right::Values(values, view) => Right::Values(values, view.columns(first, columns)),
            #[cfg(target_arch = "x86_64")]
            Right::Packed(window) => Right::Packed(window.lanes(first, columns)),
        })
    }

    /// Some of the depth of this operand, which begins with a multiple of [`PIECE`], and ends with one or with the operand.
    pub fn depth(self, range: Range<usize>) -> Self {
        let (first, depth) = (range.start, range.len());
        Self(match self.0 {
            Right::Plain(view) => Right::Plain(view.rows_from(first, depth)),
            Right::Values(values, view) => Right::Values(values, view.rows_from(first, depth)),
            #[cfg(target_arch = "x86_64")]
            Right::Packed(window) => Right::Packed(window.depth(first, depth)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MatMut, Write, product};
    use super::*;
    use crate::model::Precision;

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect()
    }

    /// Small integers are exact in every form, so that whatever is put together and taken apart must give what whole
    /// plain views give, to the bit.
    #[test]
    fn operands_by_pieces_multiply_like_whole_ones() {
        let (rows, depth, columns) = (2 * PIECE + 70, PIECE + 100, PIECE + 33);
        let (a, b) = (counting(depth * rows), counting(depth * columns));
        // The left one is stored as gradients are: transposed.
        let (lhs, rhs) = (Mat::new(&a, depth, rows).t(), Mat::new(&b, depth, columns));
        let part = |all: usize, i: usize| i * PIECE..all.min((i + 1) * PIECE);
        for kernel in [Kernel::all(Precision::F32), Kernel::all(Precision::Bf16)].concat() {
            let (mut left, mut right) = (PackedRows::default(), Packed::default());
            // A larger operand was there before.
            left.reshape(kernel, rows + 40, depth + 300);
            right.reshape(kernel, depth + 300, columns + 40);
            left.reshape(kernel, rows, depth);
            right.reshape(kernel, depth, columns);
            for i in (0..2).rev() {
                let ks = part(depth, i);
                let of = lhs.columns(ks.start, ks.len());
                for rows in (0..3).map(|j| part(rows, j)) {
                    left.put(rows.start, ks.start, of.rows_from(rows.start, rows.len()));
                }
                let of = rhs.rows_from(ks.start, ks.len());
                for columns in (0..2).map(|j| part(columns, j)) {
                    right.put(ks.start, columns.start, of.columns(columns.start, columns.len()));
                }
            }
            let mut space = PackedRows::default();
            let wholes = [left.rows(0, rows), kernel.lhs(lhs, &mut space), lhs.into()];
            for (first, count, left) in [
                (0, rows, wholes[0]),
                (0, rows, wholes[1]),
                (0, rows, wholes[2]),
                (32, 45, left.rows(32, 45)),
                (PIECE, PIECE + 70, left.rows(PIECE, PIECE + 70)),
            ] {
                for columns in [0..columns, PIECE..columns, 0..PIECE] {
                    let n = columns.len();
                    let (mut out, mut expected) = (vec![1.5; count * n], vec![1.5; count * n]);
                    let right = right.rhs().columns(columns.clone());
                    product(MatMut::new(&mut out, count, n), Write::Add, left, right, 1.0);
                    let (lhs, rhs) = (lhs.rows_from(first, count), rhs.columns(columns.start, n));
                    product(MatMut::new(&mut expected, count, n), Write::Add, lhs, rhs, 1.0);
                    assert!(out == expected, "{kernel:?}: rows from {first}, columns {columns:?}");
                }
            }
            let (mut out, mut expected) = (vec![0.0; rows * columns], vec![0.0; rows * columns]);
            for i in 0..2 {
                let ks = part(depth, i);
                let write = if i == 0 { Write::Store } else { Write::Add };
                let (lhs, rhs) = (lhs.columns(ks.start, ks.len()), right.rhs().depth(ks));
                product(MatMut::new(&mut out, rows, columns), write, lhs, rhs, 1.0);
            }
            product(MatMut::new(&mut expected, rows, columns), Write::Store, lhs, rhs, 1.0);
            assert!(out == expected, "{kernel:?}: depth by pieces");
        }
    }
}
