/* Upsampling with addition, and the rearranging around a transposed convolution, on the GPU. A thread
 * takes a vector of channels of one position. Backward gathers, in a fixed order. */
#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256 };

__device__ __forceinline__ int64_t item_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

/* A vector of a map (N,H,W,C). */
struct place {
    int64_t n, y, x, c;
};
__device__ __forceinline__ struct place place_of(int64_t i, int64_t h, int64_t w, int64_t c)
{
    const int64_t position = i / c, row = position / w;
    return {row / h, row % h, position % w, i % c};
}

/* ---- upsampling ---- */

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    upsample_add(T *y, const T *a, const T *b, struct mabn_upsample s)
{
    const int64_t i = item_index() * V;
    const struct place at = place_of(i, s.out_h, s.out_w, s.c);
    float v[V], add[V];

    if (at.n >= s.n) return;
    mabn_load(v, a + i);
    mabn_load(add,
              b + ((at.n * s.h + at.y * s.h / s.out_h) * s.w + at.x * s.w / s.out_w) * s.c + at.c);
#pragma unroll
    for (int j = 0; j < V; j++)
        v[j] += add[j];
    mabn_store(y + i, v);
}

/* First index of the large side that takes index i of the small one. */
__device__ __forceinline__ int64_t first_of(int64_t i, int64_t small, int64_t large)
{
    return (i * large + small - 1) / small;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    upsample_backward(T *db, const T *dy, struct mabn_upsample s, bool add)
{
    const int64_t i = item_index() * V;
    const struct place at = place_of(i, s.h, s.w, s.c);
    float sum[V] = {0};

    if (at.n >= s.n) return;
    if (add) mabn_load(sum, db + i);
    for (int64_t y = first_of(at.y, s.h, s.out_h); y < first_of(at.y + 1, s.h, s.out_h); y++)
        for (int64_t x = first_of(at.x, s.w, s.out_w); x < first_of(at.x + 1, s.w, s.out_w); x++) {
            float v[V];
            mabn_load(v, dy + ((at.n * s.out_h + y) * s.out_w + x) * s.c + at.c);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += v[j];
        }
    mabn_store(db + i, sum);
}

/* ---- around a transposed convolution ---- */

/* Where the value of y (N,2H,2W,O) at i lies in g. */
__device__ __forceinline__ int64_t in_g(const struct place &at,
                                        const struct mabn_transposed_conv &s)
{
    const int64_t row = (at.n * s.h + at.y / 2) * s.w + at.x / 2;
    return (row * 4 + at.y % 2 * 2 + at.x % 2) * s.out + at.c;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    interleave(T *y, const T *g, const float *bias, struct mabn_transposed_conv s, bool relu)
{
    const int64_t i = item_index() * V;
    const struct place at = place_of(i, 2 * s.h, 2 * s.w, s.out);
    float v[V];

    if (at.n >= s.n) return;
    mabn_load(v, g + in_g(at, s));
#pragma unroll
    for (int j = 0; j < V; j++) {
        if (bias) v[j] += bias[at.c + j];
        v[j] = relu && v[j] < 0 ? 0 : v[j]; /* NaN passes */
    }
    mabn_store(y + i, v);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    deinterleave(T *dg, const T *dy, struct mabn_transposed_conv s)
{
    const int64_t i = item_index() * V;
    const struct place at = place_of(i, 2 * s.h, 2 * s.w, s.out);
    float v[V];

    if (at.n >= s.n) return;
    mabn_load(v, dy + i);
    mabn_store(dg + in_g(at, s), v);
}

} // namespace

mabn_status mabn_cuda_upsample_add(void *y, const void *a, const void *b,
                                   const struct mabn_upsample *op, enum mabn_dtype dtype,
                                   void *stream)
{
    const void *all[] = {y, a, b};
    const int64_t values = op->n * op->out_h * op->out_w * op->c;

    if (!values) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, op->c, all, 3), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return MABN_LAUNCH((upsample_add<T, V>), blocks_for(values / V), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           static_cast<const T *>(a), static_cast<const T *>(b), *op);
    });
}

mabn_status mabn_cuda_upsample_backward(void *db, const void *dy, const struct mabn_upsample *op,
                                        bool add, enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {db, dy};
    const int64_t values = op->n * op->h * op->w * op->c;

    if (!values) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, op->c, all, 2), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return MABN_LAUNCH((upsample_backward<T, V>), blocks_for(values / V), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(db),
                           static_cast<const T *>(dy), *op, add);
    });
}

mabn_status mabn_cuda_interleave(void *y, const void *g, const float *bias,
                                 const struct mabn_transposed_conv *op, bool relu,
                                 enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {y, g};
    const int64_t values = 4 * op->n * op->h * op->w * op->out;

    if (!values) return MABN_OK;
    return mabn_by_type(
        dtype, mabn_pack_fits(dtype, op->out, all, 2), [&](auto *type, auto vector) {
            using T = std::remove_pointer_t<decltype(type)>;
            constexpr int V = decltype(vector)::value;
            return MABN_LAUNCH((interleave<T, V>), blocks_for(values / V), THREADS, 0,
                               static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                               static_cast<const T *>(g), bias, *op, relu);
        });
}

mabn_status mabn_cuda_deinterleave(void *dg, const void *dy, const struct mabn_transposed_conv *op,
                                   enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {dg, dy};
    const int64_t values = 4 * op->n * op->h * op->w * op->out;

    if (!values) return MABN_OK;
    return mabn_by_type(
        dtype, mabn_pack_fits(dtype, op->out, all, 2), [&](auto *type, auto vector) {
            using T = std::remove_pointer_t<decltype(type)>;
            constexpr int V = decltype(vector)::value;
            return MABN_LAUNCH((deinterleave<T, V>), blocks_for(values / V), THREADS, 0,
                               static_cast<cudaStream_t>(stream), static_cast<T *>(dg),
                               static_cast<const T *>(dy), *op);
        });
}
