/* Pooling on the GPU, NHWC: a thread takes a vector of channels of one position. Backward gathers,
 * in a fixed order, from the windows over a position: nothing is added atomically. */
#include <algorithm>

#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256 };

struct window {
    int64_t n, h, w, c, oh, ow;
    int kernel, stride, pad;
};

mabn_status window_of(struct window *out, const struct mabn_pool_shape *s)
{
    if (s->kernel < 1 || s->kernel > 15 || s->stride < 1 || s->pad < 0 || s->pad > s->kernel / 2)
        return mabn_fail(MABN_ERR_ARG, "pooling: kernel %d, stride %d, padding %d do not fit",
                         s->kernel, s->stride, s->pad);
    *out = {s->n,
            s->h,
            s->w,
            s->c,
            mabn_pool_out(s->h, s->kernel, s->stride, s->pad),
            mabn_pool_out(s->w, s->kernel, s->stride, s->pad),
            s->kernel,
            s->stride,
            s->pad};
    if (s->n < 0 || s->c < 1 || !out->oh || !out->ow)
        return mabn_fail(MABN_ERR_ARG, "pooling: a %lld×%lld image is smaller than the window",
                         (long long)s->h, (long long)s->w);
    return MABN_OK;
}

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

__device__ __forceinline__ int64_t item_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

template <typename I> __device__ __forceinline__ I most(I a, I b)
{
    return a > b ? a : b;
}

template <typename I> __device__ __forceinline__ I least(I a, I b)
{
    return a < b ? a : b;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    maxpool_forward(T *y, uint8_t *winner, const T *x, struct window s)
{
    const int64_t i = item_index() * V, c = i % s.c, position = i / s.c;
    const int64_t ox = position % s.ow, row = position / s.ow, oy = row % s.oh, n = row / s.oh;
    if (n >= s.n) return;
    const int64_t top = oy * s.stride - s.pad, left = ox * s.stride - s.pad;
    float best[V];
    int place[V];
    bool first = true;

    for (int64_t iy = most<int64_t>(0, top); iy < least(s.h, top + s.kernel); iy++)
        for (int64_t ix = most<int64_t>(0, left); ix < least(s.w, left + s.kernel); ix++) {
            const int here = (int)((iy - top) * s.kernel + (ix - left));
            float v[V];
            mabn_load(v, x + ((n * s.h + iy) * s.w + ix) * s.c + c);
#pragma unroll
            for (int j = 0; j < V; j++)
                if (first || v[j] > best[j] || v[j] != v[j]) {
                    best[j] = v[j];
                    place[j] = here;
                }
            first = false;
        }
    mabn_store(y + i, best);
    if (!winner) return;
#pragma unroll
    for (int j = 0; j < V; j++)
        winner[i + j] = (uint8_t)place[j];
}

/* The winners of V outputs, in one load. */
template <int V> __device__ __forceinline__ void load_winners(int (&out)[V], const uint8_t *p)
{
    if constexpr (V == 1) {
        out[0] = *p;
    } else {
        unsigned words[V / 4];
        if constexpr (V == 8) {
            const uint2 both = *reinterpret_cast<const uint2 *>(p);
            words[0] = both.x;
            words[1] = both.y;
        } else {
            words[0] = *reinterpret_cast<const unsigned *>(p);
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            out[j] = (int)(words[j / 4] >> 8 * (j % 4) & 255);
    }
}

/* I: the type of all indices. Where 32 bits suffice, divisions cost a fraction. */
template <typename T, int V, typename I>
__global__ void __launch_bounds__(THREADS)
    maxpool_backward(T *dx, const T *dy, const uint8_t *winner, struct window s)
{
    const I channels = (I)s.c, width = (I)s.w, height = (I)s.h, oh = (I)s.oh, ow = (I)s.ow;
    const I i = (I)(item_index() * V), c = i % channels, position = i / channels;
    const I ix = position % width, row = position / width, iy = row % height, n = row / height;
    if (n >= s.n) return;
    float sum[V] = {0};

    /* Windows that cover iy: oy·stride − pad ≤ iy < oy·stride − pad + kernel. */
    for (I oy = most<I>(0, (iy + s.pad - s.kernel + s.stride) / s.stride);
         oy <= least<I>(oh - 1, (iy + s.pad) / s.stride); oy++)
        for (I ox = most<I>(0, (ix + s.pad - s.kernel + s.stride) / s.stride);
             ox <= least<I>(ow - 1, (ix + s.pad) / s.stride); ox++) {
            const I at = ((n * oh + oy) * ow + ox) * channels + c;
            const int here =
                (int)((iy - oy * s.stride + s.pad) * s.kernel + (ix - ox * s.stride + s.pad));
            float v[V];
            int won[V];
            mabn_load(v, dy + at);
            load_winners(won, winner + at);
#pragma unroll
            for (int j = 0; j < V; j++)
                if (won[j] == here) sum[j] += v[j];
        }
    mabn_store(dx + i, sum);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    avgpool_forward(T *y, const T *x, int64_t n, int64_t hw, int64_t c)
{
    const int64_t i = item_index() * V;
    if (i >= n * c) return;
    const T *p = x + i / c * hw * c + i % c;
    float sum[V] = {0};

#pragma unroll 4
    for (int64_t position = 0; position < hw; position++) {
        float v[V];
        mabn_load(v, p + position * c);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < V; j++)
        sum[j] /= (float)hw;
    mabn_store(y + i, sum);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    avgpool_backward(T *dx, const T *dy, int64_t n, int64_t hw, int64_t c)
{
    const int64_t i = item_index() * V;
    if (i >= n * hw * c) return;
    float v[V];

    mabn_load(v, dy + i / (hw * c) * c + i % c);
#pragma unroll
    for (int j = 0; j < V; j++)
        v[j] /= (float)hw;
    mabn_store(dx + i, v);
}

} // namespace

mabn_status mabn_cuda_maxpool_forward(void *y, uint8_t *winner, const void *x,
                                      const struct mabn_pool_shape *shape, enum mabn_dtype dtype,
                                      void *stream)
{
    const void *all[] = {y, x};
    struct window s;

    MABN_TRY(window_of(&s, shape));
    if (!s.n) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, s.c, all, 2), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return MABN_LAUNCH((maxpool_forward<T, V>), blocks_for(s.n * s.oh * s.ow * s.c / V),
                           THREADS, 0, static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           winner, static_cast<const T *>(x), s);
    });
}

