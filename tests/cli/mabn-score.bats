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
    fails 1 "cannot write standard output: No space left on device" \
        bash -c "mabn-score coco -q truth.json results.json >/dev/full"
    fails 1 "No space left on device" bash -c "mabn-score coco -q --json --curves truth.json results.json >/dev/full"
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

@test "coco: thresholds are what was written" {
    mabn-score coco --json --iou 0.05:0.95:0.05 truth.json results.json >out.json
    run mabn-score coco --iou 0.05:0.95:0.05 truth.json results.json
    assert_line --index 1 --partial "IoU=0.50      | area=   all | maxDets=100 ] = 0.505"
    assert_line --index 2 --partial "IoU=0.75      | area=   all | maxDets=100 ] = 0.505"
    need_python json
    $PYTHON -c 'import json; assert json.load(open("out.json"))["bbox"]["iou"] == [round(i * 0.05, 2) for i in range(1, 20)]'
    for range in 0.1:0.9:0.1 0.3:0.5:0.02 0.25:0.75:0.25; do
        run mabn-score coco --iou $range truth.json results.json
        assert_line --index 1 --partial "= 0.505"
    done
    mabn-score coco --json --iou 0.5:0.95:0.05 truth.json results.json >range.json
    mabn-score coco --json truth.json results.json | cmp - range.json
    fails 2 "steps of 0.1 from 0.5 do not reach 0.95 exactly" mabn-score coco --iou 0.5:0.95:0.1 truth.json results.json
    fails 2 "not in (0, 1]" mabn-score coco --iou 0.5:1.5:0.5 truth.json results.json
}

@test "coco: an area without bound has none" {
    sed 's/"area": 1600/"area": 2e10/; s/"area": 400/"area": 3e300/' truth.json >large.json
    run mabn-score coco --areas all:0: large.json results.json
    assert_line --index 0 --partial "= 0.505"
    run --separate-stderr mabn-score coco large.json results.json # COCO's own ranges end at 1e10
    assert_equal "$stderr" "mabn-score: warning: 'large.json': 2 annotations have an area that no range of areas holds (the first: line 4, 2e+10) and never count"
    run mabn-score coco --areas all:0:,vast:1e20: large.json results.json
    assert_line --index 12 --partial "area=  vast | maxDets=100 ] = 0.000"
}

@test "coco: an empty choice and an ambiguous one are refused" {
    : >none
    fails 1 "'@none' names no image" mabn-score coco --images @none truth.json results.json
    fails 1 "'' names no image" mabn-score coco --images '' truth.json results.json
    fails 1 "an empty item in ''" mabn-score coco --categories '' truth.json results.json
    sed 's/"cat"/"7"/' truth.json >digits.json
    fails 1 "'7' is ambiguous in 'digits.json': categories 3 (7) and 7 (dog)" mabn-score coco --categories 7 digits.json results.json
    run mabn-score coco --categories 3 digits.json results.json
    assert_line --index 0 --partial "= 0.505"
    sed 's/"dog"/"cat"/' truth.json >same.json
    fails 1 "'cat' is ambiguous in 'same.json'" mabn-score coco --categories cat same.json results.json
    long=$(printf 'x%.0s' {1..300})
    sed "s/\"cat\"/\"$long\"/" truth.json >long.json
    run mabn-score coco --categories "$long" long.json results.json
    assert_line --index 0 --partial "= 0.505"
}

@test "coco: a ground truth of id 0" {
    sed 's/"id": 1, "image_id"/"id": 0, "image_id"/' truth.json >zero.json
    run --separate-stderr mabn-score coco -t bbox,segm zero.json results.json
    assert_line --index 1 --partial "= 0.000"
    assert_equal "$stderr" "mabn-score: warning: 'zero.json': an annotation has the id 0 (line 4): results that find it count as wrong, as in pycocotools (--fix-quirks counts them as right)"
    run --separate-stderr mabn-score coco --fix-quirks zero.json results.json
    assert_line --index 0 --partial "= 0.505"
    [ -z "$stderr" ]
}

@test "coco: what has no effect, or another than one may think, is told" {
    sed '6s/"iscrowd": 0/"iscrowd": 0, "ignore": 1/' truth.json >ignore.json
    run --separate-stderr mabn-score coco ignore.json results.json
    assert_equal "$stderr" "mabn-score: warning: 'ignore.json': 1 annotation says \"ignore\" (the first: line 6), which has no effect, as in pycocotools (--fix-quirks heeds it)"
    run --separate-stderr mabn-score coco --fix-quirks ignore.json results.json
    assert_line --index 0 --partial "= 1.000"
    [ -z "$stderr" ]
    sed 's/10, 10, 40, 40/50, 50, -40, 40/' truth.json >left.json
    sed 's/10, 10, 40, 40/50, 50, 40, -40/' results.json >up.json
    run --separate-stderr mabn-score coco left.json up.json
    assert_success
    assert_equal "$stderr" "mabn-score: warning: 'left.json': 1 box has a negative width or height (the first: line 4, -40 x 40) and overlaps nothing
mabn-score: warning: 'up.json': 1 box has a negative width or height (the first: line 1, 40 x -40) and overlaps nothing"
    run --separate-stderr mabn-score coco -t segm left.json results.json
    assert_success
    [ -z "$stderr" ] # masks do not need the boxes
    sed 's/10, 10, 40, 40/0, 0, 1e200, 1e200/' truth.json >huge.json
    sed 's/10, 10, 40, 40/0, 0, 1e200, 1e109/' results.json >far.json
    run --separate-stderr mabn-score coco huge.json far.json
    assert_line --index 0 --partial "= 0.000"
    assert_equal "$stderr" "mabn-score: warning: 'huge.json': 1 box is too large for an area (the first: line 4, 1e+200 x 1e+200) and overlaps nothing
mabn-score: warning: 'far.json': 1 box is too large for an area (the first: line 1, 1e+200 x 1e+109) and overlaps nothing"
    sed 's/\[\[10, 10, 50, 10, 50, 50, 10, 50\]\]/[[210, 10, 250, 10, 250, 50]]/' truth.json >outside.json
    run --separate-stderr mabn-score coco -t segm outside.json results.json
    assert_success
    assert_equal "$stderr" "mabn-score: warning: 'outside.json': the mask of 1 annotation has no pixel of the image (the first: line 4): no result can find it"
    sed 's/"segmentation": .*\]\]/"segmentation": {"size": [100, 100], "counts": [5, 4]}/' truth.json >brief.json
    run --separate-stderr mabn-score coco -t segm brief.json results.json
    assert_success
    assert_equal "$stderr" "mabn-score: warning: 'brief.json': the runs of 2 masks end before the last pixel (the first: line 4): what is missing counts as background"
    run --separate-stderr mabn-info --verify brief.json
    assert_failure 1
    assert_line "  'brief.json':4: annotation 1 (image 1): the runs of its mask end 9991 pixels before the last"
}

@test "coco: an \"iscrowd\" that is no answer stops only who asks" {
    sed '6s/"iscrowd": 0/"iscrowd": "0"/' truth.json >text.json
    fails 1 "'text.json':6: annotation 2 (image 2): \"iscrowd\" is no number and not true or false" mabn-score coco text.json results.json
    mabn-score coco --images 1 text.json results.json # not of the other image
    run --separate-stderr mabn-info --verify text.json
    assert_line "  'text.json':6: annotation 2 (image 2): \"iscrowd\" is no number and not true or false"
    for same in true 1.0 -1 0.5; do
        sed "6s/\"iscrowd\": 0/\"iscrowd\": $same/" truth.json >crowd.json
        run mabn-score coco crowd.json results.json
        assert_line --index 0 --partial "= 1.000"
    done
    assert_equal "$(mabn-score coco <(sed 's/"iscrowd": 0/"iscrowd": null/' truth.json) results.json)" "$(mabn-score coco truth.json results.json)"
}

