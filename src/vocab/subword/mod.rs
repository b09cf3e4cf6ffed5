//! Subword tokenizers: what Hugging Face's `tokenizers` reads and writes, behind the seam of this room.
//!
//! Takes a `tokenizer.json`, or a `vocab.txt` of WordPiece; gives ids identical to those of Python's
//! `tokenizers`, without special tokens around them. Trusts no file: `check` has looked at it before the
//! crate that encodes does, and whatever that crate answers is looked at again here. Knows nothing of
//! training ([`mod@train`]) beyond being what it makes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tokenizers::{Model as _, OffsetReferential, OffsetType, PreTokenizer as _};
use xxhash_rust::xxh3::Xxh3;

use super::map::WordMap;
use super::{Direct, Encoder, SUBWORDS_FILE, Specials, Tokenizer};
use crate::error::panic_message;
use crate::{Error, Result, durable};

mod beside;
mod cache;
mod check;
mod cut;
pub mod document;
mod merges;
pub mod train;

pub use beside::Beside;
use cache::CachedEncoder;
use cut::Cut;
pub use train::{Algorithm, TrainConfig, Trained, train};

/// Largest `tokenizer.json` or `vocab.txt` that is read, in bytes. The largest published ones have a quarter
/// of a million tokens in 35 MB.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Spellings by which a token with a role is found where nothing beside the file names it, the common ones
/// first. The last ones are those of our word vocabularies.
const SPELLINGS: [(Role, &[&str]); 5] = [
    (Role::Pad, &["[PAD]", "<pad>"]),
    (Role::Unknown, &["[UNK]", "<unk>"]),
    (Role::Classify, &["[CLS]", "<s>", "<cls>", "<sos>"]),
    (Role::Separator, &["[SEP]", "</s>", "<sep>", "<eos>"]),
    (Role::Mask, &["[MASK]", "<mask>"]),
];

/// What a token can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Pad,
    Unknown,
    Classify,
    Separator,
    Mask,
}

impl Role {
    /// Its name in the files that lie beside a tokenizer.
    pub fn key(self) -> &'static str {
        match self {
            Self::Pad => "pad_token",
            Self::Unknown => "unk_token",
            Self::Classify => "cls_token",
            Self::Separator => "sep_token",
            Self::Mask => "mask_token",
        }
    }

    /// The id of a token with this role.
    fn of(self, specials: &Specials) -> u32 {
        match self {
            Self::Pad => specials.pad,
            Self::Unknown => specials.unknown,
            Self::Classify => specials.classify,
            Self::Separator => specials.separator,
            Self::Mask => specials.mask,
        }
    }
}

/// A tokenizer of the `tokenizers` crate.
pub struct SubwordTokenizer {
    inner: tokenizers::Tokenizer,
    /// The file that it was made of: parsing it again gives the same scores to the last bit, which printing
    /// what was parsed does not promise.
    json: Box<[u8]>,
    tokens: Vec<Box<str>>,
    ids: WordMap<u32>,
    specials: Specials,
    ordinary: Vec<u32>,
    knows_words: bool,
    /// Where texts can be cut without changing their ids.
    cut: Option<Cut>,
    fingerprint: u64,
    /// Whether a text that could not be encoded has been told of.
    told: AtomicBool,
}

