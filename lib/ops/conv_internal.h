/* What the files of the CPU's convolution share. Private to ops. */
#ifndef MABN_OPS_CONV_INTERNAL_H
#define MABN_OPS_CONV_INTERNAL_H

#include "device/dnnl.h"
#include "ops/conv.h"
#include "ops/implicit_gemm.h"
#include "ops/weight_blocks.h"
#include "ops/winograd.h"

MABN_BEGIN_DECLS

enum { SRC, WEIGHTS, DST, TENSORS };
enum { FORWARD, TO_DATA, TO_WEIGHTS };

/* The algorithm of a pass, chosen by shape, or with options.tune by timing. */
enum strategy {
    WINOGRAD, /* our F(4×4,3×3) */
    DIRECT,   /* oneDNN's, on NHWC */
    BLOCKED,  /* oneDNN's, on the layouts that it prefers; chosen only by timing */
    MATRIX,   /* a matrix product: 1×1, stride 1, backward */
    IMPLICIT, /* our implicit GEMM */
    STRATEGIES
};

/* One primitive with its conversions. The tensor it writes is `output`. */
struct pass {
    int output;
    struct mabn_dnnl_op run;
    struct mabn_dnnl_op convert[TENSORS]; /* to the primitive's layout; for the output, from it */
    bool in_blocks;                       /* the weights are converted by `blocks` instead */
    struct mabn_weight_blocks blocks;
    struct mabn_dnnl_op convert_add;    /* for the output, adding */
    struct mabn_dnnl_op convert_before; /* for what the output is added to: to the primitive's
                                           * layout */
    size_t bytes[TENSORS];              /* in the primitive's layout */
    size_t offset[TENSORS];             /* of the converted copy in scratch */
    struct mabn_dnnl_op run_add;        /* of a matrix product: adding to the output */
    size_t pad_offset;                  /* of the primitive's scratchpad */
    size_t scratch;                     /* in all */
};

struct mabn_conv {
    struct mabn_device *device;
    struct mabn_conv_shape shape;
    struct mabn_conv_options options;
    int64_t oh, ow;
    enum strategy strategy[3];
    struct pass pass[3];
    struct mabn_conv *full; /* the float32 convolution that computes bfloat16; NULL: oneDNN does */
    size_t scratch;
    size_t centralized; /* of it, at its end: weights less the filters' means */
    int holders;        /* in addition to the one who made it */
};

static inline size_t conv_round(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Can it be computed by F(4×4,3×3)? */
static inline bool conv_is_winograd(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return c->options.dtype == MABN_DTYPE_F32 && s->kernel == 3 && s->stride == 1 && s->pad == 1 &&
           s->in % 16 == 0 && s->out % 16 == 0;
}

/* Where oneDNN has bfloat16. */
static inline bool conv_has_avx512(const struct mabn_conv *c)
{
    return mabn_device_bf16(c->device) != MABN_BF16_CONVERTED;
}

static inline bool conv_is_product(const struct mabn_conv *c)
{
    return c->shape.kernel == 1 && c->shape.stride == 1 && c->shape.pad == 0;
}

/* Can it be computed by our implicit GEMM? */
static inline bool conv_is_implicit(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return c->options.dtype == MABN_DTYPE_F32 && s->in % 16 == 0 && s->out % 16 == 0 &&
           s->kernel <= MABN_IMPLICIT_GEMM_KERNEL;
}

/* conv_pass.c: a pass by oneDNN, as a convolution or as a product of matrices (bfloat16). */
mabn_status mabn_conv_pass_init(struct pass *p, struct mabn_conv *c, int which);
mabn_status mabn_conv_pass_product(struct pass *p, struct mabn_conv *c, int which);
void mabn_conv_pass_release(struct pass *p);
/* The weights as the pass reads them, less `means` unless those are NULL: only where it converts by `blocks`. */
mabn_status mabn_conv_pass_pack(struct pass *p, struct mabn_conv *c, void *packed,
                                const float *weight, const float *means, void *scratch);
/* The same for training: they may be in scratch, or the layer's own. */
mabn_status mabn_conv_pass_weights(void **used, struct pass *p, struct mabn_conv *c,
                                   const float *weight, const float *means, void *scratch);
/* `tensors` are in our layouts, except weights that the pass reads. */
mabn_status mabn_conv_pass_run(struct pass *p, struct mabn_conv *c, void *const tensors[TENSORS],
                               const float *bias, bool add, void *scratch);

/* conv_ours.c: a pass by our Winograd or our implicit GEMM. */
struct mabn_winograd mabn_conv_winograd_shape(const struct mabn_conv *c, bool to_data);
void mabn_conv_winograd_init(struct pass *p, const struct mabn_conv *c, int which);
void mabn_conv_winograd_infer(const struct mabn_conv *c, float *y, const float *x,
                              const float *packed, const struct mabn_winograd_end *end,
                              void *scratch);
/* Forward or to data. */
void mabn_conv_winograd_run(const struct mabn_conv *c, int which, float *to, const float *from,
                            const float *weight, const float *means,
                            const struct mabn_winograd_end *end, void *scratch);
void mabn_conv_winograd_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                                 const float *dy, void *scratch);
struct mabn_implicit_gemm mabn_conv_implicit_shape(const struct mabn_conv *c);
void mabn_conv_implicit_init(struct pass *p, const struct mabn_conv *c, int which);
void mabn_conv_implicit_infer(const struct mabn_conv *c, float *y, const float *x,
                              const float *packed, const struct mabn_implicit_gemm_end *end,
                              void *scratch);
void mabn_conv_implicit_forward(const struct mabn_conv *c, float *y, const float *x,
                                const float *weight, const float *means, const float *bias,
                                void *scratch);
void mabn_conv_implicit_data(const struct mabn_conv *c, float *dx, const float *dy,
                             const float *weight, const float *means, bool add, void *scratch);
void mabn_conv_implicit_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                                 const float *dy, void *scratch);

/* conv_strategy.c: the choice by shape; the primitive, or the scratch, of a pass with the strategy that is
 * set; and the passes, as those of conv.h. */
enum strategy mabn_conv_usual_strategy(const struct mabn_conv *c, int which);
mabn_status mabn_conv_make_strategy(struct pass *p, struct mabn_conv *c, int which);
mabn_status mabn_conv_strategy_pack(struct mabn_conv *c, void *packed, const float *weight,
                                    void *scratch);
mabn_status mabn_conv_strategy_infer(struct mabn_conv *c, void *y, const void *x,
                                     const void *packed, const float *bias, void *scratch);
mabn_status mabn_conv_strategy_forward(struct mabn_conv *c, void *y, const void *x,
                                       const float *weight, const float *means, const float *bias,
                                       void *scratch);
mabn_status mabn_conv_strategy_data(struct mabn_conv *c, void *dx, const void *dy,
                                    const float *weight, const float *means, bool add,
                                    void *scratch);
/* Can the pass be given means? */
bool mabn_conv_strategy_subtracts(const struct mabn_conv *c, int which);
mabn_status mabn_conv_strategy_weights(struct mabn_conv *c, float *dweight, const void *x,
                                       const void *dy, void *scratch);

/* conv_tune.c: the strategy that was chosen before; otherwise, on a device that may time, the fastest one
 * now. */
mabn_status mabn_conv_tune_pass(struct mabn_conv *c, int which);

MABN_END_DECLS
#endif
