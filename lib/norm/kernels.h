/* The heavy kernels of the normalization engine on the CPU: passes over a contiguous block of `rows`
 * rows of `width` channels. Private to lib/norm. One thread; callers divide the blocks among threads.
 *
 * Sums are added to the given doubles, from float partial sums over a few rows. An output may be
 * the same array as an input, but must not overlap it otherwise. With `half` the arrays of rows are
 * bfloat16, else float32; the arithmetic is the same. Multiplications and additions are not
 * contracted, so every instruction set gives the same bits, and recomputing a forward repeats it
 * bit for bit. */
#ifndef MABN_NORM_KERNELS_H
#define MABN_NORM_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* Where ReLU's mask comes from in backward. */
enum mabn_mask {
    MABN_MASK_NONE, /* there was no ReLU */
    MABN_MASK_Y,    /* y > 0 */
    MABN_MASK_X     /* a·x + b > 0 */
};

/* square (width) += Σ x² */
void mabn_kernel_square(double *square, const void *x, bool half, int64_t rows, int64_t width);

/* sum += Σ d, square += Σ d², d = x − shift (width) */
void mabn_kernel_moments(double *sum, double *square, const void *x, bool half, const float *shift,
                         int64_t rows, int64_t width);

/* y = a·x + b [+ residual], then ReLU if `relu`; residual may be NULL. If `square` is not NULL,
 * also square += Σ x². */
void mabn_kernel_apply(void *y, double *square, const void *x, const void *residual, bool half,
                       const float *a, const float *b, bool relu, int64_t rows, int64_t width);

struct mabn_kernel_grad {
    const void *dy, *x, *y; /* (rows,width); y only for MASK_Y; x may be NULL where noted below */
    const float *a, *b;     /* (width), only for MASK_X */
    const float *shift;     /* (width) */
    enum mabn_mask mask;
    bool half; /* dy, x, y, and what is written */
};

/* sum += Σ g, dot += Σ g·(x − shift), g = masked dy, which is written too where `g` is not NULL */
void mabn_kernel_grad_moments(double *sum, double *dot, void *g, const struct mabn_kernel_grad *in,
                              int64_t rows, int64_t width);

/* dx = p·g + (q·(x − shift) + r); q NULL: dx = p·g, and x is read only for the mask. dresidual = g,
 * may be NULL. */
void mabn_kernel_grad_apply(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                            const float *p, const float *q, const float *r, int64_t rows,
                            int64_t width);

/* ---- norms with an activation of their own: act_cpu.c ---- */

/* FRN: y = max(z, act), z = a·x + b [+ residual]. EvoNorm-S0: y = a·h + b, h = x·sigmoid(act·x). */
struct mabn_kernel_act {
    bool evonorm, half;
    const float *a, *b, *act; /* (width) */
};
void mabn_kernel_act_apply(void *y, const void *x, const void *residual, struct mabn_kernel_act act,
                           int64_t rows, int64_t width);

/* FRN, g the masked dy: sum += Σ g, dot += Σ g·x, own += Σ (dy − g). EvoNorm-S0, g = dy: sum += Σ
 * g, dot += Σ g·h, own += Σ g·dh/dact. shift, a and b of `in` are not read; mask says where FRN's
 * mask comes from. */
void mabn_kernel_act_grad_moments(double *sum, double *dot, double *own,
                                  const struct mabn_kernel_grad *in, struct mabn_kernel_act act,
                                  int64_t rows, int64_t width);
/* FRN: dx = p·g + q·x. EvoNorm-S0: dx = p·g·dh/dx + q·(x − shift). dresidual = g, may be NULL. */
void mabn_kernel_act_grad_apply(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                                struct mabn_kernel_act act, const float *p, const float *q,
                                int64_t rows, int64_t width);

MABN_END_DECLS
#endif
