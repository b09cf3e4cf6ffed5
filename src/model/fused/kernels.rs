//! Elementwise passes over rows of tokens, each as fused as its data flow allows, forward and backward.
//!
//! Plain loops over slices that the compiler vectorises; `multiversion` compiles each for AVX-512, AVX2 and
//! the baseline and chooses at run time. No fused multiply-add and a fixed number of summation lanes, so
//! that results are the same bits on every x86-64.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use crate::model::dropout::Dropout;
use crate::rng::dropout;

impl Dropout {
    /// Whether nothing is ever dropped.
    #[inline(always)]
    fn is_off(&self) -> bool {
        self.threshold == 0
    }

    /// Factors of the row at `coordinate`: 0 for a dropped element, the scale for a kept one.
    #[inline(always)]
    fn fill(&self, coordinate: u64, factors: &mut [f32]) {
        if self.is_off() {
            factors.fill(1.0);
            return;
        }
        let row = dropout::row(self.site, coordinate);
        let (threshold, scale) = (self.threshold, self.scale);
        for (block, factors) in factors.chunks_mut(dropout::BLOCK).enumerate() {
            let mut whole = [0.0f32; dropout::BLOCK];
            let (low, high) = whole.split_at_mut(16);
            for (lane, (low, high)) in low.iter_mut().zip(high).enumerate() {
                let bits = dropout::hash(row, (block * 16 + lane) as u32);
                *low = if (bits & 0xffff) >= threshold { scale } else { 0.0 };
                *high = if (bits >> 16) >= threshold { scale } else { 0.0 };
            }
            factors.copy_from_slice(&whole[..factors.len()]);
        }
    }
}

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

/// Which approximation of GELU (Hendrycks & Gimpel 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// Through tanh: the reference's.
    Tanh,
    /// The definition, through the error function: BERT's.
    Erf,
}

/// Lanes of every sum: the widest vector registers, and fixed so that the order of additions is too.
const LANES: usize = 16;

/// Sum of `value` over three columns of equal length; who needs fewer gives one again.
#[inline(always)]
fn sum_of([a, b, c]: [&[f32]; 3], value: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let [a, b, c] = [a, b, c].map(|column| column.chunks_exact(LANES));
    let mut tail = 0.0;
    for ((&a, &b), &c) in a.remainder().iter().zip(b.remainder()).zip(c.remainder()) {
        tail += value(a, b, c);
    }
    for ((a, b), c) in a.zip(b).zip(c) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += value(a[lane], b[lane], c[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0] + tail
}

/// `e^x` to about 2 units in the last place: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2] after the
/// Cody-Waite reduction. Inputs are clamped to where the result is a normal number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer in the low bits of the mantissa.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let p = p * (r * r) + r + 1.0;
    let power = shifted.to_bits().wrapping_sub(12_582_912.0f32.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

const GELU_SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)
const GELU_CUBE: f32 = 0.044_715;

/// GELU by its tanh form, and its derivative.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let u = GELU_SCALE * (x + GELU_CUBE * x * x * x);
    let tanh = 1.0 - 2.0 / (exp(2.0 * u) + 1.0);
    let half = 0.5 * (1.0 + tanh);
    let inner = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
    (x * half, half + 0.5 * x * (1.0 - tanh * tanh) * inner)
}

/// GELU by its definition `x * P(X <= x)`, and its derivative.
#[inline(always)]
fn gelu_erf(x: f32) -> (f32, f32) {
    let half = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    (x * half, half + x * density)
}

/// The error function to about 4e-7: `1 - t * exp(-x^2 + polynomial(t))` with `t = 1 / (1 + |x| / 2)`
/// (Press et al., Numerical Recipes, section 6.2.2).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / (1.0 + 0.5 * size);
    let mut p = 0.170_872_77;
    p = p * t - 0.822_152_23;
    p = p * t + 1.488_515_9;
    p = p * t - 1.135_204;
    p = p * t + 0.278_868_07;
    p = p * t - 0.186_288_06;
    p = p * t + 0.096_784_18;
    p = p * t + 0.374_091_96;
    p = p * t + 1.000_023_7;
    p = p * t - 1.265_512_2;
    let tail = t * exp(p - size * size);
    if x >= 0.0 { 1.0 - tail } else { tail - 1.0 }
}

