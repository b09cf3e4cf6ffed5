#!/usr/bin/env bash
# From nothing to a proof that a trained run means the same in PyTorch: builds the program, trains for a few
# steps on the toy language, writes held-out batches, and compares `bertstream eval` with the reference.
#
#     scripts/check_in_pytorch.sh [WORK_DIRECTORY]     # default: a temporary one, removed afterwards
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

python=$(scripts/setup_peers.sh)
cargo build --release
bertstream=${CARGO_TARGET_DIR:-target}/release/bertstream

"$bertstream" vocab --corpus fixtures/toy.pairs.tsv --output "$work/vocab.json"
"$bertstream" train --corpus fixtures/toy.pairs.tsv --vocab "$work/vocab.json" --output "$work/run" \
    --hidden 64 --layers 3 --attn-heads 4 --seq-len 32 --batch-size 32 --steps 60
"$bertstream" collate --corpus fixtures/toy.held-out.pairs.tsv --vocab "$work/vocab.json" --seq-len 32 \
    --batch-size 32 --format safetensors --output "$work/held-out.safetensors"
"$python" scripts/check_in_pytorch.py --run "$work/run" --batches "$work/held-out.safetensors" \
    --bertstream "$bertstream"
