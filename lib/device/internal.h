/* Shared by the devices of this room; not for other rooms.
 *
 * To add a kind of device:
 *   1. a value of enum mabn_device_kind and its names (device.h);
 *   2. a file device_<kind> with its struct mabn_device_calls, and a function that opens one;
 *   3. a line each in mabn_device_new, _word_check, _open and _open_beside (device.c), and in
 *      mabn_device_bf16 (device_cpu.c);
 *   4. a backend for networks: choose_backend in net/build.c. */
#ifndef MABN_DEVICE_INTERNAL_H
#define MABN_DEVICE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "device/device.h"

MABN_BEGIN_DECLS

/* The functions of device.h, implemented by one kind of device. */
struct mabn_device_calls {
    mabn_status (*alloc)(struct mabn_device *device, void **out, size_t bytes);
    void (*release)(struct mabn_device *device, void *p, size_t bytes); /* p is not NULL */
    mabn_status (*put)(struct mabn_device *device, void *on_device, const void *host, size_t bytes);
    mabn_status (*get)(struct mabn_device *device, void *host, const void *on_device, size_t bytes);
    mabn_status (*zero)(struct mabn_device *device, void *on_device, size_t bytes);
    mabn_status (*wait)(struct mabn_device *device);
    /* These three may be NULL: the device has no queue. */
    void *(*queue)(const struct mabn_device *device);
    mabn_status (*side_begin)(struct mabn_device *device, void **queue);
    mabn_status (*side_end)(struct mabn_device *device);
    void (*close)(struct mabn_device *device); /* frees the device, also one that failed to open */
};

/* The first member of every kind's own struct. */
struct mabn_device {
    enum mabn_device_kind kind;
    const struct mabn_device_calls *calls;
    int threads;
    void *scratch;
    size_t scratch_bytes;
    void *dnnl_engine, *dnnl_stream; /* CPU */
    struct mabn_tune *tune;          /* CPU: choices made by timing; NULL: it does not choose so */
    bool times;                      /* a choice that `tune` lacks may be timed now */
    char name[400], gpu[32];
    int number; /* of the GPU */
};

MABN_MUST_USE mabn_status mabn_device_open_cpu(struct mabn_device **device, int threads);
/* The GPU of that number. */
MABN_MUST_USE mabn_status mabn_device_open_cuda(struct mabn_device **device, int index,
                                                int threads);

int mabn_device_cuda_count(void); /* of GPUs */

/* cuDNN and cuBLASLt as one device uses them (cuda_libraries.cu). */
struct mabn_cuda_libraries {
    const struct mabn_cudnn *cudnn;       /* NULL: there is none */
    const struct mabn_cublaslt *cublaslt; /* likewise */
    void *cudnn_handle, *cublaslt_handle; /* NULL: not opened */
    int cudnn_version;                    /* as 91900 */
};
/* Opens the libraries, once a process, and handles on the current GPU; cuDNN works in `stream`. */
MABN_MUST_USE mabn_status mabn_cuda_libraries_open(struct mabn_cuda_libraries *libraries,
                                                   void *stream);
/* Also after a failed open. */
void mabn_cuda_libraries_close(struct mabn_cuda_libraries *libraries);

MABN_END_DECLS
#endif
