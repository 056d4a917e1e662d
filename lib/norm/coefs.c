/* The coefficient stages on the CPU: loops over channels around the scalar functions of
 * coefficients.h, one pair (forward, backward) for each kind of norm. See work.h.
 *
 * MABN's windows are walked row after row, many channels at a time. Down one channel every row would be
 * another cache line, and all of them in the same set.
 *
 * w->sums is used twice: first for the sums of chunks, then for the terms that a run adds to the totals
 * (BN forward: mean, and variance or deviation; backward: the shares of dgamma and dbeta). */
#include "norm/work.h"

#include <string.h>

enum { CHANNEL_BLOCK = 64 };

void mabn_work_channels(struct mabn_work *w, mabn_work_stage stage)
{
    const int64_t c = w->g.channels;
    const bool joined = !mabn_norm_folds(w->norm->options.kind);
    const int64_t group = joined ? c / w->norm->options.groups : 1;
    const int64_t block = (CHANNEL_BLOCK + group - 1) / group * group;
    const int64_t blocks = (c + block - 1) / block;

#pragma omp parallel for schedule(static) if (!w->serial && blocks > 1)
    for (int64_t i = 0; i < blocks; i++)
        stage(w, i * block, (i + 1) * block < c ? (i + 1) * block : c);
}

/* ---- small steps ---- */

static double *sums_of(const struct mabn_work *w, int64_t i)
{
    return w->sums + i * w->g.sums * w->g.channels;
}

void mabn_stage_reduce(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_work_shape *g = &w->g;

    for (int64_t i = 0; i < w->count; i++)
        for (int which = 0; which < g->sums; which++) {
            double *out = sums_of(w, i) + which * g->channels;
            memset(out + c0, 0, (size_t)(c1 - c0) * sizeof *out);
            for (int64_t chunk = 0; chunk < g->chunks; chunk++)
                for (int64_t f = 0; f < g->fold; f++) {
                    const double *in = w->partial +
                                       ((i * g->chunks + chunk) * g->sums + which) * g->width +
                                       f * g->channels;
                    for (int64_t c = c0; c < c1; c++)
                        out[c] += in[c];
                }
        }
}

static void widen(const struct mabn_work *w, int64_t i, enum mabn_work_array which, int64_t c,
                  float value)
{
    float *out = mabn_work_wide(w, i, which) + c;
    for (int64_t f = 0; f < w->g.fold; f++)
        out[f * w->g.channels] = value;
}

static void keep(const struct mabn_work *w, int64_t i, int64_t c, const struct mabn_coef *k)
{
    const struct mabn_norm_saved *s = &w->saved;
    const int64_t at = (w->first + i) * w->g.channels + c;

    widen(w, i, AT_A, c, k->a);
    widen(w, i, AT_B, c, k->b);
    if (!s->a) return; /* inference */
    s->a[at] = k->a;
    s->b[at] = k->b;
    s->mean[at] = k->mean;
    s->istd[at] = k->istd;
    s->scale[at] = k->scale;
    s->shift[at] = k->shift;
}

static struct mabn_coef kept(const struct mabn_work *w, int64_t i, int64_t c)
{
    const struct mabn_norm_saved *s = &w->saved;
    const int64_t at = (w->first + i) * w->g.channels + c;
    struct mabn_coef k = {s->a[at], s->b[at], s->mean[at], s->istd[at], s->scale[at], s->shift[at]};
    return k;
}

static void set_grad(const struct mabn_work *w, int64_t i, int64_t c,
                     const struct mabn_grad_coef *k)
{
    widen(w, i, AT_P, c, k->p);
    widen(w, i, AT_Q, c, k->q);
    widen(w, i, AT_R, c, k->r);
}

/* A run's moments are taken about its first row, so that a mean that is large against the deviation
 * does no harm. */
void mabn_stage_shift(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++) {
        const int64_t first = (w->first + i) * w->g.run_rows * w->g.channels;
        for (int64_t c = c0; c < c1; c++)
            widen(w, i, AT_SHIFT, c, mabn_norm_value(w->io, w->io->x, first + c));
    }
}

void mabn_stage_recall(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef k = kept(w, i, c);
            widen(w, i, AT_A, c, k.a);
            widen(w, i, AT_B, c, k.b);
            widen(w, i, AT_SHIFT, c, k.mean);
        }
}

