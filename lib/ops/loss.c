/* Softmax cross-entropy with label smoothing.
 *
 *     target_j = (1−s)·[j = t] + s/K,   loss = −Σ target·(z_j − log Σ exp z),
 *     dloss/dz_j = softmax_j − target_j
 *
 * One sample is one thread's work, in double. */
#include "ops/loss.h"

#include <math.h>
#include <stddef.h>

int32_t mabn_label_rank(const float *z, int64_t classes, int32_t label)
{
    int32_t before = 0;
    if (label < 0) return -1;
    if (label >= classes || isnan(z[label])) return (int32_t)classes;
    for (int64_t j = 0; j < classes; j++)
        before += z[j] > z[label] || (z[j] == z[label] && j < label) || isnan(z[j]);
    return before;
}

int64_t mabn_labelled(const int32_t *labels, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += labels[i] >= 0;
    return count;
}

/* Log of Σ exp z, stable. */
static double log_sum(const float *z, int64_t classes)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < classes; j++)
        if (!(z[j] <= top)) top = z[j];
    for (int64_t j = 0; j < classes; j++)
        sum += exp(z[j] - top);
    return top + log(sum);
}

static double loss_of(const float *z, double norm, int64_t truth, int64_t classes, double smoothing)
{
    const double other = smoothing / (double)classes, own = 1 - smoothing + other;
    double loss = 0;
    if (truth < 0) return 0;
    /* The true class has weight `own`, every other one `other`. */
    if (smoothing > 0)
        for (int64_t j = 0; j < classes; j++)
            loss += other * (norm - z[j]);
    return loss + (own - other) * (norm - z[truth]);
}

static void sample(const struct mabn_xent_out *out, const float *logits, int64_t truth, int64_t i,
                   int64_t classes, double smoothing, double scale)
{
    const float *z = logits + i * classes;
    const double other = smoothing / (double)classes, own = 1 - smoothing + other;
    const double norm = log_sum(z, classes);

    if (out->loss) out->loss[i] = loss_of(z, norm, truth, classes, smoothing);
    for (int64_t j = 0; j < classes && (out->prob || out->dlogits); j++) {
        const double p = exp(z[j] - norm);
        if (out->prob) out->prob[i * classes + j] = (float)p;
        if (out->dlogits)
            out->dlogits[i * classes + j] =
                truth < 0 ? 0 : (float)(scale * (p - (j == truth ? own : other)));
    }
}

static mabn_status check(const int32_t *labels, int64_t n, int64_t classes, double smoothing)
{
    if (classes < 1) return mabn_fail(MABN_ERR_ARG, "a loss needs classes");
    if (!(smoothing >= 0 && smoothing < 1))
        return mabn_fail(MABN_ERR_ARG, "label smoothing must be in [0,1), is %g", smoothing);
    for (int64_t i = 0; i < n; i++)
        if (labels[i] >= classes)
            return mabn_fail(MABN_ERR_ARG, "sample %lld: label %d, but there are %lld classes",
                             (long long)i, labels[i], (long long)classes);
    return MABN_OK;
}

mabn_status mabn_softmax_xent(const struct mabn_xent_out *out, const float *logits,
                              const int32_t *labels, int64_t n, int64_t classes, double smoothing,
                              double scale)
{
    MABN_TRY(check(labels, n, classes, smoothing));
    if (out->prob && out->prob == out->dlogits)
        return mabn_fail(MABN_ERR_ARG, "prob and dlogits must differ");
#pragma omp parallel for schedule(static) if (n * classes > 4096)
    for (int64_t i = 0; i < n; i++)
        sample(out, logits, labels[i], i, classes, smoothing, scale);
    return MABN_OK;
}
