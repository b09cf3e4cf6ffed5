//! Samples that somebody else made: a JSON object a line, in the fields that `bertstream sample --json` prints.
//!
//! Takes documents that are such lines, gives the samples that they say. Nothing is encoded, paired or masked here,
//! and nothing is trusted: a line that the stages behind could not use is malformed, and says which field is why.

use serde::Deserialize;

use super::blocks::documents_of_block;
use super::order::EpochOrder;
use super::{
    Corruption, Cursor, Origin, PairLabel, SEGMENT_A, SEGMENT_B, Sample, SampleBuilder, SampleConfig,
    Samples, Unit,
};
use crate::corpus::{Corpus, Source};
use crate::vocab::{Specials, Tokenizer};
use crate::{Error, ErrorKind, Result};

/// The fields that count. Others (`tokens`, `origin`) are for people.
#[derive(Deserialize)]
struct Line {
    ids: Vec<u32>,
    segments: Vec<u8>,
    masked: Vec<u32>,
    labels: Vec<u32>,
    /// Told from what stands there where it is left out.
    corruptions: Option<Vec<Corruption>>,
    #[serde(default = "no_pair")]
    pair: PairLabel,
}

fn no_pair() -> PairLabel {
    PairLabel::None
}

/// Gives the samples at a unit's positions.
pub struct Given<'p> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    sources: Vec<Source>,
    specials: Specials,
    vocabulary: usize,
}

impl<'p> Given<'p> {
    /// # Errors
    /// [`ErrorKind::Data`] where there is no line.
    pub fn new(corpus: &'p dyn Corpus, tokenizer: &dyn Tokenizer, config: &'p SampleConfig) -> Result<Self> {
        if corpus.is_empty() {
            return Err(Error::data(format!("samples {}: there is none in it", corpus.path().display())));
        }
        let (specials, vocabulary) = (tokenizer.specials(), tokenizer.len());
        Ok(Self { corpus, config, sources: corpus.sources(), specials, vocabulary })
    }

    /// The sample of a line, or what is wrong with it.
    fn read(&self, text: &str) -> Result<Line, String> {
        let line: Line = serde_json::from_str(text).map_err(|error| {
            let whole = error.to_string();
            let what = whole.rsplit_once(" at line ").map_or(&*whole, |(what, _)| what);
            format!("not a sample: {what}")
        })?;
        let Line { ids, segments, masked, labels, corruptions, .. } = &line;
        let long = |field: &str, found: usize, other: &str, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(format!("{field} has {found} entries where {other} has {expected}")),
        };
        if ids.is_empty() {
            return Err("ids is empty".to_owned());
        }
        if ids.len() > self.config.seq_len {
            return Err(format!("{} tokens, more than --seq-len {}", ids.len(), self.config.seq_len));
        }
        long("segments", segments.len(), "ids", ids.len())?;
        long("labels", labels.len(), "masked", masked.len())?;
        if let Some(corruptions) = corruptions {
            long("corruptions", corruptions.len(), "masked", masked.len())?;
        }
        for (field, among) in [("ids", ids), ("labels", labels)] {
            if let Some(id) = among.iter().find(|&&id| id as usize >= self.vocabulary) {
                return Err(format!("{field}: {id} is no token of a vocabulary of {}", self.vocabulary));
            }
            if among.contains(&self.specials.pad) {
                return Err(format!("{field}: {} is the padding, which comes later", self.specials.pad));
            }
        }
        if segments.iter().any(|segment| ![SEGMENT_A, SEGMENT_B].contains(segment)) || !segments.is_sorted() {
            return Err("segments: first ones for the first segment, then twos for the second".to_owned());
        }
        if !masked.is_sorted_by(|a, b| a < b) || masked.last().is_some_and(|&at| at as usize >= ids.len()) {
            return Err("masked: places in ids, ascending, are wanted".to_owned());
        }
        Ok(line)
    }

    /// What was done at each masked place, as far as can be seen.
    fn corruptions(&self, line: &Line) -> Vec<Corruption> {
        let seen = line.masked.iter().zip(&line.labels).map(|(&at, &label)| match line.ids[at as usize] {
            id if id == self.specials.mask => Corruption::Mask,
            id if id == label => Corruption::Keep,
            _ => Corruption::Random,
        });
        line.corruptions.clone().unwrap_or_else(|| seen.collect())
    }
}

