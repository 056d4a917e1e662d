#!/usr/bin/env bats
# Ranks with GPUs and NCCL. The GPUs are the executor, one a process; NCCL is its stand-in, which looks at what
# it is given (tests/gpu/executor/nccl.cpp).
load helpers

setup_file() {
    setup_ranks
    "$ROOT/tests/make-images" tree 4 18 6
    mabn-pack imagenet -q tree -o data.h5
    export DATA=$PWD/data.h5
    export ASAN_OPTIONS=detect_leaks=0 # those of MPI
    export MABN_MPI=$MABN_BUILD/lib/mabn/mabn-mpi-$ANY_MPI.so
}

setup_more() {
    E=$ROOT/build/executor/bin/mabn-train
    [ -x "$E" ] || skip "the executor's tools are not built"
    # Wide enough for several sums a step.
    options=(--arch cifar-resnet8 --base-width 12 --size 16 --augment plain --flip 0.5 --batch 12 --schedule constant
        --lr 0.1 --lr-exact --log-every 1 -j 1 --device cuda --precision fp32 --steps 3 --check-ranks 1 --train "$DATA")
    mabn=(--norm mabn --window-rule iteration --window 4)
}

one() { "$E" "${options[@]}" -q "$@" >/dev/null; }
train_on() { # train_on RANKS OPTION...
    local n=$1; shift
    run --separate-stderr ranks "$ANY_MPI" "$n" "$E" "${options[@]}" "$@"
}
nccl_on() { MABN_EXECUTOR_NCCL=1 train_on "$@"; }
tensors() { h5dump -g /model "$1/model.h5" | tail -n +2; }
same_run() { # same_run A B
    cmp <(steps "$1") <(steps "$2")
    cmp <(tensors "$1") <(tensors "$2")
}
losses() { sed -n 's/.*"t":"step".*"loss":\([^,]*\),.*/\1/p' "$1/metrics.jsonl"; }
close_runs() { # close_runs A B [MOST]: losses within 1e-6, or MOST, of each other
    paste -d' ' <(losses "$1") <(losses "$2") | awk -v most="${3:-1e-6}" '
        {d = $1 - $2; if (d < 0) d = -d; if (!(d <= most * $1)) bad = 1}
        END {exit bad || NR != 3}' || { paste <(losses "$1") <(losses "$2"); return 1; }
}

@test "two ranks are two shards in one process, in every bit; work done late too" {
    setup_more
    nccl_on 2 "${mabn[@]}" -o run
    assert_success
    [[ $stderr == *"2 shards of 6 images on 2 ranks: "*", NCCL 2.28.9; rank 0 "* ]]
    [[ $stderr != *"through the host"* ]]
    one "${mabn[@]}" --shards 2 -o one
    same_run one run
    MABN_EXECUTOR_LATE=1 nccl_on 2 "${mabn[@]}" -o late
    assert_success
    same_run one late
    [ -z "$(find /dev/shm -name 'mabn-nccl-*' -newer "$DATA" -user "$(id -u)")" ]
}

@test "three ranks, and several shards a rank, are one process to rounding; --exact in every bit" {
    setup_more
    one "${mabn[@]}" --shards 6 -o one
    nccl_on 3 "${mabn[@]}" --shards 6 -q -o run
    assert_success
    close_runs one run
    run ! cmp <(tensors one) <(tensors run)
    nccl_on 3 "${mabn[@]}" --shards 6 --exact -o exact
    assert_success
    [[ $stderr != *NCCL* ]]
    one "${mabn[@]}" --shards 6 --exact -o one-exact
    same_run one-exact exact
}

@test "syncbn over ranks is bn of all their images, by NCCL and by way of the host, and the CPU's by the reference's rule" {
    setup_more
    one --norm bn -o bn
    nccl_on 2 --norm syncbn -q -o sync
    assert_success
    close_runs bn sync
    MABN_EXECUTOR_LATE=1 nccl_on 2 --norm syncbn -q -o late
    assert_success
    same_run sync late
    train_on 2 --norm syncbn -o host
    assert_success
    [[ $stderr == *"sums over ranks go through the host, without NCCL: rank 0 on "*": the executor has no such library"* ]]
    same_run sync host # two numbers have one sum
    one --norm bn --norm-batch 6 --seed 2 -o bn6
    nccl_on 4 --norm syncbn --sync-group 2 --seed 2 -q -o groups
    assert_success
    close_runs bn6 groups
    nccl_on 2 --norm syncbn --no-sync-weighted -q -o reference
    assert_success
    run -0 ranks "$ANY_MPI" 2 mabn-train "${options[@]}" --device cpu --norm syncbn --no-sync-weighted -q -o cpu
    close_runs cpu reference 5e-5 # a ReLU decides otherwise
    ! close_runs bn reference 1e-4
}

