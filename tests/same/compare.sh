#!/usr/bin/env bash
# compare.sh OLDBIN NEWBIN: are the numbers of two builds the same, bit for bit? Records both (see
# record.sh), names what differs and prints "N same, N different". OLDBIN may be a folder that
# record.sh has filled.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: compare.sh OLDBIN NEWBIN" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# recorded FOLDER NAME: prints the folder of its record
recorded() {
    if [ ! -x "$1/mabn-train" ]; then echo "$1"; return; fi
    "$here/record.sh" "$1" "$work/$2"
    echo "$work/$2"
}
old=$(recorded "$1" old)
new=$(recorded "$2" new)

same=0 different=0
while read -r name; do
    if cmp -s "$old/$name" "$new/$name"; then
        same=$((same + 1))
        continue
    fi
    different=$((different + 1))
    echo "different: $name"
    diff "$old/$name" "$new/$name" 2>&1 | cut -c 1-200 | head -n "${LINES_SHOWN:-4}" | sed 's/^/    /' || true
done < <({ ls "$old"; ls "$new"; } | sort -u)
echo "$same same, $different different"
[ "$different" -eq 0 ] && [ "$same" -gt 0 ]
