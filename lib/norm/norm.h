/* Normalization layers: one engine for BN, BRN, SyncBN, MABN, frozen BN, GN, LN, IN, FRN and
 * EvoNorm-S0.
 *
 * Every norm is three steps: *moments* (sums per group of samples and channel), *coefficients*
 * (tiny arrays turned into other tiny arrays; only this step differs between norms, see
 * coefficients.h) and *apply* (y = act(a·x + b [+ residual]) forward, dx = p·g + q·(x−k) + r
 * backward). Residual add and ReLU are part of apply, so they never cost a pass of their own.
 *
 * FRN and EvoNorm-S0 have an activation of their own, with a parameter for each channel (`act`):
 *     FRN         y = max(gamma·x/sqrt(E[x²] + eps) + beta [+ residual], tau)
 *     EvoNorm-S0  y = gamma·x·sigmoid(v·x)/sqrt(Var[x] + eps) + beta
 * E over a sample's positions, Var over a group of channels of a sample. Without `act` FRN is its
 * linear part, and EvoNorm-S0 is gamma·x + beta, as its authors have it where no activation follows;
 * `relu` then means ReLU. FRN with `act` needs `relu`. EvoNorm-S0 with `act` takes no residual and ignores
 * `relu`.
 *
 * Layout: x is (N, HW, C), channels fastest (NHWC), float32 or bfloat16; everything with one value a
 * channel and all arithmetic is float32 or double in both. Pointers need no alignment. For outputs
 * of a fully connected layer HW is 1.
 *
 * Groups. The N samples of a call are cut into S = ceil(N/B) runs of B = norm_batch consecutive
 * samples; each run has its own statistic (B = 0: one run of all N). A short last run (N not a
 * multiple of B) is a statistic of its own, over the samples it has; running averages of BN and BRN
 * weigh every run by its samples, MABN's windows and averages weigh every run alike, as the
 * reference does. SyncBN and frozen always use one run; GN, LN, IN, FRN and EvoNorm-S0 one run for each
 * sample. N = 0 changes nothing.
 *
 * Iterations. BN, BRN, SyncBN: one call. MABN, sub-batch rule: one call, with all its runs. MABN,
 * iteration rule: one *run*, in order, as if every run were a call of its own: a call with S runs
 * corresponds to S calls of the reference in a gradient-accumulating loop. With B = 0 or B ≥ N it
 * is one call.
 *
 * Memory, all the caller's:
 *   parameters  gamma, beta (C): "weight" and "bias" in checkpoints (buffers, not parameters, for
 *               frozen); their gradients dgamma, dbeta.
 *   state       what lives from step to step and goes into checkpoints: running averages, windows,
 *               counters. One block of mabn_norm_state_bytes, zero-copy named views by
 *               mabn_norm_state_list.
 *   saved       from a forward to its own backward: a few floats per run and channel.
 *   scratch     within one call; may be shared by all layers (take the largest).
 *
 * Backward needs x (the convolution's output) and, where ReLU was applied, its mask:
 *   - without a residual it is recomputed from x, which is read anyway: pass y = NULL;
 *   - with a residual pass y (the block's output, which the next convolution keeps as its input).
 * So the norm itself does not need y to be kept. mabn_norm_reapply recomputes y from x in one pass,
 * for plans that save memory.
 * Norms without statistics (none, frozen) do not need x when y is passed or nothing was masked.
 *
 * In place: dx may be dy. dresidual may be dy, or a buffer of its own, but not dx. y may be
 * residual (so a shortcut's norm output can be overwritten by the block's); in training y may be x
 * only for norms without statistics.
 *
 * Every forward in training must be followed by its own backward before the next forward of the
 * same layer (windows and counters are shared); a forward without backward advances the forward
 * statistics only.
 *
 * Threads: OpenMP inside. All sums run over fixed blocks, so results are bitwise independent of the
 * number of threads (and of the instruction set). */
#ifndef MABN_NORM_NORM_H
#define MABN_NORM_NORM_H

#include "norm/fold.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* ---- work ---- */

/* The arguments of one layer's calls. A plan fills it once for each node and passes it to forward
 * and backward; a call reads only what its comment names. */
