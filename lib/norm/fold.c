/* The coefficients of folding norms, and folding. */
#include "norm/fold.h"

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
    }
    return MABN_OK;
}

void mabn_norm_fold(float *weight_out, float *bias_out, const float *weight, const float *bias,
                    const float *a, const float *b, int64_t outputs, int64_t filter,
                    bool centralize)
{
    for (int64_t o = 0; o < outputs; o++) {
        const float *in = weight + o * filter;
        float *out = weight_out + o * filter;
        double sum = 0;
        if (centralize)
            for (int64_t i = 0; i < filter; i++)
                sum += in[i];
        double mean = filter ? sum / (double)filter : 0;
        for (int64_t i = 0; i < filter; i++)
            out[i] = (float)((in[i] - mean) * a[o]);
        bias_out[o] = (float)((bias ? (double)a[o] * bias[o] : 0) + b[o]);
    }
}
