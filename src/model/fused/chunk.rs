//! A few samples' way through all blocks, forward and backward, on one thread.
//!
//! A batch is cut into chunks of whole samples, by its content alone. A chunk owns every activation of
//! its tokens, so chunks need nothing from each other: threads share the weights and meet only where
//! gradients of weights are summed, chunk by chunk in order. That is why results do not depend on the
//! number of threads. Buffers grow to the largest chunk seen and stay.

use std::ops::Range;

use super::attention::{self, Scratch, Shape, Span};
use super::kernels::{self, Gelu, Moments, Norm, Old};
use super::linear::Linear;
use super::matmul::{Kernel, Mat, Packed, Rhs};
use super::selection::Selection;
use crate::collate::HostBatch;
use crate::model::dropout::{Dropout, Dropouts};
use crate::model::layout::{BlockRanges, OuterRanges};
use crate::model::{Arch, DropoutSite, ModelConfig, dropout_coordinate};

/// What a chunk reads and never writes.
#[derive(Clone, Copy)]
pub struct Model<'m> {
    pub config: &'m ModelConfig,
    pub blocks: &'m [BlockRanges],
    pub outer: &'m OuterRanges,
    pub weights: &'m [f32],
    /// Sinusoidal or learned positions, `(at least the longest row, hidden)`.
    pub positions: &'m [f32],
    pub dropouts: Dropouts,
    pub kernel: Kernel,
    /// The weights of the block at hand for products of the direction at hand, in the order of [`Part`].
    pub packed: &'m [Packed; 4],
}

/// The linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Queries, keys and values.
    Projections,
    /// Attention's output.
    Output,
    /// The feed-forward layer's first half.
    Expand,
    /// Its second half.
    Contract,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Projections, Self::Output, Self::Expand, Self::Contract];

    /// Places of weight and bias.
    pub fn ranges(self, block: &BlockRanges) -> (&Range<usize>, &Range<usize>) {
        match self {
            Self::Projections => (&block.qkv_weight, &block.qkv_bias),
            Self::Output => (&block.out_weight, &block.out_bias),
            Self::Expand => (&block.w1_weight, &block.w1_bias),
            Self::Contract => (&block.w2_weight, &block.w2_bias),
        }
    }
}

impl Model<'_> {
    pub fn at(&self, range: &Range<usize>) -> &[f32] {
        &self.weights[range.clone()]
    }

    pub fn norm(&self) -> Norm {
        match self.config.arch {
            Arch::Reference => Norm::Unbiased,
            Arch::Bert => Norm::Standard,
        }
    }

    pub fn gelu(&self) -> Gelu {
        match self.config.arch {
            Arch::Reference => Gelu::Tanh,
            Arch::Bert => Gelu::Erf,
        }
    }

    /// A layer of a block.
    pub fn linear(&self, layer: usize, part: Part) -> Linear<'_> {
        let (weight, bias) = part.ranges(&self.blocks[layer]);
        Linear::new(self.at(weight), self.at(bias)).with(self.kernel, &self.packed[part as usize])
    }

    fn shape(&self) -> Shape {
        Shape { heads: self.config.heads, head_dim: self.config.head_dim(), kernel: self.kernel }
    }
}

/// What the forward pass of one block keeps for the backward pass; `h` is the hidden size.
#[derive(Default)]
struct Kept {
    /// The block's input `(tokens, h)`.
    x: Vec<f32>,
    /// Input of the first norm where that is not `x`: the attention sublayer's sum `(tokens, h)`.
    sum1: Vec<f32>,
    moments1: Vec<Moments>,
    /// Queries, keys and values `(tokens, 3 h)`.
    qkv: Vec<f32>,
    log_sums: Vec<f32>,
    /// Attention's output before its projection `(tokens, h)`.
    context: Vec<f32>,
    /// The residual stream between the sublayers `(tokens, h)`.
    middle: Vec<f32>,
    /// Input of the second norm where that is not `middle`: the feed-forward sublayer's sum `(tokens, h)`.
    sum2: Vec<f32>,
    moments2: Vec<Moments>,
    /// The feed-forward layer before its activation `(tokens, 4 h)`.
    inner: Vec<f32>,
}

