//! The two sides of a pair: a document's own halves, and second sides drawn from other documents.

use crate::corpus::{Corpus, Document, Sentence};
use crate::rng::SampleRng;
use crate::{Error, ErrorKind, Result};

/// Random draws before the sweep. With half the corpus unusable all of them fail once in 4e9 samples.
const DRAWS: u64 = 32;

/// Documents looked at in sequence after the random draws failed: enough to find the odd one out in a
/// corpus of boilerplate, few enough that a corpus of one sentence repeated fails at once.
const SWEEP: u64 = 4096;

/// A document's sentences as two sides: its two sentences in the pair format, else its first half (the
/// longer one, for an odd number) and the rest.
pub fn sides<'d, 'c>(document: &'d Document<'c>) -> (&'d [Sentence<'c>], &'d [Sentence<'c>]) {
    document.sentences.split_at(document.sentences.len().div_ceil(2))
}

/// Reads document `id`, which must have `sentences` or more; `None` where it is malformed and the policy
/// is to leave such documents out.
pub fn read<'c>(
    corpus: &'c dyn Corpus,
    id: u64,
    sentences: usize,
    skip_bad: bool,
) -> Result<Option<Document<'c>>> {
    let document = corpus.document(id).and_then(|document| {
        if document.sentences.len() >= sentences {
            return Ok(document);
        }
        let line = document.sentences.first().map_or(String::new(), |s| format!(" (line {})", s.line));
        Err(Error::data(format!(
            "corpus {}: document {id}{line} has {} sentences, the samples need {sentences}",
            corpus.path().display(),
            document.sentences.len(),
        )))
    });
    match document {
        Ok(document) => Ok(Some(document)),
        Err(error) if skip_bad && error.kind() == ErrorKind::Data => {
            tracing::debug!(target: "sample", document = id, %error, "document left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A document other than `own` whose second side does not read like `truth`, and its number. Every such
/// document is equally likely, as long as the random draws find one.
///
/// # Errors
/// Those of reading; [`ErrorKind::Data`] where no document drawn can serve.
pub fn negative<'c>(
    corpus: &'c dyn Corpus,
    own: u64,
    truth: &[Sentence<'_>],
    skip_bad: bool,
    rng: &mut SampleRng,
) -> Result<(u64, Document<'c>)> {
    let others = corpus.len() - 1;
    // The others are numbered from the one behind `own`, round the end of the corpus.
    let mut other = 0;
    for attempt in 0..DRAWS + SWEEP.min(others) {
        other = if attempt < DRAWS { rng.below(others) } else { (other + 1) % others };
        let id = (own + 1 + other) % corpus.len();
        let document = read(corpus, id, 2, skip_bad)
            .map_err(|e| e.context(format!("drawing another second part for document {own}")))?;
        match document {
            Some(document) if !same_text(sides(&document).1, truth) => return Ok((id, document)),
            _ => {}
        }
    }
    Err(Error::data(format!(
        "corpus {}: no usable second part differs from that of document {own}, of {} drawn: not-next pairs \
         need different texts; use another corpus, --next-rate 1 or --pair none",
        corpus.path().display(),
        DRAWS + SWEEP.min(others),
    )))
}

fn same_text(a: &[Sentence<'_>], b: &[Sentence<'_>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.text == b.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_any_number_of_sentences() {
        let check = |sentences: usize, expected| {
            let sentence = Sentence { text: "x".into(), line: 1 };
            let document = Document { sentences: std::iter::repeat_n(sentence, sentences).collect() };
            let (a, b) = sides(&document);
            assert_eq!((a.len(), b.len()), expected);
        };
        check(0, (0, 0));
        check(1, (1, 0));
        check(2, (1, 1));
        check(3, (2, 1));
        check(6, (3, 3));
    }
}
