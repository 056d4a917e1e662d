/* Cutting up a call, and walking over its rows with the kernels. See work.h and norm_cpu.c. */
#include "norm/work.h"

#include <string.h>

#include "norm/kernels.h"

enum {
    NARROW = 64,               /* rows with fewer channels than this are widened */
    WIDE = 128,                /* to at most this many */
    CHUNK_VALUES = 32 * 1024,  /* a chunk: 128 KiB of x, part of one core's L2 */
    MAX_CHUNKS = 128,          /* of a run; and chunks of a wave */
    WAVE_VALUES = 1024 * 1024, /* 4 MiB of x */
    UNIT_VALUES = 16 * 1024,   /* less is not worth a thread */
    LARGE_RUN = 512 * 1024, /* runs of this many values for each thread would evict each other from
                             * a shared cache: threads share their rows instead */
    MAX_SLOTS = 16          /* threads that may share runs */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void shape_init(struct mabn_work_shape *g, const struct mabn_norm *norm, int64_t samples,
                       int64_t positions)
{
    g->channels = norm->channels;
    g->fold = g->channels < NARROW ? WIDE / g->channels : 1;
    g->width = g->fold * g->channels;
    g->sums = mabn_norm_act_name(norm->options.kind) ? 3 : 2;
    g->runs = mabn_norm_runs(norm, samples);
    g->run_samples = mabn_norm_run_samples(norm, samples);
    g->run_rows = g->run_samples * positions;
    g->last_rows = samples * positions - (g->runs - 1) * g->run_rows;

    const int64_t wide_rows = max64(1, g->run_rows / g->fold);
    const int64_t values = max64(1, g->run_rows * g->channels);
    const int64_t least = max64(ceil_div(CHUNK_VALUES, g->width), ceil_div(wide_rows, MAX_CHUNKS));
    g->chunk_rows = max64(16, ceil_div(least, 4) * 4);
    g->chunks = ceil_div(wide_rows, g->chunk_rows);
    g->wave_runs = min64(WAVE_VALUES / values, MAX_CHUNKS / g->chunks);
    g->wave_runs = max64(1, min64(g->wave_runs, g->runs));
    g->unit_runs = max64(1, min64(g->wave_runs, UNIT_VALUES / values));
    g->slots = values > LARGE_RUN ? 1 : min64(MAX_SLOTS, ceil_div(g->runs, g->unit_runs));
}

static size_t align64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

struct layout {
    size_t partial, sums, total, wide, act, bytes;
};

/* Scratch for `runs` runs and `items` chunks of them at a time. */
static struct layout scratch_layout(const struct mabn_work_shape *g, int64_t runs, int64_t items)
{
    const size_t r = (size_t)runs, w = (size_t)g->width, c = (size_t)g->channels;
    const size_t sums = (size_t)g->sums;
    struct layout l;

