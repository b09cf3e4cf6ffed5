//! Products in single precision by the byte products of AMX-INT8: operands in fixed point.
//!
//! What a lane holds of a block of 256 k, the last of a strip of up to 384, is written as whole multiples of 2^-23 or
//! 2^-22 of the largest of them, whose scale the block begins with: three signed bytes each, of 2^16, 2^8 and 1. Of the
//! nine products of two numbers' bytes six are added up, exactly, in three sums by their weight. Beside the product of
//! the two largest, what rounding costs a product is at most 2^-22, and the three left out are at most 2^-21; both come
//! with either sign and mostly cancel in a sum. That is the error of single precision where the numbers of a block are
//! of similar size, and more than that for those far smaller than their block's largest, whose part in a sum is as
//! small. The idea is Ozaki's (K. Ozaki et al., "Error-free transformations of matrix multiplication by using fast
//! routines of matrix multiplication", 2012; by bytes: H. Ootomo et al., "DGEMM on integer matrix multiplication unit",
//! 2024).
//!
//! A byte product of AMX takes 64 k, twice as many as one of bfloat16, of which single precision needs as many: this is
//! twice as fast as three bfloat16 for each number, and operands are half as large.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lines::Line;
use super::pack::{Format, STRIP, Source, TOGETHER, transpose};
use crate::model::fused::matmul::operands::{PIECE, REST};

mod products;

pub use products::Products;

/// Depth of a tile of bytes. Within a tile k is in the order 0, 16, 32, 48, 1, 17 and so on, which is the one that four
/// registers of 16 numbers give without shuffling, whichever way they run.
const TILE: usize = 64;

/// Bytes of a number, each in tiles of its own, the most significant first.
const PARTS: usize = 3;

/// Numbers in fixed point: a line with the scales of the 16 lanes, then tiles of bytes.
pub struct Fixed;

const fn block_lines(depth: usize) -> usize {
    1 + depth.div_ceil(TILE) * PARTS * STRIP
}

impl Format for Fixed {
    const BLOCK: usize = PIECE;
    /// Adding the sums up and packing cost a short block as much as a long one.
    const REST: usize = REST;
    /// 96 kB of a strip.
    const DEEPEST: usize = 2048;

    fn block_lines(depth: usize) -> usize {
        block_lines(depth)
    }

    /// # Safety
    /// AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack(out: &mut [Line], from: Source<'_>, first: usize, scale: f32, transposed: bool) {
        let depths = depths(&from, first);
        let (scales, tiles) = out.split_first_mut().expect("a block has a line of scales");
        // SAFETY: AVX-512BW is on.
        let of_lanes = unsafe {
            if from.along_depth() {
                pack_lanes(tiles, from, depths)
            } else {
                pack_depths(tiles, from, depths)
            }
        };
        for (to, lane) in scales.0.iter_mut().zip(of_lanes) {
            *to = (lane.worth * scale).to_bits();
        }
        if transposed {
            tiles.chunks_exact_mut(STRIP).for_each(|lines| transpose(lines));
        }
    }

    /// # Safety
    /// AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack_together(
        out: &mut [Line],
        lines: [Range<usize>; TOGETHER],
        from: Source<'_>,
        first: usize,
        scale: f32,
        transposed: bool,
    ) {
        let depths = depths(&from, first);
        let mut largest = [_mm512_setzero_si512(); TOGETHER];
        for k in depths.clone() {
            for (largest, numbers) in largest.iter_mut().zip(from.together(k)) {
                *largest = _mm512_max_epu32(*largest, size(load(numbers)));
            }
        }
        let mut factors = [_mm512_setzero_ps(); TOGETHER];
        for (i, largest) in largest.into_iter().enumerate() {
            let (of_lanes, factors_of_lanes) = scales(largest);
            factors[i] = factors_of_lanes;
            out[lines[i].start] = Line(of_lanes.map(|lane| (lane.worth * scale).to_bits()));
        }
        for (tile, first) in depths.clone().step_by(TILE).enumerate() {
            let tiles: [usize; TOGETHER] = std::array::from_fn(|i| lines[i].start + 1 + tile * PARTS * STRIP);
            for line in 0..STRIP {
                let k = first + line;
                let rows = [k, k + 16, k + 32, k + 48]
                    .map(|k| if k < depths.end { from.together(k) } else { &[[0.0; STRIP]; TOGETHER] });
                for i in 0..TOGETHER {
                    let out = &mut out[tiles[i]..][..PARTS * STRIP];
                    let parts = [load(&rows[0][i]), load(&rows[1][i]), load(&rows[2][i]), load(&rows[3][i])];
                    store_bytes(out, line, parts, factors[i]);
                }
            }
            if transposed {
                for tile in tiles {
                    out[tile..][..PARTS * STRIP].chunks_exact_mut(STRIP).for_each(|lines| transpose(lines));
                }
            }
        }
    }
}

