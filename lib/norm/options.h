/* The kinds of norms, by name, and the options of a layer.
 *
 * To add a norm:
 *   1. its value in enum mabn_norm_kind and a row in mabn_norm_kinds; its defaults, checks and properties
 *      (options.c);
 *   2. its state and its runs: list_state and mabn_norm_run_samples (state.c);
 *   3. its coefficients: functions in coefficients.h, stages in coefs.c, kernels in coefficients_cuda.cu;
 *   4. norm.h's list, tests/unit/test_norm.c and test_golden_norm.c; tests/gpu/test_cuda_norm.cu takes
 *      every kind by itself;
 *   5. exchange/, where it recognizes norms in other programs' files and exports them to ONNX; and the
 *      manuals that list norms. */
#ifndef MABN_NORM_OPTIONS_H
#define MABN_NORM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/words.h"

MABN_BEGIN_DECLS

enum mabn_norm_kind {
    MABN_NORM_NONE,   /* y = act(x [+ residual]); gamma and beta ignored */
    MABN_NORM_BN,     /* Ioffe and Szegedy 2015; PyTorch's BatchNorm2d */
    MABN_NORM_BRN,    /* Ioffe 2017, batch renormalization */
    MABN_NORM_SYNCBN, /* BN over several shards: sync.h */
    MABN_NORM_MABN,   /* Yan et al. 2020 */
    MABN_NORM_FROZEN, /* y = weight/sqrt(running_var)·(x − running_mean) + bias, nothing trained */
    MABN_NORM_GN,     /* Wu and He 2018 */
    MABN_NORM_LN,     /* one group of all channels */
    MABN_NORM_IN,     /* every channel a group */
    MABN_NORM_FRN,    /* Singh and Krishnan 2020, filter response normalization, with its TLU */
    MABN_NORM_EVONORM_S0, /* Liu et al. 2020 */
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

/* Start with mabn_norm_options_init and change what differs. */
struct mabn_norm_options {
    enum mabn_norm_kind kind;
    int norm_batch;  /* B: samples of one batch statistic; 0: all samples of a call */
    double eps;      /* 1e-5; FRN 1e-6; frozen: 0 */
    double momentum; /* share of the old running value kept: BN, SyncBN 0.9, BRN 0.99, MABN 0.98
                      * (PyTorch's "momentum" is 1 minus this) */
    int groups;      /* GN, EvoNorm-S0: groups of channels, 32; must divide C */

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

    /* SyncBN. true: as the reference (unbiased variance for normalizing, the shards' means averaged
     * without weights). false, the default: biased variance over all elements of all shards. */
    bool sync_reference;
};

/* The other shards of a SyncBN layer (norm/sync.h makes one from a communicator).
 * all_reduce: sum `count` doubles over the shards of the group, in place, with the same bits everywhere.
 * Meanwhile other shards of this process may run; they need state and scratch of their own.
 * queue: the same on a GPU, in the device's queue. Each group has its place in `places`,
 * (groups)(count) doubles of device memory. This shard's values are in place `mine`, the rest is 0.
 * queues: `queue` only queues work, which may be captured in a CUDA graph; else it also waits. */
struct mabn_norm_sync {
    mabn_status (*all_reduce)(void *context, double *values, size_t count);
    mabn_status (*queue)(void *context, double *places, size_t count); /* NULL: no GPU */
    void *context;
    int groups, mine; /* groups of shards, each with its statistic; the number of this shard's */
    bool queues;
};

/* A layer: options that were checked, and its channels. Plain values: copy freely. */
struct mabn_norm {
    struct mabn_norm_options options;
    int channels;
    const struct mabn_norm_sync *sync; /* borrowed; NULL: alone. SyncBN only */
};

/* "none", "bn", "brn", "syncbn", "mabn", "frozen", "gn", "ln", "in", "frn", "evonorm-s0". */
extern const struct mabn_word mabn_norm_kinds[];
const char *mabn_norm_kind_name(enum mabn_norm_kind kind);
MABN_MUST_USE mabn_status mabn_norm_kind_parse(enum mabn_norm_kind *kind, const char *name);
/* "subbatch", "iteration". */
extern const struct mabn_word mabn_window_rules[];
const char *mabn_window_rule_name(enum mabn_window_rule rule);

/* The defaults of `kind` given above; norm_batch 0. */
void mabn_norm_options_init(struct mabn_norm_options *options, enum mabn_norm_kind kind);
/* *options = *before if that is of this kind, else the kind's defaults. */
void mabn_norm_options_choose(struct mabn_norm_options *options,
                              const struct mabn_norm_options *before, enum mabn_norm_kind kind);
/* Check the options and fill *norm. MABN_ERR_ARG, naming the option, when one is out of range. */
MABN_MUST_USE mabn_status mabn_norm_init(struct mabn_norm *norm,
                                         const struct mabn_norm_options *options, int channels);

/* Can it be folded into the convolution before it? It can when its coefficients at inference do not
 * depend on the input. */
bool mabn_norm_folds(enum mabn_norm_kind kind);
/* Does it take statistics from the batch? (All but none and frozen.) */
bool mabn_norm_measures(enum mabn_norm_kind kind);
/* Are gamma and beta trained? (All but none and frozen.) */
bool mabn_norm_trains(enum mabn_norm_kind kind);
/* Does it have "weight" and "bias"? (All but none.) */
bool mabn_norm_has_affine(enum mabn_norm_kind kind);
/* The trained parameter of the norm's own activation, as named in checkpoints: "tau" of FRN, which
 * starts at 0, or "v" of EvoNorm-S0, which starts at 1. NULL: the norm has no activation of its
 * own. */
const char *mabn_norm_act_name(enum mabn_norm_kind kind);

MABN_END_DECLS
#endif