/// What every processor of the architecture has.
pub const BASELINE: &str = "baseline instructions";

/// What these passes are compiled to on this machine, as users read it.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn instructions() -> &'static str {
    let compiled = [
        (target_cfg_f!(target_feature = "avx512f"), "AVX-512"),
        (target_cfg_f!(target_feature = "avx2"), "AVX2"),
    ];
    compiled.into_iter().find_map(|(is, name)| is.then_some(name)).unwrap_or(BASELINE)
}

/// `y = dropout(token + position + segment)` for each token of a chunk.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
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
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn drop_rows(values: &mut [f32], width: usize, coordinates: &[u64], drop: &Dropout, factors: &mut [f32]) {
    drop_each(values, width, coordinates.iter().copied(), drop, factors);
}

#[inline(always)]
fn drop_each(
    values: &mut [f32],
    width: usize,
    coordinates: impl Iterator<Item = u64>,
    drop: &Dropout,
    factors: &mut [f32],
) {
    if drop.is_off() {
        return;
    }
    let factors = &mut factors[..width];
    for (values, coordinate) in values.chunks_exact_mut(width).zip(coordinates) {
        drop.fill(coordinate, factors);
        for (value, factor) in values.iter_mut().zip(&*factors) {
            *value *= factor;
        }
    }
}

/// `y = gain * normalised(x) + shift` by rows; keeps the moments of each row.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn norm(kind: Norm, y: &mut [f32], x: &[f32], gain: &[f32], shift: &[f32], moments: &mut [Moments]) {
    let width = gain.len();
    for ((y, x), moments) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(moments) {
        let mean = sum_of([x; 3], |x, _, _| x) / width as f32;
        let squares = sum_of([x; 3], |x, _, _| (x - mean) * (x - mean));
        *moments = Moments { mean, squares };
        normalise(kind, y, x, gain, shift, *moments);
    }
}

/// What [`norm`] gave, from the moments that it kept.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
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

/// Backward of [`norm`]: `dx` (stored or added to), `dgain += ...`, `dshift += ...` from `dy`.
///
/// With c = x - mean, i the factor on it, g = dy * gain: `dx = i * (g - mean(g)) - slope * sum(g * c) * c`;
/// the mean of `c` vanishes, which leaves no other term.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
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
    for (((dx, dy), x), &Moments { mean, squares }) in rows.zip(moments) {
        let (inverse, slope) = kind.factors(squares, width);
        let mean_g = sum_of([dy, gain, dy], |dy, gain, _| dy * gain) / width as f32;
        let k = slope * sum_of([dy, gain, x], |dy, gain, x| dy * gain * (x - mean));
        let (dx, dy, x) = (&mut dx[..width], &dy[..width], &x[..width]);
        for j in 0..width {
            let c = x[j] - mean;
            let base = if add { dx[j] } else { 0.0 };
            dx[j] = base + inverse * (dy[j] * gain[j] - mean_g) - k * c;
            dgain[j] += dy[j] * (c * inverse);
            dshift[j] += dy[j];
        }
    }
}

/// `out = x + dropout(branch)`: a residual connection.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn residual(
    out: &mut [f32],
    x: &[f32],
    branch: &[f32],
    width: usize,
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(branch.chunks_exact(width));
    for (((out, x), branch), &coordinate) in rows.zip(coordinates) {
        drop.fill(coordinate, factors);
        for j in 0..width {
            out[j] = x[j] + branch[j] * factors[j];
        }
    }
}

/// `out = outer(x + inner(branch))`: the second residual connection and the dropout at the block's end.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
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
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
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

/// `out = dropout(gelu(x))`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn gelu(
    kind: Gelu,
    out: &mut [f32],
    x: &[f32],
    width: usize,
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    match kind {
        Gelu::Tanh => gelu_rows(out, x, width, coordinates, drop, factors, |x| gelu_tanh(x).0),
        Gelu::Erf => gelu_rows(out, x, width, coordinates, drop, factors, |x| gelu_erf(x).0),
    }
}

