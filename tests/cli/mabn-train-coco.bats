#!/usr/bin/env bats
# Training a detector, on scenes composed of small pictures that this file draws itself.

load helpers

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return 1
    $PYTHON - <<'PY'
import json, numpy, os
from PIL import Image
rng = numpy.random.RandomState(1)
os.mkdir("images")
images, annotations = [], []
for i in range(8):
    w, h = (96, 64) if i % 2 else (64, 96)
    pixels = rng.randint(0, 60, (h, w, 3)).astype("uint8")
    images.append({"id": 100 + i, "file_name": "%d.png" % i, "width": w, "height": h})
    for k in range(2):
        x, y, s = int(rng.randint(0, w - 30)), int(rng.randint(0, h - 30)), 24
        pixels[y:y + s, x:x + s, k] = 230
        annotations.append({"id": len(annotations) + 1, "image_id": 100 + i, "category_id": 7 + 4 * k,
                            "bbox": [x, y, s, s], "area": s * s, "iscrowd": 0,
                            "segmentation": [[x, y, x, y + s, x + s, y + s, x + s, y]]})
    Image.fromarray(pixels).save("images/%d.png" % i)
truth = {"images": images, "annotations": annotations,
         "categories": [{"id": 7, "name": "red"}, {"id": 11, "name": "green"}]}
json.dump(truth, open("truth.json", "w"))
truth["categories"][1]["name"] = "blue"
json.dump(truth, open("other.json", "w"))
PY
    mabn-pack coco -q images truth.json -o d.h5
    mabn-pack coco -q images other.json -o other.h5
}

small="--arch mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 --min-size 64
    --proposals 100 --box-samples 32 --lr 0.01 --lr-exact --schedule constant --log-every 1"

train() { # train DIR OPTION...
    local dir=$1; shift
    # shellcheck disable=SC2086
    mabn-train -q --train d.h5 $small -o "$dir" "$@"
}

setup() {
    cd "$BATS_FILE_TMPDIR" || return 1
}

@test "options of classifiers are refused" {
    fails 1 "--augment is for classifiers, and 'd.h5' is a dataset for detectors" train no --steps 1 --augment cifar
    fails 1 "--centralize is for classifiers" train no --steps 1 --centralize on
    [ ! -e no/metrics.jsonl ]
}

@test "a detector trains, with its five losses and average precision in the log" {
    train run --val d.h5 --steps 4 --norm-warmup 2 > run.jsonl
    $PYTHON - <<'PY'
import json
lines = [json.loads(l) for l in open("run.jsonl")]
steps = [l for l in lines if l["t"] == "step"]
assert len(steps) == 4
for l in steps:
    parts = [l[k] for k in ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg",
                            "loss_mask")]
    assert abs(sum(parts) - l["loss"]) < 1e-9 and min(parts) >= 0
assert any(l["t"] == "val" and "box_ap" in l and "mask_ap50" in l for l in lines)
PY
    run mabn-info run/model.h5
    assert_output --partial "mask-rcnn-r18-fpn"
}

@test "validation: the losses of training, which leave the statistics alone" {
    $PYTHON - <<'PY'
import json
truth = json.load(open("truth.json"))
truth["images"] = truth["images"][:1]
truth["annotations"] = truth["annotations"][:2]
json.dump(truth, open("one.json", "w"))
PY
    mabn-pack coco -q images one.json -o one.h5
    # group norm is the same in training; the one photograph, not flipped; nothing is learned
    train one --train one.h5 --val one.h5 --norm gn --groups 2 -b 1 --flip 0 --steps 1 --lr 0 > one.jsonl
    train without --steps 3 > /dev/null
    train with --steps 3 --val d.h5 --val-every 1 > /dev/null
    h5diff -q without/model.h5 with/model.h5 model model
    $PYTHON - <<'PY'
import json
lines = [json.loads(l) for l in open("one.jsonl")]
step, = [l for l in lines if l["t"] == "step"]
val, = [l for l in lines if l["t"] == "val"]
for k in ("loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"):
    assert abs(step[k] - val[k]) <= 1e-5 * step[k], (k, step[k], val[k])
PY
}

