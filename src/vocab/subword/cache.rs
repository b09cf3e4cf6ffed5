//! An encoder that remembers the ids of the parts of a text between white space.
//!
//! Text repeats its words: with what [`Cut`] gives as keys, all but the rare parts are found, and only those
//! go through the crate that encodes. Belongs to one thread, so nothing is locked. Knows nothing of why parts
//! may be encoded one by one.

use super::super::Encoder;
use super::super::map::WordMap;
use super::cut::Cut;
use super::{SubwordTokenizer, Tokenizer};

/// Memory for what is remembered, in bytes, a doubling of the table aside: some 300,000 parts, four times those of
/// 8 MB of English. When it is full all of it is forgotten, since what is frequent is soon back: with room for a
/// seventh of that text's parts, 15.1 % of its words are then missed, and 15.9 % where what came first stays.
const MEMORY: usize = 16 << 20;

/// Longest part that is remembered, in bytes: words with their punctuation. What is longer (addresses, lines
/// of a script that separates no words) hardly comes again and would crowd out what does.
const LONGEST: usize = 64;

/// Marks an id that begins a word. A file of at most [`super::MAX_BYTES`] has no ids as large.
const BEGINS: u32 = 1 << 31;

/// The ids of a part: a range of `tokens`, or where it is one, that id itself.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    first: u32,
    len: u32,
}

/// Encodes as its tokenizer does.
pub(super) struct CachedEncoder<'t> {
    tokenizer: &'t SubwordTokenizer,
    cut: Cut,
    memory: usize,
    places: WordMap<Place>,
    /// Ids of parts of several, marked.
    tokens: Vec<u32>,
}

impl<'t> CachedEncoder<'t> {
    pub fn new(tokenizer: &'t SubwordTokenizer, cut: Cut) -> Self {
        Self { tokenizer, cut, memory: MEMORY, places: WordMap::default(), tokens: Vec::new() }
    }

    /// Gives `each` the marked ids of the parts of `text`, one part after the other; false where one cannot be
    /// encoded.
    #[inline]
    fn each_part(&mut self, text: &str, mut each: impl FnMut(&[u32])) -> bool {
        self.cut.parts(text, |part| match self.places.get(part) {
            Some(Place { first, len: 1 }) => {
                each(&[first]);
                true
            }
            Some(Place { first, len }) => {
                each(&self.tokens[first as usize..][..len as usize]);
                true
            }
            None => self.encode_new(part, &mut each),
        })
    }

    /// Encodes a part that is not remembered, and remembers it if it may come again.
    #[cold]
    fn encode_new(&mut self, part: &str, each: &mut impl FnMut(&[u32])) -> bool {
        if self.places.bytes() + size_of_val(&self.tokens[..]) > self.memory {
            (self.places, self.tokens) = (WordMap::default(), Vec::new());
        }
        let first = self.tokens.len();
        let marked = |id: u32, begins: bool| if begins { id | BEGINS } else { id };
        let tokens = &mut self.tokens;
        if self.tokenizer.try_encode(part, |id, begins| tokens.push(marked(id, begins))).is_err() {
            self.tokens.truncate(first);
            return false;
        }
        let ids = &self.tokens[first..];
        each(ids);
        let place = match *ids {
            [only] => Place { first: only, len: 1 },
            // Below the bound on memory both are far below 2^32.
            _ => Place { first: first as u32, len: ids.len() as u32 },
        };
        let remembered = part.len() <= LONGEST;
        if remembered {
            self.places.insert(part, place);
        }
        if !remembered || place.len == 1 {
            self.tokens.truncate(first);
        }
        true
    }
}

