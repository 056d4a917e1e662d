/* Opening a device by name, and the part that all kinds have in common. */
#include "device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "base/words.h"
#include "device/internal.h"
#include "device/tune.h"

static mabn_status open_cuda(struct mabn_device **device, int index, int threads)
{
#if MABN_CUDA
    return mabn_device_open_cuda(device, index, threads);
#else
    (void)device, (void)index, (void)threads;
    return mabn_fail(MABN_ERR_UNSUPPORTED, "this build has no CUDA");
#endif
}

int mabn_device_gpus(void)
{
#if MABN_CUDA
    return mabn_device_cuda_count();
#else
    return 0;
#endif
}

mabn_status mabn_device_new(struct mabn_device **device, enum mabn_device_kind kind, int threads)
{
    *device = NULL;
    if (threads <= 0) threads = mabn_threads_available();
    return kind == MABN_DEVICE_CPU ? mabn_device_open_cpu(device, threads)
                                   : open_cuda(device, 0, threads);
}

/* The first GPU, or the CPU with a remark in its name. */
static mabn_status open_auto(struct mabn_device **device, int threads)
{
    if (mabn_device_new(device, MABN_DEVICE_CUDA, threads) == MABN_OK) return MABN_OK;
    char *reason = mabn_error_detach();
    mabn_status status = mabn_device_new(device, MABN_DEVICE_CPU, threads);
    if (!status) {
        size_t used = strlen((*device)->name);
        snprintf((*device)->name + used, sizeof(*device)->name - used, "; no GPU: %s",
                 reason ? reason : "");
    }
    free(reason);
    return status;
}

/* N of "cuda:N"; -1: not that. */
static int gpu_number(const char *word)
{
    if (!strcmp(word, "cuda")) return 0;
    if (strncmp(word, "cuda:", 5)) return -1;
    const char *digits = word + 5;
    size_t count = strspn(digits, "0123456789");
    return count >= 1 && count <= 3 && !digits[count] ? atoi(digits) : -1;
}

mabn_status mabn_device_word_check(const char *word)
{
    if (!strcmp(word, "auto") || !strcmp(word, "cpu") || gpu_number(word) >= 0) return MABN_OK;
    return mabn_word_unknown("device", word, "auto, cpu, cuda, cuda:N");
}

mabn_status mabn_device_open(struct mabn_device **device, const char *word, int threads)
{
    *device = NULL;
    MABN_TRY(mabn_device_word_check(word));
    if (!strcmp(word, "auto")) return open_auto(device, threads);
    if (!strcmp(word, "cpu")) return mabn_device_new(device, MABN_DEVICE_CPU, threads);
    if (threads <= 0) threads = mabn_threads_available();
    return open_cuda(device, gpu_number(word), threads);
}

mabn_status mabn_device_open_beside(struct mabn_device **device, const struct mabn_device *of)
{
    *device = NULL;
    return of->kind == MABN_DEVICE_CPU ? mabn_device_open_cpu(device, of->threads)
                                       : open_cuda(device, of->number, of->threads);
}

void mabn_device_free(struct mabn_device *d)
{
    if (!d) return;
    mabn_device_release(d, d->scratch, d->scratch_bytes);
    mabn_tune_free(d->tune);
    d->calls->close(d);
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

mabn_status mabn_device_alloc(struct mabn_device *d, void **out, size_t bytes)
{
    *out = NULL;
    return d->calls->alloc(d, out, bytes ? bytes : 1);
}

void mabn_device_release(struct mabn_device *d, void *p, size_t bytes)
{
    if (p) d->calls->release(d, p, bytes ? bytes : 1);
}

mabn_status mabn_device_put(struct mabn_device *d, void *on_device, const void *host, size_t bytes)
{
    return bytes ? d->calls->put(d, on_device, host, bytes) : MABN_OK;
}

mabn_status mabn_device_get(struct mabn_device *d, void *host, const void *on_device, size_t bytes)
{
    return bytes ? d->calls->get(d, host, on_device, bytes) : MABN_OK;
}

mabn_status mabn_device_zero(struct mabn_device *d, void *on_device, size_t bytes)
{
    return bytes ? d->calls->zero(d, on_device, bytes) : MABN_OK;
}

mabn_status mabn_device_wait(struct mabn_device *d)
{
    return d->calls->wait(d);
}

void *mabn_device_queue(const struct mabn_device *d)
{
    return d->calls->queue ? d->calls->queue(d) : NULL;
}

mabn_status mabn_device_side_begin(struct mabn_device *d, void **queue)
{
    *queue = NULL;
    return d->calls->side_begin ? d->calls->side_begin(d, queue) : MABN_OK;
}

mabn_status mabn_device_side_end(struct mabn_device *d)
{
    return d->calls->side_end ? d->calls->side_end(d) : MABN_OK;
}

const char *mabn_device_gpu(const struct mabn_device *d)
{
    return d->gpu;
}

mabn_status mabn_device_scratch(struct mabn_device *d, void **out, size_t bytes)
{
    if (bytes > d->scratch_bytes) {
        mabn_device_release(d, d->scratch, d->scratch_bytes);
        d->scratch = NULL;
        d->scratch_bytes = 0;
        MABN_TRY(mabn_device_alloc(d, &d->scratch, bytes));
        d->scratch_bytes = bytes;
    }
    *out = d->scratch;
    return MABN_OK;
}
