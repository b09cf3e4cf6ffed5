//! The training step on an accelerator: hand-written kernels, and the order in which they run.
//!
//! [`Device`] is the seam: memory, kernels by name, matrix products. `cuda` (a feature) is a GPU; the tests have
//! another, which compiles the same kernels with a C compiler and runs them thread by thread, so that all that is
//! here is proven without one. Knows nothing of how batches come about or when steps are taken.

use crate::Result;

mod arguments;
mod blocks;
#[cfg(feature = "cuda")]
pub mod cuda;
mod engine;
mod heads;
mod load;
mod memory;
mod placement;
mod source;

pub use engine::DeviceEngine;
pub use source::source;

/// A place in a device's memory. 0 stands for none, which some kernels take for what is optional.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    pub const NONE: Self = Self(0);

    /// A place so many bytes further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The type of a column on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    /// The upper half of a single.
    Bf16,
}

impl Kind {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// `c (m, n) = a (m, k) · b (k, n)`, or added to `c`; all row-major and without gaps, sums in single precision.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// `(m, k)`, or `(k, m)` where `a_transposed`.
    pub a: Address,
    pub a_transposed: bool,
    /// `(k, n)`, or `(n, k)` where `b_transposed`.
    pub b: Address,
    pub b_transposed: bool,
    /// Type of `a` and of `b`.
    pub operands: Kind,
    pub c: Address,
    pub result: Kind,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// Blocks of a launch, in two dimensions, and threads of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub x: usize,
    pub y: usize,
    pub threads: usize,
}

/// What kernels are compiled from: their source, and the constants it is compiled with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub text: String,
    pub constants: Vec<(&'static str, u32)>,
}

/// An accelerator. Its work is done in the order in which it is asked for; nobody waits for it but who asks for results.
///
/// # Errors
/// [`crate::ErrorKind::OutOfMemory`] where memory is wanted that is not there, [`crate::ErrorKind::Internal`] for
/// whatever else a device may refuse. An error of earlier work may come with a later call.
pub trait Device {
    /// Compiles the kernels; those of an earlier call are gone.
    fn compile(&mut self, source: &Source) -> Result<()>;

    /// Memory of unspecified content, on a boundary of 256 bytes at least.
    fn allocate(&mut self, bytes: usize) -> Result<Address>;

    /// Gives memory of [`Self::allocate`] back, when the work asked for so far is done.
    fn free(&mut self, at: Address) -> Result<()>;

    /// Copies to the device. `bytes` may change as soon as the call returns.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, when all work asked for so far is done.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Begins to copy from the device, behind the work asked for so far; forgets what was fetched before.
    fn fetch(&mut self, from: Address, bytes: usize) -> Result<()>;

    /// What [`Self::fetch`] copied. Waits for that, and for no work asked for since.
    fn fetched(&mut self) -> Result<Vec<u8>>;

    /// Zeroes memory.
    fn zero(&mut self, at: Address, bytes: usize) -> Result<()>;

    /// Runs a kernel of the compiled source. `arguments` are the bytes of its structure.
    fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &[u8]) -> Result<()>;

    /// Multiplies matrices.
    fn multiply(&mut self, product: &Product) -> Result<()>;
}
