#!/usr/bin/env bash
# coco-r50-fpn.sh SCRATCH|FINE-TUNE NORM: a row of the paper's COCO table: Mask R-CNN on ResNet-50 with a
# feature pyramid, from photographs to average precision.
#
# COCO, from the environment, holds train2017/, val2017/ and annotations/instances_{train,val}2017.json.
# Expected, on the 5000 photographs of val2017 after 180,000 steps of 16:
#
#                  norm     box AP   AP50    AP75    mask AP  AP50    AP75
#     SCRATCH      bn       32.38    50.44   35.47   29.07    47.68   30.75
#     SCRATCH      brn      34.07    52.66   37.12   30.98    50.03   32.93
#     SCRATCH      syncbn   36.80    56.06   40.23   33.10    53.15   35.24
#     SCRATCH      mabn     36.50    55.79   40.17   32.69    52.78   34.71
#     FINE-TUNE    syncbn   38.25    57.81   42.01   34.22    54.97   36.34
#     FINE-TUNE    mabn     38.42    58.19   41.99   34.12    55.10   36.12
#
# A run within 0.3 of these has reproduced them; none has been run to its end here. It is 2,880,000
# photographs: 800 hours at one a second, and a step's line in metrics.jsonl says how many a second it is
# (images_s). So try the script first with a few photographs and OPTIONS="--steps 10".
#
# A step is 8 passes of two photographs, the normalization batch. SyncBN's statistics are over all 16,
# in one pass, which takes about eight times the memory; the reference's SyncBN has a bias in its first
# convolution, this one has not.
#
# FINE-TUNE begins with the body BODY, which mabn-convert makes of the authors' weights; for mabn they
# must have been trained with weight centralization, and others are refused.
#
# The script can be started again at any time: packed files are kept, training goes on from its newest
# checkpoint, and when FOLDER/DONE is there nothing is left to do. Stopped by a signal it exits with
# 75, so that a job can requeue itself, as with imagenet-r50-mabn.sh.
#
# Settings, from the environment: COCO=coco, BODY= (FINE-TUNE), FOLDER=coco-STRATEGY-NORM,
# DATA=COCO/packed (train.h5 and val.h5, shared by all rows), OPTIONS="" (further options of mabn-train).
set -euo pipefail

usage="coco-r50-fpn.sh SCRATCH|FINE-TUNE NORM"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
[ $# -eq 2 ] || misused
strategy=${1,,} norm=$2
case $strategy-$norm in
    scratch-bn)       expected="32.38 29.07" ;;
    scratch-brn)      expected="34.07 30.98" ;;
    scratch-syncbn)   expected="36.80 33.10" ;;
    scratch-mabn)     expected="36.50 32.69" ;;
    fine-tune-syncbn) expected="38.25 34.22" ;;
    fine-tune-mabn)   expected="38.42 34.12" ;;
    *) echo "coco-r50-fpn.sh: the table has bn, brn, syncbn, mabn from SCRATCH and syncbn, mabn with FINE-TUNE" >&2
       exit 2 ;;
esac
coco=${COCO:-coco} folder=${FOLDER:-coco-$strategy-$norm}
data=${DATA:-$coco/packed}
body=()
if [ "$strategy" = fine-tune ]; then
    [ -n "${BODY:-}" ] || { echo "coco-r50-fpn.sh: FINE-TUNE needs the weights of a body: set BODY" >&2; exit 2; }
    body=("$BODY")
fi
read -ra options <<<"${OPTIONS:-}"
[ ! -e "$folder/DONE" ] || { cat "$folder/DONE"; exit 0; }
mkdir -p "$folder" "$data"

for part in train val; do
    [ -e "$data/$part.h5" ] || work mabn-pack coco "$coco/${part}2017" \
        "$coco/annotations/instances_${part}2017.json" -o "$data/$part.h5"
done

passes=()
[ "$norm" != syncbn ] || passes=(--accumulate 1 --norm-batch 0)
work mabn-train --preset "coco-$strategy" --norm "$norm" "${passes[@]}" --train "$data/train.h5" --resume \
    -o "$folder/run" --log /dev/null "${options[@]}" "${body[@]}"

results=$folder/results.json
[ -e "$results" ] || work mabn-eval coco "$folder/run/model.h5" "$data/val.h5" -o "$results"
# AP over all sizes is the same whether a result has box and mask or one of them.
for type in bbox segm; do
    work mabn-score coco "$data/val.h5" "$results" --type "$type" >"$folder/$type.txt"
done

# ap TYPE: the first line of the table, in percent
ap() { awk '/Average Precision/ { printf "%.2f", 100 * $NF; exit }' "$folder/$1.txt"; }
read -r box mask <<<"$expected"
{
    printf '%s %s\tAP\texpected\n' "$strategy" "$norm"
    printf 'box\t%s\t%s +-0.3\n' "$(ap bbox)" "$box"
    printf 'mask\t%s\t%s +-0.3\n' "$(ap segm)" "$mask"
} >"$folder/DONE.partial"
mv "$folder/DONE.partial" "$folder/DONE"
cat "$folder/DONE"