/// Gradients and inputs of the four products of one block, for the gradients of their weights.
#[derive(Default)]
struct BlockGradients {
    /// Input of the projections where the block does not keep it, and the gradient of what they give.
    norm1: Vec<f32>,
    dqkv: Vec<f32>,
    /// Gradient of the output projection; its input is the kept context.
    dout: Vec<f32>,
    /// Input of the feed-forward layer where the block does not keep it.
    norm2: Vec<f32>,
    dinner: Vec<f32>,
    activated: Vec<f32>,
    dw2: Vec<f32>,
    /// The four inputs for bfloat16 products.
    packed: [Packed; 4],
    /// Sums over the chunk: biases and norms, in the order of [`Self::sums`].
    sums: Vec<f32>,
}

/// Some samples of a batch with all their activations.
#[derive(Default)]
pub struct Chunk {
    pub spans: Vec<Span>,
    pub tokens: usize,
    pub ids: Vec<u32>,
    /// Rows of the segment embedding.
    pub segments: Vec<u32>,
    pub positions: Vec<u32>,
    /// Dropout coordinates of the tokens.
    coordinates: Vec<u64>,
    /// The tokens that go on behind the last block's attention.
    selection: Selection,
    kept: Vec<Kept>,
    /// Input and moments of the embedding's norm, where there is one.
    embedded: Vec<f32>,
    embedded_moments: Vec<Moments>,
    /// The last block's output for the selected tokens `(selected, h)`.
    pub output: Vec<f32>,
    /// Gradient of the residual stream `(tokens, h)`, wherever the backward pass stands; behind the last block's
    /// attention `(selected, h)`.
    pub dx: Vec<f32>,
    gradients: BlockGradients,
    scratch: Scratch,
    /// What a norm before a sublayer gave it `(tokens, h)`.
    normed: Vec<f32>,
    narrow: Vec<f32>,
    wide: Vec<f32>,
    factors: Vec<f32>,
}

/// Rows that pass the whole feed-forward layer at a time: what lies between its products stays in the second-level cache.
const FEED_FORWARD_ROWS: usize = 128;

/// Dropout coordinates of a block's tokens behind its attention.
macro_rules! coordinates {
    ($chunk:ident, $layer:expr) => {
        if $layer + 1 == $chunk.kept.len() {
            &$chunk.selection.coordinates[..]
        } else {
            &$chunk.coordinates[..]
        }
    };
}

/// Makes `buffer` at least `len` long; its content is unspecified.
pub fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// Samples of a batch per chunk: consecutive rows until there are enough tokens. Small enough that four
/// threads share a small batch, large enough (measured) that a product's packing does not count.
pub fn split(lengths: &[u32]) -> Vec<Range<usize>> {
    const MOST_TOKENS: usize = 512;
    const LEAST_TOKENS: usize = 128;
    let all: usize = lengths.iter().map(|&n| n as usize).sum();
    let target = all.div_ceil(4).clamp(LEAST_TOKENS, MOST_TOKENS);
    let mut chunks = vec![];
    let (mut first, mut tokens) = (0, 0);
    for (row, &len) in lengths.iter().enumerate() {
        tokens += len as usize;
        if tokens >= target {
            chunks.push(first..row + 1);
            (first, tokens) = (row + 1, 0);
        }
    }
    if first < lengths.len() {
        chunks.push(first..lengths.len());
    }
    chunks
}

