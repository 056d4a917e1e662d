/* Weight centralization (CenConv2d): every filter minus its own mean. A filter is the `filter`
 * values of one output channel (in/groups × kh × kw, in any order), so OHWI and OIHW both do.
 *
 * The raw weight is stored and decayed; the convolution uses the centralized one. The raw weight's
 * gradient is the centralized weight's gradient minus its own mean, which the optimizer subtracts
 * (ops/sgd.h). */
#ifndef MABN_OPS_CENTRALIZE_H
#define MABN_OPS_CENTRALIZE_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* out (O,K) = weight − row mean; out may be weight. */
void mabn_centralize(float *out, const float *weight, int64_t outputs, int64_t filter);
/* dweight (O,K) = dout − row mean; dweight may be dout. Overwrites. */
void mabn_centralize_backward(float *dweight, const float *dout, int64_t outputs, int64_t filter);

/* Mean of one filter, summed in double in a fixed order. */
double mabn_filter_mean(const float *filter, int64_t count);
/* means (O): of all of them, as mabn_centralize subtracts them. */
void mabn_filter_means(float *means, const float *weight, int64_t outputs, int64_t filter);
/* out (O,K) = weight − means. */
void mabn_subtract_means(float *out, const float *weight, const float *means, int64_t outputs,
                         int64_t filter);

MABN_END_DECLS
#endif
