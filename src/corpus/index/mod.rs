//! The index: where records begin, so that any of them is reached in constant time.
//!
//! Takes bytes, gives windows of them in which a record is found. A record is a line, or a block of lines
//! ([`Records`]). The place of one record in `stride` is kept (an *anchor*); a record is found by going to the
//! anchor before it and passing fewer than `stride` others. The stride starts at 16 lines or 1 block, and
//! doubles until the index is below 0.5 % of the corpus. Knows nothing of what a record holds.

use std::ops::Range;

use memchr::memchr_iter;

use super::{Bytes, look};
use crate::Result;

mod blocks;
mod build;
mod identity;
mod stored;

use self::blocks::Blocks;
pub use self::blocks::Walk;
pub use self::identity::Identity;
pub use self::stored::Refused;

/// Bound on memory, while building and afterwards: 128 MiB, reached at 270 million lines.
const MAX_ANCHOR_BYTES: usize = 1 << 27;

/// Read at a time when building: fits into a second-level cache with room to spare.
const CHUNK: u64 = 1 << 18;

/// A block that reaches this many bytes ends with the line that reaches them: a book without blank lines is
/// many documents, each of which fits into memory.
pub const MAX_BLOCK: u64 = 1 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Every line.
    Lines,
    /// Lines with blank ones before and behind them, which hold nothing but white space; the text is UTF-8.
    Blocks,
}

impl Records {
    /// Lines: the finest index is one anchor in 2^4, since finding the end of a line next to a known offset
    /// costs less than fetching it. Blocks may be long, so each has an anchor where there is room.
    fn first_shift(self) -> u32 {
        match self {
            Self::Lines => 4,
            Self::Blocks => 0,
        }
    }

    /// Of an anchor: its offset, and its line where that does not follow from its number.
    fn anchor_len(self) -> usize {
        match self {
            Self::Lines => 8,
            Self::Blocks => 16,
        }
    }
}

/// Where records begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    kind: Records,
    /// Where record `k << shift` begins, ascending.
    anchors: Vec<u64>,
    /// The line that it begins with, from 0; empty where records are lines.
    anchor_lines: Vec<u64>,
    shift: u32,
    records: u64,
    lines: u64,
    /// Blocks that begin only because the one before was too long.
    cuts: u64,
    bytes: u64,
    content: u64,
}

/// A stretch of bytes in which a record is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// From one anchor to the next.
    pub range: Range<u64>,
    /// How many records begin in it before the one that was asked for.
    pub before: u64,
    /// The line that it begins with, from 0.
    pub line: u64,
}

impl Index {
    /// How many records there are.
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many lines there are, blank ones included.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// How many blocks begin only because the one before reached [`MAX_BLOCK`].
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Records per anchor.
    pub fn stride(&self) -> u64 {
        1 << self.shift
    }

    /// Hash of every byte of the corpus.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Where record `record < len()` (from 0) is found.
    pub fn window(&self, record: u64) -> Window {
        let anchor = (record >> self.shift) as usize;
        let end = self.anchors.get(anchor + 1).copied().unwrap_or(self.bytes);
        Window {
            range: self.anchors[anchor]..end,
            before: record & (self.stride() - 1),
            line: match self.kind {
                Records::Lines => (anchor as u64) << self.shift,
                Records::Blocks => self.anchor_lines[anchor],
            },
        }
    }

    /// How many records begin within the first `lines` lines.
    pub fn within_lines(&self, bytes: &dyn Bytes, lines: u64) -> Result<u64> {
        if self.kind == Records::Lines || lines >= self.lines {
            return Ok(self.records.min(lines));
        }
        let behind = self.anchor_lines.partition_point(|&line| line < lines);
        let Some(anchor) = behind.checked_sub(1) else { return Ok(0) };
        let first = (anchor as u64) << self.shift;
        let window = self.window(first);
        let places = self.places(bytes, window.range)?;
        Ok(first + places.partition_point(|place| window.line + place.line < lines) as u64)
    }

    /// The records that begin in a window of any length, which is read piece by piece.
    pub fn places(&self, bytes: &dyn Bytes, window: Range<u64>) -> Result<Vec<Place>> {
        let mut begins = Vec::new();
        let mut blocks = Blocks::from(window.start);
        if self.kind == Records::Lines {
            begins.push((window.start, 0));
        }
        let mut at = window.start;
        while at < window.end {
            let end = window.end.min(at + CHUNK);
            look(bytes, at..end, |chunk| match self.kind {
                Records::Lines => begins.extend(
                    memchr_iter(b'\n', chunk)
                        .zip(begins.len() as u64..)
                        .map(|(end, line)| (at + end as u64 + 1, line)),
                ),
                Records::Blocks => blocks.feed(at, chunk, |at, line| begins.push((at, line))),
            })?;
            at = end;
        }
        begins.extend(blocks.finish(window.end).filter(|_| self.kind == Records::Blocks));
        // Behind the last line feed no line begins.
        begins.retain(|&(begin, _)| begin < window.end);
        let ends = begins.iter().skip(1).map(|&(begin, _)| begin).chain([window.end]);
        Ok(begins.iter().zip(ends).map(|(&(begin, line), end)| Place { range: begin..end, line }).collect())
    }

