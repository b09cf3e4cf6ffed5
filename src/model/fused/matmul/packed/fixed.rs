//! Products in single precision by the byte products of AMX-INT8: operands in fixed point.
//!
//! What a lane holds of a block of 256 k is written as whole multiples of 2^-23 or 2^-22 of the largest of them, whose
//! scale the block begins with: three signed bytes each, of 2^16, 2^8 and 1. Of the nine products of two numbers' bytes
//! six are added up, exactly, in three sums by their weight. Beside the product of the two largest, what rounding costs
//! a product is at most 2^-22, and the three left out are at most 2^-21; both come with either sign and mostly cancel
//! in a sum. That is the error of single precision where the numbers of a block are of similar size, and more than that
//! for those far smaller than their block's largest, whose part in a sum is as small. The idea is Ozaki's (K. Ozaki et
//! al., "Error-free transformations of matrix multiplication by using fast routines of matrix multiplication", 2012; by
//! bytes: H. Ootomo et al., "DGEMM on integer matrix multiplication unit", 2024).
//!
//! A byte product of AMX takes 64 k, twice as many as one of bfloat16, of which single precision needs as many: this is
//! twice as fast as three bfloat16 for each number, and operands are half as large.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lines::Line;
use super::pack::{Format, STRIP, Source, transpose};
use super::tiles::{AmxTiles, Start, Tile};

/// Depth of a tile of bytes. Within a tile k is in the order 0, 16, 32, 48, 1, 17 and so on, which is the one that four
/// registers of 16 numbers give without shuffling, whichever way they run.
const TILE: usize = 64;

/// Bytes of a number, each in tiles of its own, the most significant first.
const PARTS: usize = 3;

/// Numbers in fixed point: a line with the scales of the 16 lanes, then tiles of bytes.
pub struct Fixed;

impl Format for Fixed {
    const BLOCK: usize = 256;
    /// 96 kB of a strip.
    const DEEPEST: usize = 2048;
    const ANNOUNCES: bool = false;

    fn block_lines(depth: usize) -> usize {
        1 + depth.div_ceil(TILE) * PARTS * STRIP
    }

    /// # Safety
    /// AVX512-BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack(out: &mut [Line], from: Source<'_>, first: usize, scale: f32, transposed: bool) {
        let depths = first..from.depth.min(first + Self::BLOCK);
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
    let mut copy = [MaybeUninit::<__m512>::uninit(); Fixed::BLOCK];
    let padded = depths.len().next_multiple_of(TILE);
    let mut largest = _mm512_setzero_si512();
    for (k, copy) in (depths.start..).zip(&mut copy[..padded]) {
        from.announce(STRIP, k);
        // SAFETY: AVX-512F is on.
        let numbers = unsafe { from.load(0, k, if k < depths.end { from.lanes } else { 0 }) };
        largest = _mm512_max_epu32(largest, size(numbers));
        copy.write(numbers);
    }
    let mut numbers = Line::default();
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(numbers.0.as_mut_ptr().cast(), largest) };
    let of_lanes = numbers.0.map(Scale::of);
    let factors = of_lanes.map(|lane| lane.factor);
    // SAFETY: 64 bytes.
    let factors = unsafe { _mm512_loadu_ps(factors.as_ptr()) };
    for (copy, out) in copy[..padded].chunks_exact(TILE).zip(tiles.chunks_exact_mut(PARTS * STRIP)) {
        for line in 0..STRIP {
            // SAFETY: written above.
            let part = |k: usize| unsafe { copy[line + k].assume_init() };
            store_bytes(out, line, [part(0), part(16), part(32), part(48)], factors);
        }
    }
    of_lanes
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

/// Sums of 16 by 16 products, row by row by weight: of 2^32, 2^24 and 2^16.
type Sums = [[Line; PARTS]; STRIP];

/// 32 rows by 32 columns.
///
/// # Safety
/// AVX-512BW and AMX-INT8; the tile is writable; the tile registers of `_tiles` are those of this thread; `a` holds two
/// strips, `b` twice as many lines as one.
pub unsafe fn product(_tiles: &AmxTiles, tile: Tile, start: Start<'_>, a: [&[Line]; 2], b: &[Line]) {
    let block = Fixed::block_lines(Fixed::BLOCK);
    assert!(a[1].len() == a[0].len() && b.len() == 2 * a[0].len());
    let mut sums = [[Line::default(); PARTS]; STRIP];
    let halves = tile.columns.div_ceil(STRIP);
    if a[0].is_empty() {
        for (rows, half) in
            (0..tile.rows.div_ceil(STRIP)).flat_map(|rows| (0..halves).map(move |half| (rows, half)))
        {
            // SAFETY: forwarded.
            unsafe { write(tile, start, [rows, half], &sums, [&Line::default(); 2]) };
        }
    }
    for (i, b) in b.chunks(2 * block).enumerate() {
        let start = if i == 0 { start } else { Start::Output };
        let a = a.map(|strip| &strip[i * block..][..b.len() / 2]);
        for (half, b) in b.chunks_exact(b.len() / 2).enumerate().take(halves) {
            for (rows, a) in a.iter().enumerate().take(tile.rows.div_ceil(STRIP)) {
                // SAFETY: forwarded.
                unsafe {
                    multiply(&mut sums, &a[1..], &b[1..]);
                    write(tile, start, [rows, half], &sums, [&a[0], &b[0]]);
                }
            }
        }
    }
}

