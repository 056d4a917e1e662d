#!/usr/bin/env bats
# mabn-pack coco: images and all of their annotations, there and back.
load helpers

setup_more() {
    "$ROOT/tests/make-images" tree 1 4
    mkdir images
    for i in 2 1 3; do cp tree/class000/image0003.JPEG images/$i.jpg; done # 24 x 16 pixels
    cat >truth.json <<'END'
{"images": [{"id": 22, "height": 16, "width": 24, "file_name": "2.jpg"},
            {"id": 11, "height": 16, "width": 24, "file_name": "1.jpg"},
            {"id": 33, "height": 16, "width": 24, "file_name": "3.jpg"}],
 "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
 "annotations": [
  {"id": 5, "image_id": 22, "category_id": 3, "bbox": [1, 2, 10, 8], "area": 79.5, "iscrowd": 0,
   "segmentation": [[1, 2, 11, 2, 11, 10, 1, 10], [0, 0, 3, 0, 3, 3]],
   "keypoints": [1, 2, 2, 5, 5, 0], "num_keypoints": 1},
  {"id": 4, "image_id": 11, "category_id": 7, "bbox": [0, 0, 5, 5], "area": 20, "iscrowd": 1,
   "segmentation": {"size": [16, 24], "counts": [0, 5, 11, 5, 363]}},
  {"id": 6, "image_id": 22, "category_id": 7, "bbox": [3, 3, 4, 4], "area": 16, "iscrowd": 0,
   "segmentation": {"size": [16, 24], "counts": "c14<00000]8"}},
  {"id": 8, "image_id": 22, "category_id": 7, "bbox": [3, 3, 4, 4.25]}]}
END
}

@test "coco: every array" {
    need_python
    run --separate-stderr mabn-pack coco images truth.json -o a.h5
    assert_success
    assert_output ""
    # shellcheck disable=SC2154
    [[ $stderr == "mabn-pack: 4 annotations: 1 with polygons, 2 with masks, 1 with keypoints, 1 crowd in 'truth.json'"* ]]
    [[ $stderr == *"mabn-pack: packed 3 images of 2 classes into 'a.h5'"* ]]
    run $PYTHON - <<'E2'
import h5py
f = h5py.File("a.h5"); c = f["coco"]
assert f.attrs["kind"] == b"coco" and f.attrs["annotations"] == 4 and f.attrs["keypoints"] == 2
assert list(f["images/name"]) == [b"1.jpg", b"2.jpg", b"3.jpg"]
assert list(c["image_id"]) == [11, 22, 33] and list(c["first"]) == [0, 1, 4, 4]
assert list(c["category_id"]) == [7, 3] and list(f["classes"]) == [b"dog", b"cat"]
assert list(c["id"]) == [4, 5, 6, 8] and list(c["category"]) == [0, 1, 0, 0]
assert c["box"][1].tolist() == [1, 2, 10, 8] and c["box"][3].tolist() == [3, 3, 4, 4.25]
assert list(c["area"]) == [20, 79.5, 16, 17] and list(c["crowd"]) == [1, 0, 0, 0]
assert list(c["segmentation"]) == [2, 1, 2, 0]
assert list(c["polygon_first"]) == [0, 0, 2, 2, 2] and list(c["corner_first"]) == [0, 4, 7]
assert c["corners"][1].tolist() == [11, 2] and c["corners"][6].tolist() == [3, 3]
assert c["mask_size"][:].tolist() == [[16, 24], [0, 0], [16, 24], [0, 0]]
assert c["keypoints"][1].tolist() == [[1, 2, 2], [5, 5, 0]] and list(c["num_keypoints"]) == [0, 1, 0, 0]
E2
    assert_success
}

@test "coco: a packed dataset scores as its annotation file" {
    cat >results.json <<'END'
[{"image_id": 22, "category_id": 3, "score": 0.9, "segmentation": {"size": [16, 24], "counts": "b08800000000000000000^6"}},
 {"image_id": 22, "category_id": 7, "score": 0.8, "segmentation": {"size": [16, 24], "counts": "c14<00000]8"}},
 {"image_id": 11, "category_id": 7, "score": 0.7, "segmentation": {"size": [16, 24], "counts": "05;0P;"}}]
END
    # every annotation needs a segmentation for this
    sed 's/{"id": 8.*/{"id": 8, "image_id": 22, "category_id": 7, "bbox": [3, 3, 4, 4.25], "area": 17, "segmentation": [[3, 3, 7, 3, 7, 7]]}]}/' truth.json >whole.json
    mabn-pack coco -q -f images whole.json -o a.h5
    for t in bbox segm; do
        run mabn-score coco -t $t --tsv whole.json results.json
        assert_success
        assert_equal "$(mabn-score coco -t $t --tsv a.h5 results.json)" "$output"
    done
    # and masks do not need boxes or areas: theirs is taken
    sed 's/, "bbox": \[[0-9., ]*\]//; s/, "area": [0-9.]*//' whole.json >bare.json
    run ! grep -q 'bbox\|area' bare.json
    mabn-pack coco -q -f images bare.json -o a.h5
    run mabn-score coco -t segm --areas small:0:60,all:0: --tsv -c bare.json results.json
    assert_success
    assert_equal "$(mabn-score coco -t segm --areas small:0:60,all:0: --tsv -c a.h5 results.json)" "$output"
}

