//! The training step by hand: forward and backward of the whole BERTLM over plain buffers, for the CPU.
//!
//! Takes padded batches and works on their real tokens only. Weights, gradients and moments are flat
//! columns in the order of the [`Layout`], where candle's tensors are made from and checkpoints written.
//! The `chunk` module is a group of samples on one thread, `vocabulary` the masked-token head; what remains
//! here is who works when. Results are bitwise the same for any number of threads.

use rayon::prelude::*;

use super::dropout::Dropouts;
use super::layout::{BlockRanges, OuterRanges};
use super::{
    Arch, Engine, Layout, ModelConfig, Optimizer, Outcome, Pass, Precision, Predictions, State, Update,
    Updated, Wanted, weight_of,
};
use crate::collate::HostBatch;
use crate::sample::PairLabel;
use crate::{Error, Result};

mod attention;
mod bert_heads;
mod chunk;
mod kernels;
mod linear;
mod matmul;
mod products;
mod selection;
mod vocabulary;

use bert_heads::{Pooler, Transform};
use chunk::{Chunk, Model, Part};
use linear::{Direction, add_weight_gradient};
use matmul::{Kernel, Packed};
use vocabulary::VocabularyHead;

pub use products::Products;

/// Most threads of an engine: far beyond the cores of any machine, and far below what a system refuses to
/// start midway.
const MOST_THREADS: usize = 1024;

/// The hand-written engine.
pub struct FusedEngine {
    config: ModelConfig,
    layout: Layout,
    blocks: Vec<BlockRanges>,
    outer: OuterRanges,
    optimizer: Optimizer,
    state: State,
    gradients: Vec<f32>,
    /// Positions of the reference, as many as the longest sample so far needed.
    sinusoids: Vec<f32>,
    /// Chunks of the batch at hand come first; later ones wait for larger batches.
    chunks: Vec<Chunk>,
    head: VocabularyHead,
    transform: Transform,
    pooler: Pooler,
    /// Where the batch's samples begin, and its masked tokens.
    firsts: Vec<Place>,
    masked: Vec<Place>,
    /// The samples' first tokens behind the last block, and the gradients of what the pair head reads.
    first_rows: Vec<f32>,
    dfeatures: Vec<f32>,
    kernel: Kernel,
    /// The weights of the block at hand for products of the direction at hand; empty where plain views serve.
    packed: (Direction, [Packed; 4]),
    pool: rayon::ThreadPool,
}

/// What chunks read, borrowed field by field so that the engine's buffers stay free.
macro_rules! model {
    ($engine:ident, $dropouts:expr) => {
        Model {
            config: &$engine.config,
            blocks: &$engine.blocks,
            outer: &$engine.outer,
            weights: &$engine.state.weights,
            positions: match &$engine.outer.bert {
                Some(bert) => &$engine.state.weights[bert.position.clone()],
                None => &$engine.sinusoids,
            },
            dropouts: $dropouts,
            kernel: $engine.kernel,
            packed: &$engine.packed,
        }
    };
}

/// Packs the weights of block `layer` for the products of a direction, where they are not plain views. Block by block,
/// since only one's are needed at a time: packed, they take as much memory as the model or more.
macro_rules! pack_block {
    ($engine:ident, $layer:expr, $direction:expr) => {
        $engine.packed.0 = $direction;
        if $engine.kernel != Kernel::Single {
            let mut packed = std::mem::take(&mut $engine.packed.1);
            let (model, kernel) = (model!($engine, Dropouts::OFF), $engine.kernel);
            $engine.pool.install(|| {
                for (packed, part) in packed.iter_mut().zip(Part::ALL) {
                    packed.pack_on_all_threads(kernel, model.plain($layer, part).operand($direction));
                }
            });
            $engine.packed.1 = packed;
        }
    };
}

/// A place in the chunked batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: usize,
    token: usize,
}