impl SubwordTokenizer {
    /// The tokenizer in the bytes of a `tokenizer.json`. Truncation and padding are left out: samples are
    /// cut and padded elsewhere. What lies beside the file names the tokens with a role where it can.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where it is no such file, one with a part that is not known here, one with
    /// gaps or duplicates among its ids, or one in which a token with a role is missing.
    pub fn from_json(json: &[u8], beside: &Beside) -> Result<Self> {
        let mut checked = check::check(json)?;
        let json = checked.without_limits.take().unwrap_or_else(|| json.to_vec());
        let parsed = contained(|| tokenizers::Tokenizer::from_bytes(&json));
        let mut inner = parsed.map_err(|why| Error::data(format!("not a usable tokenizer.json: {why}")))?;
        // What the file marks as special is cut out of any text, whatever a program did before saving it.
        inner.set_encode_special_tokens(false);
        let tokens = tokens_by_id(&inner, &checked.added)?;
        let mut ids = WordMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            ids.insert(token, id);
        }
        let find = |role| find_role(role, &checked, beside, &ids);
        let specials = Specials {
            pad: find(Role::Pad)?,
            unknown: find(Role::Unknown)?,
            separator: find(Role::Separator)?,
            classify: find(Role::Classify)?,
            mask: find(Role::Mask)?,
        };
        for (at, (a, _)) in SPELLINGS.iter().enumerate() {
            if let Some((b, _)) = SPELLINGS[..at].iter().find(|(b, _)| a.of(&specials) == b.of(&specials)) {
                return Err(Error::data(format!("{} and {} are the same token", b.key(), a.key())));
            }
        }
        let special: Vec<u32> = checked.special.iter().filter_map(|token| ids.get(&**token)).collect();
        let ordinary = (0..tokens.len() as u32)
            .filter(|id| {
                let role = SPELLINGS.iter().any(|(role, _)| role.of(&specials) == *id);
                !role && special.binary_search(id).is_err() && !is_unused(&tokens[*id as usize])
            })
            .collect();
        let fingerprint = fingerprint(&inner, &specials)?;
        let mut made = Self {
            inner,
            json: json.into_boxed_slice(),
            tokens,
            ids,
            specials,
            ordinary,
            knows_words: false,
            cut: checked.cut,
            fingerprint,
            told: AtomicBool::new(false),
        };
        made.knows_words = made.probe()?;
        Ok(made)
    }

    /// Encodes a few texts, so that what cannot encode any is refused here; tells whether two words are two.
    fn probe(&self) -> Result<bool> {
        let mut words = 0;
        for text in ["", " ", "\u{0}\u{e9}\u{301} \u{6771}\u{1f469}\u{200d}\u{1f680}", "aa bb"] {
            words = 0;
            self.try_encode(text, |_, begins| words += u32::from(begins)).map_err(|why| {
                Error::data(format!("this tokenizer fails on {text:?}, hence on any text like it: {why}"))
            })?;
        }
        Ok(words > 1)
    }

    /// Gives `each` the ids of `text`, each with whether it begins a word: a piece that the pre-tokenizer
    /// makes, or an added token. The crate's own `encode_fast` does the same and builds columns of offsets
    /// and strings that nobody here reads.
    fn try_encode(&self, text: &str, mut each: impl FnMut(u32, bool)) -> Result<(), String> {
        contained(|| {
            let added = self.inner.get_added_vocabulary();
            let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            let model = self.inner.get_model();
            for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                let made;
                let tokens = match tokens {
                    Some(tokens) => tokens,
                    None => {
                        made = model.tokenize(piece)?;
                        &made
                    }
                };
                for (at, token) in tokens.iter().enumerate() {
                    each(token.id, at == 0);
                }
            }
            Ok(())
        })
    }

    /// A text that the crate cannot encode is one unknown word. No file that passed the checks is known to
    /// come here; it must not end a run of days where one does.
    fn tell_failure(&self, why: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("a text that cannot be encoded counts as one unknown token (told once): {why}");
        }
    }

    /// The pieces into which normalizer and pre-tokenizer cut `text`: what a model is trained on.
    fn pieces(&self, text: &str, mut each: impl FnMut(&str)) -> Result<(), String> {
        contained(|| {
            let mut pieces =
                self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                // An added token is spelled out in the text; it has its id already.
                if tokens.is_none() {
                    each(piece);
                }
            }
            Ok(())
        })
    }

    /// All tokens in id order.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tokens.iter().map(AsRef::as_ref)
    }

    /// The file that [`Tokenizer::save`] writes.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Which spellings name the roles, where the first that the vocabulary holds is not the one.
    fn unusual_roles(&self) -> BTreeMap<&'static str, &str> {
        let of = |&(role, spellings): &(Role, &[&str])| {
            let id = role.of(&self.specials);
            let found = spellings.iter().find_map(|spelling| self.ids.get(*spelling));
            (found != Some(id)).then(|| (role.key(), &*self.tokens[id as usize]))
        };
        SPELLINGS.iter().filter_map(of).collect()
    }
}

/// What `run` gives, its error or its panic told as text. Its panics come of crafted files, and there is
/// nothing behind it that a panic could leave half done: the crate's caches are thrown away entry by entry.
fn contained<T>(
    run: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the tokenizers library gave up: {}", panic_message(&*panic))),
    }
}

