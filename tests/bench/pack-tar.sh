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

TIMEFORMAT='%3R %3U %3S'
seconds() { # seconds NAME COMMAND...: append wall and processor time to a file
    local name=$1; shift
    sync
    { time "$@" 2>&3; } 3>&2 2>>"$work/$name"
}
tar_only() { tar cf "$work/x.tar" -C "$tree" .; }
tar_sync() { tar_only; sync "$work/x.tar"; }
pack() { "$bin/mabn-pack" imagenet -q -f "$tree" -j "$1" -o "$work/x.h5"; }
wall() { sort -n "$work/$1" | awk '{v[NR] = $1} END {printf "%.3f", v[int((NR + 1) / 2)]}'; }
cpu() { awk '{print $2 + $3}' "$work/$1" | sort -n | awk '{v[NR] = $1} END {printf "%.3f", v[int((NR + 1) / 2)]}'; }

tar_only; pack 0 # warm
for ((i = 0; i < rounds; i++)); do
    seconds tar tar_only; rm "$work/x.tar"
    seconds pack pack 0; rm "$work/x.h5"
    seconds sync tar_sync; rm "$work/x.tar"
    seconds pack1 pack 1; rm "$work/x.h5"
done
files=$(find "$tree" -type f | wc -l)
megabytes=$(du -sm --apparent-size "$tree" | cut -f1)
echo "$files files, $megabytes MB, medians of $rounds rounds, seconds (wall, processor):"
echo "  tar cf            $(wall tar)  $(cpu tar)"
echo "  tar cf, sync      $(wall sync)  $(cpu sync)"
echo "  mabn-pack -j 0    $(wall pack)  $(cpu pack)"
echo "  mabn-pack -j 1    $(wall pack1)  $(cpu pack1)"
awk -v t="$(wall tar)" -v s="$(wall sync)" -v p="$(wall pack)" -v q="$(wall pack1)" 'BEGIN {
    printf "  speed beside tar: %.2f (-j 0), %.2f (-j 1); beside tar and sync: %.2f, %.2f\n", t/p, t/q, s/p, s/q
    exit t / p < 0.8 }'
