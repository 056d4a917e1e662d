#!/usr/bin/env bats
# mabn-compose: scenes whose annotations say exactly what is in their pictures.
load helpers

# Twenty light rectangles and triangles of 12 x 12 on black, of two classes, as raw pictures.
setup_more() {
    $PYTHON - <<'E2'
import struct
pixels = b""
for i in range(20):
    for y in range(12):
        for x in range(12):
            inside = 2 <= x < 10 and 1 + i % 3 <= y < 11 and (i % 2 == 0 or x <= y)
            pixels += bytes([200 + i if inside else 3])
open("images.idx", "wb").write(struct.pack(">IIII", 0x803, 20, 12, 12) + pixels)
open("labels.idx", "wb").write(struct.pack(">II", 0x801, 20) + bytes(i % 2 for i in range(20)))
E2
    printf 'bar\nwedge "sharp"\n' >classes
    mabn-pack idx -q -c classes images.idx labels.idx -o cut.h5
}

# perfect FOLDER: the annotations as results.
perfect() {
    $PYTHON - "$1" <<'E2'
import json, sys
truth = json.load(open(sys.argv[1] + "/instances.json"))
keys = "image_id", "category_id", "bbox", "segmentation"
json.dump([{**{k: a[k] for k in keys}, "score": 1} for a in truth["annotations"]], open("perfect.json", "w"))
E2
}

@test "pictures and annotations in COCO's form; what is there scores 1" {
    run --separate-stderr mabn-compose cut.h5 -n 12 -o s
    assert_success
    assert_output ""
    # shellcheck disable=SC2154
    [[ $stderr =~ ^"mabn-compose: 12 scenes, "[0-9]+" objects, "[0-9]+" left out because they would hide others"$ ]]
    assert_equal "$(ls s/images | wc -l)" 12
    mabn-pack coco -q s/images s/instances.json -o s.h5
    for masks in polygons rle; do
        mabn-compose -q cut.h5 -n 12 --masks $masks -o $masks
        perfect $masks
        run mabn-score coco s.h5 perfect.json --type bbox,segm
        assert_success
        assert_equal "$(grep -c 'Precision.*area=   all.*= 1.000' <<<"$output")" 6
    done
    run $PYTHON - <<'E2'
import json
truth, runs = (json.load(open(f"{f}/instances.json")) for f in ("s", "rle"))
assert [c["name"] for c in truth["categories"]] == ["bar", 'wedge "sharp"']
assert [i["id"] for i in truth["images"]] == list(range(1, 13))
assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
for a, b in zip(truth["annotations"], runs["annotations"], strict=True):
    assert a["bbox"] == b["bbox"] and a["area"] == b["area"] >= 24 and a["iscrowd"] == 0
    assert isinstance(a["segmentation"], list) and b["segmentation"]["size"] == [128, 128]
    x, y, w, h = a["bbox"]
    xs = [v for p in a["segmentation"] for v in p[0::2]]
    ys = [v for p in a["segmentation"] for v in p[1::2]]
    assert (min(xs), min(ys), max(xs), max(ys)) == (x, y, x + w, y + h)
E2
    assert_success
}

@test "masks are where the pixels are" {
    need_python PIL
    mabn-compose -q cut.h5 -n 6 --tint 0 --background plain --width 100 --height 60 -o s
    run $PYTHON - <<'E2'
import json
from PIL import Image

def inside(polygon, x, y):  # even-odd, of a pixel's middle
    corners = list(zip(polygon[0::2], polygon[1::2]))
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        if x0 == x1 and x + 0.5 > x0 and min(y0, y1) < y + 0.5 < max(y0, y1):
            odd = not odd
    return odd

truth, things, rest = json.load(open("s/instances.json")), 0, 0
for image in truth["images"]:
    picture = Image.open("s/images/" + image["file_name"])
    assert picture.size == (image["width"], image["height"]) == (100, 60)
    masks = [{(x, y) for y in range(60) for x in range(100) if any(inside(p, x, y) for p in a["segmentation"])}
             for a in truth["annotations"] if a["image_id"] == image["id"]]
    for mask, a in zip(masks, (a for a in truth["annotations"] if a["image_id"] == image["id"])):
        assert len(mask) == a["area"], (len(mask), a["area"])
    union, colours = set().union(*masks), set()
    for x in range(4, 96):
        for y in range(4, 56):
            near = {(x + i, y + j) for i in range(-4, 5) for j in range(-4, 5)}
            r, g, b = picture.getpixel((x, y))
            if any(near <= mask for mask in masks):  # the rims blend with what is beneath
                assert r == g == b >= 190, (x, y, r, g, b)
                things += 1
            if not near & union:
                colours.add((r, g, b))
                rest += 1
    assert len(colours) <= 1, colours
assert things > 200 and rest > 2000, (things, rest)
E2
    assert_success
}

