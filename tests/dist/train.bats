#!/usr/bin/env bats
# Training over ranks: the same bits on any number of them, stops, deaths.
load helpers

setup_file() {
    setup_ranks
    "$ROOT/tests/make-images" tree 4 18 6
    mabn-pack imagenet -q tree -o data.h5
    export DATA=$PWD/data.h5
}

# A network of a few thousand weights; 72 pictures are 6 steps an epoch.
course=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --flip 0.5 --batch 12
    --norm mabn --window-rule iteration --window 4 --schedule constant --lr 0.1 --lr-exact --log-every 1 -j 1)
train() { mabn-train "${course[@]}" --train "$DATA" "$@"; }
train_on() { # train_on MPI RANKS OPTION...
    local mpi=$1 n=$2; shift 2
    run --separate-stderr ranks "$mpi" "$n" mabn-train "${course[@]}" --train "$DATA" "$@"
}

tensors() { h5dump -g /model "$1/model.h5" | tail -n +2; }
same_run() { # same_run A B
    cmp <(steps "$1") <(steps "$2")
    cmp <(tensors "$1") <(tensors "$2")
}

@test "4 shards have the same bits on 1, 2 and 4 ranks, in files, figures and statistics" {
    options=(--shards 4 --val "$DATA" --epochs 2 --check-ranks 5 --record-stats stats.jsonl -o run)
    mkdir one
    (cd one && train "${options[@]}" >out 2>err)
    grep -q "4 shards of 3 images on 1 rank" one/err
    for mpi in $MPIS; do
        for n in 2 4; do
            [ "$mpi" = "$ANY_MPI" ] || [ $n = 2 ] || continue
            mkdir "$mpi$n"
            cd "$mpi$n"
            train_on "$mpi" $n "${options[@]}"
            assert_success
            [[ $stderr == *"4 shards of 3 images on $n ranks"* ]]
            assert_equal "$(wc -l <<<"$output")" 16
            cmp <(grep '"t":"stat"' stats.jsonl) <(grep '"t":"stat"' ../one/stats.jsonl)
            # The same command made them: every byte is the same.
            cmp run/model.h5 ../one/run/model.h5
            cmp run/step-000000012.h5 ../one/run/step-000000012.h5
            cd ..
            same_run one/run "$mpi$n/run"
        done
    done
}

@test "12 shards on 4, then 2, then 3 ranks are as 12 on one" {
    # Wide enough that gradients go in several sums while backward goes on.
    wide=(--shards 12 --norm bn --base-width 16)
    train -q "${wide[@]}" --steps 6 -o one >/dev/null
    train_on "$ANY_MPI" 4 -q "${wide[@]}" --steps 2 -o run
    assert_success
    train_on "$ANY_MPI" 2 -q "${wide[@]:2}" --steps 4 -o run --resume
    assert_success
    train_on "$ANY_MPI" 3 -q "${wide[@]:2}" --steps 6 -o run --resume
    assert_success
    same_run one run
}

@test "a new run has as many shards as ranks, and goes on with them; -v tells who waits" {
    train_on "$ANY_MPI" 2 -v --steps 2 -o run
    assert_success
    [[ $stderr =~ "step 2: ranks waited for others 0: "[0-9.]+" s, 1: "[0-9.]+" s" ]]
    assert_line --index 0 --partial '"shards":2,"ranks":2'
    train_on "$ANY_MPI" 3 --steps 4 -o run --resume
    assert_failure 1
    one_line mabn-train "2 shards cannot be shared out evenly by 3 ranks"
    run -0 train --steps 4 -o run --resume
    assert_output --partial '"shards":2,"ranks":1'
    run -1 train --steps 6 -o run --resume --shards 4
    assert_output --partial "belongs to a run with other settings"
}

