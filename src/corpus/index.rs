//! The index: where records begin, so that any of them is reached in constant time.
//!
//! Takes bytes, gives windows of them in which a record is found. A record is a line, or a block of lines
//! ([`Records`]). The place of one record in `stride` is kept (an *anchor*); a record is found by going to the
//! anchor before it and passing fewer than `stride` others. The stride starts at 16 lines or 1 block, and
//! doubles until the index is below 0.5 % of the corpus. Knows nothing of what a record holds.
//!
//! The file is little-endian: magic, version, kind of records and stride, then length, modification time,
//! sample and content of the corpus, records, lines, blocks cut, anchors, and a checksum of all that. It is
//! made of the corpus and of nothing else, so whatever does not fit (stale or damaged) is refused and made
//! again.

use std::fs::File;
use std::hash::Hasher;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memchr::{memchr, memchr_iter};
use multiversion::multiversion;
use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{Bytes, look};
use crate::text::BOM;
use crate::{Error, Result, durable};

/// First eight bytes of an index file.
const MAGIC: [u8; 8] = *b"bs-lines";
/// Of the layout of the file and of the hashes in it.
const VERSION: u32 = 2;
/// Bytes before the anchors: magic, version, kind, shift, and seven numbers of 64 bits.
const HEADER: usize = 8 + 4 + 2 + 2 + 7 * 8;
/// Bytes behind the anchors.
const CHECKSUM: usize = 8;

/// The index file is at most a 200th of the corpus, its header excepted where the corpus is tiny.
const CORPUS_SHARE: u64 = 200;
/// Bound on memory, while building and afterwards: 128 MiB, reached at 270 million lines.
const MAX_ANCHOR_BYTES: usize = 1 << 27;

/// Read at a time when building: fits into a second-level cache with room to spare.
const CHUNK: u64 = 1 << 18;

