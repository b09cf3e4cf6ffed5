//! Embeddings and blocks, forward and backward: which kernel reads what.

use super::arguments::arguments;
use super::engine::{DeviceEngine, Loaded};
use super::load::Sums;
use super::memory::SUMMED_ROWS;
use super::{Address, Device, Grid};
use crate::Result;
use crate::model::dropout::{Dropout, Dropouts};
use crate::model::{Arch, DropoutSite};
use std::ops::Range;

/// Members of `NormBackward`: a norm and the residual connection before it, on their way back.
pub(super) struct NormBackward<'r> {
    /// Gradient of what a product read of the norm.
    pub dy: Address,
    pub stream: Address,
    pub dx: Address,
    /// Input and moments of the norm, and its gain and shift; none where there is no norm.
    pub norm: Option<(Address, Address, &'r Range<usize>, &'r Range<usize>)>,
    /// Gradient of the branch, and the range of the branch's bias; none where there is no branch.
    pub branch: Option<(Address, Option<&'r Range<usize>>)>,
    pub before: Dropout,
    pub outer: Dropout,
    pub inner: Dropout,
}

impl<D: Device> DeviceEngine<D> {
    fn is_post_norm(&self) -> bool {
        self.config.arch == Arch::Bert
    }

    /// A dropout layer that only the reference has: behind the activation, and at the end of a block.
    fn reference_dropout(&self, dropouts: &Dropouts, site: DropoutSite) -> Dropout {
        match self.config.arch {
            Arch::Reference => dropouts.at(site),
            Arch::Bert => Dropout::OFF,
        }
    }

    /// The tokens of a block behind its attention: how many, and their dropout coordinates. Of the last block those
    /// alone that somebody predicts from.
    fn behind_attention(&self, loaded: &Loaded, layer: usize) -> (usize, Address) {
        match layer + 1 == self.config.layers {
            true => (loaded.counts.selected, loaded.columns.selected_coordinates),
            false => (loaded.counts.tokens, loaded.columns.coordinates),
        }
    }

    /// The first block's input.
    pub(super) fn embed(&mut self, loaded: &Loaded) -> Result<()> {
        let (memory, columns) = (&loaded.memory, &loaded.columns);
        let first = &memory.blocks[0];
        let (gain, shift, moments) = match &self.outer.bert {
            Some(bert) => (&bert.embedding_gain, &bert.embedding_shift, memory.embedded_moments),
            None => (&self.blocks[0].norm1_gain, &self.blocks[0].norm1_shift, first.moments1),
        };
        let arguments = arguments![
            [self.weight(&self.outer.token), self.positions(), self.weight(&self.outer.segment)],
            [columns.ids, columns.positions, columns.segments, columns.coordinates],
            [self.weight(gain), self.weight(shift)],
            [memory.embedded, moments, first.x, first.operand1],
            loaded.dropouts.at(DropoutSite::Embedding),
            loaded.counts.tokens as u32,
        ];
        self.over_rows("embed", loaded.counts.tokens, &arguments)
    }

    /// One block: the next one's input, or the output.
    pub(super) fn block_forward(&mut self, loaded: &Loaded, layer: usize) -> Result<()> {
        self.block_forward_inside(loaded, layer)?;
        let (memory, block) = (&loaded.memory, loaded.memory.blocks[layer]);
        let ranges = self.blocks[layer].clone();
        let (h, ff) = (self.config.hidden, self.config.feed_forward());
        let (rows, coordinates) = self.behind_attention(loaded, layer);
        let activate = arguments![
            [block.inner, self.weight(&ranges.w1_bias), coordinates, memory.wide[0]],
            self.reference_dropout(&loaded.dropouts, DropoutSite::FeedForward(layer)),
            [rows as u32, ff as u32],
        ];
        self.over_columns("activate", rows, ff, &activate)?;
        let w2 = self.operand(&ranges.w2_weight);
        self.linear([memory.wide[0], w2, memory.branch], [rows, ff, h], self.kind)?;

        let next = memory.blocks.get(layer + 1);
        let next_x = next.map_or(memory.output, |next| next.x);
        let next_operand = next.map_or(Address::NONE, |next| next.operand1);
        let (x, norm, sum, moments, normed) = if self.is_post_norm() {
            let norm = Some((&ranges.norm2_gain, &ranges.norm2_shift));
            (memory.between, norm, block.sum, block.moments2, next_x)
        } else {
            let norm = self.blocks.get(layer + 1).map(|next| (&next.norm1_gain, &next.norm1_shift));
            let moments = next.map_or(Address::NONE, |next| next.moments1);
            (block.middle, norm, next_x, moments, Address::NONE)
        };
        let norm = norm.map_or([Address::NONE; 2], |(gain, shift)| [self.weight(gain), self.weight(shift)]);
        let arguments = arguments![
            [x, memory.branch, self.weight(&ranges.w2_bias), coordinates],
            norm,
            [sum, moments, normed, next_operand],
            loaded.dropouts.at(DropoutSite::FeedForwardOutput(layer)),
            self.reference_dropout(&loaded.dropouts, DropoutSite::Block(layer)),
            rows as u32,
        ];
        self.over_rows("residual_norm", rows, &arguments)
    }

