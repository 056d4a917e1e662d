/* A CUDA device: one NVIDIA GPU with a stream to compute in, a stream to copy in, a side stream
 * (mabn_device_side_begin), and NVIDIA's libraries. Streams do not wait for the default stream, nor it
 * for them.
 *
 * Captures are the calling thread's own (cudaStreamCaptureModeThreadLocal): other threads may
 * allocate meanwhile. Calls that would break a capture are refused here before CUDA sees them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>

#include "base/mem.h"
#include "device/cuda.h"
#include "device/internal.h"
#include "device/launch.cuh"

namespace
{

struct cuda_device {
    struct mabn_device base;
    int index;
    struct mabn_cuda_limits limits;
    cudaStream_t stream, copy_stream, side_stream;
    cudaEvent_t asked, sided; /* the side stream waits for the first; `stream` for the second */
    struct mabn_cuda_libraries libraries;
    bool capturing;
};

struct cuda_device *of(struct mabn_device *d)
{
    return reinterpret_cast<struct cuda_device *>(d);
}

const struct cuda_device *of(const struct mabn_device *d)
{
    return reinterpret_cast<const struct cuda_device *>(d);
}

/* Before any call that goes to the current GPU. */
mabn_status enter(const struct cuda_device *c, const char *what)
{
    if (c->capturing)
        return mabn_fail(MABN_ERR_CUDA, "cannot %s while a graph is being captured", what);
    MABN_CUDA_TRY(cudaSetDevice(c->index));
    return MABN_OK;
}

/* ---- device.h ---- */

mabn_status cuda_wait(struct mabn_device *d)
{
    struct cuda_device *c = of(d);
    MABN_TRY(enter(c, "wait for the GPU"));
    MABN_CUDA_TRY(cudaStreamSynchronize(c->copy_stream));
    MABN_CUDA_TRY(cudaStreamSynchronize(c->stream));
    return MABN_OK;
}

mabn_status cuda_zero(struct mabn_device *d, void *p, size_t bytes)
{
    struct cuda_device *c = of(d);
    MABN_TRY(cuda_wait(d));
    MABN_CUDA_TRY(cudaMemsetAsync(p, 0, bytes, c->stream));
    MABN_CUDA_TRY(cudaStreamSynchronize(c->stream));
    return MABN_OK;
}

mabn_status copy(struct mabn_device *d, void *to, const void *from, size_t bytes,
                 cudaMemcpyKind kind)
{
    struct cuda_device *c = of(d);
    MABN_TRY(cuda_wait(d));
    MABN_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kind, c->stream));
    MABN_CUDA_TRY(cudaStreamSynchronize(c->stream));
    return MABN_OK;
}

mabn_status cuda_put(struct mabn_device *d, void *on_device, const void *host, size_t bytes)
{
    return copy(d, on_device, host, bytes, cudaMemcpyHostToDevice);
}

mabn_status cuda_get(struct mabn_device *d, void *host, const void *on_device, size_t bytes)
{
    return copy(d, host, on_device, bytes, cudaMemcpyDeviceToHost);
}

mabn_status no_memory(const struct cuda_device *c, size_t bytes, cudaError_t error)
{
    size_t free_bytes = 0, total = 0;
    cudaGetLastError(); /* clear it: it is reported here, not by the next call */
    if (error != cudaErrorMemoryAllocation)
        return mabn_fail(MABN_ERR_CUDA, "cudaMalloc: %s", cudaGetErrorString(error));
    cudaMemGetInfo(&free_bytes, &total);
    return mabn_fail(MABN_ERR_NOMEM,
                     "out of GPU memory: cannot get %.1f MiB, %.1f of %.1f GiB are free; a smaller "
                     "batch needs less",
                     (double)bytes / 1048576, (double)free_bytes / 1073741824,
                     (double)c->limits.memory / 1073741824);
}

mabn_status cuda_alloc(struct mabn_device *d, void **out, size_t bytes)
{
    struct cuda_device *c = of(d);
    void *p = nullptr;
    MABN_TRY(enter(c, "allocate GPU memory"));
    cudaError_t error = cudaMalloc(&p, bytes);
    if (error != cudaSuccess) return no_memory(c, bytes, error);
    mabn_status status = cuda_zero(d, p, bytes);
    if (status)
        cudaFree(p);
    else
        *out = p;
    return status;
}

void cuda_release(struct mabn_device *d, void *p, size_t)
{
    cudaSetDevice(of(d)->index);
    cudaFree(p);
}

void *cuda_queue(const struct mabn_device *d)
{
    return of(d)->stream;
}

