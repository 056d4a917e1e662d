#!/usr/bin/env bash
#SBATCH --job-name=mabn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# slurm-job.sh mabn-train OPTION... -o RUN: a training as a Slurm job that goes on until it is done.
#
#     sbatch --nodes=2 --ntasks-per-node=8 pipelines/slurm-job.sh \
#         mabn-train --preset imagenet --train train.h5 --val val.h5 -o run
#
# Two minutes before the time limit, and when the job is preempted, Slurm sends SIGTERM to the ranks: they
# save after the same step and leave with 75. The job then requeues itself, and so it does after a rank
# has died or frozen (81), or was killed (128 and more). It goes on from the newest checkpoint, with
# whatever number of ranks it then has that divides the run's shards. Give --signal more time where
# saving and a step take longer than two minutes.
#
# An error in options or data (1, 2) ends the job. So does a job that requeues RETRIES times without a
# new checkpoint: RUN/requeues counts them.
#
# Settings, from the environment: MPI=pmix (pmi2 for MPICH), RETRIES=3, SRUN="srun".
set -u
usage() { echo "usage: sbatch [OPTION]... slurm-job.sh mabn-train OPTION... -o RUN" >&2; exit 2; }
case ${1:-} in -h | --help) awk 'NR > 1 && !/^#SBATCH/ { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit ;; esac

# The run folder, among the options of mabn-train.
run='' previous=''
for word in "$@"; do
    case $previous in -o | --output) run=$word ;; esac
    case $word in --output=*) run=${word#*=} ;; -o?*) run=${word#-o} ;; esac
    previous=$word
done
if [ $# -lt 2 ] || [ -z "$run" ]; then usage; fi

newest() { # the newest checkpoint, or nothing
    local file last=''
    for file in "$run"/step-*.h5; do [ ! -e "$file" ] || last=${file##*/}; done
    echo "$last"
}

# srun forgets --cpus-per-task of the job from Slurm 22.05 on.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

before=$(newest)
read -ra launcher <<<"${SRUN:-srun}"
status=0
"${launcher[@]}" --mpi="${MPI:-pmix}" "$@" --resume </dev/null || status=$?

case $status in
    0) rm -f "$run/requeues"; exit 0 ;;
    75 | 81) ;;
    *) [ $status -ge 128 ] || exit $status ;;
esac

tries=0
if [ "$(newest)" = "$before" ]; then
    [ ! -e "$run/requeues" ] || read -r tries <"$run/requeues"
    tries=$((tries + 1))
fi
if [ $tries -gt "${RETRIES:-3}" ]; then
    echo "slurm-job.sh: no new checkpoint in '$run' after $tries attempts; the last ended with status $status" >&2
    exit $status
fi
mkdir -p "$run" && echo $tries >"$run/requeues"
echo "slurm-job.sh: status $status, $(newest) is there: the job is put back into the queue"
# This ends the script as well.
scontrol requeue "$SLURM_JOB_ID"
exit $status
