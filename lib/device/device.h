/* Where the numbers live and who works on them: one small interface over the backends.
 *
 * A device owns an engine, an in-order stream, and one scratch buffer that all primitives of a
 * network share (they run one after another, so the largest need is enough). The CPU device is
 * oneDNN and OpenMP on `threads` threads; everything it is asked is done on return. A CUDA device
 * is one NVIDIA GPU (device/cuda.h has the rest of it); it works on while the host does.
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
/* By a user's word: "cpu", "cuda" (the first GPU), "cuda:N", or "auto": the first GPU that can be
 * used, with its libraries, and otherwise the CPU; the device's name then says why there is no GPU.
 */
MABN_MUST_USE mabn_status mabn_device_open(struct mabn_device **device, const char *word,
                                           int threads);
/* GPUs that this process sees; 0 without any, or without CUDA. */
int mabn_device_gpus(void);
/* Is it such a word? MABN_ERR_ARG if not. */
MABN_MUST_USE mabn_status mabn_device_word_check(const char *word);
void mabn_device_free(struct mabn_device *device); /* after every network on it; NULL is fine */

enum mabn_device_kind mabn_device_kind_of(const struct mabn_device *device);
int mabn_device_threads(const struct mabn_device *device);
/* "CPU, 2 threads, oneDNN 2.6.3 (AVX-512)", "NVIDIA H100 80GB HBM3, 79 GiB, cuDNN 9.19, driver
 * 580.159.04"; owned by the device. */
const char *mabn_device_name(const struct mabn_device *device);

/* Memory on the device, 64-byte aligned (256 on a GPU), zeroed. On the CPU pages that are never
 * touched cost nothing. */
MABN_MUST_USE mabn_status mabn_device_alloc(struct mabn_device *device, void **out, size_t bytes);
void mabn_device_release(struct mabn_device *device, void *p, size_t bytes); /* NULL is fine */

/* Between host and device memory, and setting it to zero bytes; after all that was asked before,
 * and done on return. */
MABN_MUST_USE mabn_status mabn_device_put(struct mabn_device *device, void *on_device,
                                          const void *host, size_t bytes);
MABN_MUST_USE mabn_status mabn_device_get(struct mabn_device *device, void *host,
                                          const void *on_device, size_t bytes);
MABN_MUST_USE mabn_status mabn_device_zero(struct mabn_device *device, void *on_device,
                                           size_t bytes);
/* Wait until all that was asked is done, and report what failed meanwhile. */
MABN_MUST_USE mabn_status mabn_device_wait(struct mabn_device *device);

/* Where the device's own work waits in order, for those who queue there themselves: a GPU's stream
 * (cudaStream_t), NULL on the CPU. */
void *mabn_device_queue(const struct mabn_device *device);
/* A second queue, for what may go on while the device computes. After `begin` what is put in *queue
 * waits for all that the device was asked before; after `end` what it is asked waits for all that is in
 * the second queue. On the CPU nothing, and NULL. */
MABN_MUST_USE mabn_status mabn_device_side_begin(struct mabn_device *device, void **queue);
MABN_MUST_USE mabn_status mabn_device_side_end(struct mabn_device *device);
/* What tells this GPU from others of the host, its PCI bus number; "" for the CPU. Owned by the
 * device. */
const char *mabn_device_gpu(const struct mabn_device *device);

/* The shared scratch buffer, grown to at least `bytes`. Its content lasts until the next call of
 * any operation; growing moves it, so plans reserve all they need before the first step. */
MABN_MUST_USE mabn_status mabn_device_scratch(struct mabn_device *device, void **out, size_t bytes);

/* How the device computes in bfloat16. A GPU does so by itself; a CPU with AVX512_BF16 or AMX too; one
 * with AVX-512 alone by float32 instructions, which is slower than float32; others not at all. */
enum mabn_bf16_support { MABN_BF16_NONE, MABN_BF16_EMULATED, MABN_BF16_NATIVE };
enum mabn_bf16_support mabn_device_bf16(const struct mabn_device *device);

/* "oneDNN 3.7.2 (AVX-512)": what the CPU device computes with. With file: and the file it was
 * loaded from. A static string. */
const char *mabn_device_cpu_library(bool file);

MABN_END_DECLS
#endif
