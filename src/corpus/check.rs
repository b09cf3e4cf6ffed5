//! What a corpus holds and what is wrong with it, before hours are spent on it.
//!
//! Takes a corpus and, where there is one, a vocabulary; reads every document once, in constant memory, and
//! gives counts. Knows nothing of models or of how its figures are shown. Figures about samples are, of
//! pairs, those of true pairs without masks, which is what a line becomes half of the time (the lengths of
//! random pairs differ only in how they are combined); of documents, an estimate: as many as their tokens
//! fill.

use hashbrown::HashMap;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::source::strip_line_end;
use super::{Corpus, Fault, Record, Shape, TextCorpus, TextFile};
use crate::Result;
use crate::text::BOM;
use crate::vocab::{Encoder, Tokenizer};

/// How many places are named for each kind of finding.
const PLACES: usize = 5;

/// Words and tokens that come fewer times than this are told as rare: too few to learn much of.
pub const RARE: u64 = 10;

/// Words of a sentence, or tokens of a sample, that are told apart; longer ones count as this long.
const LONGEST_COUNTED: usize = 1 << 16;

/// Special tokens of a sample: classification, and a separator behind each sentence.
const SPECIALS: usize = 3;

/// What samples will look like, as far as a check depends on it.
#[derive(Clone, Copy, Debug)]
pub struct CheckConfig {
    /// Longest sample in tokens, special tokens included.
    pub seq_len: usize,
    /// Samples in a batch, for the padding.
    pub batch_size: usize,
    /// Bytes for the hashes by which duplicates and words are counted: beyond that they are estimates.
    pub memory: u64,
}

/// Bytes for hashes where nobody says otherwise; while tables grow it is half as much again.
pub const MEMORY: u64 = 132 << 20;

/// Of a place in a table of hashes.
const BYTES_OF_A_PLACE: u64 = 25;

/// How many hashes are kept within so many bytes: one less than a table holds, which has a power of two of places and
/// grows when seven eighths are full.
fn hashes_within(bytes: u64) -> usize {
    let places = (bytes / BYTES_OF_A_PLACE).max(64);
    (1_usize << places.ilog2()) / 8 * 7 - 1
}

/// How often something was seen, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub count: u64,
    /// The first few lines, from 1.
    pub lines: Vec<u64>,
}

impl Finding {
    fn add(&mut self, line: u64) {
        self.count += 1;
        if self.lines.len() < PLACES {
            self.lines.push(line);
        }
    }
}

/// Lines, or whole files, that are no documents, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    pub blank: Finding,
    pub no_tab: Finding,
    pub literal_tab: Finding,
    pub extra_tab: Finding,
    pub nothing_before: Finding,
    pub nothing_after: Finding,
    pub malformed: Finding,
    pub too_long: Finding,
    pub not_json: Finding,
    pub no_field: Finding,
    pub field_not_text: Finding,
    pub no_sentence: Finding,
}

impl Refusals {
    fn of(&mut self, fault: &Fault) -> &mut Finding {
        match fault {
            Fault::Blank => &mut self.blank,
            Fault::NoTab => &mut self.no_tab,
            Fault::LiteralTab => &mut self.literal_tab,
            Fault::ExtraTab => &mut self.extra_tab,
            Fault::NothingBefore => &mut self.nothing_before,
            Fault::NothingAfter => &mut self.nothing_after,
            Fault::Malformed { .. } => &mut self.malformed,
            Fault::TooLong { .. } => &mut self.too_long,
            Fault::NotJson { .. } => &mut self.not_json,
            Fault::NoField { .. } => &mut self.no_field,
            Fault::NotText { .. } => &mut self.field_not_text,
            Fault::NoSentence => &mut self.no_sentence,
        }
    }

    /// Each reason in words, with its lines.
    pub fn named(&self) -> [(&'static str, &Finding); 12] {
        [
            ("empty line", &self.blank),
            ("no tab", &self.no_tab),
            ("\\t instead of a tab", &self.literal_tab),
            ("more than one tab", &self.extra_tab),
            ("nothing before the tab", &self.nothing_before),
            ("nothing after the tab", &self.nothing_after),
            ("not in the encoding", &self.malformed),
            ("longer than may be", &self.too_long),
            ("not a JSON object", &self.not_json),
            ("field missing", &self.no_field),
            ("field not a string", &self.field_not_text),
            ("no sentence", &self.no_sentence),
        ]
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, finding)| finding.count).sum()
    }
}

