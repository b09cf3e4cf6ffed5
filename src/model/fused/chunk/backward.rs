//! The backward pass of a chunk.

use super::super::attention::{self, Inputs};
use super::*;

impl Chunk {
    /// One block backward: takes the gradient of its output in `dx`, leaves that of its input there, and stores what the
    /// weights' gradients are made of.
    pub fn backward(&mut self, model: &Model<'_>, layer: usize) {
        grow(&mut self.sums, Sums::len(model.config.hidden)).fill(0.0);
        with_workspace(|work| match model.config.arch {
            Arch::Reference => self.backward_pre_norm(work, model, layer),
            Arch::Bert => self.backward_post_norm(work, model, layer),
        });
    }

    fn backward_pre_norm(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, rows, block) = (model.config.hidden, self.rows(layer), &model.blocks[layer]);
        let n = rows * h;
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        // Feed-forward sublayer.
        let (dx, dbias) = (&mut self.dx[..n], Sums::split(&mut self.sums, h).w2_bias);
        let (dbranch, factors) = (grow(&mut work.dbranch, n), grow(&mut work.factors, 2 * h));
        let drops = [&drop(DropoutSite::FeedForwardOutput), &drop(DropoutSite::Block)];
        kernels::residual_backward(dx, dbranch, dbias, coordinates!(self, layer), drops, factors);
        self.feed_forward_backward(work, model, layer, &drop(DropoutSite::FeedForward));
        let (gain, shift) = (model.at(&block.norm2_gain), model.at(&block.norm2_shift));
        let (middle, moments) = (&self.kept[layer].middle[..n], &self.kept[layer].moments2[..rows]);
        let (dx, sums) = (&mut self.dx[..n], Sums::split(&mut self.sums, h));
        let sums = [sums.norm2_gain, sums.norm2_shift];
        kernels::norm_backward(model.norm(), dx, Old::Kept, &work.branch[..n], middle, gain, moments, sums);
        let normed = grow(&mut work.normed, n);
        kernels::norm_again(model.norm(), normed, middle, gain, shift, moments);
        self.operands[Part::Expand as usize].x.put(0, 0, Mat::new(normed, rows, h));

