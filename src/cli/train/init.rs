//! `train --init`: weights from a checkpoint of transformers in place of drawn ones.
//!
//! Takes the flags and the vocabulary, gives the part of the configuration that follows from the checkpoint,
//! and its weights. The checkpoint is read anew where a run goes on that has saved nothing yet, and must then
//! be the same.

use std::path::{Path, PathBuf};

use super::super::output::{grouped, tell_row};
use super::super::trained::no_vocabulary;
use super::Args;
use crate::model::{Arch, Layout, ModelConfig};
use crate::train::transformers::import::{self, Fit};
use crate::train::transformers::{Imported, tokenizer};
use crate::train::{InitFrom, RunConfig, Schedule};
use crate::vocab::{self, Tokenizer};
use crate::{Error, Result};

/// The vocabulary of a new run: the one that is named, else the checkpoint's own.
pub fn vocabulary(args: &Args) -> Result<PathBuf> {
    match (&args.vocab, &args.init) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(directory)) => tokenizer::find(directory).ok_or_else(|| no_vocabulary(directory)),
        (None, None) => Err(Error::usage("a new run needs --vocab FILE")),
    }
}

/// The configuration of a new run over what `--init` gives, where it is there: the shape of the model. Tells
/// what is taken and what starts afresh.
///
/// # Errors
/// Those of [`import::read`]; [`crate::ErrorKind::Usage`] where a flag contradicts the checkpoint.
pub fn over(args: &Args, base: RunConfig, tokenizer: &dyn Tokenizer) -> Result<RunConfig> {
    let Some(directory) = &args.init else { return Ok(base) };
    let seed = args.sample.seed.unwrap_or(base.sample.seed);
    let (imported, fit) = read(directory, tokenizer, seed)?;
    let model = imported.model;
    let refuse = |flag: &str, given: &dyn std::fmt::Display, has: &dyn std::fmt::Display| {
        Err(Error::usage(format!(
            "{flag} {given}: the checkpoint in {} has {has}; leave the flag out",
            directory.display()
        )))
    };
    let flags = &args.model;
    for (flag, given, has) in [
        ("--hidden", flags.hidden, model.hidden),
        ("--layers", flags.layers, model.layers),
        ("--attn-heads", flags.attn_heads, model.heads),
    ] {
        if let Some(given) = given.filter(|given| *given != has) {
            return refuse(flag, &given, &has);
        }
    }
    if flags.arch == Some(Arch::Reference) {
        return refuse("--arch", &"reference", &"bert");
    }
    let sample = args.sample.over(base.sample.clone());
    let seq_len = match args.sample.seq_len {
        Some(asked) if asked > model.max_positions => {
            return Err(Error::usage(format!(
                "--seq-len {asked}: the checkpoint in {} has learned {} positions: --seq-len {} at most",
                directory.display(),
                model.max_positions,
                model.max_positions
            )));
        }
        _ => sample.seq_len.min(model.max_positions),
    };
    say(directory, &model, &imported.report.fresh, fit);
    let init_from = InitFrom { directory: directory.clone(), fingerprint: imported.report.fingerprint };
    Ok(RunConfig {
        schedule: Schedule { hidden: model.hidden, ..base.schedule },
        sample: crate::sample::SampleConfig { seq_len, ..base.sample },
        init_from: Some(init_from),
        model,
        ..base
    })
}

fn say(directory: &Path, model: &ModelConfig, fresh: &[&str], fit: Fit) {
    tell_row(
        "init",
        format_args!(
            "{}: hidden {}, {} layers, {} heads, {} positions; {} tokens kept, {} new, {} left out",
            directory.display(),
            model.hidden,
            model.layers,
            model.heads,
            model.max_positions,
            grouped(fit.kept as u64),
            grouped(fit.new as u64),
            grouped(fit.dropped as u64)
        ),
    );
    for part in fresh {
        tracing::warn!("{}: {part} is not in it and starts afresh", directory.display());
    }
}

/// The checkpoint for the tokens of `tokenizer`.
fn read(directory: &Path, tokenizer: &dyn Tokenizer, seed: u64) -> Result<(Imported, Fit)> {
    let imported = import::read(directory, seed)?;
    let own = tokenizer::find(directory).map(|path| vocab::load(&path)).transpose()?;
    imported
        .for_vocabulary(own.as_deref(), tokenizer, seed)
        .map_err(|e| e.context(directory.display().to_string()))
}

/// The weights before the first step: drawn, or those of the checkpoint that the configuration names.
///
/// # Errors
/// [`crate::ErrorKind::Mismatch`] where the checkpoint is no longer what the run was begun with.
pub fn weights(config: &RunConfig, tokenizer: &dyn Tokenizer) -> Result<Vec<f32>> {
    let Some(InitFrom { directory, fingerprint }) = &config.init_from else {
        return Ok(Layout::new(&config.model).initial_weights(config.sample.seed));
    };
    let (imported, _) = read(directory, tokenizer, config.sample.seed)?;
    let shape = ModelConfig { dropout: config.model.dropout, init: config.model.init, ..imported.model };
    if imported.report.fingerprint != *fingerprint || shape != config.model {
        return Err(Error::mismatch(format!(
            "{}: fingerprint {}, the run was begun with {fingerprint}: the checkpoint changed since",
            directory.display(),
            imported.report.fingerprint
        )));
    }
    Ok(imported.weights)
}
