/* Devices: one small interface over the backends, for memory and for ordering work.
 *
 * A device owns an engine, an in-order stream, and one scratch buffer that all primitives of a
 * network share (they run one after another, so the largest need is enough). The CPU device is
 * oneDNN and OpenMP on `threads` threads; every call is done on return. A CUDA device is one NVIDIA
 * GPU (see also device/cuda.h), which works asynchronously.
 *
 * A device is used from the thread that opened it. Of several CUDA devices in one process each
 * needs a thread of its own, since kernels go to the thread's current GPU. */
#ifndef MABN_DEVICE_DEVICE_H
#define MABN_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_device;

enum mabn_device_kind { MABN_DEVICE_CPU, MABN_DEVICE_CUDA };

/* threads 0: mabn_threads_available(). Sets the OpenMP thread count of the calling thread, which
 * must be the one that runs the networks of this device. */
MABN_MUST_USE mabn_status mabn_device_new(struct mabn_device **device, enum mabn_device_kind kind,
                                          int threads);
/* By name: "cpu", "cuda" (the first GPU), "cuda:N", or "auto". "auto" is the first GPU, if it and its
 * libraries can be used; otherwise the CPU, whose name then says why there is no GPU. */
MABN_MUST_USE mabn_status mabn_device_open(struct mabn_device **device, const char *word,
                                           int threads);
/* One more device on the same GPU, or CPU with as many threads, for the calling thread. */
MABN_MUST_USE mabn_status mabn_device_open_beside(struct mabn_device **device,
                                                  const struct mabn_device *of);
/* GPUs that this process sees; 0 without any, or without CUDA. */
int mabn_device_gpus(void);
/* MABN_ERR_ARG if `word` is not such a name. */
MABN_MUST_USE mabn_status mabn_device_word_check(const char *word);
void mabn_device_free(struct mabn_device *device); /* after every network on it; NULL is fine */

enum mabn_device_kind mabn_device_kind_of(const struct mabn_device *device);
int mabn_device_threads(const struct mabn_device *device);
/* "CPU, 2 threads, oneDNN 2.6.3 (AVX-512)", "NVIDIA H100 80GB HBM3, 79 GiB, cuDNN 9.19, driver
 * 580.159.04"; owned by the device. */
const char *mabn_device_name(const struct mabn_device *device);

/* Memory on the device, 64-byte aligned (256 on a GPU), zeroed. MABN_ERR_NOMEM: there is not enough.
 * On the CPU pages that are never touched cost nothing. `bytes` of a release is that of the alloc. */
MABN_MUST_USE mabn_status mabn_device_alloc(struct mabn_device *device, void **out, size_t bytes);
void mabn_device_release(struct mabn_device *device, void *p, size_t bytes); /* NULL is fine */

/* Copy between host and device memory, and set device memory to zero: in order after earlier work,
 * and done on return. */
MABN_MUST_USE mabn_status mabn_device_put(struct mabn_device *device, void *on_device,
                                          const void *host, size_t bytes);
MABN_MUST_USE mabn_status mabn_device_get(struct mabn_device *device, void *host,
                                          const void *on_device, size_t bytes);
MABN_MUST_USE mabn_status mabn_device_zero(struct mabn_device *device, void *on_device,
                                           size_t bytes);
/* Wait until all work is done, and report failures. */
MABN_MUST_USE mabn_status mabn_device_wait(struct mabn_device *device);

/* The device's queue, for code that queues work itself: a GPU's stream (cudaStream_t), NULL on the
 * CPU. */
void *mabn_device_queue(const struct mabn_device *device);
/* A second queue, for work that may overlap with the device's. After `begin`, work put in *queue
 * waits for all earlier work of the device; after `end`, the device's work waits for all that is in
 * the second queue. On the CPU *queue is NULL and nothing is done. */
MABN_MUST_USE mabn_status mabn_device_side_begin(struct mabn_device *device, void **queue);
MABN_MUST_USE mabn_status mabn_device_side_end(struct mabn_device *device);
/* The GPU's PCI address, "0000:3b:00.0", which no other GPU of the host has; "" for the CPU. Owned by
 * the device. */
const char *mabn_device_gpu(const struct mabn_device *device);

/* The shared scratch buffer, grown to at least `bytes`. Its content lasts until the next call of
 * any operation; growing moves it, so plans reserve all they need before the first step. */
MABN_MUST_USE mabn_status mabn_device_scratch(struct mabn_device *device, void **out, size_t bytes);

/* How the device multiplies in bfloat16. GPUs, and CPUs with AVX512_BF16 or AMX, have instructions
 * for it. On CPUs with AVX-512 alone oneDNN uses float32 instructions. On others it has no bfloat16:
 * operands are converted to float32 (ops/conv.h). Only the first is faster than float32. */
enum mabn_bf16_support { MABN_BF16_CONVERTED, MABN_BF16_EMULATED, MABN_BF16_NATIVE };
enum mabn_bf16_support mabn_device_bf16(const struct mabn_device *device);

/* A CPU that begins two multiplications of 512 bits in a cycle, as all with AMX do. */
bool mabn_device_wide(const struct mabn_device *device);

/* The CPU device's library: "oneDNN 3.7.2 (AVX-512)", with `file` followed by the file it was
 * loaded from. The text is the calling thread's, valid until its next call. */
const char *mabn_device_cpu_library(bool file);

MABN_END_DECLS
#endif
