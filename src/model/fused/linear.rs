//! Linear layers: `y = x · weight^T + bias` and its gradients.

use rayon::prelude::*;

use super::matmul::{Kernel, Mat, MatMut, Packed, Rhs, Write, product};

/// Which way products with a weight go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// One layer's parameters.
#[derive(Clone, Copy)]
pub struct Linear<'m> {
    weight: Mat<'m>,
    bias: &'m [f32],
    packed: Option<&'m Packed>,
}

impl<'m> Linear<'m> {
    /// `weight (outputs, inputs)` and `bias (outputs)`, whose products are those of plain views.
    pub fn new(weight: &'m [f32], bias: &'m [f32]) -> Self {
        Self { weight: Mat::new(weight, bias.len(), weight.len() / bias.len()), bias, packed: None }
    }

    /// The same with the weight as `kernel` reads it, which was packed for the direction that is asked for.
    pub fn with(self, kernel: Kernel, packed: &'m Packed) -> Self {
        Self { packed: (kernel != Kernel::Single).then_some(packed), ..self }
    }

    /// The weight as the right operand of a direction.
    pub fn operand(&self, direction: Direction) -> Mat<'m> {
        match direction {
            Direction::Forward => self.weight.t(),
            Direction::Backward => self.weight,
        }
    }

    fn rhs(&self, direction: Direction) -> Rhs<'m> {
        self.packed.map_or(Rhs::Plain(self.operand(direction)), Rhs::Packed)
    }

    /// `y (rows, outputs)` of `x (rows, inputs)`.
    pub fn forward(&self, y: &mut [f32], x: &[f32], rows: usize) {
        let (outputs, inputs) = self.weight.shape();
        let y = MatMut::new(y, rows, outputs);
        product(y, Write::Bias(self.bias), Mat::new(x, rows, inputs), self.rhs(Direction::Forward), 1.0);
    }

    /// `dx (rows, inputs)` from `dy (rows, outputs)`.
    pub fn input_gradient(&self, dx: &mut [f32], dy: &[f32], rows: usize) {
        let (outputs, inputs) = self.weight.shape();
        let dx = MatMut::new(dx, rows, inputs);
        product(dx, Write::Store, Mat::new(dy, rows, outputs), self.rhs(Direction::Backward), 1.0);
    }
}

/// Rows of a product at a time where several threads share it.
const ROWS_PER_TASK: usize = 32;

impl Linear<'_> {
    /// [`Self::forward`] on all threads of the pool.
    pub fn forward_on_all_threads(&self, y: &mut [f32], x: &[f32]) {
        let (outputs, inputs) = self.weight.shape();
        let tasks = y.par_chunks_mut(ROWS_PER_TASK * outputs).zip(x.par_chunks(ROWS_PER_TASK * inputs));
        tasks.with_max_len(1).for_each(|(y, x)| self.forward(y, x, y.len() / outputs));
    }

    /// [`Self::input_gradient`] on all threads of the pool.
    pub fn input_gradient_on_all_threads(&self, dx: &mut [f32], dy: &[f32]) {
        let (outputs, inputs) = self.weight.shape();
        let tasks = dx.par_chunks_mut(ROWS_PER_TASK * inputs).zip(dy.par_chunks(ROWS_PER_TASK * outputs));
        tasks.with_max_len(1).for_each(|(dx, dy)| self.input_gradient(dx, dy, dx.len() / inputs));
    }
}

/// `dweight += dy^T · x` on all threads of the pool: `dy (rows, outputs)`, `x (rows, inputs)`.
pub fn add_weight_gradient_on_all_threads(dweight: &mut [f32], dy: Mat<'_>, x: Mat<'_>) {
    let (_, inputs) = x.shape();
    let tasks = dweight.par_chunks_mut(ROWS_PER_TASK * inputs).enumerate().with_max_len(1);
    tasks.for_each(|(i, rows)| add_weight_gradient(rows, i * ROWS_PER_TASK, dy, inputs, x));
}

/// `dweight += dy^T · x` for the rows of a weight that `dweight` holds, from `from_row` on: `dy` is
/// `(rows, outputs)`, and `x` the layer's input `(rows, inputs)`.
pub fn add_weight_gradient<'a>(
    dweight: &mut [f32],
    from_row: usize,
    dy: Mat<'_>,
    inputs: usize,
    x: impl Into<Rhs<'a>>,
) {
    let rows = dweight.len() / inputs;
    let dy = dy.columns(from_row, rows);
    product(MatMut::new(dweight, rows, inputs), Write::Add, dy.t(), x, 1.0);
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
        add_weight_gradient(&mut whole, 0, dy, inputs, x);
        let mut blocks = vec![0.0; outputs * inputs];
        for (block, rows) in blocks.chunks_mut(2 * inputs).enumerate() {
            add_weight_gradient(rows, 2 * block, dy, inputs, x);
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
        layer.forward(&mut y, &x, rows);
        layer.forward_on_all_threads(&mut shared_y, &x);
        let (mut dx, mut shared_dx) = (vec![0.0; rows * inputs], vec![0.0; rows * inputs]);
        layer.input_gradient(&mut dx, &dy, rows);
        layer.input_gradient_on_all_threads(&mut shared_dx, &dy);
        let (mut dweight, mut shared_dweight) = (weight.clone(), weight.clone());
        let (dy, x) = (Mat::new(&dy, rows, outputs), Mat::new(&x, rows, inputs));
        add_weight_gradient(&mut dweight, 0, dy, inputs, x);
        add_weight_gradient_on_all_threads(&mut shared_dweight, dy, x);
        assert_eq!((y, dx, dweight), (shared_y, shared_dx, shared_dweight));
    }
}
