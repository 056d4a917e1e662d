#!/usr/bin/env bats
# Several ranks on this machine, under every MPI that a plug-in was built for.

bats_require_minimum_version 1.5.0
load helpers # clean_stderr

setup_file() {
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 \
        PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
    export OMP_NUM_THREADS=1
    MPIS=
    for mpi in openmpi mpich; do
        [ -e "$MABN_BUILD/lib/mabn/mabn-mpi-$mpi.so" ] && MPIS="$MPIS $mpi"
    done
    export MPIS PROGRAM=$MABN_BUILD/tests/dist/test_dist
}

setup() {
    bats_load_library bats-support
    bats_load_library bats-assert
}

launcher() { # launcher MPI
    command -v "mpirun.$1" || command -v mpirun
}

ranks() { # ranks MPI N COMMAND...: of the time it took, `took` keeps whole seconds
    local mpi=$1 n=$2 start=$SECONDS; shift 2
    run --separate-stderr clean_stderr timeout -k 5 40 "$(launcher "$mpi")" -n "$n" "$@" </dev/null
    took=$((SECONDS - start))
}

# Exactly one line of ours, and it says this.
one_line() {
    local ours
    ours=$(grep '^test_dist:' <<<"$stderr") || fail "no line of ours: $stderr"
    [ "$(wc -l <<<"$ours")" = 1 ] || fail "not one line: $stderr"
    [[ $ours =~ $1 ]] || fail "not '$1': $ours"
}

nobody_left() {
    local pid
    for pid in $(pgrep -U "$(id -u)" -x test_dist); do
        [ "$(ps -o stat= -p "$pid" | cut -c 1)" = Z ] || ps -p "$pid" -o pid=,stat=
    done
}

@test "sums of 8 and 12 shards have the same bits at 1, 2, 3 and 4 ranks" {
    for shards in 8 12; do
        one=$("$PROGRAM" sums $shards)
        for mpi in $MPIS; do
            for n in 2 3 4; do
                [ $((shards % n)) = 0 ] || continue
                # Each launch takes a second.
                [ $n = 4 ] || { [ $shards = 12 ] && [ "$mpi" = "${MPIS##* }" ]; } || continue
                ranks "$mpi" $n "$PROGRAM" sums $shards
                assert_success
                assert_output "$one"
            done
        done
    done
}

@test "shards that the ranks cannot share evenly are refused" {
    for mpi in $MPIS; do
        ranks "$mpi" 2 "$PROGRAM" sums 5
        assert_failure 1
        one_line "5 shards cannot be shared out evenly by 2 ranks"
    done
}

@test "started sums go on while the caller does other things" {
    # A busy machine may hold the summing thread up: once in ten is enough to see that it can.
    for mpi in $MPIS; do
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            ranks "$mpi" 2 "$PROGRAM" overlap
            assert_success
            [ "$output" != "overlap yes" ] || break
        done
        assert_output "overlap yes"
    done
}

@test "bytes are gathered in order; minimum, maximum, or, broadcast" {
    for mpi in $MPIS; do
        ranks "$mpi" 3 "$PROGRAM" gather
        assert_success
        assert_output "gather $((4 * 1000003))"
    done
}

@test "ranks that hold different things are found out" {
    for mpi in $MPIS; do
        ranks "$mpi" 3 "$PROGRAM" same
        assert_failure 1
        one_line "the numbers: rank 1 on .* has others than rank 0"
    done
}

@test "a weight that differs in its last bit on one rank is found out, with rank and step" {
    ranks "${MPIS##* }" 3 "$PROGRAM" parameters
    assert_failure 1
    one_line "the parameters after step 2: rank 1 on .* has others than rank 0"
}

@test "each rank has cores of its own" {
    cores=$(env -u OMP_NUM_THREADS nproc)
    [ "$cores" -ge 2 ] || skip "one core"
    unset OMP_NUM_THREADS
    for mpi in $MPIS; do
        ranks "$mpi" 2 "$PROGRAM" who
        assert_success
        for r in 0 1; do
            assert_line --partial "rank $r of 2, local $r of 2, $(((cores * (r + 1)) / 2 - cores * r / 2)) threads, bound to cores"
        done
        [ "$(sed 's/.*cores //' <<<"$output" | sort -u | wc -l)" = 2 ]
    done
}

@test "a launcher of another MPI is an error, once, not as many single processes" {
    for mpi in $MPIS; do
        for other in $MPIS; do
            [ "$mpi" != "$other" ] || continue
            export MABN_MPI=$other
            ranks "$mpi" 2 "$PROGRAM" run
            assert_failure 1
            one_line "started as 2 ranks by mpi.*, but the MPI library .* sees 1"
        done
    done
}

