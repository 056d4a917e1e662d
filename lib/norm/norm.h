/* Normalization layers: one engine for BN, BRN, SyncBN, MABN, frozen BN, GN, LN and IN.
 *
 * Every norm is three steps: *moments* (sums per group of samples and channel), *coefficients*
 * (tiny arrays turned into other tiny arrays; only this step differs between norms, see
 * coefficients.h) and *apply* (y = act(a·x + b [+ residual]) forward, dx = p·g + q·(x−k) + r
 * backward). Residual add and ReLU are part of apply, so no norm ever costs a pass for them.
 *
 * Layout: x is (N, HW, C) float32, channels fastest (NHWC); pointers need no alignment. For outputs
 * of a fully connected layer HW is 1.
 *
 * Groups. The N samples of a call are cut into S = ceil(N/B) runs of B = norm_batch consecutive
 * samples; each run has its own statistic (B = 0: one run of all N). A short last run (N not a
 * multiple of B) is a statistic of its own, over the samples it has; running averages of BN and BRN
 * weigh every run by its samples, MABN's windows and averages weigh every run alike, as the
 * reference does. SyncBN and frozen always use one run; GN, LN and IN use one run a sample. N = 0
 * changes nothing.
 *
 * What an iteration is. BN, BRN, SyncBN: one call. MABN, sub-batch rule: one call, with all its
 * runs. MABN, iteration rule: one *run*, in order, as if every run were a call of its own (a call
 * with S runs is what S calls of a gradient-accumulating loop are to the reference); with B = 0 or
 * B ≥ N that is one call.
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
 * What backward needs kept: x (the convolution's output), and where ReLU was applied, its mask:
 *   - without a residual it is recomputed from x, which is read anyway: pass y = NULL;
 *   - with a residual pass y (the block's output, which the next convolution keeps as its input).
 * So y itself need not live for the norm's sake, and mabn_norm_reapply makes it again from x in one
 * pass where a plan prefers memory to time.
 *
 * In place: dx may be dy. dresidual may be dy, or a buffer of its own, but not dx. y may be
 * residual (so a shortcut's norm output can be overwritten by the block's); y may not be x in
 * training.
 *
 * Every forward in training must be followed by its own backward before the next forward of the
 * same layer (windows and counters are shared); a forward without backward advances the forward
 * statistics only.
 *
 * Threads: OpenMP inside. All sums run over fixed blocks, so results are bitwise independent of the
 * number of threads (and of the instruction set). */
#ifndef MABN_NORM_NORM_H
#define MABN_NORM_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_norm_kind {
    MABN_NORM_NONE,   /* y = act(x [+ residual]); gamma and beta ignored */
    MABN_NORM_BN,     /* Ioffe and Szegedy 2015; PyTorch's BatchNorm2d */
    MABN_NORM_BRN,    /* Ioffe 2017, batch renormalization */
    MABN_NORM_SYNCBN, /* BN over all ranks */
    MABN_NORM_MABN,   /* Yan et al. 2020 */
    MABN_NORM_FROZEN, /* y = weight/sqrt(running_var)·(x − running_mean) + bias, nothing trained */
    MABN_NORM_GN,     /* Wu and He 2018 */
    MABN_NORM_LN,     /* one group of all channels */
    MABN_NORM_IN,     /* every channel a group */
    MABN_NORM_KINDS
};

enum mabn_window_rule {
    /* The reference's simulated small batch: the window runs over the runs of this call and of the
     * ones before; statistics count from the second call; running_var moves once a call and starts
     * from the first call's statistic. Any N, B and m: run i averages itself and the m−1 runs
     * before it. On the first call every run uses its own statistic, and a window longer than the
     * call is filled up with the call's mean. */
    MABN_WINDOW_SUBBATCH,
    /* The reference's real small batch: a buffer row an iteration; batch statistics alone for the
     * first warmup iterations; running_var moves every iteration, from 1. */
    MABN_WINDOW_ITERATION,
};

/* Start from mabn_norm_options_init and change what differs. */
struct mabn_norm_options {
    enum mabn_norm_kind kind;
    int norm_batch;  /* B: samples behind one batch statistic; 0: all of a call */
    double eps;      /* 1e-5; frozen: 0 */
    double momentum; /* share of the old running value kept: BN, SyncBN 0.9, BRN 0.99, MABN 0.98
                      * (PyTorch's "momentum" is 1 minus this) */
    int groups;      /* GN: groups of channels, 32; must divide C */

