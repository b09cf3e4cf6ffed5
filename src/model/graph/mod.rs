//! The model as a plain composition of candle operations, with candle's own backward.
//!
//! Takes [`HostBatch`]es, gives losses and gradients. This is the readable engine: `forward`, `reference` and
//! `bert` state the arithmetic line by line, and nothing is written by hand for speed. It is the oracle that
//! other engines are compared with. Weights are one variable per named parameter; gradients and moments are flat
//! columns, where [`Optimizer`] works on them. Knows nothing of how batches come about or when steps are taken.

use candle_core::{Device, Tensor, Var};

use self::forward::{Dropout, Forward, Weights};
use super::{
    Engine, Layout, ModelConfig, Optimizer, Outcome, Parameter, Pass, Predictions, State, Update, Updated,
    batch,
};
use crate::collate::HostBatch;
use crate::sample::PairLabel;
use crate::{Error, Result};

mod bert;
mod forward;
mod reference;

/// The engine.
pub struct GraphEngine {
    config: ModelConfig,
    optimizer: Optimizer,
    layout: Layout,
    /// One variable per parameter, in the layout's order; always equal to `state.weights`.
    variables: Vec<Var>,
    state: State,
    gradients: Vec<f32>,
}

impl GraphEngine {
    /// An engine with these weights (in the order of [`Layout::new`]) and zero moments.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] where the shape cannot be built, [`crate::ErrorKind::Internal`] where
    /// the number of weights is not the layout's.
    pub fn new(config: &ModelConfig, optimizer: Optimizer, weights: Vec<f32>) -> Result<Self> {
        config.check()?;
        let layout = Layout::new(config);
        let zeros = vec![0.0; layout.len()];
        let state = State { weights, first: zeros.clone(), second: zeros.clone() };
        state.check(&layout)?;
        let variables = (layout.parameters().iter())
            .map(|p| Var::from_slice(&state.weights[p.range.clone()], p.shape.as_slice(), &Device::Cpu))
            .collect::<candle_core::Result<_>>()
            .map_err(|error| failed("cannot make tensors of the weights", error))?;
        Ok(Self { config: config.clone(), optimizer, layout, variables, state, gradients: zeros })
    }

    /// The residual stream with dropout off: after the embedding, then after each block. Each column has
    /// shape `(rows, seq_len, hidden)`; what stands at padded positions means nothing.
    ///
    /// # Errors
    /// Those of [`Engine::evaluate`].
    pub fn hidden_states(&self, batch: &HostBatch) -> Result<Vec<Vec<f32>>> {
        batch::check(batch, &self.config)?;
        let states = self.without_gradients(batch).hidden_states();
        states
            .and_then(|states| states.iter().map(|x| x.flatten_all()?.to_vec1()).collect())
            .map_err(|error| failed("forward pass", error))
    }

    /// The forward pass over detached weights: candle then keeps no graph, and each intermediate result
    /// is freed as soon as the next one is there.
    fn without_gradients<'a>(&'a self, batch: &'a HostBatch) -> Forward<'a> {
        let tensors = self.variables.iter().map(Var::as_detached_tensor).collect();
        self.forward(batch, tensors, None)
    }

    fn forward<'a>(
        &'a self,
        batch: &'a HostBatch,
        tensors: Vec<Tensor>,
        dropout: Option<Dropout>,
    ) -> Forward<'a> {
        let weights = Weights { layout: &self.layout, tensors };
        Forward { config: &self.config, weights, batch, dropout, device: &Device::Cpu }
    }

    /// Adds the gradients of `loss` to the host's column.
    fn backward(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        let mut store = loss.backward()?;
        for (parameter, variable) in self.layout.parameters().iter().zip(&self.variables) {
            // Absent where the loss does not reach it: the vocabulary's head without a masked token.
            let Some(gradient) = store.remove(variable) else { continue };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            let from = first_trained(parameter);
            let sums = &mut self.gradients[parameter.range.clone()];
            for (sum, g) in sums[from..].iter_mut().zip(&gradient[from..]) {
                *sum += g;
            }
        }
        Ok(())
    }

    /// Brings the flat column's weights to the variables.
    fn upload(&self) -> Result<()> {
        for (parameter, variable) in self.layout.parameters().iter().zip(&self.variables) {
            let weights = &self.state.weights[parameter.range.clone()];
            Tensor::from_slice(weights, parameter.shape.as_slice(), &Device::Cpu)
                .and_then(|weights| variable.set(&weights))
                .map_err(|error| failed("cannot make tensors of the weights", error))?;
        }
        Ok(())
    }
}

