#!/usr/bin/env bash
# All checks that need a GPU, in one command, and one table of their results.
#
#     scripts/gpu_check.sh CORPUS [MINUTES]      # pairs, two sentences a line; minutes of real training [10]
#     scripts/gpu_check.sh --build DIRECTORY     # only builds, for a machine that has a GPU and no toolchain
#     BUILT=DIRECTORY scripts/gpu_check.sh CORPUS [MINUTES]
#
# Parity with the reference implementations and finite differences on the device (the tests of all engines), training
# on the corpus beside the same on the CPU, a run that goes from the CPU to the GPU and back, and, where
# scripts/setup_peers.sh has been run, the comparison with PyTorch. Logs lie in $WORK (default: a new folder).
# The libraries: eval "$(scripts/setup_cuda.sh)" before, or a toolkit's lib64 in LD_LIBRARY_PATH.
set -uo pipefail
cd "$(dirname "$0")/.."

build() {
    mkdir -p "$1"
    cargo build --release --features cuda --bin bertstream && cp target/release/bertstream "$1/"
    for suite in engines golden; do
        binary=$(cargo test --release --features cuda --test "$suite" --no-run --message-format json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
        cp "$binary" "$1/$suite"
    done
    strip "$1"/*
}

if [ "${1:-}" = --build ]; then
    build "${2:?a directory is missing: gpu_check.sh --build DIRECTORY}"
    exit
fi
corpus=${1:?a corpus is missing: gpu_check.sh CORPUS [MINUTES]}
minutes=${2:-10}
work=${WORK:-$(mktemp -d)}
mkdir -p "$work"
if [ -z "${BUILT:-}" ]; then
    BUILT=$work/built
    build "$BUILT" >"$work/build.log" 2>&1 || { tail "$work/build.log"; exit 1; }
fi
program=$BUILT/bertstream

results=()
# check NAME COMMAND...: its log, and a line of the table. What a check prints last is its figure.
check() {
    local name=$1 log="$work/${1// /-}.log" start=$SECONDS
    shift
    if "$@" >"$log" 2>&1; then verdict=passed; else verdict="failed ($log)"; fi
    results+=("| $name | $verdict | $((SECONDS - start)) s | $(tail -n 1 "$log" | tr '|' '/' | cut -c 1-100) |")
    echo "${results[-1]}" >&2
}

train() { # RUN STEPS FLAGS...
    local run=$1 steps=$2
    shift 2
    "$program" train --corpus "$corpus" --vocab "$work/vocab.json" --output "$run" --hidden 256 --layers 4 \
        --attn-heads 4 --seq-len 64 --batch-size 64 --steps "$steps" --schedule constant --warmup 20 --seed 1 \
        --log-freq 50 "$@"
}
# The last record's loss.
loss() { sed -n 's/.*"kind":"step".*"mlm_loss":\([0-9.]*\).*/\1/p' "$1/metrics.jsonl" | tail -1; }
beside() { # WHAT A B TOLERANCE
    echo "$1: $2 and $3"
    awk -v a="$2" -v b="$3" -v most="$4" 'BEGIN { d = a - b; exit !(a > 0 && (d < 0 ? -d : d) <= most) }'
}
same_curve() {
    train "$work/cpu" 200 --device cpu && train "$work/gpu" 200 --device cuda:0 &&
        beside "loss after 200 steps" "$(loss "$work/cpu")" "$(loss "$work/gpu")" 0.02
}
same_curve_bf16() {
    train "$work/gpu-bf16" 200 --device cuda:0 --precision bf16 &&
        beside "loss after 200 steps" "$(loss "$work/gpu")" "$(loss "$work/gpu-bf16")" 0.05
}
recomputed() {
    train "$work/gpu-recompute" 200 --device cuda:0 --recompute &&
        beside "loss after 200 steps" "$(loss "$work/gpu")" "$(loss "$work/gpu-recompute")" 0
}
there_and_back() {
    train "$work/moved" 50 --device cpu &&
        "$program" train --resume "$work/moved" --steps 100 --device cuda:0 &&
        "$program" train --resume "$work/moved" --steps 150 --device cpu &&
        beside "loss after 150 steps" "$(loss "$work/moved")" "$(sed -n 's/.*"step":150,.*"mlm_loss":\([0-9.]*\).*/\1/p' \
            "$work/cpu/metrics.jsonl" | tail -1)" 0.02
}
long_training() {
    timeout --signal TERM "$((minutes * 60))" "$program" train --corpus "$corpus" --vocab "$work/vocab.json" \
        --output "$work/long" --size base --seq-len 128 --batch-size 128 --steps 1000000 --precision bf16 \
        --device cuda:0 --log-freq 20
    code=$?
    "$program" report "$work/long" --output "$work/long.html"
    tail -n 1 "$work/long/metrics.jsonl" | cut -c 1-300
    [ "$code" -eq 124 ] || [ "$code" -eq 75 ]
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || exit 1
export BERTSTREAM_TEST_DEVICE=cuda:0
check "gradients and updates" "$BUILT/engines" --nocapture
check "golden numbers" "$BUILT/golden" --nocapture
check "vocabulary" "$program" vocab --corpus "$corpus" --vocab-size 8192 --output "$work/vocab.json"
check "curve beside the CPU" same_curve
check "bf16 beside f32" same_curve_bf16
check "recomputed activations" recomputed
check "CPU to GPU and back" there_and_back
check "training for $minutes min" long_training
peers=${XDG_CACHE_HOME:-$HOME/.cache}/bertstream/peers/bin/python
if [ -x "$peers" ]; then
    check "beside PyTorch" "$peers" scripts/bench_gpu.py --bertstream "$program"
    cat "$work/beside-PyTorch.log"
else
    results+=("| beside PyTorch | not run: scripts/setup_peers.sh first | | |")
fi

echo
echo "| check | result | time | figure |"
echo "|---|---|---:|---|"
printf '%s\n' "${results[@]}"
! printf '%s\n' "${results[@]}" | grep -q failed
