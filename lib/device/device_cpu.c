/* The CPU device: a oneDNN engine and stream, OpenMP's thread count. Device memory is host memory,
 * and every call is done on return. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <omp.h>

#include "base/attr.h"
#include "base/mem.h"
#include "device/dnnl.h"
#include "device/internal.h"

/* Mapped rather than malloc'd: zeroed by the kernel on first touch, returned to it at once on
 * release, and huge pages where the system gives them. */
static mabn_status cpu_alloc(struct mabn_device *d, void **out, size_t bytes)
{
    (void)d;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return mabn_fail(MABN_ERR_NOMEM, "out of memory: cannot get %.1f MiB for the network",
                         (double)bytes / 1048576);
    if (bytes >= (size_t)4 << 20) (void)madvise(p, bytes, MADV_HUGEPAGE);
    *out = p;
    return MABN_OK;
}

static void cpu_release(struct mabn_device *d, void *p, size_t bytes)
{
    (void)d;
    munmap(p, bytes);
}

static mabn_status cpu_copy(struct mabn_device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
    return MABN_OK;
}

static mabn_status cpu_zero(struct mabn_device *d, void *p, size_t bytes)
{
    (void)d;
    memset(p, 0, bytes);
    return MABN_OK;
}

static mabn_status cpu_wait(struct mabn_device *d)
{
    (void)d;
    return MABN_OK;
}

static void cpu_close(struct mabn_device *d)
{
    if (d->dnnl_stream) dnnl_stream_destroy(d->dnnl_stream);
    if (d->dnnl_engine) dnnl_engine_destroy(d->dnnl_engine);
    free(d);
}

static const struct mabn_device_calls calls = {
    .alloc = cpu_alloc,
    .release = cpu_release,
    .put = cpu_copy,
    .get = cpu_copy,
    .zero = cpu_zero,
    .wait = cpu_wait,
    .close = cpu_close,
};

enum { AVX512_CORE = 0x20 }; /* the bit of avx512_core in every later set */

static const char *isa_name(void)
{
#ifdef __aarch64__
    return "AArch64"; /* oneDNN reports no more there */
#endif
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    if (isa & AVX512_CORE) return "AVX-512";
    if (isa >= dnnl_cpu_isa_avx2) return "AVX2";
    return isa & dnnl_cpu_isa_sse41 ? "SSE4.1 or AVX" : "portable";
}

enum mabn_bf16_support mabn_device_bf16(const struct mabn_device *device)
{
    if (device->kind != MABN_DEVICE_CPU) return MABN_BF16_NATIVE;
#ifdef __x86_64__
    const int isa =
        (int)dnnl_get_effective_cpu_isa(); /* each set has the bits of those before it */
    const int bf16 = dnnl_cpu_isa_avx512_core_bf16;
    if ((isa & bf16) == bf16) return MABN_BF16_NATIVE;
    if (isa & AVX512_CORE) return MABN_BF16_EMULATED;
#endif
    return MABN_BF16_CONVERTED;
}

bool mabn_device_wide(const struct mabn_device *device)
{
    if (device->kind != MABN_DEVICE_CPU) return false;
#ifdef __x86_64__
    const int amx = dnnl_cpu_isa_avx512_core_amx;
    return ((int)dnnl_get_effective_cpu_isa() & amx) == amx;
#else
    return false;
#endif
}

const char *mabn_device_cpu_library(bool file)
{
    static _Thread_local char text[400];
    const dnnl_version_t *v = dnnl_version();
    Dl_info found;
    int n = snprintf(text, sizeof text, "oneDNN %d.%d.%d (%s)", v->major, v->minor, v->patch,
                     isa_name());
    /* `v` is data: the address of a function could be that of a stub in the program. */
    if (file && dladdr(v, &found))
        snprintf(text + n, sizeof text - (size_t)n, ", %s", found.dli_fname);
    return text;
}

/* oneDNN built with SYCL, as PyPI's is, uses an OpenCL driver for the CPU. In a Python environment
 * the driver is in the same folder, where OpenCL does not look. */
static void find_opencl_cpu(void)
{
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_SYCL
    Dl_info found;
    char path[4096];
    if (!dladdr(dnnl_version(), &found)) return;
    const char *slash = strrchr(found.dli_fname, '/');
    int folder = slash ? (int)(slash - found.dli_fname) : 0;
    snprintf(path, sizeof path, "%.*s/libintelocl.so", folder, found.dli_fname);
    if (slash && !access(path, R_OK)) setenv("OCL_ICD_FILENAMES", path, 0);
#endif
}

/* When oneDNN 2 plans a convolution for AMX it reads one number too many (skipped_bd_mask) and
 * ignores it. AddressSanitizer reports that, so AMX is turned off under it. A limit from the
 * environment is kept. */
static void avoid_known_overread(void)
{
#if defined(__x86_64__) && DNNL_VERSION_MAJOR < 3 && MABN_ADDRESS_SANITIZER
    if (!getenv("DNNL_MAX_CPU_ISA")) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
#endif
}

static mabn_status open_dnnl(struct mabn_device *d)
{
    find_opencl_cpu();
    avoid_known_overread();
    dnnl_engine_t engine = NULL;
    dnnl_stream_t stream = NULL;
    MABN_DNNL(dnnl_engine_create(&engine, dnnl_cpu, 0));
    d->dnnl_engine = engine;
    MABN_DNNL(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    d->dnnl_stream = stream;
    return MABN_OK;
}

mabn_status mabn_device_open_cpu(struct mabn_device **device, int threads)
{
    struct mabn_device *d = mabn_xcalloc(1, sizeof *d);
    d->kind = MABN_DEVICE_CPU;
    d->calls = &calls;
    d->threads = threads;
    mabn_status status = open_dnnl(d);
    if (status) {
        cpu_close(d);
        return status;
    }
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    snprintf(d->name, sizeof d->name, "CPU, %d thread%s, %s", threads, threads == 1 ? "" : "s",
             mabn_device_cpu_library(false));
    *device = d;
    return MABN_OK;
}
