/* The normalization engine on the CPU.
 *
 * A call's runs (one statistic each) are taken in waves: as many runs as stay in the caches
 * together, at least one. A wave is walked three times by all threads: sums over fixed chunks of
 * rows, the coefficients of every channel (runs in order), apply over the same chunks by the same
 * threads. Waves and threads decide only who computes what, never in which order numbers are added.
 *
 * MABN, where r is active: y = a·x + b with a = gamma/sqrt(running_var + eps) is known before the
 * sums (the window's variance cancels), so a wave is walked once, applying and summing; channels
 * where r turns out to be clipped, which is rare, make their run be applied again.
 *
 * Few channels make short rows; then `fold` rows are taken as one wide row of fold·C channels with
 * repeated coefficients, and the sums are folded together at the end. */
#include <omp.h>
#include <string.h>

#include "norm/coefficients.h"
#include "norm/internal.h"
#include "norm/kernels.h"

enum {
    NARROW = 64,               /* fewer channels than this are widened… */
    WIDE = 128,                /* …to at most this */
    CHUNK_VALUES = 32 * 1024,  /* a chunk: 128 KiB of x, part of one core's L2 */
    MAX_CHUNKS = 128,          /* of a run, and items of a wave */
    WAVE_VALUES = 1024 * 1024, /* 4 MiB of x */
    SERIAL_VALUES = 16 * 1024, /* below this threads cost more than they bring */
    CHANNEL_BLOCK = 64,        /* coefficients: channels a thread takes at a time */
    ARRAYS = 7                 /* wide coefficient arrays of a run: a b shift p q r, first */
};

enum array { AT_A, AT_B, AT_SHIFT, AT_P, AT_Q, AT_R };

struct geometry {
    int64_t channels, fold, width;
    int64_t runs, run_samples;
    int64_t run_rows, last_rows; /* rows (of C) of every run but the last; of the last */
    int64_t chunk_rows, chunks;  /* wide rows a chunk; chunks a run */
    int64_t wave_runs;           /* at most */
};

struct work {
    const struct mabn_norm *norm;
    const struct mabn_norm_io *io;
    struct geometry g;
    struct mabn_norm_state state;
    struct mabn_norm_saved saved;
    /* scratch */
    double *partial; /* (items,2,width) */
    double *sums;    /* (wave_runs,2,C) */
    double *total;   /* (2,C), over all runs of the call */
    float *wide;     /* (wave_runs,ARRAYS,width) */
    /* the wave */
    int64_t first, count; /* runs */
    bool serial;
    bool clipped; /* a channel's a is not the known one */
    /* SyncBN */
    double sync_n, sync_ranks;
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t round_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b * b;
}

static void geometry_init(struct geometry *g, const struct mabn_norm *norm, int64_t samples,
                          int64_t positions)
{
    g->channels = norm->channels;
    g->fold = g->channels < NARROW ? WIDE / g->channels : 1;
    g->width = g->fold * g->channels;
    g->runs = mabn_norm_runs(norm, samples);
    g->run_samples = mabn_norm_run_samples(norm, samples);
    g->run_rows = g->run_samples * positions;
    g->last_rows = samples * positions - (g->runs - 1) * g->run_rows;
    int64_t wide_rows = max64(1, g->run_rows / g->fold);
    g->chunk_rows = max64(16, round_up((CHUNK_VALUES + g->width - 1) / g->width, 4));
    g->chunk_rows = max64(g->chunk_rows, round_up((wide_rows + MAX_CHUNKS - 1) / MAX_CHUNKS, 4));
    g->chunks = (wide_rows + g->chunk_rows - 1) / g->chunk_rows;
    int64_t values = max64(1, g->run_rows * g->channels);
    g->wave_runs = min64(WAVE_VALUES / values, MAX_CHUNKS / g->chunks);
    g->wave_runs = max64(1, min64(g->wave_runs, g->runs));
}

static size_t align64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

struct layout {
    size_t partial, sums, total, wide, bytes;
};

static struct layout scratch_layout(const struct geometry *g)
{
    const size_t runs = (size_t)g->wave_runs, width = (size_t)g->width, c = (size_t)g->channels;
    struct layout l;

