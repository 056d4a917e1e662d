#!/usr/bin/env bash
# pack.sh BIN [TRIALS]: kill -9 mabn-pack at random moments; the finished dataset must be bit for bit
# that of an undisturbed run. Each trial kills up to three times, then lets the last run finish.
set -euo pipefail
export LC_ALL=C
bin=$1 trials=${2:-50}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
now() { date +%s%N; }

"$here/../make-images" "$work/tree" 10 300 6
"$bin/mabn-pack" imagenet -q -j2 "$work/tree" -o "$work/reference.h5"
start=$(now)
"$bin/mabn-pack" imagenet -q -j2 "$work/tree" --resize 8 -o "$work/resized.h5"
duration=$(($(now) - start))

kills=0 resumed=0 lost=0
for ((t = 1; t <= trials; t++)); do
    if ((t % 2)); then want=$work/reference.h5 options=()
    else want=$work/resized.h5 options=(--resize 8); fi
    out=$work/out.h5
    for ((k = 1; k <= 3; k++)); do
        [ ! -e "$out" ] || break
        "$bin/mabn-pack" imagenet -j2 "$work/tree" "${options[@]}" -o "$out" 2>>"$work/log" &
        pid=$!
        at=$(((RANDOM * 32768 + RANDOM) % duration))
        sleep "$(printf '0.%09d' "$at")"
        if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
        wait $pid 2>/dev/null || true
    done
    [ -e "$out" ] || "$bin/mabn-pack" imagenet -j1 "$work/tree" "${options[@]}" -o "$out" 2>>"$work/log"
    if ! cmp "$want" "$out"; then lost=$((lost + 1)); fi
    rm -f "$out"
    left=$(find "$work" -name 'out.h5*')
    if [ -n "$left" ]; then echo "left behind: $left"; lost=$((lost + 1)); rm -f "$work"/out.h5*; fi
done
resumed=$(grep -c 'continuing after' "$work/log" || true)
echo "pack: $trials trials, $kills kills, $resumed runs went on from earlier work, $lost lost or different"
[ "$lost" -eq 0 ]
