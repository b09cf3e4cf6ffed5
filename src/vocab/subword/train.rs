//! Training a subword tokenizer on counted words.
//!
//! Takes every distinct word with its count, gives a tokenizer and what it was made of. Words come from
//! anywhere; only the most frequent that the memory holds are kept, and the share of the text that they are
//! is told. Each word is cut by the tokenizer's own pipeline once, whatever its count, and the pieces are
//! trained on. So the result depends on the words, the configuration and the memory, never on threads. Knows
//! nothing of files.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokenizers::AddedToken;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::document::{MAX_WORD_CHARS, Model, TRAINED_SPECIALS, trained};
use super::merges::learn;
use super::{Beside, SubwordTokenizer, contained};
use crate::vocab::Tokenizer;
use crate::vocab::count::Summary;
use crate::{Error, ErrorKind, Result};

/// Fewest tokens that make a tokenizer of text.
const MIN_SIZE: usize = 32;

/// Every byte has a character in byte-level BPE.
const BYTES: usize = 256;

/// Of the tokens, the share that single characters may take: with their continuing forms two thirds.
const ALPHABET_SHARE: usize = 3;

/// Memory for a word, in bytes: while it waits, as a piece, and in the tables of the trainer. The first part
/// is for the word itself, the second for each byte of it: 4 for its characters' ids and up to 12 for where
/// its pairs stand, or the suffix array of Unigram (text, suffixes and four tables of 4 or 8 bytes each).
const WORD_BYTES: usize = 128;
const MERGES_BYTES: usize = 20;
const SUFFIX_BYTES: usize = 64;

/// Candidates that Unigram begins with, at most, and the memory for one of them: a string, two maps, and
/// some nodes of a tree of hash maps.
const SEEDS: usize = 1_000_000;
const SEED_BYTES: usize = 1024;

/// What Unigram's trainer can count up to: it sums in 32 bits.
const UNIGRAM_COUNT: u64 = 1 << 31;

/// Which model of subwords is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// BERT's own: the longest pieces that spell a word, `##` before those that continue it.
    Wordpiece,
    /// RoBERTa's: pairs of bytes joined in the order they were learned; no text is unknown.
    Bpe,
    /// XLM-R's and ALBERT's: the likeliest way to cut a word.
    Unigram,
}

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub algorithm: Algorithm,
    /// All tokens, the five with a role included.
    pub vocab_size: usize,
    /// Whether upper and lower case differ.
    pub cased: bool,
    /// Words seen less often are left out.
    pub min_freq: u64,
    /// Memory for the words that are trained on, in bytes.
    pub memory: usize,
}

/// A tokenizer that has been trained, with what was seen.
pub struct Trained {
    pub tokenizer: SubwordTokenizer,
    pub report: Report,
}

/// What a tokenizer was made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Occurrences of all words, and of those that were trained on.
    pub words: u64,
    pub words_seen: u64,
    /// Different words, and those that were trained on.
    pub distinct: u64,
    pub distinct_seen: u64,
    /// Different pieces that they are cut into before any model.
    pub pieces: u64,
    /// Characters that became tokens, and those that were too rare to.
    pub characters: u64,
    pub rare_characters: u64,
    pub tokens: u64,
    /// How many tokens a word of the training text has in the mean.
    pub tokens_per_word: f64,
}