@test "the same bytes with any number of threads; others with another seed" {
    for j in 1 2 5; do mabn-compose -q cut.h5 -n 9 -j $j -o j$j; done
    diff -r j1 j2
    diff -r j1 j5
    mabn-compose -q cut.h5 -n 9 --seed 1 -o other
    ! diff -rq j1 other >/dev/null
    mabn-compose -q cut.h5 -n 4 -o few
    cmp j1/images/000000000004.png few/images/000000000004.png
}

@test "a folder of class folders: alpha says what the thing is, else brightness" {
    need_python PIL
    $PYTHON - <<'E2'
import os
from PIL import Image
for name, colour in ("red", (250, 0, 0)), ("blue", (0, 0, 250)):
    os.makedirs("tree/" + name)
    # opaque within 10 x 10 only, but as bright outside
    alpha = Image.new("L", (30, 30), 0)
    alpha.paste(255, (5, 5, 15, 15))
    picture = Image.new("RGB", (30, 30), colour)
    picture.putalpha(alpha)
    picture.save(f"tree/{name}/alpha.png")
    plain = Image.new("RGB", (30, 30))
    plain.paste(colour, (5, 5, 15, 15))
    plain.save(f"tree/{name}/plain.png")
E2
    mabn-compose -q tree -n 8 --rotation 0 --overlap 0 --min-scale 0.25 --max-scale 0.25 --format jpeg -o s
    run $PYTHON - <<'E2'
import json
from PIL import Image
truth = json.load(open("s/instances.json"))
assert [c["name"] for c in truth["categories"]] == ["blue", "red"]
for a in truth["annotations"]:
    assert a["bbox"][2] == a["bbox"][3] in (32, 33, 34), a["bbox"]
    x, y, w, h = a["bbox"]
    r, g, b = Image.open(f"s/images/{a['image_id']:012}.jpg").getpixel((x + w // 2, y + h // 2))
    assert (b > 200 and r < 60) if a["category_id"] == 1 else (r > 200 and b < 60)
E2
    assert_success
}

@test "nothing is replaced without --force" {
    mabn-compose -q cut.h5 -n 2 -o s
    cp s/instances.json before
    fails 1 "'s/instances.json' exists" mabn-compose cut.h5 -n 3 -o s
    cmp before s/instances.json
    mabn-compose -q cut.h5 -n 3 -f -o s
    ! cmp -s before s/instances.json
}

@test "bad input" {
    fails 2 "no output" mabn-compose cut.h5
    fails 2 "min-objects is 9" mabn-compose cut.h5 --min-objects 9 -o s
    fails 2 "min-scale is 0.9" mabn-compose cut.h5 --min-scale 0.9 -o s
    fails 2 "unknown --background 'sky': expected mixed, plain" mabn-compose cut.h5 --background sky -o s
    fails 1 "cannot open 'none.h5'" mabn-compose none.h5 -o s
    head -c 900 cut.h5 >short.h5
    fails 1 "short.h5" mabn-compose short.h5 -o s
    fails 1 "no object in any of" mabn-compose cut.h5 --threshold 254 -o s
    assert_not_exist s/instances.json
    mkdir empty
    fails 1 "empty" mabn-compose empty -o s
    mabn-compose -q cut.h5 -n 2 -o c
    mabn-pack coco -q c/images c/instances.json -o c.h5
    fails 1 "has no labels" mabn-compose c.h5 -o s
    touch file
    fails 1 "file" mabn-compose cut.h5 -o file
}