/// Lines whose text was there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// How many; an estimate where not every line was looked at.
    pub count: u64,
    /// One line in so many was looked at, chosen by its hash, so that all copies of a line were or none.
    pub one_in: u64,
    /// The first few, each with the line that it repeats.
    pub lines: Vec<[u64; 2]>,
}

/// The spread of a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub min: u64,
    pub mean: f64,
    pub median: u64,
    pub p99: u64,
    pub max: u64,
}

/// Documents of a range of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Shortest and longest length in the range, in bytes without the line end.
    pub from: u64,
    pub to: u64,
    pub lines: u64,
}

/// The words of a text, which are what stands between white space, by how often they come.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WordCounts {
    /// All of them, one behind the other.
    pub running: u64,
    /// Different ones, those of them that come fewer than [`RARE`] times, and those that come once; estimates
    /// where not every word was looked at.
    pub distinct: u64,
    pub rare: u64,
    pub once: u64,
    /// What share of the running words the rare ones are.
    pub rare_rate: f64,
    /// One word in so many was looked at, chosen by its hash.
    pub one_in: u64,
}

/// How much of the text is in the vocabulary, and how much of the vocabulary in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Covered {
    /// Tokens of the text, without special ones, and how many of them the vocabulary lacks.
    pub tokens: u64,
    pub unknown: u64,
    pub unknown_rate: f64,
    /// Words, as the vocabulary tells them apart; 0 where it does not.
    pub words: u64,
    /// Shares of them without an unknown part, and with a token of their own.
    pub words_covered: f64,
    pub words_whole: f64,
    /// Tokens without a role, those of them that come, and those that come but fewer than [`RARE`] times.
    pub entries: u64,
    pub entries_seen: u64,
    pub entries_rare: u64,
}

/// What the vocabulary makes of the corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    #[serde(flatten)]
    pub covered: Covered,
    /// Length of a sample before it is cut, special tokens included.
    pub sample_tokens: Spread,
    /// Samples longer than `seq_len`.
    pub truncated: u64,
    pub truncated_rate: f64,
    /// Share of positions that are padding: rows as wide as `seq_len`, or as wide as the longest of a
    /// batch of random samples.
    pub padding_fixed: f64,
    pub padding_longest: f64,
    /// Tokens of all samples of an epoch, cut, special tokens included.
    pub epoch_tokens: u64,
    /// Widest row of an average batch.
    pub batch_width: f64,
}

/// What the vocabulary makes of a corpus of documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentCoverage {
    #[serde(flatten)]
    pub covered: Covered,
    pub sentence_tokens: Spread,
    /// About how many samples an epoch has: as many as the tokens fill, each to its full length.
    pub samples: u64,
    /// Tokens of these samples, special tokens included.
    pub epoch_tokens: u64,
}

/// What depends on the shape of the documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Contents {
    Pairs {
        /// Words of the first sentence and of the second one.
        words: [Spread; 2],
        vocabulary: Option<Coverage>,
    },
    Documents {
        /// Sentences of a document.
        sentences: Spread,
        /// Words of a sentence.
        sentence_words: Spread,
        vocabulary: Option<DocumentCoverage>,
    },
}

/// Everything that a check finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Lines that were read, blank ones included.
    pub lines: u64,
    /// Documents that are sound.
    pub documents: u64,
    pub refused: u64,
    pub refusals: Refusals,
    /// Harmless: read as plain line ends.
    pub crlf: Finding,
    /// Harmless: not part of the text.
    pub byte_order_mark: bool,
    /// Byte order marks elsewhere, which are characters of a word: files were joined.
    pub stray_byte_order_marks: Finding,
    /// Broken sequences of bytes that are read as U+FFFD, as asked for, and the documents with any.
    pub replaced: u64,
    pub replaced_in: Finding,
    pub duplicates: Duplicates,
    pub word_counts: WordCounts,
    /// Of a document: a line, a block of lines, or a file.
    pub line_bytes: Spread,
    pub line_bytes_histogram: Vec<Bar>,
    #[serde(flatten)]
    pub contents: Contents,
}

