//! Weights of a BERT that transformers wrote, in the order of our layout.
//!
//! Takes a directory with `config.json` and safetensors, gives a model's shape, its weights and what was
//! missing. Trusts no file: sizes are held against each other before memory is taken, every tensor has a
//! place or is named, every value is finite. A pickle is never opened, because reading one means running what
//! it says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use super::super::config::hex;
use super::{MODEL, SHARDS, config, swap_pair_classes};
use crate::model::{Layout, ModelConfig, Parameter};
use crate::vocab::Tokenizer;
use crate::{Error, ErrorKind, Result, durable};

/// A model read from a directory.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its shape, as `config.json` says; `vocab_size` counts the rows of its embedding.
    pub model: ModelConfig,
    /// In the order of `Layout::new(&model)`.
    pub weights: Vec<f32>,
    pub report: Report,
}

/// What was found besides the weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// 16 hexadecimal digits over names, shapes and values of all that was read.
    pub fingerprint: String,
    /// Parts that the checkpoint lacks and that start afresh.
    pub fresh: Vec<&'static str>,
}

/// How many tokens of a vocabulary a checkpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub kept: usize,
    /// Tokens whose rows start afresh.
    pub new: usize,
    /// Rows of the checkpoint that no token of the vocabulary has.
    pub dropped: usize,
}

/// The part without which no token can be predicted.
pub const MASKED_HEAD: &str = "the masked-token head";

/// Parts that checkpoints may lack, as a whole: by the prefix of their names.
const OPTIONAL: [(&str, &str); 3] = [
    ("bert.pooler.", "the pooler"),
    ("cls.predictions.", MASKED_HEAD),
    ("cls.seq_relationship.", "the next-sentence head"),
];

const TOKENS: &str = "bert.embeddings.word_embeddings.weight";
const TOKEN_BIAS: &str = "cls.predictions.bias";

/// Second names of tensors: what they must be equal to.
const TIED: [(&str, &str); 2] =
    [("cls.predictions.decoder.weight", TOKENS), ("cls.predictions.decoder.bias", TOKEN_BIAS)];

/// Buffers of older versions, which count positions and mean nothing.
const BUFFERS: [&str; 2] = ["bert.embeddings.position_ids", "bert.embeddings.token_type_ids"];

/// Most bytes of headers and of an index of shards beside the values.
const MOST_OF_HEADERS: u64 = 128 << 20;

/// Reads the model in `directory`. What it lacks starts as a fresh model's of this seed.
///
/// # Errors
/// [`ErrorKind::MissingInput`] where files are missing; [`ErrorKind::Data`] where one is damaged, a pickle,
/// or has tensors that are missing, unknown, of another shape or type, or not finite; [`ErrorKind::Mismatch`]
/// where it is a model that cannot be computed here.
pub fn read(directory: &Path, seed: u64) -> Result<Imported> {
    let model = config::read(directory)?;
    let layout = Layout::new(&model);
    let mut found = BTreeMap::new();
    for path in files(directory)? {
        // Values of four bytes at most, the embedding twice, and buffers.
        let most = 8 * layout.len() as u64 + MOST_OF_HEADERS;
        let bytes = durable::read_at_most(&path, most)?;
        collect(&bytes, &layout, &mut found).map_err(|e| e.context(path.display().to_string()))?;
    }
    assemble(model, &layout, found, seed).map_err(|e| e.context(directory.display().to_string()))
}

/// [`read`] of the text of a `config.json` and of the bytes of the one file with all tensors.
///
/// # Errors
/// As there, without the names of files.
pub fn from_bytes(config: &[u8], tensors: &[u8], seed: u64) -> Result<Imported> {
    let model = config::parse(config)?;
    let layout = Layout::new(&model);
    let mut found = BTreeMap::new();
    collect(tensors, &layout, &mut found)?;
    assemble(model, &layout, found, seed)
}

/// The files with the tensors.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let one = directory.join(MODEL);
    let index = directory.join(SHARDS);
    if one.exists() {
        return Ok(vec![one]);
    }
    if index.exists() {
        return shards(&index);
    }
    let pickled = |entry: &std::path::PathBuf| {
        let name = entry.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| name.ends_with(end)).then_some(name)
    };
    let entries = std::fs::read_dir(directory).map_err(|e| Error::reading(directory, e))?;
    let mut pickles: Vec<String> = entries.flatten().filter_map(|e| pickled(&e.path())).collect();
    pickles.sort();
    match pickles.first() {
        Some(name) => Err(Error::data(format!(
            "{}: {name} is a pickle, which is never opened here because that runs code from the file; where it \
             is trusted, write it anew: python -c \"from transformers import BertForPreTraining as B; \
             B.from_pretrained('{}').save_pretrained('{}', safe_serialization=True)\"",
            directory.display(),
            directory.display(),
            directory.join("safe").display(),
        ))),
        None => Err(Error::new(
            ErrorKind::MissingInput,
            format!(
                "{}: there is no {MODEL}: a directory is wanted that `save_pretrained` wrote",
                directory.display()
            ),
        )),
    }
}

