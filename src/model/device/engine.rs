//! The engine: weights, moments and gradients on a device, and what a step asks of it.

use super::arguments::arguments;
use super::load::{Columns, Counts, Loader};
use super::memory::Memory;
use super::placement::Placement;
use super::source::source;
use super::{Address, Device, Grid, Kind, Product};
use crate::collate::HostBatch;
use crate::model::dropout::Dropouts;
use crate::model::layout::{BlockRanges, OuterRanges};
use crate::model::{
    Arch, Engine, Layout, ModelConfig, Optimizer, Outcome, Pass, Precision, Predictions, State, Update,
    Updated, Wanted, batch, sinusoids, weight_of,
};
use crate::{Error, Result};
use std::ops::Range;

/// Blocks that the sum of all gradients' squares is shared by. Its value depends on this number, not on the device.
const NORM_BLOCKS: usize = 1024;

/// Bytes of `GradientNorm`.
const NORM_BYTES: usize = 16;

/// Widest head whose keys and values a block of the attention kernels has room for in shared memory.
const WIDEST_HEAD: usize = 512;

/// Threads of the optimizer's kernels.
const NORM_THREADS: usize = 256;

/// The hand-written step on a device.
pub struct DeviceEngine<D> {
    pub(super) device: D,
    pub(super) config: ModelConfig,
    pub(super) blocks: Vec<BlockRanges>,
    pub(super) outer: OuterRanges,
    /// How operands of products are stored.
    pub(super) kind: Kind,
    /// Whether blocks are computed again in the backward pass instead of kept.
    pub(super) recompute: bool,
    layout: Layout,
    optimizer: Optimizer,
    placement: Placement,
    columns: WeightColumns,
    /// Sinusoidal positions of the reference, and how many.
    sinusoids: (Address, usize),
    /// Memory of the batch at hand: grown to the largest so far.
    arena: (Address, usize),
}

/// Columns of all weights on the device, as the placement has them.
#[derive(Clone, Copy)]
struct WeightColumns {
    weights: Address,
    first: Address,
    second: Address,
    gradients: Address,
    /// The weights as products read them: the weights themselves in single precision.
    operands: Address,
    /// The optimizer's pieces, and how many.
    pieces: Address,
    piece_count: usize,
    /// Partial sums of squares, and the norm made of them.
    squares: Address,
    norm: Address,
}

/// A batch on the device.
pub(super) struct Loaded {
    pub memory: Memory,
    pub columns: Columns,
    pub counts: Counts,
    pub dropouts: Dropouts,
}

impl<D: Device> DeviceEngine<D> {
    /// An engine with these weights (in the order of [`Layout::new`]) and zero moments. With `recompute`, activations
    /// of a block are made again in the backward pass: the same numbers, in a third of the memory and a third more
    /// time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] for a shape that cannot be, [`crate::ErrorKind::OutOfMemory`] where the device has
    /// no room for the weights, [`crate::ErrorKind::Internal`] where their number is not the layout's or the device
    /// fails.
    pub fn new(
        mut device: D,
        config: &ModelConfig,
        optimizer: Optimizer,
        weights: Vec<f32>,
        precision: Precision,
        recompute: bool,
    ) -> Result<Self> {
        config.check()?;
        if config.head_dim() > WIDEST_HEAD {
            return Err(Error::usage(format!(
                "--hidden {} with --attn-heads {}: heads of {} columns, but a device's attention takes at most \
                 {WIDEST_HEAD}; choose more heads, or --device cpu",
                config.hidden,
                config.heads,
                config.head_dim()
            )));
        }
        let layout = Layout::new(config);
        let placement = Placement::new(&layout, config.layers);
        let kind = match precision {
            Precision::F32 => Kind::F32,
            Precision::Bf16 => Kind::Bf16,
        };
        device.compile(&source(config, kind))?;
        let mut pieces = vec![];
        let all = placement.pieces(&layout);
        for &(start, len, decays) in &all {
            pieces.extend(arguments![start, len, decays]);
        }
        let column = 4 * placement.len();
        let weights_at = device.allocate(column)?;
        let columns = WeightColumns {
            weights: weights_at,
            first: device.allocate(column)?,
            second: device.allocate(column)?,
            gradients: device.allocate(column)?,
            operands: match kind {
                Kind::F32 => weights_at,
                Kind::Bf16 => device.allocate(kind.bytes() * placement.len())?,
            },
            pieces: device.allocate(pieces.len())?,
            piece_count: all.len(),
            squares: device.allocate(8 * NORM_BLOCKS)?,
            norm: device.allocate(NORM_BYTES)?,
        };
        device.upload(columns.pieces, &pieces)?;
        let zeros = vec![0.0; layout.len()];
        let mut engine = Self {
            device,
            blocks: (0..config.layers).map(|layer| layout.block(layer)).collect(),
            outer: layout.outer(),
            kind,
            recompute,
            config: config.clone(),
            layout,
            optimizer,
            placement,
            columns,
            sinusoids: (Address::NONE, 0),
            arena: (Address::NONE, 0),
        };
        engine.restore(State { weights, first: zeros.clone(), second: zeros })?;
        Ok(engine)
    }

