#!/usr/bin/env bats
# The pipelines, on data small enough to be quick.
load helpers

tree() { "$ROOT/tests/make-images" "$1" 4 "$2" 12; }
# stop_when RUN: the script behind, once it trains there; the tool has saved and is gone, and says why.
stop_when() {
    local script=$! tool
    for _ in $(seq 1200); do grep -qs '"step":2,' "$1/metrics.jsonl" && break; sleep 0.1; done
    tool=$(pgrep -P $script) || true
    kill -TERM $script
    ended $script
    assert_equal $status 75
    grep -q "stopped by SIGTERM" err
    [ -z "$tool" ] || [ ! -e "/proc/$tool" ]
}
small=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain)

@test "demo: the table, the curves, and nothing done twice" {
    $PYTHON - <<'E2'
import gzip, random, struct
r = random.Random(1)
for name, n in ("train", 200), ("t10k", 100):
    labels = [i % 10 for i in range(n)]
    pixels = b"".join(bytes((r.randrange(60) + 19 * label) % 256 for _ in range(784)) for label in labels)
    gzip.open(name + "-images-idx3-ubyte.gz", "w").write(struct.pack(">IIII", 0x803, n, 28, 28) + pixels)
    gzip.open(name + "-labels-idx1-ubyte.gz", "w").write(struct.pack(">II", 0x801, n) + bytes(labels))
E2
    export FASHION_MNIST=$PWD STEPS=5 SEEDS="1 2"
    run --separate-stderr "$ROOT/pipelines/demo.sh"
    assert_success
    assert_line --regexp '^BN +32 images +none +[0-9.]+ +[0-9.]+ to [0-9.]+ +[0-9.]+$'
    assert_line --regexp '^MABN +2 images +16 statistics +[0-9.]+ +[0-9.]+ to [0-9.]+ +[0-9.]+$'
    assert_file_exist demo/curves.png
    assert_file_exist demo/curves.svg
    run --separate-stderr "$ROOT/pipelines/demo.sh"
    assert_success
    # shellcheck disable=SC2154
    [[ $stderr != *mabn-train* ]]
}

@test "compose-scenes: datasets of scenes from a folder of cut-outs; a second call makes nothing" {
    tree tree 20
    export TRAIN=5 VAL=3 SCENES="--width 64 --height 48 --max-objects 3"
    run --separate-stderr "$ROOT/pipelines/compose-scenes.sh" out tree
    assert_success
    assert_output "out/train.h5 out/val.h5"
    assert_equal "$(ls out/train/images out/val/images | grep -c png)" 8
    ! cmp -s out/train/images/000000000001.png out/val/images/000000000001.png
    assert_file_exist out/val.png
    run --separate-stderr "$ROOT/pipelines/compose-scenes.sh" out tree tree
    assert_success
    assert_equal "$stderr" ""
}

@test "batch-size-sweep: a table and a figure; a second call trains nothing" {
    tree tree 20
    mabn-pack imagenet -q tree -o data.h5
    export NORM_BATCHES="1 2 8" BATCH=8 SEEDS="1 2" COURSE="${small[*]} --steps 3"
    run --separate-stderr "$ROOT/pipelines/batch-size-sweep.sh" data.h5 data.h5 sweep
    assert_success
    assert_equal "$(grep -c . sweep/sweep.tsv)" 15 # two seeds of seven runs, and a head
    grep -qP '^mabn\t1\t1\t[0-9.]+$' sweep/sweep.tsv
    grep -qP '^mabn\t1\t2\t[0-9.]+$' sweep/sweep.tsv
    assert_file_exist sweep/sweep.png
    run --separate-stderr "$ROOT/pipelines/batch-size-sweep.sh" data.h5 data.h5 sweep
    assert_success
    assert_equal "$stderr" ""

    export COURSE="${small[*]} --steps 10000000 --log-every 1" NORM_BATCHES="2 8"
    "$ROOT/pipelines/batch-size-sweep.sh" data.h5 data.h5 long 2>err &
    stop_when long/bn-2-seed1
    assert_equal "$(ls long)" bn-2-seed1
}

