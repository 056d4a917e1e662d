#!/usr/bin/env bats
load helpers

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
PATH=${MABN_BIN:-$ROOT/build/release/bin}:$PATH

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return 1
    "$ROOT/tests/make-images" tree 4 9 6
    mabn-pack imagenet -q tree -o data.h5
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --height 16 --width 16 --norm bn -o model.h5 -q
}
setup_more() { ln -s "$BATS_FILE_TMPDIR"/*.h5 .; }

@test "text and JSON say the same" {
    run --separate-stderr mabn-eval imagenet model.h5 data.h5
    assert_success
    assert_line --index 0 "images  36"
    assert_line --index 1 --regexp '^top-1   [0-9.]+ %$'
    top1=$(awk '/top-1/ { print $2 }' <<<"$output")
    run --separate-stderr mabn-eval imagenet model.h5 data.h5 --json -b 7
    assert_output --regexp '^\{"schema":"mabn-eval/1","images":36,"top1":[0-9.]+,"top5":100,"loss":[0-9.]+,"folded":true,"seconds":[0-9.]+\}$'
    json=${output#*top1\":}
    awk -v a="$top1" -v b="${json%%,*}" 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }'
}

@test "--predictions: a line an image, in order, and the figures follow from it" {
    mabn-eval imagenet model.h5 data.h5 -p --logits >lines
    assert_equal "$(wc -l <lines)" 36
    run head -n 1 lines
    assert_output --regexp '^\{"sample":0,"label":0,"top":\[[0-3](,[0-3]){3}\],"prob":\[[-0-9.e,]+\],"loss":[0-9.]+,"logits":\[[-0-9.e,]+\]\}$'
    need_python numpy
    mabn-eval imagenet model.h5 data.h5 --json >json
    run $PYTHON - <<'E2'
import json, math
lines = [json.loads(x) for x in open("lines")]
total = json.load(open("json"))
assert [x["sample"] for x in lines] == list(range(36))
for x in lines:
    e = [math.exp(v) for v in x["logits"]]
    order = sorted(range(4), key=lambda c: -x["logits"][c])
    assert order == x["top"]
    assert all(abs(p - e[c] / sum(e)) < 1e-6 for p, c in zip(x["prob"], x["top"]))
    assert abs(x["loss"] + math.log(e[x["label"]] / sum(e))) < 1e-5
assert abs(total["loss"] - sum(x["loss"] for x in lines) / 36) < 1e-5
assert abs(total["top1"] - 100 / 36 * sum(x["top"][0] == x["label"] for x in lines)) < 1e-9
E2
    assert_success
}

@test "folded and unfolded agree to 1e-4, any batch and thread count" {
    mabn-eval imagenet model.h5 data.h5 -p --logits >a
    mabn-eval imagenet model.h5 data.h5 -p --logits --no-fold -b 5 -j 1 --decoders 3 >b
    need_python numpy
    run $PYTHON - <<'E2'
import json
for x, y in zip(open("a"), open("b")):
    x, y = json.loads(x), json.loads(y)
    assert all(abs(p - q) <= 1e-4 * max(1, abs(q)) for p, q in zip(x["logits"], y["logits"]))
E2
    assert_success
}

@test "bad options and bad files" {
    fails 2 "unknown device 'x'" mabn-eval imagenet model.h5 data.h5 --device x
    fails 2 "--precision tf32 needs a GPU" mabn-eval imagenet model.h5 data.h5 --device cpu --precision tf32
    fails 2 "--logits goes with --predictions" mabn-eval imagenet model.h5 data.h5 --logits
    fails 1 "cannot open 'none.h5'" mabn-eval imagenet none.h5 data.h5
    fails 1 "cannot open 'none.h5'" mabn-eval imagenet model.h5 none.h5
    head -c 3000 model.h5 >cut.h5
    fails 1 "cut.h5" mabn-eval imagenet cut.h5 data.h5
    fails 1 "data.h5" mabn-eval imagenet data.h5 data.h5
    mabn-init cifar-resnet8 --classes 10 -o ten.h5 -q
    fails 1 "'ten.h5' knows 10 classes, 'data.h5' has 4" mabn-eval imagenet ten.h5 data.h5
    run --separate-stderr bash -c 'mabn-eval imagenet model.h5 data.h5 >/dev/full'
    assert_failure 1
    run --separate-stderr bash -c 'mabn-eval imagenet -p model.h5 data.h5 >/dev/full'
    assert_failure 1
}

@test "without a GPU: cuda is refused, auto is the CPU and says why" {
    no_gpu
    fails 1 "$why" mabn-eval imagenet model.h5 data.h5 --device cuda
    run --separate-stderr mabn-eval imagenet model.h5 data.h5
    assert_success
    [[ $stderr == *"CPU, "*"; no GPU: $why"* ]]
}
