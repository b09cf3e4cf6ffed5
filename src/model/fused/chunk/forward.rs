//! The forward pass of a chunk.

use super::super::attention::{self, Inputs};
use super::*;

impl Chunk {
    /// Sum of token, position and segment embeddings, normalised where the architecture does, with dropout: the first
    /// block's input.
    pub fn embed(&mut self, model: &Model<'_>) {
        with_workspace(|work| self.embed_in(work, model));
    }

    fn embed_in(&mut self, work: &mut Workspace, model: &Model<'_>) {
        self.kept.resize_with(model.blocks.len(), Kept::default);
        let (h, n) = (model.config.hidden, self.tokens * model.config.hidden);
        let (token, segment) = (model.at(&model.outer.token), model.at(&model.outer.segment));
        let mut rows = (self.ids.iter().zip(&self.segments).zip(&self.positions).zip(&self.coordinates)).map(
            |(((&id, &s), &p), &coordinate)| {
                (
                    &token[id as usize * h..][..h],
                    &model.positions[p as usize * h..][..h],
                    &segment[s as usize * h..][..h],
                    coordinate,
                )
            },
        );
        let (drop, factors) = (model.dropouts.at(DropoutSite::Embedding), grow(&mut work.factors, h));
        let out = grow(&mut self.kept[0].x, n);
        let Some(bert) = &model.outer.bert else {
            return kernels::embed(out, h, &mut rows, &drop, factors);
        };
        let sum = grow(&mut self.embedded, n);
        kernels::embed(sum, h, &mut rows, &Dropout::OFF, factors);
        let (gain, shift) = (model.at(&bert.embedding_gain), model.at(&bert.embedding_shift));
        kernels::norm(model.norm(), out, sum, gain, shift, grow(&mut self.embedded_moments, self.tokens));
        kernels::drop_rows(out, h, &self.coordinates, &drop, factors);
    }

    /// One block: fills the next one's input, or `output`, and what the backward pass needs.
    pub fn forward(&mut self, model: &Model<'_>, layer: usize) {
        with_workspace(|work| match model.config.arch {
            Arch::Reference => self.forward_pre_norm(work, model, layer),
            Arch::Bert => self.forward_post_norm(work, model, layer),
        });
    }

