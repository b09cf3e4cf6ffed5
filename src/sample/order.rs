//! The order of documents within an epoch: a permutation keyed by (seed, epoch), in constant memory.
//!
//! Takes positions, gives document numbers. A Feistel network permutes the smallest power of two that
//! holds the corpus, and walks on along its cycle while it lands outside (Black and Rogaway 2002), so
//! that any position of any epoch costs the same and nothing is ever stored.
//!
//! A corpus larger than memory has its blocks of documents permuted instead ([`super::blocks`]).
//!
//! Where several sources are mixed, an epoch has as many slots for each as it is asked for, and the
//! permutation shuffles the slots of all.

use std::ops::Range;

use super::Shuffle;
use super::blocks::{BlockOrder, Blocks};
use crate::corpus::Source;
use crate::rng::{Domain, SampleRng, mix64};

/// Even, so that two halves of different widths end where they began. Four rounds are a strong
/// permutation where the halves are wide (Luby and Rackoff 1988); small corpora have narrow halves, and
/// eight rounds cost some 20 ns.
const ROUNDS: usize = 8;

/// The order of one epoch: a bijection of `0..len` onto itself.
#[derive(Clone, Debug)]
pub struct Order {
    len: u64,
    /// Round keys; `None` is the order of the corpus.
    keys: Option<[u64; ROUNDS]>,
    /// Bits of the permuted power of two.
    bits: u32,
}

impl Order {
    /// The order of the corpus.
    pub fn unshuffled(len: u64) -> Self {
        Self { len, keys: None, bits: 0 }
    }

    /// The order over `len` documents whose round keys `rng` draws.
    pub fn keyed(mut rng: SampleRng, len: u64) -> Self {
        let keys = Some(std::array::from_fn(|_| rng.next_u64()));
        Self { len, keys, bits: u64::BITS - len.saturating_sub(1).leading_zeros() }
    }

    /// The document at `position < len`.
    pub fn document(&self, position: u64) -> u64 {
        debug_assert!(position < self.len, "position {position} of {}", self.len);
        let Some(keys) = &self.keys else { return position };
        // Every cycle through `position` comes back to `0..len`, at the latest to `position` itself.
        let mut place = feistel(position, self.bits, keys);
        while place >= self.len {
            place = feistel(place, self.bits, keys);
        }
        place
    }

    /// The position of `document < len`.
    pub fn position(&self, document: u64) -> u64 {
        let Some(keys) = &self.keys else { return document };
        let mut place = unfeistel(document, self.bits, keys);
        while place >= self.len {
            place = unfeistel(place, self.bits, keys);
        }
        place
    }
}

/// The order of the slots of an epoch.
#[derive(Clone, Debug)]
enum Slots {
    Each(Order),
    InBlocks(BlockOrder),
}

/// What stands at a position of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub document: u64,
    /// How often the whole source had its turn before: (pass, document) never comes twice.
    pub pass: u64,
    /// Documents of the same source, from which a negative is drawn: all, or those of its block.
    pub source: Range<u64>,
}

/// The order of one epoch over the sources of a corpus.
#[derive(Clone, Debug)]
pub struct EpochOrder<'c> {
    sources: &'c [Source],
    /// Position to slot. The slots of the sources lie one behind the other.
    slots: Slots,
    /// Documents of a block, where blocks are permuted.
    block: u64,
    shuffle: Shuffle,
    seed: u64,
    epoch: u64,
}