@test "the preset imagenet is 8 shards on 2 ranks; not on 3, nor of a batch that 8 do not share" {
    recipe=(--preset imagenet --arch cifar-resnet8 --base-width 4 --size 16 --epoch-steps 2 --epochs 1 -j 1 -q
        --train "$DATA")
    run --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${recipe[@]}" --batch 48 -o two
    assert_success
    assert_line --index 0 --partial '"shards":8,"ranks":2'
    mabn-train "${recipe[@]}" --batch 48 --shards 8 -o one >/dev/null
    same_run one two
    run --separate-stderr ranks "$ANY_MPI" 3 mabn-train "${recipe[@]}" --batch 48 -o three
    assert_success
    assert_line --index 0 --partial '"shards":3,"ranks":3'
    run --separate-stderr ranks "$ANY_MPI" 2 mabn-train "${recipe[@]}" --batch 12 -o twelve
    assert_success
    assert_line --index 0 --partial '"shards":2,"ranks":2'
}

@test "what cannot be shared out is refused, once" {
    train_on "$ANY_MPI" 2 --batch 9 --shards 4 -o run
    assert_failure 1
    one_line mabn-train "a batch of 9 images is not 4 equal shards"
    train_on "$ANY_MPI" 2 -B 8 -o run
    assert_failure 1
    one_line mabn-train "a normalization batch of 8 images does not fit into a shard, which has 6 of the 12 of a step"
    train_on "$ANY_MPI" 2 --train missing.h5 -o run
    assert_failure 1
    one_line mabn-train "missing.h5"
    train_on "$ANY_MPI" 2 --no-such-option
    assert_failure 2
    one_line mabn-train "no-such-option"
}

@test "ranks that were started with other options are found out" {
    run --separate-stderr clean_stderr timeout -k 5 40 "$(launcher "$ANY_MPI")" \
        -n 1 mabn-train -q "${course[@]}" --train "$DATA" -o run : \
        -n 1 mabn-train -q "${course[@]}" --train "$DATA" -o run --momentum 0.8 </dev/null
    assert_failure 1
    one_line mabn-train "the options or the data: rank 1 on .* has others than rank 0"
}

