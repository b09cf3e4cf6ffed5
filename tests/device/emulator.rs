//! A [`Device`] that is the CPU: the kernels, compiled by the system's C compiler, run thread by thread.
//!
//! Its memory is the host's, an address is a pointer. Memory is full of NaN when it is allocated and after it is
//! freed, and lies between zones of NaN that no kernel may write to. Slow, exact about what a GPU leaves
//! undefined (`emulate.h`), and deterministic.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bertstream::model::device::{Address, Device, Grid, Kind, Product, Source};
use bertstream::{Error, Result};
use libloading::{Library, Symbol};
use xxhash_rust::xxh3::xxh3_64;

/// What every number of memory that was never written is, as bytes.
const UNWRITTEN: u8 = 0xff;

/// Memory comes in these, so that it begins on a boundary of 256 bytes.
#[repr(C, align(256))]
#[derive(Clone, Copy)]
struct Line([u8; 256]);

/// Memory of one [`Device::allocate`], with a line before and at least a byte behind that stay as they are.
struct Allocation {
    lines: Vec<Line>,
    bytes: usize,
    freed: bool,
}

impl Allocation {
    fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([UNWRITTEN; 256]); bytes / 256 + 2], bytes, freed: false }
    }

    fn start(&self) -> u64 {
        &raw const self.lines[1] as u64
    }

    fn zones_are_whole(&self) -> bool {
        let all: &[u8] = self.lines.as_flattened_bytes();
        let (before, rest) = all.split_at(256);
        before.iter().chain(&rest[self.bytes..]).all(|&byte| byte == UNWRITTEN)
    }
}

trait Flattened {
    fn as_flattened_bytes(&self) -> &[u8];
}

impl Flattened for Vec<Line> {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: lines are nothing but their bytes.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() * 256) }
    }
}

type Emulate = unsafe extern "C" fn(*const c_void, u32, u32, u32, *const c_void, u64) -> *const c_char;

/// The emulated device.
#[derive(Default)]
pub struct Emulated {
    kernels: Option<Library>,
    /// By their first address; those that were freed as well, so that their use is found.
    allocations: BTreeMap<u64, Allocation>,
    fetched: Vec<u8>,
}

impl Emulated {
    pub fn new() -> Self {
        Self::default()
    }

    /// The address as a pointer, where an allocation has so many bytes there.
    fn pointer(&self, what: &str, at: Address, bytes: usize) -> Result<*mut u8> {
        let fails = |why: &str| Error::internal(format!("{what}: {bytes} bytes at {:#x}: {why}", at.0));
        let (start, allocation) =
            self.allocations.range(..=at.0).next_back().ok_or_else(|| fails("not allocated"))?;
        if at.0 + bytes as u64 > start + allocation.bytes as u64 {
            return Err(fails("outside of every allocation"));
        }
        if allocation.freed {
            return Err(fails("freed before"));
        }
        Ok(at.0 as *mut u8)
    }

    fn check_zones(&self, who: &str) -> Result<()> {
        match self.allocations.values().find(|allocation| !allocation.zones_are_whole()) {
            None => Ok(()),
            Some(allocation) => Err(Error::internal(format!(
                "{who} wrote outside of an allocation of {} bytes",
                allocation.bytes
            ))),
        }
    }

    /// Numbers of a column. `f32` is every bfloat16, too.
    fn numbers(&self, at: Address, count: usize, kind: Kind) -> Result<Vec<f32>> {
        match kind {
            Kind::F32 => {
                let from = self.pointer("multiply", at, 4 * count)?.cast::<f32>();
                // SAFETY: `pointer` found the memory; it is read before anything else runs.
                Ok(unsafe { std::slice::from_raw_parts(from, count) }.to_vec())
            }
            Kind::Bf16 => {
                let from = self.pointer("multiply", at, 2 * count)?.cast::<u16>();
                // SAFETY: as above.
                let halves = unsafe { std::slice::from_raw_parts(from, count) };
                Ok(halves.iter().map(|&half| f32::from_bits(u32::from(half) << 16)).collect())
            }
        }
    }
}

impl Device for Emulated {
    fn compile(&mut self, source: &Source) -> Result<()> {
        let library = compiled(source)?;
        // Loaded from a copy: each device has statics of its own, although tests run at the same time.
        let copy = tempfile::Builder::new()
            .suffix(".so")
            .tempfile_in(place())
            .map_err(|error| Error::writing(place(), error))?;
        fs::copy(&library, copy.path()).map_err(|error| Error::writing(copy.path(), error))?;
        // SAFETY: the library's only code at loading and unloading is the emulator's own, which touches nothing else.
        let library = unsafe { Library::new(copy.path()) };
        self.kernels =
            Some(library.map_err(|error| Error::internal("loading emulated kernels").caused_by(error))?);
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        let allocation = Allocation::new(bytes);
        let start = allocation.start();
        self.allocations.insert(start, allocation);
        Ok(Address(start))
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.check_zones("something")?;
        match self.allocations.get_mut(&at.0) {
            Some(allocation) if !allocation.freed => {
                allocation.freed = true;
                allocation.lines.fill(Line([UNWRITTEN; 256]));
                Ok(())
            }
            _ => Err(Error::internal(format!("free: nothing allocated begins at {:#x}", at.0))),
        }
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        let to = self.pointer("upload", to, bytes.len())?;
        // SAFETY: `pointer` found the memory, which is no Rust value's.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        let from = self.pointer("download", from, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn fetch(&mut self, from: Address, bytes: usize) -> Result<()> {
        let mut fetched = vec![0; bytes];
        self.download(from, &mut fetched)?;
        self.fetched = fetched;
        Ok(())
    }