static void run_moments(const struct mabn_work *w, int64_t i, int64_t c, double *mean, double *var)
{
    const double *sum = sums_of(w, i), *square = sum + w->g.channels;
    mabn_moments_finish(mean, var, mabn_work_wide(w, i, AT_SHIFT)[c], sum[c], square[c],
                        (double)mabn_work_rows(w, w->first + i));
}

/* The run's share of dgamma and dbeta, in place of its sums. */
static void set_share(const struct mabn_work *w, int64_t i, int64_t c, const struct mabn_coef *f)
{
    double *sum = sums_of(w, i), *dot = sum + w->g.channels;
    dot[c] = f->scale * dot[c] + f->shift * sum[c];
}

/* totals += weight · sums */
static void add_totals(const struct mabn_work *w, int64_t i, int64_t c0, int64_t c1, double weight)
{
    const int64_t ch = w->g.channels;
    const double *sum = sums_of(w, i);
    for (int64_t k = 0; k < w->g.sums * ch; k += ch)
        for (int64_t c = k + c0; c < k + c1; c++)
            w->total[c] += weight * sum[c];
}

/* ---- BN and BRN ---- */

static void forward_bn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const bool renorm = o->kind == MABN_NORM_BRN;
    const int64_t call = *w->state.batches + 1;
    const double r_max = mabn_ramp(1, o->r_max, call, o->ramp_start, o->r_ramp_end);
    const double d_max = mabn_ramp(0, o->d_max, call, o->ramp_start, o->d_ramp_end);
    const float *gamma = w->io->gamma, *beta = w->io->beta;

    for (int64_t i = 0; i < w->count; i++) {
        const double n = (double)mabn_work_rows(w, w->first + i);
        double *sum = sums_of(w, i), *square = sum + w->g.channels;
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            double mean, var;
            run_moments(w, i, c, &mean, &var);
            if (renorm)
                mabn_coef_brn(&k, mean, var, o->eps, w->state.running_mean[c],
                              sqrt(w->state.running_var[c] + o->eps), r_max, d_max, gamma[c],
                              beta[c]);
            else
                mabn_coef_bn(&k, mean, var, o->eps, gamma[c], beta[c]);
            keep(w, i, c, &k);
            sum[c] = mean;
            square[c] = renorm ? sqrt(var + o->eps) : mabn_unbiased(var, n);
        }
    }
}

static void average_runs(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const double all = (double)(w->io->samples * w->io->positions);
    for (int64_t i = 0; i < w->count; i++)
        add_totals(w, i, c0, c1, (double)mabn_work_rows(w, w->first + i) / all);
}

/* BRN averages the deviation, as its paper does. */
static void move_averages(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const double kept_part = o->momentum, taken = 1 - o->momentum;
    float *rm = w->state.running_mean, *rv = w->state.running_var;
    const double *mean = w->total, *var = w->total + w->g.channels;

    for (int64_t c = c0; c < c1; c++) {
        rm[c] = (float)(kept_part * rm[c] + taken * mean[c]);
        if (o->kind == MABN_NORM_BRN) {
            const double std = kept_part * sqrt(rv[c] + o->eps) + taken * var[c];
            rv[c] = (float)(std * std - o->eps);
        } else {
            rv[c] = (float)(kept_part * rv[c] + taken * var[c]);
        }
    }
}

static void backward_bn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++) {
        const double *sum = sums_of(w, i), *dot = sum + w->g.channels;
        const double n = (double)mabn_work_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            const double gamma = w->io->gamma[c];
            struct mabn_grad_coef k;
            mabn_grad_bn(&k, &f, gamma, gamma * sum[c], gamma * dot[c], n, 1);
            set_grad(w, i, c, &k);
            set_share(w, i, c, &f);
        }
    }
}

static void add_shares(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        add_totals(w, i, c0, c1, 1);
}

/* ---- GN, LN, IN: the channels of a group share mean and variance ---- */

static void forward_gn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const int64_t size = w->g.channels / o->groups;

    for (int64_t i = 0; i < w->count; i++)
        for (int64_t g = c0; g < c1; g += size) {
            double mean = 0, within = 0, between = 0, m, v;
            for (int64_t c = g; c < g + size; c++) {
                run_moments(w, i, c, &m, &v);
                mean += m;
                within += v;
            }
            mean /= (double)size;
            for (int64_t c = g; c < g + size; c++) {
                run_moments(w, i, c, &m, &v);
                between += (m - mean) * (m - mean);
            }
            for (int64_t c = g; c < g + size; c++) {
                struct mabn_coef k;
                mabn_coef_bn(&k, mean, (within + between) / (double)size, o->eps, w->io->gamma[c],
                             w->io->beta[c]);
                keep(w, i, c, &k);
            }
        }
}

