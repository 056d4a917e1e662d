# shellcheck shell=bash
# Debian systems in folders, sourced by tests/distros/run. Needs root and debootstrap.
#
#   CHROOTS   the folder: SUITE.bare is what debootstrap made and is never entered again, SYSTEM is
#             the copy that is worked in
#   MIRROR    where packages come from (default: debootstrap's own)
#
# What runs in a system has namespaces of its own for mounts and processes, and dies with us: whatever
# becomes of it or of us, nothing stays mounted and nothing goes on.

person=somebody # who works in the systems: a new user, who may become root through sudo

alone() { setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$@"; }

# bare SUITE: a minimal system with compiler, make and git, and sudo for the user that is not root.
# Files are not synced to disk one by one: a system that a power cut spoils is made again.
bare() {
    local bare=$CHROOTS/$1.bare
    [ -e "$bare/.ready" ] && return
    # Mounts may be left in what somebody else's debootstrap began: never delete across them.
    rm -rf --one-file-system "$bare"
    mkdir -p "$bare/etc/dpkg/dpkg.cfg.d"
    echo force-unsafe-io >"$bare/etc/dpkg/dpkg.cfg.d/unsafe-io"
    alone debootstrap --variant=minbase \
        --include=gcc,libc6-dev,make,git,sudo,ca-certificates "$1" "$bare" ${MIRROR:+"$MIRROR"} &&
        rm -f "$bare"/var/cache/apt/archives/*.deb && : >"$bare/.ready"
}

# copy SUITE SYSTEM: a fresh system to work in, with the new user.
copy() {
    local root=$CHROOTS/$2
    rm -rf --one-file-system "$root" && cp -a "$CHROOTS/$1.bare" "$root" &&
        enter "$2" root "useradd -m -s /bin/bash $person
            echo '$person ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/$person"
}

# lay_source SYSTEM: the last commit of this tree as ~/mabn; with KEEP=1 into the clone that is there,
# so that only what changed is built again.
lay_source() {
    local there=$CHROOTS/$1/home/$person/mabn git="git -c safe.directory=* -c advice.detachedHead=0"
    if [ -d "$there/.git" ]; then
        # The files' owners are new to git: it must look first which of them are as they were.
        $git -C "$there" fetch -q "$PWD" HEAD && $git -C "$there" update-index -q --refresh
        $git -C "$there" checkout -q -f FETCH_HEAD
    else
        $git clone -q --no-hardlinks "$PWD" "$there"
    fi && enter "$1" root "chown -R $person: /home/$person"
}

# enter SYSTEM USER COMMANDS: a shell's commands as this user, with nothing of our environment but
# what VARIABLES names, in ~/mabn where that exists. $MABN_SHARED is seen as /shared.
enter() {
    local root=$CHROOTS/$1 user=$2 commands=$3 home=/root kept=() name
    [ "$user" = root ] || home=/home/$user
    for name in ${VARIABLES:-}; do [ -z "${!name+x}" ] || kept+=("$name=${!name}"); done
    if [ -n "${MABN_SHARED:-}" ]; then kept+=(MABN_SHARED=/shared); fi
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null
    alone bash -c '
        root=$1 shared=$2; shift 2
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" &&
            mount --rbind /sys "$root/sys" || exit 1
        if [ -n "$shared" ]; then
            mkdir -p "$root/shared"
            mount --bind "$shared" "$root/shared" && mount -o remount,bind,ro "$root/shared" || exit 1
        fi
        # Not exec: the change of user would undo --kill-child.
        chroot "$@"
        exit $?' bash "$root" "${MABN_SHARED:-}" \
        --userspec="$user:$user" "$root" env -i "HOME=$home" "USER=$user" "LOGNAME=$user" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ${kept[@]+"${kept[@]}"} \
        bash -c "cd /home/$person/mabn 2>/dev/null || cd
$commands" </dev/null
}
