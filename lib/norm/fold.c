/* The coefficients of folding norms, and folding. */
#include "norm/fold.h"

#include <math.h>
#include <string.h>

#include "base/attr.h"
#include "norm/coefficients.h"
#include "norm/internal.h"

mabn_status mabn_norm_affine(const struct mabn_norm *norm, float *a, float *b, const float *gamma,
                             const float *beta, const void *state)
{
    const struct mabn_norm_options *o = &norm->options;
    struct mabn_norm_state s;

    if (!mabn_norm_folds(o->kind))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "norm '%s' depends on its input and cannot fold",
                         mabn_norm_kind_name(o->kind));
    mabn_norm_state_view(&s, norm, (void *)(uintptr_t)state);
    for (int c = 0; c < norm->channels; c++) {
        if (o->kind == MABN_NORM_NONE) {
            a[c] = 1;
            b[c] = 0;
            continue;
        }
        double scale = gamma[c] * mabn_known_scale(s.running_var[c], o->eps);
        double mean = s.running_mean ? s.running_mean[c] : 0;
        a[c] = (float)scale;
        b[c] = (float)(beta[c] - mean * scale);
        if (!isfinite(a[c]) || !isfinite(b[c]))
            return mabn_fail(MABN_ERR_NONFINITE,
                             "channel %d: weight %g, bias %g, mean %g and variance %g make a scale "
                             "or shift that is not finite",
                             c, gamma[c], beta[c], mean, s.running_var[c]);
    }
    return MABN_OK;
}

/* Means of `count` ≤ TOGETHER filters. Each sum is in the order of its values. Several are computed side
 * by side, because one alone would wait for the latency of its additions. */
enum { TOGETHER = 4 };

static void filter_means(double *means, const float *weight, int64_t count, int64_t filter)
{
    const float *at[TOGETHER]; /* past the last filter: the last again */
    double sums[TOGETHER] = {0};
    for (int64_t k = 0; k < TOGETHER; k++)
        at[k] = weight + (k < count ? k : count - 1) * filter;
    for (int64_t i = 0; i < filter; i++)
        for (int64_t k = 0; k < TOGETHER; k++)
            sums[k] += at[k][i];
    for (int64_t k = 0; k < count; k++)
        means[k] = sums[k] / (double)filter;
}

/* Not 0 when something is not finite. */
MABN_CLONES static uint32_t fold_filter(float *out, const float *in, double mean, float a,
                                        int64_t filter)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < filter; i++) {
        uint32_t bits;
        out[i] = (float)((in[i] - mean) * a);
        memcpy(&bits, &out[i], sizeof bits);
        bad |= (bits & 0x7fffffff) >= 0x7f800000;
    }
    return bad;
}

mabn_status mabn_norm_fold(float *weight_out, float *bias_out, const float *weight,
                           const float *bias, const float *a, const float *b, int64_t outputs,
                           int64_t filter, bool centralize)
{
    int64_t first = outputs; /* filter that is not finite */
#pragma omp parallel for schedule(static) reduction(min : first) if (outputs * filter > 16384)
    for (int64_t o = 0; o < outputs; o += TOGETHER) {
        const int64_t count = outputs - o < TOGETHER ? outputs - o : TOGETHER;
        double means[TOGETHER] = {0};
        if (centralize && filter) filter_means(means, weight + o * filter, count, filter);
        for (int64_t k = o; k < o + count; k++) {
            const float shift = (float)((bias ? (double)a[k] * bias[k] : 0) + b[k]);
            uint32_t bad = fold_filter(weight_out + k * filter, weight + k * filter, means[k - o],
                                       a[k], filter);
            bias_out[k] = shift;
            if ((bad || !isfinite(shift)) && k < first) first = k;
        }
    }
    if (first == outputs) return MABN_OK;
    return mabn_fail(MABN_ERR_NONFINITE,
                     "filter %lld is not finite when it is multiplied by its norm's scale %g",
                     (long long)first, a[first]);
}
