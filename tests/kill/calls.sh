#!/usr/bin/env bash
# calls.sh BIN: not random moments but every one that matters: mabn-pack and mabn-convert are killed at
# their first, second, ... write, sync, truncation, rename and unlink, and again with that call failing
# for lack of space. After each the output is absent or whole, and the same command gives the right
# file and leaves nothing else. Needs strace.
set -euo pipefail
export LC_ALL=C ASAN_OPTIONS=detect_leaks=0
bin=$(cd "$1" && pwd)
command -v strace >/dev/null || { echo "calls: skipped, strace is not installed"; exit 0; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$here/../make-images" "$work/tree" 2 200 40
cd "$work"
"$bin/mabn-init" cifar-resnet8 --base-width 4 -q -o net.h5
points=0 wrong=0

say() { echo "$*"; wrong=$((wrong + 1)); }
trial() { # trial CALL N EFFECT STATUS
    rm -f "$out" "$out".*
    local status=0
    { # the outer redirection is for the shell's remarks on killed programs
        strace -qq -f -o trace -e "trace=$1" -e "inject=$1:$3:when=$2" \
            "${command[@]}" -o "$out" 2>log || status=$?
    } 2>/dev/null
    # strace counts the calls of each thread for itself: the last of them may not come
    if [ "$status" -ne 0 ] || grep -q INJECTED trace; then points=$((points + 1)); fi
    if [ -e "$out" ] && ! cmp -s "$out" want; then say "$out, $1 $2 $3: the file is not whole"; fi
    if [ "$4" = 1 ] && grep -q INJECTED trace && { [ "$status" -ne 1 ] || [ "$(wc -l <log)" -ne 1 ]; }; then
        say "$out, $1 $2 $3: exit $status: $(cat log)"
    fi
    [ -e "$out" ] || "${command[@]}" -o "$out"
    cmp "$out" want || say "$out, $1 $2 $3: another file the second time"
    rm -f "$out"
    if [ -n "$(find . -name "$out*")" ]; then say "$out, $1 $2 $3: left behind: $(echo "$out"*)"; fi
}

points_of() { # points_of OUT COMMAND...: every call of the command that makes OUT
    out=$1 command=("${@:2}") points=0
    "${command[@]}" -o "$out"
    mv "$out" want
    local call count n
    for call in pwrite64 ftruncate fsync rename unlink; do
        rm -f "$out" "$out".*
        strace -qq -f -o trace -e "trace=$call" "${command[@]}" -o "$out"
        count=$(grep -c "$call(" trace || true)
        for ((n = 1; n <= count; n++)); do
            trial $call $n signal=SIGKILL 137
            # unlink may fail: what it would remove is swept later
            [ $call = unlink ] || trial $call $n error=ENOSPC 1
        done
    done
    echo "$(basename "${command[0]}") to $out: $points points of failure in its system calls"
}

points_of x.h5 "$bin/mabn-pack" imagenet -q -j1 tree
for out in y.h5 y.pth y.safetensors y.onnx; do points_of $out "$bin/mabn-convert" -q net.h5; done
echo "calls: $wrong wrong"
[ "$wrong" -eq 0 ]
