//! Products of operands in fixed point, a quarter of a tile after the other.
//!
//! Storing the sums of a quarter waits for its last product, and scaling them for the store; so both are done between the
//! products of the next quarter, whose sums are in other registers. In the second-level cache that is 720 GFLOP/s beside
//! 610 where a quarter is finished before the next begins, of 850 without stores.

use std::arch::x86_64::*;

use super::{Fixed, Format, Line, PARTS, STRIP, block_lines};
use crate::model::fused::matmul::packed::tiles::{AmxTiles, Start, Tile};

/// Lines of a tile of a lane's bytes, part after part.
const STEP: usize = PARTS * STRIP;

/// Sums of 16 by 16 products, row by row by weight: of 2^32, 2^24 and 2^16.
type Sums = [[Line; PARTS]; STRIP];

const ZERO_SUMS: Sums = [[Line([0; STRIP]); PARTS]; STRIP];

/// What one in the sum of most significant bytes is worth, where a row's and a column's scale are 32 times that.
const WORTH: f32 = 1.0 / 1024.0;

/// Products in their order; each quarter is written while the next is multiplied.
pub struct Products {
    _tiles: AmxTiles,
    sums: Sums,
    /// The quarter whose sums are still in registers, and whether in the second three of them.
    before: Quarter,
    in_second: bool,
}

impl Products {
    /// None yet.
    pub fn new(tiles: AmxTiles) -> Self {
        Self { _tiles: tiles, sums: ZERO_SUMS, before: Quarter::NOTHING, in_second: false }
    }

    /// The product for a tile of 32 rows by 32 columns. It is written until [`Self::finish`].
    ///
    /// # Safety
    /// AVX-512BW and AMX-INT8; the tile is writable until the products are finished; the tile registers are those of this
    /// thread; `a` holds two strips, `b` twice as many lines as one.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn add(&mut self, tile: Tile, start: Start<'_>, a: [&[Line]; 2], b: &[Line]) {
        const MOST_LINES: usize = block_lines(Fixed::BLOCK + Fixed::REST);
        assert!(a[1].len() == a[0].len() && b.len() == 2 * a[0].len());
        let (rows, halves) = (tile.rows.div_ceil(STRIP), tile.columns.div_ceil(STRIP));
        if a[0].is_empty() {
            // SAFETY: forwarded.
            unsafe { self.finish() };
            for (row, half) in (0..rows).flat_map(|row| (0..halves).map(move |half| (row, half))) {
                // SAFETY: forwarded.
                unsafe {
                    Quarter::new(tile, start, [row, half], [&Line::default(); 2]).write_all(&ZERO_SUMS)
                };
            }
        }
        let (mut from, mut start) = (0, start);
        while from < a[0].len() {
            let rest = a[0].len() - from;
            let lines = if rest > MOST_LINES { block_lines(Fixed::BLOCK) } else { rest };
            let (a, b) = (a.map(|strip| &strip[from..][..lines]), &b[2 * from..][..2 * lines]);
            for (half, b) in b.chunks_exact(lines).enumerate().take(halves) {
                for (row, a) in a.iter().enumerate().take(rows) {
                    // SAFETY: forwarded.
                    unsafe {
                        self.multiply(&a[1..], &b[1..]);
                        self.before = Quarter::new(tile, start, [row, half], [&a[0], &b[0]]);
                    }
                }
            }
            (from, start) = (from + lines, Start::Output);
        }
    }

    /// Writes what is not written yet.
    ///
    /// # Safety
    /// Those of [`Self::add`].
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn finish(&mut self) {
        // SAFETY: forwarded.
        unsafe {
            if self.in_second {
                store::<true>(&mut self.sums)
            } else {
                store::<false>(&mut self.sums)
            }
            std::mem::replace(&mut self.before, Quarter::NOTHING).write_all(&self.sums);
        }
    }

    /// Multiplies along a block, and writes the quarter before on the way.
    ///
    /// # Safety
    /// Those of [`Self::add`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn multiply(&mut self, a: &[Line], b: &[Line]) {
        self.in_second = !self.in_second;
        // SAFETY: forwarded.
        unsafe {
            if self.in_second { self.multiply_in::<true>(a, b) } else { self.multiply_in::<false>(a, b) }
        }
    }

    /// # Safety
    /// Those of [`Self::add`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn multiply_in<const SECOND: bool>(&mut self, a: &[Line], b: &[Line]) {
        let (a, b) = (a.as_chunks::<STEP>(), b.as_chunks::<STEP>());
        let (([first_a, a @ ..], []), ([first_b, b @ ..], [])) = (a, b) else {
            unreachable!("operands of whole steps, at least one")
        };
        assert!(a.len() == b.len());
        let mut steps = a.iter().zip(b);
        // SAFETY: forwarded.
        unsafe {
            zero::<SECOND>();
            step::<SECOND>(first_a, first_b);
            if SECOND {
                store::<false>(&mut self.sums)
            } else {
                store::<true>(&mut self.sums)
            }
            if let Some((a, b)) = steps.next() {
                step::<SECOND>(a, b);
            }
            self.before.write::<0>(&self.sums);
            if let Some((a, b)) = steps.next() {
                step::<SECOND>(a, b);
            }
            self.before.write::<1>(&self.sums);
            for (a, b) in steps {
                step::<SECOND>(a, b);
            }
        }
    }
}

