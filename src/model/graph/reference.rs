//! The reference's own parts of the forward pass: embedding, block, norm, activation, heads.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

use super::forward::{Forward, Projections};
use crate::model::{DropoutSite, sinusoids};

/// Added to the standard deviation of a layer norm, not to the variance: as the reference does.
const NORM_EPSILON: f64 = 1e-6;

impl Forward<'_> {
    /// Log-probabilities of tokens `(masked, vocab_size)` from `(masked, hidden)`.
    pub(super) fn reference_mlm(&self, hidden: &Tensor) -> Result<Tensor> {
        log_softmax(&self.linear("mask_lm.linear", hidden)?, D::Minus1)
    }

    /// Log-probabilities of the pair labels `(samples, 2)` from the first positions as they stand: the
    /// reference has no pooling layer.
    pub(super) fn reference_nsp(&self, firsts: &Tensor) -> Result<Tensor> {
        log_softmax(&self.linear("next_sentence.linear", firsts)?, D::Minus1)
    }

    /// Token, position and segment embeddings, added.
    pub(super) fn reference_embedding(&self) -> Result<Tensor> {
        let hidden = self.config.hidden;
        let ids = self.indices(self.batch.ids.clone())?;
        let segments =
            self.indices(self.batch.segments.iter().map(|&segment| u32::from(segment)).collect())?;
        let longest = self.batch.lengths.iter().max().map_or(1, |&n| n as usize);
        let table = Tensor::from_vec(sinusoids(longest, hidden), (longest, hidden), self.device)?;

        let token = self.weights.get("bert.embedding.token.weight")?.index_select(&ids, 0)?;
        let segment = self.weights.get("bert.embedding.segment.weight")?.index_select(&segments, 0)?;
        let position = table.index_select(&self.indices(self.positions())?, 0)?;
        self.drop(((token + segment)? + position)?, DropoutSite::Embedding)
    }

    /// A pre-norm block, with the reference's dropout on the residual stream at its end.
    pub(super) fn reference_block(&self, layer: usize, x: &Tensor, unseen: &Tensor) -> Result<Tensor> {
        let name = format!("bert.transformer_blocks.{layer}");
        let normed = self.reference_norm(&format!("{name}.input_sublayer.norm"), x)?;
        let projections = Projections {
            inputs: [0, 1, 2].map(|part| format!("{name}.attention.linear_layers.{part}")),
            output: format!("{name}.attention.output_linear"),
        };
        let attended = self.attention(layer, &projections, &normed, unseen)?;
        let x = (x + self.drop(attended, DropoutSite::AttentionOutput(layer))?)?;

        let normed = self.reference_norm(&format!("{name}.output_sublayer.norm"), &x)?;
        let activations = gelu(&self.linear(&format!("{name}.feed_forward.w_1"), &normed)?)?;
        let activations = self.drop(activations, DropoutSite::FeedForward(layer))?;
        let fed = self.linear(&format!("{name}.feed_forward.w_2"), &activations)?;
        let x = (x + self.drop(fed, DropoutSite::FeedForwardOutput(layer))?)?;
        self.drop(x, DropoutSite::Block(layer))
    }

    /// Layer norm with the unbiased standard deviation, epsilon added to it.
    fn reference_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let squares = centred.sqr()?.sum_keepdim(D::Minus1)?;
        let deviation = root((squares / (self.config.hidden - 1) as f64)?)?;
        let (gain, shift) =
            (self.weights.get(&format!("{name}.a_2"))?, self.weights.get(&format!("{name}.b_2"))?);
        centred.broadcast_div(&(deviation + NORM_EPSILON)?)?.broadcast_mul(gain)?.broadcast_add(shift)
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
    use candle_core::{Device, Var};

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
