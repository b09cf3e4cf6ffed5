//! Where one token ends and the next begins.
//!
//! Takes text, gives its words or its characters, in order, each as a [`Token`] of the text. Knows nothing of
//! vocabularies. Counting and encoding both go through here, so they can never disagree.

use serde::{Deserialize, Serialize};

/// What is one token: the two ways to cut text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What stands between white space, as in the reference.
    #[default]
    Word,
    /// Every character that is not white space: for languages that do not separate words.
    Char,
}

impl Kind {
    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Char => "char",
        }
    }

    /// Gives `each` the tokens of `text`, in order.
    #[inline]
    pub(crate) fn split<'t>(self, text: &'t str, each: impl FnMut(Token<'t>)) {
        match self {
            Self::Word => words(text, each),
            Self::Char => chars(text, each),
        }
    }

    /// Why `token` can never come out of a text cut this way; `None` where it can.
    pub(crate) fn objection(self, token: &str) -> Option<&'static str> {
        let spaced = match token.is_ascii() {
            true => token.bytes().any(is_ascii_space),
            false => token.contains(is_space),
        };
        if token.is_empty() {
            Some("is empty")
        } else if spaced {
            Some("contains white space")
        } else if self == Self::Char && token.chars().nth(1).is_some() {
            Some("is longer than one character")
        } else {
            None
        }
    }
}

/// Whether Python's `str.split()` cuts at `c`: Unicode's White_Space and the four ASCII separators
/// U+001C..=U+001F, which that property lacks.
#[inline]
pub fn is_space(c: char) -> bool {
    matches!(c, '\u{1c}'..='\u{1f}') || c.is_whitespace()
}

/// [`is_space`] for the bytes below 0x80.
#[inline]
pub(crate) fn is_ascii_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ')
}

/// A token where it stands: whoever looks at its first bytes may read a fixed number of them, which takes no
/// loop, as long as there is text behind it.
#[derive(Clone, Copy, Debug)]
pub struct Token<'t> {
    /// The text from the token's first byte on.
    rest: &'t str,
    len: usize,
}

impl<'t> Token<'t> {
    /// Its text.
    #[inline]
    pub fn text(self) -> &'t str {
        &self.rest[..self.len]
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(self) -> &'t [u8] {
        &self.rest.as_bytes()[..self.len]
    }

    /// Its bytes, and as many behind them as make `N`; `None` where the text ends before that.
    #[inline]
    pub fn first_chunk<const N: usize>(self) -> Option<&'t [u8; N]> {
        self.rest.as_bytes().first_chunk()
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no byte, which no token of a text has.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

impl<'t> From<&'t str> for Token<'t> {
    /// A token that stands alone.
    #[inline]
    fn from(text: &'t str) -> Self {
        Self { rest: text, len: text.len() }
    }
}

/// Looked at together: as many bytes as an integer has bits. Words are short, so a search that restarts at each
/// word would pay its set-up more often than its work.
const BLOCK: usize = 64;