@test "--patience ends a run, --best says by which figure, and going on keeps count" {
    few="--val d.h5 --val-every 1 --norm gn --groups 2 --lr 0" # nothing is learned: the first is the best
    # shellcheck disable=SC2086
    train patient $few --steps 9 --patience 2 --best loss > patient.jsonl
    assert_equal "$(tail -n 1 patient.jsonl)" '{"t":"end","step":3,"epoch":0.75,"reason":"patience"}'
    assert_file_exist patient/model.h5
    $PYTHON -c 'import h5py
a = h5py.File("patient/best.h5").attrs
assert a["score_name"].decode() == "loss" and a["score"] < -1 and a["step"] == 1, dict(a)'
    # shellcheck disable=SC2086
    run train patient $few --steps 9 --patience 2 --best loss --resume
    assert_output ""
    # one of two went by before the run was stopped
    # shellcheck disable=SC2086
    train parts2 $few --steps 2 --patience 2 --best loss > /dev/null
    # shellcheck disable=SC2086
    train parts2 $few --steps 9 --patience 2 --best loss --resume > parts2.jsonl
    assert_equal "$(tail -n 1 parts2.jsonl)" '{"t":"end","step":3,"epoch":0.75,"reason":"patience"}'
    run train named --val d.h5 --best top1
    assert_failure 1
    assert_output --partial "--best 'top1' is none of mask_ap, mask_ap50"
    run train named --arch faster-rcnn-r18-fpn --val d.h5 --best mask_ap
    assert_failure 1
    assert_output --partial "has no masks"
    run train named --patience 3
    assert_failure 2
}

@test "photographs without an object are left out or kept, and counted" {
    $PYTHON - <<'PY'
import json
truth = json.load(open("truth.json"))
truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] > 102]
json.dump(truth, open("bare.json", "w"))
PY
    mabn-pack coco -q images bare.json -o bare.h5
    # shellcheck disable=SC2086
    run mabn-train $small --train bare.h5 -o bare --steps 1
    assert_output --partial "5 of 8 photographs; left out: 3 without annotations"
    # shellcheck disable=SC2086
    run mabn-train $small --train bare.h5 -o bare -f --empty keep --steps 4 --save-every 4
    assert_success
    assert_output --partial "8 of 8 photographs; objects: 10; photographs with no object: 3"
}

@test "bfloat16: losses near float32's, detections too" {
    train full --steps 3 >full.jsonl
    train half --steps 3 --precision bf16 >half.jsonl
    for p in fp32 bf16; do
        mabn-eval coco -q --precision $p --min-score 0 --type bbox full/model.h5 d.h5 >$p.json
    done
    run --separate-stderr mabn-eval coco --precision bf16 full/model.h5 d.h5
    # shellcheck disable=SC2154
    [[ $stderr == *"; bf16"* ]]
    $PYTHON - <<'PY'
import json
full, half = ([json.loads(l) for l in open(f)] for f in ("full.jsonl", "half.jsonl"))
assert half[0]["precision"] == "bf16" and full[0]["precision"] == "fp32", half[0]
pairs = [(a["loss"], b["loss"]) for a, b in zip(full, half) if a["t"] == "step"]
assert len(pairs) == 3 and abs(pairs[0][0] - pairs[0][1]) < 0.03 * pairs[0][0], pairs
assert any(a != b for a, b in pairs)
best = [{}, {}]
for k, name in enumerate(("fp32.json", "bf16.json")):
    for d in json.load(open(name)):
        best[k][d["image_id"]] = max(best[k].get(d["image_id"], 0), d["score"])
assert best[0].keys() == best[1].keys() and best[0] != best[1]
assert all(abs(best[0][i] - best[1][i]) < 0.03 for i in best[0]), best
PY
}

@test "--exact and --tune choose a detector's convolutions, in training and in evaluation" {
    export MABN_TUNE_FILE=$PWD/choices/tune.tsv
    mkdir choices
    wide="--fpn-width 32 --norm gn --groups 2 --steps 2"
    # shellcheck disable=SC2086
    {
        train quick $wide > quick.jsonl
        train exact $wide --exact > exact.jsonl
        train tuned $wide --tune > /dev/null
        cp choices/tune.tsv before
        train again $wide --tune > /dev/null
    }
    run h5diff -q quick/model.h5 exact/model.h5 model model # Winograd has other last bits
    assert_failure 1
    $PYTHON - <<'PY'
import json
quick, exact = ([json.loads(l)["loss"] for l in open(f) if '"step"' in l and "loss" in l][:2]
                for f in ("quick.jsonl", "exact.jsonl"))
assert len(quick) == 2 and all(abs(a - b) < 1e-4 * a for a, b in zip(quick, exact)), (quick, exact)
PY
[ "$(grep -c "	forward float32 .* k3 " before)" -gt 2 ]
    cmp before choices/tune.tsv # nothing was timed again
    h5diff -q tuned/model.h5 again/model.h5 model model
    found() { mabn-eval coco -q --precision fp32 --min-score 0 "$@" quick/model.h5 d.h5; }
    found > quick.json
    found --exact > exact.json
    found --tune > tuned.json
    ! cmp -s quick.json exact.json
    [ "$(grep -c "	inference float32 .* k3 " choices/tune.tsv)" -gt 2 ]
    found --tune | cmp - tuned.json
}

