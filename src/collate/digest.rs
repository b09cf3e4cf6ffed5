//! A rolling digest of batches, by which anyone can verify that two runs saw the same data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::HostBatch;
use crate::Error;

/// 128-bit XXH3 over the digest so far and everything of a batch that a model sees, and so over all
/// batches from the first on, in order. Written as 32 hexadecimal digits. The definition is part of the
/// checkpoint format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BatchDigest(u128);

impl BatchDigest {
    /// Folds in the next batch. Where it came from and what replaced its masked tokens do not enter: the
    /// former is no content, the latter follows from ids and labels.
    pub fn update(&mut self, batch: &HostBatch) {
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        for count in [batch.rows, batch.seq_len, batch.masked.len()] {
            hash.update(&(count as u64).to_le_bytes());
        }
        words(&mut hash, &batch.ids);
        hash.update(&batch.segments);
        words(&mut hash, &batch.starts);
        words(&mut hash, &batch.lengths);
        words(&mut hash, &batch.masked);
        words(&mut hash, &batch.labels);
        for &pair in &batch.pairs {
            hash.update(&[pair as u8]);
        }
        self.0 = hash.digest128();
    }
}

/// Hashes `words` as little-endian bytes, through a buffer: a call for each would cost more than hashing.
fn words(hash: &mut Xxh3, words: &[u32]) {
    let mut buffer = [0u8; 1024];
    for chunk in words.chunks(buffer.len() / 4) {
        for (bytes, word) in buffer.chunks_exact_mut(4).zip(chunk) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        hash.update(&buffer[..4 * chunk.len()]);
    }
}

impl fmt::Display for BatchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for BatchDigest {
    type Err = Error;

    fn from_str(digits: &str) -> Result<Self, Error> {
        let refused = || Error::data(format!("batch digest {digits:?}: not 32 hexadecimal digits"));
        // `from_str_radix` alone would take a sign and fewer digits.
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refused());
        }
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| refused())
    }
}

impl From<BatchDigest> for String {
    fn from(digest: BatchDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for BatchDigest {
    type Error = Error;

    fn try_from(digits: String) -> Result<Self, Error> {
        digits.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Corruption, Cursor, Origin, PairLabel};

    fn batch() -> HostBatch {
        HostBatch {
            rows: 2,
            seq_len: 3,
            ids: vec![3, 7, 2, 3, 2, 0],
            segments: vec![1, 1, 1, 1, 1, 0],
            starts: vec![],
            lengths: vec![3, 2],
            masked: vec![1],
            labels: vec![9],
            corruptions: vec![Corruption::Random],
            pairs: vec![PairLabel::IsNext, PairLabel::NotNext],
            origins: vec![Origin::default(); 2],
            next: Cursor::default(),
            ends_epoch: false,
        }
    }

    fn digest(batches: &[HostBatch]) -> BatchDigest {
        let mut digest = BatchDigest::default();
        batches.iter().for_each(|batch| digest.update(batch));
        digest
    }

    #[test]
    fn everything_that_a_model_sees_counts() {
        let changes: [fn(&mut HostBatch); 6] = [
            |b| b.ids[1] += 1,
            |b| b.segments[2] = 2,
            |b| b.lengths[1] = 3,
            |b| b.masked[0] = 0,
            |b| b.labels[0] += 1,
            |b| b.pairs[0] = PairLabel::NotNext,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = batch();
            change(&mut other);
            assert_ne!(digest(&[batch()]), digest(&[other]), "change {i}");
        }
        let mut elsewhere = batch();
        elsewhere.origins[0].line_a = 7;
        elsewhere.next.position = 7;
        assert_eq!(digest(&[batch()]), digest(&[elsewhere]));
    }

    #[test]
    fn order_and_number_of_batches_count() {
        let mut other = batch();
        other.ids[0] = 4;
        let (a, b) = (batch(), other);
        assert_ne!(digest(&[a.clone(), b.clone()]), digest(&[b, a.clone()]));
        assert_ne!(digest(std::slice::from_ref(&a)), digest(&[a.clone(), a]));
    }

    #[test]
    fn text_and_back() {
        let digest = digest(&[batch()]);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<BatchDigest>(&json).unwrap(), digest);
        for refused in ["", "+0000000000000000000000000000001", "00", "g0000000000000000000000000000000"] {
            assert!(refused.parse::<BatchDigest>().is_err(), "{refused}");
        }
    }

    /// Checkpoints keep digests: the same batches must give the same digits for ever.
    #[test]
    fn the_digits_are_pinned() {
        assert_eq!(digest(&[batch()]).to_string(), "d0eed344ec4fe412dc1a2afd85596912");
    }
}
