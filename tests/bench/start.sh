#!/usr/bin/env bash
# start.sh [FOLDER]: how soon the tools compute. Of mabn-eval: when it begins to compute its first batch, of
# ResNet-50 and four photographs from FOLDER (made up without it). What is still to come then is folding the
# weights and ordering them, which -v does not tell apart from the first layers. Of mabn-train: when the
# first step of 32 images of 32 x 32 by cifar-resnet8 begins and when it is done.
#
# Each figure as its least of RUNS (5), in seconds: since the process began, and of processor time, which
# depends little on what else the machine does.
set -eu
folder=${1:-} here=$(cd "$(dirname "$0")/../.." && pwd)
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
mkdir "$T/photos"
"$here/tests/make-images" "$T/tree" 4 1 224
if [ -n "$folder" ]; then
    find "$folder" -type f -name '*.[jJ]*' | sort | head -n 4 | while read -r f; do cp "$f" "$T/photos"; done
else
    mv "$T/tree" "$T/photos/tree"
fi
"$here/tests/make-images" "$T/small" 4 8 80
mabn-pack imagenet -q "$T/small" -o "$T/small.h5"
mabn-init -q resnet50 --norm mabn -o "$T/model.h5"
for _ in $(seq "${RUNS:-5}"); do
    mabn-eval imagenet -v "$T/model.h5" "$T/photos" 2>>"$T/eval" >"$T/lines" || { cat "$T/eval"; exit 1; }
    mabn-train -v -f --arch cifar-resnet8 --size 32 --norm mabn --norm-batch 2 --batch 32 --steps 2 \
        --train "$T/small.h5" -o "$T/run" 2>>"$T/train" >"$T/lines" || { cat "$T/train"; exit 1; }
done

# least FILE WHAT: of the lines of FILE that say WHAT
least() {
    sed -n "s/.*$2 \([0-9.]*\) s after the start, \([0-9.]*\) s of .*/\1 \2/p" "$1" | awk -v what="${1##*/}: $2" '
        NR == 1 || $1 < whole { whole = $1 }
        NR == 1 || $2 < used { used = $2 }
        END { if (!NR) exit 1; printf "%-42s %5.2f s, %5.2f s of processor time\n", what, whole, used }'
}
least "$T/eval" "the first batch is computed"
least "$T/train" "the first step begins"
least "$T/train" "the first step is done"
