#!/usr/bin/env bash
# imagenet-r50-mabn.sh IMAGENET FOLDER: the reference run, ResNet-50 with MABN at a normalization batch
# of 2 on ImageNet-1k, from photographs to accuracy.
#
# IMAGENET holds train/ and val/, each with one folder for each class (n01440764, ...). Expected, top-1 on
# the 50,000 validation images after 120 epochs of 5000 steps of 256 images:
#
#     norm batch   norm   top-1 %   here
#     32           BN     76.59     NORM=bn NORM_BATCH=32
#     2            BN     64.78     NORM=bn
#     2            BRN    69.71     NORM=brn
#     2            MABN   76.33     (this script as it is; the figure of the paper has 76.47)
#
# A run within 0.3 of these has reproduced them. It is 600,000 steps of 256 images, so try the script
# first with a small tree and OPTIONS="--epochs 1 --epoch-steps 10".
#
# The script can be started again at any time: packed files are kept, training goes on from its newest
# checkpoint, and when FOLDER/DONE is there nothing is left to do. Stopped by a signal it exits with
# 75, so that a job can requeue itself:
#
#     #SBATCH --signal=B:TERM@120
#     imagenet-r50-mabn.sh /data/imagenet r50 & wait $! || [ $? != 75 ] || scontrol requeue $SLURM_JOB_ID
#
# Settings, from the environment: NORM=mabn NORM_BATCH=2 OPTIONS="" (further options of mabn-train).
set -euo pipefail

usage="imagenet-r50-mabn.sh IMAGENET FOLDER"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
[ $# -eq 2 ] || misused
images=$1 folder=$2
norm=${NORM:-mabn} norm_batch=${NORM_BATCH:-2}
read -ra options <<<"${OPTIONS:-}"
[ ! -e "$folder/DONE" ] || { cat "$folder/DONE"; exit 0; }
mkdir -p "$folder"

for part in train val; do
    [ -e "$folder/$part.h5" ] || work mabn-pack imagenet "$images/$part" --skip-bad -o "$folder/$part.h5"
done

# The weight centralization of the reference belongs to MABN; BN and BRN are plain.
work mabn-train --preset imagenet --norm "$norm" --norm-batch "$norm_batch" \
    --train "$folder/train.h5" --val "$folder/val.h5" --val-every 5000 --val-batch 200 \
    --save-every 1000 --log-every 100 --resume -o "$folder/run" --log /dev/null "${options[@]}"

work mabn-eval imagenet "$folder/run/model.h5" "$folder/val.h5" --label-smoothing 0.1 --json >"$folder/eval.json"
mabn-plot curves -f "$folder/run/metrics.jsonl" --more -o "$folder/curves.png" -o "$folder/curves.svg"
mv "$folder/eval.json" "$folder/DONE"
cat "$folder/DONE"