/// Reads every document of `corpus`. `progress` hears the number of documents seen so far, now and then.
///
/// # Errors
/// Only where the corpus cannot be read: what is wrong with documents is in the report.
pub fn check(
    corpus: &TextCorpus,
    tokenizer: Option<&dyn Tokenizer>,
    config: &CheckConfig,
    progress: &mut dyn FnMut(u64),
) -> Result<Report> {
    let mut refusals = Refusals::default();
    let mut crlf = Finding::default();
    let mut stray_byte_order_marks = Finding::default();
    // A text has fewer different words than lines.
    let mut copies = Copies::new(hashes_within(config.memory / 5 * 4));
    let mut distinct_words = Copies::new(hashes_within(config.memory / 5));
    let mut line_bytes = Lengths::default();
    let mut words = [Lengths::default(), Lengths::default()];
    let mut sentences = Lengths::default();
    let mut survey = tokenizer.map(Survey::new);
    let pairs = corpus.shape() == Shape::Pairs;
    let (mut replaced, mut replaced_in) = (0, Finding::default());
    let (mut documents, mut lines) = (0, 0);
    corpus.scan(|id, Record { line, size, raw, .. }| {
        if id % 4096 == 0 {
            progress(id);
        }
        if id == 0 {
            // Blank ones before the first document.
            lines += line - 1;
        }
        let text = strip_line_end(if pairs { &raw } else { raw.trim_ascii_end() });
        line_bytes.add(text.len());
        let document = corpus.parse(&raw, line, size);
        let broken = if document.is_ok() { corpus.replaced(&raw) } else { 0 };
        if broken > 0 {
            replaced += broken;
            replaced_in.add(line);
        }
        let sound = document.is_ok();
        for (number, part) in raw.split_inclusive(|&byte| byte == b'\n').zip(line..).map(|(p, n)| (n, p)) {
            lines += 1;
            if part.ends_with(b"\r\n") {
                crlf.add(number);
            }
            if sound && number > 1 && part.starts_with(BOM) {
                stray_byte_order_marks.add(number);
            }
        }
        let document = match document {
            Ok(document) => document,
            Err((line, fault)) => {
                refusals.of(&fault).add(line);
                return Ok(());
            }
        };
        documents += 1;
        copies.add(xxh3_64(text), line);
        sentences.add(document.sentences.len());
        for (at, sentence) in document.sentences.iter().enumerate() {
            let counted = sentence.text.split_whitespace();
            let counted = counted.inspect(|word| distinct_words.add(xxh3_64(word.as_bytes()), line));
            words[if pairs { at.min(1) } else { 0 }].add(counted.count());
        }
        if let Some(survey) = &mut survey {
            survey.add(document.sentences.iter().map(|sentence| &*sentence.text), pairs);
        }
        Ok(())
    })?;
    let first_and_second = words.iter().map(|lengths| lengths.sum).sum();
    let [first, second] = words.map(|lengths| lengths.spread());
    Ok(Report {
        lines,
        documents,
        refused: refusals.total(),
        refusals,
        crlf,
        byte_order_mark: corpus.text_file().is_some_and(TextFile::has_byte_order_mark),
        stray_byte_order_marks,
        replaced,
        replaced_in,
        duplicates: copies.report(),
        word_counts: distinct_words.word_counts(first_and_second),
        line_bytes: line_bytes.spread(),
        line_bytes_histogram: line_bytes.bars(),
        contents: match pairs {
            true => Contents::Pairs {
                words: [first, second],
                vocabulary: survey.map(|survey| survey.report(config)),
            },
            false => Contents::Documents {
                sentences: sentences.spread(),
                sentence_words: first,
                vocabulary: survey.map(|survey| survey.report_documents(config)),
            },
        },
    })
}

/// Hashes of lines, all of them or a sample within a budget: only those below a bound are kept, and the bound
/// is halved whenever there are too many (Wegman's adaptive sampling).
struct Copies {
    /// First line and number of lines of a hash.
    seen: HashMap<u64, (u64, u64)>,
    budget: usize,
    /// Hashes with any of these bits are not looked at.
    mask: u64,
    lines: Vec<[u64; 2]>,
}

impl Copies {
    fn new(budget: usize) -> Self {
        Self { seen: HashMap::new(), budget, mask: 0, lines: Vec::new() }
    }