impl<'c> EpochOrder<'c> {
    /// The order of `epoch`, in blocks of `block` documents where it is to be in blocks. An epoch has as many
    /// positions as all sources together are asked for. `auto`, which goes by the corpus, is `keyed` here.
    pub fn new(sources: &'c [Source], (shuffle, block): (Shuffle, u64), seed: u64, epoch: u64) -> Self {
        let len = positions(sources);
        let slots = match shuffle {
            Shuffle::None => Slots::Each(Order::unshuffled(len)),
            Shuffle::Keyed | Shuffle::Auto => {
                Slots::Each(Order::keyed(SampleRng::new(Domain::Order, seed, &[epoch]), len))
            }
            Shuffle::Blocks => Slots::InBlocks(BlockOrder::shuffled(Blocks::new(len, block), seed, epoch)),
        };
        Self { sources, slots, block, shuffle, seed, epoch }
    }

    /// The window of blocks in which `position` is, where the order is in blocks.
    pub fn window(&self, position: u64) -> Option<u64> {
        match &self.slots {
            Slots::Each(_) => None,
            Slots::InBlocks(order) => Some(order.window(position)),
        }
    }

    /// Stretches of documents that a window reads; those of a mixture as far as they follow each other.
    pub fn stretches(&self, window: u64) -> Vec<Range<u64>> {
        let Slots::InBlocks(order) = &self.slots else { return Vec::new() };
        let documents = |slots: Range<u64>| {
            let (first, last) = (self.at(slots.start).document, self.at(slots.end - 1).document);
            (last.checked_sub(first) == Some(slots.end - 1 - slots.start)).then_some(first..last + 1)
        };
        order.window_blocks(window).filter_map(documents).collect()
    }

    /// What stands at `position`, which must be below the number of positions.
    ///
    /// The documents that all epochs ask of a source follow each other without a gap: a source that is asked
    /// for less than it has goes on where the epoch before stopped, one that is asked for more comes again.
    /// Each time the whole source has had its turn it is permuted anew, unless every epoch has it a whole
    /// number of times: then the permutation of the slots does that alone.
    pub fn place(&self, position: u64) -> Place {
        self.at(match &self.slots {
            Slots::Each(order) => order.document(position),
            Slots::InBlocks(order) => order.document(position),
        })
    }

    /// What a slot stands for.
    fn at(&self, slot: u64) -> Place {
        let (mut rank, mut number) = (slot, 0);
        while rank >= self.sources[number].per_epoch {
            rank -= self.sources[number].per_epoch;
            number += 1;
        }
        let Source { documents, per_epoch } = &self.sources[number];
        let len = documents.end - documents.start;
        // As 128 bits, since epochs have no bound.
        let turn = u128::from(self.epoch) * u128::from(*per_epoch) + u128::from(rank);
        let (pass, at) = ((turn / u128::from(len)) as u64, (turn % u128::from(len)) as u64);
        let whole = per_epoch.is_multiple_of(len);
        let rng = || SampleRng::new(Domain::Source, self.seed, &[number as u64, pass]);
        let blocks = Blocks::new(len, self.block);
        let at = match self.shuffle {
            Shuffle::Keyed | Shuffle::Auto if !whole => Order::keyed(rng(), len).document(at),
            Shuffle::Blocks if !whole => BlockOrder::permuted(blocks, rng()).document(at),
            _ => at,
        };
        let source = match self.shuffle {
            Shuffle::Blocks => {
                let near = blocks.around(at);
                documents.start + near.start..documents.start + near.end
            }
            _ => documents.clone(),
        };
        Place { document: documents.start + at, pass, source }
    }
}

/// Positions of an epoch over these sources.
pub fn positions(sources: &[Source]) -> u64 {
    sources.iter().map(|source| source.per_epoch).sum()
}

/// A keyed bijection of `0..2^bits`, whose halves may differ by one bit.
fn feistel(x: u64, bits: u32, keys: &[u64; ROUNDS]) -> u64 {
    let (mut left_bits, mut right_bits) = (bits - bits / 2, bits / 2);
    let (mut left, mut right) = (x.checked_shr(right_bits).unwrap_or(0), x & ones(right_bits));
    for key in keys {
        (left, right) = (right, left ^ (mix64(right ^ key) & ones(left_bits)));
        (left_bits, right_bits) = (right_bits, left_bits);
    }
    left << right_bits | right
}