@test "coco: results under a key, and as JSON Lines, score like the list" {
    mabn-score coco truth.json results.json >list
    for key in annotations predictions results detections; do
        echo "{\"info\": {\"results\": 1}, \"$key\": $(cat results.json), \"images\": [{\"id\": 1}]}" >wrapped.json
        run --separate-stderr mabn-score coco truth.json wrapped.json
        assert_equal "$output" "$(cat list)"
        [[ $stderr == *"'wrapped.json': the results are its list \"$key\"; other lists are passed over"* ]]
    done
    $PYTHON -c '
import json
r = json.load(open("results.json"))
open("lines.jsonl", "w").write("".join(json.dumps(x) + "\n" for x in r))
open("lists.jsonl", "w").write("\n".join(json.dumps(r[i:i + 2]) for i in range(0, len(r), 2)))
print(len(r))' >n
    run --separate-stderr mabn-score coco truth.json lines.jsonl
    assert_equal "$output" "$(cat list)"
    if [ "$(cat n)" -gt 1 ]; then
        [[ $stderr == *"'lines.jsonl': $(cat n) JSON documents (JSON Lines), read one after another"* ]]
    fi
    run --separate-stderr mabn-score coco truth.json lists.jsonl
    assert_equal "$output" "$(cat list)"
    echo '{"predictions": [], "results": []}' >two.json
    fails 1 "a second list of results" mabn-score coco truth.json two.json
    (cat results.json; echo '{"id": 3}') >mixed.json
    fails 1 "found an object without" mabn-score coco truth.json mixed.json
}

@test "coco: sizes and mask strings as other programs write them are read and told" {
    $PYTHON - <<'END'
import json
truth = {"images": [{"id": 1, "width": 80, "height": 40}], "categories": [{"id": 1, "name": "a"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 420, "bbox": [5, 3, 14, 30],
                          "segmentation": [[5, 3, 19, 3, 19, 33, 5, 33]]}]}
json.dump(truth, open("t.json", "w"))
for name, w, h in ("text", "80", "40"), ("word", "wide", -6), ("half", 8.5, [6]):
    truth["images"][0].update(width=w, height=h)
    json.dump(truth, open(f"t-{name}.json", "w"))
# the same rectangle as pycocotools encodes it, with a backslash, which Python prints twice
counts = "[6n0:0000000000000000000000000U\\2"
quotes = 'b"' + repr(counts.encode())[2:-1] + '"'
for name, text in ("plain", counts), ("bytes", repr(counts.encode())), ("quotes", quotes):
    json.dump([{"image_id": 1, "category_id": 1, "score": .5, "segmentation": {"size": [40, 80], "counts": text}}],
              open(f"r-{name}.json", "w"))
END
    run --separate-stderr mabn-score coco t.json r-plain.json --type segm
    assert_line --index 0 --regexp "= 1.000$"
    assert_equal "$stderr" ""
    plain=$output
    for r in bytes quotes; do
        run --separate-stderr mabn-score coco t.json r-$r.json --type segm
        assert_equal "$output" "$plain"
        [[ $stderr == *"'r-$r.json': 1 mask string is bytes as Python prints them (the first: line 1, b"?"[6n0:000000000000"*"): read without b''"* ]]
    done
    run --separate-stderr mabn-score coco t-text.json r-plain.json --type segm
    assert_equal "$output" "$plain"
    assert_equal "$stderr" "mabn-score: warning: 't-text.json': 2 \"width\" or \"height\" of images are a text (the first: line 1, \"80\"): taken as a number"
    # a size that is none stops only who needs it
    for t in word half; do
        run --separate-stderr mabn-score coco t-$t.json r-plain.json --type segm
        assert_equal "$status" 1
        [[ $stderr == *"its image has no \"height\" and \"width\""* ]]
        [[ $stderr == *"'t-$t.json': 2 \"width\" or \"height\" of images are no positive whole number (the first: line 1"*"): taken as not given"* ]]
        run --separate-stderr mabn-score coco t-$t.json <(echo '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [5, 3, 14, 30]}]')
        assert_line --index 0 --regexp "= 1.000$"
        assert_equal "$stderr" ""
    done
}