    fn fetched(&mut self) -> Result<Vec<u8>> {
        Ok(std::mem::take(&mut self.fetched))
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<()> {
        let at = self.pointer("zero", at, bytes)?;
        // SAFETY: as in `upload`.
        unsafe { at.write_bytes(0, bytes) };
        Ok(())
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[u8]) -> Result<()> {
        let kernels = self.kernels.as_ref().ok_or_else(|| Error::internal("launch: nothing compiled"))?;
        if grid.x == 0 || grid.y == 0 || grid.y > 65535 {
            return Err(Error::internal(format!("kernel {kernel}: no grid is {} by {}", grid.x, grid.y)));
        }
        // On the boundary that the structure wants.
        let mut aligned = vec![0u64; arguments.len().div_ceil(8)];
        // SAFETY: there are at least as many bytes in `aligned`; the symbols have the types of `emulate.h`; what the
        // kernels may read and write is what their caller allocated, and they are stopped or found out otherwise.
        let failure = unsafe {
            aligned.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(arguments.as_ptr(), arguments.len());
            let of = |name: String| Error::internal(format!("{name} is not among the compiled kernels"));
            let symbol = format!("emulated_{kernel}");
            let emulate: Symbol<Emulate> =
                kernels.get("emulate").map_err(|e| of("emulate".into()).caused_by(e))?;
            let entry: Symbol<*const c_void> =
                kernels.get(&symbol).map_err(|error| of(format!("kernel {kernel}")).caused_by(error))?;
            let entry = *entry;
            let (x, y, threads) = (grid.x as u32, grid.y as u32, grid.threads as u32);
            let failure = emulate(entry, x, y, threads, aligned.as_ptr().cast(), arguments.len() as u64);
            (!failure.is_null()).then(|| CStr::from_ptr(failure).to_string_lossy().into_owned())
        };
        match failure {
            Some(failure) => Err(Error::internal(failure)),
            None => self.check_zones(&format!("kernel {kernel}")),
        }
    }

    fn multiply(&mut self, product: &Product) -> Result<()> {
        let &Product { m, n, k, .. } = product;
        let a = self.numbers(product.a, m * k, product.operands)?;
        let b = self.numbers(product.b, k * n, product.operands)?;
        let mut c = match product.add {
            true => self.numbers(product.c, m * n, product.result)?,
            false => vec![0.0; m * n],
        };
        let mut row = vec![0f32; n];
        for i in 0..m {
            row.fill(0.0);
            for p in 0..k {
                let factor = if product.a_transposed { a[p * m + i] } else { a[i * k + p] };
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum += factor * if product.b_transposed { b[j * k + p] } else { b[p * n + j] };
                }
            }
            c[i * n..][..n].iter_mut().zip(&row).for_each(|(c, sum)| *c += sum);
        }
        let bytes: Vec<u8> = match product.result {
            Kind::F32 => c.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Kind::Bf16 => c.iter().flat_map(|&value| rounded(value).to_ne_bytes()).collect(),
        };
        self.upload(product.c, &bytes)
    }
}

/// The upper half of a single, rounded to nearest even.
pub fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fff } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

/// Where compiled kernels are kept from one run of the tests to the next.
fn place() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The shared library of this source, compiled unless an earlier test has.
fn compiled(source: &Source) -> Result<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device");
    // Indices and alignments are checked; `emulate.h` has what the checks call, so they are linked without a library.
    let mut flags =
        ["-std=gnu11", "-O1", "-fPIC", "-fno-strict-aliasing", "-DEMULATED"].map(String::from).to_vec();
    flags.push("-fsanitize=alignment,bounds,null".into());
    flags.extend(source.constants.iter().map(|(name, value)| format!("-D{name}={value}")));
    let header = fs::read_to_string(beside.join("emulate.h"));
    let header = header.map_err(|error| Error::reading(&beside.join("emulate.h"), error))?;
    let hash = xxh3_64([&source.text, &header, &flags.join(" ")].map(String::as_str).join("\0").as_bytes());
    let library = place().join(format!("kernels-{hash:016x}.so"));
    if library.exists() {
        return Ok(library);
    }
    let scratch = tempfile::tempdir_in(place()).map_err(|error| Error::writing(place(), error))?;
    let [text, object, linked] =
        ["kernels.c", "kernels.o", "kernels.so"].map(|name| scratch.path().join(name));
    fs::write(&text, &source.text).map_err(|error| Error::writing(&text, error))?;
    run(Command::new("cc").args(&flags).arg("-I").arg(&beside).arg("-c").arg(&text).arg("-o").arg(&object))?;
    run(Command::new("cc").arg("-shared").arg(&object).arg("-o").arg(&linked).arg("-lm"))?;
    // Two tests may have compiled the same: the later one replaces what is equal.
    fs::rename(&linked, &library).map_err(|error| Error::writing(&library, error))?;
    Ok(library)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| Error::internal("running cc").caused_by(error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::internal(format!("cc: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}
