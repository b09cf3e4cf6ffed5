//! A stage of one's own: samples in which every fourth word is hidden, trained on by everything else as it is.
//!
//!     cargo run --release --example own_samples -- fixtures/toy.pairs.tsv

use std::path::Path;

use bertstream::collate::{CollateConfig, PadTo};
use bertstream::corpus::{self, Corpus, CorpusConfig};
use bertstream::model::{
    Arch, Engine, FusedEngine, Init, Layout, ModelConfig, Optimizer, Pass, Precision, Update,
};
use bertstream::pipeline::{Gauges, Plan};
use bertstream::sample::{
    Corruption, Cursor, Origin, PairLabel, Sample, SampleBuilder, SampleConfig, Samples, Unit,
};
use bertstream::vocab::{Tokenizer, WordVocab};

/// Hides every fourth word of each document, which is one sample without a pair.
struct EveryFourth<'p>(&'p dyn Corpus, &'p dyn Tokenizer);

impl SampleBuilder for EveryFourth<'_> {
    fn build(&mut self, unit: &Unit, out: &mut Samples) -> bertstream::Result<()> {
        let specials = self.1.specials();
        for position in unit.positions.clone() {
            let document = self.0.document(position)?;
            let mut ids = vec![specials.classify];
            document.sentences.iter().for_each(|sentence| self.1.encode(&sentence.text, &mut ids));
            ids.truncate(64);
            let masked: Vec<u32> = (1..ids.len() as u32).step_by(4).collect();
            let labels: Vec<u32> =
                masked.iter().map(|&at| std::mem::replace(&mut ids[at as usize], specials.mask)).collect();
            let line = document.sentences[0].line;
            out.push(Sample {
                ids: &ids,
                segments: &vec![1; ids.len()],
                corruptions: &vec![Corruption::Mask; masked.len()],
                masked: &masked,
                labels: &labels,
                pair: PairLabel::None,
                origin: Origin {
                    cursor: Cursor { epoch: unit.epoch, position, part: 0 },
                    document_a: position,
                    line_a: line,
                    document_b: position,
                    line_b: line,
                },
            });
        }
        Ok(())
    }
}

/// Trains on the corpus at `path`, and gives the loss of every 20th step.
pub fn train(path: &Path) -> bertstream::Result<Vec<f64>> {
    let corpus = corpus::open(&CorpusConfig::at(path))?;
    let documents =
        (0..corpus.len()).map(|id| corpus.document(id)).collect::<bertstream::Result<Vec<_>>>()?;
    let texts = documents.iter().flat_map(|document| &document.sentences).map(|sentence| &*sentence.text);
    let vocab = WordVocab::from_texts(texts, None, 1);
    let sample = SampleConfig { seq_len: 64, ..SampleConfig::default() };
    let collate =
        CollateConfig { batch_size: 32, seq_len: 64, pad_to: PadTo::Longest, pad_id: vocab.specials().pad };
    let model = ModelConfig {
        arch: Arch::Reference,
        vocab_size: vocab.len(),
        hidden: 32,
        layers: 1,
        heads: 2,
        dropout: 0.1,
        init: Init::default(),
        max_positions: 64,
    };
    let weights = Layout::new(&model).initial_weights(42);
    let mut engine = FusedEngine::new(&model, Optimizer::default(), weights, Precision::F32, 2)?;

    let plan = Plan { corpus: &*corpus, tokenizer: &vocab, sample: &sample, workers: 2 };
    let make = |_: &_| Ok(EveryFourth(&*corpus, &vocab));
    plan.batches_built_by(make, &collate, Cursor::default(), 1, &Gauges::default(), |batches| {
        let mut losses = Vec::new();
        for (step, batch) in (1..=100).zip(batches) {
            let batch = batch?;
            let pass =
                Pass { seed: 42, step, first_row: 0, masked_in_step: batch.masked.len(), pairs_in_step: 0 };
            let outcome = engine.accumulate(&batch, &pass)?;
            engine.update(&Update { step, lr: 3e-3, clip: Some(1.0) })?;
            if step % 20 == 0 {
                losses.push(outcome.mlm_loss());
            }
        }
        Ok(losses)
    })
}

fn main() {
    let path = std::env::args().nth(1).expect("the corpus is named on the command line");
    match train(Path::new(&path)) {
        Ok(losses) => println!("nats a hidden word, every 20 steps: {losses:.3?}"),
        Err(error) => eprintln!("{error}"),
    }
}
