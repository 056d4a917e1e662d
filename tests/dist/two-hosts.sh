#!/usr/bin/env bash
# two-hosts.sh [BUILD]: trainings on two hosts (network namespaces, see `hosts`) under Open MPI: whole, with a
# rank killed, frozen, cut off, and stopped; then gone on with on one host. Prints a table: trial, seconds from
# the fault until no rank is left and until the launcher is back, its status, what was said, and whether the
# resumed run is the undisturbed one, after exactly one line that names the rank or the host. "saving" after the
# trial's name: rank 0 was writing a checkpoint at that moment. TRIALS=1 is how often each fault happens; KILLS,
# FREEZES, CUTS and STOPS set it for one of them. HOLD=1: every fault falls into the writing of a checkpoint, which
# a shim holds up. A busy machine needs PATIENCE=600: after so many seconds a launcher is killed. Needs root.
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
trap 'for p in $(ours); do kill -KILL "$p"; done
    "$here/hosts" down; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
inside() { # is it on one of the hosts?
    local net h
    net=$(readlink "/proc/$1/ns/net") || return 1
    for h in /run/netns/mabn-h*; do [ "net:[$(stat -c %i "$h")]" = "$net" ] && return; done
    return 1
}
ours() { # launchers, daemons and ranks on the hosts
    local p
    for p in $(pgrep mpirun) $(pgrep -x orted) $(pgrep -x mabn-train); do
        if inside "$p"; then echo "$p"; fi
    done
}
launcher=$(command -v mpirun.openmpi || command -v mpirun)
hold=()
if [ -n "${HOLD:-}" ]; then
    cc -shared -fPIC -O1 -o shim.so "$root/tests/cli/durable_shim.c" -ldl || exit 1
    hold=(env "LD_PRELOAD=$work/shim.so" "DURABLE_HOLD=$work/held")
fi

start() { # start RUN HOSTS RANKS OPTION...: in the background, as $pid
    local run=$1 hosts=$2 n=$3; shift 3
    "$here/on" h1 exec "$launcher" -x PATH -x OMP_NUM_THREADS -n "$n" --host "$hosts" \
        "${hold[@]}" mabn-train "${course[@]}" -o "$work/$run" "$@" </dev/null >out 2>err &
    pid=$!
}
alive() { # and no zombie
    local state
    { read -r _ _ state _ <"/proc/$1/stat"; } 2>/dev/null && [ "$state" != Z ]
}
gone() { # gone PID...: wait until none of them lives
    local p until=$((SECONDS + PATIENCE))
    for p in "$@"; do
        while alive "$p" && [ $SECONDS -lt $until ]; do sleep 0.02; done
    done
}
finish() { # a launcher that stays is killed after PATIENCE seconds
    gone $pid
    if alive $pid; then kill -KILL $pid; fi
    status=0
    wait $pid || status=$?
}
rank() { # rank R: its process
    local p
    for p in $(pgrep -x mabn-train); do
        grep -qzx "OMPI_COMM_WORLD_RANK=$1" "/proc/$p/environ" 2>/dev/null || continue
        grep -qz "^$work/" "/proc/$p/cmdline" 2>/dev/null && echo "$p"
    done
}
held() { # held RUN: wait until rank 0 writes a checkpoint, which then does not end
    [ ${#hold[@]} -gt 0 ] || return 0
    touch held
    until compgen -G "$1/step-*.h5.tmp-*" >/dev/null; do alive $pid || return; sleep 0.02; done
}
said() { grep -o 'mabn-train: .*' err || grep -E 'remote host:|lost communication' err | tr -s ' \n' ' '; }
named() { # named FAULT RANK PID: is there one line of ours, and is it about this one?
    [ "$(grep -c 'mabn-train: ' err)" = 1 ] || return
    case $1 in
    kill | freeze) grep -q "mabn-train: rank $2 on h[12] (pid $3) .* at step [0-9]" err ;;
    cut) grep -q 'mabn-train: rank [0-9]* on h2 (pid [0-9]*) .* at step [0-9]' err ;;
    esac
}

mabn-train "${course[@]}" -o one >/dev/null
printf 'trial\tseconds\tstatus\tsaid\tresult\n'
began=$(date +%s.%N)
start whole h1:2,h2:2 4
finish
tell "4 ranks on 2 hosts" "$(seconds "$began")" $status "" "$(same whole && echo same || echo other)"

trials=${TRIALS:-1}
declare -A often=([kill]=${KILLS:-$trials} [freeze]=${FREEZES:-$trials} [cut]=${CUTS:-$trials} [stop]=${STOPS:-$trials})
most=$(printf '%s\n' "${often[@]}" | sort -n | tail -n 1)
for ((i = 1; i <= most; i++)); do
    for fault in kill freeze cut stop; do
        [ $i -le "${often[$fault]}" ] || continue
        run=$fault$i
        start "$run" h1:2,h2:2 4
        reached "$run" $((steps / 15 + RANDOM % (steps / 2))) $pid || { sed 's/^/# /' err >&2; finish; failed=1; continue; }
        sleep "0.0$((RANDOM % 90 + 10))"
        held "$run"
        r=$((RANDOM % 4)) which='' victim=''
        [ "$fault" = cut ] || [ "$fault" = stop ] || victim=$(rank $r)
        all=$(ours | while read -r p; do grep -lx mabn-train "/proc/$p/comm" | cut -d/ -f3; done)
        saving=$(compgen -G "$run/step-*.h5.tmp-*" >/dev/null && echo " saving")
        began=$(date +%s.%N)
        case $fault in
        kill) kill -KILL "$victim" && which=" $r" ;;
        freeze) kill -STOP "$victim" && which=" $r" ;;
        cut) "$here/hosts" cut h2 ;;
        stop) kill -USR1 $pid && rm -f held ;;
        esac
        # shellcheck disable=SC2086
        gone $all
        took=$(seconds "$began")
        finish
        took="$took, $(seconds "$began")" line=$(said | head -n 1) code=$status
        named $fault $r "$victim" && line_ok=1 || line_ok=
        "$here/hosts" join h2
        rm -f held
        for _ in $(seq 100); do
            left=$(ours | wc -l)
            [ "$left" = 0 ] && break
            sleep 0.2
        done
        start "$run" h1:2 2 --resume # one host, another number of ranks
        finish
        result=$(same "$run" && echo same || echo other)
        [ "$line_ok" ] || result="$result, but wrong lines"
        [ "$left" = 0 ] || result="$left left"
        [ $status = 0 ] || { result="resuming: $status"; sed 's/^/# /' err >&2; }
        tell "$fault$which$saving" "$took" "$code" "$line" "$result"
    done
done
exit $failed