@test "coco: boxes in another form, fractions, scores that are no probabilities are doubted" {
    $PYTHON - <<'END'
import copy, json, random
rng = random.Random(3)
images = [{"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480} for i in range(1, 6)]
cats = [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}]
truth, found = [], []
for i in images:
    for k in range(4):
        x, y, w, h = rng.uniform(60, 400), rng.uniform(60, 300), rng.uniform(30, 200), rng.uniform(30, 150)
        c = rng.choice(cats)["id"]
        truth.append({"id": len(truth) + 1, "image_id": i["id"], "category_id": c, "bbox": [x, y, w, h], "area": w * h,
                      "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
        found.append({"image_id": i["id"], "category_id": c, "score": rng.uniform(.2, 1), "bbox": [x + 2, y + 1, w, h]})
def write(name, records, f):
    records = copy.deepcopy(records)
    for r in records:
        f(r)
    json.dump(records if "score" in records[0] else {"images": images, "categories": cats, "annotations": records}, open(name, "w"))
def boxes(name, f):
    write(name, found, lambda r: r.update(bbox=list(f(*r["bbox"]))))
names = {c["id"]: c["name"] for c in cats}
write("t.json", truth, lambda r: None)
write("good.json", found, lambda r: None)
boxes("corners.json", lambda x, y, w, h: (x, y, x + w, y + h))
boxes("centre.json", lambda x, y, w, h: (x + w / 2, y + h / 2, w, h))
boxes("rows.json", lambda x, y, w, h: (y, x, h, w))
boxes("fractions.json", lambda x, y, w, h: (x / 640, y / 480, w / 640, h / 480))
write("t-corners.json", truth, lambda r: r.update(bbox=[r["bbox"][0], r["bbox"][1], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]]))
def polygon(r):
    x, y, w, h = r.pop("bbox")
    r["segmentation"] = [[x / 640, y / 480, (x + w) / 640, y / 480, (x + w) / 640, (y + h) / 480]]
write("polygons.json", found, polygon)
write("percent.json", found, lambda r: r.update(score=100 * r["score"]))
write("names.json", found, lambda r: r.update(category_id=names[r["category_id"]]))
write("numbers.json", found, lambda r: r.update(category_id=str(r["category_id"])))
write("files.json", found, lambda r: r.update(image_id="%06d.jpg" % r["image_id"]))
write("stems.json", found, lambda r: r.update(image_id="%06d" % r["image_id"]))
write("texts.json", found, lambda r: r.update(image_id=str(r["image_id"])))
END
    said() { # TRUTH RESULTS 'text' OPTION...
        local truth=$1 results=$2 text=$3; shift 3
        run --separate-stderr mabn-score coco "$truth" "$results" "$@"
        if [ -z "$text" ]; then
            assert_equal "$stderr" ""
        elif [[ $stderr != *"$text"* ]]; then
            echo "stderr: $stderr"; echo "wanted: $text"; return 1
        fi
    }
    said t.json good.json ""
    said t.json corners.json "'corners.json': 0 of 20 detections reach IoU 0.5 with an object as x, y, width, height in pixels, and 20 if the boxes of 'corners.json' are read as x1, y1, x2, y2"
    said t.json centre.json "20 if the boxes of 'centre.json' are read as centre x, centre y, width, height"
    said t.json rows.json "20 if the boxes of 'rows.json' are read as y, x, height, width"
    said t-corners.json good.json "20 if the boxes of 't-corners.json' are read as x1, y1, x2, y2"
    said t.json fractions.json "'fractions.json': all coordinates lie within 0 to 1: pixels are expected, not fractions"
    said t.json polygons.json "'polygons.json': all coordinates lie within 0 to 1: pixels are expected, not fractions" -t segm
    said t.json percent.json ""
    for option in "--operating-point 0.5" "--calibration c.tsv -f" "--confusion c.tsv --min-score 0.3 -f"; do
        # shellcheck disable=SC2086
        said t.json percent.json "'percent.json': 20 of 20 scores lie outside 0 to 1 (the first: line 1, " $option
        # shellcheck disable=SC2086
        run --separate-stderr mabn-score coco -q t.json good.json $option
        assert_equal "$stderr" ""
    done
    said t.json names.json "20 results of categories that 't.json' does not have (such as cat, a text; it is the name of category 1) are ignored"
    [[ $stderr != *"reach IoU"* ]] # the boxes are right
    said t.json numbers.json "20 results of categories that 't.json' does not have (such as 1, a text; there it is a number) are ignored"
    said t.json files.json "image 000001.jpg (a text) is not in 't.json'; it is the file_name of image 1"
    said t.json stems.json "image 000001 (a text) is not in 't.json'; it is the file_name of image 1"
    said t.json texts.json "image 1 (a text) is not in 't.json'; there it is a number"
    # drawing by a score asks the same
    $PYTHON "$ROOT/tests/make-images" pictures 1 1 40
    echo '{"images": [{"id": 1, "file_name": "class000/image0000.JPEG"}], "categories": [{"id": 1, "name": "a"}], "annotations": []}' >one.json
    echo '[{"image_id": 1, "category_id": 1, "score": 88, "bbox": [1, 1, 9, 9]}]' >percent.json
    run --separate-stderr mabn-draw pictures one.json -r percent.json --min-score 0.5 -o a.png
    assert_success
    [[ $stderr == *"'percent.json': 1 of 1 scores lie outside 0 to 1 (the first: line 1, 88): --min-score expects probabilities"* ]]
}

@test "coco: a count of no keypoints beside labelled ones is told" {
    $PYTHON - <<'END'
import json
k = [v for i in range(17) for v in (i + 10, 2 * i + 10, 2)]
truth = {"images": [{"id": 1, "width": 80, "height": 60}], "categories": [{"id": 1, "name": "person"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 500, "bbox": [10, 10, 30, 40],
                          "keypoints": k, "num_keypoints": 0}]}
json.dump(truth, open("k.json", "w"))
json.dump([{"image_id": 1, "category_id": 1, "score": 1, "keypoints": k}], open("found.json", "w"))
json.dump([{"image_id": 1, "category_id": 1, "score": 1, "keypoints": [v / 80 for v in k]}], open("parts.json", "w"))
truth["annotations"][0]["num_keypoints"] = 17
json.dump(truth, open("good.json", "w"))
END
    run --separate-stderr mabn-score coco -t keypoints k.json found.json
    [[ $stderr == *"'k.json': 1 annotation has \"num_keypoints\": 0 and labelled keypoints (the first: line 1): not counted as objects, as in pycocotools"* ]]
    run --separate-stderr mabn-score coco -t keypoints good.json found.json
    assert_equal "$stderr" ""
    run --separate-stderr mabn-score coco -t keypoints good.json parts.json
    [[ $stderr == *"'parts.json': all coordinates lie within 0 to 1: pixels are expected, not fractions"* ]]
}

@test "coco: files that are no JSON are named for what they are" {
    iconv -t UTF-16 truth.json >utf16.json
    fails 1 "but this is UTF-16 or UTF-32 text: JSON is UTF-8" mabn-score coco utf16.json results.json
    iconv -t UTF-16BE results.json >utf16.json
    fails 1 "but this is UTF-16 text: JSON is UTF-8" mabn-score coco truth.json utf16.json
    gzip -k results.json
    fails 1 "expected an array, but this is compressed by gzip: unpack it first" mabn-score coco truth.json results.json.gz
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n' >lfs.json
    fails 1 "expected an object, but this is a pointer of Git LFS: git lfs pull fetches the file" mabn-score coco lfs.json results.json
    echo '<!DOCTYPE html>' >page.json
    fails 1 "expected an array, but this is HTML or XML" mabn-score coco truth.json page.json
    fails 1 'annotations[0]: no "score": are these annotations in place of results?' mabn-score coco truth.json truth.json
    echo '{}' >object.json
    fails 1 'expected a list of results, found an object without "image_id"' mabn-score coco truth.json object.json
    printf '\xef\xbb\xbf' | cat - results.json >bom.json
    assert_equal "$(mabn-score coco truth.json bom.json)" "$(mabn-score coco truth.json results.json)"
}

@test "coco: no results at all" {
    echo '[]' >none.json
    run --separate-stderr mabn-score coco truth.json none.json
    assert_success
    assert_line --index 0 --partial "= 0.000"
    assert_equal "$stderr" "mabn-score: warning: 'none.json' has no results: every object counts as missed"
}

@test "coco: a field that comes twice counts the last time, and is told" {
    sed '0,/"image_id"/s//"image_id": 99999, "image_id"/' results.json >twice.json
    run --separate-stderr mabn-score coco truth.json twice.json
    assert_success
    assert_equal "$output" "$(mabn-score coco truth.json results.json)"
    assert_equal "$stderr" "mabn-score: warning: 'twice.json': 1 object has a field twice (the first: \"image_id\", line 1): the last counts"
    # likewise of annotations, images and categories
    sed 's/"bbox"/"area": 7, "iscrowd": 1, "bbox": [], "bbox"/g; s/"area": \([0-9]*\), "iscrowd": 0/"area": \1, "iscrowd": 0/g' truth.json >other.json
    run --separate-stderr mabn-score coco other.json results.json
    [[ $stderr == *"'other.json': "*" objects have a field twice"* ]]
    for what in images categories; do
        sed "s/\"$what\": *\[{/&\"id\": 77777, /" truth.json >other.json
        run --separate-stderr mabn-score coco other.json results.json
        assert_success
        assert_equal "$output" "$(mabn-score coco truth.json results.json)"
        [[ $stderr == *"'other.json': 1 object has a field twice (the first: \"id\""* ]]
    done
}

@test "coco: no number, as several languages write it" {
    for word in NaN nan -nan Infinity inf -Infinity +inf; do
        sed "0,/\"score\": [0-9.]*/s//\"score\": $word/" results.json >nan.json
        fails 1 "score: expected a number, found NaN or Infinity" mabn-score coco truth.json nan.json
    done
    sed '0,/"score": [0-9.]*/s//"score": None/' results.json >none.json
    fails 1 "score: expected a number, found 'N'" mabn-score coco truth.json none.json
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
    bad 's/50, 50, 20, 20/50, 50, 20/' "'bad.json':2: result 2 (image 2): expected 4 finite numbers in \"bbox\""
    bad 's/50, 50, 20, 20/50, "50", 20, 20/' "expected 4 finite numbers in \"bbox\""
    bad 's/"bbox": .50, 50, 20, 20./"x": 1/' "no \"bbox\", which the first result has"
    bad 's/0.8}]/0.8}/' "truncated"
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [100, 100], "counts": [3, 99999]}/' "counts overrun the image" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [100, 100], "counts": "oo"}/' "truncated" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [2147483648, 1], "counts": "1"}/' "bad mask size" segm
    bad 's/"bbox": .[0-9, ]*./"segmentation": {"size": [-1, 5], "counts": "1"}/' "bad mask size" segm
    bad 's/"bbox"/"keypoints"/' "three numbers a keypoint" keypoints
    fails 1 "cannot open 'missing.json'" mabn-score coco missing.json results.json
    fails 1 "expected an object, found an array" mabn-score coco results.json results.json
    fails 1 "are these annotations in place of results?" mabn-score coco truth.json truth.json
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
    [[ $stderr == *"1 result of categories that 'truth.json' does not have (such as 8) is ignored"* ]]
}

@test "coco: categories that do not agree are doubted" {
    "$PYTHON" - <<'END'
import json
truth = {"images": [{"id": 1, "width": 900, "height": 90}], "categories": [{"id": 1}, {"id": 2}],
         "annotations": [{"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400,
                          "bbox": [20 * i, 5, 20, 20]} for i in range(1, 21)]}
found = lambda own: [{"image_id": 1, "category_id": 1 if a["id"] <= own else 2, "score": 0.5,
                      "bbox": a["bbox"]} for a in truth["annotations"]]
for name, value in (("truth", truth), ("shifted", found(0)), ("right", found(11))):
    json.dump(value, open(name + ".json", "w"))
END
    run --separate-stderr mabn-score coco truth.json shifted.json
    assert_success
    [[ $stderr == *"'shifted.json': 20 of 20 detections lie on an object of another category: do the category ids agree with those of 'truth.json'?"* ]]
    run --separate-stderr mabn-score coco truth.json right.json
    assert_success
    [[ $stderr != *agree* ]]
    sed 's/\(, 5\), 20, 20\]/\1, 320, 25]/g' right.json >corners.json # x, y, x, y
    run --separate-stderr mabn-score coco truth.json corners.json
    assert_success
    [[ $stderr == *"'corners.json': 0 of 20 detections reach IoU 0.5 with an object: are image ids and boxes (x, y, width, height"* ]]
}