impl Encoder for CachedEncoder<'_> {
    /// A text of which a part cannot be encoded is left to the tokenizer, for which it is one unknown word.
    fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        let start = out.len();
        if !self.each_part(text, |ids| out.extend(ids.iter().map(|id| id & !BEGINS))) {
            out.truncate(start);
            self.tokenizer.encode(text, out);
        }
    }

    fn encode_words(&mut self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>) {
        let (start, words) = (out.len(), begins.len());
        let encoded = self.each_part(text, |ids| {
            out.extend(ids.iter().map(|id| id & !BEGINS));
            begins.extend(ids.iter().map(|id| id & BEGINS != 0));
        });
        if !encoded {
            out.truncate(start);
            begins.truncate(words);
            self.tokenizer.encode_words(text, out, begins);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::Beside;
    use super::*;

    const WORDPIECE: &[u8] = include_bytes!("../../../fixtures/tokenizers/wordpiece.json");
    const BPE: &[u8] = include_bytes!("../../../fixtures/tokenizers/bpe.json");
    const UNIGRAM: &[u8] = include_bytes!("../../../fixtures/tokenizers/unigram.json");

    /// A tokenizer with a part of its file replaced.
    fn with(json: &[u8], part: &str, value: &str) -> SubwordTokenizer {
        let mut file: Value = serde_json::from_slice(json).unwrap();
        *file.pointer_mut(part).unwrap() = serde_json::from_str(value).unwrap();
        SubwordTokenizer::from_json(file.to_string().as_bytes(), &Beside::default()).unwrap()
    }

    /// Every pipeline that has a cut, in its variants.
    fn pipelines() -> Vec<SubwordTokenizer> {
        let bert = |options: &str| {
            with(WORDPIECE, "/normalizer", &format!(r#"{{"type":"BertNormalizer",{options}}}"#))
        };
        let pipelines = vec![
            with(WORDPIECE, "/truncation", "null"),
            with(BPE, "/truncation", "null"),
            with(UNIGRAM, "/truncation", "null"),
            bert(r#""clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":false"#),
            bert(r#""clean_text":false,"handle_chinese_chars":false,"strip_accents":null,"lowercase":true"#),
            bert(r#""clean_text":false,"handle_chinese_chars":true,"strip_accents":true,"lowercase":false"#),
            with(WORDPIECE, "/normalizer", r#"{"type":"NFKC"}"#),
            with(WORDPIECE, "/normalizer", "null"),
            with(BPE, "/normalizer", "null"),
            with(BPE, "/normalizer", r#"{"type":"NFC"}"#),
            with(BPE, "/pre_tokenizer/add_prefix_space", "false"),
            with(UNIGRAM, "/normalizer", "null"),
        ];
        assert!(pipelines.iter().all(|pipeline| pipeline.cut.is_some()));
        pipelines
    }

    /// Texts of what is common, and of what some part of a pipeline treats in a way of its own.
    fn texts() -> impl Strategy<Value = String> {
        const ODD: &[&str] = &[
            "the",
            "knight",
            "sleeps",
            "The",
            "'s",
            "'ll",
            "don't",
            "12",
            "3.5",
            "!",
            "...",
            "[MASK]",
            "[SEP]",
            "[",
            "MASK]",
            "##s",
            "é",
            "e\u{301}",
            "\u{301}",
            "\u{345}",
            "\u{308}\u{301}",
            "İ",
            "Σ",
            "ß",
            "東京",
            "\u{2f800}",
            "각",
            "\u{1100}\u{1161}",
            "\u{1161}",
            "\u{11a8}",
            "▁",
            "Ġ",
            "\u{a8}",
            "\u{b4}",
            "\u{37e}",
            "ﬁ",
            "½",
            "👩\u{200d}🚀",
            "\u{fe0f}",
            "\0",
            "\u{1}",
            "\u{7f}",
            "\u{ad}",
            "\u{200b}",
            "\u{feff}",
            "\u{fffd}",
            "\u{e000}",
            "\u{378}",
            "\u{b}",
            "\u{c}",
            "\u{1c}",
            "\u{1f}",
            "\u{85}",
            "\u{a0}",
            "\u{1680}",
            "\u{2003}",
            "\u{2028}",
            "\u{3000}",
            "\u{180e}",
            " ",
            " ",
            " ",
            "  ",
            "\t",
            "\n",
            "\r",
            "\r\n",
            " \n ",
        ];
        let part = prop_oneof![
            4 => proptest::sample::select(ODD).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    /// That `encoder` gives what the whole text gives.
    fn check(
        pipeline: &SubwordTokenizer,
        encoder: &mut CachedEncoder<'_>,
        text: &str,
    ) -> Result<(), TestCaseError> {
        let (mut ids, mut begins) = (vec![7], vec![true]);
        pipeline.encode_words(text, &mut ids, &mut begins);
        for _ in 0..2 {
            let (mut cached, mut marks) = (vec![7], vec![true]);
            encoder.encode_words(text, &mut cached, &mut marks);
            prop_assert_eq!((&cached, &marks), (&ids, &begins), "{:?} {:?}", text, pipeline.cut);
            let mut plain = vec![7];
            encoder.encode(text, &mut plain);
            prop_assert_eq!(&plain, &ids);
        }
        Ok(())
    }

    #[test]
    fn parts_one_by_one_give_the_ids_and_words_of_the_whole() {
        let pipelines = pipelines();
        let mut runner = proptest::test_runner::TestRunner::default();
        for pipeline in &pipelines {
            let encoder = std::cell::RefCell::new(CachedEncoder::new(pipeline, pipeline.cut.unwrap()));
            runner.run(&texts(), |text| check(pipeline, &mut encoder.borrow_mut(), &text)).unwrap();
        }
    }

    #[test]
    fn what_is_forgotten_or_too_long_is_encoded_again() {
        let pipeline = with(WORDPIECE, "/truncation", "null");
        let mut encoder = CachedEncoder { memory: 2048, ..CachedEncoder::new(&pipeline, Cut::AtSpace) };
        let long = "a".repeat(LONGEST + 1);
        let mut most = 0;
        for n in 0..400 {
            check(&pipeline, &mut encoder, &format!("knight{n} sleeps {long} {n}")).unwrap();
            most = most.max(encoder.places.bytes() + 4 * encoder.tokens.len());
        }
        assert!((1024..8192).contains(&most), "{most}");
        assert!(encoder.places.get("knight399").is_some() && encoder.places.get("knight0").is_none());
        assert!(encoder.places.get(&*long).is_none());
    }
}
