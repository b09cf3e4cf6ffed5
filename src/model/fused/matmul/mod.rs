//! Matrix products over strided views of plain buffers, in single precision or in bfloat16.
//!
//! Everything above is safe code: views check their bounds when they are made. Single precision goes to the
//! `gemm` crate. A right operand in bfloat16 is [`Packed`] first, for as many products as it serves; the left
//! one is rounded on the way. Sums are single precision in both.

use crate::model::Precision;

#[cfg(target_arch = "x86_64")]
mod packed;
mod rounded;
mod view;

pub use view::{Mat, MatMut};

/// What computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Single precision.
    Single,
    /// Operands rounded to bfloat16, multiplied in single precision: the same products by slower means.
    Rounded,
    /// Operands rounded to bfloat16, multiplied by instructions for them.
    #[cfg(target_arch = "x86_64")]
    Bf16(packed::Instructions),
}

impl Kernel {
    /// The fastest of this machine.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::Single,
            Precision::Bf16 => Self::all_bf16()[0],
        }
    }

    /// All that compute in bfloat16 on this machine, the fastest first.
    fn all_bf16() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let fast = packed::Instructions::all().iter().map(|&instructions| Self::Bf16(instructions));
        #[cfg(not(target_arch = "x86_64"))]
        let fast = std::iter::empty();
        fast.chain([Self::Rounded]).collect()
    }

    /// What users read about it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "f32",
            Self::Rounded => "bf16 by f32 instructions: this processor has none for bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(packed::Instructions::Avx512) => "bf16 by AVX512-BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(packed::Instructions::Amx) => "bf16 by AMX",
        }
    }

    /// A right operand as this kernel reads it; `space` holds it where it must be changed for that.
    pub fn rhs<'a>(self, of: Mat<'a>, space: &'a mut Packed) -> Rhs<'a> {
        match self {
            Self::Single => Rhs::Plain(of),
            _ => {
                space.pack(self, of);
                Rhs::Packed(space)
            }
        }
    }
}

/// A right operand for products in bfloat16; empty in single precision.
#[derive(Default)]
pub struct Packed(Form);

#[derive(Default)]
enum Form {
    #[default]
    Empty,
    Rounded(rounded::Rounded),
    #[cfg(target_arch = "x86_64")]
    Panels(packed::Instructions, packed::Panels),
}

impl Packed {
    /// Takes the values of `of`, rounded; keeps its buffer from one time to the next. [`Kernel::Single`] takes
    /// nothing.
    pub fn pack(&mut self, kernel: Kernel, of: Mat<'_>) {
        if self.kernel() != kernel {
            self.0 = match kernel {
                Kernel::Single => Form::Empty,
                Kernel::Rounded => Form::Rounded(rounded::Rounded::default()),
                #[cfg(target_arch = "x86_64")]
                Kernel::Bf16(instructions) => Form::Panels(instructions, packed::Panels::default()),
            };
        }
        match &mut self.0 {
            Form::Empty => {}
            Form::Rounded(values) => values.pack(of),
            #[cfg(target_arch = "x86_64")]
            Form::Panels(_, panels) => panels.pack(of),
        }
    }

    /// The kernel that it is packed for.
    fn kernel(&self) -> Kernel {
        match &self.0 {
            Form::Empty => Kernel::Single,
            Form::Rounded(_) => Kernel::Rounded,
            #[cfg(target_arch = "x86_64")]
            Form::Panels(instructions, _) => Kernel::Bf16(*instructions),
        }
    }
}

/// A right operand; what it is decides what computes.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    /// Single precision.
    Plain(Mat<'a>),
    /// Bfloat16.
    Packed(&'a Packed),
}

impl<'a> From<Mat<'a>> for Rhs<'a> {
    fn from(view: Mat<'a>) -> Self {
        Self::Plain(view)
    }
}

/// What a product is put onto.
#[derive(Clone, Copy, PartialEq)]
pub enum Write<'a> {
    /// It replaces the output.
    Store,
    /// It is added to the output.
    Add,
    /// It replaces the output, with this row added to each of its rows.
    Bias(&'a [f32]),
}

