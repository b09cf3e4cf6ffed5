//! A few samples' way through all blocks, forward and backward, on one thread.
//!
//! A batch is cut into chunks of whole samples, by its content alone. A chunk owns what its tokens keep from one block
//! to the next or from the forward pass to the backward one, so chunks need nothing from each other: threads share the
//! weights and meet only where gradients of weights are summed, chunk by chunk in order. That is why results do not
//! depend on the number of threads. What lives within one block's pass only is the thread's [`Workspace`], which stays
//! in its caches. Buffers grow to the largest chunk seen and stay.

use std::ops::Range;

use super::attention::{Shape, Span};
use super::kernels::{self, Gelu, Moments, Norm, Old, Rows};
use super::linear::{Direction, Linear};
use super::matmul::{Kernel, Mat, Packed, PackedRows, pieces};
use super::selection::Selection;
use crate::collate::HostBatch;
use crate::model::dropout::{Dropout, Dropouts};
use crate::model::layout::{BlockRanges, OuterRanges};
use crate::model::{Arch, DropoutSite, ModelConfig, dropout_coordinate};

mod backward;
mod forward;
mod sums;
mod workspace;

use sums::Sums;
use workspace::{Workspace, with_workspace};

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
    pub packed: &'m (Direction, [Packed; 4]),
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
    pub fn plain(&self, layer: usize, part: Part) -> Linear<'_> {
        let (weight, bias) = part.ranges(&self.blocks[layer]);
        Linear::new(self.at(weight), self.at(bias))
    }

    /// A layer of the block at hand, its weight packed where products want it so.
    fn linear(&self, layer: usize, part: Part) -> Linear<'_> {
        let (direction, packed) = self.packed;
        match self.kernel {
            Kernel::Single => self.plain(layer, part),
            _ => self.plain(layer, part).with(*direction, packed[part as usize].rhs()),
        }
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
    /// The feed-forward layer before its activation, in [`pieces`] of tokens, and each of these in pieces of columns.
    inner: Vec<f32>,
}

/// What the gradient of a layer's weight is the product of.
#[derive(Default)]
struct WeightOperands {
    /// Gradient of the layer's outputs, transposed: `(outputs, tokens)`.
    dy_t: PackedRows,
    /// The layer's inputs `(tokens, inputs)`.
    x: Packed,
}

impl WeightOperands {
    /// Room for so many tokens.
    fn reshape(&mut self, kernel: Kernel, tokens: usize, outputs: usize, inputs: usize) {
        self.dy_t.reshape(kernel, outputs, tokens);
        self.x.reshape(kernel, tokens, inputs);
    }
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
    /// Those of the block at hand in the backward pass, in the order of [`Part`].
    operands: [WeightOperands; 4],
    /// Sums over the chunk for the block at hand: gradients of biases and norms.
    sums: Vec<f32>,
}

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
use coordinates;

/// Makes `buffer` at least `len` long; its content is unspecified.
pub fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// Samples of a batch per chunk: consecutive rows, as many tokens in each as far as possible. Few enough that a block's
/// pass stays in the second-level cache, and that four threads share a small batch; enough that reading the weights does
/// not count.
pub fn split(lengths: &[u32]) -> Vec<Range<usize>> {
    const MOST_TOKENS: usize = 320;
    const LEAST_TOKENS: usize = 128;
    let all: usize = lengths.iter().map(|&n| n as usize).sum();
    let count = all.div_ceil(MOST_TOKENS).max((all / LEAST_TOKENS).min(4)).next_multiple_of(2);
    let target = all.div_ceil(count.max(1));
    let mut chunks = vec![];
    let (mut first, mut tokens) = (0, 0);
    for (row, &len) in lengths.iter().enumerate() {
        let len = len as usize;
        if tokens >= target || (tokens > 0 && tokens + len > MOST_TOKENS) {
            chunks.push(first..row);
            (first, tokens) = (row, 0);
        }
        tokens += len;
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

    /// Input of block `layer`; behind the last block its output, where all tokens were selected.
    pub fn state(&self, layer: usize) -> &[f32] {
        self.kept.get(layer).map_or(&self.output, |kept| &kept.x)
    }

    /// What the gradient of a weight is the product of, after a block's backward pass: the transposed gradient of the
    /// layer's outputs `(outputs, tokens)` and its inputs `(tokens, inputs)`.
    pub fn weight_operands(&self, part: Part) -> (&PackedRows, &Packed) {
        let WeightOperands { dy_t, x } = &self.operands[part as usize];
        (dy_t, x)
    }

    /// A zeroed gradient of the last block's output.
    pub fn zero_dx(&mut self, hidden: usize) {
        grow(&mut self.dx, self.selection.len() * hidden).fill(0.0);
    }

    /// Adds the chunk's sums of block `layer` (biases and norms) to the flat gradients.
    pub fn add_sums(&mut self, flat: &mut [f32], block: &BlockRanges, hidden: usize) {
        let sums = Sums::split(&mut self.sums, hidden);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_evenly() {
        let check = |lengths: &[u32], expected: &[u32]| {
            let chunks = split(lengths);
            assert_eq!(
                chunks.iter().flat_map(|c| c.clone()).collect::<Vec<_>>(),
                (0..lengths.len()).collect::<Vec<_>>()
            );
            let tokens: Vec<u32> = chunks.into_iter().map(|chunk| lengths[chunk].iter().sum()).collect();
            assert_eq!(tokens, expected, "{lengths:?}");
        };
        check(&[], &[]);
        check(&[7], &[7]);
        check(&[20; 64], &[320; 4]);
        check(&[128; 8], &[256; 4]);
        check(&[512, 512, 30], &[512, 512, 30]);
        check(&[60; 6], &[180, 180]);
    }
}
