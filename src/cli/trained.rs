//! A trained model to be used: of a run, or of a directory of transformers.
//!
//! Takes a path, gives an engine with its weights and the tokenizer that belongs to them. What the path is,
//! its `config.json` tells.

use std::path::Path;

use super::eval::Finished;
use super::train::ComputeFlags;
use crate::collate::HostBatch;
use crate::error::near;
use crate::model::{Arch, Engine, ModelConfig, Optimizer};
use crate::sample::{PairLabel, SEGMENT_A};
use crate::train::run_dir::Which;
use crate::train::{RunConfig, engine, transformers};
use crate::vocab::{self, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// A model with what belongs to it.
pub struct Trained {
    pub model: ModelConfig,
    pub engine: Box<dyn Engine>,
    pub tokenizer: Box<dyn Tokenizer>,
    pub origin: Origin,
}

/// Where a model came from.
pub enum Origin {
    /// The run that made it, and the checkpoint's step.
    Run(Box<RunConfig>, u64),
    /// transformers, and the parts that it does not hold, which are drawn.
    Transformers(Vec<&'static str>),
}

impl Trained {
    /// Reads the model at `path`; `which` checkpoint matters for runs alone.
    ///
    /// # Errors
    /// Those of [`Finished::open`] and of [`transformers::import::read`]; [`ErrorKind::Mismatch`] where the
    /// tokenizer has tokens for which the model has no row.
    pub fn open(path: &Path, which: Which, vocab: Option<&Path>, compute: &ComputeFlags) -> Result<Self> {
        if transformers::is_transformers(path) {
            return Self::import(path, vocab, compute);
        }
        let finished = Finished::open(path, vocab)?;
        let (engine, step) = finished.engine(path, which, compute)?;
        let Finished { config, tokenizer } = finished;
        let model = config.model.clone();
        Ok(Self { model, engine, tokenizer, origin: Origin::Run(Box::new(config), step) })
    }

    fn import(path: &Path, vocab: Option<&Path>, compute: &ComputeFlags) -> Result<Self> {
        let found = transformers::tokenizer::find(path);
        let vocab = vocab.or(found.as_deref()).ok_or_else(|| no_vocabulary(path))?;
        let tokenizer = vocab::load(vocab)?;
        let imported = transformers::import::read(path, 0)?;
        let model = imported.model;
        if tokenizer.len() > model.vocab_size {
            return Err(Error::mismatch(format!(
                "{}: {} tokens, but the model has rows for {}: that is not its vocabulary",
                vocab.display(),
                tokenizer.len(),
                model.vocab_size
            )));
        }
        let (compute, threads) = compute.over(None)?;
        let engine = engine::build(compute, &model, Optimizer::default(), imported.weights, threads)?;
        Ok(Self { model, engine, tokenizer, origin: Origin::Transformers(imported.report.fresh) })
    }

    /// Refuses a model without its masked-token head, whose predictions would be dice.
    pub fn needs_masked_head(&self, path: &Path) -> Result<()> {
        match &self.origin {
            Origin::Transformers(fresh) if fresh.contains(&transformers::import::MASKED_HEAD) => {
                Err(Error::mismatch(format!(
                    "{}: it lacks {}: a checkpoint saved as BertForMaskedLM or BertForPreTraining has it",
                    path.display(),
                    transformers::import::MASKED_HEAD
                )))
            }
            _ => Ok(()),
        }
    }

    /// `classify text separator` of each text, in which the mask token's spelling is the mask.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let specials = self.tokenizer.specials();
        let mut ids = vec![specials.classify];
        ids.extend(vocab::encode_with_masks(&*self.tokenizer, text));
        ids.push(specials.separator);
        ids
    }

    /// Longest sample that the model reads, in tokens. The reference's positions never end: as many as the
    /// published BERT has.
    pub fn longest(&self) -> usize {
        match self.model.arch {
            Arch::Bert | Arch::Reference => self.model.max_positions,
        }
    }

    /// Rows of ids as a batch of single texts. Positions of the mask token are to be predicted.
    pub fn batch(&self, rows: &[Vec<u32>]) -> HostBatch {
        let specials = self.tokenizer.specials();
        let seq_len = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut batch = HostBatch { rows: rows.len(), seq_len, ..HostBatch::default() };
        for (row, ids) in rows.iter().enumerate() {
            let first = row * seq_len;
            batch.ids.extend(ids);
            batch.ids.resize(first + seq_len, specials.pad);
            batch.segments.extend(ids.iter().map(|_| SEGMENT_A));
            batch.segments.resize(first + seq_len, 0);
            batch.lengths.push(ids.len() as u32);
            batch.pairs.push(PairLabel::None);
            let masks = (first as u32..).zip(ids).filter(|(_, id)| **id == specials.mask);
            batch.masked.extend(masks.map(|(flat, _)| flat));
        }
        // Nothing is known of what stands there; the mask itself is a label as good as any.
        batch.labels = vec![specials.mask; batch.masked.len()];
        batch
    }
}

/// That a directory of transformers holds no vocabulary.
pub fn no_vocabulary(path: &Path) -> Error {
    Error::new(
        ErrorKind::MissingInput,
        format!(
            "{}: no tokenizer.json or vocab.txt there{}: put the model's own beside its weights, or name one with \
             --vocab",
            path.display(),
            near(path)
        ),
    )
}
