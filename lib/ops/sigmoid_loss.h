/* Cross-entropy of a sigmoid (PyTorch: binary_cross_entropy_with_logits), value and gradient at
 * once.
 *
 *     loss(l, t) = max(l, 0) − l·t + log(1 + e^−|l|),   dloss/dl = sigmoid(l) − t
 *
 * Every value is computed in double, and the sum has a fixed order, so that the result is the same
 * with any number of threads. `scale` multiplies both the sum and the gradient: 1/S for a mean over
 * S sampled elements. The caller knows S, which may span several calls. */
#ifndef MABN_OPS_SIGMOID_LOSS_H
#define MABN_OPS_SIGMOID_LOSS_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* logits, target, weight (count): *loss = scale·Σ weight·loss(logit, target). weight NULL: all 1.
 * An element with weight 0 is not sampled: it is not read and its gradient is 0. dlogits (count) is
 * overwritten; it may be NULL (not needed) or logits. target may be any number from 0 to 1. */
void mabn_sigmoid_xent(double *loss, float *dlogits, const float *logits, const float *target,
                       const float *weight, int64_t count, double scale);

/* The loss of a mask head: for each box only the channel of its class counts. logits (P,HW,K),
 * labels (P) in [0,K), target (P,HW) of 0 and 1: *loss = scale·Σ over boxes and pixels; the usual
 * scale is 1/(P·HW). A box with a label outside [0,K) does not count. dlogits (P,HW,K) is
 * overwritten, with 0 in the other channels; it may be NULL (not needed) but must not be logits. */
void mabn_mask_loss(double *loss, float *dlogits, const float *logits, const int32_t *labels,
                    const uint8_t *target, int64_t boxes, int64_t pixels, int64_t classes,
                    double scale);
/* The same with targets that may be any number from 0 to 1, as torchvision's masks are. */
void mabn_soft_mask_loss(double *loss, float *dlogits, const float *logits, const int32_t *labels,
                         const float *target, int64_t boxes, int64_t pixels, int64_t classes,
                         double scale);

MABN_END_DECLS
#endif
