//! Exponentials, GELU and tanh, to single precision.

use multiversion::multiversion;

use super::Rows;
use crate::model::dropout::Dropout;

/// Which approximation of GELU (Hendrycks & Gimpel 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// Through tanh: the reference's.
    Tanh,
    /// The definition, through the error function: BERT's.
    Erf,
}

/// Polynomial by Horner's rule, the highest coefficient first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = 0.0;
    for coefficient in coefficients {
        sum = x.mul_add(sum, coefficient);
    }
    sum
}

/// `e^x` for `x` up to 88, to 2e-7 near 0 and `2e-8 |x|` far from it, where results are small. Inputs below -87 are taken
/// for -87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    exp_within(if x < -87.0 { -87.0 } else { x })
}

/// `e^x` where it is a normal number: `2^n * 2^f` with f in [-1/2, 1/2] and a minimax polynomial for `2^f`.
#[inline(always)]
fn exp_within(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer in the low bits of the mantissa; with the offset of exponents
    // they are the exponent of 2^n.
    const SHIFT: f32 = 12_582_912.0 + 127.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let f = x.mul_add(std::f32::consts::LOG2_E, SHIFT - shifted);
    let slope = std::f32::consts::LN_2 - 1.8e-7;
    let p = polynomial(f, [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, slope, 1.0]);
    p * f32::from_bits(shifted.to_bits() << 23)
}

const GELU_SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)
const GELU_CUBE: f32 = 0.044_715;

/// GELU by its tanh form, `x / (1 + e^(-2 u))`, and its derivative. Halves are told apart by the sign of `x` so that
/// exponentials stay below 1.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let square = x * x;
    let e = exp(x.abs() * square.mul_add(-2.0 * GELU_SCALE * GELU_CUBE, -2.0 * GELU_SCALE));
    let inverse = 1.0 / (1.0 + e);
    let tail = e * inverse;
    let share = 0.5 + (0.5 - tail).copysign(x);
    let inner = square.mul_add(6.0 * GELU_SCALE * GELU_CUBE, 2.0 * GELU_SCALE);
    (x * share, (x * inner).mul_add(tail * inverse, share))
}

/// GELU by its definition `x * P(X <= x)`, and its derivative, from one exponential: the density, whose ratio to
/// the tail behind it (Mills) is smooth. P is exact to 1.3e-7.
#[inline(always)]
fn gelu_erf(x: f32) -> (f32, f32) {
    // Beyond, the tail is below every rounding.
    let size = if x.abs() > 13.0 { 13.0 } else { x.abs() };
    let bell = exp_within(-0.5 * size * size);
    // Minimax on [0, 7] for the tail's absolute error.
    let ratio = polynomial(
        size,
        [
            1.631_688_9e-6,
            -3.520_776_2e-5,
            3.397_383e-4,
            -1.974_626_7e-3,
            7.939_389e-3,
            -2.431_392_7e-2,
            6.115_488e-2,
            -1.325_138e-1,
            2.499_168e-1,
            -3.989_365e-1,
            4.999_999_4e-1,
        ],
    );
    let share = 0.5 + (0.5 - bell * ratio).copysign(x);
    (x * share, (x * 0.398_942_3).mul_add(bell, share))
}

/// `out = dropout(gelu(x))`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn gelu(
    kind: Gelu,
    out: &mut [f32],
    x: &[f32],
    width: usize,
    at: Rows<'_>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    match kind {
        Gelu::Tanh => gelu_rows::<false>(out, x, width, at, drop, factors),
        Gelu::Erf => gelu_rows::<true>(out, x, width, at, drop, factors),
    }
}

#[inline(always)]
fn gelu_rows<const ERF: bool>(
    out: &mut [f32],
    x: &[f32],
    width: usize,
    at: Rows<'_>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    for ((out, x), &coordinate) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(at.coordinates)
    {
        drop.fill_from(coordinate, at.first_column, factors);
        for j in 0..width {
            let (value, _) = if ERF { gelu_erf(x[j]) } else { gelu_tanh(x[j]) };
            out[j] = value * factors[j];
        }
    }
}

