#!/bin/sh
# install-deps.sh [build|demo|check|ci|peer]: install the Debian packages that a target needs and that
# are missing. Does nothing, and asks for nothing, when all are there. Uses sudo when not root.
set -eu

build="pkgconf libdnnl-dev libhdf5-dev libjpeg62-turbo-dev libpng-dev zlib1g-dev libxxhash-dev
       libwebp-dev libgif-dev libcairo2-dev libfreetype-dev libfontconfig-dev fonts-dejavu-core"
demo="dataset-fashion-mnist"
check="g++ bats bats-assert bats-support bats-file python3-h5py python3-numpy python3-pil
       python3-fonttools hdf5-tools mandoc man-db dataset-fashion-mnist openmpi-bin libopenmpi-dev
       mpich libmpich-dev"
ci="clang-format"
peer="python3-venv python3-torch python3-torchvision python3-onnx"

case ${1:-build} in
build) want=$build ;;
demo) want="$build $demo" ;;
check) want="$build $check" ;;
ci) want="$build $check $ci" ;;
peer) want="$build $check $peer" ;;
*) echo "usage: install-deps.sh [build|demo|check|ci|peer]" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps: not a Debian system; please install by hand what these packages hold:" >&2
    echo $want >&2
    exit 0
fi

missing=
for package in $want; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: not root and no sudo; as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo DEBIAN_FRONTEND=noninteractive"
fi
export DEBIAN_FRONTEND=noninteractive
# The package list may be missing or old: try without an update first, then with one.
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 && exit 0
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
