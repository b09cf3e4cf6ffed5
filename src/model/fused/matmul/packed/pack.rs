//! Operands in the order in which the bfloat16 kernels read them, in one part or in three.
//!
//! In one part a number is rounded to bfloat16. In three it is their sum, to the bit: the nearest bfloat16, the
//! nearest one of what that leaves out, and the rest, eight significant bits each of the 24.
//!
//! A *lane* is a row of the left operand or a column of the right one: 16 lanes make a strip, and a strip
//! runs along the inner dimension k in tiles of 32 k, each 16 lines of 16 pairs `(k, k + 1)` for each part, the
//! parts behind each other. A line is a lane of the left operand (16 pairs of it), or a pair of the right one (16
//! lanes of it), as AMX wants them. Tiles are padded with zeros, which add nothing to a product.

use std::arch::x86_64::*;

use super::super::view::Mat;
use super::lines::Line;

/// Lanes of a strip.
pub const STRIP: usize = 16;
/// Depth of a bfloat16 tile.
pub const DEPTH: usize = 32;

/// 16 lanes of an operand: element `(lane, k)` lies at `data[lane * lane_stride + k * depth_stride]`, and one
/// of the strides is 1.
#[derive(Clone, Copy)]
struct Source<'a> {
    data: &'a [f32],
    lane_stride: usize,
    depth_stride: usize,
    /// At most 16.
    lanes: usize,
    depth: usize,
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

    /// Columns `first..` of a right operand.
    fn of_columns(of: Mat<'a>, first: usize) -> Self {
        Self::of_rows(of.t(), first)
    }

    /// Whether the depth is the contiguous dimension; otherwise the lanes are.
    fn along_depth(&self) -> bool {
        self.depth_stride == 1 && self.lane_stride != 1
    }

    /// Has an element's line fetched into the second-level cache: that of the next tile or strip, which lies too far away
    /// for the processor to guess it.
    #[inline(always)]
    fn announce(&self, lane: usize, k: usize) {
        let at = self.data.as_ptr().wrapping_add(lane * self.lane_stride + k * self.depth_stride);
        // SAFETY: a hint, which cannot fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }

    /// From `lane` and `k` on `n` elements along the contiguous dimension, zeros behind.
    ///
    /// # Safety
    /// AVX-512F.
    #[inline(always)]
    unsafe fn load(&self, lane: usize, k: usize, n: usize) -> __m512 {
        let from = lane * self.lane_stride + k * self.depth_stride;
        // The mask keeps to `n` elements; this check keeps those within the buffer.
        assert!(n == 0 || from + n <= self.data.len(), "a strip beyond its operand");
        // SAFETY: masked-out elements are not touched, the others were checked to exist.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(n), self.data.as_ptr().wrapping_add(from)) }
    }
}

/// The mask of the first `n` of 16 lanes.
#[inline]
pub fn first_lanes(n: usize) -> u16 {
    if n >= STRIP { 0xffff } else { (1 << n) - 1 }
}

/// Lines of a strip of this depth in so many parts.
pub fn strip_lines(depth: usize, parts: usize) -> usize {
    depth.div_ceil(DEPTH) * parts * STRIP
}

/// The left operand's rows, `out[strip][tile][part][16 rows][16 pairs]`, times `scale`.
///
/// # Safety
/// AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn rows<const PARTS: usize>(out: &mut [Line], of: Mat<'_>, scale: f32) {
    let (strips, tiles) = (of.rows.div_ceil(STRIP), of.cols.div_ceil(DEPTH));
    assert_eq!(out.len(), strips * tiles * PARTS * STRIP, "lines of packed rows");
    let mut pack = |strip: usize, tile: usize| {
        let source = Source::of_rows(of, strip * STRIP);
        let out = &mut out[(strip * tiles + tile) * PARTS * STRIP..][..PARTS * STRIP];
        // SAFETY: forwarded.
        unsafe { pack_tile::<PARTS>(out, source, tile * DEPTH, scale, !source.along_depth()) };
    };
    in_order_of_memory(of.col_stride == 1, strips, tiles, &mut pack);
}

