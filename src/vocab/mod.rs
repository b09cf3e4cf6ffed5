//! What a token is: text to ids and back.
//!
//! Takes text (whole files when counting, one sentence when encoding), gives ids. Knows nothing of
//! documents, pairs or masks. [`Tokenizer`] is the seam: everything downstream sees ids and the few
//! facts of this trait, never words.

use crate::Result;

pub mod char;
pub mod count;
mod encoder;
mod file;
mod map;
mod ranking;
mod runs;
pub mod split;
pub mod subword;
pub mod vocabulary;
pub mod word;

pub use char::CharVocab;
pub use encoder::{Direct, Encoder};
pub use split::Kind;
pub use subword::SubwordTokenizer;
pub use subword::document::{BertOptions, BertVocab};
pub use vocabulary::{Encode, SPECIAL_TOKENS, SPECIALS};
pub use word::WordVocab;

/// The name of a word or character vocabulary in a run directory.
pub const WORDS_FILE: &str = "vocab.json";

/// The name of a subword tokenizer in a run directory.
pub const SUBWORDS_FILE: &str = "tokenizer.json";

/// Ids of the tokens with a role, under their roles. The reference's names are `<pad> <unk> <eos>
/// <sos> <mask>` at 0..=4, where `<sos>` serves as classification token and `<eos>` as separator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    pub pad: u32,
    pub unknown: u32,
    pub separator: u32,
    pub classify: u32,
    pub mask: u32,
}

/// Text to ids and back. One instance is shared by all workers.
pub trait Tokenizer: Send + Sync {
    /// What a thread that encodes many texts does that with: it may remember what it has seen, and gives the
    /// same ids as [`Tokenizer::encode`] and [`Tokenizer::encode_words`].
    fn encoder(&self) -> Box<dyn Encoder + '_>;

    /// Appends the ids of `text` to `out`, without any special token around them. Words that the
    /// vocabulary lacks become [`Specials::unknown`].
    fn encode(&self, text: &str, out: &mut Vec<u32>);

    /// The same, and to `begins` for each id whether it begins a word, as this tokenizer cuts words: what
    /// masks of whole words are made of. Called only where [`Tokenizer::knows_words`].
    fn encode_words(&self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>);

    /// Whether this tokenizer tells words apart; one that takes a text for a single word does not.
    fn knows_words(&self) -> bool;

    /// The token of an id; `None` beyond the vocabulary.
    fn token(&self, id: u32) -> Option<&str>;

    /// The id of a token spelled exactly like this.
    fn id(&self, token: &str) -> Option<u32>;

    /// Number of ids; the model's embedding has as many rows.
    fn len(&self) -> usize;

    /// Whether there is no token at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens with a role.
    fn specials(&self) -> Specials;

    /// How many tokens have no role: what random replacements are drawn from.
    fn ordinary_len(&self) -> u32;

    /// The `k`-th token without a role, `k < ordinary_len()`.
    fn ordinary(&self, k: u32) -> u32;

    /// How often each id was seen when the vocabulary was made, in id order (the unknown token's
    /// entry counts the words that did not make it); `None` where the file does not say.
    fn counts(&self) -> Option<&[u64]>;

    /// 64 bits that change whenever any id would be given to another token.
    fn fingerprint(&self) -> u64;

    /// The name that its file has in a run directory.
    fn file_name(&self) -> &'static str;

    /// Writes the vocabulary to a file so that [`load`] makes the same one of it.
    fn save(&self, path: &std::path::Path) -> Result<()>;
}

/// Loads a vocabulary: one of our files, a `tokenizer.json`, the `vocab.txt` of a BERT, or a directory that
/// holds one of these (a run, or a model of `transformers`).
///
/// ```
/// use bertstream::vocab::{self, Tokenizer, WordVocab};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("vocab.json");
/// WordVocab::from_texts(["the cat sees the dog"], None, 1).save(&path)?;
/// let vocabulary = vocab::load(&path)?;
/// let mut ids = Vec::new();
/// vocabulary.encode("the dog barks", &mut ids);
/// let tokens: Vec<_> = ids.iter().map(|&id| vocabulary.token(id).unwrap_or_default()).collect();
/// assert_eq!(tokens, ["the", "dog", "<unk>"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`crate::ErrorKind::MissingInput`] where it is not there, [`crate::ErrorKind::Data`] naming file and
/// entry where it is not a vocabulary. A pickle is refused, never read.
pub fn load(path: &std::path::Path) -> Result<Box<dyn Tokenizer>> {
    file::load(path)
}

/// [`load`] of the bytes of a file, whose name tells a `vocab.txt` and is for messages, and of what lies beside it.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(
    path: &std::path::Path,
    bytes: Vec<u8>,
    beside: &subword::Beside,
) -> Result<Box<dyn Tokenizer>> {
    file::from_bytes(path, bytes, beside)
}

/// The `tokenizer.json` that does for `transformers` what the vocabulary at `path` does here: a subword
/// tokenizer's own, or one that is made of our words or characters
/// ([`subword::document::word_level`] says what differs).
///
/// # Errors
/// As [`load`].
pub fn as_tokenizer_json(path: &std::path::Path) -> Result<Vec<u8>> {
    file::as_tokenizer_json(path)
}

/// The WordPiece vocabulary at `path` as a `vocab.txt` holds it, with the options of its pipeline; `None`
/// where the tokenizer is none that such a file can hold.
///
/// # Errors
/// As [`load`].
pub fn bert_vocab(path: &std::path::Path) -> Result<Option<BertVocab>> {
    file::bert_vocab(path)
}

/// The ids of a text in which people mark what is to be filled in by the spelling of the mask token. What
/// stands between the marks is encoded as any text, so that a word vocabulary, which takes a word `<mask>`
/// of a corpus for an unknown one, has its masks too.
pub fn encode_with_masks(tokenizer: &dyn Tokenizer, text: &str) -> Vec<u32> {
    let mask = tokenizer.specials().mask;
    let mut ids = Vec::new();
    let Some(spelling) = tokenizer.token(mask) else { return ids };
    for (at, part) in text.split(spelling).enumerate() {
        if at > 0 {
            ids.push(mask);
        }
        tokenizer.encode(part, &mut ids);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_in_a_text_is_the_mask_token() {
        let vocab = WordVocab::from_texts(["the cat sat"], None, 1);
        let [cat, sat, the] = ["cat", "sat", "the"].map(|word| vocab.id(word).unwrap());
        let (mask, unknown) = (SPECIALS.mask, SPECIALS.unknown);
        let check = |text: &str, expected: &[u32]| {
            assert_eq!(encode_with_masks(&vocab, text), expected, "{text:?}");
        };
        check("the <mask> sat", &[the, mask, sat]);
        check("<mask><mask>cat", &[mask, mask, cat]);
        check("the [MASK]", &[the, unknown]);
        check("<mask>", &[mask]);
        check("", &[]);
    }
}
