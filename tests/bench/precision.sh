#!/usr/bin/env bash
# precision.sh FOLDER: does training in bfloat16 learn as in float32? Trains cifar-resnet8 on
# Fashion-MNIST for STEPS (500) steps of 32 images in both, from the same weights and with the same
# pictures in the same order, for each norm of NORMS ("bn mabn", MABN with two images in each statistic);
# prints the mean training loss of the last fifth and the accuracy on the 10,000 test images, and draws
# the losses together into FOLDER/curves.svg. Some minutes on two cores.
#
#   SEEDS="1 2 3"      each of these; the table has their means, the figure is the first one's
#   PRECISIONS="A B"   what is compared (fp32 bf16)
#   MORE="-OPTION..."  more of mabn-train's options, as --device cuda
set -euo pipefail
[ $# = 1 ] || { sed -n '2,/^set/s/^# //p' "$0" >&2; exit 2; }
folder=$1 steps=${STEPS:-500} seeds=${SEEDS:-1 2 3} precisions=${PRECISIONS:-fp32 bf16}
data=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
read -ra more <<<"${MORE:-}"
mkdir -p "$folder"
for set in train t10k; do
    [ -e "$folder/$set.h5" ] ||
        mabn-pack idx -q "$data/$set-images-idx3-ubyte.gz" "$data/$set-labels-idx1-ubyte.gz" -o "$folder/$set.h5"
done

# losses LOG: of each step that was logged
losses() { sed -n 's/.*"t":"step",.*"loss":\([0-9.eE+-]*\).*/\1/p' "$1"; }

name_of() { case $1 in fp32) echo float32 ;; bf16) echo bfloat16 ;; *) echo "$1" ;; esac; }

logs=()
printf '%-6s %-10s %8s %8s\n' norm precision loss 'top-1 %'
for norm in ${NORMS:-bn mabn}; do
    batch=32; [ "$norm" != mabn ] || batch=2
    for precision in $precisions; do
        for seed in $seeds; do
            run=$folder/$norm-$precision-$seed-$steps
            [ -e "$run/model.h5" ] || mabn-train -q -f --arch cifar-resnet8 --norm "$norm" --norm-batch "$batch" \
                --batch 32 --steps "$steps" --lr 0.1 --lr-exact --mean 0.286 --std 0.353 --seed "$seed" \
                --precision "$precision" "${more[@]}" --train "$folder/train.h5" --val "$folder/t10k.h5" \
                --val-batch 100 --val-every -1 --log-every 1 -o "$run" --log "$run.jsonl"
            loss=$(losses "$run.jsonl" | tail -n $(((steps + 4) / 5)) | awk '{ s += $1 } END { print s / NR }')
            echo "$loss $(sed -n 's/.*"top1":\([0-9.]*\).*/\1/p' "$run.jsonl" | tail -n 1)"
        done | awk -v norm="${norm^^}" -v precision="$(name_of "$precision")" '{ l += $1; t += $2 }
            END { printf "%-6s %-10s %8.4f %8.2f\n", norm, precision, l / NR, t / NR }'
        logs+=("${norm^^}, $(name_of "$precision")=$folder/$norm-$precision-${seeds%% *}-$steps.jsonl")
    done
done
mabn-plot curves -q -f --steps "${logs[@]}" --title "Fashion-MNIST, SGD batch 32, seed ${seeds%% *}" \
    -o "$folder/curves.svg"
echo "curves: $folder/curves.svg"