    /* MABN */
    enum mabn_window_rule window_rule; /* sub-batch */
    int window;    /* m: statistics in the moving average, 16; at most 1024 (sub-batch)
                    * or 4096 (iteration) */
    int warmup;    /* iteration rule: window from iteration max(m+1, warmup) on; 100 */
    int r_start;   /* first iteration with the renormalizing factor r; 0: as the reference, that is
                    * 100 (sub-batch rule) or max(1000, warmup)+1 (iteration rule) */
    double lambda; /* r is clipped to [1/lambda, lambda]; 5 */

    /* BRN: r_max goes 1 → r_max over calls ramp_start…r_ramp_end, d_max 0 → d_max over
     * ramp_start…d_ramp_end, both linear, as in the paper: 3, 5, 5000, 40000, 25000 */
    double r_max, d_max;
    int64_t ramp_start, r_ramp_end, d_ramp_end;

    /* SyncBN: true: as the reference (unbiased variance for normalizing, ranks' means averaged
     * without weights); false: biased variance over all elements of all ranks. Default false. */
    bool sync_reference;
};

/* Sum `count` doubles over all ranks, in place, with the same bits on every rank. */
struct mabn_norm_sync {
    mabn_status (*all_reduce)(void *context, double *values, size_t count);
    void *context;
    int ranks;
};

/* A layer: options that were checked, and its channels. Plain values: copy freely. */
struct mabn_norm {
    struct mabn_norm_options options;
    int channels;
    const struct mabn_norm_sync *sync; /* borrowed; NULL: one rank. SyncBN only */
};

/* ---- names and options ---- */

/* "none", "bn", "brn", "syncbn", "mabn", "frozen", "gn", "ln", "in". */
const char *mabn_norm_kind_name(enum mabn_norm_kind kind);
MABN_MUST_USE mabn_status mabn_norm_kind_parse(enum mabn_norm_kind *kind, const char *name);
/* "subbatch", "iteration". */
const char *mabn_window_rule_name(enum mabn_window_rule rule);
MABN_MUST_USE mabn_status mabn_window_rule_parse(enum mabn_window_rule *rule, const char *name);

/* The defaults of `kind` given above; norm_batch 0. */
void mabn_norm_options_init(struct mabn_norm_options *options, enum mabn_norm_kind kind);
/* Check the options and fill *norm. */
MABN_MUST_USE mabn_status mabn_norm_init(struct mabn_norm *norm,
                                         const struct mabn_norm_options *options, int channels);

/* Coefficients at inference do not depend on the input: folds into the convolution before it. */
bool mabn_norm_folds(enum mabn_norm_kind kind);
/* gamma and beta are trained (all but none and frozen). */
bool mabn_norm_trains(enum mabn_norm_kind kind);
/* Has "weight" and "bias" (all but none). */
bool mabn_norm_has_affine(enum mabn_norm_kind kind);

/* ---- state ---- */

enum mabn_norm_dtype { MABN_NORM_F32, MABN_NORM_I64 };

struct mabn_norm_tensor {
    const char *name; /* static: "running_mean", "buffer_x2", … as PyTorch names it */
    enum mabn_norm_dtype dtype;
    int rank;
    int64_t shape[4];
    size_t bytes;
    void *data;    /* into the state block given (offset from NULL when that was NULL) */
    bool constant; /* never changes (sta_matrix): written for the reference's sake; not to be loaded
                    */
};
#define MABN_NORM_MAX_TENSORS 6

/* Names and shapes, the reference's own:
 *   BN, BRN, SyncBN      running_mean (C), running_var (C), num_batches_tracked () int64
 *   frozen               running_mean (C), running_var (C)
 *   MABN, sub-batch      running_var (C), sta_matrix (m,2m), pre_x2 (m,C), pre_gz (m,C), iters (1)
 *                        float32; the rows of pre_* from the oldest to the newest statistic
 *   MABN, iteration      running_var (1,C,1,1), iters (1) int64, buffer_x2 (m,C), buffer_gz (m,C)
 *   none, GN, LN, IN     nothing
 * BRN: the moving deviation of Ioffe's paper is sqrt(running_var + eps). Returns how many. */
int mabn_norm_state_list(const struct mabn_norm *norm, void *state,
                         struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS]);
/* A multiple of 64; 0 when there is none. The block should be aligned to 64. */
size_t mabn_norm_state_bytes(const struct mabn_norm *norm);
/* Write the initial state (running_var 1, the rest 0; sta_matrix; pre_x2 1). Host memory. */
void mabn_norm_state_reset(const struct mabn_norm *norm, void *state);
/* MABN: how many more training calls of `samples` samples until y = a·x + b does not depend on the
 * batch (unless r is clipped): 0: from the next on; -1: never, or not MABN. From state in host
 * memory; each call of that size brings it one nearer. */
