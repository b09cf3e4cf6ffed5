//! What BERT puts between the last block and its heads: the pooler before the pair head, the transform before
//! the vocabulary head. Each works on gathered rows, in single precision; products are shared by all threads of the
//! pool.

use super::chunk::{Model, grow};
use super::kernels::{self, Moments, Old, Rows};
use super::linear::{Linear, add_weight_gradient_on_all_threads};
use super::matmul::Mat;
use crate::model::dropout::Dropout;
use crate::model::layout::BertRanges;

fn pooler<'m>(model: &'m Model<'_>, ranges: &BertRanges) -> Linear<'m> {
    Linear::new(model.at(&ranges.pooler_weight), model.at(&ranges.pooler_bias))
}

fn transform<'m>(model: &'m Model<'_>, ranges: &BertRanges) -> Linear<'m> {
    Linear::new(model.at(&ranges.transform_weight), model.at(&ranges.transform_bias))
}

/// `tanh(linear(x))` of each sample's first token.
#[derive(Default)]
pub struct Pooler {
    inputs: Vec<f32>,
    outputs: Vec<f32>,
    dinputs: Vec<f32>,
}

impl Pooler {
    /// Pooled rows `(rows, hidden)` of `x (rows, hidden)`.
    pub fn forward(&mut self, model: &Model<'_>, ranges: &BertRanges, x: &[f32]) -> &[f32] {
        self.inputs.clear();
        self.inputs.extend_from_slice(x);
        let outputs = grow(&mut self.outputs, x.len());
        pooler(model, ranges).forward_on_all_threads(outputs, x);
        kernels::tanh(outputs);
        outputs
    }

    /// Gradient of `x` from that of the pooled rows, which it destroys; adds to the flat gradients.
    pub fn backward(
        &mut self,
        model: &Model<'_>,
        ranges: &BertRanges,
        dpooled: &mut [f32],
        flat: &mut [f32],
    ) -> &[f32] {
        let h = model.config.hidden;
        let rows = dpooled.len() / h;
        kernels::tanh_backward(dpooled, &self.outputs[..dpooled.len()]);
        kernels::add_column_sums(&mut flat[ranges.pooler_bias.clone()], dpooled);
        let (dy, x) = (Mat::new(dpooled, rows, h), Mat::new(&self.inputs, rows, h));
        add_weight_gradient_on_all_threads(&mut flat[ranges.pooler_weight.clone()], dy, x);
        let dinputs = grow(&mut self.dinputs, dpooled.len());
        pooler(model, ranges).input_gradient_on_all_threads(dinputs, dpooled);
        dinputs
    }
}

/// `norm(gelu(linear(x)))` of each masked token.
#[derive(Default)]
pub struct Transform {
    inputs: Vec<f32>,
    inner: Vec<f32>,
    activated: Vec<f32>,
    moments: Vec<Moments>,
    dinner: Vec<f32>,
    dinputs: Vec<f32>,
    /// Dropout coordinates that are never looked at: there is no dropout here.
    coordinates: Vec<u64>,
    factors: Vec<f32>,
}

impl Transform {
    /// Transforms the rows of `x (rows, hidden)` in place.
    pub fn forward(&mut self, model: &Model<'_>, ranges: &BertRanges, x: &mut [f32]) {
        let h = model.config.hidden;
        let (n, rows) = (x.len(), x.len() / h);
        self.inputs.clear();
        self.inputs.extend_from_slice(x);
        self.coordinates.resize(rows, 0);
        let (coordinates, factors) = (&self.coordinates, grow(&mut self.factors, h));
        let inner = grow(&mut self.inner, n);
        transform(model, ranges).forward_on_all_threads(inner, x);
        let activated = grow(&mut self.activated, n);
        let at = Rows { coordinates, first_column: 0 };
        kernels::gelu(model.gelu(), activated, inner, h, at, &Dropout::OFF, factors);
        let (gain, shift) = (model.at(&ranges.transform_gain), model.at(&ranges.transform_shift));
        kernels::norm(model.norm(), x, activated, gain, shift, grow(&mut self.moments, rows));
    }

    /// Gradient of the rows before the transform from that behind it; adds to the flat gradients.
    pub fn backward(
        &mut self,
        model: &Model<'_>,
        ranges: &BertRanges,
        dy: &[f32],
        flat: &mut [f32],
    ) -> &[f32] {
        let h = model.config.hidden;
        let (n, rows) = (dy.len(), dy.len() / h);
        let dinner = grow(&mut self.dinner, n);
        // Gain and shift lie next to each other in the layout.
        let sums = &mut flat[ranges.transform_gain.start..ranges.transform_shift.end];
        let (dgain, dshift) = sums.split_at_mut(h);
        let (activated, moments) = (&mut self.activated[..n], &self.moments[..rows]);
        let gain = model.at(&ranges.transform_gain);
        let sums = [dgain, dshift];
        kernels::norm_backward(model.norm(), dinner, Old::Replaced, dy, activated, gain, moments, sums);
        let dbias = &mut flat[ranges.transform_bias.clone()];
        let at = Rows { coordinates: &self.coordinates, first_column: 0 };
        let (inner, factors, none) = (&self.inner[..n], &mut self.factors, Dropout::OFF);
        kernels::gelu_backward(model.gelu(), activated, dinner, inner, dbias, at, &none, factors);
        let (dy, x) = (Mat::new(dinner, rows, h), Mat::new(&self.inputs, rows, h));
        add_weight_gradient_on_all_threads(&mut flat[ranges.transform_weight.clone()], dy, x);
        let dinputs = grow(&mut self.dinputs, n);
        transform(model, ranges).input_gradient_on_all_threads(dinputs, dinner);
        dinputs
    }
}
