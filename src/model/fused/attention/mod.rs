//! Scaled dot-product attention over the real tokens of each sample, forward and backward.
//!
//! Works on a chunk's packed `(tokens, 3 * hidden)` queries, keys and values: samples lie behind each other
//! without padding, so each attends to itself by construction and no mask is needed. Keeps only the log-sum of
//! each row of scores; the backward pass computes the probabilities again from it (Dao et al. 2022), and
//! their dropout from its key. Where there is AMX [`amx`] computes it, where a sample's length suits that; short samples
//! are left to [`short`], others to [`plain`].

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
mod plain;
#[cfg(target_arch = "x86_64")]
mod short;
#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(target_arch = "x86_64")]
use super::matmul::packed::Method;
use super::matmul::{Kernel, Mat, MatMut};
use crate::model::dropout::Dropout;

/// Widths that a chunk's attention needs, and what computes its products.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub head_dim: usize,
    pub kernel: Kernel,
}

impl Shape {
    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }

    /// Scores are divided by the square root of a head's width (Vaswani et al. 2017, section 3.2.1).
    fn scale(self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

/// One sample's place in its chunk.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First token in the chunk.
    pub start: usize,
    /// Real tokens.
    pub len: usize,
    /// Row in the step's whole batch.
    pub row_of_step: usize,
}

/// What attention of a chunk is computed from, in either direction.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Queries, keys and values `(tokens, 3 * hidden)`.
    pub qkv: &'a [f32],
    pub spans: &'a [Span],
    pub shape: Shape,
    pub drop: &'a Dropout,
}

/// What computes attention of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Plain(Kernel),
    #[cfg(target_arch = "x86_64")]
    Short,
    #[cfg(target_arch = "x86_64")]
    AmxBf16,
    #[cfg(target_arch = "x86_64")]
    AmxF32,
}

impl By {
    /// What is fastest for a sample of this length, by its length alone.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one way for all lengths"))]
    fn of(kernel: Kernel, len: usize) -> Self {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(Method::Amx) if len > amx::BLOCK || fills_blocks(len) => Self::AmxBf16,
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(Method::AmxFixed) if fills_blocks(len) => Self::AmxF32,
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(Method::Avx512) if len <= short::MOST_OF_SINGLE => Self::Short,
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(_) | Kernel::Single if len <= short::MOST && short::is_here() => Self::Short,
            #[cfg(target_arch = "x86_64")]
            Kernel::Packed(Method::AmxFixed | Method::Avx512) => Self::Plain(Kernel::Single),
            kernel => Self::Plain(kernel),
        }
    }
}

impl Inputs<'_> {
    /// The samples by what computes them, in their order.
    fn parts(self) -> impl Iterator<Item = (By, Self)> {
        let by = move |span: &Span| By::of(self.shape.kernel, span.len);
        let runs = self.spans.chunk_by(move |a, b| by(a) == by(b));
        runs.map(move |spans| (by(&spans[0]), Self { spans, ..self }))
    }

    /// The same by another kernel.
    fn with(self, kernel: Kernel) -> Self {
        Self { shape: Shape { kernel, ..self.shape }, ..self }
    }
}

/// Scratch of one thread, grown to the longest sample and kept; what another kernel would need stays empty.
#[derive(Default)]
pub struct Scratch {
    plain: plain::Scratch,
    #[cfg(target_arch = "x86_64")]
    short: short::Scratch,
    #[cfg(target_arch = "x86_64")]
    bf16: amx::Scratch<1>,
    #[cfg(target_arch = "x86_64")]
    f32: amx::Scratch<3>,
}

/// `context (tokens, hidden)` from the inputs; `log_sums (heads, tokens)` for the way back.
pub fn forward(context: &mut [f32], log_sums: &mut [f32], inputs: Inputs<'_>, scratch: &mut Scratch) {
    for (by, inputs) in inputs.parts() {
        by.forward(context, log_sums, inputs, scratch);
    }
}

/// `dqkv (tokens, 3 * hidden)` from `dcontext (tokens, hidden)` and what the forward pass kept.
pub fn backward(
    dqkv: &mut [f32],
    dcontext: &[f32],
    log_sums: &[f32],
    inputs: Inputs<'_>,
    scratch: &mut Scratch,
) {
    for (by, inputs) in inputs.parts() {
        by.backward(dqkv, dcontext, log_sums, inputs, scratch);
    }
}

