# Shared by the bats files: `load helpers`. Tools come from $MABN_BIN; each test has its own
# folder, $T, which is the working directory. A file's own set-up goes into setup_more.
bats_require_minimum_version 1.5.0
bats_load_library bats-support
bats_load_library bats-assert
bats_load_library bats-file

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
export ROOT
export MABN_BIN=${MABN_BIN:-$ROOT/build/release/bin}
export PATH=$MABN_BIN:$PATH
export LC_ALL=C.UTF-8 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
export PYTHON=${PYTHON:-/usr/bin/python3}

setup() {
    T=$BATS_TEST_TMPDIR
    cd "$T" || return 1
    if declare -F setup_more >/dev/null; then setup_more; fi
}

# Waits for a background job that is to end, two minutes at most; $status is its exit status.
ended() {
    for _ in $(seq 1200); do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
    if kill -0 "$1" 2>/dev/null; then echo "process $1 goes on"; return 1; fi
    status=0; wait "$1" || status=$?
}

# A test that failed half-way must not leave running what it started, which may never end.
teardown() {
    local job
    for job in $(jobs -p); do
        pkill -KILL -P "$job" 2>/dev/null || true # a script's own children
        kill -KILL "$job" 2>/dev/null || true
    done
}

# Real data is optional: skip, and say so.
need_shared() { [ -n "${MABN_SHARED:-}" ] || skip "MABN_SHARED is not set"; }
# Looks for the module only: to import PyTorch takes more than a second.
need_python() {
    $PYTHON -c 'import sys, importlib.util as u; sys.exit(u.find_spec(sys.argv[1]) is None)' "${1:-h5py}" ||
        skip "python3-${1:-h5py} is not installed"
}

# Only where there is no GPU to be used; $why is then what tools say of it.
no_gpu() {
    run --separate-stderr mabn-bench net cifar-resnet8 --size 8 -b 1 -r 1 --device cuda
    # shellcheck disable=SC2154
    [ "$status" -ne 0 ] || skip "there is a GPU here"
    # shellcheck disable=SC2034,SC2154
    why=${stderr#mabn-bench: }
}

# Exactly one line on stderr, holding the text, and the given status: fails STATUS 'text' command...
fails() {
    local want=$1 text=$2; shift 2
    run --separate-stderr "$@"
    assert_equal "$status" "$want"
    # shellcheck disable=SC2154
    if [[ $stderr != *"$text"* ]]; then echo "stderr: $stderr"; echo "wanted: $text"; return 1; fi
    if [ "$(printf '%s\n' "$stderr" | wc -l)" -ne 1 ]; then echo "more than one line: $stderr"; return 1; fi
}
