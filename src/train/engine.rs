//! Which engine computes, and where.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{Engine, FusedEngine, GraphEngine, ModelConfig, Optimizer, Precision};
use crate::{Error, Result};

/// Which implementation of the model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The hand-written step for the CPU.
    #[default]
    Fused,
    /// Candle operations with candle's backward, on any device of its.
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

/// Where the arithmetic runs: `cpu`, or `cuda:N` with the graph engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// What `auto` means for an engine: CUDA where the engine and this build know it and a device is
    /// there, the CPU otherwise.
    pub fn auto(engine: EngineKind) -> Self {
        match engine {
            EngineKind::Graph
                if candle_core::utils::cuda_is_available() && candle_core::Device::new_cuda(0).is_ok() =>
            {
                Self::Cuda(0)
            }
            _ => Self::Cpu,
        }
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
}

/// Refuses what cannot compute together.
///
/// # Errors
/// [`crate::ErrorKind::Usage`], with the remedy.
pub fn check(compute: Compute) -> Result<()> {
    if (compute.engine, compute.precision) == (EngineKind::Graph, Precision::Bf16) {
        return Err(Error::usage(
            "--precision bf16: the graph engine computes in single precision only; leave out --engine graph",
        ));
    }
    match (compute.engine, compute.device) {
        (EngineKind::Fused, DeviceChoice::Cuda(n)) => Err(Error::usage(format!(
            "--device cuda:{n}: the fused engine computes on the CPU only; add --engine graph"
        ))),
        (EngineKind::Graph, DeviceChoice::Cuda(n)) if !candle_core::utils::cuda_is_available() => {
            Err(Error::usage(format!(
                "--device cuda:{n}: this program was built without CUDA; build it with --features cuda, \
                 or use --device cpu"
            )))
        }
        _ => Ok(()),
    }
}

/// An engine with these weights, in the order of the model's layout, and zero moments.
pub fn build(
    compute: Compute,
    model: &ModelConfig,
    optimizer: Optimizer,
    weights: Vec<f32>,
    threads: usize,
) -> Result<Box<dyn Engine>> {
    check(compute)?;
    Ok(match compute.engine {
        EngineKind::Fused => {
            Box::new(FusedEngine::new(model, optimizer, weights, compute.precision, threads)?)
        }
        EngineKind::Graph => {
            let device = match compute.device {
                DeviceChoice::Cpu => candle_core::Device::Cpu,
                DeviceChoice::Cuda(n) => candle_core::Device::new_cuda(n)
                    .map_err(|e| Error::usage(format!("--device cuda:{n}: no such device")).caused_by(e))?,
            };
            Box::new(GraphEngine::new(model, optimizer, weights, device)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