/// What of a source a block at this depth holds.
fn depths(from: &Source<'_>, first: usize) -> Range<usize> {
    first..first + Fixed::block_depth(from.depth - first)
}

/// Packs a source that runs along the depth, a lane to each line; gives the scales of the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_lanes(tiles: &mut [Line], from: Source<'_>, depths: Range<usize>) -> [Scale; STRIP] {
    let mut of_lanes = [Scale::of(0); STRIP];
    for (lane, of_lane) in of_lanes.iter_mut().enumerate() {
        let numbers = if lane < from.lanes { from.along(lane, depths.clone()) } else { &[] };
        let (wholes, rest) = numbers.as_chunks::<TILE>();
        let mut largest = _mm512_setzero_si512();
        for whole in wholes {
            for part in parts(whole) {
                largest = _mm512_max_epu32(largest, size(part));
            }
        }
        let rest = parts_of_fewer(rest);
        for part in rest {
            largest = _mm512_max_epu32(largest, size(part));
        }
        *of_lane = Scale::of(_mm512_reduce_max_epu32(largest));
        let factor = _mm512_set1_ps(of_lane.factor);
        let mut tiles = tiles.chunks_exact_mut(PARTS * STRIP);
        for (whole, out) in wholes.iter().zip(&mut tiles) {
            store_bytes(out, lane, parts(whole), factor);
        }
        for out in tiles {
            store_bytes(out, lane, rest, factor);
        }
    }
    of_lanes
}

/// As many numbers as a register has.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32; STRIP]) -> __m512 {
    // SAFETY: 16 numbers.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

/// A tile's numbers of a lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn parts(numbers: &[f32; TILE]) -> [__m512; 4] {
    let at = numbers.as_ptr();
    // SAFETY: four times 16 numbers.
    unsafe {
        [
            _mm512_loadu_ps(at),
            _mm512_loadu_ps(at.add(16)),
            _mm512_loadu_ps(at.add(32)),
            _mm512_loadu_ps(at.add(48)),
        ]
    }
}

/// The same of a lane that ends within the tile, with zeros behind.
#[inline]
#[target_feature(enable = "avx512f")]
fn parts_of_fewer(numbers: &[f32]) -> [__m512; 4] {
    let mut all = [0.0; TILE];
    all[..numbers.len()].copy_from_slice(numbers);
    parts(&all)
}

/// Packs a source that runs along the lanes, four depths to each line; gives the scales of the lanes.
///
/// # Safety
/// AVX-512BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_depths(tiles: &mut [Line], from: Source<'_>, depths: Range<usize>) -> [Scale; STRIP] {
    // Rows often lie a multiple of the page size apart and would put each other out of the first-level cache: what is
    // read twice is copied.
    let mut copy = [MaybeUninit::<__m512>::uninit(); Fixed::BLOCK + Fixed::REST];
    let padded = depths.len().next_multiple_of(TILE);
    let mut largest = _mm512_setzero_si512();
    for (k, copy) in (depths.start..).zip(&mut copy[..padded]) {
        from.announce(STRIP, k);
        // SAFETY: AVX-512F is on.
        let numbers = unsafe { from.load(0, k, if k < depths.end { from.lanes } else { 0 }) };
        largest = _mm512_max_epu32(largest, size(numbers));
        copy.write(numbers);
    }
    let (of_lanes, factors) = scales(largest);
    for (copy, out) in copy[..padded].chunks_exact(TILE).zip(tiles.chunks_exact_mut(PARTS * STRIP)) {
        for line in 0..STRIP {
            // SAFETY: written above.
            let part = |k: usize| unsafe { copy[line + k].assume_init() };
            store_bytes(out, line, [part(0), part(16), part(32), part(48)], factors);
        }
    }
    of_lanes
}

