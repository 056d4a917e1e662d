/* The order of scores that is used everywhere in this room: descending; equal scores by the lowest
 * index; NaN last. */
#ifndef MABN_DETECT_ORDER_H
#define MABN_DETECT_ORDER_H

#include <stdint.h>

#include "detect/scratch.h"

MABN_BEGIN_DECLS

/* order (min(k,n)): the indices of the k best of score (n), best first. Time grows with n + k. */
MABN_MUST_USE mabn_status mabn_order_best(int32_t *order, const float *score, int64_t n, int64_t k,
                                          struct mabn_scratch *scratch);
/* order (min(k,n)): the same indices, ascending. */
MABN_MUST_USE mabn_status mabn_order_chosen(int32_t *order, const float *score, int64_t n,
                                            int64_t k, struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
