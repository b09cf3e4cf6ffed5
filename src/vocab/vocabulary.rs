//! The vocabulary itself: tokens by id and ids by token, whatever a token is.
//!
//! Takes counted tokens or a list of tokens, gives ids. What a token is, is a type parameter
//! ([`Split`]), so that words and characters share every line of this file. Knows nothing of files
//! beyond handing itself to `file`.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::map::WordMap;
use super::ranking::Ranking;
use super::runs::{in_memory, merge};
use super::split::{Kind, words};
use super::{Direct, Encoder, Specials, Tokenizer, file};
use crate::{Error, Result, durable};

/// The tokens with a role, at ids `0..5`, in the reference's order and spelling.
pub const SPECIAL_TOKENS: [&str; 5] = ["<pad>", "<unk>", "<eos>", "<sos>", "<mask>"];

/// Ids of [`SPECIAL_TOKENS`] under their roles.
pub const SPECIALS: Specials = Specials { pad: 0, unknown: 1, separator: 2, classify: 3, mask: 4 };

/// Id of the first token without a role.
const FIRST_ORDINARY: u32 = SPECIAL_TOKENS.len() as u32;

/// A way to cut text into tokens, as a type.
pub trait Split: Send + Sync + 'static {
    /// Which way.
    const KIND: Kind;
    /// What stands between tokens when they are joined again.
    const JOINT: &'static str;
}

/// Options of [`Vocabulary::to_seq`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Put `<eos>` behind.
    pub eos: bool,
    /// Put `<sos>` in front.
    pub sos: bool,
    /// Pad or cut to this many ids.
    pub seq_len: Option<usize>,
}

/// Tokens and their ids: [`SPECIAL_TOKENS`] first, then the ordinary tokens.
pub struct Vocabulary<S> {
    tokens: Vec<Box<str>>,
    counts: Option<Vec<u64>>,
    ids: WordMap<u32>,
    split: PhantomData<S>,
}

impl<S: Split> Vocabulary<S> {
    /// The vocabulary of `texts`, counted in memory: ordinary tokens by frequency, descending, and
    /// alphabetically among equals; at most `max_size` of them (the specials do not count), each seen at
    /// least `min_freq` times. [`super::count::build`] does the same for files of any size.
    pub fn from_texts<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
        max_size: Option<usize>,
        min_freq: u64,
    ) -> Self {
        let mut seen = WordMap::<u64>::default();
        for text in texts {
            S::KIND.split(text.as_ref(), |token| *seen.slot(token) += 1);
        }
        let mut ranking = Ranking::new(max_size, min_freq);
        let runs = in_memory(seen.into_sorted()).into();
        merge(runs, 0, |word, count| ranking.offer(word, count)).expect("nothing is read from a disk");
        let (tokens, counts) = ranking.finish(0);
        Self::from_parts(tokens, Some(counts)).expect("counted tokens are distinct and follow the specials")
    }

    /// The vocabulary of `tokens` in id order, specials first, with how often each was seen.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] naming the entry where a special token is missing or misplaced, a token
    /// comes twice or can never come out of a text, or there are not as many counts as tokens.
    pub fn from_parts(tokens: Vec<Box<str>>, counts: Option<Vec<u64>>) -> Result<Self> {
        for (id, special) in SPECIAL_TOKENS.iter().enumerate() {
            match tokens.get(id).map(AsRef::as_ref) {
                Some(found) if found == *special => {}
                Some(found) => {
                    return Err(Error::data(format!("token {id} is {found:?} where {special:?} must stand")));
                }
                None => return Err(Error::data(format!("token {id}, {special:?}, is missing"))),
            }
        }
        if let Some(counts) = &counts
            && counts.len() != tokens.len()
        {
            return Err(Error::data(format!("{} counts for {} tokens", counts.len(), tokens.len())));
        }
        if u32::try_from(tokens.len()).is_err() {
            return Err(Error::data(format!(
                "{} tokens are more than 32-bit ids can tell apart",
                tokens.len()
            )));
        }
        for (id, token) in tokens.iter().enumerate().skip(SPECIAL_TOKENS.len()) {
            if let Some(objection) = S::KIND.objection(token) {
                let kind = S::KIND.name();
                return Err(Error::data(format!(
                    "token {id}, {token:?}, {objection}: no {kind} can match it"
                )));
            }
        }
        let mut ids = WordMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            if let Some(before) = ids.insert(token, id) {
                return Err(Error::data(format!("token {id}, {token:?}, is token {before} already")));
            }
        }
        Ok(Self { tokens, counts, ids, split: PhantomData })
    }

    /// The ids of `text` and how many they are before padding or cutting: the reference's `to_seq`. As
    /// there, a word spelled like a special token gets that token's id; [`Tokenizer::encode`], which reads
    /// corpora, does not let text do that.
    pub fn to_seq(&self, text: &str, options: &Encode) -> (Vec<u32>, usize) {
        let mut ids = Vec::new();
        if options.sos {
            ids.push(SPECIALS.classify);
        }
        S::KIND.split(text, |token| {
            ids.push(self.ids.get(token).unwrap_or(SPECIALS.unknown));
        });
        if options.eos {
            ids.push(SPECIALS.separator);
        }
        let length = ids.len();
        if let Some(seq_len) = options.seq_len {
            ids.resize(seq_len, SPECIALS.pad);
        }
        (ids, length)
    }

    /// The tokens of `ids`, padding among them only where `with_pad` says so (the reference has that the
    /// wrong way round). An id beyond the vocabulary is shown as `<id>`.
    pub fn from_seq(&self, ids: &[u32], with_pad: bool) -> Vec<String> {
        ids.iter()
            .filter(|&&id| with_pad || id != SPECIALS.pad)
            .map(|&id| self.token(id).map_or_else(|| format!("<{id}>"), str::to_owned))
            .collect()
    }

    /// [`Vocabulary::from_seq`] as one text.
    pub fn from_seq_joined(&self, ids: &[u32], with_pad: bool) -> String {
        self.from_seq(ids, with_pad).join(S::JOINT)
    }

    /// Appends the tokens of `other` that are not here yet, in the order of their ids there or, if
    /// `sorted`, alphabetically. They bring their counts; ids and counts that were here stay as they are.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where 32-bit ids do not suffice.
    pub fn extend(&mut self, other: &Self, sorted: bool) -> Result<()> {
        let mut new: Vec<u32> = (FIRST_ORDINARY..)
            .zip(other.ordinary_tokens())
            .filter(|(_, t)| self.id(t).is_none())
            .map(|p| p.0)
            .collect();
        if sorted {
            new.sort_unstable_by_key(|&id| &other.tokens[id as usize]);
        }
        if u32::try_from(self.tokens.len() + new.len()).is_err() {
            return Err(Error::data("more tokens than 32-bit ids can tell apart"));
        }
        for id in new {
            let token = &other.tokens[id as usize];
            *self.ids.slot(&**token) = self.tokens.len() as u32;
            self.tokens.push(token.clone());
            if let Some(counts) = &mut self.counts {
                counts.push(other.counts.as_ref().map_or(0, |theirs| theirs[id as usize]));
            }
        }
        Ok(())
    }

    /// Gives the ordinary tokens to `edit`, which may move, remove and add some, and numbers them anew in
    /// the order it leaves them: the reference's `vocab_rerank` after a change of its `itos`. Counts go
    /// with their tokens; a new token has none.
    ///
    /// # Errors
    /// As [`Vocabulary::from_parts`]; the vocabulary is then as it was.
    pub fn rerank(&mut self, edit: impl FnOnce(&mut Vec<Box<str>>)) -> Result<()> {
        let mut ordinary = self.tokens[SPECIAL_TOKENS.len()..].to_vec();
        edit(&mut ordinary);
        let tokens: Vec<Box<str>> = SPECIAL_TOKENS.iter().map(|&t| t.into()).chain(ordinary).collect();
        let count_of = |token: &str| self.id(token).zip(self.counts()).map_or(0, |(id, c)| c[id as usize]);
        let counts = self.counts.is_some().then(|| tokens.iter().map(|t| count_of(t)).collect());
        *self = Self::from_parts(tokens, counts)?;
        Ok(())
    }

    /// All tokens in id order.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tokens.iter().map(AsRef::as_ref)
    }

    fn ordinary_tokens(&self) -> impl Iterator<Item = &str> {
        self.tokens().skip(SPECIAL_TOKENS.len())
    }
}

