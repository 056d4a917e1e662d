/* Convolution 3×3 of stride 1 and padding 1 by Winograd's F(4×4,3×3): 36 multiplications in place of 144
 * (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016).
 *
 * x (n,h,w,in), y (n,h,w,out), weights (out,3,3,in), all float32; in and out multiples of 16. The
 * order of every sum follows from the shape, so that results do not depend on the number of threads. */
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
    /* Only the outputs [first, first + part), multiples of 16; part 0: all. One part after the other gives
     * the same bits in less scratch. */
    int64_t first, part;
};

/* Bytes of the part's weights as they are multiplied. */
size_t mabn_winograd_weights_bytes(const struct mabn_winograd *shape);
/* `used`: of that size. `means` (out) are subtracted from the filters, unless NULL. `shape` is the layer's.
 * to_data: the weights of the pass from dy to dx, which mabn_winograd_run computes as a shape with in and out
 * exchanged; first and part then count the layer's inputs. */
void mabn_winograd_weights(float *used, const float *weight, const float *means,
                           const struct mabn_winograd *shape, bool to_data);

struct mabn_winograd_end {
    const float *bias; /* (out) or NULL */
    bool add, relu;    /* y = relu(y_before + …) */
};

size_t mabn_winograd_scratch_bytes(const struct mabn_winograd *shape);
/* Writes the part's channels of y. */
void mabn_winograd_run(float *y, const float *x, const float *used,
                       const struct mabn_winograd *shape, const struct mabn_winograd_end *end,
                       void *scratch);

size_t mabn_winograd_gradient_scratch_bytes(const struct mabn_winograd *shape);
/* dweight (out,3,3,in): the part's filters are overwritten. */
void mabn_winograd_gradient(float *dweight, const float *x, const float *dy,
                            const struct mabn_winograd *shape, void *scratch);

MABN_END_DECLS
#endif
