/* The CPU device: a oneDNN engine and stream, OpenMP's thread count, one shared scratch buffer. */
#include "device/device.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <omp.h>

#include "base/mem.h"
#include "base/thread.h"
#include "device/dnnl.h"

struct mabn_device {
    enum mabn_device_kind kind;
    int threads;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    void *scratch;
    size_t scratch_bytes;
    char name[96];
};

static const char *isa_name(void)
{
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    if (isa & 0x20) return "AVX-512"; /* the bit of avx512_core in every later set */
    if (isa >= dnnl_cpu_isa_avx2) return "AVX2";
    return "SSE4.1 or AVX";
}

static mabn_status open_cpu(struct mabn_device *d)
{
    const dnnl_version_t *v = dnnl_version();
    MABN_DNNL(dnnl_engine_create(&d->engine, dnnl_cpu, 0));
    MABN_DNNL(dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags));
    omp_set_dynamic(0);
    omp_set_num_threads(d->threads);
    snprintf(d->name, sizeof d->name, "CPU, %d thread%s, oneDNN %d.%d.%d (%s)", d->threads,
             d->threads == 1 ? "" : "s", v->major, v->minor, v->patch, isa_name());
    return MABN_OK;
}

mabn_status mabn_device_new(struct mabn_device **device, enum mabn_device_kind kind, int threads)
{
    *device = NULL;
    if (kind != MABN_DEVICE_CPU)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "this build has no CUDA device");
    struct mabn_device *d = mabn_xcalloc(1, sizeof *d);
    d->kind = kind;
    d->threads = threads > 0 ? threads : mabn_threads_available();
    mabn_status status = open_cpu(d);
    if (status) {
        mabn_device_free(d);
        return status;
    }
    *device = d;
    return MABN_OK;
}

void mabn_device_free(struct mabn_device *d)
{
    if (!d) return;
    mabn_device_release(d, d->scratch, d->scratch_bytes);
    if (d->stream) dnnl_stream_destroy(d->stream);
    if (d->engine) dnnl_engine_destroy(d->engine);
    free(d);
}

enum mabn_device_kind mabn_device_kind_of(const struct mabn_device *d)
{
    return d->kind;
}

int mabn_device_threads(const struct mabn_device *d)
{
    return d->threads;
}

const char *mabn_device_name(const struct mabn_device *d)
{
    return d->name;
}

/* Mapped rather than malloc'd: zeroed by the kernel on first touch, returned to it at once on
 * release, and huge pages where the system gives them. */
mabn_status mabn_device_alloc(struct mabn_device *d, void **out, size_t bytes)
{
    (void)d;
    *out = NULL;
    if (!bytes) bytes = 1;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return mabn_fail(MABN_ERR_NOMEM, "out of memory: cannot get %.1f MiB for the network",
                         (double)bytes / 1048576);
    if (bytes >= (size_t)4 << 20) (void)madvise(p, bytes, MADV_HUGEPAGE);
    *out = p;
    return MABN_OK;
}

void mabn_device_release(struct mabn_device *d, void *p, size_t bytes)
{
    (void)d;
    if (p) munmap(p, bytes ? bytes : 1);
}

mabn_status mabn_device_scratch(struct mabn_device *d, void **out, size_t bytes)
{
    if (bytes > d->scratch_bytes) {
        mabn_device_release(d, d->scratch, d->scratch_bytes);
        d->scratch_bytes = 0;
        MABN_TRY(mabn_device_alloc(d, &d->scratch, bytes));
        d->scratch_bytes = bytes;
    }
    *out = d->scratch;
    return MABN_OK;
}

void *mabn_device_dnnl_engine(struct mabn_device *d)
{
    return d->engine;
}

void *mabn_device_dnnl_stream(struct mabn_device *d)
{
    return d->stream;
}