/// Line feeds are counted in so many bytes at a time, which is faster than to find them; they are found where an
/// anchor is due. A byte holds the count.
const COUNTED: usize = 128;

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

    /// As it stands in a file.
    fn code(self) -> u16 {
        match self {
            Self::Lines => 0,
            Self::Blocks => 1,
        }
    }
}

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
        look(bytes, 0..length, |piece| hash.update(piece))?;
        return Ok(hash.digest());
    }
    look(bytes, 0..END, |piece| hash.update(piece))?;
    let between = length - 2 * END - BLOCK;
    // 128 bits: a file's length times 62 may leave 64.
    let block = |i| END + (u128::from(between) * u128::from(i) / u128::from(BLOCKS - 1)) as u64;
    // A disk finds them all at once faster than one after the other.
    for start in (0..BLOCKS).map(block).chain([length - END]) {
        bytes.announce(start..start + BLOCK);
    }
    for start in (0..BLOCKS).map(block) {
        look(bytes, start..start + BLOCK, |piece| hash.update(piece))?;
    }
    look(bytes, length - END..length, |piece| hash.update(piece))?;
    Ok(hash.digest())
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
    /// Reads `bytes` once, in order, in constant memory. A line ends with its line feed; bytes behind the
    /// last line feed are a line too.
    pub fn build(bytes: &dyn Bytes, kind: Records) -> Result<Self> {
        Self::build_within(bytes, kind, MAX_ANCHOR_BYTES / kind.anchor_len())
    }

    /// [`Index::build`] with another bound on memory.
    fn build_within(bytes: &dyn Bytes, kind: Records, max_anchors: usize) -> Result<Self> {
        let length = bytes.len();
        let mut index = Self {
            kind,
            anchors: Vec::new(),
            anchor_lines: Vec::new(),
            shift: kind.first_shift(),
            records: 0,
            lines: 0,
            cuts: 0,
            bytes: length,
            content: 0,
        };
        let mut hash = XxHash3_64::new();
        let mut blocks = Blocks::default();
        let mut last = b'\n';
        let mut start = 0;
        if kind == Records::Lines {
            index.anchors.push(0);
        }
        while start < length {
            let end = length.min(start + CHUNK);
            look(bytes, start..end, |chunk| {
                hash.write(chunk);
                match kind {
                    Records::Lines => index.count_lines(start, chunk, max_anchors),
                    Records::Blocks => blocks.feed(start, chunk, |at, line| index.add(at, line, max_anchors)),
                }
                last = chunk.last().copied().unwrap_or(last);
            })?;
            start = end;
        }
        index.content = hash.finish();
        match kind {
            Records::Lines => {
                index.lines += u64::from(last != b'\n');
                index.records = index.lines;
                // No line begins behind the last line feed.
                index.anchors.truncate(index.lines.div_ceil(index.stride()) as usize);
            }
            Records::Blocks => {
                if let Some((at, line)) = blocks.finish(length) {
                    index.add(at, line, max_anchors);
                }
                (index.lines, index.cuts) = (blocks.line, blocks.cuts);
            }
        }
        while index.anchors.len() > 1 && index.file_len() > length / CORPUS_SHARE {
            index.thin();
        }
        Ok(index)
    }

    /// Counts the line feeds of `chunk`, which begins at `start`, and sets the anchors behind them.
    fn count_lines(&mut self, start: u64, chunk: &[u8], max_anchors: usize) {
        let mut counts = Vec::with_capacity(chunk.len().div_ceil(COUNTED));
        line_feeds(chunk, &mut counts);
        for ((piece, count), start) in chunk.chunks(COUNTED).zip(counts).zip((start..).step_by(COUNTED)) {
            let counted = self.lines + u64::from(count);
            if counted > self.lines | (self.stride() - 1) {
                for (at, line) in memchr_iter(b'\n', piece).zip(self.lines + 1..) {
                    // The stride may double meanwhile.
                    if line & (self.stride() - 1) == 0 {
                        self.anchors.push(start + at as u64 + 1);
                        if self.anchors.len() > max_anchors {
                            self.thin();
                        }
                    }
                }
            }
            self.lines = counted;
        }
    }

    /// Counts a block that begins at `at` with line `line`, and sets an anchor there where one is due.
    fn add(&mut self, at: u64, line: u64, max_anchors: usize) {
        if self.records & (self.stride() - 1) == 0 {
            self.anchors.push(at);
            self.anchor_lines.push(line);
            if self.anchors.len() > max_anchors {
                self.thin();
            }
        }
        self.records += 1;
    }

    /// Doubles the stride: every second anchor goes.
    fn thin(&mut self) {
        self.shift += 1;
        for column in [&mut self.anchors, &mut self.anchor_lines] {
            let kept = column.len().div_ceil(2);
            for k in 0..kept {
                column[k] = column[2 * k];
            }
            column.truncate(kept);
        }
    }

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

    /// Length of the index file in bytes.
    pub fn file_len(&self) -> u64 {
        (HEADER + 8 * (self.anchors.len() + self.anchor_lines.len()) + CHECKSUM) as u64
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
        let mut blocks = Blocks { start: window.start, ..Blocks::default() };
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
        walk(window, self.kind)
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

/// Appends to `counts` how many line feeds each [`COUNTED`] bytes have.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
fn line_feeds(chunk: &[u8], counts: &mut Vec<u8>) {
    counts.extend(
        chunk.chunks(COUNTED).map(|piece| piece.iter().map(|&byte| u8::from(byte == b'\n')).sum::<u8>()),
    );
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

fn walk(window: &[u8], kind: Records) -> Walk<'_> {
    Walk { window, kind, at: 0, blocks: Blocks::default(), begun: None }
}

/// The records of a window, in order.
pub struct Walk<'w> {
    window: &'w [u8],
    kind: Records,
    /// Where the next line begins.
    at: usize,
    blocks: Blocks,
    /// The block that began last, and has not ended.
    begun: Option<(u64, u64)>,
}

