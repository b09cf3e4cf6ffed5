//! Both tasks' heads on the device.

use super::arguments::arguments;
use super::blocks::NormBackward;
use super::engine::{DeviceEngine, Loaded};
use super::memory::LOGIT_ROWS;
use super::{Address, Device, Grid, Kind};
use crate::Result;
use crate::model::Predictions;
use crate::model::dropout::Dropout;
use crate::model::layout::BertRanges;

/// Some of the masked tokens: the first, and how many.
#[derive(Clone, Copy)]
struct Round {
    first: usize,
    rows: usize,
}

fn rounds(masked: usize) -> impl Iterator<Item = Round> {
    (0..masked).step_by(LOGIT_ROWS).map(move |first| Round { first, rows: LOGIT_ROWS.min(masked - first) })
}

impl<D: Device> DeviceEngine<D> {
    /// Losses of both tasks, and the distributions where wanted.
    pub(super) fn heads_forward(
        &mut self,
        loaded: &Loaded,
        mut predictions: Option<&mut Predictions>,
    ) -> Result<()> {
        let head = loaded.memory.head;
        let rows_at = self.masked_rows(loaded)?;
        for round in rounds(loaded.counts.masked) {
            self.score(loaded, rows_at, round, None)?;
            if let Some(predictions) = predictions.as_deref_mut() {
                self.append_log_probabilities(loaded, round, &mut predictions.mlm)?;
            }
        }
        let features = self.pair_features(loaded)?;
        self.score_pairs(loaded, features, None)?;
        if let Some(predictions) = predictions {
            predictions.nsp = self.singles(head.log_probabilities, 2 * loaded.counts.samples)?;
        }
        Ok(())
    }

    /// Losses of both tasks, their parameters' gradients, and the gradient of the output in `selected_stream`.
    pub(super) fn heads_backward(
        &mut self,
        loaded: &Loaded,
        mlm_weight: f32,
        pair_weight: f32,
    ) -> Result<()> {
        let (h, head, columns) = (self.config.hidden, loaded.memory.head, loaded.columns);
        self.device.zero(loaded.memory.selected_stream, 4 * loaded.counts.selected * h)?;
        if loaded.counts.masked > 0 {
            let rows_at = self.masked_rows(loaded)?;
            for round in rounds(loaded.counts.masked) {
                self.score(loaded, rows_at, round, Some(mlm_weight))?;
                self.vocabulary_backward(loaded, rows_at, round)?;
            }
            if let Some(bert) = self.outer.bert.clone() {
                self.transform_backward(loaded, &bert)?;
            }
            let to = loaded.memory.selected_stream;
            self.scatter([head.drows, columns.masked, to], loaded.counts.masked)?;
        }

        let features = self.pair_features(loaded)?;
        self.score_pairs(loaded, features, Some(pair_weight))?;
        let (dweight, dbias) = (self.gradient(&self.outer.nsp_weight), self.gradient(&self.outer.nsp_bias));
        let arguments = arguments![[features, head.dpairs, dweight, dbias], loaded.counts.samples as u32];
        self.device.launch("pair_gradients", Grid { x: h.div_ceil(32), y: 2, threads: 256 }, &arguments)?;
        let dfirsts = match self.outer.bert.clone() {
            Some(bert) => self.pooler_backward(loaded, &bert)?,
            None => head.dfeatures,
        };
        self.scatter([dfirsts, columns.firsts, loaded.memory.selected_stream], loaded.counts.samples)
    }

    /// What the masked tokens are predicted from, as an operand.
    fn masked_rows(&mut self, loaded: &Loaded) -> Result<Address> {
        let (h, m, head) = (self.config.hidden, loaded.counts.masked, loaded.memory.head);
        if m == 0 {
            return Ok(head.rows);
        }
        self.gather([loaded.memory.output, loaded.columns.masked, Address::NONE, head.rows], m)?;
        let Some(bert) = self.outer.bert.clone() else { return Ok(head.rows) };
        let weight = self.operand(&bert.transform_weight);
        self.linear([head.rows, weight, head.inner], [m, h, h], self.kind)?;
        let parameters = [&bert.transform_bias, &bert.transform_gain, &bert.transform_shift];
        let arguments = arguments![
            head.inner,
            parameters.map(|range| self.weight(range)),
            [head.activated, head.moments, head.transformed],
            m as u32,
        ];
        self.over_rows("transform", m, &arguments)?;
        Ok(head.transformed)
    }

    /// Logits and cross-entropy of a round; the logits' gradients where a weight is given.
    fn score(&mut self, loaded: &Loaded, rows_at: Address, round: Round, weight: Option<f32>) -> Result<()> {
        let (h, v, head) = (self.config.hidden, self.config.vocab_size, loaded.memory.head);
        let Round { first, rows } = round;
        let x = rows_at.plus(first * h * self.kind.bytes());
        let vocabulary = self.operand(&self.outer.mlm_weight);
        self.linear([x, vocabulary, head.logits], [rows, h, v], Kind::F32)?;
        let of_round = |column: Address| column.plus(4 * first);
        let arguments = arguments![
            [head.logits, self.weight(&self.outer.mlm_bias), of_round(loaded.columns.labels)],
            [of_round(head.log_sums), of_round(head.losses), of_round(head.correct)],
            weight.map_or(Address::NONE, |_| head.dlogits),
            v as u32,
            weight.unwrap_or(0.0),
        ];
        self.device.launch("cross_entropy", Grid { x: rows, y: 1, threads: 256 }, &arguments)
    }

