#!/usr/bin/env bats
# The tools with a GPU that is the executor (tests/gpu/executor): what a GPU does differently from
# end to end, without one.
load helpers

setup_file() {
    PATH=${MABN_BIN:-$BATS_TEST_DIRNAME/../../build/release/bin}:$PATH
    export DATA=$BATS_FILE_TMPDIR/data.h5
    "$BATS_TEST_DIRNAME/../make-images" "$BATS_FILE_TMPDIR/tree" 4 16 6
    mabn-pack imagenet -q "$BATS_FILE_TMPDIR/tree" -o "$DATA"
}

setup_more() {
    E=$ROOT/build/executor/bin
    [[ $MABN_BIN != */san/* ]] || skip "the executor's tools have sanitizers of their own"
    [ -x "$E/mabn-train" ] || skip "the executor's tools are not built"
    small=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --flip 0.5 --batch 8
        --lr 0.1 --lr-exact --log-every 1 --norm mabn -B 2 --steps 4 --train "$DATA")
}
train() { "$E/mabn-train" "${small[@]}" "$@"; }
# The numbers of the keys that matter, a line a step.
losses() { grep -E '"t":"(step|val)"' "$1" | sed -E 's/.*"loss":([^,]*),"top1":([^,]*),.*/\1 \2/'; }
# close TOLERANCE FILE FILE: line by line
close() {
    paste -d' ' "$2" "$3" | awk -v most="$1" '
        {for (i = 1; i <= NF / 2; i++) {d = $i - $(i + NF / 2); if (d < 0) d = -d; if (!(d <= most)) bad = 1}}
        END {exit bad || !NR}' || { paste "$2" "$3"; return 1; }
}

@test "training in fp32 is the CPU's" {
    train -q --device cpu -o cpu --val "$DATA" >/dev/null
    run --separate-stderr train --device cuda --precision fp32 -o gpu --val "$DATA"
    assert_success
    # shellcheck disable=SC2154
    [[ $stderr == *"parameters, fp32; executor, "* ]]
    assert_line --index 0 --partial '"precision":"fp32","device":"executor, '
    losses cpu/metrics.jsonl >cpu.losses
    losses gpu/metrics.jsonl >gpu.losses
    assert_equal "$(wc -l <cpu.losses)" 5
    close 1e-6 cpu.losses gpu.losses
}

@test "auto is the GPU, in bf16, and close to fp32" {
    train -q --device cpu -o cpu >/dev/null
    run --separate-stderr train -o gpu
    assert_success
    [[ $stderr == *"parameters, bf16; executor, "* ]]
    losses cpu/metrics.jsonl | cut -d' ' -f1 >cpu.losses
    losses gpu/metrics.jsonl | cut -d' ' -f1 >gpu.losses
    close 0.05 cpu.losses gpu.losses
    run cmp cpu.losses gpu.losses
    assert_failure
}

@test "going on from a checkpoint: the same bits, and on another device or in another precision that is said" {
    small+=(--schedule constant)
    train -q -o whole >/dev/null
    train -q -o parts --steps 2 >/dev/null
    cp -r parts other
    rm parts/model.h5 other/model.h5
    run --separate-stderr train -o parts --resume
    assert_success
    [[ $stderr != *"to rounding"* ]]
    cmp <(losses whole/metrics.jsonl) <(losses parts/metrics.jsonl)
    run --separate-stderr train -o other --resume --device cpu
    assert_success
    [[ $stderr == *"on CPU in fp32 now, on executor in bf16 before: results agree only up to rounding"* ]]
    rm other/model.h5
    run --separate-stderr train -o other --resume --steps 5 --precision fp16
    assert_success
    [[ $stderr == *"on executor in fp16 now, on CPU in fp32 before"* ]]
}

@test "work done as late as the rules allow: the same bits" {
    train -q -o early --val "$DATA" >/dev/null
    MABN_EXECUTOR_LATE=1 train -q -o late --val "$DATA" >/dev/null
    cmp <(losses early/metrics.jsonl) <(losses late/metrics.jsonl)
    "$E/mabn-eval" imagenet early/model.h5 "$DATA" -p -q -b 7 >early.jsonl
    MABN_EXECUTOR_LATE=1 "$E/mabn-eval" imagenet early/model.h5 "$DATA" -p -q -b 7 >late.jsonl
    assert_equal "$(wc -l <late.jsonl)" 64
    cmp early.jsonl late.jsonl
}

@test "with cuDNN and cuBLASLt, as stand-ins: the CPU's figures in fp32, and the same bits late" {
    train -q --device cpu -o cpu --val "$DATA" >/dev/null
    export MABN_EXECUTOR_LIBRARIES=1
    run --separate-stderr train --device cuda --precision fp32 -o gpu --val "$DATA" -v
    assert_success
    [[ $stderr == *"executor, 1 GiB, cuDNN 9.19, "* ]]
    [[ $stderr == *": cuDNN engine 0"* ]]
    [[ $stderr == *"cuBLASLt"* ]]
    losses cpu/metrics.jsonl >cpu.losses
    losses gpu/metrics.jsonl >gpu.losses
    close 1e-5 cpu.losses gpu.losses
    MABN_EXECUTOR_LATE=1 train -q --device cuda --precision fp32 -o late --val "$DATA" >/dev/null
    cmp gpu.losses <(losses late/metrics.jsonl)
    "$E/mabn-eval" imagenet gpu/model.h5 "$DATA" --device cpu --precision fp32 --json -q >cpu.json
    "$E/mabn-eval" imagenet gpu/model.h5 "$DATA" --device cuda --precision fp32 --json -q >gpu.json
    for f in cpu gpu; do sed -E 's/.*"top1":([^,]*),"top5":([^,]*),"loss":([^,]*),.*/\1 \2 \3/' $f.json >$f.figures; done
    close 1e-5 cpu.figures gpu.figures
}

@test "evaluation: the CPU's figures, whatever the batch" {
    train -q --device cpu -o run >/dev/null
    for b in 7 64; do
        "$E/mabn-eval" imagenet run/model.h5 "$DATA" --device cpu --precision fp32 --json -q -b $b >cpu.json
        "$E/mabn-eval" imagenet run/model.h5 "$DATA" --device cuda --precision fp32 --json -q -b $b >gpu.json
        for f in cpu gpu; do sed -E 's/.*"top1":([^,]*),"top5":([^,]*),"loss":([^,]*),.*/\1 \2 \3/' $f.json >$f.figures; done
        close 1e-5 cpu.figures gpu.figures
    done
}

@test "mabn-bench times steps by events" {
    bench=("$E/mabn-bench" net cifar-resnet8 --size 8 -b 2 -r 1 --device cuda)
    run --separate-stderr "${bench[@]}" -t -B 1 --window 2
    assert_success
    assert_line --regexp '^images/s	[0-9.]+'
    assert_line --regexp '^step / convolutions	[0-9.]+$'
    assert_line --regexp '^GPU memory in use MiB	'
    refute_output --partial "forward ms"
    run --separate-stderr "${bench[@]}" --norm bn --json
    assert_success
    assert_output --partial '"device":"executor, '
}

@test "mabn-bench times layers, also those that convolutions do" {
    bench=("$E/mabn-bench" layers cifar-resnet8 --size 8 -b 2 -r 1 --device cuda)
    run --separate-stderr "${bench[@]}" -t --window 2 --tune -v # past r_start
    assert_success
    assert_line --regexp '^layer3.0.bn2	(convolution and )?norm	2x2x64	[0-9.]+	.*	[0-9.]+$'
    assert_line --regexp '^# copy	[0-9.]+ GB/s$'
    [[ $stderr == *"layer1.0.conv1: with the norm behind it: reference, "*" ms; apart "* ]]
    [[ $stderr == *"layer1.0.conv2: with the norm before it: reference, "*" ms; apart "* ]]
    run --separate-stderr "${bench[@]}" --json
    assert_success
    assert_line --partial '"layer":"layer1.0.bn1","kind":"convolution and norm"'
}

small_detector=(mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 8 --size 32
    --box-samples 16 --proposals 40 --rpn-samples 32 --box-convs 1 --mask-convs 1 -b 1 -c 3 -r 1 --device cuda)

@test "mabn-bench names the parts of a detector's step" {
    run --separate-stderr "$E/mabn-bench" net "${small_detector[@]}" -t
    assert_success
    assert_line "picture	42x32 in 64x32"
    for part in body FPN RPN RoIAlign "box head" "mask head" proposals targets; do
        assert_line --regexp "^$part ms	[0-9.e+-]+	[0-9.]+ %\$"
    done
    assert_line --regexp '^images/s	[0-9.]+'
}

@test "mabn-bench names the parts of finding objects" {
    run --separate-stderr "$E/mabn-bench" net "${small_detector[@]}" --precision bf16
    assert_success
    for part in body FPN RPN RoIAlign "box head" "mask head" proposals detections pasting; do
        assert_line --regexp "^$part ms	[0-9.e+-]+	[0-9.]+ %\$"
    done
    refute_line --regexp '^targets'
    assert_line --regexp '^regions	[1-9]'
}

@test "mabn-bench times the layers of a detector's three plans" {
    run --separate-stderr "$E/mabn-bench" layers "${small_detector[@]}" -t
    assert_success
    assert_line --regexp '^backbone.body.layer1.0.conv1	convolution	8x16x8	'
    assert_line --regexp '^roi_heads.box.predictor.cls_score	'
    assert_line --regexp '^roi_heads.mask.predictor.mask_fcn_logits	'
    assert_line --regexp '^# 2	roi align	'
}

@test "there is one GPU, and no second" {
    fails 1 "there is no cuda:1: this machine has 1 GPU" "$E/mabn-bench" norms --device cuda:1
}

@test "several shards are the CPU's, and go on there" {
    small+=(--shards 2 --schedule constant)
    train -q --device cpu -o cpu >/dev/null
    train -q --device cuda --precision fp32 -o gpu >/dev/null
    losses cpu/metrics.jsonl >cpu.losses
    losses gpu/metrics.jsonl >gpu.losses
    close 1e-6 cpu.losses gpu.losses
    run -0 train -q --device cpu -o gpu --steps 6 --resume
    assert_equal "$(grep -c '"t":"step"' gpu/metrics.jsonl)" 6
}
