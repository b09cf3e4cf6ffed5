#!/usr/bin/env bash
# Trains a little, is killed, goes on, and has TensorBoard's own reader tell what it finds in the event files.
# Makes a virtual environment with TensorBoard outside the repository.
#
#     scripts/check_tensorboard.sh [PROGRAM] [ENVIRONMENT]    # default: cargo run --release, ~/.cache/bertstream/tensorboard
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-}
if [ -z "$program" ]; then
    cargo build --release >&2
    program=target/release/bertstream
fi
environment=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/bertstream/tensorboard}
python=$environment/bin/python
if ! { [ -x "$python" ] && "$python" -c 'import tensorboard' 2>/dev/null; }; then
    python3 -m venv "$environment" >&2
    "$python" -m pip install --quiet 'tensorboard==2.20.*' 'setuptools<81' >&2
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cp fixtures/toy.pairs.tsv fixtures/toy.held-out.pairs.tsv "$directory"
"$program" vocab -c "$directory/toy.pairs.tsv" -o "$directory/vocab.json"
"$program" train -c "$directory/toy.pairs.tsv" -t "$directory/toy.held-out.pairs.tsv" -v "$directory/vocab.json" \
    -o "$directory/run" -H 32 -l 2 -a 4 -s 24 -b 8 --steps 300 --log-freq 1 --save-every 100 --eval-every 150 \
    --tensorboard --histogram-every 50 --examples-every 60 2>"$directory/told" &
training=$!
tail --pid="$training" -n +1 -f "$directory/told" | grep -q -m 1 '^step   170' || true
kill -KILL "$training"
wait "$training" || true
"$program" train --resume "$directory/run" --quiet
"$python" scripts/check_tensorboard.py "$directory/run"