/// What [`feistel`] undoes.
fn unfeistel(x: u64, bits: u32, keys: &[u64; ROUNDS]) -> u64 {
    let (mut left_bits, mut right_bits) = (bits - bits / 2, bits / 2);
    let (mut left, mut right) = (x.checked_shr(right_bits).unwrap_or(0), x & ones(right_bits));
    for key in keys.iter().rev() {
        (left_bits, right_bits) = (right_bits, left_bits);
        (left, right) = (right ^ (mix64(left ^ key) & ones(left_bits)), left);
    }
    left << right_bits | right
}

/// The lowest `bits <= 64` bits.
fn ones(bits: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn order(seed: u64, epoch: u64, len: u64) -> Vec<u64> {
        let order = Order::keyed(SampleRng::new(Domain::Order, seed, &[epoch]), len);
        (0..len).map(|position| order.document(position)).collect()
    }

    #[test]
    fn every_document_comes_exactly_once() {
        for len in (0..200).chain([255, 256, 257, 1000, 4095, 4096, 4097, 65_537]) {
            let mut seen = order(42, 3, len);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len), "{len}");
        }
    }

    #[test]
    fn the_largest_corpora_fit() {
        for len in [1 << 40, (1 << 63) + 1, u64::MAX] {
            let order = Order::keyed(SampleRng::new(Domain::Order, 1, &[0]), len);
            let drawn: Vec<u64> = (0..100).map(|position| order.document(position)).collect();
            assert!(drawn.iter().zip(0..).all(|(&document, position)| order.position(document) == position));
            assert!(drawn.iter().all(|&document| document < len));
            let distinct: std::collections::HashSet<_> = drawn.iter().collect();
            assert_eq!(distinct.len(), 100, "{len}");
        }
    }

    #[test]
    fn seed_and_epoch_change_the_order() {
        let base = order(42, 0, 1000);
        assert_eq!(base, order(42, 0, 1000));
        // Two unrelated permutations agree in one place on average; ten has probability 1e-7.
        for other in [order(43, 0, 1000), order(42, 1, 1000), (0..1000).collect()] {
            let same = base.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same}");
        }
    }

    #[test]
    fn no_shuffle_is_the_order_of_the_corpus() {
        let order = Order::unshuffled(10);
        assert!(
            (0..10)
                .all(|position| order.document(position) == position && order.position(position) == position)
        );
    }

    #[test]
    fn a_document_is_equally_likely_at_each_position() {
        let mut counts = [[0u32; 7]; 7];
        for epoch in 0..7000 {
            for (position, document) in order(1, epoch, 7).into_iter().enumerate() {
                counts[position][document as usize] += 1;
            }
        }
        // Chi-squared with 36 degrees of freedom: 67.98 is exceeded once in a thousand seeds.
        let chi2: f64 = counts.iter().flatten().map(|&c| (f64::from(c) - 1e3).powi(2) / 1e3).sum();
        assert!(chi2 < 67.98, "{counts:?}: {chi2}");
    }

    /// Sources of (documents, documents an epoch), one behind the other.
    fn sources(parts: &[(u64, u64)]) -> Vec<Source> {
        let mut from = 0;
        let mut source = |&(len, per_epoch): &(u64, u64)| {
            from += len;
            Source { documents: from - len..from, per_epoch }
        };
        parts.iter().map(&mut source).collect()
    }

    fn places(sources: &[Source], shuffle: Shuffle, epoch: u64) -> Vec<Place> {
        let order = EpochOrder::new(sources, (shuffle, 3), 42, epoch);
        (0..positions(sources)).map(|position| order.place(position)).collect()
    }

    proptest! {
        /// Of any length and key: a document for each position, and the position of each document.
        #[test]
        fn an_order_is_a_permutation_that_can_be_undone(seed: u64, len in 1u64.., near in 0u64..1000) {
            let order = Order::keyed(SampleRng::new(Domain::Order, seed, &[]), len);
            for position in [0, near % len, len / 2, len - 1 - near % len, len - 1] {
                let document = order.document(position);
                prop_assert!(document < len);
                prop_assert_eq!(order.position(document), position);
                prop_assert_eq!(order.document(order.position(position)), position);
            }
        }

        #[test]
        fn every_source_gives_what_it_is_asked_for_and_its_documents_equally_often(
            parts in prop::collection::vec((1u64..20, 0u64..50), 1..5),
            shuffle in prop::sample::select(vec![Shuffle::Keyed, Shuffle::Blocks, Shuffle::None]),
            epochs in 1u64..6,
        ) {
            let sources = sources(&parts);
            let mut counts = vec![0u64; parts.iter().map(|part| part.0 as usize).sum()];
            let mut seen = HashSet::new();
            for epoch in 0..epochs {
                let mut given = vec![0; sources.len()];
                for place in places(&sources, shuffle, epoch) {
                    counts[place.document as usize] += 1;
                    prop_assert!(place.source.contains(&place.document));
                    let near = place.source.end - place.source.start;
                    let number = sources.iter().position(|s| s.documents.contains(&place.document));
                    let all = number.map(|number| parts[number].0);
                    let expected = if shuffle == Shuffle::Blocks { 3 } else { u64::MAX };
                    prop_assert!(all.is_some_and(|all| near >= all.min(expected) && near <= all));
                    given[number.expect("a source")] += 1;
                    prop_assert!(seen.insert((place.pass, place.document)), "{place:?} comes twice");
                }
                prop_assert!(given.iter().zip(&sources).all(|(&n, source)| n == source.per_epoch));
            }
            for (source, (len, per_epoch)) in sources.iter().zip(parts) {
                let all = epochs * per_epoch;
                let counts = &counts[source.documents.start as usize..source.documents.end as usize];
                prop_assert_eq!(counts.iter().sum::<u64>(), all);
                prop_assert!(counts.iter().all(|&n| n == all / len || n == all.div_ceil(len)));
            }
        }
    }

    #[test]
    fn a_single_source_once_an_epoch_is_the_order_of_its_documents() {
        for (epoch, len) in [(0, 1000), (7, 1000), (3, 1), (1, 4097)] {
            let found = places(&sources(&[(len, len)]), Shuffle::Keyed, epoch);
            assert!(found.iter().map(|place| place.document).eq(order(42, epoch, len)));
            assert!(found.iter().all(|place| (place.pass, &place.source) == (epoch, &(0..len))));
        }
    }

    #[test]
    fn without_shuffle_sources_stand_behind_each_other() {
        let sources = sources(&[(3, 2), (2, 0), (2, 4)]);
        let found = |epoch| {
            let places = places(&sources, Shuffle::None, epoch);
            places.iter().map(|place| place.document).collect::<Vec<_>>()
        };
        assert_eq!(found(0), [0, 1, 5, 6, 5, 6]);
        assert_eq!(found(1), [2, 0, 5, 6, 5, 6]);
        assert_eq!(found(2), [1, 2, 5, 6, 5, 6]);
    }

    /// An order that changes between releases breaks every run made so far.
    #[test]
    fn the_numbers_are_pinned() {
        assert_eq!(order(42, 0, 12), PINNED);
        let found = places(&sources(&[(7, 4), (3, 5)]), Shuffle::Keyed, 2);
        assert_eq!(found.iter().map(|place| place.document).collect::<Vec<_>>(), PINNED_MIXTURE);
    }
    const PINNED: [u64; 12] = [9, 2, 3, 4, 0, 6, 1, 7, 5, 10, 11, 8];
    const PINNED_MIXTURE: [u64; 9] = [5, 7, 8, 7, 8, 6, 9, 3, 1];
}
