//! Writing a `tokenizer.json`: the pipelines around a vocabulary, each as its users' tools expect it.
//!
//! Takes tokens in id order, gives the bytes of a file. Every tokenizer that does not come from such a file
//! becomes one here first, so that there is one way to load. Knows nothing of training.

use std::collections::BTreeSet;

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::split::Kind;
use super::super::vocabulary::{SPECIAL_TOKENS, SPECIALS};
use super::{Algorithm, Beside, Role, SPELLINGS};
use crate::{Error, Result};

/// The tokens with a role of every tokenizer that is trained here, at ids `0..5`: BERT's own spelling, in
/// which its users' tools find them without being told.
pub const TRAINED_SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// What stands in front of a piece that continues a word, in BERT's vocabularies.
const CONTINUES: &str = "##";

/// Longest word of WordPiece in characters, as in the original; what is longer is unknown.
pub(super) const MAX_WORD_CHARS: usize = 100;

/// How a BERT tokenizer treats text before it cuts words, under the names of `tokenizer_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BertOptions {
    #[serde(rename = "do_lower_case")]
    pub lower_case: bool,
    /// `None` follows `lower_case`.
    pub strip_accents: Option<bool>,
    /// Whether every Chinese character is a word.
    #[serde(rename = "tokenize_chinese_chars")]
    pub chinese: bool,
}

/// A WordPiece vocabulary as `vocab.txt` holds it, with the options that this file does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BertVocab {
    /// In the order of their ids.
    pub tokens: Vec<String>,
    pub options: BertOptions,
}

/// The model of a document. Vocabularies stand in the order of their ids.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Model<'m> {
    WordPiece {
        unk_token: &'m str,
        continuing_subword_prefix: &'m str,
        max_input_chars_per_word: usize,
        #[serde(serialize_with = "by_id")]
        vocab: &'m [String],
    },
    #[serde(rename = "BPE")]
    Bpe {
        dropout: Option<f32>,
        unk_token: Option<&'m str>,
        continuing_subword_prefix: Option<&'m str>,
        end_of_word_suffix: Option<&'m str>,
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        #[serde(serialize_with = "by_id")]
        vocab: &'m [String],
        merges: Vec<(&'m str, &'m str)>,
    },
    Unigram {
        unk_id: u32,
        vocab: &'m [(String, f64)],
        byte_fallback: bool,
    },
    WordLevel {
        #[serde(serialize_with = "by_id")]
        vocab: &'m [String],
        unk_token: &'m str,
    },
}

impl<'m> Model<'m> {
    /// The WordPiece model of `tokens`.
    pub(super) fn wordpiece(tokens: &'m [String], unknown: &'m str) -> Self {
        Self::WordPiece {
            unk_token: unknown,
            continuing_subword_prefix: CONTINUES,
            max_input_chars_per_word: MAX_WORD_CHARS,
            vocab: tokens,
        }
    }

    /// The byte-level model of `tokens` and their merges. All bytes are tokens, so nothing is unknown.
    pub(super) fn bpe(tokens: &'m [String], merges: &[(u32, u32)]) -> Self {
        let token = |id: u32| tokens[id as usize].as_str();
        Self::Bpe {
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: tokens,
            merges: merges.iter().map(|&(a, b)| (token(a), token(b))).collect(),
        }
    }

    /// The Unigram model of `pieces`, which begin with [`TRAINED_SPECIALS`].
    pub(super) fn unigram(pieces: &'m [(String, f64)]) -> Self {
        Self::Unigram { unk_id: 1, vocab: pieces, byte_fallback: false }
    }
}

/// A vocabulary as the map that these files hold, in the order of the ids.
fn by_id<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().zip(0_u32..))
}

/// A whole file.
#[derive(Serialize)]
struct Document<'m> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'m>,
}

impl Document<'_> {
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("tokens, numbers and names are JSON")
    }
}

/// A special token: found in any text, as it is spelled.
fn special(token: &str, id: u32) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })
}