struct mabn_norm_io {
    int64_t samples;   /* N */
    int64_t positions; /* HW */
    bool relu;
    enum mabn_dtype dtype; /* of x, y, residual and their gradients: F32 or BF16 */

    const float *gamma; /* (C) */
    const float *beta;  /* (C) */
    const float *act;   /* (C) or NULL: FRN's tau, with relu; EvoNorm-S0's v. In bfloat16 tau is
                         * rounded, as y is */
    void *state;
    void *saved;   /* mabn_norm_saved_bytes, aligned to 64 */
    void *scratch; /* mabn_norm_scratch_bytes, aligned to 64 */

    const void *x;        /* (N,HW,C) */
    const void *residual; /* (N,HW,C) or NULL; forward, inference, reapply */
    void *y;              /* (N,HW,C); backward: only as ReLU's mask, NULL to recompute it from x,
                           * which needs that there was no residual */

    const void *dy;  /* (N,HW,C) */
    void *dx;        /* (N,HW,C), may be dy */
    void *dresidual; /* (N,HW,C) or NULL: gradient of residual = dy through ReLU; may be dy */
    float *dgamma;   /* (C) or NULL */
    float *dbeta;    /* (C) or NULL */
    float *dact;     /* (C) or NULL */
    bool accumulate; /* add to dgamma, dbeta and dact; dx and dresidual are still overwritten */
};

/* Bytes of `scratch` for calls of at most this size (a multiple of 64); of `saved`: state.h. */
size_t mabn_norm_scratch_bytes(const struct mabn_norm *norm, int64_t samples, int64_t positions);

/* These four return MABN_ERR_ARG for arguments that the rules above exclude, MABN_ERR_NONFINITE for a
 * frozen norm (in inference: any that folds) with a coefficient that is not finite, and the failures of
 * norm->sync. */

/* Training forward. Reads x, residual, gamma, beta, act; updates state; writes y and saved. */
MABN_MUST_USE mabn_status mabn_norm_forward(const struct mabn_norm *norm,
                                            const struct mabn_norm_io *io);
/* Recompute y, bit for bit, from x (and residual) and saved. */
MABN_MUST_USE mabn_status mabn_norm_reapply(const struct mabn_norm *norm,
                                            const struct mabn_norm_io *io);
/* Backward of the last forward. Reads dy, x, saved, gamma, act, and y as noted above; updates MABN's
 * backward window in state; writes dx, dresidual, dgamma, dbeta, dact. */
MABN_MUST_USE mabn_status mabn_norm_backward(const struct mabn_norm *norm,
                                             const struct mabn_norm_io *io);
/* Inference. Reads x, residual, gamma, beta, act, state; writes y, which may be x or residual. */
MABN_MUST_USE mabn_status mabn_norm_infer(const struct mabn_norm *norm,
                                          const struct mabn_norm_io *io);

/* ---- the four batch statistics that the paper compares (mabn-train --record-stats) ---- */

struct mabn_norm_record {
    double mu_x;  /* mean of x over the run */
    double var_x; /* E[x²] − mu_x² over the run */
    double mu_g;  /* gamma · mean of g, g = gradient of the norm's output (through ReLU): g_B */
    double mu_gy; /* gamma · mean of g·x̂, x̂ = the normalized x: Psi_B */
};
/* For one run (0…S−1) and `count` channels, between a forward and its backward, which may overwrite dy.
 * Reads what backward reads. `reference`: mu_gy as the authors' recorder computes it, as the mean of g·y
 * without the factor gamma. There y is the affine output of the run's *first sample*, used for all
 * samples. MABN_ERR_UNSUPPORTED for norms without statistics, and for EvoNorm-S0, whose statistic is not
 * a mean of x or g; MABN_ERR_ARG for a run or a channel that does not exist. */
MABN_MUST_USE mabn_status mabn_norm_record(const struct mabn_norm *norm,
                                           const struct mabn_norm_io *io, int64_t run,
                                           const int *channels, int count, bool reference,
                                           struct mabn_norm_record *out /* (count) */);

MABN_END_DECLS
#endif
