# Shared by the bats files that run the tools on several ranks: `load helpers`. MABN_BUILD is the
# build; MPIS are the MPIs that it has plug-ins for. Each test has a folder of its own.
bats_require_minimum_version 1.5.0

export PYTHON=${PYTHON:-/usr/bin/python3}
export MABN_BUILD=${MABN_BUILD:-$(cd "$BATS_TEST_DIRNAME/../.." && pwd)/build/release}

setup_ranks() { # of setup_file
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 \
        PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
    export OMP_NUM_THREADS=1 LC_ALL=C.UTF-8 PATH=$MABN_BUILD/bin:$PATH
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    MPIS=
    for mpi in openmpi mpich; do
        [ -e "$MABN_BUILD/lib/mabn/mabn-mpi-$mpi.so" ] && MPIS="$MPIS $mpi"
    done
    export ROOT MPIS ANY_MPI=${MPIS##* }
    cd "$BATS_FILE_TMPDIR" || return 1
}

setup() {
    bats_load_library bats-support
    bats_load_library bats-assert
    cd "$BATS_TEST_TMPDIR" || return 1
    for file in "$BATS_FILE_TMPDIR"/*; do
        [ ! -e "$file" ] || ln -s "$file" .
    done
}

launcher() { # launcher MPI
    command -v "mpirun.$1" || command -v mpirun
}

ranks() { # ranks MPI N COMMAND...
    local mpi=$1 n=$2; shift 2
    clean_stderr timeout -k 5 300 "$(launcher "$mpi")" -n "$n" "$@" </dev/null
}

# Exactly one line of the tool's on $stderr, and it says this: one_line TOOL REGEXP
one_line() {
    local ours
    # shellcheck disable=SC2154
    ours=$(grep "^\(\[rank [0-9]*\] \)\?$1:" <<<"$stderr")
    [ "$(wc -l <<<"$ours")" = 1 ] || fail "not one line: $stderr"
    [[ $ours =~ $2 ]] || fail "not '$2': $ours"
}

# pid_of PID RANK: the process of a rank under a launcher's process, a child or further down
pid_of() {
    local pid
    for pid in $(pgrep -P "$1"); do
        if tr '\0' '\n' <"/proc/$pid/environ" | grep -qxE "(OMPI_COMM_WORLD_RANK|PMI_RANK)=$2"; then
            echo "$pid"
            return
        fi
        pid_of "$pid" "$2" && return
    done
    return 1
}

# wait_for FILE TEXT: until a line of a growing file has the text
wait_for() {
    for _ in $(seq 600); do
        grep -qs "$2" "$1" && return
        sleep 0.05
    done
    echo "no '$2' in $1"; return 1
}

# ended PID: wait for a background job; $status is its exit status
ended() {
    for _ in $(seq 600); do kill -0 "$1" 2>/dev/null || break; sleep 0.05; done
    if kill -0 "$1" 2>/dev/null; then echo "process $1 goes on"; return 1; fi
    status=0; wait "$1" || status=$?
    if [ -e err ]; then without_nul <err >err.text; mv err.text err; fi
}

# Open MPI 5 puts NUL bytes among the lines that it forwards; a shell's variable ends there.
without_nul() { tr -d '\000'; }
clean_stderr() { # clean_stderr COMMAND...
    local status=0
    "$@" 2>"$BATS_TEST_TMPDIR/raw" || status=$?
    without_nul <"$BATS_TEST_TMPDIR/raw" >&2
    return $status
}

# steps RUN: what a run has logged of its steps and validations, without what no two runs share
steps() {
    grep -E '"t":"(step|val)"' "$1/metrics.jsonl" |
        sed 's/,"\(images_s\|data_wait\|memory\|seconds\)":[^,}]*//g'
}

# same_tensors A.h5 B.h5: every number of the two models, to the last bit
same_tensors() {
    h5diff "$1" "$2" /model /model
}
