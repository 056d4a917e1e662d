#!/usr/bin/env bash
# bundle.sh [-o FILE]: pack the GPU tests and benchmarks, with the shared libraries they need other
# than CUDA's, into one archive (default build/mabn-gpu.tar.xz) that runs on any x86-64 Linux with an
# NVIDIA driver and CUDA 13's libraries, a toolkit's or those in a Python environment (nvidia/*/lib).
# There:
#     tar xf mabn-gpu.tar.xz && mabn-gpu/run            tests, then benchmarks
#     mabn-gpu/run test | bench [BATCH] | sanitize      one of them; sanitize: compute-sanitizer
# CUDA_ARCH="90" in the environment or config.mk says for which GPUs (the default is all we know).
set -euo pipefail
cd "$(dirname "$0")/../.."

out=build/mabn-gpu.tar.xz
while getopts o: option; do
    case $option in
    o) out=$OPTARG ;;
    *) echo "usage: bundle.sh [-o FILE]" >&2; exit 2 ;;
    esac
done

make --no-print-directory CUDA=1 gpu-programs >&2
built=build/release-cuda/gpu
dir=build/mabn-gpu
rm -rf "$dir"
mkdir -p "$dir/test" "$dir/bench" "$dir/lib"
find "$built/tests/unit" -type f -executable -exec cp {} "$dir/test/" \;
find "$built/bench" -type f -executable -exec cp {} "$dir/bench/" \;
strip "$dir"/test/* "$dir"/bench/*

# Everything ldd finds but CUDA and the driver; the C library and its loader too, for machines whose
# own is older.
ldd "$dir"/test/* "$dir"/bench/* | awk '/=> \// {print $3} /^\t\/.*ld-linux/ {print $1}' |
    sort -u | grep -vE '/lib(cuda|cudart|cublas|cublasLt|cudnn|nv)[^/]*$' |
    while read -r library; do cp -L "$library" "$dir/lib/"; done

git rev-parse --short HEAD >"$dir/version"
cat >"$dir/run" <<'RUN'
#!/usr/bin/env bash
# run [test|bench [BATCH]|sanitize]: see tests/gpu/bundle.sh. Exit 1 when a test failed.
set -u
cd "$(dirname "$0")" || exit 1
what=${1:-all}

# CUDA's libraries: a toolkit's, or those that Python packages brought.
cuda=
for folder in /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64; do
    [ -e "$folder/libcudart.so.13" ] && cuda=$cuda:$folder
done
for python in python3 python; do
    site=$($python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null) || continue
    for folder in "$site"/nvidia/*/lib; do
        [ -d "$folder" ] && cuda=$cuda:$folder
    done
done

# Our own C library and loader only where the machine's is too old.
loader=()
if ldd test/* 2>&1 | grep -q GLIBC; then
    loader=("$PWD/lib/ld-linux-x86-64.so.2" --library-path "$PWD/lib$cuda:/usr/lib/x86_64-linux-gnu:/usr/lib64")
else
    mkdir -p lib/c
    mv lib/lib{c,m,dl,rt,pthread}.so.* lib/c/ 2>/dev/null
    export LD_LIBRARY_PATH=$PWD/lib$cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

command -v nvidia-smi >/dev/null &&
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
echo "mabn $(cat version)"

bad=0
tests() { # tests COMMAND...: run every test behind it
    local program out status
    for program in test/*; do
        out=$("$@" "${loader[@]}" "$program" 2>&1)
        status=$?
        printf '%-28s %4d ok %3d failed %3d skipped\n' "${program#test/}" \
            "$(grep '^ok' <<<"$out" | grep -vc '# skip')" "$(grep -c '^not ok' <<<"$out")" \
            "$(grep -c '^ok.*# skip' <<<"$out")"
        [ $status -eq 0 ] && continue
        bad=1
        grep -vE '^ok|^1\.\.' <<<"$out" | head -n 60
    done
}

case $what in
test) tests ;;
bench) shift; for program in bench/*; do "${loader[@]}" "$program" "$@" || bad=1; done ;;
sanitize)
    command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; exit 1; }
    for tool in memcheck racecheck initcheck; do
        echo "== $tool"
        tests compute-sanitizer --tool "$tool" --error-exitcode 1
    done ;;
all)
    tests
    for program in bench/*; do "${loader[@]}" "$program" || bad=1; done ;;
*) echo "usage: run [test|bench [BATCH]|sanitize]" >&2; exit 2 ;;
esac
exit $bad
RUN
chmod +x "$dir/run"
tar -C build -c mabn-gpu | xz -T2 -6 >"$out"
echo "$out: $(du -h "$out" | cut -f1)"
