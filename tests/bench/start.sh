#!/usr/bin/env bash
# start.sh [FOLDER]: how long after its start mabn-eval computes the first batch, of ResNet-50 and four
# photographs from FOLDER (made up without it); the first of RUNS (5) reads everything for the first
# time. What is still to come then is folding the weights and ordering them, which -v does not tell
# apart from the first layers.
set -eu
folder=${1:-} here=$(cd "$(dirname "$0")/../.." && pwd)
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
mkdir "$T/photos"
if [ -n "$folder" ]; then
    find "$folder" -type f -name '*.[jJ]*' | sort | head -n 4 | while read -r f; do cp "$f" "$T/photos"; done
else
    "$here/tests/make-images" "$T/tree" 4 1 224 && mv "$T/tree" "$T/photos/tree"
fi
mabn-init -q resnet50 --norm mabn -o "$T/model.h5"
for _ in $(seq "${RUNS:-5}"); do
    start=$(date +%s%N)
    mabn-eval imagenet -v "$T/model.h5" "$T/photos" 2>"$T/err" >/dev/null
    echo "$(sed -n 's/.*\(the first batch.*\)/\1/p' "$T/err"), the whole took $((($(date +%s%N) - start) / 1000000)) ms"
done