    l.partial = 0;
    l.sums = l.partial + align64(runs * (size_t)g->chunks * 2 * width * sizeof(double));
    /* SyncBN sends two more numbers behind its one run's sums. */
    l.total = l.sums + align64((runs * 2 * c + 2) * sizeof(double));
    l.wide = l.total + align64(2 * c * sizeof(double));
    l.bytes = l.wide + align64(runs * ARRAYS * width * sizeof(float));
    return l;
}

size_t mabn_norm_cpu_scratch(const struct mabn_norm *norm, int64_t samples, int64_t positions)
{
    struct mabn_norm plain = *norm; /* as inference takes it */
    struct geometry g;
    size_t train, infer;

    geometry_init(&g, norm, samples, positions);
    train = scratch_layout(&g).bytes;
    plain.options.norm_batch = 0;
    geometry_init(&g, &plain, samples, positions);
    infer = scratch_layout(&g).bytes;
    return train > infer ? train : infer;
}

static void work_init(struct work *w, const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    memset(w, 0, sizeof *w);
    w->norm = norm;
    w->io = io;
    geometry_init(&w->g, norm, io->samples, io->positions);
    struct layout l = scratch_layout(&w->g);
    char *p = (char *)io->scratch;
    w->partial = (double *)(p + l.partial);
    w->sums = (double *)(p + l.sums);
    w->total = (double *)(p + l.total);
    w->wide = (float *)(p + l.wide);
    mabn_norm_state_view(&w->state, norm, io->state);
    if (io->saved) mabn_norm_saved_view(&w->saved, norm, io->saved, io->samples);
    memset(w->total, 0, 2 * (size_t)norm->channels * sizeof(double));
}

static bool next_wave(struct work *w)
{
    w->first += w->count;
    w->count = min64(w->g.wave_runs, w->g.runs - w->first);
    w->serial = w->count * w->g.run_rows * w->g.channels < SERIAL_VALUES;
    return w->count > 0;
}

static int64_t run_rows(const struct work *w, int64_t run)
{
    return run == w->g.runs - 1 ? w->g.last_rows : w->g.run_rows;
}

static int64_t run_samples(const struct work *w, int64_t run)
{
    return run == w->g.runs - 1 ? w->io->samples - run * w->g.run_samples : w->g.run_samples;
}

/* Wide coefficient array `which` of the wave's run `i`. */
static float *wide(const struct work *w, int64_t i, enum array which)
{
    return w->wide + (i * ARRAYS + (int64_t)which) * w->g.width;
}

/* ---- chunks ---- */

/* One item of a wave: rows of one run. `rows` wide ones, then `tail` of C channels (in a run's last
 * chunk, what does not fill a wide row). */
struct item {
    int64_t i;      /* run of the wave */
    int64_t offset; /* into x */
    int64_t rows, tail;
};

static struct item item_at(const struct work *w, int64_t index)
{
    const struct geometry *g = &w->g;
    struct item it;
    it.i = index / g->chunks;
    const int64_t chunk = index % g->chunks, run = w->first + it.i;
    const int64_t rows = run_rows(w, run), wide_rows = rows / g->fold;
    const int64_t start = min64(chunk * g->chunk_rows, wide_rows);
    it.rows = min64(g->chunk_rows, wide_rows - start);
    it.tail = chunk == g->chunks - 1 ? rows % g->fold : 0;
    it.offset = run * g->run_rows * g->channels + start * g->width;
    return it;
}

static int64_t items(const struct work *w)
{
    return w->count * w->g.chunks;
}

/* The item's two partial sums (width each), zeroed. */
static double *partial_at(const struct work *w, int64_t index)
{
    double *p = w->partial + index * 2 * w->g.width;
    memset(p, 0, 2 * (size_t)w->g.width * sizeof *p);
    return p;
}

static const float *offset(const float *p, int64_t by)
{
    return p ? p + by : NULL;
}

