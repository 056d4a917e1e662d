/* Softmax cross-entropy on the GPU: a block a sample, in double as on the CPU; then one block adds
 * the samples up for the host. */
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 128 };

/* NaN wins, as on the CPU. */
template <typename Shared> __device__ double block_max(Shared &part, double value)
{
    part[threadIdx.x] = value;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) {
            const double mine = part[threadIdx.x], other = part[threadIdx.x + half];
            if (!(other <= mine)) part[threadIdx.x] = other;
        }
    }
    __syncthreads();
    const double top = part[0];
    __syncthreads();
    return top;
}

template <typename T> struct xent_args {
    double *loss;
    int32_t *rank;
    T *dlogits;
    const float *logits;
    const int32_t *labels;
    const float *scale;
    int64_t classes;
    double smoothing;
};

template <typename T> __global__ void __launch_bounds__(THREADS) xent_kernel(struct xent_args<T> in)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t i = blockIdx.x, truth = in.labels[i], k = in.classes;
    const bool wrong = truth >= k, has = truth >= 0 && !wrong;
    const float *z = in.logits + i * k;
    const double other = in.smoothing / (double)k, own = 1 - in.smoothing + other;
    const float true_logit = has ? z[truth] : 0;
    const double scale = in.dlogits ? *in.scale : 0;
    double top = -INFINITY, sum = 0, smooth = 0, before = 0;

    for (int64_t j = threadIdx.x; j < k; j += THREADS)
        if (!(z[j] <= top)) top = z[j];
    top = block_max(part, top);
    for (int64_t j = threadIdx.x; j < k; j += THREADS)
        sum += exp(z[j] - top);
    const double norm = top + log(mabn_block_sum<THREADS>(part, sum));
    for (int64_t j = threadIdx.x; j < k; j += THREADS) {
        smooth += norm - z[j];
        before += z[j] > true_logit || (z[j] == true_logit && j < truth) || isnan(z[j]);
        if (!in.dlogits) continue;
        const double p = exp(z[j] - norm);
        const double d = wrong ? NAN : truth < 0 ? 0 : scale * (p - (j == truth ? own : other));
        mabn_from_float(&in.dlogits[i * k + j], (float)d);
    }
    smooth = mabn_block_sum<THREADS>(part, smooth);
    before = mabn_block_sum<THREADS>(part, before);
    if (threadIdx.x) return;
    double loss = (own - other) * (norm - true_logit);
    if (in.smoothing > 0) loss += other * smooth;
    in.loss[i] = wrong ? NAN : has ? loss : 0;
    in.rank[i] = truth < 0 ? -1 : wrong || isnan(true_logit) ? (int32_t)k : (int32_t)before;
}

__global__ void share_kernel(float *share, const float *normalizer, const float *loss_scale)
{
    const double by = *normalizer;
    *share = by > 0 ? (float)((loss_scale ? *loss_scale : 1) / by) : 0;
}

__global__ void __launch_bounds__(THREADS)
    total_kernel(struct mabn_cuda_xent_total *total, const double *loss, const int32_t *rank,
                 int64_t n)
{
    MABN_SHARED(double, part, THREADS);
    double sum = 0, labelled = 0, top1 = 0, top5 = 0;

    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        sum += loss[i];
        labelled += rank[i] >= 0;
        top1 += rank[i] == 0;
        top5 += rank[i] >= 0 && rank[i] < 5;
    }
    sum = mabn_block_sum<THREADS>(part, sum);
    labelled = mabn_block_sum<THREADS>(part, labelled);
    top1 = mabn_block_sum<THREADS>(part, top1);
    top5 = mabn_block_sum<THREADS>(part, top5);
    if (threadIdx.x) return;
    total->loss = sum;
    total->labelled = (int64_t)labelled;
    total->top1 = (int64_t)top1;
    total->top5 = (int64_t)top5;
}

} // namespace

mabn_status mabn_cuda_loss_share(float *share, const float *normalizer, const float *loss_scale,
                                 void *stream)
{
    return MABN_LAUNCH(share_kernel, 1, 1, 0, static_cast<cudaStream_t>(stream), share, normalizer,
                       loss_scale);
}

mabn_status mabn_cuda_softmax_xent(const struct mabn_cuda_xent *out, const float *logits,
                                   const int32_t *labels, int64_t n, int64_t classes,
                                   double smoothing, const float *scale, enum mabn_dtype dtype,
                                   void *stream)
{
    const cudaStream_t s = static_cast<cudaStream_t>(stream);

    if (classes < 1) return mabn_fail(MABN_ERR_ARG, "a loss needs classes");
    if (!(smoothing >= 0 && smoothing < 1))
        return mabn_fail(MABN_ERR_ARG, "label smoothing must be in [0,1), is %g", smoothing);
    if (out->dlogits && !scale)
        return mabn_fail(MABN_ERR_ARG, "the loss's gradient needs its scale");
    if (n) {
        MABN_TRY(mabn_by_type(dtype, false, [&](auto *type, auto) {
            using T = std::remove_pointer_t<decltype(type)>;
            const struct xent_args<T> args = {
                out->loss, out->rank,
                    static_cast<T *>(out->dlogits), logits, labels, scale, classes, smoothing
            };
            return MABN_LAUNCH(xent_kernel<T>, (unsigned)n, THREADS, 0, s, args);
        }));
    }
    if (!out->total) return MABN_OK;
    return MABN_LAUNCH(total_kernel, 1, THREADS, 0, s, out->total, out->loss, out->rank, n);
}
