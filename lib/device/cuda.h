/* NVIDIA GPUs beyond device.h: streams, graphs, events and NVIDIA's libraries. Every call needs a
 * device of kind MABN_DEVICE_CUDA.
 *
 * CUDA's runtime is linked in. cuDNN and cuBLASLt are opened with the device, so that programs also
 * start on machines without them. Streams are cudaStream_t as void *, so that this header does not
 * need CUDA's.
 *
 * A device computes in one stream, in order. Between mabn_cuda_capture_begin and _end the work for that
 * stream is captured instead of queued. Input crosses the bus in a second stream, the copy stream. */
#ifndef MABN_DEVICE_CUDA_H
#define MABN_DEVICE_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include "device/device.h"

MABN_BEGIN_DECLS

/* cudaStream_t, the device's. */
void *mabn_cuda_stream(const struct mabn_device *device);
void *mabn_cuda_copy_stream(const struct mabn_device *device);

struct mabn_cuda_limits {
    int major, minor; /* compute capability */
    int processors;   /* streaming multiprocessors */
    size_t memory;    /* bytes on the device */
    size_t l2;        /* bytes of L2 cache */
};
const struct mabn_cuda_limits *mabn_cuda_limits_of(const struct mabn_device *device);

/* Bytes in use on the device now, by all processes; 0 where that cannot be told. */
size_t mabn_cuda_memory_used(const struct mabn_device *device);

/* NVIDIA's libraries, opened once a process; NULL where there are none (the executor under
 * tests/gpu, unless asked for its stand-ins). The tables are in device/cuda_libraries.h. */
struct mabn_cudnn;
struct mabn_cublaslt;
const struct mabn_cudnn *mabn_cuda_cudnn(const struct mabn_device *device);
const struct mabn_cublaslt *mabn_cuda_cublaslt(const struct mabn_device *device);
void *mabn_cuda_cudnn_handle(const struct mabn_device *device);    /* cudnnHandle_t */
void *mabn_cuda_cublaslt_handle(const struct mabn_device *device); /* cublasLtHandle_t */

/* Pinned host memory, which the GPU can read and write itself; zeroed, freed by _release. */
MABN_MUST_USE mabn_status mabn_cuda_host_alloc(struct mabn_device *device, void **out,
                                               size_t bytes);
void mabn_cuda_host_release(struct mabn_device *device, void *p); /* NULL is fine */

/* Queue a copy in `stream`. `host` is memory of mabn_cuda_host_alloc and must stay as it is until the
 * copy is done. */
MABN_MUST_USE mabn_status mabn_cuda_copy_in(struct mabn_device *device, void *on_device,
                                            const void *host, size_t bytes, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_copy_out(struct mabn_device *device, void *host,
                                             const void *on_device, size_t bytes, void *stream);

/* ---- events: a place in a stream's queue ---- */

struct mabn_cuda_event;
/* timed: for mabn_cuda_event_seconds. */
MABN_MUST_USE mabn_status mabn_cuda_event_new(struct mabn_cuda_event **event,
                                              struct mabn_device *device, bool timed);
void mabn_cuda_event_free(struct mabn_cuda_event *event); /* NULL is fine */
MABN_MUST_USE mabn_status mabn_cuda_event_record(struct mabn_cuda_event *event, void *stream);
/* Wait on the host. An event that was never recorded counts as reached. */
MABN_MUST_USE mabn_status mabn_cuda_event_wait(struct mabn_cuda_event *event);
/* Work queued in `stream` from here on waits for the event; the host does not. */
MABN_MUST_USE mabn_status mabn_cuda_event_order(struct mabn_cuda_event *event, void *stream);
/* Seconds between two timed events, both reached. */
MABN_MUST_USE mabn_status mabn_cuda_event_seconds(double *seconds,
                                                  const struct mabn_cuda_event *from,
                                                  const struct mabn_cuda_event *to);
/* For timing: hold up the stream for this long, so that work queued meanwhile then runs without
 * pauses of the host. */
MABN_MUST_USE mabn_status mabn_cuda_hold(struct mabn_device *device, double seconds);

/* ---- graphs: a queue captured once and launched as one ---- */

struct mabn_cuda_graph;
/* From here on the device's stream records work and does not execute it. */
MABN_MUST_USE mabn_status mabn_cuda_capture_begin(struct mabn_device *device);
/* Ends the capture in any case; `status`: what the captured calls returned. On failure of either
 * *graph is NULL and nothing is left behind. */
MABN_MUST_USE mabn_status mabn_cuda_capture_end(struct mabn_device *device,
                                                struct mabn_cuda_graph **graph, mabn_status status);
MABN_MUST_USE mabn_status mabn_cuda_graph_launch(struct mabn_device *device,
                                                 struct mabn_cuda_graph *graph);
int mabn_cuda_graph_nodes(const struct mabn_cuda_graph *graph); /* kernels, copies and the like */
void mabn_cuda_graph_free(struct mabn_cuda_graph *graph);       /* NULL is fine */

MABN_END_DECLS
#endif
