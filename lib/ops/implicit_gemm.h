/* Convolution as matrix products of pixels that are gathered while they are packed ("implicit GEMM";
 * Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014), for processors without AVX-512: there
 * it is faster than oneDNN with stride 2, and for the gradients of 1×1 weights.
 *
 * x (n,h,w,in), y (n,oh,ow,out), weights (out,kernel,kernel,in), all float32; in and out multiples of 16,
 * kernel up to MABN_IMPLICIT_GEMM_KERNEL. The order of every sum follows from the shape, so that results do
 * not depend on the number of threads. */
#ifndef MABN_OPS_IMPLICIT_GEMM_H
#define MABN_OPS_IMPLICIT_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

enum { MABN_IMPLICIT_GEMM_KERNEL = 7 };

struct mabn_implicit_gemm {
    int64_t n, h, w, in, out, oh, ow;
    int kernel, stride, pad;
    int threads; /* at most */
};

/* Bytes of the weights as they are multiplied. */
size_t mabn_implicit_gemm_weights_bytes(const struct mabn_implicit_gemm *shape);
/* `used`: of that size; `means` (out) are subtracted from the filters, unless NULL; to_data: for
 * mabn_implicit_gemm_data. */
void mabn_implicit_gemm_weights(float *used, const float *weight, const float *means,
                                const struct mabn_implicit_gemm *shape, bool to_data);

struct mabn_implicit_gemm_end {
    const float *bias; /* (out) or NULL */
    bool add, relu;    /* y = relu(y_before + …) */
};

size_t mabn_implicit_gemm_scratch_bytes(const struct mabn_implicit_gemm *shape);
void mabn_implicit_gemm_run(float *y, const float *x, const float *used,
                            const struct mabn_implicit_gemm *shape,
                            const struct mabn_implicit_gemm_end *end, void *scratch);
/* add: to dx as it is. */
void mabn_implicit_gemm_data(float *dx, const float *dy, const float *used,
                             const struct mabn_implicit_gemm *shape, bool add, void *scratch);

size_t mabn_implicit_gemm_gradient_scratch_bytes(const struct mabn_implicit_gemm *shape);
/* dweight is overwritten. */
void mabn_implicit_gemm_gradient(float *dweight, const float *x, const float *dy,
                                 const struct mabn_implicit_gemm *shape, void *scratch);

MABN_END_DECLS
#endif
