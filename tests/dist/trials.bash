# Shared by two-hosts.sh and two-nodes.sh: one training to disturb, and how to compare. `. trials.bash`
# after BUILD=…; in a folder of its own.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_NUM_THREADS=1 PATH=$BUILD/bin:$PATH
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
failed=0 PATIENCE=${PATIENCE:-120}

"$root/tests/make-images" tree 4 18 6
mabn-pack imagenet -q tree -o data.h5
steps=${STEPS:-1000}
course=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --flip 0.5 --batch 12 --norm mabn
    --window-rule iteration --window 4 --schedule constant --lr 0.1 --lr-exact --log-every 1 -j 1 -q
    --shards 4 --steps "$steps" --save-every "${SAVE_EVERY:-20}" --check-ranks 25 --train "$PWD/data.h5")

tensors() { h5dump -g /model "$1/model.h5" | tail -n +2; }
same() { # same RUN: has it ended as the undisturbed one did?
    cmp -s <(tensors "$1") <(tensors one)
}
tell() { # tell NAME SECONDS STATUS LINE OK: a row of the table
    printf '%s\t%s\t%s\t%s\t%s\n' "$@"
    [ "$5" = same ] || [ "$5" = ok ] || failed=1
}
reached() { # reached RUN STEP [PID]: wait until its log is there, while process PID lives
    for _ in $(seq $((20 * PATIENCE))); do
        grep -qs "\"t\":\"step\",\"step\":$2," "$1/metrics.jsonl" && return
        [ -z "${3:-}" ] || kill -0 "$3" 2>/dev/null || break
        sleep 0.05
    done
    echo "step $2 of $1 does not come" >&2
    return 1
}
seconds() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }
