//! A map from words to small values, built for the lengths that words have.
//!
//! Takes bytes, gives the value kept for them. Words of up to fifteen bytes, nearly all of a text, are
//! packed into two integers: hashing and comparing them touches no memory but the table itself, which is
//! what counting and encoding spend their time on. Knows nothing of what the values mean.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::split::Token;

/// Longest word that is kept packed, in bytes.
const PACKED: usize = 15;

/// The first byte of sixteen, the first two, and so on.
const FIRST: [u128; PACKED] = {
    let mut first = [u128::MAX << 120; PACKED];
    let mut n = 1;
    while n < PACKED {
        first[n] = first[n - 1] >> 8 | first[0];
        n += 1;
    }
    first
};

/// A word of 1 to [`PACKED`] bytes: its bytes from the top, zeros, and its length in the last byte.
/// Ordered as the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packed(u64, u64);

impl Packed {
    /// What no word is packed as.
    const NONE: Self = Self(0, 0);

    /// Packs `word`; `None` where it is empty or too long.
    #[inline]
    fn new(word: Token<'_>) -> Option<Self> {
        match (word.first_chunk(), FIRST.get(word.len().wrapping_sub(1))) {
            // Words of all lengths alike: nothing that a processor could guess wrongly.
            (Some(wide), Some(first)) => {
                let bits = u128::from_be_bytes(*wide) & first;
                Some(Self((bits >> 64) as u64, bits as u64 | word.len() as u64))
            }
            _ => Self::alone(word.bytes()),
        }
    }

    /// The same of a word that has nothing behind it.
    fn alone(word: &[u8]) -> Option<Self> {
        // Overlapping loads of fixed width; a copy of variable length would be a call for each word.
        let n = word.len();
        let (top, low) = match n {
            8..=PACKED => {
                let tail = u64::from_be_bytes(*word.last_chunk().expect("at least 8 bytes"));
                (
                    u64::from_be_bytes(*word.first_chunk().expect("at least 8 bytes")),
                    // In two steps, because a shift by all 64 bits (n = 8) is not one.
                    tail << (8 * (PACKED - n)) << 8,
                )
            }
            4..8 => {
                let head = u32::from_be_bytes(*word.first_chunk().expect("at least 4 bytes"));
                let tail = u32::from_be_bytes(*word.last_chunk().expect("at least 4 bytes"));
                // Where the two overlap they hold the same bytes.
                (u64::from(head) << 32 | u64::from(tail) << (8 * (8 - n)), 0)
            }
            1..4 => {
                let byte = |at: usize| u64::from(word[at]) << (8 * (7 - at));
                (byte(0) | byte(n / 2) | byte(n - 1), 0)
            }
            _ => return None,
        };
        Some(Self(top, low | n as u64))
    }

    /// What stands to packed words as `word`, which is longer than any of them, stands to theirs: the first bytes, and
    /// behind them more than any length.
    pub(crate) fn head(word: &[u8]) -> Self {
        let first: &[u8; 16] = word.first_chunk().expect("longer than a packed word");
        let bits = u128::from_be_bytes(*first) | 0xff;
        Self((bits >> 64) as u64, bits as u64)
    }

    /// The word's bytes with padding behind, and its length.
    pub(crate) fn unpack(self) -> ([u8; 16], usize) {
        let bytes = (u128::from(self.0) << 64 | u128::from(self.1)).to_be_bytes();
        (bytes, usize::from(bytes[PACKED]))
    }
}

/// Words and their values.
#[derive(Clone, Debug)]
pub(crate) struct WordMap<V> {
    packed: Table<V>,
    long: HashMap<Box<[u8]>, V, RandomState>,
    /// Bytes of the keys of `long`.
    long_bytes: usize,
}

impl<V> Default for WordMap<V> {
    fn default() -> Self {
        Self { packed: Table::default(), long: HashMap::default(), long_bytes: 0 }
    }
}

/// The words of a map with their values, sorted by the words' bytes: the packed ones and the long ones
/// apart.
pub(crate) type Sorted<V> = (Vec<(Packed, V)>, Vec<(Box<[u8]>, V)>);

impl<V: Copy + Default> WordMap<V> {
    /// An empty map with room for `words` words of usual length.
    pub(crate) fn with_capacity(words: usize) -> Self {
        let mut map = Self::default();
        map.packed.grow_to(words);
        map
    }

