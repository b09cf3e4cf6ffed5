//! Products of packed operands: by AVX-512, and by the instructions that x86-64 has for bfloat16 and for bytes.

pub mod bf16;
mod fixed;
pub mod lines;
pub mod pack;
mod single;
pub mod tiles;

use std::arch::x86_64::__cpuid_count;
use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Write;
use super::operands::cut;
use super::view::{Mat, MatMut};
use bf16::Bf16;
use fixed::Fixed;
use lines::{Line, Lines};
use pack::{Format, Place, STRIP};
use single::Single;
use tiles::{AmxTiles, COLUMNS, Start, Tile};

/// How packed operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Rounded to bfloat16, by `vdpbf16ps` of AVX512-BF16.
    Avx512Bf16,
    /// Rounded to bfloat16, by `tdpbf16ps` of AMX-BF16.
    Amx,
    /// In single precision: each number in fixed point of three bytes, by `tdpbssd` of AMX-INT8.
    AmxFixed,
    /// In single precision, by AVX-512.
    Avx512,
}

impl Method {
    /// Those of this machine, the fastest of each precision first.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Method>> = OnceLock::new();
        ALL.get_or_init(|| {
            let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            let amx = bf16 && has_amx() && may_use_amx();
            let all =
                [(amx, Self::Amx), (amx, Self::AmxFixed), (bf16, Self::Avx512Bf16), (avx512, Self::Avx512)];
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

impl Method {
    /// Lines of a strip of this depth.
    fn strip_lines(self, depth: usize) -> usize {
        match self {
            Self::Avx512Bf16 | Self::Amx => Bf16::strip_lines(depth),
            Self::AmxFixed => Fixed::strip_lines(depth),
            Self::Avx512 => Single::strip_lines(depth),
        }
    }

    /// Whether a block of an operand of this depth begins at `k`.
    fn begins_block(self, k: usize, depth: usize) -> bool {
        match self {
            Self::Avx512Bf16 | Self::Amx => Bf16::begins_block(k, depth),
            Self::AmxFixed => Fixed::begins_block(k, depth),
            Self::Avx512 => Single::begins_block(k, depth),
        }
    }

    fn pack_rows(self, out: &mut [Line], place: Place, of: Mat<'_>, scale: f32) {
        // SAFETY: a method that there is has its format's instructions.
        unsafe {
            match self {
                Self::Avx512Bf16 | Self::Amx => pack::rows::<Bf16>(out, place, of, scale),
                Self::AmxFixed => pack::rows::<Fixed>(out, place, of, scale),
                Self::Avx512 => pack::rows::<Single>(out, place, of, scale),
            }
        }
    }

    fn pack_columns(self, out: &mut [Line], place: Place, of: Mat<'_>) {
        // SAFETY: a method that there is has its format's instructions.
        unsafe {
            match self {
                Self::Avx512Bf16 | Self::Amx => pack::columns::<Bf16>(out, place, of),
                Self::AmxFixed => pack::columns::<Fixed>(out, place, of),
                Self::Avx512 => pack::columns::<Single>(out, place, of),
            }
        }
    }
}

/// An operand as a method reads it: a left one in strips of 16 rows, two by two, a right one in panels of 32 columns.
pub struct Operand {
    method: Method,
    /// Rows of a left one, columns of a right one.
    lanes: usize,
    depth: usize,
    strip_lines: usize,
    lines: Lines,
}

impl Operand {
    /// One without lanes.
    pub fn new(method: Method) -> Self {
        assert!(Method::all().contains(&method), "packed for {method:?}, which is not of this machine");
        Self { method, lanes: 0, depth: 0, strip_lines: 0, lines: Lines::default() }
    }

    pub fn method(&self) -> Method {
        self.method
    }

    /// Makes room for other lanes of another depth, whose content is unspecified until it is put there.
    pub fn reshape(&mut self, lanes: usize, depth: usize) {
        (self.lanes, self.depth, self.strip_lines) = (lanes, depth, self.method.strip_lines(depth));
        self.lines.at_least(pack::strips(lanes) * self.strip_lines);
    }

    /// The lines of whole pairs of strips from `first` on, as many as `lanes` take, and where a part from `first_k` on lies
    /// in them.
    fn part(&mut self, [first, lanes]: [usize; 2], [first_k, depth]: [usize; 2]) -> (&mut [Line], Place) {
        let (end, end_k) = (first + lanes, first_k + depth);
        assert!(end <= self.lanes && end_k <= self.depth, "a part beyond its operand");
        assert!(
            first.is_multiple_of(COLUMNS) && (end == self.lanes || end.is_multiple_of(COLUMNS)),
            "a part of a panel"
        );
        assert!(self.begins_block(first_k) && self.begins_block(end_k), "a part of a block");
        let place = Place { strip_lines: self.strip_lines, first_k };
        let from = first / STRIP * self.strip_lines;
        let lines = self.lines.at_least(from + pack::strips(lanes) * self.strip_lines);
        (&mut lines[from..], place)
    }

    /// Whether a block begins at this depth, or the operand ends there.
    fn begins_block(&self, k: usize) -> bool {
        k == self.depth || self.method.begins_block(k, self.depth)
    }

    /// Of a left operand: `of (rows, depth)`, whose first row and depth are these.
    pub fn put_rows(&mut self, first: usize, first_k: usize, of: Mat<'_>) {
        let method = self.method;
        let (lines, place) = self.part([first, of.rows], [first_k, of.cols]);
        method.pack_rows(lines, place, of, 1.0);
    }

    /// Of a right operand: `of (depth, columns)`, whose first depth and column are these.
    pub fn put_columns(&mut self, first_k: usize, first: usize, of: Mat<'_>) {
        let method = self.method;
        let (lines, place) = self.part([first, of.cols], [first_k, of.rows]);
        method.pack_columns(lines, place, of);
    }

    /// Takes a whole right operand on all threads of the pool.
    pub fn put_columns_on_all_threads(&mut self, of: Mat<'_>) {
        const PANELS: usize = 4;
        self.reshape(of.cols, of.rows);
        if self.strip_lines == 0 {
            return;
        }
        let (method, place) = (self.method, Place { strip_lines: self.strip_lines, first_k: 0 });
        let lines = self.lines.at_least(pack::strips(of.cols) * self.strip_lines);
        let pieces = lines.par_chunks_mut(2 * self.strip_lines * PANELS).enumerate().with_max_len(1);
        pieces.for_each(|(i, lines)| {
            let first = i * PANELS * COLUMNS;
            let of = of.columns(first, (of.cols - first).min(PANELS * COLUMNS));
            method.pack_columns(lines, place, of);
        });
    }
}

/// Some lanes and some of the depth of an operand. Both begin where a panel and a block do.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    of: &'a Operand,
    first: usize,
    lanes: usize,
    first_k: usize,
    depth: usize,
}

impl<'a> Window<'a> {
    /// All of it.
    pub fn new(of: &'a Operand) -> Self {
        Self { of, first: 0, lanes: of.lanes, first_k: 0, depth: of.depth }
    }

    /// Lanes `first..first + lanes` of this window.
    pub fn lanes(self, first: usize, lanes: usize) -> Self {
        assert!(first + lanes <= self.lanes && first.is_multiple_of(COLUMNS), "a window of panels");
        Self { first: self.first + first, lanes, ..self }
    }

    /// Depths `first..first + depth` of this window.
    pub fn depth(self, first: usize, depth: usize) -> Self {
        let first_k = self.first_k + first;
        assert!(first + depth <= self.depth, "a window beyond its operand");
        assert!(self.of.begins_block(first_k) && self.of.begins_block(first_k + depth), "a window of blocks");
        Self { first_k, depth, ..self }
    }

    /// Lines of a strip before depth `k` of this window.
    fn line(&self, k: usize) -> usize {
        self.of.method.strip_lines(self.first_k + k)
    }
}

/// A left operand.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Packed on the way.
    Plain(Mat<'a>),
    Packed(Window<'a>),
}

/// Rows of two strips, which the left operand's come in.
const TWO_STRIPS: usize = 2 * STRIP;

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

/// `out = scale * lhs · rhs`, onto what `write` says; what is packed was packed for this method.
pub fn product(out: MatMut<'_>, write: Write<'_>, lhs: Left<'_>, rhs: Window<'_>, scale: f32) {
    let method = rhs.of.method;
    let sides = (lhs, rhs, scale);
    // SAFETY: an operand's method is of this machine; tiles lie within `out`, which is borrowed exclusively.
    unsafe {
        match method {
            Method::Avx512 => {
                product_of::<Single, { single::ROWS }>(out, write, sides, |tile, start, a, row, b| {
                    single::multiply(tile, start, a[row / STRIP], row % STRIP, b);
                });
            }
            Method::Avx512Bf16 => {
                product_of::<Bf16, { bf16::AVX512_ROWS }>(out, write, sides, |tile, start, a, row, b| {
                    bf16::avx512(tile, start, a[row / STRIP], row % STRIP, b);
                });
            }
            Method::Amx => {
                let tiles = AmxTiles::configure();
                product_of::<Bf16, TWO_STRIPS>(out, write, sides, |tile, start, a, _, b| {
                    bf16::amx(&tiles, tile, start, a, b)
                });
            }
            Method::AmxFixed => {
                let mut products = fixed::Products::new(AmxTiles::configure());
                product_of::<Fixed, TWO_STRIPS>(out, write, sides, |tile, start, a, _, b| {
                    products.add(tile, start, a, b);
                });
                products.finish();
            }
        }
    }
}

/// Tile by tile of `HEIGHT` rows by `multiply`, which gets the tile, what it starts from, two strips of the left operand, the
/// tile's first row in them, and a panel of the right operand. Every tile lies within `out`.
///
/// # Safety
/// The format's instructions.
unsafe fn product_of<F: Format, const HEIGHT: usize>(
    out: MatMut<'_>,
    write: Write<'_>,
    (lhs, rhs, scale): (Left<'_>, Window<'_>, f32),
    mut multiply: impl FnMut(Tile, Start<'_>, [&[Line]; 2], usize, &[Line]),
) {
    let Window { lanes: columns, depth, .. } = rhs;
    let shape = match lhs {
        Left::Plain(lhs) => [lhs.rows, lhs.cols],
        Left::Packed(lhs) => {
            assert!(
                lhs.of.method == rhs.of.method && scale == 1.0,
                "a left operand packed for another product"
            );
            [lhs.lanes, lhs.depth]
        }
    };
    assert_eq!((shape, columns), ([out.rows, depth], out.cols), "shapes of a product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let mut packed = ROWS.take();
    let (panel_lines, panels) = (2 * rhs.of.strip_lines, columns.div_ceil(COLUMNS));
    let right = &rhs.of.lines[rhs.first / COLUMNS * panel_lines..];
    let deep = cut(depth, F::DEEPEST, F::REST).max(1);
    for first_k in (0..deep).map(|i| i * F::DEEPEST) {
        let end_k = if depth - first_k > F::DEEPEST + F::REST { first_k + F::DEEPEST } else { depth };
        let [first_line, end_line] = [first_k, end_k].map(|k| rhs.line(k));
        let strip = end_line - first_line;
        let group = (GROUP_LINES / (2 * strip).max(1)).clamp(1, panels);
        let most = match lhs {
            Left::Plain(_) if group == panels => TWO_STRIPS,
            Left::Plain(_) => (BLOCK_LINES / strip / 2).max(1) * TWO_STRIPS,
            Left::Packed(_) => out.rows,
        };
        for first in (0..out.rows).step_by(most) {
            let rows = (out.rows - first).min(most);
            let (left, stride) = match lhs {
                Left::Plain(lhs) => {
                    let lines = packed.at_least(pack::strips(rows) * strip);
                    let part = lhs.columns(first_k, end_k - first_k).rows_from(first, rows);
                    // SAFETY: forwarded.
                    unsafe { pack::rows::<F>(lines, Place { strip_lines: strip, first_k: 0 }, part, scale) };
                    (&*lines, strip)
                }
                Left::Packed(lhs) => {
                    let stride = lhs.of.strip_lines;
                    (&lhs.of.lines[lhs.first / STRIP * stride + lhs.line(first_k)..], stride)
                }
            };
            for group in (0..panels).step_by(group).map(|panel| panel..(panel + group).min(panels)) {
                for row in (0..rows).step_by(HEIGHT) {
                    let pair = row / TWO_STRIPS * 2;
                    let strips = [pair, pair + 1].map(|at| &left[at * stride..][..strip]);
                    let tile = |panel: usize| {
                        let column = panel * COLUMNS;
                        let at = out.data.as_ptr().wrapping_add((first + row) * out.row_stride + column);
                        Tile {
                            at: at.cast_mut(),
                            stride: out.row_stride,
                            rows: (rows - row).min(HEIGHT),
                            columns: (out.cols - column).min(COLUMNS),
                        }
                    };
                    for panel in group.clone() {
                        if panel + 1 < group.end {
                            tile(panel + 1).announce::<HEIGHT>();
                        }
                        let (tile, column) = (tile(panel), panel * COLUMNS);
                        let start = match write {
                            _ if first_k > 0 => Start::Output,
                            Write::Store => Start::Zero,
                            Write::Add => Start::Output,
                            Write::Bias(bias) => Start::Bias(&bias[column..column + tile.columns]),
                        };
                        let panel = &right[panel * panel_lines..][2 * first_line..2 * end_line];
                        multiply(tile, start, strips, row % TWO_STRIPS, panel);
                    }
                }
            }
        }
    }
    ROWS.set(packed);
}
