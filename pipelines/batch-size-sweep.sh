#!/usr/bin/env bash
# batch-size-sweep.sh TRAIN.h5 VAL.h5 FOLDER: validation error against normalization batch for BN, BRN
# and MABN, on any packed dataset: the figure 1 of the paper.
#
# One run for each norm, normalization batch and seed, all with the same SGD batch and course. BN and
# BRN leave out a normalization batch of 1, where their statistics say nothing about a batch. Runs
# that are done are kept and an interrupted run is resumed, so the script can be started again at any
# time; Ctrl-C or SIGTERM saves and ends it with status 75. It ends in FOLDER/sweep.tsv,
# FOLDER/sweep.png and FOLDER/sweep.svg.
#
# The paper's numbers for ResNet-50 on ImageNet (top-1 error in %, read off its figure, +-0.03):
#
#     norm batch    1      2      4      8      16     32
#     BN            -      35.22  27.91  25.46  24.29  23.41
#     BRN           -      30.29  26.87  25.32  24.39  23.57
#     MABN          23.73  23.53  23.73  23.62  23.73  23.53
#
# The course is 12 epochs of a cosine at the reference's rate for each image (0.1 for 256), of a small
# network, with three seeds: 48 runs, of four minutes each on CIFAR-10 and one core. README.md shows what
# it gives (figures/cifar10-gentle.tsv). A shorter course, or one with a higher rate
# (figures/cifar10-sweep.tsv), shows the gain at 1 and 2 images too, but from 8 on MABN is further behind
# BN. That is a property of the method (the authors' own layers do the same): the renormalizing factor
# follows the variance of the last 50 statistics, which changes fast while the rate is high, and the mean
# that MABN does not subtract costs more the less time the weights have to compensate.
#
# Settings, from the environment:
#   NORMS="bn brn mabn"  NORM_BATCHES="1 2 4 8 16 32"  SEEDS="1 2 3"
#   BATCH=32             images of one SGD step; MABN's window is BATCH / normalization batch, so that
#                        it always emulates BATCH images
#   COURSE="..."         any options of mabn-train: architecture, epochs, rate, pictures
set -euo pipefail

usage="batch-size-sweep.sh TRAIN.h5 VAL.h5 FOLDER"
# shellcheck source=work.sh
. "$(dirname "$(realpath "$0")")/work.sh"
[ $# -eq 3 ] || misused
train=$1 val=$2 folder=$3
read -ra norms <<<"${NORMS:-bn brn mabn}"
read -ra batches <<<"${NORM_BATCHES:-1 2 4 8 16 32}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
batch=${BATCH:-32}
read -ra course <<<"${COURSE:---arch cifar-resnet8 --base-width 8 --lr 0.1 --schedule cosine --warmup-epochs 1 --epochs 12}"

mkdir -p "$folder"
logs=() total=0 count=0
for pass in count run; do
    for seed in "${seeds[@]}"; do
        for b in "${batches[@]}"; do
            for norm in "${norms[@]}"; do
                if [ "$b" -gt "$batch" ] || { [ "$b" = 1 ] && [ "$norm" != mabn ]; }; then continue; fi
                if [ "$pass" = count ]; then
                    total=$((total + 1))
                    continue
                fi
                count=$((count + 1))
                run=$folder/$norm-$b-seed$seed
                logs+=("$run/metrics.jsonl")
                [ -e "$run/model.h5" ] && continue
                echo "[$count/$total] $norm at normalization batch $b, seed $seed" >&2
                work mabn-train "${course[@]}" --norm "$norm" --norm-batch "$b" --window $((batch / b)) \
                    --batch "$batch" --seed "$seed" --train "$train" --val "$val" \
                    -o "$run" --resume --log /dev/null
            done
        done
    done
done

field() { # field FILE TYPE NAME: from the last line of that type
    grep "\"t\":\"$2\"" "$1" | tail -n 1 | sed -E "s/.*\"$3\":\"?([^,}\"]*).*/\1/"
}
{
    printf 'norm\tnorm_batch\tseed\ttop1_error\n'
    for log in "${logs[@]}"; do
        printf '%s\t%s\t%s\t%s\n' "$(field "$log" start norm)" "$(field "$log" start norm_batch)" \
            "$(field "$log" start seed)" "$(field "$log" val top1 | awk '{ printf "%.2f", 100 - $1 }')"
    done
} >"$folder/sweep.tsv"
mabn-plot sweep -f "${logs[@]}" -o "$folder/sweep.png" -o "$folder/sweep.svg"
cat "$folder/sweep.tsv"
