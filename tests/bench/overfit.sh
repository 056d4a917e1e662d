#!/usr/bin/env bash
# overfit.sh IMAGES ANNOTATIONS FOLDER: overfit a Mask R-CNN on 32 photographs.
#
# Trains a small one (ResNet-18, pyramid and heads 64 channels wide, GN) from scratch on the first 32
# annotated photographs of a COCO annotation file at 320 pixels, without flips, and scores it on the
# same 32. It only shows that all gradients are right: of boxes, classes, masks, proposals. FOLDER
# keeps log, model and curves; finished work is not repeated. STEPS=4000 is an hour on one core.
set -euo pipefail
[ $# = 3 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
images=$1 annotations=$2 folder=$3
steps=${STEPS:-4000}
mkdir -p "$folder"

"${PYTHON:-python3}" - "$annotations" "$folder/32.json" <<'END'
import json, sys
data = json.load(open(sys.argv[1]))
labelled = {a["image_id"] for a in data["annotations"] if not a["iscrowd"]}
data["images"] = sorted((i for i in data["images"] if i["id"] in labelled), key=lambda i: i["id"])[:32]
kept = {i["id"] for i in data["images"]}
data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
json.dump(data, open(sys.argv[2], "w"))
END
[ -e "$folder/32.h5" ] || mabn-pack coco -q "$images" "$folder/32.json" -o "$folder/32.h5"
[ -e "$folder/run/model.h5" ] || mabn-train --arch mask-rcnn-r18-fpn --fpn-width 64 --head-width 64 \
    --fc-width 256 --box-head 2fc --mask-convs 2 --norm gn --groups 16 --min-size 320 \
    --anchors 16,32,64,128,256 --proposals 1000 --rpn-samples 128 --box-samples 128 --batch 2 \
    --steps "$steps" --lr 0.02 --lr-exact --warmup-steps 100 --warmup-factor 0.1 --flip 0 \
    --clip-norm 10 --log-every 20 --save-every 200 --train "$folder/32.h5" --resume \
    -o "$folder/run" --log "$folder/log.jsonl"
mabn-eval coco -q "$folder/run/model.h5" "$folder/32.h5" -f -o "$folder/results.json"
mabn-score coco -t bbox,segm "$folder/32.h5" "$folder/results.json"
mabn-plot curves -f --more "$folder/log.jsonl" -o "$folder/curves.svg"
