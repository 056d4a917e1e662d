/* Pooling on (N,H,W,C) float32.
 *
 * Max pooling follows PyTorch: padding never wins, the first of equal values wins, NaN wins. The
 * winner's place in its window is kept as one byte an output, which is all that backward needs.
 * Results do not depend on the number of threads. */
#ifndef MABN_OPS_POOL_H
#define MABN_OPS_POOL_H

#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_pool_shape {
    int64_t n, h, w, c;
    int kernel, stride, pad; /* square; kernel ≤ 15, pad ≤ kernel/2 */
};

/* floor((size + 2·pad − kernel)/stride) + 1; 0 when the window does not fit. */
int64_t mabn_pool_out(int64_t size, int kernel, int stride, int pad);

/* y (N,OH,OW,C); winner (N,OH,OW,C), NULL when there will be no backward. */
MABN_MUST_USE mabn_status mabn_maxpool_forward(float *y, uint8_t *winner, const float *x,
                                               const struct mabn_pool_shape *shape);
/* dx (N,H,W,C) is overwritten. */
MABN_MUST_USE mabn_status mabn_maxpool_backward(float *dx, const float *dy, const uint8_t *winner,
                                                const struct mabn_pool_shape *shape);

/* Global average: x (N,HW,C) → y (N,C). */
void mabn_avgpool_forward(float *y, const float *x, int64_t n, int64_t hw, int64_t c);
/* dx (N,HW,C) is overwritten. */
void mabn_avgpool_backward(float *dx, const float *dy, int64_t n, int64_t hw, int64_t c);

MABN_END_DECLS
#endif
