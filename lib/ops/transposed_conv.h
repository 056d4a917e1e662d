/* Transposed convolution 2×2 with stride 2: twice the height and width, no two outputs overlap.
 *
 *     y[n][2i+a][2j+b][o] = bias[o] + Σ_c x[n][i][j][c]·W[c][a][b][o]
 *
 * x (N,H,W,I), y (N,2H,2W,O), float32. W is (I,2,2,O) in memory and (I,O,2,2) in files: reordered like
 * a convolution's weights with the roles of I and O exchanged. N is free to change from call to call, and
 * may be 0. Each pass is a matrix product over N·H·W rows by oneDNN, in portions of a fixed number of
 * rows, so that the scratch does not grow with N. */
#ifndef MABN_OPS_TRANSPOSED_CONV_H
#define MABN_OPS_TRANSPOSED_CONV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_transposed_conv {
    int64_t n, h, w; /* of x */
    int64_t in, out; /* channels */
};

/* Enough for every pass, whatever n, h and w are; a multiple of 64. */
size_t mabn_transposed_conv_scratch_bytes(int64_t out);

/* y is overwritten; bias (O) or NULL; relu: y = max(y, 0), NaN stays. */
MABN_MUST_USE mabn_status mabn_transposed_conv_forward(float *y, const float *x,
                                                       const float *weight, const float *bias,
                                                       const struct mabn_transposed_conv *op,
                                                       bool relu, void *scratch);
/* dx (N,H,W,I) = the gradient; add: dx +=. */
MABN_MUST_USE mabn_status mabn_transposed_conv_backward_data(float *dx, const float *dy,
                                                             const float *weight,
                                                             const struct mabn_transposed_conv *op,
                                                             bool add, void *scratch);
/* dweight (I,2,2,O) and dbias (O) are overwritten, with 0 when N is 0; dbias may be NULL. */
MABN_MUST_USE mabn_status
mabn_transposed_conv_backward_weights(float *dweight, float *dbias, const float *x, const float *dy,
                                      const struct mabn_transposed_conv *op, void *scratch);

MABN_END_DECLS
#endif
