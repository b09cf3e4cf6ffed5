//! Tiles: of the output, and the registers that AMX has for them.

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
    /// The columns that half of the tile has.
    #[inline(always)]
    pub fn mask(&self, half: usize) -> u16 {
        first_lanes(self.columns.saturating_sub(half * STRIP))
    }

    /// Writes the sums of at most so many rows, with what they start from.
    ///
    /// # Safety
    /// AVX-512F; the tile is writable, and what it starts from readable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn write<const ROWS: usize>(&self, start: Start<'_>, sums: [[__m512; 2]; ROWS]) {
        let (from, from_stride) = self.start_rows(start);
        let masks = [self.mask(0), self.mask(1)];
        let write = |row: usize| {
            for (half, mask) in masks.into_iter().enumerate() {
                let from = from.wrapping_add(row * from_stride + half * STRIP);
                let at = self.at.wrapping_add(row * self.stride + half * STRIP);
                // SAFETY: what is read and written is masked to the tile, which is the caller's.
                unsafe {
                    let sum = _mm512_add_ps(sums[row][half], _mm512_maskz_loadu_ps(mask, from));
                    _mm512_mask_storeu_ps(at, mask, sum);
                }
            }
        };
        // Rows that are all there need no comparisons.
        if self.rows == ROWS {
            (0..ROWS).for_each(write);
        } else {
            (0..self.rows).for_each(write);
        }
    }

    /// Has the lines of a tile of so many rows fetched for writing, while another one is computed.
    #[inline(always)]
    pub fn announce<const ROWS: usize>(&self) {
        for row in 0..ROWS {
            let at = self.at.wrapping_add(row * self.stride);
            // SAFETY: a hint, which cannot fail.
            unsafe {
                std::arch::asm!("prefetchw [{at}]", "prefetchw [{at} + 64]", at = in(reg) at, options(nostack, readonly));
            }
        }
    }

    /// Where its values start from: rows so far apart, of which as much is readable as of the tile.
    #[inline(always)]
    pub fn start_rows(&self, start: Start<'_>) -> (*const f32, usize) {
        match start {
            Start::Zero => (ZEROS.as_ptr().cast(), 0),
            Start::Bias(bias) => {
                assert!(bias.len() >= self.columns, "a bias for each column");
                (bias.as_ptr(), 0)
            }
            Start::Output => (self.at.cast_const(), self.stride),
        }
    }
}

/// As many zeros as columns.
static ZEROS: [Line; 2] = [Line([0; 16]); 2];

/// AMX's tile registers, set up for products of full tiles while this lives.
pub struct AmxTiles(());

impl AmxTiles {
    /// # Safety
    /// AMX, and leave of the kernel to use it.
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
}

impl Drop for AmxTiles {
    fn drop(&mut self) {
        // SAFETY: gives the tile registers back; nothing uses them outside this type.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}
