/* A detector's losses, and the sigmoid, on the GPU: sigmoid_loss.h, smooth_l1.h, sigmoid.h. A block
 * sums one of MABN_CHUNKS portions, in double; a last one adds the portions, in their order. */
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "ops/chunks.h"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256 };
static_assert((int)THREADS == (int)MABN_CHUNKS, "a thread a portion");

/* The contribution of one element: its loss, and the gradient before scaling. */
struct term {
    double loss, gradient;
};

/* As in sigmoid_loss.c. */
__device__ struct term sigmoid_term(double l, double t, double weight)
{
    const double e = exp(-fabs(l));
    return {weight * ((l > 0 ? l : 0) - l * t + log1p(e)),
            weight * ((l < 0 ? e : 1) / (1 + e) - t)};
}

struct sigmoid_loss {
    const float *logits, *target, *weight;
    __device__ struct term at(int64_t i) const
    {
        const double w = weight ? weight[i] : 1;
        if (w == 0) return {0, 0};
        return sigmoid_term(logits[i], target[i], w);
    }
};

struct mask_loss {
    const float *logits;
    const int32_t *labels;
    const uint8_t *target;
    int64_t pixels, classes;
    __device__ struct term at(int64_t i) const
    {
        const int64_t pixel = i / classes;
        if (labels[pixel / pixels] != i % classes) return {0, 0};
        return sigmoid_term(logits[i], target[pixel] != 0, 1);
    }
};

/* As in smooth_l1.c. */
struct smooth_l1 {
    const float *x, *target, *weight;
    const int32_t *group;
    int64_t groups;
    double beta;
    __device__ struct term at(int64_t i) const
    {
        const int64_t r = i / (4 * groups), column = i % (4 * groups);
        const double w = weight ? weight[r] : 1;
        if (w == 0 || column / 4 != (group ? group[r] : 0)) return {0, 0};
        const double d = (double)x[i] - target[4 * r + column % 4], size = fabs(d);
        if (size < beta) return {w * 0.5 * d * d / beta, w * d / beta};
        return {w * (size - 0.5 * beta), w * (d > 0 ? 1 : d < 0 ? -1 : d)};
    }
};

template <typename T, typename Loss>
__global__ void __launch_bounds__(THREADS)
    loss_kernel(double *parts, T *gradient, Loss loss, const float *scale, int64_t count)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t end = mabn_chunk_begin(count, (int)blockIdx.x + 1);
    const double factor = gradient ? *scale : 0;
    double sum = 0;

    for (int64_t i = mabn_chunk_begin(count, (int)blockIdx.x) + threadIdx.x; i < end;
         i += THREADS) {
        const struct term t = loss.at(i);
        sum += t.loss;
        /* Elements that are not sampled get 0 even where the scale is not finite. */
        if (gradient)
            mabn_from_float(&gradient[i], t.gradient == 0 ? 0 : (float)(factor * t.gradient));
    }
    sum = mabn_block_sum<THREADS>(part, sum);
    if (!threadIdx.x) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) total_kernel(double *loss, const double *parts)
{
    MABN_SHARED(double, part, THREADS);
    const double sum = mabn_block_sum<THREADS>(part, parts[threadIdx.x]);
    if (!threadIdx.x) *loss = sum;
}

template <typename T, typename Loss>
mabn_status run(const struct mabn_cuda_loss *out, const Loss &loss, int64_t count, void *stream)
{
    const cudaStream_t s = static_cast<cudaStream_t>(stream);
    if (out->gradient && !out->scale)
        return mabn_fail(MABN_ERR_ARG, "the loss's gradient needs its scale");
    MABN_TRY(MABN_LAUNCH((loss_kernel<T, Loss>), MABN_CHUNKS, THREADS, 0, s, out->parts,
                         static_cast<T *>(out->gradient), loss, out->scale, count));
    return MABN_LAUNCH(total_kernel, 1, THREADS, 0, s, out->loss, out->parts);
}

/* ---- sigmoid ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS) sigmoid_forward(T *y, const T *x, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) mabn_from_float(&y[i], 1 / (1 + expf(-mabn_to_float(x[i]))));
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    sigmoid_backward(T *dx, const T *dy, const T *y, int64_t count)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const float v = mabn_to_float(y[i]);
    mabn_from_float(&dx[i], mabn_to_float(dy[i]) * (v * (1 - v)));
}

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

} // namespace

mabn_status mabn_cuda_sigmoid_xent(const struct mabn_cuda_loss *out, const float *logits,
                                   const float *target, const float *weight, int64_t count,
                                   enum mabn_dtype dtype, void *stream)
{
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct sigmoid_loss loss = {logits, target, weight};
        return run<T>(out, loss, count, stream);
    });
}

mabn_status mabn_cuda_mask_loss(const struct mabn_cuda_loss *out, const float *logits,
                                const int32_t *labels, const uint8_t *target, int64_t boxes,
                                int64_t pixels, int64_t classes, enum mabn_dtype dtype,
                                void *stream)
{
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct mask_loss loss = {logits, labels, target, pixels, classes};
        return run<T>(out, loss, boxes * pixels * classes, stream);
    });
}

mabn_status mabn_cuda_smooth_l1(const struct mabn_cuda_loss *out, const float *x,
                                const float *target, const int32_t *group, const float *weight,
                                const struct mabn_smooth_l1 *op, enum mabn_dtype dtype,
                                void *stream)
{
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct smooth_l1 loss = {x, target, weight, group, op->groups, op->beta};
        return run<T>(out, loss, op->rows * 4 * op->groups, stream);
    });
}

mabn_status mabn_cuda_sigmoid(void *y, const void *x, int64_t count, enum mabn_dtype dtype,
                              void *stream)
{
    if (!count) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(sigmoid_forward<T>, blocks_for(count), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           static_cast<const T *>(x), count);
    });
}

mabn_status mabn_cuda_sigmoid_backward(void *dx, const void *dy, const void *y, int64_t count,
                                       enum mabn_dtype dtype, void *stream)
{
    if (!count) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(sigmoid_backward<T>, blocks_for(count), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(dx),
                           static_cast<const T *>(dy), static_cast<const T *>(y), count);
    });
}
