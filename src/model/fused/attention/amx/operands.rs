//! Operands of attention's products as AMX reads them, and the products.
//!
//! A *strip* is 16 rows of a left operand, or 16 columns of a right one, along the whole depth; a tile is 32 of depth.
//! What a pair of bfloat16 holds is `depth` and `depth + 16`: the halves of two registers side by side, whichever way the
//! source runs. A number has `PARTS` of them, in tiles of their own: one, rounded to nearest, or three, whose sum it is.
//! Of the nine products of three parts by three six are added up, the small ones first. The largest left out is below
//! 2^-23 of the product and has either sign, so that sums are as exact as those of single precision.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::vectors::{read, write};
use crate::model::fused::matmul::packed::bf16::in_turn;
use crate::model::fused::matmul::packed::lines::Line;
use crate::model::fused::matmul::packed::pack::{first_lanes, transpose};
use crate::model::fused::matmul::{Mat, MatMut};

/// Numbers in a register, lines of a tile, lanes of a strip.
pub const STRIP: usize = 16;

/// Rows and columns of a product, and depth of a tile.
pub const BLOCK: usize = 2 * STRIP;

/// A tile register's content.
pub type Tile = [Line; STRIP];

/// 32 rows of 32 sums: two lines a row.
pub type Sums = [Line; 2 * BLOCK];

pub const ZERO_SUMS: Sums = [Line([0; STRIP]); 2 * BLOCK];

/// Blocks that cover so many rows or columns.
pub fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// An operand in strips, padded with zeros to whole blocks.
#[derive(Default)]
pub struct Operand<const PARTS: usize> {
    /// Tiles of a strip.
    depth: usize,
    tiles: Vec<[Tile; PARTS]>,
}

impl<const PARTS: usize> Operand<PARTS> {
    /// Makes room for so many strips of this depth in tiles; the content is unspecified.
    pub fn reshape(&mut self, strips: usize, depth: usize) {
        self.depth = depth;
        if self.tiles.len() < strips * depth {
            self.tiles.resize(strips * depth, [[Line::default(); STRIP]; PARTS]);
        }
    }

    /// The two strips of a block.
    pub fn block(&self, block: usize) -> [&[[Tile; PARTS]]; 2] {
        let (upper, lower) = self.tiles[2 * block * self.depth..][..2 * self.depth].split_at(self.depth);
        [upper, lower]
    }

    /// The same, writable.
    pub fn block_mut(&mut self, block: usize) -> [&mut [[Tile; PARTS]]; 2] {
        let strips = &mut self.tiles[2 * block * self.depth..][..2 * self.depth];
        let (upper, lower) = strips.split_at_mut(self.depth);
        [upper, lower]
    }

    /// Takes the values of a left operand `(rows, depth)`, times `factor`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn pack_left(&mut self, of: Mat<'_>, factor: f32) {
        if of.rows_are_contiguous() {
            self.pack_along(of, factor, false);
        } else {
            self.pack_across(of.t(), factor, true);
        }
    }

    /// Takes the values of a right operand `(depth, columns)`, times `factor`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn pack_right(&mut self, of: Mat<'_>, factor: f32) {
        if of.rows_are_contiguous() {
            self.pack_across(of, factor, false);
        } else {
            self.pack_along(of.t(), factor, true);
        }
    }

    /// Takes the values of a block of 32 lanes of `of` with lanes and depth exchanged, as block `place` of the depth.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn take_exchanged(&mut self, place: usize, of: [&[[Tile; PARTS]]; 2]) {
        for (block, (upper, lower)) in of[0].iter().zip(of[1]).enumerate() {
            let [first, second] = self.block_mut(block);
            for part in 0..PARTS {
                for line in 0..STRIP {
                    let (upper, lower) = (read(&upper[part][line]), read(&lower[part][line]));
                    write(&mut first[place][part][line], lower_halves(upper, lower));
                    write(&mut second[place][part][line], upper_halves(upper, lower));
                }
            }
        }
    }

    /// Makes of so many blocks of a left operand's rows a right operand's columns, or the reverse.
    #[target_feature(enable = "avx512f")]
    pub fn turn(&mut self, blocks: usize) {
        for tile in self.tiles[..2 * blocks * self.depth].as_flattened_mut() {
            transpose(tile);
        }
    }

    /// Lanes are the rows of `of`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_along(&mut self, of: Mat<'_>, factor: f32, transposed: bool) {
        let (rows, columns) = of.shape();
        self.reshape(2 * blocks(rows), blocks(columns));
        let strips = self.tiles.chunks_exact_mut(self.depth).take(2 * blocks(rows));
        for (strip, tiles) in strips.enumerate() {
            for (block, tile) in tiles.iter_mut().enumerate() {
                let (row, column) = (strip * STRIP, block * BLOCK);
                pack(tile, of, [(row, column), (row, column + STRIP)], factor, transposed);
            }
        }
    }

    /// Lanes are the columns of `of`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_across(&mut self, of: Mat<'_>, factor: f32, transposed: bool) {
        let (rows, columns) = of.shape();
        self.reshape(2 * blocks(columns), blocks(rows));
        let strips = self.tiles.chunks_exact_mut(self.depth).take(2 * blocks(columns));
        for (strip, tiles) in strips.enumerate() {
            for (block, tile) in tiles.iter_mut().enumerate() {
                let (row, column) = (block * BLOCK, strip * STRIP);
                pack(tile, of, [(row, column), (row + STRIP, column)], factor, transposed);
            }
        }
    }
}

