//! Which counted words make it into a vocabulary, and in which order.
//!
//! Takes words in alphabetical order with their counts, gives those that are frequent enough: by frequency,
//! descending, and alphabetically among equals. Holds no more than twice the words that can make it.

use std::cmp::Reverse;

use super::vocabulary::SPECIAL_TOKENS;

/// Words that there is room for from the start.
const FIRST_WORDS: usize = 64 << 10;

/// The words that may still make it.
pub(crate) struct Ranking {
    max_size: Option<usize>,
    min_freq: u64,
    words: Vec<Candidate>,
    /// Of the words, one behind the other.
    text: String,
    /// Distinct ordinary words offered.
    distinct: u64,
    /// Occurrences offered, those of words spelled like special tokens included.
    occurrences: u64,
}

/// A word and its place in the text of all. What comes first in the alphabet stands first there.
struct Candidate {
    count: u64,
    start: usize,
    len: usize,
}

impl Candidate {
    /// By frequency, descending, then by bytes, which is the order of Python's strings as well.
    fn rank(&self) -> (Reverse<u64>, usize) {
        (Reverse(self.count), self.start)
    }

    fn word<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start..][..self.len]
    }
}

impl Ranking {
    /// At most `max_size` words, each seen at least `min_freq` times.
    pub(crate) fn new(max_size: Option<usize>, min_freq: u64) -> Self {
        // To grow is to touch fresh memory each time, which the system clears first.
        let (words, text) = (Vec::with_capacity(FIRST_WORDS), String::with_capacity(8 * FIRST_WORDS));
        Self { max_size, min_freq, words, text, distinct: 0, occurrences: 0 }
    }

    /// Considers a word, which must come behind all earlier ones in the alphabet. A word spelled like a
    /// special token never makes it, as in the reference.
    pub(crate) fn offer(&mut self, word: &str, count: u64) {
        self.occurrences += count;
        if SPECIAL_TOKENS.contains(&word) {
            return;
        }
        self.distinct += 1;
        if count < self.min_freq {
            return;
        }
        self.words.push(Candidate { count, start: self.text.len(), len: word.len() });
        self.text.push_str(word);
        if let Some(max_size) = self.max_size
            && self.words.len() > 4 * max_size + 1024
        {
            self.keep(max_size);
        }
    }

    /// Drops all but the first `max_size` words.
    fn keep(&mut self, max_size: usize) {
        self.words.select_nth_unstable_by_key(max_size, Candidate::rank);
        self.words.truncate(max_size);
        // From now on what ties with the rarest of these loses to it in the alphabet, and what is rarer loses
        // anyway.
        let rarest = self.words.iter().map(|word| word.count).min();
        self.min_freq = rarest.map_or(u64::MAX, |count| count + 1);
        self.words.sort_unstable_by_key(|word| word.start);
        let all = std::mem::take(&mut self.text);
        for candidate in &mut self.words {
            let word = candidate.word(&all);
            candidate.start = self.text.len();
            self.text.push_str(word);
        }
    }

    /// Distinct ordinary words offered so far.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Tokens in id order, specials first, with their counts. The unknown token's count is that of the
    /// occurrences whose words did not make it and of `unseen` more, which were never offered.
    pub(crate) fn finish(mut self, unseen: u64) -> (Vec<Box<str>>, Vec<u64>) {
        // They come in alphabetical order, which a stable sort keeps among equals.
        self.words.sort_by_key(|word| Reverse(word.count));
        self.words.truncate(self.max_size.unwrap_or(usize::MAX));
        let kept: u64 = self.words.iter().map(|word| word.count).sum();
        let mut counts = [0; SPECIAL_TOKENS.len()];
        counts[1] = self.occurrences - kept + unseen;
        let words = self.words.iter();
        let tokens = SPECIAL_TOKENS.into_iter().chain(words.clone().map(|word| word.word(&self.text)));
        (tokens.map(Box::from).collect(), counts.into_iter().chain(words.map(|word| word.count)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_come_first_and_equals_alphabetically() {
        let check = |max_size, min_freq, expected: &[&str], unknown| {
            let mut ranking = Ranking::new(max_size, min_freq);
            for (word, count) in [("<pad>", 9), ("B", 2), ("a", 2), ("b", 5), ("c", 1), ("é", 2)] {
                ranking.offer(word, count);
            }
            assert_eq!((ranking.distinct(), ranking.occurrences), (5, 21));
            let (tokens, counts) = ranking.finish(100);
            assert_eq!(tokens.iter().skip(5).map(AsRef::as_ref).collect::<Vec<&str>>(), expected);
            assert_eq!(counts[1] - 100 - 9, unknown);
            assert_eq!(counts.iter().sum::<u64>(), 121);
        };
        check(None, 1, &["b", "B", "a", "é", "c"], 0);
        check(None, 2, &["b", "B", "a", "é"], 1);
        check(Some(2), 1, &["b", "B"], 5);
        check(Some(0), 1, &[], 12);
        check(Some(9), 6, &[], 12);
    }

    #[test]
    fn a_small_ranking_of_many_words_equals_the_top_of_a_full_one() {
        let words: Vec<(String, u64)> =
            (0..20_000_u64).map(|i| (format!("{i:05}"), crate::rng::mix64(i) % 50)).collect();
        let top = |max_size| {
            let mut ranking = Ranking::new(max_size, 1);
            words.iter().for_each(|(word, count)| ranking.offer(word, *count));
            ranking.finish(0)
        };
        let (all, counts) = top(None);
        let (few, few_counts) = top(Some(700));
        assert_eq!(few, all[..705]);
        assert_eq!(few_counts[5..], counts[5..705]);
    }
}