/* Sums of x: Σ x² alone (in place 1), or Σ (x − shift) and Σ (x − shift)². */
static void forward_sums(const struct work *w, bool shifted)
{
    const int64_t width = w->g.width, c = w->g.channels;

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        struct item it = item_at(w, index);
        double *sum = partial_at(w, index), *square = sum + width;
        const float *x = w->io->x + it.offset, *tail = x + it.rows * width;
        if (shifted) {
            const float *shift = wide(w, it.i, AT_SHIFT);
            mabn_kernel_moments(sum, square, x, shift, it.rows, width);
            mabn_kernel_moments(sum, square, tail, shift, it.tail, c);
        } else {
            mabn_kernel_square(square, x, it.rows, width);
            mabn_kernel_square(square, tail, it.tail, c);
        }
    }
}

/* y from the wave's wide a and b; with `squares`, Σ x² on the way. */
static void forward_apply(const struct work *w, bool squares)
{
    const struct mabn_norm_io *io = w->io;
    const int64_t width = w->g.width, c = w->g.channels;

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        struct item it = item_at(w, index);
        double *square = squares ? partial_at(w, index) + width : NULL;
        const float *a = wide(w, it.i, AT_A), *b = wide(w, it.i, AT_B);
        const int64_t at = it.offset, tail = at + it.rows * width;
        mabn_kernel_apply(io->y + at, square, io->x + at, offset(io->residual, at), a, b, io->relu,
                          it.rows, width);
        mabn_kernel_apply(io->y + tail, square, io->x + tail, offset(io->residual, tail), a, b,
                          io->relu, it.tail, c);
    }
}

static struct mabn_kernel_grad grad_in(const struct work *w, const struct item *it)
{
    const struct mabn_norm_io *io = w->io;
    struct mabn_kernel_grad in;
    in.dy = io->dy + it->offset;
    in.x = offset(io->x, it->offset);
    in.mask = !io->relu ? MABN_MASK_NONE : io->y ? MABN_MASK_Y : MABN_MASK_X;
    in.y = in.mask == MABN_MASK_Y ? io->y + it->offset : NULL;
    in.a = wide(w, it->i, AT_A);
    in.b = wide(w, it->i, AT_B);
    in.shift = wide(w, it->i, AT_SHIFT);
    return in;
}

static void grad_advance(struct mabn_kernel_grad *in, int64_t by)
{
    in->dy += by;
    in->x = offset(in->x, by);
    in->y = offset(in->y, by);
}

static void backward_sums(const struct work *w)
{
    const int64_t width = w->g.width;

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        struct item it = item_at(w, index);
        double *sum = partial_at(w, index);
        struct mabn_kernel_grad in = grad_in(w, &it);
        mabn_kernel_grad_moments(sum, sum + width, &in, it.rows, width);
        grad_advance(&in, it.rows * width);
        mabn_kernel_grad_moments(sum, sum + width, &in, it.tail, w->g.channels);
    }
}

static void backward_apply(const struct work *w, bool full)
{
    const struct mabn_norm_io *io = w->io;
    const int64_t width = w->g.width;

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        struct item it = item_at(w, index);
        struct mabn_kernel_grad in = grad_in(w, &it);
        const float *p = wide(w, it.i, AT_P), *q = full ? wide(w, it.i, AT_Q) : NULL,
                    *r = wide(w, it.i, AT_R);
        float *dx = io->dx + it.offset, *dres = io->dresidual ? io->dresidual + it.offset : NULL;
        const int64_t by = it.rows * width;
        mabn_kernel_grad_apply(dx, dres, &in, p, q, r, it.rows, width);
        grad_advance(&in, by);
        mabn_kernel_grad_apply(dx + by, dres ? dres + by : NULL, &in, p, q, r, it.tail,
                               w->g.channels);
    }
}

/* ---- coefficients ---- */

/* Call body(w, c0, c1) for blocks of channels, in parallel; blocks do not cut groups of channels.
 */
static void over_channels(struct work *w, void (*body)(struct work *, int64_t, int64_t))
{
    const int64_t c = w->g.channels;
    const bool joined = !mabn_norm_folds(w->norm->options.kind);
    const int64_t group = joined ? c / w->norm->options.groups : 1;
    const int64_t block = round_up(CHANNEL_BLOCK, group);
    const int64_t blocks = (c + block - 1) / block;

#pragma omp parallel for schedule(static) if (!w->serial && blocks > 1)
    for (int64_t i = 0; i < blocks; i++)
        body(w, i * block, min64(c, (i + 1) * block));
}

