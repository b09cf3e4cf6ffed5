//! Matrix products over strided views of plain buffers, in single precision or in bfloat16.
//!
//! Everything above is safe code: views check their bounds when they are made. Single precision is multiplied by the byte
//! products of AMX, in fixed point, or else by AVX-512, or else by the `gemm` crate; bfloat16 by AMX, AVX512-BF16 or
//! rounded and by `gemm`. For instructions of AMX or AVX-512 a right operand is [`Packed`] first, for as many products as
//! it serves, and so may be a left one ([`PackedRows`]), which otherwise is packed on the way. Sums are single precision
//! in all.

use std::cell::RefCell;

use crate::model::Precision;

mod operands;
#[cfg(target_arch = "x86_64")]
pub mod packed;
mod values;
mod view;

use operands::{Left, Right};
pub use operands::{Lhs, Packed, PackedRows, Rhs, pieces};
pub use view::{Mat, MatMut};

/// What computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Single precision by the `gemm` crate, which takes operands as they lie.
    Single,
    /// Operands rounded to bfloat16, multiplied in single precision: the same products by slower means.
    Rounded,
    /// Either precision by instructions that want their operands packed.
    #[cfg(target_arch = "x86_64")]
    Packed(packed::Method),
}

impl Kernel {
    /// The fastest of this machine.
    pub fn of(precision: Precision) -> Self {
        Self::all(precision)[0]
    }

    /// All that compute in this precision on this machine, the fastest first.
    pub fn all(precision: Precision) -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let fast = packed::Method::all().iter().map(|&method| Self::Packed(method));
        #[cfg(not(target_arch = "x86_64"))]
        let fast = std::iter::empty();
        let kernels = fast.chain([Self::Single, Self::Rounded]);
        kernels.filter(|kernel| kernel.precision() == precision).collect()
    }

    fn precision(self) -> Precision {
        match self {
            Self::Single => Precision::F32,
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed::Method::AmxFixed | packed::Method::Avx512) => Precision::F32,
            _ => Precision::Bf16,
        }
    }

    /// What users read about it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "f32",
            Self::Rounded => "bf16 by f32 instructions: this processor has none for bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed::Method::Avx512) => "f32 by AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed::Method::Avx512Bf16) => "bf16 by AVX512-BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed::Method::Amx) => "bf16 by AMX",
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed::Method::AmxFixed) => "f32 by AMX, in fixed point of three bytes",
        }
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

thread_local! {
    static SPACE: RefCell<Packed> = RefCell::default();
}

/// Gives `work` a space of this thread's, for right operands that are packed for a single product.
pub fn with_space(work: impl FnOnce(&mut Packed)) {
    let mut space = SPACE.take();
    work(&mut space);
    SPACE.set(space);
}

