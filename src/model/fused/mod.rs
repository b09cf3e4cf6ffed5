//! The training step by hand: forward and backward of the whole BERTLM over plain buffers, for the CPU.
//!
//! Takes padded batches and works on their real tokens only. Weights, gradients and moments are flat
//! columns in the order of the [`Layout`], where candle's tensors are made from and checkpoints written.
//! The `chunk` module is a group of samples on one thread, `vocabulary` the masked-token head; what remains
//! here is who works when. Results are bitwise the same for any number of threads.

use rayon::prelude::*;

use super::layout::{BlockRanges, OuterRanges};
use super::{Engine, Layout, ModelConfig, Optimizer, Outcome, Pass, Predictions, State, Update, Updated};
use crate::collate::HostBatch;
use crate::sample::PairLabel;
use crate::{Error, Result};

mod attention;
mod chunk;
mod kernels;
mod matmul;
mod vocabulary;

use chunk::{Chunk, Dropouts, Model};
use vocabulary::VocabularyHead;

/// The hand-written engine.
pub struct FusedEngine {
    config: ModelConfig,
    layout: Layout,
    blocks: Vec<BlockRanges>,
    outer: OuterRanges,
    optimizer: Optimizer,
    state: State,
    gradients: Vec<f32>,
    positions: Vec<f32>,
    /// Chunks of the batch at hand come first; later ones wait for larger batches.
    chunks: Vec<Chunk>,
    head: VocabularyHead,
    pool: rayon::ThreadPool,
}

/// A place in the chunked batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: usize,
    token: usize,
}

