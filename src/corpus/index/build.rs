//! Making the index: one pass over the corpus, in constant memory.

use std::hash::Hasher;

use memchr::memchr_iter;
use multiversion::multiversion;
use twox_hash::XxHash3_64;

use super::blocks::Blocks;
use super::{CHUNK, Index, MAX_ANCHOR_BYTES, Records};
use crate::Result;
use crate::corpus::{Bytes, look};

/// The index file is at most a 200th of the corpus, its header excepted where the corpus is tiny.
pub(super) const CORPUS_SHARE: u64 = 200;

/// Line feeds are counted in so many bytes at a time, which is faster than to find them; they are found where an
/// anchor is due. A byte holds the count, and registers of every width hold a part of the bytes.
const COUNTED: usize = 192;

impl Index {
    /// Reads `bytes` once, in order, in constant memory. A line ends with its line feed; bytes behind the
    /// last line feed are a line too.
    pub fn build(bytes: &dyn Bytes, kind: Records) -> Result<Self> {
        Self::build_within(bytes, kind, MAX_ANCHOR_BYTES / kind.anchor_len())
    }

    /// [`Index::build`] with another bound on memory.
    pub(super) fn build_within(bytes: &dyn Bytes, kind: Records, max_anchors: usize) -> Result<Self> {
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
        let mut counts = Vec::new();
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
                    Records::Lines => index.count_lines(start, chunk, &mut counts, max_anchors),
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

    /// Counts the line feeds of `chunk`, which begins at `start`, and sets the anchors behind them. `counts` is
    /// scratch.
    fn count_lines(&mut self, start: u64, chunk: &[u8], counts: &mut Vec<u8>, max_anchors: usize) {
        line_feeds(chunk, counts);
        for (i, &count) in counts.iter().enumerate() {
            let counted = self.lines + u64::from(count);
            if counted > self.lines | (self.stride() - 1) {
                let piece = &chunk[i * COUNTED..chunk.len().min((i + 1) * COUNTED)];
                let start = start + (i * COUNTED) as u64;
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
}

/// Puts into `counts` how many line feeds each [`COUNTED`] bytes have.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
fn line_feeds(chunk: &[u8], counts: &mut Vec<u8>) {
    // Wrapping, although none has more than fit: where sums are checked, each would be looked at.
    #[inline(always)]
    fn count(piece: &[u8]) -> u8 {
        piece.iter().fold(0, |count: u8, &byte| count.wrapping_add(u8::from(byte == b'\n')))
    }
    let (pieces, rest) = chunk.as_chunks::<COUNTED>();
    counts.clear();
    counts.extend(pieces.iter().map(|piece| count(piece)));
    counts.push(count(rest));
}