impl<'w> Walk<'w> {
    /// Goes to the next line's beginning and gives this one.
    fn line(&mut self) -> Option<&'w [u8]> {
        let rest = &self.window[self.at..];
        let length = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        self.at += length;
        (length > 0).then_some(&rest[..length])
    }

    /// Where the next block begins, and with which line.
    fn begin(&mut self) -> Option<(u64, u64)> {
        loop {
            let line = self.line()?;
            self.blocks.white.feed(line);
            let begins = self.blocks.line_ends(self.at as u64);
            if begins.is_some() {
                return begins;
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        match self.kind {
            Records::Lines => {
                let start = self.at;
                self.line()?;
                self.blocks.line += 1;
                Some(Found { range: start..self.at, line: self.blocks.line - 1 })
            }
            Records::Blocks => {
                let (start, line) = self.begun.take().or_else(|| self.begin())?;
                self.begun = self.begin();
                let end = self.begun.map_or(self.window.len(), |(next, _)| next as usize);
                Some(Found { range: start as usize..end, line })
            }
        }
    }
}

/// Cuts lines into blocks, wherever they begin in the file and however they are cut into pieces.
#[derive(Default)]
struct Blocks {
    /// Lines that have ended.
    line: u64,
    /// Where the line that has not ended begins, and whether it is blank so far.
    start: u64,
    white: White,
    /// Where the block begins that this line goes on with.
    block: Option<u64>,
    /// Whether the line before ended a block by its length.
    was_cut: bool,
    cuts: u64,
}

impl Blocks {
    /// Tells `found` each block that is seen to begin in `chunk`, which begins at `start`: its place and its
    /// first line.
    fn feed(&mut self, start: u64, chunk: &[u8], mut found: impl FnMut(u64, u64)) {
        let mut from = 0;
        if start == 0 && chunk.starts_with(BOM) {
            from = BOM.len();
            self.start = from as u64;
        }
        for at in memchr_iter(b'\n', chunk) {
            self.white.feed(&chunk[from..at]);
            from = at + 1;
            if let Some((at, line)) = self.line_ends(start + from as u64) {
                found(at, line);
            }
        }
        self.white.feed(&chunk[from..]);
    }

    /// The last line, where no line feed ends it.
    fn finish(&mut self, length: u64) -> Option<(u64, u64)> {
        if self.start < length { self.line_ends(length) } else { None }
    }

    /// The line ends before `end`: the place and the line of the block that begins with it, if one does.
    fn line_ends(&mut self, end: u64) -> Option<(u64, u64)> {
        let (start, line) = (self.start, self.line);
        (self.start, self.line) = (end, line + 1);
        if self.white.end() {
            (self.block, self.was_cut) = (None, false);
            return None;
        }
        let begins = self.block.is_none();
        let block = *self.block.get_or_insert(start);
        if begins {
            self.cuts += u64::from(self.was_cut);
            self.was_cut = false;
        }
        if end - block >= MAX_BLOCK {
            (self.block, self.was_cut) = (None, true);
        }
        begins.then_some((start, line))
    }
}

/// Whether a line that comes in pieces is nothing but white space.
#[derive(Default)]
struct White {
    /// Something else was seen.
    text: bool,
    /// The first bytes of a character whose others are still to come.
    partial: Vec<u8>,
}

impl White {
    fn feed(&mut self, piece: &[u8]) {
        // Most lines begin with what is plainly no white space.
        if !self.text && self.partial.is_empty() && piece.first().is_some_and(u8::is_ascii_graphic) {
            self.text = true;
        }
        if !self.text {
            self.look(piece);
        }
    }

    fn look(&mut self, piece: &[u8]) {
        let joined;
        let mut rest = piece;
        if !self.partial.is_empty() {
            joined = [&self.partial, piece].concat();
            rest = &joined;
        }
        let mut partial = Vec::new();
        while !rest.is_empty() {
            // No character has more than four bytes.
            let front = &rest[..rest.len().min(4)];
            let (valid, goes_on) = match std::str::from_utf8(front) {
                Ok(valid) => (valid, false),
                Err(error) => (
                    std::str::from_utf8(&front[..error.valid_up_to()]).expect("valid up to there"),
                    error.error_len().is_none() && rest.len() < 4,
                ),
            };
            match valid.chars().next() {
                Some(c) if c.is_whitespace() => rest = &rest[c.len_utf8()..],
                None if goes_on => {
                    partial = rest.to_vec();
                    break;
                }
                _ => {
                    self.text = true;
                    break;
                }
            }
        }
        self.partial = partial;
    }

    /// Whether the line that ends here was blank.
    fn end(&mut self) -> bool {
        let blank = !self.text && self.partial.is_empty();
        self.text = false;
        self.partial.clear();
        blank
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::corpus::Piece;

    struct Fake(Vec<u8>);

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

    const BOTH: [(Records, Records); 2] =
        [(Records::Lines, Records::Blocks), (Records::Blocks, Records::Lines)];

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
