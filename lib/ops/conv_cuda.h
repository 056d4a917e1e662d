/* Convolution on an NVIDIA GPU, and with it the fully connected layer (a 1×1 convolution of a 1×1
 * picture): conv.h's passes, on device memory.
 *
 * x and dx (N,H,W,I), weight (O,KH,KW,I) and dy (N,OH,OW,O) are of type `dtype`, y (N,OH,OW,O) of
 * `y_dtype`, bias (O) of `bias_dtype`; dweight and dbias are float32. All are 16-byte aligned device
 * memory. Sums are at least float32.
 * Where a library works only in `dtype` (a filter's gradient, adding a bias), the result is rounded
 * to it once.
 *
 * It uses cuDNN, cuBLASLt, or our reference kernels: direct sums in double, one thread for each
 * result, the same on every device. Tests compare the libraries with these. The plan of each pass
 * is made once, in mabn_conv_cuda_new, by shape, type and library version alone: cuDNN's
 * heuristics, or a matrix product where the convolution is one, and only engines whose results
 * repeat bit for bit. Where one library has none the other is tried, then the reference kernels;
 * mabn_conv_cuda_describe says which was chosen. With `tune` the choice is by timing, which is
 * faster but may differ from run to run.
 *
 * Calls only queue work in `stream` and may be captured in a CUDA graph. */
#ifndef MABN_OPS_CONV_CUDA_H
#define MABN_OPS_CONV_CUDA_H

#include "ops/conv.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* ---- joining a normalization ----
 *
 * The convolutions before and after a normalization hold in registers what the norm would have to
 * read again. The one before it computes Σ y and Σ y² while it writes y; where the map y → a·y + b
 * is known before the batch is measured (MABN, `known` in norm_cuda.h), it applies that map as
 * well. The one after it applies ReLU's backward to its data gradient and computes the sums for the
 * norm's gradient. Each saves passes over memory.
 *
 * The price: cuDNN compiles a kernel for each, which takes a second or more, and these kernels sum
 * with atomics in float32. Their sums repeat only up to rounding, and have an error of about 1e-6
 * times the sum of magnitudes. Those of the reference kernels are in double and repeat.
 *
 * Kernels add to the given sums, so all of them must be 0 before a call. */

/* Training: mabn_conv_cuda_forward_norm or mabn_conv_cuda_forward_sums will be called too. */
struct mabn_conv_cuda_after {
    bool requested;
    bool residual, relu; /* z = relu(a·y + b + residual) */
    bool sums;           /* …forward_sums, with or without `requested` */
};

/* Which values of the gradient pass ReLU. */
enum mabn_conv_mask {
    MABN_CONV_MASK_NONE,
    MABN_CONV_MASK_X, /* where a·x + b > 0 */
    MABN_CONV_MASK_Y, /* where y > 0: there was a residual */
};

/* Training: mabn_conv_cuda_backward_norm will be called too. */
struct mabn_conv_cuda_before {
    bool requested;
    bool add; /* add to the gradient in dx, before the mask */
    enum mabn_conv_mask mask;
    bool sum; /* compute Σ dx as well */
};

struct mabn_conv_cuda_options {
    enum mabn_dtype dtype;   /* F32, F16 or BF16 */
    enum mabn_dtype y_dtype; /* the same, or F32: a classifier's logits */
    bool tf32;               /* F32: multiply with 10 bits of mantissa, on tensor cores */
    bool training;           /* forward, backward; else infer */
    bool no_dx;              /* training: backward_data is never called (first layer) */
    bool no_add;             /* training: backward_data is never called with `add`, which saves
                              * compiling a kernel */
    bool bias;               /* y += bias (O) */
    bool add, relu;          /* infer only: y = relu(y_before + conv(x) + bias) */
    bool reference;          /* reference kernels only */
    bool tune;               /* choose by time */
    /* F32, or `dtype`, which saves a conversion at each call. A library adds the bias in `dtype` in
     * any case. */
    enum mabn_dtype bias_dtype;
    struct mabn_conv_cuda_after after;   /* without bias, y of `dtype` */
    struct mabn_conv_cuda_before before; /* without no_dx */
};

struct mabn_conv_cuda;

/* device: its libraries are used; NULL: the reference kernels. */
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
    MABN_CONV_FORWARD_NORM,
    MABN_CONV_BACKWARD_NORM,
    MABN_CONV_FORWARD_SUMS,
};
/* What was chosen for a pass: "cuDNN engine 38", "cuBLASLt", "reference" (our own kernels); with
 * " and a pass" where a kernel of ours adds the bias or converts afterwards; "none" for a pass that the
 * options exclude or that is not fused. Owned by conv. */
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

/* ---- training, with the normalization ---- */

/* Can forward_norm, forward_sums or backward_norm be called? It must be requested, and either a
 * library has it, or forward (backward_data) uses the reference kernels too. False is no error: the
 * normalization then runs by itself. */
bool mabn_conv_cuda_joins(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass);

/* The normalization of the result; z and residual of `dtype`, the rest float32, all 16-byte
 * aligned. */
struct mabn_conv_cuda_norm_out {
    void *z;              /* (N,OH,OW,O) */
    const void *residual; /* (N,OH,OW,O), other memory than z; NULL without after.residual */
    const float *a, *b;   /* (O) */
    float *square;        /* (O) */
};
/* y = conv(x), as forward computes it; z = relu(a·y + b + residual), with the parts enabled in
 * options.after; square = Σ y² over N, OH, OW. z and square may be computed from y before it is
 * rounded. */
MABN_MUST_USE mabn_status mabn_conv_cuda_forward_norm(struct mabn_conv_cuda *conv, void *y,
                                                      const void *x, const void *weight,
                                                      const struct mabn_conv_cuda_norm_out *norm,
                                                      void *workspace, void *stream);

/* y = conv(x), as forward computes it; sum = Σ y and square = Σ y², likewise, each (O). A variance
 * computed from them has a relative error of about 1e-6·(1 + mean²/variance). */
MABN_MUST_USE mabn_status mabn_conv_cuda_forward_sums(struct mabn_conv_cuda *conv, void *y,
                                                      const void *x, const void *weight, float *sum,
                                                      float *square, void *workspace, void *stream);

/* The normalization (and ReLU) whose output is this convolution's input; likewise. All memory
 * differs from dx. */
struct mabn_conv_cuda_norm_in {
    const void *x; /* (N,H,W,I): the norm's input */
    const void *y; /* (N,H,W,I): the norm's output, this convolution's x; for MASK_Y, else unused */
    const float *a, *b; /* (I): its map; for MASK_X, else unused */
    float *dot;         /* (I) */
    float *sum;         /* (I); with before.sum, else unused */
};
/* dx = mask(data gradient [+ the previous dx, with before.add]); dot = Σ dx·x and sum = Σ dx over
 * N, H, W, perhaps computed from dx before it is rounded. So dx is the gradient of a·x + b [+
 * residual], the input of ReLU. */
MABN_MUST_USE mabn_status mabn_conv_cuda_backward_norm(struct mabn_conv_cuda *conv, void *dx,
                                                       const void *dy, const void *weight,
                                                       const struct mabn_conv_cuda_norm_in *norm,
                                                       void *workspace, void *stream);

MABN_END_DECLS
#endif