/// Packs a tile from 16 rows by 16 numbers at each of two places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack<const PARTS: usize>(
    tile: &mut [Tile; PARTS],
    of: Mat<'_>,
    places: [(usize, usize); 2],
    factor: f32,
    transposed: bool,
) {
    assert!(of.rows_are_contiguous());
    let factor = _mm512_set1_ps(factor);
    let (rows, columns) = of.shape();
    // Of each place: where it starts, the rows of it that are there, and their columns.
    let there = |(row, column): (usize, usize)| match column < columns {
        true => (of.address(row, column), rows.saturating_sub(row), first_lanes(columns - column)),
        false => (of.address(0, 0), 0, 0),
    };
    let ((mut low, low_rows, low_lanes), (mut high, high_rows, high_lanes)) =
        (there(places[0]), there(places[1]));
    let stride = of.row_stride();
    for line in 0..STRIP {
        let low_lanes = if line < low_rows { low_lanes } else { 0 };
        let high_lanes = if line < high_rows { high_lanes } else { 0 };
        // SAFETY: the masks keep to the view's rows, which are contiguous.
        let of_low = unsafe { _mm512_maskz_loadu_ps(low_lanes, low) };
        // SAFETY: as above.
        let of_high = unsafe { _mm512_maskz_loadu_ps(high_lanes, high) };
        (low, high) = (low.wrapping_add(stride), high.wrapping_add(stride));
        let words = join::<PARTS>(_mm512_mul_ps(of_low, factor), _mm512_mul_ps(of_high, factor));
        put(tile, line, words);
    }
    if transposed {
        for tile in tile {
            transpose(tile);
        }
    }
}

/// Pairs of bfloat16 from the numbers of two registers, `low` in their lower half, part by part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn join<const PARTS: usize>(low: __m512, high: __m512) -> [__m512i; PARTS] {
    if PARTS == 1 {
        // SAFETY: both are 512 bits.
        let rounded = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
        return [_mm512_permutexvar_epi16(in_turn(), rounded); PARTS];
    }
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // The largest part is cut off, not rounded, so that it is finite where the number is.
    let (low_0, high_0) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
    let low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_and_si512(low_0, upper)));
    let high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_and_si512(high_0, upper)));
    let half = _mm512_set1_epi32(0x8000);
    let (low_1, high_1) =
        (_mm512_add_epi32(_mm512_castps_si512(low), half), _mm512_add_epi32(_mm512_castps_si512(high), half));
    let low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_and_si512(low_1, upper)));
    let high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_and_si512(high_1, upper)));
    let mut words = [_mm512_setzero_si512(); PARTS];
    words[0] = upper_halves(low_0, high_0);
    words[1] = upper_halves(low_1, high_1);
    words[2] = upper_halves(_mm512_castps_si512(low), _mm512_castps_si512(high));
    words
}

const ODD: u32 = 0xaaaa_aaaa;

/// Pairs of the upper halves of two registers' words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn upper_halves(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(low), high)
}