    /// The value of `word`.
    #[inline]
    pub(crate) fn get<'w>(&self, word: impl Into<Token<'w>>) -> Option<V> {
        let word = word.into();
        match Packed::new(word) {
            Some(packed) => self.packed.get(packed),
            None => self.long.get(word.bytes()).copied(),
        }
    }

    /// The place of the value of `word`, which is put in with the default value if need be.
    #[inline]
    pub(crate) fn slot<'w>(&mut self, word: impl Into<Token<'w>>) -> &mut V {
        let word = word.into();
        match Packed::new(word) {
            Some(packed) => self.packed.slot(packed),
            None => self.long_slot(word.bytes()),
        }
    }

    #[cold]
    fn long_slot(&mut self, word: &[u8]) -> &mut V {
        self.long.entry_ref(word).or_insert_with(|| {
            self.long_bytes += word.len();
            V::default()
        })
    }

    /// Keeps `value` for `word` and gives the one kept before.
    pub(crate) fn insert(&mut self, word: &str, value: V) -> Option<V> {
        let words = self.words();
        let before = std::mem::replace(self.slot(word), value);
        (self.words() == words).then_some(before)
    }

    /// How many words there are.
    fn words(&self) -> usize {
        self.packed.words + self.long.len()
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.bytes() + self.long.allocation_size() + self.long_bytes
    }

    /// All words, sorted.
    pub(crate) fn into_sorted(self) -> Sorted<V> {
        let mut packed = self.packed.into_words();
        packed.sort_unstable_by_key(|&(word, _)| word);
        let mut long: Vec<_> = self.long.into_iter().collect();
        long.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        (packed, long)
    }
}

/// Packed words and their values: a table in which a word stands at the place that its hash says, or at the next one
/// that is free. Word and value lie side by side, so that a word costs one cache line.
#[derive(Clone, Debug)]
struct Table<V> {
    /// A power of two, or none; at least a quarter of them are [`Packed::NONE`].
    places: Vec<(Packed, V)>,
    words: usize,
    hasher: RandomState,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { places: Vec::new(), words: 0, hasher: RandomState::default() }
    }
}

/// Places of the smallest table that holds a word.
const FEWEST: usize = 64;

impl<V: Copy + Default> Table<V> {
    /// Where `word` stands, or may be put; there must be places.
    #[inline]
    fn find(&self, word: Packed) -> usize {
        let last = self.places.len() - 1;
        let mut at = self.hasher.hash_one(word) as usize & last;
        while self.places[at].0 != word && self.places[at].0 != Packed::NONE {
            at = (at + 1) & last;
        }
        at
    }

    #[inline]
    fn get(&self, word: Packed) -> Option<V> {
        if self.words == 0 {
            return None;
        }
        let (found, value) = self.places[self.find(word)];
        (found == word).then_some(value)
    }

    #[inline]
    fn slot(&mut self, word: Packed) -> &mut V {
        if self.places.is_empty() {
            self.grow_to(1);
        }
        let mut at = self.find(word);
        if self.places[at].0 != word {
            at = self.put(word, at);
        }
        &mut self.places[at].1
    }

    /// Puts in a new word at the free place `at`, or wherever it is to stand in a larger table.
    #[cold]
    fn put(&mut self, word: Packed, mut at: usize) -> usize {
        self.words += 1;
        if self.words > Self::room(self.places.len()) {
            self.grow_to(self.words);
            at = self.find(word);
        }
        self.places[at].0 = word;
        at
    }

    /// Makes room for so many words in all.
    fn grow_to(&mut self, words: usize) {
        let mut places = self.places.len().max(FEWEST);
        while Self::room(places) < words {
            places *= 2;
        }
        let before = std::mem::replace(&mut self.places, vec![(Packed::NONE, V::default()); places]);
        for (word, value) in before {
            if word != Packed::NONE {
                let at = self.find(word);
                self.places[at] = (word, value);
            }
        }
    }

    /// Words that so many places hold: fuller ones are searched for too long.
    fn room(places: usize) -> usize {
        places - places / 4
    }

    fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<(Packed, V)>()
    }

    fn into_words(self) -> Vec<(Packed, V)> {
        let mut words = self.places;
        words.retain(|(word, _)| *word != Packed::NONE);
        words
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::split::words;
    use super::*;

    #[test]
    fn words_of_every_length_are_kept_apart() {
        let words: Vec<String> = (0..40).map(|n| (0..n).map(|i| char::from(b'A' + i)).collect()).collect();
        let mut map = WordMap::<u64>::default();
        for (i, word) in words.iter().enumerate() {
            *map.slot(&**word) += i as u64 + 1;
        }
        let (packed, long) = map.clone().into_sorted();
        assert_eq!((packed.len(), long.len()), (15, 25));
        for (i, word) in words.iter().enumerate() {
            assert_eq!(map.get(&**word), Some(i as u64 + 1), "{word:?}");
        }
        assert_eq!(map.get("b"), None);
        assert_eq!(WordMap::<u64>::default().get("b"), None);
    }

    proptest! {
        #[test]
        fn a_packed_word_comes_back_and_keeps_its_place_in_the_order(
            a in "[\0\u{1}\u{2}\u{3}]{1,15}", b in "[\0\u{1}\u{2}\u{3}]{1,15}", behind in "[a ]{0,20}",
        ) {
            let pack = |word: &str| Packed::new(word.into()).unwrap();
            let (x, y) = (pack(&a), pack(&b));
            let (bytes, length) = x.unpack();
            prop_assert_eq!(&bytes[..length], a.as_bytes());
            let long = format!("{b:\u{2}<16}");
            prop_assert_eq!(x.cmp(&Packed::head(long.as_bytes())), a.as_bytes().cmp(long.as_bytes()));
            let text = format!("{a} {behind}");
            let mut first = None;
            words(&text, |word| first = first.or(Packed::new(word)));
            prop_assert_eq!(first, Some(x));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
