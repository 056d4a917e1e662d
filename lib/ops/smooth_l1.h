/* Smooth L1 of box regression, value and gradient at once.
 *
 *     loss(d) = 0.5·d²/beta where |d| < beta, else |d| − beta/2;   d = prediction − target
 *
 * beta 0 is plain L1. A prediction row holds the four deltas of every class, of which only those of
 * the row's class count: columns 4k…4k+3 of group k. The loss is computed in double and summed in a
 * fixed order, so that the result is the same with any number of threads. `scale` multiplies both the sum
 * and the gradient: 1/S for a sum over S samples. */
#ifndef MABN_OPS_SMOOTH_L1_H
#define MABN_OPS_SMOOTH_L1_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_smooth_l1 {
    int64_t rows, groups; /* groups: 1, or the number of classes */
    double beta, scale;
};

/* x (R,4·groups), target (R,4); group (R), NULL: all 0; weight (R), NULL: all 1: *loss = scale·Σ
 * weight[r]·loss(x[r] of its group − target[r]), over four columns. A row with weight 0, or with a
 * group outside [0,groups) such as the background, is not read. dx (R,4·groups) is overwritten,
 * with 0 where nothing counts; it may be NULL (not needed) but must not be x. */
void mabn_smooth_l1(double *loss, float *dx, const float *x, const float *target,
                    const int32_t *group, const float *weight, const struct mabn_smooth_l1 *op);

MABN_END_DECLS
#endif
