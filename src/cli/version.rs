//! What `--version` tells: features of the build, and what this processor's instructions are used for.

use std::sync::LazyLock;

use crate::model::{FusedEngine, Precision};

/// The version with all of that.
pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let cuda = if cfg!(feature = "cuda") { "with" } else { "without" };
        let build = format!("{}, {cuda} CUDA", std::env::consts::ARCH);
        format!(
            "{}\nbuilt for   {build}\nelementwise {}\nproducts    {}\nf32         {}\nbf16        {}",
            env!("CARGO_PKG_VERSION"),
            FusedEngine::elementwise(),
            FusedEngine::single_products(),
            FusedEngine::products(Precision::F32),
            FusedEngine::products(Precision::Bf16)
        )
    });
    &TEXT
}
