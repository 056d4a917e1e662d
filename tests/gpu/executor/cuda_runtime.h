/* The executor: enough of CUDA's run-time API, as plain C++, that the project's own kernels run on
 * a machine without a GPU, and are watched while they do.
 *
 * With this folder in front of the include path a .cu file compiles with any C++17 compiler.
 * Launches run at once: blocks in turn, the threads of a block as fibers that change over at
 * barriers and warp operations. One order of blocks and threads is as good as another on a GPU, so
 * a test may choose it (executor::set_order) and ask for the same bits.
 *
 * What a launch reports as a fault, with kernel, block, thread and line:
 *   - a __syncthreads that not all threads of the block reach, or reach at different lines;
 *   - a warp operation that not all threads of its mask reach; a shuffle from a lane outside;
 *   - shared memory (MABN_SHARED, MABN_SHARED_DYNAMIC): an index out of range, a read of what
 *     nothing wrote, two threads at one element without a barrier between them, one writing;
 *   - a launch that hardware would refuse: sizes, too much shared memory.
 * Out-of-range and misaligned accesses to global memory are AddressSanitizer's and UBSan's; memory
 * from cudaMalloc starts as NaN, so that what was never written shows.
 *
 * Streams, events and graphs work as far as the project uses them: one device, captures of one
 * stream. Work runs when it is queued, or with executor::set_late when somebody waits for it and no
 * earlier, streams created non-blocking, so that a wait that was forgotten shows. A call that
 * hardware refuses during a capture is refused, and so are a launch in the default stream then and
 * a captured copy from memory that is not locked.
 *
 * NVIDIA's libraries have stand-ins that queue their work likewise, where a test or
 * MABN_EXECUTOR_LIBRARIES in the environment wants them: libraries.h.
 *
 * One host thread may call. */
#ifndef MABN_TESTS_GPU_EXECUTOR_CUDA_RUNTIME_H
#define MABN_TESTS_GPU_EXECUTOR_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

using std::isinf;
using std::isnan;

#define MABN_EXECUTOR 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

/* ---- vector types ---- */

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y)
{
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

/* ---- where a thread is ---- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

/* ---- errors, memory ---- */

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorCapturedEvent = 907,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed,
};
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1 };
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount, l2CacheSize;
};

const char *cudaGetErrorString(cudaError_t error); /* the last fault's text */
cudaError_t cudaGetLastError();
inline cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaSetDevice(int device);
/* Of its own for each process; MABN_EXECUTOR_GPU in the environment has another. */
cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMalloc(void **p, size_t bytes); /* less than 1 GiB */
cudaError_t cudaFree(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset(void *dst, int value, size_t bytes);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
inline cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

namespace executor
{

/* ---- for tests ---- */

enum order { FORWARD, REVERSE, SHUFFLED }; /* of blocks in a grid and of threads in a block */
void set_order(order order);
/* Queued work waits until it is waited for; off at first, or on with MABN_EXECUTOR_LATE in the
 * environment. */
void set_late(bool late);
/* After `n` more calls of cudaMalloc that get memory, one finds none; < 0: none does (at first). */
void refuse_memory(int64_t n);
bool refused_memory();    /* since then */
const char *last_fault(); /* "" when there was none */
/* Launches so far, captured ones once, of kernels whose name as it is launched (MABN_LAUNCH) begins
 * so, past parentheses. */
uint64_t launches(const char *begin);

/* ---- inside ---- */

struct site {
    const char *file;
    int line;
};
void name_launch(const char *kernel); /* the next one's */
cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel,
                   std::function<void()> body);
cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work);
const void *capture_of(cudaStream_t stream); /* the same for all streams of one; NULL: none */
void set_fault(const std::string &text);
bool on_device(const void *p, size_t bytes); /* within one block of cudaMalloc */
cudaError_t allow_shared(const void *kernel, size_t bytes);
size_t allowed_shared(const void *kernel);
[[noreturn]] void fault(site at, const char *format, ...) __attribute__((format(printf, 2, 3)));
void block_barrier(site at);
bool block_any(bool mine, site at); /* a barrier that tells whether it is true of any thread */
void warp_barrier(unsigned mask, site at);
/* Give `value` to the other lanes of `mask`; returns what every lane gave, valid until the calling
 * thread's next warp operation. */