int64_t mabn_norm_calls_until_known(const struct mabn_norm *norm, const void *state,
                                    int64_t samples);

/* ---- work ---- */

/* Everything one layer's calls take. A plan fills it once a node and passes it to forward and
 * backward; a call reads only what its comment names. */
struct mabn_norm_io {
    int64_t samples;   /* N */
    int64_t positions; /* HW */
    bool relu;

    const float *gamma; /* (C) */
    const float *beta;  /* (C) */
    void *state;
    void *saved;   /* mabn_norm_saved_bytes, aligned to 64 */
    void *scratch; /* mabn_norm_scratch_bytes, aligned to 64 */

    const float *x;        /* (N,HW,C) */
    const float *residual; /* (N,HW,C) or NULL; forward, inference, reapply */
    float *y;              /* (N,HW,C); backward: only as ReLU's mask, NULL to recompute it from x,
                            * which needs that there was no residual */

    const float *dy;  /* (N,HW,C) */
    float *dx;        /* (N,HW,C), may be dy */
    float *dresidual; /* (N,HW,C) or NULL: gradient of residual = dy through ReLU; may be dy */
    float *dgamma;    /* (C) or NULL */
    float *dbeta;     /* (C) or NULL */
    bool accumulate;  /* add to dgamma and dbeta instead of overwriting; dx, dresidual overwrite */
};

/* Samples of a run (but a short last one) in a call of `samples`. */
int64_t mabn_norm_run_samples(const struct mabn_norm *norm, int64_t samples);
/* Bytes of `saved` and `scratch` for calls of at most this size (multiples of 64). */
size_t mabn_norm_saved_bytes(const struct mabn_norm *norm, int64_t samples);
size_t mabn_norm_scratch_bytes(const struct mabn_norm *norm, int64_t samples, int64_t positions);

/* Training forward. Reads x, residual, gamma, beta; updates state; writes y and saved. */
MABN_MUST_USE mabn_status mabn_norm_forward(const struct mabn_norm *norm,
                                            const struct mabn_norm_io *io);
/* y once more, bit for bit, from x (and residual) and saved. */
MABN_MUST_USE mabn_status mabn_norm_reapply(const struct mabn_norm *norm,
                                            const struct mabn_norm_io *io);
/* Backward of the last forward. Reads dy, x, saved, gamma, y where said above; updates MABN's
 * backward window in state; writes dx, dresidual, dgamma, dbeta. */
MABN_MUST_USE mabn_status mabn_norm_backward(const struct mabn_norm *norm,
                                             const struct mabn_norm_io *io);
/* Inference. Reads x, residual, gamma, beta, state; writes y, which may be x or residual. */
MABN_MUST_USE mabn_status mabn_norm_infer(const struct mabn_norm *norm,
                                          const struct mabn_norm_io *io);

/* Inference coefficients of a norm that folds: y = a·x + b. a, b (C). */
MABN_MUST_USE mabn_status mabn_norm_affine(const struct mabn_norm *norm, float *a, float *b,
                                           const float *gamma, const float *beta,
                                           const void *state);
/* Fold y = a·conv(x) + b into the convolution: weight_out (O,K) = a·weight, where the rows of
 * `weight` are first centralized if `centralize`; bias_out (O) = a·bias + b. bias may be NULL (0);
 * weight_out may be weight, bias_out may be bias. K = the values of one filter. */
void mabn_norm_fold(float *weight_out, float *bias_out, const float *weight, const float *bias,
                    const float *a, const float *b, int64_t outputs, int64_t filter,
                    bool centralize);

/* ---- the four batch statistics that the paper compares (mabn-train --record-stats) ---- */

struct mabn_norm_record {
    double mu_x;  /* mean of x over the run */
    double var_x; /* E[x²] − mu_x² over the run */
    double mu_g;  /* gamma · mean of g, g = gradient of the norm's output (through ReLU): g_B */
    double mu_gy; /* gamma · mean of g·x̂, x̂ = the normalized x: Psi_B */
};
/* For one run (0…S−1) and `count` channels, between a forward and its backward (backward may write
 * dx over dy): reads what backward reads. `reference`: mu_gy as the authors' recorder has it: mean
 * of g·y without the factor gamma, y the affine output of the run's *first sample*, used for all.
 */
MABN_MUST_USE mabn_status mabn_norm_record(const struct mabn_norm *norm,
                                           const struct mabn_norm_io *io, int64_t run,
                                           const int *channels, int count, bool reference,
                                           struct mabn_norm_record *out /* (count) */);

MABN_END_DECLS
#endif