impl Chunk {
    /// Takes samples `samples` of a batch, whose first sample is row `first_row` of the step.
    pub fn load(&mut self, batch: &HostBatch, samples: Range<usize>, first_row: usize, arch: Arch) {
        // BERT numbers its segments from 0 and has no row for padding.
        let first_segment = match arch {
            Arch::Reference => 0,
            Arch::Bert => 1,
        };
        self.spans.clear();
        self.ids.clear();
        self.segments.clear();
        self.positions.clear();
        self.coordinates.clear();
        for sample in samples {
            let (cells, row_of_step) = (batch.span(sample), first_row + sample);
            let len = cells.len();
            self.spans.push(Span { start: self.ids.len(), len, row_of_step });
            self.ids.extend_from_slice(&batch.ids[cells.clone()]);
            self.segments.extend(batch.segments[cells].iter().map(|&s| u32::from(s) - first_segment));
            self.positions.extend(0..len as u32);
            self.coordinates.extend((0..len).map(|p| dropout_coordinate(row_of_step, p, 0)));
        }
        self.tokens = self.ids.len();
    }

    /// Says for which tokens the last block's output is wanted: for all where `None`.
    pub fn select(&mut self, tokens: Option<&[usize]>) {
        self.selection.select(tokens, &self.coordinates);
    }

    /// Where the output of a selected token lies among the rows of `output`.
    pub fn row_of(&self, token: usize) -> usize {
        self.selection.row_of(token)
    }

    /// Tokens of block `layer` behind its attention.
    fn rows(&self, layer: usize) -> usize {
        if self.is_last(layer) { self.selection.len() } else { self.tokens }
    }

    fn is_last(&self, layer: usize) -> bool {
        layer + 1 == self.kept.len()
    }

    /// One block: fills the next one's input, or `output`, and what the backward pass needs.
    pub fn forward(&mut self, model: &Model<'_>, layer: usize) {
        match model.config.arch {
            Arch::Reference => self.forward_pre_norm(model, layer),
            Arch::Bert => self.forward_post_norm(model, layer),
        }
    }

    /// Sum of token, position and segment embeddings, normalised where the architecture does, with dropout: the first
    /// block's input.
    pub fn embed(&mut self, model: &Model<'_>) {
        self.kept.resize_with(model.blocks.len(), Kept::default);
        grow(&mut self.factors, 2 * model.config.feed_forward());
        let (h, n) = (model.config.hidden, self.tokens * model.config.hidden);
        let (token, segment) = (model.at(&model.outer.token), model.at(&model.outer.segment));
        let mut rows = (self.ids.iter().zip(&self.segments).zip(&self.positions).zip(&self.coordinates)).map(
            |(((&id, &s), &p), &coordinate)| {
                (
                    &token[id as usize * h..][..h],
                    &model.positions[p as usize * h..][..h],
                    &segment[s as usize * h..][..h],
                    coordinate,
                )
            },
        );
        let drop = model.dropouts.at(DropoutSite::Embedding);
        let out = grow(&mut self.kept[0].x, n);
        let Some(bert) = &model.outer.bert else {
            return kernels::embed(out, h, &mut rows, &drop, &mut self.factors);
        };
        let sum = grow(&mut self.embedded, n);
        kernels::embed(sum, h, &mut rows, &Dropout::OFF, &mut self.factors);
        let (gain, shift) = (model.at(&bert.embedding_gain), model.at(&bert.embedding_shift));
        kernels::norm(model.norm(), out, sum, gain, shift, grow(&mut self.embedded_moments, self.tokens));
        kernels::drop_rows(out, h, &self.coordinates, &drop, &mut self.factors);
    }

    /// The reference's block: `m = x + drop(attention(norm(x)))`, `drop(m + drop(feed_forward(norm(m))))`.
    fn forward_pre_norm(&mut self, model: &Model<'_>, layer: usize) {
        let (h, tokens, block) = (model.config.hidden, self.tokens, &model.blocks[layer]);
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        let kept = &mut self.kept[layer];
        let normed = grow(&mut self.normed, tokens * h);
        let (gain, shift) = (model.at(&block.norm1_gain), model.at(&block.norm1_shift));
        let moments = grow(&mut kept.moments1, tokens);
        kernels::norm(model.norm(), normed, &kept.x[..tokens * h], gain, shift, moments);
        let qkv = grow(&mut kept.qkv, tokens * 3 * h);
        model.linear(layer, Part::Projections).forward(qkv, normed, tokens);
        self.attend(model, layer);
        let rows = self.rows(layer);
        self.feed_forward(model, layer, &drop(DropoutSite::FeedForward));
        let drops = [&drop(DropoutSite::FeedForwardOutput), &drop(DropoutSite::Block)];
        let coordinates = coordinates!(self, layer);
        let (done, rest) = self.kept.split_at_mut(layer + 1);
        let out = grow(rest.first_mut().map_or(&mut self.output, |next| &mut next.x), rows * h);
        let middle = &done[layer].middle[..rows * h];
        let (branch, factors) = (&self.narrow[..rows * h], &mut self.factors);
        kernels::residual_end(out, middle, branch, h, coordinates, drops, factors);
    }