@test "a detector that saves memory learns the same bits" {
    for norm in mabn bn gn; do
        for how in --save-memory --no-save-memory; do
            train kept$how $how --arch mask-rcnn-r34-fpn --norm $norm --groups 2 --steps 2 -f > /dev/null
        done
        h5diff -q kept--save-memory/model.h5 kept--no-save-memory/model.h5 model model
    done
}

@test "a detector's run that was stopped goes on with the same bits" {
    train whole --steps 5 > /dev/null
    train parts --steps 3 > /dev/null
    rm parts/model.h5
    train parts --steps 5 --resume > /dev/null
    for d in $(h5ls -r whole/model.h5 | awk '/Dataset/ {print $1}'); do
        h5diff -q whole/model.h5 parts/model.h5 "$d" "$d" || { echo "$d"; return 1; }
    done
}

@test "a detector's run goes on with its own annotations only, whatever their count" {
    train own --steps 1 > /dev/null
    edit() { # edit CHANGE: pack truth.json with it as same.h5
        $PYTHON - "$1" <<'PY'
import json, sys
truth = json.load(open("truth.json"))
exec(sys.argv[1])
json.dump(truth, open("same.json", "w"))
PY
        mabn-pack coco -q -f images same.json -o same.h5
    }
    for change in 'truth["annotations"][0]["bbox"][0] += 1' 'truth["annotations"][0]["iscrowd"] = 1' \
        'truth["annotations"][0]["segmentation"][0][0] += 1' 'truth["images"][0]["file_name"] = "2.png"' \
        'a = truth["annotations"]; a[0]["category_id"], a[1]["category_id"] = a[1]["category_id"], a[0]["category_id"]'; do
        edit "$change"
        fails 1 "belongs to a run with other settings and cannot be resumed: data " \
            train own --train same.h5 --steps 2 --resume
    done
    edit 'truth["annotations"][0]["area"] = 7; truth["info"] = {"year": 1}' # which decide nothing
    train own --train same.h5 --steps 2 --resume > /dev/null
}

@test "a preset for detectors takes two images at a time, whatever the batch" {
    tiny="--preset coco-1x --arch mask-rcnn-r18-fpn --norm gn --groups 2 --base-width 8 --fpn-width 8
        --head-width 8 --fc-width 16 --min-size 64 --proposals 60 --box-samples 16 --steps 1 --log-every 1"
    for batch in 2 3 4; do
        # shellcheck disable=SC2086
        mabn-train -q --train d.h5 $tiny --batch $batch -o preset$batch > preset$batch.jsonl
    done
    assert_equal "$(grep -ho '"accumulate":[0-9]*' preset?.jsonl | tr '\n' ' ')" '"accumulate":1 "accumulate":1 "accumulate":2 '
}

@test "a step is cut into equal passes only" {
    train two --norm gn --steps 1 -b 4 --accumulate 2 > /dev/null
    run mabn-train -q --train d.h5 $small -o three --steps 1 -b 4 --accumulate 3
    assert_failure 1
    assert_output --partial "a batch of 4 is not 3 equal parts"
}

@test "a detector starts from its own kind only with the same categories" {
    train first --steps 1 > /dev/null
    run mabn-train -q --train other.h5 -o second --steps 1 first/model.h5
    assert_failure 1
    assert_output --partial '"name":"green"'
    assert_output --partial '"name":"blue"}]; {"id":11,"name":"blue"} is not in '"'first/model.h5'"
    run mabn-train -q --train d.h5 -o third --steps 1 --fpn-width 16 first/model.h5
    assert_failure 1
    assert_output --partial "the model has its own"
}

