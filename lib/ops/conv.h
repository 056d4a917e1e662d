/* Two-dimensional convolution: forward, backward to the input, backward to the weights.
 *
 * x (N,H,W,I), y (N,OH,OW,O), weights (O,KH,KW,I), square kernels, no groups and no dilation.
 * Parameters and their gradients are float32; x, y and their gradients are float32 or bfloat16. With
 * dtype BF16 values are rounded to bfloat16, multiplied, and summed in float32. Where oneDNN has no
 * bfloat16 (mabn_device_bf16) a float32 convolution does this, with scratch for the converted arrays.
 * Outputs are overwritten unless an argument says "add". A struct mabn_conv holds the prepared primitives
 * of one layer for one shape; buffers are given at each call. Layers may share their scratch, which is at
 * least as large as the largest mabn_conv_scratch_bytes among them.
 *
 * The algorithm is chosen by shape alone, so that two runs agree bit for bit. With `tune` it is
 * chosen by timing, once: the choice is kept, and runs with the same choices agree. See conv_strategy.c
 * for the choices and the measurements behind them. */
#ifndef MABN_OPS_CONV_H
#define MABN_OPS_CONV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_conv_shape {
    int64_t n, h, w; /* of x */
    int64_t in, out; /* channels */
    int kernel, stride, pad;
};

/* floor((size + 2·pad − kernel)/stride) + 1; 0 when the kernel does not fit. */
int64_t mabn_conv_out(int64_t size, int kernel, int stride, int pad);

struct mabn_conv_options {
    enum mabn_dtype dtype;            /* the type that is multiplied: F32 or BF16 */
    enum mabn_dtype x_dtype, y_dtype; /* also of their gradients; BF16 only with dtype BF16 */
    bool training;                    /* forward, backward; else infer */
    bool no_dx;                       /* training: backward_data is never called (first layer) */
    bool centralize;                  /* training: passes may be given the filters' means */
    bool bias;                        /* y += bias (O) */
    bool add, relu;                   /* infer only: y = relu(y_before + conv(x) + bias) */
    bool exact;                       /* no Winograd: direct sums, for comparisons */
    bool tune;                        /* choose by the device's table of timings (device/tune.h),
                                       * if it has one */
};

struct mabn_conv;

/* A CPU device, which outlives it. MABN_ERR_ARG: the kernel does not fit; MABN_ERR_LIMIT: too large. */
MABN_MUST_USE mabn_status mabn_conv_new(struct mabn_conv **conv, struct mabn_device *device,
                                        const struct mabn_conv_shape *shape,
                                        const struct mabn_conv_options *options);
/* One more holder, who calls mabn_conv_free as well; the last call frees. Returns conv. */
struct mabn_conv *mabn_conv_hold(struct mabn_conv *conv);
void mabn_conv_free(struct mabn_conv *conv);                  /* NULL is fine */
size_t mabn_conv_scratch_bytes(const struct mabn_conv *conv); /* a multiple of 64 */

/* ---- inference: weights are packed once ---- */

size_t mabn_conv_packed_bytes(const struct mabn_conv *conv);
/* Can one use weights that the other packed? For layers that differ in n, h, w and types alone. */
bool mabn_conv_packs_alike(const struct mabn_conv *a, const struct mabn_conv *b);
MABN_MUST_USE mabn_status mabn_conv_pack(struct mabn_conv *conv, void *packed, const float *weight,
                                         void *scratch);
/* bias is NULL without options.bias. */
MABN_MUST_USE mabn_status mabn_conv_infer(struct mabn_conv *conv, void *y, const void *x,
                                          const void *packed, const float *bias, void *scratch);

/* ---- training ---- */

/* means (O), from mabn_filter_means: the convolution is with weight − means; NULL: with weight. Only with
 * options.centralize. */
MABN_MUST_USE mabn_status mabn_conv_forward(struct mabn_conv *conv, void *y, const void *x,
                                            const float *weight, const float *means,
                                            const float *bias, void *scratch);
/* add: dx += instead of dx =. */
MABN_MUST_USE mabn_status mabn_conv_backward_data(struct mabn_conv *conv, void *dx, const void *dy,
                                                  const float *weight, const float *means, bool add,
                                                  void *scratch);
/* dbias (O): NULL without options.bias. */
MABN_MUST_USE mabn_status mabn_conv_backward_weights(struct mabn_conv *conv, float *dweight,
                                                     float *dbias, const void *x, const void *dy,
                                                     void *scratch);

MABN_END_DECLS
#endif
