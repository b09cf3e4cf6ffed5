//! The forward pass, one candle operation after the other: what both architectures share.
//!
//! Takes a batch and the weights as tensors, gives the residual stream and the heads' log-probabilities; the
//! architectures' own parts are in `reference` and `bert`. Everything here has a backward in candle: its
//! stock layer norm, `softmax_last_dim` and dropout do not (gradients below them vanish without an error), so
//! norm and dropout are composed of smaller operations, and the softmax is the one that candle composes
//! itself. Knows nothing of losses, gradients or the host's columns.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use crate::collate::HostBatch;
use crate::model::{Arch, DropoutSite, Layout, ModelConfig, Pass, dropout_coordinate};
use crate::rng::dropout;

/// Added to the scores of keys that a query must not see, whose probabilities it turns into exact zeros.
const MASKED_SCORE: f32 = -1e9;

/// The parameters as tensors, found by their names.
pub(super) struct Weights<'a> {
    pub layout: &'a Layout,
    /// In the layout's order.
    pub tensors: Vec<Tensor>,
}

impl Weights<'_> {
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let place = self.layout.parameters().iter().position(|p| p.name == name);
        place
            .map(|i| &self.tensors[i])
            .ok_or_else(|| candle_core::Error::Msg(format!("the layout has no parameter {name}")))
    }
}

/// One forward pass. Between the blocks, `x` is `(rows * seq_len, hidden)`.
pub(super) struct Forward<'a> {
    pub config: &'a ModelConfig,
    pub weights: Weights<'a>,
    pub batch: &'a HostBatch,
    /// `None` turns dropout off.
    pub dropout: Option<Dropout>,
    pub device: &'a Device,
}

/// Names of the projections of an attention layer.
pub(super) struct Projections {
    /// Query, key and value.
    pub inputs: [String; 3],
    pub output: String,
}

impl Forward<'_> {
    /// The residual stream after the last block, `(rows * seq_len, hidden)`.
    pub fn encode(&self) -> Result<Tensor> {
        let unseen = self.unseen()?;
        (0..self.config.layers).try_fold(self.embedding()?, |x, layer| self.block(layer, &x, &unseen))
    }

    /// The residual stream after the embedding and after each block, each `(rows * seq_len, hidden)`.
    pub fn hidden_states(&self) -> Result<Vec<Tensor>> {
        let unseen = self.unseen()?;
        let mut states = vec![self.embedding()?];
        for layer in 0..self.config.layers {
            states.push(self.block(layer, &states[layer], &unseen)?);
        }
        Ok(states)
    }

    /// Log-probabilities of the masked positions, `(masked, vocab_size)`; `None` where there are none.
    /// The published models compute their vocabulary head at every position and ignore the others: the losses
    /// and gradients are the same.
    pub fn mlm(&self, hidden: &Tensor) -> Result<Option<Tensor>> {
        if self.batch.masked.is_empty() {
            return Ok(None);
        }
        let masked = self.indices(self.batch.masked.clone())?;
        let hidden = hidden.index_select(&masked, 0)?;
        match self.config.arch {
            Arch::Reference => self.reference_mlm(&hidden).map(Some),
            Arch::Bert => self.bert_mlm(&hidden).map(Some),
        }
    }

    /// Log-probabilities of the pair labels, `(samples, 2)`, from each sample's first position.
    pub fn nsp(&self, hidden: &Tensor) -> Result<Tensor> {
        let firsts = (0..self.batch.samples()).map(|sample| self.batch.start(sample) as u32).collect();
        let firsts = hidden.index_select(&self.indices(firsts)?, 0)?;
        match self.config.arch {
            Arch::Reference => self.reference_nsp(&firsts),
            Arch::Bert => self.bert_nsp(&firsts),
        }
    }

    fn embedding(&self) -> Result<Tensor> {
        match self.config.arch {
            Arch::Reference => self.reference_embedding(),
            Arch::Bert => self.bert_embedding(),
        }
    }

    fn block(&self, layer: usize, x: &Tensor, unseen: &Tensor) -> Result<Tensor> {
        match self.config.arch {
            Arch::Reference => self.reference_block(layer, x, unseen),
            Arch::Bert => self.bert_block(layer, x, unseen),
        }
    }

    /// Rows to select by.
    pub(super) fn indices(&self, rows: Vec<u32>) -> Result<Tensor> {
        let count = rows.len();
        Tensor::from_vec(rows, count, self.device)
    }

    /// Each token's position in its sample; 0 at padded positions.
    pub(super) fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.batch.rows * self.batch.seq_len];
        for sample in 0..self.batch.samples() {
            for (position, cell) in (0..).zip(self.batch.span(sample)) {
                positions[cell] = position;
            }
        }
        positions
    }

    /// What is added to the scores: 0 where the key belongs to the query's sample, [`MASKED_SCORE`] elsewhere.
    /// `(rows, 1, 1, seq)` where each row holds one sample, whose padding need not be told apart as a query;
    /// `(rows, 1, seq, seq)` where rows are packed.
    fn unseen(&self) -> Result<Tensor> {
        let (rows, seq_len) = (self.batch.rows, self.batch.seq_len);
        let queries = if self.batch.starts.is_empty() { 1 } else { seq_len };
        let mut scores = vec![MASKED_SCORE; rows * queries * seq_len];
        for sample in 0..self.batch.samples() {
            let span = self.batch.span(sample);
            let (row, columns) =
                (span.start / seq_len, span.start % seq_len..span.start % seq_len + span.len());
            let own = if queries == 1 { 0..1 } else { columns.clone() };
            for query in own {
                scores[(row * queries + query) * seq_len..][..seq_len][columns.clone()].fill(0.0);
            }
        }
        Tensor::from_vec(scores, (rows, 1, queries, seq_len), self.device)
    }

    /// Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2), with its output's
    /// projection.
    pub(super) fn attention(
        &self,
        layer: usize,
        names: &Projections,
        x: &Tensor,
        unseen: &Tensor,
    ) -> Result<Tensor> {
        let (rows, seq_len, heads) = (self.batch.rows, self.batch.seq_len, self.config.heads);
        let (hidden, width) = (self.config.hidden, self.config.head_dim());
        let project = |part: usize| {
            let projected = self.linear(&names.inputs[part], x)?;
            projected.reshape((rows, seq_len, heads, width))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (project(0)?, project(1)?, project(2)?); // (rows, heads, seq, width)

        let scores = (query.matmul(&key.t()?)? / (width as f64).sqrt())?; // (rows, heads, seq, seq)
        let probabilities = softmax(&scores.broadcast_add(unseen)?, D::Minus1)?;
        let probabilities = self.drop(probabilities, DropoutSite::Attention(layer))?;
        let mixed = probabilities.matmul(&value)?.transpose(1, 2)?; // (rows, seq, heads, width)
        self.linear(&names.output, &mixed.reshape((rows * seq_len, hidden))?)
    }

    /// `x W^T + b` with `W` as `(outputs, inputs)`.
    pub(super) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.weights.get(&format!("{name}.weight"))?;
        let bias = self.weights.get(&format!("{name}.bias"))?;
        x.matmul(&weight.t()?)?.broadcast_add(bias)
    }

    /// `x` with the site's mask of this step; as it is where dropout is off.
    pub(super) fn drop(&self, x: Tensor, site: DropoutSite) -> Result<Tensor> {
        let Some(dropout) = &self.dropout else { return Ok(x) };
        let heads = if matches!(site, DropoutSite::Attention(_)) { self.config.heads } else { 1 };
        let multipliers = dropout.multipliers(site, self.batch, heads, x.dim(D::Minus1)?);
        let multipliers = Tensor::from_vec(multipliers, x.shape(), self.device)?;
        x * multipliers
    }
}

