#!/usr/bin/env bash
# ranks.sh BIN [TRIALS]: kill -9 a random rank of a training at a random moment, or in every fifth trial
# stop it (SIGSTOP); what goes on after it, each time on another number of ranks, must leave bit for bit
# what an undisturbed run of one process leaves. The ranks must end in time, with one line. Each trial
# disturbs up to three jobs, then lets one finish.
#
# 2026-11-26, two cores beside twenty other processes: Open MPI 8 trials, 9 ranks hit, 8 lines (one rank
# died before it had met the others), the last rank gone after at most 3.8 s (SIGSTOP with a limit of 3 s
# included); MPICH 5 trials, 6 ranks hit, 6 lines, 3.0 s; all runs the same bits.
#
# SIGSTOP comes after the first step only. A rank that freezes while MPI starts is in tests/dist/dist.bats.
#
# MPI=openmpi|mpich: whose mpirun; MPICH's own mpiexec may end a job before a rank has said its line, so
# there lines are only counted.
set -euo pipefail
export LC_ALL=C OMP_NUM_THREADS=1 MABN_TIMEOUT=${MABN_TIMEOUT:-3}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
bin=$(cd "$1" && pwd) trials=${2:-50} mpi=${MPI:-openmpi}
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$bin/../lib/mabn/mabn-mpi-$mpi.so" ]; then echo "ranks: no $mpi here: skipped"; exit 0; fi
mpirun=$(command -v "mpirun.$mpi" || command -v mpirun)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
now() { date +%s%N; }

cd "$work"
"$here/../make-images" tree 4 48 6
"$bin/mabn-pack" imagenet -q tree -o data.h5

course=(--arch cifar-resnet8 --base-width 4 --norm mabn --norm-batch 2 --batch 8 --shards 4 --epochs 20
    --augment plain --size 16 --flip 0.5 --train ../data.h5 --val ../data.h5 --val-every 50
    --save-every 20 --log-every 4 --resume -o run -q -l /dev/null)
train() { exec "$bin/mabn-train" "${course[@]}"; }
train_on() { exec "$mpirun" -n "$1" "$bin/mabn-train" "${course[@]}" </dev/null; }

compare() { # compare FOLDER FOLDER
    local f
    for f in model.h5 "$(basename "$(find "$1/run" -name 'step-*.h5' | sort | tail -n 1)")"; do
        cmp "$1/run/$f" "$2/run/$f" || return 1
    done
    for f in "$1" "$2"; do
        grep -v '"t":"start"' "$f/run/metrics.jsonl" |
            sed -E 's/"(images_s|data_wait|memory|seconds)":[^,}]*//g' >"$f/lines"
    done
    cmp "$1/lines" "$2/lines"
}

# The processes of the ranks under a launcher.
ranks_of() {
    local pid
    for pid in $(pgrep -P "$1" || true); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = mabn-train ]; then echo "$pid"; else ranks_of "$pid"; fi
    done
}
gone() { # gone PID...: none of them lives
    local pid
    for pid in "$@"; do
        case $(ps -o stat= -p "$pid" 2>/dev/null) in '' | Z*) ;; *) return 1 ;; esac
    done
}

mkdir reference measure
(cd reference && train)
start=$(now)
(cd measure && train_on 2)
duration=$(($(now) - start))
compare reference measure

starts() { grep -c '"t":"start"' trial/run/metrics.jsonl 2>/dev/null || true; }
has_begun() { # has_begun STARTS PID: the job has begun to train, or ended
    for _ in $(seq 200); do
        [ "$(starts)" = "$1" ] && kill -0 "$2" 2>/dev/null || return 0
        sleep 0.05
    done
}

# disturb SIGNAL LIMIT: one job in trial/, hit at random; false when it did not end as it has to.
disturb() {
    local n=$((RANDOM % 2 ? 2 : 4)) at pids pid victim hit took before
    before=$(starts)
    (cd trial && train_on $n) 2>>err & pid=$!
    at=$(((RANDOM * 32768 + RANDOM) % duration))
    if [ "$1" = STOP ] || ((RANDOM % 4)); then has_begun "$before" $pid; at=$((at / 3)); fi
    sleep "$((at / 1000000000)).$(printf '%09d' $((at % 1000000000)))"
    read -ra pids <<<"$(ranks_of $pid | tr '\n' ' ')"
    if [ "${#pids[@]}" -lt $n ]; then wait $pid || true; return 0; fi # not begun, or done
    victim=${pids[RANDOM % n]}
    hit=$(now)
    kill "-$1" "$victim" 2>/dev/null || true
    hits=$((hits + 1))
    until gone "${pids[@]}"; do
        took=$((($(now) - hit) / 1000000))
        if [ $took -gt "$2" ]; then
            echo "still there $took ms after $1: ${pids[*]}"
            kill -9 "${pids[@]}" $pid 2>/dev/null || true
            return 1
        fi
        sleep 0.02
    done
    took=$((($(now) - hit) / 1000000))
    if [ $took -gt $longest ]; then longest=$took; fi
    for _ in $(seq 100); do kill -0 $pid 2>/dev/null || return 0; sleep 0.1; done
    launchers=$((launchers + 1)) # Open MPI's, when a rank dies while it calls in
    kill -9 $pid 2>/dev/null || true
}

hits=0 longest=0 wrong=0 lines=0 launchers=0
for ((t = 1; t <= trials; t++)); do
    rm -rf trial err; mkdir trial; touch err
    signal=KILL limit=5000
    if ((t % 5 == 0)); then signal=STOP limit=15000; fi
    for ((k = 1; k <= 3; k++)); do
        [ ! -e trial/run/model.h5 ] || break
        said=$(grep -c '^mabn-train: ' err || true) begun=$(starts) old=$hits
        disturb $signal $limit || wrong=$((wrong + 1))
        said=$(($(grep -c '^mabn-train: ' err || true) - said))
        lines=$((lines + said))
        # One that dies before it has met the others is the launcher's to tell of.
        if [ "$mpi" = openmpi ] && [ $hits -gt $old ] && [ "$(starts)" != "$begun" ] &&
            [ ! -e trial/run/model.h5 ] && [ $said -ne 1 ]; then
            echo "$said lines:"; tail -n 20 err
            wrong=$((wrong + 1))
        fi
    done
    (cd trial && train_on $((1 << RANDOM % 3))) 2>>err
    compare reference trial || wrong=$((wrong + 1))
    if [ -n "$(find trial -name '*.tmp-*')" ]; then echo "left behind:"; find trial -name '*.tmp-*'; wrong=$((wrong + 1)); fi
done
echo "ranks under $mpi: $trials trials, $hits ranks hit, $lines lines, longest end ${longest} ms," \
    "$launchers launchers stuck, $wrong wrong"
[ "$wrong" -eq 0 ]
