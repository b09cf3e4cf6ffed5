//! The vocabulary among a model's files in transformers: found there, and written so that it is understood there.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::vocab::{SUBWORDS_FILE, Specials, Tokenizer, WORDS_FILE};
use crate::{Error, Result, durable};

/// WordPiece's tokens, one a line in the order of their ids.
const PIECES_FILE: &str = "vocab.txt";

/// Most bytes of a tokenizer's file.
const MOST_OF_A_TOKENIZER: u64 = 512 << 20;

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

/// Writes the files of `tokenizer` that transformers reads into `directory`, for a model of `positions` positions.
pub(super) fn write(directory: &Path, tokenizer: &dyn Tokenizer, positions: usize) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|e| Error::writing(&path, e))
    };
    tokenizer.save(&directory.join(tokenizer.file_name()))?;
    let whole = match tokenizer.file_name() {
        SUBWORDS_FILE => {
            let path = directory.join(SUBWORDS_FILE);
            let bytes = durable::read_at_most(&path, MOST_OF_A_TOKENIZER)?;
            let mut whole = serde_json::from_slice(&bytes)
                .map_err(|e| Error::internal(format!("{}: malformed", path.display())).caused_by(e))?;
            complete(&mut whole, tokenizer);
            whole
        }
        _ => of_words(tokenizer),
    };
    let normalizer = &whole["normalizer"];
    let is_pieces = whole["model"]["type"] == "WordPiece";
    if is_pieces {
        put(PIECES_FILE, tokens(tokenizer).map(|token| format!("{token}\n")).collect())?;
    }
    put(SUBWORDS_FILE, pretty(&whole))?;
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
    if is_pieces && normalizer["type"] == "BertNormalizer" {
        // For those who load vocab.txt with BertTokenizer.
        fields.insert("do_lower_case".to_owned(), normalizer["lowercase"].clone());
        fields.insert("strip_accents".to_owned(), normalizer["strip_accents"].clone());
        fields.insert("tokenize_chinese_chars".to_owned(), normalizer["handle_chinese_chars"].clone());
    }
    put("tokenizer_config.json", pretty(&settings))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("no map with keys that are not strings") + "\n"
}

fn tokens(tokenizer: &dyn Tokenizer) -> impl Iterator<Item = &str> {
    (0..tokenizer.len() as u32).filter_map(|id| tokenizer.token(id))
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

/// Adds what a tokenizer may lack and a model for pretraining needs: the tokens around a text.
fn complete(whole: &mut Value, tokenizer: &dyn Tokenizer) {
    if whole["post_processor"].is_null() {
        whole["post_processor"] = template(tokenizer);
    }
}

/// A word or character vocabulary as a tokenizer of the `tokenizers` library.
fn of_words(tokenizer: &dyn Tokenizer) -> Value {
    let specials = tokenizer.specials();
    let roles = [specials.pad, specials.unknown, specials.separator, specials.classify, specials.mask];
    let added: Vec<Value> = roles
        .iter()
        .map(|&id| {
            json!({"id": id, "content": tokenizer.token(id), "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let ids: serde_json::Map<String, Value> =
        (0u32..).zip(tokens(tokenizer)).map(|(id, token)| (token.to_owned(), id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": template(tokenizer),
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": tokenizer.token(specials.unknown)},
    })
}

/// The ids of `text`, in which the mask token's spelling stands for the mask.
pub fn encode_with_masks(tokenizer: &dyn Tokenizer, text: &str) -> Vec<u32> {
    let mask = tokenizer.specials().mask;
    let mut ids = Vec::new();
    for (i, piece) in text.split(tokenizer.token(mask).unwrap_or_default()).enumerate() {
        if i > 0 {
            ids.push(mask);
        }
        tokenizer.encode(piece, &mut ids);
    }
    ids
}