/// The files that an index of shards names.
fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let bytes = durable::read_at_most(index, MOST_OF_HEADERS)?;
    let names = shard_names(&bytes).map_err(|e| e.context(index.display().to_string()))?;
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}

/// The base names of files in the text of an index of shards.
///
/// # Errors
/// [`ErrorKind::Data`] where it is malformed, names no file, or one that is no safetensors file beside it.
pub fn shard_names(text: &[u8]) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } =
        serde_json::from_slice(text).map_err(|e| Error::data("malformed").caused_by(e))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() {
        return Err(Error::data("it names no file"));
    }
    let is_beside = |name: &str| Path::new(name).file_name().is_some_and(|last| last == name);
    match names.iter().find(|name| !(is_beside(name) && name.ends_with(".safetensors"))) {
        Some(name) => Err(Error::data(format!("{name:?} is no safetensors file beside it"))),
        None => Ok(names),
    }
}

/// A tensor's values with its shape.
struct Found {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Takes the tensors of one file, under the names that they have in BertForPreTraining.
fn collect(bytes: &[u8], layout: &Layout, found: &mut BTreeMap<String, Found>) -> Result<()> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|e| Error::data(format!("not a safetensors file: {e}")))?;
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    for (given, view) in tensors {
        let name = full_name(&given);
        if BUFFERS.contains(&name.as_str()) {
            continue;
        }
        let place = TIED.iter().find(|(second, _)| *second == name).map_or(name.as_str(), |(_, first)| first);
        let Some(parameter) = layout.get(place) else {
            return Err(Error::data(format!(
                "tensor {given} has no place in a BERT for pretraining: leave it out when saving"
            )));
        };
        if view.shape() != parameter.shape {
            return Err(Error::data(format!(
                "tensor {given} is {:?}, by config.json it is {:?}",
                view.shape(),
                parameter.shape
            )));
        }
        let values = floats(&given, &view)?;
        if found.insert(name, Found { shape: parameter.shape.clone(), values }).is_some() {
            return Err(Error::data(format!("tensor {given} comes twice")));
        }
    }
    Ok(())
}

/// A tensor's name in BertForPreTraining: BertModel alone has no `bert.` in front, and the first checkpoints
/// call gain and shift of a norm gamma and beta.
fn full_name(given: &str) -> String {
    let body = ["embeddings.", "encoder.", "pooler."].iter().any(|start| given.starts_with(start));
    let name = if body { format!("bert.{given}") } else { given.to_owned() };
    match (name.strip_suffix("LayerNorm.gamma"), name.strip_suffix("LayerNorm.beta")) {
        (Some(norm), _) => format!("{norm}LayerNorm.weight"),
        (_, Some(norm)) => format!("{norm}LayerNorm.bias"),
        _ => name,
    }
}

/// The values in single precision.
fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    let halves = || view.data().as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::BF16 => halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        Dtype::F16 => halves().map(half).collect(),
        other => return Err(Error::data(format!("tensor {name} is {other:?}: F32, F16 or BF16 is wanted"))),
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::data(format!("tensor {name}: element {at} is {}", values[at]))),
        None => Ok(values),
    }
}

/// IEEE 754 half precision in single precision, which holds all of it exactly.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// One column of what was found, with fresh weights where a part is missing as a whole.
fn assemble(
    model: ModelConfig,
    layout: &Layout,
    mut found: BTreeMap<String, Found>,
    seed: u64,
) -> Result<Imported> {
    for (second, first) in TIED {
        let Some(tied) = found.remove(second) else { continue };
        match found.get(first) {
            None => {
                found.insert(first.to_owned(), tied);
            }
            Some(own) if own.values == tied.values => {}
            Some(_) => {
                return Err(Error::mismatch(format!(
                    "tensors {second} and {first} differ: only a head that shares them can be computed here"
                )));
            }
        }
    }
    // The embedding is no part of the head that shares it.
    let is_there = |prefix: &str| found.keys().any(|name| name.starts_with(prefix));
    let missing: Vec<_> = OPTIONAL.into_iter().filter(|(prefix, _)| !is_there(prefix)).collect();
    for parameter in layout.parameters() {
        let optional = missing.iter().any(|(prefix, _)| parameter.name.starts_with(prefix));
        if !optional && !found.contains_key(&parameter.name) {
            return Err(Error::data(format!("tensor {} is missing", parameter.name)));
        }
    }
    let mut hash = Xxh3::new();
    for (name, Found { shape, values }) in &found {
        hash.update(format!("{name} {shape:?}").as_bytes());
        values.iter().for_each(|value| hash.update(&value.to_le_bytes()));
    }
    let fresh = missing.iter().map(|(_, what)| *what).collect();
    let report = Report { fingerprint: hex(hash.digest()), fresh };
    // Of no use where every part is there, and then the draws are too dear for a large model.
    let mut weights = match missing.is_empty() {
        true => vec![0.0; layout.len()],
        false => layout.initial_weights(seed),
    };
    swap_pair_classes(layout, &mut weights);
    for parameter in layout.parameters() {
        if let Some(Found { values, .. }) = found.remove(&parameter.name) {
            weights[parameter.range.clone()].copy_from_slice(&values);
        }
    }
    swap_pair_classes(layout, &mut weights);
    Ok(Imported { model, weights, report })
}