/// Gives `each` the words of `text` as Python's `str.split()` has them.
#[inline]
pub fn words<'t>(text: &'t str, mut each: impl FnMut(Token<'t>)) {
    let bytes = text.as_bytes();
    // Where the word begins that goes on, and whether it is ASCII up to the block.
    let (mut start, mut plain) = (0, true);
    let mut look = |block: &[u8; BLOCK], from: usize| {
        let (mut ends, ascii) = (at_most_space(block), block.is_ascii());
        let simple = plain && ascii;
        plain = ascii && (plain || ends != 0);
        while ends != 0 {
            let at = from + ends.trailing_zeros() as usize;
            ends &= ends - 1;
            // The other control characters are no white space.
            if is_ascii_space(bytes[at]) {
                if at > start {
                    if simple {
                        each(Token { rest: &text[start..], len: at - start });
                    } else {
                        run(&text[start..at], &mut each);
                    }
                }
                start = at + 1;
            }
        }
    };
    let (blocks, tail) = bytes.as_chunks();
    for (i, block) in blocks.iter().enumerate() {
        look(block, BLOCK * i);
    }
    // No white space, so that it is not taken for part of the text.
    let mut last = [0xff; BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    look(&last, bytes.len() - tail.len());
    if start < bytes.len() {
        run(&text[start..], &mut each);
    }
}

/// Gives `each` the characters of `text` that are not white space.
#[inline]
pub fn chars<'t>(text: &'t str, mut each: impl FnMut(Token<'t>)) {
    for (at, c) in text.char_indices() {
        if !is_space(c) {
            each(Token { rest: &text[at..], len: c.len_utf8() });
        }
    }
}

/// For each byte whether it is at most 0x20: all ASCII white space and the other control characters.
#[inline(always)]
fn at_most_space(block: &[u8; BLOCK]) -> u64 {
    let (eights, _) = block.as_chunks::<8>();
    eights.iter().rev().fold(0, |bits, eight| bits << 8 | at_most_space_of_eight(u64::from_le_bytes(*eight)))
}

/// The same of eight bytes, the first one in the lowest bit.
#[inline(always)]
fn at_most_space_of_eight(block: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Below 0x80, adding 0x5f carries into bit 7 exactly for the bytes above 0x20, never beyond.
    let found = !(((block & !HIGH) + 0x5f * ONES) | block) & HIGH;
    // Each of the eight bits goes to its place in the highest byte; no two of the others meet.
    (found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// The words of a run without ASCII white space: one, unless some other white space stands in it.
#[inline]
fn run<'t>(run: &'t str, each: &mut impl FnMut(Token<'t>)) {
    // The first bytes of all other white space there is.
    if !run.bytes().any(|byte| matches!(byte, 0xc2 | 0xe1..=0xe3)) {
        each(run.into());
    } else {
        run.split(is_space).filter(|word| !word.is_empty()).for_each(|word| each(word.into()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(kind: Kind, text: &str) -> Vec<&str> {
        let mut out = Vec::new();
        kind.split(text, |token| out.push(token.text()));
        out
    }

    #[test]
    fn words_are_those_of_pythons_split() {
        // `[hex(c) for c in range(0x110000) if chr(c).isspace()]` in Python 3.
        let python: Vec<u32> = [0x9..=0xd, 0x1c..=0x20, 0x85..=0x85, 0xa0..=0xa0, 0x1680..=0x1680]
            .into_iter()
            .chain([0x2000..=0x200a, 0x2028..=0x2029, 0x202f..=0x202f, 0x205f..=0x205f, 0x3000..=0x3000])
            .flatten()
            .collect();
        let ours: Vec<u32> = (0..0x11_0000).filter(|&c| char::from_u32(c).is_some_and(is_space)).collect();
        assert_eq!(ours, python);
        for c in python.into_iter().filter_map(char::from_u32) {
            assert_eq!(collect(Kind::Word, &format!("a{c}b")), ["a", "b"], "{c:?}");
        }
    }

    #[test]
    fn a_tab_separates_words() {
        assert_eq!(collect(Kind::Word, "left side.\tright side"), ["left", "side.", "right", "side"]);
    }

    #[test]
    fn text_is_cut_by_kind() {
        let check = |kind, text, expected: &[&str]| assert_eq!(collect(kind, text), expected, "{text:?}");
        check(Kind::Word, "", &[]);
        check(Kind::Word, " \n\t ", &[]);
        check(Kind::Word, "eightchr eightchr", &["eightchr", "eightchr"]);
        check(Kind::Word, "a\0b \u{1}\u{7f} c", &["a\0b", "\u{1}\u{7f}", "c"]);
        check(Kind::Word, "\u{3000}나는\u{a0}간다\u{2003}", &["나는", "간다"]);
        check(Kind::Char, "ab\u{3000}나 é\n", &["a", "b", "나", "é"]);
    }

    #[test]
    fn a_token_that_no_text_can_hold_is_named() {
        let check = |kind: Kind, token, expected| assert_eq!(kind.objection(token), expected, "{token:?}");
        check(Kind::Word, "word", None);
        check(Kind::Word, "", Some("is empty"));
        check(Kind::Word, "a b", Some("contains white space"));
        check(Kind::Char, "나", None);
        check(Kind::Char, "나는", Some("is longer than one character"));
    }

    proptest! {
        #[test]
        fn blocks_cut_where_single_characters_do(
            text in "([a-c]{1,9}|[ \t\u{1c}\u{1}\u{0}\u{7f}é\u{85}\u{3000}]){0,80}",
        ) {
            let plain: Vec<&str> = text.split(is_space).filter(|w| !w.is_empty()).collect();
            prop_assert_eq!(collect(Kind::Word, &text), plain);
        }
    }
}
