#!/usr/bin/env bash
# Runs the program on processors older than this one, by qemu's emulation: it must work on any x86-64, choose its
# kernels at run time, and see the same batches everywhere.
#
#     scripts/check_baseline_cpu.sh [QEMU] [PROGRAM]    # default: qemu-x86_64, cargo build --release
#
# Debian has the emulator in the package qemu-user.
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

# Small enough for an emulator that computes a vector's lanes one by one: seconds a processor.
"$program" vocab --corpus fixtures/toy.pairs.tsv --output "$directory/vocab.json" >/dev/null
train() {
    local name=$1
    shift
    "$@" "$program" --version | sed "s/^/$name: /"
    "$@" "$program" train --corpus fixtures/toy.pairs.tsv --index-dir "$directory" --vocab "$directory/vocab.json" \
        --output "$directory/$name" --hidden 32 --layers 1 --attn-heads 2 --seq-len 32 --batch-size 8 --steps 4 \
        --threads 2 --workers 1 --quiet --json | python3 -c '
import json, sys
ran = json.load(sys.stdin)
assert ran["step"] == 4 and 0 < ran["train"]["loss"] < 20, ran
print(ran["digest"])' | tee "$directory/$name.digest"
}

train here env
# Nothing beyond the first x86-64; SSE4.2; AVX2 with FMA.
for cpu in qemu64,-sse3,-cx16,-svm Nehalem Haswell; do
    name=${cpu%%,*}
    train "$name" "$qemu" -cpu "$cpu"
    cmp "$directory/here.digest" "$directory/$name.digest"
done
echo "the same batches on all of them"