const uint64_t *warp_exchange(unsigned mask, uint64_t value, site at);
unsigned lane();

/* Who last touched an element of shared memory, and when. */
struct touch {
    bool written = false;
    int writer = -1, reader = -1; /* thread; reader -2: several */
    int reader_warp = -1;         /* -2: several */
    unsigned write_epoch = 0, write_warp_epoch = 0, read_epoch = 0, read_warp_epoch = 0;
};
void note_read(touch &t, site at, const char *name, size_t index);
void note_write(touch &t, site at, const char *name, size_t index);

struct shared_base {
    virtual ~shared_base() = default;
};
/* The block's array of this declaration, or NULL on its first thread. */
shared_base *find_shared(const void *key);
void keep_shared(const void *key, shared_base *array);
size_t dynamic_bytes();
size_t &static_bytes();

template <typename T> class shared_array : public shared_base
{
  public:
    class ref
    {
      public:
        ref(shared_array &array, size_t index) : array_(array), index_(index)
        {
        }
        operator T() const
        {
            note_read(array_.touches_[index_], array_.at_, array_.name_, index_);
            return array_.values_[index_];
        }
        T operator=(T value) const
        {
            note_write(array_.touches_[index_], array_.at_, array_.name_, index_);
            return array_.values_[index_] = value;
        }
        T operator=(const ref &other) const
        {
            return *this = T(other);
        }
        T operator+=(T value) const
        {
            return *this = T(*this) + value;
        }

      private:
        shared_array &array_;
        size_t index_;
    };

    shared_array(const char *name, size_t count, site at)
        : name_(name), at_(at), values_(count), touches_(count)
    {
        if (count) memset(static_cast<void *>(values_.data()), 0xff, count * sizeof(T));
    }
    ref operator[](size_t index)
    {
        if (index >= values_.size())
            fault(at_, "shared '%s'[%zd] is out of range: it has %zu elements", name_,
                  static_cast<ptrdiff_t>(index), values_.size());
        return ref(*this, index);
    }

  private:
    const char *name_;
    site at_;
    std::vector<T> values_;
    std::vector<touch> touches_;
};

template <typename T>
shared_array<T> &shared(const void *key, const char *name, size_t count, site at)
{
    shared_base *found = find_shared(key);
    if (!found) {
        found = new shared_array<T>(name, count, at);
        keep_shared(key, found);
        static_bytes() += count * sizeof(T);
        if (static_bytes() > 48 * 1024) fault(at, "more than 48 KiB of static shared memory");
    }
    return *static_cast<shared_array<T> *>(found);
}

template <typename T> shared_array<T> &shared_dynamic(const char *name, site at)
{
    static const char key = 0; /* one dynamic array of a type in a kernel */
    shared_base *found = find_shared(&key);
    if (!found) {
        found = new shared_array<T>(name, dynamic_bytes() / sizeof(T), at);
        keep_shared(&key, found);
    }
    return *static_cast<shared_array<T> *>(found);
}

template <typename T> uint64_t to_bits(T value)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <typename T> T from_lane(const uint64_t *lanes, unsigned mask, unsigned source, site at)
{
    T value;
    if (!(mask >> source & 1)) fault(at, "a shuffle reads lane %u, which takes no part", source);
    memcpy(&value, &lanes[source], sizeof value);
    return value;
}

} // namespace executor

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Params...),
                               Args &&...args)
{
    std::tuple<Params...> values(static_cast<Params>(args)...);
    return executor::launch(*config, reinterpret_cast<const void *>(kernel),
                            [=] { std::apply(kernel, values); });
}
template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute, int value)
{
    return executor::allow_shared(reinterpret_cast<const void *>(kernel), value);
}
struct cudaFuncAttributes {
    int maxDynamicSharedSizeBytes;
};
template <typename... Params>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(Params...))
{
    attributes->maxDynamicSharedSizeBytes =
        static_cast<int>(executor::allowed_shared(reinterpret_cast<const void *>(kernel)));
    return cudaSuccess;
}

