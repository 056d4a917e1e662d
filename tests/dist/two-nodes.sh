#!/usr/bin/env bash
# two-nodes.sh [BUILD]: pipelines/slurm-job.sh under a Slurm of two nodes on this machine (see `slurm`): a job is
# stopped by SIGTERM, requeues itself and ends; another loses a rank; then one goes on with a run on one node.
# Prints a table as two-hosts.sh does. Needs root.
set -u
here=$(cd "$(dirname "$0")" && pwd) BUILD=$(realpath "${1:-build/release}")
work=$(mktemp -d "${TMPDIR:-/tmp}/mabn-nodes.XXXXXX")
cd "$work" || exit 1
# shellcheck source=trials.bash
. "$here/trials.bash"
# Both nodes are this machine: their ranks would take each other's shared memory for their own.
export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
trap '"$here/slurm" down "$work/s"; rm -rf "$work"' EXIT
"$here/slurm" up "$work/s" 2 4 || exit 1
export SLURM_CONF=$work/s/slurm.conf

submit() { # submit RUN NODES TASKS: its number as $job
    job=$(sbatch --parsable --nodes="$2" --ntasks="$3" --cpus-per-task=1 --output="$work/$1.log" \
        "$root/pipelines/slurm-job.sh" mabn-train "${course[@]}" -o "$work/$1")
}
ended() { # wait for the job; how often it was restarted, as $restarts
    for _ in $(seq $((10 * PATIENCE))); do
        state=$(scontrol -o show job "$job" | grep -o 'JobState=[A-Z]*')
        case $state in *COMPLETED | *FAILED | *CANCELLED | *TIMEOUT) break ;; esac
        sleep 0.2
    done
    restarts=$(scontrol -o show job "$job" | grep -o 'Restarts=[0-9]*')
}
result() { # result RUN RESTARTS
    if [ "$state" != JobState=COMPLETED ]; then echo "$state"
    elif [ "$restarts" != "Restarts=$2" ]; then echo "$restarts"
    elif same "$1"; then echo same; else echo other; fi
}

mabn-train "${course[@]}" -o one >/dev/null
printf 'trial\tseconds\tstatus\tsaid\tresult\n'
began=$(date +%s.%N)
submit whole 2 4
ended
tell "4 ranks on 2 nodes" "$(seconds "$began")" "${state#*=}" "" "$(result whole 0)"

submit term 2 4
reached term 80 && scancel --signal=TERM "$job"
began=$(date +%s.%N)
ended
tell "SIGTERM, requeued" "$(seconds "$began")" "${state#*=}" "$(grep -o 'stopped by.*' term.log | head -n 1)" "$(result term 1)"

submit kill 2 4
reached kill 80 && kill -KILL "$(pgrep -f "mabn-train.*-o $work/kill" | tail -n 1)"
began=$(date +%s.%N)
ended
tell "a rank killed, requeued" "$(seconds "$began")" "${state#*=}" "$(grep -o 'mabn-train: rank.*' kill.log | head -n 1)" "$(result kill 1)"

# Half-way on two nodes, then on one with two ranks.
submit move 2 4
reached move 80 && scancel "$job"
ended
began=$(date +%s.%N)
submit move 1 2
ended
tell "2 nodes, then 1" "$(seconds "$began")" "${state#*=}" "" "$(result move 0)"
exit $failed
