//! The line index: where lines begin, so that any of them is reached in constant time.
//!
//! Takes bytes, gives line windows. One offset in `stride` lines is kept (an *anchor*); a line is found by
//! going to the anchor before it and passing fewer than `stride` line ends. The stride starts at 16 and
//! doubles until the index is below 0.5 % of the corpus. Knows nothing of what a line holds.
//!
//! The file is little-endian: magic, version and stride, then length, modification time, sample and content
//! of the corpus, lines, anchors, and a checksum of all that. It is made of the corpus and of nothing
//! else, so whatever does not fit (stale or damaged) is refused and made again.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memchr::memchr_iter;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::Bytes;
use crate::{Error, Result, durable};

/// First eight bytes of an index file.
const MAGIC: [u8; 8] = *b"bs-lines";
/// Of the layout of the file and of the hashes in it.
const VERSION: u32 = 1;
/// Bytes before the anchors: magic, version, stride, and five numbers of 64 bits.
const HEADER: usize = 8 + 4 + 4 + 5 * 8;
/// Bytes behind the anchors.
const CHECKSUM: usize = 8;

/// The finest index is one anchor in 2^4 lines: finer gains nothing, since finding the end of a line next to
/// a known offset costs less than fetching it.
const FIRST_SHIFT: u32 = 4;
/// The index file is at most a 200th of the corpus, its header excepted where the corpus is tiny.
const CORPUS_SHARE: u64 = 200;
/// Bound on memory, while building and afterwards: 128 MiB, reached at 270 million lines.
const MAX_ANCHORS: usize = 1 << 24;

/// Read at a time when building: fits into a second-level cache with room to spare.
const CHUNK: u64 = 1 << 18;

/// What tells one state of a file from another without reading all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Length in bytes.
    pub bytes: u64,
    /// Last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// Hash of the length and of pieces spread over the file.
    pub sample: u64,
}

impl Identity {
    /// Last modification of `file`; to be asked before its content is read. `path` is for messages.
    pub fn modified(path: &Path, file: &File) -> Result<i64> {
        let metadata = file.metadata().map_err(|error| Error::reading(path, error))?;
        Ok(metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()))
    }

    /// Of a file with this content and last modification.
    pub fn of(modified: i64, bytes: &dyn Bytes) -> Result<Self> {
        Ok(Self { bytes: bytes.len(), modified, sample: sample(bytes)? })
    }
}

/// Hash of the length, the first and last 64 KiB, and 62 blocks of 4 KiB evenly spread in between: an edit in
/// place that keeps length and time still has to miss all of them. Of everything, where that is not more.
fn sample(bytes: &dyn Bytes) -> Result<u64> {
    const END: u64 = 64 << 10;
    const BLOCK: u64 = 4 << 10;
    const BLOCKS: u64 = 62;
    let length = bytes.len();
    let mut hash = Xxh3Default::new();
    hash.update(&length.to_le_bytes());
    if length <= 2 * END + BLOCKS * BLOCK {
        hash.update(&bytes.slice(0..length)?);
        return Ok(hash.digest());
    }
    hash.update(&bytes.slice(0..END)?);
    let between = length - 2 * END - BLOCK;
    for i in 0..BLOCKS {
        // 128 bits: a file's length times 62 may leave 64.
        let start = END + (u128::from(between) * u128::from(i) / u128::from(BLOCKS - 1)) as u64;
        hash.update(&bytes.slice(start..start + BLOCK)?);
    }
    hash.update(&bytes.slice(length - END..length)?);
    Ok(hash.digest())
}

/// Where lines begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineIndex {
    /// Where line `k << shift` begins, ascending from 0.
    anchors: Vec<u64>,
    shift: u32,
    lines: u64,
    bytes: u64,
    content: u64,
}

