/* Convolution 3×3 of stride 1 and padding 1 by Winograd's F(4×4,3×3), for processors on which oneDNN
 * has none (it has with AVX-512): 36 multiplications in place of 144 (Lavin and Gray, Fast Algorithms
 * for Convolutional Neural Networks, CVPR 2016).
 *
 * x (n,h,w,in), y (n,h,w,out), weights (out,3,3,in), all float32; in and out multiples of 16. The
 * order of every sum follows from the shape: bits do not depend on threads. */
#ifndef MABN_OPS_WINOGRAD_H
#define MABN_OPS_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_winograd {
    int64_t n, h, w, in, out;
    int threads; /* at most */
    /* Only these outputs: `part` of them from `first` on, multiples of 16; part 0: all. One part after the
     * other gives the same bits in less scratch. */
    int64_t first, part;
};

/* Weights as they are multiplied, of the part. */
size_t mabn_winograd_weights_bytes(const struct mabn_winograd *shape);
/* to_data: those of the pass from dy to dx, which runs as a shape with in and out exchanged; `shape`
 * is the layer's either way, its part is one of the pass's outputs. */
void mabn_winograd_weights(float *used, const float *weight, const struct mabn_winograd *shape,
                           bool to_data);

struct mabn_winograd_end {
    const float *bias; /* (out) or NULL */
    bool add, relu;    /* y = relu(y_before + …) */
};

size_t mabn_winograd_scratch_bytes(const struct mabn_winograd *shape);
void mabn_winograd_run(float *y, const float *x, const float *used,
                       const struct mabn_winograd *shape, const struct mabn_winograd_end *end,
                       void *scratch);

size_t mabn_winograd_gradient_scratch_bytes(const struct mabn_winograd *shape);
void mabn_winograd_gradient(float *dweight, const float *x, const float *dy,
                            const struct mabn_winograd *shape, void *scratch);

MABN_END_DECLS
#endif