impl SampleBuilder for Given<'_> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let SampleConfig { shuffle, seed, skip_bad_lines, .. } = *self.config;
        let how = (shuffle.for_corpus(self.corpus), documents_of_block(self.corpus));
        let order = EpochOrder::new(&self.sources, how, seed, unit.epoch);
        for position in unit.positions.clone() {
            let id = order.place(position).document;
            let document = match self.corpus.document(id) {
                Err(error) if error.kind() == ErrorKind::Data && skip_bad_lines => {
                    out.skipped += 1;
                    continue;
                }
                document => document?,
            };
            let (number, text) = document.sentences.first().map_or((0, ""), |line| (line.line, &*line.text));
            let line = match self.read(text) {
                Ok(line) => line,
                Err(_) if skip_bad_lines => {
                    out.skipped += 1;
                    continue;
                }
                Err(what) => {
                    let path = self.corpus.file(id).display();
                    return Err(Error::data(format!("samples {path}: line {number}: {what}")));
                }
            };
            let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
            out.push(Sample {
                ids: &line.ids,
                segments: &line.segments,
                masked: &line.masked,
                labels: &line.labels,
                corruptions: &self.corruptions(&line),
                pair: line.pair,
                origin: Origin { cursor, document_a: id, line_a: number, document_b: id, line_b: number },
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{CorpusConfig, Format, TextCorpus};
    use crate::sample::{self, Shuffle};
    use crate::vocab::WordVocab;

    /// What becomes of these lines with a vocabulary of ids 0 to 9, and `--seq-len 6`.
    fn read(lines: &str, skip_bad_lines: bool) -> Result<Samples> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("samples.jsonl");
        std::fs::write(&path, lines).unwrap();
        let at = CorpusConfig { format: Some(Format::Samples), ..CorpusConfig::at(path) };
        let corpus = TextCorpus::open(&at)?;
        let vocab = WordVocab::from_texts(["a b c d e"], None, 1);
        let config =
            SampleConfig { seq_len: 6, shuffle: Shuffle::None, skip_bad_lines, ..SampleConfig::default() };
        let mut out = Samples::default();
        let unit = Unit { epoch: 0, positions: 0..corpus.len() };
        sample::builder(&corpus, &vocab, &config, std::sync::Arc::new(|| true))?.build(&unit, &mut out)?;
        Ok(out)
    }

    const GOOD: &str = r#"{"ids":[3,4,6,2,7,8],"segments":[1,1,1,1,2,2],"masked":[1,2,4],"labels":[5,6,9],"pair":"not_next"}"#;

    #[test]
    fn a_line_is_a_sample() {
        let samples = read(
            &format!("{GOOD}\n{}", r#"{"ids":[5],"segments":[1],"masked":[],"labels":[],"tokens":7}"#),
            false,
        );
        let samples = samples.unwrap();
        let first = samples.get(0);
        assert_eq!(
            (first.ids, first.labels, first.pair),
            (&[3, 4, 6, 2, 7, 8][..], &[5, 6, 9][..], PairLabel::NotNext)
        );
        assert_eq!(first.corruptions, [Corruption::Mask, Corruption::Keep, Corruption::Random]);
        let second = samples.get(1);
        assert_eq!((second.ids, second.pair, second.origin.line_a), (&[5][..], PairLabel::None, 2));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place() {
        let check = |from: &str, to: &str, expected: &str| {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD, "{from}");
            let lines = format!("{GOOD}\n{bad}\n");
            let error = read(&lines, false).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
            let told = error.to_string();
            assert!(told.contains("samples.jsonl: line 2: ") && told.contains(expected), "{told}");
            let kept = read(&lines, true).unwrap();
            assert_eq!((kept.len(), kept.skipped), (1, 1));
        };
        check("{", "[", "not a sample");
        check("\"masked\":[1,2,4],", "", "missing field `masked`");
        check("not_next", "perhaps", "unknown variant `perhaps`");
        check("[3,4,", "[3,-4,", "not a sample");
        check("[3,4,6,2,7,8]", "[3,4,6,2,7,8,9]", "7 tokens, more than --seq-len 6");
        check("[3,4,6,2,7,8]", "[]", "ids is empty");
        check("[1,1,1,1,2,2]", "[1,1,1,1,2]", "segments has 5 entries where ids has 6");
        check("[1,1,1,1,2,2]", "[1,1,2,1,2,2]", "segments: first ones");
        check("[1,1,1,1,2,2]", "[1,1,1,1,2,3]", "segments: first ones");
        check("[5,6,9]", "[5,6]", "labels has 2 entries where masked has 3");
        check("[5,6,9]", "[5,6,10]", "labels: 10 is no token of a vocabulary of 10");
        check("[3,4,6", "[3,0,6", "ids: 0 is the padding");
        check("[1,2,4]", "[1,2,6]", "masked: places in ids");
        check("[1,2,4]", "[2,2,4]", "masked: places in ids");
        check("\"pair\"", "\"corruptions\":[\"mask\"],\"pair\"", "corruptions has 1 entries");
    }

    #[test]
    fn blank_lines_are_no_samples() {
        let error = read(&format!("{GOOD}\n\n{GOOD}\n"), false).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert_eq!(read(&format!("{GOOD}\n\n{GOOD}\n"), true).unwrap().len(), 2);
    }
}
