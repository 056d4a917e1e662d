#!/usr/bin/env bash
# demo-coco.sh [FOLDER]: a Mask R-CNN from scratch at two images a step, in minutes on two cores.
#
# Composes small scenes of garments from Fashion-MNIST's photographs (compose-scenes.sh; Debian's package
# dataset-fashion-mnist), with exact boxes and masks, in COCO's form: 1,000 to train on, 200 to evaluate on.
# Trains a small Mask R-CNN twice with the same seed and settings, two images a step, with one image in
# each statistic of body and pyramid:
#
#     BN    statistics of that image
#     MABN  moving averages over the last 16, from step 100 on
#
# evaluates both on the evaluation scenes, prints COCO's average precision of boxes and masks, and draws
# the detections of MABN beside the ground truth. FOLDER (default: demo-coco) keeps everything; finished
# work is not repeated, and an interrupted call continues where it stopped.
#
# With the usual 2,000 steps (a few minutes for both) three seeds gave, in the mean and from worst to best:
#
#             box AP              mask AP
#     BN        6.9   6.3 - 7.7     5.7   5.4 - 6.4
#     MABN     10.8   8.8 - 12.4    8.4   6.8 - 9.7
#
# This is only the beginning of a training, of 4,000 images. With both images in one statistic
# (NORM_BATCH=2, seed 1) BN reaches 11.6 and 9.8, and MABN, whose window then spans twice the steps, 8.7
# and 7.0.
#
#   SEEDS="1 2 3"   train with each of these seeds; the table then has a line for each
#   STEPS=2000      SGD steps of each run
#   NORM_BATCH=1    images of one statistic: 1 or 2
set -euo pipefail

usage="demo-coco.sh [FOLDER]"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
[ $# -le 1 ] || misused

folder=${1:-demo-coco}
seeds=${SEEDS:-1}
steps=${STEPS:-2000} norm_batch=${NORM_BATCH:-1}
norms="bn mabn"

die() { echo "demo-coco: $*" >&2; exit 1; }
command -v mabn-train >/dev/null || die "mabn-train is not in PATH: run 'make demo-coco', or 'make install' first"
here=$(dirname "$(realpath "$0")")
mkdir -p "$folder"

TRAIN=1000 VAL=200 SCENES="--width 128 --height 128 --max-objects 5" \
    work "$here/compose-scenes.sh" "$folder/scenes" >/dev/null

begin=$SECONDS
count=0 total=$(($(wc -w <<<"$norms") * $(wc -w <<<"$seeds")))
for seed in $seeds; do
    for norm in $norms; do
        run=$folder/$norm@$norm_batch-seed$seed-$steps
        count=$((count + 1))
        [ -e "$run/table" ] && continue
        left=""
        [ "$count" -gt 1 ] && [ "$SECONDS" -gt "$begin" ] &&
            left=", about $(((SECONDS - begin) * (total - count + 1) / (count - 1))) s to go"
        echo "[$count/$total] Mask R-CNN with ${norm^^}, seed $seed$left" >&2
        work mabn-train --arch mask-rcnn-r18-fpn --base-width 16 --fpn-width 32 --head-width 32 \
            --fc-width 128 --box-convs 2 --mask-convs 2 --min-size 128 --max-size 128 \
            --anchors 24,40,64,96,128 --proposals 400 --rpn-samples 64 --box-samples 64 \
            --norm "$norm" --norm-batch "$norm_batch" --norm-warmup 100 --r-start 101 --batch 2 \
            --steps "$steps" --lr 0.02 --lr-exact --warmup-steps 50 --warmup-factor 0.1 \
            --log-every 25 --save-every 500 --seed "$seed" --train "$folder/scenes/train.h5" \
            --resume -o "$run" --log /dev/null
        work mabn-eval coco --precision fp32 "$run/model.h5" "$folder/scenes/val.h5" -f -o "$run/results.json"
        work mabn-score coco -t bbox,segm "$folder/scenes/val.h5" "$run/results.json" >"$run/table.part"
        mv "$run/table.part" "$run/table"
    done
done

# figure FILE WHICH: AP, AP50, AP75 of boxes (line 1, 2, 3) or masks (13, 14, 15)
figure() { grep Average "$1" | sed -n "$2s/.*= //p"; }

printf '\n200 scenes kept apart; %s steps of 2 images, %s behind a statistic; average precision\n\n' \
    "$steps" "$norm_batch"
printf '%-6s %-5s %8s %8s %8s   %8s %8s %8s\n' norm seed "box AP" AP50 AP75 "mask AP" AP50 AP75
for norm in $norms; do
    for seed in $seeds; do
        table=$folder/$norm@$norm_batch-seed$seed-$steps/table
        printf '%-6s %-5s %8s %8s %8s   %8s %8s %8s\n' "${norm^^}" "$seed" "$(figure "$table" 1)" \
            "$(figure "$table" 2)" "$(figure "$table" 3)" "$(figure "$table" 13)" \
            "$(figure "$table" 14)" "$(figure "$table" 15)"
    done
done

first=${seeds%% *}
mabn-draw -q -f "$folder/scenes/val.h5" -n 12 --tile 256 -o "$folder/truth.png"
mabn-draw -q -f "$folder/scenes/val.h5" -r "$folder/mabn@$norm_batch-seed$first-$steps/results.json" -n 12 \
    --tile 256 -o "$folder/found.png"
printf '\ntrue: %s   found: %s   (%s s)\n' "$folder/truth.png" "$folder/found.png" "$((SECONDS - begin))"