/// The tokens in id order, of which there must be no gap and no duplicate, and the added ones at the ids
/// that the file gives them.
fn tokens_by_id(inner: &tokenizers::Tokenizer, added: &[(String, u32)]) -> Result<Vec<Box<str>>> {
    for (token, id) in added {
        match inner.token_to_id(token) {
            Some(given) if given == *id => {}
            given => {
                let given = given.map_or_else(|| "none".to_owned(), |given| given.to_string());
                return Err(Error::data(format!(
                    "the added token {token:?} has id {id} in the file, but following its vocabulary it \
                     gets {given}: save the tokenizer anew with a current version of `tokenizers`"
                )));
            }
        }
    }
    let vocabulary = inner.get_vocab(true);
    let mut tokens: Vec<Option<Box<str>>> = vec![None; vocabulary.len()];
    let mut entries: Vec<(String, u32)> = vocabulary.into_iter().collect();
    entries.sort_unstable();
    for (token, id) in entries {
        let many = tokens.len();
        match tokens.get_mut(id as usize) {
            Some(Some(other)) => {
                return Err(Error::data(format!("{other:?} and {token:?} have the same id, {id}")));
            }
            Some(place) => *place = Some(token.into()),
            None => {
                return Err(Error::data(format!(
                    "token {token:?} has id {id}, but there are {many} tokens: ids must have no gaps"
                )));
            }
        }
    }
    let tokens: Option<Vec<Box<str>>> = tokens.into_iter().collect();
    Ok(tokens.expect("as many tokens as places, and none of them has two"))
}

/// The id of the token with `role`: the model's own unknown token, or what lies beside the file says, or by
/// its spelling.
fn find_role(role: Role, checked: &check::Checked, beside: &Beside, ids: &WordMap<u32>) -> Result<u32> {
    let own = checked.unknown.as_deref().filter(|_| role == Role::Unknown);
    if let Some(token) = own.or_else(|| beside.role(role)) {
        return ids.get(token).ok_or_else(|| {
            Error::data(format!("{} is {token:?}, which the vocabulary does not hold", role.key()))
        });
    }
    let (_, spellings) = SPELLINGS.iter().find(|(r, _)| *r == role).expect("every role has its spellings");
    spellings.iter().find_map(|spelling| ids.get(*spelling)).ok_or_else(|| {
        Error::data(format!(
            "there is no {}: neither {} in the vocabulary, nor a special_tokens_map.json beside it that names \
             another; a BERT needs all five of pad, unk, cls, sep and mask (add it with \
             `tokenizer.add_special_tokens` and save anew, or: bertstream tokenizer train)",
            role.key(),
            spellings.join(" nor ")
        ))
    })
}

/// Whether this is one of the places that BERT's vocabularies keep free, `[unused1]`.
fn is_unused(token: &str) -> bool {
    let inside = token.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let inside = inside.or_else(|| token.strip_prefix('<').and_then(|t| t.strip_suffix('>')));
    inside.and_then(|t| t.strip_prefix("unused")).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

/// XXH3 over the crate's own serialisation, which orders everything by id or by name, and the roles.
fn fingerprint(inner: &tokenizers::Tokenizer, specials: &Specials) -> Result<u64> {
    let text = contained(|| inner.to_string(false))
        .map_err(|why| Error::data(format!("this tokenizer cannot be written down again: {why}")))?;
    let mut hash = Xxh3::new();
    hash.update(text.as_bytes());
    for (role, _) in SPELLINGS {
        hash.update(&role.of(specials).to_le_bytes());
    }
    Ok(hash.digest())
}

impl Tokenizer for SubwordTokenizer {
    fn encoder(&self) -> Box<dyn Encoder + '_> {
        match self.cut {
            Some(cut) => Box::new(CachedEncoder::new(self, cut)),
            None => Box::new(Direct(self)),
        }
    }

    fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let start = out.len();
        if let Err(why) = self.try_encode(text, |id, _| out.push(id)) {
            out.truncate(start);
            out.push(self.specials.unknown);
            self.tell_failure(&why);
        }
    }

    fn encode_words(&self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>) {
        let (start, words) = (out.len(), begins.len());
        let encoded = self.try_encode(text, |id, begin| {
            out.push(id);
            begins.push(begin);
        });
        if let Err(why) = encoded {
            out.truncate(start);
            begins.truncate(words);
            out.push(self.specials.unknown);
            begins.push(true);
            self.tell_failure(&why);
        }
    }

    fn knows_words(&self) -> bool {
        self.knows_words
    }

    fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(AsRef::as_ref)
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token)
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn specials(&self) -> Specials {
        self.specials
    }

    fn ordinary_len(&self) -> u32 {
        self.ordinary.len() as u32
    }

    fn ordinary(&self, k: u32) -> u32 {
        self.ordinary[k as usize]
    }

    fn counts(&self) -> Option<&[u64]> {
        None
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn file_name(&self) -> &'static str {
        SUBWORDS_FILE
    }

    /// Where spelling alone would not find the roles again, a `special_tokens_map.json` goes beside it.
    fn save(&self, path: &Path) -> Result<()> {
        let unusual = self.unusual_roles();
        if !unusual.is_empty() {
            let text = serde_json::to_vec_pretty(&unusual).expect("names and tokens are JSON");
            durable::write_file(&durable::parent(path).join(beside::ROLES_FILE), &text)?;
        }
        durable::write_file(path, &self.json)
    }
}
