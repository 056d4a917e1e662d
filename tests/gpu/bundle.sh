#!/usr/bin/env bash
# bundle.sh [-o FILE]: pack the GPU tests, benchmarks and tools, with the shared libraries they need
# other than NVIDIA's, into one archive (default build/mabn-gpu.tar.gz) that runs on any x86-64 Linux
# with an NVIDIA driver and CUDA 13's libraries. There:
#     tar xf mabn-gpu.tar.gz && mabn-gpu/run
# tests/gpu/run, which goes along, says what else it does.
# CUDA_ARCH in the environment or config.mk says for which GPUs: the default here is 90 alone, an H100
# or H200. MABN_GOLDEN=DIR packs recordings that two tests compare with; without, they skip. MABN_SHARED=DIR
# packs photographs of COCO, with which the loader is timed.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=build/mabn-gpu.tar.gz
export CUDA_ARCH=${CUDA_ARCH:-90}
while getopts o: option; do
    case $option in
    o) out=$OPTARG ;;
    *) echo "usage: bundle.sh [-o FILE]" >&2; exit 2 ;;
    esac
done

make --no-print-directory CUDA=1 gpu-programs tools >&2
built=build/release-cuda
dir=build/mabn-gpu
rm -rf "$dir"
mkdir -p "$dir/lib/system"
take() { # take FOLDER PROGRAM...
    mkdir -p "$dir/$1"
    cp "${@:2}" "$dir/$1/"
}
programs() { find "$built/gpu/$1" -type f -executable 2>/dev/null; }
mapfile -t tests < <(programs tests/unit)
mapfile -t benches < <(programs bench)
mapfile -t probes < <(programs probe)
take test "${tests[@]}" "$built"/tests/unit/test_{net,nodes,golden_rcnn}
take tests/golden tests/golden/net.tsv
if [ -n "${MABN_GOLDEN:-}" ]; then
    take golden "$MABN_GOLDEN"/{mabn_formal,mabn_subbatch,cenconv2d}.h5
    take golden/det "$MABN_GOLDEN"/det/det_tiny_{train.h5,start.pth,late.pth}
else
    echo "bundle.sh: no MABN_GOLDEN: two tests will skip" >&2
fi
take bench "${benches[@]}" "$built"/tests/bench/bench_scenes
[ -z "${MABN_SHARED:-}" ] || take photographs "$MABN_SHARED"/data/coco-tiny/train2017/*.jpg
[ ${#probes[@]} -eq 0 ] || take probe "${probes[@]}"
take bin "$built"/bin/mabn-{bench,train,eval,init,pack,info,plot}
find "$dir" -type f -executable -exec strip {} +

# Everything ldd finds but the driver; what every system has apart, for those whose own is older.
find "$dir" -type f -executable -exec ldd {} + | awk '/=> \// {print $3} /^\t\/.*ld-linux/ {print $1}' | sort -u |
    while read -r library; do
        case ${library##*/} in
        libcuda* | libcublas* | libcudnn* | libnv*) echo "bundle.sh: a program is linked to $library" >&2; exit 1 ;;
        lib[cm].so* | libresolv.so* | libdl.so* | librt.so* | libpthread.so* | libstdc++.so* | libgcc_s.so* | ld-*)
            cp -L "$library" "$dir/lib/system/" ;;
        *) cp -L "$library" "$dir/lib/" ;;
        esac
    done

cp tests/gpu/run tests/gpu/pytorch_baseline.py "$dir/"
git rev-parse --short HEAD >"$dir/version"
tar -C build -c mabn-gpu | gzip -6 >"$out"
echo "$out: $(du -h "$out" | cut -f1)"