/// `out = scale * lhs · rhs`, onto what `write` says, on the calling thread. A stored left operand takes no scale.
///
/// # Panics
/// Where the operands do not fit each other, which is a bug of the caller.
pub fn product<'a, 'b>(
    out: MatMut<'_>,
    write: Write<'_>,
    lhs: impl Into<Lhs<'a>>,
    rhs: impl Into<Rhs<'b>>,
    scale: f32,
) {
    if let Write::Bias(bias) = write {
        assert_eq!(bias.len(), out.cols, "shapes of a product");
    }
    match (lhs.into().0, rhs.into().0) {
        (Left::Plain(lhs), Right::Plain(rhs)) => single(out, write, lhs, rhs, scale),
        (Left::Plain(lhs), Right::Values(values, rhs)) if values.rounds() => {
            values::rounded_product(out, write, lhs, rhs, scale);
        }
        (Left::Plain(lhs), Right::Values(_, rhs)) => single(out, write, lhs, rhs, scale),
        (Left::Values(left, lhs), Right::Values(right, rhs)) if left.rounds() == right.rounds() => {
            single(out, write, lhs, rhs, scale);
        }
        #[cfg(target_arch = "x86_64")]
        (Left::Plain(lhs), Right::Packed(rhs)) => {
            packed::product(out, write, packed::Left::Plain(lhs), rhs, scale);
        }
        #[cfg(target_arch = "x86_64")]
        (Left::Packed(lhs), Right::Packed(rhs)) => {
            packed::product(out, write, packed::Left::Packed(lhs), rhs, scale);
        }
        _ => unreachable!("operands of different kernels"),
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
    use crate::rng::{Domain, SampleRng};

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect()
    }

    /// Small integers are exact in bfloat16 and multiply exactly, so every kernel must agree with the plain
    /// triple loop to the bit, whatever the strides, tails and transposes.
    #[test]
    fn products_of_views_equal_the_triple_loop() {
        let kernels = [Kernel::all(Precision::F32), Kernel::all(Precision::Bf16)].concat();
        let shapes = [
            (1, 1, 1),
            (3, 5, 2),
            (16, 17, 33),
            (70, 4, 9),
            (2, 3, 0),
            (33, 65, 32),
            (64, 32, 100),
            (35, 70, 1100),
        ];
        let bias = counting(70);
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
        for kernel in Kernel::all(Precision::Bf16) {
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

    /// One operand is a unit matrix, so that what comes out is the other as it was rounded: within 2^-23 of the largest
    /// of 256 that are summed up together, of which each kernel has at least 23 bits.
    #[test]
    fn single_precision_keeps_what_is_as_large_as_its_neighbours() {
        let mut values: Vec<f32> = (0..650).map(|i| ((i * 7919) % 1013) as f32 / 97.0 - 5.0).collect();
        values[3] = -1.000_000_1;
        values[250..260].copy_from_slice(&[
            1e30,
            1.0,
            -3.3,
            0.0,
            1e-30,
            0.1,
            -2.345_678_9e-20,
            2e-20,
            0.0,
            1e-21,
        ]);
        values[260..512].fill(0.0);
        values[512] = 1e34;
        let unit: Vec<f32> = (0..650 * 650).map(|i| if i % 651 == 0 { 1.0 } else { 0.0 }).collect();
        let column = Mat::new(&values, 650, 1);
        for kernel in Kernel::all(Precision::F32) {
            let (mut out, mut space) = ([0.0; 650], Packed::default());
            let check = |out: &[f32], side| {
                for (i, (&value, &out)) in values.iter().zip(out).enumerate() {
                    let block = &values[i / 256 * 256..values.len().min(i / 256 * 256 + 256)];
                    let largest = block.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
                    let error = (out - value).abs();
                    assert!(error <= largest * 2f32.powi(-23), "{kernel:?}, {side}: {value} became {out}");
                }
            };
            let rhs = kernel.rhs(column, &mut space);
            product(MatMut::new(&mut out, 650, 1), Write::Store, Mat::new(&unit, 650, 650), rhs, 1.0);
            check(&out, "right");
            let rhs = kernel.rhs(Mat::new(&unit, 650, 650), &mut space);
            product(MatMut::new(&mut out, 1, 650), Write::Store, column.t(), rhs, 1.0);
            check(&out, "left");
        }
    }

    /// Powers of two and their neighbours through the whole range: where factors must not overflow, and where rounding
    /// must not leave the bytes.
    #[test]
    fn single_precision_has_the_range_of_its_numbers() {
        for kernel in Kernel::all(Precision::F32) {
            for exponent in -126..=126 {
                for value in
                    [1.0, 1.992_156, 1.992_156_3, 1.992_157, 1.999_999_9].map(|x| x * 2f32.powi(exponent))
                {
                    let (mut out, mut space) = ([0.0], Packed::default());
                    let rhs = kernel.rhs(Mat::new(&[1.0], 1, 1), &mut space);
                    product(MatMut::new(&mut out, 1, 1), Write::Store, Mat::new(&[-value], 1, 1), rhs, 1.0);
                    let error = (out[0] + value).abs();
                    assert!(
                        error <= (value * 2f32.powi(-23)).max(2f32.powi(-126)),
                        "{kernel:?}: {value:e} became {:e}",
                        out[0]
                    );
                }
            }
        }
    }

    /// Against double precision, relative to the sum of the products' sizes, which is what bounds the error of any
    /// order of summation. A single rounding is at most 2^-24, some 6e-8.
    #[test]
    fn single_precision_is_as_precise_by_every_kernel() {
        let (m, n, k) = (48, 40, 700);
        let mut rng = SampleRng::new(Domain::Survey, 3, &[]);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal() as f32).collect() };
        let (a, b) = (draw(m * k), draw(k * n));
        let (lhs, rhs) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
        for kernel in Kernel::all(Precision::F32) {
            let (mut out, mut space) = (vec![0.0; m * n], Packed::default());
            product(MatMut::new(&mut out, m, n), Write::Store, lhs, kernel.rhs(rhs, &mut space), 1.0);
            let errors = (0..m * n).map(|at| {
                let terms = (0..k).map(|x| f64::from(lhs.get(at / n, x)) * f64::from(rhs.get(x, at % n)));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                ((f64::from(out[at]) - sum) / size).abs()
            });
            let worst = errors.fold(0.0, f64::max);
            assert!(worst < 1.5e-7, "{kernel:?}: {worst:e}");
        }
    }

    /// What is no number never turns into one.
    #[test]
    fn what_is_not_finite_stays_so() {
        for kernel in [Kernel::all(Precision::F32), Kernel::all(Precision::Bf16)].concat() {
            for value in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xff80_0001), f32::INFINITY] {
                let (mut out, mut space) = ([0.0], Packed::default());
                let rhs = kernel.rhs(Mat::new(&[1.5], 1, 1), &mut space);
                product(MatMut::new(&mut out, 1, 1), Write::Store, Mat::new(&[value], 1, 1), rhs, 1.0);
                assert!(!out[0].is_finite(), "{kernel:?}: {value} became {}", out[0]);
            }
        }
    }
}
