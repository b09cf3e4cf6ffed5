//! Products of bfloat16: operands rounded to it, by AVX512-BF16 or AMX-BF16.
//!
//! A block is a tile of 32 k: 16 lines of 16 pairs `(k, k + 1)`. A line is a lane of the left operand (16 pairs of it), or
//! a pair of the right one (16 lanes of it). Each kernel runs along the whole depth with the sums in registers; products
//! of bfloat16 are exact in single precision, and sums are rounded to it.

use std::arch::x86_64::*;

use super::lines::Line;
use super::pack::{Format, STRIP, Source, transpose};
use super::tiles::{AmxTiles, COLUMNS, Start, Tile};

/// Numbers rounded to bfloat16, to nearest with ties to even.
pub struct Bf16;

impl Format for Bf16 {
    const BLOCK: usize = 32;
    const REST: usize = 0;
    /// 96 kB of a strip.
    const DEEPEST: usize = 3072;

    fn block_lines(_depth: usize) -> usize {
        STRIP
    }

    /// # Safety
    /// AVX512-BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack(out: &mut [Line], from: Source<'_>, first: usize, scale: f32, transposed: bool) {
        let factor = _mm512_set1_ps(scale);
        let depth = Self::block_depth(from.depth - first);
        let lines = if from.along_depth() { from.lanes } else { depth.div_ceil(2) };
        out[lines..].fill(Line::default());
        // SAFETY: a line is 64 bytes, aligned to 64.
        let store = |line: &mut Line, value| unsafe { _mm512_store_si512((&raw mut *line).cast(), value) };
        if from.along_depth() {
            let (low, high) = (depth.min(16), depth.saturating_sub(16));
            for (lane, line) in out.iter_mut().enumerate().take(lines) {
                // SAFETY: AVX-512F is on.
                let (low, high) = unsafe { (from.load(lane, first, low), from.load(lane, first + 16, high)) };
                from.announce(lane + STRIP, first);
                from.announce(lane + STRIP, first + 16);
                store(line, rounded(_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor)));
            }
        } else {
            let in_turn = in_turn();
            for (pair, line) in out.iter_mut().enumerate().take(lines) {
                let k = first + 2 * pair;
                let odd = if 2 * pair + 1 < depth { from.lanes } else { 0 };
                // SAFETY: AVX-512F is on.
                let (low, high) = unsafe { (from.load(0, k, from.lanes), from.load(0, k + 1, odd)) };
                from.announce(0, k + Self::BLOCK);
                from.announce(0, k + Self::BLOCK + 1);
                let rounded = rounded(_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor));
                store(line, _mm512_permutexvar_epi16(in_turn, rounded));
            }
        }
        if transposed {
            transpose(out);
        }
    }
}

/// `low` behind `high`, in bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Element `2 i` from the low half, `2 i + 1` from the high half, of 16 bits each.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn in_turn() -> __m512i {
    const ORDER: Line = {
        let mut order = Line([0; 16]);
        let mut pair = 0;
        while pair < 16 {
            order.0[pair] = (pair | (16 + pair) << 16) as u32;
            pair += 1;
        }
        order
    };
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(&ORDER).cast()) }
}

/// Rows of a tile by AVX512-BF16: their sums fill half of the registers, which is more than the processor has on the way.
pub const AVX512_ROWS: usize = 8;

