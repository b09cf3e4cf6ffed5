//! Names, shapes and places of the parameters in one flat column of `f32`.
//!
//! Names are those of the model's PyTorch state dict, so that a checkpoint loads there by name. Query, key
//! and value projections of a block lie next to each other: together they are one matrix.

use std::ops::Range;

use super::{Arch, Init, ModelConfig};
use crate::rng::{Domain, SampleRng};

/// How one parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InitRule {
    Zero,
    One,
    /// Normal with this standard deviation.
    Normal(f32),
    /// The same, draws beyond two standard deviations drawn again (`tf.truncated_normal`).
    TruncatedNormal(f32),
    /// Uniform in `-bound..bound`.
    Uniform(f32),
}

/// What becomes of an embedding's first row, which stands for padding (`padding_idx=0` in PyTorch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row0 {
    /// It is a row like any other.
    Ordinary,
    /// It starts at zero; as an output weight it learns.
    Zero,
    /// It starts at zero and never changes.
    Frozen,
}

/// One named parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The name in PyTorch's state dict.
    pub name: String,
    /// Row-major shape; linear weights are `(outputs, inputs)`.
    pub shape: Vec<usize>,
    /// Place in the flat column.
    pub range: Range<usize>,
    /// Whether decoupled weight decay applies: not to biases and norms.
    pub decays: bool,
    pub row0: Row0,
    pub init: InitRule,
}

impl Parameter {
    /// Whether row 0 starts at zero and never changes.
    pub fn frozen_row(&self) -> bool {
        self.row0 == Row0::Frozen
    }
}

/// All parameters in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    len: usize,
    block_starts: Vec<usize>,
    arch: Arch,
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
    /// The vocabulary head's weight; with [`Arch::Bert`] the token embedding itself.
    pub mlm_weight: Range<usize>,
    pub mlm_bias: Range<usize>,
    /// What only [`Arch::Bert`] has.
    pub bert: Option<BertRanges>,
}

/// Places of [`Arch::Bert`]'s further parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct BertRanges {
    pub position: Range<usize>,
    pub embedding_gain: Range<usize>,
    pub embedding_shift: Range<usize>,
    pub pooler_weight: Range<usize>,
    pub pooler_bias: Range<usize>,
    pub transform_weight: Range<usize>,
    pub transform_bias: Range<usize>,
    pub transform_gain: Range<usize>,
    pub transform_shift: Range<usize>,
}

