//! Text to sentences: the sentence boundaries of Unicode (UAX #29, of the `unicode-segmentation` crate),
//! within each line. Takes text, gives its sentences and the lines that they stand in. Knows no format.

use unicode_segmentation::UnicodeSegmentation;

/// A run of more characters than this that are neither letters nor digits (a ruler, a leader of dots, blank
/// columns) ends a sentence. Behind a full stop the algorithm looks ahead from each character of such a run,
/// in time that grows with the square of its length: 40 kB of spaces would take 12 s.
const LONGEST_RUN: usize = 64;

/// Gives `found` every sentence of `text` without the white space around it, with its line, from 0, until it says false.
/// A sentence never goes over a line's end, and has at least one character.
///
/// The text from a sentence on that [`opens`] has the same sentences from there on, and what stands before it the same
/// up to there: so a long text can be read in pieces.
pub fn sentences<'t>(text: &'t str, mut found: impl FnMut(&'t str, u64) -> bool) {
    for (number, line) in text.split('\n').enumerate() {
        let mut rest = line;
        while !rest.is_empty() {
            let (searched, piece) = up_to_long_run(rest);
            let mut start = 0;
            for bounded in rest[..searched].split_sentence_bounds() {
                let end = start + bounded.len();
                // What is left of the run belongs to the sentence that it ends.
                let sentence = if end == searched { &rest[start..piece] } else { bounded };
                start = end;
                if !sentence.trim().is_empty() && !found(sentence.trim(), number as u64) {
                    return;
                }
            }
            rest = &rest[piece..];
        }
    }
}

/// Whether a sentence begins in such a way that those from it on are the same without what stands before it. The rules
/// look back no further than to a letter before the full stop that ends a sentence, and ahead no further than to the next
/// full stop or the like; a run of other characters ends at a letter or digit.
pub fn opens(sentence: &str) -> bool {
    sentence.starts_with(char::is_alphanumeric)
}

/// How much of `text` is searched for boundaries, and where the long run ends that ends the search; all of it
/// where there is no such run.
fn up_to_long_run(text: &str) -> (usize, usize) {
    let mut run = 0;
    let mut searched = text.len();
    for (at, c) in text.char_indices() {
        if !c.is_alphanumeric() {
            run += 1;
            if run == LONGEST_RUN {
                searched = at + c.len_utf8();
            }
        } else if run > LONGEST_RUN {
            return (searched, at);
        } else {
            run = 0;
            searched = text.len();
        }
    }
    if run > LONGEST_RUN { (searched, text.len()) } else { (text.len(), text.len()) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<(&str, u64)> {
        let mut all = Vec::new();
        sentences(text, |sentence, line| {
            all.push((sentence, line));
            true
        });
        all
    }

    #[test]
    fn sentences_end_where_unicode_says_and_at_the_ends_of_lines() {
        let check = |text: &str, expected: &[(&str, u64)]| assert_eq!(of(text), expected, "{text:?}");
        check("", &[]);
        check(" \t \n\r\n", &[]);
        check("One. Two? Three!", &[("One.", 0), ("Two?", 0), ("Three!", 0)]);
        check("It costs 3.5 dollars. e.g. this", &[("It costs 3.5 dollars. e.g. this", 0)]);
        check("He said \"No!\" Then he left.", &[("He said \"No!\"", 0), ("Then he left.", 0)]);
        check(
            "これは。文です。한국어. 다음!",
            &[("これは。", 0), ("文です。", 0), ("한국어.", 0), ("다음!", 0)],
        );
        check("a line\r\n\nanother", &[("a line", 0), ("another", 2)]);
        let ruler = "-".repeat(100);
        check(
            &format!("{ruler}Title{ruler} Text. More."),
            &[(&ruler, 0), (&format!("Title{ruler}"), 0), ("Text.", 0), ("More.", 0)],
        );
        check(&format!("End.{}", " ".repeat(64)), &[("End.", 0)]);
    }

    #[test]
    fn a_long_run_takes_time_in_proportion_to_its_length() {
        for run in [" ", ")", "\u{3000}", "-"] {
            let text = format!("a.{}b", run.repeat(1 << 20));
            let started = Instant::now();
            assert!(of(&text).len() <= 3);
            // A second is thousands of times what it takes, and a thousandth of what the square would take.
            assert!(started.elapsed() < Duration::from_secs(1), "{run:?}: {:?}", started.elapsed());
        }
    }

    #[test]
    fn the_search_ends_where_no_more_is_wanted() {
        let mut seen = 0;
        sentences("One. Two. Three.\nFour. Five.", |_, _| {
            seen += 1;
            seen < 4
        });
        assert_eq!(seen, 4);
    }

    proptest! {
        /// Letters of every kind, marks that belong to the character before, ends of sentences and of paragraphs, quotes,
        /// spaces, digits, and runs around the length that ends a sentence.
        #[test]
        fn a_text_is_cut_before_any_sentence_that_opens_without_another_changing(
            text in "([aB1\u{5d0}\u{3042}\u{903}.!?\u{3002},:)\" \u{a0}\u{301}\u{ad}\u{85}\u{2029}\r\n-]{1,30}|[ -)]{60,70}|\\. {60,70}){0,8}",
        ) {
            let place = |sentence: &str| sentence.as_ptr() as usize - text.as_ptr() as usize;
            let all = of(&text);
            for (number, &(sentence, line)) in all.iter().enumerate().filter(|(_, (sentence, _))| opens(sentence)) {
                let (before, behind) = text.split_at(place(sentence));
                prop_assert_eq!(of(before), &all[..number]);
                let behind: Vec<_> = of(behind).into_iter().map(|(text, below)| (text, line + below)).collect();
                prop_assert_eq!(&behind, &all[number..]);
            }
        }

        /// Nothing but white space is lost, and short runs change nothing.
        #[test]
        fn every_character_is_in_one_sentence(text in "[a-cA-C.!? )1\u{e9}\u{3002}\n-]{0,200}") {
            let kept = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let all = of(&text);
            prop_assert_eq!(all.iter().map(|(s, _)| kept(s)).collect::<String>(), kept(&text));
            let expected: Vec<&str> = text
                .split('\n')
                .flat_map(|line| line.split_sentence_bounds())
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .collect();
            let has_run = text.split(char::is_alphanumeric).any(|run| run.chars().count() > LONGEST_RUN);
            if !has_run {
                prop_assert_eq!(all.iter().map(|(s, _)| *s).collect::<Vec<_>>(), expected);
            }
        }
    }
}
