//! One row as a line that a person can read: `[CLS]`-like tokens as they are spelled, `[MASK:house]` where
//! `house` is hidden, `[cat<-dog]` where `cat` stands for `dog`, `(word)` where a predicted word was kept.

use std::fmt::Write;

use super::{Corruption, SEGMENT_B};
use crate::vocab::Tokenizer;

/// Whether to colour what was masked, by ANSI sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Ansi,
}

/// Spells a row of `ids` with their `segments`, `" | "` between the first segment and the second.
/// `predicted` gives (position in the row, true id, what stands there instead), ascending.
pub fn show(
    ids: &[u32],
    segments: &[u8],
    predicted: impl IntoIterator<Item = (usize, u32, Corruption)>,
    tokenizer: &dyn Tokenizer,
    paint: Paint,
) -> String {
    let mut text = String::new();
    let mut predicted = predicted.into_iter().peekable();
    for (position, &id) in ids.iter().enumerate() {
        if position > 0 {
            let crosses = segments[position] == SEGMENT_B && segments[position - 1] != SEGMENT_B;
            text.push_str(if crosses { " | " } else { " " });
        }
        let token = spell(tokenizer, id);
        match predicted.next_if(|&(at, ..)| at == position) {
            None => text.push_str(&token),
            Some((_, label, corruption)) => {
                let label = spell(tokenizer, label);
                let (colour, marked) = match corruption {
                    Corruption::Mask => (33, format!("[MASK:{label}]")),
                    Corruption::Random => (31, format!("[{token}<-{label}]")),
                    Corruption::Keep => (32, format!("({token})")),
                };
                let written = match paint {
                    Paint::Plain => write!(text, "{marked}"),
                    Paint::Ansi => write!(text, "\x1b[{colour}m{marked}\x1b[0m"),
                };
                written.expect("a String takes all that is written to it");
            }
        }
    }
    text
}

/// A token as the vocabulary spells it, ids beyond it as `<id>` (as `from_seq` of the reference does).
fn spell(tokenizer: &dyn Tokenizer, id: u32) -> std::borrow::Cow<'_, str> {
    match tokenizer.token(id) {
        Some(token) => token.into(),
        None => format!("<{id}>").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::WordVocab;

    #[test]
    fn rows_are_readable() {
        let (ids, segments) = ([3, 4, 2, 5, 6, 99, 2], [1, 1, 1, 2, 2, 2, 2]);
        let predicted = [(1, 7, Corruption::Mask), (3, 6, Corruption::Random), (4, 6, Corruption::Keep)];
        let vocab = WordVocab::from_texts(["cat dog house"], None, 1);
        let check = |paint, expected: &str| {
            assert_eq!(show(&ids, &segments, predicted, &vocab, paint), expected);
        };
        check(Paint::Plain, "<sos> [MASK:house] <eos> | [cat<-dog] (dog) <99> <eos>");
        check(
            Paint::Ansi,
            "<sos> \x1b[33m[MASK:house]\x1b[0m <eos> | \x1b[31m[cat<-dog]\x1b[0m \x1b[32m(dog)\x1b[0m <99> <eos>",
        );
    }
}
