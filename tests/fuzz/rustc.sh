#!/bin/sh
# What `scripts/fuzz.sh` has cargo call in place of the compiler: only what reads an input counts what an input reaches.
# libFuzzer goes through every counter after every input, and most of them would be those of products and flags.
rustc=$1
shift
case "$*" in
*"--crate-name bertstream "* | *"--crate-name fuzz "* | *"--crate-name encoding_rs "* | *"--crate-name flate2 "* | \
    *"--crate-name miniz_oxide "* | *"--crate-name safetensors "* | *"--crate-name serde_core "* | \
    *"--crate-name serde_json "* | *"--crate-name tokenizers "*)
    exec "$rustc" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing
    ;;
*)
    exec "$rustc" "$@"
    ;;
esac
