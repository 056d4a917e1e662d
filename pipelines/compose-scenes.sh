#!/usr/bin/env bash
# compose-scenes.sh FOLDER [CUTOUTS [VAL_CUTOUTS]]: datasets to train a detector on, composed from
# pictures of single objects.
#
# CUTOUTS is a folder with a folder of pictures for each class (PNG with alpha, or objects on black), or
# a dataset that mabn-pack made of such. The default is Fashion-MNIST (Debian's package
# dataset-fashion-mnist): its training pictures for training scenes, its test pictures for validation
# scenes. With CUTOUTS, give VAL_CUTOUTS too: otherwise both kinds of scenes show the same objects, in
# other places.
#
# Output; a second call keeps what exists:
#
#     FOLDER/train/ FOLDER/val/         scenes in COCO's form: images/ and instances.json
#     FOLDER/train.h5 FOLDER/val.h5     the same, packed
#     FOLDER/train.png FOLDER/val.png   contact sheets
#
# Settings, from the environment:
#   TRAIN=2000 VAL=500   scenes
#   SEED=1               the scenes to validate on have the next one
#   SCENES="..."         any options of mabn-compose: sizes, number of objects, overlap
set -euo pipefail

usage="compose-scenes.sh FOLDER [CUTOUTS [VAL_CUTOUTS]]"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
die() { echo "compose-scenes: $*" >&2; exit 1; }
if [ $# -lt 1 ] || [ $# -gt 3 ]; then misused; fi
folder=$1 train=${2:-} val=${3:-}
seed=${SEED:-1}
read -ra scenes <<<"${SCENES:-}"
mnist=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
mkdir -p "$folder"

# fashion PREFIX OUTPUT: garments as cut-outs.
fashion() {
    [ -d "$mnist" ] || die "'$mnist' is not there: install Debian's package dataset-fashion-mnist, or name your own cut-outs"
    printf '%s\n' t-shirt trouser pullover dress coat sandal shirt sneaker bag "ankle boot" >"$folder/classes"
    [ -e "$2" ] || work mabn-pack idx -q -c "$folder/classes" \
        "$mnist/$1-images-idx3-ubyte.gz" "$mnist/$1-labels-idx1-ubyte.gz" -o "$2"
}
if [ -z "$train" ]; then
    train=$folder/train-cutouts.h5 val=$folder/val-cutouts.h5
    fashion train "$train"
    fashion t10k "$val"
elif [ -z "$val" ]; then
    val=$train
    echo "compose-scenes: the same things in both kinds of scenes: give VAL_CUTOUTS to keep them apart" >&2
fi

# compose NAME CUTOUTS COUNT SEED
compose() {
    local to=$folder/$1
    [ -e "$to/instances.json" ] ||
        work mabn-compose "$2" -n "$3" --seed "$4" ${scenes[@]+"${scenes[@]}"} -o "$to"
    [ -e "$to.h5" ] || work mabn-pack coco "$to/images" "$to/instances.json" -o "$to.h5"
    [ -e "$to.png" ] || work mabn-draw "$to.h5" -n "$(($3 < 12 ? $3 : 12))" --tile 320 -o "$to.png"
}
compose train "$train" "${TRAIN:-2000}" "$seed"
compose val "$val" "${VAL:-500}" "$((seed + 1))"
echo "$folder/train.h5 $folder/val.h5"
