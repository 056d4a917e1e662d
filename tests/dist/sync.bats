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
    one_line test_sync "3 ranks cannot be cut into groups of 2"
}

@test "the reference's SyncBN in two processes, with equal and unequal shares" {
    [ -n "${MABN_GOLDEN:-}" ] || skip "MABN_GOLDEN is not set"
    for mpi in $MPIS; do
        run -0 --separate-stderr ranks "$mpi" 2 "$SYNC" file "$MABN_GOLDEN/det/det_tiny_syncbn.h5"
        [ "$(grep -c '^ok' <<<"$output")" = 5 ]
    done
}
