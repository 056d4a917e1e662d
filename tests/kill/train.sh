#!/usr/bin/env bash
# train.sh BIN [TRIALS [detector]]: kill -9 mabn-train at random moments; what the resumed run leaves
# must be bit for bit what an undisturbed run leaves. Each trial kills up to four times, then lets it
# finish. What is trained is a classifier, or a detector on composed scenes.
set -euo pipefail
export LC_ALL=C OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
bin=$(cd "$1" && pwd) trials=${2:-50} what=${3:-classifier}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
now() { date +%s%N; }

cd "$work"
"$here/../make-images" tree 4 40 6
if [ "$what" = detector ]; then
    "$bin/mabn-compose" -q -n 12 --width 64 --height 64 --threshold 0 -o scenes tree
    "$bin/mabn-pack" coco -q scenes/images scenes/instances.json -o data.h5
else
    "$bin/mabn-pack" imagenet -q tree -o data.h5
fi

train_detector() { # replaces the (sub)shell that calls it
    exec "$bin/mabn-train" --arch mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 \
        --fc-width 16 --min-size 64 --proposals 60 --box-samples 16 --norm mabn --norm-warmup 4 \
        --batch 4 --accumulate 2 --steps 24 --lr 0.01 --lr-exact --train ../data.h5 \
        --val ../data.h5 --val-every 13 --save-every 5 --log-every 4 --resume -o run -q -l /dev/null
}
train() { # likewise
    if [ "$what" = detector ]; then train_detector; fi
    exec "$bin/mabn-train" --arch cifar-resnet8 --base-width 4 --norm mabn --norm-batch 2 --batch 8 \
        --epochs 3 --augment plain --size 16 --flip 0.5 --train ../data.h5 --val ../data.h5 \
        --val-every 13 --save-every 5 --log-every 4 --record-stats stats.jsonl \
        --resume -o run -q -l /dev/null
}
# What must be the same: both final files, the statistics, the lines of the log without its timings.
compare() { # compare FOLDER FOLDER
    local f
    for f in model.h5 "$(basename "$(find "$1/run" -name 'step-*.h5' | sort | tail -n 1)")"; do
        cmp "$1/run/$f" "$2/run/$f" || return 1
    done
    if [ "$what" != detector ]; then cmp "$1/stats.jsonl" "$2/stats.jsonl" || return 1; fi
    for f in "$1" "$2"; do
        grep -v '"t":"start"' "$f/run/metrics.jsonl" |
            sed -E 's/"(images_s|data_wait|memory|seconds)":[^,}]*//g' >"$f/lines"
    done
    cmp "$1/lines" "$2/lines"
}

mkdir reference
start=$(now)
(cd reference && train)
duration=$(($(now) - start))

kills=0 different=0
for ((t = 1; t <= trials; t++)); do
    rm -rf trial; mkdir trial
    for ((k = 1; k <= 4; k++)); do
        [ ! -e trial/run/model.h5 ] || break
        (cd trial && train) 2>>log &
        pid=$!
        at=$(((RANDOM * 32768 + RANDOM) % duration))
        sleep "$((at / 1000000000)).$(printf '%09d' $((at % 1000000000)))"
        if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
        wait $pid 2>/dev/null || true
    done
    (cd trial && train) 2>>log
    if ! compare reference trial; then different=$((different + 1)); fi
    if [ -n "$(find trial -name '*.tmp-*')" ]; then echo "left behind:"; find trial -name '*.tmp-*'; different=$((different + 1)); fi
done
echo "train $what: $trials trials, $kills kills, $different different from the undisturbed run"
[ "$different" -eq 0 ]
