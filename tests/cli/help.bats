#!/usr/bin/env bats
# What every tool must do, and that --help and the manual say the same.
load helpers

tools() { for t in "$MABN_BIN"/mabn-*; do basename "$t"; done; }

# "mabn-pack imagenet", "mabn-pack idx", ... or the tool alone
commands_of() {
    if "$1" --help | grep -q '^Commands:'; then
        "$1" --list-options | sed "s/^/$1 /"
    else
        echo "$1"
    fi
}

@test "every tool has --help on stdout, exit 0" {
    for t in $(tools); do
        run --separate-stderr "$t" --help
        assert_success
        [ -z "$stderr" ]
        assert_line --index 0 --partial "usage: $t"
    done
}

@test "every tool has --version" {
    for t in $(tools); do
        run --separate-stderr "$t" --version
        assert_success
        assert_line --index 0 --regexp "^$t [0-9]+\.[0-9]+\.[0-9]+$"
        # who computes nothing does not take the time to load it
        case $t in
        mabn-score | mabn-plot | mabn-pack | mabn-draw | mabn-info | mabn-compose) refute_line --partial oneDNN ;;
        *) assert_line --index 2 --regexp '^oneDNN [0-9.]+ \(.*\), .*libdnnl' ;;
        esac
    done
}

@test "an unknown option is one line on stderr, exit 2" {
    for t in $(tools); do
        while read -r c; do
            # shellcheck disable=SC2086
            fails 2 "unknown option '--no-such-option'" $c --no-such-option
        done < <(commands_of "$t")
    done
}

@test "--help to a full disk fails" {
    for t in $(tools); do
        fails 1 "cannot write standard output: No space left on device" bash -c "$t --help > /dev/full"
    done
}

# It keeps what was wrong with the first write that failed.
@test "base/out prints all that goes to standard output" {
    run grep -nE '\b(printf|puts|putchar|vprintf) ?\(|\bstdout\b' -r "$ROOT/cmd" "$ROOT/lib" --include='*.c' --include='*.cu' --exclude=out.c
    assert_output ""
}

@test "every tool has a manual page" {
    for t in $(tools); do
        assert_file_exist "$ROOT/man/$t.1"
    done
}

@test "mandoc has nothing to say of the manual" {
    command -v mandoc >/dev/null || skip "mandoc is not installed"
    for m in "$ROOT"/man/*.[1-8]; do
        run mandoc -Tlint -W warning "$m"
        assert_output ""
    done
}

@test "the options of --help are those of the manual, in the same order" {
    for t in $(tools); do
        while read -r c; do
            # shellcheck disable=SC2086
            $c --list-options | sed 's/=$//' >>"$t.help"
        done < <(commands_of "$t")
        awk '!seen[$0]++' "$t.help" >"$t.help.once"
        # The manual writes an option as ".It Fl s , Fl -long Ar X" or ".It Fl -long".
        grep -E '^\.It Fl' "$ROOT/man/$t.1" | sed 's/\\//g' | grep -oE 'Fl -[a-z0-9][a-z0-9-]*' |
            sed 's/^Fl -/--/' | awk '!seen[$0]++' >"$t.man"
        run diff "$t.help.once" "$t.man"
        [ "$status" -eq 0 ] || { echo "$t: --help (<) and man page (>) differ"; echo "$output"; return 1; }
    done
}