/// The dropout of one pass.
pub(super) struct Dropout {
    threshold: u32,
    scale: f32,
    seed: u64,
    step: u64,
    first_row: usize,
}

impl Dropout {
    pub fn new(rate: f32, pass: &Pass) -> Self {
        Self {
            threshold: dropout::threshold(rate),
            scale: dropout::scale(rate),
            seed: pass.seed,
            step: pass.step,
            first_row: pass.first_row,
        }
    }

    /// What a site's elements are multiplied by, `(rows, heads, seq_len, width)`: 0 where dropped, the scale
    /// where kept, 1 at padded positions, which have no masks. A sample's masks are the same wherever in a
    /// row it lies; attention's keys are counted from its first token.
    fn multipliers(&self, site: DropoutSite, batch: &HostBatch, heads: usize, width: usize) -> Vec<f32> {
        let key = dropout::site(self.seed, self.step, site.number());
        let seq_len = batch.seq_len;
        let mut multipliers = vec![1.0; batch.rows * heads * seq_len * width];
        let of_row = |row: usize| (0..batch.samples()).filter(move |&i| batch.start(i) / seq_len == row);
        multipliers.par_chunks_mut(seq_len * width).enumerate().for_each(|(i, head_of_row)| {
            let (row, head) = (i / heads, i % heads);
            for sample in of_row(row) {
                let (from, len) = (batch.start(sample) % seq_len, batch.lengths[sample] as usize);
                let elements_of = match site {
                    DropoutSite::Attention(_) => from..from + len,
                    _ => 0..width,
                };
                for (position, elements) in head_of_row.chunks_mut(width).skip(from).take(len).enumerate() {
                    let coordinate = dropout_coordinate(self.first_row + sample, position, head);
                    let key = dropout::row(key, coordinate);
                    for (j, element) in elements[elements_of.clone()].iter_mut().enumerate() {
                        *element = if dropout::keeps(key, j, self.threshold) { self.scale } else { 0.0 };
                    }
                }
            }
        });
        multipliers
    }
}
