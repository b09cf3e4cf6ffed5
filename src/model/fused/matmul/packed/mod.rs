//! Products of packed bfloat16 operands, by the instructions that x86-64 has for them.

mod lines;
mod pack;
mod tiles;

use std::arch::x86_64::__cpuid_count;
use std::cell::RefCell;
use std::sync::OnceLock;

use super::Write;
use super::view::{Mat, MatMut};
use lines::{Line, Lines};
use pack::STRIP;
use tiles::{AmxTiles, COLUMNS, Start, Tile};

/// Instructions for bfloat16 products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// `vdpbf16ps` of AVX512-BF16.
    Avx512,
    /// `tdpbf16ps` of AMX-BF16.
    Amx,
}

impl Instructions {
    /// Those of this machine, the fastest first.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Instructions>> = OnceLock::new();
        ALL.get_or_init(|| {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512bf16");
            let amx = avx512 && has_amx() && may_use_amx();
            let all = [(amx, Self::Amx), (avx512, Self::Avx512)];
            all.into_iter().filter_map(|(there, which)| there.then_some(which)).collect()
        })
    }
}

/// Whether the processor has AMX tiles with bfloat16 products (leaf 7: EDX bits 24 and 22).
fn has_amx() -> bool {
    let bits = __cpuid_count(7, 0).edx;
    bits & (1 << 24) != 0 && bits & (1 << 22) != 0
}

/// Asks Linux for the tile registers, which a process gets on request only.
#[cfg(target_os = "linux")]
fn may_use_amx() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: asks for leave; no memory is involved.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Elsewhere nobody has been asked yet.
#[cfg(not(target_os = "linux"))]
fn may_use_amx() -> bool {
    false
}

/// A right operand in panels of 32 columns.
#[derive(Default)]
pub struct Panels {
    depth: usize,
    columns: usize,
    lines: Lines,
}

impl Panels {
    /// Takes the values of `of`, rounded to bfloat16.
    pub fn pack(&mut self, of: Mat<'_>) {
        assert!(!Instructions::all().is_empty(), "packed for a machine without bfloat16 products");
        (self.depth, self.columns) = (of.rows, of.cols);
        let lines = self.lines.at_least(of.cols.div_ceil(COLUMNS) * 2 * pack::strip_lines(of.rows));
        // SAFETY: all instructions that there are include AVX512-BF16.
        unsafe { pack::columns(lines, of) };
    }
}

/// Lines of packed rows of the left operand at a time: half a megabyte, which stays in the second-level cache
/// while all panels pass.
const BLOCK_LINES: usize = 8192;

thread_local! {
    /// The left operand of the product at hand; kept from one to the next.
    static ROWS: RefCell<Lines> = RefCell::default();
}

/// `out = scale * lhs · rhs`, onto what `write` says.
pub fn product(
    instructions: Instructions,
    out: MatMut<'_>,
    write: Write<'_>,
    lhs: Mat<'_>,
    rhs: &Panels,
    scale: f32,
) {
    assert_eq!((lhs.rows, rhs.columns, lhs.cols), (out.rows, out.cols, rhs.depth), "shapes of a product");
    assert!(Instructions::all().contains(&instructions), "{instructions:?} is not of this machine");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let mut packed = ROWS.take();
    let strip = pack::strip_lines(lhs.cols);
    // An AMX tile takes two strips, of which the second may be padding.
    let most = (BLOCK_LINES / strip.max(1) / 2).clamp(1, out.rows.div_ceil(2 * STRIP)) * 2 * STRIP;
    // SAFETY: the instructions are of this machine.
    let amx = (instructions == Instructions::Amx).then(|| unsafe { AmxTiles::configure() });
    for first in (0..out.rows).step_by(most) {
        let rows = (out.rows - first).min(most);
        let lines = packed.at_least(rows.div_ceil(2 * STRIP) * 2 * strip);
        let (used, padding) = lines.split_at_mut(rows.div_ceil(STRIP) * strip);
        // SAFETY: all instructions that there are include AVX512-BF16.
        unsafe { pack::rows(used, lhs.rows_from(first, rows), scale) };
        padding.fill(Line::default());
        for panel in 0..out.cols.div_ceil(COLUMNS) {
            let column = panel * COLUMNS;
            let columns = (out.cols - column).min(COLUMNS);
            let b = &rhs.lines[panel * 2 * strip..][..2 * strip];
            let start = match write {
                Write::Store => Start::Zero,
                Write::Add => Start::Output,
                Write::Bias(bias) => Start::Bias(&bias[column..column + columns]),
            };
            let tile = |row: usize, most: usize| Tile {
                at: out.data.as_ptr().wrapping_add((first + row) * out.row_stride + column).cast_mut(),
                stride: out.row_stride,
                rows: most.min(rows - row),
                columns,
            };
            if let Some(amx) = &amx {
                for row in (0..rows).step_by(2 * STRIP) {
                    let (upper, lower) = lines[row / STRIP * strip..][..2 * strip].split_at(strip);
                    // SAFETY: the tile lies within `out`, which is borrowed exclusively.
                    unsafe { amx.product(tile(row, 2 * STRIP), start, [upper, lower], b) };
                }
            } else {
                for row in (0..rows).step_by(8) {
                    let a = &lines[row / STRIP * strip..][..strip];
                    // SAFETY: likewise; the instructions are of this machine.
                    unsafe { tiles::avx512::<8>(tile(row, 8), start, a, row % STRIP, b) };
                }
            }
        }
    }
    ROWS.set(packed);
}