impl FusedEngine {
    /// An engine with these weights (in the order of [`Layout::new`]) and zero moments, working on
    /// `threads` threads of its own, its products in `precision`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a shape that cannot be or too many threads,
    /// [`crate::ErrorKind::Internal`] where the weights' number is not the layout's or threads cannot be
    /// started.
    pub fn new(
        config: &ModelConfig,
        optimizer: Optimizer,
        weights: Vec<f32>,
        precision: Precision,
        threads: usize,
    ) -> Result<Self> {
        config.check()?;
        let layout = Layout::new(config);
        let zeros = vec![0.0; layout.len()];
        let pool = thread_pool(threads)?;
        let kernel = Kernel::of(precision);
        let mut engine = Self {
            config: config.clone(),
            blocks: (0..config.layers).map(|layer| layout.block(layer)).collect(),
            outer: layout.outer(),
            optimizer,
            state: State { weights: vec![], first: vec![], second: vec![] },
            gradients: vec![],
            sinusoids: vec![],
            chunks: vec![],
            head: VocabularyHead::new(config, kernel),
            transform: Transform::default(),
            pooler: Pooler::default(),
            firsts: vec![],
            masked: vec![],
            first_rows: vec![],
            dfeatures: vec![],
            kernel,
            packed: (Direction::Forward, Default::default()),
            layout,
            pool,
        };
        engine.restore(State { weights, first: zeros.clone(), second: zeros })?;
        Ok(engine)
    }

