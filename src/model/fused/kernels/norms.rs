//! Layer norms, alone and behind a residual connection.

use multiversion::multiversion;

use super::sums::{sum_of, sums_of};
use crate::model::dropout::Dropout;

/// What becomes of an output's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// It is replaced.
    Replaced,
    /// The result is added to it.
    Kept,
}

/// How a layer norm divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By the unbiased standard deviation plus 1e-6: the reference's.
    Unbiased,
    /// By the root of the biased variance plus 1e-12 (Ba et al. 2016, with BERT's epsilon).
    Standard,
}

impl Norm {
    /// From the sum of a row's squared deviations `c`: the factor on them, and `slope` such that the factor's
    /// derivative by `c` is `-slope * c`.
    #[inline(always)]
    fn factors(self, squares: f32, width: usize) -> (f32, f32) {
        match self {
            Self::Unbiased => {
                let std = (squares / (width - 1) as f32).sqrt();
                let inverse = 1.0 / (std + 1e-6);
                // A row without variance has c = 0 everywhere: the term vanishes, whatever its slope.
                let slope = if std > 0.0 { inverse * inverse / ((width - 1) as f32 * std) } else { 0.0 };
                (inverse, slope)
            }
            Self::Standard => {
                let inverse = 1.0 / (squares / width as f32 + 1e-12).sqrt();
                (inverse, inverse * inverse * inverse / width as f32)
            }
        }
    }
}

/// What the backward pass of a norm needs of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    mean: f32,
    /// Sum of the squared deviations.
    squares: f32,
}

impl Moments {
    #[inline(always)]
    fn of(row: &[f32]) -> Self {
        let mean = sum_of(row, |x| x) / row.len() as f32;
        Self { mean, squares: sum_of(row, |x| (x - mean) * (x - mean)) }
    }
}

/// `y = gain * normalised(x) + shift` by rows; keeps the moments of each row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn norm(kind: Norm, y: &mut [f32], x: &[f32], gain: &[f32], shift: &[f32], moments: &mut [Moments]) {
    let width = gain.len();
    for ((y, x), moments) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(moments) {
        *moments = Moments::of(x);
        normalise(kind, y, x, gain, shift, *moments);
    }
}

/// What [`norm`] gave, from the moments that it kept.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn norm_again(kind: Norm, y: &mut [f32], x: &[f32], gain: &[f32], shift: &[f32], moments: &[Moments]) {
    let width = gain.len();
    for ((y, x), &moments) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(moments) {
        normalise(kind, y, x, gain, shift, moments);
    }
}

#[inline(always)]
fn normalise(kind: Norm, y: &mut [f32], x: &[f32], gain: &[f32], shift: &[f32], moments: Moments) {
    let width = gain.len();
    let (inverse, _) = kind.factors(moments.squares, width);
    // Equal lengths known to the compiler leave no checks in the loop, here and below.
    let (y, x, shift) = (&mut y[..width], &x[..width], &shift[..width]);
    for j in 0..width {
        y[j] = gain[j] * ((x[j] - moments.mean) * inverse) + shift[j];
    }
}

/// A row's way back through a norm.
///
/// With c = x - mean, i the factor on it, g = dy * gain: `dx = i * (g - mean(g)) - slope * sum(g * c) * c`;
/// the mean of `c` vanishes, which leaves no other term.
struct Way {
    mean: f32,
    inverse: f32,
    mean_g: f32,
    k: f32,
}

impl Way {
    #[inline(always)]
    fn back(kind: Norm, dy: &[f32], x: &[f32], gain: &[f32], Moments { mean, squares }: Moments) -> Self {
        let (inverse, slope) = kind.factors(squares, gain.len());
        let [sum, product] = sums_of([dy, gain, x], |dy, gain, x| [dy * gain, dy * gain * (x - mean)]);
        Self { mean, inverse, mean_g: sum / gain.len() as f32, k: slope * product }
    }

    #[inline(always)]
    fn gradient(&self, g: f32, c: f32) -> f32 {
        self.inverse * (g - self.mean_g) - self.k * c
    }
}

