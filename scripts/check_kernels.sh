#!/usr/bin/env bash
# Compiles every kernel for GPUs as NVRTC does at run time, for several shapes of models, and tells the registers that
# each takes. Needs no GPU: NVRTC and the assembler come from PyPI.
#
#     scripts/check_kernels.sh
#
# Type-checks the feature `cuda`, too. Fails where something does not compile or keeps more than a few registers in
# memory.
set -euo pipefail
cd "$(dirname "$0")/.."

place="${XDG_CACHE_HOME:-$HOME/.cache}/bertstream/kernels"
if [ ! -e "$place/done" ]; then
    rm -rf "$place"
    python3 -m venv "$place" >&2
    "$place/bin/pip" install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-nvcc==13.0.*' >&2
    touch "$place/done"
fi
toolkit=$("$place/bin/python" -c 'import nvidia.cu13; print(nvidia.cu13.__path__[0])')
cargo clippy --quiet --all-targets --features cuda -- -D warnings
LD_LIBRARY_PATH="$toolkit/lib" "$place/bin/python" scripts/check_kernels.py "$toolkit"
