#!/usr/bin/env bash
# eval.sh BIN [TRIALS]: kill -9 mabn-eval coco at random moments. Its results are whole or not there; over
# an older file they replace it whole or leave it alone. Nothing else is left behind.
set -euo pipefail
export LC_ALL=C OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
bin=$(cd "$1" && pwd) trials=${2:-50}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
now() { date +%s%N; }

cd "$work"
"$here/../make-images" tree 4 40 6
"$bin/mabn-compose" -q -n 60 --width 64 --height 64 --threshold 0 -o scenes tree
"$bin/mabn-pack" coco -q scenes/images scenes/instances.json -o data.h5
"$bin/mabn-init" -q mask-rcnn-r18-fpn --classes 4 --base-width 8 --fpn-width 8 --head-width 8 \
    --fc-width 16 --min-size 64 --proposals 60 -o model.h5
detect() { exec "$bin/mabn-eval" coco -q --min-score 0 -f -o "$1" model.h5 data.h5; }

(detect "$work/reference.json")
start=$(now)
(detect "$work/reference.json")
duration=$(($(now) - start))

kills=0 whole=0 wrong=0
for ((t = 1; t <= trials; t++)); do
    rm -rf out; mkdir out
    if ((t % 2)); then echo older >out/results.json; fi
    detect out/results.json 2>>log &
    pid=$!
    at=$(((RANDOM * 32768 + RANDOM) % duration))
    sleep "$((at / 1000000000)).$(printf '%09d' $((at % 1000000000)))"
    if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
    wait $pid 2>/dev/null || true
    if cmp -s out/results.json reference.json; then whole=$((whole + 1))
    elif ((t % 2)) && [ "$(cat out/results.json)" = older ]; then :
    elif ! ((t % 2)) && [ ! -e out/results.json ]; then :
    else echo "trial $t: neither whole nor untouched"; wrong=$((wrong + 1)); fi
    (detect out/results.json)
    if ! cmp out/results.json reference.json || [ "$(ls -A out)" != results.json ]; then
        echo "trial $t: $(ls -A out)"; wrong=$((wrong + 1))
    fi
done
echo "eval: $trials trials, $kills kills, $whole had finished, $wrong wrong"
[ "$wrong" -eq 0 ]
