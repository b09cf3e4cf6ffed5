//! The masked-token head: logits over the vocabulary, their cross-entropy, and all gradients.
//!
//! Works on gathered rows (the masked positions only: the same loss and gradients as on every position,
//! since the others have weight 0) and cuts the vocabulary into slices, one task each, so that no two tasks write
//! the same memory.

use rayon::prelude::*;

use super::kernels;
use super::linear::{Direction, Linear, add_weight_gradient};
use super::matmul::{self, Kernel, Mat, Packed};
use crate::model::{ModelConfig, Outcome};

/// Rows per round: bounds the logits' memory at `MOST_ROWS * vocab_size` values.
pub const MOST_ROWS: usize = 1024;

/// Tokens per slice of the vocabulary.
const SLICE: usize = 1024;

/// The head's buffers.
pub struct VocabularyHead {
    hidden: usize,
    kernel: Kernel,
    /// Rows to predict from, `(rows, hidden)`; filled by the caller before [`Self::forward`].
    pub inputs: Vec<f32>,
    /// Log of the sum of exponentials of each row's logits.
    log_sums: Vec<f32>,
    dinputs: Vec<f32>,
    /// The inputs for bfloat16 products.
    packed: Packed,
    slices: Vec<Slice>,
}

/// Some tokens of the vocabulary.
#[derive(Default)]
struct Slice {
    /// First token, and how many.
    first: usize,
    len: usize,
    /// `(rows, len)`: logits, in the backward pass their gradients.
    logits: Vec<f32>,
    /// Largest logit of each row, and the sum of exponentials relative to it.
    partials: Vec<(f32, f32)>,
    /// This slice's part of the inputs' gradient `(rows, hidden)`.
    dinputs: Vec<f32>,
}

impl VocabularyHead {
    pub fn new(config: &ModelConfig, kernel: Kernel) -> Self {
        let firsts = (0..config.vocab_size).step_by(SLICE);
        let slice = |first| Slice { first, len: SLICE.min(config.vocab_size - first), ..Slice::default() };
        Self {
            hidden: config.hidden,
            kernel,
            inputs: vec![],
            log_sums: vec![],
            dinputs: vec![],
            packed: Packed::default(),
            slices: firsts.map(slice).collect(),
        }
    }

    fn rows(&self) -> usize {
        self.inputs.len() / self.hidden
    }

    /// Logits and cross-entropy against `labels` (one a row), added to `outcome`.
    pub fn forward(&mut self, weight: &[f32], bias: &[f32], labels: &[u32], outcome: &mut Outcome) {
        let (rows, h, kernel, inputs) = (self.rows(), self.hidden, self.kernel, &self.inputs);
        self.slices.par_iter_mut().with_max_len(1).for_each(|slice| {
            let Slice { first, len, .. } = *slice;
            slice.logits.resize(rows * len, 0.0);
            slice.partials.resize(rows, (0.0, 0.0));
            let layer = Linear::new(&weight[first * h..(first + len) * h], &bias[first..first + len]);
            matmul::with_space(|space| {
                let packed = kernel.rhs(layer.operand(Direction::Forward), space);
                layer.with(Direction::Forward, packed).forward(&mut slice.logits, Mat::new(inputs, rows, h));
            });
            kernels::max_and_sum(&slice.logits, len, &mut slice.partials);
        });
        self.log_sums.clear();
        for (row, &label) in labels.iter().enumerate() {
            let max = self.slices.iter().map(|s| s.partials[row].0).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 =
                self.slices.iter().map(|s| s.partials[row].1 * (s.partials[row].0 - max).exp()).sum();
            let log_sum = max + sum.ln();
            self.log_sums.push(log_sum);
            let (home, column) = (label as usize / SLICE, label as usize % SLICE);
            let logits = &self.slices[home].logits[row * self.slices[home].len..][..self.slices[home].len];
            outcome.masked += 1;
            outcome.mlm_loss_sum += f64::from(log_sum - logits[column]);
            // The first of equal maxima is the prediction.
            let is_max = logits[column] == max;
            let is_first = || {
                !logits[..column].contains(&max)
                    && self.slices[..home].iter().all(|s| s.partials[row].0 < max)
            };
            outcome.mlm_correct += u64::from(is_max && is_first());
        }
    }

    /// Gradients of `weight_of_row * loss`, after [`Self::forward`]: adds to those of the head's weight and
    /// bias, gives those of the inputs `(rows, hidden)`.
    pub fn backward(
        &mut self,
        weight: &[f32],
        labels: &[u32],
        weight_of_row: f32,
        dweight: &mut [f32],
        dbias: &mut [f32],
    ) -> &[f32] {
        let (rows, h, kernel, log_sums) = (self.rows(), self.hidden, self.kernel, &self.log_sums);
        let inputs = kernel.rhs(Mat::new(&self.inputs, rows, h), &mut self.packed);
        (self.slices.par_iter_mut().with_max_len(1))
            .zip(dweight.par_chunks_mut(SLICE * h))
            .zip(dbias.par_chunks_mut(SLICE))
            .for_each(|((slice, dweight), dbias)| {
                let Slice { first, len, .. } = *slice;
                let dlogits = &mut slice.logits;
                kernels::softmax_scaled(dlogits, len, log_sums, weight_of_row);
                for (row, &label) in labels.iter().enumerate() {
                    if (first..first + len).contains(&(label as usize)) {
                        dlogits[row * len + label as usize - first] -= weight_of_row;
                    }
                }
                kernels::add_column_sums(dbias, dlogits);
                let dlogits = Mat::new(dlogits, rows, len);
                add_weight_gradient(dweight, h, dlogits.t(), inputs);
                slice.dinputs.resize(rows * h, 0.0);
                // The bias takes no part in the input's gradient.
                let layer = Linear::new(&weight[first * h..(first + len) * h], &dbias[..len]);
                matmul::with_space(|space| {
                    let packed = kernel.rhs(layer.operand(Direction::Backward), space);
                    layer.with(Direction::Backward, packed).input_gradient(&mut slice.dinputs, dlogits);
                });
            });
        self.dinputs.clear();
        self.dinputs.resize(rows * h, 0.0);
        let slices = &self.slices;
        self.dinputs.par_chunks_mut(64 * h).enumerate().for_each(|(i, sums)| {
            for slice in slices {
                kernels::add(sums, &slice.dinputs[i * 64 * h..][..sums.len()]);
            }
        });
        &self.dinputs
    }

    /// Log-probabilities `(rows, vocab_size)` of the last [`Self::forward`], appended to `out`.
    pub fn append_log_probabilities(&self, out: &mut Vec<f32>) {
        for (row, &log_sum) in self.log_sums.iter().enumerate() {
            for slice in &self.slices {
                out.extend(slice.logits[row * slice.len..][..slice.len].iter().map(|x| x - log_sum));
            }
        }
    }
}