@test "coco: ids that occur twice" {
    sed 's/"id": 2, "image_id"/"id": 1, "image_id"/' truth.json >twice.json
    sed 's/\[50, 50, 20, 20\]/[0, 0, 20, 20]/' results.json >perfect.json
    run --separate-stderr mabn-score coco -t bbox,segm twice.json perfect.json
    assert_line --index 1 --partial "= 0.252" # as pycocotools has it
    [[ $stderr == *"'twice.json': 1 annotation has an id that occurs twice (the first: 1, line 6); the last of each counts for all"* ]]
    assert_equal "$(grep -c . <<<"$stderr")" 1
    run --separate-stderr mabn-score coco --fix-quirks twice.json perfect.json
    assert_line --index 0 --partial "= 1.000"
    [ -z "$stderr" ]
    sed 's/{"id": 2, "height"/{"id": 1, "file_name": "b.jpg", "height"/' truth.json >images.json
    fails 1 "'images.json': two images have the id 1: '' (line 1) and 'b.jpg' (line 1)" mabn-score coco images.json results.json
    sed 's/"id": 7, "name"/"id": 3, "name"/' truth.json >categories.json
    fails 1 "two categories have the id 3: 'cat' (line 2) and 'dog' (line 2)" mabn-score coco categories.json results.json
    sed 's/"id": 7, "name": "dog"/"id": 3, "name": "cat"/' truth.json >same.json
    run --separate-stderr mabn-score coco same.json results.json
    assert_line --index 0 --partial "= 0.505"
    [[ $stderr == *"category 3 ('cat') is listed twice"* ]]
}

@test "coco: ids that are true or false are 1 and 0" {
    sed 's/"id": 1, "image_id"/"id": true, "image_id"/; s/"id": 2, "image_id"/"id": 1.0, "image_id"/' truth.json >true.json
    assert_equal "$(mabn-score coco true.json results.json)" "$(mabn-score coco <(sed 's/"id": 2, "image_id"/"id": 1, "image_id"/' truth.json) results.json)"
    sed 's/"id": 1, "image_id"/"id": false, "image_id"/' truth.json >false.json
    run mabn-score coco false.json results.json
    assert_line --index 1 --partial "= 0.000"
}

@test "coco: annotations that belong to nothing are told, once" {
    sed '4s/"image_id": 1/"image_id": 77/' truth.json >orphan.json
    run --separate-stderr mabn-score coco -t bbox,segm orphan.json results.json
    assert_success
    assert_equal "$stderr" "mabn-score: warning: 'orphan.json': 1 annotation of images that are not listed (the first: line 4, image 77) counts for nothing"
    sed 's/"category_id": 3/"category_id": "x"/' truth.json >orphan.json
    run --separate-stderr mabn-score coco --class-agnostic orphan.json results.json
    [[ $stderr == *"'orphan.json': 2 annotations of categories that are not listed (the first: line 4, category x, a text)"* ]]
    sed 's/"category_id": 3/"category_id": "3"/' results.json >texts.json
    run --separate-stderr mabn-score coco truth.json texts.json
    [[ $stderr == *"results of categories that 'truth.json' does not have (such as 3, a text; there it is a number) are ignored"* ]]
}

@test "coco: a field that the task does not need never stops it" {
    expected=$(mabn-score coco truth.json results.json)
    # FILE 'what sed does to it': the boxes score as before
    while IFS='|' read -r file change; do
        cp truth.json a.json
        cp results.json b.json
        sed -i "$change" $file
        run --separate-stderr mabn-score coco a.json b.json
        assert_success
        assert_equal "$output" "$expected" "$file $change"
        [ -z "$stderr" ]
    done <<'END'
a.json|s/"id": 1, "image_id"/"id": 1237940039285380274899124225, "image_id"/;s/"id": 2, "image_id"/"id": 1237940039285380274899124226, "image_id"/
a.json|s/"id": 1, "image_id"/"id": "a", "image_id"/
a.json|s/"id": [12], "image_id"/"id": null, "image_id"/
a.json|s/"id": [12], "image_id"/"image_id"/
a.json|s/"height": 100, "width": 100/"height": -1, "width": null/g
a.json|s/"height": 100, "width": 100/"height": "100", "width": 1e99/g
a.json|s/"segmentation": .*\]\]/"segmentation": [1, 2, 3]/
a.json|s/"segmentation": .*\]\]/"segmentation": "none"/
a.json|s/"iscrowd": 0/"iscrowd": 0, "ignore": "no", "num_keypoints": null, "keypoints": "none", "score": "high", "caption": 1/
a.json|s/"height"/"file_name": 17, "height"/
a.json|s/"height"/"file_name": "caf\\udce9\\ud83d.jpg", "note": "\\ud800\\u0041", "height"/
a.json|s/"height"/"file_name": "a\\u0000b.jpg", "height"/
a.json|s/"name": "dog"/"name": "d\\u0000g"/
a.json|s/"iscrowd": 0/"iscrowd": 0, "attributes": {"angle": NaN, "range": [-Infinity, Infinity]}/
a.json|s/"height": 100, "width": 100/"height": NaN, "width": Infinity/g
a.json|s/"segmentation": .*\]\]/"segmentation": [[10, 10, NaN, 10, 50, 50]]/
b.json|s/"bbox"/"logit": -Infinity, "bbox"/
b.json|s/"bbox"/"id": null, "bbox"/
b.json|s/"bbox"/"id": "det-1", "area": "big", "iscrowd": [], "ignore": {}, "num_keypoints": -1, "bbox"/
b.json|s/"bbox"/"segmentation": [1, 2, 3, 4, 5, 6], "keypoints": 3, "bbox"/
b.json|1s/"bbox"/"segmentation": [[1, 2, 3, 4]], "keypoints": [1], "bbox"/
b.json|2s/"bbox"/"segmentation": {"counts": 5}, "bbox"/
END
    # and masks do without boxes
    sed 's/"bbox": \[[0-9, ]*\]/"bbox": [1, 2]/' truth.json >a.json
    assert_equal "$(mabn-score coco -t segm a.json results.json)" "$(mabn-score coco -t segm truth.json results.json)"
    fails 1 'expected 4 finite numbers in "bbox"' mabn-score coco a.json results.json
}

@test "coco: an area that is no number is told, and the box's taken" {
    expected=$(mabn-score coco <(sed 's/"area": [0-9.]*, //' truth.json) results.json)
    for odd in NaN '"1600"' '[1]' -Infinity; do
        sed "4,6s/\"area\": [0-9.]*/\"area\": $odd/" truth.json >odd.json
        run --separate-stderr mabn-score coco -t bbox odd.json results.json
        assert_success
        assert_equal "$output" "$expected"
        assert_equal "$stderr" "mabn-score: warning: 'odd.json': the \"area\" of 2 annotations is no finite number (the first: line 4): that of the box counts"
    done
    sed 's/"score": 0.9/"score": NaN/' results.json >nan.json
    fails 1 "[0].score: expected a number, found NaN or Infinity" mabn-score coco truth.json nan.json
}

