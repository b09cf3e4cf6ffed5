//! Linear layers: `y = x · weight^T + bias` and its gradients.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{Lhs, Mat, MatMut, Rhs, Write, product};

/// Which way products with a weight go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// One layer's parameters, or those of some of its outputs or inputs.
#[derive(Clone, Copy)]
pub struct Linear<'m> {
    weight: Mat<'m>,
    bias: &'m [f32],
    /// The weight in the form in which products of one direction read it.
    packed: Option<(Direction, Rhs<'m>)>,
}

impl<'m> Linear<'m> {
    /// `weight (outputs, inputs)` and `bias (outputs)`, whose products are those of plain views.
    pub fn new(weight: &'m [f32], bias: &'m [f32]) -> Self {
        Self { weight: Mat::new(weight, bias.len(), weight.len() / bias.len()), bias, packed: None }
    }

    /// The same with the weight packed for one direction, from [`Self::operand`].
    pub fn with(self, direction: Direction, packed: Rhs<'m>) -> Self {
        Self { packed: Some((direction, packed)), ..self }
    }

    /// The weight as the right operand of a direction.
    pub fn operand(&self, direction: Direction) -> Mat<'m> {
        match direction {
            Direction::Forward => self.weight.t(),
            Direction::Backward => self.weight,
        }
    }

    fn rhs(&self, direction: Direction) -> Rhs<'m> {
        match self.packed {
            None => self.operand(direction).into(),
            Some((of, packed)) => {
                assert_eq!(of, direction, "a weight packed for the other direction");
                packed
            }
        }
    }

    /// The layer with some of its outputs only; the first one begins a piece ([`super::matmul::pieces`]).
    pub fn outputs(&self, range: Range<usize>) -> Self {
        let packed = self.packed.map(|(direction, packed)| match direction {
            Direction::Forward => (direction, packed.columns(range.clone())),
            Direction::Backward => (direction, packed.depth(range.clone())),
        });
        let weight = self.weight.rows_from(range.start, range.len());
        Self { weight, bias: &self.bias[range], packed }
    }

    /// The layer with some of its inputs only; the first one begins a piece ([`super::matmul::pieces`]).
    pub fn inputs(&self, range: Range<usize>) -> Self {
        let packed = self.packed.map(|(direction, packed)| match direction {
            Direction::Forward => (direction, packed.depth(range.clone())),
            Direction::Backward => (direction, packed.columns(range.clone())),
        });
        let weight = self.weight.columns(range.start, range.len());
        Self { weight, bias: self.bias, packed }
    }

    /// `y (rows, outputs)` of `x (rows, inputs)`.
    pub fn forward<'a>(&self, y: &mut [f32], x: impl Into<Lhs<'a>>) {
        self.forward_onto(y, Write::Bias(self.bias), x);
    }

    /// Adds to `y` what these inputs give without the bias.
    pub fn add_forward<'a>(&self, y: &mut [f32], x: impl Into<Lhs<'a>>) {
        self.forward_onto(y, Write::Add, x);
    }

    fn forward_onto<'a>(&self, y: &mut [f32], write: Write<'_>, x: impl Into<Lhs<'a>>) {
        let (outputs, _) = self.weight.shape();
        product(MatMut::new(y, y.len() / outputs, outputs), write, x, self.rhs(Direction::Forward), 1.0);
    }

    /// `dx (rows, inputs)` from `dy (rows, outputs)`.
    pub fn input_gradient<'a>(&self, dx: &mut [f32], dy: impl Into<Lhs<'a>>) {
        self.input_gradient_onto(dx, Write::Store, dy);
    }

    /// Adds to `dx` what comes from these outputs.
    pub fn add_input_gradient<'a>(&self, dx: &mut [f32], dy: impl Into<Lhs<'a>>) {
        self.input_gradient_onto(dx, Write::Add, dy);
    }

    fn input_gradient_onto<'a>(&self, dx: &mut [f32], write: Write<'_>, dy: impl Into<Lhs<'a>>) {
        let (_, inputs) = self.weight.shape();
        product(MatMut::new(dx, dx.len() / inputs, inputs), write, dy, self.rhs(Direction::Backward), 1.0);
    }
}

/// Rows of a product at a time where several threads share it.
const ROWS_PER_TASK: usize = 32;

