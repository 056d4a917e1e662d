/* Weights on the GPU: centralization, the cast to the type that convolutions take, and SGD with
 * momentum that does both on the way.
 *
 * A block takes one filter, or a piece of a parameter without filters. It computes the gradient's mean,
 * the step, the new weight's mean, and the copy for the network. What it reads twice is in the cache the
 * second time. */
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 128, PIECE = 4096 };

template <int V> __device__ double own_sum(const float *p, int64_t count)
{
    double sum = 0;
    for (int64_t i = (int64_t)threadIdx.x * V; i < count; i += THREADS * V) {
        float v[V];
        mabn_load(v, p + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += v[j];
    }
    return sum;
}

/* ---- centralize and cast ---- */

template <typename T, int V>
__device__ void copy_minus(T *out, const float *in, int64_t count, float mean)
{
    for (int64_t i = (int64_t)threadIdx.x * V; i < count; i += THREADS * V) {
        float v[V];
        mabn_load(v, in + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] -= mean;
        mabn_store(out + i, v);
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    cast_kernel(T *out, const float *in, int64_t filter, bool centralize)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t at = blockIdx.x * filter;
    float mean = 0;

    if (centralize)
        mean = (float)(mabn_block_sum<THREADS>(part, own_sum<V>(in + at, filter)) / (double)filter);
    copy_minus<T, V>(out + at, in + at, filter, mean);
}

/* ---- weights with padded channels ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    pad_kernel(T *out, const float *in, int64_t taps, int channels, int padded, bool centralize)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t filter = taps * channels, at = blockIdx.x * filter;
    float mean = 0;

    if (centralize)
        mean = (float)(mabn_block_sum<THREADS>(part, own_sum<1>(in + at, filter)) / (double)filter);
    for (int64_t i = threadIdx.x; i < taps * padded; i += THREADS) {
        const int64_t tap = i / padded, c = i % padded;
        const float v = c < channels ? in[at + tap * channels + c] - mean : 0;
        mabn_from_float(out + blockIdx.x * taps * padded + i, v);
    }
}

__global__ void __launch_bounds__(THREADS)
    unpad_kernel(float *out, const float *in, int64_t count, int channels, int padded)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = in[i / channels * padded + i % channels];
}

/* ---- SGD ---- */

enum rule { TORCH, NESTEROV, REFERENCE };

template <int V>
__device__ void step_piece(const struct mabn_cuda_sgd_param &param, int64_t begin, int count,
                           const struct mabn_cuda_sgd_rates &rates, enum rule rule, float mean)
{
    float *p = param.param + begin, *buffer = param.buffer + begin;
    const float *grad = param.grad + begin;
    const float lr = rates.lr * param.lr_factor;

    for (int i = (int)threadIdx.x * V; i < count; i += THREADS * V) {
        float w[V], b[V], g[V];
        mabn_load(w, p + i);
        mabn_load(b, buffer + i);
        mabn_load(g, grad + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float own = g[j] * rates.grad_scale - mean;
            if (rule == REFERENCE) {
                b[j] = (rates.momentum * b[j] + own) + param.decay * w[j];
                w[j] -= lr * b[j];
            } else {
                const float d = own + param.decay * w[j];
                b[j] = rates.momentum * b[j] + d;
                w[j] -= lr * (rule == NESTEROV ? d + rates.momentum * b[j] : b[j]);
            }
        }
        mabn_store(p + i, w);
        mabn_store(buffer + i, b);
    }
}

/* V values at a time. Threads read back only what they wrote themselves. */
template <int V, typename Shared>
__device__ void do_piece(const struct mabn_cuda_sgd_param &param,
                         const struct mabn_cuda_sgd_piece &piece,
                         const struct mabn_cuda_sgd_rates &rates, enum rule rule, Shared &part)
{
    const float *p = param.param + piece.begin;
    const bool centralize = param.filters > 0;
    double mean = 0;

    if (centralize)
        mean = mabn_block_sum<THREADS>(part, own_sum<V>(param.grad + piece.begin, piece.count)) /
               piece.count;
    step_piece<V>(param, piece.begin, piece.count, rates, rule, (float)(mean * rates.grad_scale));
    if (!param.work) return; /* for the whole block */
    mean = centralize ? mabn_block_sum<THREADS>(part, own_sum<V>(p, piece.count)) / piece.count : 0;
    if (param.work_dtype == MABN_DTYPE_BF16)
        copy_minus<__nv_bfloat16, V>(static_cast<__nv_bfloat16 *>(param.work) + piece.begin, p,
                                     piece.count, (float)mean);
    else if (param.work_dtype == MABN_DTYPE_F16)
        copy_minus<__half, V>(static_cast<__half *>(param.work) + piece.begin, p, piece.count,
                              (float)mean);
    else
        copy_minus<float, V>(static_cast<float *>(param.work) + piece.begin, p, piece.count,
                             (float)mean);
}

__device__ __forceinline__ bool aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

__global__ void __launch_bounds__(THREADS)
    sgd_kernel(const struct mabn_cuda_sgd_param *params, const struct mabn_cuda_sgd_piece *pieces,
               const struct mabn_cuda_sgd_rates *rates, const struct mabn_cuda_scaler *scaler,
               enum rule rule)
{
    MABN_SHARED(double, part, THREADS);
    struct mabn_cuda_sgd_rates now = *rates;
    const struct mabn_cuda_sgd_piece piece = pieces[blockIdx.x];
    const struct mabn_cuda_sgd_param param = params[piece.param];

    if (scaler && scaler->overflow) return; /* all threads of all blocks */
    if (scaler) now.grad_scale *= scaler->inverse;
    if (piece.count % 4 == 0 && aligned(param.param + piece.begin) &&
        aligned(param.buffer + piece.begin) && aligned(param.grad + piece.begin) &&
        (!param.work || aligned(param.work)))
        do_piece<4>(param, piece, now, rule, part);
    else
        do_piece<1>(param, piece, now, rule, part);
}

/* The rates are a kernel's argument, so that no host memory must be kept until a copy is done. */
__global__ void set_rates_kernel(struct mabn_cuda_sgd_rates *to, struct mabn_cuda_sgd_rates rates)
{
    *to = rates;
}

} // namespace

mabn_status mabn_cuda_cast_weight(void *work, const float *weight, int64_t outputs, int64_t filter,
                                  bool centralize, enum mabn_dtype dtype, void *stream)
{
    const void *all[] = {work, weight};

    if (!outputs || !filter) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const cudaStream_t s = static_cast<cudaStream_t>(stream);
        if (mabn_pack_fits(MABN_DTYPE_F32, filter, all, 2))
            return MABN_LAUNCH((cast_kernel<T, 4>), (unsigned)outputs, THREADS, 0, s,
                               static_cast<T *>(work), weight, filter, centralize);
        return MABN_LAUNCH((cast_kernel<T, 1>), (unsigned)outputs, THREADS, 0, s,
                           static_cast<T *>(work), weight, filter, centralize);
    });
}

