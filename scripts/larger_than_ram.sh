#!/usr/bin/env bash
# Proves that a corpus larger than memory costs no speed and no memory: repeats a corpus to SIZE MiB, makes batches of
# it with all of it in memory, then under a memory limit of a quarter of its size with a cold page cache, and prints
# rates and peaks. Batches must be the same. Ends with status 1 where a goal is missed: 80 % of the rate, 256 MiB.
#
#     scripts/larger_than_ram.sh CORPUS [SIZE_MIB] [WORK_DIRECTORY]    # default: 2048, a temporary one
#     BATCHES=20000 ROUNDS=3 scripts/larger_than_ram.sh CORPUS         # batches a run, rounds (medians are told)
#     BERTSTREAM=target/debug/bertstream scripts/larger_than_ram.sh CORPUS    # this program, instead of building one
#     LIMIT=address scripts/larger_than_ram.sh CORPUS                  # an address space, even where groups can be made
#
# The limit is a control group (version 1 or 2) where one can be made, which counts the page cache as well; else it is
# the address space (ulimit -v).
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 CORPUS [SIZE_MIB] [WORK_DIRECTORY]" >&2; exit 2; }
source=$(realpath "$1")
size=${2:-2048}
batches=${BATCHES:-20000}
rounds=${ROUNDS:-3}
work=${3:-$(mktemp -d)}
mkdir -p "$work"
work=$(realpath "$work")
cd "$(dirname "$0")/.."

limit=$((size / 4 * 1024 * 1024))
big=$work/big.${source##*.}
group=
for place in /sys/fs/cgroup/memory /sys/fs/cgroup; do
    candidate=$place/bertstream.$$
    if [ "${LIMIT:-group}" = group ] && mkdir "$candidate" 2>/dev/null; then
        for file in memory.limit_in_bytes memory.max; do
            [ -e "$candidate/$file" ] && echo "$limit" >"$candidate/$file" 2>/dev/null && group=$candidate && break 2
        done
        rmdir "$candidate"
    fi
done
trap 'rm -f "$big" "$big".bsidx "$work"/run.*; [ -z "$group" ] || rmdir "$group"; rmdir "$work" 2>/dev/null || true' EXIT

bertstream=${BERTSTREAM:-${CARGO_TARGET_DIR:-target}/release/bertstream}
[ -n "${BERTSTREAM:-}" ] || cargo build --release
"$bertstream" vocab --corpus "$source" --output "$work/run.vocab.json" >/dev/null 2>&1
for ((written = 0; written < size * 1024 * 1024; written += $(stat -c %s "$source"))); do
    cat "$source"
done >"$big"
sync "$big"
"$bertstream" corpus --corpus "$big" --json >/dev/null

# One run: rate in samples a second, peak of the process' own memory in MiB, and the digest of the batches.
# RssAnon leaves out pages of files, which the system takes back when it needs them.
measure() { # limited?, flags
    local limited=$1
    shift
    dd of="$big" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    (
        if [ "$limited" = yes ]; then
            if [ -n "$group" ]; then echo "$BASHPID" >"$group/cgroup.procs"; else ulimit -v $((limit / 1024)); fi
        fi
        exec "$bertstream" collate --corpus "$big" --vocab "$work/run.vocab.json" --limit "$batches" \
            --shuffle blocks --stats "$@" >"$work/run.summary"
    ) &
    local pid=$! peak=0 now
    while kill -0 "$pid" 2>/dev/null; do
        now=$(awk '/^RssAnon/ {print int($2 / 1024)}' "/proc/$pid/status" 2>/dev/null || true)
        [ "${now:-0}" -le "$peak" ] || peak=$now
        sleep 0.05
    done
    wait "$pid"
    echo "$(rate) $peak $(awk '$1 == "digest" {print $2}' "$work/run.summary")"
}

# Samples a second, as the summary tells them.
rate() {
    grep -oE '[0-9,]+ samples/s' "$work/run.summary" | tr -dc '0-9'
}

for ((round = 0; round < rounds; round++)); do
    echo "memory $(measure no --io memory)"
    echo "pread $(measure yes --io pread)"
    [ -z "$group" ] || echo "mmap $(measure yes --io mmap)"
done >"$work/run.table"

python3 - "$work/run.table" "$size" "${group:+control group}" <<'PYTHON'
import statistics
import sys

runs = [line.split() for line in open(sys.argv[1])]
size, how = int(sys.argv[2]), sys.argv[3] or "address space"
of = lambda kind, column: [int(run[column]) for run in runs if run[0] == kind]
whole = statistics.median(of("memory", 1))
good = len({run[3] for run in runs}) == 1
print(f"{size} MiB of text, limited to {size // 4} MiB by {how}, medians of {len(of('pread', 1))} rounds")
print(f"{'--io':8} {'limited':8} {'samples/s':>10} {'of memory':>10} {'peak MiB':>9}")
for kind in dict.fromkeys(run[0] for run in runs):
    rate, peak = statistics.median(of(kind, 1)), max(of(kind, 2))
    limited = kind != "memory"
    good = good and not (limited and (rate < 0.8 * whole or peak > 256))
    print(f"{kind:8} {'yes' if limited else 'no':8} {rate:10,.0f} {rate / whole:10.0%} {peak:9}")
print("the batches are the same" if len({run[3] for run in runs}) == 1 else "THE BATCHES DIFFER")
sys.exit(not good)
PYTHON
