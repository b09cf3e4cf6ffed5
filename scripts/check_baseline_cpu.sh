#!/usr/bin/env bash
# Runs the program on processors older than this one, by qemu's emulation: it must work on any x86-64, choose its
# kernels at run time, and see the same batches everywhere.
#
#     scripts/check_baseline_cpu.sh [QEMU] [PROGRAM]    # default: qemu-x86_64, cargo build --release
set -euo pipefail
cd "$(dirname "$0")/.."

qemu=${1:-qemu-x86_64}
program=${2:-}
if [ -z "$program" ]; then
    cargo build --release >&2
    program=target/release/bertstream
fi
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

train() {
    local name=$1
    shift
    "$@" "$program" quickstart --output "$directory/$name" --steps 20 --quiet >"$directory/$name.told"
    "$@" "$program" --version | sed "s/^/$name: /"
    "$@" "$program" train --resume "$directory/$name" --json | python3 -c '
import json, sys
print(json.load(sys.stdin)["digest"])' | tee "$directory/$name.digest"
}

train here env
# Nothing beyond the first x86-64; SSE4.2; AVX2 with FMA.
for cpu in qemu64,-sse3,-cx16,-svm Nehalem Haswell; do
    name=${cpu%%,*}
    train "$name" "$qemu" -cpu "$cpu"
    cmp "$directory/here.digest" "$directory/$name.digest"
done
