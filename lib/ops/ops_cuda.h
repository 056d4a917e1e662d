/* The small operations on an NVIDIA GPU: counterparts of pool.h, loss.h, sgd.h, centralize.h and
 * elementwise.h, of a detector's operations (roi_align.h, upsample.h, transposed_conv.h, sigmoid.h,
 * sigmoid_loss.h, smooth_l1.h) and of the loader's last step. Those headers describe what is computed;
 * this one says what differs.
 *
 * Every pointer is device memory. `dtype` is the type of activations, F32, BF16 or F16; sums are
 * float32 or double. Calls only launch kernels in `stream` (cudaStream_t) and may be captured in a
 * CUDA graph. Results repeat bit for bit, except those of functions called atomic. */
#ifndef MABN_OPS_OPS_CUDA_H
#define MABN_OPS_OPS_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ops/pool.h"
#include "ops/roi_align.h"
#include "ops/smooth_l1.h"
#include "ops/transposed_conv.h"
#include "ops/upsample.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* ---- pooling ---- */

MABN_MUST_USE mabn_status mabn_cuda_maxpool_forward(void *y, uint8_t *winner, const void *x,
                                                    const struct mabn_pool_shape *shape,
                                                    enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_maxpool_backward(void *dx, const void *dy,
                                                     const uint8_t *winner,
                                                     const struct mabn_pool_shape *shape,
                                                     enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_avgpool_forward(void *y, const void *x, int64_t n, int64_t hw,
                                                    int64_t c, enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_avgpool_backward(void *dx, const void *dy, int64_t n,
                                                     int64_t hw, int64_t c, enum mabn_dtype dtype,
                                                     void *stream);

/* ---- loss ---- */

/* The figures of a step, which the host reads one step later. */
struct mabn_cuda_xent_total {
    double loss; /* sum over labelled samples; NaN when a label is not below `classes` */
    int64_t labelled, top1, top5;
};

struct mabn_cuda_xent {
    double *loss;                       /* (N) */
    int32_t *rank;                      /* (N) */
    void *dlogits;                      /* (N,K) of `dtype`, or NULL */
    struct mabn_cuda_xent_total *total; /* (1) or NULL */
};
/* *share (1), the factor of a loss's gradient: 1 / *normalizer, times *loss_scale (the scaler's) if that
 * is not NULL; 0 when the normalizer is 0. It lies in device memory so that a captured step works with
 * any labels. */
MABN_MUST_USE mabn_status mabn_cuda_loss_share(float *share, const float *normalizer,
                                               const float *loss_scale, void *stream);
/* logits (N,K) float32; dlogits = *scale · the gradient of the summed loss. A label that is not
 * below K cannot be refused here: its loss and gradient are NaN. */
MABN_MUST_USE mabn_status mabn_cuda_softmax_xent(const struct mabn_cuda_xent *out,
                                                 const float *logits, const int32_t *labels,
                                                 int64_t n, int64_t classes, double smoothing,
                                                 const float *scale, enum mabn_dtype dtype,
                                                 void *stream);

/* ---- loss scaling, for float16 ----
 *
 * float16 gradients below 6e-8 vanish, so the loss's gradient is multiplied with a scale as large
 * as possible: it is doubled after 2000 steps without overflow, and halved after a step whose
 * gradients are not all finite. Such a step is skipped. (This is the rule of PyTorch's GradScaler.)
 * Everything happens on the device:
 *
 *     mabn_cuda_loss_share(share, normalizer, &scaler->scale)
 *     forward, loss, backward; norms take `scaler` too
 *     mabn_cuda_gradients_finite(&scaler->overflow, gradients, count)
 *     mabn_cuda_sgd_step(…, scaler)
 *     mabn_cuda_scaler_update(scaler) */
struct mabn_cuda_scaler {
    float scale;          /* a power of two */
    float inverse;        /* 1/scale */
    int32_t good;         /* steps since the scale last changed */
    int32_t overflow;     /* this step's gradients are not all finite; 0 between steps */
    int32_t skipped_last; /* was the last step skipped? */
    int32_t padding;
    int64_t skipped; /* skipped steps, in all */
};

/* Scale 65536, nothing skipped. */
MABN_MUST_USE mabn_status mabn_cuda_scaler_init(struct mabn_cuda_scaler *scaler, void *stream);
/* *overflow = 1 if one of the gradients is infinite or NaN; otherwise unchanged. */
MABN_MUST_USE mabn_status mabn_cuda_gradients_finite(int32_t *overflow, const float *gradients,
                                                     int64_t count, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_scaler_update(struct mabn_cuda_scaler *scaler, void *stream);

/* ---- weights ---- */

/* work (O,K) of `dtype` = weight, minus its row mean if `centralize`: the float32 master weights as
 * convolutions take them. work may be weight. */
MABN_MUST_USE mabn_status mabn_cuda_cast_weight(void *work, const float *weight, int64_t outputs,
                                                int64_t filter, bool centralize,
                                                enum mabn_dtype dtype, void *stream);

/* A convolution's weight for pictures whose channels are padded: work (O,taps,padded) of `dtype` =
 * weight (O,taps,channels), minus its row mean if `centralize`; 0 in the padding. */
MABN_MUST_USE mabn_status mabn_cuda_pad_weight(void *work, const float *weight, int64_t outputs,
                                               int64_t taps, int channels, int padded,
                                               bool centralize, enum mabn_dtype dtype,
                                               void *stream);
/* dweight (O,taps,channels) = dwork (O,taps,padded) without the padding. */
MABN_MUST_USE mabn_status mabn_cuda_unpad_gradient(float *dweight, const float *dwork,
                                                   int64_t outputs, int64_t taps, int channels,
                                                   int padded, void *stream);

/* One parameter of a step; as struct mabn_sgd_param, and `work` (count), the copy that the network
 * computes with, written in the same pass: of type work_dtype, centralized when filters > 0. */
struct mabn_cuda_sgd_param {
    float *param, *buffer;
    const float *grad;
    void *work; /* or NULL */
    enum mabn_dtype work_dtype;
    int64_t count, filters;
    float lr_factor, decay;
};

/* A list of parameters cut into pieces, one for each block: made once, on the host. */
struct mabn_cuda_sgd_piece {
    int32_t param;
    int32_t count; /* values: one filter, or part of a parameter without filters */
    int64_t begin;
};
/* Returns the number of pieces; if `pieces` is not NULL also writes them. */
int64_t mabn_cuda_sgd_cut(struct mabn_cuda_sgd_piece *pieces,
                          const struct mabn_cuda_sgd_param *params, int count);

/* The values that change from step to step, in device memory so that a captured step reads them. */
struct mabn_cuda_sgd_rates {
    float lr, momentum, grad_scale;
};
/* *to (on the device) = rates. */
MABN_MUST_USE mabn_status mabn_cuda_sgd_set_rates(struct mabn_cuda_sgd_rates *to,
                                                  const struct mabn_cuda_sgd_rates *rates,
                                                  void *stream);
/* params, pieces, rates: device copies. With a scaler gradients are also multiplied with its
 * inverse, and after an overflow nothing is updated; NULL: neither. */
MABN_MUST_USE mabn_status mabn_cuda_sgd_step(const struct mabn_cuda_sgd_param *params,
                                             const struct mabn_cuda_sgd_piece *pieces,
                                             int64_t piece_count,
                                             const struct mabn_cuda_sgd_rates *rates,
                                             const struct mabn_cuda_scaler *scaler, bool nesterov,
                                             bool reference, void *stream);

/* ---- elementwise ---- */

/* y = act(x [+ bias] [+ residual]), (rows,channels), bias (channels) float32; either may be NULL.
 * y may be x or residual. */
MABN_MUST_USE mabn_status mabn_cuda_add_bias(void *y, const void *x, const void *residual,
                                             const float *bias, int64_t rows, int64_t channels,
                                             bool relu, enum mabn_dtype dtype, void *stream);
/* dst += src */
MABN_MUST_USE mabn_status mabn_cuda_add(void *dst, const void *src, int64_t count,
                                        enum mabn_dtype dtype, void *stream);
/* dst = src; at least one of the two is float32. */
MABN_MUST_USE mabn_status mabn_cuda_cast(void *dst, enum mabn_dtype dst_dtype, const void *src,
                                         enum mabn_dtype src_dtype, int64_t count, void *stream);
/* sums (columns) = Σ over rows of x (rows,columns): a bias's gradient. */
MABN_MUST_USE mabn_status mabn_cuda_column_sums(float *sums, const void *x, int64_t rows,
                                                int64_t columns, enum mabn_dtype dtype,
                                                void *stream);
/* Zeros in the rows behind the first *live (on the device) of `rows`; row_bytes is even. */
MABN_MUST_USE mabn_status mabn_cuda_clear_behind(void *x, const int32_t *live, int64_t rows,
                                                 int64_t row_bytes, void *stream);

/* ---- a detector's boxes ---- */

/* As struct mabn_rois, with capacity for `capacity` boxes, of which the first *count are used. The
 * count is read on the device, so that a captured step works with any number. count NULL: all. */
struct mabn_cuda_rois {
    int64_t capacity;
    const int32_t *count; /* (1) */
    const float *box;     /* (capacity,4) */
    const int32_t *image; /* (capacity) */
    const int32_t *level; /* (capacity), NULL: all 0 */
};
/* roi_align.h; at most 32×32 bins. y (capacity,rows,columns,C) is 0 past the count. Boxes cannot be
 * refused here: one that is not finite or out of range gives NaN and gets no gradient. x and dx:
 * arrays of the host, of device pointers. */
MABN_MUST_USE mabn_status mabn_cuda_roi_align_forward(void *y, const void *const *x,
                                                      const struct mabn_cuda_rois *rois,
                                                      const struct mabn_roi_align *op,
                                                      enum mabn_dtype dtype, void *stream);
/* dx[level] is overwritten, or with `add` added to. */
MABN_MUST_USE mabn_status mabn_cuda_roi_align_backward(void *const *dx, const void *dy,
                                                       const struct mabn_cuda_rois *rois,
                                                       const struct mabn_roi_align *op, bool add,
                                                       enum mabn_dtype dtype, void *stream);
/* An alternative in float32, which only adds: atomically, so that the last bits differ from run to
 * run. Networks take it with MABN_ROI_ATOMIC=1 in the environment. */
MABN_MUST_USE mabn_status mabn_cuda_roi_align_backward_atomic(float *const *dx, const float *dy,
                                                              const struct mabn_cuda_rois *rois,
                                                              const struct mabn_roi_align *op,
                                                              void *stream);
bool mabn_cuda_roi_align_adds_atomically(void);

/* upsample.h. y may be a. */
MABN_MUST_USE mabn_status mabn_cuda_upsample_add(void *y, const void *a, const void *b,
                                                 const struct mabn_upsample *op,
                                                 enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_upsample_backward(void *db, const void *dy,
                                                      const struct mabn_upsample *op, bool add,
                                                      enum mabn_dtype dtype, void *stream);

/* The halves of a transposed convolution (transposed_conv.h) around its matrix product: g
 * (N·H·W,4·O) holds the outputs of each input position side by side. The product itself is done by
 * a 1×1 convolution in the opposite direction, from 4·O channels to I, with the weight (I,2,2,O) as
 * it is in memory: its backward_data computes g from x, its forward computes dx from the gradient
 * of g, and its backward_weights the gradient of the weight. */
/* y (N,2H,2W,O) = g put in its places + bias (O) or NULL, then ReLU if `relu`. */
MABN_MUST_USE mabn_status mabn_cuda_interleave(void *y, const void *g, const float *bias,
                                               const struct mabn_transposed_conv *op, bool relu,
                                               enum mabn_dtype dtype, void *stream);
/* dg (N·H·W,4·O) = dy, rearranged. */
MABN_MUST_USE mabn_status mabn_cuda_deinterleave(void *dg, const void *dy,
                                                 const struct mabn_transposed_conv *op,
                                                 enum mabn_dtype dtype, void *stream);

/* sigmoid.h, by expf: a few roundings from the CPU's result; exactly 1 and 0 at the ends. */
MABN_MUST_USE mabn_status mabn_cuda_sigmoid(void *y, const void *x, int64_t count,
                                            enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_sigmoid_backward(void *dx, const void *dy, const void *y,
                                                     int64_t count, enum mabn_dtype dtype,
                                                     void *stream);

/* ---- a detector's losses ----
 *
 * As sigmoid_loss.h and smooth_l1.h, but *loss (1) is the weighted sum itself: only the gradient is
 * multiplied with *scale, which may include the loss scaler's factor. parts (MABN_CHUNKS) is
 * scratch. The gradient may be NULL, and then scale too. Rows that are not used have label −1,
 * weight 0 or group −1. Masks are bits: soft ones are for the CPU alone. */
struct mabn_cuda_loss {
    double *loss, *parts;
    void *gradient; /* of `dtype`; the input is float32 */
    const float *scale;
};
MABN_MUST_USE mabn_status mabn_cuda_sigmoid_xent(const struct mabn_cuda_loss *out,
                                                 const float *logits, const float *target,
                                                 const float *weight, int64_t count,
                                                 enum mabn_dtype dtype, void *stream);
MABN_MUST_USE mabn_status mabn_cuda_mask_loss(const struct mabn_cuda_loss *out, const float *logits,
                                              const int32_t *labels, const uint8_t *target,
                                              int64_t boxes, int64_t pixels, int64_t classes,
                                              enum mabn_dtype dtype, void *stream);
/* op->scale is ignored. */
MABN_MUST_USE mabn_status mabn_cuda_smooth_l1(const struct mabn_cuda_loss *out, const float *x,
                                              const float *target, const int32_t *group,
                                              const float *weight, const struct mabn_smooth_l1 *op,
                                              enum mabn_dtype dtype, void *stream);

/* ---- input ---- */

/* pictures (pixels,channels) bytes → y (pixels,padded) of `dtype`: table (channels,256) float32,
 * and 0 in the padding. What the loader's own normalization gives, rounded to dtype. */
MABN_MUST_USE mabn_status mabn_cuda_look_up_pixels(void *y, const uint8_t *pictures, int64_t pixels,
                                                   int channels, int padded, const float *table,
                                                   enum mabn_dtype dtype, void *stream);
/* pictures (pixels,channels) float32 → y (pixels,padded) of `dtype`, and 0 in the padding. */
MABN_MUST_USE mabn_status mabn_cuda_round_pixels(void *y, const float *pictures, int64_t pixels,
                                                 int channels, int padded, enum mabn_dtype dtype,
                                                 void *stream);
/* Raw pictures (image/raw.h) → y (images,height,width,padded) of `dtype`: each at the upper left, 0
 * elsewhere and in the padding. The block of picture i begins at base + places[i]; places (images) lies on
 * the device too. No picture may be larger than height × width. The values are those of mabn_raw_draw, bit
 * for bit in float32, else rounded. */
MABN_MUST_USE mabn_status mabn_cuda_draw_raw(void *y, const void *base, const uint64_t *places,
                                             int images, int height, int width, int padded,
                                             enum mabn_dtype dtype, void *stream);

MABN_END_DECLS
#endif
