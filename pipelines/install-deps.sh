#!/bin/sh
# install-deps.sh [-l|-n] [build|demo|check|ci|peer]: install or find what a target needs.
#
# Debian, Ubuntu: installs missing packages, through sudo when not root. When nothing is missing it does
# nothing and asks for nothing.
# On other systems, and for users who may not install: looks for the programs and libraries themselves.
# If any is missing, it prints the names of their packages for dnf, pacman, apk, brew and conda (those of
# the five that are installed), and fails.
#
#   -l   only print the names of Debian's packages
#   -n   install nothing: look for what compiling needs, and name missing packages, for apt as well
#   CC, CPPFLAGS, PKG_CONFIG, DNNL_HOME, PYTHON, BATS_LIB_PATH, FASHION_MNIST: where things are, as for the build and tests
set -eu

# One requirement a row: its targets (build: all of them; "?" in front: optional, tests skip without it),
# how it is recognized (see is_here), then its package for apt, dnf, pacman, apk, brew and conda (from
# conda-forge). "-": there is none. Several packages are joined by commas.
things='
build  command:pkg-config           pkgconf            pkgconf-pkg-config pkgconf     pkgconf           pkgconf     pkg-config
build  header:oneapi/dnnl/dnnl.h    libdnnl-dev        onednn-devel       onednn      one-dnn-dev       onednn      onednn-cpu-omp
build  header:hdf5.h:hdf5           libhdf5-dev        hdf5-devel         hdf5        hdf5-dev          hdf5        hdf5
build  header:jpeglib.h:libjpeg     libjpeg-dev        libjpeg-turbo-devel libjpeg-turbo libjpeg-turbo-dev jpeg-turbo libjpeg-turbo
build  header:png.h:libpng          libpng-dev         libpng-devel       libpng      libpng-dev        libpng      libpng
build  header:zlib.h:zlib           zlib1g-dev         zlib-devel         zlib        zlib-dev          zlib        zlib
build  header:xxhash.h:libxxhash    libxxhash-dev      xxhash-devel       xxhash      xxhash-dev        xxhash      xxhash
build  header:webp/demux.h:libwebpdemux libwebp-dev    libwebp-devel      libwebp     libwebp-dev       webp        libwebp
build  header:gif_lib.h:libgif      libgif-dev         giflib-devel       giflib      giflib-dev        giflib      giflib
build  header:cairo.h:cairo         libcairo2-dev      cairo-devel        cairo       cairo-dev         cairo       cairo
build  header:ft2build.h:freetype2  libfreetype-dev    freetype-devel     freetype2   freetype-dev      freetype    freetype
build  header:fontconfig/fontconfig.h:fontconfig libfontconfig-dev fontconfig-devel fontconfig fontconfig-dev fontconfig fontconfig
build  font:DejaVu                  fonts-dejavu-core  dejavu-sans-fonts  ttf-dejavu  font-dejavu       font-dejavu font-ttf-dejavu-sans-mono
demo   command:bash                 bash               bash               bash        bash              bash        bash
demo   photographs                  dataset-fashion-mnist -               -           -                 -           -
check  command:bash                 bash               bash               bash        bash              bash        bash
check  command:c++                  g++                gcc-c++            gcc         g++               gcc         cxx-compiler
check  command:bats                 bats               bats               bats        bats              bats-core   -
check  bats:bats-support            bats-support       -                  bats-support bats-support     -           -
check  bats:bats-assert             bats-assert        -                  bats-assert bats-assert       -           -
check  bats:bats-file               bats-file          -                  bats-file   bats-file         -           -
check  command:pgrep                procps             procps-ng          procps-ng   procps-ng         -           procps-ng
check  python:h5py                  python3-h5py       python3-h5py       python-h5py py3-h5py          -           h5py
check  python:numpy                 python3-numpy      python3-numpy      python-numpy py3-numpy        numpy       numpy
check  python:PIL                   python3-pil        python3-pillow     python-pillow py3-pillow      pillow      pillow
check  python:fontTools             python3-fonttools  python3-fonttools  python-fonttools py3-fonttools fonttools  fonttools
check  command:h5dump               hdf5-tools         hdf5               hdf5        hdf5              hdf5        hdf5
?check command:mandoc               mandoc             mandoc             mandoc      mandoc            mandoc      -
?check command:mpicc.openmpi,mpicc  openmpi-bin,libopenmpi-dev openmpi-devel openmpi  openmpi-dev       open-mpi    openmpi-mpicc
?check command:mpicc.mpich,mpicc    mpich,libmpich-dev mpich-devel        mpich       mpich-dev         mpich       mpich
ci     command:clang-format         clang-format       clang-tools-extra  clang       clang-extra-tools clang-format clang-format
?ci    command:ccache               ccache             ccache              ccache      ccache            ccache      ccache
?ci    command:debootstrap          debootstrap        debootstrap        debootstrap debootstrap       -           -
peer   python:venv                  python3-venv       python3            python      python3           python      -
peer   python:torch                 python3-torch      python3-torch      python-pytorch py3-pytorch    pytorch     -
peer   python:torchvision           python3-torchvision python3-torchvision python-torchvision -        torchvision -
peer   python:onnx                  python3-onnx       python3-onnx       -           py3-onnx          onnx        -
'

usage() { echo "usage: install-deps.sh [-l|-n] [build|demo|check|ci|peer]" >&2; exit 2; }
list= only_look=
case ${1:-} in
-h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit ;;
-l) list=1; shift ;;
-n) only_look=1; shift ;;
esac
case ${1:-build} in
build) groups=" build " ;;
demo) groups=" build demo " ;;
check) groups=" build check " ;;
ci) groups=" build check ci " ;;
peer) groups=" build check peer " ;;
*) usage ;;
esac

