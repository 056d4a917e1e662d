/* Softmax cross-entropy with label smoothing.
 *
 *     target_j = (1−s)·[j = t] + s/K,   loss = −Σ target·(z_j − log Σ exp z),
 *     dloss/dz_j = softmax_j − target_j
 *
 * One sample is one thread's work, in double. */
#include "ops/loss.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "ops/chunks.h"

static int32_t rank_of(const float *z, int64_t classes, int64_t truth)
{
    int32_t before = 0;
    if (isnan(z[truth])) return (int32_t)classes;
    for (int64_t j = 0; j < classes; j++)
        before += z[j] > z[truth] || (z[j] == z[truth] && j < truth) || isnan(z[j]);
    return before;
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
    /* Every class weighs `other`, the true one `own`. */
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

    if (out->rank) out->rank[i] = truth < 0 ? -1 : rank_of(z, classes, truth);
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

/* Samples [begin, end), one after the other. */
static double range(float *dlogits, const float *logits, const int32_t *labels, const float *weight,
                    int64_t begin, int64_t end, int64_t classes, double smoothing, double scale)
{
    double sum = 0;
    for (int64_t i = begin; i < end; i++) {
        const double w = weight ? weight[i] : 1;
        double loss = 0;
        float *gradient = dlogits ? dlogits + i * classes : NULL;
        const struct mabn_xent_out one = {.loss = &loss, .dlogits = gradient};
        if (w != 0 && labels[i] >= 0)
            sample(&one, logits + i * classes, labels[i], 0, classes, smoothing, scale * w);
        else if (gradient)
            memset(gradient, 0, (size_t)classes * sizeof *gradient);
        sum += w * loss;
    }
    return sum;
}

mabn_status mabn_softmax_xent_sum(double *loss, float *dlogits, const float *logits,
                                  const int32_t *labels, const float *weight, int64_t n,
                                  int64_t classes, double smoothing, double scale)
{
    double parts[MABN_CHUNKS];
    MABN_TRY(check(labels, n, classes, smoothing));
#pragma omp parallel for schedule(static) if (n * classes > 4096)
    for (int i = 0; i < MABN_CHUNKS; i++)
        parts[i] = range(dlogits, logits, labels, weight, mabn_chunk_begin(n, i),
                         mabn_chunk_begin(n, i + 1), classes, smoothing, scale);
    *loss = scale * mabn_chunks_sum(parts);
    return MABN_OK;
}
