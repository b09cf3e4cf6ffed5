//! Linear layers: `y = x · weight^T + bias` and its gradients, with weights packed once a step.

use super::matmul::{Kernel, Mat, MatMut, Packed, Rhs, Write, product};

/// A weight `(outputs, inputs)` as the products of both directions read it; empty in single precision.
#[derive(Default)]
pub struct PackedWeight {
    forward: Packed,
    backward: Packed,
}

impl PackedWeight {
    /// Takes the weight's values anew.
    pub fn pack(&mut self, kernel: Kernel, weight: &[f32], outputs: usize) {
        let view = Mat::new(weight, outputs, weight.len() / outputs);
        self.forward.pack(kernel, view.t());
        self.backward.pack(kernel, view);
    }

    /// The layer of the weight that was packed.
    pub fn layer<'m>(&'m self, kernel: Kernel, weight: &'m [f32], bias: &'m [f32]) -> Linear<'m> {
        Linear::new(weight, bias, (kernel != Kernel::Single).then_some(self))
    }
}

/// One layer's parameters.
#[derive(Clone, Copy)]
pub struct Linear<'m> {
    weight: Mat<'m>,
    bias: &'m [f32],
    packed: Option<&'m PackedWeight>,
}

impl<'m> Linear<'m> {
    /// `weight (outputs, inputs)` and `bias (outputs)`; where the weight is packed, products take that.
    pub fn new(weight: &'m [f32], bias: &'m [f32], packed: Option<&'m PackedWeight>) -> Self {
        Self { weight: Mat::new(weight, bias.len(), weight.len() / bias.len()), bias, packed }
    }

    /// `y (rows, outputs)` of `x (rows, inputs)`.
    pub fn forward(&self, y: &mut [f32], x: &[f32], rows: usize) {
        let (outputs, inputs) = self.weight.shape();
        let rhs = self.packed.map_or(Rhs::Plain(self.weight.t()), |packed| Rhs::Packed(&packed.forward));
        let y = MatMut::new(y, rows, outputs);
        product(y, Write::Bias(self.bias), Mat::new(x, rows, inputs), rhs, 1.0);
    }

    /// `dx (rows, inputs)` from `dy (rows, outputs)`.
    pub fn input_gradient(&self, dx: &mut [f32], dy: &[f32], rows: usize) {
        let (outputs, inputs) = self.weight.shape();
        let rhs = self.packed.map_or(Rhs::Plain(self.weight), |packed| Rhs::Packed(&packed.backward));
        let dx = MatMut::new(dx, rows, inputs);
        product(dx, Write::Store, Mat::new(dy, rows, outputs), rhs, 1.0);
    }
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
}
