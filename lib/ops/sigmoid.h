/* Sigmoid of float32 or bfloat16 arrays. It is computed in double and rounded once, so it never
 * decreases as x increases: probabilities have the order of their logits. NaN gives NaN. */
#ifndef MABN_OPS_SIGMOID_H
#define MABN_OPS_SIGMOID_H

#include <stdint.h>

#include "base/attr.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* y (count) = 1/(1 + e^−x); y may be x. */
void mabn_sigmoid(void *y, const void *x, int64_t count, enum mabn_dtype dtype);
/* dx (count) = dy·y·(1−y), overwritten; y is the output of forward; dx may be dy. */
void mabn_sigmoid_backward(void *dx, const void *dy, const void *y, int64_t count,
                           enum mabn_dtype dtype);

MABN_END_DECLS
#endif
