#!/usr/bin/env bash
# From nothing to a proof that models mean the same here and in transformers, in both directions: builds the program,
# trains a tiny BERT for a few steps on the toy language, exports it, and compares logits, fill-mask and sentence
# vectors; then loads a model that transformers made at random, and compares the losses.
#
#     scripts/check_in_transformers.sh [WORK_DIRECTORY]     # default: a temporary one, removed afterwards
#     VOCABULARIES=words scripts/check_in_transformers.sh   # default: "wordpiece words"
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
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
for vocabulary in ${VOCABULARIES:-wordpiece words}; do
    "$python" scripts/check_in_transformers.py --vocabulary "$vocabulary" --work "$work/$vocabulary" \
        --bertstream "${CARGO_TARGET_DIR:-target}/release/bertstream"
done
