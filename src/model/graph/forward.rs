//! The reference's forward pass, one candle operation after the other.
//!
//! Takes a batch and the weights as tensors, gives the residual stream and the heads' log-probabilities.
//! Everything here has a backward in candle: its stock layer norm, `softmax_last_dim` and dropout do not
//! (gradients below them vanish without an error), so norm and dropout are composed of smaller operations,
//! and the softmax is the one that candle composes itself. Knows
//! nothing of losses, gradients or the host's columns.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::{log_softmax, softmax};
use rayon::prelude::*;

use crate::collate::HostBatch;
use crate::model::{DropoutSite, Layout, ModelConfig, Pass, dropout_coordinate, sinusoids};
use crate::rng::dropout;

/// Added to the standard deviation of a layer norm, not to the variance: as the reference does.
const NORM_EPSILON: f64 = 1e-6;

/// Added to the scores of padded keys, whose probabilities it turns into exact zeros.
const MASKED_SCORE: f32 = -1e9;

/// The parameters as tensors, found by their names.
pub(super) struct Weights<'a> {
    pub layout: &'a Layout,
    /// In the layout's order.
    pub tensors: Vec<Tensor>,
}

impl Weights<'_> {
    fn get(&self, name: &str) -> Result<&Tensor> {
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

impl Forward<'_> {
    /// The residual stream after the last block, `(rows * seq_len, hidden)`.
    pub fn encode(&self) -> Result<Tensor> {
        let padding = self.padding()?;
        (0..self.config.layers).try_fold(self.embedding()?, |x, layer| self.block(layer, &x, &padding))
    }

    /// The residual stream after the embedding and after each block, each `(rows * seq_len, hidden)`.
    pub fn hidden_states(&self) -> Result<Vec<Tensor>> {
        let padding = self.padding()?;
        let mut states = vec![self.embedding()?];
        for layer in 0..self.config.layers {
            states.push(self.block(layer, &states[layer], &padding)?);
        }
        Ok(states)
    }

    /// Log-probabilities of the masked positions, `(masked, vocab_size)`; `None` where there are none.
    /// The reference computes its vocabulary head at every position and ignores the others: the losses
    /// and gradients are the same.
    pub fn mlm(&self, hidden: &Tensor) -> Result<Option<Tensor>> {
        if self.batch.masked.is_empty() {
            return Ok(None);
        }
        let masked = Tensor::from_slice(&self.batch.masked, self.batch.masked.len(), self.device)?;
        let logits = self.linear("mask_lm.linear", &hidden.index_select(&masked, 0)?)?;
        log_softmax(&logits, D::Minus1).map(Some)
    }

    /// Log-probabilities of the pair labels, `(rows, 2)`, from each row's first position as it stands:
    /// the reference has no pooling layer.
    pub fn nsp(&self, hidden: &Tensor) -> Result<Tensor> {
        let firsts: Vec<u32> = (0..self.batch.rows).map(|row| (row * self.batch.seq_len) as u32).collect();
        let firsts = Tensor::from_vec(firsts, self.batch.rows, self.device)?;
        log_softmax(&self.linear("next_sentence.linear", &hidden.index_select(&firsts, 0)?)?, D::Minus1)
    }

    /// Token, position and segment embeddings, added.
    fn embedding(&self) -> Result<Tensor> {
        let (rows, seq_len, hidden) = (self.batch.rows, self.batch.seq_len, self.config.hidden);
        let tokens = rows * seq_len;
        let ids = Tensor::from_slice(&self.batch.ids, tokens, self.device)?;
        let segments: Vec<u32> = self.batch.segments.iter().map(|&segment| u32::from(segment)).collect();
        let segments = Tensor::from_vec(segments, tokens, self.device)?;
        let positions = Tensor::from_vec(sinusoids(seq_len, hidden), (seq_len, hidden), self.device)?;

        let token = self.weights.get("bert.embedding.token.weight")?.index_select(&ids, 0)?;
        let segment = self.weights.get("bert.embedding.segment.weight")?.index_select(&segments, 0)?;
        let x = (token + segment)?.reshape((rows, seq_len, hidden))?.broadcast_add(&positions)?;
        self.drop(x.reshape((tokens, hidden))?, DropoutSite::Embedding)
    }

    /// What is added to the scores: 0 for real keys, [`MASKED_SCORE`] for padded ones; `(rows, 1, 1, seq)`.
    fn padding(&self) -> Result<Tensor> {
        let (rows, seq_len) = (self.batch.rows, self.batch.seq_len);
        let mut scores = vec![0.0; rows * seq_len];
        for (row, &length) in scores.chunks_mut(seq_len).zip(&self.batch.lengths) {
            row[length as usize..].fill(MASKED_SCORE);
        }
        Tensor::from_vec(scores, (rows, 1, 1, seq_len), self.device)
    }

    /// A pre-norm block, with the reference's dropout on the residual stream at its end.
    fn block(&self, layer: usize, x: &Tensor, padding: &Tensor) -> Result<Tensor> {
        let name = format!("bert.transformer_blocks.{layer}");
        let normed = self.norm(&format!("{name}.input_sublayer.norm"), x)?;
        let attended = self.attention(layer, &format!("{name}.attention"), &normed, padding)?;
        let x = (x + self.drop(attended, DropoutSite::AttentionOutput(layer))?)?;

        let normed = self.norm(&format!("{name}.output_sublayer.norm"), &x)?;
        let fed = self.feed_forward(layer, &format!("{name}.feed_forward"), &normed)?;
        let x = (x + self.drop(fed, DropoutSite::FeedForwardOutput(layer))?)?;
        self.drop(x, DropoutSite::Block(layer))
    }

    /// Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2).
    fn attention(&self, layer: usize, name: &str, x: &Tensor, padding: &Tensor) -> Result<Tensor> {
        let (rows, seq_len, heads) = (self.batch.rows, self.batch.seq_len, self.config.heads);
        let (hidden, width) = (self.config.hidden, self.config.head_dim());
        let project = |part: usize| {
            let projected = self.linear(&format!("{name}.linear_layers.{part}"), x)?;
            projected.reshape((rows, seq_len, heads, width))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (project(0)?, project(1)?, project(2)?); // (rows, heads, seq, width)

        let scores = (query.matmul(&key.t()?)? / (width as f64).sqrt())?; // (rows, heads, seq, seq)
        let probabilities = softmax(&scores.broadcast_add(padding)?, D::Minus1)?;
        let probabilities = self.drop(probabilities, DropoutSite::Attention(layer))?;
        let mixed = probabilities.matmul(&value)?.transpose(1, 2)?; // (rows, seq, heads, width)
        self.linear(&format!("{name}.output_linear"), &mixed.reshape((rows * seq_len, hidden))?)
    }

    fn feed_forward(&self, layer: usize, name: &str, x: &Tensor) -> Result<Tensor> {
        let activations = gelu(&self.linear(&format!("{name}.w_1"), x)?)?;
        self.linear(&format!("{name}.w_2"), &self.drop(activations, DropoutSite::FeedForward(layer))?)
    }

    /// `x W^T + b` with `W` as `(outputs, inputs)`.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.weights.get(&format!("{name}.weight"))?;
        let bias = self.weights.get(&format!("{name}.bias"))?;
        x.matmul(&weight.t()?)?.broadcast_add(bias)
    }

    /// Layer norm with the unbiased standard deviation, epsilon added to it.
    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let squares = centred.sqr()?.sum_keepdim(D::Minus1)?;
        let deviation = root((squares / (self.config.hidden - 1) as f64)?)?;
        let (gain, shift) =
            (self.weights.get(&format!("{name}.a_2"))?, self.weights.get(&format!("{name}.b_2"))?);
        centred.broadcast_div(&(deviation + NORM_EPSILON)?)?.broadcast_mul(gain)?.broadcast_add(shift)
    }

    /// `x` with the site's mask of this step; as it is where dropout is off.
    fn drop(&self, x: Tensor, site: DropoutSite) -> Result<Tensor> {
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

    /// What a site's elements are multiplied by, `(rows, heads, seq_len, width)`: 0 where dropped, the
    /// scale where kept, 1 at padded positions, which have no masks.
    fn multipliers(&self, site: DropoutSite, batch: &HostBatch, heads: usize, width: usize) -> Vec<f32> {
        let key = dropout::site(self.seed, self.step, site.number());
        let mut multipliers = vec![1.0; batch.rows * heads * batch.seq_len * width];
        multipliers.par_chunks_mut(batch.seq_len * width).enumerate().for_each(|(i, head_of_row)| {
            let (row, head) = (i / heads, i % heads);
            let positions = head_of_row.chunks_mut(width).take(batch.lengths[row] as usize);
            for (position, elements) in positions.enumerate() {
                let key = dropout::row(key, dropout_coordinate(self.first_row + row, position, head));
                for (j, element) in elements.iter_mut().enumerate() {
                    *element = if dropout::keeps(key, j, self.threshold) { self.scale } else { 0.0 };
                }
            }
        });
        multipliers
    }
}

/// GELU by the hyperbolic tangent (Hendrycks & Gimpel 2016), as the reference has it. Composed: the
/// backward of candle's own rounds its constants to six digits.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let inner = (x + ((x.sqr()? * x)? * 0.044715)?)?;
    let tanh = (inner * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
    (x * 0.5)? * (tanh + 1.0)?
}

/// The square root, with gradient 0 at 0: what PyTorch's `std` does for a constant row, where the
/// derivative has no limit and plain arithmetic gives NaN.
fn root(x: Tensor) -> Result<Tensor> {
    let zeros = x.zeros_like()?;
    let flat = x.eq(&zeros)?;
    let roots = (x + flat.to_dtype(zeros.dtype())?)?.sqrt()?;
    flat.where_cond(&zeros, &roots)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn the_root_has_gradient_zero_at_zero() {
        let x = Var::new(&[0f32, 4.0], &Device::Cpu).unwrap();
        let y = root(x.as_tensor().clone()).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [0.0, 2.0]);
        let gradient = y.backward().unwrap().remove(&x).unwrap();
        assert_eq!(gradient.to_vec1::<f32>().unwrap(), [0.0, 0.25]);
    }
}