mabn_status cuda_side_begin(struct mabn_device *d, void **queue)
{
    struct cuda_device *c = of(d);
    MABN_CUDA_TRY(cudaEventRecord(c->asked, c->stream));
    MABN_CUDA_TRY(cudaStreamWaitEvent(c->side_stream, c->asked, 0));
    *queue = c->side_stream;
    return MABN_OK;
}

mabn_status cuda_side_end(struct mabn_device *d)
{
    struct cuda_device *c = of(d);
    MABN_CUDA_TRY(cudaEventRecord(c->sided, c->side_stream));
    MABN_CUDA_TRY(cudaStreamWaitEvent(c->stream, c->sided, 0));
    return MABN_OK;
}

void cuda_close(struct mabn_device *d)
{
    struct cuda_device *c = of(d);
    cudaSetDevice(c->index);
    mabn_cuda_libraries_close(&c->libraries);
    if (c->sided) cudaEventDestroy(c->sided);
    if (c->asked) cudaEventDestroy(c->asked);
    if (c->side_stream) cudaStreamDestroy(c->side_stream);
    if (c->copy_stream) cudaStreamDestroy(c->copy_stream);
    if (c->stream) cudaStreamDestroy(c->stream);
    free(c);
}

const struct mabn_device_calls calls = {
    cuda_alloc, cuda_release, cuda_put,        cuda_get,      cuda_zero,
    cuda_wait,  cuda_queue,   cuda_side_begin, cuda_side_end, cuda_close,
};

/* ---- opening ---- */

/* Is there a GPU of that number? The message is for users: it is what a machine without one
 * prints. */
mabn_status find_gpu(int index)
{
    int driver = 0, count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "no NVIDIA driver");
    cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "the NVIDIA driver is of CUDA %d.%d, and this build needs one of %d.%d",
                         driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                         CUDART_VERSION % 1000 / 10);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "the NVIDIA driver sees none");
    if (error != cudaSuccess)
        return mabn_fail(MABN_ERR_CUDA, "cudaGetDeviceCount: %s", cudaGetErrorString(error));
    if (index >= count)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no cuda:%d: this machine has %d GPU%s",
                         index, count, count == 1 ? "" : "s");
    return MABN_OK;
}

__global__ void answer(int *out)
{
    if (threadIdx.x == 0) *out = 42;
}

/* Does this build have code for this GPU, and does the GPU work? */
mabn_status try_kernel(struct cuda_device *c)
{
    void *p;
    int got = 0;
    MABN_TRY(cuda_alloc(&c->base, &p, sizeof got));
    mabn_status status =
        MABN_LAUNCH(answer, dim3(1), dim3(32), 0, c->stream, static_cast<int *>(p));
    if (!status) status = cuda_get(&c->base, &got, p, sizeof got);
    if (!status && got != 42) status = mabn_fail(MABN_ERR_CUDA, "a test kernel had no effect");
    cuda_release(&c->base, p, sizeof got);
    if (!status) return MABN_OK;
    return mabn_fail_prefix(status,
                            "this build's kernels do not run on compute capability %d.%d "
                            "(CUDA_ARCH says for which they are built)",
                            c->limits.major, c->limits.minor);
}

/* "580.159.04", if the system says so. */
void driver_version(char *text, size_t size)
{
    int number = 0;
    FILE *f = fopen("/sys/module/nvidia/version", "r");
    bool told = f && fgets(text, int(size), f);
    if (f) fclose(f);
    text[told ? strcspn(text, "\n") : 0] = 0;
    if (*text) return;
    cudaDriverGetVersion(&number);
    snprintf(text, size, "of CUDA %d.%d", number / 1000, number % 1000 / 10);
}

void write_name(struct cuda_device *c, const char *gpu)
{
    char driver[40], library[40] = "no cuDNN";
    int version = c->libraries.cudnn_version;
    driver_version(driver, sizeof driver);
    if (c->libraries.cudnn)
        snprintf(library, sizeof library, "cuDNN %d.%d", version / 10000, version % 10000 / 100);
    snprintf(c->base.name, sizeof c->base.name, "%s, %.0f GiB, %s, driver %s", gpu,
             (double)c->limits.memory / 1073741824, library, driver);
}

