/* The reference convolution: the passes of conv_cuda.h on any device, without a library. Simple,
 * exact and slow. The arguments are those of the passes there; the options say which of bias, add and
 * ReLU take part. */
#ifndef MABN_OPS_CONV_CUDA_REFERENCE_H
#define MABN_OPS_CONV_CUDA_REFERENCE_H

#include "ops/conv_cuda.h"

MABN_BEGIN_DECLS

/* A layer. */
struct mabn_conv_reference {
    struct mabn_conv_shape shape;
    struct mabn_conv_cuda_options options;
};

MABN_MUST_USE mabn_status mabn_conv_reference_forward(const struct mabn_conv_reference *conv,
                                                      void *y, const void *x, const void *weight,
                                                      const void *bias, void *stream);
MABN_MUST_USE mabn_status mabn_conv_reference_backward_data(const struct mabn_conv_reference *conv,
                                                            void *dx, const void *dy,
                                                            const void *weight, bool add,
                                                            void *stream);
MABN_MUST_USE mabn_status
mabn_conv_reference_backward_weights(const struct mabn_conv_reference *conv, float *dweight,
                                     const void *x, const void *dy, void *stream);
/* The bias's gradient: sums of dy's columns. */
MABN_MUST_USE mabn_status mabn_conv_reference_backward_bias(const struct mabn_conv_reference *conv,
                                                            float *dbias, const void *dy,
                                                            void *stream);
MABN_MUST_USE mabn_status mabn_conv_reference_forward_norm(
    const struct mabn_conv_reference *conv, void *y, const void *x, const void *weight,
    const struct mabn_conv_cuda_norm_out *norm, void *stream);
MABN_MUST_USE mabn_status mabn_conv_reference_forward_sums(const struct mabn_conv_reference *conv,
                                                           void *y, const void *x,
                                                           const void *weight, float *sum,
                                                           float *square, void *stream);
MABN_MUST_USE mabn_status mabn_conv_reference_backward_norm(
    const struct mabn_conv_reference *conv, void *dx, const void *dy, const void *weight,
    const struct mabn_conv_cuda_norm_in *norm, void *stream);

MABN_END_DECLS
#endif