@test "coco: results of masks need no boxes unless boxes are scored" {
    masks() { # masks BOX: the second result has it
        cat <<END
[{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]]},
 {"image_id": 2, "category_id": 3, "score": 0.8, "segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]], "bbox": $1}]
END
    }
    expected=$(mabn-score coco -t segm truth.json <(masks null))
    for box in '[1, 2, 3, 4, 5]' '"none"' '[1, NaN, 3, 4]' '[]'; do
        masks "$box" >odd.json
        assert_equal "$(mabn-score coco -t segm truth.json odd.json)" "$expected"
    done
    assert_equal "$(mabn-score coco truth.json odd.json)" "$(mabn-score coco truth.json <(masks null))"
    sed '1s/"score"/"bbox": [1, 2], "score"/' <(masks null) >first.json
    assert_equal "$(mabn-score coco -t segm truth.json first.json)" "$expected"
    fails 1 "'first.json':1: result 1 (image 1): expected 4 finite numbers in \"bbox\"" mabn-score coco truth.json first.json
    masks '[1, 2, 3]' >odd.json
    fails 1 "'odd.json':2: result 2 (image 2): expected 4 finite numbers in \"bbox\"" mabn-score coco truth.json odd.json
}

@test "coco: what a result of no chosen category lacks never matters" {
    expected=$(mabn-score coco truth.json results.json)
    masks=$(sed 's/"bbox": \[[0-9, ]*\]/"segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]]/' results.json | tee masks.json |
        mabn-score coco -t segm truth.json -)
    sed 's/"bbox": \[[0-9, ]*\]/"keypoints": [1, 1, 2]/' results.json >points.json
    points=$(mabn-score coco truth.json points.json)
    for odd in '"bbox": [1, 2]' '"bbox": "none"' '"bbox": [1, 2, NaN, 4]' '"x": 1'; do
        stray="{\"image_id\": 1, \"category_id\": 77, \"score\": 0.5, $odd}"
        for kind in results masks points; do
            sed "\$s/]\$/,\n$stray]/" $kind.json >last.json
            type=$([ $kind = masks ] && echo segm || echo bbox)
            right=$expected
            [ $kind = masks ] && right=$masks
            [ $kind = points ] && right=$points
            run --separate-stderr mabn-score coco -t $type truth.json last.json
            assert_success
            assert_equal "$output" "$right"
            [[ $stderr == *"1 result of categories that 'truth.json' does not have"* ]]
        done
    done
    # a file that begins with such a result is still one of boxes
    sed '1s/^\[/[{"image_id": 1, "category_id": 77, "score": 0.5, "bbox": [1, 2]},\n/' results.json >first.json
    assert_equal "$(mabn-score coco truth.json first.json)" "$expected"
    # a category that is listed, but not chosen
    sed '/"categories"/s/\]/, {"id": 77, "name": "cow"}]/' truth.json >cow.json
    assert_equal "$(mabn-score coco --categories 3 cow.json first.json)" "$(mabn-score coco --categories 3 cow.json results.json)"
    fails 1 "'first.json':1: result 1 (image 1): expected 4 finite numbers in \"bbox\"" mabn-score coco cow.json first.json
    fails 1 ":2: result 2 (image 2): no \"segmentation\", which the first result has" mabn-score coco -t segm truth.json <(sed '2s/"segmentation"/"bbox": [1, 1, 2, 2], "x"/' masks.json)
    fails 1 "result 2 (image 2): no \"keypoints\", which the first result has" mabn-score coco truth.json <(sed '2s/"keypoints"/"x"/' points.json)
}

@test "coco: a category's name may be a number" {
    sed 's/"name": "cat"/"name": 8/' truth.json >number.json
    assert_equal "$(mabn-score coco --per-category number.json results.json)" "$(mabn-score coco --per-category <(sed 's/"name": "cat"/"name": "8"/' truth.json) results.json)"
}

@test "coco: polygons that are none, for masks" {
    sed 's/\[\[10, 10, 50, 10, 50, 50, 10, 50\]\]/[[10, 10, 50, 50]]/' truth.json >four.json
    fails 1 "'four.json':4: annotation 1 (image 1): a polygon of 4 numbers: expected x, y of three corners or more" mabn-score coco -t segm four.json results.json
    sed 's/\[\[10, 10, 50, 10, 50, 50, 10, 50\]\]/[[10, 10, 50, 10, 50, 50, 10]]/' truth.json >odd.json
    fails 1 "a polygon of 7 numbers" mabn-score coco -t segm odd.json results.json
    sed 's/"score": 0.9/"score": 0.9, "segmentation": [[10, 10, 50, 50]]/' results.json >four-results.json
    fails 1 "'four-results.json':1: result 1 (image 1): a polygon of 4 numbers" mabn-score coco -t segm truth.json four-results.json
    sed 's/"segmentation": .*\]\]/"segmentation": []/' truth.json >none.json
    fails 1 "annotation 1 (image 1): no \"segmentation\"" mabn-score coco -t segm none.json results.json
}

@test "coco: the area of an annotation that has neither area nor box is its mask's" {
    "$PYTHON" - <<'END'
import json
t = json.load(open("truth.json"))
for a in t["annotations"]:
    for key in "area", "bbox":
        del a[key]
json.dump(t, open("mask.json", "w"))
END
    assert_equal "$(mabn-score coco -t segm mask.json results.json)" "$(mabn-score coco -t segm truth.json results.json)" # 1600 pixels are medium
}

