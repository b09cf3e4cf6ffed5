//! The kernels' source, and the constants it is compiled with.

use super::{Kind, Source};
use crate::model::{Arch, ModelConfig};

/// The files, in the order in which they use each other.
const FILES: [&str; 7] = [
    include_str!("kernels/common.h"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/columns.cu"),
    include_str!("kernels/heads.cu"),
    include_str!("kernels/optimizer.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/attention_tensor.cu"),
];

/// All kernels, for a model of this shape.
pub fn source(config: &ModelConfig, stored: Kind) -> Source {
    let constants = vec![
        ("HIDDEN", config.hidden as u32),
        ("HEADS", config.heads as u32),
        ("HEAD_DIM", config.head_dim() as u32),
        ("ARCH_BERT", u32::from(config.arch == Arch::Bert)),
        ("STORE_BF16", u32::from(stored == Kind::Bf16)),
    ];
    Source { text: FILES.concat(), constants }
}
