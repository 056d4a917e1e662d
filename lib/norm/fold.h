/* Norms whose coefficients at inference do not depend on the input: the coefficients, and folding them
 * into the convolution before the norm. */
#ifndef MABN_NORM_FOLD_H
#define MABN_NORM_FOLD_H

#include "norm/state.h"

MABN_BEGIN_DECLS

/* Inference coefficients a, b (C) of a norm: y = a·x + b. MABN_ERR_UNSUPPORTED for a norm that does not
 * fold (mabn_norm_folds); MABN_ERR_NONFINITE, naming the channel, when one of them is not finite. */
MABN_MUST_USE mabn_status mabn_norm_affine(const struct mabn_norm *norm, float *a, float *b,
                                           const float *gamma, const float *beta,
                                           const void *state);
/* Fold y = a·conv(x) + b into the convolution: weight_out (O,K) = a·weight, where the rows of
 * `weight` are first centralized if `centralize`; bias_out (O) = a·bias + b. bias may be NULL (0);
 * weight_out may be weight, bias_out may be bias. K = the values of one filter.
 * MABN_ERR_NONFINITE, naming the first filter, when one of the products is not finite. */
MABN_MUST_USE mabn_status mabn_norm_fold(float *weight_out, float *bias_out, const float *weight,
                                         const float *bias, const float *a, const float *b,
                                         int64_t outputs, int64_t filter, bool centralize);

MABN_END_DECLS
#endif
