//! Elementwise passes over rows of tokens, each as fused as its data flow allows, forward and backward.
//!
//! Plain loops over slices that the compiler vectorises; `multiversion` compiles each for AVX-512, AVX2 and
//! the baseline and chooses at run time. Fused multiply-adds are written out where they are meant, and the number of
//! summation lanes is fixed, so that results are the same bits everywhere; only without instructions for them (x86-64
//! before 2013) they are slow. What holds them is inlined by attribute, never a function handed to another: a piece that
//! is compiled by itself is compiled for the baseline.

mod activations;
mod norms;
mod softmax;
mod sums;

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use crate::model::dropout::Dropout;
use crate::rng::dropout;

pub use activations::{Gelu, gelu, gelu_backward, tanh, tanh_backward};
pub use norms::{Moments, Norm, Old, norm, norm_again, norm_backward, residual_norm, residual_norm_backward};
pub use softmax::{ROWS_AT_ONCE, max_and_sum, softmax, softmax_backward, softmax_scaled};

impl Dropout {
    /// Whether nothing is ever dropped.
    #[inline(always)]
    fn is_off(&self) -> bool {
        self.threshold == 0
    }

    /// Factors of the row at `coordinate`: 0 for a dropped element, the scale for a kept one.
    #[inline(always)]
    fn fill(&self, coordinate: u64, factors: &mut [f32]) {
        self.fill_from(coordinate, 0, factors);
    }

    /// The same from a column on, a multiple of [`dropout::BLOCK`].
    #[inline(always)]
    fn fill_from(&self, coordinate: u64, first_column: usize, factors: &mut [f32]) {
        let first = first_column / dropout::BLOCK;
        if self.is_off() {
            factors.fill(1.0);
            return;
        }
        let row = dropout::row(self.site, coordinate);
        let (blocks, rest) = factors.as_chunks_mut();
        for (block, factors) in blocks.iter_mut().enumerate() {
            self.fill_block(row, first + block, factors);
        }
        if !rest.is_empty() {
            let mut whole = [0.0; dropout::BLOCK];
            self.fill_block(row, first + blocks.len(), &mut whole);
            rest.copy_from_slice(&whole[..rest.len()]);
        }
    }

    #[inline(always)]
    fn fill_block(&self, row: (u32, u32), block: usize, factors: &mut [f32; dropout::BLOCK]) {
        let (threshold, scale) = (self.threshold, self.scale);
        const HALF: usize = dropout::BLOCK / 2;
        for lane in 0..HALF {
            let bits = dropout::hash(row, (block * HALF + lane) as u32);
            factors[lane] = if (bits & 0xffff) >= threshold { scale } else { 0.0 };
            factors[HALF + lane] = if (bits >> 16) >= threshold { scale } else { 0.0 };
        }
    }
}

/// Where rows of a part of an activation lie in its dropout layer.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Of each row.
    pub coordinates: &'a [u64],
    /// Column of the layer that the part begins with, a multiple of [`dropout::BLOCK`].
    pub first_column: usize,
}

/// What every processor of the architecture has.
pub const BASELINE: &str = "baseline instructions";

/// What these passes are compiled to on this machine, as users read it.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn instructions() -> &'static str {
    let compiled = [
        (target_cfg_f!(target_feature = "avx512f"), "AVX-512"),
        (target_cfg_f!(target_feature = "avx2"), "AVX2"),
    ];
    compiled.into_iter().find_map(|(is, name)| is.then_some(name)).unwrap_or(BASELINE)
}

/// `y = dropout(token + position + segment)` for each token of a chunk.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn embed(
    out: &mut [f32],
    width: usize,
    rows: &mut dyn Iterator<Item = (&[f32], &[f32], &[f32], u64)>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    for (out, (token, position, segment, coordinate)) in out.chunks_exact_mut(width).zip(rows) {
        drop.fill(coordinate, factors);
        for j in 0..width {
            out[j] = (token[j] + position[j] + segment[j]) * factors[j];
        }
    }
}

/// `values[row] *= dropout` for each row, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn drop_rows(values: &mut [f32], width: usize, coordinates: &[u64], drop: &Dropout, factors: &mut [f32]) {
    if drop.is_off() {
        return;
    }
    let factors = &mut factors[..width];
    for (values, &coordinate) in values.chunks_exact_mut(width).zip(coordinates) {
        drop.fill(coordinate, factors);
        for (value, factor) in values.iter_mut().zip(&*factors) {
            *value *= factor;
        }
    }
}

/// `out = outer(x + inner(branch))`: the second residual connection and the dropout at the block's end.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn residual_end(
    out: &mut [f32],
    x: &[f32],
    branch: &[f32],
    width: usize,
    coordinates: &[u64],
    [inner, outer]: [&Dropout; 2],
    factors: &mut [f32],
) {
    let (inner_factors, outer_factors) = factors[..2 * width].split_at_mut(width);
    let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(branch.chunks_exact(width));
    for (((out, x), branch), &coordinate) in rows.zip(coordinates) {
        inner.fill(coordinate, inner_factors);
        outer.fill(coordinate, outer_factors);
        for j in 0..width {
            out[j] = (x[j] + branch[j] * inner_factors[j]) * outer_factors[j];
        }
    }
}

