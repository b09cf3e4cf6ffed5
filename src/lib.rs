//! bertstream: streaming BERT pretraining, from text larger than memory to a trained BERT.
//!
//! The rooms stand in data order, and each imports earlier ones only: [`vocab`] (what a token is),
//! [`corpus`] (stage 1, text to documents), [`sample`] (stage 2, documents to masked samples),
//! [`collate`] (stage 3, samples to batches), [`flow`] (the threads between the stages, which knows no
//! BERT), [`model`] (parameters and the arithmetic of a step), [`train`] (stage 4, the loop, its
//! checkpoints and its records). [`cli`] turns flags into parts. `docs/ARCHITECTURE.md` tells the same
//! story at length.

pub mod cli;
pub mod collate;
pub mod corpus;
pub mod durable;
pub mod error;
pub mod flow;
pub mod model;
pub mod pipeline;
pub mod rng;
pub mod sample;
pub mod text;
pub mod train;
pub mod vocab;

pub use error::{Error, ErrorKind, Result};