    /// Rows of all tokens as `(rows, seq_len, hidden)`, zeros at padded positions.
    fn padded(&mut self, batch: &HostBatch, from: Address, tokens: usize) -> Result<Vec<f32>> {
        let h = self.config.hidden;
        let rows = self.singles(from, tokens * h)?;
        let mut padded = vec![0.0; batch.rows * batch.seq_len * h];
        let mut at = 0;
        for sample in 0..batch.samples() {
            let values = batch.lengths[sample] as usize * h;
            padded[batch.start(sample) * h..][..values].copy_from_slice(&rows[at..at + values]);
            at += values;
        }
        Ok(padded)
    }

    /// Brings a batch to the device, and makes room for all that it needs.
    fn load(
        &mut self,
        batch: &HostBatch,
        first_row: usize,
        dropouts: Dropouts,
        wanted: Wanted,
    ) -> Result<Loaded> {
        batch::check(batch, &self.config)?;
        let longest = batch.lengths.iter().map(|&n| n as usize).max().unwrap_or(0);
        self.reserve_sinusoids(longest)?;
        let loader = Loader::new(batch, &self.config, first_row, wanted);
        let lay_out = |base| Memory::lay_out(&self.config, &loader, self.kind, self.recompute, base);
        let (_, bytes) = lay_out(Address(0));
        if bytes > self.arena.1 {
            // The old one first: two of them may not fit.
            let (old, _) = std::mem::take(&mut self.arena);
            if old != Address::NONE {
                self.device.free(old)?;
            }
            self.arena = (self.device.allocate(bytes)?, bytes);
        }
        let (memory, _) = lay_out(self.arena.0);
        self.device.upload(memory.columns, &loader.bytes)?;
        Ok(Loaded { columns: loader.columns.at(memory.columns), memory, counts: loader.counts, dropouts })
    }

    fn reserve_sinusoids(&mut self, longest: usize) -> Result<()> {
        let (old, positions) = self.sinusoids;
        if self.config.arch == Arch::Bert || longest <= positions {
            return Ok(());
        }
        let bytes: Vec<u8> =
            sinusoids(longest, self.config.hidden).into_iter().flat_map(f32::to_le_bytes).collect();
        let at = self.device.allocate(bytes.len())?;
        if old != Address::NONE {
            self.device.free(old)?;
        }
        self.sinusoids = (at, longest);
        self.device.upload(at, &bytes)
    }

    /// The table of positions `(positions, hidden)`.
    pub(super) fn positions(&self) -> Address {
        match &self.outer.bert {
            Some(bert) => self.weight(&bert.position),
            None => self.sinusoids.0,
        }
    }

    fn place(&self, column: Address, range: &Range<usize>, bytes: usize) -> Address {
        column.plus(self.placement.of(range.start) * bytes)
    }

    /// A parameter in single precision.
    pub(super) fn weight(&self, range: &Range<usize>) -> Address {
        self.place(self.columns.weights, range, 4)
    }

    /// A parameter as products read it.
    pub(super) fn operand(&self, range: &Range<usize>) -> Address {
        self.place(self.columns.operands, range, self.kind.bytes())
    }

    /// A parameter's gradient.
    pub(super) fn gradient(&self, range: &Range<usize>) -> Address {
        self.place(self.columns.gradients, range, 4)
    }

