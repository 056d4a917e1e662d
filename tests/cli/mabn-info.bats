#!/usr/bin/env bats
load helpers

setup_more() {
    "$ROOT/tests/make-images" tree
    mabn-pack imagenet -q tree -o a.h5
}

@test "a dataset, for people" {
    run --separate-stderr mabn-info a.h5
    assert_success
    assert_line --index 0 --regexp '^a\.h5: dataset, 0\.[0-9] MB$'
    assert_line "  images        24: 6 JPEG, 18 PNG; 766 bytes each"
    assert_line "  classes       3, 8 images each"
    assert_line "                class000, class001, class002"
    assert_line "  command       mabn-pack imagenet tree"
    run mabn-info --list --verify a.h5
    assert_line "  checked       all 24 images and 11 arrays are whole"
    assert_line --regexp '^  uint64    \(24\) +/images/checksum$'
}

@test "a dataset, as JSON" {
    need_python
    mabn-info --json --verify a.h5 a.h5 >out
    [ "$(wc -l <out)" -eq 2 ]
    run $PYTHON - <<'E2'
import h5py, json
f = h5py.File("a.h5")
for line in open("out"):
    d = json.loads(line)
    assert d["format"] == "mabn-dataset" and d["images"] == 24 and d["verified"] is True
    assert d["images_per_class"] == [8, 8, 8] and d["jpeg"] == 6 and d["png"] == 18
    assert d["attributes"]["command"] == "mabn-pack imagenet tree"
    for a in d["arrays"]:
        h = f[a["name"]]
        assert list(h.shape) == a["shape"] and h.id.get_offset() == a["offset"]
        assert h.id.get_storage_size() == a["bytes"]
E2
    assert_success
}

@test "control characters in names of attributes do not reach the terminal" {
    need_python
    $PYTHON -c 'import h5py; h5py.File("odd.h5", "w").attrs["bad\x1b[31mname"] = 1'
    run mabn-info odd.h5
    assert_success
    assert_line --partial "bad?[31mname"
}

@test "every kind of damage is noticed, in one line that names the file" {
    size=$(stat -c %s a.h5)
    for at in 5 600 $((size / 2)) $((size - 2000)) $((size - 100)) $((size - 40)) $((size - 1)); do
        cp a.h5 b.h5
        printf '\125\252' | dd of=b.h5 bs=1 seek="$at" conv=notrunc status=none
        fails 1 "'b.h5'" mabn-info --verify b.h5
    done
    for n in 0 10 1000 $((size / 2)) $((size - 1)); do
        head -c "$n" a.h5 >b.h5
        run --separate-stderr mabn-info b.h5
        assert_equal "$status" 1
        # shellcheck disable=SC2154
        [[ $stderr == *"'b.h5'"* ]]
    done
    (cat a.h5; echo) >b.h5
    fails 1 "'b.h5'" mabn-info b.h5
    fails 1 "truncated: at least" bash -c 'head -c 34000 a.h5 >b.h5; exec mabn-info b.h5'
}

@test "other files, missing files, a full disk" {
    fails 1 "cannot open 'none.h5'" mabn-info none.h5
    fails 1 "folder" mabn-info tree
    echo hello >text
    fails 1 "'text'" mabn-info text
    printf '[\n{"image_id": 1}]\n' >list
    fails 1 "'list' is a JSON list, as COCO results are, not weights or annotations" mabn-info list
    : >empty
    fails 1 "'empty'" mabn-info empty
    fails 1 "cannot write standard output: No space left on device" bash -c 'mabn-info a.h5 >/dev/full'
    fails 1 "No space left" bash -c 'mabn-info $(yes a.h5 | head -n 200) >/dev/full'
}

@test "text from a file cannot reach the terminal" {
    mv tree/class000 $'tree/\033[31mred'
    mabn-pack imagenet -q tree -o b.h5
    run mabn-info b.h5
    assert_success
    refute_output --partial $'\033'
}

@test "files that h5py wrote or changed are read, but not verified" {
    need_python
    run $PYTHON - <<'E2'
import h5py, numpy as np, shutil
shutil.copy("a.h5", "edited.h5")
f = h5py.File("edited.h5", "r+")
f["labels"][0] = 2
f.attrs["note"] = "by hand"
f.close()
f = h5py.File("made.h5", "w")
f.attrs["format"], f.attrs["version"], f.attrs["norm"] = "mabn-checkpoint", 1, "bn"
f["model/w"] = np.arange(6, dtype="f4").reshape(2, 3)
f["model/h"] = np.ones(3, "f2")
f["model/flags"] = np.array([True, False])
f.close()
f = h5py.File("plain.h5", "w")
f["x"] = np.arange(4)
f.close()
E2
    assert_success
    run mabn-info edited.h5
    assert_success
    assert_line "  classes       3, 7 to 9 images each"
    assert_line "  checksums     none: written or changed by another program"
    fails 1 "'edited.h5' has no checksums" mabn-info --verify edited.h5
    run mabn-info -l made.h5
    assert_success
    assert_line "  norm          bn"
    assert_line --regexp '^  float16   \(3\) +/model/h$'
    assert_line --regexp '^  bool      \(2\) +/model/flags$'
    run mabn-info plain.h5
    assert_line --index 0 --partial "plain.h5: HDF5"
    assert_line --regexp '^  int64     \(4\) +/x$'
}