/* ---- shared memory: see lib/device/launch.cuh ---- */

#define MABN_SHARED(type, name, count)   \
    static const char name##_key = 0;    \
    executor::shared_array<type> &name = \
        executor::shared<type>(&name##_key, #name, (count), {__FILE__, __LINE__})
#define MABN_SHARED_DYNAMIC(type, name) \
    executor::shared_array<type> &name = executor::shared_dynamic<type>(#name, {__FILE__, __LINE__})

/* ---- barriers, warps, atomics ---- */

#define MABN_EXECUTOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MABN_EXECUTOR_SITE)
{
    executor::block_barrier({file, line});
}
inline int __syncthreads_or(int predicate, MABN_EXECUTOR_SITE)
{
    return executor::block_any(predicate, {file, line});
}
inline void __syncwarp(unsigned mask = ~0u, MABN_EXECUTOR_SITE)
{
    executor::warp_barrier(mask, {file, line});
}
inline void __threadfence()
{
}
inline void __threadfence_block()
{
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MABN_EXECUTOR_SITE)
{
    const uint64_t *lanes = executor::warp_exchange(mask, executor::to_bits(value), {file, line});
    unsigned base = executor::lane() & ~unsigned(width - 1);
    return executor::from_lane<T>(lanes, mask, base + (unsigned(source) & (width - 1)),
                                  {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, MABN_EXECUTOR_SITE)
{
    const uint64_t *lanes = executor::warp_exchange(mask, executor::to_bits(value), {file, line});
    unsigned self = executor::lane(), source = self ^ unsigned(bits);
    unsigned end = (self & ~unsigned(width - 1)) + width;
    return source < end ? executor::from_lane<T>(lanes, mask, source, {file, line}) : value;
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MABN_EXECUTOR_SITE)
{
    const uint64_t *lanes = executor::warp_exchange(mask, executor::to_bits(value), {file, line});
    unsigned self = executor::lane(), end = (self & ~unsigned(width - 1)) + width;
    return self + delta < end ? executor::from_lane<T>(lanes, mask, self + delta, {file, line})
                              : value;
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MABN_EXECUTOR_SITE)
{
    const uint64_t *lanes = executor::warp_exchange(mask, predicate != 0, {file, line});
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1) votes |= unsigned(lanes[i]) << i;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate, MABN_EXECUTOR_SITE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MABN_EXECUTOR_SITE)
{
    return __ballot_sync(mask, predicate, file, line) == mask;
}

template <typename T> T atomicAdd(T *p, T value)
{
    T old = *p;
    *p = old + value;
    return old;
}
template <typename T> T atomicOr(T *p, T value)
{
    T old = *p;
    *p = old | value;
    return old;
}
template <typename T> T atomicExch(T *p, T value)
{
    T old = *p;
    *p = value;
    return old;
}

/* ---- arithmetic that the host's headers lack ---- */

inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
/* Never fused: nor does this compiler, under -std=c++17. */
inline float __fmul_rn(float x, float y)
{
    return x * y;
}
inline double __dmul_rn(double x, double y)
{
    return x * y;
}
inline double __dadd_rn(double x, double y)
{
    return x + y;
}
inline float __fadd_rn(float x, float y)
{
    return x + y;
}
inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
template <typename T> T __ldg(const T *p)
{
    return *p;
}
template <typename T> T __ldcs(const T *p)
{
    return *p;
}
template <typename T> void __stcs(T *p, T value)
{
    *p = value;
}
inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

#endif
