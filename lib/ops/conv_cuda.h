/* Convolution on an NVIDIA GPU, and with it the fully connected layer (a 1×1 convolution of a 1×1
 * picture): conv.h's passes, on device memory.
 *
 * x (N,H,W,I), weight (O,KH,KW,I), dx and dy (N,OH,OW,O) are of type `dtype`, y (N,OH,OW,O) of
 * `y_dtype`; dweight, dbias and bias are float32, all 16-byte aligned. Sums are float32 at least;
 * what a library has only in `dtype` (a filter's gradient, a bias added) is rounded to it once.
 *
 * Behind it stand cuDNN, cuBLASLt and plain kernels: direct sums in double, one thread a result,
 * the same on every device, which is what tests compare the others with. The plan of each pass is
 * made once, in mabn_conv_cuda_new: cuDNN's own heuristics, or a matrix product where the
 * convolution is one, by shape, type and library version alone, and only engines whose results
 * repeat bit for bit. Where a library has none, the other is asked, then the plain kernels do it;
 * mabn_conv_cuda_describe says which. With `tune` the choice is by time instead: fast, and not the
 * same from run to run.
 *
 * Calls only queue work in `stream` and may be captured in a CUDA graph. */
#ifndef MABN_OPS_CONV_CUDA_H
#define MABN_OPS_CONV_CUDA_H

#include "ops/conv.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_conv_cuda_options {
    enum mabn_dtype dtype;   /* F32, F16 or BF16 */
    enum mabn_dtype y_dtype; /* the same, or F32: a classifier's logits */
    bool tf32;               /* F32: multiply with 10 bits of mantissa, on tensor cores */
    bool training;           /* forward, backward; else infer */
    bool no_dx;              /* training: backward_data is never called (first layer) */
    bool bias;               /* y += bias (O) */
    bool add, relu;          /* infer only: y = relu(y_before + conv(x) + bias) */
    bool plain;              /* plain kernels only */
    bool tune;               /* choose by time */
    /* F32, or `dtype`: then it need not be converted at each call. Where a library adds it, it does
     * so in `dtype` in any case. */
    enum mabn_dtype bias_dtype;
};

struct mabn_conv_cuda;

/* device: its libraries are used; NULL: plain kernels. */
MABN_MUST_USE mabn_status mabn_conv_cuda_new(struct mabn_conv_cuda **conv,
                                             struct mabn_device *device,
                                             const struct mabn_conv_shape *shape,
                                             const struct mabn_conv_cuda_options *options);
void mabn_conv_cuda_free(struct mabn_conv_cuda *conv); /* NULL is fine */
/* Device memory, 256-byte aligned, that each call below may use; 0: none, and NULL will do. Layers
 * in one stream may share it. */
size_t mabn_conv_cuda_workspace(const struct mabn_conv_cuda *conv);

enum mabn_conv_pass {
    MABN_CONV_FORWARD, /* or infer */
    MABN_CONV_BACKWARD_DATA,
    MABN_CONV_BACKWARD_WEIGHTS,
};
/* What was chosen for a pass: "cuDNN engine 38", "cuBLASLt", "plain"; "none" for one that the
 * options exclude. Owned by conv. */
const char *mabn_conv_cuda_describe(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass);

/* ---- inference ---- */

/* bias is NULL without options.bias. */
MABN_MUST_USE mabn_status mabn_conv_cuda_infer(struct mabn_conv_cuda *conv, void *y, const void *x,
                                               const void *weight, const void *bias,
                                               void *workspace, void *stream);

/* ---- training ---- */

/* bias likewise. */
MABN_MUST_USE mabn_status mabn_conv_cuda_forward(struct mabn_conv_cuda *conv, void *y,
                                                 const void *x, const void *weight,
                                                 const void *bias, void *workspace, void *stream);
/* add: dx += instead of dx =. */
MABN_MUST_USE mabn_status mabn_conv_cuda_backward_data(struct mabn_conv_cuda *conv, void *dx,
                                                       const void *dy, const void *weight, bool add,
                                                       void *workspace, void *stream);
/* Overwritten. dbias (O): NULL without options.bias. */
MABN_MUST_USE mabn_status mabn_conv_cuda_backward_weights(struct mabn_conv_cuda *conv,
                                                          float *dweight, float *dbias,
                                                          const void *x, const void *dy,
                                                          void *workspace, void *stream);

MABN_END_DECLS
#endif
