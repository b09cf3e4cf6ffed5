//! A model of [`Arch::Bert`] as a directory that transformers loads.
//!
//! Takes a shape, weights, a tokenizer and the text of a card, gives the directory: complete, read back and
//! compared, or not there at all.

use std::io::Write;
use std::path::Path;

use super::super::tensors::{self, Tensor};
use super::{CONFIG, MODEL, config, import, swap_pair_classes, tokenizer};
use crate::collate::HostBatch;
use crate::durable::{Os, commit};
use crate::model::{Arch, Engine, FusedEngine, Layout, ModelConfig, Optimizer, Precision};
use crate::sample::{PairLabel, SEGMENT_A, SEGMENT_B};
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result};

/// The model card's file.
pub const CARD: &str = "README.md";

/// Refuses a model for which transformers has no class.
///
/// # Errors
/// [`ErrorKind::Usage`].
pub fn check(model: &ModelConfig) -> Result<()> {
    match model.arch {
        Arch::Bert => Ok(()),
        Arch::Reference => Err(Error::usage(
            "export: the run's model is of --arch reference (norms before the sub-layers, sinusoidal positions, \
             a head of its own), which no class of transformers computes: train with --arch bert; bert-pytorch \
             itself loads the run's model.safetensors",
        )),
    }
}

/// Makes `directory`, which may be there but empty, with the model in transformers' format, and reads it back
/// before it stays.
///
/// # Errors
/// Those of [`check`]; [`ErrorKind::CannotCreate`] where `directory` holds something; those of
/// [`import::read`] and [`ErrorKind::Internal`] where what was written is not what was given.
pub fn write(
    directory: &Path,
    model: &ModelConfig,
    weights: &[f32],
    vocabulary: &dyn Tokenizer,
    card: &str,
) -> Result<()> {
    check(model)?;
    make_way(directory)?;
    commit::directory(&Os, directory, |new| {
        new.write(CONFIG, config::text(model, vocabulary.specials().pad).as_bytes())?;
        new.write(CARD, card.as_bytes())?;
        tokenizer::write(new.path(), vocabulary, model.max_positions)?;
        let path = directory.join(MODEL);
        new.file(MODEL, None, |out| write_weights(out, &path, model, weights))?;
        new.sync_all()?;
        verify(new.path(), model, weights).map_err(|e| e.context("export: reading back what was written"))
    })
}

/// Removes an empty directory, refuses any other thing under this name.
fn make_way(directory: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(directory) else { return Ok(()) };
    let removed = metadata.is_dir() && std::fs::remove_dir(directory).is_ok();
    match removed {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::CannotCreate,
            format!("{} is there and not empty: choose another directory", directory.display()),
        )),
    }
}

/// Names as in the layout. The decoder shares the embedding and has its bias as `cls.predictions.bias`: tied
/// tensors are written once, as transformers does.
fn write_weights(out: &mut dyn Write, path: &Path, model: &ModelConfig, weights: &[f32]) -> Result<()> {
    let layout = Layout::new(model);
    let mut weights = weights.to_vec();
    swap_pair_classes(&layout, &mut weights);
    let tensor = |p: &crate::model::Parameter| Tensor {
        name: p.name.clone(),
        shape: p.shape.clone(),
        values: &weights[p.range.clone()],
    };
    let tensors: Vec<Tensor<'_>> = layout.parameters().iter().map(tensor).collect();
    tensors::write(out, path, &tensors).map(|_| ())
}

/// Holds what `directory` gives against the model: shape, every bit of the weights, and what they predict.
fn verify(directory: &Path, model: &ModelConfig, weights: &[f32]) -> Result<()> {
    let back = import::read(directory, 0)?;
    let shape = ModelConfig { init: model.init, ..back.model.clone() };
    if shape != *model || !back.report.fresh.is_empty() {
        return Err(Error::internal(format!("{shape:?} where {model:?} was written")));
    }
    let same = |a: &[f32], b: &[f32]| a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
    if !same(&back.weights, weights) {
        return Err(Error::internal("the weights differ"));
    }
    let batch = made_up(model);
    let predict = |weights: Vec<f32>| {
        let mut engine = FusedEngine::new(model, Optimizer::default(), weights, Precision::F32, 1)?;
        engine.predict(&batch)
    };
    let (found, expected) = (predict(back.weights)?, predict(weights.to_vec())?);
    match same(&found.mlm, &expected.mlm) && same(&found.nsp, &expected.nsp) {
        true => Ok(()),
        false => Err(Error::internal("the predictions differ")),
    }
}

/// Two short rows of tokens from all over the vocabulary.
fn made_up(model: &ModelConfig) -> HostBatch {
    let seq_len = model.max_positions.min(16);
    let cells = 2 * seq_len;
    let ids: Vec<u32> = (0..cells).map(|i| (i * model.vocab_size / cells) as u32).collect();
    HostBatch {
        rows: 2,
        seq_len,
        segments: (0..cells).map(|i| if i < seq_len { SEGMENT_A } else { SEGMENT_B }).collect(),
        lengths: vec![seq_len as u32; 2],
        masked: vec![0, cells as u32 - 1],
        labels: vec![ids[0], ids[cells - 1]],
        pairs: vec![PairLabel::IsNext; 2],
        ids,
        ..HostBatch::default()
    }
}
