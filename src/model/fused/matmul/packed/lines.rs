//! Buffers that start at a cache line: what the kernels load whole registers and tiles from.

/// 64 bytes, as 16 values of 32 bits: single-precision numbers or pairs of bfloat16.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

/// The same bits as numbers.
pub fn as_numbers(lines: &[Line]) -> &[f32] {
    // SAFETY: a line is 16 words, each of which is a number.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), 16 * lines.len()) }
}

/// The same bits as numbers, writable.
pub fn as_numbers_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as above, borrowed exclusively.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 16 * lines.len()) }
}

/// A growing buffer of lines; its content is unspecified until written.
#[derive(Default)]
pub struct Lines(Vec<Line>);

impl Lines {
    /// The first `len` lines, made where there are fewer.
    pub fn at_least(&mut self, len: usize) -> &mut [Line] {
        if self.0.len() < len {
            self.0.resize(len, Line::default());
        }
        &mut self.0[..len]
    }
}

impl std::ops::Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.0
    }
}
