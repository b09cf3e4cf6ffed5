//! Several corpora as one. Takes corpora and their weights, gives their documents numbered one source
//! behind the other, and how many documents of each an epoch has. Knows no format.
//!
//! Weights are shares of the text, in bytes: an epoch is as long as all sources together, and each source has
//! its weight's part of it. A source with too little text for its part comes again within the epoch.

use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::{Corpus, Document, Sentence, Shape, Source};
use crate::{Error, Result};

/// Several sources, mixed, or several files that are one source.
pub struct Mixture {
    parts: Vec<Part>,
    /// Whether the parts are one source.
    joined: bool,
    path: PathBuf,
    shape: Shape,
    fingerprint: u64,
}

struct Part {
    corpus: Box<dyn Corpus>,
    documents: Range<u64>,
    per_epoch: u64,
}

impl Mixture {
    /// Mixes sources by weight, where they have weights; else each document comes once an epoch.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] where some have a weight and others have none, [`crate::ErrorKind::Data`]
    /// where some hold pairs and others documents.
    pub fn new(sources: Vec<(Box<dyn Corpus>, Option<f64>)>) -> Result<Self> {
        let Some((first, _)) = sources.first() else {
            return Err(Error::internal("a mixture of nothing"));
        };
        let shape = first.shape();
        if let Some((other, _)) = sources.iter().find(|(corpus, _)| corpus.shape() != shape) {
            let name = |shape| match shape {
                Shape::Pairs => "pairs",
                Shape::Documents => "documents",
                Shape::Samples => "samples",
            };
            return Err(Error::data(format!(
                "corpora {} and {}: one holds {}, the other {}, of which samples are made differently: train on \
                 either, or bring both into one format",
                first.path().display(),
                other.path().display(),
                name(shape),
                name(other.shape()),
            )));
        }
        let sizes: Vec<(u64, u64)> = sources.iter().map(|(c, _)| (c.len(), c.bytes())).collect();
        let weights: Vec<f64> = sources.iter().filter_map(|(_, weight)| *weight).collect();
        let per_epoch = match weights.len() {
            0 => sizes.iter().map(|&(documents, _)| documents).collect(),
            n if n == sources.len() => shares(&sizes, &weights),
            _ => {
                return Err(Error::usage(
                    "--corpus: give every source a weight (FILE:NUMBER), or none of them",
                ));
            }
        };

        let names: Vec<String> = sources.iter().map(|(c, _)| c.path().display().to_string()).collect();
        let mut key = Vec::new();
        let mut parts = Vec::with_capacity(sources.len());
        let mut start = 0;
        for ((corpus, weight), per_epoch) in sources.into_iter().zip(per_epoch) {
            key.extend(corpus.fingerprint().to_le_bytes());
            key.extend(weight.map_or(u64::MAX, f64::to_bits).to_le_bytes());
            let documents = start..start + corpus.len();
            start = documents.end;
            parts.push(Part { corpus, documents, per_epoch });
        }
        let path = names.join(" + ").into();
        Ok(Self { parts, joined: false, path, shape, fingerprint: xxh3_64(&key) })
    }

    /// Files that are one source, called `path`: its documents are those of a file with all their text.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] where some hold pairs and others documents.
    pub fn joined(path: PathBuf, files: Vec<Box<dyn Corpus>>) -> Result<Self> {
        let mixed = Self::new(files.into_iter().map(|file| (file, None)).collect())?;
        let fingerprint = xxh3_64(&[&mixed.fingerprint.to_le_bytes()[..], b"joined"].concat());
        Ok(Self { joined: true, path, fingerprint, ..mixed })
    }

    /// The source of document `id`, and the document's number in it.
    fn part(&self, id: u64) -> Result<(&Part, u64)> {
        let at = self.parts.partition_point(|part| part.documents.end <= id);
        match self.parts.get(at) {
            Some(part) => Ok((part, id - part.documents.start)),
            None => Err(Error::internal(format!("document {id} of a corpus of {}", self.len()))),
        }
    }
}

/// Documents an epoch of sources of (documents, bytes).
fn shares(sizes: &[(u64, u64)], weights: &[f64]) -> Vec<u64> {
    let whole: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    let weight: f64 = weights.iter().sum();
    let share = |(&(documents, bytes), part): (&(u64, u64), &f64)| {
        let mean = bytes as f64 / documents as f64;
        ((whole as f64 * (part / weight) / mean).round() as u64).max(1)
    };
    sizes.iter().zip(weights).map(share).collect()
}

impl Corpus for Mixture {
    fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.documents.end)
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        let (part, own) = self.part(id)?;
        part.corpus.document(own)
    }

    fn document_while(&self, id: u64, wanted: &dyn Fn() -> bool) -> Result<Document<'_>> {
        let (part, own) = self.part(id)?;
        part.corpus.document_while(own, wanted)
    }

    fn excerpt(
        &self,
        id: u64,
        wanted: &dyn Fn() -> bool,
        from: &mut dyn FnMut(usize) -> usize,
        see: &mut dyn FnMut(&Sentence<'_>) -> bool,
    ) -> Result<usize> {
        let (part, own) = self.part(id)?;
        part.corpus.excerpt(own, wanted, from, see)
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.corpus.bytes()).sum()
    }

    fn sources(&self) -> Vec<Source> {
        if self.joined {
            return vec![Source { documents: 0..self.len(), per_epoch: self.len() }];
        }
        let source = |part: &Part| Source { documents: part.documents.clone(), per_epoch: part.per_epoch };
        self.parts.iter().map(source).collect()
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, id: u64) -> &Path {
        self.part(id).map_or(&self.path, |(part, own)| part.corpus.file(own))
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn announce(&self, documents: Range<u64>) {
        for part in &self.parts {
            let start = documents.start.max(part.documents.start);
            let end = documents.end.min(part.documents.end);
            if start < end {
                part.corpus.announce(start - part.documents.start..end - part.documents.start);
            }
        }
    }

    fn keep_at_most(&self, bytes: u64) {
        let each = bytes / self.parts.len().max(1) as u64;
        self.parts.iter().for_each(|part| part.corpus.keep_at_most(each));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_as_long_as_all_sources_and_shared_by_weight() {
        let check = |sizes: &[(u64, u64)], weights: &[f64], expected: &[u64]| {
            assert_eq!(shares(sizes, weights), expected, "{sizes:?} {weights:?}");
        };
        check(&[(10, 1000), (10, 1000)], &[1.0, 1.0], &[10, 10]);
        check(&[(10, 1000), (10, 1000)], &[3.0, 1.0], &[15, 5]);
        check(&[(10, 1000), (10, 1000)], &[0.75, 0.25], &[15, 5]);
        // 4000 bytes: 3000 of documents of 300, 1000 of documents of 10.
        check(&[(10, 3000), (100, 1000)], &[3.0, 1.0], &[10, 100]);
        check(&[(10, 3000), (100, 1000)], &[1.0, 3.0], &[3, 300]);
        check(&[(10, 3000), (100, 1000)], &[1e9, 1e-9], &[13, 1]);
        check(&[(1, 1_000_000), (1, 10)], &[1.0, 1.0], &[1, 50_001]);
    }
}