    /// What computes products of this precision on this machine, in words.
    pub fn products(precision: Precision) -> &'static str {
        Kernel::of(precision).name()
    }

    /// What elementwise passes run on on this machine, in words.
    pub fn elementwise() -> &'static str {
        kernels::instructions()
    }

    /// What products of single precision run on on this machine, in words: `gemm` asks the same of the processor.
    pub fn single_products() -> &'static str {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        } else if std::arch::is_x86_feature_detected!("fma") {
            return "AVX2 with FMA";
        }
        kernels::BASELINE
    }

    /// The embeddings and each block's output, `layers + 1` columns `(rows, seq_len, hidden)`, without
    /// dropout. Padded positions are zero: nothing is computed there.
    ///
    /// # Errors
    /// Those of [`Engine::evaluate`].
    pub fn hidden_states(&mut self, batch: &HostBatch) -> Result<Vec<Vec<f32>>> {
        self.forward(batch, 0, Dropouts::OFF, Wanted::All)?;
        Ok((0..=self.config.layers).map(|layer| self.state_of(batch, layer)).collect())
    }

    /// After [`Self::forward`]: the input of block `layer`, behind the last block its output, as
    /// `(rows, seq_len, hidden)` with zeros at padded positions.
    fn state_of(&self, batch: &HostBatch, layer: usize) -> Vec<f32> {
        let h = self.config.hidden;
        let mut state = vec![0.0; batch.rows * batch.seq_len * h];
        for (sample, place) in self.firsts.iter().enumerate() {
            let values = batch.lengths[sample] as usize * h;
            let source = &self.chunks[place.chunk].state(layer)[place.token * h..][..values];
            state[batch.start(sample) * h..][..values].copy_from_slice(source);
        }
        state
    }

    /// Forward through embeddings and blocks: the number of chunks in use.
    fn forward(
        &mut self,
        batch: &HostBatch,
        first_row: usize,
        dropouts: Dropouts,
        wanted: Wanted,
    ) -> Result<usize> {
        super::batch::check(batch, &self.config)?;
        let longest = batch.lengths.iter().map(|&n| n as usize).max().unwrap_or(0);
        if self.config.arch == Arch::Reference && self.sinusoids.len() < longest * self.config.hidden {
            self.sinusoids = super::sinusoids(longest, self.config.hidden);
        }
        let ranges = chunk::split(&batch.lengths);
        if self.chunks.len() < ranges.len() {
            self.chunks.resize_with(ranges.len(), Chunk::default);
        }
        let chunks = &mut self.chunks[..ranges.len()];
        for (chunk, samples) in chunks.iter_mut().zip(&ranges) {
            chunk.load(batch, samples.clone(), first_row, self.config.arch);
        }
        self.firsts = sample_places(chunks);
        self.masked = masked_places(batch, &self.firsts);
        let mut selected = vec![vec![]; ranges.len()];
        for place in self.firsts.iter().chain(&self.masked) {
            selected[place.chunk].push(place.token);
        }
        let (model, chunks) = (model!(self, dropouts), &mut self.chunks[..ranges.len()]);
        self.pool.install(|| {
            chunks.par_iter_mut().zip(&selected).with_max_len(1).for_each(|(chunk, selected)| {
                chunk.select((wanted == Wanted::Predicted).then_some(selected));
                chunk.embed(&model);
            });
        });
        for layer in 0..self.blocks.len() {
            pack_block!(self, layer, Direction::Forward);
            let (model, chunks) = (model!(self, dropouts), &mut self.chunks[..ranges.len()]);
            self.pool.install(|| {
                chunks.par_iter_mut().with_max_len(1).for_each(|chunk| chunk.forward(&model, layer));
            });
        }
        Ok(ranges.len())
    }

    /// Forward without dropout, and both heads; `predictions` are filled where wanted.
    fn infer(&mut self, batch: &HostBatch, mut predictions: Option<&mut Predictions>) -> Result<Outcome> {
        let used = self.forward(batch, 0, Dropouts::OFF, Wanted::Predicted)?;
        let (model, chunks) = (model!(self, Dropouts::OFF), &self.chunks[..used]);
        let mut outcome = Outcome::default();
        for (places, labels) in in_rounds(&self.masked, &batch.labels) {
            gather(&mut self.head.inputs, chunks, places, self.config.hidden);
            if let Some(bert) = &self.outer.bert {
                self.pool.install(|| self.transform.forward(&model, bert, &mut self.head.inputs));
            }
            let (weight, bias) = (model.at(&self.outer.mlm_weight), model.at(&self.outer.mlm_bias));
            self.pool.install(|| self.head.forward(weight, bias, labels, &mut outcome));
            if let Some(predictions) = predictions.as_deref_mut() {
                self.head.append_log_probabilities(&mut predictions.mlm);
            }
        }
        gather(&mut self.first_rows, chunks, &self.firsts, self.config.hidden);
        let features = match &self.outer.bert {
            Some(bert) => self.pool.install(|| self.pooler.forward(&model, bert, &self.first_rows)),
            None => &self.first_rows,
        };
        for (x, &label) in features.chunks_exact(self.config.hidden).zip(&batch.pairs) {
            let log_probabilities = pair_log_probabilities(&model, x);
            outcome.count_pair(log_probabilities, label);
            if let Some(predictions) = predictions.as_deref_mut() {
                predictions.nsp.extend_from_slice(&log_probabilities);
            }
        }
        Ok(outcome)
    }

    /// Both tasks' heads forward and backward: leaves the gradient of the last block's output in the
    /// chunks' `dx`.
    fn heads(&mut self, batch: &HostBatch, pass: &Pass, used: usize) -> Outcome {
        let h = self.config.hidden;
        let mut outcome = Outcome::default();
        self.chunks[..used].iter_mut().for_each(|chunk| chunk.zero_dx(h));
        let model = model!(self, Dropouts::OFF);
        let mlm_weight = weight_of(pass.masked_in_step);
        for (places, labels) in in_rounds(&self.masked, &batch.labels) {
            gather(&mut self.head.inputs, &self.chunks, places, h);
            if let Some(bert) = &self.outer.bert {
                self.pool.install(|| self.transform.forward(&model, bert, &mut self.head.inputs));
            }
            let (weight, bias) = (self.outer.mlm_weight.clone(), self.outer.mlm_bias.clone());
            // The bias lies behind the weight in every layout.
            let (before, behind) = self.gradients.split_at_mut(bias.start);
            let (dweight, dbias) = (&mut before[weight.clone()], &mut behind[..bias.len()]);
            let (head, weight, bias) = (&mut self.head, model.at(&weight), model.at(&bias));
            let mut dx = self.pool.install(|| {
                head.forward(weight, bias, labels, &mut outcome);
                head.backward(weight, labels, mlm_weight, dweight, dbias)
            });
            if let Some(bert) = &self.outer.bert {
                dx = self.pool.install(|| self.transform.backward(&model, bert, dx, &mut self.gradients));
            }
            scatter_add(&mut self.chunks, places, dx, h);
        }

        gather(&mut self.first_rows, &self.chunks, &self.firsts, h);
        let features = match &self.outer.bert {
            Some(bert) => self.pool.install(|| self.pooler.forward(&model, bert, &self.first_rows)),
            None => &self.first_rows,
        };
        self.dfeatures.clear();
        self.dfeatures.resize(features.len(), 0.0);
        let nsp_weight = weight_of(pass.pairs_in_step);
        let rows_of_features = features.chunks_exact(h).zip(self.dfeatures.chunks_exact_mut(h));
        for ((x, dx), &label) in rows_of_features.zip(&batch.pairs) {
            if label == PairLabel::None {
                continue;
            }
            let log_probabilities = pair_log_probabilities(&model, x);
            outcome.count_pair(log_probabilities, label);
            for (class, log_probability) in log_probabilities.into_iter().enumerate() {
                let target = if class == label as usize { 1.0 } else { 0.0 };
                let d = nsp_weight * (log_probability.exp() - target);
                let row = self.outer.nsp_weight.start + class * h;
                for j in 0..h {
                    dx[j] += d * model.weights[row + j];
                    self.gradients[row + j] += d * x[j];
                }
                self.gradients[self.outer.nsp_bias.start + class] += d;
            }
        }
        let dfirsts = match &self.outer.bert {
            Some(bert) => self
                .pool
                .install(|| self.pooler.backward(&model, bert, &mut self.dfeatures, &mut self.gradients)),
            None => &self.dfeatures,
        };
        scatter_add(&mut self.chunks, &self.firsts, dfirsts, h);
        outcome
    }

    /// All blocks and the embeddings backward, from the chunks' `dx`.
    fn backward(&mut self, used: usize, dropouts: Dropouts) {
        let h = self.config.hidden;
        for layer in (0..self.blocks.len()).rev() {
            pack_block!(self, layer, Direction::Backward);
            let model = model!(self, dropouts);
            let (chunks, gradients) = (&mut self.chunks[..used], &mut self.gradients);
            self.pool.install(|| {
                chunks.par_iter_mut().with_max_len(1).for_each(|chunk| chunk.backward(&model, layer));
                add_block_gradients(gradients, &model, layer, chunks);
            });
            for chunk in chunks {
                chunk.add_sums(gradients, &self.blocks[layer], h);
            }
        }
        let model = model!(self, dropouts);
        let (chunks, gradients, outer) = (&mut self.chunks[..used], &mut self.gradients, &self.outer);
        self.pool.install(|| {
            let sums: Vec<_> =
                chunks.par_iter_mut().with_max_len(1).map(|chunk| chunk.backward_embedding(&model)).collect();
            // Row 0 of the token embedding is padding, and of the reference's segments too.
            add_embedding_gradients(&mut gradients[outer.token.clone()], 1, h, chunks, |c| &c.ids);
            let first_segment = if outer.bert.is_some() { 0 } else { 1 };
            let segments = &mut gradients[outer.segment.clone()];
            add_embedding_gradients(segments, first_segment, h, chunks, |c| &c.segments);
            let Some(bert) = &outer.bert else { return };
            let positions = &mut gradients[bert.position.clone()];
            add_embedding_gradients(positions, 0, h, chunks, |c| &c.positions);
            for [dgain, dshift] in sums.into_iter().flatten() {
                kernels::add(&mut gradients[bert.embedding_gain.clone()], &dgain);
                kernels::add(&mut gradients[bert.embedding_shift.clone()], &dshift);
            }
        });
    }
}