    l.partial = 0;
    l.sums = l.partial + align64((size_t)items * sums * w * sizeof(double));
    /* SyncBN sends two more numbers after the sums of its run. */
    l.total = l.sums + align64((r * sums * c + 2) * sizeof(double));
    l.wide = l.total + align64(sums * c * sizeof(double));
    l.act = l.wide + align64(r * MABN_WORK_ARRAYS * w * sizeof(float));
    l.bytes = l.act + (sums > 2 ? align64(w * sizeof(float)) : 0);
    return l;
}

/* Enough for every call of at most this size. A smaller call may need more than a larger one, so this is
 * a bound. Runs at a time: those of a wave, or slots times the runs of a unit. Chunks at a time:
 * MAX_CHUNKS of a wave, or those of MAX_SLOTS runs that are not large, or one for each small run of the
 * units. Neither exceeds the whole call's: each chunk but the last of a run has CHUNK_VALUES or more. */
size_t mabn_work_scratch(const struct mabn_norm *norm, int64_t samples, int64_t positions)
{
    struct mabn_work_shape g;
    shape_init(&g, norm, samples, positions);
    const int64_t unit = max64(1, min64(MAX_CHUNKS, UNIT_VALUES / g.channels));
    const int64_t values = samples * positions * g.channels;
    const int64_t slots = max64(MAX_SLOTS * unit, MAX_SLOTS * (LARGE_RUN / CHUNK_VALUES + 1));
    const int64_t runs = min64(max64(MAX_CHUNKS, MAX_SLOTS * unit), samples + unit);
    const int64_t items =
        min64(max64(MAX_CHUNKS, slots), samples + unit + values / CHUNK_VALUES + 1);
    return scratch_layout(&g, runs, items).bytes;
}

static bool is_half(const struct mabn_work *w)
{
    return w->io->dtype == MABN_DTYPE_BF16;
}

/* tau is rounded to y's type, so that y alone shows where it was cut off. */
static void set_act(struct mabn_work *w, float *act)
{
    const bool round = is_half(w) && w->norm->options.kind == MABN_NORM_FRN;
    for (int64_t i = 0; i < w->g.width; i++) {
        const float v = w->io->act[i % w->g.channels];
        act[i] = round ? mabn_bf16_float(mabn_bf16_round(v)) : v;
    }
    w->act = act;
}

void mabn_work_init(struct mabn_work *w, const struct mabn_norm *norm,
                    const struct mabn_norm_io *io)
{
    memset(w, 0, sizeof *w);
    w->norm = norm;
    w->io = io;
    shape_init(&w->g, norm, io->samples, io->positions);
    const int64_t runs = max64(w->g.wave_runs, w->g.slots * w->g.unit_runs);
    struct layout l = scratch_layout(&w->g, runs, runs * w->g.chunks);
    char *p = (char *)io->scratch;
    w->partial = (double *)(p + l.partial);
    w->sums = (double *)(p + l.sums);
    w->total = (double *)(p + l.total);
    w->wide = (float *)(p + l.wide);
    w->affine = norm->options.kind == MABN_NORM_EVONORM_S0 && !io->act;
    if (io->act && w->g.sums > 2) set_act(w, (float *)(p + l.act));
    w->serial = io->samples * io->positions * norm->channels < UNIT_VALUES;
    mabn_norm_state_view(&w->state, norm, io->state);
    if (io->saved) mabn_norm_saved_view(&w->saved, norm, io->saved, io->samples);
    memset(w->total, 0, (size_t)(w->g.sums * norm->channels) * sizeof(double));
}

bool mabn_work_next(struct mabn_work *w)
{
    w->first += w->count;
    w->count = min64(w->g.wave_runs, w->g.runs - w->first);
    return w->count > 0;
}

struct mabn_work mabn_work_unit(const struct mabn_work *w, int64_t unit, int slot)
{
    struct mabn_work one = *w;
    const int64_t runs = w->g.unit_runs, at = slot * runs;

