//! What attention by vector instructions and by AMX is made of: 16 numbers at a time, each a query's or a column's.

use std::arch::x86_64::*;

use crate::model::dropout::Dropout;
use crate::model::fused::matmul::packed::lines::Line;
use crate::model::fused::matmul::packed::pack::first_lanes;
use crate::model::fused::matmul::{Mat, MatMut};
use crate::rng::dropout;

/// Numbers in a register.
pub const LANES: usize = 16;

/// 16 numbers of a row from a column on; zeros beyond the matrix.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(of: Mat<'_>, row: usize, column: usize) -> __m512 {
    assert!(of.rows_are_contiguous());
    let (rows, columns) = of.shape();
    if row >= rows || column >= columns {
        return _mm512_setzero_ps();
    }
    // SAFETY: the element is within the view, whose rows are contiguous; the mask keeps to the row.
    unsafe { _mm512_maskz_loadu_ps(first_lanes(columns - column), of.address(row, column)) }
}

/// A line's content.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn read(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512((&raw const *line).cast()) }
}

/// The same as numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn numbers(line: &Line) -> __m512 {
    _mm512_castsi512_ps(read(line))
}

/// Replaces a line's content.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn write(line: &mut Line, words: __m512i) {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512((&raw mut *line).cast(), words) };
}

/// 16 numbers of an output's row from a column on, as far as they lie within it.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(out: &mut MatMut<'_>, row: usize, column: usize, values: __m512) {
    let (rows, columns) = out.shape();
    if row < rows && column < columns {
        // SAFETY: the element is within the view, which is borrowed exclusively; the mask keeps to the row.
        unsafe { _mm512_mask_storeu_ps(out.address(row, column), first_lanes(columns - column), values) };
    }
}

/// Keys whose dropout is decided by the same hashes, two by two.
pub const KEYS: usize = 2 * LANES;

/// Pairs of so many keys, of which one is there at least. A pair's number is the counter of its hashes.
pub fn pairs(keys: usize) -> usize {
    keys / KEYS * LANES + (keys % KEYS).min(LANES)
}

/// The keys of a pair.
pub fn keys_of(pair: usize) -> [usize; 2] {
    let first = pair / LANES * KEYS + pair % LANES;
    [first, first + LANES]
}

/// Dropout of the probabilities of 16 queries.
#[derive(Clone, Copy)]
pub struct Keys {
    /// The two words of each query's key.
    words: [Line; 2],
    pub threshold: u32,
}

impl Keys {
    /// For queries with consecutive coordinates from `first_coordinate` on.
    pub fn new(drop: &Dropout, first_coordinate: u64) -> Self {
        let mut words = [Line::default(); 2];
        if drop.threshold > 0 {
            for lane in 0..LANES {
                let row = dropout::row(drop.site, first_coordinate.wrapping_add(lane as u64));
                (words[0].0[lane], words[1].0[lane]) = row;
            }
        }
        Self { words, threshold: drop.threshold }
    }

    /// The hashes of a counter: [`dropout::hash`]. Each decides two elements that are 16 apart.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn hash(&self, counter: u32) -> __m512i {
        let counter = counter.wrapping_mul(0x9e37_79b9) as i32;
        let x = _mm512_xor_si512(_mm512_set1_epi32(counter), read(&self.words[0]));
        let x = _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x));
        let x = _mm512_add_epi32(_mm512_mullo_epi32(x, _mm512_set1_epi32(0x21f0_aaad)), read(&self.words[1]));
        let x = _mm512_xor_si512(x, _mm512_srli_epi32::<15>(x));
        let x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0xd35a_2d97_u32 as i32));
        _mm512_xor_si512(x, _mm512_srli_epi32::<15>(x))
    }

    /// For which queries a counter's two elements are kept.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn keeps(&self, counter: u32) -> [__mmask16; 2] {
        let threshold = _mm512_set1_epi32((self.threshold << 16) as i32);
        let hashes = self.hash(counter);
        [
            _mm512_cmpge_epu32_mask(_mm512_slli_epi32::<16>(hashes), threshold),
            _mm512_cmpge_epu32_mask(hashes, threshold),
        ]
    }
}

/// `e^x` for `x` up to 88, as in `kernels::activations`. Inputs below -50 are taken for -50: what is a rounding of its
/// neighbours in every sum must not become a number so small that processors take a hundred cycles for it.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp(x: __m512) -> __m512 {
    const SHIFT: f32 = 12_582_912.0 + 127.0;
    // Of two numbers the second is given where one is none.
    let x = _mm512_max_ps(_mm512_set1_ps(-50.0), x);
    let log2_e = _mm512_set1_ps(std::f32::consts::LOG2_E);
    let shifted = _mm512_fmadd_ps(x, log2_e, _mm512_set1_ps(SHIFT));
    let f = _mm512_fmadd_ps(x, log2_e, _mm512_sub_ps(_mm512_set1_ps(SHIFT), shifted));
    let mut p = _mm512_set1_ps(1.326_472_7e-3);
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(9.671_513e-3));
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(5.550_733_6e-2));
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(2.402_224_2e-1));
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(std::f32::consts::LN_2 - 1.8e-7));
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(1.0));
    let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_mul_ps(p, _mm512_castsi512_ps(power))
}

/// Logarithm of a positive number to single precision (S. Moshier's `logf` of Cephes).
#[inline]
#[target_feature(enable = "avx512f")]
pub fn ln(x: __m512) -> __m512 {
    // x = 2^n (1 + t) with 1 + t from sqrt(1/2) to sqrt(2).
    const ROOT: i32 = 0x3f35_04f3;
    let bits = _mm512_castps_si512(x);
    let n = _mm512_srai_epi32::<23>(_mm512_sub_epi32(bits, _mm512_set1_epi32(ROOT)));
    let t = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(n)));
    let (t, n) = (_mm512_sub_ps(t, _mm512_set1_ps(1.0)), _mm512_cvtepi32_ps(n));
    let mut p = _mm512_set1_ps(7.037_683_6e-2);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.151_461e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.167_699_9e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.242_014_1e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.424_932_3e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.666_805_8e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(2.000_071_5e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-2.499_999_4e-1));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(3.333_333e-1));
    let square = _mm512_mul_ps(t, t);
    let mut tail = _mm512_mul_ps(_mm512_mul_ps(p, t), square);
    tail = _mm512_fmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), tail);
    tail = _mm512_fmadd_ps(square, _mm512_set1_ps(-0.5), tail);
    _mm512_fmadd_ps(n, _mm512_set1_ps(0.693_359_4), _mm512_add_ps(t, tail))
}