/* The wave's partial sums, folded and added in a fixed order, into w->sums. */
static void reduce(struct work *w, int64_t c0, int64_t c1)
{
    const struct geometry *g = &w->g;

    for (int64_t i = 0; i < w->count; i++)
        for (int which = 0; which < 2; which++) {
            double *out = w->sums + (i * 2 + which) * g->channels;
            memset(out + c0, 0, (size_t)(c1 - c0) * sizeof *out);
            for (int64_t chunk = 0; chunk < g->chunks; chunk++)
                for (int64_t f = 0; f < g->fold; f++) {
                    const double *in = w->partial +
                                       ((i * g->chunks + chunk) * 2 + which) * g->width +
                                       f * g->channels;
                    for (int64_t c = c0; c < c1; c++)
                        out[c] += in[c];
                }
        }
}

static void widen(const struct work *w, int64_t i, enum array which, int64_t c, float value)
{
    float *out = wide(w, i, which) + c;
    for (int64_t f = 0; f < w->g.fold; f++)
        out[f * w->g.channels] = value;
}

static void keep(const struct work *w, int64_t i, int64_t c, const struct mabn_coef *k)
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

static struct mabn_coef kept(const struct work *w, int64_t i, int64_t c)
{
    const struct mabn_norm_saved *s = &w->saved;
    const int64_t at = (w->first + i) * w->g.channels + c;
    struct mabn_coef k = {s->a[at], s->b[at], s->mean[at], s->istd[at], s->scale[at], s->shift[at]};
    return k;
}

/* The first row of each run: what its moments are taken around, so that a mean that is large
 * against the deviation does no harm. */
static void set_shift(struct work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++) {
        const float *x = w->io->x + (w->first + i) * w->g.run_rows * w->g.channels;
        for (int64_t c = c0; c < c1; c++)
            widen(w, i, AT_SHIFT, c, x[c]);
    }
}

static void run_moments(const struct work *w, int64_t i, int64_t c, double *mean, double *var)
{
    const double *sum = w->sums + i * 2 * w->g.channels, *square = sum + w->g.channels;
    mabn_moments_finish(mean, var, wide(w, i, AT_SHIFT)[c], sum[c], square[c],
                        (double)run_rows(w, w->first + i));
}

static void coefs_bn(struct work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const bool renorm = o->kind == MABN_NORM_BRN;
    const int64_t call = renorm ? *w->state.batches + 1 : 0;
    const double r_max = mabn_ramp(1, o->r_max, call, o->ramp_start, o->r_ramp_end);
    const double d_max = mabn_ramp(0, o->d_max, call, o->ramp_start, o->d_ramp_end);
    double *mean_sum = w->total, *var_sum = w->total + w->g.channels;

    for (int64_t i = 0; i < w->count; i++) {
        const double n = (double)run_rows(w, w->first + i);
        const double weight = (double)run_samples(w, w->first + i) / (double)w->io->samples;
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            double mean, var;
            run_moments(w, i, c, &mean, &var);
            if (renorm)
                mabn_coef_brn(&k, mean, var, o->eps, w->state.running_mean[c],
                              sqrt(w->state.running_var[c] + o->eps), r_max, d_max, w->io->gamma[c],
                              w->io->beta[c]);
            else
                mabn_coef_bn(&k, mean, var, o->eps, w->io->gamma[c], w->io->beta[c]);
            keep(w, i, c, &k);
            mean_sum[c] += weight * mean;
            var_sum[c] += weight * (renorm ? sqrt(var + o->eps) : mabn_unbiased(var, n));
        }
    }
}

/* Moves an average of BN's kind; BRN averages the deviation, as its paper does. */
static void move_averages(struct work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const double keep_old = o->momentum, take = 1 - o->momentum;
    float *rm = w->state.running_mean, *rv = w->state.running_var;
    const double *mean = w->total, *var = w->total + w->g.channels;

    for (int64_t c = c0; c < c1; c++) {
        rm[c] = (float)(keep_old * rm[c] + take * mean[c]);
        if (o->kind == MABN_NORM_BRN) {
            double std = keep_old * sqrt(rv[c] + o->eps) + take * var[c];
            rv[c] = (float)(std * std - o->eps);
        } else {
            rv[c] = (float)(keep_old * rv[c] + take * var[c]);
        }
    }
}