/// Where a quarter of a tile is written, and by which scales.
struct Quarter {
    at: *mut f32,
    stride: usize,
    from: *const f32,
    from_stride: usize,
    rows: usize,
    mask: u16,
    of_rows: Line,
    of_columns: Line,
}

impl Quarter {
    /// One without rows.
    const NOTHING: Self = Self {
        at: std::ptr::null_mut(),
        stride: 0,
        from: std::ptr::null(),
        from_stride: 0,
        rows: 0,
        mask: 0,
        of_rows: Line([0; STRIP]),
        of_columns: Line([0; STRIP]),
    };

    #[inline(always)]
    fn new(tile: Tile, start: Start<'_>, [row, half]: [usize; 2], scales: [&Line; 2]) -> Self {
        let (first_row, first_column) = (row * STRIP, half * STRIP);
        let (from, from_stride) = tile.start_rows(start);
        Self {
            at: tile.at.wrapping_add(first_row * tile.stride + first_column),
            stride: tile.stride,
            from: from.wrapping_add(first_row * from_stride + first_column),
            from_stride,
            rows: (tile.rows - first_row).min(STRIP),
            mask: tile.mask(half),
            of_rows: *scales[0],
            of_columns: *scales[1],
        }
    }

    /// Writes it from its sums.
    ///
    /// # Safety
    /// AVX-512F; the quarter is writable.
    #[target_feature(enable = "avx512f")]
    unsafe fn write_all(&self, sums: &Sums) {
        // SAFETY: forwarded.
        unsafe {
            self.write::<0>(sums);
            self.write::<1>(sums);
        }
    }