mabn_status open_gpu(struct cuda_device *c)
{
    cudaDeviceProp properties;
    MABN_TRY(find_gpu(c->index));
    MABN_CUDA_TRY(cudaSetDevice(c->index));
    MABN_CUDA_TRY(cudaGetDeviceProperties(&properties, c->index));
    c->limits.major = properties.major;
    c->limits.minor = properties.minor;
    c->limits.processors = properties.multiProcessorCount;
    c->limits.memory = properties.totalGlobalMem;
    c->limits.l2 = size_t(properties.l2CacheSize);
    if (properties.major < 8)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "%s has compute capability %d.%d; at least 8.0 is needed", properties.name,
                         properties.major, properties.minor);
    MABN_CUDA_TRY(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    MABN_CUDA_TRY(cudaStreamCreateWithFlags(&c->copy_stream, cudaStreamNonBlocking));
    MABN_CUDA_TRY(cudaStreamCreateWithFlags(&c->side_stream, cudaStreamNonBlocking));
    MABN_CUDA_TRY(cudaEventCreateWithFlags(&c->asked, cudaEventDisableTiming));
    MABN_CUDA_TRY(cudaEventCreateWithFlags(&c->sided, cudaEventDisableTiming));
    MABN_CUDA_TRY(cudaDeviceGetPCIBusId(c->base.gpu, sizeof c->base.gpu, c->index));
    MABN_TRY(try_kernel(c));
    MABN_TRY(mabn_cuda_libraries_open(&c->libraries, c->stream));
    write_name(c, properties.name);
    return MABN_OK;
}

} // namespace

int mabn_device_cuda_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    cudaGetLastError();
    return count;
}

mabn_status mabn_device_open_cuda(struct mabn_device **device, int index, int threads)
{
    struct cuda_device *c = static_cast<struct cuda_device *>(mabn_xcalloc(1, sizeof *c));
    c->base.kind = MABN_DEVICE_CUDA;
    c->base.calls = &calls;
    c->base.threads = threads;
    c->index = c->base.number = index;
    mabn_status status = open_gpu(c);
    if (status) {
        cuda_close(&c->base);
        return status;
    }
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    *device = &c->base;
    return MABN_OK;
}

/* ---- cuda.h ---- */

void *mabn_cuda_stream(const struct mabn_device *device)
{
    return of(device)->stream;
}

void *mabn_cuda_copy_stream(const struct mabn_device *device)
{
    return of(device)->copy_stream;
}

const struct mabn_cuda_limits *mabn_cuda_limits_of(const struct mabn_device *device)
{
    return &of(device)->limits;
}

size_t mabn_cuda_memory_used(const struct mabn_device *device)
{
    size_t free_bytes = 0, total = 0;
    cudaSetDevice(of(device)->index);
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) return 0;
    return total - free_bytes;
}

const struct mabn_cudnn *mabn_cuda_cudnn(const struct mabn_device *device)
{
    return of(device)->libraries.cudnn;
}

const struct mabn_cublaslt *mabn_cuda_cublaslt(const struct mabn_device *device)
{
    return of(device)->libraries.cublaslt;
}

void *mabn_cuda_cudnn_handle(const struct mabn_device *device)
{
    return of(device)->libraries.cudnn_handle;
}

void *mabn_cuda_cublaslt_handle(const struct mabn_device *device)
{
    return of(device)->libraries.cublaslt_handle;
}

mabn_status mabn_cuda_host_alloc(struct mabn_device *device, void **out, size_t bytes)
{
    *out = nullptr;
    MABN_TRY(enter(of(device), "allocate host memory"));
    if (!bytes) bytes = 1;
    cudaError_t error = cudaHostAlloc(out, bytes, cudaHostAllocPortable);
    if (error != cudaSuccess) {
        cudaGetLastError();
        *out = nullptr;
        return mabn_fail(error == cudaErrorMemoryAllocation ? MABN_ERR_NOMEM : MABN_ERR_CUDA,
                         "cannot get %.1f MiB of locked host memory: %s", (double)bytes / 1048576,
                         cudaGetErrorString(error));
    }
    memset(*out, 0, bytes);
    return MABN_OK;
}

void mabn_cuda_host_release(struct mabn_device *device, void *p)
{
    if (!p) return;
    cudaSetDevice(of(device)->index);
    cudaFreeHost(p);
}

mabn_status mabn_cuda_copy_in(struct mabn_device *, void *on_device, const void *host, size_t bytes,
                              void *stream)
{
    MABN_CUDA_TRY(cudaMemcpyAsync(on_device, host, bytes, cudaMemcpyHostToDevice,
                                  static_cast<cudaStream_t>(stream)));
    return MABN_OK;
}

mabn_status mabn_cuda_copy_out(struct mabn_device *, void *host, const void *on_device,
                               size_t bytes, void *stream)
{
    MABN_CUDA_TRY(cudaMemcpyAsync(host, on_device, bytes, cudaMemcpyDeviceToHost,
                                  static_cast<cudaStream_t>(stream)));
    return MABN_OK;
}

/* ---- events ---- */

struct mabn_cuda_event {
    cudaEvent_t event;
};

/* A host thread that waits for an event sleeps and leaves its processor to the decoders. Timed events
 * are for benchmarks, where the time to wake up would count: their waits spin. */