@test "coco: masks of another size than the image are told" {
    cat >large.json <<'END'
[{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": {"size": [200, 200], "counts": [2020, 80, 37900]}},
 {"image_id": 2, "category_id": 3, "score": 0.8, "segmentation": {"size": [200, 200], "counts": [0, 40, 39960]}}]
END
    run --separate-stderr mabn-score coco -t segm truth.json large.json
    assert_success
    assert_line --index 0 --partial "= 0.000"
    assert_equal "$stderr" "mabn-score: warning: 'large.json': 2 masks are of another size than the image (the first: line 1, 200 x 200 pixels; image 1 is 100 x 100): masks of two sizes never overlap"
}

@test "coco: ids that are texts" {
    sed 's/"image_id": \([12]\)/"image_id": "img\1"/g; s/{"id": \([12]\), "height"/{"id": "img\1", "height"/g
         s/"category_id": 3/"category_id": "c 3"/g; s/{"id": 3,/{"id": "c 3",/' truth.json >text.json
    sed 's/"image_id": \([12]\)/"image_id": "img\1"/g; s/"category_id": 3/"category_id": "c 3"/g' results.json >found.json
    assert_equal "$(mabn-score coco text.json found.json)" "$(mabn-score coco truth.json results.json)"
    run mabn-score coco --images img1 text.json found.json
    assert_line --index 0 --partial "= 1.000"
    run mabn-score coco -c --categories 'c 3' text.json found.json
    assert_line --regexp "^ *c 3  cat +2 0\.5050"
    fails 1 "image 'img3' is not in 'text.json'" mabn-score coco --images img3 text.json found.json
    fails 1 "result 1: image img1 (a text) is not in 'truth.json': are ids numbers in one file and texts in the other?" mabn-score coco truth.json found.json
    need_python json
    mabn-score coco --json text.json found.json >out.json
    $PYTHON -c 'import json; o = json.load(open("out.json"))["bbox"]; assert o["ap_per_category"].keys() == {"c 3", "7"}; assert o["categories"][1]["id"] == "c 3"'
    # Images of equal scores come in the order of their ids' texts, as pycocotools takes them.
    for n in 0 1; do
        cat >truth.json <<END
{"images": [{"id": "b9", "height": 9, "width": 9}, {"id": "b10", "height": 9, "width": 9}, {"id": "a", "height": 9, "width": 9}],
 "categories": [{"id": 1, "name": "x"}],
 "annotations": [{"id": 1, "image_id": "b9", "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]}
END
        other=b10
        if [ $n = 1 ]; then other=c; sed -i s/b10/c/ truth.json; fi
        echo '[{"image_id": "b9", "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5},
               {"image_id": "'$other'", "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]' >results.json
        mabn-score coco --iou 0.5 truth.json results.json | head -1 >ap.$n
    done
    grep -q "= 0.500" ap.0
    grep -q "= 1.000" ap.1
}

@test "coco: ground truths without keypoints are not labelled" {
    points() { for _ in $(seq 17); do printf '%s, %s, 2, ' "$1" "$2"; done | sed 's/, $//'; }
    cat >people.json <<END
{"images": [{"id": 1, "height": 100, "width": 100}],
 "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 80], "area": 3200, "iscrowd": 0, "num_keypoints": 17, "keypoints": [$(points 20 30)]},
  {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 0, 40, 80], "area": 3200, "iscrowd": 0, "num_keypoints": 0, "keypoints": []},
  {"id": 3, "image_id": 1, "category_id": 2, "bbox": [50, 50, 9, 9], "area": 81, "iscrowd": 0}]}
END
    cat >found.json <<END
[{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [$(points 60 30)]},
 {"image_id": 1, "category_id": 1, "score": 0.8, "keypoints": [$(points 20 30)]}]
END
    run --separate-stderr mabn-score coco -t keypoints people.json found.json
    assert_success
    [ -z "$stderr" ]
    assert_line --index 0 --partial "= 1.000" # the first takes the one that does not count
    # false is 0, as in Python; of two lists the last counts, here none
    expected=$(mabn-score coco -t keypoints <(sed 's/"num_keypoints": 17/"num_keypoints": 0/' people.json) found.json)
    for odd in 's/"num_keypoints": 17/"num_keypoints": false/' 's/\(2\]}\),/2], "keypoints": null},/'; do
        sed "$odd" people.json >odd.json
        assert_equal "$(mabn-score coco -t keypoints odd.json found.json)" "$expected"
    done
    sed 's/"num_keypoints": 0, "keypoints": \[\]/"num_keypoints": 1, "keypoints": [1, 2, 3]/' people.json >odd.json
    fails 1 "expected 17 keypoints, found 1" mabn-score coco -t keypoints odd.json found.json
}

# Four truths: found; found as a dog; found too loosely; missed. One result on the background, one twice.
why_setup() {
    cat >why.json <<'END'
{"images": [{"id": 1, "height": 100, "width": 200}],
 "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
  {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40, 0, 20, 20], "area": 400, "iscrowd": 0},
  {"id": 3, "image_id": 1, "category_id": 7, "bbox": [80, 0, 20, 20], "area": 400, "iscrowd": 0},
  {"id": 4, "image_id": 1, "category_id": 7, "bbox": [120, 0, 20, 20], "area": 400, "iscrowd": 0}]}
END
    cat >found.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "score": 0.9},
 {"image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 19], "score": 0.8},
 {"image_id": 1, "category_id": 7, "bbox": [40, 0, 20, 20], "score": 0.7},
 {"image_id": 1, "category_id": 7, "bbox": [80, 0, 9, 20], "score": 0.6},
 {"image_id": 1, "category_id": 3, "bbox": [0, 60, 20, 20], "score": 0.3}]
END
}

@test "coco: why: kinds of errors" {
    why_setup
    run mabn-score coco --errors why.json found.json
    assert_success
    assert_line --regexp "^AP at IoU 0.50 is 25.25 points"
    # 1 of cat's 2 truths: 51 of 101 recalls. What a repair gains is worked out by hand.
    assert_line --regexp "^  classification +\+16\.50  \(1\)$"
    assert_line --regexp "^  localization +\+12\.62  \(1\)$"
    assert_line --regexp "^  both +\+0\.00  \(0\)$"
    assert_line --regexp "^  duplicate +\+0\.00  \(1\)$"
    assert_line --regexp "^  background +\+0\.00  \(1\)$"
    assert_line --regexp "^  missed +\+0\.00  \(1\)$"
    assert_line --regexp "^  false negative .*  \(3\)$"
    mabn-score coco --errors --tsv why.json found.json >errors.tsv
    grep -q "^bbox	localization	12.6237623762376.*	1$" errors.tsv
    need_python json
    mabn-score coco --errors --operating-point 0.5 --json why.json found.json >out.json
    $PYTHON -c 'import json; o = json.load(open("out.json"))["bbox"]; assert o["errors"]["missed"]["count"] == 1; assert o["operating_point"]["all"]["fn"] == 3'
}

@test "coco: why: a truth that counts twice, for its id" {
    why_setup
    sed 's/"id": [234], "image_id"/"id": 4, "image_id"/' why.json >twice.json
    run mabn-score coco -q -f --errors --confusion c.tsv twice.json found.json
    assert_success
    assert_line --regexp "^  false negative .*  \\(3\\)$"
    grep -qx "dog	0	0	3" c.tsv
}

@test "coco: why: the operating point" {
    why_setup
    run mabn-score coco --operating-point 0.7 -c why.json found.json
    assert_line --regexp "^cat +0.7000 +0.5000 +0.5000 +0.5000 +1 +1 +1$"
    assert_line --regexp "^dog +0.7000 +0.0000 +0.0000 +0.0000 +0 +1 +2$"
    assert_line --regexp "^all +0.7000 +0.3333 +0.2500 +0.2857 +1 +2 +3$"
    run mabn-score coco --operating-point best why.json found.json
    assert_line --regexp "^all +0.9000 +1.0000 +0.2500 +0.4000 +1 +0 +3$"
    run mabn-score coco --operating-point best --iou 0.45 why.json found.json
    assert_line --regexp "^all +0.6000 +0.5000 +0.5000 +0.5000 +2 +2 +2$"
}

@test "coco: why: tables of confusion, curves and calibration" {
    why_setup
    mabn-score coco -q --confusion c.tsv --pr pr.tsv --calibration cal.tsv why.json found.json >/dev/null
    printf 'truth\tcat\tdog\tbackground\ncat\t1\t1\t0\ndog\t0\t0\t2\nbackground\t2\t1\t0\n' | cmp - c.tsv
    grep -qx "	all	0.50	0.4999999999999999	" pr.tsv
    grep -qx "3	cat	0.50	0.9999999999999998	0.9" pr.tsv
    printf 'low\thigh\tcount\tscore\tright\n' | cmp - <(head -1 cal.tsv)
    grep -qx "0.9	1.0	1	0.9	1" cal.tsv
    grep -qx "0.3	0.4	1	0.3	0" cal.tsv
    mabn-score coco -q -f --min-score 0.5 --confusion c.tsv why.json found.json >/dev/null
    grep -qx "background	1	1	0" c.tsv
    fails 1 "c.tsv" mabn-score coco --confusion c.tsv why.json found.json
    fails 2 "boxes and masks" mabn-score coco -t keypoints --errors why.json found.json
    fails 2 "one type" mabn-score coco -t bbox,segm --pr x.tsv why.json found.json
    fails 1 "the threshold 0.5" mabn-score coco --iou 0.6,0.7 --operating-point best why.json found.json
    fails 1 "the threshold 0.5" mabn-score coco --iou 0.6,0.7 --pr x.tsv why.json found.json
    fails 1 "the area all" mabn-score coco --areas big:0: --pr x.tsv why.json found.json
    [ ! -e x.tsv ]
}

@test "coco: why: names and ids never break a table" {
    why_setup
    # a tab, a line's end, letters of several bytes; an id that is a text with a quote; no name
    sed 's/"cat"/"a\\tb\\n\\u001b[7m\\u732b"/; s/, "name": "dog"//; s/\("category_id"\|"id"\): 7/\1: "d\\t\\"7"/' why.json >odd.json
    sed 's/: 7/: "d\\t\\"7"/' found.json >oddly.json
    run mabn-score coco -c --tsv odd.json oddly.json
    assert_line --index 1 --regexp "^bbox	3	a b  \[7m猫	2	"
    assert_line --index 2 --regexp "^bbox	d \"7		2	"
    assert_equal "${#lines[@]}" 3
    run mabn-score coco --operating-point best --tsv odd.json oddly.json
    assert_line --index 1 --regexp "^bbox	3	a b  \[7m猫	0\.9	"
    assert_line --index 2 --regexp "^bbox	d \"7		"
    assert_equal "${#lines[@]}" 4
    run mabn-score coco -c --operating-point best odd.json oddly.json
    assert_line --regexp "^     3  a b  \[7m猫 +2 "
    assert_line --regexp "^d \"7 +1\.0000 +0\.0000 "
    [[ $output != *$'\e'* ]]
    mabn-score coco -q --pr p.tsv odd.json oddly.json >/dev/null
    grep -q "^d \"7	d \"7	0.00	" p.tsv
    need_python json
    mabn-score coco --json odd.json oddly.json >odd.out
    $PYTHON -c 'import json; assert json.load(open("odd.out"))["bbox"]["ap_per_category"].keys() == {"3", "d\t\"7"}'
}

@test "coco: why: crowds are in no table, nor what only they explain" {
    cat >crowd.json <<'END'
{"images": [{"id": 1, "height": 100, "width": 100}],
 "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
  {"id": 2, "image_id": 1, "category_id": 7, "bbox": [50, 50, 40, 40], "area": 1600, "iscrowd": 1}]}
END
    cat >found.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "score": 0.9},
 {"image_id": 1, "category_id": 7, "bbox": [50, 50, 10, 10], "score": 0.8},
 {"image_id": 1, "category_id": 7, "bbox": [0, 90, 5, 5], "score": 0.8},
 {"image_id": 1, "category_id": 7, "bbox": [90, 0, 5, 5], "score": 0.8}]