/// `out = scale * lhs · rhs`, onto what `write` says, on the calling thread.
///
/// # Panics
/// Where the shapes do not fit each other, which is a bug of the caller.
pub fn product<'a>(out: MatMut<'_>, write: Write<'_>, lhs: Mat<'_>, rhs: impl Into<Rhs<'a>>, scale: f32) {
    if let Write::Bias(bias) = write {
        assert_eq!(bias.len(), out.cols, "shapes of a product");
    }
    match rhs.into() {
        Rhs::Plain(rhs) => single(out, write, lhs, rhs, scale),
        Rhs::Packed(Packed(Form::Empty)) => unreachable!("packed before it is multiplied"),
        Rhs::Packed(Packed(Form::Rounded(rhs))) => rhs.product(out, write, lhs, scale),
        #[cfg(target_arch = "x86_64")]
        Rhs::Packed(Packed(Form::Panels(instructions, rhs))) => {
            packed::product(*instructions, out, write, lhs, rhs, scale);
        }
    }
}

fn single(out: MatMut<'_>, write: Write<'_>, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    assert_eq!((lhs.rows, rhs.cols, lhs.cols), (out.rows, out.cols, rhs.rows), "shapes of a product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    if let Write::Bias(bias) = write {
        for row in out.data.chunks_mut(out.row_stride).take(out.rows) {
            row[..out.cols].copy_from_slice(bias);
        }
    }
    // The crate is column-major: computing the transpose keeps the output's rows contiguous.
    // SAFETY: each view was checked against its buffer when it was made, the buffers outlive the call, and
    // `out` is borrowed exclusively, so it cannot overlap the others.
    unsafe {
        gemm::gemm(
            out.cols,
            out.rows,
            lhs.cols,
            out.data.as_mut_ptr(),
            out.row_stride as isize,
            1,
            write != Write::Store,
            rhs.data.as_ptr(),
            rhs.row_stride as isize,
            rhs.col_stride as isize,
            lhs.data.as_ptr(),
            lhs.row_stride as isize,
            lhs.col_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect()
    }

    /// Small integers are exact in bfloat16 and multiply exactly, so every kernel must agree with the plain
    /// triple loop to the bit, whatever the strides, tails and transposes.
    #[test]
    fn products_of_views_equal_the_triple_loop() {
        let kernels = [vec![Kernel::Single], Kernel::all_bf16()].concat();
        let shapes = [(1, 1, 1), (3, 5, 2), (16, 17, 33), (70, 4, 9), (2, 3, 0), (33, 65, 32), (64, 32, 100)];
        let bias = counting(65);
        let mut space = Packed::default();
        for &kernel in &kernels {
            for (m, n, k) in shapes {
                let (a, b) = (counting((m + 2) * (k + 2)), counting((n + 1) * (k + 1)));
                for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)]
                {
                    let lhs = match transpose_a {
                        false => Mat::strided(&a, m, k, k + 2),
                        true => Mat::strided(&a, k, m, m + 2).t(),
                    };
                    let rhs = match transpose_b {
                        false => Mat::strided(&b, k, n, n + 1),
                        true => Mat::strided(&b, n, k, k + 1).t(),
                    };
                    for write in [Write::Store, Write::Add, Write::Bias(&bias[..n])] {
                        let mut out = vec![1.5; m * (n + 3)];
                        let view = MatMut::strided(&mut out, m, n, n + 3);
                        product(view, write, lhs, kernel.rhs(rhs, &mut space), 0.5);
                        for (i, row) in out.chunks(n + 3).enumerate() {
                            for (j, &value) in row.iter().enumerate() {
                                let sum = |j| -> f32 { (0..k).map(|x| lhs.get(i, x) * rhs.get(x, j)).sum() };
                                let expected = match write {
                                    _ if j >= n => 1.5,
                                    Write::Store => 0.5 * sum(j),
                                    Write::Add => 1.5 + 0.5 * sum(j),
                                    Write::Bias(bias) => bias[j] + 0.5 * sum(j),
                                };
                                assert_eq!(value, expected, "{kernel:?} {m}x{n}x{k} at {i},{j}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// One operand is a unit matrix, so that what comes out is the other as it was rounded.
    #[test]
    fn bfloat16_rounds_to_nearest_with_ties_to_even() {
        let pairs = [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (-1.0 - 1.1 / 256.0, -1.0 - 2.0 / 256.0),
            (f32::MAX, f32::INFINITY),
        ];
        for kernel in Kernel::all_bf16() {
            for (value, expected) in pairs {
                let (one, x) = ([1.0], [value]);
                for (a, b) in [(&one, &x), (&x, &one)] {
                    let (mut out, mut space) = ([0.0], Packed::default());
                    let rhs = kernel.rhs(Mat::new(b, 1, 1), &mut space);
                    product(MatMut::new(&mut out, 1, 1), Write::Store, Mat::new(a, 1, 1), rhs, 1.0);
                    assert_eq!(out[0], expected, "{kernel:?}: {value}");
                }
            }
        }
    }
}
