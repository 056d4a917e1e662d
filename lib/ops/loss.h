/* Softmax cross-entropy with label smoothing, and the figures a classifier is judged by.
 *
 * The target of a sample of class t among K is (1−s)·onehot(t) + s/K; its loss is −Σ target·log
 * softmax(logits), computed in double. A negative label means "no label" (padding): loss 0, no
 * gradient, rank −1, not counted. */
#ifndef MABN_OPS_LOSS_H
#define MABN_OPS_LOSS_H

#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_xent_out {
    double *loss;   /* (N) or NULL */
    int32_t *rank;  /* (N) or NULL: how many classes stand before the true one (greater, or equal
                     * with  a lower number); the sample is right in top-k when 0 ≤ rank < k. K when
                     * the true logit is NaN */
    float *prob;    /* (N,K) or NULL: softmax; may be logits */
    float *dlogits; /* (N,K) or NULL: overwritten with scale·(softmax − target); may be logits */
};

/* logits (N,K), labels (N). `scale` is what multiplies the gradient: 1/N for a mean over this
 * batch. A label ≥ K is MABN_ERR_ARG, naming the sample. */
MABN_MUST_USE mabn_status mabn_softmax_xent(const struct mabn_xent_out *out, const float *logits,
                                            const int32_t *labels, int64_t n, int64_t classes,
                                            double smoothing, double scale);

/* The same as one number: *loss = scale·Σ weight[i]·loss of sample i, summed in an order that does
 * not depend on the number of threads. weight (N), NULL: all 1. A sample of weight 0 or without a
 * label counts nothing and has no gradient. dlogits (N,K) is overwritten; NULL: none wanted; may be
 * logits. */
MABN_MUST_USE mabn_status mabn_softmax_xent_sum(double *loss, float *dlogits, const float *logits,
                                                const int32_t *labels, const float *weight,
                                                int64_t n, int64_t classes, double smoothing,
                                                double scale);

MABN_END_DECLS
#endif