/* GN, LN, IN: the channels of a group share mean and variance. */
static void coefs_gn(struct work *w, int64_t c0, int64_t c1)
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

/* SyncBN: sums over all ranks, in plain x and x², behind the run's sums the count and who is here.
 */
static mabn_status sync_forward(struct work *w)
{
    const int64_t c = w->g.channels;
    const double n = (double)(w->io->samples * w->io->positions);
    double *sum = w->sums, *square = sum + c, *count = square + c;
    const bool mean_of_means = w->norm->options.sync_reference;
    const double scale = mean_of_means && n > 0 ? 1 / n : 1;

    for (int64_t i = 0; i < c; i++) {
        const double k = n > 0 ? wide(w, 0, AT_SHIFT)[i] : 0;
        square[i] = (square[i] + 2 * k * sum[i] + n * k * k) * scale;
        sum[i] = (sum[i] + n * k) * scale;
    }
    count[0] = n;
    count[1] = n > 0;
    if (w->norm->sync)
        MABN_TRY(w->norm->sync->all_reduce(w->norm->sync->context, sum, (size_t)(2 * c + 2)));
    w->sync_n = count[0];
    w->sync_ranks = count[1];
    return MABN_OK;
}

/* The n that the unbiased variance is taken of: the reference takes this rank's times the ranks. */
static double sync_elements(const struct work *w)
{
    return w->norm->options.sync_reference
               ? (double)(w->io->samples * w->io->positions) * w->sync_ranks
               : w->sync_n;
}

static void coefs_sync(struct work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const double divide = o->sync_reference ? w->sync_ranks : w->sync_n;
    const double *sum = w->sums, *square = sum + w->g.channels;

    for (int64_t c = c0; c < c1; c++) {
        struct mabn_coef k;
        double mean = sum[c] / divide, var = square[c] / divide - mean * mean;
        if (var < 0) var = 0;
        const double unbiased = mabn_unbiased(var, sync_elements(w));
        mabn_coef_bn(&k, mean, o->sync_reference ? unbiased : var, o->eps, w->io->gamma[c],
                     w->io->beta[c]);
        keep(w, 0, c, &k);
        w->total[c] = mean;
        w->total[w->g.channels + c] = unbiased;
    }
}

/* ---- MABN ---- */

static struct mabn_window_step step_of(const struct work *w, int64_t run, int64_t done)
{
    const struct mabn_norm_options *o = &w->norm->options;
    if (o->window_rule == MABN_WINDOW_SUBBATCH)
        return mabn_step_subbatch(done + 1, run, o->window, o->r_start);
    return mabn_step_iteration(done + 1 + run, o->window, o->warmup, o->r_start);
}

/* Iterations finished before this call, in a forward; a backward finds them already counted. */
static int64_t iterations_done(const struct work *w, bool backward)
{
    if (w->state.iters) return *w->state.iters - (backward ? w->g.runs : 0);
    return (int64_t)*w->state.iters_f32 - (backward ? 1 : 0);
}

/* The wave can be applied before it is measured: r is active and what it is applied to stays (so
 * that it can be applied again), and running_var does not move within the wave. */
static bool knows_affine(const struct work *w)
{
    const struct mabn_norm_options *o = &w->norm->options;
    if (o->kind != MABN_NORM_MABN || w->io->y == w->io->residual) return false;
    if (o->window_rule == MABN_WINDOW_ITERATION && w->count > 1) return false;
    return step_of(w, w->first, iterations_done(w, false)).renorm;
}

static void known_affine(struct work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            const double gamma = w->io->gamma[c];
            const double scale = mabn_known_scale(w->state.running_var[c], w->norm->options.eps);
            widen(w, i, AT_A, c, (float)(gamma * scale));
            widen(w, i, AT_B, c, w->io->beta[c]);
        }
}

