//! How operands lie in the order in which kernels read them.
//!
//! A *lane* is a row of the left operand or a column of the right one: 16 lanes make a strip, and a strip runs along
//! the inner dimension k in blocks, whose content is the [`Format`]'s. What a lane holds of a block lies in lines of
//! the left operand, or across those of the right one, as AMX wants them. Blocks are padded with zeros, which add
//! nothing to a product.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::operands::cut;
use super::super::view::Mat;
use super::lines::Line;

/// Lanes of a strip.
pub const STRIP: usize = 16;

/// Strips that are packed together where the lanes are the contiguous dimension, so that memory is read in pieces of half a
/// kilobyte.
pub const TOGETHER: usize = 8;

/// How numbers are written.
pub trait Format {
    /// Depth of a block, but for the last one of a strip.
    const BLOCK: usize;
    /// Depth that is left behind the last block and becomes a part of it.
    const REST: usize;
    /// Depth of a strip that kernels take at a time, in whole blocks: what is deeper is summed up in the output, piece
    /// by piece.
    const DEEPEST: usize;

    /// Lines of a block that is `depth` deep.
    fn block_lines(depth: usize) -> usize;

    /// Writes a block of 16 lanes from depth `first` on, times `scale`; `transposed` exchanges lanes and lines of what
    /// the source's contiguous dimension gives.
    ///
    /// # Safety
    /// Its instructions.
    unsafe fn pack(out: &mut [Line], from: Source<'_>, first: usize, scale: f32, transposed: bool);

    /// The same for several strips of a source that runs along the lanes, to these lines of `out`.
    ///
    /// # Safety
    /// Its instructions.
    unsafe fn pack_together(
        out: &mut [Line],
        lines: [Range<usize>; TOGETHER],
        from: Source<'_>,
        first: usize,
        scale: f32,
        transposed: bool,
    ) {
        for (i, lines) in lines.into_iter().enumerate() {
            // SAFETY: forwarded.
            unsafe { Self::pack(&mut out[lines], from.strip(i), first, scale, transposed) };
        }
    }

    /// Blocks of this depth.
    fn blocks(depth: usize) -> usize {
        cut(depth, Self::BLOCK, Self::REST)
    }

    /// Depth of the block with which so much depth begins.
    fn block_depth(rest: usize) -> usize {
        if rest > Self::BLOCK + Self::REST { Self::BLOCK } else { rest }
    }

    /// Whether a block of a strip of this depth begins at `k`.
    fn begins_block(k: usize, depth: usize) -> bool {
        k.is_multiple_of(Self::BLOCK) && k / Self::BLOCK < Self::blocks(depth)
    }

    /// Lines of a strip of this depth.
    fn strip_lines(depth: usize) -> usize {
        match Self::blocks(depth) {
            0 => 0,
            blocks => {
                let before = blocks - 1;
                before * Self::block_lines(Self::BLOCK) + Self::block_lines(depth - before * Self::BLOCK)
            }
        }
    }
}

/// 16 lanes of an operand: element `(lane, k)` lies at `data[lane * lane_stride + k * depth_stride]`, and one
/// of the strides is 1.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    data: &'a [f32],
    lane_stride: usize,
    depth_stride: usize,
    /// At most 16, but where several strips are packed together.
    pub lanes: usize,
    pub depth: usize,
}

impl<'a> Source<'a> {
    /// Rows `first..` of a left operand.
    fn of_rows(of: Mat<'a>, first: usize) -> Self {
        let of = of.rows_from(first, STRIP.min(of.rows - first));
        Self {
            data: of.data,
            lane_stride: of.row_stride,
            depth_stride: of.col_stride,
            lanes: of.rows,
            depth: of.cols,
        }
    }

    /// One of its strips.
    fn strip(self, strip: usize) -> Self {
        let first = strip * STRIP;
        Self { data: &self.data[first * self.lane_stride..], lanes: STRIP.min(self.lanes - first), ..self }
    }