impl<S: Split> Tokenizer for Vocabulary<S> {
    fn encoder(&self) -> Box<dyn Encoder + '_> {
        Box::new(Direct(self))
    }

    /// Corpus text cannot forge a token with a role: a word spelled `<pad>` is an unknown word.
    fn encode(&self, text: &str, out: &mut Vec<u32>) {
        S::KIND.split(text, |token| {
            let id = self.ids.get(token);
            out.push(id.filter(|&id| id >= FIRST_ORDINARY).unwrap_or(SPECIALS.unknown));
        });
    }

    fn encode_words(&self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>) {
        words(text, |word| {
            let first = out.len();
            self.encode(word.text(), out);
            begins.extend((first..out.len()).map(|at| at == first));
        });
    }

    fn knows_words(&self) -> bool {
        true
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
        SPECIALS
    }

    fn ordinary_len(&self) -> u32 {
        self.tokens.len() as u32 - FIRST_ORDINARY
    }

    fn ordinary(&self, k: u32) -> u32 {
        debug_assert!(k < self.ordinary_len());
        k + FIRST_ORDINARY
    }

    fn counts(&self) -> Option<&[u64]> {
        self.counts.as_deref()
    }

    /// XXH3 over the kind and, each with its length in front, the tokens.
    fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(S::KIND.name().as_bytes());
        for token in &self.tokens {
            hash.update(&(token.len() as u64).to_le_bytes());
            hash.update(token.as_bytes());
        }
        hash.digest()
    }

    fn file_name(&self) -> &'static str {
        super::WORDS_FILE
    }

    fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(32 * self.tokens.len());
        file::write(&mut bytes, S::KIND, &self.tokens, self.counts())
            .map_err(|error| Error::writing(path, error))?;
        durable::write_file(path, &bytes)
    }
}

impl<S> PartialEq for Vocabulary<S> {
    /// The same tokens at the same ids, seen as often.
    fn eq(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.counts == other.counts
    }
}

impl<S> Eq for Vocabulary<S> {}

impl<S: Split> fmt::Debug for Vocabulary<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vocabulary of {} tokens", S::KIND.name(), self.tokens.len())
    }
}
