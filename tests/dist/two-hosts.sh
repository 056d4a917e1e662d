#!/usr/bin/env bash
# two-hosts.sh [BUILD]: trainings on two hosts (network namespaces, see `hosts`) under Open MPI: whole, with a
# rank killed, frozen, cut off, and stopped; then gone on with on one host. Prints a table: trial, seconds from
# the fault until the launcher is back, its status, what was said, and whether the resumed run is the undisturbed
# one. TRIALS=1 is how often each fault happens. Needs root.
set -u
here=$(cd "$(dirname "$0")" && pwd) BUILD=$(realpath "${1:-build/release}")
work=$(mktemp -d "${TMPDIR:-/tmp}/mabn-hosts.XXXXXX")
cd "$work" || exit 1
# shellcheck source=trials.bash
. "$here/trials.bash"
export OMPI_MCA_plm_rsh_agent=$here/on OMPI_MCA_btl=tcp,vader,self
export OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 OMPI_MCA_oob_tcp_if_include=10.77.0.0/24
# mpirun must notice a lost host before the ranks do: what they then send to it would stop its keepalive probes.
export OMPI_MCA_oob_tcp_keepalive_time=3 OMPI_MCA_oob_tcp_keepalive_intvl=2 OMPI_MCA_oob_tcp_keepalive_probes=3
"$here/hosts" down 2>/dev/null
"$here/hosts" up 2 || exit 1
trap 'for p in $(pgrep -x orted) $(pgrep -x mabn-train); do inside "$p" && kill -KILL "$p"; done
    "$here/hosts" down; rm -rf "$work"' EXIT
inside() { # is it on one of the hosts?
    local net h
    net=$(readlink "/proc/$1/ns/net") || return 1
    for h in /run/netns/mabn-h*; do [ "net:[$(stat -c %i "$h")]" = "$net" ] && return; done
    return 1
}
launcher=$(command -v mpirun.openmpi || command -v mpirun)

start() { # start RUN HOSTS RANKS OPTION...: in the background, as $pid
    local run=$1 hosts=$2 n=$3; shift 3
    "$here/on" h1 "$launcher" -x PATH -x OMP_NUM_THREADS -n "$n" --host "$hosts" \
        mabn-train "${course[@]}" -o "$work/$run" "$@" </dev/null >out 2>err &
    pid=$!
}
finish() { # a launcher that stays is killed after two minutes
    (sleep 120; kill -KILL "$pid") 2>/dev/null &
    local guard=$!
    status=0
    wait "$pid" || status=$?
    kill $guard 2>/dev/null
}
rank() { # rank R: its process
    local p
    for p in $(pgrep -x mabn-train); do
        grep -qzx "OMPI_COMM_WORLD_RANK=$1" "/proc/$p/environ" 2>/dev/null || continue
        grep -qz "^$work/" "/proc/$p/cmdline" 2>/dev/null && echo "$p"
    done
}
said() { # our line, or mpirun's about the host
    grep -o 'mabn-train: .*' err || grep -E 'remote host:|lost communication' err | tr -s ' \n' ' '
}

mabn-train "${course[@]}" -o one >/dev/null
printf 'trial\tseconds\tstatus\tsaid\tresult\n'
began=$(date +%s.%N)
start whole h1:2,h2:2 4
finish
tell "4 ranks on 2 hosts" "$(seconds "$began")" $status "" "$(same whole && echo same || echo other)"

for i in $(seq "${TRIALS:-1}"); do
    for fault in kill freeze cut stop; do
        run=$fault$i
        start "$run" h1:2,h2:2 4
        reached "$run" $((60 + RANDOM % 200)) || { failed=1; continue; }
        began=$(date +%s.%N) r=$((RANDOM % 4)) which=''
        case $fault in
        kill) kill -KILL "$(rank $r)" && which=" $r" ;;
        freeze) kill -STOP "$(rank $r)" && which=" $r" ;;
        cut) "$here/hosts" cut h2 ;;
        stop) kill -USR1 "$(pgrep -f "^$launcher.*-o $work/$run" | head -n 1)" ;;
        esac
        finish
        took=$(seconds "$began") line=$(said | head -n 1) code=$status
        "$here/hosts" join h2
        for _ in $(seq 100); do
            left=0
            for p in $(pgrep -x mabn-train); do if inside "$p"; then left=$((left + 1)); fi; done
            [ $left = 0 ] && break
            sleep 0.2
        done
        start "$run" h1:2 2 --resume # one host, another number of ranks
        finish
        result=$(same "$run" && echo same || echo other)
        [ "$left" = 0 ] || result="$left left"
        [ $status = 0 ] || { result="resuming: $status"; sed 's/^/# /' err >&2; }
        tell "$fault$which" "$took" "$code" "$line" "$result"
    done
done
exit $failed