@test "categories in another order are found again; others begin anew where that is allowed" {
    [ -e first/model.h5 ] || train first --steps 1 > /dev/null
    $PYTHON - <<'PY'
import json
truth = json.load(open("truth.json"))
truth["categories"] = [{"id": 3, "name": "gray"}] + truth["categories"][::-1]
json.dump(truth, open("three.json", "w"))
del truth["categories"][0]
json.dump(truth, open("swapped.json", "w"))
PY
    for i in swapped three; do mabn-pack coco -q images $i.json -o $i.h5; done
    mabn-train -q --train swapped.h5 -o swapped --steps 1 --lr 0 first/model.h5 > swapped.jsonl
    mabn-train --train three.h5 -o three --steps 1 --lr 0 --allow-weights classes first/model.h5 2> three.txt > /dev/null
    grep -q "what is predicted for each begins anew" three.txt
    run mabn-train -q --train three.h5 -o refused --steps 1 first/model.h5
    assert_failure 1
    assert_output --partial '{"id":3,"name":"gray"} is not in'
    $PYTHON - <<'PY'
import h5py, json, numpy
a, b, c = (h5py.File(d + "/model.h5")["model"] for d in ("first", "swapped", "three"))
names = {"roi_heads.box.predictor.cls_score.": (0, 2, 1), "roi_heads.mask.predictor.mask_fcn_logits.": (0, 2, 1),
         "roi_heads.box.predictor.bbox_pred.": (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7)}
for name, rows in names.items():
    for kind in ("weight", "bias"):
        assert numpy.array_equal(a[name + kind][()][list(rows)], b[name + kind][()]), name
    assert c[name + "weight"].shape[0] == len(rows) // 3 * 4
fc = "roi_heads.box.feature_extractor.fc6.weight"
assert numpy.array_equal(a[fc][()], c[fc][()])
line, = [json.loads(l) for l in open("three/metrics.jsonl") if '"t":"weights"' in l]
assert len(line["fresh"]) == 6 == len(line["unused"]) and line["fresh"][0].startswith(tuple(names)), line
assert fc in line["taken"] and line["file"] == "first/model.h5"
PY
}

@test "a classifier's body that would cost accuracy is refused with the reason" {
    mabn-init resnet18 --norm gn --groups 8 --base-width 8 --input torchvision -q -o body.h5 -f
    small=${small/--base-width 8/}
    run train from --norm mabn --steps 1 body.h5
    assert_failure 1
    assert_output --partial "was not trained with centralized weights"
    run train from --norm gn --steps 1 body.h5
    assert_failure 1
    assert_output --partial "was trained on pixels of another"
    train from --norm gn --steps 1 --allow-weights input body.h5 > /dev/null
    mabn-init resnet50 --norm gn --groups 8 --base-width 8 --input torchvision -q -o body.h5 -f
    small=${small/r18/r50}
    run train strided --norm gn --steps 1 --allow-weights input body.h5
    assert_failure 1
    assert_output --partial "strides in its 3×3"
}