    /// BERT's block: `m = norm(x + drop(attention(x)))`, `norm(m + drop(feed_forward(m)))`.
    fn forward_post_norm(&mut self, model: &Model<'_>, layer: usize) {
        let (h, tokens, block) = (model.config.hidden, self.tokens, &model.blocks[layer]);
        let kept = &mut self.kept[layer];
        let qkv = grow(&mut kept.qkv, tokens * 3 * h);
        let x = &kept.x[..tokens * h];
        model.linear(layer, Part::Projections).forward(qkv, x, tokens);
        self.attend(model, layer);
        let rows = self.rows(layer);
        self.feed_forward(model, layer, &Dropout::OFF);
        let coordinates = coordinates!(self, layer);
        let (done, rest) = self.kept.split_at_mut(layer + 1);
        let kept = &mut done[layer];
        let out = rest.first_mut().map_or(&mut self.output, |next| &mut next.x);
        let outputs = [grow(&mut kept.sum2, rows * h), grow(out, rows * h)];
        let inputs = [&kept.middle[..rows * h], &self.narrow[..rows * h]];
        let output_drop = model.dropouts.at(DropoutSite::FeedForwardOutput(layer));
        let parameters = [model.at(&block.norm2_gain), model.at(&block.norm2_shift)];
        let (moments, factors) = (grow(&mut kept.moments2, rows), &mut self.factors);
        kernels::residual_norm(
            model.norm(),
            outputs,
            inputs,
            coordinates,
            &output_drop,
            factors,
            parameters,
            moments,
        );
    }

    /// Attention over the block's queries, keys and values, its output projection, the residual connection and the norm
    /// behind that, from where on the last block has only the selected tokens.
    fn attend(&mut self, model: &Model<'_>, layer: usize) {
        let (h, tokens) = (model.config.hidden, self.tokens);
        let kept = &mut self.kept[layer];
        let context = grow(&mut kept.context, tokens * h);
        let log_sums = grow(&mut kept.log_sums, tokens * model.config.heads);
        let (qkv, drop) = (&kept.qkv[..tokens * 3 * h], model.dropouts.at(DropoutSite::Attention(layer)));
        attention::forward(context, log_sums, qkv, &self.spans, model.shape(), &drop, &mut self.scratch);
        if self.is_last(layer) {
            self.selection.compact(&mut self.kept[layer].context[..tokens * h], h);
        }
        let rows = self.rows(layer);
        let branch = grow(&mut self.narrow, rows * h);
        model.linear(layer, Part::Output).forward(branch, &self.kept[layer].context[..rows * h], rows);
        self.add_attention(model, layer);
    }

    /// `x + drop(narrow)` and its norm: in the reference that of the feed-forward layer, whose input is `normed`, in BERT
    /// that of the sublayer itself, which gives `middle`.
    fn add_attention(&mut self, model: &Model<'_>, layer: usize) {
        let (h, rows, is_last) = (model.config.hidden, self.rows(layer), self.is_last(layer));
        let (block, coordinates) = (&model.blocks[layer], coordinates!(self, layer));
        let Kept { x, sum1, moments1, middle, moments2, .. } = &mut self.kept[layer];
        let (sum, normed, parameters, moments) = match model.config.arch {
            Arch::Reference => (middle, &mut self.normed, [&block.norm2_gain, &block.norm2_shift], moments2),
            Arch::Bert => (sum1, middle, [&block.norm1_gain, &block.norm1_shift], moments1),
        };
        let x = if is_last {
            let gathered = grow(&mut self.wide, rows * h);
            self.selection.gather(gathered, x, h);
            gathered
        } else {
            &x[..rows * h]
        };
        kernels::residual_norm(
            model.norm(),
            [grow(sum, rows * h), grow(normed, rows * h)],
            [x, &self.narrow[..rows * h]],
            coordinates,
            &model.dropouts.at(DropoutSite::AttentionOutput(layer)),
            &mut self.factors,
            parameters.map(|range| model.at(range)),
            grow(moments, rows),
        );
    }

