/* One pass of a convolution by a library: the part of conv_cuda.cu that knows cuDNN and
 * cuBLASLt. */
#ifndef MABN_OPS_CONV_CUDA_LIBRARY_H
#define MABN_OPS_CONV_CUDA_LIBRARY_H

#include "ops/conv_cuda.h"

MABN_BEGIN_DECLS

/* What is requested of a pass. */
struct mabn_conv_request {
    enum mabn_conv_pass pass;
    enum mabn_dtype out; /* type of the result */
    /* out = relu(out_before + product + bias (O)). FORWARD_NORM: add and relu are of z, and `add` is of
     * the residual. BACKWARD_NORM: `add` is of dx. */
    bool bias, add, relu;
    enum mabn_conv_mask mask; /* BACKWARD_NORM: ReLU's mask */
    bool sum;                 /* BACKWARD_NORM, FORWARD_SUMS: compute Σ out as well */
};

/* The arrays of a pass. out, a, b: y, x, weight; dx, dy, weight; or dweight, x, dy. */
struct mabn_conv_arrays {
    void *out;
    const void *a, *b, *bias;
    const struct mabn_conv_cuda_norm_out *norm_out; /* FORWARD_NORM */
    const struct mabn_conv_cuda_norm_in *norm_in;   /* BACKWARD_NORM */
    /* FORWARD_NORM, FORWARD_SUMS, BACKWARD_NORM: Σ out, if requested; Σ y² or Σ dx·x. */
    float *sum, *products;
};

struct mabn_conv_library;
/* *conv: the first implementation in cuDNN and cuBLASLt, or with `tune` the fastest.
 * MABN_ERR_UNSUPPORTED: neither has one. */
MABN_MUST_USE mabn_status mabn_conv_library_new(struct mabn_conv_library **conv,
                                                struct mabn_device *device,
                                                const struct mabn_conv_shape *shape,
                                                const struct mabn_conv_cuda_options *options,
                                                const struct mabn_conv_request *request);
void mabn_conv_library_free(struct mabn_conv_library *conv); /* NULL is fine */
size_t mabn_conv_library_workspace(const struct mabn_conv_library *conv);
/* The type that the bias must have. */
enum mabn_dtype mabn_conv_library_bias(const struct mabn_conv_library *conv);
const char *mabn_conv_library_name(const struct mabn_conv_library *conv);
MABN_MUST_USE mabn_status mabn_conv_library_run(const struct mabn_conv_library *conv,
                                                const struct mabn_conv_arrays *arrays,
                                                void *workspace, void *stream);

MABN_END_DECLS
#endif
