//! The innermost products: a tile of the output from packed strips, for AVX512-BF16 and AMX.
//!
//! Layouts are those of the `pack` module. Each kernel runs along the whole depth with the sums in registers.
//! Products of bfloat16 are exact in single precision; sums are rounded to it.
//!
//! Of the nine products of two numbers in three parts, six are added up. Each part is 2^9 times smaller than the one
//! before, at the least, so that those left out are together below 2^-26 of the whole, a fourth of what single
//! precision rounds off.

use std::arch::x86_64::*;

use super::lines::Line;
use super::pack::{STRIP, first_lanes};

/// Columns of a panel, and so of every tile.
pub const COLUMNS: usize = 2 * STRIP;

/// What a tile starts from.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    /// One value a column, the same for all rows.
    Bias(&'a [f32]),
    /// The output's content.
    Output,
}

/// A tile of the output: `rows * columns` values from `at` on, rows `stride` apart.
#[derive(Clone, Copy)]
pub struct Tile {
    pub at: *mut f32,
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Tile {
    fn mask(&self, half: usize) -> u16 {
        first_lanes(self.columns.saturating_sub(half * STRIP))
    }

    /// Has a full tile's lines fetched for writing, while another one is computed.
    #[inline(always)]
    pub fn announce(&self) {
        for row in 0..2 * STRIP {
            let at = self.at.wrapping_add(row * self.stride);
            // SAFETY: a hint, which cannot fail.
            unsafe {
                std::arch::asm!("prefetchw [{at}]", "prefetchw [{at} + 64]", at = in(reg) at, options(nostack, readonly));
            }
        }
    }

    /// # Safety
    /// AVX-512F; the tile is readable.
    #[inline(always)]
    unsafe fn start(&self, start: Start<'_>, row: usize, half: usize) -> __m512 {
        let mask = self.mask(half);
        // SAFETY: masked to the tile, which the caller vouches for, or to the bias, as long as the tile is wide.
        unsafe {
            match start {
                Start::Zero => _mm512_setzero_ps(),
                Start::Bias(bias) => _mm512_maskz_loadu_ps(mask, bias.as_ptr().wrapping_add(half * STRIP)),
                Start::Output => {
                    _mm512_maskz_loadu_ps(mask, self.at.wrapping_add(row * self.stride + half * STRIP))
                }
            }
        }
    }

    /// # Safety
    /// AVX-512F; the tile is writable.
    #[inline(always)]
    unsafe fn store(&self, row: usize, half: usize, value: __m512) {
        let at = self.at.wrapping_add(row * self.stride + half * STRIP);
        // SAFETY: masked to the tile, which the caller vouches for.
        unsafe { _mm512_mask_storeu_ps(at, self.mask(half), value) };
    }
}

/// Rows of a tile at a time by AVX512-BF16: their sums and a pair of `b` fill half of the registers.
const AVX512_ROWS: usize = 8;

/// 32 rows by 32 columns by AVX512-BF16.
///
/// # Safety
/// AVX512-BF16; the tile is writable; `a` holds two strips, `b` twice as many lines as one.
pub unsafe fn avx512(tile: Tile, start: Start<'_>, a: [&[Line]; 2], b: &[Line]) {
    for row in (0..tile.rows).step_by(AVX512_ROWS) {
        let part = Tile {
            at: tile.at.wrapping_add(row * tile.stride),
            rows: (tile.rows - row).min(AVX512_ROWS),
            ..tile
        };
        // SAFETY: forwarded, for a part of the tile.
        unsafe {
            avx512_rows::<AVX512_ROWS>(part, start, a[row / STRIP], row % STRIP, b);
        }
    }
}

/// `R` rows from row `first` of a strip on, by AVX512-BF16.
///
/// # Safety
/// AVX512-BF16; the tile is writable; `a` and `b` hold whole tiles, `b` twice as many.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_rows<const R: usize>(tile: Tile, start: Start<'_>, a: &[Line], first: usize, b: &[Line]) {
    let tiles = a.len() / STRIP;
    assert!(b.len() >= 2 * tiles * STRIP && first + R <= STRIP && tile.rows <= R);
    // SAFETY: within the lines just checked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (row, sums) in sums.iter_mut().enumerate().take(tile.rows) {
            *sums = [tile.start(start, row, 0), tile.start(start, row, 1)];
        }
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
        for (row, sums) in sums.into_iter().enumerate().take(tile.rows) {
            tile.store(row, 0, sums[0]);
            tile.store(row, 1, sums[1]);
        }
    }
}

/// AMX's tile registers, set up for products of full tiles while this lives.
pub struct AmxTiles(());

