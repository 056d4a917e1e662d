#!/usr/bin/env bash
# record.sh BIN FOLDER: run the tools of one build on small made-up data and record what must not
# change when the code is rebuilt: losses, checkpoints, converted files, logits. Each file of FOLDER
# is one thing to compare: compare.sh does. Takes about a minute on two cores.
#
# Times, images per second and memory are left out. Of HDF5 files every array is recorded as type,
# shape and SHA-256 of its elements, every attribute but the command as it is. What other programs
# read (.pth, .safetensors, .onnx) is recorded by the SHA-256 of the whole file.
set -euo pipefail
export LC_ALL=C OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PATH=$bin:$PATH
cd "$work"

untimed() { sed -E 's/"(images_s|data_wait|memory|seconds)":[^,}]*,?//g'; }
h5() { # h5 FILE NAME: arrays and attributes apart
    /usr/bin/python3 "$here/h5-digest.py" "$1" >digest
    grep -v '^@' digest >"$out/$2"
    grep '^@' digest >"$out/$2-attributes"
}
digest() { sha256sum <"$1" >"$out/$2"; }

# finished NAME: what a run in the folder NAME left.
finished() {
    grep -v '"t":"start"' "$1/metrics.jsonl" | untimed >"$out/$1.losses"
    h5 "$1/model.h5" "$1.model"
    h5 "$(find "$1" -name 'step-*.h5' | sort | tail -n 1)" "$1.checkpoint"
    [ ! -e "$1.stats" ] || cp "$1.stats" "$out/$1.statistics"
}

# Six classes of noise, PNG and a few JPEG, wider and higher than the network's input.
"$here/../make-images" train 6 8 20
"$here/../make-images" val 6 3 17
mabn-pack imagenet -q train -o train.h5
mabn-pack imagenet -q val -o val.h5

small=(--arch cifar-resnet8 --base-width 8 --size 16 --augment plain --crop resized --flip 0.5
    --batch 8 --lr 0.1 --lr-exact --steps 18 --log-every 3 --train train.h5 -q -l /dev/null)

# train NAME OPTION...: a short run of a small residual network
train() {
    local name=$1; shift
    mabn-train "${small[@]}" -o "$name" "$@"
    finished "$name"
}

# ---- norms ----

train bn --norm bn
train bn-2 --norm bn --norm-batch 2
train bn-3 --norm bn --norm-batch 3 # a short last statistic
train brn --norm brn --norm-batch 4
train syncbn --norm syncbn
train mabn-subbatch --norm mabn --norm-batch 2 --r-start 4
train mabn-iteration --norm mabn --norm-batch 2 --window-rule iteration --window 5 --norm-warmup 6 --r-start 9
train ln --norm ln
train in --norm in
train frozen --norm frozen
train none --norm none --lr 0.001
train parts --norm body=mabn,stem=frozen --norm-batch 2
mabn-init cifar-resnet8 --base-width 8 --classes 6 --height 16 --width 16 --norm gn --groups 4 --seed 3 -q -o gn-init.h5
mabn-train --size 16 --augment plain --batch 8 --lr 0.1 --lr-exact --steps 18 --log-every 3 \
    --train train.h5 -q -l /dev/null -o gn gn-init.h5
finished gn
h5 gn-init.h5 init.model

# ---- options ----

train validated --norm mabn --norm-batch 2 --val val.h5 --val-every 4 --val-batch 5 --save-every 5
train smoothed --norm mabn --norm-batch 2 --label-smoothing 0.1 --nesterov --no-decay-norm-bias --val val.h5
train saving --norm mabn --norm-batch 2 --save-memory --val val.h5
train saving-bn --norm bn --save-memory
train exact --norm mabn --norm-batch 2 --exact
train drawn --norm bn --sampler replacement --schedule step --milestones 1,2 --gamma 0.3 --warmup-epochs 1
train recorded --norm mabn --norm-batch 2 --record-stats recorded.stats --stats-every 2 --stats-channels 0,3
train augmented --norm bn --augment imagenet --jitter 0.4,0.4,0.4,0.1 --lighting 0.1 --erase 0.3
train one-thread --norm mabn --norm-batch 2 --threads 1

# A run that goes on from its middle, as if it had been killed in the second half.
resumed=(--norm mabn --norm-batch 2 --val val.h5 --val-every 4 --save-every 5 --keep 9 --resume
    --record-stats resumed.stats)
mabn-train "${small[@]}" -o resumed "${resumed[@]}"
rm resumed/model.h5 resumed/step-*1[0-9].h5
train resumed "${resumed[@]}"

# Bottlenecks, the large stem, pooling.
bottlenecks=(--arch resnet50 --base-width 8 --size 64 --augment imagenet --batch 4 --lr 0.05
    --lr-exact --steps 5 --log-every 1 --train train.h5 --val val.h5 -q -l /dev/null)
for norm in mabn bn; do
    mabn-train "${bottlenecks[@]}" --norm $norm --norm-batch 2 -o bottlenecks-$norm
    finished bottlenecks-$norm
done

# ---- evaluation, conversion, description ----

for run in bn mabn-subbatch mabn-iteration gn in bottlenecks-mabn; do
    mabn-eval imagenet $run/model.h5 val.h5 --precision fp32 -q -b 7 --predictions --logits >"$out/$run.logits"
    mabn-eval imagenet $run/model.h5 val.h5 --precision fp32 -q -b 7 --predictions --logits --no-fold >"$out/$run.logits-apart"
    mabn-eval imagenet $run/model.h5 val.h5 --precision fp32 -q --json | untimed >"$out/$run.evaluation"
    mabn-convert -q $run/model.h5 -o $run.pth
    digest $run.pth $run.pth
done
last=$(find bottlenecks-mabn -name 'step-*.h5')
mabn-convert -q "$last" -o training.pth
digest training.pth training.pth
for run in bn bottlenecks-mabn; do
    mabn-convert -q $run/model.h5 -o $run.safetensors
    mabn-convert -q $run/model.h5 -o $run.onnx
    mabn-convert -q --fold $run/model.h5 -o $run-folded.onnx
    mabn-convert -q $run.pth -o $run-back.h5
    digest $run.safetensors $run.safetensors
    digest $run.onnx $run.onnx
    digest $run-folded.onnx $run-folded.onnx
    h5 $run-back.h5 $run.back
done
mabn-info --list train.h5 bn/model.h5 bn.pth bn.safetensors >"$out/info"
mabn-info --json --list train.h5 bn/model.h5 bn.pth bn.safetensors >"$out/info.json"
for architecture in resnet18 resnet50 cifar-resnet20; do
    mabn-init $architecture --norm mabn --list -q >"$out/$architecture.tensors"
done
