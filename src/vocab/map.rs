//! A map from words to small values, built for the lengths that words have.
//!
//! Takes bytes, gives the value kept for them. Words of up to fifteen bytes, nearly all of a text, are
//! packed into two integers: hashing and comparing them touches no memory but the table itself, which is
//! what counting and encoding spend their time on. Knows nothing of what the values mean.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Longest word that is kept packed, in bytes.
const PACKED: usize = 15;

/// A word of at most [`PACKED`] bytes: its bytes from the top, zeros, and its length in the last byte.
/// Ordered as the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packed(u64, u64);

impl Packed {
    /// Packs `word`; `None` where it is too long.
    #[inline]
    fn new(word: &[u8]) -> Option<Self> {
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
            0 => (0, 0),
            _ => return None,
        };
        Some(Self(top, low | n as u64))
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
    packed: HashMap<Packed, V, RandomState>,
    long: HashMap<Box<[u8]>, V, RandomState>,
    /// Bytes of the keys of `long`.
    long_bytes: usize,
}

impl<V> Default for WordMap<V> {
    fn default() -> Self {
        Self { packed: HashMap::default(), long: HashMap::default(), long_bytes: 0 }
    }
}

/// The words of a map with their values, sorted by the words' bytes: the packed ones and the long ones
/// apart.
pub(crate) type Sorted<V> = (Vec<(Packed, V)>, Vec<(Box<[u8]>, V)>);

impl<V: Copy + Default> WordMap<V> {
    /// An empty map with room for `words` words of usual length.
    pub(crate) fn with_capacity(words: usize) -> Self {
        Self { packed: HashMap::with_capacity_and_hasher(words, RandomState::default()), ..Self::default() }
    }

    /// The value of `word`.
    #[inline]
    pub(crate) fn get(&self, word: &[u8]) -> Option<V> {
        match Packed::new(word) {
            Some(packed) => self.packed.get(&packed).copied(),
            None => self.long.get(word).copied(),
        }
    }

    /// The place of the value of `word`, which is put in with the default value if need be.
    #[inline]
    pub(crate) fn slot(&mut self, word: &[u8]) -> &mut V {
        match Packed::new(word) {
            Some(packed) => self.packed.entry(packed).or_default(),
            None => self.long.entry_ref(word).or_insert_with(|| {
                self.long_bytes += word.len();
                V::default()
            }),
        }
    }

    /// Keeps `value` for `word` and gives the one kept before.
    pub(crate) fn insert(&mut self, word: &[u8], value: V) -> Option<V> {
        let before = self.get(word);
        *self.slot(word) = value;
        before
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.allocation_size() + self.long.allocation_size() + self.long_bytes
    }

    /// All words, sorted.
    pub(crate) fn into_sorted(self) -> Sorted<V> {
        let mut packed: Vec<_> = self.packed.into_iter().collect();
        packed.sort_unstable_by_key(|&(word, _)| word);
        let mut long: Vec<_> = self.long.into_iter().collect();
        long.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        (packed, long)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_of_every_length_are_kept_apart() {
        let words: Vec<Vec<u8>> = (0..40).map(|n| (0..n).map(|i| b'a' + i).collect()).collect();
        let mut map = WordMap::<u64>::default();
        for (i, word) in words.iter().enumerate() {
            *map.slot(word) += i as u64 + 1;
        }
        let (packed, long) = map.clone().into_sorted();
        assert_eq!((packed.len(), long.len()), (16, 24));
        for (i, word) in words.iter().enumerate() {
            assert_eq!(map.get(word), Some(i as u64 + 1), "{word:?}");
        }
        assert_eq!(map.get(b"b"), None);
    }

    proptest! {
        #[test]
        fn a_packed_word_comes_back_and_keeps_its_place_in_the_order(
            a in vec(0u8..4, 0..=15), b in vec(0u8..4, 0..=15),
        ) {
            let (x, y) = (Packed::new(&a).unwrap(), Packed::new(&b).unwrap());
            let (bytes, length) = x.unpack();
            prop_assert_eq!(&bytes[..length], &a[..]);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
