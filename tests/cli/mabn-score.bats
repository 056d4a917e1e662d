#!/usr/bin/env bats
# mabn-score: numbers as pycocotools has them, in all forms; errors that say where.
load helpers

setup_more() {
    cat >truth.json <<'END'
{"images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
 "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0,
   "segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]]},
  {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0,
   "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}]}
END
    cat >results.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9},
 {"image_id": 2, "category_id": 3, "bbox": [50, 50, 20, 20], "score": 0.8}]
END
}

@test "coco: every golden set as pycocotools has it" {
    need_python json
    golden=$ROOT/tests/golden/coco
    for expected in "$golden"/*_expected.json; do
        set=${expected%_expected.json}
        mapfile -t args < <($PYTHON -c 'import json,sys; print("\n".join(json.load(open(sys.argv[1]))["arguments"]))' "$expected")
        mabn-score coco -q --json --curves "${args[@]}" "${set}_truth.json" "${set}_results.json" >got.json
        $PYTHON - "$expected" got.json <<'END' || { echo "$set differs"; return 1; }
import json, sys
want, got = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))
got = got[want["arguments"][1]]
def flat(v):
    if isinstance(v, list):
        for x in v: yield from flat(x)
    else: yield v
def check(name, a, b):
    a, b = list(flat(a)), list(flat(b))
    assert len(a) == len(b), (name, len(a), len(b))
    worst = max(abs(x - y) for x, y in zip(a, b))
    assert worst <= 1e-12, (name, worst)
check("stats", got["stats"], want["stats"])
check("recall", got["recall"], want["recall"])
assert got["ap_per_category"].keys() == want["ap_per_category"].keys()
for c in want["ap_per_category"]: check(c, [got["ap_per_category"][c]], [want["ap_per_category"][c]])
END
    done
}

@test "coco: every figure of the shared results" {
    need_shared
    need_python json
    for entry in "tiny_train $MABN_SHARED/data/coco-tiny/annotations/instances_train2017.json tiny_train_TYPE_results.json" \
                 "val2014_100 $MABN_SHARED/coco/instances_val2014_100.json instances_val2014_fakeTYPE100_results.json"; do
        read -r name truth results <<<"$entry"
        for set in bbox segm bbox_class_agnostic; do
            type=${set%%_*} agnostic=()
            if [ $set = bbox_class_agnostic ]; then
                if [ "$name" != tiny_train ]; then continue; fi
                agnostic=(--class-agnostic)
            fi
            mabn-score coco --json -t "$type" "${agnostic[@]}" "$truth" "$MABN_SHARED/coco/${results/TYPE/$type}" >got.json
            $PYTHON - "$MABN_SHARED/coco/expected.json" got.json "$name" $set <<'END'
import json, sys
want = json.load(open(sys.argv[1]))[sys.argv[3]][sys.argv[4]]
got = json.load(open(sys.argv[2]))[sys.argv[4].split("_")[0]]
assert all(abs(a - b) <= 1e-12 for a, b in zip(got["stats"], want["stats"], strict=True))
assert got["ap_per_category"].keys() == want["ap_per_category"].keys()
assert all(abs(got["ap_per_category"][c] - v) <= 1e-12 for c, v in want["ap_per_category"].items())
END
        done
    done
}

@test "coco: the familiar lines" {
    run --separate-stderr mabn-score coco truth.json results.json
    assert_success
    [ -z "$stderr" ]
    assert_equal "${#lines[@]}" 12
    assert_line --index 0 " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.505"
    assert_line --index 1 " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.505"
    assert_line --index 5 " Average Precision  (AP) @[ IoU=0.50:0.95 | area= large | maxDets=100 ] = -1.000"
    assert_line --index 6 " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.500"
}

@test "coco: results from standard input, and no other output" {
    run --separate-stderr bash -c "mabn-score coco truth.json - <results.json"
    assert_success
    assert_equal "$output" "$(mabn-score coco truth.json results.json)"
    run bash -c "mabn-score coco truth.json results.json >/dev/full"
    assert_equal "$status" 1
}

@test "coco: several types, masks of boxes" {
    run mabn-score coco -t bbox,segm truth.json results.json
    assert_success
    assert_equal "${#lines[@]}" 26
    assert_line --index 0 "Evaluate annotation type *bbox*"
    assert_line --index 13 "Evaluate annotation type *segm*"
    assert_line --index 14 --partial "= 0.505"
}

@test "coco: tables" {
    run mabn-score coco --per-category truth.json results.json
    assert_success
    assert_line --regexp "^ *3  cat +2 0\.5050 0\.5050"
    assert_line --regexp "^ *7  dog +0 +-"
    run mabn-score coco --tsv truth.json results.json
    assert_line --index 0 --regexp "^bbox	AP	0\.50495049504950[0-9]*$"
    run mabn-score coco --tsv -c truth.json results.json
    assert_line --index 0 "type	id	category	truths	AP	AP50	AP75	APs	APm	APl	AR	ARs	ARm	ARl"
    assert_line --index 1 --regexp "^bbox	3	cat	2	0\.50"
}

@test "coco: the number of threads does not matter" {
    for set in "$ROOT"/tests/golden/coco/segm_1 "$ROOT"/tests/golden/coco/bbox_3; do
        type=$(basename "${set%_*}")
        mabn-score coco -q -j 1 --json --curves -t "$type" "${set}_truth.json" "${set}_results.json" >one
        for j in 2 3 8; do
            mabn-score coco -q -j $j --json --curves -t "$type" "${set}_truth.json" "${set}_results.json" >many
            cmp one many
        done
    done
}

@test "coco: subsets, areas, thresholds" {
    run mabn-score coco --images 1 truth.json results.json
    assert_line --index 0 --partial "= 1.000"
    echo 1 >ids
    assert_equal "$output" "$(mabn-score coco --images @ids truth.json results.json)"
    run mabn-score coco --categories dog truth.json results.json
    assert_line --index 0 --partial "= -1.000"
    assert_equal "$output" "$(mabn-score coco --categories 7 truth.json results.json)"
    run mabn-score coco --areas all:0:,tiny:0:500 truth.json results.json
    assert_line --index 12 " Average Precision  (AP) @[ IoU=0.50:0.95 | area=  tiny | maxDets=100 ] = 0.000"
    run mabn-score coco --iou 0.5:0.7:0.1 truth.json results.json
    assert_line --index 0 --partial "IoU=0.50:0.70"
    run mabn-score coco --max-dets 1,5 truth.json results.json
    assert_line --index 0 --partial "= -1.000"
    run mabn-score coco --max-dets 1,5 --fix-quirks truth.json results.json
    assert_line --index 0 --partial "maxDets=  5 ] = 0.505"
}

@test "coco: a ground truth of id 0" {
    sed 's/"id": 1, "image_id"/"id": 0, "image_id"/' truth.json >zero.json
    run mabn-score coco zero.json results.json
    assert_line --index 0 --partial "= 0.000"
    run mabn-score coco --fix-quirks zero.json results.json
    assert_line --index 0 --partial "= 0.505"
}

@test "coco: no results at all" {
    echo '[]' >none.json
    run mabn-score coco truth.json none.json
    assert_success
    assert_line --index 0 --partial "= 0.000"
}

@test "coco: two results compared" {
    sed 's/\[50, 50, 20, 20\]/[0, 0, 20, 20]/' results.json >better.json
    run --separate-stderr mabn-score coco --rounds 200 --compare better.json truth.json results.json
    assert_success
    assert_line --regexp "^AP +0\.5050 +1\.0000 +\+0\.4950 +\+0\.[0-9]+ \.\. \+1\.0000 +0\.[0-9]+$"
    first=$output
    run mabn-score coco --rounds 200 -j 1 --compare better.json truth.json results.json
    assert_equal "$output" "$first"
    need_python json
    mabn-score coco --rounds 20 --json --compare better.json truth.json results.json >out.json
    $PYTHON -c 'import json; c = json.load(open("out.json"))["bbox"]["compare"]; assert c["second"][0] == 1.0; assert len(c["low"]) == 12'
}

# bad NAME 'what sed does to results.json' 'text of the message'
bad() {
    sed "$1" results.json >bad.json
    fails 1 "$2" mabn-score coco -t "${3:-bbox}" truth.json bad.json
}

@test "coco: errors name file, line and what was expected" {
    bad 's/"image_id": 2/"image_id": 9/' "'bad.json':2: result 2: image 9 is not in 'truth.json'"
    bad 's/, "score": 0.8//' "'bad.json':2:57: [1]: no \"score\""
    bad 's/0.8}/NaN}/' "'bad.json':2:"
    bad 's/50, 50, 20, 20/50, 50, 20/' "expected 4 numbers in \"bbox\", found 3"
    bad 's/50, 50, 20, 20/50, "50", 20, 20/' "[1].bbox[1]: expected a number, found a string"
    bad 's/"bbox": .50, 50, 20, 20./"x": 1/' "no \"bbox\", which the first result has"
    bad 's/0.8}]/0.8}/' "truncated"
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [100, 100], "counts": [3, 99999]}/' "counts overrun the image" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [100, 100], "counts": "oo"}/' "truncated" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [2147483648, 1], "counts": "1"}/' "bad mask size" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [-1, 5], "counts": "1"}/' "bad mask size" segm
    bad 's/"bbox"/"keypoints"/' "three numbers a keypoint" keypoints
    fails 1 "cannot open 'missing.json'" mabn-score coco missing.json results.json
    fails 1 "expected an object, found an array" mabn-score coco results.json results.json
    fails 1 "expected a list of results, found an object" mabn-score coco truth.json truth.json
    head -c 300 truth.json >cut.json
    fails 1 "truncated" mabn-score coco cut.json results.json
    (printf '[{"x": '; printf '[%.0s' $(seq 100000)) >deep.json
    fails 1 "nested more than" mabn-score coco truth.json deep.json
    fails 1 "image 5 is not in" mabn-score coco --images 5 truth.json results.json
    fails 1 "category 'bird' is not in" mabn-score coco --categories bird truth.json results.json
}

@test "coco: an unknown category is a warning" {
    sed '2s/"category_id": 3/"category_id": 8/' results.json >odd.json
    run --separate-stderr mabn-score coco truth.json odd.json
    assert_success
    [[ $stderr == *"1 results of categories that 'truth.json' does not have (such as 8) are ignored"* ]]
}

@test "coco: wrong usage" {
    fails 2 "'boxes' is not one of bbox, segm, keypoints" mabn-score coco -t boxes truth.json results.json
    fails 2 "not in (0, 1]" mabn-score coco --iou 1.5 truth.json results.json
    fails 2 "ascending" mabn-score coco --max-dets 10,1 truth.json results.json
    fails 2 "NAME:LOW:HIGH" mabn-score coco --areas big truth.json results.json
    fails 2 "only one file" mabn-score coco - -
    fails 2 "--curves goes with --json" mabn-score coco --curves truth.json results.json
}

predictions() {
    cat <<'END'
{"sample":0,"label":1,"top":[1,0,2],"prob":[0.5,0.3,0.2],"loss":0.5}
{"sample":1,"label":2,"top":[1,0,2],"prob":[0.5,0.3,0.2],"loss":1.5}
{"sample":2,"label":2,"top":[1,2,0],"prob":[0.5,0.3,0.2],"loss":1}
{"sample":3,"label":0,"top":[0,2,1],"prob":[0.5,0.3,0.2],"loss":1}
END
}

@test "topk: counts, confusions, classes" {
    predictions >p.jsonl
    run --separate-stderr mabn-score topk -k 2 -c p.jsonl
    assert_success
    assert_line "samples    4"
    assert_line "top-1      50.00 %  (2)"
    assert_line "top-2      75.00 %  (3)"
    assert_line "loss       1.0000"
    assert_line "  2 -> 1  2  100.0 %"
    assert_line --regexp "^ +2 +2 +0 +0\.00 +50\.00  2$"
    printf 'cat\ndog\nowl\n' >names
    run bash -c "mabn-score topk -k 2 --classes names - <p.jsonl"
    assert_line "  owl -> dog  2  100.0 %"
    run mabn-score topk --tsv -k 2 p.jsonl
    assert_line --index 0 "class	name	samples	predicted	top1	top2"
    assert_line --index 3 "2	2	2	0	0	0.5"
}

@test "topk: JSON" {
    need_python json
    predictions | mabn-score topk --json - >out.json
    $PYTHON -c 'import json; o = json.load(open("out.json")); assert o["top1"] == 0.5 and o["top5"] == 1 and o["loss"] == 1; assert o["confusions"] == [{"label": 2, "predicted": 1, "count": 2}]'
}

@test "topk: errors" {
    predictions | sed '2s/"label":2,//' >p.jsonl
    fails 1 "'p.jsonl':2:" mabn-score topk p.jsonl
    predictions | head -c 100 >cut.jsonl
    fails 1 "truncated" mabn-score topk cut.jsonl
    : >empty.jsonl
    fails 1 "no predictions in 'empty.jsonl'" mabn-score topk empty.jsonl
    echo '{"label": -1, "top": [0]}' >minus.jsonl
    fails 1 "in [0, 10000000], found -1" mabn-score topk minus.jsonl
    printf 'cat\n' >names
    predictions >p.jsonl
    fails 1 "names 1 classes" mabn-score topk --classes names p.jsonl
}

@test "coco: memory grows with the input, not with detections times ground truths" {
    need_python json
    $PYTHON - <<'END'
with open("many.json", "w") as f:
    f.write('{"images":[{"id":1,"width":640,"height":480}],"categories":[{"id":1,"name":"a"}],"annotations":[')
    f.write(",".join('{"id":%d,"image_id":1,"category_id":1,"iscrowd":0,"area":%d,"bbox":[0,0,%d,100]}'
                     % (i + 1, i, 100 + i % 7) for i in range(150000)) + "]}")
with open("few.json", "w") as f:
    f.write("[" + ",".join('{"image_id":1,"category_id":1,"bbox":[0,0,%d,100],"score":%.6f}'
                           % (100 + i % 9, i / 100) for i in range(100)) + "]")
with open("categories.json", "w") as f:
    f.write('{"images":[{"id":1,"width":640,"height":480}],"annotations":[],"categories":[')
    f.write(",".join('{"id":%d}' % i for i in range(30000)) + "]}")
# each polygon crosses as many columns as its image is wide, twice
polygon = '{"id":%d,"image_id":1,"category_id":1,"iscrowd":0,"area":1,"bbox":[0,0,1,1],"segmentation":[[0,0,60000,1,60000,2,0,1]]}'
with open("wide.json", "w") as f:
    f.write('{"images":[{"id":1,"width":60000,"height":10}],"categories":[{"id":1,"name":"a"}],"annotations":[')
    f.write(",".join(polygon % (i + 1) for i in range(1200)) + "]}")
END
    # 360 MB when every pair was listed
    $PYTHON - <<'END'
import resource, subprocess
subprocess.run(["mabn-score", "coco", "-q", "many.json", "few.json"], check=True, stdout=subprocess.DEVNULL)
assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 330e3
END
    fails 1 "'wide.json':1: annotation 642 (image 1): the outlines up to here cross 77042568 columns: too much for so few numbers" \
        mabn-score coco -q -t segm wide.json few.json
    # a minute and a half when each polygon was merged with all before it
    $PYTHON - <<'END'
corner = lambda i: (i % 900 * 7, i // 900 * 12)
polygons = ",".join("[%d,%d,%d,%d,%d,%d]" % (x, y, x + 5, y, x + 5, y + 9) for x, y in map(corner, range(40000)))
with open("pieces.json", "w") as f:
    f.write('{"images":[{"id":1,"width":6400,"height":600}],"categories":[{"id":1,"name":"a"}],"annotations":'
            '[{"id":1,"image_id":1,"category_id":1,"iscrowd":0,"area":9,"bbox":[0,0,9,9],"segmentation":[%s]}]}' % polygons)
END
    timeout 120 mabn-score coco -q -t segm pieces.json few.json
    fails 1 "the curves of 30000 categories would take 2.9 GB of memory" mabn-score coco -q categories.json few.json
}
