//! Where sentences lie in long documents, so that a few of them can be read without the rest. Takes the sentences of a
//! document once, gives stretches of its text. Knows no format.
//!
//! A place is kept for about each KiB of text, 12 bytes, and of all documents as many as take 24 MiB, those that came
//! last: the places of 2 GiB of text, or of 8 GiB where a corpus has as much, at a place for each 4 KiB.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Documents of so many bytes are worth an outline: a shorter one is read as quickly as a place in it is found.
pub const LONG: u64 = 32 << 10;

/// Text between two places, in bytes, and how far apart they are in the largest corpora.
const FINEST: u64 = 1 << 10;
const COARSEST: u64 = 4 << 10;

/// Most places that are kept, and for how many an outline counts beside its own.
const MOST: usize = 1 << 21;
const OF_AN_OUTLINE: usize = 8;

/// Text between two places of a corpus of so many bytes.
pub fn step(bytes: u64) -> u64 {
    (bytes / MOST as u64).clamp(FINEST, COARSEST)
}

/// A sentence from which on the text can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Bytes of the record before it.
    at: u32,
    /// Sentences of the document before it.
    sentence: u32,
    /// Lines of the document before its own.
    line: u32,
}

/// A stretch of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its places in the file.
    pub bytes: Range<u64>,
    /// Sentences of the document before it.
    pub sentences: usize,
    /// The line that it begins in, from 1.
    pub line: u64,
}

/// A sentence of a document: bytes of the text and lines before it, and whether the text from it on has the same sentences
/// by itself.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    pub at: usize,
    pub line: u64,
    pub opens: bool,
}

/// Where the sentences of one document lie.
#[derive(Debug, PartialEq, Eq)]
pub struct Outline {
    /// Where its text begins in the file, and the line, from 1.
    start: (u64, u64),
    places: Vec<Place>,
    /// Bytes of its text.
    length: u32,
    sentences: u32,
}

impl Outline {
    /// Of a text of `length` bytes that begins at a place and a line of its file, and has these sentences, in order. `None`
    /// for one without any, and for one of 4 GiB.
    pub fn new(start: (u64, u64), sentences: &[Begin], length: usize, step: u64) -> Option<Self> {
        let (length, count) = (u32::try_from(length).ok()?, u32::try_from(sentences.len()).ok()?);
        let mut places: Vec<Place> = Vec::with_capacity((u64::from(length) / step) as usize + 1);
        for (sentence, &Begin { at, line, opens }) in (0..).zip(sentences) {
            let far = places.last().is_none_or(|last| at as u64 >= u64::from(last.at) + step);
            if far && (opens || places.is_empty()) {
                places.push(Place { at: u32::try_from(at).ok()?, sentence, line: u32::try_from(line).ok()? });
            }
        }
        (count > 0).then_some(Self { start, places, length, sentences: count })
    }

    /// What it counts for.
    fn weight(&self) -> usize {
        self.places.len() + OF_AN_OUTLINE
    }

    /// Number of sentences.
    pub fn sentences(&self) -> usize {
        self.sentences as usize
    }

    /// The text from `sentence` on, and what stands before it up to the next place, in stretches that follow each other.
    pub fn from(&self, sentence: usize) -> impl Iterator<Item = Stretch> {
        let first =
            self.places.partition_point(|place| place.sentence as usize <= sentence).saturating_sub(1);
        let ends = self.places.iter().skip(first + 1).map(|next| next.at).chain([self.length]);
        let (start, line) = self.start;
        self.places[first..].iter().zip(ends).map(move |(place, end)| Stretch {
            bytes: start + u64::from(place.at)..start + u64::from(end),
            sentences: place.sentence as usize,
            line: line + u64::from(place.line),
        })
    }
}

/// The outlines that are kept, shared by all threads.
#[derive(Debug, Default)]
pub struct Outlines(RwLock<Kept>);