/// The right operand's columns, `out[panel][tile][2][part][16 pairs][16 columns]`.
///
/// # Safety
/// AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn columns<const PARTS: usize>(out: &mut [Line], of: Mat<'_>) {
    let (strips, tiles) = (of.cols.div_ceil(2 * STRIP) * 2, of.rows.div_ceil(DEPTH));
    assert_eq!(out.len(), strips * tiles * PARTS * STRIP, "lines of packed columns");
    let mut pack = |strip: usize, tile: usize| {
        let out = &mut out[((strip / 2 * tiles + tile) * 2 + strip % 2) * PARTS * STRIP..][..PARTS * STRIP];
        if strip * STRIP >= of.cols {
            out.fill(Line::default());
            return;
        }
        let source = Source::of_columns(of, strip * STRIP);
        // SAFETY: forwarded.
        unsafe { pack_tile::<PARTS>(out, source, tile * DEPTH, 1.0, source.along_depth()) };
    };
    in_order_of_memory(of.row_stride == 1, strips, tiles, &mut pack);
}

/// Calls for each strip and tile such that what is read lies one behind the other as far as possible.
fn in_order_of_memory(along_depth: bool, strips: usize, tiles: usize, pack: &mut impl FnMut(usize, usize)) {
    if along_depth {
        (0..strips).for_each(|strip| (0..tiles).for_each(|tile| pack(strip, tile)));
    } else {
        (0..tiles).for_each(|tile| (0..strips).for_each(|strip| pack(strip, tile)));
    }
}

/// One tile from depth `first` on. `transposed` exchanges lanes and pairs of what the source's
/// contiguous dimension gives.
///
/// # Safety
/// AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_tile<const PARTS: usize>(
    out: &mut [Line],
    from: Source<'_>,
    first: usize,
    scale: f32,
    transposed: bool,
) {
    let factor = _mm512_set1_ps(scale);
    let depth = (from.depth - first).min(DEPTH);
    let mut lines = [[_mm512_setzero_si512(); 16]; PARTS];
    if from.along_depth() {
        let (low, high) = (depth.min(16), depth.saturating_sub(16));
        for lane in 0..from.lanes {
            // SAFETY: AVX-512F is on.
            let (low, high) = unsafe { (from.load(lane, first, low), from.load(lane, first + 16, high)) };
            from.announce(lane + STRIP, first);
            from.announce(lane + STRIP, first + 16);
            let parts = parts_of::<PARTS>(_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor), None);
            lines.iter_mut().zip(parts).for_each(|(lines, part)| lines[lane] = part);
        }
    } else {
        let in_turn = Some(in_turn());
        for pair in 0..depth.div_ceil(2) {
            let k = first + 2 * pair;
            let odd = if 2 * pair + 1 < depth { from.lanes } else { 0 };
            // SAFETY: AVX-512F is on.
            let (low, high) = unsafe { (from.load(0, k, from.lanes), from.load(0, k + 1, odd)) };
            from.announce(0, k + DEPTH);
            from.announce(0, k + DEPTH + 1);
            let parts = parts_of::<PARTS>(_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor), in_turn);
            lines.iter_mut().zip(parts).for_each(|(lines, part)| lines[pair] = part);
        }
    }
    for (out, lines) in out.chunks_exact_mut(STRIP).zip(lines) {
        let lines = if transposed { transpose(lines) } else { lines };
        for (out, line) in out.iter_mut().zip(lines) {
            store(out, line);
        }
    }
}

/// The parts of two times 16 numbers: all of `low` behind all of `high`, or one of each in turn.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn parts_of<const PARTS: usize>(
    mut low: __m512,
    mut high: __m512,
    in_turn: Option<__m512i>,
) -> [__m512i; PARTS] {
    let mut parts = [_mm512_setzero_si512(); PARTS];
    for (i, part) in parts.iter_mut().enumerate() {
        // What is left when two parts were taken has eight significant bits: the third is exact.
        let rounded = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: both are 512 bits.
        let rounded = unsafe { std::mem::transmute::<__m512bh, __m512i>(rounded) };
        *part = in_turn.map_or(rounded, |order| _mm512_permutexvar_epi16(order, rounded));
        if i + 1 < PARTS {
            low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(rounded)));
            high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64::<1>(rounded)));
        }
    }
    parts
}

/// 16 numbers in single precision.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened(bf16: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bf16)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(line: &mut Line, value: __m512i) {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512((&raw mut *line).cast(), value) };
}

/// Element `2 i` from the low half, `2 i + 1` from the high half, of 16 bits each.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_turn() -> __m512i {
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + 16 * (i % 2)) as u16);
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
}

/// The transpose of 16 lines of 16 values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
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