static void backward_gn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const int64_t size = w->g.channels / w->norm->options.groups;
    const float *gamma = w->io->gamma;

    for (int64_t i = 0; i < w->count; i++) {
        const double *sum = sums_of(w, i), *dot = sum + w->g.channels;
        const double n = (double)(mabn_work_rows(w, w->first + i) * size);
        for (int64_t g = c0; g < c1; g += size) {
            double group_sum = 0, group_dot = 0;
            for (int64_t c = g; c < g + size; c++) {
                group_sum += gamma[c] * sum[c];
                group_dot += gamma[c] * dot[c];
            }
            for (int64_t c = g; c < g + size; c++) {
                const struct mabn_coef f = kept(w, i, c);
                struct mabn_grad_coef k;
                mabn_grad_bn(&k, &f, gamma[c], group_sum, group_dot, n, 1);
                set_grad(w, i, c, &k);
                set_share(w, i, c, &f);
            }
        }
    }
}

/* ---- FRN: a channel of a sample; EvoNorm-S0: groups, as GN ---- */

static void forward_frn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++) {
        const double *square = sums_of(w, i) + w->g.channels;
        const double n = (double)mabn_work_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            mabn_coef_bn(&k, 0, square[c] / n, w->norm->options.eps, w->io->gamma[c],
                         w->io->beta[c]);
            keep(w, i, c, &k);
        }
    }
}

static void backward_frn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++) {
        const double *dot = sums_of(w, i) + w->g.channels;
        const double n = (double)mabn_work_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            const double gamma = w->io->gamma[c];
            struct mabn_grad_coef k;
            mabn_grad_bn(&k, &f, gamma, 0, gamma * dot[c], n, 1);
            set_grad(w, i, c, &k);
            set_share(w, i, c, &f);
        }
    }
}

static void forward_affine(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            mabn_coef_set(&k, 0, 0, 1, 0, w->io->gamma[c], w->io->beta[c]);
            keep(w, i, c, &k);
        }
}

/* As GN, without subtracting the mean: y = gamma·istd·h + beta. */
static void forward_evonorm(struct mabn_work *w, int64_t c0, int64_t c1)
{
    forward_gn(w, c0, c1);
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            widen(w, i, AT_B, c, w->io->beta[c]);
            if (w->saved.b) w->saved.b[(w->first + i) * w->g.channels + c] = w->io->beta[c];
        }
}

/* Of sums of g, g·h and g·dh/dv. */
static void backward_evonorm(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels, size = ch / w->norm->options.groups;
    const float *gamma = w->io->gamma;

    for (int64_t i = 0; i < w->count; i++) {
        double *dot = sums_of(w, i) + ch, *own = dot + ch;
        const double n = (double)(mabn_work_rows(w, w->first + i) * size);
        for (int64_t g = c0; g < c1; g += size) {
            double group_dot = 0;
            for (int64_t c = g; c < g + size; c++)
                group_dot += gamma[c] * dot[c];
            for (int64_t c = g; c < g + size; c++) {
                const struct mabn_coef f = kept(w, i, c);
                struct mabn_grad_coef k;
                mabn_grad_bn(&k, &f, gamma[c], 0, group_dot, n, 1);
                set_grad(w, i, c, &k);
                dot[c] *= f.scale;
                own[c] *= gamma[c] * f.scale;
            }
        }
    }
}

static void backward_affine(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_grad_coef k = {w->io->gamma[c], 0, 0};
            set_grad(w, i, c, &k);
        }
}

/* ---- SyncBN: one run a shard (sync.h) ---- */

mabn_status mabn_work_sync_forward(struct mabn_work *w)
{
    const struct mabn_norm_sync *sync = w->norm->sync;
    const int64_t c = w->g.channels;
    const double n = (double)(w->io->samples * w->io->positions);
    double *sum = w->sums, *square = sum + c, *count = square + c;
    /* The reference averages the shards' means, so means are added up instead of sums. */
    const double scale = w->norm->options.sync_reference && n > 0 ? 1 / n : 1;

    for (int64_t i = 0; i < c; i++) {
        const double k = n > 0 ? mabn_work_wide(w, 0, AT_SHIFT)[i] : 0;
        square[i] = (square[i] + 2 * k * sum[i] + n * k * k) * scale;
        sum[i] = (sum[i] + n * k) * scale;
    }
    count[0] = n;
    count[1] = n > 0;
    if (sync) MABN_TRY(sync->all_reduce(sync->context, sum, (size_t)(2 * c + 2)));
    w->sync_n = count[0];
    w->sync_shards = count[1];
    return MABN_OK;
}