        // Attention sublayer.
        let (dbranch, factors) = (grow(&mut work.dbranch, n), grow(&mut work.factors, 2 * h));
        let (dbias, drops) =
            (Sums::split(&mut self.sums, h).out_bias, [&drop(DropoutSite::AttentionOutput), &Dropout::OFF]);
        kernels::residual_backward(dx, dbranch, dbias, coordinates!(self, layer), drops, factors);
        self.attend_backward(work, model, layer);
        let n = self.tokens * h;
        if self.is_last(layer) {
            self.selection.spread(grow(&mut self.dx, n), h);
        }
        let (gain, shift) = (model.at(&block.norm1_gain), model.at(&block.norm1_shift));
        let (x, moments) = (&self.kept[layer].x[..n], &self.kept[layer].moments1[..self.tokens]);
        let (dx, sums) = (&mut self.dx[..n], Sums::split(&mut self.sums, h));
        let sums = [sums.norm1_gain, sums.norm1_shift];
        kernels::norm_backward(model.norm(), dx, Old::Kept, &work.branch[..n], x, gain, moments, sums);
        let normed = grow(&mut work.normed, n);
        kernels::norm_again(model.norm(), normed, x, gain, shift, moments);
        self.operands[Part::Projections as usize].x.put(0, 0, Mat::new(normed, self.tokens, h));
    }

    fn backward_post_norm(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, rows, block) = (model.config.hidden, self.rows(layer), &model.blocks[layer]);
        let n = rows * h;
        let drop = |site: fn(usize) -> DropoutSite| model.dropouts.at(site(layer));

        // Feed-forward sublayer: through its norm, then down both ways of its sum.
        let kept = &self.kept[layer];
        let outputs = [grow(&mut work.residual, n), grow(&mut work.dbranch, n)];
        let (gain, moments) = (model.at(&block.norm2_gain), &kept.moments2[..rows]);
        let sums = Sums::split(&mut self.sums, h);
        kernels::residual_norm_backward(
            model.norm(),
            outputs,
            Old::Replaced,
            &self.dx[..n],
            &kept.sum2[..n],
            gain,
            moments,
            [sums.norm2_gain, sums.norm2_shift, sums.w2_bias],
            coordinates!(self, layer),
            &drop(DropoutSite::FeedForwardOutput),
            grow(&mut work.factors, h),
        );
        self.feed_forward_backward(work, model, layer, &Dropout::OFF);
        let kept = &self.kept[layer];
        self.operands[Part::Expand as usize].x.put(0, 0, Mat::new(&kept.middle, rows, h));

        // Attention sublayer, likewise, from what came both ways.
        let outputs = [&mut work.residual[..n], grow(&mut work.dbranch, n)];
        let (gain, moments) = (model.at(&block.norm1_gain), &kept.moments1[..rows]);
        let sums = Sums::split(&mut self.sums, h);
        kernels::residual_norm_backward(
            model.norm(),
            outputs,
            Old::Kept,
            &work.branch[..n],
            &kept.sum1[..n],
            gain,
            moments,
            [sums.norm1_gain, sums.norm1_shift, sums.out_bias],
            coordinates!(self, layer),
            &drop(DropoutSite::AttentionOutput),
            grow(&mut work.factors, h),
        );
        self.attend_backward(work, model, layer);
        let n = self.tokens * h;
        if self.is_last(layer) {
            self.selection.spread(grow(&mut work.residual, n), h);
        }
        let x = Mat::new(&self.kept[layer].x, self.tokens, h);
        self.operands[Part::Projections as usize].x.put(0, 0, x);
        kernels::sum(grow(&mut self.dx, n), &work.branch[..n], &work.residual[..n]);
    }

    /// Backward of the feed-forward layer from `dbranch`: leaves the gradient of its input in `branch`. Stores all operands
    /// of its weights' gradients but its input.
    fn feed_forward_backward(
        &mut self,
        work: &mut Workspace,
        model: &Model<'_>,
        layer: usize,
        drop: &Dropout,
    ) {
        let (h, rows) = (model.config.hidden, self.rows(layer));
        let (wide, coordinates) = (model.config.feed_forward(), coordinates!(self, layer));
        let [_, _, of_expand, of_contract] = &mut self.operands;
        of_expand.reshape(model.kernel, rows, wide, h);
        of_contract.reshape(model.kernel, rows, h, wide);
        let (dbias, dinput) = (Sums::split(&mut self.sums, h).w1_bias, grow(&mut work.branch, rows * h));
        let factors = grow(&mut work.factors, wide);
        let (expand, contract) = (model.linear(layer, Part::Expand), model.linear(layer, Part::Contract));
        for tokens in pieces(rows) {
            let (count, cells) = (tokens.len(), tokens.start * h..tokens.end * h);
            let (dy, dinput) = (Mat::new(&work.dbranch[cells.clone()], count, h), &mut dinput[cells]);
            of_contract.dy_t.put(0, tokens.start, dy.t());
            let dy = model.kernel.lhs(dy, &mut work.rows);
            for columns in pieces(wide) {
                let width = columns.len();
                let dinner = grow(&mut work.dinner, count * width);
                contract.inputs(columns.clone()).input_gradient(dinner, dy);
                let inner = &self.kept[layer].inner[tokens.start * wide + columns.start * count..];
                let (inner, activated) = (&inner[..count * width], grow(&mut work.activated, count * width));
                let at = Rows { coordinates: &coordinates[tokens.clone()], first_column: columns.start };
                let dbias = &mut dbias[columns.clone()];
                kernels::gelu_backward(model.gelu(), activated, dinner, inner, dbias, at, drop, factors);
                of_contract.x.put(tokens.start, columns.start, Mat::new(activated, count, width));
                let dinner = Mat::new(dinner, count, width);
                of_expand.dy_t.put(columns.start, tokens.start, dinner.t());
                let expand = expand.outputs(columns.clone());
                match columns.start {
                    0 => expand.input_gradient(dinput, dinner),
                    _ => expand.add_input_gradient(dinput, dinner),
                }
            }
        }
    }

    /// Backward of attention from `dbranch`: leaves the gradient of the projections' input in `branch`. Stores all operands
    /// of its weights' gradients but the input of the projections.
    fn attend_backward(&mut self, work: &mut Workspace, model: &Model<'_>, layer: usize) {
        let (h, tokens) = (model.config.hidden, self.tokens);
        let (rows, is_last) = (self.rows(layer), self.is_last(layer));
        let [of_projections, of_output, ..] = &mut self.operands;
        of_output.reshape(model.kernel, rows, h, h);
        of_projections.reshape(model.kernel, tokens, 3 * h, h);
        let kept = &self.kept[layer];
        let dout = Mat::new(&work.dbranch, rows, h);
        of_output.dy_t.put(0, 0, dout.t());
        of_output.x.put(0, 0, Mat::new(&kept.context, rows, h));
        let dcontext = grow(&mut work.branch, tokens * h);
        model.linear(layer, Part::Output).input_gradient(&mut dcontext[..rows * h], dout);
        if is_last {
            self.selection.spread(dcontext, h);
        }
        let dqkv = grow(&mut work.dqkv, tokens * 3 * h);
        let (qkv, log_sums) = (&kept.qkv[..tokens * 3 * h], &kept.log_sums[..tokens * model.config.heads]);
        let drop = model.dropouts.at(DropoutSite::Attention(layer));
        let inputs = Inputs { qkv, spans: &self.spans, shape: model.shape(), drop: &drop };
        attention::backward(dqkv, dcontext, log_sums, inputs, &mut work.attention);
        kernels::add_column_sums(Sums::split(&mut self.sums, h).qkv_bias, dqkv);
        let dqkv = Mat::new(dqkv, tokens, 3 * h);
        of_projections.dy_t.put(0, 0, dqkv.t());
        let dinput = grow(&mut work.branch, tokens * h);
        model.linear(layer, Part::Projections).input_gradient(dinput, dqkv);
    }

    /// The gradient of the embeddings' sum, after the last block's backward pass: `dx` through the
    /// embedding's dropout and, where there is one, its norm. Gives the sums over the chunk of the norm's
    /// gain and shift gradients.
    pub fn backward_embedding(&mut self, model: &Model<'_>) -> Option<[Vec<f32>; 2]> {
        with_workspace(|work| {
            let (h, tokens) = (model.config.hidden, self.tokens);
            let drop = model.dropouts.at(DropoutSite::Embedding);
            let dx = &mut self.dx[..tokens * h];
            kernels::drop_rows(dx, h, &self.coordinates, &drop, grow(&mut work.factors, h));
            let bert = model.outer.bert.as_ref()?;
            let dnormed = grow(&mut work.branch, tokens * h);
            dnormed.copy_from_slice(dx);
            let (sum, moments) = (&self.embedded[..tokens * h], &self.embedded_moments[..tokens]);
            let (mut dgain, mut dshift) = (vec![0.0; h], vec![0.0; h]);
            let sums = [&mut dgain[..], &mut dshift[..]];
            let gain = model.at(&bert.embedding_gain);
            kernels::norm_backward(model.norm(), dx, Old::Replaced, dnormed, sum, gain, moments, sums);
            Some([dgain, dshift])
        })
    }
}