/// `[CLS] A [SEP] B [SEP]`, the segments numbered 0 and 1.
fn bert_frame(separator: (&str, u32), classify: (&str, u32)) -> Value {
    json!({ "type": "BertProcessing", "sep": separator, "cls": classify })
}

fn bert_normalizer(options: &BertOptions) -> Value {
    json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": options.chinese,
        "strip_accents": options.strip_accents, "lowercase": options.lower_case,
    })
}

/// The file of a tokenizer trained here.
///
/// WordPiece is BERT's own pipeline. Byte-level BPE is RoBERTa's, with a space put in front of every text so
/// that its first word is the same token as elsewhere. Unigram is XLM-R's, with Unicode's normal form in
/// place of a compiled table. What is not `cased` is lower-cased (and, with WordPiece, loses its accents).
pub(super) fn trained(algorithm: Algorithm, cased: bool, model: Model<'_>) -> Vec<u8> {
    let lower_cased = |form: &str| match cased {
        true => json!({ "type": form }),
        false => json!({ "type": "Sequence", "normalizers": [{ "type": form }, { "type": "Lowercase" }] }),
    };
    let metaspace = || json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true });
    let byte_level =
        || json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let (normalizer, pre_tokenizer, decoder) = match algorithm {
        Algorithm::Wordpiece => (
            bert_normalizer(&BertOptions { lower_case: !cased, strip_accents: None, chinese: true }),
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "WordPiece", "prefix": CONTINUES, "cleanup": true }),
        ),
        Algorithm::Bpe => (lower_cased("NFC"), byte_level(), byte_level()),
        Algorithm::Unigram => (
            lower_cased("NFKC"),
            json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace()] }),
            metaspace(),
        ),
    };
    let document = Document {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: TRAINED_SPECIALS.iter().zip(0..).map(|(token, id)| special(token, id)).collect(),
        normalizer,
        pre_tokenizer,
        post_processor: bert_frame((TRAINED_SPECIALS[3], 3), (TRAINED_SPECIALS[2], 2)),
        decoder,
        model,
    };
    document.bytes()
}

/// The file of one of our own vocabularies, for `transformers`: words or characters as tokens, `<sos> A <eos>
/// B <eos>` as frame. It gives the same ids with one exception: a word of the text that is spelled like a
/// special token, `<mask>`, is that token there, as everywhere in that library, and an unknown word here.
pub fn word_level(kind: Kind, tokens: &[String]) -> Vec<u8> {
    // Python's `str.split()` cuts at four separators that Unicode's White_Space lacks.
    let cut = |pattern: &str, behavior: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": false });
    let white_space = cut(r"[\s\x{1c}-\x{1f}]+", "Removed");
    let (pre_tokenizer, decoder) = match kind {
        Kind::Word => (white_space, Value::Null),
        Kind::Char => {
            let each = cut(r"(?s).", "Isolated");
            let both = json!({ "type": "Sequence", "pretokenizers": [white_space, each] });
            (both, json!({ "type": "Fuse" }))
        }
    };
    let document = Document {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: SPECIAL_TOKENS.iter().zip(0..).map(|(token, id)| special(token, id)).collect(),
        normalizer: Value::Null,
        pre_tokenizer,
        post_processor: bert_frame(
            (SPECIAL_TOKENS[2], SPECIALS.separator),
            (SPECIAL_TOKENS[3], SPECIALS.classify),
        ),
        decoder,
        model: Model::WordLevel { vocab: tokens, unk_token: SPECIAL_TOKENS[1] },
    };
    document.bytes()
}

