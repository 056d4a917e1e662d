/* Shared by the files of lib/norm only: the views into state and saved, the backends' entry points.
 */
#ifndef MABN_NORM_INTERNAL_H
#define MABN_NORM_INTERNAL_H

#include "norm/norm.h"
#include "tensor/bf16.h"

MABN_BEGIN_DECLS

/* The state block by name; NULL where the norm has no such tensor. */
struct mabn_norm_state {
    float *running_mean; /* (C) */
    float *running_var;  /* (C) */
    float *window_x2;    /* (m,C): pre_x2 or buffer_x2 */
    float *window_gz;    /* (m,C): pre_gz or buffer_gz */
    float *sta_matrix;   /* (m,2m) */
    float *iters_f32;    /* (1), sub-batch rule */
    int64_t *iters;      /* (1), iteration rule */
    int64_t *batches;    /* () num_batches_tracked */
};
void mabn_norm_state_view(struct mabn_norm_state *view, const struct mabn_norm *norm, void *state);

/* The saved block: forward's coefficients, each (S,C) floats. */
struct mabn_norm_saved {
    float *a, *b, *mean, *istd, *scale, *shift;
};
void mabn_norm_saved_view(struct mabn_norm_saved *view, const struct mabn_norm *norm, void *saved,
                          int64_t samples);

/* Value `at` of one of the io's arrays of rows. */
static inline float mabn_norm_value(const struct mabn_norm_io *io, const void *rows, int64_t at)
{
    return io->dtype == MABN_DTYPE_BF16 ? mabn_bf16_float(((const uint16_t *)rows)[at])
                                        : ((const float *)rows)[at];
}

/* Runs of a call of `samples`. */
int64_t mabn_norm_runs(const struct mabn_norm *norm, int64_t samples);

/* The CPU backend: arguments are checked, samples ≥ 0. */
size_t mabn_norm_cpu_scratch(const struct mabn_norm *norm, int64_t samples, int64_t positions);
MABN_MUST_USE mabn_status mabn_norm_cpu_forward(const struct mabn_norm *norm,
                                                const struct mabn_norm_io *io);
void mabn_norm_cpu_reapply(const struct mabn_norm *norm, const struct mabn_norm_io *io);
MABN_MUST_USE mabn_status mabn_norm_cpu_backward(const struct mabn_norm *norm,
                                                 const struct mabn_norm_io *io);
MABN_MUST_USE mabn_status mabn_norm_cpu_infer(const struct mabn_norm *norm,
                                              const struct mabn_norm_io *io);

MABN_END_DECLS
#endif