wanted() { # the rows of these targets
    echo "$things" | while read -r group row; do
        case $groups in *" ${group#\?} "*) [ -z "$group" ] || echo "$group $row" ;; esac
    done
}

is_here() { # is_here RECOGNIZED: by its kind, up to the first colon
    what=${1#*:}
    case $1 in
    command:*) # any of them
        for name in $(echo "$what" | tr , ' '); do
            if command -v "$name" >/dev/null; then return 0; fi
        done
        return 1 ;;
    header:*) # FILE[:what pkg-config calls it]
        flags=$(${PKG_CONFIG:-pkg-config} --cflags "${what#*:}" 2>/dev/null) || flags=
        echo "#include <${what%%:*}>" | ${CC:-cc} ${CPPFLAGS:-} ${DNNL_HOME:+"-I$DNNL_HOME/include"} \
            $flags -E -x c - >/dev/null 2>&1 ;;
    python:*) "${PYTHON:-/usr/bin/python3}" -c "import $what" 2>/dev/null ;;
    font:*) [ -n "$(fc-list 2>/dev/null | grep -i "$what")" ] ;;
    bats:*)
        for dir in $(echo "${BATS_LIB_PATH:-/usr/lib/bats}" | tr : ' '); do
            if [ -e "$dir/$what/load.bash" ]; then return 0; fi
        done
        return 1 ;;
    photographs) [ -d "${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}" ] ;;
    esac
}

names() { # names COLUMN ROWS: the packages, and in brackets Debian's name of what has none
    # shellcheck disable=SC2034
    echo "$2" | while read -r _ _ apt dnf pacman apk brew conda; do
        eval "package=\$$1"
        [ -z "$apt" ] || if [ "$package" = - ]; then echo "[$apt]"; else echo "$package"; fi
    done | tr , '\n' | sort -u
}

say() { # say COLUMN COMMAND ROWS: what to type, and what that manager does not have
    packages=$(names "$1" "$3" | grep -v '\[' | tr '\n' ' ')
    other=$(names "$1" "$3" | grep '\[' | tr '\n' ' ' | tr -d '[]')
    [ -z "$packages" ] || echo "    $2 ${packages% }"
    [ -z "$other" ] || echo "        not packaged for $1, what Debian calls: ${other% }"
}

say_all() { # say_all ROWS: for the managers that are here, for all of them when none is
    here=
    for manager in ${only_look:+apt-get} dnf pacman apk brew conda; do
        if command -v $manager >/dev/null; then here="$here $manager"; fi
    done
    for manager in ${here:-dnf pacman apk brew conda}; do
        case $manager in
        apt-get) say apt "apt-get install" "$1" ;;
        dnf) say dnf "dnf install" "$1" ;;
        pacman) say pacman "pacman -S" "$1" ;;
        apk) say apk "apk add" "$1" ;;
        brew) say brew "brew install" "$1" ;;
        conda) say conda "conda install -c conda-forge" "$1" ;;
        esac
    done
}

say_where() { # say_where ROWS: how to name things that are here, but in a place of their own
    case $1 in *" header:"*) echo "headers: CPPFLAGS=-IDIR and LDFLAGS=-LDIR, in make's environment" ;; esac
    case $1 in *" python:"*) echo "modules of another python3: PYTHON=FILE" ;; esac
    case $1 in *" bats:"*) echo "bats-support, bats-assert and bats-file: BATS_LIB_PATH=DIR" ;; esac
    case $1 in *" photographs "*)
        echo "the photographs, Fashion-MNIST's four files *-ubyte.gz: FASHION_MNIST=DIR" ;;
    esac
}

look() { # what is not here, whatever brought it; fails when something is missing that must be there
    missing=$(wanted | while read -r group recognized rest; do
        is_here "$recognized" || echo "$group $recognized $rest"
    done)
    needed=$(echo "$missing" | grep -v '^?') || true
    # Compiling draws no pictures.
    if [ -n "$only_look" ]; then needed=$(echo "$needed" | grep -v ' font:') || true; fi
    optional=$(echo "$missing" | grep '^?') || true
    if [ -n "$optional" ]; then
        echo "install-deps: going on without these, whose tests are skipped:"
        say_all "$optional"
    fi >&2
    [ -n "$needed" ] || return 0
    echo "install-deps: these are missing; install them and try again:" >&2
    say_all "$needed" >&2
    say_where "$needed" | sed 's/^/install-deps: where they are, when they are here: /' >&2
    return 1
}

packages=$(wanted | while read -r _ _ apt _; do echo "$apt"; done | tr , '\n' | sort -u)
if [ -n "$list" ]; then echo "$packages"; exit; fi
if [ -n "$only_look" ]; then look; exit; fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then look; exit; fi

missing=
for package in $packages; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

give_up() { # give_up WHY: unless the things themselves are here, whatever brought them
    if [ "$(id -u)" != 0 ] && (look) 2>/dev/null; then exit 0; fi
    echo "install-deps: $1; as root: apt-get install$missing" >&2
    exit 1
}

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || give_up "not root and no sudo"
    as_root="sudo DEBIAN_FRONTEND=noninteractive"
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
install() { $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
# The package list may be missing or old: try without an update first, and then with one.
install 2>/dev/null && exit 0
$as_root apt-get update -qq || true # one of its sources may be out of reach
if install; then exit 0; fi
give_up "apt-get failed"