/// A tile of at most [`AVX512_ROWS`] rows, from row `first` of a strip on, by AVX512-BF16.
///
/// # Safety
/// AVX512-BF16; the tile is writable; `b` holds twice as many lines as `a`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn avx512(tile: Tile, start: Start<'_>, a: &[Line], first: usize, b: &[Line]) {
    let tiles = a.len() / STRIP;
    assert!(b.len() >= 2 * tiles * STRIP && first + AVX512_ROWS <= STRIP && tile.rows <= AVX512_ROWS);
    // SAFETY: within the lines just checked; the tile is the caller's.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
        let (a, b) = (a.as_ptr().cast::<i32>().add(first * 16), b.as_ptr().cast::<i32>());
        let pairs = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
        for k in 0..tiles {
            for pair in 0..STRIP {
                let b = b.add(k * 512 + pair * 16);
                let b = [pairs(_mm512_load_si512(b.cast())), pairs(_mm512_load_si512(b.add(256).cast()))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = pairs(_mm512_set1_epi32(*a.add(k * 256 + row * 16 + pair)));
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, b[0]);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, b[1]);
                }
            }
        }
        tile.write(start, sums);
    }
}

/// 32 rows by 32 columns by AMX-BF16.
///
/// # Safety
/// The tile is writable; the tile registers of `_tiles` are those of this thread.
#[inline]
pub unsafe fn amx(_tiles: &AmxTiles, tile: Tile, start: Start<'_>, a: [&[Line]; 2], b: &[Line]) {
    let tiles = a[0].len() / STRIP;
    assert!(a[1].len() == a[0].len() && b.len() >= 2 * a[0].len());
    if tile.rows == 2 * STRIP && tile.columns == COLUMNS {
        let (from, from_stride) = tile.start_rows(start);
        // SAFETY: a full tile, starting from rows as long as it.
        unsafe { multiply(tile.at, tile.stride, from, from_stride, a, b, tiles) };
        return;
    }
    let mut whole = [[0f32; COLUMNS]; 2 * STRIP];
    let at = whole.as_mut_ptr().cast::<f32>();
    let (from, from_stride) = tile.start_rows(start);
    // SAFETY: `whole` is a full tile; its part within the output is the caller's, and so long are the rows it starts from.
    unsafe {
        for (row, values) in whole.iter_mut().enumerate().take(tile.rows) {
            let from = from.wrapping_add(row * from_stride);
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), tile.columns);
        }
        multiply(at, COLUMNS, at, COLUMNS, a, b, tiles);
        for (row, values) in whole.iter().enumerate().take(tile.rows) {
            std::ptr::copy_nonoverlapping(values.as_ptr(), tile.at.add(row * tile.stride), tile.columns);
        }
    }
}

/// Sums of 32 rows by 32 columns in tiles 0 to 3, started from memory and stored.
///
/// # Safety
/// 32 rows of 32 values are writable at `out` and readable at `from`, rows the strides apart; tile registers are
/// configured; `a` and `b` hold `tiles` tiles, `b` twice.
#[inline]
unsafe fn multiply(
    out: *mut f32,
    stride: usize,
    from: *const f32,
    from_stride: usize,
    a: [&[Line]; 2],
    b: &[Line],
    tiles: usize,
) {
    // SAFETY: reads and writes what the caller vouches for.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{from} + {from_bytes}]",
            "tileloadd tmm1, [{from} + {from_bytes} + 64]",
            "tileloadd tmm2, [{below} + {from_bytes}]",
            "tileloadd tmm3, [{below} + {from_bytes} + 64]",
            "test {tiles}, {tiles}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{a0} + {line}]",
            "tileloadd tmm6, [{b} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b}, 2048",
            "dec {tiles}",
            "jnz 2b",
            "3:",
            "tilestored [{out} + {bytes}], tmm0",
            "tilestored [{out} + {bytes} + 64], tmm1",
            "tilestored [{out_below} + {bytes}], tmm2",
            "tilestored [{out_below} + {bytes} + 64], tmm3",
            from = in(reg) from,
            below = in(reg) from.wrapping_add(16 * from_stride),
            from_bytes = in(reg) from_stride * 4,
            out = in(reg) out,
            out_below = in(reg) out.wrapping_add(16 * stride),
            bytes = in(reg) stride * 4,
            line = in(reg) 64usize,
            a0 = inout(reg) a[0].as_ptr() => _,
            a1 = inout(reg) a[1].as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            tiles = inout(reg) tiles => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
