//! Matrix products over strided views of plain buffers.
//!
//! The one place that hands pointers to the `gemm` crate: views check their bounds when they are made, so
//! that everything above is safe code.

/// A matrix within a borrowed buffer: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The same, writable.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` contiguous rows of `cols` elements.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows` rows of `cols` elements, `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_covers(data.len(), rows, cols, row_stride);
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose of this view.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatMut<'a> {
    /// `rows` contiguous rows of `cols` elements.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows` rows of `cols` elements, `row_stride` apart.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(row_stride >= cols, "rows of an output must not overlap");
        assert_covers(data.len(), rows, cols, row_stride);
        Self { data, rows, cols, row_stride }
    }
}

fn assert_covers(len: usize, rows: usize, cols: usize, row_stride: usize) {
    assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len, "a view beyond its buffer");
}

/// What becomes of the output's old content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It is replaced.
    Store,
    /// The product is added to it.
    Add,
}

/// `out = scale * lhs · rhs`, or `out += ...`, on the calling thread.
///
/// # Panics
/// Where the shapes do not fit each other, which is a bug of the caller.
pub fn product(out: MatMut<'_>, write: Write, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    assert_eq!((lhs.rows, rhs.cols, lhs.cols), (out.rows, out.cols, rhs.rows), "shapes of a product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    // The crate is column-major: computing the transpose keeps the output's rows contiguous.
    // SAFETY: each view was checked against its buffer when it was made, the buffers outlive the call, and
    // `out` is borrowed exclusively, so it cannot overlap the others.
    unsafe {
        gemm::gemm(
            out.cols,
            out.rows,
            lhs.cols,
            out.data.as_mut_ptr(),
            out.row_stride as isize,
            1,
            write == Write::Add,
            rhs.data.as_ptr(),
            rhs.row_stride as isize,
            rhs.col_stride as isize,
            lhs.data.as_ptr(),
            lhs.row_stride as isize,
            lhs.col_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `out (tokens, outputs) = x (tokens, inputs) · weight (outputs, inputs)^T + bias`: a linear layer.
pub fn linear(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], tokens: usize) {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    for row in out[..tokens * outputs].chunks_exact_mut(outputs) {
        row.copy_from_slice(bias);
    }
    let out = MatMut::new(out, tokens, outputs);
    product(out, Write::Add, Mat::new(x, tokens, inputs), Mat::new(weight, outputs, inputs).t(), 1.0);
}

/// `dx (tokens, inputs) = dy (tokens, outputs) · weight (outputs, inputs)`: its gradient on the way down.
pub fn linear_input_gradient(dx: &mut [f32], dy: &[f32], weight: &[f32], tokens: usize, outputs: usize) {
    let inputs = weight.len() / outputs;
    let dx = MatMut::new(dx, tokens, inputs);
    product(dx, Write::Store, Mat::new(dy, tokens, outputs), Mat::new(weight, outputs, inputs), 1.0);
}

/// `dw[rows of out] += dy[:, rows of out]^T · x`: rows `from_row..` of a linear layer's weight gradient, as
/// many as `dw` holds.
pub fn add_weight_gradient(
    dw: &mut [f32],
    from_row: usize,
    dy: &[f32],
    outputs: usize,
    x: &[f32],
    inputs: usize,
    tokens: usize,
) {
    if tokens == 0 {
        return;
    }
    let rows = dw.len() / inputs;
    let dy = Mat::strided(&dy[from_row..], tokens, rows, outputs);
    product(MatMut::new(dw, rows, inputs), Write::Add, dy.t(), Mat::new(x, tokens, inputs), 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect()
    }

    /// Small integers multiply exactly, so the plain triple loop must agree to the bit.
    #[test]
    fn products_of_views_equal_the_triple_loop() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 2), (16, 17, 33), (70, 4, 9), (2, 3, 0)] {
            let (a, b) = (counting(m * (k + 2)), counting(n * (k + 1)));
            for (into, start) in [(Write::Store, 0.0), (Write::Add, 1.5)] {
                let mut out = vec![1.5; m * (n + 3)];
                let view = MatMut::strided(&mut out, m, n, n + 3);
                product(view, into, Mat::strided(&a, m, k, k + 2), Mat::strided(&b, n, k, k + 1).t(), 0.5);
                for i in 0..m {
                    for j in 0..n {
                        let sum: f32 = (0..k).map(|x| a[i * (k + 2) + x] * b[j * (k + 1) + x]).sum();
                        assert_eq!(out[i * (n + 3) + j], start + 0.5 * sum, "{m}x{n}x{k} at {i},{j}");
                    }
                    let gap = n + i * (n + 3);
                    assert!(gap >= out.len() || out[gap..].iter().take(3).all(|&x| x == 1.5), "between rows");
                }
            }
        }
    }

    #[test]
    fn weight_gradients_by_row_blocks_equal_the_whole() {
        let (tokens, outputs, inputs) = (5, 6, 4);
        let (dy, x) = (counting(tokens * outputs), counting(tokens * inputs));
        let mut whole = vec![0.0; outputs * inputs];
        add_weight_gradient(&mut whole, 0, &dy, outputs, &x, inputs, tokens);
        let mut blocks = vec![0.0; outputs * inputs];
        for (block, rows) in blocks.chunks_mut(2 * inputs).enumerate() {
            add_weight_gradient(rows, 2 * block, &dy, outputs, &x, inputs, tokens);
        }
        assert_eq!(whole, blocks);
    }
}