static void coefs_mabn(struct work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const int64_t ch = w->g.channels, done = iterations_done(w, false);
    float *rv = w->state.running_var;
    bool clipped = false;

    for (int64_t i = 0; i < w->count; i++) {
        const struct mabn_window_step step = step_of(w, w->first + i, done);
        const double *square = w->sums + (i * 2 + 1) * ch;
        const double n = (double)run_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k;
            double v = mabn_window_put(w->state.window_x2 + c, ch, o->window, square[c] / n, step);
            mabn_coef_mabn(&k, v, rv[c], o->eps, o->lambda, step.renorm, w->io->gamma[c],
                           w->io->beta[c]);
            clipped |= wide(w, i, AT_A)[c] != k.a;
            keep(w, i, c, &k);
            if (o->window_rule == MABN_WINDOW_ITERATION)
                rv[c] = mabn_move(rv[c], o->momentum, v);
            else
                w->total[c] += v;
        }
    }
    if (clipped) {
#pragma omp atomic write
        w->clipped = true;
    }
}

/* Sub-batch rule: the call is over. */
static void close_window_forward(struct work *w, int64_t c0, int64_t c1)
{
    const struct mabn_norm_options *o = &w->norm->options;
    const bool first = iterations_done(w, false) == 0;
    float *rv = w->state.running_var;

    for (int64_t c = c0; c < c1; c++) {
        double v = w->total[c] / (double)w->g.runs;
        if (first) rv[c] = (float)v;
        rv[c] = mabn_move(rv[c], o->momentum, v);
        mabn_window_turn(w->state.window_x2 + c, w->g.channels, o->window, w->g.runs, first, v);
    }
}

static void close_window_backward(struct work *w, int64_t c0, int64_t c1)
{
    const bool first = iterations_done(w, true) == 0;

    /* total was spent on dgamma and dbeta: the fill is the mean of what stands in the window. */
    for (int64_t c = c0; c < c1; c++) {
        float *rows = w->state.window_gz + c;
        double sum = 0;
        int64_t have = min64(w->g.runs, w->norm->options.window);
        for (int64_t i = 0; first && i < have; i++)
            sum += rows[i * w->g.channels];
        mabn_window_turn(rows, w->g.channels, w->norm->options.window, w->g.runs, first,
                         sum / (double)have);
    }
}

/* ---- forward ---- */

static void wave_coefficients(struct work *w)
{
    switch (w->norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
        over_channels(w, coefs_bn);
        break;
    case MABN_NORM_SYNCBN:
        over_channels(w, coefs_sync);
        break;
    case MABN_NORM_MABN:
        over_channels(w, coefs_mabn);
        break;
    default:
        over_channels(w, coefs_gn);
        break;
    }
}

static void finish_forward(struct work *w)
{
    switch (w->norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
        over_channels(w, move_averages);
        ++*w->state.batches;
        break;
    case MABN_NORM_MABN:
        if (w->state.iters) {
            *w->state.iters += w->g.runs;
        } else {
            over_channels(w, close_window_forward);
            *w->state.iters_f32 += 1;
        }
        break;
    default:
        break;
    }
}

/* None and frozen: nothing is measured, y = a·x + b. */
static mabn_status apply_fixed(struct work *w)
{
    const struct mabn_norm_io *io = w->io;
    float *a = (float *)w->partial, *b = a + w->g.channels;

    MABN_TRY(mabn_norm_affine(w->norm, a, b, io->gamma, io->beta, io->state));
    while (next_wave(w)) {
        for (int64_t i = 0; i < w->count; i++)
            for (int64_t c = 0; c < w->g.channels; c++) {
                struct mabn_coef k = {a[c], b[c], 0, 0, 0, 0};
                keep(w, i, c, &k);
            }
        forward_apply(w, false);
    }
    return MABN_OK;
}

static mabn_status measure_and_apply(struct work *w)
{
    const bool shifted = w->norm->options.kind != MABN_NORM_MABN;
    const bool empty = !w->io->samples || !w->io->positions;

    while (next_wave(w)) {
        const bool known = knows_affine(w);
        w->clipped = false;
        if (known) {
            over_channels(w, known_affine);
            forward_apply(w, true);
        } else {
            if (shifted && !empty) over_channels(w, set_shift);
            forward_sums(w, shifted);
        }
        over_channels(w, reduce);
        if (w->norm->options.kind == MABN_NORM_SYNCBN) {
            MABN_TRY(sync_forward(w));
            if (!w->sync_n) return MABN_OK;
        }
        wave_coefficients(w);
        if (!known || w->clipped) forward_apply(w, false);
    }
    finish_forward(w);
    return MABN_OK;
}

