//! Models in the layout of Hugging Face transformers, in and out.
//!
//! Takes and gives directories as `save_pretrained` writes them: `config.json`, `model.safetensors`,
//! tokenizer files. Inside are the same names as in the [`Layout`] of
//! [`Arch::Bert`](crate::model::Arch), and one difference of meaning: class 0 of the pair head is "is next"
//! there, class 1 here. Knows nothing of runs; of tokenizers only what their seam tells.

use crate::model::Layout;

pub mod card;
mod config;
pub mod export;
pub mod import;
pub mod tokenizer;

pub use config::is_transformers;
pub use import::Imported;

/// The files of such a directory.
pub const CONFIG: &str = "config.json";
pub const MODEL: &str = "model.safetensors";
const SHARDS: &str = "model.safetensors.index.json";

/// Exchanges the classes of the pair head, `(2, hidden)` weights and `(2)` biases, in a flat column: from our
/// polarity to theirs and back.
fn swap_pair_classes(layout: &Layout, weights: &mut [f32]) {
    let outer = layout.outer();
    for range in [outer.nsp_weight, outer.nsp_bias] {
        let half = range.len() / 2;
        weights[range].rotate_left(half);
    }
}