    one.first = unit * runs;
    one.count = min64(runs, w->g.runs - one.first);
    one.partial += at * w->g.chunks * w->g.sums * w->g.width;
    one.sums += at * w->g.sums * w->g.channels;
    one.wide += at * MABN_WORK_ARRAYS * w->g.width;
    one.serial = true;
    one.shared = true;
    return one;
}

/* ---- chunks ---- */

/* One chunk of one run: `rows` wide rows, then `tail` of C channels (in a run's last chunk, what
 * does not fill a wide row). */
struct item {
    int64_t i;      /* run first + i */
    int64_t offset; /* into x */
    int64_t rows, tail;
};

static struct item item_at(const struct mabn_work *w, int64_t index)
{
    const struct mabn_work_shape *g = &w->g;
    struct item it;
    it.i = index / g->chunks;
    const int64_t chunk = index % g->chunks, run = w->first + it.i;
    const int64_t rows = mabn_work_rows(w, run), wide_rows = rows / g->fold;
    const int64_t start = min64(chunk * g->chunk_rows, wide_rows);
    it.rows = min64(g->chunk_rows, wide_rows - start);
    it.tail = chunk == g->chunks - 1 ? rows % g->fold : 0;
    it.offset = run * g->run_rows * g->channels + start * g->width;
    return it;
}

static int64_t items(const struct mabn_work *w)
{
    return w->count * w->g.chunks;
}

/* The item's sums (width each), zeroed. */
static double *partial_at(const struct mabn_work *w, int64_t index)
{
    double *p = w->partial + index * w->g.sums * w->g.width;
    memset(p, 0, (size_t)(w->g.sums * w->g.width) * sizeof *p);
    return p;
}

/* `by` values into an array of rows that may be NULL. */
static void *offset(const void *p, int64_t by, bool half)
{
    const size_t size = half ? sizeof(uint16_t) : sizeof(float);
    return p ? (char *)p + (size_t)by * size : NULL;
}

void mabn_work_sums(const struct mabn_work *w, bool shifted)
{
    const int64_t width = w->g.width, c = w->g.channels;
    const bool half = is_half(w);

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        const struct item it = item_at(w, index);
        double *sum = partial_at(w, index), *square = sum + width;
        const void *x = offset(w->io->x, it.offset, half);
        const void *tail = offset(x, it.rows * width, half);
        if (shifted) {
            const float *shift = mabn_work_wide(w, it.i, AT_SHIFT);
            mabn_kernel_moments(sum, square, x, half, shift, it.rows, width);
            mabn_kernel_moments(sum, square, tail, half, shift, it.tail, c);
        } else {
            mabn_kernel_square(square, x, half, it.rows, width);
            mabn_kernel_square(square, tail, half, it.tail, c);
        }
    }
}

static struct mabn_kernel_act act_of(const struct mabn_work *w, const float *a, const float *b)
{
    const struct mabn_kernel_act act = {.evonorm = w->norm->options.kind == MABN_NORM_EVONORM_S0,
                                        .half = is_half(w),
                                        .a = a,
                                        .b = b,
                                        .act = w->act};
    return act;
}

static void act_apply(const struct mabn_work *w, const float *a, const float *b, int64_t at,
                      int64_t rows, int64_t width)
{
    const struct mabn_norm_io *io = w->io;
    const bool half = is_half(w);
    const void *residual = offset(io->residual, at, half);
    mabn_kernel_act_apply(offset(io->y, at, half), offset(io->x, at, half), residual,
                          act_of(w, a, b), rows, width);
}

void mabn_work_apply(const struct mabn_work *w, bool squares)
{
    const struct mabn_norm_io *io = w->io;
    const int64_t width = w->g.width, c = w->g.channels;
    const bool half = is_half(w);

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        const struct item it = item_at(w, index);
        double *square = squares ? partial_at(w, index) + width : NULL;
        const float *a = mabn_work_wide(w, it.i, AT_A), *b = mabn_work_wide(w, it.i, AT_B);
        const int64_t at = it.offset, tail = at + it.rows * width;
        if (w->act) {
            act_apply(w, a, b, at, it.rows, width);
            act_apply(w, a, b, tail, it.tail, c);
            continue;
        }
        mabn_kernel_apply(offset(io->y, at, half), square, offset(io->x, at, half),
                          offset(io->residual, at, half), half, a, b, io->relu, it.rows, width);
        mabn_kernel_apply(offset(io->y, tail, half), square, offset(io->x, tail, half),
                          offset(io->residual, tail, half), half, a, b, io->relu, it.tail, c);
    }
}

/* Norms without statistics read x only for the mask. */
static bool needs_x(const struct mabn_work *w, enum mabn_mask mask)
{
    return mask == MABN_MASK_X || mabn_norm_measures(w->norm->options.kind);
}

/* With a shortcut the sums' pass writes g, its gradient; what follows reads g in place of dy and mask.
 * Norms with an activation of their own, or without sums, write it with dx. */
static bool sums_write(const struct mabn_work *w)
{
    return w->io->dresidual && !w->act && mabn_norm_measures(w->norm->options.kind);
}

