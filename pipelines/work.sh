# shellcheck shell=bash
# Read by the pipelines, with their arguments and `usage`, which says what these are. --help prints the
# comment at the head of the script; an unknown option, or `misused`, is a line on standard error and status 2.
misused() { echo "usage: ${usage:-}" >&2; exit 2; }
case ${1:-} in
    -h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit ;;
    -*) misused ;;
esac

# `work COMMAND...` runs a tool. SIGTERM or Ctrl-C to the script is passed on to it, and its exit status
# (75: saved, and stopped) then is the script's; one that comes while no tool is at work keeps the next
# from starting.
tool='' stopped=''
trap 'stopped=1; [ -z "$tool" ] || kill -TERM "$tool" 2>/dev/null' TERM INT
work() {
    [ -z "$stopped" ] || exit 75
    "$@" & tool=$!
    [ -z "$stopped" ] || kill -TERM "$tool" 2>/dev/null
    local status=0
    wait "$tool" || status=$?
    # a trapped signal ends the first wait; the tool is still saving
    while kill -0 "$tool" 2>/dev/null; do status=0; wait "$tool" || status=$?; done
    tool=
    return "$status"
}
