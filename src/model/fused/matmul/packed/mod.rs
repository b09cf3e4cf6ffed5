//! Products of packed operands, by the instructions that x86-64 has for bfloat16 and for bytes.

pub mod bf16;
mod fixed;
pub mod lines;
pub mod pack;
pub mod tiles;

use std::arch::x86_64::__cpuid_count;
use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Write;
use super::view::{Mat, MatMut};
use bf16::Bf16;
use fixed::Fixed;
use lines::{Line, Lines};
use pack::{Format, STRIP};
use tiles::{AmxTiles, COLUMNS, Start, Tile};

/// How packed operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Rounded to bfloat16, by `vdpbf16ps` of AVX512-BF16.
    Avx512,
    /// Rounded to bfloat16, by `tdpbf16ps` of AMX-BF16.
    Amx,
    /// In single precision: each number in fixed point of three bytes, by `tdpbssd` of AMX-INT8.
    AmxFixed,
}

impl Method {
    /// Those of this machine, the fastest of each precision first.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Method>> = OnceLock::new();
        ALL.get_or_init(|| {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512bf16");
            let amx = avx512 && has_amx() && may_use_amx();
            let all = [(amx, Self::Amx), (amx, Self::AmxFixed), (avx512, Self::Avx512)];
            all.into_iter().filter_map(|(there, which)| there.then_some(which)).collect()
        })
    }
}

/// Whether the processor has AMX tiles with products of bfloat16 and of bytes (leaf 7: EDX bits 24, 22 and 25), which
/// all have that have any.
fn has_amx() -> bool {
    const ALL: u32 = 1 << 24 | 1 << 22 | 1 << 25;
    __cpuid_count(7, 0).edx & ALL == ALL
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
    /// Takes the values of `of`, on the calling thread or on all of the pool.
    pub fn pack(&mut self, method: Method, of: Mat<'_>, across_threads: bool) {
        assert!(Method::all().contains(&method), "packed for {method:?}, which is not of this machine");
        match method {
            Method::Avx512 | Method::Amx => self.pack_as::<Bf16>(of, across_threads),
            Method::AmxFixed => self.pack_as::<Fixed>(of, across_threads),
        }
    }

    fn pack_as<F: Format>(&mut self, of: Mat<'_>, across_threads: bool) {
        const PANELS: usize = 4;
        (self.depth, self.columns) = (of.rows, of.cols);
        let panel = 2 * F::strip_lines(of.rows);
        let lines = self.lines.at_least(of.cols.div_ceil(COLUMNS) * panel);
        // SAFETY: all methods that there are include AVX512-BF16.
        let pack = |lines: &mut [Line], of: Mat<'_>| unsafe { pack::columns::<F>(lines, of) };
        if across_threads && panel > 0 {
            let pieces = lines.par_chunks_mut(panel * PANELS).enumerate().with_max_len(1);
            pieces.for_each(|(i, lines)| {
                let first = i * PANELS * COLUMNS;
                pack(lines, of.columns(first, (of.cols - first).min(PANELS * COLUMNS)));
            });
        } else {
            pack(lines, of);
        }
    }
}

/// Lines of panels that all rows pass before the next panels' turn: a megabyte, half of the second-level cache, so that
/// the right operand, which is the larger one of most products, comes from memory once.
const GROUP_LINES: usize = 16384;

/// Lines of packed rows of the left operand at a time where panels come in several groups: 4 MB, which each group reads
/// anew from the third-level cache. With a single group 32 rows at a time are enough, which stay in the first.
const BLOCK_LINES: usize = 65536;

thread_local! {
    /// The left operand of the product at hand; kept from one to the next.
    static ROWS: RefCell<Lines> = RefCell::default();
}

