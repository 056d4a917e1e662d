/* How our own kernels are written and launched.
 *
 * A kernel is plain CUDA C++ under a few conventions, so that the same .cu file also compiles with
 * an ordinary C++ compiler against the executor (tests/gpu/executor), which runs it on the CPU and
 * watches for races, divergent barriers and stray accesses:
 *   - launched only by MABN_LAUNCH;
 *   - shared memory declared by MABN_SHARED(type, name, count) or MABN_SHARED_DYNAMIC(type, name),
 *     and used only as name[i] (pass the array itself to helpers, by template reference); an
 *     element is read or written whole;
 *   - no thread leaves before the block's last barrier; barriers and warp operations with every
 *     thread of the block or mask, in the same place in the code;
 *   - sums in a fixed order: no atomics on floats, so that results repeat bit for bit;
 *   - values that change from step to step (iteration counters, learning rate, flags) lie in device
 *     memory, and host code only launches: every function that launches may be captured in a graph.
 * Such files do not use tensor cores, bulk copies or plans of libraries: those are behind
 * interfaces that also have a reference implementation. */
#ifndef MABN_DEVICE_LAUNCH_CUH
#define MABN_DEVICE_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stdlib.h>

#include "base/status.h"

#ifndef MABN_SHARED
#define MABN_SHARED(type, name, count) __shared__ type name[count]
/* One a kernel. */
#define MABN_SHARED_DYNAMIC(type, name)                           \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type *name = reinterpret_cast<type *>(name##_bytes)
#endif

/* Wait for the work queued before this kernel. All threads call it before they touch memory,
 * because a launch may start before its predecessor has ended (below). The next launch may start
 * once all blocks of this one have called it, and waits in the same way. */
__device__ __forceinline__ void mabn_await_inputs(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* A status with CUDA's message. It also clears CUDA's error, so that a caller that continues by
 * other means does not see it after its next launch. */
inline mabn_status mabn_cuda_fail_(cudaError_t error, const char *call)
{
    (void)cudaGetLastError();
    return mabn_fail(MABN_ERR_CUDA, "%s: %s", call, cudaGetErrorString(error));
}

/* A CUDA call; on failure that status. */
#define MABN_CUDA_TRY(expr)                                                                   \
    do {                                                                                      \
        cudaError_t mabn_cuda_error_ = (expr);                                                \
        if (mabn_cuda_error_ != cudaSuccess) return mabn_cuda_fail_(mabn_cuda_error_, #expr); \
    } while (0)

#ifndef MABN_EXECUTOR
/* Is MABN_EARLY_LAUNCH=1 in the environment, and the GPU a Hopper? Other GPUs, newer ones too, run code
 * of this build in which mabn_await_inputs does not wait. */
inline bool mabn_launches_early(void)
{
    static const bool early = [] {
        const char *word = getenv("MABN_EARLY_LAUNCH");
        int device, major = 0;
        return word && *word == '1' && cudaGetDevice(&device) == cudaSuccess &&
               cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
                   cudaSuccess &&
               major == 9;
    }();
    return early;
}
#endif

template <typename... Params, typename... Args>
mabn_status mabn_launch_(const char *name, bool early, void (*kernel)(Params...), dim3 grid,
                         dim3 block, size_t shared, cudaStream_t stream, Args... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
#ifndef MABN_EXECUTOR
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = early && mabn_launches_early();
#else
    (void)early;
    executor::name_launch(name);
#endif
    cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
    if (error == cudaSuccess) return MABN_OK;
    (void)cudaGetLastError();
    return mabn_fail(MABN_ERR_CUDA, "cannot run %s<<<(%u,%u,%u), (%u,%u,%u), %zu>>>: %s", name,
                     grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                     cudaGetErrorString(error));
}

/* Run kernel(args…) on `grid` blocks of `block` threads with `shared` bytes of dynamic shared
 * memory in `stream`; returns the status. A kernel with commas in its name goes in parentheses. */
#define MABN_LAUNCH(kernel, grid, block, shared, stream, ...) \
    mabn_launch_(#kernel, false, kernel, grid, block, shared, stream, __VA_ARGS__)
/* The same for a kernel that begins with mabn_await_inputs. Where mabn_launches_early, its blocks come
 * onto the device while the kernel before it ends. Never measured. */
#define MABN_LAUNCH_EARLY(kernel, grid, block, shared, stream, ...) \
    mabn_launch_(#kernel, true, kernel, grid, block, shared, stream, __VA_ARGS__)

#endif
