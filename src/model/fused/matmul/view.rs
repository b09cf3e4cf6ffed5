//! Matrices within borrowed buffers.

/// A matrix within a borrowed buffer: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// The same, writable, rows contiguous.
pub struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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

    /// One element.
    pub(super) fn get(self, row: usize, column: usize) -> f32 {
        self.data[row * self.row_stride + column * self.col_stride]
    }

    /// Where an element lies: within the buffer, as long as it is one of the view's.
    #[inline(always)]
    pub fn address(self, row: usize, column: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(row * self.row_stride + column * self.col_stride)
    }

    /// How far the rows lie apart.
    #[inline(always)]
    pub fn row_stride(self) -> usize {
        self.row_stride
    }

    /// How far the columns lie apart.
    #[inline(always)]
    pub fn column_stride(self) -> usize {
        self.col_stride
    }

    /// Whether the elements of a row lie one behind the other.
    #[inline(always)]
    pub fn rows_are_contiguous(self) -> bool {
        self.col_stride == 1
    }

    /// Rows and columns.
    #[inline(always)]
    pub fn shape(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Columns `first..first + cols` of this view.
    pub fn columns(self, first: usize, cols: usize) -> Self {
        assert!(first + cols <= self.cols, "a view beyond its matrix");
        self.t().rows_from(first, cols).t()
    }

    /// Rows `first..first + rows` of this view.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows, "a view beyond its matrix");
        Self { data: &self.data[(first * self.row_stride).min(self.data.len())..], rows, ..self }
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

    /// Rows and columns.
    #[inline(always)]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// How far the rows lie apart.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Where an element lies: within the buffer, as long as it is one of the view's.
    #[inline(always)]
    pub fn address(&mut self, row: usize, column: usize) -> *mut f32 {
        self.data.as_mut_ptr().wrapping_add(row * self.row_stride + column)
    }
}

fn assert_covers(len: usize, rows: usize, cols: usize, row_stride: usize) {
    assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len, "a view beyond its buffer");
}
