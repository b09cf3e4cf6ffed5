//! Where a text can be cut so that its parts, encoded one by one, give the ids of the whole.
//!
//! Takes a `tokenizer.json`, gives the cut that commutes with its whole pipeline, or none where nobody has
//! shown that there is one. Models see one piece of the pre-tokenizer at a time and remember nothing between
//! them, so that only what comes before the model counts:
//!
//! * **Added tokens** are looked for in the raw text. They are found part by part as in the whole where none
//!   can lie across a cut (it holds no white space), and none looks at what is around it.
//! * **Normalizers** of the table work character by character, but for Unicode's normal forms. Those reorder
//!   and compose within a run from one starter to the next, and neither a space, tab, line feed nor carriage
//!   return composes with anything: no such run lies across one of them.
//! * **`BertPreTokenizer`** and **`WhitespaceSplit`** drop white space and look at single characters, so that
//!   parts between white space are as good as the whole. `BertNormalizer` deletes control characters and makes
//!   spaces of Unicode's other white space: `a`, vertical tab, `b` is one word. Only the four characters that
//!   it takes for white space before anything else is done to them are cut at. `Metaspace` puts its sign before
//!   each piece that lacks one wherever it stands, if it is told `always`.
//! * **`ByteLevel`** covers the text with matches of GPT-2's expression, in which a space stands in front or
//!   among white space. Hence a match begins at every space behind something else; it depends on nothing before
//!   it; and the part before ends in no white space, whose matches alone look ahead. That part may get a space
//!   put in front, and later ones, which begin with a space, get none, as in the whole.

use serde_json::Value;

/// A cut that commutes with encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// At each space, tab, line feed and carriage return, which are dropped.
    AtSpace,
    /// Before each space that stands behind a character that is no white space.
    BeforeSpace,
}

impl Cut {
    /// The cut of the tokenizer in a checked file.
    pub fn of(file: &Value) -> Option<Self> {
        let plain = |token: &Value| {
            ["single_word", "lstrip", "rstrip", "normalized"].iter().all(|&flag| token[flag] == false)
                && token["content"].as_str().is_some_and(|content| !content.contains(char::is_whitespace))
        };
        if !file["added_tokens"].as_array().is_none_or(|tokens| tokens.iter().all(plain)) {
            return None;
        }
        let pre_tokenizer = parts(&file["pre_tokenizer"], "pretokenizers");
        let kinds: Vec<&str> = pre_tokenizer.iter().map(|part| kind(part)).collect();
        let (cut, normalizers) = match kinds[..] {
            ["BertPreTokenizer"] => (Self::AtSpace, &["BertNormalizer", "NFC", "NFKC", "Lowercase"][..]),
            ["WhitespaceSplit", "Metaspace"] if is_position_free(pre_tokenizer[1]) => {
                (Self::AtSpace, &["NFC", "NFKC", "Lowercase"][..])
            }
            // Files from before there was a choice do not name it.
            ["ByteLevel"] if pre_tokenizer[0]["use_regex"] != false => {
                (Self::BeforeSpace, &["NFC", "Lowercase"][..])
            }
            _ => return None,
        };
        let known = |part: &&Value| normalizers.contains(&kind(part));
        parts(&file["normalizer"], "normalizers").iter().all(known).then_some(cut)
    }

    /// Gives `each` the parts of `text` in order, none of them empty, until one is refused; tells whether all
    /// were taken.
    #[inline]
    pub fn parts<'t>(self, text: &'t str, mut each: impl FnMut(&'t str) -> bool) -> bool {
        let bytes = text.as_bytes();
        let mut start = 0;
        match self {
            Self::AtSpace => {
                for (at, byte) in bytes.iter().enumerate() {
                    if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                        if start < at && !each(&text[start..at]) {
                            return false;
                        }
                        start = at + 1;
                    }
                }
            }
            Self::BeforeSpace => {
                for at in memchr::memchr_iter(b' ', bytes) {
                    let behind_space = text[..at].chars().next_back().is_none_or(char::is_whitespace);
                    if !behind_space {
                        if !each(&text[start..at]) {
                            return false;
                        }
                        start = at;
                    }
                }
            }
        }
        start == bytes.len() || each(&text[start..])
    }
}

