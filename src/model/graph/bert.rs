//! The published BERT's own parts of the forward pass: embedding, block, norm, activation, heads.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

use super::forward::{Forward, Projections};
use crate::model::DropoutSite;

/// Added to the variance of a layer norm.
const NORM_EPSILON: f64 = 1e-12;

const TOKENS: &str = "bert.embeddings.word_embeddings.weight";

impl Forward<'_> {
    /// Log-probabilities of tokens `(masked, vocab_size)` from `(masked, hidden)`: a transform, and the
    /// product with the token embedding itself.
    pub(super) fn bert_mlm(&self, hidden: &Tensor) -> Result<Tensor> {
        let transformed = gelu(&self.linear("cls.predictions.transform.dense", hidden)?)?;
        let transformed = self.bert_norm("cls.predictions.transform.LayerNorm", &transformed)?;
        let logits = transformed.matmul(&self.weights.get(TOKENS)?.t()?)?;
        log_softmax(&logits.broadcast_add(self.weights.get("cls.predictions.bias")?)?, D::Minus1)
    }

    /// Log-probabilities of the pair labels `(samples, 2)` from the pooled first positions.
    pub(super) fn bert_nsp(&self, firsts: &Tensor) -> Result<Tensor> {
        let pooled = self.linear("bert.pooler.dense", firsts)?.tanh()?;
        log_softmax(&self.linear("cls.seq_relationship", &pooled)?, D::Minus1)
    }

    /// Token, position and segment embeddings, added and normalised.
    pub(super) fn bert_embedding(&self) -> Result<Tensor> {
        // Segments count from 0, and padding has none: what stands there means nothing.
        let segment = |&segment: &u8| u32::from(segment.saturating_sub(1));
        let segments = self.indices(self.batch.segments.iter().map(segment).collect())?;
        let positions = self.indices(self.positions())?;
        let of = |name: &str, rows: &Tensor| self.weights.get(name)?.index_select(rows, 0);
        let position = of("bert.embeddings.position_embeddings.weight", &positions)?;
        let segment = of("bert.embeddings.token_type_embeddings.weight", &segments)?;
        let x = ((self.tokens()? + position)? + segment)?;
        self.drop(self.bert_norm("bert.embeddings.LayerNorm", &x)?, DropoutSite::Embedding)
    }

    /// Token embeddings. Row 0 is padding: it learns as an output's weight, never through this
    /// (`padding_idx`).
    fn tokens(&self) -> Result<Tensor> {
        let tokens = self.weights.get(TOKENS)?.index_select(&self.indices(self.batch.ids.clone())?, 0)?;
        let learns: Vec<f32> = self.batch.ids.iter().map(|&id| if id == 0 { 0.0 } else { 1.0 }).collect();
        let learns = Tensor::from_vec(learns, (self.batch.ids.len(), 1), self.device)?;
        let rest = tokens.detach().broadcast_mul(&(1.0 - &learns)?)?;
        tokens.broadcast_mul(&learns)? + rest
    }

    /// A post-norm block.
    pub(super) fn bert_block(&self, layer: usize, x: &Tensor, unseen: &Tensor) -> Result<Tensor> {
        let name = format!("bert.encoder.layer.{layer}");
        let projections = Projections {
            inputs: ["query", "key", "value"].map(|part| format!("{name}.attention.self.{part}")),
            output: format!("{name}.attention.output.dense"),
        };
        let attended = self.attention(layer, &projections, x, unseen)?;
        let attended = self.drop(attended, DropoutSite::AttentionOutput(layer))?;
        let x = self.bert_norm(&format!("{name}.attention.output.LayerNorm"), &(x + attended)?)?;

        let activations = gelu(&self.linear(&format!("{name}.intermediate.dense"), &x)?)?;
        let fed = self.linear(&format!("{name}.output.dense"), &activations)?;
        let fed = self.drop(fed, DropoutSite::FeedForwardOutput(layer))?;
        self.bert_norm(&format!("{name}.output.LayerNorm"), &(x + fed)?)
    }

    /// Layer norm by the root of the biased variance and epsilon (Ba et al. 2016).
    fn bert_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let (gain, shift) =
            (self.weights.get(&format!("{name}.weight"))?, self.weights.get(&format!("{name}.bias"))?);
        centred.broadcast_div(&(variance + NORM_EPSILON)?.sqrt()?)?.broadcast_mul(gain)?.broadcast_add(shift)
    }
}

/// GELU by the error function (Hendrycks & Gimpel 2016). Composed: the backward of candle's own rounds its
/// constants to six digits.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let half = ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?;
    (x * 0.5)? * half
}
