//! Where a batch's activations, gradients and scratch lie: cut from one allocation, so that a device without the
//! memory says so before anything is computed.

use super::load::Loader;
use super::{Address, Kind};
use crate::model::{Arch, ModelConfig};

/// Masked tokens whose distributions over the vocabulary are in memory at a time.
pub const LOGIT_ROWS: usize = 4096;

/// Rows that a block of a kernel sums the columns of: `ROWS_OF_BLOCK`, and `BACKWARD_WARPS * ROWS_OF_WARP`.
pub const SUMMED_ROWS: usize = 64;

/// What the forward pass of a block keeps. T tokens, H hidden; stored: as operands of products are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block {
    /// The block's input `(T, H)`, f32.
    pub x: Address,
    /// What its first product reads `(T, H)`, stored: its norm, or itself.
    pub operand1: Address,
    pub moments1: Address,
    /// `(T, 3 H)`, stored, without bias.
    pub qkv: Address,
    /// `(heads, T)`, f32.
    pub log_sums: Address,
    /// `(T, H)`, stored.
    pub context: Address,
    /// The residual stream between the sublayers, before a norm `(T, H)`, f32.
    pub middle: Address,
    /// What the feed-forward layer reads `(T, H)`, stored.
    pub operand2: Address,
    pub moments2: Address,
    /// `(T, 4 H)`, stored, without bias.
    pub inner: Address,
    /// The block's sum before its last norm `(T, H)`, f32; of norms behind the sublayers.
    pub sum: Address,
}

/// All memory of a batch.
#[derive(Clone, Debug)]
pub struct Memory {
    pub columns: Address,
    pub blocks: Vec<Block>,
    /// Input and moments of the embedding's norm, where there is one.
    pub embedded: Address,
    pub embedded_moments: Address,
    /// Of the selected tokens `(selected, H)`: what attention gave, stored; the last block's input and its output, and
    /// the gradient of the residual stream behind its attention, f32.
    pub selected_context: Address,
    pub selected_x: Address,
    pub output: Address,
    pub selected_stream: Address,
    /// The stream between sublayers behind a norm `(T, H)`, f32.
    pub between: Address,
    /// Gradient of the residual stream `(T, H)`, f32.
    pub stream: Address,
    /// Scratch, stored: twice `(T, H)`, twice `(T, 4 H)`, `(T, 3 H)`.
    pub branch: Address,
    pub narrow: Address,
    pub wide: [Address; 2],
    pub dqkv: Address,
    /// `(heads, T)`, f32.
    pub delta: Address,
    /// Sums of some rows each, before they are added up, f32.
    pub partials: Address,
    pub pieces: Address,
    pub head: Head,
}

/// Memory of the heads. M masked tokens, N samples, R at most [`LOGIT_ROWS`] rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// Rows to predict from `(M, H)`, stored; behind BERT's transform.
    pub rows: Address,
    pub transformed: Address,
    /// `(M, H)` before the transform's activation, stored; behind it, f32; and its gradient, stored.
    pub inner: Address,
    pub activated: Address,
    pub moments: Address,
    pub dinner: Address,
    /// `(R, vocabulary)`: f32, and stored.
    pub logits: Address,
    pub dlogits: Address,
    /// `(M)`.
    pub log_sums: Address,
    /// What the step's outcome is made of, one behind the other: `(M)` and `(M)` of the masked tokens, `(N, 2)` of the
    /// pairs.
    pub losses: Address,
    pub correct: Address,
    pub log_probabilities: Address,
    /// `(M, H)`, f32.
    pub drows: Address,
    /// The samples' first rows `(N, H)`: f32, stored; behind BERT's pooler, before its activation, f32.
    pub firsts: Address,
    pub first_operands: Address,
    pub pooler_inner: Address,
    pub pooled: Address,
    pub dpooler: Address,
    /// `(N, 2)`.
    pub dpairs: Address,
    /// `(N, H)`, f32.
    pub dfeatures: Address,
    pub dfirsts: Address,
}

/// Cuts columns one behind the other.
struct Cutter {
    base: u64,
    used: usize,
}

impl Cutter {
    fn bytes(&mut self, bytes: usize) -> Address {
        let at = Address(self.base + self.used as u64);
        self.used = (self.used + bytes).next_multiple_of(256);
        at
    }

