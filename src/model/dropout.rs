//! Which layers drop, and what decides it: the keys of all masks, for every engine.
//!
//! The masks themselves are `rng::dropout`'s; how an engine makes factors of them is its own.

use crate::rng::dropout;

/// The dropout layers of the model, numbered: with the seed and the step they key every mask.
/// Both engines use these numbers, and so see the same masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropoutSite {
    /// The sum of the embeddings.
    Embedding,
    /// Attention probabilities of a block.
    Attention(usize),
    /// The attention's output, before the residual is added.
    AttentionOutput(usize),
    /// The feed-forward layer's activations.
    FeedForward(usize),
    /// The feed-forward layer's output, before the residual is added.
    FeedForwardOutput(usize),
    /// The residual stream at a block's end (a peculiarity of the reference).
    Block(usize),
}

impl DropoutSite {
    /// The site's number, part of the key of its masks.
    pub fn number(self) -> u64 {
        match self {
            Self::Embedding => 0,
            Self::Attention(layer) => 1 + 5 * layer as u64,
            Self::AttentionOutput(layer) => 2 + 5 * layer as u64,
            Self::FeedForward(layer) => 3 + 5 * layer as u64,
            Self::FeedForwardOutput(layer) => 4 + 5 * layer as u64,
            Self::Block(layer) => 5 + 5 * layer as u64,
        }
    }
}

/// The coordinate of a row of dropout: a sample's row in the step's whole batch, the token's position in
/// the sample, and for attention probabilities the head (0 elsewhere). Padding does not enter.
#[inline(always)]
pub fn dropout_coordinate(row_of_step: usize, position: usize, head: usize) -> u64 {
    ((row_of_step as u64) << 40) | ((head as u64) << 24) | position as u64
}

/// The dropout layers of one pass: all off, or keyed by seed and step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropouts {
    rate: f32,
    seed: u64,
    step: u64,
}

impl Dropouts {
    pub const OFF: Self = Self { rate: 0.0, seed: 0, step: 0 };

    pub fn new(rate: f32, seed: u64, step: u64) -> Self {
        Self { rate, seed, step }
    }

    /// The layer at this site.
    pub fn at(&self, site: DropoutSite) -> Dropout {
        if self.rate == 0.0 {
            return Dropout::OFF;
        }
        Dropout::new(dropout::site(self.seed, self.step, site.number()), self.rate)
    }
}

/// One dropout layer in one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropout {
    /// Key of its masks.
    pub site: u64,
    /// An element is dropped where its 16 bits lie below it: 0 drops nothing.
    pub threshold: u32,
    /// What a kept element is multiplied by.
    pub scale: f32,
}

impl Dropout {
    /// Keeps everything, unscaled.
    pub const OFF: Self = Self { site: 0, threshold: 0, scale: 1.0 };

    /// The layer keyed by `site` ([`dropout::site`]) with this rate.
    pub fn new(site: u64, rate: f32) -> Self {
        Self { site, threshold: dropout::threshold(rate), scale: dropout::scale(rate) }
    }
}