/// Pairs of the lower halves of two registers' words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn lower_halves(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(ODD, low, _mm512_slli_epi32::<16>(high))
}

/// Writes a line of each part's tile.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn put<const PARTS: usize>(tiles: &mut [Tile; PARTS], line: usize, words: [__m512i; PARTS]) {
    for part in 0..PARTS {
        write(&mut tiles[part][line], words[part]);
    }
}

/// What a product does with what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Replaces it.
    Nothing,
    /// Adds to it.
    Itself,
}

/// The product of two strips each, step by step along the depth: the steps are given in tile registers 0 to 3 for the
/// sums, from the strips `a0`, `a1`, `b0`, `b1`, whose tiles are `line` apart line by line.
macro_rules! product {
    ($out:expr, $onto:expr, $left:expr, $right:expr, $tiles:expr, bytes $bytes:literal, $($step:literal,)*) => {
        std::arch::asm!(
            "test {add}, {add}",
            "jnz 4f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "4:",
            "tileloadd tmm0, [{upper} + {row}]",
            "tileloadd tmm1, [{upper} + {row} + 64]",
            "tileloadd tmm2, [{lower} + {row}]",
            "tileloadd tmm3, [{lower} + {row} + 64]",
            "2:",
            $($step,)*
            concat!("add {a0}, ", $bytes),
            concat!("add {a1}, ", $bytes),
            concat!("add {b0}, ", $bytes),
            concat!("add {b1}, ", $bytes),
            "dec {tiles}",
            "jnz 2b",
            "tilestored [{upper} + {row}], tmm0",
            "tilestored [{upper} + {row} + 64], tmm1",
            "tilestored [{lower} + {row}], tmm2",
            "tilestored [{lower} + {row} + 64], tmm3",
            add = in(reg) ($onto == Onto::Itself) as usize,
            upper = in(reg) $out.at,
            lower = in(reg) $out.at.wrapping_add(STRIP * $out.stride),
            row = in(reg) $out.stride * size_of::<f32>(),
            line = in(reg) size_of::<Line>(),
            a0 = inout(reg) $left[0].as_ptr() => _,
            a1 = inout(reg) $left[1].as_ptr() => _,
            b0 = inout(reg) $right[0].as_ptr() => _,
            b1 = inout(reg) $right[1].as_ptr() => _,
            tiles = inout(reg) $tiles => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Where a product goes: 32 rows of 32 numbers, so far apart.
pub struct Square<'a> {
    at: *mut f32,
    stride: usize,
    borrowed: PhantomData<&'a mut f32>,
}

impl<'a> From<&'a mut Sums> for Square<'a> {
    fn from(sums: &'a mut Sums) -> Self {
        Self { at: sums.as_mut_ptr().cast(), stride: BLOCK, borrowed: PhantomData }
    }
}

impl<'a> Square<'a> {
    /// The block of an output where it has all of it.
    pub fn of(out: &'a mut MatMut<'_>, row: usize, column: usize) -> Option<Self> {
        let (rows, columns) = out.shape();
        let stride = out.row_stride();
        (row + BLOCK <= rows && column + BLOCK <= columns).then(|| Self {
            at: out.address(row, column),
            stride,
            borrowed: PhantomData,
        })
    }
}

/// `out = left · right`, a block of each.
///
/// # Safety
/// The tile registers are configured.
pub unsafe fn multiply<const PARTS: usize>(
    out: Square<'_>,
    onto: Onto,
    left: [&[[Tile; PARTS]]; 2],
    right: [&[[Tile; PARTS]]; 2],
) {
    let tiles = left[0].len();
    assert!(left[1].len() == tiles && right[0].len() == tiles && right[1].len() == tiles && tiles > 0);
    // SAFETY: reads so many tiles of each part from the four strips, reads and writes all of the square,
    // which is borrowed exclusively.
    unsafe {
        if PARTS == 1 {
            product!(
                out, onto, left, right, tiles, bytes 1024,
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            );
        } else {
            assert!(PARTS == 3);
            // Third by first part, second by first, second by second, first by second, first by third, first by first.
            product!(
                out, onto, left, right, tiles, bytes 3072,
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm4, [{a0} + {line} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line} + 2048]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {line} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line} + 2048]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            );
        }
    }
}