    fn add(&mut self, hash: u64, line: u64) {
        if hash & self.mask != 0 {
            return;
        }
        let (first, count) = self.seen.entry(hash).or_insert((line, 0));
        *count += 1;
        if *count > 1 && self.lines.len() < PLACES {
            self.lines.push([line, *first]);
        }
        if self.seen.len() > self.budget {
            self.mask = self.mask << 1 | 1;
            self.seen.retain(|hash, _| hash & self.mask == 0);
        }
    }

    fn report(self) -> Duplicates {
        let one_in = self.mask + 1;
        let repeated: u64 = self.seen.values().map(|(_, count)| count - 1).sum();
        Duplicates { count: repeated * one_in, one_in, lines: self.lines }
    }

    /// The same counts read as those of words, of which there were `running`.
    fn word_counts(self, running: u64) -> WordCounts {
        let one_in = self.mask + 1;
        let below = |bound: u64| self.seen.values().map(|&(_, count)| count).filter(move |&n| n < bound);
        let rare = below(RARE).count() as u64 * one_in;
        WordCounts {
            running,
            distinct: self.seen.len() as u64 * one_in,
            rare,
            once: below(2).count() as u64 * one_in,
            rare_rate: ratio(below(RARE).sum::<u64>() * one_in, running),
            one_in,
        }
    }
}

/// How often each length occurred.
#[derive(Default)]
struct Lengths {
    /// Counts by length, up to [`LONGEST_COUNTED`].
    counts: Vec<u64>,
    /// Counts by the power of two below, length 0 first.
    octaves: Vec<u64>,
    total: u64,
    sum: u64,
    max: u64,
}

impl Lengths {
    fn add(&mut self, length: usize) {
        bump(&mut self.counts, length.min(LONGEST_COUNTED));
        bump(&mut self.octaves, (usize::BITS - length.leading_zeros()) as usize);
        self.total += 1;
        self.sum += length as u64;
        self.max = self.max.max(length as u64);
    }

    /// Smallest length that is not exceeded by `share` of all.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut below = 0;
        let at = self.counts.iter().position(|&count| {
            below += count;
            below >= wanted && count > 0
        });
        at.unwrap_or(0) as u64
    }

    fn spread(&self) -> Spread {
        Spread {
            min: self.quantile(0.0),
            mean: ratio(self.sum, self.total),
            median: self.quantile(0.5),
            p99: self.quantile(0.99),
            max: self.max,
        }
    }

    fn bars(&self) -> Vec<Bar> {
        let first = self.octaves.iter().position(|&lines| lines > 0).unwrap_or(0);
        let bar = |(octave, &lines): (usize, &u64)| match octave {
            0 => Bar { from: 0, to: 0, lines },
            _ => Bar { from: 1 << (octave - 1), to: (1 << octave) - 1, lines },
        };
        self.octaves.iter().enumerate().skip(first).map(bar).collect()
    }
}

/// Counts what a tokenizer makes of sentences.
struct Survey<'t> {
    tokenizer: &'t dyn Tokenizer,
    encoder: Box<dyn Encoder + 't>,
    unknown_id: u32,
    /// Scratch.
    ids: Vec<u32>,
    begins: Vec<bool>,
    /// By id.
    counts: Vec<u64>,
    tokens: u64,
    /// Words, those without an unknown part, and those of one token.
    words: u64,
    covered: u64,
    whole: u64,
    /// Of samples, where documents are pairs; else of sentences.
    samples: Lengths,
}

impl<'t> Survey<'t> {
    fn new(tokenizer: &'t dyn Tokenizer) -> Self {
        let unknown_id = tokenizer.specials().unknown;
        Self {
            tokenizer,
            encoder: tokenizer.encoder(),
            unknown_id,
            ids: Vec::new(),
            begins: Vec::new(),
            counts: vec![0; tokenizer.len()],
            tokens: 0,
            words: 0,
            covered: 0,
            whole: 0,
            samples: Lengths::default(),
        }
    }

