#!/usr/bin/env bats
# tests/run-all itself, on programs that are made up.
load helpers

program() { # program NAME LINE...: of a shell script
    local file=b/tests/unit/$1; shift
    printf '%s\n' '#!/bin/sh' "$@" >"$file"
    chmod +x "$file"
}

setup_more() { mkdir -p b/tests/unit; unset ONLY; }

run_all() { JOBS=$1 run --separate-stderr "$ROOT/tests/run-all" b unit; }

@test "ONLY: the others are left out; a name that nothing has is an error" {
    for name in a b c; do program test_$name 'echo 1..1' "echo ok 1 - $name"; done
    ONLY="test_c test_a" run_all 2
    assert_success
    assert_line --index 0 --regexp '^ok +test_a '
    assert_line --index 1 --regexp '^ok +test_c '
    assert_line --index 2 "2 passed, 0 failed, 0 skipped"
    ONLY="test_a test_d" run_all 2
    assert_failure 2
    [[ $stderr == "run-all: nothing is called 'test_d'" ]]
}

@test "two at a time: each waits for the other, and reports come in the order of the names" {
    program test_a 'for i in $(seq 600); do [ -e b/here ] && break; sleep 0.1; done; [ -e b/here ] || exit 1' 'echo 1..1' 'echo ok 1 - a'
    program test_b 'touch b/here' 'echo 1..2' 'echo ok 1 - b' 'echo "ok 2 - c # skip no reason"'
    for name in test_a test_b; do sed -i "2i cd $T" b/tests/unit/$name; done
    run_all 2
    assert_success
    assert_line --index 0 --regexp '^ok +test_a +1 passed +0 failed +0 skipped'
    assert_line --index 1 --regexp '^ok +test_b +1 passed +0 failed +1 skipped'
    assert_line --index 2 "2 passed, 0 failed, 1 skipped"
}

@test "whatever way a program fails, it is counted and the run fails" {
    program test_a 'echo 1..2' 'echo ok 1 - a' 'echo not ok 2 - b' 'exit 1'
    program test_b 'echo 1..1' 'echo ok 1 - c' 'echo trouble >&2' 'kill -9 $$'
    program test_c 'echo ok 1 - d'
    program test_d 'echo 1..1' 'echo ok 1 - e'
    for jobs in 1 3; do
        run_all $jobs
        assert_failure 1
        assert_line --partial "not ok 2 - b"
        assert_line --partial "test_b: ended with status 137"
        assert_line --partial "# stderr: trouble"
        assert_line --partial "test_c: no plan"
        assert_line --index -1 "4 passed, 3 failed, 0 skipped"
    done
}

@test "interrupts reach the programs as they would alone" {
    program test_a 'trap "echo 1..1; echo ok 1 - interrupted; exit" INT' 'kill -INT $$' 'exit 1'
    run_all 2
    assert_line --index -1 "1 passed, 0 failed, 0 skipped"
}

@test "what is running ends with it" {
    program test_a "echo \$\$ >$T/pid" 'exec sleep 600'
    JOBS=2 "$ROOT/tests/run-all" b unit >out 2>&1 &
    run_all=$!
    for _ in $(seq 600); do [ -s pid ] && break; sleep 0.1; done
    kill -TERM $run_all
    ended $run_all
    assert_equal "$status" 130
    for _ in $(seq 100); do kill -0 "$(cat pid)" 2>/dev/null || return 0; sleep 0.1; done
    echo "it goes on"; return 1
}