impl AmxTiles {
    /// # Safety
    /// AMX-BF16, and leave of the kernel to use it.
    pub unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: reads the 64 bytes of the configuration.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack)) };
        Self(())
    }

    /// 32 rows by 32 columns.
    ///
    /// # Safety
    /// The tile is writable.
    #[inline]
    pub unsafe fn product<const PARTS: usize>(
        &self,
        tile: Tile,
        start: Start<'_>,
        a: [&[Line]; 2],
        b: &[Line],
    ) {
        let tiles = a[0].len() / STRIP / PARTS;
        assert!(a[1].len() == a[0].len() && b.len() >= 2 * a[0].len());
        if tile.rows == 2 * STRIP && tile.columns == COLUMNS {
            let (from, from_stride) = match start {
                Start::Zero => (ZEROS.as_ptr().cast::<f32>(), 0),
                Start::Bias(bias) => {
                    assert!(bias.len() >= COLUMNS);
                    (bias.as_ptr(), 0)
                }
                Start::Output => (tile.at.cast_const(), tile.stride),
            };
            // SAFETY: a full tile, starting from itself or from a row that was checked.
            unsafe { multiply::<PARTS>(tile.at, tile.stride, from, from_stride, a, b, tiles) };
            return;
        }
        let mut whole = [[0f32; COLUMNS]; 2 * STRIP];
        let at = whole.as_mut_ptr().cast::<f32>();
        // SAFETY: `whole` is a full tile; its part within the output is the caller's.
        unsafe {
            for (row, values) in whole.iter_mut().enumerate().take(tile.rows) {
                let values = &mut values[..tile.columns];
                match start {
                    Start::Zero => {}
                    Start::Bias(bias) => values.copy_from_slice(&bias[..tile.columns]),
                    Start::Output => {
                        let row = tile.at.add(row * tile.stride);
                        std::ptr::copy_nonoverlapping(row, values.as_mut_ptr(), values.len());
                    }
                }
            }
            multiply::<PARTS>(at, COLUMNS, at, COLUMNS, a, b, tiles);
            for (row, values) in whole.iter().enumerate().take(tile.rows) {
                std::ptr::copy_nonoverlapping(values.as_ptr(), tile.at.add(row * tile.stride), tile.columns);
            }
        }
    }
}

/// 32 zeros.
static ZEROS: [Line; 2] = [Line([0; 16]); 2];

impl Drop for AmxTiles {
    fn drop(&mut self) {
        // SAFETY: gives the tile registers back; nothing uses them outside this type.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Sums of 32 rows by 32 columns in tiles 0 to 3, started from memory, grown by these instructions for each tile
/// along the depth, and stored. Operands advance by these many bytes.
macro_rules! run {
    ($($step:literal),*; $a_bytes:literal, $b_bytes:literal, $out:ident, $stride:ident, $from:ident,
     $from_stride:ident, $a:ident, $b:ident, $tiles:ident) => {
        std::arch::asm!(
            "tileloadd tmm0, [{from} + {from_bytes}]",
            "tileloadd tmm1, [{from} + {from_bytes} + 64]",
            "tileloadd tmm2, [{below} + {from_bytes}]",
            "tileloadd tmm3, [{below} + {from_bytes} + 64]",
            "test {tiles}, {tiles}",
            "jz 3f",
            "2:",
            $($step,)*
            concat!("add {a0}, ", $a_bytes),
            concat!("add {a1}, ", $a_bytes),
            concat!("add {b}, ", $b_bytes),
            "dec {tiles}",
            "jnz 2b",
            "3:",
            "tilestored [{out} + {bytes}], tmm0",
            "tilestored [{out} + {bytes} + 64], tmm1",
            "tilestored [{out_below} + {bytes}], tmm2",
            "tilestored [{out_below} + {bytes} + 64], tmm3",
            from = in(reg) $from,
            below = in(reg) $from.wrapping_add(16 * $from_stride),
            from_bytes = in(reg) $from_stride * 4,
            out = in(reg) $out,
            out_below = in(reg) $out.wrapping_add(16 * $stride),
            bytes = in(reg) $stride * 4,
            line = in(reg) 64usize,
            a0 = inout(reg) $a[0].as_ptr() => _,
            a1 = inout(reg) $a[1].as_ptr() => _,
            b = inout(reg) $b.as_ptr() => _,
            tiles = inout(reg) $tiles => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// # Safety
/// 32 rows of 32 values are writable at `out` and readable at `from`, rows the strides apart; tiles are
/// configured; `a` and `b` hold `tiles` tiles of each part, `b` twice.
#[inline]
unsafe fn multiply<const PARTS: usize>(
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
        match PARTS {
            1 => run!(
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7";
                "1024", "2048", out, stride, from, from_stride, a, b, tiles
            ),
            // Third part by first, second by first, second by second, first by second, first by first, first by
            // third: each changes one operand, so that 14 tiles are loaded for 24 products.
            _ => run!(
                "tileloadd tmm4, [{a0} + {line} + 2048]", "tileloadd tmm5, [{a1} + {line} + 2048]",
                "tileloadd tmm6, [{b} + {line}]", "tileloadd tmm7, [{b} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {line} + 1024]", "tileloadd tmm5, [{a1} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {line} + 1024]", "tileloadd tmm7, [{b} + {line} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {line}]", "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {line}]", "tileloadd tmm7, [{b} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {line} + 2048]", "tileloadd tmm7, [{b} + {line} + 5120]",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7";
                "3072", "6144", out, stride, from, from_stride, a, b, tiles
            ),
        }
    }
}
