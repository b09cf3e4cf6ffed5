//! Samples with the next-sentence task (Devlin et al. 2018, section 3.1): the document's own second side,
//! or one from another document.

use super::row::RowBuilder;
use super::{Cursor, Order, Origin, PairLabel, SampleBuilder, SampleConfig, Samples, Unit, pair};
use crate::corpus::{Corpus, Sentence};
use crate::rng::{Domain, SampleRng};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// One sample a document: side A, and the true side B or another document's.
pub struct NspBuilder<'p> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    row: RowBuilder<'p>,
}

impl<'p> NspBuilder<'p> {
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a configuration that cannot be meant, [`crate::ErrorKind::Data`]
    /// where the corpus can give no sample or no negative.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
    ) -> Result<Self> {
        let row = RowBuilder::new(tokenizer, config)?;
        match corpus.len() {
            0 => Err(Error::data(format!("corpus {}: there is no document in it", corpus.path().display()))),
            1 if config.next_rate < 1.0 => Err(Error::data(format!(
                "corpus {}: a single document has no other to draw not-next pairs from: add text, or use \
                 --next-rate 1 or --pair none",
                corpus.path().display()
            ))),
            _ => Ok(Self { corpus, config, row }),
        }
    }
}

impl SampleBuilder for NspBuilder<'_> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let config = self.config;
        let order = Order::new(config.shuffle, config.seed, unit.epoch, self.corpus.len());
        for position in unit.positions.clone() {
            let id = order.document(position);
            let Some(document) = pair::read(self.corpus, id, 2, config.skip_bad_lines)? else {
                out.skipped += 1;
                continue;
            };
            let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
            let mut rng = SampleRng::new(Domain::Sample, config.seed, &[unit.epoch, id, 0]);
            let (a, truth) = pair::sides(&document);
            if rng.unit() < config.next_rate {
                let origin = origin(cursor, (id, a), (id, truth));
                self.row.push((a, truth), PairLabel::IsNext, origin, &mut rng, out);
            } else {
                let (other, negative) =
                    pair::negative(self.corpus, id, truth, config.skip_bad_lines, &mut rng)?;
                let b = pair::sides(&negative).1;
                let origin = origin(cursor, (id, a), (other, b));
                self.row.push((a, b), PairLabel::NotNext, origin, &mut rng, out);
            }
        }
        Ok(())
    }
}

/// Where both sides, each a document's number and sentences, begin.
pub(super) fn origin(cursor: Cursor, a: (u64, &[Sentence<'_>]), b: (u64, &[Sentence<'_>])) -> Origin {
    // A missing side is said to begin where the other one does.
    let line = |side: &[Sentence<'_>]| side.first().map(|sentence| sentence.line);
    Origin {
        cursor,
        document_a: a.0,
        line_a: line(a.1).or(line(b.1)).unwrap_or(0),
        document_b: b.0,
        line_b: line(b.1).or(line(a.1)).unwrap_or(0),
    }
}
