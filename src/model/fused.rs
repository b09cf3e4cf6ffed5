//! fused engine.
use super::{Engine, Layout, ModelConfig, Optimizer, Outcome, Pass, Predictions, State, Update, Updated};
use crate::Result;
use crate::collate::HostBatch;

/// The engine.
pub struct FusedEngine {
    layout: Layout,
}

impl FusedEngine {
    /// An engine with these weights (in the order of [`Layout::reference`]) and zero moments.
    pub fn new(
        config: &ModelConfig,
        _optimizer: Optimizer,
        _weights: Vec<f32>,
        _threads: usize,
    ) -> Result<Self> {
        Ok(Self { layout: Layout::reference(config) })
    }
}

impl Engine for FusedEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn accumulate(&mut self, _batch: &HostBatch, _pass: &Pass) -> Result<Outcome> {
        Err(crate::Error::internal("not written yet"))
    }
    fn update(&mut self, _update: &Update) -> Result<Updated> {
        Err(crate::Error::internal("not written yet"))
    }
    fn evaluate(&mut self, _batch: &HostBatch) -> Result<Outcome> {
        Err(crate::Error::internal("not written yet"))
    }
    fn predict(&mut self, _batch: &HostBatch) -> Result<Predictions> {
        Err(crate::Error::internal("not written yet"))
    }
    fn gradients(&self) -> Result<Vec<f32>> {
        Err(crate::Error::internal("not written yet"))
    }
    fn state(&self) -> Result<State> {
        Err(crate::Error::internal("not written yet"))
    }
    fn restore(&mut self, _state: State) -> Result<()> {
        Err(crate::Error::internal("not written yet"))
    }
}