/// Trains a tokenizer on the words that `read` gives to its argument, each word once with its count and in
/// alphabetical order, as [`crate::vocab::count::each_word`] gives them. What `read` says is given back.
///
/// # Errors
/// [`crate::ErrorKind::Usage`] where the size cannot hold a vocabulary; [`crate::ErrorKind::Data`] where
/// there is no word to train on; and those of `read`.
pub fn train(
    config: &TrainConfig,
    read: impl FnOnce(&mut dyn FnMut(&str, u64)) -> Result<Summary>,
) -> Result<(Trained, Summary)> {
    let least = match config.algorithm {
        Algorithm::Bpe => TRAINED_SPECIALS.len() + BYTES,
        Algorithm::Wordpiece | Algorithm::Unigram => MIN_SIZE,
    };
    if config.vocab_size < least || u32::try_from(config.vocab_size).is_err() {
        return Err(Error::usage(format!(
            "a vocabulary of {} tokens: at least {least} are needed (8000 to 50000 are usual), and at most 2^32",
            config.vocab_size
        )));
    }
    let mut lexicon = Lexicon::new(config);
    let summary = read(&mut |word, count| lexicon.offer(word, count))?;
    let (all, distinct) = (lexicon.all, lexicon.distinct);
    let words = lexicon.finish();
    let pieces = cut(config, &words)?;
    let found = pieces.len() as u64;
    let (alphabet, rare) = alphabet(config, &pieces);
    let spelled = |piece: &str| piece.chars().all(|c| alphabet.contains(&c));
    let pieces: Vec<(Box<str>, u64)> = pieces.into_iter().filter(|(piece, _)| spelled(piece)).collect();
    if pieces.is_empty() {
        return Err(Error::data("no word is left to train on (is --min-freq too high for this text?)"));
    }
    let file = match config.algorithm {
        Algorithm::Wordpiece => {
            let learned = learn(&pieces, &TRAINED_SPECIALS, &alphabet, "##", config.vocab_size);
            trained(config.algorithm, config.cased, Model::wordpiece(&learned.tokens, TRAINED_SPECIALS[1]))
        }
        Algorithm::Bpe => {
            let learned = learn(&pieces, &TRAINED_SPECIALS, &alphabet, "", config.vocab_size);
            trained(config.algorithm, config.cased, Model::bpe(&learned.tokens, &learned.merges))
        }
        Algorithm::Unigram => {
            trained(config.algorithm, config.cased, Model::unigram(&unigram(config, pieces)?))
        }
    };
    let tokenizer = SubwordTokenizer::from_json(&file, &Beside::default())?;

    let (mut tokens, mut ids) = (0, Vec::new());
    for (count, word) in &words {
        ids.clear();
        tokenizer.encode(word, &mut ids);
        tokens += count * ids.len() as u64;
    }
    let words_seen = words.iter().map(|w| w.0).sum();
    let report = Report {
        // Words too long to be counted apart are words all the same.
        words: all + summary.overlong,
        words_seen,
        distinct,
        distinct_seen: words.len() as u64,
        pieces: found,
        characters: alphabet.len() as u64,
        rare_characters: rare,
        tokens: tokenizer.len() as u64,
        tokens_per_word: tokens as f64 / words_seen.max(1) as f64,
    };
    Ok((Trained { tokenizer, report }, summary))
}

/// The most frequent words that the memory holds; among equals, the first in the alphabet.
struct Lexicon {
    min_freq: u64,
    /// Bytes that the kept words may take, those that one takes whatever its length, and for each of its own.
    memory: usize,
    per_byte: usize,
    words: Vec<(u64, Box<str>)>,
    taken: usize,
    /// Occurrences and distinct words offered.
    all: u64,
    distinct: u64,
}

impl Lexicon {
    fn new(config: &TrainConfig) -> Self {
        let per_byte = match config.algorithm {
            Algorithm::Wordpiece | Algorithm::Bpe => MERGES_BYTES,
            Algorithm::Unigram => SUFFIX_BYTES,
        };
        let (min_freq, memory) = (config.min_freq, config.memory);
        Self { min_freq, memory, per_byte, words: Vec::new(), taken: 0, all: 0, distinct: 0 }
    }

    fn cost(&self, word: &str) -> usize {
        WORD_BYTES + self.per_byte * word.len()
    }

    /// Considers a word, which must come behind all earlier ones in the alphabet.
    fn offer(&mut self, word: &str, count: u64) {
        self.all += count;
        self.distinct += 1;
        if count < self.min_freq {
            return;
        }
        self.taken += self.cost(word);
        self.words.push((count, word.into()));
        // A word that waits takes far less than one in training, so twice as many may wait.
        if self.taken > 2 * self.memory {
            self.shrink();
            // What ties with the rarest of these loses to it in the alphabet.
            let rarest = self.words.iter().map(|w| w.0).min();
            self.min_freq = rarest.map_or(u64::MAX, |count| count + 1);
        }
    }

