/* Element-wise passes over float32 arrays, for the few places where they are not fused into
 * something else. NaN goes through ReLU, so that trouble is seen. Outputs may be any of the inputs.
 */
#ifndef MABN_OPS_ELEMENTWISE_H
#define MABN_OPS_ELEMENTWISE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

void mabn_relu_forward(float *y, const float *x, int64_t count);
/* dx = dy where y > 0, else 0. */
void mabn_relu_backward(float *dx, const float *dy, const float *y, int64_t count);
/* y = a + b, through ReLU when `relu`. */
void mabn_add(float *y, const float *a, const float *b, int64_t count, bool relu);
/* y = scale·x. */
void mabn_scale(float *y, const float *x, float scale, int64_t count);
/* Every value finite? */
bool mabn_all_finite(const float *x, int64_t count);

MABN_END_DECLS
#endif