impl FusedEngine {
    /// An engine with these weights (in the order of [`Layout::reference`]) and zero moments, working on
    /// `threads` threads of its own.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a shape that cannot be, [`crate::ErrorKind::Internal`] where the
    /// weights' number is not the layout's or threads cannot be started.
    pub fn new(
        config: &ModelConfig,
        optimizer: Optimizer,
        weights: Vec<f32>,
        threads: usize,
    ) -> Result<Self> {
        config.check()?;
        let layout = Layout::reference(config);
        let zeros = vec![0.0; layout.len()];
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("train-{i}"))
            .build()
            .map_err(|e| Error::internal("cannot start the engine's threads").caused_by(e))?;
        let mut engine = Self {
            config: config.clone(),
            blocks: (0..config.layers).map(|layer| layout.block(layer)).collect(),
            outer: layout.outer(),
            optimizer,
            state: State { weights: vec![], first: vec![], second: vec![] },
            gradients: vec![],
            positions: vec![],
            chunks: vec![],
            head: VocabularyHead::new(config),
            layout,
            pool,
        };
        engine.restore(State { weights, first: zeros.clone(), second: zeros })?;
        Ok(engine)
    }

    /// Forward through embeddings and blocks: the number of chunks in use.
    fn forward(&mut self, batch: &HostBatch, first_row: usize, dropouts: Dropouts) -> Result<usize> {
        super::batch::check(batch, self.config.vocab_size)?;
        let longest = batch.lengths.iter().map(|&n| n as usize).max().unwrap_or(0);
        if self.positions.len() < longest * self.config.hidden {
            self.positions = super::sinusoids(longest, self.config.hidden);
        }
        let ranges = chunk::split(&batch.lengths);
        if self.chunks.len() < ranges.len() {
            self.chunks.resize_with(ranges.len(), Chunk::default);
        }
        let model = Model {
            config: &self.config,
            blocks: &self.blocks,
            outer: &self.outer,
            weights: &self.state.weights,
            positions: &self.positions,
            dropouts,
        };
        let chunks = &mut self.chunks[..ranges.len()];
        self.pool.install(|| {
            chunks.par_iter_mut().zip(ranges.par_iter()).with_max_len(1).for_each(|(chunk, rows)| {
                chunk.load(batch, rows.clone(), first_row);
                chunk.forward(&model);
            });
        });
        Ok(ranges.len())
    }

    /// Where the masked positions of a batch lie.
    fn masked_places(&self, batch: &HostBatch, used: usize) -> Vec<Place> {
        let rows = row_places(&self.chunks[..used]);
        let place = |flat: u32| {
            let (row, column) = (flat as usize / batch.seq_len, flat as usize % batch.seq_len);
            Place { token: rows[row].token + column, ..rows[row] }
        };
        batch.masked.iter().map(|&flat| place(flat)).collect()
    }

    /// Rows of the last block's output at `places`, `(places, hidden)`.
    fn gather(&mut self, places: &[Place]) {
        let h = self.config.hidden;
        self.head.inputs.clear();
        for place in places {
            self.head.inputs.extend_from_slice(&self.chunks[place.chunk].output[place.token * h..][..h]);
        }
    }

    /// Forward without dropout, and both heads; `predictions` are filled where wanted.
    fn infer(&mut self, batch: &HostBatch, mut predictions: Option<&mut Predictions>) -> Result<Outcome> {
        let used = self.forward(batch, 0, Dropouts::OFF)?;
        let places = self.masked_places(batch, used);
        let mut outcome = Outcome::default();
        let h = self.config.hidden;
        for (places, labels) in
            places.chunks(vocabulary::MOST_ROWS).zip(batch.labels.chunks(vocabulary::MOST_ROWS))
        {
            self.gather(places);
            let weights = &self.state.weights;
            let (weight, bias) =
                (&weights[self.outer.mlm_weight.clone()], &weights[self.outer.mlm_bias.clone()]);
            self.pool.install(|| self.head.forward(weight, bias, labels, &mut outcome));
            if let Some(predictions) = predictions.as_deref_mut() {
                self.head.append_log_probabilities(&mut predictions.mlm);
            }
        }
        let rows = row_places(&self.chunks[..used]);
        for (place, &label) in rows.iter().zip(&batch.pairs) {
            let x = &self.chunks[place.chunk].output[place.token * h..][..h];
            let log_probabilities = self.pair_log_probabilities(x);
            count_pair(log_probabilities, label, &mut outcome);
            if let Some(predictions) = predictions.as_deref_mut() {
                predictions.nsp.extend_from_slice(&log_probabilities);
            }
        }
        Ok(outcome)
    }

    /// The next-sentence head on one row: log-probabilities of "not next" and "is next".
    fn pair_log_probabilities(&self, x: &[f32]) -> [f32; 2] {
        let weight = &self.state.weights[self.outer.nsp_weight.clone()];
        let bias = &self.state.weights[self.outer.nsp_bias.clone()];
        let logit = |class: usize| -> f32 {
            let weight = &weight[class * x.len()..][..x.len()];
            bias[class] + weight.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()
        };
        let logits = [logit(0), logit(1)];
        let max = logits[0].max(logits[1]);
        let log_sum = max + ((logits[0] - max).exp() + (logits[1] - max).exp()).ln();
        logits.map(|logit| logit - log_sum)
    }

    /// Both tasks' heads forward and backward: leaves the gradient of the last block's output in the
    /// chunks' `dx`.
    fn heads(&mut self, batch: &HostBatch, pass: &Pass, used: usize) -> Outcome {
        let h = self.config.hidden;
        let mut outcome = Outcome::default();
        for chunk in &mut self.chunks[..used] {
            chunk.zero_dx(h);
        }
        let places = self.masked_places(batch, used);
        let mlm_weight = weight_of(pass.masked_in_step);
        for (places, labels) in
            places.chunks(vocabulary::MOST_ROWS).zip(batch.labels.chunks(vocabulary::MOST_ROWS))
        {
            self.gather(places);
            let (weight, bias) = (self.outer.mlm_weight.clone(), self.outer.mlm_bias.clone());
            let weights = &self.state.weights;
            // The bias lies directly behind the weight in the layout.
            let (dweight, dbias) = self.gradients[weight.start..bias.end].split_at_mut(weight.len());
            let (head, weight, bias) = (&mut self.head, &weights[weight], &weights[bias]);
            let dx = self.pool.install(|| {
                head.forward(weight, bias, labels, &mut outcome);
                head.backward(weight, labels, mlm_weight, dweight, dbias)
            });
            for (place, dx) in places.iter().zip(dx.chunks_exact(h)) {
                self.chunks[place.chunk].dx[place.token * h..][..h].copy_from_slice(dx);
            }
        }
        let nsp_weight = weight_of(pass.pairs_in_step);
        let rows = row_places(&self.chunks[..used]);
        for (place, &label) in rows.iter().zip(&batch.pairs) {
            if label == PairLabel::None {
                continue;
            }
            let chunk = &mut self.chunks[place.chunk];
            let cells = place.token * h..(place.token + 1) * h;
            let x = chunk.output[cells.clone()].to_vec();
            let log_probabilities = self.pair_log_probabilities(&x);
            count_pair(log_probabilities, label, &mut outcome);
            let dx = &mut self.chunks[place.chunk].dx[cells];
            for (class, log_probability) in log_probabilities.into_iter().enumerate() {
                let target = if class == label as usize { 1.0 } else { 0.0 };
                let d = nsp_weight * (log_probability.exp() - target);
                let row = self.outer.nsp_weight.start + class * h;
                for j in 0..h {
                    dx[j] += d * self.state.weights[row + j];
                    self.gradients[row + j] += d * x[j];
                }
                self.gradients[self.outer.nsp_bias.start + class] += d;
            }
        }
        outcome
    }

    /// All blocks and the embeddings backward, from the chunks' `dx`.
    fn backward(&mut self, used: usize, dropouts: Dropouts) {
        let model = Model {
            config: &self.config,
            blocks: &self.blocks,
            outer: &self.outer,
            weights: &self.state.weights,
            positions: &self.positions,
            dropouts,
        };
        let (h, chunks, gradients) = (self.config.hidden, &mut self.chunks[..used], &mut self.gradients);
        self.pool.install(|| {
            for layer in (0..self.blocks.len()).rev() {
                chunks.par_iter_mut().with_max_len(1).for_each(|chunk| chunk.backward(&model, layer));
                let block = &self.blocks[layer];
                add_block_gradients(gradients, block, layer, chunks, h);
                for chunk in chunks.iter_mut() {
                    chunk.add_sums(gradients, block, h);
                }
            }
            chunks.par_iter_mut().for_each(|chunk| chunk.backward_embedding(&model));
            add_embedding_gradients(&mut gradients[self.outer.token.clone()], h, chunks, |c| &c.ids);
            add_embedding_gradients(&mut gradients[self.outer.segment.clone()], h, chunks, |c| &c.segments);
        });
    }
}