@test "bodies of the reference, of Detectron and of torchvision are where fine-tuning begins" {
    small=${small/--base-width 8/}
    small=${small/r18/r50}
    # trained with MABN, centralized, on B, G, R as it is, with the stride in the 3×3
    mabn-init resnet50 --norm mabn --base-width 8 --classes 10 -q -f -o wc.h5
    mabn-convert -q -f --to torch wc.h5 -o R50-wc.pth
    mabn-convert -q -f --pixels reference R50-wc.pth -o wc.h5
    run train wc --norm mabn --steps 1 wc.h5
    assert_failure 1
    assert_output --partial "strides in its 3×3"
    run train wc --norm body=frozen,fpn=none,heads=none --steps 1 --allow-weights stride,input wc.h5
    assert_failure 1
    assert_output --partial "was trained with centralized weights"
    train wc --norm mabn --steps 1 --allow-weights stride,input wc.h5 > /dev/null
    # frozen norms, B, G, R minus Detectron's mean, the stride in the first 1×1
    $PYTHON - <<'PY'
import numpy as np, pickle
rng, blobs, came = np.random.default_rng(1), {}, 8
def layer(name, shape, norm):
    blobs[name + "_w"] = (rng.standard_normal(shape) * .05).astype("f4")
    blobs[norm + "_bn_s"] = np.ones(shape[0], "f4")
    blobs[norm + "_bn_b"] = np.zeros(shape[0], "f4")
layer("conv1", (8, 3, 7, 7), "res_conv1")
for s, n in enumerate((3, 4, 6, 3)):
    i, o = 8 << s, 32 << s
    for b in range(n):
        for k, shape in zip("abc", ((i, came, 1, 1), (i, i, 3, 3), (o, i, 1, 1))):
            name = "res%d_%d_branch2%s" % (s + 2, b, k)
            layer(name, shape, name)
        if b == 0:
            name = "res%d_%d_branch1" % (s + 2, b)
            layer(name, (o, came, 1, 1), name)
        came = o
blobs["fc1000_w"], blobs["fc1000_b"] = np.zeros((10, came), "f4"), np.zeros(10, "f4")
pickle.dump({"blobs": blobs}, open("R-50-2.pkl", "wb"), 2)
PY
    mabn-convert -q -f R-50-2.pkl -o msra.h5
    run train msra --norm mabn --steps 1 msra.h5
    assert_failure 1
    assert_output --partial "was not trained with centralized weights"
    train msra --norm body=frozen,fpn=none,heads=none --box-head 2fc --steps 1 msra.h5 > /dev/null
    # torchvision's classifier: batch norms, R, G, B, the stride in the 3×3
    mabn-init resnet50 --norm bn --base-width 8 --classes 10 -q -f -o tv.h5
    mabn-convert -q -f tv.h5 -o resnet50.pth
    mabn-convert -q -f --pixels torchvision resnet50.pth -o tv.h5
    run train tv --norm body=frozen,fpn=none,heads=none --steps 1 tv.h5
    assert_failure 1
    assert_output --partial "strides in its 3×3"
    train tv --norm body=frozen,fpn=none,heads=none --boxes torchvision --steps 1 tv.h5 > /dev/null
    mabn-info --json tv/model.h5 | grep -q 'frozen[^}]*eps[^0-9]*1e-05'
    mabn-convert -q --to torchvision tv/model.h5 -o tv.pth
}

@test "a model of torchvision has classes for ids that nothing has" {
    mabn-init mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 --min-size 64 \
        --norm bn --boxes torchvision --classes 11 -q -f -o tv11.h5
    mabn-convert -q -f --to torchvision tv11.h5 -o tv11.pth
    mabn-convert -q -f --categories truth.json tv11.pth -o tv11.h5
    mabn-eval coco -q --min-score 0 --min-size 64 tv11.h5 d.h5 > tv11.json
    mabn-score coco -q d.h5 tv11.json | grep Average > a.txt
    mabn-eval coco -q --min-score 0 --min-size 64 --type bbox --score tv11.h5 d.h5 | grep Average > b.txt
    diff a.txt b.txt
    $PYTHON -c 'import json
assert {x["category_id"] for x in json.load(open("tv11.json"))} <= set(range(1, 12))'
    run mabn-eval coco -q tv11.h5 other.h5
    assert_failure 1
    assert_output --partial '"name":"blue"'
}

@test "a loss that is not finite is named, with the images" {
    run --separate-stderr train nan --steps 30 --lr 1e20 --norm gn --groups 2
    assert_failure 1
    [[ $stderr =~ loss_[a-z_]+\ of\ images\ 10[0-7],\ 10[0-7]\ is\ (not a number|infinite)\ at\ step ]]
}

@test "the first pictures are drawn, with what is to be learned" {
    train drawn --steps 2 --early-images 3 > drawn.jsonl
    train none --steps 1 --early-images 0 > none.jsonl
    assert_not_exist none/early.png
    $PYTHON - <<'PY'
import numpy
from PIL import Image
sheet = numpy.array(Image.open("drawn/early.png").convert("RGB")).astype(int)
assert sheet.shape[1] > 3 * 400 and sheet.shape[0] < 400, sheet.shape  # three in a row
background = (sheet.max(2) < 61) & (sheet.std(2) > 3)  # the pictures' dark noise, not the sheet's gray
assert background[:, :400].sum() > 4000 and background[:, 800:].sum() > 4000
PY
}

