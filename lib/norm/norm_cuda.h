/* The normalization engine on an NVIDIA GPU: norm.h's forward, reapply, backward and inference on
 * device memory, float32, bfloat16 or float16 activations with float32 parameters, state and sums.
 *
 * All rules of norm.h hold (runs, what an iteration is, what may overwrite what), and the state and
 * saved blocks have the same layout, so that a state block copied to the device and back is a
 * checkpoint's. Differences:
 *   - every call only launches kernels in `stream` and may be captured in a CUDA graph; counters
 *     and decisions live in the state, on the device;
 *   - results repeat bit for bit on any device, and agree with the CPU's to rounding (GN, LN and IN
 *     add up in another order where a device has less shared memory than Hopper's);
 *   - SyncBN over shards adds up by norm->sync->queue, which may wait for the device;
 *   - known (MABN): the caller knows that every run of this call is past r_start. Then the map
 *     y = a·x + b is known before the batch is measured, and forward is one pass. The device applies
 *     runs again in which r turns out to be clipped. Ignored where y is residual, with `live`, and under
 *     the iteration rule with several runs. mabn_norm_calls_until_known tells from the state at the
 *     start when the map will be known; reading the counter at each step would wait for the device;
 *   - sum, square, dsum, dot (BN, BRN, SyncBN and MABN, one run): the convolutions around the norm
 *     have done some of its passes over memory: see below;
 *   - live (1): the number of samples that count, which only the device knows; they are the first ones.
 *     Statistics and the parameters' gradients are over these, and if there is none, state does not
 *     change. The results of the other samples are finite, and otherwise undefined. There x and dy must be
 *     finite, and dy must be 0 for norms without batch statistics (GN, LN, IN, FRN, EvoNorm-S0, frozen);
 *   - scaler (float16): dy is scaler->scale times the true gradient, and so are all results. MABN's
 *     backward window keeps true values whatever the scale was. A statistic that overflowed is replaced
 *     by the one before it: the step is skipped, but the window advances.
 * Pointers aligned to 16 bytes and channels a multiple of 8 (bfloat16, float16) or 4 (float32) take
 * the fast kernels; others work too. */
#ifndef MABN_NORM_NORM_CUDA_H
#define MABN_NORM_NORM_CUDA_H

#include "norm/norm.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_cuda_scaler;

struct mabn_norm_cuda_io { /* as struct mabn_norm_io; device memory */
    int64_t samples, positions;
    const int32_t *live;   /* see above; NULL: all samples are there */
    enum mabn_dtype dtype; /* of x, y, residual and their gradients: F32, BF16 or F16 */
    bool relu;
    bool known;
    const float *sum, *square; /* (C) or NULL: a fused forward */
    const float *dsum, *dot;   /* (C) or NULL: a fused backward */

    const float *gamma, *beta, *act;
    void *state;
    void *saved;   /* mabn_norm_saved_bytes; aligned to 64 */
    void *scratch; /* mabn_norm_cuda_scratch_bytes; aligned to 64 */

    const void *x, *residual;
    void *y;

    const void *dy;
    void *dx, *dresidual;
    float *dgamma, *dbeta, *dact;
    bool accumulate;
    const struct mabn_cuda_scaler *scaler; /* ops/ops_cuda.h; NULL: no loss scaling */

    void *stream; /* cudaStream_t */
};

size_t mabn_norm_cuda_scratch_bytes(const struct mabn_norm *norm, int64_t samples,
                                    int64_t positions);

MABN_MUST_USE mabn_status mabn_norm_cuda_forward(const struct mabn_norm *norm,
                                                 const struct mabn_norm_cuda_io *io);
MABN_MUST_USE mabn_status mabn_norm_cuda_reapply(const struct mabn_norm *norm,
                                                 const struct mabn_norm_cuda_io *io);
MABN_MUST_USE mabn_status mabn_norm_cuda_backward(const struct mabn_norm *norm,
                                                  const struct mabn_norm_cuda_io *io);
MABN_MUST_USE mabn_status mabn_norm_cuda_infer(const struct mabn_norm *norm,
                                               const struct mabn_norm_cuda_io *io);

/* ---- joined with the convolutions around it ----
 *
 * Forward with given sums. The convolution that computes x also computes Σ x and Σ x² of the batch:
 * mabn_conv_cuda_forward_sums (ops/conv_cuda.h). mabn_norm_cuda_forward with sum and square, not
 * known, then derives the coefficients from them and applies. (MABN takes square alone.)
 *
 * Forward with a known map. Past r_start MABN's map y = a·x + b is known before x. The convolution that
 * computes x can then write y as well, and Σ x²: mabn_conv_cuda_forward_norm. In this order, each
 * iteration, in one stream:
 *     mabn_norm_cuda_known              a, b of all joined layers; their counters count this call
 *     mabn_conv_cuda_forward_norm       x, y, square, by a and b
 *     mabn_norm_cuda_forward            with square and known, which must hold: saved, the window
 *                                       and running_var; and y again where r turns out clipped
 * y must not be residual, which the last call might need again.
 *
 * Backward. The convolution that takes y as its input writes its data gradient through ReLU as dy, and
 * computes dot = Σ dy·x and, except for MABN, dsum = Σ dy: mabn_conv_cuda_backward_norm.
 * mabn_norm_cuda_backward with these then needs no pass before dx. It ignores relu and y, and never
 * writes dresidual, which must be dy (the gradient is there already) or NULL. Forward may have been
 * joined or not.
 *
 * Such sums are float32 and about zero, not about the mean. Their relative error of about 1e-6 grows by
 * mean²/variance in the variance and by mean/deviation in the gradient. A channel whose mean is more than
 * 32 deviations from zero is therefore measured again from x, slowly. The variance then has a relative
 * error of at most about 1e-3, and 1e-5 for the means that layers have (a few deviations). That is less
 * than the rounding of 2-byte activations or TF32; for exact float32 the caller decides. */

/* Can the norm be fused in calls of `samples` samples? It must be BN, BRN, SyncBN of one shard or MABN,
 * and the samples one run. */
bool mabn_norm_cuda_can_join(const struct mabn_norm *norm, int64_t samples);

/* The entry of a fused layer in the list for mabn_norm_cuda_known; all pointers are device
 * memory. */
struct mabn_norm_cuda_join {
    const float *gamma, *beta, *running_var;
    float *a, *b; /* (C) */
    float *iters_f32;
    int64_t *iters; /* the state's counter is one of the two */
    double eps;
    int channels;
};
/* Fill an entry on the host; the caller copies the list to the device. */
MABN_MUST_USE mabn_status mabn_norm_cuda_join_init(struct mabn_norm_cuda_join *join,
                                                   const struct mabn_norm *norm, void *state,
                                                   const float *gamma, const float *beta, float *a,
                                                   float *b);
/* One launch for all `count` layers of `list`, which is device memory: a = gamma/sqrt(running_var +
 * eps), b = beta, and each layer's counter is advanced by this call. most_channels: the largest
 * number of channels in the list. */
MABN_MUST_USE mabn_status mabn_norm_cuda_known(const struct mabn_norm_cuda_join *list, int count,
                                               int most_channels, void *stream);

/* The a and b (C) that forward used for a norm of one run, clipped or not, in `saved`: for the ReLU
 * mask a·x + b > 0 of mabn_conv_cuda_backward_norm. */
void mabn_norm_cuda_saved_affine(const struct mabn_norm *norm, const void *saved, int64_t samples,
                                 const float **a, const float **b);

MABN_END_DECLS
#endif