/* The n of the unbiased variance: in the reference this shard's, times the number of shards. */
static double sync_elements(const struct mabn_work *w)
{
    return w->norm->options.sync_reference
               ? (double)(w->io->samples * w->io->positions) * w->sync_shards
               : w->sync_n;
}

static void forward_sync(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const double divide = o->sync_reference ? w->sync_shards : w->sync_n;
    const double *sum = w->sums, *square = sum + w->g.channels;

    for (int64_t c = c0; c < c1; c++) {
        struct mabn_coef k;
        double mean = sum[c] / divide, var = square[c] / divide - mean * mean;
        if (var < 0) var = 0;
        const double unbiased = mabn_unbiased(var, sync_elements(w));
        mabn_coef_bn(&k, mean, o->sync_reference ? unbiased : var, o->eps, w->io->gamma[c],
                     w->io->beta[c]);
        /* For backward: where n/(n−1) was used, the derivative of the variance has that factor
         * too. */
        if (o->sync_reference) k.istd *= (float)sqrt(mabn_unbiased(1, sync_elements(w)));
        keep(w, 0, c, &k);
        w->total[c] = mean;
        w->total[w->g.channels + c] = unbiased;
    }
}

mabn_status mabn_work_sync_backward(struct mabn_work *w)
{
    const struct mabn_norm_sync *sync = w->norm->sync;
    const int64_t c = w->g.channels;
    double *sum = w->sums, *dot = sum + c, *count = dot + c;

    /* dgamma and dbeta are this shard's own. The gradients of mean and variance, without the factor
     * gamma, are added up. Not g itself: with sync_reference shards may have different variances. */
    for (int64_t i = 0; i < c; i++) {
        const struct mabn_coef f = kept(w, 0, i);
        w->total[i] = sum[i];
        w->total[c + i] = f.scale * dot[i] + f.shift * sum[i];
        sum[i] *= f.scale;
        dot[i] *= (double)f.scale * f.istd * f.istd;
    }
    count[0] = (double)(w->io->samples * w->io->positions);
    count[1] = count[0] > 0;
    if (sync) MABN_TRY(sync->all_reduce(sync->context, sum, (size_t)(2 * c + 2)));
    w->sync_n = count[0];
    w->sync_shards = count[1];
    return MABN_OK;
}

static void backward_sync(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const double *sum = w->sums, *dot = sum + w->g.channels, n = sync_elements(w);

    for (int64_t c = c0; c < c1; c++) {
        const struct mabn_coef f = kept(w, 0, c);
        const double gamma = w->io->gamma[c];
        const struct mabn_grad_coef k = {(float)(gamma * f.scale), (float)(-gamma * dot[c] / n),
                                         (float)(-gamma * sum[c] / n)};
        set_grad(w, 0, c, &k);
    }
}

/* ---- MABN ---- */

/* Iterations finished before this call; a backward finds its own already counted. */
static int64_t iterations_done(const struct mabn_work *w, bool backward)
{
    if (w->state.iters) return *w->state.iters - (backward ? w->g.runs : 0);
    return (int64_t)*w->state.iters_f32 - (backward ? 1 : 0);
}

static struct mabn_window_step step_of(const struct mabn_work *w, int64_t run, int64_t done)
{
    const struct mabn_norm_options *o = &w->norm->options;
    if (o->window_rule == MABN_WINDOW_SUBBATCH)
        return mabn_step_subbatch(done + 1, run, o->window, o->r_start);
    return mabn_step_iteration(done + 1 + run, o->window, o->warmup, o->r_start);
}

bool mabn_work_centres(const struct mabn_work *w)
{
    return w->norm->options.kind != MABN_NORM_MABN && w->norm->options.kind != MABN_NORM_FRN;
}

/* Three conditions: r is active; the input of apply is kept, so that it can be applied again; and
 * running_var does not change before the work's last run. */
bool mabn_work_knows(const struct mabn_work *w)
{
    const struct mabn_norm_options *o = &w->norm->options;
    if (o->kind != MABN_NORM_MABN || w->io->y == w->io->residual) return false;
    if (o->window_rule == MABN_WINDOW_ITERATION && (w->count > 1 || w->shared)) return false;
    return step_of(w, w->first, iterations_done(w, false)).renorm;
}

