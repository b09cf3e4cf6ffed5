//! bertstream: streaming BERT pretraining, from text larger than memory to a trained BERT.
//!
//! The rooms stand in data order, and each imports earlier ones only: [`vocab`] (what a token is),
//! [`corpus`] (stage 1, text to documents), [`sample`] (stage 2, documents to masked samples),
//! [`collate`] (stage 3, samples to batches), [`flow`] (the threads between the stages, which knows no
//! BERT), [`model`] (parameters and the arithmetic of a step), [`train`] (stage 4, the loop, its
//! checkpoints and its records). [`cli`] turns flags into parts. `docs/ARCHITECTURE.md` tells the same
//! story at length.
//!
//! # A pipeline of two stages
//! ```
//! use bertstream::corpus::{self, CorpusConfig};
//! use bertstream::pipeline::Plan;
//! use bertstream::sample::{Cursor, SampleConfig};
//! use bertstream::vocab::WordVocab;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("corpus.tsv");
//! std::fs::write(&path, "a cat sleeps\tit dreams\nrain falls\tthe street is wet\n")?;
//! let corpus = corpus::open(&CorpusConfig::at(&path))?;
//! let vocab = WordVocab::from_texts(["a cat sleeps it dreams rain falls the street is wet"], None, 1);
//! let config = SampleConfig { seq_len: 16, ..SampleConfig::default() };
//! let plan = Plan { corpus: &*corpus, tokenizer: &vocab, sample: &config, workers: 2 };
//! let lengths = plan.samples(Cursor::default(), 1, |units| {
//!     let mut lengths = Vec::new();
//!     for samples in units {
//!         lengths.extend(samples?.iter().map(|sample| sample.ids.len()));
//!     }
//!     Ok(lengths)
//! })?;
//! assert_eq!(lengths.len(), 2); // a sample a line, in the order of the seed
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! From here on: [`corpus::open`] and [`vocab::load`] for what there is already, [`pipeline::Plan::batches`] for
//! batches, [`model`] for a few steps, a checkpoint and its predictions. `docs/examples/own_samples.rs` puts samples of
//! one's own in front of them.

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
