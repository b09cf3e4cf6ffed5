//! Products of single-precision numbers as they are, by AVX-512.
//!
//! A block is 16 k deep: a line of either operand holds the 16 lanes of a strip at one k. So an operand that runs along its
//! lanes is only copied, and a kernel reads one line after the other.

use std::arch::x86_64::*;
use std::ops::Range;

use super::lines::Line;
use super::pack::{Format, STRIP, Source, TOGETHER, transpose};
use super::tiles::{Start, Tile};

/// Numbers as they are.
pub struct Single;

impl Format for Single {
    const BLOCK: usize = STRIP;
    const REST: usize = 0;
    /// As many products as are summed up in a row, one rounding behind the other, before what they give is added.
    const DEEPEST: usize = 512;

    fn block_lines(_depth: usize) -> usize {
        STRIP
    }

    /// # Safety
    /// AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn pack(out: &mut [Line], from: Source<'_>, first: usize, scale: f32, _transposed: bool) {
        let factor = _mm512_set1_ps(scale);
        let depth = Self::block_depth(from.depth - first);
        let lines = if from.along_depth() { from.lanes } else { depth };
        out[lines..].fill(Line::default());
        for (i, line) in out.iter_mut().enumerate().take(lines) {
            // SAFETY: AVX-512F is on; a line is 64 bytes, aligned to 64.
            unsafe {
                let numbers = if from.along_depth() {
                    from.announce(i + STRIP, first);
                    from.load(i, first, depth)
                } else {
                    from.announce(0, first + i + Self::BLOCK);
                    from.load(0, first + i, from.lanes)
                };
                let numbers = _mm512_castps_si512(_mm512_mul_ps(numbers, factor));
                _mm512_store_si512((&raw mut *line).cast(), numbers);
            }
        }
        if from.along_depth() {
            transpose(out);
        }
    }

    /// # Safety
    /// AVX-512F.
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_together(
        out: &mut [Line],
        lines: [Range<usize>; TOGETHER],
        from: Source<'_>,
        first: usize,
        scale: f32,
        _transposed: bool,
    ) {
        let factor = _mm512_set1_ps(scale);
        let depth = Self::block_depth(from.depth - first);
        for k in 0..depth {
            for (numbers, lines) in from.together(first + k).iter().zip(&lines) {
                // SAFETY: 16 numbers; a line is 64 bytes, aligned to 64.
                unsafe {
                    let numbers =
                        _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(numbers.as_ptr()), factor));
                    _mm512_store_si512((&raw mut out[lines.start + k]).cast(), numbers);
                }
            }
        }
        lines.into_iter().for_each(|lines| out[lines][depth..].fill(Line::default()));
    }
}

/// Rows of a tile: their sums fill half of the registers, which is more than the processor has on the way.
pub const ROWS: usize = 8;

/// A tile of at most [`ROWS`] rows, from row `first` of a strip on.
///
/// # Safety
/// AVX-512F; the tile is writable; `b` holds twice as many lines as `a`.
#[target_feature(enable = "avx512f")]
pub unsafe fn multiply(tile: Tile, start: Start<'_>, a: &[Line], first: usize, b: &[Line]) {
    let blocks = a.len() / STRIP;
    assert!(b.len() >= 2 * blocks * STRIP && first + ROWS <= STRIP && tile.rows <= ROWS);
    // SAFETY: within the lines just checked; the tile is the caller's.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        let (a, b) = (a.as_ptr().cast::<f32>().add(first), b.as_ptr().cast::<f32>());
        for block in 0..blocks {
            for k in 0..STRIP {
                let b = b.add((2 * block * STRIP + k) * STRIP);
                let b = [_mm512_load_ps(b), _mm512_load_ps(b.add(STRIP * STRIP))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add((block * STRIP + k) * STRIP + row));
                    sums[0] = _mm512_fmadd_ps(x, b[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(x, b[1], sums[1]);
                }
            }
        }
        tile.write(start, sums);
    }
}