void mabn_stage_known(struct mabn_work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            const double gamma = w->io->gamma[c];
            const double scale = mabn_known_scale(w->state.running_var[c], w->norm->options.eps);
            widen(w, i, AT_A, c, (float)(gamma * scale));
            widen(w, i, AT_B, c, w->io->beta[c]);
        }
}

/* A window was last read a step ago and is out of the caches. Its rows are too short for the processor to
 * fetch them ahead by itself. */
static void window_fetch(const float *rows, int64_t stride, int window, int64_t c0, int64_t c1)
{
    const int64_t line = 64 / sizeof *rows;
    for (int i = 0; i < window; i++)
        for (int64_t c = c0; c < c1; c += line)
            __builtin_prefetch(rows + i * stride + c, 1);
}

/* Put v into its row of the window, for channels [c0, c1); v becomes the value to use. */
static void window_put(double *v, float *rows, int64_t stride, int window,
                       struct mabn_window_step step, int64_t c0, int64_t c1)
{
    for (int64_t c = c0; step.window && c < c1; c += CHANNEL_BLOCK)
        window_fetch(rows, stride, window, c, c + CHANNEL_BLOCK < c1 ? c + CHANNEL_BLOCK : c1);
    for (int64_t c = c0; c < c1; c++)
        rows[step.row * stride + c] = (float)v[c];
    if (!step.window) return;
    memset(v + c0, 0, (size_t)(c1 - c0) * sizeof *v);
    for (int i = 0; i < window; i++)
        for (int64_t c = c0; c < c1; c++)
            v[c] += rows[i * stride + c];
    for (int64_t c = c0; c < c1; c++)
        v[c] /= window;
}

static void forward_mabn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const int64_t ch = w->g.channels, done = iterations_done(w, false);
    float *rv = w->state.running_var;
    bool clipped = false;

    for (int64_t i = 0; i < w->count; i++) {
        const struct mabn_window_step step = step_of(w, w->first + i, done);
        double *v = sums_of(w, i) + ch;
        const double n = (double)mabn_work_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++)
            v[c] /= n;
        window_put(v, w->state.window_x2, ch, o->window, step, c0, c1);
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            mabn_coef_mabn(&k, v[c], rv[c], o->eps, o->lambda, step.renorm, w->io->gamma[c],
                           w->io->beta[c]);
            clipped |= w->known && mabn_work_wide(w, i, AT_A)[c] != k.a;
            keep(w, i, c, &k);
            if (o->window_rule == MABN_WINDOW_ITERATION)
                rv[c] = mabn_move(rv[c], o->momentum, v[c]);
            else
                w->total[c] += v[c];
        }
    }
    if (clipped) {
#pragma omp atomic write
        w->clipped = true;
    }
}

static void backward_mabn(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels, done = iterations_done(w, true);

    for (int64_t i = 0; i < w->count; i++) {
        const struct mabn_window_step step = step_of(w, w->first + i, done);
        double *sum = sums_of(w, i), *psi = sum + ch; /* psi: at first Σ g·x */
        const double n = (double)mabn_work_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            w->total[c] += sum[c];
            w->total[ch + c] += f.scale * psi[c];
            psi[c] = mabn_psi(&f, w->io->gamma[c], psi[c], n);
        }
        window_put(psi, w->state.window_gz, ch, w->norm->options.window, step, c0, c1);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            struct mabn_grad_coef k;
            mabn_grad_mabn(&k, &f, w->io->gamma[c], psi[c]);
            set_grad(w, i, c, &k);
        }
    }
}

/* Sub-batch rule: the window's rows go from the oldest to the newest. A call has put its `runs`
 * statistics into rows 0, 1, …; order the rows again by rotating left (reverse both parts, then all).
 * On the first call `fill` (C) goes into rows that were never written; otherwise it is NULL. */
static void window_turn(float *rows, int64_t stride, int window, int64_t runs, const double *fill,
                        int64_t c0, int64_t c1)
{
    const int64_t by = runs % window;

    if (fill)
        for (int64_t i = runs; i < window; i++)
            for (int64_t c = c0; c < c1; c++)
                rows[i * stride + c] = (float)fill[c];
    for (int part = 0; by && part < 3; part++) {
        int64_t i = part == 1 ? by : 0, j = part == 0 ? by - 1 : window - 1;
        for (; i < j; i++, j--)
            for (int64_t c = c0; c < c1; c++) {
                const float t = rows[i * stride + c];
                rows[i * stride + c] = rows[j * stride + c];
                rows[j * stride + c] = t;
            }
    }
}