impl By {
    fn forward(self, context: &mut [f32], log_sums: &mut [f32], inputs: Inputs<'_>, scratch: &mut Scratch) {
        match self {
            By::Plain(kernel) => plain::forward(context, log_sums, inputs.with(kernel), &mut scratch.plain),
            #[cfg(target_arch = "x86_64")]
            By::Short => short::forward(context, log_sums, inputs, &mut scratch.short),
            #[cfg(target_arch = "x86_64")]
            By::AmxBf16 => amx::forward(context, log_sums, inputs, &mut scratch.bf16),
            #[cfg(target_arch = "x86_64")]
            By::AmxF32 => amx::forward(context, log_sums, inputs, &mut scratch.f32),
        }
    }

    fn backward(
        self,
        dqkv: &mut [f32],
        dcontext: &[f32],
        log_sums: &[f32],
        inputs: Inputs<'_>,
        scratch: &mut Scratch,
    ) {
        match self {
            By::Plain(kernel) => {
                plain::backward(dqkv, dcontext, log_sums, inputs.with(kernel), &mut scratch.plain);
            }
            #[cfg(target_arch = "x86_64")]
            By::Short => short::backward(dqkv, dcontext, log_sums, inputs, &mut scratch.short),
            #[cfg(target_arch = "x86_64")]
            By::AmxBf16 => amx::backward(dqkv, dcontext, log_sums, inputs, &mut scratch.bf16),
            #[cfg(target_arch = "x86_64")]
            By::AmxF32 => amx::backward(dqkv, dcontext, log_sums, inputs, &mut scratch.f32),
        }
    }
}

/// Whether a sample of this length fills blocks of AMX but for an eighth: with more padding than that others are faster, in
/// bfloat16 within one block.
#[cfg(target_arch = "x86_64")]
fn fills_blocks(len: usize) -> bool {
    8 * len >= 7 * len.next_multiple_of(amx::BLOCK)
}

/// One head's queries, keys and values of one sample, each `(len, head_dim)`.
fn views(qkv: &[f32], start: usize, len: usize, shape: Shape, column: usize) -> [Mat<'_>; 3] {
    let hidden = shape.hidden();
    [0, 1, 2].map(|part| {
        let from = start * 3 * hidden + part * hidden + column;
        Mat::strided(&qkv[from..], len, shape.head_dim, 3 * hidden)
    })
}