@test "--help is the head of the script; a wrong option is one line and status 2; nothing is made" {
    for script in batch-size-sweep coco-r50-fpn compose-scenes demo-coco demo imagenet-r50-mabn install-deps slurm-job; do
        for option in --help -h; do
            run --separate-stderr "$ROOT/pipelines/$script.sh" $option
            assert_success
            assert_line --index 0 --partial "$script.sh "
            refute_line --regexp "^SBATCH"
            assert_equal "$stderr" ""
        done
        fails 2 "usage: " "$ROOT/pipelines/$script.sh" --no-such-option
    done
    fails 2 "usage: demo.sh [FOLDER]" "$ROOT/pipelines/demo.sh" one two
    [ ! -e one ] && [ ! -e ./--help ] && [ ! -e ./--no-such-option ]
}

@test "a signal while no tool is at work: the next does not start" {
    run bash -c '. "$ROOT/pipelines/work.sh"; kill -TERM $$; work touch started; echo went on'
    assert_equal "$status" 75
    assert_output ""
    assert_not_exist started
}

@test "imagenet-r50-mabn: to the number, and stops at DONE; a signal is passed on" {
    mkdir images
    tree images/train 20
    tree images/val 10
    export OPTIONS="${small[*]} --batch 8 --epochs 2 --epoch-steps 3 --milestones 1"
    run --separate-stderr "$ROOT/pipelines/imagenet-r50-mabn.sh" images out
    assert_success
    assert_line --partial '"images":40'
    run --separate-stderr "$ROOT/pipelines/imagenet-r50-mabn.sh" images out
    assert_success
    assert_line --partial '"images":40'
    assert_equal "$stderr" ""

    export OPTIONS="${small[*]} --batch 8 --epochs 1 --epoch-steps 100000 --log-every 1"
    "$ROOT/pipelines/imagenet-r50-mabn.sh" images long 2>err &
    stop_when long/run
    assert_not_exist long/DONE
    stopped=$(grep -c '"t":"step"' long/run/metrics.jsonl)
    export OPTIONS="${small[*]} --batch 8 --epochs 1 --epoch-steps 100000 --log-every 1 --steps $((stopped + 2))"
    run --separate-stderr "$ROOT/pipelines/imagenet-r50-mabn.sh" images long # resumed, and done
    assert_success
    assert_file_exist long/DONE
    assert_equal "$(grep -c '"t":"start"' long/run/metrics.jsonl)" 2
    assert_equal "$(grep -c '"t":"step"' long/run/metrics.jsonl)" $((stopped + 2))
}

