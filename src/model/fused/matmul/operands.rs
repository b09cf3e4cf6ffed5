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

/// What is left over up to this makes the last piece longer: it would not be worth one of its own.
pub const REST: usize = PIECE / 2;

/// `0..len` in pieces of [`PIECE`], the last of up to half as much more: how what is wide or deep passes several products
/// one behind the other, so that what lies between them stays in the second-level cache.
pub fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    let count = cut(len, PIECE, REST);
    (0..count).map(move |i| i * PIECE..if i + 1 == count { len } else { (i + 1) * PIECE })
}

/// The number of pieces of a size, where what is left over up to `rest` is a part of the last one.
pub fn cut(len: usize, size: usize, rest: usize) -> usize {
    len.saturating_sub(rest).div_ceil(size).max(usize::from(len > 0))
}

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

    /// Takes a part, `of (rows, depth)`, whose first row and depth begin pieces.
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

    /// Takes a part, `of (depth, columns)`, whose first depth and column begin pieces.
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
    /// Some columns of this operand; the first one is a multiple of 32.
    pub fn columns(self, range: Range<usize>) -> Self {
        let (first, columns) = (range.start, range.len());
        Self(match self.0 {
            Right::Plain(view) => Right::Plain(view.columns(first, columns)),
            Right::Values(values, view) => Right::Values(values, view.columns(first, columns)),
            #[cfg(target_arch = "x86_64")]
            Right::Packed(window) => Right::Packed(window.lanes(first, columns)),
        })
    }

    /// Some of the depth of this operand, in whole pieces of it.
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

    #[test]
    fn pieces_are_not_small() {
        for (len, expected) in
            [(0, vec![]), (5, vec![5]), (384, vec![384]), (385, vec![256, 129]), (1024, vec![256; 4])]
        {
            assert_eq!(pieces(len).map(|piece| piece.len()).collect::<Vec<_>>(), expected, "{len}");
            assert!(pieces(len).all(|piece| piece.start.is_multiple_of(PIECE)));
        }
    }

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect()
    }

    /// Small integers are exact in every form, so that whatever is put together and taken apart must give what whole
    /// plain views give, to the bit.
    #[test]
    fn operands_by_pieces_multiply_like_whole_ones() {
        for (rows, depth, columns) in [
            (2 * PIECE + 70, PIECE + 150, PIECE + 33),
            (PIECE + 96, 2 * PIECE + 100, 70),
            (40, 10 * PIECE + 1, 40),
        ] {
            by_pieces(rows, depth, columns);
        }
    }

    fn by_pieces(rows: usize, depth: usize, columns: usize) {
        let (a, b) = (counting(depth * rows), counting(depth * columns));
        // The left one is stored as gradients are: transposed.
        let (lhs, rhs) = (Mat::new(&a, depth, rows).t(), Mat::new(&b, depth, columns));
        for kernel in [Kernel::all(Precision::F32), Kernel::all(Precision::Bf16)].concat() {
            let (mut left, mut right) = (PackedRows::default(), Packed::default());
            // A larger operand was there before.
            left.reshape(kernel, rows + 40, depth + 300);
            right.reshape(kernel, depth + 300, columns + 40);
            left.reshape(kernel, rows, depth);
            right.reshape(kernel, depth, columns);
            for ks in pieces(depth).collect::<Vec<_>>().into_iter().rev() {
                let of = lhs.columns(ks.start, ks.len());
                for rows in pieces(rows) {
                    left.put(rows.start, ks.start, of.rows_from(rows.start, rows.len()));
                }
                let of = rhs.rows_from(ks.start, ks.len());
                for columns in pieces(columns) {
                    right.put(ks.start, columns.start, of.columns(columns.start, columns.len()));
                }
            }
            let mut space = PackedRows::default();
            let wholes = [left.rows(0, rows), kernel.lhs(lhs, &mut space), lhs.into()];
            for (first, count, left) in [
                (0, rows, wholes[0]),
                (0, rows, wholes[1]),
                (0, rows, wholes[2]),
                (32, rows - 35, left.rows(32, rows - 35)),
            ] {
                for columns in [0..columns, 32..columns, 0..columns.min(PIECE)] {
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
            for ks in pieces(depth) {
                let write = if ks.start == 0 { Write::Store } else { Write::Add };
                let (lhs, rhs) = (lhs.columns(ks.start, ks.len()), right.rhs().depth(ks));
                product(MatMut::new(&mut out, rows, columns), write, lhs, rhs, 1.0);
            }
            product(MatMut::new(&mut expected, rows, columns), Write::Store, lhs, rhs, 1.0);
            assert!(out == expected, "{kernel:?}: depth by pieces");
        }
    }
}
