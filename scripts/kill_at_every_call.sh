#!/usr/bin/env bash
# Kills a training at every single system call with which it changes the disk while it saves: as SIGKILL arrives
# at the K-th of them, for every K, until it runs to its end. The run that then goes on must come to the same weights
# and state as one that was not killed, and leave nothing behind.
#
#     scripts/kill_at_every_call.sh [BINARY] [FROM] [STEP]    # default: target/release/bertstream, every call from the first
#
# Takes strace. Prints how many calls there were; ends with status 1 at the first difference.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/release/bertstream}")
from=${2:-1}
step=${3:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -n 200 fixtures/toy.pairs.tsv >"$work/train.tsv"
cd "$work"
export XDG_CACHE_HOME=$work/cache
"$binary" vocab -c train.tsv -o vocab.json >/dev/null 2>&1
train="$binary train -c train.tsv -v vocab.json -H 8 -l 1 -a 2 -s 16 -b 8 --steps 12 --save-every 4 --keep 1 --threads 1
    --workers 0 --quiet"
$train -o whole >/dev/null 2>&1
files="model.safetensors optimizer.safetensors state.json"
sums() { (cd "$1" && sha256sum $files); }
expected=$(sums whole)
# Whatever changes what a directory or a file holds, or makes that last.
calls=write,openat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,unlink,unlinkat,rmdir,fsync,ftruncate

count=0
for ((k = from; ; k += step)); do
    rm -rf run
    # A kill by the injection is the shell's to report; only the status counts.
    status=0
    { strace -f -qq -o /dev/null -e trace=$calls -e "inject=$calls:signal=SIGKILL:when=$k" $train -o run >/dev/null 2>&1; } \
        2>/dev/null || status=$?
    if [ $status -eq 0 ]; then break; fi
    count=$((count + 1))
    if [ -e run/config.json ]; then
        $binary train --resume run --quiet >/dev/null 2>told || { echo "call $k: $(cat told)" >&2; exit 1; }
    else
        rm -rf run/lock
        $train -o run >/dev/null 2>told || { echo "call $k: $(cat told)" >&2; exit 1; }
    fi
    if [ "$(sums run)" != "$expected" ]; then
        echo "call $k: the run that goes on comes to another end" >&2
        exit 1
    fi
    strays=$(find run -name '.bertstream-*' -o -name '.*.link')
    if [ -n "$strays" ]; then
        echo "call $k: left behind: $strays" >&2
        exit 1
    fi
done
echo "killed at $count calls (every $step from $from on, $((k - 1)) in all): the same end each time"