END
    run mabn-score coco -q --errors --confusion c.tsv --operating-point best --calibration cal.tsv crowd.json found.json
    assert_success
    printf 'truth\tcat\tdog\tbackground\ncat\t1\t0\t0\ndog\t0\t0\t0\nbackground\t0\t2\t0\n' | cmp - c.tsv
    assert_line --regexp "^  false positive .*  \\(2\\)$"
    # a score of 0.8 belongs to 0.8 to 0.9; detections of one score count together or not at all
    assert_line --regexp "^all +0.9000 +1.0000 +1.0000 +1.0000 +1 +0 +0$"
    grep -qx "0.8	0.9	2	0.8	0" cal.tsv
    sed 's/0\.9}/0.8}/' found.json >ties.json
    run mabn-score coco -q --operating-point best crowd.json ties.json
    assert_line --regexp "^all +0.8000 +0.3333 +1.0000 +0.5000 +1 +2 +0$"
}

@test "coco: LVIS's rules" {
    cat >lvis.json <<'END'
{"images": [{"id": 1, "height": 100, "width": 100, "not_exhaustive_category_ids": [7], "neg_category_ids": [9]}],
 "categories": [{"id": 3, "name": "cat", "frequency": "f"}, {"id": 7, "name": "dog", "frequency": "r"}, {"id": 9, "name": "owl", "frequency": "c"}, {"id": 11, "name": "fox", "frequency": "c"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 1},
  {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "area": 400}]}
END
    # cats: wrong, then right (crowds are nothing here): 0.5; dogs: the wrong one does not count: 1;
    # owls, not there, and foxes, of which nothing is said: no truths
    cat >found.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [60, 60, 20, 20], "score": 0.9},
 {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.8},
 {"image_id": 1, "category_id": 7, "bbox": [60, 60, 20, 20], "score": 0.9},
 {"image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "score": 0.8},
 {"image_id": 1, "category_id": 9, "bbox": [0, 0, 20, 20], "score": 0.8},
 {"image_id": 1, "category_id": 11, "bbox": [0, 0, 20, 20], "score": 0.8}]
END
    run mabn-score coco --lvis lvis.json found.json
    assert_success
    assert_equal "${#lines[@]}" 13
    assert_line --index 0 " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=300 catIds=all] = 0.750"
    assert_line --index 6 --partial "catIds=  r] = 1.000"
    assert_line --index 7 --partial "catIds=  c] = -1.000"
    assert_line --index 8 --partial "catIds=  f] = 0.500"
    # of the image's results only the first three by score count, then two, then one
    run mabn-score coco --lvis --max-dets 2 lvis.json found.json
    assert_line --index 0 --partial "= 0.000"
    sed 's/"not_exhaustive.*: \[9\]/"neg_category_ids": [9], "not_exhaustive_category_ids": [7]/' lvis.json >order.json
    assert_equal "$(mabn-score coco --lvis order.json found.json)" "$(mabn-score coco --lvis lvis.json found.json)"
    "$ROOT/tests/make-images" tree 1 4
    sed 's/"height": 100, "width": 100/"file_name": "image0003.JPEG"/' lvis.json >named.json
    mabn-pack coco -q tree/class000 named.json -o lvis.h5
    assert_equal "$(mabn-score coco --lvis lvis.h5 found.json)" "$(mabn-score coco --lvis lvis.json found.json)"
    sed 's/"iscrowd": 1/"iscrowd": "no"/' lvis.json >crowd.json
    assert_equal "$(mabn-score coco --lvis crowd.json found.json)" "$(mabn-score coco --lvis lvis.json found.json)"
    fails 1 "image 1 has no \"neg_category_ids\" and \"not_exhaustive_category_ids\": is this an LVIS file?" mabn-score coco --lvis truth.json results.json
    sed 's/"frequency": "r"/"frequency": "x"/' lvis.json >odd.json
    fails 1 "category 7 has no \"frequency\" r, c or f" mabn-score coco --lvis odd.json found.json
    sed 's/"area": 400}/"area": 400, "ignore": 1}/' lvis.json >ignore.json
    run mabn-score coco --lvis ignore.json found.json
    assert_line --index 6 --partial "catIds=  r] = -1.000"
    fails 2 "by category" mabn-score coco --lvis --class-agnostic lvis.json found.json
    fails 2 "--errors and --confusion do not go with --lvis" mabn-score coco --lvis --errors lvis.json found.json
    fails 2 "--errors and --confusion do not go with --lvis" mabn-score coco --lvis --confusion c.tsv lvis.json found.json
    assert_file_not_exist c.tsv
    # 300 of the image, whatever their category: unknown ones and those not chosen count too
    one() { printf '{"image_id": 1, "category_id": %s, "bbox": [10, 10, 40, 40], "score": %s}' "$1" "$2"; }
    for other in 9 99; do
        (printf '['; for _ in $(seq 299); do one $other 0.9; printf ', '; done; one 3 0.8; printf ']') >first.json
        (printf '['; for _ in $(seq 300); do one $other 0.9; printf ', '; done; one 3 0.8; printf ']') >beyond.json
        run --separate-stderr mabn-score coco --lvis --categories cat,dog lvis.json first.json
        assert_line --index 0 --partial "= 0.500"
        run --separate-stderr mabn-score coco --lvis --categories cat,dog lvis.json beyond.json
        assert_line --index 0 --partial "= 0.000"
    done
}

@test "coco: categories with keypoints of their own kind" {
    cat >animals.json <<'END'
{"images": [{"id": 1, "height": 100, "width": 100}],
 "categories": [{"id": 1, "name": "hand"}, {"id": 2, "name": "fish"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 80], "area": 3200, "iscrowd": 0, "keypoints": [10, 10, 2, 20, 20, 2, 30, 30, 2]},
  {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 0, 40, 80], "area": 3200, "iscrowd": 0, "keypoints": [60, 10, 2, 70, 20, 2]}]}
END
    cat >found.json <<'END'
[{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [12, 10, 1, 20, 23, 1, 34, 30, 1]},
 {"image_id": 1, "category_id": 2, "score": 0.8, "keypoints": [65, 10, 1, 70, 28, 1]}]
END
    mabn-score coco -t keypoints -c --tsv --sigmas hand=0.05,0.05,0.1 --sigmas 2=0.1,0.07 animals.json found.json | cut -f 2-7 >both
    grep '"category_id": 1' found.json | sed 's/,$/]/' >hands.json
    (printf '['; grep '"category_id": 2' found.json) >fish.json
    { mabn-score coco -t keypoints -c --tsv --categories hand --sigmas 0.05,0.05,0.1 animals.json hands.json
      mabn-score coco -t keypoints -c --tsv --categories fish --sigmas 0.1,0.07 animals.json fish.json | tail -n +2; } | cut -f 2-7 >each
    diff both each
    run cut -f 4 both # neither perfect nor nothing
    assert_line --regexp "^0\.[1-9]"
    fails 1 "expected 17 keypoints, found 2" mabn-score coco -t keypoints --sigmas hand=0.05,0.05,0.1 animals.json found.json
    fails 1 "category 'foot' is not in" mabn-score coco -t keypoints --sigmas foot=0.05 animals.json found.json
}

