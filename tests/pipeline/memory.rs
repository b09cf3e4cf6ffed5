//! Corpora and a vocabulary in memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bertstream::corpus::{Corpus, Document, Sentence, Shape, Source};
use bertstream::rng::{Domain, SampleRng};
use bertstream::vocab::{Direct, Encoder, Specials, Tokenizer};
use bertstream::{Error, ErrorKind, Result};

/// Documents in memory; line `n` holds document `n - 1`.
pub struct Lines(pub Vec<Line>);

pub enum Line {
    Good(Vec<String>),
    Bad,
    Unreadable,
    Panics,
}

impl Line {
    /// The document at `line`, whose sentences stand in the same line or in lines of their own.
    fn document(&self, line: u64, a_line_each: bool) -> Result<Document<'_>> {
        let sentence = |(i, text): (u64, &'_ String)| Sentence {
            text: text.clone().into(),
            line: line + if a_line_each { i } else { 0 },
        };
        match self {
            Line::Good(texts) => Ok(Document { sentences: (0..).zip(texts).map(sentence).collect() }),
            Line::Bad => Err(Error::data(format!("corpus fake: line {line}: no tab"))),
            Line::Unreadable => Err(Error::new(ErrorKind::Io, format!("corpus fake: line {line}: gone"))),
            Line::Panics => panic!("line {line} is cursed"),
        }
    }
}

impl Corpus for Lines {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.0[id as usize].document(id + 1, false)
    }

    fn shape(&self) -> Shape {
        Shape::Pairs
    }

    fn bytes(&self) -> u64 {
        100 * self.len()
    }

    fn path(&self) -> &Path {
        Path::new("fake")
    }

    fn fingerprint(&self) -> u64 {
        0
    }
}

/// Words `w0`, `w1`, ... behind the reference's special tokens; everything else is unknown.
pub struct Words {
    /// Whether words have one to three tokens, the later ones from [`INNER`] on.
    pub pieces: bool,
    pub knows_words: bool,
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

pub const SPECIALS: Specials = Specials { pad: 0, unknown: 1, separator: 2, classify: 3, mask: 4 };

impl Words {
    pub fn new(words: usize) -> Self {
        let specials = ["<pad>", "<unk>", "<eos>", "<sos>", "<mask>"].map(String::from);
        let tokens: Vec<String> = specials.into_iter().chain((0..words).map(|w| format!("w{w}"))).collect();
        let ids = tokens.iter().cloned().zip(0..).collect();
        Self { pieces: false, knows_words: true, tokens, ids }
    }

    /// As many known words as the made-up corpora have, in pieces.
    pub fn in_pieces() -> Self {
        Self { pieces: true, ..Self::new(KNOWN as usize + 2) }
    }
}

impl Tokenizer for Words {
    fn encoder(&self) -> Box<dyn Encoder + '_> {
        Box::new(Direct(self))
    }

    fn encode_words(&self, text: &str, out: &mut Vec<u32>, begins: &mut Vec<bool>) {
        for word in text.split_whitespace() {
            let known = |id: &u32| !self.pieces || *id < INNER;
            let id = self.id(word).filter(known).unwrap_or(SPECIALS.unknown);
            let more = if self.pieces && id > SPECIALS.mask { id % 3 } else { 0 };
            out.push(id);
            out.extend(INNER..INNER + more);
            begins.push(true);
            begins.extend((0..more).map(|_| false));
        }
    }

    fn knows_words(&self) -> bool {
        self.knows_words
    }

    fn file_name(&self) -> &'static str {
        "none"
    }

    fn encode(&self, text: &str, out: &mut Vec<u32>) {
        self.encode_words(text, out, &mut Vec::new());
    }
    fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }
    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }
    fn len(&self) -> usize {
        self.tokens.len()
    }
    fn specials(&self) -> Specials {
        SPECIALS
    }
    fn ordinary_len(&self) -> u32 {
        self.tokens.len() as u32 - 5
    }
    fn ordinary(&self, k: u32) -> u32 {
        k + 5
    }
    fn counts(&self) -> Option<&[u64]> {
        None
    }
    fn fingerprint(&self) -> u64 {
        self.tokens.len() as u64
    }
    fn save(&self, _path: &Path) -> Result<()> {
        Ok(())
    }
}

/// Known words of the made-up corpora; as many again are unknown.
pub const KNOWN: u64 = 500;

/// The first id that does not begin a word, where words have pieces.
pub const INNER: u32 = KNOWN as u32 + 5;

/// A sentence of 1 to `longest` words, one in ten unknown.
pub fn sentence(rng: &mut SampleRng, longest: u64) -> String {
    let words = 1 + rng.below(longest);
    let word = |rng: &mut SampleRng| rng.below(KNOWN) + if rng.below(10) == 0 { KNOWN } else { 0 };
    (0..words).map(|_| format!("w{}", word(rng))).collect::<Vec<_>>().join(" ")
}

/// `documents` documents of two sentences with up to `longest` words each.
pub fn made_up(documents: u64, longest: u64) -> Lines {
    let mut rng = SampleRng::new(Domain::Survey, 1, &[]);
    let mut text = || sentence(&mut rng, longest);
    Lines((0..documents).map(|_| Line::Good(vec![text(), text()])).collect())
}

pub fn pairs(texts: &[(&str, &str)]) -> Lines {
    Lines(texts.iter().map(|&(a, b)| Line::Good(vec![a.into(), b.into()])).collect())
}

/// Documents in memory, a sentence a line: document `n` begins at line `1000 n + 1`.
pub struct Documents {
    pub documents: Vec<Line>,
    pub sources: Vec<Source>,
    /// What the documents are said to have in bytes.
    pub bytes: u64,
}

impl Documents {
    /// A single source of these documents, small enough that a window holds all.
    pub fn new(documents: Vec<Line>) -> Self {
        let len = documents.len() as u64;
        Self { documents, sources: vec![Source { documents: 0..len, per_epoch: len }], bytes: 1 }
    }
}

impl Corpus for Documents {
    fn len(&self) -> u64 {
        self.documents.len() as u64
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.documents[id as usize].document(1000 * id + 1, true)
    }

    fn shape(&self) -> Shape {
        Shape::Documents
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn sources(&self) -> Vec<Source> {
        self.sources.clone()
    }

    fn path(&self) -> &Path {
        Path::new("fake")
    }

    fn fingerprint(&self) -> u64 {
        0
    }
}

/// A corpus that counts how many documents are asked for.
pub struct Counted<'c> {
    pub corpus: &'c dyn Corpus,
    pub read: AtomicU64,
}

impl Corpus for Counted<'_> {
    fn len(&self) -> u64 {
        self.corpus.len()
    }

    fn document(&self, id: u64) -> Result<Document<'_>> {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.corpus.document(id)
    }

    fn shape(&self) -> Shape {
        self.corpus.shape()
    }

    fn bytes(&self) -> u64 {
        self.corpus.bytes()
    }

    fn sources(&self) -> Vec<Source> {
        self.corpus.sources()
    }

    fn path(&self) -> &Path {
        self.corpus.path()
    }

    fn fingerprint(&self) -> u64 {
        self.corpus.fingerprint()
    }
}