impl Layout {
    /// The parameters of a model of this shape.
    pub fn new(config: &ModelConfig) -> Self {
        let layout = Self { parameters: vec![], len: 0, block_starts: vec![], arch: config.arch };
        let builder = Builder { init: config.init, layout };
        match config.arch {
            Arch::Reference => builder.reference(config),
            Arch::Bert => builder.bert(config),
        }
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
        match self.arch {
            Arch::Reference => OuterRanges {
                token: r(0),
                segment: r(1),
                nsp_weight: r(end - 4),
                nsp_bias: r(end - 3),
                mlm_weight: r(end - 2),
                mlm_bias: r(end - 1),
                bert: None,
            },
            Arch::Bert => OuterRanges {
                token: r(0),
                segment: r(2),
                nsp_weight: r(end - 7),
                nsp_bias: r(end - 6),
                mlm_weight: r(0),
                mlm_bias: r(end - 1),
                bert: Some(BertRanges {
                    position: r(1),
                    embedding_gain: r(3),
                    embedding_shift: r(4),
                    pooler_weight: r(end - 9),
                    pooler_bias: r(end - 8),
                    transform_weight: r(end - 5),
                    transform_bias: r(end - 4),
                    transform_gain: r(end - 3),
                    transform_shift: r(end - 2),
                }),
            },
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
                InitRule::TruncatedNormal(std) => {
                    let mut draw = || std::iter::repeat_with(|| rng.normal()).find(|x| x.abs() <= 2.0);
                    values.iter_mut().for_each(|w| *w = draw().expect("the draws never end") as f32 * std);
                }
                InitRule::Uniform(bound) => {
                    values.iter_mut().for_each(|w| *w = (2.0 * rng.unit() - 1.0) as f32 * bound);
                }
            }
            if p.row0 != Row0::Ordinary {
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
    /// Names of the reference's state dict.
    fn reference(mut self, config: &ModelConfig) -> Layout {
        let (h, ff, v) = (config.hidden, config.feed_forward(), config.vocab_size);
        self.embedding("bert.embedding.token.weight", v, h, Row0::Frozen);
        self.embedding("bert.embedding.segment.weight", 3, h, Row0::Frozen);
        for layer in 0..config.layers {
            self.layout.block_starts.push(self.layout.parameters.len());
            let block = format!("bert.transformer_blocks.{layer}");
            let projections = [0, 1, 2].map(|part| format!("{block}.attention.linear_layers.{part}"));
            self.projections(&projections, h);
            self.linear(&format!("{block}.attention.output_linear"), h, h);
            self.linear(&format!("{block}.feed_forward.w_1"), ff, h);
            self.linear(&format!("{block}.feed_forward.w_2"), h, ff);
            self.norm(&format!("{block}.input_sublayer.norm"), ["a_2", "b_2"], h);
            self.norm(&format!("{block}.output_sublayer.norm"), ["a_2", "b_2"], h);
        }
        self.linear("next_sentence.linear", 2, h);
        self.linear("mask_lm.linear", v, h);
        self.layout
    }

    /// Names of transformers' BertForPreTraining.
    fn bert(mut self, config: &ModelConfig) -> Layout {
        const NORM: [&str; 2] = ["weight", "bias"];
        let (h, ff, v) = (config.hidden, config.feed_forward(), config.vocab_size);
        self.embedding("bert.embeddings.word_embeddings.weight", v, h, Row0::Zero);
        let positions = config.max_positions;
        self.embedding("bert.embeddings.position_embeddings.weight", positions, h, Row0::Ordinary);
        self.embedding("bert.embeddings.token_type_embeddings.weight", 2, h, Row0::Ordinary);
        self.norm("bert.embeddings.LayerNorm", NORM, h);
        for layer in 0..config.layers {
            self.layout.block_starts.push(self.layout.parameters.len());
            let block = format!("bert.encoder.layer.{layer}");
            let projections = ["query", "key", "value"].map(|part| format!("{block}.attention.self.{part}"));
            self.projections(&projections, h);
            self.linear(&format!("{block}.attention.output.dense"), h, h);
            self.linear(&format!("{block}.intermediate.dense"), ff, h);
            self.linear(&format!("{block}.output.dense"), h, ff);
            self.norm(&format!("{block}.attention.output.LayerNorm"), NORM, h);
            self.norm(&format!("{block}.output.LayerNorm"), NORM, h);
        }
        self.linear("bert.pooler.dense", h, h);
        self.linear("cls.seq_relationship", 2, h);
        self.linear("cls.predictions.transform.dense", h, h);
        self.norm("cls.predictions.transform.LayerNorm", NORM, h);
        self.push("cls.predictions.bias".to_owned(), vec![v], false, Row0::Ordinary, InitRule::Zero);
        self.layout
    }

    /// Three projections whose weights lie together, then their biases.
    fn projections(&mut self, names: &[String; 3], h: usize) {
        names.iter().for_each(|name| self.weight(name, h, h));
        names.iter().for_each(|name| self.bias(name, h, h));
    }

    fn push(&mut self, name: String, shape: Vec<usize>, decays: bool, row0: Row0, init: InitRule) {
        let start = self.layout.len;
        self.layout.len += shape.iter().product::<usize>();
        let range = start..self.layout.len;
        self.layout.parameters.push(Parameter { name, shape, range, decays, row0, init });
    }

    fn embedding(&mut self, name: &str, rows: usize, width: usize, row0: Row0) {
        let init = match self.init {
            Init::Bert => InitRule::TruncatedNormal(0.02),
            Init::Xavier | Init::Torch => InitRule::Normal(1.0),
        };
        self.push(name.to_owned(), vec![rows, width], true, row0, init);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(name, outputs, inputs);
        self.bias(name, outputs, inputs);
    }

    fn weight(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = match self.init {
            Init::Xavier => InitRule::Uniform((6.0 / (inputs + outputs) as f32).sqrt()),
            Init::Bert => InitRule::TruncatedNormal(0.02),
            // kaiming_uniform with a = sqrt(5) comes to this bound.
            Init::Torch => InitRule::Uniform((inputs as f32).sqrt().recip()),
        };
        self.push(format!("{name}.weight"), vec![outputs, inputs], true, Row0::Ordinary, init);
    }

    fn bias(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = match self.init {
            Init::Xavier | Init::Bert => InitRule::Zero,
            Init::Torch => InitRule::Uniform((inputs as f32).sqrt().recip()),
        };
        self.push(format!("{name}.bias"), vec![outputs], false, Row0::Ordinary, init);
    }

    fn norm(&mut self, name: &str, [gain, shift]: [&str; 2], width: usize) {
        self.push(format!("{name}.{gain}"), vec![width], false, Row0::Ordinary, InitRule::One);
        self.push(format!("{name}.{shift}"), vec![width], false, Row0::Ordinary, InitRule::Zero);
    }
}
