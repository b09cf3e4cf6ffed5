//! Blocks of lines: where they begin, however the bytes come in pieces, and the records of a window one by one.

use memchr::{memchr, memchr_iter};

use super::{Found, MAX_BLOCK, Records};
use crate::text::BOM;

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
    /// From the beginning of the window on.
    pub(super) fn new(window: &'w [u8], kind: Records) -> Self {
        Self { window, kind, at: 0, blocks: Blocks::default(), begun: None }
    }

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
pub(super) struct Blocks {
    /// Lines that have ended.
    pub line: u64,
    /// Where the line that has not ended begins, and whether it is blank so far.
    start: u64,
    white: White,
    /// Where the block begins that this line goes on with.
    block: Option<u64>,
    /// Whether the line before ended a block by its length.
    was_cut: bool,
    /// Blocks that begin only because the one before was too long.
    pub cuts: u64,
}

impl Blocks {
    /// Of a window that begins at `start`.
    pub fn from(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    /// Tells `found` each block that is seen to begin in `chunk`, which begins at `start`: its place and its
    /// first line.
    pub fn feed(&mut self, start: u64, chunk: &[u8], mut found: impl FnMut(u64, u64)) {
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
    pub fn finish(&mut self, length: u64) -> Option<(u64, u64)> {
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