mabn_status mabn_cuda_maxpool_backward(void *dx, const void *dy, const uint8_t *winner,
                                       const struct mabn_pool_shape *shape, enum mabn_dtype dtype,
                                       void *stream)
{
    const void *all[] = {dx, dy, winner};
    struct window s;

    MABN_TRY(window_of(&s, shape));
    if (!s.n) return MABN_OK;
    const int64_t count = s.n * s.h * s.w * s.c;
    const bool small = std::max(count, s.n * s.oh * s.ow * s.c) < INT32_MAX - THREADS * 8;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, s.c, all, 3), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        const cudaStream_t to = static_cast<cudaStream_t>(stream);
        T *const out = static_cast<T *>(dx);
        const T *const in = static_cast<const T *>(dy);
        if (small)
            return MABN_LAUNCH((maxpool_backward<T, V, int32_t>), blocks_for(count / V), THREADS, 0,
                               to, out, in, winner, s);
        return MABN_LAUNCH((maxpool_backward<T, V, int64_t>), blocks_for(count / V), THREADS, 0, to,
                           out, in, winner, s);
    });
}

mabn_status mabn_cuda_avgpool_forward(void *y, const void *x, int64_t n, int64_t hw, int64_t c,
                                      enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {y, x};

    if (!n || !c) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, c, all, 2), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return MABN_LAUNCH((avgpool_forward<T, V>), blocks_for(n * c / V), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           static_cast<const T *>(x), n, hw, c);
    });
}

mabn_status mabn_cuda_avgpool_backward(void *dx, const void *dy, int64_t n, int64_t hw, int64_t c,
                                       enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {dx, dy};

    if (!n || !hw || !c) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, c, all, 2), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return MABN_LAUNCH((avgpool_backward<T, V>), blocks_for(n * hw * c / V), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(dx),
                           static_cast<const T *>(dy), n, hw, c);
    });
}
