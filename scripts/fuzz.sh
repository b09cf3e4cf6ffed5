#!/usr/bin/env bash
# Feeds a target of tests/fuzz made-up input, led by what of the program each input reaches (libFuzzer), and says how
# many inputs there were. What is found is written to target/fuzz/found/TARGET.
#
#     scripts/fuzz.sh TARGET [libFuzzer's options]       e.g. scripts/fuzz.sh index -runs=10000000
#     scripts/fuzz.sh --list
#
# Needs a C++ compiler besides the Rust toolchain, and nothing of a nightly one: the counters of LLVM are asked for
# by hand (tests/fuzz/rustc.sh), as cargo-fuzz does with `--sanitizer none`.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR="$PWD/target/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and macros are apart from what runs.
RUSTC_WRAPPER="$PWD/tests/fuzz/rustc.sh" \
    cargo build --quiet --release --manifest-path tests/fuzz/Cargo.toml --target "$host"
fuzz="$CARGO_TARGET_DIR/$host/release/fuzz"

if [ "${1:-}" = --list ]; then
    exec sed -n 's/^    ("\([a-z_]*\)",.*/\1/p' tests/fuzz/targets.rs
fi
target=${1:?a target is missing: scripts/fuzz.sh --list}
shift
corpus="$CARGO_TARGET_DIR/corpus/$target" found="$CARGO_TARGET_DIR/found/$target/"
mkdir -p "$corpus" "$found"
# Inputs of earlier runs first, then those that are kept. No file of a target outlives it: they lie in memory.
BERTSTREAM_FUZZ_TARGET=$target TMPDIR=/dev/shm "$fuzz" -artifact_prefix="$found" -print_final_stats=1 \
    -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=10 "$@" "$corpus" "fixtures/fuzz/$target"
