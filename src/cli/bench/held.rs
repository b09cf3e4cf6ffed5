//! The beginning of a corpus as documents in memory: input for a stage that is measured alone.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::corpus::{Corpus, Document, Sentence, Shape};
use crate::{ErrorKind, Result};

/// Most text that is held, in bytes: far more than the caches of a processor, far less than its memory.
const MOST: u64 = 64 << 20;

/// Documents in memory, with neither a reader nor a format behind them.
pub struct Held {
    documents: Vec<Vec<Sentence<'static>>>,
    shape: Shape,
    bytes: u64,
    path: PathBuf,
    fingerprint: u64,
}

impl Held {
    /// Takes the documents of `corpus` from the first on. Malformed ones are left out if `skip_bad`.
    ///
    /// # Errors
    /// Those of [`Corpus::document`].
    pub fn beginning(corpus: &dyn Corpus, skip_bad: bool) -> Result<Self> {
        let (mut documents, mut bytes) = (Vec::new(), 0);
        for id in 0..corpus.len() {
            let document = match corpus.document(id) {
                Ok(document) => document,
                Err(error) if skip_bad && error.kind() == ErrorKind::Data => continue,
                Err(error) => return Err(error),
            };
            bytes += document.sentences.iter().map(|sentence| sentence.text.len() as u64 + 1).sum::<u64>();
            let own = |Sentence { text, line }| Sentence { text: Cow::Owned(text.into_owned()), line };
            documents.push(document.sentences.into_iter().map(own).collect());
            if bytes >= MOST {
                break;
            }
        }
        let (shape, path) = (corpus.shape(), corpus.path().to_owned());
        Ok(Self { documents, shape, bytes, path, fingerprint: corpus.fingerprint() })
    }
}

impl Corpus for Held {
    fn len(&self) -> u64 {
        self.documents.len() as u64
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        let sentences = self.documents[id as usize]
            .iter()
            .map(|sentence| Sentence { text: Cow::Borrowed(&*sentence.text), line: sentence.line });
        Ok(Document { sentences: sentences.collect() })
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{CorpusConfig, TextCorpus};

    #[test]
    fn what_is_held_is_what_the_corpus_gives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        std::fs::write(&path, "a b\tc\nno tab\nd\te f\n").unwrap();
        let corpus = TextCorpus::open(&CorpusConfig::at(&path)).unwrap();
        assert_eq!(Held::beginning(&corpus, false).err().map(|e| e.kind()), Some(ErrorKind::Data));
        let held = Held::beginning(&corpus, true).unwrap();
        assert_eq!((held.len(), held.shape(), held.bytes()), (2, Shape::Pairs, 12));
        for (id, of) in [(0, 0), (1, 2)] {
            assert_eq!(held.document(id).unwrap(), corpus.document(of).unwrap());
        }
    }
}
