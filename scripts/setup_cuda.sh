#!/usr/bin/env bash
# Fetches what a program built with `--features cuda` looks for beside the driver, NVRTC and cuBLAS of CUDA 13, from
# PyPI into a folder of its own, and prints the line that makes them found. Needs Python 3 with venv, and no GPU.
#
#     eval "$(scripts/setup_cuda.sh)"
#     target/release/bertstream train --device cuda:0 ...
#
# Who has a toolkit of CUDA 12 or 13 needs none of this: its lib64 in LD_LIBRARY_PATH is enough.
set -euo pipefail

place="${BERTSTREAM_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/bertstream/cuda}"
if [ ! -e "$place/done" ]; then
    rm -rf "$place"
    python3 -m venv "$place" >&2
    "$place/bin/pip" install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' >&2
    touch "$place/done"
fi
libraries=$("$place/bin/python" -c 'import nvidia.cu13, pathlib; print(pathlib.Path(nvidia.cu13.__path__[0]) / "lib")')
for library in libnvrtc.so.13 libcublas.so.13; do
    [ -e "$libraries/$library" ] || { echo "setup_cuda.sh: $libraries holds no $library" >&2; exit 1; }
done
echo "export LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