    /// A block up to the feed-forward layer before its activation: all that its backward pass reads.
    fn block_forward_inside(&mut self, loaded: &Loaded, layer: usize) -> Result<()> {
        let (memory, block) = (&loaded.memory, loaded.memory.blocks[layer]);
        let ranges = self.blocks[layer].clone();
        let (t, h, ff) = (loaded.counts.tokens, self.config.hidden, self.config.feed_forward());
        let qkv = self.operand(&ranges.qkv_weight);
        self.linear([block.operand1, qkv, block.qkv], [t, h, 3 * h], self.kind)?;
        let attention = arguments![
            [block.qkv, self.weight(&ranges.qkv_bias), loaded.columns.tiles, loaded.columns.coordinates],
            [block.context, block.log_sums],
            loaded.dropouts.at(DropoutSite::Attention(layer)),
            t as u32,
            self.score_scale(),
        ];
        self.over_tiles("attention_forward", loaded.counts.tiles, &attention)?;
        let (rows, coordinates) = self.behind_attention(loaded, layer);
        let (mut context, mut x) = (block.context, block.x);
        if layer + 1 == self.config.layers {
            let selected = loaded.columns.selected;
            let arguments = arguments![[context, selected, memory.selected_context], rows as u32];
            self.over_rows("gather_stored", rows, &arguments)?;
            self.gather([x, selected, memory.selected_x, Address::NONE], rows)?;
            (context, x) = (memory.selected_context, memory.selected_x);
        }
        // In the backward pass the memory of branches holds a gradient when activations are made again.
        let (out, branch) = (self.operand(&ranges.out_weight), memory.wide[0]);
        self.linear([context, out, branch], [rows, h, h], self.kind)?;

        let (norm, moments, normed) = if self.is_post_norm() {
            ([&ranges.norm1_gain, &ranges.norm1_shift], block.moments1, memory.between)
        } else {
            ([&ranges.norm2_gain, &ranges.norm2_shift], block.moments2, Address::NONE)
        };
        let arguments = arguments![
            [x, branch, self.weight(&ranges.out_bias), coordinates],
            norm.map(|range| self.weight(range)),
            [block.middle, moments, normed, block.operand2],
            loaded.dropouts.at(DropoutSite::AttentionOutput(layer)),
            Dropout::OFF,
            rows as u32,
        ];
        self.over_rows("residual_norm", rows, &arguments)?;
        let w1 = self.operand(&ranges.w1_weight);
        self.linear([block.operand2, w1, block.inner], [rows, h, ff], self.kind)
    }

    /// All blocks backward, from the gradient of the output in `selected_stream`.
    pub(super) fn blocks_backward(&mut self, loaded: &Loaded) -> Result<()> {
        let memory = &loaded.memory;
        let last = self.config.layers - 1;
        if !self.is_post_norm() {
            let bias = self.blocks[last].w2_bias.clone();
            let top = NormBackward {
                dy: Address::NONE,
                stream: memory.selected_stream,
                dx: memory.selected_stream,
                norm: None,
                branch: Some((memory.branch, Some(&bias))),
                before: Dropout::OFF,
                outer: self.reference_dropout(&loaded.dropouts, DropoutSite::Block(last)),
                inner: loaded.dropouts.at(DropoutSite::FeedForwardOutput(last)),
            };
            self.norm_backward_of(loaded, &top, self.behind_attention(loaded, last))?;
        }
        for layer in (0..self.config.layers).rev() {
            // The last block's own are still there.
            if self.recompute && layer < last {
                self.block_forward_inside(loaded, layer)?;
            }
            self.block_backward(loaded, layer)?;
        }
        Ok(())
    }

