//! Products of packed operands, by the instructions that x86-64 has for bfloat16.

mod lines;
mod pack;
mod tiles;

use std::arch::x86_64::__cpuid_count;
use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Write;
use super::view::{Mat, MatMut};
use lines::{Line, Lines};
use pack::{DEPTH, STRIP};
use tiles::{AmxTiles, COLUMNS, Start, Tile};

/// How packed operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Rounded to bfloat16, by `vdpbf16ps` of AVX512-BF16.
    Avx512,
    /// Rounded to bfloat16, by `tdpbf16ps` of AMX-BF16.
    Amx,
    /// In single precision: each number as the sum of three in bfloat16, by `tdpbf16ps` of AMX-BF16. A product is
    /// six of its, which are sixteen times as fast as those of single precision.
    AmxParts,
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
            let all = [(amx, Self::Amx), (amx, Self::AmxParts), (avx512, Self::Avx512)];
            all.into_iter().filter_map(|(there, which)| there.then_some(which)).collect()
        })
    }

    /// Bfloat16 numbers for each number of an operand.
    fn parts(self) -> usize {
        match self {
            Self::Avx512 | Self::Amx => 1,
            Self::AmxParts => 3,
        }
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
    /// Takes the values of `of`.
    pub fn pack(&mut self, method: Method, of: Mat<'_>) {
        pack_panels(method, self.lines_for(method, of), of);
    }

    /// The same, on all threads of the pool.
    pub fn pack_on_all_threads(&mut self, method: Method, of: Mat<'_>) {
        const PANELS: usize = 4;
        let panels = 2 * pack::strip_lines(of.rows, method.parts()) * PANELS;
        if panels > 0 {
            let pieces = self.lines_for(method, of).par_chunks_mut(panels).enumerate().with_max_len(1);
            pieces.for_each(|(i, lines)| {
                let first = i * PANELS * COLUMNS;
                pack_panels(method, lines, of.columns(first, (of.cols - first).min(PANELS * COLUMNS)));
            });
        }
    }

    fn lines_for(&mut self, method: Method, of: Mat<'_>) -> &mut [Line] {
        assert!(Method::all().contains(&method), "packed for {method:?}, which is not of this machine");
        (self.depth, self.columns) = (of.rows, of.cols);
        self.lines.at_least(of.cols.div_ceil(COLUMNS) * 2 * pack::strip_lines(of.rows, method.parts()))
    }
}

fn pack_panels(method: Method, lines: &mut [Line], of: Mat<'_>) {
    // SAFETY: all methods that there are include AVX512-BF16.
    unsafe {
        match method.parts() {
            1 => pack::columns::<1>(lines, of),
            _ => pack::columns::<3>(lines, of),
        }
    }
}

/// Lines along the depth of a strip at a time: 96 kB. What is deeper is summed up in the output, piece by piece.
const DEEPEST_LINES: usize = 1536;

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
    match method.parts() {
        1 => product_of::<1>(method, out, write, lhs, rhs, scale),
        _ => product_of::<3>(method, out, write, lhs, rhs, scale),
    }
}

fn product_of<const PARTS: usize>(
    method: Method,
    out: MatMut<'_>,
    write: Write<'_>,
    lhs: Mat<'_>,
    rhs: &Panels,
    scale: f32,
) {
    assert_eq!((lhs.rows, rhs.columns, lhs.cols), (out.rows, out.cols, rhs.depth), "shapes of a product");
    assert!(Method::all().contains(&method), "{method:?} is not of this machine");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let mut packed = ROWS.take();
    let (depth_lines, panels) = (pack::strip_lines(lhs.cols, PARTS), out.cols.div_ceil(COLUMNS));
    let deepest = DEEPEST_LINES / (PARTS * STRIP) * (PARTS * STRIP);
    // SAFETY: the method is of this machine.
    let amx = (method != Method::Avx512).then(|| unsafe { AmxTiles::configure() });
    for depth in (0..depth_lines.max(1)).step_by(deepest).map(|at| at..(at + deepest).min(depth_lines)) {
        let strip = depth.len();
        let lhs = {
            let [first, end] =
                [depth.start, depth.end].map(|line| (line / PARTS / STRIP * DEPTH).min(lhs.cols));
            lhs.columns(first, end - first)
        };
        let group = (GROUP_LINES / (2 * strip).max(1)).clamp(1, panels);
        // An AMX tile takes two strips, of which the second may be padding.
        let most = if group == panels { 1 } else { (BLOCK_LINES / strip / 2).max(1) } * 2 * STRIP;
        for first in (0..out.rows).step_by(most) {
            let rows = (out.rows - first).min(most);
            let lines = packed.at_least(rows.div_ceil(2 * STRIP) * 2 * strip);
            let (used, padding) = lines.split_at_mut(rows.div_ceil(STRIP) * strip);
            // SAFETY: all methods that there are include AVX512-BF16.
            unsafe { pack::rows::<PARTS>(used, lhs.rows_from(first, rows), scale) };
            padding.fill(Line::default());
            for group in (0..panels).step_by(group).map(|panel| panel..(panel + group).min(panels)) {
                for row in (0..rows).step_by(2 * STRIP) {
                    let (upper, lower) = lines[row / STRIP * strip..][..2 * strip].split_at(strip);
                    let tile = |panel: usize| {
                        let column = panel * COLUMNS;
                        Tile {
                            at: out
                                .data
                                .as_ptr()
                                .wrapping_add((first + row) * out.row_stride + column)
                                .cast_mut(),
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
                            _ if depth.start > 0 => Start::Output,
                            Write::Store => Start::Zero,
                            Write::Add => Start::Output,
                            Write::Bias(bias) => Start::Bias(&bias[column..column + tile.columns]),
                        };
                        let b = &rhs.lines[panel * 2 * depth_lines..][2 * depth.start..2 * depth.end];
                        // SAFETY: the tile lies within `out`, which is borrowed exclusively; the method is of
                        // this machine.
                        unsafe {
                            match &amx {
                                Some(amx) => amx.product::<PARTS>(tile, start, [upper, lower], b),
                                None => tiles::avx512(tile, start, [upper, lower], b),
                            }
                        }
                    }
                }
            }
        }
    }
    ROWS.set(packed);
}