    /// Whether the depth is the contiguous dimension; otherwise the lanes are.
    pub fn along_depth(&self) -> bool {
        self.depth_stride == 1 && self.lane_stride != 1
    }

    /// The elements of a lane at these depths, where the depth is the contiguous dimension.
    #[inline(always)]
    pub fn along(&self, lane: usize, depths: Range<usize>) -> &'a [f32] {
        debug_assert!(self.depth_stride == 1);
        &self.data[lane * self.lane_stride..][depths]
    }

    /// Has an element's line fetched into the second-level cache: one that comes soon, and lies too far away for the
    /// processor to guess it.
    #[inline(always)]
    pub fn announce(&self, lane: usize, k: usize) {
        let at = self.data.as_ptr().wrapping_add(lane * self.lane_stride + k * self.depth_stride);
        // SAFETY: a hint, which cannot fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }

    /// The lanes of several strips at depth `k`, where they are the contiguous dimension.
    #[inline(always)]
    pub fn together(&self, k: usize) -> &'a [[f32; STRIP]; TOGETHER] {
        let row = &self.data[k * self.depth_stride..][..TOGETHER * STRIP];
        row.as_chunks().0.try_into().expect("as many strips")
    }

    /// From `lane` and `k` on `n` elements along the contiguous dimension, zeros behind.
    ///
    /// # Safety
    /// AVX-512F.
    #[inline(always)]
    pub unsafe fn load(&self, lane: usize, k: usize, n: usize) -> __m512 {
        let from = lane * self.lane_stride + k * self.depth_stride;
        // The mask keeps to `n` elements; this check keeps those within the buffer.
        assert!(n == 0 || from + n <= self.data.len(), "a strip beyond its operand");
        let at = self.data.as_ptr().wrapping_add(from);
        // SAFETY: masked-out elements are not touched, the others were checked to exist.
        unsafe { if n == STRIP { _mm512_loadu_ps(at) } else { _mm512_maskz_loadu_ps(first_lanes(n), at) } }
    }
}

/// The mask of the first `n` of 16 lanes.
#[inline]
pub fn first_lanes(n: usize) -> u16 {
    if n >= STRIP { 0xffff } else { (1 << n) - 1 }
}

/// Where an operand lies among lines: how many each strip of it has, and from which depth on this part of it is. A depth
/// within begins a block.
#[derive(Clone, Copy)]
pub struct Place {
    pub strip_lines: usize,
    pub first_k: usize,
}

/// The left operand's rows, `out[strip][block]`, times `scale`. Strips come in twos: where there is no second one, it is
/// zero.
///
/// # Safety
/// The format's instructions.
pub unsafe fn rows<F: Format>(out: &mut [Line], place: Place, of: Mat<'_>, scale: f32) {
    // SAFETY: forwarded.
    unsafe { all::<F>(out, place, of, scale, Side::Rows) };
}

/// The right operand's columns in panels of two strips, `out[panel][block][2]`.
///
/// # Safety
/// The format's instructions.
pub unsafe fn columns<F: Format>(out: &mut [Line], place: Place, of: Mat<'_>) {
    // SAFETY: forwarded.
    unsafe { all::<F>(out, place, of.t(), 1.0, Side::Columns) };
}

/// Which operand is packed.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Rows,
    Columns,
}