    /// The feed-forward layer into `narrow`: of `normed` where norms come before the sublayers, otherwise of `middle`.
    fn feed_forward(&mut self, model: &Model<'_>, layer: usize, drop: &Dropout) {
        let (h, rows) = (model.config.hidden, self.rows(layer));
        let (wide, coordinates) = (model.config.feed_forward(), coordinates!(self, layer));
        let Kept { middle, inner, .. } = &mut self.kept[layer];
        let inner = grow(inner, rows * wide);
        grow(&mut self.narrow, rows * h);
        let activated = grow(&mut self.wide, FEED_FORWARD_ROWS * wide);
        let (expand, contract) = (model.linear(layer, Part::Expand), model.linear(layer, Part::Contract));
        for first in (0..rows).step_by(FEED_FORWARD_ROWS) {
            let rows = (rows - first).min(FEED_FORWARD_ROWS);
            let (inner, narrow) = (&mut inner[first * wide..][..rows * wide], first * h..(first + rows) * h);
            let input = match model.config.arch {
                Arch::Reference => &self.normed[narrow.clone()],
                Arch::Bert => &middle[narrow.clone()],
            };
            expand.forward(inner, input, rows);
            let (activated, coordinates) = (&mut activated[..rows * wide], &coordinates[first..first + rows]);
            kernels::gelu(model.gelu(), activated, inner, wide, coordinates, drop, &mut self.factors);
            contract.forward(&mut self.narrow[narrow], activated, rows);
        }
    }

    /// One block backward: takes the gradient of its output in `dx`, leaves that of its input there, and
    /// fills `gradients` with what the weights' gradients are made of.
    pub fn backward(&mut self, model: &Model<'_>, layer: usize) {
        let h = model.config.hidden;
        grow(&mut self.gradients.sums, Sums::len(h)).fill(0.0);
        match model.config.arch {
            Arch::Reference => self.backward_pre_norm(model, layer),
            Arch::Bert => self.backward_post_norm(model, layer),
        }
        if model.kernel != Kernel::Single {
            let mut packed = std::mem::take(&mut self.gradients.packed);
            for (packed, input) in packed.iter_mut().zip(self.plain_inputs(model.config, layer)) {
                packed.pack(model.kernel, input);
            }
            self.gradients.packed = packed;
        }
    }