mabn_status mabn_norm_cpu_forward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct work w;

    work_init(&w, norm, io);
    if (!mabn_norm_measures(norm->options.kind)) return apply_fixed(&w);
    return measure_and_apply(&w);
}

mabn_status mabn_norm_cpu_infer(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct mabn_norm_io call = *io;
    struct mabn_norm plain = *norm;
    struct work w;

    call.saved = NULL;
    if (!mabn_norm_folds(norm->options.kind)) {
        work_init(&w, norm, &call);
        return measure_and_apply(&w);
    }
    /* One run of everything. */
    plain.options.norm_batch = 0;
    work_init(&w, &plain, &call);
    return apply_fixed(&w);
}

void mabn_norm_cpu_reapply(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct work w;

    work_init(&w, norm, io);
    while (next_wave(&w)) {
        for (int64_t i = 0; i < w.count; i++)
            for (int64_t c = 0; c < w.g.channels; c++) {
                struct mabn_coef k = kept(&w, i, c);
                widen(&w, i, AT_A, c, k.a);
                widen(&w, i, AT_B, c, k.b);
            }
        forward_apply(&w, false);
    }
}

/* ---- backward ---- */

/* What the kernels need of forward: a, b for the mask, the mean as shift. */
static void recall(struct work *w, int64_t c0, int64_t c1)
{
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t c = c0; c < c1; c++) {
            struct mabn_coef k = kept(w, i, c);
            widen(w, i, AT_A, c, k.a);
            widen(w, i, AT_B, c, k.b);
            widen(w, i, AT_SHIFT, c, k.mean);
        }
}

static void set_grad(const struct work *w, int64_t i, int64_t c, const struct mabn_grad_coef *k)
{
    widen(w, i, AT_P, c, k->p);
    widen(w, i, AT_Q, c, k->q);
    widen(w, i, AT_R, c, k->r);
}

/* One run's share of dgamma and dbeta. */
static void add_parameters(struct work *w, int64_t i, int64_t c, const struct mabn_coef *f)
{
    const double *sum = w->sums + i * 2 * w->g.channels, *dot = sum + w->g.channels;
    w->total[c] += f->scale * dot[c] + f->shift * sum[c];
    w->total[w->g.channels + c] += sum[c];
}

static void grads_bn(struct work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels;

    for (int64_t i = 0; i < w->count; i++) {
        const double *sum = w->sums + i * 2 * ch, *dot = sum + ch;
        const double n = (double)run_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            const double gamma = w->io->gamma[c];
            struct mabn_grad_coef k;
            add_parameters(w, i, c, &f);
            mabn_grad_bn(&k, &f, gamma, gamma * sum[c], gamma * dot[c], n, 1);
            set_grad(w, i, c, &k);
        }
    }
}

static void grads_gn(struct work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels, size = ch / w->norm->options.groups;

    for (int64_t i = 0; i < w->count; i++) {
        const double *sum = w->sums + i * 2 * ch, *dot = sum + ch;
        const double n = (double)(run_rows(w, w->first + i) * size);
        for (int64_t g = c0; g < c1; g += size) {
            double gsum = 0, gdot = 0;
            for (int64_t c = g; c < g + size; c++) {
                gsum += w->io->gamma[c] * sum[c];
                gdot += w->io->gamma[c] * dot[c];
            }
            for (int64_t c = g; c < g + size; c++) {
                const struct mabn_coef f = kept(w, i, c);
                struct mabn_grad_coef k;
                add_parameters(w, i, c, &f);
                mabn_grad_bn(&k, &f, w->io->gamma[c], gsum, gdot, n, 1);
                set_grad(w, i, c, &k);
            }
        }
    }
}