    /// One block: gradients of its parameters, and of its input in the stream (with norms behind the sublayers, in stream
    /// and `narrow`).
    fn block_backward(&mut self, loaded: &Loaded, layer: usize) -> Result<()> {
        let (memory, block) = (&loaded.memory, loaded.memory.blocks[layer]);
        let ranges = self.blocks[layer].clone();
        let (t, h, branch, narrow) = (loaded.counts.tokens, self.config.hidden, memory.branch, memory.narrow);
        let post_norm = self.is_post_norm();
        let is_last = layer + 1 == self.config.layers;
        let behind = self.behind_attention(loaded, layer);
        let (rows, _) = behind;
        let (stream, context) = match is_last {
            true => (memory.selected_stream, memory.selected_context),
            false => (memory.stream, block.context),
        };
        if post_norm {
            let end = NormBackward {
                dy: if is_last { Address::NONE } else { narrow },
                stream,
                dx: stream,
                norm: Some((block.sum, block.moments2, &ranges.norm2_gain, &ranges.norm2_shift)),
                branch: Some((branch, Some(&ranges.w2_bias))),
                before: Dropout::OFF,
                outer: Dropout::OFF,
                inner: loaded.dropouts.at(DropoutSite::FeedForwardOutput(layer)),
            };
            self.norm_backward_of(loaded, &end, behind)?;
        }

        self.feed_forward_backward(loaded, layer)?;
        let (input, moments, [gain, shift]) = if post_norm {
            (block.middle, block.moments1, [&ranges.norm1_gain, &ranges.norm1_shift])
        } else {
            (block.middle, block.moments2, [&ranges.norm2_gain, &ranges.norm2_shift])
        };
        let middle = NormBackward {
            dy: narrow,
            stream,
            dx: stream,
            norm: Some((input, moments, gain, shift)),
            branch: Some((branch, Some(&ranges.out_bias))),
            before: Dropout::OFF,
            outer: Dropout::OFF,
            inner: loaded.dropouts.at(DropoutSite::AttentionOutput(layer)),
        };
        self.norm_backward_of(loaded, &middle, behind)?;
        let dout = self.gradient(&ranges.out_weight);
        self.add_weight_gradient([branch, context, dout], [rows, h, h])?;
        let out = self.operand(&ranges.out_weight);
        self.linear_backward([branch, out, narrow], [rows, h, h], self.kind)?;
        let dcontext = if is_last { self.spread_selected(loaded)? } else { narrow };
        self.attention_backward(loaded, layer, dcontext)?;
        let dqkv = self.gradient(&ranges.qkv_weight);
        self.add_weight_gradient([memory.dqkv, block.operand1, dqkv], [t, h, 3 * h])?;
        let qkv = self.operand(&ranges.qkv_weight);
        self.linear_backward([memory.dqkv, qkv, narrow], [t, h, 3 * h], self.kind)?;
        if post_norm {
            return Ok(());
        }

        // Into the block before, or the embedding.
        let before = layer.checked_sub(1).map(|before| (before, self.blocks[before].w2_bias.clone()));
        let (outer, inner) = match before {
            Some((before, _)) => (
                loaded.dropouts.at(DropoutSite::Block(before)),
                loaded.dropouts.at(DropoutSite::FeedForwardOutput(before)),
            ),
            None => (loaded.dropouts.at(DropoutSite::Embedding), Dropout::OFF),
        };
        let start = NormBackward {
            dy: narrow,
            stream: memory.stream,
            dx: memory.stream,
            norm: Some((block.x, block.moments1, &ranges.norm1_gain, &ranges.norm1_shift)),
            branch: before.as_ref().map(|(_, bias)| (branch, Some(bias))),
            before: Dropout::OFF,
            outer,
            inner,
        };
        self.norm_backward(loaded, &start)
    }

    /// From the gradient of the feed-forward layer's output in `branch` to that of its input in `narrow`.
    fn feed_forward_backward(&mut self, loaded: &Loaded, layer: usize) -> Result<()> {
        let (memory, block) = (&loaded.memory, loaded.memory.blocks[layer]);
        let ranges = self.blocks[layer].clone();
        let (h, ff) = (self.config.hidden, self.config.feed_forward());
        let (branch, narrow, [gradient, activated]) = (memory.branch, memory.narrow, memory.wide);
        let (rows, coordinates) = self.behind_attention(loaded, layer);
        let w2 = self.operand(&ranges.w2_weight);
        self.linear_backward([branch, w2, gradient], [rows, ff, h], self.kind)?;
        let activate = arguments![
            [gradient, block.inner, self.weight(&ranges.w1_bias), coordinates],
            [activated, memory.partials],
            self.reference_dropout(&loaded.dropouts, DropoutSite::FeedForward(layer)),
            [rows as u32, ff as u32],
        ];
        self.over_columns("activate_backward", rows, ff, &activate)?;
        self.add_partials(loaded, rows, ff, [Some(&ranges.w1_bias), None, None])?;
        let (dw2, dw1) = (self.gradient(&ranges.w2_weight), self.gradient(&ranges.w1_weight));
        self.add_weight_gradient([branch, activated, dw2], [rows, ff, h])?;
        self.add_weight_gradient([gradient, block.operand2, dw1], [rows, h, ff])?;
        let w1 = self.operand(&ranges.w1_weight);
        self.linear_backward([gradient, w1, narrow], [rows, h, ff], self.kind)
    }

