/* Dynamic loss scaling on the GPU: see ops_cuda.h. The pass over the gradients reads them once, at
 * memory speed. Every thread that finds one that is not finite writes the same 1. */
#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256, UNROLL = 4, GROW_AFTER = 2000 };

constexpr int64_t MOST_BLOCKS = 2112;
constexpr float FIRST_SCALE = 65536, LARGEST_SCALE = 8.507059173e37f /* 2^126: 1/scale is normal */;

__device__ __forceinline__ bool not_finite(unsigned bits)
{
    return (bits & 0x7f800000u) == 0x7f800000u;
}

/* `fours` groups of four values from gradients on, then the values that are left. */
__global__ void __launch_bounds__(THREADS)
    finite_kernel(int32_t *overflow, const float *gradients, int64_t fours, int64_t count)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    const int64_t own = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    bool bad = false;

    for (int64_t i0 = own; i0 < fours; i0 += UNROLL * step) {
        uint4 raw[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int64_t i = i0 + u * step;
            raw[u] = i < fours ? mabn_fetch<4>(gradients + i * 4) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            bad = bad || not_finite(raw[u].x) || not_finite(raw[u].y) || not_finite(raw[u].z) ||
                  not_finite(raw[u].w);
    }
    for (int64_t i = fours * 4 + own; i < count; i += step)
        bad = bad || not_finite(__float_as_uint(gradients[i]));
    if (bad) *overflow = 1;
}

__global__ void init_kernel(struct mabn_cuda_scaler *s)
{
    s->scale = FIRST_SCALE;
    s->inverse = 1 / FIRST_SCALE;
    s->good = s->overflow = s->skipped_last = s->padding = 0;
    s->skipped = 0;
}

__global__ void update_kernel(struct mabn_cuda_scaler *s)
{
    const bool overflow = s->overflow;

    s->skipped_last = overflow;
    s->skipped += overflow;
    s->good = overflow ? 0 : s->good + 1;
    if (overflow && s->scale > 1 / LARGEST_SCALE) s->scale /= 2;
    if (s->good >= GROW_AFTER) {
        if (s->scale < LARGEST_SCALE) s->scale *= 2;
        s->good = 0;
    }
    s->inverse = 1 / s->scale;
    s->overflow = 0;
}

} // namespace

mabn_status mabn_cuda_scaler_init(struct mabn_cuda_scaler *scaler, void *stream)
{
    return MABN_LAUNCH(init_kernel, 1, 1, 0, static_cast<cudaStream_t>(stream), scaler);
}

mabn_status mabn_cuda_gradients_finite(int32_t *overflow, const float *gradients, int64_t count,
                                       void *stream)
{
    const int64_t fours = reinterpret_cast<uintptr_t>(gradients) % 16 ? 0 : count / 4;
    const int64_t wanted = (count + 4 * UNROLL * THREADS - 1) / (4 * UNROLL * THREADS);

    if (!count) return MABN_OK;
    return MABN_LAUNCH(finite_kernel, (unsigned)(wanted < MOST_BLOCKS ? wanted : MOST_BLOCKS),
                       THREADS, 0, static_cast<cudaStream_t>(stream), overflow, gradients, fours,
                       count);
}

mabn_status mabn_cuda_scaler_update(struct mabn_cuda_scaler *scaler, void *stream)
{
    return MABN_LAUNCH(update_kernel, 1, 1, 0, static_cast<cudaStream_t>(stream), scaler);
}