static void local_parameters(struct work *w, int64_t c0, int64_t c1)
{
    for (int64_t c = c0; c < c1; c++) {
        const struct mabn_coef f = kept(w, 0, c);
        add_parameters(w, 0, c, &f);
    }
}

static mabn_status sync_backward(struct work *w)
{
    const int64_t c = w->g.channels;
    double *count = w->sums + 2 * c;

    count[0] = (double)(w->io->samples * w->io->positions);
    count[1] = count[0] > 0;
    if (w->norm->sync)
        MABN_TRY(w->norm->sync->all_reduce(w->norm->sync->context, w->sums, (size_t)(2 * c + 2)));
    w->sync_n = count[0];
    w->sync_ranks = count[1];
    return MABN_OK;
}

static void grads_sync(struct work *w, int64_t c0, int64_t c1)
{
    const double *sum = w->sums, *dot = sum + w->g.channels, n = sync_elements(w);
    const double correct = w->norm->options.sync_reference ? mabn_unbiased(1, n) : 1;

    for (int64_t c = c0; c < c1; c++) {
        const struct mabn_coef f = kept(w, 0, c);
        const double gamma = w->io->gamma[c];
        struct mabn_grad_coef k;
        mabn_grad_bn(&k, &f, gamma, gamma * sum[c], gamma * dot[c], n, correct);
        set_grad(w, 0, c, &k);
    }
}

static void grads_mabn(struct work *w, int64_t c0, int64_t c1)
{
    const int64_t ch = w->g.channels, done = iterations_done(w, true);

    for (int64_t i = 0; i < w->count; i++) {
        const struct mabn_window_step step = step_of(w, w->first + i, done);
        const double *dot = w->sums + (i * 2 + 1) * ch;
        const double n = (double)run_rows(w, w->first + i);
        for (int64_t c = c0; c < c1; c++) {
            const struct mabn_coef f = kept(w, i, c);
            const double gamma = w->io->gamma[c];
            struct mabn_grad_coef k;
            add_parameters(w, i, c, &f);
            double psi = mabn_window_put(w->state.window_gz + c, ch, w->norm->options.window,
                                         mabn_psi(&f, gamma, dot[c], n), step);
            mabn_grad_mabn(&k, &f, gamma, psi);
            set_grad(w, i, c, &k);
        }
    }
}

static mabn_status wave_gradients(struct work *w)
{
    switch (w->norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
        over_channels(w, grads_bn);
        break;
    case MABN_NORM_SYNCBN:
        over_channels(w, local_parameters);
        MABN_TRY(sync_backward(w));
        over_channels(w, grads_sync);
        break;
    case MABN_NORM_MABN:
        over_channels(w, grads_mabn);
        break;
    default:
        over_channels(w, grads_gn);
        break;
    }
    return MABN_OK;
}

static void write_parameters(const struct work *w)
{
    const struct mabn_norm_io *io = w->io;
    const double *dgamma = w->total, *dbeta = w->total + w->g.channels;

    for (int64_t c = 0; c < w->g.channels; c++) {
        if (io->dgamma) io->dgamma[c] = (float)((io->accumulate ? io->dgamma[c] : 0) + dgamma[c]);
        if (io->dbeta) io->dbeta[c] = (float)((io->accumulate ? io->dbeta[c] : 0) + dbeta[c]);
    }
}

/* None and frozen: dx = a·g. */
static void backward_fixed(struct work *w)
{
    while (next_wave(w)) {
        recall(w, 0, w->g.channels);
        for (int64_t i = 0; i < w->count; i++)
            memcpy(wide(w, i, AT_P), wide(w, i, AT_A), (size_t)w->g.width * sizeof(float));
        backward_apply(w, false);
    }
}

mabn_status mabn_norm_cpu_backward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct work w;

    work_init(&w, norm, io);
    if (!mabn_norm_measures(norm->options.kind)) {
        backward_fixed(&w);
        return MABN_OK;
    }
    while (next_wave(&w)) {
        over_channels(&w, recall);
        backward_sums(&w);
        over_channels(&w, reduce);
        MABN_TRY(wave_gradients(&w));
        backward_apply(&w, true);
    }
    if (w.state.iters_f32) over_channels(&w, close_window_backward);
    write_parameters(&w);
    return MABN_OK;
}