@test "what a detector finds goes through a pipe to the judge, with the table that --score prints" {
    train long --norm gn --steps 40 --lr 0.05 > /dev/null
    mabn-eval coco -q --min-score 0 --type bbox long/model.h5 d.h5 > boxes.json
    mabn-score coco -q d.h5 - < boxes.json > piped.txt
    mabn-eval coco -q --min-score 0 --type bbox --score long/model.h5 d.h5 > scored.txt
    grep Average piped.txt > a.txt
    grep Average scored.txt > b.txt
    diff a.txt b.txt
    mabn-eval coco -q --min-score 0 --type segm -o masks.json long/model.h5 d.h5
    mabn-eval coco -q --min-score 0 --type bbox --nms 0.05 long/model.h5 d.h5 > strict.json
    mabn-eval coco -q --min-score 0 --type bbox --nms 0.05 --nms-across long/model.h5 d.h5 > across.json
    $PYTHON - <<'PY'
import itertools, json
def overlap(a, b):
    (ax, ay, aw, ah), (bx, by, bw, bh) = a["bbox"], b["bbox"]
    w, h = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    return 0 if min(w, h) <= 0 else w * h / (aw * ah + bw * bh - w * h)
def clashes(name, across):
    found = json.load(open(name))
    return len(found), sum(overlap(a, b) > 0.06 for a, b in itertools.combinations(found, 2)
                           if a["image_id"] == b["image_id"] and (across or a["category_id"] == b["category_id"]))
boxes, strict, across = clashes("boxes.json", False), clashes("strict.json", False), clashes("across.json", True)
assert boxes[1] > 0 and strict[1] == 0 and across[1] == 0, (boxes, strict, across)
assert clashes("strict.json", True)[1] > 0 and boxes[0] > strict[0] > across[0] > 0
PY
    mabn-score coco -q --type segm d.h5 masks.json | grep -q "IoU=0.50:0.95"
    run mabn-eval coco -q -o masks.json long/model.h5 d.h5
    assert_failure 1
    $PYTHON - <<'PY'
import json
boxes = json.load(open("boxes.json"))
assert boxes and {b["category_id"] for b in boxes} <= {7, 11}
ids = [b["image_id"] for b in boxes]
assert ids == sorted(ids) and min(ids) >= 100
assert all(0 <= b["score"] <= 1 and len(b["bbox"]) == 4 for b in boxes)
PY
}

@test "SIGTERM ends an evaluation, and leaves no results" {
    mkdir -p many
    for i in $(seq 100); do ln -sf "$PWD/images/0.png" "many/$i.png"; done
    mabn-eval coco --min-size 640 --max-size 960 -o stopped.json long/model.h5 many 2> stopped.txt & # minutes
    pid=$!
    for _ in $(seq 600); do
        grep -q CPU stopped.txt && break
        sleep 0.1
    done
    kill -TERM $pid
    status=0
    wait $pid || status=$?
    assert_equal "$status" 75
    grep -q "stopped by SIGTERM" stopped.txt
    assert_not_exist stopped.json
}

@test "a folder of photographs has the model's categories and names for ids" {
    [ -e long/model.h5 ] || train long --norm gn --steps 40 --lr 0.05 > /dev/null
    mabn-eval coco -q --min-score 0 long/model.h5 images > folder.json
    $PYTHON -c 'import json
r = json.load(open("folder.json"))
assert {x["image_id"] for x in r} <= set(range(8)) and {x["category_id"] for x in r} <= {7, 11}'
    run mabn-eval coco -q --score long/model.h5 images
    assert_failure 1
    assert_output --partial "nothing to score against"
    find images -name '*.png' | sort > list.txt
    find images -name '*.png' -print0 | sort -z | mabn-eval coco -q --min-score 0 long/model.h5 - > nul.json
    mabn-eval coco -q --min-score 0 long/model.h5 list.txt | cmp - nul.json
    cmp folder.json nul.json
    grep -q '"image_id":3,"file_name":"images/3.png"' nul.json
    # one that begins like no picture, one that breaks off: named, and left out
    mkdir -p broken
    cp images/[0-3].png broken
    echo no > broken/4.png
    head -c 300 images/5.png > broken/5.png
    run mabn-eval coco -q long/model.h5 broken
    assert_failure 1
    run --separate-stderr mabn-eval coco --skip-bad --min-score 0 long/model.h5 broken
    assert_success
    # shellcheck disable=SC2154
    [[ $stderr == *"left out: 'broken/4.png'"*"passed over: photograph 5 '5.png': PNG: truncated"*"4 photographs, "* ]]
}