impl Engine for FusedEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome> {
        let dropouts = Dropouts::new(self.config.dropout, pass.seed, pass.step);
        let used = self.forward(batch, pass.first_row, dropouts)?;
        let outcome = self.heads(batch, pass, used);
        self.backward(used, dropouts);
        Ok(outcome)
    }

    fn update(&mut self, update: &Update) -> Result<Updated> {
        let (optimizer, layout) = (&self.optimizer, &self.layout);
        let (state, gradients) = (&mut self.state, &mut self.gradients);
        Ok(self.pool.install(|| optimizer.update(layout, state, gradients, update)))
    }

    fn evaluate(&mut self, batch: &HostBatch) -> Result<Outcome> {
        self.infer(batch, None)
    }

    fn predict(&mut self, batch: &HostBatch) -> Result<Predictions> {
        let mut predictions = Predictions::default();
        self.infer(batch, Some(&mut predictions))?;
        Ok(predictions)
    }

    fn gradients(&self) -> Result<Vec<f32>> {
        Ok(self.gradients.clone())
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let lengths = [state.weights.len(), state.first.len(), state.second.len()];
        if lengths != [self.layout.len(); 3] {
            return Err(Error::internal(format!(
                "a state of {lengths:?} values for a model of {} parameters",
                self.layout.len()
            )));
        }
        self.state = state;
        self.gradients = vec![0.0; self.layout.len()];
        Ok(())
    }
}