@test "what HDF5 files may not do" {
    need_python
    run $PYTHON - <<'E2'
import h5py, numpy as np
def make(name, fill):
    f = h5py.File(name + ".h5", "w")
    f.attrs["format"], f.attrs["version"] = "mabn-checkpoint", 1
    fill(f)
    f.close()
make("chunked", lambda f: f.create_dataset("x", data=np.ones(1000), compression="gzip"))
make("soft", lambda f: f.__setitem__("x", h5py.SoftLink("/y")))
make("external", lambda f: f.__setitem__("x", h5py.ExternalLink("a.h5", "/images")))
make("storage", lambda f: f.create_dataset("x", (4,), "u1", external=[("a.h5", 0, 4)]))
make("strings", lambda f: f.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype()))
make("bigendian", lambda f: f.create_dataset("x", data=np.ones(3, ">f4")))
make("hole", lambda f: f.create_dataset("x", (1 << 40,), "u1"))
def virtual(f):
    layout = h5py.VirtualLayout((24,), "i4")
    layout[:] = h5py.VirtualSource("a.h5", "labels", (24,))
    f.create_virtual_dataset("x", layout)
make("virtual", virtual)
def cycle(f):
    g = f.create_group("g")
    g["again"] = g
make("cycle", cycle)
def twice(f):
    f["x"] = np.arange(3)
    f["y"] = f["x"]
make("twice", twice)
E2
    assert_success
    fails 1 "'chunked.h5': '/x' is not stored in one piece" mabn-info chunked.h5
    fails 1 "'soft.h5': '/x' is a link" mabn-info soft.h5
    fails 1 "'external.h5': '/x' is a link" mabn-info external.h5
    fails 1 "'storage.h5': '/x' is not stored in one piece" mabn-info storage.h5
    fails 1 "'virtual.h5': '/x' is not stored in one piece" mabn-info virtual.h5
    fails 1 "'strings.h5': '/x' is an array of a type" mabn-info strings.h5
    fails 1 "'bigendian.h5': '/x' is an array of a type" mabn-info bigendian.h5
    fails 1 "'hole.h5': '/x' was never written" mabn-info hole.h5
    fails 1 "'cycle.h5': '/g/again/" mabn-info cycle.h5
    fails 1 "shares its bytes" mabn-info twice.h5
}

@test "mutated HDF5 files: an answer or one line, never a crash" {
    need_python
    run timeout 200 $PYTHON - <<'E2'
import h5py, numpy as np, random, subprocess
for kind in "earliest", "v108":
    f = h5py.File("seed.h5", "w", libver=(kind, "latest") if kind == "earliest" else (kind, kind))
    f.attrs["format"], f.attrs["version"] = "mabn-checkpoint", 1
    for i in range(12):
        f["model/layer%d/w" % i] = np.ones((2, i + 1), "f4")
    f.close()
    seed, bad = open("seed.h5", "rb").read(), 0
    for n in range(60):
        noise, data = random.Random(n), bytearray(seed)
        for _ in range(noise.randrange(1, 5)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        open("m.h5", "wb").write(data)
        r = subprocess.run(["mabn-info", "-l", "m.h5"], capture_output=True, timeout=60)
        assert r.returncode in (0, 1), (kind, n, r)
        assert r.returncode == 0 or (r.stderr.count(b"\n") == 1 and b"'m.h5'" in r.stderr), (kind, n, r)
        bad += r.returncode
    print(kind, bad)
E2
    assert_success
}

annotations() {
    cat >ann.json <<'END'
{"images": [{"id": 1, "height": 16, "width": 24, "file_name": "a.jpg"},
  {"id": 2, "height": 16, "width": 24, "file_name": "b.jpg"}],
 "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 4, 8, 8], "area": 64, "iscrowd": 0,
   "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]},
  {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 1,
   "segmentation": {"size": [16, 24], "counts": [0, 4, 380]}}]}
END
}

