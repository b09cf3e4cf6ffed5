//! Next-sentence prediction (Devlin et al. 2018, section 3.1): the true second side, or one drawn from another
//! document of the same source.

use std::ops::Range;

use super::PairLabel;
use super::pair::Pairing;
use crate::corpus::{Corpus, Source};
use crate::rng::SampleRng;
use crate::{Error, Result};

/// Random draws before the sweep. With half the corpus unusable all of them fail once in 4e9 samples.
const DRAWS: u64 = 32;

/// Documents looked at in sequence after the random draws failed: enough to find the odd one out in a
/// corpus of boilerplate, few enough that a corpus of one sentence repeated fails at once.
const SWEEP: u64 = 4096;

/// The true second side with probability `next_rate`, else another document's. A lone side always gets
/// another's, as in Google's code, unless that is never wanted.
pub fn pairing(sides: usize, next_rate: f64, rng: &mut SampleRng) -> Pairing {
    if sides < 2 {
        return if next_rate < 1.0 { Pairing::Other } else { Pairing::AsIs(PairLabel::None) };
    }
    if rng.unit() < next_rate { Pairing::AsIs(PairLabel::IsNext) } else { Pairing::Other }
}

/// Refuses sources in which a document has no other to draw from.
///
/// # Errors
/// [`crate::ErrorKind::Data`] with the remedy.
pub fn check(corpus: &dyn Corpus, sources: &[Source], next_rate: f64) -> Result<()> {
    let alone = |source: &Source| source.per_epoch > 0 && source.documents.end - source.documents.start == 1;
    let Some(source) = sources.iter().position(alone).filter(|_| next_rate < 1.0) else { return Ok(()) };
    let place = match sources.len() {
        1 => String::new(),
        all => format!(" in source {} of {all}", source + 1),
    };
    Err(Error::data(format!(
        "corpus {}: a single document{place} has no other to draw not-next pairs from: add text, or use \
         --next-rate 1, --pair sop or --pair none",
        corpus.path().display()
    )))
}

/// The document other than `own` that [`another`] looks at first.
pub fn first_drawn(source: &Range<u64>, own: u64, rng: &mut SampleRng) -> u64 {
    numbered(source, own, rng.below(source.end - source.start - 1))
}

/// The others are numbered from the one behind `own`, round the end of the source.
fn numbered(source: &Range<u64>, own: u64, other: u64) -> u64 {
    source.start + (own - source.start + 1 + other) % (source.end - source.start)
}

/// What `take` makes of a document of `source` other than `own`, and that document's number. Every document
/// of which it makes something is equally likely, as long as the random draws find one.
///
/// # Errors
/// Those of `take`; [`crate::ErrorKind::Data`] with `need` where no document drawn can serve.
pub fn another<T>(
    corpus: &dyn Corpus,
    source: &Range<u64>,
    own: u64,
    need: &str,
    rng: &mut SampleRng,
    mut take: impl FnMut(u64, &mut SampleRng) -> Result<Option<T>>,
) -> Result<(u64, T)> {
    let others = source.end - source.start - 1;
    let mut other = 0;
    for attempt in 0..DRAWS + SWEEP.min(others) {
        other = if attempt < DRAWS { rng.below(others) } else { (other + 1) % others };
        let id = numbered(source, own, other);
        let taken = take(id, rng)
            .map_err(|e| e.context(format!("drawing another second part for document {own}")))?;
        if let Some(taken) = taken {
            return Ok((id, taken));
        }
    }
    Err(Error::data(format!(
        "corpus {}: {need} document {own}, of {} drawn: not-next pairs need different texts; use another \
         corpus, --next-rate 1 or --pair none",
        corpus.path().display(),
        DRAWS + SWEEP.min(others),
    )))
}
