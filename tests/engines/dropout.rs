//! The masks are those that `rng::dropout` and `DropoutSite` write down, at every site; and they leave
//! means as they are.
//!
//! Both by a model made linear in its masks: queries and keys are zero, so that attention is uniform;
//! values and feed-forward activations come from biases alone, so that no norm has a say. What it gives
//! can then be computed by hand, below, in f64.

use bertstream::collate::HostBatch;
use bertstream::model::{DropoutSite, Layout, ModelConfig, Optimizer, Pass, dropout_coordinate};
use bertstream::rng::dropout;
use bertstream::sample::PairLabel;

use crate::common::{engines, whole_step};
use crate::{batch, tiny};

fn config() -> ModelConfig {
    ModelConfig { hidden: 6, heads: 3, ..tiny(0.3) }
}

/// Random weights in which all dropout sites act linearly.
fn linear_weights(layout: &Layout) -> Vec<f32> {
    let mut weights = layout.initial_weights(19);
    let silent = ["linear_layers.0.weight", "linear_layers.0.bias", "linear_layers.1.weight"];
    let silent =
        [silent.as_slice(), &["linear_layers.1.bias", "linear_layers.2.weight", "w_1.weight"]].concat();
    for parameter in layout.parameters() {
        if silent.iter().any(|end| parameter.name.ends_with(end)) {
            weights[parameter.range.clone()].fill(0.0);
        }
    }
    weights
}

/// The linear model by hand.
struct ByHand<'a> {
    config: &'a ModelConfig,
    layout: &'a Layout,
    weights: &'a [f32],
    pass: Pass,
}

