#!/usr/bin/env bats
# mabn-bench dist.
load helpers

setup_file() { setup_ranks; }

@test "sums by size, then a step beside one rank alone" {
    for mpi in $MPIS; do
        run -0 --separate-stderr ranks "$mpi" 2 mabn-bench dist -q -a cifar-resnet8 --size 8 -b 2 -r 1 --max-bytes 2K
        assert_line --index 0 "bytes	us/sum	GB/s"
        for bytes in 4 32 256 2048; do assert_line --regexp "^$bytes	[0-9.e+]+	[0-9.e+-]+$"; done
        assert_line --regexp '^sum of the gradients ms	[0-9.e+-]+$'
        assert_line --regexp '^hidden	[01][.0-9]*$'
        assert_line --regexp '^efficiency	[0-9.]+$'
    done
}

@test "the same as JSON" {
    run -0 --separate-stderr ranks "$ANY_MPI" 3 mabn-bench dist -a cifar-resnet8 --size 8 -b 2 -r 1 --max-bytes 64 --json
    "$PYTHON" - "$output" <<'PY'
import json, sys
lines = [json.loads(line) for line in sys.argv[1].splitlines()]
assert [x["bytes"] for x in lines[:-1]] == [4, 32] and all(x["seconds"] > 0 for x in lines[:-1])
last = lines[-1]
assert last["ranks"] == 3 and last["gradient_bytes"] > 300000 and last["efficiency"] > 0
assert last["step_seconds"] > 0 and last["alone_seconds"] > 0
PY
}

@test "one process has nothing to sum over" {
    run -1 --separate-stderr mabn-bench dist
    one_line mabn-bench "only one process: start it on several ranks"
}