impl Engine for FusedEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome> {
        let dropouts = Dropouts::new(self.config.dropout, pass.seed, pass.step);
        let used = self.forward(batch, pass.first_row, dropouts, Wanted::Predicted)?;
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

    fn encode(&mut self, batch: &HostBatch) -> Result<Vec<f32>> {
        self.forward(batch, 0, Dropouts::OFF, Wanted::All)?;
        Ok(self.state_of(batch, self.config.layers))
    }

    fn forget_gradients(&mut self) -> Result<()> {
        self.gradients.fill(0.0);
        Ok(())
    }

    fn gradients(&self) -> Result<Vec<f32>> {
        Ok(self.gradients.clone())
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<()> {
        state.check(&self.layout)?;
        self.state = state;
        self.gradients = vec![0.0; self.layout.len()];
        Ok(())
    }
}

/// Threads for arithmetic, at least one.
///
/// # Errors
/// Those of [`FusedEngine::new`] for threads.
fn thread_pool(threads: usize) -> Result<rayon::ThreadPool> {
    if threads > MOST_THREADS {
        return Err(Error::usage(format!(
            "--threads {threads}: at most {MOST_THREADS}; the number of cores is enough"
        )));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|i| format!("train-{i}"))
        .build()
        .map_err(|e| Error::internal("cannot start the engine's threads").caused_by(e))
}

/// Places and labels, as many at a time as the vocabulary head takes.
fn in_rounds<'a>(places: &'a [Place], labels: &'a [u32]) -> impl Iterator<Item = (&'a [Place], &'a [u32])> {
    places.chunks(vocabulary::MOST_ROWS).zip(labels.chunks(vocabulary::MOST_ROWS))
}

/// Rows of the last block's output at `places`, `(places, hidden)`.
fn gather(rows: &mut Vec<f32>, chunks: &[Chunk], places: &[Place], h: usize) {
    rows.clear();
    for place in places {
        let chunk = &chunks[place.chunk];
        rows.extend_from_slice(&chunk.output[chunk.row_of(place.token) * h..][..h]);
    }
}

/// Adds rows `(places, hidden)` to the gradients of the last block's output.
fn scatter_add(chunks: &mut [Chunk], places: &[Place], rows: &[f32], h: usize) {
    for (place, row) in places.iter().zip(rows.chunks_exact(h)) {
        let chunk = &mut chunks[place.chunk];
        let at = chunk.row_of(place.token) * h;
        kernels::add(&mut chunk.dx[at..at + h], row);
    }
}