/// `out = scale * lhs · rhs`, onto what `write` says; `rhs` was packed for this method.
pub fn product(method: Method, out: MatMut<'_>, write: Write<'_>, lhs: Mat<'_>, rhs: &Panels, scale: f32) {
    assert!(Method::all().contains(&method), "{method:?} is not of this machine");
    let sides = (lhs, rhs, scale);
    // SAFETY: the method is of this machine; tiles lie within `out`, which is borrowed exclusively.
    unsafe {
        match method {
            Method::Avx512 => {
                product_of::<Bf16>(out, write, sides, |tile, start, a, b| bf16::avx512(tile, start, a, b));
            }
            Method::Amx => {
                let tiles = AmxTiles::configure();
                product_of::<Bf16>(out, write, sides, |tile, start, a, b| {
                    bf16::amx(&tiles, tile, start, a, b)
                });
            }
            Method::AmxFixed => {
                let tiles = AmxTiles::configure();
                product_of::<Fixed>(out, write, sides, |tile, start, a, b| {
                    fixed::product(&tiles, tile, start, a, b);
                });
            }
        }
    }
}

/// Tile by tile by `multiply`, which gets the tile, what it starts from, two strips of the left operand and a panel of the
/// right one. Every tile lies within `out`.
///
/// # Safety
/// AVX512-BF16.
unsafe fn product_of<F: Format>(
    out: MatMut<'_>,
    write: Write<'_>,
    (lhs, rhs, scale): (Mat<'_>, &Panels, f32),
    multiply: impl Fn(Tile, Start<'_>, [&[Line]; 2], &[Line]),
) {
    assert_eq!((lhs.rows, rhs.columns, lhs.cols), (out.rows, out.cols, rhs.depth), "shapes of a product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let mut packed = ROWS.take();
    let (panel_lines, panels) = (2 * F::strip_lines(lhs.cols), out.cols.div_ceil(COLUMNS));
    for first_k in (0..lhs.cols.max(1)).step_by(F::DEEPEST) {
        let end_k = lhs.cols.min(first_k + F::DEEPEST);
        let [first_line, end_line] = [first_k, end_k].map(F::strip_lines);
        let strip = end_line - first_line;
        let lhs = lhs.columns(first_k, end_k - first_k);
        let group = (GROUP_LINES / (2 * strip).max(1)).clamp(1, panels);
        // A tile takes two strips, of which the second may be padding.
        let most = if group == panels { 1 } else { (BLOCK_LINES / strip / 2).max(1) } * 2 * STRIP;
        for first in (0..out.rows).step_by(most) {
            let rows = (out.rows - first).min(most);
            let lines = packed.at_least(rows.div_ceil(2 * STRIP) * 2 * strip);
            let (used, padding) = lines.split_at_mut(rows.div_ceil(STRIP) * strip);
            // SAFETY: forwarded.
            unsafe { pack::rows::<F>(used, lhs.rows_from(first, rows), scale) };
            padding.fill(Line::default());
            for group in (0..panels).step_by(group).map(|panel| panel..(panel + group).min(panels)) {
                for row in (0..rows).step_by(2 * STRIP) {
                    let (upper, lower) = lines[row / STRIP * strip..][..2 * strip].split_at(strip);
                    let tile = |panel: usize| {
                        let column = panel * COLUMNS;
                        let at = out.data.as_ptr().wrapping_add((first + row) * out.row_stride + column);
                        Tile {
                            at: at.cast_mut(),
                            stride: out.row_stride,
                            rows: (rows - row).min(2 * STRIP),
                            columns: (out.cols - column).min(COLUMNS),
                        }
                    };
                    for panel in group.clone() {
                        if panel + 1 < group.end {
                            tile(panel + 1).announce();
                        }
                        let (tile, column) = (tile(panel), panel * COLUMNS);
                        let start = match write {
                            _ if first_k > 0 => Start::Output,
                            Write::Store => Start::Zero,
                            Write::Add => Start::Output,
                            Write::Bias(bias) => Start::Bias(&bias[column..column + tile.columns]),
                        };
                        let b = &rhs.lines[panel * panel_lines..][2 * first_line..2 * end_line];
                        multiply(tile, start, [upper, lower], b);
                    }
                }
            }
        }
    }
    ROWS.set(packed);
}
