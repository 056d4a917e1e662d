/* The coefficient step on the GPU: what coefs.c does on the CPU, with the same arithmetic
 * (coefficients.h). Small kernels between the heavy ones. Private to lib/norm. */
#ifndef MABN_NORM_COEFFICIENTS_CUH
#define MABN_NORM_COEFFICIENTS_CUH

#include <stdint.h>

#include "device/launch.cuh"
#include "norm/coefficients.h"
#include "norm/internal.h"
#include "ops/ops_cuda.h"

/* The y that was written with the coefficients known before the batch; y NULL: none was. */
struct mabn_cuda_repair {
    void *y;
    const void *x, *residual;
    enum mabn_dtype dtype;
    bool relu;
};

/* The arrays from which convolutions computed the sums of a whole run, about zero. */
struct mabn_cuda_given {
    const void *x, *dy; /* dy: in backward; x NULL: the sums are not given */
    enum mabn_dtype dtype;
};

__device__ __forceinline__ void mabn_coef_keep(const struct mabn_norm_saved &saved, int64_t at,
                                               const struct mabn_coef &k)
{
    saved.a[at] = k.a;
    saved.b[at] = k.b;
    saved.mean[at] = k.mean;
    saved.istd[at] = k.istd;
    saved.scale[at] = k.scale;
    saved.shift[at] = k.shift;
}

__device__ __forceinline__ struct mabn_coef mabn_coef_kept(const struct mabn_norm_saved &saved,
                                                           int64_t at)
{
    struct mabn_coef k = {saved.a[at],    saved.b[at],     saved.mean[at],
                          saved.istd[at], saved.scale[at], saved.shift[at]};
    return k;
}

/* Everything that a coefficient kernel reads or writes; all pointers are device memory. */
struct mabn_cuda_work {
    struct mabn_norm_options o;
    struct mabn_norm_state state; /* its counters already include this call */
    int uncounted;                /* iterations of this call that the counters do not include */
    struct mabn_norm_saved saved;
    const float *gamma, *beta;
    int64_t runs, run_rows, rows; /* rows of every run but the last; of all runs */
    int64_t run_samples, samples;
    int channels, chunks;
    const int32_t *live; /* of struct mabn_cuda_rows */
    int64_t positions;

    /* (runs,chunks,C) partial sums, in backward of g and g·(x − mean); sum NULL: not computed
     * yet */
    const float *sum, *square;
    float *first;          /* (runs,C) */
    double *stat0, *stat1; /* (runs,C), within a kernel */

    float *known_a, *known_b; /* (C) */
    struct mabn_cuda_repair repair;
    struct mabn_cuda_given given; /* of sums that are given; chunks is 1 then */

    /* (2C+2) SyncBN over shards: two sums a channel, elements, shards that have any */
    double *sums;

    float *p, *q, *r; /* (runs,C) */
    float *dgamma, *dbeta;
    const float *act; /* (C), as norm.h has it; NULL: none */
    float *dact;
    bool accumulate;
    const struct mabn_cuda_scaler *scaler; /* gradients contain its scale as a factor; NULL: 1 */
};

/* GN, LN, IN forward in one pass, if a sample's groups fit into shared memory: else *done is false
 * and nothing was launched. */
struct mabn_cuda_apply_in;
struct mabn_cuda_grad;
struct mabn_cuda_rows;
mabn_status mabn_cuda_sample_forward(bool *done, const struct mabn_cuda_work *w,
                                     const struct mabn_cuda_apply_in *in,
                                     const struct mabn_cuda_rows *rows, cudaStream_t stream);

/* Likewise their backward: dx, dresidual (NULL: not needed), dgamma and dbeta. */
mabn_status mabn_cuda_sample_backward(bool *done, void *dx, void *dresidual,
                                      const struct mabn_cuda_work *w,
                                      const struct mabn_cuda_grad *in,
                                      const struct mabn_cuda_rows *rows, cudaStream_t stream);

/* FRN and EvoNorm-S0 (act_cuda.cu). Forward: y and saved; with `again` y alone, from saved.
 * Backward: dx, dresidual (NULL: not needed) and the parameters' gradients. */
mabn_status mabn_cuda_act_forward(const struct mabn_cuda_work *w,
                                  const struct mabn_cuda_apply_in *in,
                                  const struct mabn_cuda_rows *rows, bool again,
                                  cudaStream_t stream);
mabn_status mabn_cuda_act_backward(void *dx, void *dresidual, const struct mabn_cuda_work *w,
                                   const struct mabn_cuda_grad *in,
                                   const struct mabn_cuda_rows *rows, cudaStream_t stream);

/* a, b (C) of a norm that folds, from its state: inference, none, frozen. */
mabn_status mabn_cuda_affine_of(float *a, float *b, const struct mabn_cuda_work *w,
                                cudaStream_t stream);

/* Computes saved from the partial sums; advances the running averages and the forward window. MABN:
 * rewrites those parts of repair.y whose coefficients turn out different because r is clipped. */
mabn_status mabn_cuda_coefficients(const struct mabn_cuda_work *w, cudaStream_t stream);
/* SyncBN over shards, in two steps in each direction: first this shard's sums into w->sums; then, once
 * those are the sums of the group, saved and the running averages, or p, q and r. Calls without rows do
 * the second step alone. dgamma and dbeta are this shard's own and come from the first. */
mabn_status mabn_cuda_sync_moments(const struct mabn_cuda_work *w, cudaStream_t stream);
mabn_status mabn_cuda_sync_coefficients(const struct mabn_cuda_work *w, cudaStream_t stream);
mabn_status mabn_cuda_sync_gradients(const struct mabn_cuda_work *w, cudaStream_t stream);
mabn_status mabn_cuda_sync_finish(const struct mabn_cuda_work *w, cudaStream_t stream);
/* Computes p, q, r, dgamma and dbeta from the partial sums; advances the backward window. */
mabn_status mabn_cuda_gradients(const struct mabn_cuda_work *w, cudaStream_t stream);
/* dgamma and dbeta of GN, LN and IN, from each sample's sums in stat0 and stat1. */
mabn_status mabn_cuda_sample_parameters(const struct mabn_cuda_work *w, cudaStream_t stream);
/* dbeta alone, from the partial sums of g: for cases in which the gradients did not need those. */
mabn_status mabn_cuda_grad_beta(const struct mabn_cuda_work *w, cudaStream_t stream);

#endif