impl Engine for GraphEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome> {
        batch::check(batch, &self.config)?;
        let dropout = (self.config.dropout > 0.0).then(|| Dropout::new(self.config.dropout, pass));
        let tensors = self.variables.iter().map(|v| v.as_tensor().clone()).collect();
        let forward = self.forward(batch, tensors, dropout);
        let scored = Scored::of(&forward).map_err(|error| failed("forward pass", error))?;
        let backward = scored.loss(pass).and_then(|loss| match loss {
            Some(loss) => self.backward(&loss),
            None => Ok(()),
        });
        backward.map_err(|error| failed("backward pass", error))?;
        Ok(scored.outcome)
    }

    fn update(&mut self, update: &Update) -> Result<Updated> {
        let updated = self.optimizer.update(&self.layout, &mut self.state, &mut self.gradients, update);
        if updated.applied {
            self.upload()?;
        }
        Ok(updated)
    }

    fn evaluate(&mut self, batch: &HostBatch) -> Result<Outcome> {
        batch::check(batch, &self.config)?;
        let scored = Scored::of(&self.without_gradients(batch));
        Ok(scored.map_err(|error| failed("forward pass", error))?.outcome)
    }

    fn predict(&mut self, batch: &HostBatch) -> Result<Predictions> {
        batch::check(batch, &self.config)?;
        let forward = self.without_gradients(batch);
        let predict = || -> candle_core::Result<Predictions> {
            let hidden = forward.encode()?;
            let mlm = match forward.mlm(&hidden)? {
                Some(mlm) => mlm.flatten_all()?.to_vec1()?,
                None => vec![],
            };
            Ok(Predictions { mlm, nsp: forward.nsp(&hidden)?.flatten_all()?.to_vec1()? })
        };
        predict().map_err(|error| failed("forward pass", error))
    }

    fn encode(&mut self, batch: &HostBatch) -> Result<Vec<f32>> {
        batch::check(batch, &self.config)?;
        let hidden = self.without_gradients(batch).encode();
        hidden
            .and_then(|hidden| hidden.flatten_all()?.to_vec1())
            .map_err(|error| failed("forward pass", error))
    }

    fn forget_gradients(&mut self) -> Result<()> {
        self.gradients.fill(0.0);
        Ok(())
    }

    fn gradients(&self) -> Result<Vec<f32>> {
        Ok(self.gradients.clone())
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<()> {
        state.check(&self.layout)?;
        self.state = state;
        self.forget_gradients()?;
        self.upload()
    }
}

/// Both heads' losses over one batch, as tensors to differentiate and as sums on the host.
struct Scored {
    /// Negative log-likelihoods of the masked tokens, `(masked)`.
    mlm: Option<Tensor>,
    /// Negative log-likelihoods of the pair labels that are there, `(pairs)`.
    nsp: Option<Tensor>,
    outcome: Outcome,
}

impl Scored {
    fn of(forward: &Forward<'_>) -> candle_core::Result<Self> {
        let (batch, device) = (forward.batch, forward.device);
        let hidden = forward.encode()?;
        let mut scored = Self { mlm: None, nsp: None, outcome: Outcome::default() };
        if let Some(log_probabilities) = forward.mlm(&hidden)? {
            let labels = Tensor::from_slice(&batch.labels, batch.labels.len(), device)?;
            let nll = negative_log_likelihood(&log_probabilities, &labels)?;
            scored.outcome.masked = batch.labels.len() as u64;
            scored.outcome.mlm_loss_sum = sum(&nll)?;
            scored.outcome.mlm_correct = correct(&log_probabilities, &batch.labels)?;
            scored.mlm = Some(nll);
        }
        let (rows, labels) = labelled_pairs(batch);
        if !rows.is_empty() {
            let rows = Tensor::from_slice(&rows, rows.len(), device)?;
            let log_probabilities = forward.nsp(&hidden)?.index_select(&rows, 0)?;
            let tensor = Tensor::from_slice(&labels, labels.len(), device)?;
            let nll = negative_log_likelihood(&log_probabilities, &tensor)?;
            scored.outcome.pairs = labels.len() as u64;
            scored.outcome.nsp_loss_sum = sum(&nll)?;
            scored.outcome.nsp_correct = correct(&log_probabilities, &labels)?;
            scored.nsp = Some(nll);
        }
        Ok(scored)
    }

    /// What this micro-batch adds to the step's loss: each sum over the step's count. A loss whose count
    /// is 0 has weight 0; `None` where nothing is left.
    fn loss(&self, pass: &Pass) -> candle_core::Result<Option<Tensor>> {
        let mut loss = None;
        for (nll, count) in [(&self.mlm, pass.masked_in_step), (&self.nsp, pass.pairs_in_step)] {
            let Some(nll) = nll.as_ref().filter(|_| count > 0) else { continue };
            let term = (nll.sum_all()? / count as f64)?;
            loss = Some(match loss {
                Some(loss) => (loss + term)?,
                None => term,
            });
        }
        Ok(loss)
    }
}

/// `(n, classes)` log-probabilities and `(n)` labels to `(n)` losses.
fn negative_log_likelihood(log_probabilities: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
    log_probabilities.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?.neg()
}

/// The sum in f64, so that sums of many batches keep their digits.
fn sum(losses: &Tensor) -> candle_core::Result<f64> {
    Ok(losses.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
}

/// How many of the most probable classes are the true ones.
fn correct(log_probabilities: &Tensor, labels: &[u32]) -> candle_core::Result<u64> {
    let best = log_probabilities.argmax(1)?.to_vec1::<u32>()?;
    Ok(best.iter().zip(labels).filter(|(best, label)| best == label).count() as u64)
}

/// Samples that carry a pair label, and their labels: 1 = is next.
fn labelled_pairs(batch: &HostBatch) -> (Vec<u32>, Vec<u32>) {
    (0..).zip(&batch.pairs).filter(|(_, pair)| **pair != PairLabel::None).map(|(r, p)| (r, *p as u32)).unzip()
}

/// First element of a parameter that may change: what lies before is the padding's frozen row.
fn first_trained(parameter: &Parameter) -> usize {
    if parameter.frozen_row() { parameter.shape[1] } else { 0 }
}

/// candle's error as ours.
fn failed(doing: &str, error: candle_core::Error) -> Error {
    Error::internal(format!("model: {doing}")).caused_by(error)
}