/// What one in the sum of most significant bytes is worth, where a row's and a column's scale are 32 times that.
const WORTH: f32 = 1.0 / 1024.0;

/// Adds a quarter of a tile up, from its sums and the scales of its rows and columns.
///
/// # Safety
/// AVX-512F; the tile is writable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn write(tile: Tile, start: Start<'_>, [rows, half]: [usize; 2], sums: &Sums, scales: [&Line; 2]) {
    let (mask, first_row, first_column) = (tile.mask(half), rows * STRIP, half * STRIP);
    let rows = (tile.rows - first_row).min(STRIP);
    let at = tile.at.wrapping_add(first_row * tile.stride + first_column);
    let (from, from_stride) = tile.start_rows(start);
    let from = from.wrapping_add(first_row * from_stride + first_column);
    // SAFETY: what is read and written of the tile and its start is masked to the tile, which is the caller's; a full
    // quarter is all the tile's, and a bias is as long.
    unsafe {
        if rows < STRIP || mask != u16::MAX {
            for (row, (sums, scale)) in sums.iter().zip(&scales[0].0).enumerate().take(rows) {
                let start = _mm512_maskz_loadu_ps(mask, from.wrapping_add(row * from_stride));
                let value = scaled(sums, *scale, scales[1], start);
                _mm512_mask_storeu_ps(at.wrapping_add(row * tile.stride), mask, value);
            }
        } else if let Start::Output = start {
            for (row, (sums, scale)) in sums.iter().zip(&scales[0].0).enumerate() {
                let at = at.add(row * tile.stride);
                _mm512_storeu_ps(at, scaled(sums, *scale, scales[1], _mm512_loadu_ps(at)));
            }
        } else {
            let start = _mm512_loadu_ps(from);
            for (row, (sums, scale)) in sums.iter().zip(&scales[0].0).enumerate() {
                let at = at.add(row * tile.stride);
                // The line is loaded for nothing: loads fetch it ahead, stores wait for it one after the other (5 to 8 %).
                std::arch::asm!("/* {} */", in(zmm_reg) _mm512_loadu_ps(at), options(nostack, nomem));
                _mm512_storeu_ps(at, scaled(sums, *scale, scales[1], start));
            }
        }
    }
}

/// `start` and a row's sums by their weights, times the scales of the row and the columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(sums: &[Line; PARTS], of_row: u32, of_columns: &Line, start: __m512) -> __m512 {
    // SAFETY: a line is 64 bytes, aligned to 64.
    let load = |line: &Line| unsafe { _mm512_load_si512((&raw const *line).cast()) };
    let [high, middle, low] = sums;
    let (second, third) = (_mm512_set1_ps(2f32.powi(-8)), _mm512_set1_ps(2f32.powi(-16)));
    let (high, middle) = (_mm512_cvtepi32_ps(load(high)), _mm512_cvtepi32_ps(load(middle)));
    let low = _mm512_cvtepi32_ps(load(low));
    let sum = _mm512_fmadd_ps(low, third, _mm512_fmadd_ps(middle, second, high));
    let of_columns = _mm512_mul_ps(_mm512_castsi512_ps(load(of_columns)), _mm512_set1_ps(WORTH));
    _mm512_fmadd_ps(_mm512_mul_ps(sum, of_columns), _mm512_set1_ps(f32::from_bits(of_row)), start)
}

/// The sums of 16 by 16 products along a block.
///
/// # Safety
/// AMX-INT8; tile registers are configured.
#[inline]
unsafe fn multiply(sums: &mut Sums, a: &[Line], b: &[Line]) {
    assert!(!a.is_empty() && a.len() == b.len() && a.len().is_multiple_of(PARTS * STRIP));
    // SAFETY: reads the lines of `a` and `b`, writes all of `sums`.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "2:",
            "tileloadd tmm3, [{a} + {line}]",
            "tileloadd tmm5, [{b} + {line} + 2048]",
            "tdpbssd tmm2, tmm3, tmm5",
            "tileloadd tmm6, [{b} + {line} + 1024]",
            "tdpbssd tmm1, tmm3, tmm6",
            "tileloadd tmm4, [{a} + {line} + 1024]",
            "tdpbssd tmm2, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line}]",
            "tdpbssd tmm0, tmm3, tmm7",
            "tileloadd tmm5, [{a} + {line} + 2048]",
            "tdpbssd tmm2, tmm5, tmm7",
            "tdpbssd tmm1, tmm4, tmm7",
            "add {a}, 3072",
            "add {b}, 3072",
            "cmp {a}, {end}",
            "jne 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1",
            "tilestored [{sums} + {row} + 128], tmm2",
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            end = in(reg) a.as_ptr().add(a.len()),
            sums = in(reg) sums.as_mut_ptr(),
            line = in(reg) size_of::<Line>(),
            row = in(reg) size_of::<[Line; PARTS]>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