/// `dbranch = dropout(dx)`, with its column sums added to `dbias`; `dx` first passes `outer` in place where
/// there is one (the dropout at a block's end).
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn residual_backward(
    dx: &mut [f32],
    dbranch: &mut [f32],
    dbias: &mut [f32],
    coordinates: &[u64],
    [inner, outer]: [&Dropout; 2],
    factors: &mut [f32],
) {
    let width = dbias.len();
    let (inner_factors, outer_factors) = factors[..2 * width].split_at_mut(width);
    let rows = dx.chunks_exact_mut(width).zip(dbranch.chunks_exact_mut(width));
    for ((dx, dbranch), &coordinate) in rows.zip(coordinates) {
        inner.fill(coordinate, inner_factors);
        outer.fill(coordinate, outer_factors);
        for j in 0..width {
            dx[j] *= outer_factors[j];
            dbranch[j] = dx[j] * inner_factors[j];
            dbias[j] += dbranch[j];
        }
    }
}

/// Adds the column sums of `values` to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn add_column_sums(sums: &mut [f32], values: &[f32]) {
    for row in values.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// `sums = a + b`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn sum(sums: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = a + b;
    }
}

/// `sums += values`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Domain, SampleRng};

    pub(super) fn draws(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn fast_masks_are_the_defined_ones() {
        let drop = Dropout::new(dropout::site(3, 4, 5), 0.3);
        for (first, width) in [1, 15, 16, 17, 31, 32, 33, 100].into_iter().flat_map(|w| [(0, w), (64, w)]) {
            let mut factors = vec![9.0; width];
            drop.fill_from(77, first, &mut factors);
            for (j, &factor) in (first..).zip(&factors) {
                let kept = dropout::keeps(dropout::row(drop.site, 77), j, drop.threshold);
                assert_eq!(
                    factor,
                    if kept { drop.scale } else { 0.0 },
                    "element {j} of {width} from {first}"
                );
            }
        }
    }

    /// Each backward against central differences of its forward, dropout on, odd widths.
    #[test]
    fn gradients_agree_with_finite_differences() {
        let drop = Dropout::new(dropout::site(1, 1, 1), 0.25);
        for width in [2, 5, 16, 37, 130] {
            let (rows, n) = (3, 3 * width);
            let (x, dy, gain, shift) = (draws(1, n), draws(2, n), draws(3, width), draws(4, width));
            let coordinates = [5, 9, 1];
            let mut scratch = vec![0.0; 2 * width];

            for kind in [Norm::Unbiased, Norm::Standard] {
                let norm_of = |x: &[f32]| {
                    let mut y = vec![0.0; n];
                    norm(kind, &mut y, x, &gain, &shift, &mut vec![Moments::default(); rows]);
                    y
                };
                let (mut y, mut moments) = (vec![0.0; n], vec![Moments::default(); rows]);
                norm(kind, &mut y, &x, &gain, &shift, &mut moments);
                let (mut dx, mut dgain, mut dshift) = (vec![7.0; n], vec![0.0; width], vec![0.0; width]);
                let sums = [&mut dgain[..], &mut dshift];
                norm_backward(kind, &mut dx, Old::Replaced, &dy, &x, &gain, &moments, sums);
                check_gradient("norm", width, &x, &dy, &dx, norm_of);
                let (mut added, sums) = (vec![1.0; n], [&mut dgain[..], &mut dshift]);
                norm_backward(kind, &mut added, Old::Kept, &dy, &x, &gain, &moments, sums);
                assert!(added.iter().zip(&dx).all(|(a, d)| (a - 1.0 - d).abs() < 1e-4 * (1.0 + d.abs())));
                let branch = draws(5, n);
                let residual_norm_of = |x: &[f32], branch: &[f32]| {
                    let (mut sum, mut y, mut factors) = (vec![0.0; n], vec![0.0; n], vec![0.0; width]);
                    let (mut moments, parameters) = (vec![Moments::default(); rows], [&gain[..], &shift]);
                    let outputs = [&mut sum[..], &mut y];
                    residual_norm(
                        kind,
                        outputs,
                        [x, branch],
                        &coordinates,
                        &drop,
                        &mut factors,
                        parameters,
                        &mut moments,
                    );
                    (sum, y, moments)
                };
                let (sum, _, moments_of_sum) = residual_norm_of(&x, &branch);
                for old in [Old::Replaced, Old::Kept] {
                    // Half of the gradient comes the second way.
                    let (dsum, dy): (Vec<f32>, Vec<f32>) = match old {
                        Old::Replaced => (vec![7.0; n], dy.clone()),
                        Old::Kept => dy.iter().map(|dy| (0.5 * dy, 0.5 * dy)).unzip(),
                    };
                    let (mut dsum, mut dbranch, mut sums) =
                        (dsum, vec![7.0; n], [0; 3].map(|_| vec![0.0; width]));
                    let [dgain, dshift, dbias] = &mut sums;
                    let (outputs, sums) = ([&mut dsum[..], &mut dbranch], [&mut dgain[..], dshift, dbias]);
                    residual_norm_backward(
                        kind,
                        outputs,
                        old,
                        &dy,
                        &sum,
                        &gain,
                        &moments_of_sum,
                        sums,
                        &coordinates,
                        &drop,
                        &mut scratch,
                    );
                    let whole: Vec<f32> = match old {
                        Old::Replaced => dy.clone(),
                        Old::Kept => dy.iter().map(|dy| 2.0 * dy).collect(),
                    };
                    check_gradient("norm", width, &x, &whole, &dsum, |x| residual_norm_of(x, &branch).1);
                    check_gradient("norm", width, &branch, &whole, &dbranch, |b| residual_norm_of(&x, b).1);
                    let mut plain = [vec![0.0; n], vec![0.0; width], vec![0.0; width]];
                    let [dx, plain_gain, plain_shift] = &mut plain;
                    let sums = [&mut plain_gain[..], plain_shift];
                    norm_backward(kind, dx, Old::Replaced, &whole, &sum, &gain, &moments_of_sum, sums);
                    assert_eq!((&dsum, &*dgain, &*dshift), (&*dx, &*plain_gain, &*plain_shift));
                    let mut column_sums = vec![0.0; width];
                    add_column_sums(&mut column_sums, &dbranch);
                    assert_eq!(*dbias, column_sums);
                }
                let mut again = vec![0.0; n];
                norm_again(kind, &mut again, &x, &gain, &shift, &moments);
                assert_eq!(y, again);
            }

            let at = Rows { coordinates: &coordinates, first_column: 32 };
            for kind in [Gelu::Tanh, Gelu::Erf] {
                let gelu_of = |x: &[f32]| {
                    let (mut y, mut factors) = (vec![0.0; n], vec![0.0; width]);
                    gelu(kind, &mut y, x, width, at, &drop, &mut factors);
                    y
                };
                let (mut out, mut d, mut dbias) = (vec![0.0; n], dy.clone(), vec![0.0; width]);
                gelu_backward(kind, &mut out, &mut d, &x, &mut dbias, at, &drop, &mut scratch);
                check_gradient("gelu", width, &x, &dy, &d, gelu_of);
                assert_eq!(out, gelu_of(&x));
            }

            let tanh_of = |x: &[f32]| {
                let mut y = x.to_vec();
                tanh(&mut y);
                y
            };
            let mut d = dy.clone();
            tanh_backward(&mut d, &tanh_of(&x));
            check_gradient("tanh", width, &x, &dy, &d, tanh_of);

            let softmax_of = |x: &[f32]| {
                let mut p = x.to_vec();
                softmax(&mut p, width, &mut vec![0.0; rows], 40, &drop, &mut vec![0.0; width]);
                p
            };
            let (mut p, mut d, mut sums) = (x.clone(), dy.clone(), vec![0.0; rows]);
            softmax(&mut p, width, &mut sums, 40, &drop, &mut scratch);
            p.copy_from_slice(&x);
            softmax_backward(&mut p, &mut d, width, &sums, 40, &drop, &mut vec![0.0; ROWS_AT_ONCE * width]);
            check_gradient("softmax", width, &x, &dy, &d, softmax_of);
            assert!(p.iter().zip(softmax_of(&x)).all(|(p, expected)| (p - expected).abs() < 1e-6));
        }
    }

    fn check_gradient(
        what: &str,
        width: usize,
        x: &[f32],
        dy: &[f32],
        dx: &[f32],
        forward: impl Fn(&[f32]) -> Vec<f32>,
    ) {
        // Two values have a standardised form that is almost constant: differences drown in rounding.
        if what == "norm" && width == 2 {
            return;
        }
        let objective = |x: &[f32]| -> f64 {
            forward(x).iter().zip(dy).map(|(&y, &d)| f64::from(y) * f64::from(d)).sum()
        };
        for i in 0..x.len() {
            let step = 1e-2;
            let (mut up, mut down) = (x.to_vec(), x.to_vec());
            up[i] += step;
            down[i] -= step;
            let numeric = (objective(&up) - objective(&down)) / (2.0 * f64::from(step));
            let error = (numeric - f64::from(dx[i])).abs();
            assert!(error < 1e-2 * (1.0 + numeric.abs()), "{what} {width}: d[{i}] = {} not {numeric}", dx[i]);
        }
    }
}
