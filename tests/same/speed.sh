#!/usr/bin/env bash
# speed.sh OLDBIN NEWBIN: is the new build as fast as the old one, and does it need no more memory?
# Both run in turns, ROUNDS times (default 5), so that what else the machine does meets both.
#
# Prints for each kind of work the medians of images a second of both builds, and new / old of the
# medians and of the best rounds; then the peak memory (maximal resident set, MiB) of each kind and
# of a training with validation. ONLY=PATTERN runs the kinds of work whose name matches.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: speed.sh OLDBIN NEWBIN" >&2; exit 2; }
export LC_ALL=C OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
here=$(cd "$(dirname "$0")" && pwd)
old=$(cd "$1" && pwd)
# shellcheck disable=SC2034 # used by name
new=$(cd "$2" && pwd)
rounds=${ROUNDS:-5} only=${ONLY:-.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat >kinds <<'END'
resnet50-inference resnet50 --batch 8 --size 224 --norm mabn --rounds 5
resnet50-training resnet50 --batch 8 --size 224 --norm mabn --norm-batch 2 --training --rounds 3
cifar-resnet14-inference cifar-resnet14 --batch 32 --size 32 --norm mabn --rounds 100
cifar-resnet14-training cifar-resnet14 --batch 32 --size 32 --norm mabn --norm-batch 2 --training --rounds 30
END

number() { sed "s/.*\"$2\":\([0-9.e+-]*\).*/\1/" <<<"$1"; }

# benched BUILD KIND ARGUMENT...: a line "KIND BUILD images/s MiB" for the results
benched() {
    local build=$1 kind=$2 json; shift 2
    json=$("${!build}/mabn-bench" net "$@" --json -q)
    echo "$kind $build $(number "$json" images_per_second) $(number "$json" peak_bytes)" >>results
}

# trained BUILD: likewise, of a training with validations; its images/s count the whole run
trained() {
    rm -rf run
    /usr/bin/python3 - "${!1}/mabn-train" "$1" >>results <<'END'
import resource, subprocess, sys, time
steps, batch = 6, 8
begin = time.monotonic()
subprocess.run([sys.argv[1], *"--arch resnet50 --size 96 --augment plain --crop resized --norm mabn -B 2 --lr-exact "
                f"--lr 0.01 --steps {steps} --batch {batch} --val-every 3 --train data.h5 --val data.h5 "
                "-o run -q -l /dev/null".split()], check=True)
seconds = time.monotonic() - begin
print("validated-training", sys.argv[2], steps * batch / seconds,
      resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
END
}

"$here/../make-images" tree 4 8 60
"$old/mabn-pack" imagenet -q tree -o data.h5
: >results
for ((round = 0; round < rounds; round++)); do
    # Who goes first changes from round to round.
    if ((round % 2)); then order="new old"; else order="old new"; fi
    while read -r kind arguments; do
        [[ $kind =~ $only ]] || continue
        # shellcheck disable=SC2086
        for build in $order; do benched "$build" "$kind" $arguments; done
    done <kinds
    if [[ validated-training =~ $only ]]; then
        for build in $order; do trained "$build"; done
    fi
done

awk '
function median(key,   n, i, j, t, a) {
    n = count[key]
    for (i = 1; i <= n; i++) a[i] = value[key, i]
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && a[j - 1] > a[j]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
    return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}
{
    if (!($1 in seen)) { seen[$1] = 1; kinds[++n_kinds] = $1 }
    value[$1 " " $2, ++count[$1 " " $2]] = $3
    if ($3 > best[$1 " " $2]) best[$1 " " $2] = $3
    if ($4 > peak[$1 " " $2]) peak[$1 " " $2] = $4
}
END {
    printf "%-26s %10s %10s %8s %8s   %9s %9s %8s\n", "images/s, MiB", "old", "new", "new/old", "of best", "old MiB", "new MiB", "new/old"
    for (i = 1; i <= n_kinds; i++) {
        o = kinds[i] " old"; w = kinds[i] " new"
        printf "%-26s %10.4g %10.4g %8.3f %8.3f   %9.1f %9.1f %8.3f\n", kinds[i], median(o), median(w),
               median(w) / median(o), best[w] / best[o], peak[o] / 1048576, peak[w] / 1048576, peak[w] / peak[o]
    }
}' results