    fn backward_pre_norm(&mut self, model: &Model<'_>, layer: usize) {
        let (h, rows, block) = (model.config.hidden, self.rows(layer), &model.blocks[layer]);
        let n = rows * h;
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        // Feed-forward sublayer.
        let (gradients, dx) = (&mut self.gradients, &mut self.dx[..n]);
        let (dw2, dbias) = (grow(&mut gradients.dw2, n), Sums::split(&mut gradients.sums, h).w2_bias);
        let drops = [&drop(DropoutSite::FeedForwardOutput), &drop(DropoutSite::Block)];
        kernels::residual_backward(dx, dw2, dbias, coordinates!(self, layer), drops, &mut self.factors);
        self.expand_backward(model, layer, &drop(DropoutSite::FeedForward));
        let (kept, gradients, dx) = (&self.kept[layer], &mut self.gradients, &mut self.dx[..n]);
        let (dnorm, moments) = (&self.narrow[..n], &kept.moments2[..rows]);
        let (gain, shift) = (model.at(&block.norm2_gain), model.at(&block.norm2_shift));
        let sums = Sums::split(&mut gradients.sums, h);
        let sums = [sums.norm2_gain, sums.norm2_shift];
        kernels::norm_backward(model.norm(), dx, Old::Kept, dnorm, &kept.middle[..n], gain, moments, sums);
        let normed = grow(&mut gradients.norm2, n);
        kernels::norm_again(model.norm(), normed, &kept.middle[..n], gain, shift, moments);

        // Attention sublayer.
        let (dout, dbias) = (grow(&mut gradients.dout, n), Sums::split(&mut gradients.sums, h).out_bias);
        let drops = [&drop(DropoutSite::AttentionOutput), &Dropout::OFF];
        kernels::residual_backward(dx, dout, dbias, coordinates!(self, layer), drops, &mut self.factors);
        self.attend_backward(model, layer);
        let n = self.tokens * h;
        if self.is_last(layer) {
            self.selection.spread(grow(&mut self.dx, n), h);
        }
        let (kept, gradients, dx) = (&self.kept[layer], &mut self.gradients, &mut self.dx[..n]);
        let (dnorm, moments) = (&self.narrow[..n], &kept.moments1[..self.tokens]);
        let (gain, shift) = (model.at(&block.norm1_gain), model.at(&block.norm1_shift));
        let sums = Sums::split(&mut gradients.sums, h);
        let sums = [sums.norm1_gain, sums.norm1_shift];
        kernels::norm_backward(model.norm(), dx, Old::Kept, dnorm, &kept.x[..n], gain, moments, sums);
        let normed = grow(&mut gradients.norm1, n);
        kernels::norm_again(model.norm(), normed, &kept.x[..n], gain, shift, moments);
    }

    fn backward_post_norm(&mut self, model: &Model<'_>, layer: usize) {
        let (h, rows, block) = (model.config.hidden, self.rows(layer), &model.blocks[layer]);
        let n = rows * h;
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        // Feed-forward sublayer: through its norm, then down both ways of its sum.
        let (kept, gradients) = (&self.kept[layer], &mut self.gradients);
        let outputs = [grow(&mut self.wide, n), grow(&mut gradients.dw2, n)];
        let (gain, moments) = (model.at(&block.norm2_gain), &kept.moments2[..rows]);
        let sums = Sums::split(&mut gradients.sums, h);
        kernels::residual_norm_backward(
            model.norm(),
            outputs,
            Old::Replaced,
            &self.dx[..n],
            &kept.sum2[..n],
            gain,
            moments,
            [sums.norm2_gain, sums.norm2_shift, sums.w2_bias],
            coordinates!(self, layer),
            &drop(DropoutSite::FeedForwardOutput),
            &mut self.factors,
        );
        self.expand_backward(model, layer, &Dropout::OFF);

        // Attention sublayer, likewise, from what came both ways.
        let (kept, gradients) = (&self.kept[layer], &mut self.gradients);
        let outputs = [&mut self.wide[..n], grow(&mut gradients.dout, n)];
        let (gain, moments) = (model.at(&block.norm1_gain), &kept.moments1[..rows]);
        let sums = Sums::split(&mut gradients.sums, h);
        kernels::residual_norm_backward(
            model.norm(),
            outputs,
            Old::Kept,
            &self.narrow[..n],
            &kept.sum1[..n],
            gain,
            moments,
            [sums.norm1_gain, sums.norm1_shift, sums.out_bias],
            coordinates!(self, layer),
            &drop(DropoutSite::AttentionOutput),
            &mut self.factors,
        );
        self.attend_backward(model, layer);
        let n = self.tokens * h;
        if self.is_last(layer) {
            self.selection.spread(grow(&mut self.wide, n), h);
        }
        kernels::sum(grow(&mut self.dx, n), &self.narrow[..n], &self.wide[..n]);
    }

    /// Backward of the feed-forward layer from `dw2`: fills `dinner` and `activated`, and leaves the gradient
    /// of its input in `narrow`.
    fn expand_backward(&mut self, model: &Model<'_>, layer: usize, drop: &Dropout) {
        let (h, rows) = (model.config.hidden, self.rows(layer));
        let (wide, coordinates) = (model.config.feed_forward(), coordinates!(self, layer));
        let BlockGradients { dinner, activated, dw2, sums, .. } = &mut self.gradients;
        let (dinner, activated) = (grow(dinner, rows * wide), grow(activated, rows * wide));
        let (dbias, dinput) = (Sums::split(sums, h).w1_bias, grow(&mut self.narrow, rows * h));
        let (expand, contract) = (model.linear(layer, Part::Expand), model.linear(layer, Part::Contract));
        for first in (0..rows).step_by(FEED_FORWARD_ROWS) {
            let rows = (rows - first).min(FEED_FORWARD_ROWS);
            let (cells, narrow) = (first * wide..(first + rows) * wide, first * h..(first + rows) * h);
            let (dinner, activated) = (&mut dinner[cells.clone()], &mut activated[cells.clone()]);
            contract.input_gradient(dinner, &dw2[narrow.clone()], rows);
            let (inner, coordinates) = (&self.kept[layer].inner[cells], &coordinates[first..first + rows]);
            let factors = &mut self.factors;
            kernels::gelu_backward(model.gelu(), activated, dinner, inner, dbias, coordinates, drop, factors);
            expand.input_gradient(&mut dinput[narrow], dinner, rows);
        }
    }

    /// Backward of attention from `dout`: fills `dqkv`, and leaves the gradient of the projections' input in
    /// `narrow`.
    fn attend_backward(&mut self, model: &Model<'_>, layer: usize) {
        let (h, tokens) = (model.config.hidden, self.tokens);
        let (rows, is_last) = (self.rows(layer), self.is_last(layer));
        let (kept, gradients) = (&self.kept[layer], &mut self.gradients);
        let dcontext = grow(&mut self.narrow, tokens * h);
        model.linear(layer, Part::Output).input_gradient(dcontext, &gradients.dout, rows);
        if is_last {
            self.selection.spread(dcontext, h);
        }
        let dqkv = grow(&mut gradients.dqkv, tokens * 3 * h);
        let (qkv, log_sums) = (&kept.qkv[..tokens * 3 * h], &kept.log_sums[..tokens * model.config.heads]);
        let drop = model.dropouts.at(DropoutSite::Attention(layer));
        let (spans, scratch) = (&self.spans, &mut self.scratch);
        attention::backward(dqkv, dcontext, log_sums, qkv, spans, model.shape(), &drop, scratch);
        kernels::add_column_sums(Sums::split(&mut gradients.sums, h).qkv_bias, dqkv);
        let dinput = grow(&mut self.narrow, tokens * h);
        model.linear(layer, Part::Projections).input_gradient(dinput, dqkv, tokens);
    }

    /// The gradient of the embeddings' sum, after the last block's backward pass: `dx` through the
    /// embedding's dropout and, where there is one, its norm. Gives the sums over the chunk of the norm's
    /// gain and shift gradients.
    pub fn backward_embedding(&mut self, model: &Model<'_>) -> Option<[Vec<f32>; 2]> {
        let (h, tokens) = (model.config.hidden, self.tokens);
        let drop = model.dropouts.at(DropoutSite::Embedding);
        let dx = &mut self.dx[..tokens * h];
        kernels::drop_rows(dx, h, &self.coordinates, &drop, &mut self.factors);
        let bert = model.outer.bert.as_ref()?;
        let dnormed = grow(&mut self.narrow, tokens * h);
        dnormed.copy_from_slice(dx);
        let (sum, moments) = (&self.embedded[..tokens * h], &self.embedded_moments[..tokens]);
        let (mut dgain, mut dshift) = (vec![0.0; h], vec![0.0; h]);
        let sums = [&mut dgain[..], &mut dshift[..]];
        let gain = model.at(&bert.embedding_gain);
        kernels::norm_backward(model.norm(), dx, Old::Replaced, dnormed, sum, gain, moments, sums);
        Some([dgain, dshift])
    }

    /// Input of block `layer`; behind the last block its output, where all tokens were selected.
    pub fn state(&self, layer: usize) -> &[f32] {
        self.kept.get(layer).map_or(&self.output, |kept| &kept.x)
    }

