//! `config.json` of a BERT in transformers: read strictly, written as `save_pretrained` does.

use std::path::Path;

use serde_json::{Value, json};

use super::CONFIG;
use crate::model::{Arch, Init, ModelConfig};
use crate::{Error, Result, durable};

/// Most bytes of a `config.json`: a classifier's, with its labels, has some hundred thousand.
const MOST_OF_A_CONFIG: u64 = 16 << 20;

/// Largest sizes that are believed, so that products of them cannot overflow.
const MOST_TOKENS: u64 = 1 << 28;
const MOST_HIDDEN: u64 = 1 << 16;
const MOST_LAYERS: u64 = 1 << 10;
const MOST_POSITIONS: u64 = 1 << 20;

/// Fields with the one value under which a model computes what [`Arch::Bert`] does. One that is missing has
/// transformers' default, which is the same.
fn expected() -> [(&'static str, Value); 5] {
    [
        ("hidden_act", json!("gelu")),
        ("position_embedding_type", json!("absolute")),
        ("is_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("tie_word_embeddings", json!(true)),
    ]
}

/// Reads the shape of the model in `directory`.
///
/// # Errors
/// [`crate::ErrorKind::MissingInput`] where there is no `config.json`, [`crate::ErrorKind::Data`] where it is
/// malformed, [`crate::ErrorKind::Mismatch`] naming the field where it is a model that this program cannot
/// compute.
pub(super) fn read(directory: &Path) -> Result<ModelConfig> {
    let path = directory.join(CONFIG);
    let bytes = durable::read_at_most(&path, MOST_OF_A_CONFIG)?;
    parse(&bytes).map_err(|e| e.context(path.display().to_string()))
}

/// The shape of the model in the text of a `config.json`, with the errors of [`read`].
pub(super) fn parse(text: &[u8]) -> Result<ModelConfig> {
    let value: Value = serde_json::from_slice(text).map_err(|e| Error::data("malformed").caused_by(e))?;
    model(&value)
}

/// Whether `config.json` of this directory is one of transformers.
pub fn is_transformers(directory: &Path) -> bool {
    let value = durable::read_at_most(&directory.join(CONFIG), MOST_OF_A_CONFIG)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    value.is_some_and(|value| value.get("model_type").is_some() || value.get("architectures").is_some())
}

fn model(value: &Value) -> Result<ModelConfig> {
    let is = |name: &str| value.get(name).unwrap_or(&Value::Null);
    let unlike = |name: &str, wanted: &str| {
        Err(Error::mismatch(format!("{name} is {}: only {wanted} can be computed here", is(name))))
    };
    if is("model_type") != "bert" {
        return unlike("model_type", "\"bert\"");
    }
    for (name, wanted) in expected() {
        if !is(name).is_null() && *is(name) != wanted {
            return unlike(name, &wanted.to_string());
        }
    }
    let epsilon = is("layer_norm_eps").as_f64().unwrap_or(1e-12);
    if (epsilon - 1e-12).abs() > 1e-15 {
        return unlike("layer_norm_eps", "1e-12");
    }
    let number = |name: &str, default: u64, most: u64| match is(name) {
        Value::Null => Ok(default as usize),
        found => match found.as_u64() {
            Some(n) if (1..=most).contains(&n) => Ok(n as usize),
            _ => Err(Error::data(format!("{name} is {found}: no number in 1..={most}"))),
        },
    };
    let hidden = number("hidden_size", 768, MOST_HIDDEN)?;
    if number("intermediate_size", 3072, 4 * MOST_HIDDEN)? != 4 * hidden {
        return unlike("intermediate_size", "four times hidden_size");
    }
    if number("type_vocab_size", 2, 1 << 16)? != 2 {
        return unlike("type_vocab_size", "2");
    }
    if is("pad_token_id").as_u64().unwrap_or(0) != 0 {
        return unlike("pad_token_id", "0");
    }
    let rate = |name: &str| is(name).as_f64().unwrap_or(0.1) as f32;
    let (dropout, of_attention) = (rate("hidden_dropout_prob"), rate("attention_probs_dropout_prob"));
    if dropout != of_attention {
        tracing::warn!(
            "{CONFIG}: hidden_dropout_prob {dropout} and attention_probs_dropout_prob {of_attention}: the \
             first is used for both"
        );
    }
    let model = ModelConfig {
        arch: Arch::Bert,
        vocab_size: number("vocab_size", 30522, MOST_TOKENS)?,
        hidden,
        layers: number("num_hidden_layers", 12, MOST_LAYERS)?,
        heads: number("num_attention_heads", 12, MOST_HIDDEN)?,
        dropout,
        init: Init::Bert,
        max_positions: number("max_position_embeddings", 512, MOST_POSITIONS)?,
    };
    if !hidden.is_multiple_of(model.heads) || hidden < 2 || !(0.0..1.0).contains(&dropout) {
        return Err(Error::data(format!(
            "hidden_size {hidden}, num_attention_heads {} and hidden_dropout_prob {dropout} make no model",
            model.heads
        )));
    }
    Ok(model)
}

/// The text of `config.json` for this model.
pub(super) fn text(model: &ModelConfig, pad_id: u32) -> String {
    let value = json!({
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.feed_forward(),
        "max_position_embeddings": model.max_positions,
        "type_vocab_size": 2,
        "pad_token_id": pad_id,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        // Through text: the nearest double of 0.1 in single precision has seventeen digits.
        "hidden_dropout_prob": decimal(model.dropout),
        "attention_probs_dropout_prob": decimal(model.dropout),
        "position_embedding_type": "absolute",
        "tie_word_embeddings": true,
        "use_cache": true,
        // The name that version 4 has for it, and that of version 5.
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    serde_json::to_string_pretty(&value).expect("no map with keys that are not strings") + "\n"
}

/// The shortest decimal that is this number in single precision.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().expect("a number's own digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_computed_is_named() {
        let written = ModelConfig {
            arch: Arch::Bert,
            vocab_size: 40,
            hidden: 16,
            layers: 2,
            heads: 4,
            dropout: 0.1,
            init: Init::Bert,
            max_positions: 32,
        };
        let good: Value = serde_json::from_str(&text(&written, 0)).unwrap();
        assert_eq!(model(&good).unwrap(), written);
        let check = |field: &str, value: Value, code: Option<u8>| {
            let mut changed = good.clone();
            changed[field] = value;
            match (model(&changed), code) {
                (Ok(_), None) => {}
                (Err(error), Some(code)) => {
                    assert_eq!(error.kind().exit_code(), code, "{error}");
                    assert!(error.to_string().contains(field), "{error} does not name {field}");
                }
                (found, code) => panic!("{field}: {found:?} where {code:?} was expected"),
            }
        };
        check("position_embedding_type", Value::Null, None);
        check("tie_word_embeddings", Value::Null, None);
        check("model_type", json!("roberta"), Some(78));
        check("model_type", Value::Null, Some(78));
        check("hidden_act", json!("gelu_new"), Some(78));
        check("hidden_act", json!("relu"), Some(78));
        check("position_embedding_type", json!("relative_key"), Some(78));
        check("is_decoder", json!(true), Some(78));
        check("add_cross_attention", json!(true), Some(78));
        check("tie_word_embeddings", json!(false), Some(78));
        check("layer_norm_eps", json!(1e-5), Some(78));
        check("intermediate_size", json!(63), Some(78));
        check("type_vocab_size", json!(1), Some(78));
        check("pad_token_id", json!(3), Some(78));
        check("hidden_size", json!(-1), Some(65));
        check("vocab_size", json!(1e30), Some(65));
        check("num_hidden_layers", json!(u64::MAX), Some(65));
        check("num_attention_heads", json!(3), Some(65));
        check("hidden_dropout_prob", json!(1.5), Some(65));
    }
}
