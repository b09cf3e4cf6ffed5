//! Sentences as ids: encoded once, then cut into segments by place.

use std::ops::Range;

use crate::corpus::Sentence;
use crate::vocab::Encoder;

/// Encoded sentences, one behind the other as columns.
#[derive(Debug, Default)]
pub struct Encoded {
    ids: Vec<u32>,
    /// For each id whether it begins a word; empty where words are not asked for.
    begins: Vec<bool>,
    /// Where each sentence ends in `ids`, and the line it stands in.
    ends: Vec<usize>,
    lines: Vec<u64>,
}

/// A stretch of encoded text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment<'s> {
    pub ids: &'s [u32],
    /// For each of `ids` whether it begins a word; empty where words are not asked for.
    pub begins: &'s [bool],
}

impl Encoded {
    /// Leaves no sentence.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.begins.clear();
        self.ends.clear();
        self.lines.clear();
    }

    /// Appends a sentence, with its words where `words` is asked for. One without any token is left out.
    pub fn push(&mut self, sentence: &Sentence<'_>, encoder: &mut dyn Encoder, words: bool) {
        let before = self.ids.len();
        match words {
            true => encoder.encode_words(&sentence.text, &mut self.ids, &mut self.begins),
            false => encoder.encode(&sentence.text, &mut self.ids),
        }
        self.end_sentence(before, sentence.line);
    }

    /// Appends a sentence that was encoded before. One without any token is left out.
    pub fn push_stored(
        &mut self,
        ids: impl Iterator<Item = u32>,
        begins: Option<impl Iterator<Item = bool>>,
        line: u64,
    ) {
        let before = self.ids.len();
        self.ids.extend(ids);
        self.begins.extend(begins.into_iter().flatten());
        self.end_sentence(before, line);
    }

    /// Ends a sentence that began when there were `before` tokens; there is none where no token has come.
    fn end_sentence(&mut self, before: usize, line: u64) {
        if self.ids.len() > before {
            self.ends.push(self.ids.len());
            self.lines.push(line);
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The sentence of token `at < len()`.
    pub fn sentence(&self, at: usize) -> usize {
        self.ends.partition_point(|&end| end <= at)
    }

    /// Where a sentence ends.
    pub fn end(&self, sentence: usize) -> usize {
        self.ends[sentence]
    }

    /// The line of the sentence of token `at < len()`.
    pub fn line(&self, at: usize) -> u64 {
        self.lines[self.sentence(at)]
    }

    /// The text of these tokens.
    pub fn segment(&self, tokens: Range<usize>) -> Segment<'_> {
        let begins = if self.begins.is_empty() { &[][..] } else { &self.begins[tokens.clone()] };
        Segment { ids: &self.ids[tokens], begins }
    }
}
