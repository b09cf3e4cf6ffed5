//! What a `tokenizer.json` must be before the crate that encodes sees it.
//!
//! Takes bytes, gives what was found in them that is needed later. The crate was written for files that it
//! wrote itself; crafted ones make it panic, or encode at random. Knows nothing of files or of ids that the
//! crate gives out.

use serde_json::Value;

use super::MAX_BYTES;
use super::cut::Cut;
use crate::{Error, Result};

/// Names of the known parts, by their place in the file: (place, list inside a `Sequence`, names).
const PARTS: [(&str, &str, &[&str]); 4] = [
    (
        "normalizer",
        "normalizers",
        &[
            "BertNormalizer",
            "Strip",
            "StripAccents",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Lowercase",
            "Nmt",
            "Precompiled",
            "Replace",
            "Prepend",
            "ByteLevel",
        ],
    ),
    (
        "pre_tokenizer",
        "pretokenizers",
        &[
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Metaspace",
            "Whitespace",
            "WhitespaceSplit",
            "Split",
            "Punctuation",
            "Digits",
            "UnicodeScripts",
            "FixedLength",
        ],
    ),
    (
        "post_processor",
        "processors",
        &["BertProcessing", "RobertaProcessing", "ByteLevel", "TemplateProcessing"],
    ),
    (
        "decoder",
        "decoders",
        &[
            "BPEDecoder",
            "ByteLevel",
            "WordPiece",
            "Metaspace",
            "CTC",
            "Replace",
            "Fuse",
            "Strip",
            "ByteFallback",
        ],
    ),
];

/// What was found.
pub(super) struct Checked {
    /// Added tokens with the ids that the file gives them.
    pub added: Vec<(String, u32)>,
    /// Those among them that are marked as special, in the order of their ids.
    pub special: Vec<String>,
    /// What the model gives for a word that it cannot spell.
    pub unknown: Option<String>,
    /// The file without truncation and padding, where it has any.
    pub without_limits: Option<Vec<u8>>,
    /// Where texts can be cut without changing their ids.
    pub cut: Option<Cut>,
}

/// Checks the bytes of a `tokenizer.json`.
///
/// # Errors
/// [`crate::ErrorKind::Data`] naming the entry.
pub(super) fn check(json: &[u8]) -> Result<Checked> {
    if json.len() as u64 > MAX_BYTES {
        return Err(Error::data(format!("larger than {MAX_BYTES} bytes")));
    }
    let mut file: Value =
        serde_json::from_slice(json).map_err(|error| Error::data("not a tokenizer.json").caused_by(error))?;
    for (place, list, names) in PARTS {
        check_part(&file[place], place, list, names)?;
    }
    let (mut added, mut special) = (Vec::new(), Vec::new());
    for (at, entry) in list(&file, "added_tokens")?.iter().enumerate() {
        let content = entry["content"].as_str().filter(|content| !content.is_empty());
        let id = entry["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(content), Some(id)) = (content, id) else {
            return Err(Error::data(format!(
                "added_tokens entry {at} needs \"content\" with a character and \"id\" below 2^32"
            )));
        };
        if entry["special"].as_bool() == Some(true) {
            special.push((id, content.to_owned()));
        }
        added.push((content.to_owned(), id));
    }
    special.sort_unstable();
    let unknown = check_model(&file["model"])?;
    let limited = ["truncation", "padding"].iter().any(|&limit| !file[limit].is_null());
    let without_limits = limited.then(|| {
        file["truncation"] = Value::Null;
        file["padding"] = Value::Null;
        serde_json::to_vec(&file).expect("what was parsed can be printed")
    });
    let special = special.into_iter().map(|(_, content)| content).collect();
    Ok(Checked { added, special, unknown, without_limits, cut: Cut::of(&file) })
}

/// The list under `name`; none where it is missing.
fn list<'f>(file: &'f Value, name: &str) -> Result<&'f [Value]> {
    match &file[name] {
        Value::Null => Ok(&[]),
        Value::Array(entries) => Ok(entries),
        _ => Err(Error::data(format!("\"{name}\" is not a list"))),
    }
}

/// Refuses a part that is not known, alone or in a sequence. Parsing has bounded the depth already.
fn check_part(part: &Value, place: &str, inside: &str, names: &[&str]) -> Result<()> {
    if part.is_null() {
        return Ok(());
    }
    match part["type"].as_str() {
        Some("Sequence") => {
            list(part, inside)?.iter().try_for_each(|part| check_part(part, place, inside, names))
        }
        Some("Precompiled") => serde_json::from_value::<tokenizers::normalizers::Precompiled>(part.clone())
            .map(|_| ())
            .map_err(|error| Error::data("\"normalizer\" of type Precompiled").caused_by(error)),
        Some(name) if names.contains(&name) => Ok(()),
        Some(name) => Err(Error::data(format!(
            "\"{place}\" is of type {name:?}, which is not known here; known are Sequence, {}",
            names.join(", ")
        ))),
        None => Err(Error::data(format!("\"{place}\" has no \"type\""))),
    }
}

/// Checks the model, and gives the token that stands for what it cannot spell.
fn check_model(model: &Value) -> Result<Option<String>> {
    let kind = model["type"].as_str();
    if !kind.is_none_or(|kind| ["BPE", "WordPiece", "WordLevel", "Unigram"].contains(&kind)) {
        return Err(Error::data(format!(
            "\"model\" is of type {:?}, which is not known here; known are BPE, WordPiece, WordLevel, Unigram",
            kind.unwrap_or_default()
        )));
    }
    if model["dropout"].as_f64().is_some_and(|dropout| dropout != 0.0) {
        return Err(Error::data(
            "\"model\" has \"dropout\": it would encode the same text differently each time; set it to null",
        ));
    }
    if let Value::Array(pieces) = &model["vocab"] {
        let bad = pieces.iter().position(|piece| !(piece[0].is_string() && piece[1].is_number()));
        if let Some(bad) = bad {
            return Err(Error::data(format!("\"vocab\" entry {bad} is not a token and its score")));
        }
        let mut tokens: Vec<&str> = pieces.iter().filter_map(|piece| piece[0].as_str()).collect();
        tokens.sort_unstable();
        if let Some(twice) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::data(format!("\"vocab\" holds {:?} twice", twice[0])));
        }
        let unknown = model["unk_id"].as_u64().and_then(|id| pieces.get(usize::try_from(id).ok()?));
        return match unknown.and_then(|piece| piece[0].as_str()) {
            Some(token) => Ok(Some(token.to_owned())),
            None => Err(Error::data("\"unk_id\" names no entry of \"vocab\": unknown characters need one")),
        };
    }
    let Value::Object(vocabulary) = &model["vocab"] else {
        return Err(Error::data("\"model\" has no \"vocab\""));
    };
    if let Some((token, id)) = vocabulary.iter().find(|(_, id)| id.as_u64().is_none_or(|id| id >= 1 << 32)) {
        return Err(Error::data(format!("\"vocab\" gives {token:?} the id {id}, not a number below 2^32")));
    }
    match model["unk_token"].as_str() {
        Some(token) if vocabulary.contains_key(token) => Ok(Some(token.to_owned())),
        // WordPiece and WordLevel must have it; BPE may be without, but not name one that is not there.
        Some(token) => Err(Error::data(format!("\"unk_token\" {token:?} is not in \"vocab\""))),
        None => Ok(None),
    }
}