#[derive(Debug)]
struct Kept {
    outlines: HashMap<u64, Arc<Outline>, RandomState>,
    /// From the first that came to the last.
    order: VecDeque<u64>,
    places: usize,
    /// How many places are kept, but for those of the last outline.
    most: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { outlines: HashMap::default(), order: VecDeque::new(), places: 0, most: MOST }
    }
}

impl Kept {
    fn shrink(&mut self) {
        while self.places > self.most
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            self.places -= self.outlines.remove(&oldest).map_or(0, |outline| outline.weight());
        }
    }
}

impl Outlines {
    /// That of document `id`, where it is kept.
    pub fn get(&self, id: u64) -> Option<Arc<Outline>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).outlines.get(&id).cloned()
    }

    /// Keeps it, in place of others where it must be.
    pub fn keep(&self, id: u64, outline: Arc<Outline>) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.places += outline.weight();
        match kept.outlines.insert(id, outline) {
            // Another thread was as quick.
            Some(same) => kept.places -= same.weight(),
            None => kept.order.push_back(id),
        }
        kept.shrink();
    }

    /// Bounds the bytes that they take.
    pub fn keep_at_most(&self, bytes: u64) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.most = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(size_of::<Place>()).min(MOST);
        kept.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(sentences: &[(usize, u64, bool)], length: usize) -> Option<Outline> {
        let begins: Vec<_> = sentences.iter().map(|&(at, line, opens)| Begin { at, line, opens }).collect();
        Outline::new((100, 7), &begins, length, 10)
    }

    #[test]
    fn a_sentence_lies_in_the_stretch_of_the_last_place_before_it() {
        let made = outline(&[(2, 0, false), (7, 0, true), (12, 1, false), (20, 1, true), (31, 4, true)], 40)
            .unwrap();
        let check = |sentence, expected: &[(Range<u64>, usize, u64)]| {
            let found: Vec<_> = made.from(sentence).map(|s| (s.bytes, s.sentences, s.line)).collect();
            assert_eq!(found, expected, "from {sentence}");
        };
        check(0, &[(102..120, 0, 7), (120..131, 3, 8), (131..140, 4, 11)]);
        check(2, &[(102..120, 0, 7), (120..131, 3, 8), (131..140, 4, 11)]);
        check(3, &[(120..131, 3, 8), (131..140, 4, 11)]);
        check(4, &[(131..140, 4, 11)]);
        assert_eq!(made.sentences(), 5);
        assert_eq!(outline(&[], 40), None);
        assert_eq!(outline(&[(0, 0, true)], 1 << 32), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_came_last_stays() {
        let outlines = Outlines::default();
        let each: Vec<_> = (0..1000).map(|at| (10 * at, 0, true)).collect();
        let kept = |id| outlines.get(id).is_some();
        let fit = (MOST / (1000 + OF_AN_OUTLINE)) as u64;
        for id in 0..fit + 3 {
            let made = || Arc::new(outline(&each, 10_000).unwrap());
            outlines.keep(id, made());
            outlines.keep(id, made());
        }
        assert!(!kept(0) && !kept(2) && kept(3) && kept(fit + 2));
        let check = |expected: u64| {
            let kept = outlines.0.read().unwrap();
            assert_eq!((kept.outlines.len() as u64, kept.order.len() as u64), (expected, expected));
            assert_eq!(kept.places as u64, expected * (1000 + OF_AN_OUTLINE as u64));
        };
        check(fit);
        for (bytes, expected) in [(u64::MAX, fit), (1 << 20, 86), (0, 1)] {
            outlines.keep_at_most(bytes);
            check(expected);
            assert!(kept(fit + 2));
        }
    }

    #[test]
    fn the_largest_corpora_have_places_that_are_further_apart() {
        assert_eq!([0, 2 << 30, 4 << 30, 8 << 30, 1 << 50].map(step), [1024, 1024, 2048, 4096, 4096]);
    }
}