/// Backward of [`norm`]: `dx` (stored or added to), `dgain += ...`, `dshift += ...` from `dy`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "three gradients, and what the forward pass takes")]
pub fn norm_backward(
    kind: Norm,
    dx: &mut [f32],
    old: Old,
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    moments: &[Moments],
    [dgain, dshift]: [&mut [f32]; 2],
) {
    let width = gain.len();
    let add = old == Old::Kept;
    let (dgain, dshift) = (&mut dgain[..width], &mut dshift[..width]);
    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
    for (((dx, dy), x), &moments) in rows.zip(moments) {
        let way = Way::back(kind, dy, x, gain, moments);
        let (dx, dy, x) = (&mut dx[..width], &dy[..width], &x[..width]);
        for j in 0..width {
            let c = x[j] - way.mean;
            let base = if add { dx[j] } else { 0.0 };
            dx[j] = base + way.gradient(dy[j] * gain[j], c);
            dgain[j] += dy[j] * (c * way.inverse);
            dshift[j] += dy[j];
        }
    }
}

/// `sum = x + dropout(branch)`, a residual connection, and `y = gain * normalised(sum) + shift`; keeps the moments of
/// each row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "what a residual connection takes, and what a norm does")]
pub fn residual_norm(
    kind: Norm,
    [sum, y]: [&mut [f32]; 2],
    [x, branch]: [&[f32]; 2],
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
    [gain, shift]: [&[f32]; 2],
    moments: &mut [Moments],
) {
    let width = gain.len();
    let factors = &mut factors[..width];
    let rows = sum.chunks_exact_mut(width).zip(y.chunks_exact_mut(width));
    let rows = rows.zip(x.chunks_exact(width).zip(branch.chunks_exact(width)));
    for ((((sum, y), (x, branch)), moments), &coordinate) in rows.zip(moments).zip(coordinates) {
        drop.fill(coordinate, factors);
        for j in 0..width {
            sum[j] = branch[j].mul_add(factors[j], x[j]);
        }
        *moments = Moments::of(sum);
        normalise(kind, y, sum, gain, shift, *moments);
    }
}

/// Backward of [`residual_norm`] from `dy`, with `dsum` the gradient of `x` and of the sum, `dbranch` that of the branch;
/// adds the column sums of `dbranch` to `dbias`, and to `dgain` and `dshift`. Where `old` is kept, `y` went a second
/// way as well, whose gradient `dsum` holds.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "five gradients, and what the forward pass takes")]
pub fn residual_norm_backward(
    kind: Norm,
    [dsum, dbranch]: [&mut [f32]; 2],
    old: Old,
    dy: &[f32],
    sum: &[f32],
    gain: &[f32],
    moments: &[Moments],
    [dgain, dshift, dbias]: [&mut [f32]; 3],
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    let width = gain.len();
    let factors = &mut factors[..width];
    let (dgain, dshift, dbias) = (&mut dgain[..width], &mut dshift[..width], &mut dbias[..width]);
    let rows = dsum.chunks_exact_mut(width).zip(dbranch.chunks_exact_mut(width));
    let rows = rows.zip(dy.chunks_exact(width).zip(sum.chunks_exact(width)));
    for ((((dsum, dbranch), (dy, sum)), &moments), &coordinate) in rows.zip(moments).zip(coordinates) {
        drop.fill(coordinate, factors);
        match old {
            Old::Kept => {
                for (dsum, dy) in dsum.iter_mut().zip(dy) {
                    *dsum += dy;
                }
            }
            Old::Replaced => dsum.copy_from_slice(dy),
        }
        let way = Way::back(kind, dsum, sum, gain, moments);
        let (dsum, sum, dbranch) = (&mut dsum[..width], &sum[..width], &mut dbranch[..width]);
        for j in 0..width {
            let (dy, c) = (dsum[j], sum[j] - way.mean);
            dgain[j] += dy * (c * way.inverse);
            dshift[j] += dy;
            dsum[j] = way.gradient(dy * gain[j], c);
            dbranch[j] = dsum[j] * factors[j];
            dbias[j] += dbranch[j];
        }
    }
}