/// The file of a BERT tokenizer with the WordPiece vocabulary in `text`, a token a line. How it treats case
/// and accents is what lies beside says, or is guessed from the tokens.
///
/// # Errors
/// [`crate::ErrorKind::Data`] naming the line of a token that is empty or comes twice, or the role that no
/// token has.
pub fn from_vocab_txt(text: &[u8], beside: &Beside) -> Result<Vec<u8>> {
    let text =
        std::str::from_utf8(text).map_err(|error| Error::data("not text in UTF-8").caused_by(error))?;
    // The library cuts white space off as well, and so does the file of a BERT from elsewhere.
    let tokens: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    let mut seen = std::collections::HashMap::with_capacity(tokens.len());
    for (line, token) in (1..).zip(&tokens) {
        if token.is_empty() {
            return Err(Error::data(format!("line {line} is empty where a token must stand")));
        }
        if let Some(first) = seen.insert(token.as_str(), line) {
            return Err(Error::data(format!("line {line}, {token:?}, is the token of line {first} already")));
        }
    }
    let mut roles = Vec::new();
    for (role, spellings) in SPELLINGS {
        let named = beside.role(role);
        let found = named
            .map_or_else(|| spellings.iter().copied().find(|s| seen.contains_key(s)), Some)
            .and_then(|token| Some((token, u32::try_from(seen.get(token)? - 1).ok()?)));
        let Some(found) = found else {
            return Err(Error::data(format!(
                "no line has the {} ({}): is this a WordPiece vocabulary, a token a line?",
                role.key(),
                named.map_or_else(|| spellings.join(" or "), str::to_owned)
            )));
        };
        roles.push(found);
    }
    let of = |role: Role| {
        let at = SPELLINGS.iter().position(|(other, _)| *other == role).expect("every role is listed");
        roles[at]
    };
    let lower_case = beside.lower_case.unwrap_or_else(|| {
        let bracketed = |token: &str| token.starts_with('[') || token.starts_with('<');
        let cased = tokens.iter().find(|t| !bracketed(t) && t.chars().any(char::is_uppercase));
        match cased {
            Some(token) => {
                tracing::info!("a cased vocabulary, since it holds {token:?}: text keeps its case")
            }
            None => tracing::info!("no token has an upper-case letter: text is lower-cased"),
        }
        cased.is_none()
    });
    let options = BertOptions {
        lower_case,
        strip_accents: beside.strip_accents,
        chinese: beside.chinese.unwrap_or(true),
    };
    let special_ids: BTreeSet<(u32, &str)> = roles.iter().map(|&(token, id)| (id, token)).collect();
    let document = Document {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: special_ids.into_iter().map(|(id, token)| special(token, id)).collect(),
        normalizer: bert_normalizer(&options),
        pre_tokenizer: json!({ "type": "BertPreTokenizer" }),
        post_processor: bert_frame(of(Role::Separator), of(Role::Classify)),
        decoder: json!({ "type": "WordPiece", "prefix": CONTINUES, "cleanup": true }),
        model: Model::wordpiece(&tokens, of(Role::Unknown).0),
    };
    Ok(document.bytes())
}

/// The vocabulary and options of a tokenizer that a `vocab.txt` can hold: WordPiece in BERT's own pipeline.
/// `None` where it is another.
pub fn bert_vocab<'t>(json: &[u8], tokens: impl Iterator<Item = &'t str>) -> Option<BertVocab> {
    #[derive(Deserialize)]
    struct Parts {
        normalizer: Option<Normalizer>,
        pre_tokenizer: Option<Value>,
        model: WordPiece,
    }
    #[derive(Deserialize)]
    struct Normalizer {
        r#type: String,
        handle_chinese_chars: Option<bool>,
        strip_accents: Option<bool>,
        lowercase: Option<bool>,
    }
    #[derive(Deserialize)]
    struct WordPiece {
        r#type: String,
        continuing_subword_prefix: Option<String>,
    }
    let Parts { normalizer, pre_tokenizer, model } = serde_json::from_slice(json).ok()?;
    let normalizer = normalizer.filter(|normalizer| normalizer.r#type == "BertNormalizer")?;
    let usual = model.r#type == "WordPiece"
        && model.continuing_subword_prefix.as_deref() == Some(CONTINUES)
        && pre_tokenizer?["type"] == "BertPreTokenizer";
    usual.then(|| BertVocab {
        tokens: tokens.map(str::to_owned).collect(),
        options: BertOptions {
            lower_case: normalizer.lowercase.unwrap_or(true),
            strip_accents: normalizer.strip_accents,
            chinese: normalizer.handle_chinese_chars.unwrap_or(true),
        },
    })
}