static struct mabn_kernel_grad grad_in(const struct mabn_work *w, const struct item *it)
{
    const struct mabn_norm_io *io = w->io;
    struct mabn_kernel_grad in;
    in.half = is_half(w);
    in.dy = offset(io->dy, it->offset, in.half);
    in.mask = !io->relu ? MABN_MASK_NONE : io->y ? MABN_MASK_Y : MABN_MASK_X;
    in.x = offset(needs_x(w, in.mask) ? io->x : io->dy, it->offset, in.half);
    in.y = in.mask == MABN_MASK_Y ? offset(io->y, it->offset, in.half) : NULL;
    in.a = mabn_work_wide(w, it->i, AT_A);
    in.b = mabn_work_wide(w, it->i, AT_B);
    in.shift = mabn_work_wide(w, it->i, AT_SHIFT);
    return in;
}

/* After the sums have written g. */
static struct mabn_kernel_grad grad_summed(const struct mabn_work *w, const struct item *it)
{
    struct mabn_kernel_grad in = grad_in(w, it);
    in.dy = offset(w->io->dresidual, it->offset, in.half);
    in.x = offset(w->io->x, it->offset, in.half);
    in.mask = MABN_MASK_NONE;
    in.y = NULL;
    return in;
}

static void grad_advance(struct mabn_kernel_grad *in, int64_t by)
{
    in->dy = offset(in->dy, by, in->half);
    in->x = offset(in->x, by, in->half);
    in->y = offset(in->y, by, in->half);
}

static void grad_sums(const struct mabn_work *w, double *sum, void *g,
                      const struct mabn_kernel_grad *in, int64_t rows, int64_t width)
{
    const int64_t step = w->g.width;
    if (w->act)
        mabn_kernel_act_grad_moments(sum, sum + step, sum + 2 * step, in, act_of(w, in->a, in->b),
                                     rows, width);
    else
        mabn_kernel_grad_moments(sum, sum + step, g, in, rows, width);
}

static void grad_write(const struct mabn_work *w, void *dx, void *dresidual,
                       const struct mabn_kernel_grad *in, const float *p, const float *q,
                       const float *r, int64_t rows, int64_t width)
{
    if (w->act)
        mabn_kernel_act_grad_apply(dx, dresidual, in, act_of(w, in->a, in->b), p, q, rows, width);
    else
        mabn_kernel_grad_apply(dx, dresidual, in, p, q, r, rows, width);
}

void mabn_work_grad_sums(const struct mabn_work *w)
{
    const int64_t width = w->g.width;
    const bool writes = sums_write(w);

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        const struct item it = item_at(w, index);
        double *sum = partial_at(w, index);
        struct mabn_kernel_grad in = grad_in(w, &it);
        void *g = writes ? offset(w->io->dresidual, it.offset, in.half) : NULL;
        grad_sums(w, sum, g, &in, it.rows, width);
        grad_advance(&in, it.rows * width);
        grad_sums(w, sum, offset(g, it.rows * width, in.half), &in, it.tail, w->g.channels);
    }
}

void mabn_work_grad_apply(const struct mabn_work *w, bool full)
{
    const struct mabn_norm_io *io = w->io;
    const int64_t width = w->g.width;

#pragma omp parallel for schedule(static) if (!w->serial)
    for (int64_t index = 0; index < items(w); index++) {
        const struct item it = item_at(w, index);
        struct mabn_kernel_grad in = sums_write(w) ? grad_summed(w, &it) : grad_in(w, &it);
        const float *p = mabn_work_wide(w, it.i, AT_P), *r = mabn_work_wide(w, it.i, AT_R);
        const float *q = full ? mabn_work_wide(w, it.i, AT_Q) : NULL;
        void *dx = offset(io->dx, it.offset, in.half);
        void *dres = sums_write(w) ? NULL : offset(io->dresidual, it.offset, in.half);
        const int64_t by = it.rows * width;
        grad_write(w, dx, dres, &in, p, q, r, it.rows, width);
        grad_advance(&in, by);
        grad_write(w, offset(dx, by, in.half), offset(dres, by, in.half), &in, p, q, r, it.tail,
                   w->g.channels);
    }
}
