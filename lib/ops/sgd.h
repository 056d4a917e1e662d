/* Stochastic gradient descent with momentum, over a list of parameters in one call.
 *
 *   PyTorch's order:      d = grad + decay·p;  buf = momentum·buf + d;  p −= lr·buf
 *                         (Nesterov: p −= lr·(d + momentum·buf))
 *   the reference's:      buf = momentum·buf + grad;  buf += decay·p;  p −= lr·buf
 *
 * They differ by rounding only. buf starts at 0, so after the first step buf = d, as in PyTorch. */
#ifndef MABN_OPS_SGD_H
#define MABN_OPS_SGD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_sgd_options {
    double momentum;   /* 0.9 */
    bool nesterov;     /* PyTorch's order only */
    bool reference;    /* the reference's order */
    double grad_scale; /* multiplies every gradient first (1/accumulated steps, loss scale,
                        * clipping); 1 */
};
void mabn_sgd_options_init(struct mabn_sgd_options *options);

struct mabn_sgd_param {
    float *param;      /* (count), updated */
    float *buffer;     /* (count), momentum, updated; zero before the first step */
    const float *grad; /* (count) */
    int64_t count;
    int64_t filters;  /* > 0: a centralized weight with this many filters. `grad` is the gradient of
                       * the centralized weight; the step subtracts its filter means */
    double lr_factor; /* 1; biases in the detection recipe: 2 */
    double decay;     /* weight decay */
};

void mabn_sgd_step(const struct mabn_sgd_options *options, double lr,
                   const struct mabn_sgd_param *params, int count);

MABN_END_DECLS
#endif