    /// The records that begin in the bytes of a window, in order.
    pub fn walk<'w>(&self, window: &'w [u8]) -> Walk<'w> {
        Walk::new(window, self.kind)
    }
}

/// A record in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its bytes, as those of [`Found`].
    pub range: Range<u64>,
    /// Its first line, counted from the window's first one.
    pub line: u64,
}

/// A record in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its bytes; those of a block go on to where the next one begins, over the blank lines in between.
    pub range: Range<usize>,
    /// Its first line, counted from the window's first one.
    pub line: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::build::CORPUS_SHARE;
    use super::*;
    use crate::corpus::Piece;
    use crate::text::BOM;

    /// Bytes in memory.
    pub(super) struct Fake(pub Vec<u8>);

    impl Bytes for Fake {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn slice(&self, range: Range<u64>) -> Result<Piece<'_>> {
            Ok(Piece::Borrowed(&self.0[range.start as usize..range.end as usize]))
        }
    }

    /// The windows agree with a naive count of the line feeds.
    fn check(content: &[u8], index: &Index) {
        let starts: Vec<u64> = std::iter::once(0)
            .chain(memchr_iter(b'\n', content).map(|at| at as u64 + 1))
            .filter(|&start| start < content.len() as u64)
            .collect();
        assert_eq!(index.lines(), starts.len() as u64);
        for (line, &start) in starts.iter().enumerate() {
            let Window { range, before, line: first } = index.window(line as u64);
            assert!(before < index.stride() && range.end <= content.len() as u64);
            let skipped = memchr_iter(b'\n', &content[range.start as usize..start as usize]).count();
            assert_eq!((skipped as u64, first + before), (before, line as u64));
            assert!(range.contains(&start), "line {line}");
        }
    }

    pub(super) const BOTH: [(Records, Records); 2] =
        [(Records::Lines, Records::Blocks), (Records::Blocks, Records::Lines)];

    pub(super) const IDENTITY: Identity = Identity { bytes: 0, modified: 7, sample: 9 };

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
            let index = Index::build(&Fake(content.to_vec()), Records::Lines).unwrap();
            assert_eq!(index.lines(), lines, "{content:?}");
            check(content, &index);
        }
    }

    #[test]
    fn the_stride_doubles_until_the_index_is_small() {
        for (line, lines) in [(&b"\n"[..], 1_000_000), (b"a\tb\n", 300_000), (&[b'x'; 200], 1)] {
            let content = line.repeat(lines);
            let index = Index::build(&Fake(content.clone()), Records::Lines).unwrap();
            check(&content, &index);
            assert!(
                index.file_len() <= (content.len() as u64 / CORPUS_SHARE).max(88),
                "{}",
                index.file_len()
            );
        }
        let long = [&[b'x'; 500][..], b"\n"].concat().repeat(1000);
        assert_eq!(Index::build(&Fake(long), Records::Lines).unwrap().stride(), 16);
    }

    #[test]
    fn the_bound_on_memory_only_makes_the_index_coarser() {
        let content = [&[b'x'; 300][..], b"\n"].concat().repeat(5000);
        let fine = Index::build(&Fake(content.clone()), Records::Lines).unwrap();
        for bound in [2, 3, 4, 5, 100, 312, 313] {
            let coarse = Index::build_within(&Fake(content.clone()), Records::Lines, bound).unwrap();
            assert!(coarse.anchors.len() <= bound);
            assert_eq!(coarse.content(), fine.content());
            check(&content, &coarse);
        }
    }

    /// Blocks as (offset, line), the obvious way.
    fn naive_blocks(content: &[u8]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut start = if content.starts_with(BOM) { BOM.len() } else { 0 };
        let mut block = None;
        for (number, line) in content[start..].split_inclusive(|&b| b == b'\n').enumerate() {
            let blank = std::str::from_utf8(line).is_ok_and(|line| line.trim().is_empty());
            let end = start + line.len();
            if blank {
                block = None;
            } else {
                if block.is_none() {
                    found.push((start as u64, number as u64));
                }
                let begun = *block.get_or_insert(start);
                if (end - begun) as u64 >= MAX_BLOCK {
                    block = None;
                }
            }
            start = end;
        }
        found
    }

    /// The blocks of an index are those found the obvious way, each in its window.
    fn check_blocks(content: &[u8], index: &Index) {
        let expected = naive_blocks(content);
        assert_eq!(index.len(), expected.len() as u64);
        for (id, &(start, line)) in expected.iter().enumerate() {
            let window = index.window(id as u64);
            let bytes = &content[window.range.start as usize..window.range.end as usize];
            let found = index.walk(bytes).nth(window.before as usize).unwrap();
            assert_eq!(
                (window.range.start + found.range.start as u64, window.line + found.line),
                (start, line)
            );
            let end = expected.get(id + 1).map_or(content.len() as u64, |next| next.0);
            assert_eq!(window.range.start + found.range.end as u64, end);
        }
    }

    #[test]
    fn blocks_are_cut_at_blank_lines_and_at_a_megabyte() {
        let check = |content: &[u8], blocks: u64, lines: u64, cuts: u64| {
            let index = Index::build(&Fake(content.to_vec()), Records::Blocks).unwrap();
            assert_eq!((index.len(), index.lines(), index.cuts()), (blocks, lines, cuts));
            check_blocks(content, &index);
        };
        check(b"", 0, 0, 0);
        check(b"\n \n\t\r\n", 0, 3, 0);
        check(b"\xef\xbb\xbf", 0, 0, 0);
        check(b"\xef\xbb\xbf\na\n", 1, 2, 0);
        check("\u{a0}\u{3000}\na\n\u{2003}\nb".as_bytes(), 2, 4, 0);
        // Broken or cut, they are no white space.
        check(b"a\n\xe3\x80\nb\n\xff\n \n\xe3", 2, 6, 0);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        check(&line.repeat(1024), 1, 1024, 0);
        check(&line.repeat(1025), 2, 1025, 1);
        check(&[&line.repeat(1024)[..], b"\n", &line].concat(), 2, 1026, 0);
        check(&line.repeat(5000), 5, 5000, 4);
        // A line that is longer by itself stays whole.
        check(&[&line[..], &[b'x'; 3 << 20], b"\n", &line].concat(), 2, 3, 1);
    }

    #[test]
    fn blank_lines_are_seen_across_the_ends_of_chunks() {
        for shift in 0..8 {
            let mut content = vec![b'x'; CHUNK as usize - 4 - shift];
            content.extend("\n\u{3000}\u{3000}\u{3000}\ny\n \u{3000}z\n".as_bytes());
            let index = Index::build(&Fake(content.clone()), Records::Blocks).unwrap();
            assert_eq!(index.len(), 2, "{shift}");
            check_blocks(&content, &index);
        }
    }

    proptest! {
        /// Any lines, blank ones and all, are found in their windows, and the file gives the index back.
        #[test]
        fn any_text_is_found_by_its_index(
            lines in prop::collection::vec("[ \t\r]{0,2}|[ab\u{3000}\u{a0}]{0,40}", 0..300), last: bool,
        ) {
            let mut content = lines.join("\n").into_bytes();
            content.extend(last.then_some(b'\n'));
            for (kind, _) in BOTH {
                let index = Index::build(&Fake(content.clone()), kind).unwrap();
                match kind {
                    Records::Lines => check(&content, &index),
                    Records::Blocks => check_blocks(&content, &index),
                }
                let identity = Identity { bytes: content.len() as u64, ..IDENTITY };
                let back = Index::decode(&index.encode(&identity), kind, &identity);
                prop_assert!(index.is_empty() || back == Ok(index));
            }
        }
    }

    #[test]
    fn the_index_of_blocks_is_small_whatever_their_length() {
        for (block, count) in [(&b"a\n\n"[..], 200_000), (b"one\ntwo\n\n\n", 60_000), (&[b'x'; 70_000], 1)] {
            let content = block.repeat(count);
            let index = Index::build(&Fake(content.clone()), Records::Blocks).unwrap();
            check_blocks(&content, &index);
            assert!(index.file_len() <= (content.len() as u64 / CORPUS_SHARE).max(96));
            for bound in [2, 3, 1000] {
                let coarse = Index::build_within(&Fake(content.clone()), Records::Blocks, bound).unwrap();
                assert!(coarse.anchors.len() <= bound && coarse.content() == index.content());
            }
        }
    }

    #[test]
    fn the_first_lines_hold_the_blocks_that_begin_in_them() {
        let content = b"\na\nb\n\nc\n".repeat(1000);
        let index = Index::build(&Fake(content.clone()), Records::Blocks).unwrap();
        assert!(index.stride() > 1);
        let begins = naive_blocks(&content);
        for lines in [1, 2, 3, 4, 5, 777, 2500, 4999, 5000, 9000] {
            let expected = begins.iter().filter(|(_, line)| *line < lines).count() as u64;
            assert_eq!(index.within_lines(&Fake(content.clone()), lines).unwrap(), expected, "{lines}");
        }
    }
}
