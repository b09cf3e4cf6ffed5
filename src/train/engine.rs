//! Which engine computes, and where.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::model::device::{DeviceEngine, cuda};
use crate::model::{Engine, FusedEngine, GraphEngine, ModelConfig, Optimizer, Precision};
use crate::{Error, Result};

/// Which implementation of the model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The hand-written step, for the CPU and for GPUs.
    #[default]
    Fused,
    /// Candle operations with candle's backward, on the CPU: the fused engines' oracle.
    Graph,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fused => "fused",
            Self::Graph => "graph",
        })
    }
}

/// Where the arithmetic runs: `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// What `auto` means for an engine: the first CUDA device where this build and the engine know them and there is
    /// one, the CPU otherwise.
    pub fn auto(engine: EngineKind) -> Self {
        #[cfg(feature = "cuda")]
        if engine == EngineKind::Fused && cuda::is_available(0) {
            return Self::Cuda(0);
        }
        let _ = engine;
        Self::Cpu
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("cuda") {
            None if text == "cpu" => Ok(Self::Cpu),
            Some("") => Ok(Self::Cuda(0)),
            Some(rest) => rest
                .strip_prefix(':')
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("no device is called {text}: cpu or cuda:N")),
            None => Err(format!("no device is called {text}: cpu or cuda:N")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What computes, where, and in what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compute {
    pub engine: EngineKind,
    pub device: DeviceChoice,
    #[serde(default)]
    pub precision: Precision,
    /// Whether activations of a GPU are computed again in the backward pass instead of kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
}

impl Compute {
    /// What computes products, in words.
    pub fn products(self) -> &'static str {
        match (self.engine, self.device) {
            (EngineKind::Graph, _) => "f32",
            (EngineKind::Fused, DeviceChoice::Cpu) => FusedEngine::products(self.precision),
            (EngineKind::Fused, DeviceChoice::Cuda(_)) => "cuBLAS",
        }
    }
}

/// Refuses what cannot compute together.
///
/// # Errors
/// [`crate::ErrorKind::Usage`], with the remedy.
pub fn check(compute: Compute) -> Result<()> {
    let Compute { engine, device, precision, recompute } = compute;
    if (engine, precision) == (EngineKind::Graph, Precision::Bf16) {
        return Err(Error::usage(
            "--precision bf16: the graph engine computes in single precision only; leave out --engine graph",
        ));
    }
    match (engine, device) {
        (_, DeviceChoice::Cpu) if recompute => Err(Error::usage(
            "--recompute: on the CPU activations are always kept; leave it out, or choose a smaller --batch-size with \
             --accumulate",
        )),
        (EngineKind::Graph, DeviceChoice::Cuda(n)) => Err(Error::usage(format!(
            "--device cuda:{n}: the graph engine computes on the CPU only; leave out --engine graph"
        ))),
        (_, DeviceChoice::Cuda(n)) if !cfg!(feature = "cuda") => Err(Error::usage(format!(
            "--device cuda:{n}: this program was built without CUDA; build it with --features cuda, or use \
             --device cpu"
        ))),
        _ => Ok(()),
    }
}

/// An engine with these weights, in the order of the model's layout, and zero moments.
///
/// # Errors
/// Those of [`check`], and those of the engine, where a device may not be there.
pub fn build(
    compute: Compute,
    model: &ModelConfig,
    optimizer: Optimizer,
    weights: Vec<f32>,
    threads: usize,
) -> Result<Box<dyn Engine>> {
    check(compute)?;
    Ok(match (compute.engine, compute.device) {
        (EngineKind::Graph, _) => Box::new(GraphEngine::new(model, optimizer, weights)?),
        #[cfg(feature = "cuda")]
        (EngineKind::Fused, DeviceChoice::Cuda(n)) => {
            let device = cuda::Cuda::open(n)?;
            let Compute { precision, recompute, .. } = compute;
            Box::new(DeviceEngine::new(device, model, optimizer, weights, precision, recompute)?)
        }
        (EngineKind::Fused, _) => {
            Box::new(FusedEngine::new(model, optimizer, weights, compute.precision, threads)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_compute_together_is_refused_with_the_remedy() {
        let check = |compute, expected: &str| {
            let refused = super::check(compute).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.contains(expected) && refused.is_empty() == expected.is_empty(), "{refused}");
        };
        let cpu = Compute::default();
        let cuda = Compute { device: DeviceChoice::Cuda(1), ..cpu };
        let graph = EngineKind::Graph;
        check(cpu, "");
        check(Compute { precision: Precision::Bf16, ..cpu }, "");
        check(Compute { engine: graph, precision: Precision::Bf16, ..cpu }, "leave out --engine graph");
        check(Compute { recompute: true, ..cpu }, "--recompute");
        check(Compute { engine: graph, ..cuda }, "--device cuda:1: the graph engine");
        check(cuda, if cfg!(feature = "cuda") { "" } else { "built without CUDA" });
    }

    #[test]
    fn devices_by_name() {
        let check = |text: &str, expected| assert_eq!(text.parse::<DeviceChoice>().ok(), expected, "{text}");
        check("cpu", Some(DeviceChoice::Cpu));
        check("cuda", Some(DeviceChoice::Cuda(0)));
        check("cuda:3", Some(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda3", "cpu:0"] {
            check(wrong, None);
        }
    }
}