/// A head's gradients of queries, keys or values: `n` rows from `first` on.
fn gradient(
    dqkv: &mut [f32],
    part: usize,
    first: usize,
    n: usize,
    shape: Shape,
    column: usize,
) -> MatMut<'_> {
    let hidden = shape.hidden();
    let from = first * 3 * hidden + part * hidden + column;
    MatMut::strided(&mut dqkv[from..], n, shape.head_dim, 3 * hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Precision;
    use crate::model::dropout::dropout_coordinate;
    use crate::rng::{Domain, SampleRng, dropout};

    /// All that this machine computes attention by, whatever a sample's length.
    fn ways(precision: Precision) -> Vec<(Kernel, By)> {
        let mut ways = vec![];
        for kernel in Kernel::all(precision) {
            match kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Packed(Method::Amx) => ways.push((kernel, By::AmxBf16)),
                #[cfg(target_arch = "x86_64")]
                Kernel::Packed(Method::AmxFixed) => ways.push((kernel, By::AmxF32)),
                kernel => ways.push((kernel, By::Plain(kernel))),
            }
        }
        #[cfg(target_arch = "x86_64")]
        if precision == Precision::F32 && short::is_here() {
            ways.push((Kernel::Single, By::Short));
        }
        ways
    }

    struct Case {
        shape: Shape,
        spans: Vec<Span>,
        tokens: usize,
        drop: Dropout,
        qkv: Vec<f32>,
        dcontext: Vec<f32>,
    }

    impl Case {
        fn new(lens: &[usize], heads: usize, head_dim: usize, rate: f32, kernel: Kernel) -> Self {
            let mut spans = vec![];
            let mut tokens = 0;
            for (sample, &len) in lens.iter().enumerate() {
                spans.push(Span { start: tokens, len, row_of_step: 3 * sample + 1 });
                tokens += len;
            }
            let mut rng = SampleRng::new(Domain::Survey, 9, &[tokens as u64, head_dim as u64]);
            let mut draw = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
            let drop = if rate == 0.0 { Dropout::OFF } else { Dropout::new(dropout::site(1, 2, 3), rate) };
            let hidden = heads * head_dim;
            let (qkv, dcontext) = (draw(tokens * 3 * hidden), draw(tokens * hidden));
            Self { shape: Shape { heads, head_dim, kernel }, spans, tokens, drop, qkv, dcontext }
        }

        /// Context, log-sums and gradients; all buffers hold something else before.
        fn run(&self, by: By, scratch: &mut Scratch) -> [Vec<f32>; 3] {
            let hidden = self.shape.hidden();
            let (mut context, mut log_sums) =
                (vec![7.0; self.tokens * hidden], vec![7.0; self.tokens * self.shape.heads]);
            let mut dqkv = vec![7.0; self.tokens * 3 * hidden];
            let inputs = Inputs { qkv: &self.qkv, spans: &self.spans, shape: self.shape, drop: &self.drop };
            by.forward(&mut context, &mut log_sums, inputs, scratch);
            by.backward(&mut dqkv, &self.dcontext, &log_sums, inputs, scratch);
            [context, log_sums, dqkv]
        }

        /// The same by the definition, in double precision.
        fn exact(&self) -> [Vec<f64>; 3] {
            let Shape { heads, head_dim: d, .. } = self.shape;
            let (h, scale) = (heads * d, f64::from(self.shape.scale()));
            let mut context = vec![0.0; self.tokens * h];
            let (mut log_sums, mut dqkv) = (vec![0.0; self.tokens * heads], vec![0.0; self.tokens * 3 * h]);
            for &Span { start, len, row_of_step } in &self.spans {
                for head in 0..heads {
                    let place = |part: usize, token: usize| (start + token) * 3 * h + part * h + head * d;
                    let row = |part: usize, token: usize| &self.qkv[place(part, token)..][..d];
                    for i in 0..len {
                        let dot = |a: &[f32], b: &[f32]| -> f64 {
                            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                        };
                        let scores: Vec<f64> = (0..len).map(|j| scale * dot(row(0, i), row(1, j))).collect();
                        let log_sum = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
                        log_sums[head * self.tokens + start + i] = log_sum;
                        let key = dropout::row(self.drop.site, dropout_coordinate(row_of_step, i, head));
                        let out = (start + i) * h + head * d;
                        let dout = &self.dcontext[out..][..d];
                        let p: Vec<f64> = scores.iter().map(|s| (s - log_sum).exp()).collect();
                        let factor = |j| match dropout::keeps(key, j, self.drop.threshold) {
                            true => f64::from(self.drop.scale),
                            false => 0.0,
                        };
                        let dp: Vec<f64> = (0..len).map(|j| factor(j) * dot(dout, row(2, j))).collect();
                        let of_row: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                        for j in 0..len {
                            let ds = scale * p[j] * (dp[j] - of_row);
                            for x in 0..d {
                                context[out + x] += factor(j) * p[j] * f64::from(row(2, j)[x]);
                                dqkv[place(0, i) + x] += ds * f64::from(row(1, j)[x]);
                                dqkv[place(1, j) + x] += ds * f64::from(row(0, i)[x]);
                                dqkv[place(2, j) + x] += factor(j) * p[j] * f64::from(dout[x]);
                            }
                        }
                    }
                }
            }
            [context, log_sums, dqkv]
        }
    }

    /// Each kernel against the definition in double precision, relative to the largest number of each result. Single
    /// precision: some roundings of 6e-8 on the way. In bfloat16 scores are sums of products that were rounded by 2^-8
    /// each, and so are off by some 2^-8 times their usual size, and all behind them as much more.
    #[test]
    fn attention_is_that_of_its_definition() {
        let lens: [&[usize]; 10] =
            [&[1], &[2, 15], &[16, 17], &[31], &[32, 20, 33], &[100], &[128], &[130], &[8, 300], &[64, 1, 5]];
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)] {
            for (kernel, by) in ways(precision) {
                // One scratch for all, so that what one leaves behind must not matter to the next.
                let mut scratch = Scratch::default();
                for (i, lens) in lens.into_iter().rev().enumerate() {
                    for (heads, head_dim) in [(2, 32), (1, 64), (3, 8), (2, 20), (1, 80)] {
                        let rate = if (i + head_dim) % 3 == 0 { 0.0 } else { 0.3 };
                        let case = Case::new(lens, heads, head_dim, rate, kernel);
                        let results = case.run(by, &mut scratch);
                        for (what, (result, exact)) in
                            ["context", "log-sums", "gradients"].iter().zip(results.iter().zip(case.exact()))
                        {
                            let largest = exact.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                            for (at, (&x, exact)) in result.iter().zip(exact).enumerate() {
                                let error = (f64::from(x) - exact).abs() / largest;
                                assert!(
                                    error < tolerance,
                                    "{by:?}, {lens:?}, width {head_dim}, rate {rate}: {what}[{at}] = {x}, not {exact}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