    /// Keeps what the memory holds.
    fn shrink(&mut self) {
        let mut words = std::mem::take(&mut self.words);
        words.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        self.taken = 0;
        let fitting = words.iter().take_while(|(_, word)| {
            let taken = self.taken + self.cost(word);
            let fits = taken <= self.memory;
            self.taken = if fits { taken } else { self.taken };
            fits
        });
        let kept = fitting.count();
        words.truncate(kept);
        self.words = words;
    }

    fn finish(mut self) -> Vec<(u64, Box<str>)> {
        self.shrink();
        self.words
    }
}

/// The pieces that `words` are cut into, with their counts, in alphabetical order.
fn cut(config: &TrainConfig, words: &[(u64, Box<str>)]) -> Result<BTreeMap<Box<str>, u64>> {
    let specials: Vec<String> = TRAINED_SPECIALS.iter().map(|&token| token.to_owned()).collect();
    let scored: Vec<(String, f64)> = specials.iter().map(|token| (token.clone(), 0.0)).collect();
    let model = match config.algorithm {
        Algorithm::Wordpiece => Model::wordpiece(&specials, TRAINED_SPECIALS[1]),
        Algorithm::Bpe => Model::bpe(&specials, &[]),
        Algorithm::Unigram => Model::unigram(&scored),
    };
    let pipeline =
        SubwordTokenizer::from_json(&trained(config.algorithm, config.cased, model), &Beside::default())?;
    let mut pieces = BTreeMap::<Box<str>, u64>::new();
    let mut add = |piece: &str, count| match pieces.get_mut(piece) {
        Some(sum) => *sum += count,
        None => drop(pieces.insert(piece.into(), count)),
    };
    for (count, word) in words {
        let cut = pipeline.pieces(word, |piece| {
            let long = piece.len() > MAX_WORD_CHARS && piece.chars().nth(MAX_WORD_CHARS).is_some();
            match config.algorithm {
                _ if !long => add(piece, *count),
                // WordPiece never spells it, so there is nothing to learn from it.
                Algorithm::Wordpiece => {}
                // Text without spaces is worth learning from, in parts that take linear time.
                Algorithm::Bpe | Algorithm::Unigram => {
                    let starts: Vec<usize> =
                        piece.char_indices().step_by(MAX_WORD_CHARS).map(|c| c.0).collect();
                    let ends = starts[1..].iter().copied().chain([piece.len()]);
                    starts.iter().zip(ends).for_each(|(&start, end)| add(&piece[start..end], *count));
                }
            }
        });
        cut.map_err(|why| Error::internal(format!("the word {word:?} cannot be cut: {why}")))?;
    }
    Ok(pieces)
}

