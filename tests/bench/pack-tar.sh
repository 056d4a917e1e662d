#!/usr/bin/env bash
# pack-tar.sh BIN [TREE [ROUNDS]]: mabn-pack imagenet beside `tar cf` on one class tree, from a warm
# cache, in turns; medians of the wall time, with and without a sync of tar's file (mabn-pack always
# syncs). Without a TREE, 60,000 small pictures are made. Exit 1 below 0.8 of tar's speed.
set -euo pipefail
export LC_ALL=C
bin=$1 tree=${2:-} rounds=${3:-5}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [ -z "$tree" ]; then
    "$here/../make-images" "$work/tree" 10 6000 8
    tree=$work/tree
fi

seconds() { # seconds NAME COMMAND...: append the wall time to a file
    local name=$1 start end; shift
    sync; start=$(date +%s%N); "$@"; end=$(date +%s%N)
    echo $(((end - start) / 1000)) >>"$work/$name"
}
tar_only() { tar cf "$work/x.tar" -C "$tree" .; }
tar_sync() { tar_only; sync "$work/x.tar"; }
pack() { "$bin/mabn-pack" imagenet -q -f "$tree" -j "$1" -o "$work/x.h5"; }
median() { sort -n "$work/$1" | awk '{v[NR] = $1} END {printf "%.3f", v[int((NR + 1) / 2)] / 1e6}'; }

tar_only; pack 0 # warm
for ((i = 0; i < rounds; i++)); do
    seconds tar tar_only; rm "$work/x.tar"
    seconds pack pack 0; rm "$work/x.h5"
    seconds sync tar_sync; rm "$work/x.tar"
    seconds pack1 pack 1; rm "$work/x.h5"
done
files=$(find "$tree" -type f | wc -l)
megabytes=$(du -sm --apparent-size "$tree" | cut -f1)
echo "$files files, $megabytes MB, medians of $rounds rounds, seconds:"
echo "  tar cf            $(median tar)"
echo "  tar cf, sync      $(median sync)"
echo "  mabn-pack -j 0    $(median pack)"
echo "  mabn-pack -j 1    $(median pack1)"
awk -v t="$(median tar)" -v s="$(median sync)" -v p="$(median pack)" -v q="$(median pack1)" 'BEGIN {
    printf "  speed beside tar: %.2f (-j 0), %.2f (-j 1); beside tar and sync: %.2f, %.2f\n", t/p, t/q, s/p, s/q
    exit t / p < 0.8 }'