    /// From the selected tokens to all: gradients of the residual stream, and of the context, whose place is given. Those
    /// of the others are zero.
    fn spread_selected(&mut self, loaded: &Loaded) -> Result<Address> {
        let (memory, selected, rows) = (&loaded.memory, loaded.columns.selected, loaded.counts.selected);
        let cells = loaded.counts.tokens * self.config.hidden;
        self.device.zero(memory.stream, 4 * cells)?;
        self.scatter([memory.selected_stream, selected, memory.stream], rows)?;
        // `branch` has been read; its memory takes the gradients of all tokens.
        self.device.zero(memory.branch, self.kind.bytes() * cells)?;
        let arguments = arguments![[memory.narrow, selected, memory.branch], rows as u32];
        self.over_rows("scatter_stored", rows, &arguments)?;
        Ok(memory.branch)
    }

    /// `dqkv` from the gradient of the context.
    fn attention_backward(&mut self, loaded: &Loaded, layer: usize, dcontext: Address) -> Result<()> {
        let (memory, block) = (&loaded.memory, loaded.memory.blocks[layer]);
        let (t, h) = (loaded.counts.tokens, self.config.hidden);
        let delta = arguments![[dcontext, block.context, memory.delta], t as u32];
        self.over_rows("attention_delta", t, &delta)?;
        let bias = self.blocks[layer].qkv_bias.clone();
        let backward = arguments![
            [block.qkv, self.weight(&bias), loaded.columns.tiles, loaded.columns.coordinates],
            [dcontext, block.log_sums, memory.delta, memory.dqkv],
            loaded.dropouts.at(DropoutSite::Attention(layer)),
            t as u32,
            self.score_scale(),
        ];
        self.over_tiles("attention_backward_queries", loaded.counts.tiles, &backward)?;
        self.over_tiles("attention_backward_keys", loaded.counts.tiles, &backward)?;
        self.add_column_sums(loaded, memory.dqkv, t, 3 * h, &bias)
    }

    /// Gradients of the embeddings, from that of the first block's input.
    pub(super) fn embedding_backward(&mut self, loaded: &Loaded) -> Result<()> {
        let (memory, outer) = (&loaded.memory, self.outer.clone());
        if let Some(bert) = &outer.bert {
            let norm = NormBackward {
                dy: memory.narrow,
                stream: memory.stream,
                dx: memory.stream,
                norm: Some((
                    memory.embedded,
                    memory.embedded_moments,
                    &bert.embedding_gain,
                    &bert.embedding_shift,
                )),
                branch: None,
                before: loaded.dropouts.at(DropoutSite::Embedding),
                outer: Dropout::OFF,
                inner: Dropout::OFF,
            };
            self.norm_backward(loaded, &norm)?;
            self.add_row_sums(loaded, &loaded.columns.position_sums, &bert.position)?;
        }
        self.add_row_sums(loaded, &loaded.columns.token_sums, &outer.token)?;
        self.add_row_sums(loaded, &loaded.columns.segment_sums, &outer.segment)
    }

    /// Rows of the stream added to the rows of a table's gradient.
    fn add_row_sums(&mut self, loaded: &Loaded, sums: &Sums, table: &Range<usize>) -> Result<()> {
        if sums.key_count == 0 {
            return Ok(());
        }
        let memory = &loaded.memory;
        let grid = |blocks| Grid { x: blocks, y: 1, threads: 128 };
        let pieces = arguments![[memory.stream, sums.order, sums.pieces, Address::NONE, memory.pieces], 0u32];
        self.device.launch("sum_rows", grid(sums.piece_count), &pieces)?;
        let table = self.gradient(table);
        let keys = arguments![[memory.pieces, Address::NONE, sums.keys, sums.targets, table], 1u32];
        self.device.launch("sum_rows", grid(sums.key_count), &keys)
    }

