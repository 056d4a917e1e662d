/* What a norm keeps from step to step and saves in checkpoints, as named tensors in one block of
 * memory; and how a call is cut into runs. */
#ifndef MABN_NORM_STATE_H
#define MABN_NORM_STATE_H

#include "norm/options.h"

MABN_BEGIN_DECLS

enum mabn_norm_dtype { MABN_NORM_F32, MABN_NORM_I64 };

struct mabn_norm_tensor {
    const char *name; /* static: "running_mean", "buffer_x2", … as PyTorch names it */
    enum mabn_norm_dtype dtype;
    int rank;
    int64_t shape[4];
    size_t bytes;
    void *data;    /* in the given state block; NULL when that was NULL */
    bool constant; /* never changes (sta_matrix); saved because the reference saves it, and not
                    * loaded */
};
#define MABN_NORM_MAX_TENSORS 6

/* Names and shapes, the reference's own:
 *   BN, BRN, SyncBN      running_mean (C), running_var (C), num_batches_tracked () int64
 *   frozen               running_mean (C), running_var (C)
 *   MABN, sub-batch      running_var (C), sta_matrix (m,2m), pre_x2 (m,C), pre_gz (m,C), iters (1)
 *                        float32; the rows of pre_* from the oldest to the newest statistic
 *   MABN, iteration      running_var (1,C,1,1), iters (1) int64, buffer_x2 (m,C), buffer_gz (m,C)
 *   none, GN, LN, IN, FRN, EvoNorm-S0   nothing
 * BRN: the moving deviation of Ioffe's paper is sqrt(running_var + eps). Returns the number of tensors. */
int mabn_norm_state_list(const struct mabn_norm *norm, void *state,
                         struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS]);
/* Bytes of the block, a multiple of 64; 0: the norm has no state. The block is to be aligned to 64. */
size_t mabn_norm_state_bytes(const struct mabn_norm *norm);
/* Write the initial state (running_var 1, the rest 0; sta_matrix; pre_x2 1). Host memory. */
void mabn_norm_state_reset(const struct mabn_norm *norm, void *state);
/* MABN: the number of training calls of `samples` samples until y = a·x + b no longer depends on
 * the batch (unless r is clipped). 0: from the next call on; -1: never, or not MABN. `state` is in
 * host memory; each call of that size lowers the number by one. */
int64_t mabn_norm_calls_until_known(const struct mabn_norm *norm, const void *state,
                                    int64_t samples);

/* Samples of a run, except a short last one, in a call of `samples` samples. */
int64_t mabn_norm_run_samples(const struct mabn_norm *norm, int64_t samples);
/* Bytes that a forward saves for its backward, in calls of at most this size (a multiple of 64). */
size_t mabn_norm_saved_bytes(const struct mabn_norm *norm, int64_t samples);

MABN_END_DECLS
#endif