#[inline(always)]
fn gelu_rows(
    out: &mut [f32],
    x: &[f32],
    width: usize,
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
    value: impl Fn(f32) -> f32,
) {
    let factors = &mut factors[..width];
    for ((out, x), &coordinate) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(coordinates) {
        drop.fill(coordinate, factors);
        for j in 0..width {
            out[j] = value(x[j]) * factors[j];
        }
    }
}

/// Backward of [`gelu`] with its forward again: `dy` becomes `dx` in place, its column sums are added to
/// `dbias`, and `out` gets what the forward pass gave.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
#[expect(clippy::too_many_arguments, reason = "two results, and what the forward pass takes")]
pub fn gelu_backward(
    kind: Gelu,
    out: &mut [f32],
    dy: &mut [f32],
    x: &[f32],
    dbias: &mut [f32],
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    match kind {
        Gelu::Tanh => gelu_rows_backward(out, dy, x, dbias, coordinates, drop, factors, gelu_tanh),
        Gelu::Erf => gelu_rows_backward(out, dy, x, dbias, coordinates, drop, factors, gelu_erf),
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two results, and what the forward pass takes")]
fn gelu_rows_backward(
    out: &mut [f32],
    dy: &mut [f32],
    x: &[f32],
    dbias: &mut [f32],
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
    value_and_slope: impl Fn(f32) -> (f32, f32),
) {
    let width = dbias.len();
    let factors = &mut factors[..width];
    let rows = out.chunks_exact_mut(width).zip(dy.chunks_exact_mut(width)).zip(x.chunks_exact(width));
    for (((out, dy), x), &coordinate) in rows.zip(coordinates) {
        drop.fill(coordinate, factors);
        for j in 0..width {
            let (value, slope) = value_and_slope(x[j]);
            out[j] = value * factors[j];
            let d = dy[j] * factors[j] * slope;
            dy[j] = d;
            dbias[j] += d;
        }
    }
}

/// `values = tanh(values)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn tanh(values: &mut [f32]) {
    for value in values {
        *value = 1.0 - 2.0 / (exp(2.0 * *value) + 1.0);
    }
}

/// Backward of [`tanh`] from its result: `dy *= 1 - y^2`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn tanh_backward(dy: &mut [f32], y: &[f32]) {
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy *= 1.0 - y * y;
    }
}

/// Adds the column sums of `values` to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn add_column_sums(sums: &mut [f32], values: &[f32]) {
    for row in values.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// Softmax by rows, in place; keeps the log of each row's sum of exponentials.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn softmax(scores: &mut [f32], width: usize, log_sums: &mut [f32]) {
    for (row, log_sum) in scores.chunks_exact_mut(width).zip(log_sums) {
        let max = max_of(row);
        for score in row.iter_mut() {
            *score = exp(*score - max);
        }
        let sum = sum_of([row; 3], |x, _, _| x);
        let inverse = 1.0 / sum;
        for score in row.iter_mut() {
            *score *= inverse;
        }
        *log_sum = max + sum.ln();
    }
}

/// Backward of softmax with dropout behind it, by rows. `p` are the probabilities before dropout, `dp` the
/// gradients behind it. Afterwards `dp` holds the gradients of the scores, and `p` the dropped
/// probabilities.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn softmax_backward(
    p: &mut [f32],
    dp: &mut [f32],
    width: usize,
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    let rows = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
    for ((p, dp), coordinate) in rows.zip(first_coordinate..) {
        drop.fill(coordinate, factors);
        let dot = sum_of([dp, factors, p], |dp, factor, p| dp * factor * p);
        let (p, dp) = (&mut p[..width], &mut dp[..width]);
        for j in 0..width {
            let probability = p[j];
            dp[j] = probability * (dp[j] * factors[j] - dot);
            p[j] = probability * factors[j];
        }
    }
}

/// `values[row] *= dropout` for consecutive coordinates from `first_coordinate` on.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn drop_consecutive(
    values: &mut [f32],
    width: usize,
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    drop_each(values, width, first_coordinate.., drop, factors);
}

/// `sums += values`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Largest value of each row, and the sum of its exponentials relative to that value.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn max_and_sum(values: &[f32], width: usize, partials: &mut [(f32, f32)]) {
    for (row, partial) in values.chunks_exact(width).zip(partials) {
        let max = max_of(row);
        *partial = (max, sum_of([row; 3], |x, _, _| exp(x - max)));
    }
}