    fn singles(&mut self, count: usize) -> Address {
        self.bytes(4 * count)
    }
}

impl Memory {
    /// Lays everything out from `base` on: the memory, and its bytes. With `recompute`, blocks share what their own
    /// forward pass can make again.
    pub fn lay_out(
        config: &ModelConfig,
        loader: &Loader,
        kind: Kind,
        recompute: bool,
        base: Address,
    ) -> (Self, usize) {
        let mut cut = Cutter { base: base.0, used: 0 };
        let counts = &loader.counts;
        let (t, h, heads, v) = (counts.tokens, config.hidden, config.heads, config.vocab_size);
        let ff = config.feed_forward();
        let stored = |count: usize| kind.bytes() * count;
        let post_norm = config.arch == Arch::Bert;
        let columns = cut.bytes(loader.bytes.len());

        let inside = |cut: &mut Cutter| Block {
            qkv: cut.bytes(stored(3 * t * h)),
            log_sums: cut.singles(heads * t),
            context: cut.bytes(stored(t * h)),
            middle: cut.singles(t * h),
            operand2: cut.bytes(stored(t * h)),
            inner: cut.bytes(stored(t * ff)),
            ..Block::default()
        };
        let shared = recompute.then(|| inside(&mut cut));
        // Behind a norm, a block's input is needed by nobody but its own forward pass.
        let shared_x = (post_norm && !recompute).then(|| cut.singles(t * h));
        let blocks = (0..config.layers)
            .map(|_| Block {
                x: shared_x.unwrap_or_else(|| cut.singles(t * h)),
                operand1: cut.bytes(stored(t * h)),
                moments1: cut.singles(2 * t),
                moments2: cut.singles(2 * t),
                sum: if post_norm { cut.singles(t * h) } else { Address::NONE },
                ..shared.unwrap_or_else(|| inside(&mut cut))
            })
            .collect();

        let (m, n, logit_rows) = (counts.masked, counts.samples, counts.masked.min(LOGIT_ROWS));
        let partial_rows = |rows: usize, width: usize| rows.div_ceil(SUMMED_ROWS) * width;
        let partials = [(t, ff), (m, 3 * h), (n, 3 * h), (logit_rows, v)];
        let partials = partials.into_iter().map(|(rows, width)| partial_rows(rows, width)).max().unwrap_or(0);
        let losses = cut.singles(2 * m + 2 * n);
        let head = Head {
            losses,
            correct: losses.plus(4 * m),
            log_probabilities: losses.plus(8 * m),
            rows: cut.bytes(stored(m * h)),
            transformed: cut.bytes(stored(m * h)),
            inner: cut.bytes(stored(m * h)),
            activated: cut.singles(m * h),
            moments: cut.singles(2 * m),
            dinner: cut.bytes(stored(m * h)),
            logits: cut.singles(logit_rows * v),
            dlogits: cut.bytes(stored(logit_rows * v)),
            log_sums: cut.singles(m),
            drows: cut.singles(m * h),
            firsts: cut.singles(n * h),
            first_operands: cut.bytes(stored(n * h)),
            pooler_inner: cut.singles(n * h),
            pooled: cut.singles(n * h),
            dpooler: cut.bytes(stored(n * h)),
            dpairs: cut.singles(2 * n),
            dfeatures: cut.singles(n * h),
            dfirsts: cut.singles(n * h),
        };
        let memory = Self {
            columns,
            blocks,
            embedded: cut.singles(t * h),
            embedded_moments: cut.singles(2 * t),
            selected_context: cut.bytes(stored(counts.selected * h)),
            selected_x: cut.singles(counts.selected * h),
            output: cut.singles(counts.selected * h),
            selected_stream: cut.singles(counts.selected * h),
            between: cut.singles(t * h),
            stream: cut.singles(t * h),
            branch: cut.bytes(stored(t * h)),
            narrow: cut.bytes(stored(t * h)),
            wide: [cut.bytes(stored(t * ff)), cut.bytes(stored(t * ff))],
            dqkv: cut.bytes(stored(3 * t * h)),
            delta: cut.singles(heads * t),
            partials: cut.singles(partials),
            pieces: cut.singles(loader.columns.most_pieces() * h),
            head,
        };
        (memory, cut.used)
    }
}
