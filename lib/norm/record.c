/* The batch statistics that the paper compares, for a few channels of one run: plain loops in
 * double. */
#include "norm/internal.h"

/* The gradient of the norm's output at offset o of channel c, through ReLU or FRN's TLU. */
static double gradient(const struct mabn_norm_io *io, const struct mabn_norm_saved *s, int64_t o,
                       int64_t k, int c)
{
    /* io->act is FRN's tau here: EvoNorm-S0 is not recorded. */
    const float g = mabn_norm_value(io, io->dy, o), least = io->act ? io->act[c] : 0;
    if (!io->relu) return g;
    if (io->y) return mabn_norm_value(io, io->y, o) <= least ? 0 : g;
    return s->a[k] * mabn_norm_value(io, io->x, o) + s->b[k] <= least ? 0 : g;
}

static void record(struct mabn_norm_record *out, const struct mabn_norm *norm,
                   const struct mabn_norm_io *io, int64_t run, int c, bool reference)
{
    const int64_t channels = norm->channels, b = mabn_norm_run_samples(norm, io->samples);
    const int64_t first = run * b * io->positions, k = run * channels + c;
    const int64_t last =
        run * b + b < io->samples ? first + b * io->positions : io->samples * io->positions;
    const double n = (double)(last - first), gamma = io->gamma ? io->gamma[c] : 1;
    struct mabn_norm_saved s;
    double x1 = 0, x2 = 0, g1 = 0, gy = 0;

    mabn_norm_saved_view(&s, norm, io->saved, io->samples);
    for (int64_t r = first; r < last; r++) {
        const int64_t o = r * channels + c;
        const int64_t o0 = (first + (r - first) % io->positions) * channels + c;
        const double x = mabn_norm_value(io, io->x, o), g = gradient(io, &s, o, k, c);
        x1 += x;
        x2 += x * x;
        g1 += g;
        gy += g * (reference ? (double)s.a[k] * mabn_norm_value(io, io->x, o0) + s.b[k]
                             : (x - s.mean[k]) * s.scale[k] + s.shift[k]);
    }
    out->mu_x = x1 / n;
    out->var_x = x2 / n - out->mu_x * out->mu_x;
    out->mu_g = gamma * g1 / n;
    out->mu_gy = (reference ? 1 : gamma) * gy / n;
}

mabn_status mabn_norm_record(const struct mabn_norm *norm, const struct mabn_norm_io *io,
                             int64_t run, const int *channels, int count, bool reference,
                             struct mabn_norm_record *out)
{
    if (!mabn_norm_measures(norm->options.kind) || norm->options.kind == MABN_NORM_EVONORM_S0)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "norm '%s' takes no statistics to record",
                         mabn_norm_kind_name(norm->options.kind));
    if (!io->samples || !io->positions || run < 0 || run >= mabn_norm_runs(norm, io->samples))
        return mabn_fail(MABN_ERR_ARG, "norm: there is no run %lld to record", (long long)run);
    for (int i = 0; i < count; i++) {
        if (channels[i] < 0 || channels[i] >= norm->channels)
            return mabn_fail(MABN_ERR_ARG, "channel %d is not one of %d", channels[i],
                             norm->channels);
        record(&out[i], norm, io, run, channels[i], reference);
    }
    return MABN_OK;
}
