//! About how much memory a training takes, told before it is taken.

use crate::model::ModelConfig;

/// Bytes of weights, gradients and both moments: four columns in single precision.
pub fn parameter_bytes(parameters: usize) -> u64 {
    16 * parameters as u64
}

/// Roughly the bytes that one batch of `rows` by `seq_len` tokens needs for forward and backward: what
/// the blocks keep (some 34 numbers per token and unit of width, and attention probabilities with their
/// gradients), and the distributions over the vocabulary for a fifth of the tokens, twice.
pub fn activation_bytes(model: &ModelConfig, rows: usize, seq_len: usize) -> u64 {
    let tokens = (rows * seq_len) as u64;
    let block = tokens * (34 * model.hidden + 3 * model.heads * seq_len) as u64;
    let head = 2 * tokens.div_ceil(5) * model.vocab_size as u64;
    4 * (block * model.layers as u64 + head)
}
