//! The configuration of a run as flags: `run.toml`, from which `train --config` makes the same run again.

use std::path::Path;

use clap::ValueEnum;
use toml::Value;

use crate::corpus::{CorpusConfig, Format, Sources};
use crate::train::RunConfig;

/// The text of `run.toml`.
pub fn text(config: &RunConfig) -> String {
    let mut text = "\
# Everything that this run was begun with, nothing left to defaults. Once more, with the same weights:
#
#     bertstream train --config run.toml --output ANOTHER-DIRECTORY
#
# Paths are relative to where the run was begun. `bertstream config` tells what each key means.
\n"
    .to_owned();
    for (name, value) in flags(config) {
        text += &format!("{name} = {value}\n");
    }
    text
}

/// Every flag that something of the configuration follows from. Not among them: the directory of the run, and
/// what is written down by what it stands for (the preset, the size).
pub fn flags(config: &RunConfig) -> Vec<(&'static str, Value)> {
    let RunConfig { data, sample, collate, model, optimizer, schedule, compute, length, runtime, .. } =
        config;
    let first = &data.corpus[0];
    let all: Vec<&CorpusConfig> =
        data.corpus.iter().chain(data.test.iter().flat_map(|test| test.iter())).collect();
    // One flag goes for all texts; where they differ, each is told from its own content again.
    let shared = |of: &dyn Fn(&CorpusConfig) -> Option<Value>| {
        let value = of(first)?;
        all.iter().all(|source| of(source).as_ref() == Some(&value)).then_some(value)
    };
    // A test text of another format has its own told again, and so samples are named by their own flag.
    let format = shared(&|source| source.format.map(named));
    let ready = format.is_none() && first.format == Some(Format::Samples);
    let init = config.init_from.as_ref();
    let optional: Vec<(&'static str, Option<Value>)> = vec![
        (if ready { "samples" } else { "corpus" }, Some(sources(&data.corpus))),
        ("test", data.test.as_ref().map(sources)),
        ("vocab", Some(path(&data.vocab))),
        ("init", init.map(|init| path(&init.directory))),
        ("tokens", data.tokens.as_deref().map(path)),
        ("corpus-format", format),
        ("field", shared(&|source| source.field.clone().map(Value::String))),
        ("corpus-lines", first.lines.map(count)),
        ("io", Some(named(first.io))),
        ("encoding", Some(Value::String(first.encoding.clone()))),
        (
            "on-bad-bytes",
            Some(Value::String(if first.replace_bad_bytes { "replace" } else { "error" }.to_owned())),
        ),
        ("index-dir", shared(&|source| source.index_dir.as_deref().map(path))),
        ("seq-len", Some(count(sample.seq_len as u64))),
        ("pair", Some(named(sample.pair))),
        ("next-rate", Some(Value::Float(sample.next_rate))),
        ("short-seq-prob", Some(Value::Float(sample.short_rate))),
        ("truncate", Some(named(sample.truncate))),
        ("shuffle", Some(named(sample.shuffle))),
        ("window", Some(count(sample.window))),
        ("mask-rate", Some(Value::Float(sample.mask_rate))),
        ("mask-count", Some(named(sample.mask_count))),
        ("mask-unit", Some(named(sample.mask_unit))),
        ("mask-share", Some(Value::Float(sample.mask_share))),
        ("random-share", Some(Value::Float(sample.random_share))),
        ("predict-unknown", Some(Value::Boolean(sample.predict_unknown))),
        ("on-bad-line", Some(Value::String(if sample.skip_bad_lines { "skip" } else { "error" }.to_owned()))),
        ("seed", Some(count(sample.seed))),
        ("arch", Some(named(model.arch))),
        ("hidden", Some(count(model.hidden as u64))),
        ("layers", Some(count(model.layers as u64))),
        ("attn-heads", Some(count(model.heads as u64))),
        ("dropout", Some(short(model.dropout))),
        // Weights of a checkpoint are not drawn.
        ("initializer", init.is_none().then(|| named(model.init))),
        ("batch-size", Some(count(collate.batch_size as u64))),
        ("accumulate", Some(count(config.accumulate as u64))),
        ("epochs", length.epochs.map(count)),
        ("steps", length.steps.map(count)),
        ("pad", Some(named(collate.pad_to))),
        ("lr", Some(Value::Float(schedule.lr))),
        ("schedule", Some(named(schedule.kind))),
        ("warmup", Some(count(schedule.warmup))),
        ("optimizer", Some(named(optimizer.kind))),
        ("adam-weight-decay", Some(Value::Float(optimizer.weight_decay))),
        ("adam-beta1", Some(Value::Float(optimizer.beta1))),
        ("adam-beta2", Some(Value::Float(optimizer.beta2))),
        ("adam-epsilon", Some(Value::Float(optimizer.epsilon))),
        ("clip", Some(Value::Float(config.clip.unwrap_or(0.0)))),
        ("spikes", Some(Value::String(if config.skip_spikes { "skip" } else { "keep" }.to_owned()))),
        ("skip-steps", skipped(config)),
        ("workers", Some(count(runtime.workers as u64))),
        ("log-freq", Some(count(runtime.log_freq))),
        ("eval-every", runtime.eval_every.map(count)),
        ("eval-lines", data.test.as_ref().and_then(|test| test[0].lines).map(count)),
        ("save-every", Some(count(runtime.save_every.unwrap_or(0)))),
        ("keep", Some(count(runtime.keep as u64))),
        ("ram", runtime.ram.map(count)),
        (
            "tensorboard",
            runtime
                .tensorboard
                .as_ref()
                .map(|board| board.directory.as_deref().map_or(Value::Boolean(true), path)),
        ),
        (
            "histogram-every",
            runtime.tensorboard.as_ref().map(|board| count(board.histogram_every.unwrap_or(0))),
        ),
        (
            "examples-every",
            runtime.tensorboard.as_ref().map(|board| count(board.examples_every.unwrap_or(0))),
        ),
        ("engine", Some(named(compute.engine))),
        ("device", Some(Value::String(compute.device.to_string()))),
        ("precision", Some(named(compute.precision))),
        ("threads", Some(count(runtime.threads as u64))),
        ("recompute", compute.recompute.then_some(Value::Boolean(true))),
    ];
    optional.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Steps that are left out, where there are any.
fn skipped(config: &RunConfig) -> Option<Value> {
    let ranges = config.skip_steps.ranges().iter().map(|steps| Value::String(steps.to_string()));
    (!config.skip_steps.is_empty()).then(|| Value::Array(ranges.collect()))
}

/// `FILE` or `FILE:WEIGHT` of each.
fn sources(sources: &Sources) -> Value {
    let one = |source: &CorpusConfig| match source.weight {
        Some(weight) => Value::String(format!("{}:{weight}", source.path.display())),
        None => path(&source.path),
    };
    match &sources[..] {
        [only] => one(only),
        several => Value::Array(several.iter().map(one).collect()),
    }
}

fn path(path: &Path) -> Value {
    Value::String(path.display().to_string())
}

fn named(value: impl ValueEnum) -> Value {
    let value = value.to_possible_value().expect("no value of a flag is left out");
    Value::String(value.get_name().to_owned())
}

/// A number; as a string beyond what TOML's have room for.
fn count(number: u64) -> Value {
    i64::try_from(number).map_or_else(|_| Value::String(number.to_string()), Value::Integer)
}

/// A number of single precision with no more digits than it has.
fn short(number: f32) -> Value {
    Value::Float(number.to_string().parse().expect("a number as it was written"))
}