/// Backward of [`gelu`] with its forward again: `dy` becomes `dx` in place, its column sums are added to
/// `dbias`, and `out` gets what the forward pass gave.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "two results, and what the forward pass takes")]
pub fn gelu_backward(
    kind: Gelu,
    out: &mut [f32],
    dy: &mut [f32],
    x: &[f32],
    dbias: &mut [f32],
    at: Rows<'_>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    match kind {
        Gelu::Tanh => gelu_rows_backward::<false>(out, dy, x, dbias, at, drop, factors),
        Gelu::Erf => gelu_rows_backward::<true>(out, dy, x, dbias, at, drop, factors),
    }
}

#[inline(always)]
fn gelu_rows_backward<const ERF: bool>(
    out: &mut [f32],
    dy: &mut [f32],
    x: &[f32],
    dbias: &mut [f32],
    at: Rows<'_>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let width = dbias.len();
    let factors = &mut factors[..width];
    let rows = out.chunks_exact_mut(width).zip(dy.chunks_exact_mut(width)).zip(x.chunks_exact(width));
    for (((out, dy), x), &coordinate) in rows.zip(at.coordinates) {
        drop.fill_from(coordinate, at.first_column, factors);
        for j in 0..width {
            let (value, slope) = if ERF { gelu_erf(x[j]) } else { gelu_tanh(x[j]) };
            out[j] = value * factors[j];
            let d = dy[j] * factors[j] * slope;
            dy[j] = d;
            dbias[j] += d;
        }
    }
}

/// `values = tanh(values)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn tanh(values: &mut [f32]) {
    for value in values {
        let e = exp(-2.0 * value.abs());
        *value = ((1.0 - e) / (1.0 + e)).copysign(*value);
    }
}

/// Backward of [`tanh`] from its result: `dy *= 1 - y^2`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn tanh_backward(dy: &mut [f32], y: &[f32]) {
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy *= 1.0 - y * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_a_few_units_in_the_last_place() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            let bound = 2.5e-7 + 2e-8 * f64::from(x.abs());
            assert!(((ours - exact) / exact).abs() < bound, "exp({x}) = {ours}, not {exact}");
        }
        assert!(exp(-1e9) < 1.7e-38 && exp(0.0) == 1.0 && exp(f32::NAN).is_nan());
    }

    /// Value and derivative of both forms against their definitions in double precision.
    #[test]
    fn gelu_is_exact_to_single_precision() {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};
        // The series of the error function, which converges everywhere here.
        let erf = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * FRAC_2_SQRT_PI
        };
        for i in -550..=550 {
            let x = f64::from(i as f32 / 100.0);
            let share = 0.5 + 0.5 * erf(x * FRAC_1_SQRT_2);
            let by_erf = (x * share, share + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt());
            let scale = (2.0 / PI).sqrt();
            let tanh = (scale * (x + 0.044_715 * x.powi(3))).tanh();
            let inner = scale * (1.0 + 3.0 * 0.044_715 * x * x);
            let by_tanh = (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh + x * (1.0 - tanh * tanh) * inner));
            for (name, exact, ours) in
                [("erf", by_erf, gelu_erf(x as f32)), ("tanh", by_tanh, gelu_tanh(x as f32))]
            {
                let bound = 2.5e-7 * (1.0 + x.abs());
                assert!((f64::from(ours.0) - exact.0).abs() < bound, "{name}({x}): {ours:?}, not {exact:?}");
                assert!((f64::from(ours.1) - exact.1).abs() < bound, "{name}({x}): {ours:?}, not {exact:?}");
            }
        }
        for gelu in [gelu_erf, gelu_tanh] {
            for far in [15.0, 1e4, 1e6] {
                assert_eq!(gelu(far), (far, 1.0));
                assert!(gelu(-far).0.abs() < 1e-15 && gelu(-far).1.abs() < 1e-15, "{far}");
            }
            assert_eq!(gelu(0.0).0, 0.0);
            assert!(gelu(f32::NAN).0.is_nan() && gelu(f32::NAN).1.is_nan());
        }
    }
}