impl ByHand<'_> {
    fn parameter(&self, name: &str) -> Vec<f64> {
        let range = self.layout.get(name).unwrap().range.clone();
        self.weights[range].iter().map(|&w| f64::from(w)).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.parameter(&format!("{name}.weight"));
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        rows.chunks(x.len())
            .map(dot)
            .zip(self.parameter(&format!("{name}.bias")))
            .map(|(y, b)| y + b)
            .collect()
    }

    fn mask(&self, site: DropoutSite, row: usize, position: usize, head: usize, j: usize) -> f64 {
        let site = dropout::site(self.pass.seed, self.pass.step, site.number());
        let row = dropout::row(site, dropout_coordinate(self.pass.first_row + row, position, head));
        let kept = dropout::keeps(row, j, dropout::threshold(self.config.dropout));
        if kept { f64::from(dropout::scale(self.config.dropout)) } else { 0.0 }
    }

    /// The residual stream at the end, at one position of a batch.
    fn output(&self, batch: &HostBatch, row: usize, position: usize) -> Vec<f64> {
        let (hidden, width) = (self.config.hidden, self.config.head_dim());
        let flat = row * batch.seq_len + position;
        let token = self.parameter("bert.embedding.token.weight");
        let segment = self.parameter("bert.embedding.segment.weight");
        let masked = |site, x: Vec<f64>| -> Vec<f64> {
            x.iter().enumerate().map(|(j, x)| x * self.mask(site, row, position, 0, j)).collect()
        };
        let embedding = (0..hidden).map(|j| {
            let angle = position as f64 / 10000f64.powf((j - j % 2) as f64 / hidden as f64);
            let sinusoid = if j % 2 == 0 { angle.sin() } else { angle.cos() };
            let token = token[batch.ids[flat] as usize * hidden + j];
            token + segment[usize::from(batch.segments[flat]) * hidden + j] + sinusoid
        });
        let mut x = masked(DropoutSite::Embedding, embedding.collect());
        for layer in 0..self.config.layers {
            let block = format!("bert.transformer_blocks.{layer}");
            let length = batch.lengths[row] as usize;
            let share = |head| {
                let kept =
                    (0..length).map(|key| self.mask(DropoutSite::Attention(layer), row, position, head, key));
                kept.sum::<f64>() / length as f64
            };
            let values = self.parameter(&format!("{block}.attention.linear_layers.2.bias"));
            let mixed: Vec<f64> = values.iter().enumerate().map(|(j, v)| v * share(j / width)).collect();
            let attended = self.linear(&format!("{block}.attention.output_linear"), &mixed);
            let attended = masked(DropoutSite::AttentionOutput(layer), attended);

            let activations = self.parameter(&format!("{block}.feed_forward.w_1.bias")).into_iter().map(gelu);
            let activations = masked(DropoutSite::FeedForward(layer), activations.collect());
            let fed = self.linear(&format!("{block}.feed_forward.w_2"), &activations);
            let fed = masked(DropoutSite::FeedForwardOutput(layer), fed);

            let sum = (0..hidden).map(|j| x[j] + attended[j] + fed[j]).collect();
            x = masked(DropoutSite::Block(layer), sum);
        }
        x
    }

    /// Sums of the MLM and the NSP losses.
    fn losses(&self, batch: &HostBatch) -> (f64, f64) {
        let mlm = batch.masked.iter().zip(&batch.labels).map(|(&flat, &label)| {
            let (row, position) = (flat as usize / batch.seq_len, flat as usize % batch.seq_len);
            nll(&self.linear("mask_lm.linear", &self.output(batch, row, position)), label as usize)
        });
        let nsp = batch.pairs.iter().enumerate().map(|(row, &label)| {
            nll(&self.linear("next_sentence.linear", &self.output(batch, row, 0)), label as usize)
        });
        (mlm.sum(), nsp.sum())
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn nll(logits: &[f64], label: usize) -> f64 {
    logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[label]
}

#[test]
fn masks_are_the_documented_ones_at_every_site() {
    let config = config();
    let layout = Layout::new(&config);
    let weights = linear_weights(&layout);
    let batch = batch(&config, 40, &[9, 1, 35, 40]);
    for (seed, step, first_row) in [(7, 1, 0), (7, 2, 0), (8, 1, 0), (7, 1, 5)] {
        let pass = Pass { seed, first_row, ..whole_step(&batch, step) };
        let (mlm, nsp) = ByHand { config: &config, layout: &layout, weights: &weights, pass }.losses(&batch);
        for (name, mut engine) in engines(&config, Optimizer::default(), &weights) {
            let outcome = engine.accumulate(&batch, &pass).unwrap();
            let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
            assert!(close(outcome.mlm_loss_sum, mlm), "{name}: MLM {} by hand {mlm}", outcome.mlm_loss_sum);
            assert!(close(outcome.nsp_loss_sum, nsp), "{name}: NSP {} by hand {nsp}", outcome.nsp_loss_sum);
        }
    }
}

/// The difference of the two pair labels' losses is the difference of their logits, and so linear in
/// every mask: its mean over many masks must be what evaluation gives.
#[test]
fn masks_leave_the_mean_as_it_is() {
    const STEPS: u64 = 40;
    const ROWS: usize = 32;
    let config = config();
    let row = batch(&config, 6, &[6]);
    // The same sample many times: its rows differ in their masks alone.
    let labelled = |pair| HostBatch {
        rows: ROWS,
        seq_len: 6,
        ids: row.ids.repeat(ROWS),
        segments: row.segments.repeat(ROWS),
        starts: vec![],
        lengths: row.lengths.repeat(ROWS),
        pairs: vec![pair; ROWS],
        ..HostBatch::default()
    };
    let (next, not_next) = (labelled(PairLabel::IsNext), labelled(PairLabel::NotNext));
    let weights = linear_weights(&Layout::new(&config));
    for (name, mut engine) in engines(&config, Optimizer::default(), &weights) {
        let expected =
            engine.evaluate(&not_next).unwrap().nsp_loss() - engine.evaluate(&next).unwrap().nsp_loss();
        let mut loss = |batch, step| engine.accumulate(batch, &whole_step(batch, step)).unwrap().nsp_loss();
        let draws: Vec<f64> = (1..=STEPS).map(|step| loss(&not_next, step) - loss(&next, step)).collect();
        let mean = draws.iter().sum::<f64>() / STEPS as f64;
        let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (STEPS - 1) as f64;
        let error = (variance / STEPS as f64).sqrt();
        assert!(error > 1e-3, "{name}: dropout does nothing");
        assert!((mean - expected).abs() < 4.0 * error, "{name}: {mean} for {expected}, error {error}");
    }
}
