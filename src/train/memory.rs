//! About how much memory a training takes, told before it is taken.

use crate::model::{Arch, ModelConfig};

/// Parameters of a model of this shape: the length of its layout, without laying it out. In floating point,
/// which no shape overflows.
pub fn parameters(model: &ModelConfig) -> f64 {
    let [h, v, layers, positions] =
        [model.hidden, model.vocab_size, model.layers, model.max_positions].map(|n| n as f64);
    let blocks = layers * (12.0 * h * h + 13.0 * h);
    let pair_head = 2.0 * h + 2.0;
    blocks
        + pair_head
        + match model.arch {
            // Token and segment embeddings; the vocabulary head.
            Arch::Reference => (v + 3.0) * h + (v * h + v),
            // Embeddings with their norm; pooler; transform with its norm; the vocabulary head's bias.
            Arch::Bert => (v + positions + 2.0) * h + 2.0 * h + (h * h + h) + (h * h + 3.0 * h) + v,
        }
}

/// About the bytes that a training takes whose batches hold `tokens` tokens in samples of `seq_len` on
/// average: weights, gradients and both moments, the copy of all but the gradients that is made for a checkpoint, and
/// what forward and backward of one batch keep (some 34 numbers per token and unit of width, attention probabilities with
/// their gradients, and the distributions over the vocabulary for a fifth of the tokens, twice). All in single precision.
pub fn training_bytes(model: &ModelConfig, tokens: f64, seq_len: f64) -> f64 {
    let [h, v, layers, heads] = [model.hidden, model.vocab_size, model.layers, model.heads].map(|n| n as f64);
    let blocks = tokens * layers * (34.0 * h + 3.0 * heads * seq_len);
    let head = 2.0 * tokens / 5.0 * v;
    4.0 * (7.0 * parameters(model) + blocks + head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Init, Layout, published_positions};

    #[test]
    fn parameters_are_those_of_the_layout() {
        for arch in [Arch::Reference, Arch::Bert] {
            for (hidden, layers, vocab_size) in [(4, 1, 9), (16, 3, 100), (30, 2, 7)] {
                let model = ModelConfig {
                    arch,
                    vocab_size,
                    hidden,
                    layers,
                    heads: 2,
                    dropout: 0.1,
                    init: Init::default(),
                    max_positions: published_positions(),
                };
                assert_eq!(parameters(&model), Layout::new(&model).len() as f64, "{model:?}");
            }
        }
    }

    #[test]
    fn a_shape_beyond_all_memory_is_a_number_too() {
        let model = ModelConfig {
            arch: Arch::Reference,
            vocab_size: 1000,
            hidden: usize::MAX,
            layers: usize::MAX,
            heads: 1,
            dropout: 0.1,
            init: Init::default(),
            max_positions: published_positions(),
        };
        let bytes = training_bytes(&model, 1e6, 100.0);
        assert!(bytes.is_finite() && bytes > 1e50);
    }
}
