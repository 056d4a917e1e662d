/* The small operations on an NVIDIA GPU: counterparts of pool.h, loss.h, sgd.h, centralize.h and of
 * the loader's last step. What each computes is said there; here is what differs.
 *
 * Every pointer is device memory. `dtype` is the type of activations, F32 or BF16; sums are float32
 * or double. Calls only launch kernels in `stream` (cudaStream_t) and may be captured in a CUDA
 * graph. Results repeat bit for bit. */
#ifndef MABN_OPS_OPS_CUDA_H
#define MABN_OPS_OPS_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ops/pool.h"
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

/* What a step's host reads a step later. */
struct mabn_cuda_xent_total {
    double loss; /* sum over labelled samples; NaN when a label is not below `classes` */
    int64_t labelled, top1, top5;
};

struct mabn_cuda_xent {
    double *loss;                       /* (N) */
    int32_t *rank;                      /* (N) */
    void *dlogits;                      /* (N,K) of `dtype`, or NULL */
    struct mabn_cuda_xent_total *total; /* (1) */
};
/* logits (N,K) float32. A label that is not below K cannot be refused here: its loss and gradient
 * are NaN. */
MABN_MUST_USE mabn_status mabn_cuda_softmax_xent(const struct mabn_cuda_xent *out,
                                                 const float *logits, const int32_t *labels,
                                                 int64_t n, int64_t classes, double smoothing,
                                                 double scale, enum mabn_dtype dtype, void *stream);

/* ---- weights ---- */

/* work (O,K) of `dtype` = weight, minus its row mean if `centralize`: the float32 master weights as
 * convolutions take them. work may be weight. */
MABN_MUST_USE mabn_status mabn_cuda_cast_weight(void *work, const float *weight, int64_t outputs,
                                                int64_t filter, bool centralize,
                                                enum mabn_dtype dtype, void *stream);
/* dweight (O,K) = dout − row mean; may be dout. */
MABN_MUST_USE mabn_status mabn_cuda_centralize_backward(float *dweight, const float *dout,
                                                        int64_t outputs, int64_t filter,
                                                        void *stream);

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

/* A list of parameters cut into pieces of work, one a block: made once, on the host. */
struct mabn_cuda_sgd_piece {
    int32_t param;
    int32_t count; /* values: one filter, or part of a parameter without filters */
    int64_t begin;
};
/* How many pieces; with `pieces` not NULL also writes them. */
int64_t mabn_cuda_sgd_cut(struct mabn_cuda_sgd_piece *pieces,
                          const struct mabn_cuda_sgd_param *params, int count);

/* What changes from step to step, in device memory so that a captured step sees it. */
struct mabn_cuda_sgd_rates {
    float lr, momentum, grad_scale;
};
/* params, pieces, rates: device copies. */
MABN_MUST_USE mabn_status mabn_cuda_sgd_step(const struct mabn_cuda_sgd_param *params,
                                             const struct mabn_cuda_sgd_piece *pieces,
                                             int64_t piece_count,
                                             const struct mabn_cuda_sgd_rates *rates, bool nesterov,
                                             bool reference, void *stream);

/* ---- input ---- */

struct mabn_cuda_pixels {
    float scale[3], shift[3]; /* y = scale·value + shift, in the pictures' channel order */
};
/* pictures (pixels,3) bytes → y (pixels,channels) of `dtype`, channels ≥ 3 padded with 0. */
MABN_MUST_USE mabn_status mabn_cuda_normalize_pixels(void *y, const uint8_t *pictures,
                                                     int64_t pixels, int channels,
                                                     const struct mabn_cuda_pixels *how,
                                                     enum mabn_dtype dtype, void *stream);

MABN_END_DECLS
#endif
