//! How well an epoch is shuffled, as one number: the entropy of the differences between neighbours in its order, as a
//! share of a full permutation's. In the order of a corpus it is 0, since each difference is 1; blocks that keep the
//! order of their documents come out near that.

use super::blocks::documents_of_block;
use super::order::{EpochOrder, Order, positions};
use super::{SampleConfig, Shuffle};
use crate::corpus::Corpus;
use crate::rng::{Domain, SampleRng};

/// Neighbours that are looked at, evenly spread over the epoch: all of a small corpus.
const PAIRS: u64 = 1 << 16;

/// Differences are told apart as finely as this part of the corpus, and exactly where that has fewer documents.
const BINS: u64 = 1 << 12;

/// The quality of the first epoch with this shuffle: 1 is a full permutation. A function of the corpus' size and
/// the default seed; it takes some milliseconds and 32 KiB.
pub fn shuffle_quality(corpus: &dyn Corpus, shuffle: Shuffle) -> f64 {
    let sources = corpus.sources();
    let seed = SampleConfig::default().seed;
    let order = EpochOrder::new(&sources, (shuffle, documents_of_block(corpus)), seed, 0);
    quality(positions(&sources), corpus.len(), |position| order.place(position).document)
}

/// The quality of an order of `len` positions over so many `documents`.
fn quality(len: u64, documents: u64, document: impl Fn(u64) -> u64) -> f64 {
    let full = Order::keyed(SampleRng::new(Domain::Survey, 0, &[len]), len);
    let of_full = entropy(len, len, |position| full.document(position));
    if of_full > 0.0 { entropy(len, documents, document) / of_full } else { 1.0 }
}

/// Entropy in bits of the differences between neighbours.
fn entropy(len: u64, documents: u64, document: impl Fn(u64) -> u64) -> f64 {
    let neighbours = len.saturating_sub(1);
    let pairs = neighbours.min(PAIRS);
    let bins = documents.clamp(1, BINS);
    let mut counts = vec![0u64; bins as usize];
    for pair in 0..pairs {
        // As 128 bits, since a corpus has no largest size.
        let position = (u128::from(neighbours) * u128::from(pair) / u128::from(pairs)) as u64;
        let difference = document(position).abs_diff(document(position + 1));
        counts[(u128::from(difference) * u128::from(bins) / u128::from(documents)) as usize] += 1;
    }
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / pairs as f64);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::blocks::{BlockOrder, Blocks};
    use super::*;

    #[test]
    fn the_corpus_itself_has_none_and_a_permutation_all() {
        for len in [2000, 31_687, 1_000_000, 1 << 40] {
            let keyed = Order::keyed(SampleRng::new(Domain::Order, 42, &[0]), len);
            assert!(quality(len, len, |position| position) < 1e-9, "{len}");
            let found = quality(len, len, |position| keyed.document(position));
            assert!((0.98..1.02).contains(&found), "{len}: {found}");
        }
        assert_eq!(quality(1, 1, |position| position), 1.0);
    }

    #[test]
    fn blocks_are_as_good_as_a_permutation_and_blocks_that_keep_their_order_are_not() {
        for (len, size) in [(1000, 16), (31_687, 4000), (8_000_000, 4000), (1 << 36, 4000)] {
            let blocks = Blocks::new(len, size);
            let shuffled = BlockOrder::shuffled(blocks, 42, 0);
            let found = quality(len, len, |position| shuffled.document(position));
            assert!((0.97..1.03).contains(&found), "{len} in {size}: {found}");
            let kept = BlockOrder::permuted(blocks, SampleRng::new(Domain::Order, 42, &[0]));
            let found = quality(len, len, |position| kept.document(position));
            assert!(found < 0.5, "{len} in {size}: {found}");
        }
    }
}