@test "a folder where a run is at work is refused to another" {
    mpi=${MPIS# } mpi=${mpi%% *} # MPICH's mpiexec does not always return what its ranks did
    "$(launcher "$mpi")" -n 2 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":2,'
    train_on "$mpi" 2 -q -o run --resume
    kill -USR1 $job
    ended $job
    assert_equal "$status" 75
    # shellcheck disable=SC2154
    one_line mabn-train "another mabn-train is running in"
}

@test "ranks train on while a checkpoint is being written to a slow disk" {
    ! ldd "$MABN_BUILD/bin/mabn-train" | grep -q asan || skip "sanitizers want to be loaded first"
    cc -shared -fPIC -O1 -o shim.so "$ROOT/tests/cli/durable_shim.c" -ldl
    touch held # the disk: the first checkpoint is not written while this is there
    "$(launcher "$ANY_MPI")" -n 2 env LD_PRELOAD="$PWD/shim.so" DURABLE_HOLD="$PWD/held" \
        mabn-train "${course[@]}" --train "$DATA" -o run --steps 9 --save-every 4 </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":8,'
    compgen -G "run/step-000000004.h5.tmp-*"
    [ ! -e run/step-000000004.h5 ]
    rm held
    ended $job
    assert_equal "$status" 0
    [ -e run/step-000000004.h5 ]
    [ -e run/step-000000008.h5 ]
    train -q --shards 2 --steps 9 -o one >/dev/null
    same_run one run
}

@test "SIGTERM while a checkpoint is being written: all stop with 75 when it is whole" {
    ! ldd "$MABN_BUILD/bin/mabn-train" | grep -q asan || skip "sanitizers want to be loaded first"
    cc -shared -fPIC -O1 -o shim.so "$ROOT/tests/cli/durable_shim.c" -ldl
    touch held
    "$(launcher "$ANY_MPI")" -n 2 env LD_PRELOAD="$PWD/shim.so" DURABLE_HOLD="$PWD/held" \
        mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":3,'
    kill "$(pid_of $job 1)"
    until compgen -G "run/step-*.h5.tmp-*"; do sleep 0.05; done
    rm held
    ended $job
    assert_equal "$status" 75
    [ -e "run/step-$(printf %09d "$(sed -n 's/.*stopped by SIGTERM after step \([0-9]*\) .*/\1/p' err)").h5" ]
}

@test "SIGTERM to one rank: all stop after the same step, with 75, and go on as if nothing had been" {
    "$(launcher "$ANY_MPI")" -n 4 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":3,'
    kill "$(pid_of $job 2)"
    ended $job
    assert_equal "$status" 75
    step=$(sed -n 's/.*stopped by SIGTERM after step \([0-9]*\) .*/\1/p' err)
    assert_equal "$(grep -c '^mabn-train: stopped' err)" 1
    last=$((step + 3))
    train_on "$ANY_MPI" 2 -q -o run --steps $last --resume
    assert_success
    train -q --shards 4 --steps $last -o one >/dev/null
    same_run one run
}

@test "kill -9 of a rank ends the job, and the run that goes on is the same" {
    mpi=${MPIS# } mpi=${mpi%% *} # MPICH's mpiexec may have killed them all before one could speak
    "$(launcher "$mpi")" -n 3 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 \
        --save-every 2 </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":5,'
    kill -9 "$(pid_of $job 1)"
    ended $job
    assert_not_equal "$status" 0
    [ "$mpi" = mpich ] || grep -qE '^mabn-train: rank 1 on .* died at step [0-9]+' err
    step=$(sed -n 's/.*"t":"step","step":\([0-9]*\),.*/\1/p' out | tail -n 1)
    last=$((step + 3))
    train_on "$mpi" 3 -q -o run --steps $last --resume
    assert_success
    train -q --shards 3 --steps $last -o one >/dev/null
    same_run one run
}

@test "when rank 0 dies, rank 1 tells the others, however slow the launcher is" {
    [[ $MPIS == *openmpi* ]] || skip "the ranks of MPICH are not its launcher's own"
    "$(launcher openmpi)" -n 4 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 -q \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":3,'
    first=$(pid_of $job 0)
    others=$(pid_of $job 2),$(pid_of $job 3)
    kill -STOP $job
    kill -9 "$first"
    for _ in $(seq 80); do
        left=$(ps -o stat= -p "$others" | grep -vc '^Z' || true)
        [ "$left" != 0 ] || break
        sleep 0.05
    done
    kill -CONT $job
    ended $job
    assert_equal "$left" 0
    stderr=$(cat err)
    one_line mabn-train "rank 0 on .* died at step"
}

@test "a rank that dies while the job is being stopped is named, too" {
    mpi=${MPIS# } mpi=${mpi%% *}
    [ "$mpi" = openmpi ] || skip "MPICH's mpiexec may have killed them all before one could speak"
    "$(launcher "$mpi")" -n 3 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":3,'
    victim=$(pid_of $job 2)
    kill -STOP "$victim" # nobody comes to the end of a step
    kill "$(pid_of $job 0)"
    kill -9 "$victim"
    ended $job
    assert_not_equal "$status" 0
    assert_equal "$(grep -c '^mabn-train: rank 2 on .* died at step' err)" 1
}

@test "a rank that freezes ends the training, with one line" {
    export MABN_TIMEOUT=2
    "$(launcher "$ANY_MPI")" -n 2 mabn-train "${course[@]}" --train "$DATA" -o run --epochs 100000 \
        </dev/null >out 2>err 3>&- &
    job=$!
    wait_for out '"step":3,'
    kill -STOP "$(pid_of $job 1)"
    ended $job
    assert_equal "$status" 81
    assert_equal "$(grep -c '^mabn-train: rank 1 on .* froze at step' err)" 1
}

@test "ranks with GPUs of the executor are as two shards on one" {
    E=$ROOT/build/executor/bin/mabn-train
    [ -x "$E" ] || skip "the executor's tools are not built"
    options=(-q "${course[@]}" --train "$DATA" --device cuda --precision fp32 --shards 2 --steps 3 --check-ranks 1)
    MABN_MPI=$MABN_BUILD/lib/mabn/mabn-mpi-$ANY_MPI.so
    export MABN_MPI ASAN_OPTIONS=detect_leaks=0 # those of MPI
    run --separate-stderr ranks "$ANY_MPI" 2 "$E" "${options[@]}" -o run
    assert_success
    assert_line --index 0 --partial '"device":"executor'
    "$E" "${options[@]}" -o one >/dev/null
    same_run one run
}