/// The characters that become tokens, the most frequent where there are too many, and how many do not.
fn alphabet(config: &TrainConfig, pieces: &BTreeMap<Box<str>, u64>) -> (BTreeSet<char>, u64) {
    if config.algorithm == Algorithm::Bpe {
        return (ByteLevel::alphabet().into_iter().collect(), 0);
    }
    let mut counts = BTreeMap::<char, u64>::new();
    for (piece, count) in pieces {
        for c in piece.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let most = (config.vocab_size - TRAINED_SPECIALS.len()) / ALPHABET_SHARE;
    let mut kept: Vec<(char, u64)> = counts.into_iter().collect();
    kept.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let rare = kept.len().saturating_sub(most) as u64;
    kept.truncate(most);
    (kept.into_iter().map(|(c, _)| c).collect(), rare)
}

/// The pieces of a Unigram model with their scores, by the trainer of the `tokenizers` crate.
fn unigram(config: &TrainConfig, pieces: Vec<(Box<str>, u64)>) -> Result<Vec<(String, f64)>> {
    let total: u128 = pieces.iter().map(|(p, n)| p.chars().count() as u128 * u128::from(*n)).sum();
    let scale = u64::try_from(total / u128::from(UNIGRAM_COUNT)).unwrap_or(u64::MAX).saturating_add(1);
    let scaled = |count: u64| u32::try_from(count.div_ceil(scale)).unwrap_or(u32::MAX);
    let sentences: Vec<(String, u32)> =
        pieces.into_iter().map(|(piece, count)| (piece.into(), scaled(count))).collect();
    let mut model = Unigram::default();
    let internal = |why: String| Error::internal(format!("Unigram's trainer failed: {why}"));
    // It adds floating-point numbers in the order of its threads; with a single one the sums are the same
    // each time.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| Error::new(ErrorKind::Io, "cannot start a thread").caused_by(error))?;
    pool.install(|| {
        contained(|| {
            let trainer = UnigramTrainer::builder()
                .show_progress(false)
                .vocab_size(config.vocab_size as u32)
                .special_tokens(TRAINED_SPECIALS.iter().map(|&t| AddedToken::from(t, true)).collect())
                .unk_token(Some(TRAINED_SPECIALS[1].to_owned()))
                .seed_size(
                    (config.memory / SEED_BYTES)
                        .clamp(16 * config.vocab_size, SEEDS.max(16 * config.vocab_size)),
                )
                .build()?;
            trainer.do_train(sentences, &mut model)
        })
    })
    .map_err(internal)?;
    let mut pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    let ordinary = pieces.get_mut(TRAINED_SPECIALS.len()..).unwrap_or_default();
    order_lost_characters(ordinary);
    ordinary.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(pieces)
}

/// Gives the characters that training lost their scores in alphabetical order. The trainer gives them the
/// lowest score there is and steps of 0.0001 above it, in the order of a randomly seeded hash set.
fn order_lost_characters(pieces: &mut [(String, f64)]) {
    let lowest = pieces.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let is_char = |piece: &str| piece.chars().nth(1).is_none();
    let (mut scores, mut step) = (Vec::new(), 0.0);
    // Summed as the trainer sums, so that equal scores are equal to the last bit.
    while pieces.iter().any(|(piece, score)| *score == lowest + step && is_char(piece)) {
        scores.push(lowest + step);
        step += 0.0001;
    }
    let mut lost: Vec<&mut (String, f64)> =
        pieces.iter_mut().filter(|(piece, score)| is_char(piece) && scores.contains(score)).collect();
    lost.sort_by(|a, b| a.0.cmp(&b.0));
    let mut given: Vec<f64> = lost.iter().map(|piece| piece.1).collect();
    given.sort_by(f64::total_cmp);
    lost.into_iter().zip(given).for_each(|(piece, score)| piece.1 = score);
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn config(memory: usize) -> TrainConfig {
        TrainConfig { algorithm: Algorithm::Bpe, vocab_size: 300, cased: false, min_freq: 1, memory }
    }

    #[test]
    fn lost_characters_have_their_scores_in_alphabetical_order() {
        let piece = |text: &str, score: f64| (text.to_owned(), score);
        let steps: Vec<f64> =
            (0..3).scan(0.0, |step, _| Some(-9.0 + std::mem::replace(step, *step + 0.0001))).collect();
        let mut pieces = vec![
            piece("c", steps[0]),
            piece("ab", steps[1]),
            piece("a", steps[2]),
            piece("b", steps[1]),
            piece("d", -3.0),
        ];
        order_lost_characters(&mut pieces);
        let expected = [
            piece("c", steps[2]),
            piece("ab", steps[1]),
            piece("a", steps[0]),
            piece("b", steps[1]),
            piece("d", -3.0),
        ];
        assert_eq!(pieces, expected);
    }

    proptest! {
        #[test]
        fn the_lexicon_keeps_the_most_frequent_words_within_its_memory(
            words in btree_map("[a-z]{4}", 1_u64..9, 1..200), memory in 0_usize..20_000,
        ) {
            let mut lexicon = Lexicon::new(&config(memory));
            words.iter().for_each(|(word, count)| lexicon.offer(word, *count));
            prop_assert_eq!(lexicon.distinct, words.len() as u64);
            let kept = lexicon.finish();
            let mut all: Vec<(u64, Box<str>)> = words.iter().map(|(w, n)| (*n, w.as_str().into())).collect();
            all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            all.truncate(memory / (WORD_BYTES + 4 * MERGES_BYTES));
            prop_assert_eq!(kept, all);
        }
    }
}