@test "a model of another kind or of other categories is refused" {
    [ -e long/model.h5 ] || train long --norm gn --steps 40 --lr 0.05 > /dev/null
    mabn-init cifar-resnet8 -q -o c.h5 -f
    run mabn-eval coco -q c.h5 d.h5
    assert_failure 1
    assert_output --partial "is a classifier"
    run mabn-eval imagenet -q long/model.h5 d.h5
    assert_failure 1
    assert_output --partial "is a detector"
    run mabn-eval coco -q long/model.h5 other.h5
    assert_failure 1
    assert_output --partial '"name":"blue"'
    fails 1 "cannot write standard output: No space left on device" \
        bash -c "mabn-eval coco -q --min-score 0 long/model.h5 d.h5 > /dev/full"
}

@test "annotations that cannot be judged are told before the training, not at its first validation" {
    $PYTHON - <<'PY'
import json
truth = json.load(open("truth.json"))
truth["annotations"][3]["segmentation"] = [[5, 5]]
json.dump(truth, open("odd.json", "w"))
PY
    mabn-pack coco -q images odd.json -o odd.h5 -f
    run train odd --val odd.h5 --steps 2
    assert_failure 1
    assert_output --partial "a polygon of 2 numbers"
    refute_output --partial '"t":"step"'
}

@test "a detector on a GPU, which is the executor, trains and finds as on the CPU" {
    local e=$ROOT/build/executor/bin
    [[ $MABN_BIN != */san/* ]] || skip "the executor's tools have sanitizers of their own"
    [ -x "$e/mabn-train" ] || skip "the executor's tools are not built"
    # Two photographs, one wide, one tall: the executor is slow.
    $PYTHON - <<'PY'
import json
truth = json.load(open("truth.json"))
truth["images"] = truth["images"][:2]
truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] < 102]
json.dump(truth, open("two.json", "w"))
PY
    mabn-pack coco -q images two.json -o two.h5
    train cpu --steps 2 --val two.h5 > cpu.jsonl
    # shellcheck disable=SC2086
    "$e/mabn-train" -q --device cuda --train d.h5 --val two.h5 $small --steps 2 -o gpu > gpu.jsonl
    mabn-eval coco -q --device cpu --precision fp32 --min-score 0 cpu/model.h5 two.h5 > cpu.json
    "$e/mabn-eval" coco -q --device cuda --min-score 0 cpu/model.h5 two.h5 > gpu.json
    MABN_EXECUTOR_LATE=1 "$e/mabn-eval" coco -q --device cuda --min-score 0 cpu/model.h5 two.h5 > late.json
    cmp gpu.json late.json
    $PYTHON - <<'PY'
import json
def steps(path):
    return [l for l in map(json.loads, open(path)) if l["t"] in ("step", "val")]
cpu, gpu = steps("cpu.jsonl"), steps("gpu.jsonl")
assert len(cpu) == len(gpu) == 3
for a, b in zip(cpu, gpu):
    for key in a:
        if key.startswith("loss"):
            assert abs(a[key] - b[key]) <= 1e-4 * max(1, abs(a[key])), (key, a[key], b[key])
cpu, gpu = json.load(open("cpu.json")), json.load(open("gpu.json"))
assert len(cpu) == len(gpu) > 0
for a, b in zip(cpu, gpu):
    assert a["image_id"] == b["image_id"] and a["category_id"] == b["category_id"]
    assert abs(a["score"] - b["score"]) < 1e-4
    assert max(abs(p - q) for p, q in zip(a["bbox"], b["bbox"])) < 0.05
PY
}

@test "a detector on the executor in fp16, with work as late as may be, is near fp32" {
    local e=$ROOT/build/executor/bin
    [[ $MABN_BIN != */san/* ]] || skip "the executor's tools have sanitizers of their own"
    [ -x "$e/mabn-train" ] || skip "the executor's tools are not built"
    train cpu --steps 1 -f > cpu.jsonl
    # shellcheck disable=SC2086
    MABN_EXECUTOR_LATE=1 "$e/mabn-train" -q --device cuda --precision fp16 --train d.h5 $small --steps 1 -f -o half > half.jsonl
    $PYTHON - <<'PY'
import json
a, b = ([l for l in map(json.loads, open(f)) if l["t"] == "step"][0] for f in ("cpu.jsonl", "half.jsonl"))
for key in ("loss", "loss_objectness", "loss_classifier", "loss_mask"):
    assert abs(a[key] - b[key]) <= 0.01 * abs(a[key]) and a[key] != b[key], (key, a[key], b[key])
PY
}
