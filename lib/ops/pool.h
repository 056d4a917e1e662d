/* Pooling on (N,H,W,C), float32 or bfloat16.
 *
 * Max pooling follows PyTorch: padding never wins, the first of equal values wins, NaN wins. The
 * winner's place in its window is kept as one byte for each output, which is all that backward needs.
 * Results do not depend on the number of threads. */
#ifndef MABN_OPS_POOL_H
#define MABN_OPS_POOL_H

#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_pool_shape {
    int64_t n, h, w, c;
    int kernel, stride, pad; /* square; kernel ≤ 15, pad ≤ kernel/2 */
};

/* floor((size + 2·pad − kernel)/stride) + 1; 0 when the window does not fit. */
int64_t mabn_pool_out(int64_t size, int kernel, int stride, int pad);

/* y (N,OH,OW,C); winner (N,OH,OW,C), NULL when there will be no backward. MABN_ERR_ARG: the shape is
 * outside the limits above or the window does not fit; likewise backward. */
MABN_MUST_USE mabn_status mabn_maxpool_forward(void *y, uint8_t *winner, const void *x,
                                               const struct mabn_pool_shape *shape,
                                               enum mabn_dtype dtype);
/* dx (N,H,W,C) is overwritten. */
MABN_MUST_USE mabn_status mabn_maxpool_backward(void *dx, const void *dy, const uint8_t *winner,
                                                const struct mabn_pool_shape *shape,
                                                enum mabn_dtype dtype);

/* Global average: x (N,HW,C) → y (N,C). */
void mabn_avgpool_forward(void *y, const void *x, int64_t n, int64_t hw, int64_t c,
                          enum mabn_dtype dtype);
/* dx (N,HW,C) is overwritten. */
void mabn_avgpool_backward(void *dx, const void *dy, int64_t n, int64_t hw, int64_t c,
                           enum mabn_dtype dtype);

MABN_END_DECLS
#endif
