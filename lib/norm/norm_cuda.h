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
 *   - SyncBN is of one rank;
 *   - known (MABN): the caller knows that every run of this call is past r_start. Then y = a·x + b
 *     before the batch is measured, and forward is one pass; runs where r turns out clipped, seen
 *     by the device alone, are applied again. Ignored where y is residual.
 *     mabn_norm_calls_until_known says from the state of the start when that will be so: reading
 *     the state's counter at each step would wait for the device;
 *   - scaler (float16): dy and all that comes of it are scaler->scale times what they stand for.
 *     MABN's backward window keeps true values whatever the scale was, and a statistic that
 *     overflowed leaves the one before it in its place: the step is skipped, the window goes on.
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
    enum mabn_dtype dtype; /* of x, y, residual and their gradients: F32, BF16 or F16 */
    bool relu;
    bool known;

    const float *gamma, *beta;
    void *state;
    void *saved;   /* mabn_norm_saved_bytes; aligned to 64 */
    void *scratch; /* mabn_norm_cuda_scratch_bytes; aligned to 64 */

    const void *x, *residual;
    void *y;

    const void *dy;
    void *dx, *dresidual;
    float *dgamma, *dbeta;
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

MABN_END_DECLS
#endif