    /// The upper or the lower 8 rows from their sums.
    ///
    /// # Safety
    /// AVX-512F; the quarter is writable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write<const HALF: usize>(&self, sums: &Sums) {
        const ROWS: usize = STRIP / 2;
        let first = HALF * ROWS;
        let (sums, scales) = (&sums[first..first + ROWS], &self.of_rows.0[first..first + ROWS]);
        let mut at = self.at.wrapping_add(first * self.stride);
        let mut from = self.from.wrapping_add(first * self.from_stride);
        // SAFETY: what is read and written of the tile and its start is masked to the tile, which is the caller's; a whole
        // quarter is all the tile's, and what it starts from is as long.
        unsafe {
            if self.rows == STRIP && self.mask == u16::MAX {
                for row in 0..ROWS {
                    let sum = scaled(&sums[row], scales[row], &self.of_columns, _mm512_loadu_ps(from));
                    _mm512_storeu_ps(at, sum);
                    (at, from) = (at.wrapping_add(self.stride), from.wrapping_add(self.from_stride));
                }
            } else {
                for row in 0..ROWS.min(self.rows.saturating_sub(first)) {
                    let start = _mm512_maskz_loadu_ps(self.mask, from);
                    let sum = scaled(&sums[row], scales[row], &self.of_columns, start);
                    _mm512_mask_storeu_ps(at, self.mask, sum);
                    (at, from) = (at.wrapping_add(self.stride), from.wrapping_add(self.from_stride));
                }
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

/// Calls with the numbers of the tile registers for sums, from the highest weight to the lowest, in either set. They keep
/// their content from one call to the next: nothing else uses tile registers.
macro_rules! in_set {
    ($second:expr, $call:ident!($($arguments:tt)*)) => {
        if $second { $call!("3", "4", "5", $($arguments)*) } else { $call!("0", "1", "2", $($arguments)*) }
    };
}

/// Sets the sums to zero.
///
/// # Safety
/// AMX-INT8; tile registers are configured.
#[inline(always)]
unsafe fn zero<const SECOND: bool>() {
    macro_rules! zero {
        ($high:literal, $middle:literal, $low:literal,) => {
            std::arch::asm!(
                concat!("tilezero tmm", $high),
                concat!("tilezero tmm", $middle),
                concat!("tilezero tmm", $low),
                options(nostack, nomem),
            )
        };
    }
    // SAFETY: forwarded.
    unsafe { in_set!(SECOND, zero!()) }
}

/// Adds the products of 64 k to the sums.
///
/// # Safety
/// AMX-INT8; tile registers are configured.
#[inline(always)]
unsafe fn step<const SECOND: bool>(a: &[Line; STEP], b: &[Line; STEP]) {
    macro_rules! step {
        ($high:literal, $middle:literal, $low:literal, $a:expr, $b:expr) => {
            std::arch::asm!(
                "tileloadd tmm6, [{a} + {line}]",
                "tileloadd tmm7, [{b} + {line} + 2048]",
                concat!("tdpbssd tmm", $low, ", tmm6, tmm7"),
                "tileloadd tmm7, [{b} + {line} + 1024]",
                concat!("tdpbssd tmm", $middle, ", tmm6, tmm7"),
                "tileloadd tmm6, [{a} + {line} + 1024]",
                concat!("tdpbssd tmm", $low, ", tmm6, tmm7"),
                "tileloadd tmm7, [{b} + {line}]",
                concat!("tdpbssd tmm", $middle, ", tmm6, tmm7"),
                "tileloadd tmm6, [{a} + {line} + 2048]",
                concat!("tdpbssd tmm", $low, ", tmm6, tmm7"),
                "tileloadd tmm6, [{a} + {line}]",
                concat!("tdpbssd tmm", $high, ", tmm6, tmm7"),
                a = in(reg) $a.as_ptr(),
                b = in(reg) $b.as_ptr(),
                line = in(reg) size_of::<Line>(),
                options(nostack, readonly),
            )
        };
    }
    // SAFETY: forwarded; reads the lines of `a` and `b`.
    unsafe { in_set!(SECOND, step!(a, b)) }
}

/// Stores the sums.
///
/// # Safety
/// AMX-INT8; tile registers are configured.
#[inline(always)]
unsafe fn store<const SECOND: bool>(sums: &mut Sums) {
    macro_rules! store {
        ($high:literal, $middle:literal, $low:literal, $sums:expr) => {
            std::arch::asm!(
                concat!("tilestored [{sums} + {row} + 128], tmm", $low),
                concat!("tilestored [{sums} + {row} + 64], tmm", $middle),
                concat!("tilestored [{sums} + {row}], tmm", $high),
                sums = in(reg) $sums.as_mut_ptr(),
                row = in(reg) size_of::<[Line; PARTS]>(),
                options(nostack),
            )
        };
    }
    // SAFETY: forwarded; writes all of `sums`.
    unsafe { in_set!(SECOND, store!(sums)) }
}