impl Linear<'_> {
    /// [`Self::forward`] on all threads of the pool.
    pub fn forward_on_all_threads(&self, y: &mut [f32], x: &[f32]) {
        let (outputs, inputs) = self.weight.shape();
        let tasks = y.par_chunks_mut(ROWS_PER_TASK * outputs).zip(x.par_chunks(ROWS_PER_TASK * inputs));
        tasks.with_max_len(1).for_each(|(y, x)| self.forward(y, Mat::new(x, x.len() / inputs, inputs)));
    }

    /// [`Self::input_gradient`] on all threads of the pool.
    pub fn input_gradient_on_all_threads(&self, dx: &mut [f32], dy: &[f32]) {
        let (outputs, inputs) = self.weight.shape();
        let tasks = dx.par_chunks_mut(ROWS_PER_TASK * inputs).zip(dy.par_chunks(ROWS_PER_TASK * outputs));
        tasks.with_max_len(1).for_each(|(dx, dy)| {
            self.input_gradient(dx, Mat::new(dy, dy.len() / outputs, outputs));
        });
    }
}

/// `dweight += dy^T · x` on all threads of the pool: `dy (rows, outputs)`, `x (rows, inputs)`.
pub fn add_weight_gradient_on_all_threads(dweight: &mut [f32], dy: Mat<'_>, x: Mat<'_>) {
    let (_, inputs) = x.shape();
    let tasks = dweight.par_chunks_mut(ROWS_PER_TASK * inputs).enumerate().with_max_len(1);
    tasks.for_each(|(i, rows)| {
        let dy = dy.columns(i * ROWS_PER_TASK, rows.len() / inputs);
        add_weight_gradient(rows, inputs, dy.t(), x);
    });
}

/// `dweight += dy_t · x` for some rows of a weight: `dy_t (rows of the weight, tokens)`, the transposed gradient of those
/// outputs, and `x` the layer's input `(tokens, inputs)`.
pub fn add_weight_gradient<'a, 'b>(
    dweight: &mut [f32],
    inputs: usize,
    dy_t: impl Into<Lhs<'a>>,
    x: impl Into<Rhs<'b>>,
) {
    product(MatMut::new(dweight, dweight.len() / inputs, inputs), Write::Add, dy_t, x, 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_gradients_by_row_blocks_equal_the_whole() {
        let (tokens, outputs, inputs) = (5, 6, 4);
        let counting = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect() };
        let (dy, x) = (counting(tokens * outputs), counting(tokens * inputs));
        let (dy, x) = (Mat::new(&dy, tokens, outputs), Mat::new(&x, tokens, inputs));
        let mut whole = vec![0.0; outputs * inputs];
        add_weight_gradient(&mut whole, inputs, dy.t(), x);
        let mut blocks = vec![0.0; outputs * inputs];
        for (block, rows) in blocks.chunks_mut(2 * inputs).enumerate() {
            add_weight_gradient(rows, inputs, dy.columns(2 * block, 2).t(), x);
        }
        assert_eq!(whole, blocks);
    }

    /// More rows and outputs than a task takes, and a last task that is not full.
    #[test]
    fn shared_products_are_the_same_bits() {
        let (rows, outputs, inputs) = (70, 75, 9);
        let counting = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 13) as f32 / 7.0).collect() };
        let (weight, bias) = (counting(outputs * inputs), counting(outputs));
        let (x, dy) = (counting(rows * inputs), counting(rows * outputs));
        let layer = Linear::new(&weight, &bias);
        let (mut y, mut shared_y) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
        layer.forward(&mut y, Mat::new(&x, rows, inputs));
        layer.forward_on_all_threads(&mut shared_y, &x);
        let (mut dx, mut shared_dx) = (vec![0.0; rows * inputs], vec![0.0; rows * inputs]);
        layer.input_gradient(&mut dx, Mat::new(&dy, rows, outputs));
        layer.input_gradient_on_all_threads(&mut shared_dx, &dy);
        let (mut dweight, mut shared_dweight) = (weight.clone(), weight.clone());
        let (dy, x) = (Mat::new(&dy, rows, outputs), Mat::new(&x, rows, inputs));
        add_weight_gradient(&mut dweight, inputs, dy.t(), x);
        add_weight_gradient_on_all_threads(&mut shared_dweight, dy, x);
        assert_eq!((y, dx, dweight), (shared_y, shared_dx, shared_dweight));
    }
}