/* Sub-batch rule, at the end of a call. */
static void close_forward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const bool first = iterations_done(w, false) == 0;
    float *rv = w->state.running_var;
    double *v = w->total;

    for (int64_t c = c0; c < c1; c++) {
        v[c] /= (double)w->g.runs;
        if (first) rv[c] = (float)v[c];
        rv[c] = mabn_move(rv[c], o->momentum, v[c]);
    }
    window_turn(w->state.window_x2, w->g.channels, o->window, w->g.runs, first ? v : NULL, c0, c1);
}

static void close_backward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels, m = w->norm->options.window;
    const int64_t have = w->g.runs < m ? w->g.runs : m;
    const bool first = iterations_done(w, true) == 0;
    double *mean = w->sums; /* free by now */

    for (int64_t c = c0; first && c < c1; c++) {
        mean[c] = 0;
        for (int64_t i = 0; i < have; i++)
            mean[c] += w->state.window_gz[i * ch + c];
        mean[c] /= (double)have;
    }
    window_turn(w->state.window_gz, ch, (int)m, w->g.runs, first ? mean : NULL, c0, c1);
}

/* ---- by kind ---- */

void mabn_stage_forward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    switch (w->norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
        forward_bn(w, c0, c1);
        break;
    case MABN_NORM_SYNCBN:
        forward_sync(w, c0, c1);
        break;
    case MABN_NORM_MABN: /* all stages go in the order of runs */
        break;
    case MABN_NORM_FRN:
        forward_frn(w, c0, c1);
        break;
    case MABN_NORM_EVONORM_S0:
        (w->affine ? forward_affine : forward_evonorm)(w, c0, c1);
        break;
    default:
        forward_gn(w, c0, c1);
        break;
    }
}

void mabn_stage_forward_ordered(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const enum mabn_norm_kind kind = w->norm->options.kind;
    if (kind == MABN_NORM_MABN) forward_mabn(w, c0, c1);
    if (kind == MABN_NORM_BN || kind == MABN_NORM_BRN) average_runs(w, c0, c1);
}

void mabn_stage_forward_finish(struct mabn_work *w, int64_t c0, int64_t c1)
{
    if (w->state.batches) move_averages(w, c0, c1);
    if (w->state.iters_f32) close_forward(w, c0, c1);
}

void mabn_work_count(struct mabn_work *w)
{
    if (w->state.batches) ++*w->state.batches;
    if (w->state.iters) *w->state.iters += w->g.runs;
    if (w->state.iters_f32) *w->state.iters_f32 += 1;
}

void mabn_stage_backward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    switch (w->norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
        backward_bn(w, c0, c1);
        break;
    case MABN_NORM_SYNCBN:
        backward_sync(w, c0, c1);
        break;
    case MABN_NORM_MABN:
        break;
    case MABN_NORM_FRN:
        backward_frn(w, c0, c1);
        break;
    case MABN_NORM_EVONORM_S0:
        (w->affine ? backward_affine : backward_evonorm)(w, c0, c1);
        break;
    default:
        backward_gn(w, c0, c1);
        break;
    }
}

void mabn_stage_backward_ordered(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const enum mabn_norm_kind kind = w->norm->options.kind;
    if (kind == MABN_NORM_MABN)
        backward_mabn(w, c0, c1);
    else if (kind != MABN_NORM_SYNCBN)
        add_shares(w, c0, c1);
}

void mabn_stage_backward_finish(struct mabn_work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_io *io = w->io;
    const double *dbeta = w->total, *dgamma = dbeta + w->g.channels, *dact = dgamma + w->g.channels;

    if (w->state.iters_f32) close_backward(w, c0, c1);
    for (int64_t c = c0; c < c1; c++) {
        if (io->dgamma) io->dgamma[c] = (float)((io->accumulate ? io->dgamma[c] : 0) + dgamma[c]);
        if (io->dbeta) io->dbeta[c] = (float)((io->accumulate ? io->dbeta[c] : 0) + dbeta[c]);
        if (w->act && io->dact) io->dact[c] = (float)((io->accumulate ? io->dact[c] : 0) + dact[c]);
    }
}