@test "coco: the same bytes with any number of threads" {
    mabn-pack coco -q -j 1 images truth.json -o a.h5
    mabn-pack coco -q -j 4 images truth.json -o b.h5
    cmp a.h5 b.h5
}

@test "coco: missing files and wrong sizes are reported with the id" {
    rm images/3.jpg
    fails 1 "image 33: no file 'images/3.jpg'" mabn-pack coco images truth.json -o a.h5
    assert_file_not_exist a.h5
    run --separate-stderr mabn-pack coco --skip-bad images truth.json -o a.h5
    assert_success
    [[ $stderr == *"warning: skipped: 'truth.json':3: image 33: no file 'images/3.jpg'"* ]]
    sed 's/"id": 22, "height": 16/"id": 22, "height": 99/' truth.json >wrong.json
    cp images/1.jpg images/3.jpg
    fails 1 "image 22: the file is 24 x 16 pixels, 'wrong.json' says 24 x 99" mabn-pack coco images wrong.json -o b.h5
    run --separate-stderr mabn-pack coco --skip-bad images wrong.json -o b.h5
    assert_success
    [[ $stderr == *"3 annotations of images or categories that are not listed or not packed (the first: line 6, image 22, category 3) are left out"* ]]
    [[ $stderr == *"packed 2 images"* ]]
    need_python
    run $PYTHON -c 'import h5py; c = h5py.File("b.h5")["coco"]; assert list(c["image_id"]) == [11, 33] and list(c["id"]) == [4]'
    assert_success
}

@test "coco: file names that cannot be used: which, why, and passed over" {
    # 'what sed does' 'the reason'
    while IFS='|' read -r change why; do
        sed "s/\"2.jpg\"/$change/" truth.json >bad.json
        fails 1 "'bad.json':1: image 22 $why" mabn-pack coco images bad.json -o a.h5
        run --separate-stderr mabn-pack coco --skip-bad -f images bad.json -o a.h5
        assert_success
        [[ $stderr == *"skipped: 'bad.json':1: image 22 $why"* && $stderr == *"packed 2 images"* ]]
    done <<'END'
"..\/x.jpg"|('../x.jpg'): its "file_name" leads out of the folder (..)
"\/x.jpg"|('/x.jpg'): its "file_name" begins at the root
""|(''): its "file_name" is empty
null|(''): it has no "file_name"
7|(''): "file_name" is a number, not a text
["2.jpg"]|(''): "file_name" is not a text
END
    sed 's/"2.jpg"/"sub\\\\2.jpg"/' truth.json >bad.json
    fails 1 "no file 'images/sub\2.jpg' (backslashes do not part folders here)" mabn-pack coco images bad.json -o b.h5
}

@test "coco: broken files" {
    head -c 500 truth.json >bad.json
    fails 1 "truncated" mabn-pack coco images bad.json -o a.h5
    fails 1 "cannot open 'none.json'" mabn-pack coco images none.json -o a.h5
    sed 's/"id": 22, "height"/"id": 11, "height"/' truth.json >bad.json
    fails 1 "two images have the id 11: '2.jpg' (line 1) and '1.jpg' (line 2)" mabn-pack coco images bad.json -o a.h5
}

@test "coco: what is left out, and what cannot be used, is told" {
    sed 's/"category_id": 3/"category_id": 9/' truth.json >odd.json
    run --separate-stderr mabn-pack coco images odd.json -o a.h5
    assert_success
    [[ $stderr == *"1 annotation of images or categories that are not listed or not packed (the first: line 6, image 22, category 9) are left out"* ]]
    sed 's/363/364/; s/10, 8\]/10]/' truth.json >odd.json
    run --separate-stderr mabn-pack coco -f images odd.json -o a.h5
    assert_success
    [[ $stderr == *"1 segmentation cannot be used (the first: line 9, mask counts overrun"* ]]
    fails 1 "mask counts overrun" mabn-score coco -t segm odd.json <(echo '[]')
    fails 1 "mask counts overrun" mabn-score coco -t segm a.h5 <(echo '[]')
    fails 1 'expected 4 finite numbers in "bbox"' mabn-score coco odd.json <(echo '[]')
    fails 1 "mabn-score: 'a.h5': annotation 5 (image 22): no \"bbox\"" mabn-score coco a.h5 <(echo '[]')
    sed 's/"size": \[16, 24\], "counts": \[0, 5/"size": [8, 48], "counts": [0, 5/' truth.json >other.json
    run --separate-stderr mabn-pack coco -q -f images other.json -o a.h5
    run --separate-stderr mabn-score coco -t segm --images 11 a.h5 <(echo '[]')
    [[ $stderr == *"'a.h5': 1 mask is of another size than the image (the first: annotation 4, 48 x 8"* ]]
    ! [[ $stderr == *"line 0"* ]]
}