/// Why an index file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none.
    Absent,
    /// It is of another corpus, or of another state of this one.
    Stale(&'static str),
    /// It is not what was once written.
    Corrupt(&'static str),
}

impl LineIndex {
    /// Reads `bytes` once, in order, in constant memory. A line ends with its line feed; bytes behind the
    /// last line feed are a line too.
    pub fn build(bytes: &dyn Bytes) -> Result<Self> {
        Self::build_within(bytes, MAX_ANCHORS)
    }

    /// [`LineIndex::build`] with another bound on memory.
    fn build_within(bytes: &dyn Bytes, max_anchors: usize) -> Result<Self> {
        let length = bytes.len();
        let mut index = Self { anchors: vec![0], shift: FIRST_SHIFT, lines: 0, bytes: length, content: 0 };
        let mut hash = Xxh3Default::new();
        let mut last = b'\n';
        let mut start = 0;
        while start < length {
            let chunk = bytes.slice(start..length.min(start + CHUNK))?;
            hash.update(&chunk);
            index.count(start, &chunk, max_anchors);
            last = *chunk.last().expect("a chunk is not empty, or the loop would have ended");
            start += chunk.len() as u64;
        }
        index.lines += u64::from(last != b'\n');
        index.content = hash.digest();
        // No line begins behind the last line feed.
        index.anchors.truncate(index.lines.div_ceil(index.stride()) as usize);
        while index.anchors.len() > 1 && index.file_len() > length / CORPUS_SHARE {
            index.thin();
        }
        Ok(index)
    }

    /// Counts the line feeds of `chunk`, which begins at `start`, and sets the anchors behind them.
    fn count(&mut self, start: u64, chunk: &[u8], max_anchors: usize) {
        let mut mask = self.stride() - 1;
        for at in memchr_iter(b'\n', chunk) {
            self.lines += 1;
            if self.lines & mask == 0 {
                self.anchors.push(start + at as u64 + 1);
                if self.anchors.len() > max_anchors {
                    self.thin();
                    mask = self.stride() - 1;
                }
            }
        }
    }

    /// Doubles the stride: every second anchor goes.
    fn thin(&mut self) {
        self.shift += 1;
        let kept = self.anchors.len().div_ceil(2);
        for k in 0..kept {
            self.anchors[k] = self.anchors[2 * k];
        }
        self.anchors.truncate(kept);
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Lines per anchor.
    pub fn stride(&self) -> u64 {
        1 << self.shift
    }

    /// Hash of every byte of the corpus.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Length of the index file in bytes.
    pub fn file_len(&self) -> u64 {
        (HEADER + 8 * self.anchors.len() + CHECKSUM) as u64
    }

    /// The bytes from the anchor before line `line < lines()` (from 0) to the next anchor, and how many line
    /// feeds lie in them before the line begins.
    pub fn window(&self, line: u64) -> (Range<u64>, u64) {
        let anchor = (line >> self.shift) as usize;
        let end = self.anchors.get(anchor + 1).copied().unwrap_or(self.bytes);
        (self.anchors[anchor]..end, line & (self.stride() - 1))
    }

    /// Reads the index file at `path` of the corpus that is `identity` now.
    pub fn load(path: &Path, identity: &Identity) -> Result<Self, Refused> {
        let most = (HEADER + 8 * MAX_ANCHORS + CHECKSUM) as u64;
        let mut file = Vec::new();
        // One byte more than there can be: a longer file then has the wrong length.
        match File::open(path).and_then(|opened| opened.take(most + 1).read_to_end(&mut file)) {
            Ok(_) => Self::decode(&file, identity),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Refused::Absent),
            Err(_) => Err(Refused::Corrupt("it cannot be read")),
        }
    }

    /// Writes the index to `path`, as that of the corpus that was `identity` when it was read.
    pub fn save(&self, path: &Path, identity: &Identity) -> Result<()> {
        durable::write_file(path, &self.encode(identity))
    }

    fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.file_len() as usize);
        file.extend(MAGIC);
        file.extend(VERSION.to_le_bytes());
        file.extend(self.shift.to_le_bytes());
        file.extend(self.bytes.to_le_bytes());
        file.extend(identity.modified.to_le_bytes());
        file.extend(identity.sample.to_le_bytes());
        file.extend(self.content.to_le_bytes());
        file.extend(self.lines.to_le_bytes());
        for anchor in &self.anchors {
            file.extend(anchor.to_le_bytes());
        }
        file.extend(xxh3_64(&file).to_le_bytes());
        file
    }

    fn decode(file: &[u8], identity: &Identity) -> Result<Self, Refused> {
        if file.len() < HEADER + CHECKSUM || !(file.len() - HEADER - CHECKSUM).is_multiple_of(8) {
            return Err(Refused::Corrupt("its length is wrong"));
        }
        let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
        if file[..8] != MAGIC {
            return Err(Refused::Corrupt("it is no line index"));
        }
        let (body, checksum) = file.split_at(file.len() - CHECKSUM);
        if checksum != xxh3_64(body).to_le_bytes() {
            return Err(Refused::Corrupt("its checksum is wrong"));
        }
        if half(8) != VERSION {
            return Err(Refused::Stale("another version of this program made it"));
        }
        let index = Self {
            anchors: body[HEADER..]
                .chunks_exact(8)
                .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
                .collect(),
            shift: half(12),
            bytes: number(16),
            content: number(40),
            lines: number(48),
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
        self.shift < 64
            && self.lines > 0
            && self.anchors.len() as u64 == self.lines.div_ceil(self.stride())
            && self.anchors[0] == 0
            && self.anchors.is_sorted_by(|a, b| a < b)
            && self.anchors.last().is_some_and(|&last| last < self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    struct Fake(Vec<u8>);

    impl Bytes for Fake {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn slice(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
            Ok(Cow::Borrowed(&self.0[range.start as usize..range.end as usize]))
        }
    }

    /// The windows agree with a naive count of the line feeds.
    fn check(content: &[u8], index: &LineIndex) {
        let starts: Vec<u64> = std::iter::once(0)
            .chain(memchr_iter(b'\n', content).map(|at| at as u64 + 1))
            .filter(|&start| start < content.len() as u64)
            .collect();
        assert_eq!(index.lines(), starts.len() as u64);
        for (line, &start) in starts.iter().enumerate() {
            let (window, before) = index.window(line as u64);
            assert!(before < index.stride() && window.end <= content.len() as u64);
            let skipped = memchr_iter(b'\n', &content[window.start as usize..start as usize]).count();
            assert_eq!(skipped as u64, before, "line {line}");
            assert!(window.contains(&start), "line {line}");
        }
    }

    const IDENTITY: Identity = Identity { bytes: 0, modified: 7, sample: 9 };

    #[test]
    fn lines_are_counted_with_and_without_a_final_line_feed() {
        for (content, lines) in [
            (&b""[..], 0),
            (b"\n", 1),
            (b"a", 1),
            (b"a\n", 1),
            (b"a\nb", 2),
            (b"\n\n\n", 3),
            (b"a\r\nb\r\n", 2),
        ] {
            let index = LineIndex::build(&Fake(content.to_vec())).unwrap();
            assert_eq!(index.lines(), lines, "{content:?}");
            check(content, &index);
        }
    }

    #[test]
    fn the_stride_doubles_until_the_index_is_small() {
        for (line, lines) in [(&b"\n"[..], 1_000_000), (b"a\tb\n", 300_000), (&[b'x'; 200], 1)] {
            let content = line.repeat(lines);
            let index = LineIndex::build(&Fake(content.clone())).unwrap();
            check(&content, &index);
            assert!(
                index.file_len() <= (content.len() as u64 / CORPUS_SHARE).max(72),
                "{}",
                index.file_len()
            );
        }
        let long = [&[b'x'; 500][..], b"\n"].concat().repeat(1000);
        assert_eq!(LineIndex::build(&Fake(long)).unwrap().stride(), 16);
    }

    #[test]
    fn the_bound_on_memory_only_makes_the_index_coarser() {
        let content = [&[b'x'; 300][..], b"\n"].concat().repeat(5000);
        let fine = LineIndex::build(&Fake(content.clone())).unwrap();
        for bound in [2, 3, 4, 5, 100, 312, 313] {
            let coarse = LineIndex::build_within(&Fake(content.clone()), bound).unwrap();
            assert!(coarse.anchors.len() <= bound);
            assert_eq!(coarse.content(), fine.content());
            check(&content, &coarse);
        }
    }

    #[test]
    fn the_file_gives_the_index_back() {
        let content = b"one\ttwo\n".repeat(5000);
        let index = LineIndex::build(&Fake(content.clone())).unwrap();
        let identity = Identity { bytes: content.len() as u64, ..IDENTITY };
        assert_eq!(LineIndex::decode(&index.encode(&identity), &identity), Ok(index.clone()));
        for other in [
            Identity { bytes: identity.bytes + 1, ..identity },
            Identity { modified: 8, ..identity },
            Identity { sample: 8, ..identity },
        ] {
            let refused = LineIndex::decode(&index.encode(&identity), &other);
            assert!(matches!(refused, Err(Refused::Stale(_))), "{refused:?}");
        }
    }

    #[test]
    fn no_damage_is_accepted() {
        let content = b"one\ttwo\n".repeat(5000);
        let index = LineIndex::build(&Fake(content.clone())).unwrap();
        let identity = Identity { bytes: content.len() as u64, ..IDENTITY };
        let file = index.encode(&identity);
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                assert!(LineIndex::decode(&damaged, &identity).is_err(), "byte {at}, bit {bit}");
            }
            assert!(LineIndex::decode(&file[..at], &identity).is_err(), "cut at {at}");
        }
        assert!(LineIndex::decode(&[&file[..], &[0; 8]].concat(), &identity).is_err());
    }

    /// Whoever makes up an index also makes up its checksum.
    #[test]
    fn offsets_that_cannot_be_are_refused_in_spite_of_their_checksum() {
        let sound = LineIndex { anchors: vec![0, 50], shift: 4, lines: 20, bytes: 100, content: 1 };
        let identity = Identity { bytes: 100, ..IDENTITY };
        let check = |index: LineIndex| LineIndex::decode(&index.encode(&identity), &identity);
        assert_eq!(check(sound.clone()), Ok(sound.clone()));
        for made_up in [
            LineIndex { anchors: vec![1, 50], ..sound.clone() },
            LineIndex { anchors: vec![0, 100], ..sound.clone() },
            LineIndex { anchors: vec![0, 0], ..sound.clone() },
            LineIndex { anchors: vec![], ..sound.clone() },
            LineIndex { anchors: vec![], lines: 0, ..sound.clone() },
            LineIndex { lines: u64::MAX, ..sound.clone() },
            LineIndex { shift: 64, ..sound.clone() },
            LineIndex { shift: 63, ..sound.clone() },
        ] {
            assert!(matches!(check(made_up), Err(Refused::Corrupt(_))));
        }
    }

    #[test]
    fn a_sample_sees_the_ends_the_blocks_and_the_length() {
        let content = vec![b'x'; 2_000_000];
        let of = |content: &[u8]| sample(&Fake(content.to_vec())).unwrap();
        let whole = of(&content);
        for at in [0, 65_535, 65_536, 1_934_463, 1_934_464, 1_999_999] {
            let mut edited = content.clone();
            edited[at] = b'y';
            assert_ne!(of(&edited), whole, "byte {at}");
        }
        assert_ne!(of(&content[1..]), whole);
    }
}