    /// Gradients of the vocabulary's weight, bias and inputs, from those of a round's logits.
    fn vocabulary_backward(&mut self, loaded: &Loaded, rows_at: Address, round: Round) -> Result<()> {
        let (h, v, head) = (self.config.hidden, self.config.vocab_size, loaded.memory.head);
        let Round { first, rows } = round;
        let bias = self.outer.mlm_bias.clone();
        self.add_column_sums(loaded, head.dlogits, rows, v, &bias)?;
        let x = rows_at.plus(first * h * self.kind.bytes());
        let dweight = self.gradient(&self.outer.mlm_weight);
        self.add_weight_gradient([head.dlogits, x, dweight], [rows, h, v])?;
        let (vocabulary, dx) = (self.operand(&self.outer.mlm_weight), head.drows.plus(4 * first * h));
        self.linear_backward([head.dlogits, vocabulary, dx], [rows, h, v], Kind::F32)
    }

    fn transform_backward(&mut self, loaded: &Loaded, bert: &BertRanges) -> Result<()> {
        let (h, m, head) = (self.config.hidden, loaded.counts.masked, loaded.memory.head);
        let norm = NormBackward {
            dy: Address::NONE,
            stream: head.drows,
            dx: Address::NONE,
            norm: Some((head.activated, head.moments, &bert.transform_gain, &bert.transform_shift)),
            branch: Some((head.dinner, None)),
            before: Dropout::OFF,
            outer: Dropout::OFF,
            inner: Dropout::OFF,
        };
        self.norm_backward_of(loaded, &norm, (m, Address::NONE))?;
        let activate = arguments![
            [head.dinner, head.inner, self.weight(&bert.transform_bias), Address::NONE],
            [Address::NONE, loaded.memory.partials],
            Dropout::OFF,
            [m as u32, h as u32],
        ];
        self.over_columns("activate_backward", m, h, &activate)?;
        self.add_partials(loaded, m, h, [Some(&bert.transform_bias), None, None])?;
        let dweight = self.gradient(&bert.transform_weight);
        self.add_weight_gradient([head.dinner, head.rows, dweight], [m, h, h])?;
        let weight = self.operand(&bert.transform_weight);
        self.linear_backward([head.dinner, weight, head.drows], [m, h, h], Kind::F32)
    }

    /// What pair labels are predicted from, `(samples, hidden)` in single precision.
    fn pair_features(&mut self, loaded: &Loaded) -> Result<Address> {
        let (h, n, head) = (self.config.hidden, loaded.counts.samples, loaded.memory.head);
        let output = loaded.memory.output;
        let Some(bert) = self.outer.bert.clone() else {
            self.gather([output, loaded.columns.firsts, head.firsts, Address::NONE], n)?;
            return Ok(head.firsts);
        };
        self.gather([output, loaded.columns.firsts, Address::NONE, head.first_operands], n)?;
        let weight = self.operand(&bert.pooler_weight);
        self.linear([head.first_operands, weight, head.pooler_inner], [n, h, h], Kind::F32)?;
        let arguments =
            arguments![[head.pooler_inner, self.weight(&bert.pooler_bias), head.pooled], n as u32];
        self.over_rows("tanh_rows", n, &arguments)?;
        Ok(head.pooled)
    }

    fn score_pairs(&mut self, loaded: &Loaded, features: Address, weight: Option<f32>) -> Result<()> {
        let head = loaded.memory.head;
        let gradients = weight.map_or([Address::NONE; 2], |_| [head.dfeatures, head.dpairs]);
        let arguments = arguments![
            [features, self.weight(&self.outer.nsp_weight), self.weight(&self.outer.nsp_bias)],
            [loaded.columns.pairs, head.log_probabilities],
            gradients,
            loaded.counts.samples as u32,
            weight.unwrap_or(0.0),
        ];
        self.over_rows("pair_head", loaded.counts.samples, &arguments)
    }

    fn pooler_backward(&mut self, loaded: &Loaded, bert: &BertRanges) -> Result<Address> {
        let (h, n, head) = (self.config.hidden, loaded.counts.samples, loaded.memory.head);
        let arguments = arguments![[head.dfeatures, head.pooled, head.dpooler], n as u32];
        self.over_rows("tanh_backward", n, &arguments)?;
        self.add_column_sums(loaded, head.dpooler, n, h, &bert.pooler_bias)?;
        let dweight = self.gradient(&bert.pooler_weight);
        self.add_weight_gradient([head.dpooler, head.first_operands, dweight], [n, h, h])?;
        let weight = self.operand(&bert.pooler_weight);
        self.linear_backward([head.dpooler, weight, head.dfirsts], [n, h, h], Kind::F32)?;
        Ok(head.dfirsts)
    }

    /// Log-probabilities `(rows, vocab_size)` of a round whose logits are still there.
    fn append_log_probabilities(&mut self, loaded: &Loaded, round: Round, to: &mut Vec<f32>) -> Result<()> {
        let (v, head) = (self.config.vocab_size, loaded.memory.head);
        let logits = self.singles(head.logits, round.rows * v)?;
        let log_sums = self.singles(head.log_sums.plus(4 * round.first), round.rows)?;
        let bias = self.singles(self.weight(&self.outer.mlm_bias), v)?;
        for (row, log_sum) in logits.chunks_exact(v).zip(log_sums) {
            to.extend(row.iter().zip(&bias).map(|(logit, bias)| logit + bias - log_sum));
        }
        Ok(())
    }
}
