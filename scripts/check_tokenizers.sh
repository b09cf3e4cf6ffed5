#!/usr/bin/env bash
# Proves that this program gives the ids of Python's `tokenizers`: trains a tokenizer of each model on a
# corpus, encodes every line of it and of a hostile file with both, and compares. A `vocab.txt` is compared
# with BertWordPieceTokenizer. (Word vocabularies are compared by check_in_transformers.sh.)
#
#     scripts/check_tokenizers.sh CORPUS [WORK_DIRECTORY]     # default: a temporary one, removed afterwards
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 CORPUS [WORK_DIRECTORY]" >&2; exit 2; }
corpus=$(realpath "$1")
cd "$(dirname "$0")/.."

if [ $# -gt 1 ]; then
    work=$2
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

python=$(scripts/setup_peers.sh)
cargo build --release
"$python" scripts/check_tokenizers.py --corpus "$corpus" --work "$work" \
    --bertstream "${CARGO_TARGET_DIR:-target}/release/bertstream"
