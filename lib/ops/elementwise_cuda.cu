/* Passes over whole arrays on the GPU: the counterparts of elementwise.h, and casts. A thread
 * issues the loads of UNROLL vectors before it uses the first. */
#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256, UNROLL = 4, COLUMNS = 32 };

/* Vectors first, first + THREADS, … UNROLL of them a thread. */
__device__ __forceinline__ int64_t first_vector(void)
{
    return (int64_t)blockIdx.x * (THREADS * UNROLL) + threadIdx.x;
}

dim3 blocks_for(int64_t vectors)
{
    return dim3((unsigned)((vectors + THREADS * UNROLL - 1) / (THREADS * UNROLL)));
}

template <typename T, int V, bool RESIDUAL>
__global__ void __launch_bounds__(THREADS)
    add_bias_kernel(T *y, const T *x, const T *residual, const float *bias, int64_t vectors,
                    int64_t row_vectors, bool relu)
{
    const int64_t i0 = first_vector();
    typename mabn_vector<T, V>::raw raw[UNROLL], raw_add[UNROLL];

#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (const int64_t i = i0 + u * THREADS; i < vectors) {
            raw[u] = mabn_fetch<V>(x + i * V);
            if (RESIDUAL) raw_add[u] = mabn_fetch<V>(residual + i * V);
        }
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (const int64_t i = i0 + u * THREADS; i < vectors) {
            float v[V], add[V], b[V] = {0};
            mabn_unpack<T>(v, raw[u]);
            if (RESIDUAL) mabn_unpack<T>(add, raw_add[u]);
            if (bias) mabn_load(b, bias + i % row_vectors * V);
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] += b[j];
                if (RESIDUAL) v[j] += add[j];
                v[j] = relu && v[j] < 0 ? 0 : v[j]; /* NaN passes */
            }
            mabn_store(y + i * V, v);
        }
}

/* V values of either type: 4, or 1. */
template <typename D, typename S, int V>
__global__ void __launch_bounds__(THREADS) cast_kernel(D *dst, const S *src, int64_t vectors)
{
    const int64_t i0 = first_vector();
    float v[UNROLL][V];

#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (const int64_t i = i0 + u * THREADS; i < vectors) mabn_load(v[u], src + i * V);
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (const int64_t i = i0 + u * THREADS; i < vectors) mabn_store(dst + i * V, v[u]);
}

/* A block takes COLUMNS columns; its threads' rows are added up in order, in double. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    column_sums_kernel(float *sums, const T *x, int64_t rows, int64_t columns)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    constexpr int STEP = THREADS / COLUMNS;
    double sum = 0;

    if (c < columns)
#pragma unroll 4
        for (int64_t row = threadIdx.x / COLUMNS; row < rows; row += STEP)
            sum += mabn_to_float(x[row * columns + c]);
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= COLUMNS || c >= columns) return;
    for (int i = 1; i < STEP; i++)
        sum += part[threadIdx.x + i * COLUMNS];
    sums[c] = (float)sum;
}

/* The number of blocks is fixed, because only the device knows how many rows there are to clear. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    clear_behind_kernel(T *x, const int32_t *live, int64_t rows, int64_t row)
{
    const T zero = {};
    const int64_t first = *live < rows ? *live : rows;
    for (int64_t i = first * row + (int64_t)blockIdx.x * THREADS + threadIdx.x; i < rows * row;
         i += (int64_t)gridDim.x * THREADS)
        x[i] = zero;
}

template <typename T>
mabn_status clear_behind(void *x, const int32_t *live, int64_t rows, int64_t row, void *stream)
{
    const int64_t most = 1024, all = (rows * row + THREADS - 1) / THREADS;
    return MABN_LAUNCH(clear_behind_kernel<T>, (unsigned)(all < most ? all : most), THREADS, 0,
                       static_cast<cudaStream_t>(stream), static_cast<T *>(x), live, rows, row);
}

/* Vectors of V where `wide`, else single values. */
template <typename D, typename S>
mabn_status cast_values(void *dst, const void *src, int64_t count, bool wide, cudaStream_t stream)
{
    D *to = static_cast<D *>(dst);
    const S *from = static_cast<const S *>(src);
    if (wide)
        return MABN_LAUNCH((cast_kernel<D, S, 4>), blocks_for(count / 4), THREADS, 0, stream, to,
                           from, count / 4);
    return MABN_LAUNCH((cast_kernel<D, S, 1>), blocks_for(count), THREADS, 0, stream, to, from,
                       count);
}

} // namespace