@test "coco: masks by their boundaries" {
    # A square of 40, found 2 to the right: mask IoU 1520/1680; the boundaries, 3 wide, agree less.
    sed 's/\[10, 10, 40, 40\], "score": 0.9/[12, 10, 40, 40], "score": 0.9/; s/50, 50, 20, 20/0, 0, 20, 20/' results.json >near.json
    run mabn-score coco -t segm truth.json near.json
    assert_line --index 2 --partial "= 1.000"
    run mabn-score coco -t segm --boundary truth.json near.json
    assert_line --index 1 --partial "= 1.000"
    assert_line --index 2 --partial "= 0.252"
    fails 2 "-t segm" mabn-score coco --boundary truth.json near.json
    # a frame on a filled square: the boundaries agree better than the masks, and the smaller counts
    need_python json
    $PYTHON - <<'END'
import json
def mask(hole):
    bits = [20 <= x < 80 and 20 <= y < 80 and not (hole and 25 <= x < 75 and 25 <= y < 75)
            for x in range(100) for y in range(100)]
    counts, last = [0], False
    for b in bits:
        if b != last: counts.append(0); last = b
        counts[-1] += 1
    return {"size": [100, 100], "counts": counts}
json.dump({"images": [{"id": 1, "height": 100, "width": 100}], "categories": [{"id": 3, "name": "cat"}],
           "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "area": 3600, "iscrowd": 0,
                            "segmentation": mask(False)}]}, open("filled.json", "w"))
json.dump([{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": mask(True)}], open("frame.json", "w"))
END
    run mabn-score coco -q -t segm --boundary --iou 0.3,0.5 filled.json frame.json
    assert_line --index 0 --partial "= 0.500"
    assert_line --index 1 --partial "= 0.000"
}

@test "coco: a table never replaces an input or another table" {
    cp truth.json t.json
    cp results.json r.json
    for table in t.json ./r.json; do
        fails 2 "'$table' is to be written, and named a second time" mabn-score coco -f --pr $table t.json r.json
    done
    fails 2 "named a second time" mabn-score coco -f --pr o.json --compare o.json t.json r.json
    fails 2 "'c.tsv' is to be written" mabn-score coco --pr c.tsv --calibration c.tsv t.json r.json
    cmp t.json truth.json
    cmp r.json results.json
    fails 2 "--min-score goes with --confusion" mabn-score coco --min-score 0.5 t.json r.json
}

@test "coco: wrong usage" {
    fails 2 "unknown type 'boxes': expected bbox, segm, keypoints" mabn-score coco -t boxes truth.json results.json
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

@test "topk: samples that occur twice are told" {
    predictions >p.jsonl
    run --separate-stderr mabn-score topk p.jsonl
    assert_equal "$stderr" ""
    { predictions; predictions | sed -n '2,3p'; } >two.jsonl
    run --separate-stderr mabn-score topk two.jsonl
    assert_line "samples    6"
    assert_equal "$stderr" "mabn-score: warning: 'two.jsonl': 2 of 6 predictions are of samples that were there before (the first: prediction 5, sample 1): each counts"
    sed 's/"sample":[0-9]*/"sample":[1e999,null]/' p.jsonl >odd.jsonl # not needed
    run --separate-stderr mabn-score topk odd.jsonl
    assert_success
    assert_equal "$stderr" ""
}

@test "topk: of a field that a prediction has twice the last counts, with a warning" {
    predictions >p.jsonl
    sed '2s/"top"/"top":[2,1,0],"loss":null,"top"/; 4s/"label"/"label":1,"label"/' p.jsonl >twice.jsonl
    run --separate-stderr mabn-score topk twice.jsonl
    assert_equal "$output" "$(mabn-score topk p.jsonl)"
    assert_equal "$stderr" "mabn-score: warning: 'twice.jsonl': 2 predictions have a field twice (the first: \"top\", prediction 2): the last counts"
    sed '2s/"loss"/"loss":9,"loss":null,"x"/' p.jsonl >none.jsonl
    assert_equal "$(mabn-score topk -q none.jsonl)" "$(mabn-score topk <(sed '2s/"loss"/"x"/' p.jsonl))"
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

@test "coco: a doubt is told only where it holds" {
    $PYTHON - <<'END'
import json
images = [{"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480} for i in range(1, 21)]
truth, boxes = [], []
for i in images:
    # the first eight begin at the origin: as corners they are the same
    x, y, w, h = (0, 0, 100, 80) if i["id"] <= 8 else (100, 150, 60 + i["id"], 90)
    boxes.append((x, y, w, h))
    truth.append({"id": i["id"], "image_id": i["id"], "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
data = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": truth}
def write(name, f, **more):
    json.dump([{"image_id": i + 1, "category_id": 1, "score": 1 if i > 7 else .5, "bbox": list(f(i, *b)), **more}
               for i, b in enumerate(boxes)], open(name, "w"))
corners = lambda x, y, w, h: (x, y, x + w, y + h)
json.dump(data, open("t.json", "w"))
write("good.json", lambda i, *b: b)
write("some.json", lambda i, *b: b if i < 8 else corners(*b) if i < 12 else (500, 400, 9, 9))
write("few.json", lambda i, *b: corners(*b) if 8 <= i < 12 else (500, 400, 9, 9))
write("rows.json", lambda i, x, y, w, h: (500, 400, 510, 420) if i < 8 else (y, x, y + h, x + w))
write("fraction.json", lambda i, x, y, w, h: (-.01, .5, .1, .1) if i == 9 else ((x + w / 2) / 640, (y + h / 2) / 480, w / 640, h / 480))
write("stem.json", lambda i, *b: b)
r = json.load(open("stem.json")); r[0]["image_id"] = "00000"; json.dump(r, open("stem.json", "w"))
# a list beside a result's own fields is not the list of results
open("lines.json", "w").write("".join(json.dumps({**r, "detections": [{"x": 1}]}) + "\n" for r in json.load(open("good.json"))))
for i in images: i["width"] = "640px"
json.dump(data, open("t-px.json", "w"))
for i in images: i["width"] = 640
points = [v for k in range(17) for v in (100 + 9 * k, 150 + 5 * k, 1)]
for a in truth: a.update(keypoints=points, num_keypoints=17, bbox=[100, 150, 150, 90], area=13500)
json.dump(data, open("t-k.json", "w"))
truth[3]["num_keypoints"] = 0
json.dump(data, open("t-0.json", "w"))
json.dump([{"image_id": i["id"], "category_id": 1, "score": .5, "keypoints": [v / n for v, n in zip(points, (640, 480, .5) * 17)]}
           for i in images], open("k.json", "w"))
END
    said() { # FILES AND OPTIONS, on one line
        # shellcheck disable=SC2086
        run --separate-stderr mabn-score coco $1
    }
    for f in some few; do
        said "t.json $f.json"
        assert_success
        [[ $stderr != *"are read as"* ]] || fail "$stderr"
    done
    said "t.json rows.json"
    [[ $stderr == *"are read as y1, x1, y2, x2"* ]]
    said "t.json fraction.json"
    [[ $stderr == *"are read as centre and size in fractions of the image's width and height"* ]]
    said "t.json good.json --operating-point 0.5"
    assert_equal "$stderr" ""
    good=$output
    said "t.json lines.json --operating-point 0.5"
    assert_equal "$output" "$good"
    said "t.json stem.json"
    [[ $stderr == *"image 00000 (a text) is not in 't.json'"* && $stderr != *file_name* ]]
    run --separate-stderr mabn-score coco t-px.json <(echo '[{"image_id": 1, "category_id": 1, "score": 1, "segmentation": {"size": [480, 640], "counts": "0"}}]') --type segm
    [[ $stderr == *'20 "width" or "height" of images are no positive whole number (the first: line 1, 640px): taken as not given'* ]]
    said "t-k.json k.json -t keypoints"
    [[ $stderr == *"'k.json': all coordinates lie within 0 to 1: pixels are expected, not fractions"* ]]
    said "t-0.json k.json -t keypoints"
    [[ $stderr == *"1 annotation has \"num_keypoints\": 0 and labelled keypoints"* ]]
}
