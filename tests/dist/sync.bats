#!/usr/bin/env bats
# SyncBN on several ranks: what BN of all their samples is, and what the reference recorded.
load helpers

setup_file() {
    setup_ranks
    export SYNC=$MABN_BUILD/tests/dist/test_sync
}

@test "equal shares on 2, 3 and 4 ranks are BN of all samples; every MPI gives the same bits" {
    for n in 2 3 4; do
        bits=
        for mpi in $MPIS; do
            run --separate-stderr ranks "$mpi" $n "$SYNC" bn
            assert_success
            assert_equal "${bits:=$output}" "$output"
        done
    done
}

@test "unequal shares, one of them empty, are BN of all samples, and every rank has the same state" {
    for mpi in $MPIS; do
        run -0 ranks "$mpi" 4 "$SYNC" shares
    done
}

@test "groups of ranks have statistics of their own" {
    run -0 ranks "$ANY_MPI" 4 "$SYNC" groups 2
    run -0 ranks "$ANY_MPI" 3 "$SYNC" groups 1
    run -1 --separate-stderr ranks "$ANY_MPI" 3 "$SYNC" groups 2
    one_line test_sync "3 shards cannot be cut into groups of 2"
}

@test "four shards on one, two and four ranks: the same bits, of equal and unequal shares and of groups" {
    for what in "bn 0" "shares 0" "groups 2"; do
        run -0 --separate-stderr ranks "$ANY_MPI" 4 "$SYNC" $what
        expected=$output
        [ "$(wc -w <<<"$expected")" = 4 ]
        run -0 --separate-stderr "$SYNC" $what 4
        assert_output "$expected"
        run -0 --separate-stderr ranks "$ANY_MPI" 2 "$SYNC" $what 4
        assert_output "$expected"
    done
    run -0 --separate-stderr "$SYNC" rows 0 2
    assert_output ok
}

@test "the reference's SyncBN in two processes, with equal and unequal shares" {
    [ -n "${MABN_GOLDEN:-}" ] || skip "MABN_GOLDEN is not set"
    for mpi in $MPIS; do
        run -0 --separate-stderr ranks "$mpi" 2 "$SYNC" file "$MABN_GOLDEN/det/det_tiny_syncbn.h5"
        [ "$(grep -c '^ok' <<<"$output")" = 5 ]
        expected=$output
        run -0 --separate-stderr "$SYNC" file "$MABN_GOLDEN/det/det_tiny_syncbn.h5" 2
        assert_output "$expected"
    done
}

# Losses of every step, and what a validation says, may differ from those of one process by rounding.
compare_runs() { # compare_runs A B
    "$PYTHON" - "$1" "$2" <<'PY'
import json, sys
read = lambda folder: [json.loads(line) for line in open(folder + "/metrics.jsonl")]
a, b = ([x for x in read(f) if x["t"] in ("step", "val")] for f in sys.argv[1:])
assert len(a) == len(b) == 14, (len(a), len(b))
for x, y in zip(a, b):
    assert x["t"] == y["t"] and abs(x["loss"] - y["loss"]) < 2e-4 * abs(x["loss"]), (x, y)
PY
}

@test "training with syncbn over ranks is training with bn in one process" {
    "$ROOT/tests/make-images" tree 4 18 6
    mabn-pack imagenet -q tree -o data.h5
    options=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 12 --schedule constant
        --lr 0.05 --lr-exact --log-every 1 -j 1 -q --train data.h5 --val data.h5 --epochs 2 --val-every 6
        --check-ranks 4)
    mabn-train "${options[@]}" --norm bn -o bn >/dev/null
    mabn-train "${options[@]}" --norm bn --norm-batch 6 -o bn6 >/dev/null
    mabn-train "${options[@]}" --norm syncbn -o alone >/dev/null
    compare_runs bn alone
    for n in 2 3; do
        run -0 --separate-stderr ranks "$ANY_MPI" $n mabn-train "${options[@]}" --norm syncbn -o run$n
        compare_runs bn run$n
    done
    run -0 --separate-stderr ranks "$ANY_MPI" 4 mabn-train "${options[@]}" --norm syncbn --sync-group 2 -o run4
    compare_runs bn6 run4
    ! compare_runs bn run4
    run -1 --separate-stderr ranks "$ANY_MPI" 4 mabn-train "${options[@]}" --norm syncbn --sync-group 3 -o no
    one_line mabn-train "4 shards cannot be cut into groups of 3"
    run -0 --separate-stderr mabn-train "${options[@]}" --norm syncbn --sync-group 2 --shards 4 -o run4on1
    assert_equal "$(steps run4on1)" "$(steps run4)"
    same_tensors run4/model.h5 run4on1/model.h5
    # Stopped on four ranks, gone on with two.
    run -0 --separate-stderr ranks "$ANY_MPI" 4 mabn-train "${options[@]}" --norm syncbn --epochs 1 -o some
    run -0 --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${options[@]}" --norm syncbn --resume -o some
    run -0 --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${options[@]}" --norm syncbn --shards 4 -o all
    same_tensors some/model.h5 all/model.h5
    run -1 --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${options[@]}" --norm bn --sync-group 2 -o no
    one_line mabn-train "--sync-group needs syncbn, which this model does not have"
}

@test "ranks without rows take part, as a detector's heads without boxes must" {
    export MABN_TIMEOUT=10,10
    for mpi in $MPIS; do
        run -0 --separate-stderr ranks "$mpi" 2 "$SYNC" rows
        assert_output ok
    done
}

# A detector's shares are unequal.
scenes() {
    "$PYTHON" - <<'PY'
import json, os, random, struct, zlib
def png(path, w, h, noise):
    rows = b"".join(b"\0" + noise.randbytes(3 * w) for _ in range(h))
    chunk = lambda k, d: struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
                           + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
noise = random.Random(1)
os.mkdir("photos")
images, annotations = [], []
for i in range(8):
    w, h = (96, 64) if i % 2 else (64, 96)
    images.append({"id": i, "file_name": "%d.png" % i, "width": w, "height": h})
    png("photos/%d.png" % i, w, h, noise)
    annotations.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": [8, 8, 32, 32], "area": 1024,
                        "iscrowd": 0, "segmentation": [[8, 8, 8, 40, 40, 40, 40, 8]]})
json.dump({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]},
          open("truth.json", "w"))
PY
    mabn-pack coco -q photos truth.json -o scenes.h5
}

@test "a detector trains with syncbn over ranks, by either rule, the same each time" {
    scenes
    options=(--arch mask-rcnn-r18-fpn --norm syncbn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16
        --min-size 64 --proposals 100 --box-samples 32 --lr 0.001 --lr-exact --schedule constant --log-every 1
        --steps 8 --batch 2 -q -j 1 --train scenes.h5 --val scenes.h5 --check-ranks 1)
    export MABN_TIMEOUT=10,20
    for sync in --sync-weighted --no-sync-weighted; do
        run -0 --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${options[@]}" $sync -o run$sync
        assert_equal "$(grep -c '"t":"step"' run$sync/metrics.jsonl)" 8
    done
    run ! cmp run--sync-weighted/model.h5 run--no-sync-weighted/model.h5
    for sync in --sync-weighted --no-sync-weighted; do # two shards on one rank
        run -0 --separate-stderr mabn-train "${options[@]}" $sync --shards 2 -o one$sync
        same_tensors one$sync/model.h5 run$sync/model.h5
    done
    run -0 --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${options[@]}" -o again
    steps() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$1/metrics.jsonl"; }
    assert_equal "$(steps again)" "$(steps run--sync-weighted)"
}
