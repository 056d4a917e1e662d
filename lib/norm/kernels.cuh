/* The heavy kernels of the normalization engine on the GPU: passes over an array of rows of
 * `channels` values, cut into runs of `run_rows` rows (the last may be shorter), float32,
 * bfloat16 or float16. Private to lib/norm. What they compute is kernels.h's, run by run.
 *
 * Coefficients and sums are float32 arrays (runs,channels). Passes that sum write one partial sum
 * for each chunk of rows, (runs,chunks,channels). The coefficient kernels add those in double and
 * in a fixed order, so results repeat bit for bit. Outputs may be the same array as an input. */
#ifndef MABN_NORM_KERNELS_CUH
#define MABN_NORM_KERNELS_CUH

#include <stdint.h>

#include "device/launch.cuh"
#include "norm/kernels.h"
#include "tensor/tensor.h"

struct mabn_cuda_rows {
    int64_t rows, run_rows;
    int64_t runs; /* ceil(rows/run_rows) */
    int channels;
    enum mabn_dtype dtype; /* F32, BF16, F16 */
    bool wide;             /* 16 bytes at a time: mabn_pack_fits for every array of the call */
    /* On the device: the number of live samples, of `positions` rows each; NULL: all. Moments are of
     * those; apply passes work on all. */
    const int32_t *live;
    int64_t positions;
};

/* The number of partial sums of a run of this array. */
int mabn_cuda_chunks(const struct mabn_cuda_rows *rows);

/* A bound on runs × chunks for this array, and for any with fewer or shorter runs, whatever the
 * type and alignment. */
int64_t mabn_cuda_most_partials(const struct mabn_cuda_rows *rows);

/* The map that MABN knows before the batch: a = gamma/sqrt(running_var + eps), b = beta, each
 * (C). */
struct mabn_cuda_known {
    const float *gamma, *beta, *running_var;
    double eps;
};

/* Coefficients of a run's channels; `stride` floats from run to run: channels, or 0 where all runs
 * share one row. */
struct mabn_cuda_affine {
    const float *a, *b;
    int64_t stride;
};

/* A counter of calls or iterations in the norm's state, advanced by the first pass over x. That pass does
 * not read it, and all later ones see the new value. */
struct mabn_cuda_counter {
    float *f32; /* one of the two, or none */
    int64_t *i64;
    int64_t samples, run_samples; /* by the runs of this call; run_samples 0: by 1 */
};

/* square = Σ x²; partial sums. */
mabn_status mabn_cuda_square(float *square, const void *x, struct mabn_cuda_counter counter,
                             const struct mabn_cuda_rows *rows, cudaStream_t stream);

/* sum = Σ d, square = Σ d², d = x − first; partial sums. first (runs,channels) = each run's first
 * row of x. */
mabn_status mabn_cuda_moments(float *sum, float *square, float *first, const void *x,
                              struct mabn_cuda_counter counter, const struct mabn_cuda_rows *rows,
                              cudaStream_t stream);

struct mabn_cuda_apply_in {
    void *y;
    const void *x, *residual; /* residual may be NULL */
    struct mabn_cuda_affine affine;
    bool relu;
    struct mabn_cuda_counter counter; /* advanced by this pass */
};
mabn_status mabn_cuda_apply(const struct mabn_cuda_apply_in *in, const struct mabn_cuda_rows *rows,
                            cudaStream_t stream);
/* In one pass: apply with the known map instead of in->affine, and square = Σ x², partial sums. */
mabn_status mabn_cuda_apply_known(const struct mabn_cuda_apply_in *in,
                                  const struct mabn_cuda_known *known, float *square,
                                  const struct mabn_cuda_rows *rows, cudaStream_t stream);

struct mabn_cuda_grad {
    const void *dy, *x, *y;         /* y only for MASK_Y */
    struct mabn_cuda_affine affine; /* only for MASK_X */
    const float *shift;             /* (runs,channels) or NULL: 0 */
    enum mabn_mask mask;
};

/* The gradient behind ReLU. */
template <int MASK>
__device__ __forceinline__ float mabn_masked(float dy, float x, float y, float a, float b)
{
    if (MASK == MABN_MASK_Y) return y <= 0 ? 0 : dy;
    if (MASK == MABN_MASK_X) return fmaf(a, x, b) <= 0 ? 0 : dy;
    return dy;
}

/* sum = Σ g, dot = Σ g·(x − shift), g = masked dy; partial sums. masked = g, may be dy; only for
 * MASK_Y, NULL: not needed. */
mabn_status mabn_cuda_grad_moments(float *sum, float *dot, void *masked,
                                   const struct mabn_cuda_grad *in,
                                   const struct mabn_cuda_rows *rows, cudaStream_t stream);

/* dx = p·g + (q·(x − shift) + r), p, q, r (runs,channels) (`stride` as above); q NULL: dx = p·g; r
 * NULL: 0. Under MASK_X affine.a serves as p: the two are the same in every norm. dresidual = g,
 * may be NULL. */
mabn_status mabn_cuda_grad_apply(void *dx, void *dresidual, const struct mabn_cuda_grad *in,
                                 const float *p, const float *q, const float *r, int64_t stride,
                                 const struct mabn_cuda_rows *rows, cudaStream_t stream);
/* In one pass: dx = p·dy + q·x, and sum = Σ dy, partial sums; reads only dy and x of `in`. */
mabn_status mabn_cuda_grad_apply_sum(void *dx, float *sum, const struct mabn_cuda_grad *in,
                                     const float *p, const float *q,
                                     const struct mabn_cuda_rows *rows, cudaStream_t stream);

#endif
