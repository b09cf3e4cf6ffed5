//! Learning which neighbours to join: byte-pair encoding (Sennrich et al. 2016), for BPE and, with a mark on
//! the pieces that continue a word, for WordPiece.
//!
//! Takes words with counts, gives tokens and merges. The `tokenizers` crate has the same in `BpeTrainer`, but
//! numbers the marked characters in the order of a randomly seeded hash map and counts pairs in 32 bits: the
//! same corpus would give another tokenizer each time, and a large one would overflow. Here ties go to the
//! pair with the smaller ids, and counts have 64 bits.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

/// A pair seen once is no pattern.
const MIN_COUNT: u64 = 2;

/// Two neighbours, by id.
type Pair = (u32, u32);

/// What was learned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Learned {
    /// In the order of their ids.
    pub tokens: Vec<String>,
    /// In the order in which they were made, which is the order in which they apply.
    pub merges: Vec<Pair>,
}

/// How often a pair stands somewhere, and in which words it may stand.
#[derive(Default)]
struct Seen {
    count: u64,
    words: Vec<u32>,
}

/// Joins the most frequent pairs of `words` until there are `size` tokens, or no pair comes twice. The first
/// tokens are `specials`, then `alphabet`, then those of its characters that continue a word, with `mark` in
/// front. Every character of `words` must be in `alphabet`.
pub(super) fn learn(
    words: &[(Box<str>, u64)],
    specials: &[&str],
    alphabet: &BTreeSet<char>,
    mark: &str,
    size: usize,
) -> Learned {
    let mut tokens: Vec<String> = specials.iter().map(|&token| token.to_owned()).collect();
    tokens.extend(alphabet.iter().map(char::to_string));
    if !mark.is_empty() {
        let continuing: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars().skip(1)).collect();
        tokens.extend(continuing.iter().map(|c| format!("{mark}{c}")));
    }
    let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut spelled: Vec<Vec<u32>> = words
        .iter()
        .map(|(word, _)| {
            let mut id =
                |(at, c): (usize, char)| ids[&if at == 0 { c.to_string() } else { format!("{mark}{c}") }];
            word.chars().enumerate().map(&mut id).collect()
        })
        .collect();

    let mut pairs: HashMap<Pair, Seen> = HashMap::new();
    for (at, (word, &(_, count))) in (0_u32..).zip(spelled.iter().zip(words)) {
        for pair in neighbours(word) {
            add(&mut pairs, pair, count, at);
        }
    }
    // The largest count first, then the smallest ids. Counts may be old; they are looked up when they come.
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        pairs.iter().map(|(&pair, seen)| (seen.count, Reverse(pair))).collect();

    let mut merges = Vec::new();
    while tokens.len() < size
        && let Some((count, Reverse(pair))) = queue.pop()
    {
        let Entry::Occupied(seen) = pairs.entry(pair) else { continue };
        let current = seen.get().count;
        if current != count {
            queue.extend((current >= MIN_COUNT).then_some((current, Reverse(pair))));
            continue;
        }
        if count < MIN_COUNT {
            break;
        }
        let places = std::mem::take(&mut seen.into_mut().words);
        let (a, b) = (&tokens[pair.0 as usize], &tokens[pair.1 as usize]);
        let joined = format!("{a}{}", b.strip_prefix(mark).unwrap_or(b));
        // Another pair may have made the same token before.
        let id = *ids.entry(joined).or_insert_with_key(|joined| {
            tokens.push(joined.clone());
            tokens.len() as u32 - 1
        });
        merges.push(pair);
        let mut changed = BTreeSet::new();
        for at in places {
            let (word, count) = (&mut spelled[at as usize], words[at as usize].1);
            for old in neighbours(word) {
                if let Some(seen) = pairs.get_mut(&old) {
                    seen.count -= count;
                }
            }
            join(word, pair, id);
            for new in neighbours(word) {
                if new.0 == id || new.1 == id {
                    add(&mut pairs, new, count, at);
                    changed.insert(new);
                } else if let Some(seen) = pairs.get_mut(&new) {
                    seen.count += count;
                }
            }
        }
        pairs.remove(&pair);
        queue.extend(changed.into_iter().filter_map(|pair| Some((pairs.get(&pair)?.count, Reverse(pair)))));
    }
    Learned { tokens, merges }
}