/// The pair head on one row of features: log-probabilities of "not next" and "is next".
fn pair_log_probabilities(model: &Model<'_>, x: &[f32]) -> [f32; 2] {
    let (weight, bias) = (model.at(&model.outer.nsp_weight), model.at(&model.outer.nsp_bias));
    let logit = |class: usize| -> f32 {
        let weight = &weight[class * x.len()..][..x.len()];
        bias[class] + weight.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()
    };
    let logits = [logit(0), logit(1)];
    let max = logits[0].max(logits[1]);
    let log_sum = max + ((logits[0] - max).exp() + (logits[1] - max).exp()).ln();
    logits.map(|logit| logit - log_sum)
}

/// Where the masked positions of a batch lie, given where its samples begin.
fn masked_places(batch: &HostBatch, samples: &[Place]) -> Vec<Place> {
    let place = |flat: usize| {
        let sample = batch.sample_at(flat);
        let first = samples[sample];
        Place { token: first.token + flat - batch.start(sample), ..first }
    };
    batch.masked.iter().map(|&flat| place(flat as usize)).collect()
}

/// Where each sample's first token lies.
fn sample_places(chunks: &[Chunk]) -> Vec<Place> {
    let spans = chunks.iter().enumerate().flat_map(|(i, c)| c.spans.iter().map(move |s| (i, s.start)));
    spans.map(|(chunk, token)| Place { chunk, token }).collect()
}

/// One task of a block's weight gradients: some rows of one of its four weights.
struct WeightTask<'g> {
    rows: &'g mut [f32],
    from_row: usize,
    inputs: usize,
    part: Part,
}

/// Numbers of a weight's gradient that a task sums up over all chunks at a time, so that they stay in the second-level
/// cache.
const MOST_OF_A_WEIGHT: usize = 128 << 10;

/// Gradients of a block's four weights, summed over the chunks in order: each number by one task, however they are cut.
fn add_block_gradients(flat: &mut [f32], model: &Model<'_>, layer: usize, chunks: &[Chunk]) {
    // Some for each thread, so that none waits long for the last; whole strips of packed operands.
    const TASKS_PER_THREAD: usize = 4;
    const ROWS: usize = 32;
    let all: usize = Part::ALL.iter().map(|part| part.ranges(&model.blocks[layer]).0.len()).sum();
    let most = (all / (TASKS_PER_THREAD * rayon::current_num_threads())).min(MOST_OF_A_WEIGHT);
    let mut tasks = vec![];
    let (mut rest, mut at) = (flat, 0);
    for part in Part::ALL {
        let (weight, bias) = part.ranges(&model.blocks[layer]);
        let (values, behind) = rest[weight.start - at..].split_at_mut(weight.len());
        (rest, at) = (behind, weight.end);
        let inputs = weight.len() / bias.len();
        let rows_per_task = (most / inputs).next_multiple_of(ROWS).max(ROWS);
        for (i, rows) in values.chunks_mut(rows_per_task * inputs).enumerate() {
            tasks.push(WeightTask { rows, from_row: i * rows_per_task, inputs, part });
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|WeightTask { rows, from_row, inputs, part }| {
        for chunk in chunks {
            let (dy_t, x) = chunk.weight_operands(part);
            add_weight_gradient(rows, inputs, dy_t.rows(from_row, rows.len() / inputs), x.rhs());
        }
    });
}

/// Gradients of an embedding table: each token's `dx` added to its row, in the order of the tokens. Rows
/// before `first` get none: row 0 of some tables is padding. Tasks own ranges of rows.
fn add_embedding_gradients(
    table: &mut [f32],
    first: usize,
    h: usize,
    chunks: &[Chunk],
    rows_of: fn(&Chunk) -> &[u32],
) {
    const TASKS: usize = 16;
    let rows_per_task = (table.len() / h).div_ceil(TASKS);
    table.par_chunks_mut(rows_per_task * h).enumerate().for_each(|(task, rows)| {
        let own = (task * rows_per_task).max(first)..task * rows_per_task + rows.len() / h;
        for chunk in chunks {
            for (&row, dx) in rows_of(chunk).iter().zip(chunk.dx.chunks_exact(h)) {
                if own.contains(&(row as usize)) {
                    let cells = (row as usize - task * rows_per_task) * h;
                    kernels::add(&mut rows[cells..cells + h], dx);
                }
            }
        }
    });
}
