//! Adam and AdamW over the flat column, in one pass and in place.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Layout, State, Update, Updated};

/// Which rule turns gradients into updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Decoupled weight decay (Loshchilov & Hutter 2019), none on biases and norms.
    #[default]
    Adamw,
    /// Adam with the decay added to the gradient as an L2 term, on every parameter: the reference's
    /// `torch.optim.Adam(weight_decay=...)`.
    Adam,
}

/// Hyper-parameters that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { kind: OptimizerKind::Adamw, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

/// Elements per task. Sums are taken per chunk and then over chunks in order, so that the norm does not
/// depend on the number of threads.
const CHUNK: usize = 1 << 15;

impl Optimizer {
    /// Clips by the global norm and updates weights and moments in place; leaves all of them bitwise as
    /// they were where the norm is not finite. Gradients are zeroed in any case. Runs on the current
    /// rayon pool; the result does not depend on its size.
    pub fn update(
        &self,
        layout: &Layout,
        state: &mut State,
        gradients: &mut [f32],
        update: &Update,
    ) -> Updated {
        let squares: Vec<f64> = gradients.par_chunks(CHUNK).map(sum_of_squares).collect();
        let grad_norm = squares.iter().sum::<f64>().sqrt();
        if !grad_norm.is_finite() {
            gradients.par_chunks_mut(CHUNK).for_each(|g| g.fill(0.0));
            return Updated { grad_norm, applied: false };
        }
        // PyTorch's clip_grad_norm_ adds 1e-6 to the norm; kept for parity.
        let scale = match update.clip {
            Some(limit) => (limit / (grad_norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        for parameter in layout.parameters() {
            let range = parameter.range.clone();
            let rule = self.rule(parameter.decays, scale, update);
            (state.weights[range.clone()].par_chunks_mut(CHUNK))
                .zip(state.first[range.clone()].par_chunks_mut(CHUNK))
                .zip(state.second[range.clone()].par_chunks_mut(CHUNK))
                .zip(gradients[range].par_chunks_mut(CHUNK))
                .for_each(|(((w, m), v), g)| adam(&rule, w, m, v, g));
        }
        Updated { grad_norm, applied: true }
    }

    pub(super) fn rule(&self, decays: bool, scale: f64, update: &Update) -> Rule {
        let step = update.step as f64;
        let correction2 = 1.0 - self.beta2.powf(step);
        let (coupled, decoupled) = match self.kind {
            OptimizerKind::Adam => (self.weight_decay, 0.0),
            OptimizerKind::Adamw if decays => (0.0, self.weight_decay),
            OptimizerKind::Adamw => (0.0, 0.0),
        };
        Rule {
            scale: scale as f32,
            coupled: coupled as f32,
            shrink: (1.0 - update.lr * decoupled) as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            new1: (1.0 - self.beta1) as f32,
            new2: (1.0 - self.beta2) as f32,
            step_size: (update.lr / (1.0 - self.beta1.powf(step))) as f32,
            inverse_root: correction2.sqrt().recip() as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

/// One parameter's constants for one step.
pub(super) struct Rule {
    pub scale: f32,
    pub coupled: f32,
    pub shrink: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub new1: f32,
    pub new2: f32,
    pub step_size: f32,
    /// What the root of the second moment is multiplied by for its bias.
    pub inverse_root: f32,
    pub epsilon: f32,
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
fn adam(rule: &Rule, weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradients: &mut [f32]) {
    for (((w, m), v), g) in weights.iter_mut().zip(first).zip(second).zip(gradients) {
        let gradient = *g * rule.scale + rule.coupled * *w;
        *m = rule.beta1 * *m + rule.new1 * gradient;
        *v = rule.beta2 * *v + rule.new2 * gradient * gradient;
        let denominator = v.sqrt() * rule.inverse_root + rule.epsilon;
        *w = *w * rule.shrink - rule.step_size * *m / denominator;
        *g = 0.0;
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = values.chunks_exact(8);
    let tail: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + tail
}
