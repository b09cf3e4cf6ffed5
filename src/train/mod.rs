//! Stage 4: the training loop, its checkpoints and its records.
//!
//! Takes batches in order and an [`Engine`](crate::model::Engine), gives a run directory: configuration,
//! vocabulary, records and checkpoints from which training goes on as if it had never stopped. Knows
//! nothing of flags, terminals or threads; time comes from a clock that it is given.
//!
//! A run directory:
//! ```text
//! config.json              the resolved configuration
//! run.toml                 the same as flags, from which the run can be made again
//! vocab.json
//! metrics.jsonl            one record a line
//! tensorboard/             event files, with --tensorboard
//! checkpoints/step-00000100/{model.safetensors, optimizer.safetensors, state.json}
//! latest, best             links to checkpoints
//! model.safetensors, optimizer.safetensors, state.json    links through `latest`
//! lock                     held by the process that writes here
//! ```

pub mod baseline;
pub mod checkpoint;
pub mod config;
pub mod engine;
pub mod evaluate;
pub mod memory;
pub mod metrics;
pub mod probe;
pub mod run_dir;
pub mod schedule;
pub mod skips;
pub mod spikes;
pub mod steps;
mod survey;
pub mod tensorboard;
pub mod tensors;
mod trainer;
pub mod transformers;

pub use baseline::{Guesses, Unigram};
pub use checkpoint::{Best, Checkpoint, Progress};
pub use config::{DataConfig, Grouping, InitFrom, RunConfig, Runtime};
pub use engine::{Compute, DeviceChoice, EngineKind};
pub use evaluate::{BatchSource, Evaluation, evaluate};
pub use metrics::{EvaluationRecord, Figures, MetricsFile, Observer, Record, StepRecord};
pub use run_dir::RunDir;
pub use schedule::{Schedule, ScheduleKind};
pub use skips::{Skips, Steps};
pub use steps::{Epoch, Length, start_of_step};
pub use survey::Survey;
pub use tensorboard::{EventWriter, TensorBoard};
pub use trainer::{Ending, Stop, Trainer};
