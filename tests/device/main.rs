//! The device that the kernels of the step on an accelerator run on in the tests: does it compute what a GPU would, and
//! find what a GPU would not tell?
//!
//! The kernels themselves are tested as part of their engine (`tests/engines`, `tests/golden`).

mod emulation;
mod emulator;
