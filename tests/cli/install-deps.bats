#!/usr/bin/env bats
# install-deps.sh on other systems: ones in which only the commands of $T/bin are to be found.
load helpers

setup_more() {
    local name
    mkdir bin
    for name in sh grep sed tr sort cat id; do ln -s "$(command -v $name)" bin; done
    export BATS_LIB_PATH=$T/none PYTHON=$T/bin/python3 FASHION_MNIST=$T/none
}
# there COMMAND [STATUS]: a command that does nothing but end so.
there() {
    printf '#!/bin/sh\nexit %d\n' "${2:-0}" >"bin/$1"
    chmod +x "bin/$1"
}
# elsewhere TARGET
elsewhere() {
    run --separate-stderr env PATH="$T/bin" "$T/bin/sh" "$ROOT/pipelines/install-deps.sh" "$@"
}
all_for_build() {
    local name
    for name in pkg-config cc bash; do there $name; done
    printf '#!/bin/sh\necho DejaVu Sans\n' >bin/fc-list
    chmod +x bin/fc-list
}

@test "no apt, nothing there: names for five package managers, and failure" {
    elsewhere build
    assert_failure 1
    assert_output ""
    [ "$(grep -c '^    [a-z]' <<<"$stderr")" -eq 5 ]
    grep -q '^    dnf install .*hdf5-devel .*onednn-devel' <<<"$stderr"
    grep -q '^    pacman -S .*hdf5 .*onednn' <<<"$stderr"
    grep -q '^    apk add .*hdf5-dev .*one-dnn-dev' <<<"$stderr"
    grep -q '^    brew install .*hdf5 .*onednn' <<<"$stderr"
    grep -q '^    conda install -c conda-forge .*hdf5 .*onednn-cpu-omp' <<<"$stderr"
    ! grep -q bats <<<"$stderr"
    grep -q 'CPPFLAGS=-IDIR' <<<"$stderr"
    ! grep -q FASHION_MNIST <<<"$stderr"
}

@test "no apt: only the managers that are here are named" {
    there pacman
    there conda
    elsewhere build
    assert_failure 1
    [ "$(grep -c '^    [a-z]' <<<"$stderr")" -eq 2 ]
    grep -q '^    pacman' <<<"$stderr"
    grep -q '^    conda' <<<"$stderr"
}

@test "no apt: only what is missing is named" {
    all_for_build
    there dnf
    rm bin/pkg-config
    elsewhere build
    assert_failure 1
    grep -qx '    dnf install pkgconf-pkg-config' <<<"$stderr"
}

@test "no apt: what has no package there is named as Debian does" {
    all_for_build
    there dnf
    elsewhere demo
    assert_failure 1
    grep -qx '        not packaged for dnf, what Debian calls: dataset-fashion-mnist' <<<"$stderr"
    grep -q 'FASHION_MNIST=DIR' <<<"$stderr"
    ! grep -q 'CPPFLAGS=-IDIR' <<<"$stderr"
}

@test "no apt: when all is there the target goes on" {
    all_for_build
    mkdir photographs
    export FASHION_MNIST=$T/photographs
    for target in build demo; do
        elsewhere $target
        assert_success
        assert_output ""
        assert_equal "$stderr" ""
    done
}

@test "no apt: without MPI and mandoc the tests go on" {
    all_for_build
    local name
    for name in c++ bats pgrep h5dump python3 dnf; do there $name; done
    for name in support assert file; do mkdir -p lib/bats-$name; touch lib/bats-$name/load.bash; done
    export BATS_LIB_PATH=$T/lib
    elsewhere check
    assert_success
    [[ $stderr == *"going on without"* ]]
    grep -qx '    dnf install mandoc mpich-devel openmpi-devel' <<<"$stderr"

    there python3 1 # knows no module
    elsewhere check
    assert_failure 1
    grep -qx '    dnf install python3-fonttools python3-h5py python3-numpy python3-pillow' <<<"$stderr"
}

@test "apt: what dpkg knows as installed is not asked for; the rest is" {
    printf '#!/bin/sh\ncase $* in *libgif-dev|*pkgconf) exit 1 ;; esac; echo installed\n' >bin/dpkg-query
    printf '#!/bin/sh\necho "$*" >>apt\n' >bin/apt-get
    printf '#!/bin/sh\necho 0\n' >id.sh
    rm bin/id
    mv id.sh bin/id
    chmod +x bin/dpkg-query bin/apt-get bin/id
    elsewhere build
    assert_success
    assert_output "installing: libgif-dev pkgconf"
    assert_equal "$(cat apt)" "install -y -qq --no-install-recommends libgif-dev pkgconf"

    # Somebody else, without sudo: goes on when the things are there all the same.
    printf '#!/bin/sh\necho 1000\n' >bin/id
    elsewhere build
    assert_failure 1
    [[ $stderr == *"as root: apt-get install libgif-dev pkgconf"* ]]
    all_for_build
    elsewhere build
    assert_success
    assert_output ""

    # One whom sudo refuses, likewise.
    there sudo 1
    elsewhere build
    assert_success
    rm bin/cc
    elsewhere build
    assert_failure 1
    [[ $stderr == *"apt-get failed; as root: apt-get install libgif-dev pkgconf"* ]]
}

@test "-n: what compiling needs is named for every manager that is here, and nothing is installed" {
    there dpkg-query 1
    there dnf
    printf '#!/bin/sh\necho "$*" >>apt\n' >bin/apt-get
    chmod +x bin/apt-get
    elsewhere -n
    assert_failure 1
    grep -q '^    apt-get install .*libdnnl-dev libfontconfig-dev .*libhdf5-dev' <<<"$stderr"
    grep -q '^    dnf install .*hdf5-devel .*onednn-devel' <<<"$stderr"
    ! grep -q -i dejavu <<<"$stderr"
    [ ! -e apt ]

    all_for_build
    rm bin/fc-list # no picture is drawn while compiling
    elsewhere -n
    assert_success
    assert_equal "$stderr" ""
}

@test "the list of Debian's packages; unknown targets" {
    run --separate-stderr "$ROOT/pipelines/install-deps.sh" -l build
    assert_success
    assert_line libdnnl-dev
    refute_line bats
    fails 2 "usage: install-deps.sh" "$ROOT/pipelines/install-deps.sh" everything
}