/// The weight of one summand in a mean over `count`; 0 where there is none, so that no loss is no gradient.
fn weight_of(count: usize) -> f32 {
    if count == 0 { 0.0 } else { 1.0 / count as f32 }
}

fn count_pair(log_probabilities: [f32; 2], label: PairLabel, outcome: &mut Outcome) {
    if label == PairLabel::None {
        return;
    }
    outcome.pairs += 1;
    outcome.nsp_loss_sum -= f64::from(log_probabilities[label as usize]);
    let guess = usize::from(log_probabilities[1] > log_probabilities[0]);
    outcome.nsp_correct += u64::from(guess == label as usize);
}

/// Where each row's first token lies.
fn row_places(chunks: &[Chunk]) -> Vec<Place> {
    let spans = chunks.iter().enumerate().flat_map(|(i, c)| c.spans.iter().map(move |s| (i, s.start)));
    spans.map(|(chunk, token)| Place { chunk, token }).collect()
}

/// Gradient of a layer's output and the layer's input, of one chunk in one block.
type Operands = fn(&Chunk, usize) -> (&[f32], &[f32]);

/// One task of a block's weight gradients: some rows of one weight.
struct WeightTask<'g> {
    rows: &'g mut [f32],
    from_row: usize,
    outputs: usize,
    inputs: usize,
    operands: Operands,
}

/// Gradients of a block's four weights, summed over the chunks in order. Tasks of equal size, cut by the
/// model's shape alone.
fn add_block_gradients(flat: &mut [f32], block: &BlockRanges, layer: usize, chunks: &[Chunk], h: usize) {
    let quarter = h.div_ceil(4);
    let weights: [(_, usize, usize, usize, Operands); 4] = [
        (&block.qkv_weight, 3 * h, h, h, |c, _| (&c.gradients.dqkv, &c.gradients.norm1)),
        (&block.out_weight, h, h, h, |c, layer| (&c.gradients.dout, c.context(layer))),
        (&block.w1_weight, 4 * h, h, h, |c, _| (&c.gradients.dinner, &c.gradients.norm2)),
        (&block.w2_weight, h, 4 * h, quarter, |c, _| (&c.gradients.dw2, &c.gradients.activated)),
    ];
    let mut tasks = vec![];
    let (mut rest, mut at) = (flat, 0);
    for (range, outputs, inputs, rows_per_task, operands) in weights {
        let (weight, behind) = rest[range.start - at..].split_at_mut(range.len());
        (rest, at) = (behind, range.end);
        for (i, rows) in weight.chunks_mut(rows_per_task * inputs).enumerate() {
            tasks.push(WeightTask { rows, from_row: i * rows_per_task, outputs, inputs, operands });
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|task| {
        for chunk in chunks {
            let (dy, x) = (task.operands)(chunk, layer);
            let WeightTask { from_row, outputs, inputs, .. } = task;
            matmul::add_weight_gradient(task.rows, from_row, dy, outputs, x, inputs, chunk.tokens);
        }
    });
}

/// Gradients of an embedding table: each token's `dx` added to its row, in the order of the tokens. Row 0
/// is padding and gets none. Tasks own ranges of rows.
fn add_embedding_gradients<I: Copy + std::convert::Into<u32> + Sync>(
    table: &mut [f32],
    h: usize,
    chunks: &[Chunk],
    ids: fn(&Chunk) -> &Vec<I>,
) {
    const TASKS: usize = 16;
    let rows_per_task = (table.len() / h).div_ceil(TASKS);
    table.par_chunks_mut(rows_per_task * h).enumerate().for_each(|(task, rows)| {
        let first = (task * rows_per_task).max(1);
        let end = task * rows_per_task + rows.len() / h;
        for chunk in chunks {
            for (&id, dx) in ids(chunk).iter().zip(chunk.dx.chunks_exact(h)) {
                let id: u32 = id.into();
                if (first..end).contains(&(id as usize)) {
                    let row = (id as usize - task * rows_per_task) * h;
                    kernels::add_column_sums(&mut rows[row..row + h], dx);
                }
            }
        }
    });
}