mabn_status mabn_cuda_event_new(struct mabn_cuda_event **event, struct mabn_device *device,
                                bool timed)
{
    const unsigned flags =
        timed ? cudaEventDefault : cudaEventDisableTiming | cudaEventBlockingSync;
    cudaEvent_t made;
    *event = nullptr;
    MABN_CUDA_TRY(cudaSetDevice(of(device)->index));
    MABN_CUDA_TRY(cudaEventCreateWithFlags(&made, flags));
    *event = static_cast<struct mabn_cuda_event *>(mabn_xcalloc(1, sizeof **event));
    (*event)->event = made;
    return MABN_OK;
}

void mabn_cuda_event_free(struct mabn_cuda_event *event)
{
    if (!event) return;
    cudaEventDestroy(event->event);
    free(event);
}

mabn_status mabn_cuda_event_record(struct mabn_cuda_event *event, void *stream)
{
    MABN_CUDA_TRY(cudaEventRecord(event->event, static_cast<cudaStream_t>(stream)));
    return MABN_OK;
}

mabn_status mabn_cuda_event_wait(struct mabn_cuda_event *event)
{
    MABN_CUDA_TRY(cudaEventSynchronize(event->event));
    return MABN_OK;
}

mabn_status mabn_cuda_event_order(struct mabn_cuda_event *event, void *stream)
{
    MABN_CUDA_TRY(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event->event, 0));
    return MABN_OK;
}

mabn_status mabn_cuda_event_seconds(double *seconds, const struct mabn_cuda_event *from,
                                    const struct mabn_cuda_event *to)
{
    float milliseconds = 0;
    MABN_CUDA_TRY(cudaEventElapsedTime(&milliseconds, from->event, to->event));
    *seconds = milliseconds / 1e3;
    return MABN_OK;
}

/* One thread watches the clock. The executor has no clock and does not hold. */
static __global__ void hold_kernel(uint64_t nanoseconds)
{
#ifdef __CUDA_ARCH__
    uint64_t begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - begin < nanoseconds);
#else
    (void)nanoseconds;
#endif
}

mabn_status mabn_cuda_hold(struct mabn_device *device, double seconds)
{
    return MABN_LAUNCH(hold_kernel, 1, 1, 0, of(device)->stream,
                       static_cast<uint64_t>(seconds * 1e9));
}

/* ---- graphs ---- */

struct mabn_cuda_graph {
    cudaGraphExec_t exec;
    int nodes;
};

mabn_status mabn_cuda_capture_begin(struct mabn_device *device)
{
    struct cuda_device *c = of(device);
    MABN_TRY(enter(c, "begin a capture"));
    MABN_CUDA_TRY(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
    c->capturing = true;
    return MABN_OK;
}

static mabn_status make_graph(struct mabn_cuda_graph **graph, cudaGraph_t captured)
{
    size_t nodes = 0;
    cudaGraphExec_t exec = nullptr;
    MABN_CUDA_TRY(cudaGraphGetNodes(captured, nullptr, &nodes));
    MABN_CUDA_TRY(cudaGraphInstantiate(&exec, captured, 0));
    *graph = static_cast<struct mabn_cuda_graph *>(mabn_xcalloc(1, sizeof **graph));
    (*graph)->exec = exec;
    (*graph)->nodes = int(nodes);
    return MABN_OK;
}

mabn_status mabn_cuda_capture_end(struct mabn_device *device, struct mabn_cuda_graph **graph,
                                  mabn_status status)
{
    struct cuda_device *c = of(device);
    cudaGraph_t captured = nullptr;
    *graph = nullptr;
    if (!c->capturing) return status ? status : mabn_fail(MABN_ERR_CUDA, "no capture to end");
    c->capturing = false;
    cudaError_t error = cudaStreamEndCapture(c->stream, &captured);
    cudaGetLastError();
    if (!status && error != cudaSuccess)
        status = mabn_fail(MABN_ERR_CUDA, "cudaStreamEndCapture: %s", cudaGetErrorString(error));
    if (!status) status = make_graph(graph, captured);
    if (captured) cudaGraphDestroy(captured);
    return status;
}

mabn_status mabn_cuda_graph_launch(struct mabn_device *device, struct mabn_cuda_graph *graph)
{
    MABN_CUDA_TRY(cudaGraphLaunch(graph->exec, of(device)->stream));
    return MABN_OK;
}

int mabn_cuda_graph_nodes(const struct mabn_cuda_graph *graph)
{
    return graph->nodes;
}

void mabn_cuda_graph_free(struct mabn_cuda_graph *graph)
{
    if (!graph) return;
    cudaGraphExecDestroy(graph->exec);
    free(graph);
}
