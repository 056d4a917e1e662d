/* Nearest upsampling with addition, as a feature pyramid merges its levels. (N,H,W,C), float32 or
 * bfloat16, summed in float32.
 *
 * Row i of H takes row floor(i·h/H) of h, likewise columns. When H = 2h every value is used twice in
 * each direction; for other sizes of a pyramid the choice is PyTorch's. Results do not depend on the
 * number of threads. */
#ifndef MABN_OPS_UPSAMPLE_H
#define MABN_OPS_UPSAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_upsample {
    int64_t n, c;
    int64_t h, w;         /* of the small map */
    int64_t out_h, out_w; /* of the large map: h ≤ out_h, w ≤ out_w */
};

/* y (N,OH,OW,C) = a + up(b): a (N,OH,OW,C), b (N,h,w,C). y may be a. */
void mabn_upsample_add(void *y, const void *a, const void *b, const struct mabn_upsample *op,
                       enum mabn_dtype dtype);
/* db (N,h,w,C) = for each value the sum of dy (N,OH,OW,C) over the places it was copied to; add: db +=.
 * The gradient of a is dy itself. */
void mabn_upsample_backward(void *db, const void *dy, const struct mabn_upsample *op, bool add,
                            enum mabn_dtype dtype);

MABN_END_DECLS
#endif
