#!/usr/bin/env bats
load helpers

@test "net: a table on stdout" {
    run --separate-stderr mabn-bench net cifar-resnet8 --size 16 -b 2 -r 2 -q
    assert_success
    assert_line --regexp '^images/s	[0-9.]+'
    assert_line --regexp '^step / convolutions	[0-9.]+$'
    assert_line --regexp '^peak memory MiB	[0-9.]+$'
}

@test "net: training, as JSON" {
    run --separate-stderr mabn-bench net cifar-resnet8 --size 16 -b 4 -B 2 -r 2 -t --save-memory --json
    assert_success
    $PYTHON -c 'import json, sys; d = json.loads(sys.argv[1]); assert d["images_per_second"] > 0 and d["training"] and d["convolution_seconds"] > 0' "$output"
}

@test "norms: every norm, both kinds of work" {
    run --separate-stderr mabn-bench norms -a cifar-resnet8 --size 8 -b 2 -r 1 -q
    assert_success
    for n in bn mabn brn in gn ln; do
        assert_line --regexp "^$n	inference	[0-9.e+]+	[0-9.e+]+	[0-9.]+$"
        assert_line --regexp "^$n	training	[0-9.e+]+	[0-9.e+]+	[0-9.]+$"
    done
}

@test "layers: each with its time, kinds summed up, the copy beside them" {
    run --separate-stderr mabn-bench layers cifar-resnet8 --size 16 -b 2 -r 2 -q
    assert_success
    number='[0-9.]+' none='-	-	-'
    assert_line --regexp "^layer1.0.bn1	convolution and norm	16x16x16	$number	$number	$number	$none\$"
    assert_line --regexp "^layer1.0.conv1	convolution	16x16x16	$none	$none\$"
    assert_line --regexp "^# 9	convolution and norm	"
    assert_line --regexp "^# copy	$number GB/s\$"
    run --separate-stderr mabn-bench layers cifar-resnet8 --size 16 -b 2 -r 1 -t --norm bn --json -q
    assert_success
    $PYTHON - "$output" <<'END'
import json, sys
rows = [json.loads(line) for line in sys.argv[1].splitlines()]
assert rows.pop()["copy_bytes_per_second"] > 0
of = {row["layer"]: row for row in rows}
y, w = 2 * 16 * 16 * 16 * 4, 16 * 16 * 9 * 4  # an activation of the first stage, a filter bank
bytes_of = lambda name: (of[name]["forward_bytes"], of[name]["backward_bytes"])
assert bytes_of("layer1.0.bn1") == (2 * y, 3 * y)
assert bytes_of("layer1.0.conv1") == (2 * y + w, 5 * y + 2 * w)  # adds to the shortcut's gradient
assert bytes_of("layer1.0.conv2") == (2 * y + w, 4 * y + 2 * w)
assert bytes_of("layer1.0.bn2") == (3 * y, 5 * y)
assert of["layer1.0.conv1"]["macs"] == 2 * 16 * 16 * 16 * 16 * 9
assert of["conv1"]["backward_bytes"] == 2 * 16 * 16 * 3 * 4 + y + 3 * 16 * 9 * 4  # no gradient of the input
assert all(row["forward_seconds"] > 0 and row["backward_seconds"] > 0 for row in rows)
END
}

small="mask-rcnn-r18-fpn --fpn-width 8 --head-width 8 --fc-width 8 --size 64 -c 3 -r 1 -q"

@test "net and layers refuse a detector's options for a classifier" {
    fails 2 "--min-size is for detectors" mabn-bench net cifar-resnet8 --size 16 --min-size 64
    fails 2 "--fpn-width is for detectors" mabn-bench layers cifar-resnet8 --size 16 --fpn-width 8
}

@test "net: a detector, with the share of each part" {
    run --separate-stderr mabn-bench net $small
    assert_success
    assert_line "picture	85x64 in 96x64"
    for part in body FPN RPN RoIAlign "box head" "mask head" proposals detections pasting; do
        assert_line --regexp "^$part ms	[0-9.e-]+	[0-9.]+ %\$"
    done
    refute_line --regexp '^targets'
    run --separate-stderr mabn-bench net $small -t --json
    assert_success
    $PYTHON - "$output" <<'END'
import json, sys
d = json.loads(sys.argv[1])
assert d["batch"] == 2 and d["training"] and d["regions"] > 0 and d["masks"] > 0
parts = d["seconds"]
assert all(parts[k] > 0 for k in ("body", "FPN", "RPN", "RoIAlign", "box head", "mask head", "targets", "update"))
assert d["convolution_seconds"] > 0
END
}

@test "layers: those of a detector's three plans" {
    run --separate-stderr mabn-bench layers $small -t
    assert_success
    assert_line --regexp '^backbone.body.layer1.0.conv1	convolution	16x24x64	'
    assert_line --regexp '^roi_heads.box.predictor.cls_score	'
    assert_line --regexp '^roi_heads.mask.predictor.mask_fcn_logits	'
    assert_line --regexp '^# 2	roi align	'
}

@test "what is refused" {
    fails 1 "unknown architecture" mabn-bench net vgg16 -q
    fails 1 "unknown architecture" mabn-bench layers vgg16 -q
    fails 2 "exclude each other" mabn-bench norms -t -i
    for more in "" --json; do # lines of JSON are written one by one
        fails 1 "cannot write standard output: No space left on device" \
            bash -c "mabn-bench net cifar-resnet8 --size 8 -b 1 -r 1 -q $more > /dev/full"
    done
}

@test "--device and --precision" {
    bench=(mabn-bench net cifar-resnet8 --size 8 -b 1 -r 1)
    fails 2 "unknown device 'nonsense'" "${bench[@]}" --device nonsense
    fails 2 "unknown device 'cuda:'" "${bench[@]}" --device cuda:
    fails 2 "--precision tf32 needs a GPU" "${bench[@]}" --device cpu --precision tf32
    fails 2 "precision" "${bench[@]}" --precision fp8
    run --separate-stderr "${bench[@]}" --device cpu --precision fp32
    assert_success
    [[ $stderr == *"CPU, "* && $stderr != *"no GPU"* ]]
}

@test "without a GPU: cuda is refused, auto is the CPU and says why" {
    no_gpu
    bench=(mabn-bench net cifar-resnet8 --size 8 -b 1 -r 1)
    fails 1 "$why" "${bench[@]}" --device cuda
    fails 1 "$why" "${bench[@]}" --device cuda:1
    run --separate-stderr "${bench[@]}"
    assert_success
    [[ $stderr == *"CPU, "*"; no GPU: $why"* ]]
    run --separate-stderr "${bench[@]}" --precision fp16
    assert_failure 1
    [[ $stderr == *"the CPU computes in fp32 and bf16, not in fp16"* ]]
}