/// `values = scale * exp(values - log_sum of the row)`: probabilities, scaled.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
pub fn softmax_scaled(values: &mut [f32], width: usize, log_sums: &[f32], scale: f32) {
    for (row, &log_sum) in values.chunks_exact_mut(width).zip(log_sums) {
        for value in row.iter_mut() {
            *value = scale * exp(*value - log_sum);
        }
    }
}

#[inline(always)]
fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().fold(tail, |a, &b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Domain, SampleRng};

    fn draws(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = SampleRng::new(Domain::Survey, seed, &[]);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn exp_is_within_a_few_units_in_the_last_place() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(((ours - exact) / exact).abs() < 3e-7, "exp({x}) = {ours}, not {exact}");
        }
        assert!(exp(-1e9) < 1.3e-38 && exp(f32::NAN).is_nan());
    }

    /// Against the series of the error function in double precision, which converges everywhere here.
    #[test]
    fn erf_is_within_a_few_1e_7() {
        for i in -400..=400 {
            let x = f64::from(i) / 100.0;
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let exact = sum * std::f64::consts::FRAC_2_SQRT_PI;
            assert!((f64::from(erf(x as f32)) - exact).abs() < 5e-7, "erf({x}) is {exact}");
        }
        assert_eq!((erf(9.0), erf(-9.0)), (1.0, -1.0));
    }

    #[test]
    fn fast_masks_are_the_defined_ones() {
        let drop = Dropout::new(dropout::site(3, 4, 5), 0.3);
        for width in [1, 15, 16, 17, 31, 32, 33, 100] {
            let mut factors = vec![9.0; width];
            drop.fill(77, &mut factors);
            for (j, &factor) in factors.iter().enumerate() {
                let kept = dropout::keeps(dropout::row(drop.site, 77), j, drop.threshold);
                assert_eq!(factor, if kept { drop.scale } else { 0.0 }, "element {j} of {width}");
            }
        }
    }

    /// Each backward against central differences of its forward, dropout on, odd widths.
    #[test]
    fn gradients_agree_with_finite_differences() {
        let drop = Dropout::new(dropout::site(1, 1, 1), 0.25);
        for width in [2, 5, 16, 37] {
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
                let mut again = vec![0.0; n];
                norm_again(kind, &mut again, &x, &gain, &shift, &moments);
                assert_eq!(y, again);
            }

            for kind in [Gelu::Tanh, Gelu::Erf] {
                let gelu_of = |x: &[f32]| {
                    let (mut y, mut factors) = (vec![0.0; n], vec![0.0; width]);
                    gelu(kind, &mut y, x, width, &coordinates, &drop, &mut factors);
                    y
                };
                let (mut out, mut d, mut dbias) = (vec![0.0; n], dy.clone(), vec![0.0; width]);
                gelu_backward(kind, &mut out, &mut d, &x, &mut dbias, &coordinates, &drop, &mut scratch);
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
                softmax(&mut p, width, &mut vec![0.0; rows]);
                drop_consecutive(&mut p, width, 40, &drop, &mut vec![0.0; width]);
                p
            };
            let (mut p, mut d, mut sums) = (x.clone(), dy.clone(), vec![0.0; rows]);
            softmax(&mut p, width, &mut sums);
            softmax_backward(&mut p, &mut d, width, 40, &drop, &mut scratch);
            check_gradient("softmax", width, &x, &dy, &d, softmax_of);
            assert_eq!(p, softmax_of(&x));
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

    #[test]
    fn softmax_from_kept_log_sums_is_the_softmax() {
        for width in [1, 7, 16, 50] {
            let scores = draws(8, 3 * width);
            let (mut once, mut again, mut sums) = (scores.clone(), scores.clone(), vec![0.0; 3]);
            softmax(&mut once, width, &mut sums);
            softmax_scaled(&mut again, width, &sums, 1.0);
            for (a, b) in once.iter().zip(&again) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
            let mut partials = vec![(0.0, 0.0); 3];
            max_and_sum(&scores, width, &mut partials);
            for ((max, sum), log_sum) in partials.iter().zip(&sums) {
                assert!((max + sum.ln() - log_sum).abs() < 1e-6);
            }
        }
    }
}
