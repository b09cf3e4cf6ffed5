//! Names, shapes and places of the parameters in one flat column of `f32`.
//!
//! Names are those of the reference's state dict, so that a checkpoint loads there by name. Query, key
//! and value projections of a block lie next to each other: together they are one matrix.

use std::ops::Range;

use super::{Init, ModelConfig};
use crate::rng::{Domain, SampleRng};

/// How one parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InitRule {
    Zero,
    One,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in `-bound..bound`.
    Uniform(f32),
}

/// One named parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The reference's state-dict name.
    pub name: String,
    /// Row-major shape; linear weights are `(outputs, inputs)`.
    pub shape: Vec<usize>,
    /// Place in the flat column.
    pub range: Range<usize>,
    /// Whether decoupled weight decay applies: not to biases and norms.
    pub decays: bool,
    /// Row 0 is padding: zero at the start and never changed (`padding_idx=0` in the reference).
    pub frozen_row: bool,
    pub init: InitRule,
}

/// All parameters in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    len: usize,
    block_starts: Vec<usize>,
}

/// Places of one block's parameters in the flat column.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockRanges {
    /// `(3 * hidden, hidden)`: query, key, value.
    pub qkv_weight: Range<usize>,
    /// `(3 * hidden)`.
    pub qkv_bias: Range<usize>,
    pub out_weight: Range<usize>,
    pub out_bias: Range<usize>,
    pub w1_weight: Range<usize>,
    pub w1_bias: Range<usize>,
    pub w2_weight: Range<usize>,
    pub w2_bias: Range<usize>,
    pub norm1_gain: Range<usize>,
    pub norm1_shift: Range<usize>,
    pub norm2_gain: Range<usize>,
    pub norm2_shift: Range<usize>,
}

/// Places of the parameters outside the blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct OuterRanges {
    pub token: Range<usize>,
    pub segment: Range<usize>,
    pub nsp_weight: Range<usize>,
    pub nsp_bias: Range<usize>,
    pub mlm_weight: Range<usize>,
    pub mlm_bias: Range<usize>,
}

impl Layout {
    /// The parameters of the reference's BERTLM with this shape.
    pub fn reference(config: &ModelConfig) -> Self {
        let (h, ff, v) = (config.hidden, config.feed_forward(), config.vocab_size);
        let mut builder =
            Builder { init: config.init, layout: Self { parameters: vec![], len: 0, block_starts: vec![] } };
        builder.embedding("bert.embedding.token.weight", v, h);
        builder.embedding("bert.embedding.segment.weight", 3, h);
        for layer in 0..config.layers {
            builder.layout.block_starts.push(builder.layout.parameters.len());
            let block = format!("bert.transformer_blocks.{layer}");
            for part in 0..3 {
                builder.weight(&format!("{block}.attention.linear_layers.{part}"), h, h);
            }
            for part in 0..3 {
                builder.bias(&format!("{block}.attention.linear_layers.{part}"), h, h);
            }
            builder.linear(&format!("{block}.attention.output_linear"), h, h);
            builder.linear(&format!("{block}.feed_forward.w_1"), ff, h);
            builder.linear(&format!("{block}.feed_forward.w_2"), h, ff);
            builder.norm(&format!("{block}.input_sublayer.norm"), h);
            builder.norm(&format!("{block}.output_sublayer.norm"), h);
        }
        builder.linear("next_sentence.linear", 2, h);
        builder.linear("mask_lm.linear", v, h);
        builder.layout
    }

    /// All parameters, in the order of the flat column.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// Length of the flat column: the number of parameters in the model.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the parameters of block `layer` lie.
    pub fn block(&self, layer: usize) -> BlockRanges {
        let first = self.block_starts[layer];
        let r = |i: usize| self.parameters[first + i].range.clone();
        BlockRanges {
            qkv_weight: r(0).start..r(2).end,
            qkv_bias: r(3).start..r(5).end,
            out_weight: r(6),
            out_bias: r(7),
            w1_weight: r(8),
            w1_bias: r(9),
            w2_weight: r(10),
            w2_bias: r(11),
            norm1_gain: r(12),
            norm1_shift: r(13),
            norm2_gain: r(14),
            norm2_shift: r(15),
        }
    }

    /// Where the parameters outside the blocks lie.
    pub fn outer(&self) -> OuterRanges {
        let end = self.parameters.len();
        let r = |i: usize| self.parameters[i].range.clone();
        OuterRanges {
            token: r(0),
            segment: r(1),
            nsp_weight: r(end - 4),
            nsp_bias: r(end - 3),
            mlm_weight: r(end - 2),
            mlm_bias: r(end - 1),
        }
    }

    /// Fresh weights, each parameter from its own stream keyed by the seed and its name: adding a layer
    /// leaves the other parameters' start as it was.
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.len];
        for p in &self.parameters {
            let mut rng =
                SampleRng::new(Domain::Init, seed, &[xxhash_rust::xxh3::xxh3_64(p.name.as_bytes())]);
            let values = &mut weights[p.range.clone()];
            match p.init {
                InitRule::Zero => {}
                InitRule::One => values.fill(1.0),
                InitRule::Normal(std) => values.iter_mut().for_each(|w| *w = rng.normal() as f32 * std),
                InitRule::Uniform(bound) => {
                    values.iter_mut().for_each(|w| *w = (2.0 * rng.unit() - 1.0) as f32 * bound);
                }
            }
            if p.frozen_row {
                values[..p.shape[1]].fill(0.0);
            }
        }
        weights
    }
}

struct Builder {
    init: Init,
    layout: Layout,
}

impl Builder {
    fn push(&mut self, name: String, shape: Vec<usize>, decays: bool, frozen_row: bool, init: InitRule) {
        let start = self.layout.len;
        self.layout.len += shape.iter().product::<usize>();
        let range = start..self.layout.len;
        self.layout.parameters.push(Parameter { name, shape, range, decays, frozen_row, init });
    }

    fn embedding(&mut self, name: &str, rows: usize, width: usize) {
        let std = match self.init {
            Init::Bert => 0.02,
            Init::Xavier | Init::Torch => 1.0,
        };
        self.push(name.to_owned(), vec![rows, width], true, true, InitRule::Normal(std));
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(name, outputs, inputs);
        self.bias(name, outputs, inputs);
    }

    fn weight(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = match self.init {
            Init::Xavier => InitRule::Uniform((6.0 / (inputs + outputs) as f32).sqrt()),
            Init::Bert => InitRule::Normal(0.02),
            // kaiming_uniform with a = sqrt(5) comes to this bound.
            Init::Torch => InitRule::Uniform((inputs as f32).sqrt().recip()),
        };
        self.push(format!("{name}.weight"), vec![outputs, inputs], true, false, init);
    }

    fn bias(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = match self.init {
            Init::Xavier | Init::Bert => InitRule::Zero,
            Init::Torch => InitRule::Uniform((inputs as f32).sqrt().recip()),
        };
        self.push(format!("{name}.bias"), vec![outputs], false, false, init);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.a_2"), vec![width], false, false, InitRule::One);
        self.push(format!("{name}.b_2"), vec![width], false, false, InitRule::Zero);
    }
}
