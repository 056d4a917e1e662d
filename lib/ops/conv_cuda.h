/* Convolution on an NVIDIA GPU, and with it the fully connected layer (a 1×1 convolution of a 1×1
 * picture): conv.h's training passes, on device memory.
 *
 * x (N,H,W,I) and dx are of type `dtype`, as is weight (O,KH,KW,I); y (N,OH,OW,O) and dy of
 * `y_dtype` (a classifier keeps its logits in float32); dweight and the bias are float32. Sums are
 * at least float32.
 *
 * What stands behind it today is the plain implementation: direct sums in double, one thread a
 * result, the same on every device; the yardstick for what will be fast. A plan found once for a
 * shape belongs into struct mabn_conv_cuda, its memory into workspace, and callers need not know.
 */
#ifndef MABN_OPS_CONV_CUDA_H
#define MABN_OPS_CONV_CUDA_H

#include "ops/conv.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_conv_cuda;

MABN_MUST_USE mabn_status mabn_conv_cuda_new(struct mabn_conv_cuda **conv,
                                             const struct mabn_conv_shape *shape,
                                             enum mabn_dtype dtype, enum mabn_dtype y_dtype);
void mabn_conv_cuda_free(struct mabn_conv_cuda *conv); /* NULL is fine */
/* Device memory that each call below may use; 0 today. May be shared by layers in one stream. */
size_t mabn_conv_cuda_workspace(const struct mabn_conv_cuda *conv);

/* bias (O) float32, or NULL. */
MABN_MUST_USE mabn_status mabn_conv_cuda_forward(struct mabn_conv_cuda *conv, void *y,
                                                 const void *x, const void *weight,
                                                 const float *bias, void *workspace, void *stream);
/* add: dx += instead of dx =. */
MABN_MUST_USE mabn_status mabn_conv_cuda_backward_data(struct mabn_conv_cuda *conv, void *dx,
                                                       const void *dy, const void *weight, bool add,
                                                       void *workspace, void *stream);
/* dweight, dbias (O) or NULL: overwritten. */
MABN_MUST_USE mabn_status mabn_conv_cuda_backward_weights(struct mabn_conv_cuda *conv,
                                                          float *dweight, float *dbias,
                                                          const void *x, const void *dy,
                                                          void *workspace, void *stream);

MABN_END_DECLS
#endif