impl Imported {
    /// The same model for the tokens of `tokenizer`. Rows of the embedding and biases of the head go with
    /// their tokens, those with a role with their role; a token that the checkpoint's own vocabulary, `own`,
    /// lacks starts as a fresh model's of this seed.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where no vocabulary says which row is which token and the number of rows is
    /// another, and where the checkpoint knows no ordinary token.
    pub fn for_vocabulary(
        self,
        own: Option<&dyn Tokenizer>,
        tokenizer: &dyn Tokenizer,
        seed: u64,
    ) -> Result<(Self, Fit)> {
        let (rows, tokens) = (self.model.vocab_size, tokenizer.len());
        let Some(own) = own else {
            return match rows == tokens {
                true => Ok((self, Fit { kept: tokens, new: 0, dropped: 0 })),
                false => Err(Error::mismatch(format!(
                    "the vocabulary has {tokens} tokens, the checkpoint rows for {rows}, and no vocabulary of its \
                     own that tells which row is which: put its tokenizer.json or vocab.txt beside {MODEL}"
                ))),
            };
        };
        let sources = sources(own, tokenizer, rows);
        let kept = sources.iter().flatten().count();
        if kept <= 5 && kept < tokens {
            return Err(Error::mismatch(
                "the vocabulary and the checkpoint's have no ordinary token in common: leave --vocab out to use \
                 the checkpoint's, or --init to start afresh",
            ));
        }
        let fit = Fit { kept, new: tokens - kept, dropped: rows - kept };
        if rows == tokens && (0..).zip(&sources).all(|(id, source)| *source == Some(id)) {
            return Ok((self, fit));
        }
        let model = ModelConfig { vocab_size: tokens, ..self.model.clone() };
        let (from, to) = (Layout::new(&self.model), Layout::new(&model));
        let mut weights = to.initial_weights(seed);
        for (old, new) in from.parameters().iter().zip(to.parameters()) {
            let (old_values, values) = (&self.weights[old.range.clone()], &mut weights[new.range.clone()]);
            match is_by_token(new) {
                true => copy_rows(&sources, old_values, values),
                false => values.copy_from_slice(old_values),
            }
        }
        Ok((Self { model, weights, ..self }, fit))
    }
}

fn is_by_token(parameter: &Parameter) -> bool {
    [TOKENS, TOKEN_BIAS].contains(&parameter.name.as_str())
}

/// For each id of `tokenizer` the checkpoint's row of the same token, below `rows`.
fn sources(own: &dyn Tokenizer, tokenizer: &dyn Tokenizer, rows: usize) -> Vec<Option<usize>> {
    let (theirs, ours) = (own.specials(), tokenizer.specials());
    let roles = [
        (ours.pad, theirs.pad),
        (ours.unknown, theirs.unknown),
        (ours.separator, theirs.separator),
        (ours.classify, theirs.classify),
        (ours.mask, theirs.mask),
    ];
    let source = |id: u32| {
        let by_role = roles.iter().find(|(ours, _)| *ours == id).map(|(_, theirs)| *theirs);
        let row = by_role.or_else(|| own.id(tokenizer.token(id)?))? as usize;
        (row < rows).then_some(row)
    };
    (0..tokenizer.len() as u32).map(source).collect()
}

/// Copies each row that has a source; rows have one width.
fn copy_rows(sources: &[Option<usize>], from: &[f32], to: &mut [f32]) {
    let width = to.len() / sources.len();
    for (source, row) in sources.iter().zip(to.chunks_exact_mut(width)) {
        if let Some(source) = source {
            row.copy_from_slice(&from[source * width..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_older_and_smaller_checkpoints_are_understood() {
        let check = |given: &str, expected: &str| assert_eq!(full_name(given), expected);
        check("bert.pooler.dense.bias", "bert.pooler.dense.bias");
        check("pooler.dense.bias", "bert.pooler.dense.bias");
        check("embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight");
        check("bert.encoder.layer.0.output.LayerNorm.beta", "bert.encoder.layer.0.output.LayerNorm.bias");
        check("cls.predictions.transform.LayerNorm.gamma", "cls.predictions.transform.LayerNorm.weight");
        check("cls.seq_relationship.bias", "cls.seq_relationship.bias");
    }

    #[test]
    fn half_precision_is_exact() {
        let check =
            |bits: u16, expected: f32| assert_eq!(half(bits).to_bits(), expected.to_bits(), "{bits:x}");
        check(0x0000, 0.0);
        check(0x8000, -0.0);
        check(0x3c00, 1.0);
        check(0xc000, -2.0);
        check(0x3555, 0.333_251_95);
        check(0x7bff, 65504.0);
        check(0x0001, 5.960_464_5e-8);
        check(0x0400, 6.103_515_6e-5);
        check(0x7c00, f32::INFINITY);
        assert!(half(0x7e00).is_nan());
    }
}