    /// Runs a kernel with a warp for each row.
    pub(super) fn over_rows(&mut self, kernel: &'static str, rows: usize, arguments: &[u8]) -> Result<()> {
        const ROW_WARPS: usize = 4;
        let grid = Grid { x: rows.div_ceil(ROW_WARPS), y: 1, threads: 32 * ROW_WARPS };
        self.device.launch(kernel, grid, arguments)
    }

    /// `y (rows, outputs) = x (rows, inputs) · weight (outputs, inputs)ᵀ`, without bias.
    pub(super) fn linear(
        &mut self,
        [x, weight, y]: [Address; 3],
        [rows, inputs, outputs]: [usize; 3],
        result: Kind,
    ) -> Result<()> {
        self.device.multiply(&Product {
            m: rows,
            n: outputs,
            k: inputs,
            a: x,
            a_transposed: false,
            b: weight,
            b_transposed: true,
            operands: self.kind,
            c: y,
            result,
            add: false,
        })
    }

    /// `dx (rows, inputs) = dy (rows, outputs) · weight (outputs, inputs)`.
    pub(super) fn linear_backward(
        &mut self,
        [dy, weight, dx]: [Address; 3],
        [rows, inputs, outputs]: [usize; 3],
        result: Kind,
    ) -> Result<()> {
        self.device.multiply(&Product {
            m: rows,
            n: inputs,
            k: outputs,
            a: dy,
            a_transposed: false,
            b: weight,
            b_transposed: false,
            operands: self.kind,
            c: dx,
            result,
            add: false,
        })
    }

    /// `dweight (outputs, inputs) += dy (rows, outputs)ᵀ · x (rows, inputs)`.
    pub(super) fn add_weight_gradient(
        &mut self,
        [dy, x, dweight]: [Address; 3],
        [rows, inputs, outputs]: [usize; 3],
    ) -> Result<()> {
        self.device.multiply(&Product {
            m: outputs,
            n: inputs,
            k: rows,
            a: dy,
            a_transposed: true,
            b: x,
            b_transposed: false,
            operands: self.kind,
            c: dweight,
            result: Kind::F32,
            add: true,
        })
    }

    /// A column from the device, when all that was asked for is done.
    pub(super) fn singles(&self, from: Address, count: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        self.device.download(from, &mut bytes)?;
        Ok(singles(&bytes).collect())
    }

    fn infer(&mut self, batch: &HostBatch, predictions: Option<&mut Predictions>) -> Result<Outcome> {
        let loaded = self.load(batch, 0, Dropouts::OFF, Wanted::Predicted)?;
        self.embed(&loaded)?;
        (0..self.config.layers).try_for_each(|layer| self.block_forward(&loaded, layer))?;
        self.heads_forward(&loaded, predictions)?;
        self.fetch_outcome(&loaded)?;
        self.outcome(batch)
    }

    /// Begins to copy what the outcome is made of, behind the heads.
    fn fetch_outcome(&mut self, loaded: &Loaded) -> Result<()> {
        self.device.fetch(loaded.memory.head.losses, 8 * (loaded.counts.masked + loaded.counts.samples))
    }

    /// Sums over the batch whose outcome was fetched.
    fn outcome(&mut self, batch: &HostBatch) -> Result<Outcome> {
        let fetched = self.device.fetched()?;
        let (losses, rest) = fetched.split_at(4 * batch.masked.len());
        let (correct, log_probabilities) = rest.split_at(4 * batch.masked.len());
        let mut outcome = Outcome {
            masked: batch.masked.len() as u64,
            mlm_loss_sum: singles(losses).map(f64::from).sum(),
            mlm_correct: correct.chunks_exact(4).map(|b| u64::from(b[0])).sum(),
            ..Outcome::default()
        };
        let log_probabilities: Vec<f32> = singles(log_probabilities).collect();
        for (pair, &label) in log_probabilities.chunks_exact(2).zip(&batch.pairs) {
            outcome.count_pair([pair[0], pair[1]], label);
        }
        Ok(outcome)
    }
}

fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl<D: Device> Engine for DeviceEngine<D> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn accumulate(&mut self, batch: &HostBatch, pass: &Pass) -> Result<Outcome> {
        let dropouts = Dropouts::new(self.config.dropout, pass.seed, pass.step);
        let loaded = self.load(batch, pass.first_row, dropouts, Wanted::Predicted)?;
        self.embed(&loaded)?;
        (0..self.config.layers).try_for_each(|layer| self.block_forward(&loaded, layer))?;
        self.heads_backward(&loaded, weight_of(pass.masked_in_step), weight_of(pass.pairs_in_step))?;
        self.fetch_outcome(&loaded)?;
        self.blocks_backward(&loaded)?;
        self.embedding_backward(&loaded)?;
        // Known long before the backward pass is done: what the caller does meanwhile costs nothing.
        self.outcome(batch)
    }

    fn update(&mut self, update: &Update) -> Result<Updated> {
        let columns = self.columns;
        let grid = Grid { x: NORM_BLOCKS, y: 1, threads: NORM_THREADS };
        let arguments = arguments![columns.gradients, columns.squares, self.placement.len() as u64];
        self.device.launch("sum_squares", grid, &arguments)?;
        let clip = update.clip.unwrap_or(0.0);
        let arguments = arguments![columns.squares, columns.norm, clip, NORM_BLOCKS as u32];
        self.device.launch("finish_norm", Grid { x: 1, ..grid }, &arguments)?;
        self.device.fetch(columns.norm, NORM_BYTES)?;
        // The factor on gradients comes from the device.
        let [plain, decaying] = [false, true].map(|decays| self.optimizer.rule(decays, 1.0, update));
        let arguments = arguments![
            [columns.weights, columns.first, columns.second, columns.gradients],
            if self.kind == Kind::F32 { Address::NONE } else { columns.operands },
            columns.pieces,
            columns.norm,
            [plain.coupled, decaying.coupled],
            [plain.shrink, decaying.shrink],
            [plain.beta1, plain.beta2, plain.new1, plain.new2],
            [plain.step_size, plain.inverse_root, plain.epsilon],
        ];
        self.device.launch("adam", Grid { x: columns.piece_count, ..grid }, &arguments)?;
        // While the weights are being changed, the caller has the next batch made ready.
        let norm: [u8; NORM_BYTES] = (self.device.fetched()?.try_into())
            .map_err(|_| Error::internal("device: a gradient's norm of another size"))?;
        let [a, b, c, d, e, f, g, h, .., applied, _, _, _] = norm;
        let grad_norm = f64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Updated { grad_norm, applied: applied == 1 })
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
        let loaded = self.load(batch, 0, Dropouts::OFF, Wanted::All)?;
        self.embed(&loaded)?;
        (0..self.config.layers).try_for_each(|layer| self.block_forward(&loaded, layer))?;
        self.padded(batch, loaded.memory.output, loaded.counts.tokens)
    }

    fn forget_gradients(&mut self) -> Result<()> {
        self.device.zero(self.columns.gradients, 4 * self.placement.len())
    }

    fn gradients(&self) -> Result<Vec<f32>> {
        let spread = self.singles(self.columns.gradients, self.placement.len())?;
        Ok(self.placement.collect(&spread))
    }

    fn state(&self) -> Result<State> {
        let WeightColumns { weights, first, second, .. } = self.columns;
        let column = |at| {
            let spread = self.singles(at, self.placement.len())?;
            Ok::<_, Error>(self.placement.collect(&spread))
        };
        Ok(State { weights: column(weights)?, first: column(first)?, second: column(second)? })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        state.check(&self.layout)?;
        let WeightColumns { weights, first, second, operands, .. } = self.columns;
        let columns = [(weights, state.weights), (first, state.first), (second, state.second)];
        for (at, column) in columns {
            let bytes: Vec<u8> =
                self.placement.spread(&column).into_iter().flat_map(f32::to_le_bytes).collect();
            self.device.upload(at, &bytes)?;
        }
        let len = self.placement.len();
        self.forget_gradients()?;
        if self.kind == Kind::Bf16 {
            let grid = Grid { x: len.div_ceil(NORM_THREADS), y: 1, threads: NORM_THREADS };
            self.device.launch("round_weights", grid, &arguments![weights, operands, len as u64])?;
        }
        Ok(())
    }
}
