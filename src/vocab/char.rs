//! The character vocabulary: every character that is not white space is a token. For languages that do not
//! separate words, and for experiments with tiny vocabularies.

use super::split::Kind;
use super::vocabulary::{Split, Vocabulary};

/// Cuts between characters.
pub struct Chars;

impl Split for Chars {
    const KIND: Kind = Kind::Char;
    const JOINT: &'static str = "";
}

/// A vocabulary of characters.
pub type CharVocab = Vocabulary<Chars>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Encode, Tokenizer, WordVocab};

    #[test]
    fn characters_are_counted_encoded_and_joined_without_gaps() {
        let vocab = CharVocab::from_texts(["東京 東\tb"], None, 1);
        assert_eq!(vocab.tokens().skip(5).collect::<Vec<_>>(), ["東", "b", "京"]);
        let (ids, length) = vocab.to_seq("京 東x", &Encode { eos: true, ..Encode::default() });
        assert_eq!((&ids[..], length), (&[7, 5, 1, 2][..], 4));
        assert_eq!(vocab.from_seq_joined(&ids[..2], false), "京東");
    }

    #[test]
    fn the_kind_is_part_of_the_fingerprint() {
        let (words, chars) =
            (WordVocab::from_texts(["a b"], None, 1), CharVocab::from_texts(["ab"], None, 1));
        assert!(words.tokens().eq(chars.tokens()));
        assert_ne!(words.fingerprint(), chars.fingerprint());
    }
}