fn neighbours(word: &[u32]) -> impl Iterator<Item = Pair> {
    word.windows(2).map(|pair| (pair[0], pair[1]))
}

fn add(pairs: &mut HashMap<Pair, Seen>, pair: Pair, count: u64, word: u32) {
    let seen = pairs.entry(pair).or_default();
    seen.count += count;
    if seen.words.last() != Some(&word) {
        seen.words.push(word);
    }
}

/// Puts `id` in the place of each `pair` of `word`, from the left.
fn join(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let mut kept = 0;
    let mut at = 0;
    while at < word.len() {
        let here = word[at..].starts_with(&[pair.0, pair.1]);
        word[kept] = if here { id } else { word[at] };
        kept += 1;
        at += if here { 2 } else { 1 };
    }
    word.truncate(kept);
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    /// The same, counting all pairs anew for each merge.
    fn naive(words: &[(Box<str>, u64)], alphabet: &BTreeSet<char>, mark: &str, size: usize) -> Learned {
        let mut learned = learn(words, &["[PAD]"], alphabet, mark, 0);
        let mut spelled: Vec<Vec<String>> = words
            .iter()
            .map(|(word, _)| {
                let letter =
                    |(i, c): (usize, char)| if i == 0 { c.to_string() } else { format!("{mark}{c}") };
                word.chars().enumerate().map(letter).collect()
            })
            .collect();
        let id = |tokens: &[String], token: &str| tokens.iter().position(|t| t == token).unwrap() as u32;
        while learned.tokens.len() < size {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for (word, (_, count)) in spelled.iter().zip(words) {
                for pair in word.windows(2) {
                    let pair = (id(&learned.tokens, &pair[0]), id(&learned.tokens, &pair[1]));
                    *counts.entry(pair).or_default() += count;
                }
            }
            let best = counts.into_iter().max_by_key(|&(pair, count)| (count, Reverse(pair)));
            let Some((pair, 2..)) = best else { break };
            let (a, b) = (learned.tokens[pair.0 as usize].clone(), learned.tokens[pair.1 as usize].clone());
            let joined = format!("{a}{}", b.strip_prefix(mark).unwrap_or(&b));
            for word in &mut spelled {
                let mut at = 0;
                while at + 1 < word.len() {
                    if word[at] == a && word[at + 1] == b {
                        word[at] = joined.clone();
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
            if !learned.tokens.contains(&joined) {
                learned.tokens.push(joined);
            }
            learned.merges.push(pair);
        }
        learned
    }

    fn alphabet(words: &[(Box<str>, u64)]) -> BTreeSet<char> {
        words.iter().flat_map(|(word, _)| word.chars()).collect()
    }

    #[test]
    fn the_most_frequent_pair_is_joined_first_and_ties_go_to_smaller_ids() {
        let words = [("abc".into(), 5), ("bc".into(), 3), ("ca".into(), 1)];
        let learned = learn(&words, &["[PAD]"], &alphabet(&words), "", 6);
        assert_eq!(learned.tokens, ["[PAD]", "a", "b", "c", "bc", "abc"]);
        assert_eq!(learned.merges, [(2, 3), (1, 4)]);
        let marked = learn(&words, &[], &alphabet(&words), "##", 100);
        // a b c ##a ##b ##c: (##b ##c) and (a ##b) tie at 5, and a has the smaller id.
        assert_eq!(marked.tokens[..6], ["a", "b", "c", "##a", "##b", "##c"]);
        assert_eq!(marked.tokens[6..], ["ab", "abc", "bc"]);
    }

    #[test]
    fn counts_beyond_32_bits_do_not_wrap() {
        let words = [("ab".into(), 3 << 40), ("cd".into(), 1 << 33)];
        let learned = learn(&words, &[], &alphabet(&words), "", 6);
        assert_eq!(learned.tokens[4..], ["ab", "cd"]);
    }

    proptest! {
        #[test]
        fn the_queue_gives_what_counting_anew_gives(
            words in btree_map("[abc]{1,8}", 1_u64..5, 1..12), marked: bool, size in 4_usize..30,
        ) {
            let words: Vec<(Box<str>, u64)> = words.into_iter().map(|(w, n)| (w.into(), n)).collect();
            let (letters, mark) = (alphabet(&words), if marked { "##" } else { "" });
            let learned = learn(&words, &["[PAD]"], &letters, mark, size);
            prop_assert_eq!(learned, naive(&words, &letters, mark, size));
        }
    }
}
