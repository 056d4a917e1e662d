/* Fully connected layer: y = x·Wᵀ + b, x (N,I), W (O,I), b (O) or NULL, y (N,O), float32.
 * Outputs are overwritten unless an argument says "add". */
#ifndef MABN_OPS_LINEAR_H
#define MABN_OPS_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

MABN_MUST_USE mabn_status mabn_linear_forward(float *y, const float *x, const float *weight,
                                              const float *bias, int64_t n, int64_t in,
                                              int64_t out);
MABN_MUST_USE mabn_status mabn_linear_backward_data(float *dx, const float *dy, const float *weight,
                                                    int64_t n, int64_t in, int64_t out, bool add);
/* dbias may be NULL. */
MABN_MUST_USE mabn_status mabn_linear_backward_weights(float *dweight, float *dbias, const float *x,
                                                       const float *dy, int64_t n, int64_t in,
                                                       int64_t out);
/* sums (columns) = Σ over the rows of a (rows,columns), float32 or bfloat16; summed in double. */
void mabn_column_sums(float *sums, const void *a, enum mabn_dtype dtype, int64_t rows,
                      int64_t columns);

/* a (rows,columns), float32 or bfloat16, += bias (columns). */
void mabn_add_bias(void *a, const float *bias, enum mabn_dtype dtype, int64_t rows,
                   int64_t columns);

MABN_END_DECLS
#endif