/// The parts that `part` is a sequence of, or itself alone; none where there is nothing.
fn parts<'f>(part: &'f Value, list: &str) -> Vec<&'f Value> {
    match part[list].as_array() {
        _ if part.is_null() => Vec::new(),
        Some(inside) if kind(part) == "Sequence" => inside.iter().collect(),
        _ => vec![part],
    }
}

fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

/// Whether a `Metaspace` does the same wherever in a text a piece stands.
fn is_position_free(metaspace: &Value) -> bool {
    metaspace["prepend_scheme"] == "always" && metaspace["split"] == true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_cut_where_it_changes_nothing() {
        let check = |cut: Cut, text: &str, expected: &[&str]| {
            let mut parts = Vec::new();
            assert!(cut.parts(text, |part| {
                parts.push(part);
                true
            }));
            assert_eq!(parts, expected, "{cut:?} {text:?}");
        };
        check(Cut::AtSpace, "", &[]);
        check(Cut::AtSpace, " \t\r\n", &[]);
        check(Cut::AtSpace, " a\tb\r\nc ", &["a", "b", "c"]);
        check(Cut::AtSpace, "a\u{b}b\u{a0}c\u{85}d\u{3000}e", &["a\u{b}b\u{a0}c\u{85}d\u{3000}e"]);
        check(Cut::BeforeSpace, "", &[]);
        check(Cut::BeforeSpace, "a b  c", &["a", " b", "  c"]);
        check(Cut::BeforeSpace, "  a\t b\u{a0} c é d ", &["  a\t b\u{a0} c", " é", " d", " "]);
        assert!(!Cut::AtSpace.parts("a b", |part| part != "b"));
        assert!(!Cut::BeforeSpace.parts("a b", |part| part != "a"));
    }

    #[test]
    fn what_is_not_known_to_commute_has_no_cut() {
        let check = |change: &dyn Fn(&mut Value), expected| {
            let mut file = json!({
                "added_tokens": [{ "content": "[MASK]", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false }],
                "normalizer": { "type": "BertNormalizer" },
                "pre_tokenizer": { "type": "BertPreTokenizer" },
            });
            change(&mut file);
            assert_eq!(Cut::of(&file), expected, "{file}");
        };
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": true });
        let pieces = json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" },
            { "type": "Metaspace", "prepend_scheme": "always", "split": true }] });
        check(&|_| {}, Some(Cut::AtSpace));
        check(&|file| file["normalizer"] = Value::Null, Some(Cut::AtSpace));
        check(&|file| file["normalizer"]["type"] = "Strip".into(), None);
        check(&|file| file["pre_tokenizer"]["type"] = "Whitespace".into(), None);
        check(&|file| file["pre_tokenizer"] = Value::Null, None);
        check(&|file| file["added_tokens"] = Value::Null, Some(Cut::AtSpace));
        check(&|file| file["added_tokens"][0]["content"] = "<a b>".into(), None);
        for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
            check(&|file| file["added_tokens"][0][flag] = true.into(), None);
            check(&|file| file["added_tokens"][0][flag] = Value::Null, None);
        }
        check(&|file| file["pre_tokenizer"] = bytes.clone(), None);
        let nothing_before = |file: &mut Value, pre_tokenizer: &Value| {
            file["normalizer"] = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }] });
            file["pre_tokenizer"] = pre_tokenizer.clone();
        };
        check(&|file| nothing_before(file, &bytes), Some(Cut::BeforeSpace));
        check(&|file| nothing_before(file, &pieces), Some(Cut::AtSpace));
        check(
            &|file| {
                nothing_before(file, &bytes);
                file["pre_tokenizer"]["use_regex"] = false.into();
            },
            None,
        );
        check(
            &|file| {
                nothing_before(file, &pieces);
                file["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = "first".into();
            },
            None,
        );
        // Compatibility forms make two characters of one, a space first.
        check(
            &|file| {
                nothing_before(file, &bytes);
                file["normalizer"]["normalizers"][0]["type"] = "NFKC".into();
            },
            None,
        );
    }
}
