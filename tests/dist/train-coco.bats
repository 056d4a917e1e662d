#!/usr/bin/env bats
# Training a detector over ranks: the same bits on any number of them.
load helpers

setup_file() {
    setup_ranks
    "$ROOT/tests/make-images" tree 2 8 24
    mabn-pack imagenet -q tree -o pictures.h5
    mabn-compose -q pictures.h5 -n 10 --width 96 --height 64 -o scenes
    mabn-pack coco -q scenes/images scenes/instances.json -o scenes.h5
    export DATA=$PWD/scenes.h5
}

small=(--arch mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 --min-size 64
    --proposals 50 --box-samples 16 --batch 4 --norm mabn --window 3 --lr 0.01 --lr-exact
    --schedule constant --log-every 1 -j 1)
train() { mabn-train "${small[@]}" --train "$DATA" "$@"; }
train_on() { # train_on MPI RANKS OPTION...
    local mpi=$1 n=$2; shift 2
    run --separate-stderr ranks "$mpi" "$n" mabn-train "${small[@]}" --train "$DATA" "$@"
}

@test "4 shards of a detector have the same bits on 1, 2 and 4 ranks" {
    options=(--shards 4 --val "$DATA" --steps 3 --check-ranks 1 --clip-norm 5 -o run)
    mkdir one two four
    (cd one && train "${options[@]}" >out)
    for n in 2:two 4:four; do
        cd "${n#*:}"
        train_on "$ANY_MPI" "${n%:*}" "${options[@]}"
        assert_success
        cmp run/model.h5 ../one/run/model.h5
        cmp run/step-000000003.h5 ../one/run/step-000000003.h5
        cmp <(steps run) <(steps ../one/run)
        cd ..
    done
}

@test "a detector's run goes on with other ranks; passes and shards divide a batch alike" {
    train -q --shards 2 --accumulate 4 --steps 4 -o one >/dev/null
    train_on "$ANY_MPI" 2 -q --accumulate 4 --steps 2 -o run
    assert_success
    train -q --accumulate 4 --steps 4 -o run --resume >/dev/null
    cmp <(steps run) <(steps one)
    cmp <(h5dump -g /model run/model.h5 | tail -n +2) <(h5dump -g /model one/model.h5 | tail -n +2)
    run -1 train -q --shards 2 --accumulate 3 --batch 12 --steps 1 -o no
    assert_output --partial "3 passes (--accumulate) of 12 images cannot be divided among 2 shards"
}
