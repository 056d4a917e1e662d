#!/usr/bin/env bash
# demo.sh [FOLDER]: the paper's claim on real photographs, in a few minutes on two cores.
#
# Packs Fashion-MNIST (Debian's package dataset-fashion-mnist: 60,000 + 10,000 photographs of 10
# kinds of clothing), trains a small residual network three times from the same seed, with the same
# SGD batch of 32 images and the same course:
#
#     BN    statistics over all 32 images: the baseline
#     BN    statistics over  2 images: the loss at a small normalization batch
#     MABN  statistics over  2 images, moving averages over the last 16: the loss recovered
#
# On two threads, SEEDS="1 2 3" gave (top-1 in %, mean and range; rounding differs between machines):
#
#     BN   32   83.27   82.60 to 84.15
#     BN    2   80.32   80.05 to 80.50
#     MABN  2   84.16   83.63 to 84.46
#
# It evaluates each on the 10,000 test images, prints the table and draws the curves into FOLDER
# (default: demo). Runs that are done are kept: a second call only shows the results, and an
# interrupted call continues where it stopped.
#
#   SEEDS="1 2 3"   train with each of these seeds; the table then has the mean and the range
#   STEPS=1250      SGD steps of each run (1875: every training image once)
set -euo pipefail

usage="demo.sh [FOLDER]"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
[ $# -le 1 ] || misused

folder=${1:-demo}
seeds=${SEEDS:-1}
steps=${STEPS:-1250}
data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
runs=("bn 32" "bn 2" "mabn 2")

die() { echo "demo: $*" >&2; exit 1; }
command -v mabn-train >/dev/null || die "mabn-train is not in PATH: run 'make demo', or 'make install' first"
[ -d "$data" ] || die "'$data' is not there: install Debian's package dataset-fashion-mnist, or set FASHION_MNIST"
mkdir -p "$folder"

pack() { # pack PREFIX OUTPUT
    [ -e "$folder/$2" ] ||
        mabn-pack idx -q "$data/$1-images-idx3-ubyte.gz" "$data/$1-labels-idx1-ubyte.gz" -o "$folder/$2"
}
pack train train.h5
pack t10k test.h5

begin=$SECONDS
count=0 total=$((${#runs[@]} * $(wc -w <<<"$seeds")))
for seed in $seeds; do
    for run in "${runs[@]}"; do
        read -r norm batch <<<"$run"
        name=$norm-$batch-seed$seed-$steps
        count=$((count + 1))
        [ -e "$folder/$name/eval.json" ] && continue
        left=""
        [ "$count" -gt 1 ] && [ "$SECONDS" -gt "$begin" ] &&
            left=", about $(((SECONDS - begin) * (total - count + 1) / (count - 1))) s to go"
        echo "[$count/$total] ${norm^^} at normalization batch $batch, seed $seed$left" >&2
        work mabn-train --arch cifar-resnet8 --norm "$norm" --norm-batch "$batch" --batch 32 \
            --steps "$steps" --lr 0.1 --lr-exact --schedule cosine --mean 0.286 --std 0.353 \
            --seed "$seed" --train "$folder/train.h5" --val "$folder/test.h5" --val-batch 100 \
            --val-every $(((steps + 4) / 5)) --log-every 25 --resume -o "$folder/$name" \
            --log /dev/null
        mabn-eval imagenet "$folder/$name/model.h5" "$folder/test.h5" --batch 100 --json -q \
            >"$folder/$name/eval.json.part"
        mv "$folder/$name/eval.json.part" "$folder/$name/eval.json"
    done
done

number() { sed "s/.*\"$2\":\([0-9.eE+-]*\).*/\1/" "$1"; }

first=${seeds%% *}
printf '\nFashion-MNIST, 10,000 test images; %s steps of 32 images, seed%s %s\n\n' \
    "$steps" "$([ "$first" = "$seeds" ] || echo s)" "$seeds"
printf '%-6s %-22s %-14s %8s   %-15s %6s\n' norm "normalization batch" "window" "top-1 %" "" loss
for run in "${runs[@]}"; do
    read -r norm batch <<<"$run"
    for seed in $seeds; do
        file=$folder/$norm-$batch-seed$seed-$steps/eval.json
        echo "$(number "$file" top1) $(number "$file" loss)"
    done | awk -v norm="${norm^^}" -v batch="$batch" '
        { t += $1; l += $2; if (NR == 1 || $1 < low) low = $1; if (NR == 1 || $1 > high) high = $1 }
        END { range = NR > 1 ? sprintf("%.2f to %.2f", low, high) : ""
              printf "%-6s %-22s %-14s %8.2f   %-15s %6.3f\n", norm, batch " images",
                     norm == "MABN" ? "16 statistics" : "none", t / NR, range, l / NR }'
done

logs=()
for run in "${runs[@]}"; do
    read -r norm batch <<<"$run"
    logs+=("${norm^^}, normalization batch $batch=$folder/$norm-$batch-seed$first-$steps/metrics.jsonl")
done
mabn-plot curves -f "${logs[@]}" --title "Fashion-MNIST, SGD batch 32, seed $first" \
    -o "$folder/curves.png" -o "$folder/curves.svg"
printf '\ncurves: %s and .svg   (%s s)\n' "$folder/curves.png" "$((SECONDS - begin))"