@test "a plug-in that is not there, srun without MPI" {
    mpi=${MPIS##* }
    export MABN_MPI=nosuch
    ranks "$mpi" 2 "$PROGRAM" run
    assert_failure 1
    one_line "plug-in for the MPI 'nosuch' is not there"
    unset MABN_MPI
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 run -1 "$PROGRAM" run
    assert_output --partial "use srun --mpi=pmix"
    # The shell of a batch job is no rank.
    SLURM_PROCID=0 SLURM_NTASKS=4 run -0 "$PROGRAM" run
    assert_output "done"
}

@test "a rank that dies ends the job within 2 seconds, with one line" {
    for mpi in $MPIS; do
        for r in 0 2; do
            ranks "$mpi" 4 "$PROGRAM" die $r
            assert_failure
            # MPICH's mpiexec may have killed them all before one could speak.
            [ "$mpi" = mpich ] && ! grep -q '^test_dist:' <<<"$stderr" && continue
            one_line "rank $r on .* \(pid [0-9]+\) died at step [0-9]+"
            [ $took -le 3 ]
        done
        [ "$mpi" = mpich ] && continue
        ranks "$mpi" 2 "$PROGRAM" leave 1
        assert_failure
        one_line "rank 1 on .* died"
    done
    run nobody_left
    assert_output ""
}

@test "a rank that freezes ends the job, with one line" {
    export MABN_TIMEOUT=2
    r=0
    for mpi in $MPIS; do
        ranks "$mpi" 3 "$PROGRAM" freeze $r
        assert_failure 81
        one_line "rank $r on .* froze at step [0-9]+.*: nothing heard of it for 2 s"
        [ $took -le 6 ]
        r=1
    done
    run nobody_left
    assert_output ""
}

@test "a frozen rank is named when something else ends the job, before its time is up" {
    mpi=${MPIS##* }
    mine() { grep -lzx "MINE=$BATS_TEST_TMPDIR" $(pgrep -U "$(id -u)" -x test_dist | sed 's|.*|/proc/&/environ|') /dev/null | cut -d/ -f3; }
    MINE=$BATS_TEST_TMPDIR MABN_TIMEOUT=6 "$(launcher "$mpi")" -n 3 "$PROGRAM" freeze 1 </dev/null \
        2>"$BATS_TEST_TMPDIR/err" 3>&- &
    pid=$!
    for _ in $(seq 300); do
        [[ $(mine | xargs -r ps -o stat= -p) != *T* ]] || break
        sleep 0.05
    done
    sleep 4.5
    mine | xargs kill -TERM
    wait "$pid" || true
    stderr=$(cat "$BATS_TEST_TMPDIR/err")
    one_line "rank 1 on .* \(pid [0-9]+\) fell silent at step [0-9]+.*: nothing heard of it for [4-6] s"
    run nobody_left
    assert_output ""
}

@test "a rank that froze before MPI has started ends the job, whichever it is" {
    mpi=${MPIS# } mpi=${mpi%% *}
    for frozen in 0 1; do
        # shellcheck disable=SC2016
        run --separate-stderr clean_stderr env MABN_TIMEOUT=2,3 timeout -k 5 40 "$(launcher "$mpi")" -n 3 sh -c \
            '[ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" != '$frozen' ] || kill -STOP $$; exec "$@"' sh \
            "$PROGRAM" sums 3 </dev/null
        assert_failure 1
        one_line "MPI has not started after 3 s: a rank froze or never came"
    done
}

@test "a rank that does not come to where others wait ends the job" {
    export MABN_TIMEOUT=5,2
    ranks "${MPIS##* }" 3 "$PROGRAM" stuck 1
    assert_failure 81
    one_line "rank 1 on .* is stuck at step 20, reading data: others have waited"
}

@test "a stall that is shorter than the limits is no alarm" {
    export MABN_TIMEOUT=5,8
    mpi=${MPIS##* }
    for r in 0 1; do
        ranks "$mpi" 2 "$PROGRAM" stall $r
        assert_success
        assert_output "done"
    done
}

@test "a rank that fails says it once, and all end with its status" {
    for mpi in $MPIS; do
        ranks "$mpi" 3 "$PROGRAM" fail 1
        assert_failure 1
        one_line "rank 1 on .*: 'x.h5': the data are bad"
        ranks "$mpi" 3 "$PROGRAM" fail 0
        assert_failure 1
        one_line "^test_dist: 'x.h5': the data are bad"
    done
}

@test "SIGTERM to one rank: all stop after the same step, with 75" {
    for mpi in $MPIS; do
        ranks "$mpi" 4 "$PROGRAM" term 2
        assert_failure 75
        assert_output "stopped together"
    done
}

@test "SIGTERM to the launcher: all stop after the same step" {
    for mpi in $MPIS; do
        # Open MPI 5 kills at once, whatever we do: mabn-dist(7).
        [[ $("$(launcher "$mpi")" --version) != *"(Open MPI) 5"* ]] || continue
        "$(launcher "$mpi")" -n 3 "$PROGRAM" long </dev/null >"$BATS_TEST_TMPDIR/out" 2>/dev/null 3>&- &
        pid=$!
        sleep 1.5
        kill "$pid"
        wait "$pid" || true
        run cat "$BATS_TEST_TMPDIR/out"
        assert_output "stopped together"
    done
    run nobody_left
    assert_output ""
}