mabn_status mabn_cuda_pad_weight(void *work, const float *weight, int64_t outputs, int64_t taps,
                                 int channels, int padded, bool centralize, enum mabn_dtype dtype,
                                 void *stream)
{
    if (padded < channels || channels < 1)
        return mabn_fail(MABN_ERR_ARG, "%d channels cannot be padded to %d", channels, padded);
    if (!outputs || !taps) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(pad_kernel<T>, (unsigned)outputs, THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(work), weight, taps,
                           channels, padded, centralize);
    });
}

mabn_status mabn_cuda_unpad_gradient(float *dweight, const float *dwork, int64_t outputs,
                                     int64_t taps, int channels, int padded, void *stream)
{
    const int64_t count = outputs * taps * channels;

    if (padded < channels || channels < 1)
        return mabn_fail(MABN_ERR_ARG, "%d channels cannot be padded to %d", channels, padded);
    if (!count) return MABN_OK;
    return MABN_LAUNCH(unpad_kernel, (unsigned)((count + THREADS - 1) / THREADS), THREADS, 0,
                       static_cast<cudaStream_t>(stream), dweight, dwork, count, channels, padded);
}

int64_t mabn_cuda_sgd_cut(struct mabn_cuda_sgd_piece *pieces,
                          const struct mabn_cuda_sgd_param *params, int count)
{
    int64_t n = 0;

    for (int i = 0; i < count; i++) {
        const int64_t size =
            params[i].filters > 0 ? params[i].count / params[i].filters : (int64_t)PIECE;
        for (int64_t begin = 0; begin < params[i].count; begin += size, n++) {
            const int64_t left = params[i].count - begin;
            if (pieces) pieces[n] = {i, (int32_t)(left < size ? left : size), begin};
        }
    }
    return n;
}

mabn_status mabn_cuda_sgd_set_rates(struct mabn_cuda_sgd_rates *to,
                                    const struct mabn_cuda_sgd_rates *rates, void *stream)
{
    return MABN_LAUNCH(set_rates_kernel, 1, 1, 0, static_cast<cudaStream_t>(stream), to, *rates);
}

mabn_status mabn_cuda_sgd_step(const struct mabn_cuda_sgd_param *params,
                               const struct mabn_cuda_sgd_piece *pieces, int64_t piece_count,
                               const struct mabn_cuda_sgd_rates *rates,
                               const struct mabn_cuda_scaler *scaler, bool nesterov, bool reference,
                               void *stream)
{
    if (!piece_count) return MABN_OK;
    return MABN_LAUNCH(sgd_kernel, (unsigned)piece_count, THREADS, 0,
                       static_cast<cudaStream_t>(stream), params, pieces, rates, scaler,
                       reference  ? REFERENCE
                       : nesterov ? NESTEROV
                                  : TORCH);
}
