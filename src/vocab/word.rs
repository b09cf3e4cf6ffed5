//! The word vocabulary: a token is what stands between white space. The reference's `WordVocab`.

use super::split::Kind;
use super::vocabulary::{Split, Vocabulary};

/// Cuts at white space.
pub struct Words;

impl Split for Words {
    const KIND: Kind = Kind::Word;
    const JOINT: &'static str = " ";
}

/// A vocabulary of words.
pub type WordVocab = Vocabulary<Words>;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::{Encode, SPECIAL_TOKENS, Tokenizer};

    /// Ids: the 5, cat 6, sat 7, a 8.
    fn cats() -> WordVocab {
        WordVocab::from_texts(["the cat sat\tthe cat", "the a"], None, 1)
    }

    fn ordinary(vocab: &WordVocab) -> Vec<&str> {
        vocab.tokens().skip(5).collect()
    }

    #[test]
    fn a_tab_separates_words_and_does_not_glue_them() {
        // The reference drops tabs before it splits: its vocabulary would hold "satthe".
        let vocab = cats();
        assert_eq!(vocab.id("satthe"), None);
        assert_eq!(ordinary(&vocab), ["the", "cat", "a", "sat"]);
    }

    #[test]
    fn ids_are_those_of_the_reference() {
        let vocab = WordVocab::from_texts(["b a c b a <unk> <mask> É e d d"], Some(4), 1);
        assert_eq!(vocab.tokens().take(5).collect::<Vec<_>>(), SPECIAL_TOKENS);
        assert_eq!(ordinary(&vocab), ["a", "b", "d", "c"]);
        assert_eq!(vocab.counts(), Some(&[0, 4, 0, 0, 0, 2, 2, 2, 1][..]));
        assert_eq!((vocab.len(), vocab.ordinary_len(), vocab.ordinary(3)), (9, 4, 8));
    }

    #[test]
    fn max_size_does_not_count_the_specials_and_min_freq_cuts() {
        let check = |max_size, min_freq, expected: &[&str]| {
            assert_eq!(ordinary(&WordVocab::from_texts(["c b b a a a"], max_size, min_freq)), expected);
        };
        check(None, 0, &["a", "b", "c"]);
        check(Some(1), 1, &["a"]);
        check(None, 2, &["a", "b"]);
        check(Some(0), 1, &[]);
    }

    #[test]
    fn to_seq_is_that_of_the_reference() {
        let vocab = cats();
        let check = |text, eos, sos, seq_len, expected: (&[u32], usize)| {
            let (ids, length) = vocab.to_seq(text, &Encode { eos, sos, seq_len });
            assert_eq!((&ids[..], length), expected, "{text:?}");
        };
        check("the cat", false, false, None, (&[5, 6], 2));
        check("the\u{a0}dog", true, true, None, (&[3, 5, 1, 2], 4));
        check("the cat", true, true, Some(6), (&[3, 5, 6, 2, 0, 0], 4));
        // The hard cut loses the end, and the length is that before it.
        check("the cat sat", true, false, Some(2), (&[5, 6], 4));
        check("", false, false, Some(2), (&[0, 0], 0));
        check("<mask> <pad>", false, false, None, (&[4, 0], 2));
    }

    #[test]
    fn from_seq_shows_padding_where_asked_and_is_not_inverted() {
        // The reference drops the padding where `with_pad=True`.
        let vocab = cats();
        let ids = [3, 5, 99, 0, 0];
        assert_eq!(vocab.from_seq(&ids, true), ["<sos>", "the", "<99>", "<pad>", "<pad>"]);
        assert_eq!(vocab.from_seq(&ids, false), ["<sos>", "the", "<99>"]);
        assert_eq!(vocab.from_seq_joined(&ids, false), "<sos> the <99>");
    }

    #[test]
    fn text_of_a_corpus_cannot_forge_special_tokens() {
        let mut ids = vec![7];
        cats().encode("the <pad> <mask> <eos> <unk> cat", &mut ids);
        assert_eq!(ids, [7, 5, 1, 1, 1, 1, 6]);
    }

    #[test]
    fn extending_appends_what_is_new() {
        let other = WordVocab::from_texts(["z z z cat b b y y"], None, 1);
        let check = |sorted, expected: &[&str]| {
            let mut vocab = cats();
            vocab.extend(&other, sorted).unwrap();
            assert_eq!(ordinary(&vocab), expected);
            assert_eq!(vocab.to_seq("the cat", &Encode::default()).0, [5, 6], "ids stay");
            assert_eq!(vocab.id("y").map(|id| vocab.counts().unwrap()[id as usize]), Some(2));
            assert_eq!(vocab.counts().unwrap()[6], 2, "counts stay");
            let once = WordVocab::from_parts(
                vocab.tokens().map(Into::into).collect(),
                vocab.counts().map(<[u64]>::to_vec),
            );
            assert_eq!(vocab, once.unwrap());
        };
        check(false, &["the", "cat", "a", "sat", "z", "b", "y"]);
        check(true, &["the", "cat", "a", "sat", "b", "y", "z"]);
    }

    #[test]
    fn reranking_numbers_the_tokens_anew_and_their_counts_go_with_them() {
        let mut vocab = cats();
        vocab
            .rerank(|tokens| {
                tokens.sort_unstable();
                tokens.push("new".into());
            })
            .unwrap();
        assert_eq!(ordinary(&vocab), ["a", "cat", "sat", "the", "new"]);
        assert_eq!(vocab.counts(), Some(&[0, 0, 0, 0, 0, 1, 2, 1, 3, 0][..]));
        assert_eq!(vocab.id("the"), Some(8));

        let error = vocab.rerank(|tokens| tokens.push("cat".into())).unwrap_err();
        assert_eq!(error.to_string(), "token 10, \"cat\", is token 6 already");
        assert_eq!(vocab.len(), 10, "nothing changed");
    }

    #[test]
    fn equality_and_fingerprint_see_tokens_and_ids() {
        let (vocab, again) = (cats(), cats());
        assert_eq!(vocab, again);
        assert_eq!(vocab.fingerprint(), again.fingerprint());
        let build = |tokens: &[&str]| {
            WordVocab::from_parts(SPECIAL_TOKENS.iter().chain(tokens).map(|&t| t.into()).collect(), None)
                .unwrap()
        };
        for (a, b) in
            [(&["ab", "c"][..], &["a", "bc"][..]), (&["a", "b"], &["b", "a"]), (&["a"], &["a", "b"])]
        {
            assert_ne!(build(a), build(b));
            assert_ne!(build(a).fingerprint(), build(b).fingerprint());
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_words(words in vec("[a-zé]{1,20}", 1..20)) {
            let text = words.join(" ");
            let vocab = WordVocab::from_texts([&text], None, 1);
            let (ids, length) = vocab.to_seq(&text, &Encode::default());
            prop_assert_eq!(length, words.len());
            prop_assert_eq!(vocab.from_seq_joined(&ids, false), &text[..]);
            let mut plain = Vec::new();
            vocab.encode(&text, &mut plain);
            prop_assert_eq!(&plain, &ids);
            for &id in &ids {
                prop_assert_eq!(vocab.token(id).and_then(|token| vocab.id(token)), Some(id));
            }
        }

        #[test]
        fn any_sequence_has_the_length_asked_for(
            text in "[ab ]{0,30}", eos: bool, sos: bool, seq_len in 0_usize..20,
        ) {
            let vocab = WordVocab::from_texts(["a b"], None, 1);
            let (free, length) = vocab.to_seq(&text, &Encode { eos, sos, seq_len: None });
            let (fixed, same) = vocab.to_seq(&text, &Encode { eos, sos, seq_len: Some(seq_len) });
            prop_assert_eq!((length, fixed.len()), (same, seq_len));
            prop_assert_eq!(free.len(), length);
            let common = length.min(seq_len);
            prop_assert_eq!(&fixed[..common], &free[..common]);
            prop_assert!(fixed[common..].iter().all(|&id| id == 0));
        }
    }
}