@test "coco-r50-fpn: from scratch and fine-tuned, stopped and resumed, to the number" {
    $PYTHON - <<'E2'
import json, os
from PIL import Image
for part, n in ("train", 6), ("val", 3):
    images, annotations = [], []
    os.makedirs("coco/%s2017" % part)
    for i in range(1, n + 1):
        picture = Image.new("RGB", (64, 64), (20 * i, 40, 60))
        picture.paste((230, 30, 30), (4 * i, 8, 4 * i + 24, 32))
        picture.save("coco/%s2017/%d.png" % (part, i))
        images.append({"id": i, "file_name": "%d.png" % i, "width": 64, "height": 64})
        x, y = 4 * i, 8
        annotations.append({"id": i, "image_id": i, "category_id": 3, "iscrowd": 0, "area": 576,
                            "bbox": [x, y, 24, 24],
                            "segmentation": [[x, y, x, y + 24, x + 24, y + 24, x + 24, y]]})
    os.makedirs("coco/annotations", exist_ok=True)
    json.dump({"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "red"}]},
              open("coco/annotations/instances_%s2017.json" % part, "w"))
E2
    tiny="--arch mask-rcnn-r18-fpn --fpn-width 8 --head-width 8 --fc-width 16 --min-size 64 --max-size 64"
    tiny+=" --proposals 60 --box-samples 16 --batch 2 --log-every 1 --early-images 0"
    export OPTIONS="$tiny --base-width 8 --steps 3"
    run --separate-stderr "$ROOT/pipelines/coco-r50-fpn.sh" SCRATCH mabn
    assert_success
    assert_line --index 0 "$(printf 'scratch mabn\tAP\texpected')"
    assert_line --regexp '^mask.*[0-9.]+.*32.69 \+-0.3$'
    run --separate-stderr "$ROOT/pipelines/coco-r50-fpn.sh" SCRATCH mabn
    assert_success
    assert_equal "$stderr" ""

    mabn-init resnet18 --norm mabn --base-width 8 --classes 4 -q -o body.h5
    run "$ROOT/pipelines/coco-r50-fpn.sh" FINE-TUNE mabn
    assert_failure 2
    export BODY=body.h5 OPTIONS="$tiny --allow-weights input --steps 30 --save-every 1000"
    FOLDER=whole run --separate-stderr "$ROOT/pipelines/coco-r50-fpn.sh" FINE-TUNE mabn
    assert_success
    grep -q '"t":"weights"' whole/run/metrics.jsonl
    "$ROOT/pipelines/coco-r50-fpn.sh" FINE-TUNE mabn >out 2>err &
    stop_when coco-fine-tune-mabn/run
    assert_not_exist coco-fine-tune-mabn/DONE
    run --separate-stderr "$ROOT/pipelines/coco-r50-fpn.sh" FINE-TUNE mabn
    assert_success
    h5diff -q whole/run/model.h5 coco-fine-tune-mabn/run/model.h5 model model
    cmp whole/results.json coco-fine-tune-mabn/results.json
    run "$ROOT/pipelines/coco-r50-fpn.sh" SCRATCH gn
    assert_failure 2
}

# A Slurm of two scripts: srun runs the words of ./does, scontrol notes what it is asked for.
slurm() {
    mkdir -p bin run
    printf '#!/bin/bash\nprintf "%%s\\n" "$*" >>srun.log\n. ./does\n' >bin/srun
    printf '#!/bin/bash\necho "$*" >>scontrol.log\n' >bin/scontrol
    chmod +x bin/*
    export PATH=$PWD/bin:$PATH SLURM_JOB_ID=17 SLURM_CPUS_PER_TASK=4
    rm -f srun.log scontrol.log
}
job() { run --separate-stderr "$ROOT/pipelines/slurm-job.sh" mabn-train --train t.h5 -o run; }

@test "slurm-job: the ranks are started with --resume, and a finished run is not requeued" {
    slurm
    echo 'echo "$SRUN_CPUS_PER_TASK cpus"; exit 0' >does
    job
    assert_success
    assert_output "4 cpus"
    assert_equal "$(cat srun.log)" "--mpi=pmix mabn-train --train t.h5 -o run --resume"
    assert_file_not_exist scontrol.log
}

@test "slurm-job: saved and stopped, a lost rank, a killed one: requeued; an error: not" {
    slurm
    for code in 75 81 137 143; do
        echo "touch run/step-$code.h5; exit $code" >does
        rm -f scontrol.log
        job
        assert_equal "$status" $code
        assert_equal "$(cat scontrol.log)" "requeue 17"
    done
    for code in 1 2; do
        rm -f scontrol.log
        echo "exit $code" >does
        job
        assert_equal "$status" $code
        assert_file_not_exist scontrol.log
    done
}

@test "slurm-job: gives up after three requeues without a new checkpoint" {
    slurm
    echo 'exit 81' >does
    for _ in 1 2 3; do job; done
    assert_equal "$(wc -l <scontrol.log)" 3
    job
    assert_equal "$status" 81
    assert_equal "$(wc -l <scontrol.log)" 3
    # shellcheck disable=SC2154
    [[ $stderr == *"no new checkpoint in 'run' after 4 attempts"* ]]
    echo 'touch run/step-000000100.h5; exit 81' >does # it has moved: the count begins anew
    job
    assert_equal "$(wc -l <scontrol.log)" 4
    assert_equal "$(cat run/requeues)" 0
}

@test "slurm-job: the run folder is found in every spelling, or asked for" {
    slurm
    echo 'exit 75' >does
    for words in "-o run" "-orun" "--output run" "--output=run"; do
        rm -f run/requeues
        # shellcheck disable=SC2086
        run "$ROOT/pipelines/slurm-job.sh" mabn-train $words --train t.h5
        assert_equal "$(cat run/requeues)" 1
    done
    fails 2 "usage: sbatch" "$ROOT/pipelines/slurm-job.sh" mabn-train --train t.h5
}
