#!/usr/bin/env bash
# Runs the tests of the modules with `unsafe` in them under AddressSanitizer: the map of a corpus with its handler of
# SIGBUS, and the products of the model. Needs the Rust toolchain and, besides the usual targets, some minutes, since
# everything is compiled anew; RUSTC_BOOTSTRAP lets the stable compiler take the flag.
#
# Miri is no way: it has neither file maps nor signals, nor the instructions of AMX and AVX-512 that the products are
# made of.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="$PWD/target/sanitized" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address"
# The allocator of the binary is its own; the tests of the library have the system's, which the sanitizer watches.
run() { cargo test --target "$host" --config 'profile.dev.package."*".opt-level=1' "$@"; }
run --lib -- corpus:: model::fused
run --test pipeline -- faults
