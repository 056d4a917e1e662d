/* Softmax cross-entropy with label smoothing, and the rank of the label for top-k accuracy.
 *
 * The target of a sample of class t among K is (1−s)·onehot(t) + s/K; its loss is −Σ target·log
 * softmax(logits), computed in double. A negative label means "no label" (padding): loss 0, gradient 0,
 * not counted. */
#ifndef MABN_OPS_LOSS_H
#define MABN_OPS_LOSS_H

#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_xent_out {
    double *loss;   /* (N) or NULL */
    float *prob;    /* (N,K) or NULL: softmax; may be logits */
    float *dlogits; /* (N,K) or NULL: overwritten with scale·(softmax − target); may be logits */
};

/* logits (N,K), labels (N). `scale` is what multiplies the gradient: 1/N for a mean over this
 * batch. A label ≥ K is MABN_ERR_ARG, naming the sample. */
MABN_MUST_USE mabn_status mabn_softmax_xent(const struct mabn_xent_out *out, const float *logits,
                                            const int32_t *labels, int64_t n, int64_t classes,
                                            double smoothing, double scale);

/* The number of classes that rank before the labelled one: those with a greater logit, or with an
 * equal one and a lower number. The sample counts for top-k accuracy when 0 ≤ rank < k. −1 without
 * a label; `classes` when the label is out of range or its logit is NaN. */
int32_t mabn_label_rank(const float *logits /* (classes) */, int64_t classes, int32_t label);

/* Rows with a label. */
int64_t mabn_labelled(const int32_t *labels, int64_t n);

MABN_END_DECLS
#endif