/// The scales of 16 lanes from the bits of each one's largest number, and their factors.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales(largest: __m512i) -> ([Scale; STRIP], __m512) {
    let mut numbers = Line::default();
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(numbers.0.as_mut_ptr().cast(), largest) };
    let of_lanes = numbers.0.map(Scale::of);
    (of_lanes, load(&of_lanes.map(|lane| lane.factor)))
}

/// Numbers without their signs, as bits, whose order is that of the numbers; what is not finite is above all that is.
#[inline]
#[target_feature(enable = "avx512f")]
fn size(numbers: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(numbers), _mm512_set1_epi32(i32::MAX))
}

/// A power of two for a lane of a block.
#[derive(Clone, Copy)]
struct Scale {
    /// Takes the lane's numbers to at most 127 * 2^16 + 127 * 2^8 + 127, as far as three signed bytes reach.
    factor: f32,
    /// 32 times what one of the most significant byte is worth then; no number where the lane is not finite.
    worth: f32,
}

impl Scale {
    /// From the bits of the lane's largest number.
    #[inline(always)]
    fn of(largest: u32) -> Self {
        // A number that would be rounded beyond those bytes counts as twice as large.
        const TO_NEXT_EXPONENT: u32 = (1 << 23) - 2 * (0x7f_7f7f - (1 << 22)) - 1;
        // Below 2^-105 the factor would not be finite: such lanes are rounded to multiples of 2^-127.
        let exponent = ((largest + TO_NEXT_EXPONENT) >> 23).max(22);
        let worth = if largest < 0x7f80_0000 { (exponent - 1) << 23 } else { f32::NAN.to_bits() };
        Self { factor: f32::from_bits((2 * 127 + 22 - exponent) << 23), worth: f32::from_bits(worth) }
    }
}

/// Writes the signed bytes of four times 16 numbers, `n = 2^16 a + 2^8 b + c` with each from -128 to 127, to this line of
/// each part's tile: all `a`, all `b`, all `c`, those of the same place in the four registers beside each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_bytes(out: &mut [Line], line: usize, [n0, n1, n2, n3]: [__m512; 4], factors: __m512) {
    // With 128 added to each byte none borrows from the next; flipping each byte's first bit takes it off again.
    let with_128 = |n: __m512| {
        _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(n, factors)), _mm512_set1_epi32(0x80_8080))
    };
    let (n0, n1, n2, n3) = (with_128(n0), with_128(n1), with_128(n2), with_128(n3));
    const ODD_BYTES: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    const ODD_WORDS: u32 = 0xaaaa_aaaa;
    let outer = |even, odd| _mm512_mask_blend_epi8(ODD_BYTES, even, _mm512_slli_epi32::<8>(odd));
    let middle = |even, odd| _mm512_mask_blend_epi8(ODD_BYTES, _mm512_srli_epi32::<8>(even), odd);
    let (low, high) = (outer(n0, n1), outer(n2, n3));
    let (middle_low, middle_high) = (middle(n0, n1), middle(n2, n3));
    let mut store = |part: usize, even, odd| {
        let bytes = _mm512_mask_blend_epi16(ODD_WORDS, even, odd);
        let bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN));
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_store_si512((&raw mut out[part * STRIP + line]).cast(), bytes) };
    };
    store(0, _mm512_srli_epi32::<16>(low), high);
    store(1, middle_low, _mm512_slli_epi32::<16>(middle_high));
    store(2, low, _mm512_slli_epi32::<16>(high));
}
