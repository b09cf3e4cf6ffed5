//! The vocabulary among a model's files in transformers: found there, and written so that it is understood
//! there.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::vocab::{self, BertVocab, SUBWORDS_FILE, Specials, Tokenizer, WORDS_FILE};
use crate::{Error, Result};

/// WordPiece's tokens, one a line in the order of their ids.
const PIECES_FILE: &str = "vocab.txt";

/// The vocabulary in a directory of transformers': our own of words, whole tokenizers, lists of WordPiece's
/// tokens, in this order. `None` where there is none.
pub fn find(directory: &Path) -> Option<PathBuf> {
    let is_ours = |path: &Path| {
        // Other tokenizers have a `vocab.json` as well, which is a part of theirs.
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(200).read_to_end(&mut head));
        read.is_ok() && String::from_utf8_lossy(&head).contains("bertstream-vocab")
    };
    let words = directory.join(WORDS_FILE);
    let others = [SUBWORDS_FILE, PIECES_FILE].map(|name| directory.join(name));
    std::iter::once(words).filter(|path| is_ours(path)).chain(others).find(|path| path.is_file())
}

/// Writes the files of `tokenizer` that transformers reads into `directory`, for a model of `positions`
/// positions.
pub(super) fn write(directory: &Path, tokenizer: &dyn Tokenizer, positions: usize) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|e| Error::writing(&path, e))
    };
    let own = directory.join(tokenizer.file_name());
    tokenizer.save(&own)?;
    let pieces = vocab::bert_vocab(&own)?;
    if let Some(BertVocab { tokens, .. }) = &pieces {
        put(PIECES_FILE, tokens.iter().map(|token| format!("{token}\n")).collect())?;
    }
    let whole = complete(vocab::as_tokenizer_json(&own)?, tokenizer)?;
    let path = directory.join(SUBWORDS_FILE);
    std::fs::write(&path, whole).map_err(|e| Error::writing(&path, e))?;
    let roles = roles(tokenizer);
    put("special_tokens_map.json", pretty(&roles))?;
    let mut settings = json!({
        // Loads tokenizer.json as it stands, whatever its parts are.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": false,
    });
    let fields = settings.as_object_mut().expect("made as an object");
    fields.extend(roles.as_object().expect("made as an object").clone());
    if let Some(BertVocab { options, .. }) = pieces {
        // For those who load vocab.txt with BertTokenizer.
        fields.extend(json!(options).as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    }
    put("tokenizer_config.json", pretty(&settings))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("no map with keys that are not strings") + "\n"
}

/// The tokens with a role under transformers' names of the roles.
fn roles(tokenizer: &dyn Tokenizer) -> Value {
    let Specials { pad, unknown, separator, classify, mask } = tokenizer.specials();
    let token = |id| tokenizer.token(id).unwrap_or_default();
    json!({
        "pad_token": token(pad),
        "unk_token": token(unknown),
        "sep_token": token(separator),
        "cls_token": token(classify),
        "mask_token": token(mask),
    })
}

/// What puts the classification token and the separators around texts.
fn template(tokenizer: &dyn Tokenizer) -> Value {
    let Specials { separator, classify, .. } = tokenizer.specials();
    let name = |id| tokenizer.token(id).unwrap_or_default();
    let special = |id, segment: u32| json!({"SpecialToken": {"id": name(id), "type_id": segment}});
    let text = |which: &str, segment: u32| json!({"Sequence": {"id": which, "type_id": segment}});
    let entry = |id: u32| json!({"id": name(id), "ids": [id], "tokens": [name(id)]});
    let mut used = serde_json::Map::new();
    used.insert(name(classify).to_owned(), entry(classify));
    used.insert(name(separator).to_owned(), entry(separator));
    json!({
        "type": "TemplateProcessing",
        "single": [special(classify, 0), text("A", 0), special(separator, 0)],
        "pair": [special(classify, 0), text("A", 0), special(separator, 0), text("B", 1), special(separator, 1)],
        "special_tokens": used,
    })
}

/// A `tokenizer.json` with what it may lack and a model for pretraining needs: the tokens around a text. Left
/// byte for byte as it is where they are there.
fn complete(bytes: Vec<u8>, tokenizer: &dyn Tokenizer) -> Result<Vec<u8>> {
    let mut whole: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::internal("the tokenizer's own JSON is malformed").caused_by(e))?;
    if !whole["post_processor"].is_null() {
        return Ok(bytes);
    }
    whole["post_processor"] = template(tokenizer);
    Ok(pretty(&whole).into_bytes())
}
