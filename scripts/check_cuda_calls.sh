#!/usr/bin/env bash
# Runs the tests of all engines through the calls to CUDA's libraries, without a GPU: stand-ins take the place of the
# driver, NVRTC and cuBLAS (tests/device/stand_ins.c). Needs a C compiler.
#
#     scripts/check_cuda_calls.sh
set -euo pipefail
cd "$(dirname "$0")/.."

place=$PWD/target/stand-ins
mkdir -p "$place"
compile() { cc -std=gnu11 -O2 -fPIC -shared -Wall -Werror "-DLIBRARY_$1" tests/device/stand_ins.c -o "$place/$2" "${@:3}"; }
compile CUDA libcuda.so -ldl
compile NVRTC libnvrtc.so
compile CUBLAS libcublas.so -L "$place" -l:libcuda.so "-Wl,-rpath,$place"

export LD_LIBRARY_PATH="$place" STAND_IN_PLACE="$place" STAND_IN_HEADERS="$PWD/tests/device"
export BERTSTREAM_TEST_DEVICE=cuda:0
cargo test --features cuda --test engines --test golden "$@"
