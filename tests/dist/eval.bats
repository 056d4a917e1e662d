#!/usr/bin/env bats
# mabn-eval on several ranks: every image once, in order, and the same bytes as by one process.
load helpers

setup_file() {
    setup_ranks
    "$ROOT/tests/make-images" tree 7 143 8
    mabn-pack imagenet -q tree -o data.h5
    mabn-init cifar-resnet8 --base-width 4 --classes 7 --height 8 --width 8 --norm bn -o model.h5 -q
    "$PYTHON" - <<'PY'
import json, os, struct, zlib, random
def png(path, w, h, noise):
    rows = b"".join(b"\0" + noise.randbytes(3 * w) for _ in range(h))
    chunk = lambda k, d: struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
                           + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
noise = random.Random(1)
os.mkdir("photos")
images, annotations = [], []
for i in range(29):
    w, h = (96, 64) if i % 2 else (64, 96)
    images.append({"id": 100 + i, "file_name": "%02d.png" % i, "width": w, "height": h})
    png("photos/%02d.png" % i, w, h, noise)
    annotations.append({"id": i + 1, "image_id": 100 + i, "category_id": 7 + 4 * (i % 2),
                        "bbox": [10, 20, 24, 24], "area": 576, "iscrowd": 0,
                        "segmentation": [[10, 20, 10, 44, 34, 44, 34, 20]]})
def write(name, n):
    json.dump({"images": images[:n], "annotations": annotations[:n],
               "categories": [{"id": 7, "name": "red"}, {"id": 11, "name": "green"}]}, open(name, "w"))
write("truth.json", 29)
write("two.json", 2)
PY
    mabn-pack coco -q photos truth.json -o scenes.h5
    mabn-pack coco -q photos two.json -o two.h5
    mabn-init mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 \
        --min-size 64 --classes 2 -q -o detector.h5
}

@test "1,001 images on 3 ranks: each once, in order, the same bytes as by one process" {
    mabn-eval imagenet -q model.h5 data.h5 -p --logits >one
    [ "$(wc -l <one)" = 1001 ]
    for mpi in $MPIS; do
        ranks "$mpi" 3 mabn-eval imagenet -q model.h5 data.h5 -p --logits >three
        cmp one three
    done
}

@test "the figures of a classifier have the same bits, also where the last ranks have no images" {
    for batch in 32 100 400 2000; do
        mabn-eval imagenet -q -b $batch model.h5 data.h5 --json | sed 's/"seconds.*//' >one
        ranks "$ANY_MPI" 3 mabn-eval imagenet -q -b $batch model.h5 data.h5 --json |
            sed 's/"seconds.*//' >three
        grep -q '"images":1001,' three
        cmp one three
    done
}

@test "--recalibrate on 3 ranks, the last of which have no batch in the end: the same statistics" {
    mabn-eval imagenet -q -p --logits model.h5 data.h5 >before
    for mpi in $MPIS; do
        mabn-eval imagenet -q --recalibrate data.h5 -b 100 -p --logits model.h5 data.h5 >one
        ranks "$mpi" 3 mabn-eval imagenet --recalibrate data.h5 -b 100 -p --logits model.h5 data.h5 >three 2>err
        cmp one three
        run -1 cmp -s before three
        [ "$(grep -c "of 9 norms estimated from 1000 images" err)" = 1 ]
    done
}

@test "a detector's --recalibrate: the stem's statistics are those of its outputs; alike on 3 ranks" {
    mabn-init mask-rcnn-r18-fpn --norm bn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 \
        --min-size 64 --classes 2 -q -o bn.h5
    mabn-eval coco --recalibrate scenes.h5 --recalibrate-batch 1 --save new.h5 --min-score 0.01 \
        bn.h5 scenes.h5 >one 2>err
    grep -q "norms estimated from 29 photographs of 'scenes.h5'" err
    "$PYTHON" - <<'PY'
import glob, h5py, json, numpy, PIL.Image
f = h5py.File("new.h5")
config = json.loads(f.attrs["config"])
mean, deviation = (numpy.array(config[k]) for k in ("pixel_mean", "pixel_deviation"))
stem = f["model/backbone.body.stem.conv1.weight"][()].astype(float)
outputs = []
for path in sorted(glob.glob("photos/*.png")):
    x = numpy.asarray(PIL.Image.open(path)).astype(float)[:, :, ::-1 if config["bgr"] else 1]
    x = numpy.pad((x * config["range"] / 255 - mean) / deviation, ((3, 3), (3, 3), (0, 0)))
    h, w = (x.shape[0] - 6) // 2, (x.shape[1] - 6) // 2
    outputs.append(sum(x[i:i + 2 * h:2, j:j + 2 * w:2] @ stem[:, :, i, j].T
                       for i in range(7) for j in range(7)).reshape(-1, len(stem)))
y = numpy.concatenate(outputs)
for got, want in ((f["model/backbone.body.stem.bn1.running_mean"][()], y.mean(0)),
                  (f["model/backbone.body.stem.bn1.running_var"][()], y.var(0))):
    assert numpy.allclose(got, want, rtol=1e-3, atol=1e-3 * abs(want).max()), (got, want)
PY
    mabn-eval coco -q --min-score 0.01 new.h5 scenes.h5 >saved
    cmp one saved
    ranks "$ANY_MPI" 3 mabn-eval coco -q --recalibrate scenes.h5 --recalibrate-batch 1 --min-score 0.01 \
        bn.h5 scenes.h5 >three
    cmp one three
    mabn-eval coco -q --min-score 0.01 bn.h5 scenes.h5 >before
    run -1 cmp -s before one
    # pairs alike in shape: 14 wide, 15 tall, of which one comes twice; regions for the heads
    mabn-eval coco --recalibrate scenes.h5 --min-score 0.01 detector.h5 scenes.h5 >one 2>err
    grep -q "norms estimated from 30 photographs" err
    ranks "$ANY_MPI" 3 mabn-eval coco -q --recalibrate scenes.h5 --min-score 0.01 detector.h5 scenes.h5 >three
    cmp one three
    run -1 --separate-stderr mabn-eval coco -q --recalibrate data.h5 detector.h5 scenes.h5
    run -2 --separate-stderr mabn-eval coco -q --save x.h5 detector.h5 scenes.h5
    one_line mabn-eval "go with --recalibrate"
}

