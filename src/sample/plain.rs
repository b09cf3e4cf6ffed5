//! Samples without a pair task: the document's own sentences, never another's.

use super::row::RowBuilder;
use super::{Cursor, Order, PairLabel, SampleBuilder, SampleConfig, Samples, Unit, nsp, pair};
use crate::corpus::Corpus;
use crate::rng::{Domain, SampleRng};
use crate::vocab::Tokenizer;
use crate::{Error, Result};

/// One sample a document: its two sides as they are, without a pair label.
pub struct PlainBuilder<'p> {
    corpus: &'p dyn Corpus,
    config: &'p SampleConfig,
    row: RowBuilder<'p>,
}

impl<'p> PlainBuilder<'p> {
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a configuration that cannot be meant, [`crate::ErrorKind::Data`]
    /// where the corpus is empty.
    pub fn new(
        corpus: &'p dyn Corpus,
        tokenizer: &'p dyn Tokenizer,
        config: &'p SampleConfig,
    ) -> Result<Self> {
        let row = RowBuilder::new(tokenizer, config)?;
        if corpus.is_empty() {
            return Err(Error::data(format!(
                "corpus {}: there is no document in it",
                corpus.path().display()
            )));
        }
        Ok(Self { corpus, config, row })
    }
}

impl SampleBuilder for PlainBuilder<'_> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> Result<()> {
        let config = self.config;
        let order = Order::new(config.shuffle, config.seed, unit.epoch, self.corpus.len());
        for position in unit.positions.clone() {
            let id = order.document(position);
            let Some(document) = pair::read(self.corpus, id, 1, config.skip_bad_lines)? else {
                out.skipped += 1;
                continue;
            };
            let cursor = Cursor { epoch: unit.epoch, position, part: 0 };
            let mut rng = SampleRng::new(Domain::Sample, config.seed, &[unit.epoch, id, 0]);
            let (a, b) = pair::sides(&document);
            let origin = nsp::origin(cursor, (id, a), (id, b));
            self.row.push((a, b), PairLabel::None, origin, &mut rng, out);
        }
        Ok(())
    }
}
