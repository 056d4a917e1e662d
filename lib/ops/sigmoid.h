/* Sigmoid of float32 arrays. Computed in double and rounded once: never falling as x rises, so that
 * probabilities stand in the order of their logits. NaN goes through. */
#ifndef MABN_OPS_SIGMOID_H
#define MABN_OPS_SIGMOID_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* y (count) = 1/(1 + e^−x); y may be x. */
void mabn_sigmoid(float *y, const float *x, int64_t count);
/* dx (count) = dy·y·(1−y), overwritten; y is the output of forward; dx may be dy. */
void mabn_sigmoid_backward(float *dx, const float *dy, const float *y, int64_t count);

MABN_END_DECLS
#endif
