#!/usr/bin/env bash
# convert_speed.sh [MEGABYTES [ROUNDS [TOOLS]]]: mabn-convert beside cp, from a warm cache.
#
# A PyTorch file of random tensors (16 MB each) is converted to each format, and copied, MEGABYTES of
# it, in ROUNDS rounds, each in a random order. Both sides end synced: `cp && sync FILE` beside
# mabn-convert, which syncs file and folder, checks the source's CRCs, and reads HDF5 back to verify
# it. The output does not exist before. Median, fastest and slowest are printed, the ratio of the
# medians, and the peak memory. Needs python3-torch.
set -euo pipefail
size=${1:-1024} rounds=${2:-7} tools=${3:-build/release/bin}
dir=$(mktemp -d -p "${TMPDIR:-/var/tmp}"); trap 'rm -rf "$dir"' EXIT
/usr/bin/python3 - "$dir/in.pth" "$size" <<'EOF'
import sys, torch
n = int(sys.argv[2]) // 16
torch.save({"t%d.weight" % i: torch.randn(1024, 4096) for i in range(n)}, sys.argv[1])
EOF
seconds() { local start=$EPOCHREALTIME; "$@"; awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }
copy() { cp "$dir/in.pth" "$dir/out" && sync "$dir/out"; }
convert() {
    /usr/bin/time -f %M -o "$dir/rss" "$tools/mabn-convert" -q --as-is "$dir/in.pth" --to "$1" -o "$dir/out"
}
middle() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)], v[1], v[NR] }'; }
cat "$dir/in.pth" >/dev/null
kinds="cp torch safetensors hdf5"
# In a new order each round: one may pay for the memory that the one before it gave back.
for ((r = 0; r < rounds; r++)); do
    for k in $(shuf -e $kinds); do
        rm -f "$dir/out"
        if [ "$k" = cp ]; then seconds copy; else seconds convert "$k"; fi >>"$dir/$k.s"
        if [ "$k" != cp ]; then cp "$dir/rss" "$dir/$k.rss"; fi
    done
done
read -r base _ < <(middle <"$dir/cp.s")
for k in $kinds; do
    read -r t low high < <(middle <"$dir/$k.s")
    awk -v k="$k" -v t="$t" -v low="$low" -v high="$high" -v b="$base" -v m="$size" \
        -v r="$(cat "$dir/$k.rss" 2>/dev/null || echo 0)" 'BEGIN {
        printf "%-12s %6.2f s (%.2f to %.2f) %7.0f MB/s  %.2f of cp", k, t, low, high, m / t, b / t
        if (r > 0) printf "  peak %.0f MB", r / 1024
        print "" }'
done