@test "unreadable images are left out, and told of once for all ranks" {
    cp -r tree bad
    for i in 3 40 70 71 72 73 74 139; do
        echo broken >"$(find bad/ -type f | sort | sed -n "$((i + 1))p")"
    done
    mabn-eval imagenet --skip-bad model.h5 bad >one 2>one.err
    ranks "$ANY_MPI" 3 mabn-eval imagenet --skip-bad model.h5 bad >three 2>three.err
    cmp one three
    [ "$(wc -l <three)" = 993 ]
    run diff <(grep warning one.err) <(grep warning three.err | sed 's/^\[rank 0\] //')
    assert_output ""
    assert_success
    grep -q 'warning: 8 images of 1001' one.err
}

@test "what a detector finds on 2 and 3 ranks: the same file as by one process" {
    mabn-eval coco -q --min-score 0.01 detector.h5 scenes.h5 >one
    [ "$(grep -o '"image_id":1[0-9]*' one | uniq | wc -l)" = 29 ]
    for mpi in $MPIS; do
        for n in 2 3; do
            ranks "$mpi" $n mabn-eval coco -q --min-score 0.01 detector.h5 scenes.h5 -o $mpi.$n
            cmp one $mpi.$n
        done
    done
    mabn-eval coco -q --min-score 0.01 detector.h5 two.h5 >one
    ranks "$ANY_MPI" 3 mabn-eval coco -q --min-score 0.01 detector.h5 two.h5 >three
    cmp one three
    mabn-eval coco -q --min-score 0.01 detector.h5 photos/ >one
    ranks "$ANY_MPI" 3 mabn-eval coco --min-score 0.01 detector.h5 photos/ >three 2>err
    cmp one three
    [ "$(grep -c warning err)" = 1 ]
}

@test "a detector's average precision is that of one process" {
    mabn-eval coco -q --score detector.h5 scenes.h5 >one
    ranks "$ANY_MPI" 3 mabn-eval coco -q --score detector.h5 scenes.h5 >three
    cmp one three
    [ "$(wc -l <three)" = 24 ]
}

@test "an image that only one rank reads and cannot: one line, no output file, status 1" {
    cp -r photos bad
    echo broken >bad/27.png
    for mpi in $MPIS; do
        run -1 --separate-stderr ranks "$mpi" 3 mabn-eval coco -q detector.h5 bad -o out.json
        one_line mabn-eval "bad/27.png"
        [ ! -e out.json ]
    done
    run -1 --separate-stderr ranks "$ANY_MPI" 3 mabn-eval imagenet model.h5 nosuch.h5
    one_line mabn-eval "cannot open 'nosuch.h5'"
}

@test "a list on standard input is refused: it reaches one rank only" {
    run -1 --separate-stderr ranks "$ANY_MPI" 2 mabn-eval imagenet model.h5 -
    one_line mabn-eval "standard input"
}

@test "SIGTERM ends an evaluation on all ranks" {
    for mpi in $MPIS; do
        rm -f out
        "$(launcher "$mpi")" -n 2 mabn-eval imagenet -q -b 1 --size 2048 -p model.h5 data.h5 \
            </dev/null >out 2>err 3>&- &
        pid=$!
        for _ in $(seq 400); do [ -s out ] && break; sleep 0.05; done
        kill "$pid"
        ended "$pid" # with a status of the launcher's own
        [ "$(wc -l <out)" -lt 1001 ]
        [ "$(grep -c '^mabn-eval:' err)" -le 1 ]
        run pgrep -f "mabn-eval imagenet -q -b 1 --size 2048"
        assert_output ""
    done
}

@test "what reading photographs passes over is told once, for all ranks" {
    "$PYTHON" -c 'import PIL' || skip "python3-pil is not installed"
    "$PYTHON" - <<'PY'
import os
from PIL import Image
os.mkdir("odd")
for k in range(12):
    picture = Image.new("RGBA", (8, 8), (9 * k, 20, 30, 99))
    if k % 3 == 1:
        picture = picture.convert("RGB")
    picture.save("odd/%02d.png" % k)
picture.quantize(4).save("odd/50.gif", save_all=True, append_images=[Image.new("RGB", (8, 8)).quantize(4)])
PY
    mabn-eval imagenet -q -b 2 model.h5 odd >one 2>want
    grep -q "8 pictures have an alpha channel .*(the first: 'odd/00.png')" want
    grep -q "1 file holds more than one picture (the first: 'odd/50.gif'): the first of each is read, 1 other" want
    for mpi in $MPIS; do
        ranks "$mpi" 3 mabn-eval imagenet -q -b 2 model.h5 odd >three 2>err
        cmp one three
        diff <(grep mabn-eval: err | sed 's/^.rank 0. //') want
    done
}
