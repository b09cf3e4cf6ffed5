//! What a block's pass over a chunk needs while it lasts: one for each thread, so that it is still in its caches when the
//! next chunk comes.

use std::cell::RefCell;

use super::super::attention::Scratch;
use super::super::matmul::PackedRows;

#[derive(Default)]
pub(super) struct Workspace {
    /// What a norm before a sublayer gave it `(tokens, h)`.
    pub normed: Vec<f32>,
    /// What a sublayer gives the residual stream, and on the way back the gradient of its input `(tokens, h)`.
    pub branch: Vec<f32>,
    /// The residual stream of the selected tokens, and on the way back its gradient `(tokens, h)`.
    pub residual: Vec<f32>,
    /// Gradient of what a sublayer gave `(tokens, h)`.
    pub dbranch: Vec<f32>,
    /// Gradient of queries, keys and values `(tokens, 3 h)`.
    pub dqkv: Vec<f32>,
    /// Some tokens and columns of the feed-forward layer behind its activation, and of the gradient before that.
    pub activated: Vec<f32>,
    pub dinner: Vec<f32>,
    /// A left operand of several products.
    pub rows: PackedRows,
    /// Dropout's factors for two rows.
    pub factors: Vec<f32>,
    pub attention: Scratch,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Gives `work` this thread's workspace.
pub(super) fn with_workspace<T>(work: impl FnOnce(&mut Workspace) -> T) -> T {
    let mut workspace = WORKSPACE.take();
    let result = work(&mut workspace);
    WORKSPACE.set(workspace);
    result
}
