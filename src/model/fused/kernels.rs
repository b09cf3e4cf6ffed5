//! Elementwise passes over rows of tokens, each as fused as its data flow allows, forward and backward.
//!
//! Plain loops over slices that the compiler vectorises; `multiversion` compiles each for AVX-512, AVX2 and
//! the baseline and chooses at run time. Fused multiply-adds are written out where they are meant, and the number of
//! summation lanes is fixed, so that results are the same bits everywhere; only without instructions for them (x86-64
//! before 2013) they are slow. What holds them is inlined by attribute, never a function handed to another: a piece that
//! is compiled by itself is compiled for the baseline.

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
        let (blocks, rest) = factors.as_chunks_mut();
        for (block, factors) in blocks.iter_mut().enumerate() {
            self.fill_block(row, block, factors);
        }
        if !rest.is_empty() {
            let mut whole = [0.0; dropout::BLOCK];
            self.fill_block(row, blocks.len(), &mut whole);
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

/// Which approximation of GELU (Hendrycks & Gimpel 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// Through tanh: the reference's.
    Tanh,
    /// The definition, through the error function: BERT's.
    Erf,
}

/// Lanes of every sum, fixed so that the order of additions is too. More than a register holds: loops over so many
/// are compiled as loops over vectors, where those over one register's lanes come apart into single numbers.
const LANES: usize = 64;

/// Rows of scores that go through each pass together, so that one's sum is joined while the next is computed.
pub const ROWS_AT_ONCE: usize = 8;

/// Sum of the lanes, two by two.
#[inline(always)]
fn join(lanes: [f32; LANES]) -> f32 {
    let lanes: [f32; 32] = halved(&lanes);
    let lanes: [f32; 16] = halved(&lanes);
    let lanes: [f32; 8] = halved(&lanes);
    let [a, b, c, d]: [f32; 4] = halved(&lanes);
    (a + c) + (b + d)
}

#[inline(always)]
fn halved<const N: usize, const HALF: usize>(lanes: &[f32; N]) -> [f32; HALF] {
    let mut sums = [0.0; HALF];
    let (low, high) = lanes.split_at(HALF);
    for ((sum, low), high) in sums.iter_mut().zip(low).zip(high) {
        *sum = low + high;
    }
    sums
}

/// Sums of the two `values` over three columns of equal length; who needs fewer columns gives one again.
#[inline(always)]
fn sums_of([a, b, c]: [&[f32]; 3], values: impl Fn(f32, f32, f32) -> [f32; 2]) -> [f32; 2] {
    let (mut firsts, mut seconds) = ([0.0f32; LANES], [0.0f32; LANES]);
    for ((a, b), c) in a.chunks(LANES).zip(b.chunks(LANES)).zip(c.chunks(LANES)) {
        for ((((first, second), a), b), c) in firsts.iter_mut().zip(&mut seconds).zip(a).zip(b).zip(c) {
            let values = values(*a, *b, *c);
            *first += values[0];
            *second += values[1];
        }
    }
    [join(firsts), join(seconds)]
}

/// Sum of `value` over a row.
#[inline(always)]
fn sum_of(row: &[f32], value: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for row in row.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane += value(x);
        }
    }
    join(lanes)
}

/// Replaces each of a row by its `value`; their sum.
#[inline(always)]
fn replace_and_sum(row: &mut [f32], value: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for row in row.chunks_mut(LANES) {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *x = value(*x);
            *lane += *x;
        }
    }
    join(lanes)
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

/// `e^x` for `x` up to 88, to 2e-7 near 0 and `2e-8 |x|` far from it, where results are small. Inputs below -87 are taken for -87.
#[inline(always)]
fn exp(x: f32) -> f32 {
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

/// `out = dropout(gelu(x))`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
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
        Gelu::Tanh => gelu_rows::<false>(out, x, width, coordinates, drop, factors),
        Gelu::Erf => gelu_rows::<true>(out, x, width, coordinates, drop, factors),
    }
}