    /// The reference's block: `m = x + drop(attention(norm(x)))`, `drop(m + drop(feed_forward(norm(m))))`.
    fn forward_pre_norm(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, tokens, block) = (model.config.hidden, self.tokens, &model.blocks[layer]);
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        let kept = &mut self.kept[layer];
        let normed = grow(&mut work.normed, tokens * h);
        let (gain, shift) = (model.at(&block.norm1_gain), model.at(&block.norm1_shift));
        let moments = grow(&mut kept.moments1, tokens);
        kernels::norm(model.norm(), normed, &kept.x[..tokens * h], gain, shift, moments);
        self.attend(work, model, layer);
        let rows = self.rows(layer);
        self.feed_forward(work, model, layer, &drop(DropoutSite::FeedForward));
        let drops = [&drop(DropoutSite::FeedForwardOutput), &drop(DropoutSite::Block)];
        let coordinates = coordinates!(self, layer);
        let (done, rest) = self.kept.split_at_mut(layer + 1);
        let out = grow(rest.first_mut().map_or(&mut self.output, |next| &mut next.x), rows * h);
        let middle = &done[layer].middle[..rows * h];
        let (branch, factors) = (&work.branch[..rows * h], grow(&mut work.factors, 2 * h));
        kernels::residual_end(out, middle, branch, h, coordinates, drops, factors);
    }

    /// BERT's block: `m = norm(x + drop(attention(x)))`, `norm(m + drop(feed_forward(m)))`.
    fn forward_post_norm(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, block) = (model.config.hidden, &model.blocks[layer]);
        self.attend(work, model, layer);
        let rows = self.rows(layer);
        self.feed_forward(work, model, layer, &Dropout::OFF);
        let coordinates = coordinates!(self, layer);
        let (done, rest) = self.kept.split_at_mut(layer + 1);
        let kept = &mut done[layer];
        let out = rest.first_mut().map_or(&mut self.output, |next| &mut next.x);
        let outputs = [grow(&mut kept.sum2, rows * h), grow(out, rows * h)];
        let inputs = [&kept.middle[..rows * h], &work.branch[..rows * h]];
        let output_drop = model.dropouts.at(DropoutSite::FeedForwardOutput(layer));
        let parameters = [model.at(&block.norm2_gain), model.at(&block.norm2_shift)];
        let (moments, factors) = (grow(&mut kept.moments2, rows), grow(&mut work.factors, h));
        kernels::residual_norm(
            model.norm(),
            outputs,
            inputs,
            coordinates,
            &output_drop,
            factors,
            parameters,
            moments,
        );
    }

    /// Queries, keys and values, of `normed` where norms come before the sublayers, otherwise of the block's input; attention
    /// over them, its output projection, the residual connection and the norm behind that, from where on the last block has
    /// only the selected tokens.
    fn attend(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, tokens) = (model.config.hidden, self.tokens);
        let kept = &mut self.kept[layer];
        let qkv = grow(&mut kept.qkv, tokens * 3 * h);
        let input = match model.config.arch {
            Arch::Reference => &work.normed,
            Arch::Bert => &kept.x,
        };
        model.linear(layer, Part::Projections).forward(qkv, Mat::new(input, tokens, h));
        let context = grow(&mut kept.context, tokens * h);
        let log_sums = grow(&mut kept.log_sums, tokens * model.config.heads);
        let drop = model.dropouts.at(DropoutSite::Attention(layer));
        let inputs = Inputs { qkv, spans: &self.spans, shape: model.shape(), drop: &drop };
        attention::forward(context, log_sums, inputs, &mut work.attention);
        if self.is_last(layer) {
            self.selection.compact(&mut self.kept[layer].context[..tokens * h], h);
        }
        let rows = self.rows(layer);
        let (branch, context) = (grow(&mut work.branch, rows * h), &self.kept[layer].context);
        model.linear(layer, Part::Output).forward(branch, Mat::new(context, rows, h));
        self.add_attention(work, model, layer);
    }

    /// `x + drop(branch)` and its norm: in the reference that of the feed-forward layer, whose input is `normed`, in BERT
    /// that of the sublayer itself, which gives `middle`.
    fn add_attention(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, rows, is_last) = (model.config.hidden, self.rows(layer), self.is_last(layer));
        let (block, coordinates) = (&model.blocks[layer], coordinates!(self, layer));
        let Kept { x, sum1, moments1, middle, moments2, .. } = &mut self.kept[layer];
        let (sum, normed, parameters, moments) = match model.config.arch {
            Arch::Reference => (middle, &mut work.normed, [&block.norm2_gain, &block.norm2_shift], moments2),
            Arch::Bert => (sum1, middle, [&block.norm1_gain, &block.norm1_shift], moments1),
        };
        let x = if is_last {
            let gathered = grow(&mut work.residual, rows * h);
            self.selection.gather(gathered, x, h);
            gathered
        } else {
            &x[..rows * h]
        };
        kernels::residual_norm(
            model.norm(),
            [grow(sum, rows * h), grow(normed, rows * h)],
            [x, &work.branch[..rows * h]],
            coordinates,
            &model.dropouts.at(DropoutSite::AttentionOutput(layer)),
            grow(&mut work.factors, h),
            parameters.map(|range| model.at(range)),
            grow(moments, rows),
        );
    }

    /// The feed-forward layer into `branch`: of `normed` where norms come before the sublayers, otherwise of `middle`.
    fn feed_forward(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize, drop: &Dropout) {
        let (h, rows) = (model.config.hidden, self.rows(layer));
        let (wide, coordinates) = (model.config.feed_forward(), coordinates!(self, layer));
        let Kept { middle, inner, .. } = &mut self.kept[layer];
        let inner = grow(inner, rows * wide);
        let input = match model.config.arch {
            Arch::Reference => &work.normed,
            Arch::Bert => &*middle,
        };
        let (branch, factors) = (grow(&mut work.branch, rows * h), grow(&mut work.factors, wide));
        let (expand, contract) = (model.linear(layer, Part::Expand), model.linear(layer, Part::Contract));
        for tokens in pieces(rows) {
            let (count, cells) = (tokens.len(), tokens.start * h..tokens.end * h);
            let x = model.kernel.lhs(Mat::new(&input[cells.clone()], count, h), &mut work.rows);
            let branch = &mut branch[cells];
            for columns in pieces(wide) {
                let width = columns.len();
                let inner = &mut inner[tokens.start * wide + columns.start * count..][..count * width];
                expand.outputs(columns.clone()).forward(inner, x);
                let activated = grow(&mut work.activated, count * width);
                let at = Rows { coordinates: &coordinates[tokens.clone()], first_column: columns.start };
                kernels::gelu(model.gelu(), activated, inner, width, at, drop, factors);
                let (contract, activated) =
                    (contract.inputs(columns.clone()), Mat::new(activated, count, width));
                match columns.start {
                    0 => contract.forward(branch, activated),
                    _ => contract.add_forward(branch, activated),
                }
            }
        }
    }
}
