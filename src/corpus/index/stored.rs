//! The index as a file.
//!
//! Little-endian: magic, version, kind of records and stride, then length, modification time, sample and content of
//! the corpus, records, lines, blocks cut, anchors, and a checksum of all that. It is made of the corpus and of nothing
//! else, so whatever does not fit (stale or damaged) is refused and made again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{Identity, Index, MAX_ANCHOR_BYTES, Records};
use crate::{Result, durable};

/// First eight bytes of an index file.
const MAGIC: [u8; 8] = *b"bs-lines";
/// Of the layout of the file and of the hashes in it.
const VERSION: u32 = 2;
/// Bytes before the anchors: magic, version, kind, shift, and seven numbers of 64 bits.
const HEADER: usize = 8 + 4 + 2 + 2 + 7 * 8;
/// Bytes behind the anchors.
const CHECKSUM: usize = 8;

/// Why an index file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none.
    Absent,
    /// It is of another corpus, of another state of this one, or of other records.
    Stale(&'static str),
    /// It is not what was once written.
    Corrupt(&'static str),
}

impl Records {
    /// As it stands in a file.
    fn code(self) -> u16 {
        match self {
            Self::Lines => 0,
            Self::Blocks => 1,
        }
    }
}

impl Index {
    /// Length of the index file in bytes.
    pub fn file_len(&self) -> u64 {
        (HEADER + 8 * (self.anchors.len() + self.anchor_lines.len()) + CHECKSUM) as u64
    }

    /// Reads the index file at `path` of the corpus that is `identity` now.
    pub fn load(path: &Path, kind: Records, identity: &Identity) -> Result<Self, Refused> {
        let most = (HEADER + MAX_ANCHOR_BYTES + CHECKSUM) as u64;
        let mut file = Vec::new();
        // One byte more than there can be: a longer file then has the wrong length.
        match File::open(path).and_then(|opened| opened.take(most + 1).read_to_end(&mut file)) {
            Ok(_) => Self::decode(&file, kind, identity),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Refused::Absent),
            Err(_) => Err(Refused::Corrupt("it cannot be read")),
        }
    }

    /// Writes the index to `path`, as that of the corpus that was `identity` when it was read.
    pub fn save(&self, path: &Path, identity: &Identity) -> Result<()> {
        durable::write_file(path, &self.encode(identity))
    }

    /// The bytes of the index file of the corpus that was `identity` when it was read.
    pub fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.file_len() as usize);
        file.extend(MAGIC);
        file.extend(VERSION.to_le_bytes());
        file.extend(self.kind.code().to_le_bytes());
        file.extend((self.shift as u16).to_le_bytes());
        let modified = identity.modified as u64;
        let (lines, cuts) = (self.lines, self.cuts);
        for number in [self.bytes, modified, identity.sample, self.content, self.records, lines, cuts] {
            file.extend(number.to_le_bytes());
        }
        for number in self.anchors.iter().chain(&self.anchor_lines) {
            file.extend(number.to_le_bytes());
        }
        file.extend(xxh3_64(&file).to_le_bytes());
        file
    }

    /// The index in the bytes of a file, of the corpus that is `identity` now.
    pub fn decode(file: &[u8], kind: Records, identity: &Identity) -> Result<Self, Refused> {
        if file.len() < 8 + 4 + CHECKSUM || file[..8] != MAGIC {
            return Err(Refused::Corrupt("it is no index"));
        }
        let (body, checksum) = file.split_at(file.len() - CHECKSUM);
        if checksum != xxh3_64(body).to_le_bytes() {
            return Err(Refused::Corrupt("its checksum is wrong"));
        }
        if file[8..12] != VERSION.to_le_bytes() {
            return Err(Refused::Stale("another version of this program made it"));
        }
        if body.len() < HEADER || !(body.len() - HEADER).is_multiple_of(kind.anchor_len()) {
            return Err(Refused::Corrupt("its length is wrong"));
        }
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        let small = |at: usize| u16::from_le_bytes(body[at..at + 2].try_into().expect("two bytes"));
        if small(12) != kind.code() {
            return Err(Refused::Stale("it is of another format of the corpus"));
        }
        let count = (body.len() - HEADER) / kind.anchor_len();
        let mut anchors: Vec<u64> = (HEADER..body.len()).step_by(8).map(number).collect();
        let anchor_lines = anchors.split_off(count);
        let index = Self {
            kind,
            anchors,
            anchor_lines,
            shift: small(14).into(),
            bytes: number(16),
            content: number(40),
            records: number(48),
            lines: number(56),
            cuts: number(64),
        };
        if index.bytes != identity.bytes {
            return Err(Refused::Stale("the corpus has another length"));
        }
        if number(24) as i64 != identity.modified {
            return Err(Refused::Stale("the corpus was modified since"));
        }
        if number(32) != identity.sample {
            return Err(Refused::Stale("the corpus has other content"));
        }
        if !index.is_sound() {
            return Err(Refused::Corrupt("its offsets cannot be"));
        }
        Ok(index)
    }

    /// Whether every window lies within the corpus: a checksum keeps out accidents, not a file made up.
    fn is_sound(&self) -> bool {
        let lines_are = match self.kind {
            Records::Lines => self.lines == self.records && self.anchors.first() == Some(&0),
            Records::Blocks => {
                self.anchor_lines.is_sorted_by(|a, b| a < b)
                    && self.anchor_lines.last().is_some_and(|&last| last < self.lines)
            }
        };
        self.shift < 64
            && self.records > 0
            && self.records <= self.lines
            && self.anchors.len() as u64 == self.records.div_ceil(self.stride())
            && self.anchors.is_sorted_by(|a, b| a < b)
            && self.anchors.last().is_some_and(|&last| last < self.bytes)
            && lines_are
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOTH, Fake, IDENTITY};
    use super::*;

    #[test]
    fn the_file_gives_the_index_back() {
        for (kind, other_kind) in BOTH {
            let content = b"one\ttwo\n\n".repeat(5000);
            let index = Index::build(&Fake(content.clone()), kind).unwrap();
            let identity = Identity { bytes: content.len() as u64, ..IDENTITY };
            assert_eq!(Index::decode(&index.encode(&identity), kind, &identity), Ok(index.clone()));
            for (kind, other) in [
                (kind, Identity { bytes: identity.bytes + 1, ..identity }),
                (kind, Identity { modified: 8, ..identity }),
                (kind, Identity { sample: 8, ..identity }),
                (other_kind, identity),
            ] {
                // Half of an anchor too many is no index of blocks, whatever else it is.
                let refused = Index::decode(&index.encode(&identity), kind, &other);
                assert!(matches!(refused, Err(Refused::Stale(_))), "{refused:?}");
            }
        }
    }

    #[test]
    fn no_damage_is_accepted() {
        for (kind, _) in BOTH {
            let content = b"one\ttwo\n\n".repeat(4000);
            let index = Index::build(&Fake(content.clone()), kind).unwrap();
            let identity = Identity { bytes: content.len() as u64, ..IDENTITY };
            let file = index.encode(&identity);
            for at in 0..file.len() {
                for bit in 0..8 {
                    let mut damaged = file.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(Index::decode(&damaged, kind, &identity).is_err(), "byte {at}, bit {bit}");
                }
                assert!(Index::decode(&file[..at], kind, &identity).is_err(), "cut at {at}");
            }
            assert!(Index::decode(&[&file[..], &[0; 8]].concat(), kind, &identity).is_err());
        }
    }

    /// Whoever makes up an index also makes up its checksum.
    #[test]
    fn offsets_that_cannot_be_are_refused_in_spite_of_their_checksum() {
        let sound = Index {
            kind: Records::Lines,
            anchors: vec![0, 50],
            anchor_lines: vec![],
            shift: 4,
            records: 20,
            lines: 20,
            cuts: 0,
            bytes: 100,
            content: 1,
        };
        let identity = Identity { bytes: 100, ..IDENTITY };
        let check = |index: Index| Index::decode(&index.encode(&identity), index.kind, &identity);
        assert_eq!(check(sound.clone()), Ok(sound.clone()));
        let blocks = Index { kind: Records::Blocks, anchor_lines: vec![3, 25], lines: 30, ..sound.clone() };
        assert_eq!(check(blocks.clone()), Ok(blocks.clone()));
        for made_up in [
            Index { anchors: vec![1, 50], ..sound.clone() },
            Index { anchors: vec![0, 100], ..sound.clone() },
            Index { anchors: vec![0, 0], ..sound.clone() },
            Index { anchors: vec![], ..sound.clone() },
            Index { anchors: vec![], records: 0, lines: 0, ..sound.clone() },
            Index { records: u64::MAX, lines: u64::MAX, ..sound.clone() },
            Index { lines: 21, ..sound.clone() },
            Index { shift: 64, ..sound.clone() },
            Index { shift: 63, ..sound.clone() },
            Index { anchor_lines: vec![25, 3], ..blocks.clone() },
            Index { anchor_lines: vec![3, 30], ..blocks.clone() },
            Index { lines: 19, anchor_lines: vec![3, 4], ..blocks.clone() },
        ] {
            assert!(matches!(check(made_up), Err(Refused::Corrupt(_))));
        }
    }
}