    /// Counts the sentences of a document: together they are a sample where they are a pair.
    fn add<'s>(&mut self, sentences: impl Iterator<Item = &'s str>, pairs: bool) {
        let mut together = 0;
        for sentence in sentences {
            self.ids.clear();
            self.begins.clear();
            match self.tokenizer.knows_words() {
                true => self.encoder.encode_words(sentence, &mut self.ids, &mut self.begins),
                false => self.encoder.encode(sentence, &mut self.ids),
            }
            self.tokens += self.ids.len() as u64;
            self.ids.iter().for_each(|&id| self.counts[id as usize] += 1);
            self.count_words();
            together += self.ids.len();
            if !pairs {
                self.samples.add(self.ids.len());
            }
        }
        if pairs {
            self.samples.add(together + SPECIALS);
        }
    }

    /// Counts the words of the sentence that was encoded last.
    fn count_words(&mut self) {
        let mut rest = &self.ids[..];
        for word in self.begins.chunk_by(|_, &begins| !begins) {
            let (ids, others) = rest.split_at(word.len());
            rest = others;
            let covered = !ids.contains(&self.unknown_id);
            self.words += 1;
            self.covered += u64::from(covered);
            self.whole += u64::from(covered && ids.len() == 1);
        }
    }

    fn covered(&self) -> Covered {
        let unknown = self.counts[self.unknown_id as usize];
        let entries = self.tokenizer.ordinary_len();
        let seen = || {
            let counts = (0..entries).map(|k| self.counts[self.tokenizer.ordinary(k) as usize]);
            counts.filter(|&count| count > 0)
        };
        Covered {
            tokens: self.tokens,
            unknown,
            unknown_rate: ratio(unknown, self.tokens),
            words: self.words,
            words_covered: ratio(self.covered, self.words),
            words_whole: ratio(self.whole, self.words),
            entries: u64::from(entries),
            entries_seen: seen().count() as u64,
            entries_rare: seen().filter(|&count| count < RARE).count() as u64,
        }
    }

    fn report_documents(self, config: &CheckConfig) -> DocumentCoverage {
        let room = config.seq_len.saturating_sub(SPECIALS).max(1) as u64;
        let samples = self.tokens.div_ceil(room);
        DocumentCoverage {
            covered: self.covered(),
            sentence_tokens: self.samples.spread(),
            samples,
            epoch_tokens: self.tokens + SPECIALS as u64 * samples,
        }
    }

    fn report(self, config: &CheckConfig) -> Coverage {
        // Lengths after cutting, from 0 to the longest that occurs.
        let mut cut = Vec::new();
        for (length, &count) in self.samples.counts.iter().enumerate() {
            let length = length.min(config.seq_len);
            cut.resize(cut.len().max(length + 1), 0);
            cut[length] += count;
        }
        let total = self.samples.total;
        let epoch_tokens: u64 = cut.iter().enumerate().map(|(length, count)| length as u64 * count).sum();
        let whole: u64 = self.samples.counts.iter().take(config.seq_len + 1).sum();
        let mean = ratio(epoch_tokens, total);
        let batch_width = expected_longest(&cut, config.batch_size);
        let padding = |width: f64| if total == 0 { 0.0 } else { 1.0 - mean / width };
        Coverage {
            covered: self.covered(),
            sample_tokens: self.samples.spread(),
            truncated: total - whole,
            truncated_rate: ratio(total - whole, total),
            padding_fixed: padding(config.seq_len as f64),
            padding_longest: padding(batch_width),
            epoch_tokens,
            batch_width,
        }
    }
}

/// The expected maximum of `draws` lengths drawn at random, `counts[l]` of which are `l`: the sum over all
/// lengths of the probability that the maximum is longer.
fn expected_longest(counts: &[u64], draws: usize) -> f64 {
    let total: u64 = counts.iter().sum();
    // A corpus smaller than a batch is one batch.
    let draws = (draws as u64).min(total) as f64;
    let mut shorter = 0;
    let mut expected = 0.0;
    for &count in counts {
        shorter += count;
        expected += 1.0 - ratio(shorter, total).powf(draws);
    }
    expected
}