#[inline(always)]
fn gelu_rows<const ERF: bool>(
    out: &mut [f32],
    x: &[f32],
    width: usize,
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    for ((out, x), &coordinate) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(coordinates) {
        drop.fill(coordinate, factors);
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
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    match kind {
        Gelu::Tanh => gelu_rows_backward::<false>(out, dy, x, dbias, coordinates, drop, factors),
        Gelu::Erf => gelu_rows_backward::<true>(out, dy, x, dbias, coordinates, drop, factors),
    }
}

#[inline(always)]
fn gelu_rows_backward<const ERF: bool>(
    out: &mut [f32],
    dy: &mut [f32],
    x: &[f32],
    dbias: &mut [f32],
    coordinates: &[u64],
    drop: &Dropout,
    factors: &mut [f32],
) {
    let width = dbias.len();
    let factors = &mut factors[..width];
    let rows = out.chunks_exact_mut(width).zip(dy.chunks_exact_mut(width)).zip(x.chunks_exact(width));
    for (((out, dy), x), &coordinate) in rows.zip(coordinates) {
        drop.fill(coordinate, factors);
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

/// Adds the column sums of `values` to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn add_column_sums(sums: &mut [f32], values: &[f32]) {
    for row in values.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// Softmax by rows with dropout behind it, in place, for consecutive coordinates from `first_coordinate` on; keeps
/// the log of each row's sum of exponentials.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax(
    scores: &mut [f32],
    width: usize,
    log_sums: &mut [f32],
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let factors = &mut factors[..width];
    let groups = scores.chunks_mut(ROWS_AT_ONCE * width).zip(log_sums.chunks_mut(ROWS_AT_ONCE));
    for ((scores, log_sums), first_coordinate) in groups.zip((first_coordinate..).step_by(ROWS_AT_ONCE)) {
        for (row, log_sum) in scores.chunks_exact(width).zip(log_sums.iter_mut()) {
            *log_sum = max_of(row);
        }
        let mut sums = [0.0; ROWS_AT_ONCE];
        for ((row, &mut max), sum) in scores.chunks_exact_mut(width).zip(log_sums.iter_mut()).zip(&mut sums) {
            *sum = replace_and_sum(row, |score| exp(score - max));
        }
        for ((row, sum), coordinate) in scores.chunks_exact_mut(width).zip(&sums).zip(first_coordinate..) {
            drop.fill(coordinate, factors);
            let inverse = 1.0 / sum;
            for (score, factor) in row.iter_mut().zip(&*factors) {
                *score *= inverse * factor;
            }
        }
        for (log_sum, sum) in log_sums.iter_mut().zip(&sums) {
            *log_sum += sum.ln();
        }
    }
}

/// Backward of [`softmax`], by rows; `factors` is room for [`ROWS_AT_ONCE`] of them. `p` are the scores, `dp` the gradients behind the dropout. Afterwards `dp`
/// holds the gradients of the scores, and `p` the dropped probabilities.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax_backward(
    p: &mut [f32],
    dp: &mut [f32],
    width: usize,
    log_sums: &[f32],
    first_coordinate: u64,
    drop: &Dropout,
    factors: &mut [f32],
) {
    let groups = p.chunks_mut(ROWS_AT_ONCE * width).zip(dp.chunks_mut(ROWS_AT_ONCE * width));
    let groups = groups.zip(log_sums.chunks(ROWS_AT_ONCE));
    for (((p, dp), log_sums), first_coordinate) in groups.zip((first_coordinate..).step_by(ROWS_AT_ONCE)) {
        let mut dots = [0.0; ROWS_AT_ONCE];
        let rows =
            p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(factors.chunks_exact_mut(width));
        for (((((p, dp), factors), log_sum), dot), coordinate) in
            rows.zip(log_sums).zip(&mut dots).zip(first_coordinate..)
        {
            drop.fill(coordinate, factors);
            let mut lanes = [0.0; LANES];
            for ((p, dp), factors) in p.chunks_mut(LANES).zip(dp.chunks_mut(LANES)).zip(factors.chunks(LANES))
            {
                for (((lane, p), dp), factor) in lanes.iter_mut().zip(p).zip(dp).zip(factors) {
                    *p = exp(*p - log_sum);
                    *dp *= factor;
                    *lane += *p * *dp;
                }
            }
            *dot = join(lanes);
        }
        let rows = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(factors.chunks_exact(width));
        for (((p, dp), factors), dot) in rows.zip(&dots) {
            for ((p, dp), factor) in p.iter_mut().zip(dp.iter_mut()).zip(factors) {
                *dp = *p * (*dp - dot);
                *p *= factor;
            }
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

/// Largest value of each row, and the sum of its exponentials relative to that value.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn max_and_sum(values: &[f32], width: usize, partials: &mut [(f32, f32)]) {
    for (row, partial) in values.chunks_exact(width).zip(partials) {
        let max = max_of(row);
        *partial = (max, sum_of(row, |x| exp(x - max)));
    }
}

/// `values = scale * exp(values - log_sum of the row)`: probabilities, scaled.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2+fma"))]
pub fn softmax_scaled(values: &mut [f32], width: usize, log_sums: &[f32], scale: f32) {
    for (row, &log_sum) in values.chunks_exact_mut(width).zip(log_sums) {
        for value in row.iter_mut() {
            *value = scale * exp(*value - log_sum);
        }
    }
}

/// The largest; what is no number is larger than all. Compared as integers of the same order, whose largest the compiler
/// may look for in any order.
#[inline(always)]
fn max_of(values: &[f32]) -> f32 {
    let mut max = i32::MIN;
    for value in values {
        max = max.max(in_order(value.to_bits() as i32));
    }
    f32::from_bits(in_order(max) as u32)
}

/// Bits of numbers as integers of the same order, and back.
#[inline(always)]
fn in_order(bits: i32) -> i32 {
    bits ^ ((bits >> 31) as u32 >> 1) as i32
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

    /// Sums have more lanes than some rows, and fewer than others.
    #[test]
    fn sums_and_maxima_are_those_of_whole_rows() {
        for width in [1, 2, 63, 64, 65, 128, 200] {
            let (a, b) = (draws(5, width), draws(6, width));
            let exact =
                |value: fn(f32, f32) -> f32| -> f32 { a.iter().zip(&b).map(|(&a, &b)| value(a, b)).sum() };
            let close = |x: f32, y: f32| assert!((x - y).abs() < 1e-4, "{width}: {x}, not {y}");
            close(sum_of(&a, |a| a * a), exact(|a, _| a * a));
            let [first, second] = sums_of([&a, &b, &a], |a, b, c| [a + b, b * c]);
            close(first, exact(|a, b| a + b));
            close(second, exact(|a, b| a * b));
            let mut doubled = a.clone();
            close(replace_and_sum(&mut doubled, |a| 2.0 * a), 2.0 * exact(|a, _| a));
            assert!(doubled.iter().zip(&a).all(|(d, a)| *d == 2.0 * a));
            assert_eq!(max_of(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            doubled[width / 2] = f32::NAN;
            assert!(max_of(&doubled).is_nan());
        }
        assert_eq!(max_of(&[-3.0, -2.0, -5.0]), -2.0);
        assert_eq!(max_of(&[f32::NEG_INFINITY, -1e30]), -1e30);
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

    #[test]
    fn softmax_from_kept_log_sums_is_the_softmax() {
        for width in [1, 7, 16, 50, 150] {
            let scores = draws(8, 3 * width);
            let (mut once, mut again, mut sums) = (scores.clone(), scores.clone(), vec![0.0; 3]);
            softmax(&mut once, width, &mut sums, 0, &Dropout::OFF, &mut vec![0.0; width]);
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