    /// A norm and the residual connection before it backward over all tokens, with their parameters' gradients.
    fn norm_backward(&mut self, loaded: &Loaded, norm: &NormBackward<'_>) -> Result<()> {
        self.norm_backward_of(loaded, norm, (loaded.counts.tokens, loaded.columns.coordinates))
    }

    /// The same over other rows than the tokens'.
    pub(super) fn norm_backward_of(
        &mut self,
        loaded: &Loaded,
        norm: &NormBackward<'_>,
        (rows, coordinates): (usize, Address),
    ) -> Result<()> {
        let partials = loaded.memory.partials;
        let (x, moments, gain) = match norm.norm {
            Some((x, moments, gain, _)) => (x, moments, self.weight(gain)),
            None => (Address::NONE, Address::NONE, Address::NONE),
        };
        let dbranch = norm.branch.map_or(Address::NONE, |(dbranch, _)| dbranch);
        let arguments = arguments![
            [norm.dy, norm.stream, norm.dx, x, moments, gain, coordinates, dbranch, partials],
            [norm.before, norm.outer, norm.inner],
            rows as u32,
        ];
        let grid = Grid { x: rows.div_ceil(SUMMED_ROWS), y: 1, threads: 256 };
        self.device.launch("norm_backward", grid, &arguments)?;
        let parameters = [
            norm.norm.map(|(_, _, gain, _)| gain),
            norm.norm.map(|(.., shift)| shift),
            norm.branch.and_then(|(_, bias)| bias),
        ];
        self.add_partials(loaded, rows, self.config.hidden, parameters)
    }

    /// Runs a kernel with a thread for two columns of some rows.
    pub(super) fn over_columns(
        &mut self,
        kernel: &'static str,
        rows: usize,
        width: usize,
        arguments: &[u8],
    ) -> Result<()> {
        const THREADS: usize = 128;
        let grid = Grid { x: width.div_ceil(2 * THREADS), y: rows.div_ceil(SUMMED_ROWS), threads: THREADS };
        self.device.launch(kernel, grid, arguments)
    }

    /// The columns of a stored matrix, added to a bias' gradient.
    pub(super) fn add_column_sums(
        &mut self,
        loaded: &Loaded,
        x: Address,
        rows: usize,
        width: usize,
        bias: &Range<usize>,
    ) -> Result<()> {
        let arguments = arguments![[x, loaded.memory.partials], [rows as u32, width as u32]];
        self.over_columns("sum_columns", rows, width, &arguments)?;
        self.add_partials(loaded, rows, width, [Some(bias), None, None])
    }

    /// The partial sums of a kernel over `rows`, added to gradients: one parameter after the other in each row of
    /// them, three where the kernel is `norm_backward`.
    pub(super) fn add_partials(
        &mut self,
        loaded: &Loaded,
        rows: usize,
        width: usize,
        parameters: [Option<&Range<usize>>; 3],
    ) -> Result<()> {
        let parts = if parameters[1..].iter().any(Option::is_some) { 3 } else { 1 };
        let arguments = arguments![
            loaded.memory.partials,
            parameters.map(|range| range.map_or(Address::NONE, |range| self.gradient(range))),
            [rows.div_ceil(SUMMED_ROWS) as u32, width as u32, parts as u32],
        ];
        let grid = Grid { x: width.div_ceil(32), y: parts, threads: 256 };
        self.device.launch("add_partials", grid, &arguments)
    }

    fn over_tiles(&mut self, kernel: &'static str, tiles: usize, arguments: &[u8]) -> Result<()> {
        let grid = Grid { x: tiles, y: self.config.heads, threads: 128 };
        self.device.launch(kernel, grid, arguments)
    }

    /// Scores are divided by the square root of a head's width (Vaswani et al. 2017, section 3.2.1).
    fn score_scale(&self) -> f32 {
        (self.config.head_dim() as f32).sqrt().recip()
    }

    /// Rows of `x` by number, in single precision and as an operand, where wanted: `[x, indices, singles, operands]`.
    pub(super) fn gather(&mut self, columns: [Address; 4], rows: usize) -> Result<()> {
        self.over_rows("gather_rows", rows, &arguments![columns, rows as u32])
    }

    /// Rows added to others by number: `[rows, indices, sums]`.
    pub(super) fn scatter(&mut self, columns: [Address; 3], rows: usize) -> Result<()> {
        self.over_rows("scatter_rows", rows, &arguments![columns, rows as u32])
    }
}
