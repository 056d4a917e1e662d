#!/usr/bin/env bats
# mabn-draw: pictures of the right size with the right colours in the right places.
load helpers

setup_more() {
    "$ROOT/tests/make-images" tree 1 4 30
    cp tree/class000/image0003.JPEG a.jpg # 24 x 16
    mkdir images
    cp a.jpg images/a.jpg
    cp tree/class000/image0000.JPEG images/b.png
    cat >truth.json <<'END'
{"images": [{"id": 1, "height": 16, "width": 24, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.png"}],
 "categories": [{"id": 3, "name": "cat"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 4, 8, 8], "area": 64, "iscrowd": 0,
   "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]},
  {"id": 2, "image_id": 2, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 1,
   "keypoints": [2, 2, 2, 8, 8, 1], "num_keypoints": 2}]}
END
    cat >results.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [4, 4, 8, 8], "score": 0.9},
 {"image_id": 1, "category_id": 3, "bbox": [14, 2, 8, 8], "score": 0.1}]
END
}

@test "one picture is as large as the photograph, changed only where something is" {
    need_python PIL
    mabn-draw images truth.json --no-labels -i 1 -o out.png
    mabn-draw images truth.json --no-labels --no-boxes --no-masks -i a.jpg -o plain.png
    run $PYTHON - <<'END'
from PIL import Image
out, plain, a = [Image.open(f).convert("RGB") for f in ("out.png", "plain.png", "a.jpg")]
assert out.size == a.size == (24, 16)
assert list(plain.getdata()) == list(a.getdata())
changed = [(x, y) for x in range(24) for y in range(16) if out.getpixel((x, y)) != a.getpixel((x, y))]
assert (8, 8) in changed and (20, 8) not in changed
assert min(x for x, y in changed) >= 1 and max(x for x, y in changed) <= 14
r, g, b = out.getpixel((8, 8)); p = a.getpixel((8, 8))
assert b - r > p[2] - p[0], "the first category is blue"
END
    assert_success
}

@test "results, above a score" {
    need_python PIL
    mabn-draw images truth.json -r results.json --no-labels -i 1 -o some.png
    mabn-draw images truth.json -r - --min-score 0.05 --no-labels -i 1 -o all.png <results.json
    run $PYTHON - <<'END'
from PIL import Image
some, all, a = [Image.open(f).convert("RGB") for f in ("some.png", "all.png", "a.jpg")]
assert some.getpixel((22, 6)) == a.getpixel((22, 6)) and all.getpixel((22, 6)) != a.getpixel((22, 6))
assert some.getpixel((4, 8)) == all.getpixel((4, 8)) != a.getpixel((4, 8))
END
    assert_success
}

@test "a contact sheet, the same every time, from files and from a dataset" {
    need_python PIL
    mabn-draw images truth.json -n 9 --tile 100 -o sheet.png
    $PYTHON -c 'from PIL import Image; s = Image.open("sheet.png"); assert s.size == (2 * 108 + 8, 75 + 22 + 8 + 8), s.size'
    mabn-pack coco -q images truth.json -o t.h5
    mabn-draw t.h5 -n 9 --tile 100 -o again.png
    cmp sheet.png again.png
    mabn-draw t.h5 -n 2 --shuffle --seed 3 --columns 1 -o column.png
    mabn-draw t.h5 -n 2 --shuffle --seed 3 --columns 1 -f -o column2.png
    cmp column.png column2.png
}

@test "pictures with classes" {
    mabn-pack imagenet -q tree -o c.h5
    mabn-draw c.h5 -n 4 --tile 64 -o c.png
    assert_file_exist c.png
    fails 1 "no COCO annotations" mabn-draw c.h5 -r results.json -o d.png
}

@test "errors" {
    fails 2 "no output" mabn-draw images truth.json
    fails 1 "no image '7'" mabn-draw images truth.json -i 7 -o x.png
    fails 1 "there are only 2 images" mabn-draw images truth.json --first 2 -o x.png
    fails 1 "cannot open 'none.h5'" mabn-draw none.h5 -o x.png
    fails 1 "cannot open 'none/a.jpg'" mabn-draw none truth.json -o x.png
    head -c 200 a.jpg >images/a.jpg
    fails 1 "'images/a.jpg'" mabn-draw images truth.json -o x.png
    assert_file_not_exist x.png
    cp a.jpg images/a.jpg
    mabn-draw images truth.json -o x.png
    fails 1 "x.png" mabn-draw images truth.json -o x.png
    mabn-draw -f images truth.json -o x.png
    sed 's/\[\[4, 4, 12.*\]\]/{"size": [9, 9], "counts": [1, 2]}/' truth.json >odd.json
    fails 1 "annotation 1 (image 1): its mask is 9 x 9 pixels, the image 24 x 16" mabn-draw images odd.json -o y.png
    if [ -e /dev/full ]; then fails 1 "" mabn-draw images truth.json -f -o /dev/full; fi
}
