#!/usr/bin/env bash
# Makes the virtual environment with the systems that this one is compared with, outside the repository,
# and prints its Python. Does nothing where the environment is already complete.
#
#     scripts/setup_peers.sh [DIRECTORY]      # default: ${XDG_CACHE_HOME:-~/.cache}/bertstream/peers
set -euo pipefail

directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/bertstream/peers}
python=$directory/bin/python
complete='
from importlib.metadata import version
import bert_pytorch, numpy, safetensors.torch, sentence_transformers, tokenizers, torch, tqdm, transformers
assert version("bert-pytorch") == "0.0.1a4" and version("torch").split("+")[0] == "2.11.0"
'

if ! { [ -x "$python" ] && "$python" -c "$complete" 2>/dev/null; }; then
    python3 -m venv "$directory" >&2
    "$python" -m pip install --quiet torch==2.11.0 numpy tqdm safetensors bert-pytorch==0.0.1a4 \
        tokenizers transformers sentence-transformers >&2
    "$python" -c "$complete"
fi
echo "$python"
