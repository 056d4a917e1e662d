/* Element-wise passes over arrays, by all threads, for the few places where they are not fused into
 * another operation. */
#ifndef MABN_OPS_ELEMENTWISE_H
#define MABN_OPS_ELEMENTWISE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* y = a + b, then ReLU if `relu`. NaN passes ReLU, so that it is noticed. y may be a or b. */
void mabn_add(float *y, const float *a, const float *b, int64_t count, bool relu);
/* The same for bfloat16 without ReLU: summed in float32, rounded. */
void mabn_add_half(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t count);

/* y = a as float32, with values that bfloat16 has. dtype of a: F32, which is rounded (y may be a), or
 * BF16. */
void mabn_round_through_half(float *y, const void *a, enum mabn_dtype dtype, int64_t count);
/* y = a, rounded to bfloat16. */
void mabn_narrow(uint16_t *y, const float *a, int64_t count);

MABN_END_DECLS
#endif