/// Packs `of (lanes, depth)` such that what is read lies one behind the other as far as possible.
///
/// # Safety
/// The format's instructions.
unsafe fn all<F: Format>(out: &mut [Line], place: Place, of: Mat<'_>, scale: f32, side: Side) {
    assert_eq!(out.len(), strips(of.rows) * place.strip_lines, "lines of a packed operand");
    let (there, blocks) = (of.rows.div_ceil(STRIP), F::blocks(of.cols));
    let lines_of = |strip: usize, block: usize| {
        let (first, lines) = place.block::<F>(of.cols, block);
        let begin = match side {
            Side::Rows => strip * place.strip_lines + first,
            Side::Columns => strip / 2 * 2 * place.strip_lines + 2 * first + strip % 2 * lines,
        };
        begin..begin + lines
    };
    if there < strips(of.rows) {
        (0..blocks).for_each(|block| out[lines_of(there, block)].fill(Line::default()));
    }
    let along_depth = of.col_stride == 1 && of.row_stride != 1;
    let transposed = along_depth == (side == Side::Columns);
    let mut pack = |strip: usize, block: usize| {
        let source = Source::of_rows(of, strip * STRIP);
        // SAFETY: forwarded.
        unsafe { F::pack(&mut out[lines_of(strip, block)], source, block * F::BLOCK, scale, transposed) };
    };
    if along_depth {
        (0..there).for_each(|strip| (0..blocks).for_each(|block| pack(strip, block)));
        return;
    }
    let in_wholes = of.rows / (TOGETHER * STRIP) * TOGETHER;
    for block in 0..blocks {
        for first in (0..in_wholes).step_by(TOGETHER) {
            let source = Source { lanes: TOGETHER * STRIP, ..Source::of_rows(of, first * STRIP) };
            let lines: [Range<usize>; TOGETHER] = std::array::from_fn(|i| lines_of(first + i, block));
            // SAFETY: forwarded.
            unsafe { F::pack_together(out, lines, source, block * F::BLOCK, scale, transposed) };
        }
        for strip in in_wholes..there {
            let source = Source::of_rows(of, strip * STRIP);
            let out = &mut out[lines_of(strip, block)];
            // SAFETY: forwarded.
            unsafe { F::pack(out, source, block * F::BLOCK, scale, transposed) };
        }
    }
}

/// Strips of so many lanes, in twos.
pub fn strips(lanes: usize) -> usize {
    lanes.div_ceil(2 * STRIP) * 2
}

impl Place {
    /// First line within a strip and number of lines of a block of a part that is `depth` deep.
    fn block<F: Format>(self, depth: usize, block: usize) -> (usize, usize) {
        assert!(self.first_k.is_multiple_of(F::BLOCK), "a part of an operand begins a block");
        let first = block * F::BLOCK;
        let lines = F::block_lines(F::block_depth(depth - first));
        ((self.first_k + first) / F::BLOCK * F::block_lines(F::BLOCK), lines)
    }
}

/// Transposes 16 lines of 16 values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(lines: &mut [Line]) {
    let lines: &mut [Line; STRIP] = lines.try_into().expect("as many lines as lanes");
    let mut r = [_mm512_setzero_si512(); STRIP];
    for (r, line) in r.iter_mut().zip(lines.iter()) {
        // SAFETY: a line is 64 bytes, aligned to 64.
        *r = unsafe { _mm512_load_si512((&raw const *line).cast()) };
    }
    for (line, r) in lines.iter_mut().zip(transposed(r)) {
        // SAFETY: as above.
        unsafe { _mm512_store_si512((&raw mut *line).cast(), r) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn transposed(r: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut t, mut u) = ([zero; 16], [zero; 16]);
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        let q = 4 * i;
        u[q] = _mm512_unpacklo_epi64(t[q], t[q + 2]);
        u[q + 1] = _mm512_unpackhi_epi64(t[q], t[q + 2]);
        u[q + 2] = _mm512_unpacklo_epi64(t[q + 1], t[q + 3]);
        u[q + 3] = _mm512_unpackhi_epi64(t[q + 1], t[q + 3]);
    }
    // u[4 g + c] holds, in its 128-bit lane l, column 4 l + c of rows 4 g .. 4 g + 4.
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4(u[c], u[4 + c], 0b10_00_10_00);
        let low_odd = _mm512_shuffle_i32x4(u[c], u[4 + c], 0b11_01_11_01);
        let high = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0b10_00_10_00);
        let high_odd = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0b11_01_11_01);
        t[c] = _mm512_shuffle_i32x4(low, high, 0b10_00_10_00);
        t[8 + c] = _mm512_shuffle_i32x4(low, high, 0b11_01_11_01);
        t[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0b10_00_10_00);
        t[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0b11_01_11_01);
    }
    t
}