    /// Inputs of block `layer`'s linear layers, each `(tokens, inputs)`, after its backward pass.
    pub fn inputs(&self, model: &Model<'_>, layer: usize) -> [Rhs<'_>; 4] {
        match model.kernel {
            Kernel::Single => self.plain_inputs(model.config, layer).map(Rhs::Plain),
            _ => self.gradients.packed.each_ref().map(Rhs::Packed),
        }
    }

    fn plain_inputs(&self, config: &ModelConfig, layer: usize) -> [Mat<'_>; 4] {
        let (kept, gradients, rows) = (&self.kept[layer], &self.gradients, self.rows(layer));
        let [projections, expand] = match config.arch {
            Arch::Reference => [&gradients.norm1, &gradients.norm2],
            Arch::Bert => [&kept.x, &kept.middle],
        };
        let h = config.hidden;
        [
            Mat::new(projections, self.tokens, h),
            Mat::new(&kept.context, rows, h),
            Mat::new(expand, rows, h),
            Mat::new(&gradients.activated, rows, 4 * h),
        ]
    }

    /// Gradients of what block `layer`'s linear layers gave, each `(tokens, outputs)`, after its backward pass.
    pub fn output_gradients(&self, config: &ModelConfig, layer: usize) -> [Mat<'_>; 4] {
        let (h, gradients, rows) = (config.hidden, &self.gradients, self.rows(layer));
        [
            Mat::new(&gradients.dqkv, self.tokens, 3 * h),
            Mat::new(&gradients.dout, rows, h),
            Mat::new(&gradients.dinner, rows, 4 * h),
            Mat::new(&gradients.dw2, rows, h),
        ]
    }

    /// A zeroed gradient of the last block's output.
    pub fn zero_dx(&mut self, hidden: usize) {
        grow(&mut self.dx, self.selection.len() * hidden).fill(0.0);
    }

    /// Adds the chunk's sums of block `layer` (biases and norms) to the flat gradients.
    pub fn add_sums(&mut self, flat: &mut [f32], block: &BlockRanges, hidden: usize) {
        let sums = Sums::split(&mut self.gradients.sums, hidden);
        for (range, sums) in [
            (&block.qkv_bias, sums.qkv_bias),
            (&block.out_bias, sums.out_bias),
            (&block.w1_bias, sums.w1_bias),
            (&block.w2_bias, sums.w2_bias),
            (&block.norm1_gain, sums.norm1_gain),
            (&block.norm1_shift, sums.norm1_shift),
            (&block.norm2_gain, sums.norm2_gain),
            (&block.norm2_shift, sums.norm2_shift),
        ] {
            kernels::add_column_sums(&mut flat[range.clone()], sums);
        }
    }
}

/// Places of one block's biases and norms in a chunk's sums.
struct Sums<'s> {
    qkv_bias: &'s mut [f32],
    out_bias: &'s mut [f32],
    w1_bias: &'s mut [f32],
    w2_bias: &'s mut [f32],
    norm1_gain: &'s mut [f32],
    norm1_shift: &'s mut [f32],
    norm2_gain: &'s mut [f32],
    norm2_shift: &'s mut [f32],
}

impl<'s> Sums<'s> {
    fn len(h: usize) -> usize {
        13 * h
    }

    fn split(sums: &'s mut [f32], h: usize) -> Self {
        let (qkv_bias, rest) = sums.split_at_mut(3 * h);
        let (out_bias, rest) = rest.split_at_mut(h);
        let (w1_bias, rest) = rest.split_at_mut(4 * h);
        let (w2_bias, rest) = rest.split_at_mut(h);
        let (norm1_gain, rest) = rest.split_at_mut(h);
        let (norm1_shift, rest) = rest.split_at_mut(h);
        let (norm2_gain, rest) = rest.split_at_mut(h);
        let norm2_shift = &mut rest[..h];
        Self { qkv_bias, out_bias, w1_bias, w2_bias, norm1_gain, norm1_shift, norm2_gain, norm2_shift }
    }
}