mabn_status mabn_cuda_add_bias(void *y, const void *x, const void *residual, const float *bias,
                               int64_t rows, int64_t channels, bool relu, enum mabn_dtype dtype,
                               void *stream)
{
    const void *all[] = {y, x, residual, bias};

    if (!rows || !channels) return MABN_OK;
    return mabn_by_type(dtype, mabn_pack_fits(dtype, channels, all, 4), [&](auto *type, auto v) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(v)::value;
        const cudaStream_t s = static_cast<cudaStream_t>(stream);
        const int64_t row_vectors = channels / V, vectors = rows * row_vectors;
        T *to = static_cast<T *>(y);
        const T *from = static_cast<const T *>(x), *add = static_cast<const T *>(residual);
        if (add)
            return MABN_LAUNCH((add_bias_kernel<T, V, true>), blocks_for(vectors), THREADS, 0, s,
                               to, from, add, bias, vectors, row_vectors, relu);
        return MABN_LAUNCH((add_bias_kernel<T, V, false>), blocks_for(vectors), THREADS, 0, s, to,
                           from, add, bias, vectors, row_vectors, relu);
    });
}

mabn_status mabn_cuda_add(void *dst, const void *src, int64_t count, enum mabn_dtype dtype,
                          void *stream)
{
    /* As one row, so that it is done 16 bytes at a time if the count allows. */
    return mabn_cuda_add_bias(dst, dst, src, NULL, 1, count, false, dtype, stream);
}

mabn_status mabn_cuda_cast(void *dst, enum mabn_dtype dst_dtype, const void *src,
                           enum mabn_dtype src_dtype, int64_t count, void *stream)
{
    const void *all[] = {dst, src};
    const bool wide = mabn_pack_fits(MABN_DTYPE_F32, count, all, 2);
    const cudaStream_t s = static_cast<cudaStream_t>(stream);

    if (dst_dtype != MABN_DTYPE_F32 && src_dtype != MABN_DTYPE_F32)
        return mabn_fail(MABN_ERR_ARG, "a cast is from or to float32, not from %s to %s",
                         mabn_dtype_name(src_dtype), mabn_dtype_name(dst_dtype));
    if (!count) return MABN_OK;
    return mabn_by_type(dst_dtype == MABN_DTYPE_F32 ? src_dtype : dst_dtype, false,
                        [&](auto *type, auto) {
                            using T = std::remove_pointer_t<decltype(type)>;
                            if (dst_dtype == MABN_DTYPE_F32)
                                return cast_values<float, T>(dst, src, count, wide, s);
                            return cast_values<T, float>(dst, src, count, wide, s);
                        });
}

mabn_status mabn_cuda_clear_behind(void *x, const int32_t *live, int64_t rows, int64_t row_bytes,
                                   void *stream)
{
    if (rows * row_bytes < 1) return MABN_OK;
    if (row_bytes % 16 == 0 && (uintptr_t)x % 16 == 0)
        return clear_behind<uint4>(x, live, rows, row_bytes / 16, stream);
    return clear_behind<uint16_t>(x, live, rows, row_bytes / 2, stream);
}

mabn_status mabn_cuda_column_sums(float *sums, const void *x, int64_t rows, int64_t columns,
                                  enum mabn_dtype dtype, void *stream)
{
    if (!columns) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(column_sums_kernel<T>, (unsigned)((columns + COLUMNS - 1) / COLUMNS),
                           THREADS, 0, static_cast<cudaStream_t>(stream), sums,
                           static_cast<const T *>(x), rows, columns);
    });
}