@test "syncbn with several shards a rank: the same bits on one rank and two, late too, and the CPU's result" {
    setup_more
    one --norm syncbn --shards 4 -o one
    nccl_on 2 --norm syncbn --shards 4 -o two
    assert_success
    [[ $stderr == *"4 shards of 3 images on 2 ranks: "* && $stderr != *", NCCL 2"* ]]
    same_run one two
    MABN_EXECUTOR_LATE=1 one --norm syncbn --shards 4 -o late
    same_run one late
    run -0 ranks "$ANY_MPI" 2 mabn-train "${options[@]}" --device cpu --norm syncbn --shards 4 -q -o cpu
    close_runs cpu one 5e-5 # a ReLU decides otherwise
    run -1 --separate-stderr "$E" "${options[@]}" --norm syncbn --shards 4 --precision fp16 -o half
    one_line mabn-train "in fp16 syncbn needs a rank for each shard: there are 4 shards on 1 rank"
}

@test "ranks that share a GPU, or of which one has no NCCL, do without" {
    setup_more
    MABN_EXECUTOR_GPU=one nccl_on 2 "${mabn[@]}" -o shared
    assert_success
    [[ $stderr == *"sums over ranks go through the host, without NCCL: ranks 0 and 1 share a GPU of "* ]]
    one "${mabn[@]}" --shards 2 -o one
    same_run one shared
    run --separate-stderr clean_stderr timeout -k 5 300 "$(launcher "$ANY_MPI")" \
        -n 1 env MABN_EXECUTOR_NCCL=1 "$E" "${options[@]}" "${mabn[@]}" -o half : \
        -n 1 "$E" "${options[@]}" "${mabn[@]}" -o half </dev/null
    assert_success
    [[ $stderr == *"without NCCL: rank 1 on "*": the executor has no such library"* ]]
    same_run one half
}

@test "a sum that NCCL says has failed ends the job with one line" {
    setup_more
    mpi=${MPIS# } mpi=${mpi%% *}
    export MABN_MPI=$MABN_BUILD/lib/mabn/mabn-mpi-$mpi.so
    # Late, so that a sum hangs where a GPU's would: not in the call that asks for it.
    for norm in bn syncbn; do
        run --separate-stderr clean_stderr env MABN_EXECUTOR_NCCL=break:5 MABN_EXECUTOR_LATE=1 timeout -k 5 300 "$(launcher "$mpi")" -n 2 \
            "$E" "${options[@]}" --norm $norm --steps 1000 -q -o $norm </dev/null
        assert_failure 81
        one_line mabn-train "rank 1 on .*: NCCL: unhandled system error: the cable was cut"
    done
}

@test "a rank that dies while others wait for its sum is named" {
    setup_more
    mpi=${MPIS# } mpi=${mpi%% *}
    export MABN_MPI=$MABN_BUILD/lib/mabn/mabn-mpi-$mpi.so
    MABN_EXECUTOR_NCCL=1 "$(launcher "$mpi")" -n 2 "$E" "${options[@]}" --norm syncbn --steps 100000 -o run \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":2,'
    kill -9 "$(pid_of $job 1)"
    ended $job
    assert_not_equal "$status" 0
    [ "$mpi" = mpich ] || grep -qE '^mabn-train: rank 1 on .* died at step [0-9]+' err
}

@test "a detector on two ranks is two shards in one process, in every bit" {
    setup_more
    mabn-compose -q data.h5 -n 6 --width 96 --height 64 -o scenes
    mabn-pack coco -q scenes/images scenes/instances.json -o scenes.h5
    options=(--arch mask-rcnn-r18-fpn --base-width 8 --fpn-width 8 --head-width 8 --fc-width 16 --min-size 64
        --proposals 50 --box-samples 16 --batch 2 --norm mabn --window 3 --lr 0.01 --lr-exact --schedule constant
        --log-every 1 -j 1 --device cuda --steps 2 --check-ranks 1 --train scenes.h5)
    nccl_on 2 -o run
    assert_success
    [[ $stderr == *", NCCL 2.28.9; rank 0 "* ]]
    one --shards 2 -o one
    same_run one run
    nccl_on 2 --norm syncbn -q -o sync
    assert_success
    one --norm syncbn --shards 2 -o sync-one
    same_run sync sync-one # two numbers have one sum
}