fn bump(counts: &mut Vec<u64>, at: usize) {
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] += 1;
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::{CorpusConfig, Format};
    use super::*;
    use crate::vocab::WordVocab;

    fn report(content: &[u8], config: CheckConfig) -> Report {
        report_as(Format::Pairs, content, config)
    }

    fn report_as(format: Format, content: &[u8], config: CheckConfig) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, content).unwrap();
        let open = CorpusConfig { format: Some(format), ..CorpusConfig::at(path) };
        let letters = WordVocab::from_texts(["a b c d e f g h"], None, 1);
        check(&TextCorpus::open(&open).unwrap(), Some(&letters), &config, &mut |_| {}).unwrap()
    }

    const CONFIG: CheckConfig = CheckConfig { seq_len: 8, batch_size: 2, memory: MEMORY };

    #[test]
    fn every_kind_of_bad_line_is_counted_and_named() {
        let found =
            report(b"a\tb\n\nno\na\\tb\na\tb\tc\n\tb\na\t\n\xff\ta\na\tb\r\n\xef\xbb\xbfc\td\nno", CONFIG);
        let at = |finding: &Finding, lines: &[u64]| {
            assert_eq!((finding.count, &finding.lines[..]), (lines.len() as u64, lines));
        };
        at(&found.refusals.blank, &[2]);
        at(&found.refusals.no_tab, &[3, 11]);
        at(&found.refusals.literal_tab, &[4]);
        at(&found.refusals.extra_tab, &[5]);
        at(&found.refusals.nothing_before, &[6]);
        at(&found.refusals.nothing_after, &[7]);
        at(&found.refusals.malformed, &[8]);
        at(&found.refusals.too_long, &[]);
        at(&found.crlf, &[9]);
        at(&found.stray_byte_order_marks, &[10]);
        assert_eq!((found.lines, found.documents, found.refused), (11, 3, 8));
        assert_eq!(found.duplicates, Duplicates { count: 1, one_in: 1, lines: vec![[9, 1]] });
    }

    #[test]
    fn only_the_first_places_are_kept() {
        let found = report(&b"no\n".repeat(100), CONFIG);
        assert_eq!(found.refusals.no_tab, Finding { count: 100, lines: vec![1, 2, 3, 4, 5] });
        assert_eq!(found.documents, 0);
        let Contents::Pairs { vocabulary: Some(vocabulary), .. } = found.contents else {
            panic!("{found:?}")
        };
        assert_eq!((vocabulary.padding_fixed, vocabulary.padding_longest), (0.0, 0.0));
    }

    #[test]
    fn lengths_are_spread_into_bars_of_powers_of_two() {
        let found = report(b"a\tb\na\tbcd\nabcdef\ta b\nno\n", CONFIG);
        assert_eq!(
            found.line_bytes_histogram,
            [
                Bar { from: 2, to: 3, lines: 2 },
                Bar { from: 4, to: 7, lines: 1 },
                Bar { from: 8, to: 15, lines: 1 }
            ]
        );
        assert_eq!(found.line_bytes, Spread { min: 2, mean: 20.0 / 4.0, median: 3, p99: 10, max: 10 });
        let Contents::Pairs { words, .. } = found.contents else { panic!("{found:?}") };
        assert_eq!(words[1], Spread { min: 1, mean: 4.0 / 3.0, median: 1, p99: 2, max: 2 });
    }

    #[test]
    fn the_vocabulary_tells_unknown_words_truncation_and_padding() {
        // Samples of 5, 6 and 12 tokens, where 8 fit.
        let found = report(b"a\tb\na b\tword\na b c d\te f g h other\n", CONFIG);
        let Contents::Pairs { vocabulary: Some(vocabulary), .. } = found.contents else {
            panic!("{found:?}")
        };
        let covered = vocabulary.covered;
        assert_eq!((covered.tokens, covered.unknown, covered.words), (14, 2, 14));
        assert_eq!((covered.words_covered, covered.words_whole), (12.0 / 14.0, 12.0 / 14.0));
        // All eight letters come, none of them often.
        assert_eq!((covered.entries, covered.entries_seen, covered.entries_rare), (8, 8, 8));
        assert_eq!((vocabulary.truncated, vocabulary.epoch_tokens), (1, 5 + 6 + 8));
        assert!((vocabulary.padding_fixed - (1.0 - 19.0 / 24.0)).abs() < 1e-12);
        // Longest of two drawn from {5, 6, 8}: 1/9 of the time 5, 3/9 6, 5/9 8.
        assert!((vocabulary.batch_width - (5.0 + 3.0 * 6.0 + 5.0 * 8.0) / 9.0).abs() < 1e-12);
    }

    #[test]
    fn documents_have_figures_of_their_own() {
        let text = b"\na b\nc word\r\n\n\na\n\na b\nc word\r\n";
        let found = report_as(Format::Sentences, text, CONFIG);
        assert_eq!((found.lines, found.documents, found.refused), (9, 3, 0));
        assert_eq!(found.crlf, Finding { count: 2, lines: vec![3, 9] });
        assert_eq!(found.duplicates.lines, [[8, 2]]);
        let Contents::Documents { sentences, sentence_words, vocabulary } = found.contents else {
            panic!("{found:?}")
        };
        assert_eq!((sentences.min, sentences.median, sentences.max), (1, 2, 2));
        assert_eq!((sentence_words.min, sentence_words.mean, sentence_words.max), (1, 9.0 / 5.0, 2));
        let vocabulary = vocabulary.unwrap();
        assert_eq!((vocabulary.covered.tokens, vocabulary.covered.unknown), (9, 2));
        assert_eq!((vocabulary.covered.entries_seen, vocabulary.covered.entries), (3, 8));
        // Samples of five tokens and three special ones.
        assert_eq!((vocabulary.samples, vocabulary.epoch_tokens), (2, 9 + 2 * 3));

        let lines = b"{\"text\": \"a b. C d.\"}\n{\"text\": 3}\n{}\n{\"text\": \" \"}\nno\n\n";
        let found = report_as(Format::Jsonl, lines, CONFIG);
        assert_eq!((found.lines, found.documents, found.refused), (6, 1, 5));
        let at: Vec<_> = found.refusals.named().map(|(_, finding)| finding.lines.clone())[8..].to_vec();
        assert_eq!(at, [vec![5, 6], vec![3], vec![2], vec![4]]);
    }

    #[test]
    fn hashes_take_what_memory_they_may() {
        let (places, words) = (1 << 22, 1 << 20);
        assert_eq!(hashes_within(MEMORY / 5 * 4), places / 8 * 7 - 1);
        assert_eq!(hashes_within(MEMORY / 5), words / 8 * 7 - 1);
        assert_eq!((hashes_within(25 * 128), hashes_within(0)), (111, 55));
    }

    #[test]
    fn words_are_told_apart_by_how_often_they_come() {
        // `a` comes 10 times, `b` 9 times, `c` once.
        let found = report(&[&b"a\tb\n".repeat(9)[..], b"a\tc\n"].concat(), CONFIG);
        let words = WordCounts { running: 20, distinct: 3, rare: 2, once: 1, rare_rate: 0.5, one_in: 1 };
        assert_eq!(found.word_counts, words);
        let mut seen = Copies::new(1000);
        let words = (0..100_000_u64).chain(0..50_000);
        words.for_each(|n| seen.add(xxh3_64(&n.to_le_bytes()), 1));
        let found = seen.word_counts(150_000);
        assert!(found.one_in >= 100);
        for (found, true_count) in [(found.distinct, 100_000.0), (found.once, 50_000.0)] {
            assert!((found as f64 / true_count - 1.0).abs() < 0.25, "{found}");
        }
        assert!((found.rare_rate - 1.0).abs() < 0.25, "{}", found.rare_rate);
    }

    #[test]
    fn duplicates_are_exact_within_the_budget_and_estimated_beyond() {
        let count = |budget: usize, distinct: u64, copies: u64| {
            let mut seen = Copies::new(budget);
            for copy in 0..copies {
                for n in 0..distinct {
                    seen.add(xxh3_64(&n.to_le_bytes()), copy * distinct + n + 1);
                }
            }
            assert!(seen.seen.len() <= budget);
            seen.report()
        };
        let exact = count(1000, 1000, 3);
        assert_eq!((exact.count, exact.one_in), (2000, 1));
        assert_eq!(exact.lines[0], [1001, 1]);
        let estimate = count(1000, 50_000, 3);
        assert!(estimate.one_in >= 50, "{}", estimate.one_in);
        // About 780 of the hashes are kept: four standard deviations of that number are 14 %.
        assert!((estimate.count as f64 / 100_000.0 - 1.0).abs() < 0.15, "{}", estimate.count);
        assert_eq!(count(1000, 50_000, 1).count, 0);
    }
}
