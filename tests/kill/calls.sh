#!/usr/bin/env bash
# calls.sh BIN: not random moments but every one that matters: mabn-pack is killed at its first,
# second, ... write, sync, truncation, rename and unlink, and again with that call failing for want
# of space. After each the final name is absent or whole, and the same command gives the right file.
# Needs strace.
set -euo pipefail
export LC_ALL=C ASAN_OPTIONS=detect_leaks=0
bin=$1
command -v strace >/dev/null || { echo "calls: skipped, strace is not installed"; exit 0; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$here/../make-images" "$work/tree" 2 200 40
cd "$work"
pack() { "$bin/mabn-pack" imagenet -q -j1 tree -o "$1"; }
pack want.h5
points=0 wrong=0

trial() { # trial CALL N EFFECT STATUS
    rm -f x.h5*
    local status=0
    { # the outer redirection is for the shell's remarks on killed programs
        strace -qq -f -o trace -e "trace=$1" -e "inject=$1:$3:when=$2" \
            "$bin/mabn-pack" imagenet -q -j1 tree -o x.h5 2>log || status=$?
    } 2>/dev/null
    points=$((points + 1))
    if [ -e x.h5 ] && ! cmp -s x.h5 want.h5; then
        echo "$1 $2 $3: the file is not whole"; wrong=$((wrong + 1))
    fi
    if [ "$4" = 1 ] && { [ "$status" -ne 1 ] || [ "$(wc -l <log)" -ne 1 ]; }; then
        echo "$1 $2 $3: exit $status: $(cat log)"; wrong=$((wrong + 1))
    fi
    [ -e x.h5 ] || pack x.h5
    if ! cmp x.h5 want.h5; then wrong=$((wrong + 1)); fi
    rm -f x.h5
    if [ -n "$(find . -name 'x.h5*')" ]; then
        echo "$1 $2 $3: left behind: $(echo x.h5*)"; wrong=$((wrong + 1))
    fi
}

for call in pwrite64 ftruncate fsync rename unlink; do
    rm -f x.h5*
    strace -qq -f -o trace -e "trace=$call" "$bin/mabn-pack" imagenet -q -j1 tree -o x.h5
    count=$(grep -c "$call(" trace || true)
    for ((n = 1; n <= count; n++)); do
        trial $call $n signal=SIGKILL 137
        # unlink may fail: what it would remove is swept later
        [ $call = unlink ] || trial $call $n error=ENOSPC 1
    done
done
echo "pack: $points points of failure in its system calls, $wrong wrong"
[ "$wrong" -eq 0 ]