@test "coco: one photograph under two ids is told" {
    sed 's/"file_name": "1.jpg"/"file_name": "2.jpg"/' truth.json >again.json
    run --separate-stderr mabn-pack coco -q images again.json -o a.h5
    assert_success
    assert_equal "$stderr" "mabn-pack: warning: 'again.json': 1 image has the file of another (the first: line 1, image 22, 'images/2.jpg')"
}

@test "coco: annotations without a usable box are counted" {
    run --separate-stderr mabn-pack coco -q images truth.json -o a.h5
    [[ $stderr != *"no box"* ]]
    cat >odd.json <<'END'
{"images": [{"id": 22, "file_name": "2.jpg"}], "categories": [{"id": 3}], "annotations": [
{"id": 1, "image_id": 22, "category_id": 3, "bbox": [1, 1, 4, 4]},
{"id": 2, "image_id": 22, "category_id": 3, "bbox": [1, 1, 0, 4]},
{"id": 3, "image_id": 22, "category_id": 3, "bbox": [1, 1, 4, -1]},
{"id": 4, "image_id": 22, "category_id": 3, "bbox": []},
{"id": 5, "image_id": 22, "category_id": 3},
{"id": 6, "image_id": 23, "category_id": 3}]}
END
    run --separate-stderr mabn-pack coco -q images odd.json -o b.h5
    assert_success
    [[ $stderr == *"'odd.json': 4 annotations have no box of a positive width and height (the first: line 3, image 22): a detector does not learn from them"* ]]
}

@test "coco: corners in place of widths and heights are doubted" {
    boxes() { # boxes W: five boxes of 24 x 16 pixels' images, the first of them good
        echo '{"images": [{"id": 22, "height": 16, "width": 24, "file_name": "2.jpg"}], "categories": [{"id": 3}], "annotations": ['
        echo '{"id": 1, "image_id": 22, "category_id": 3, "bbox": [0, 0, 1, 1], "area": 1}'
        for i in 2 3 4 5; do
            echo ",{\"id\": $i, \"image_id\": 22, \"category_id\": 3, \"bbox\": [5, 6, $1, 8], \"area\": 9}"
        done
        echo ']}'
    }
    boxes 22 >corners.json
    run --separate-stderr mabn-pack coco images corners.json -o corners.h5
    assert_success
    [[ $stderr == *"'corners.json':3: 4 of 5 boxes end beyond their image, the first is [5, 6, 22, 8]: are these corners?"* ]]
    boxes 20 >good.json # a pixel too far
    run --separate-stderr mabn-pack coco images good.json -o good.h5
    assert_success
    [[ $stderr != *corners* ]]
}

@test "coco: ids that are 0 or occur twice, and categories without an annotation, are told" {
    $PYTHON - <<'END'
import json
t = {"images": [], "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "nothing"}],
     "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
                     for i in (0, 4, 5, 4)]}
from PIL import Image
Image.new("RGB", (20, 20)).save("a.png")
t["images"].append({"id": 1, "file_name": "a.png", "width": 20, "height": 20})
json.dump(t, open("ids.json", "w"))
END
    run mabn-pack coco . ids.json -o ids.h5
    assert_success
    assert_output --partial "1 annotation has an id that occurs twice (the first: line 1, id 4)"
    assert_output --partial "1 annotation has the id 0"
    assert_output --partial "1 of 2 categories have no annotation: 'nothing'"
}

@test "coco: images without annotations, as in COCO's test sets" {
    sed -n '1,4p' truth.json | sed '4s/$/ "annotations": null}/' >null.json
    run --separate-stderr mabn-pack coco images null.json -o null.h5
    assert_success
    fails 1 "no \"annotations\"" mabn-score coco null.json <(echo '[]')
    sed -n '1,4p' truth.json | sed '4s/,$/}/' >info.json
    run --separate-stderr mabn-pack coco images info.json -o a.h5
    assert_success
    [[ $stderr == *"mabn-pack: packed 3 images of 2 classes"* ]]
    for truth in info.json a.h5; do
        fails 1 "'$truth': no \"annotations\"" mabn-score coco $truth <(echo '[]')
    done
}

@test "coco: JSON and packed are interchangeable, whatever is odd in a file" {
    "$PYTHON" "$ROOT/tests/peer/coco_packed.py" --bin "$MABN_BIN" --sets 12 --seed bats
}