@test "COCO annotations: what is in them" {
    annotations
    run --separate-stderr mabn-info ann.json
    assert_success
    assert_line --index 1 "  images       2, 1 of them annotated; 24 x 16 to 24 x 16 pixels"
    assert_line --index 3 "  annotations  2 annotations: 1 with polygons, 1 with masks, 1 crowd"
    assert_line --regexp "^ +1 +1 +1  7 dog$"
    run mabn-info --verify ann.json
    assert_success
    assert_line "no faults"
    need_python json
    mabn-info --json --verify ann.json >out.json
    $PYTHON -c 'import json; o = json.load(open("out.json")); assert o["images"] == 2 and o["categories"][0] == {"id": 3, "name": "cat", "images": 1, "annotations": 1, "crowds": 0} and o["faults"] == []'
    (printf '\xef\xbb\xbf'; cat ann.json) >mark.json # a byte order mark
    run mabn-info mark.json
    assert_line --index 1 "  images       2, 1 of them annotated; 24 x 16 to 24 x 16 pixels"
    echo '{"a": 1}' >other.json
    fails 1 'no "images": is this a COCO annotation file?' mabn-info other.json
}

@test "COCO annotations: every fault, with its place" {
    annotations
    # 'what sed does' 'the fault'
    while IFS='|' read -r change text; do
        sed "$change" ann.json >bad.json
        run --separate-stderr mabn-info --verify bad.json
        assert_equal "$status" 1
        if [[ $output != *"$text"* ]]; then echo "$change: $output"; return 1; fi
        # shellcheck disable=SC2154
        [[ $stderr == *"'bad.json': "*" fault"* ]]
    done <<'END'
s/"id": 2, "height"/"id": 1, "height"/|'bad.json':2: image 1 ('b.jpg') has the id of line 1 ('a.jpg')
2s/"height": 16/"height": -1/|'bad.json':2: image 2
s/"b.jpg"/"..\/b.jpg"/|'bad.json':2: image 2: its "file_name" leads out of the folder
s/"b.jpg"/"x\\\\b.jpg"/|'bad.json':2: image 2: its "file_name" has backslashes
s/"b.jpg"/"a.jpg"/|'bad.json':2: image 2: 'a.jpg', as in line 1
s/"id": 7, "name"/"id": 3, "name"/|'bad.json':3: category 3 ('dog') has the id of line 3 ('cat')
s/"dog"/"cat"/|'bad.json':3: category 7: 'cat', as in line 3
s/"dog"/null/|category 7 has no name
s/"id": 2, "image_id"/"id": 1, "image_id"/|'bad.json':7: annotation 1 (image 1) has the id of line 5
s/"id": 2, "image_id"/"image_id"/|annotation [1] (image 1) has no id
5s/"image_id": 1/"image_id": 9/|'bad.json':5: annotation 1 (image 9): no such image
s/"category_id": 7/"category_id": 8/|annotation 2 (image 1): no category 8
s/4, 4, 8, 8/4, 4, 8/|"bbox" is not four finite numbers
s/4, 4, 8, 8/4, 4, 8, 0/|a box of 8 x 0
s/4, 4, 8, 8/4, 4, 28, 8/|the box [4, 4, 28, 8] leaves the image of 24 x 16
s/4, 4, 8, 8/-4, 4, 8, 8/|the box [-4, 4, 8, 8] leaves the image of 24 x 16
s/"area": 64, //|no "area"
s/"area": 64/"area": "x"/|"area" is not a finite number
s/"iscrowd": 1/"iscrowd": "no"/|"iscrowd" is no number and not true or false
s/380/370/|the runs of its mask end 10 pixels before the last
s/"name": "cat"/"name": "cat", "skeleton": [[1, 3]]/;s/"area": 64/"keypoints": [1, 2, 2, 3, 4, 1], "area": 64/|'bad.json':3: category 'cat': the skeleton has keypoint 3 of 2
s/"category_id": 7/"category_id": 3, "keypoints": [1, 2, 2]/;s/"area": 64/"keypoints": [1, 2, 2, 3, 4, 1], "area": 64/|1 keypoints, others of its category have 2
s/"area": 64/"area": -1/|an area of -1
s/"area": 64/"area": 640/|an area of 640 in an image of 24 x 16
s/\[\[4.*\]\]/[[4, 4, 12, 12]]/|a polygon of 4 numbers
s/\[\[4.*\]\]/[[4, 4, 4, 4, 4, 4]]/|a mask without pixels
s/380/381/|mask counts overrun the image
s/16, 24\], "counts": .0, 4, 380/16, 25], "counts": [0, 4, 380/|a mask of 25 x 16 in an image of 24 x 16
s/"area": 64/"keypoints": [1, 2], "area": 64/|"keypoints" are not three finite numbers each
s/"area": 64/"keypoints": [1, 2, 2], "num_keypoints": 3, "area": 64/|"num_keypoints" is 3, but 1 are labelled
END
}
