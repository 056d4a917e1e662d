/* RoIAlign.
 *
 * Bilinear weights are products of a weight along y and one along x, so each box needs only two
 * short tables: for every sample along a side its two pixels and their weights.
 *
 * Forward: one box is one thread's work; the inner loop runs over channels.
 *
 * Backward: the samples of a bin that touch the same row of the map are first summed to one weight,
 * likewise the columns, so that
 *
 *     dx[r][c] += Σ_q X[q][c] · (Σ_p Y[p][r] · dy[p][q] / count)
 *
 * and each pixel of the map is visited once for each box. A thread owns a block of channels and
 * takes all boxes in their order: the sums are the same with any number of threads. */
#include "ops/roi_align.h"

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_SAMPLES = 1 << 20, LINE = 16 /* channels of a cache line */ };

/* A sample along one side. */
struct tap {
    int64_t low, high;   /* pixels */
    float w_low, w_high; /* both 0: outside */
    bool inside;
};

/* One side of one box. */
struct side {
    float start, bin;
    int64_t grid; /* samples of a bin */
    int64_t size; /* of the map */
};

struct box {
    struct side y, x;
    float count; /* samples of a bin, at least 1 */
    int level;
    int64_t image;
};

/* ---- geometry ---- */

static struct side make_side(float low, float high, double scale, int64_t size, int bins,
                             const struct mabn_roi_align *op)
{
    const float offset = op->aligned ? 0.5f : 0.0f, factor = (float)scale;
    struct side s = {.start = low * factor - offset, .size = size};
    float extent = high * factor - offset - s.start;
    if (!op->aligned && !(extent >= 1)) extent = 1;
    s.bin = extent / (float)bins;
    const float grid = op->sampling > 0 ? (float)op->sampling : ceilf(s.bin);
    /* Negative extents have no samples. The caller refuses extents beyond the limit. */
    s.grid = grid > 0 ? (int64_t)fminf(grid, 2.0f * MAX_SAMPLES) : 0;
    return s;
}

static int level_of(const struct mabn_rois *rois, int64_t r)
{
    return rois->level ? rois->level[r] : 0;
}

static struct box make_box(const struct mabn_rois *rois, const struct mabn_roi_align *op, int64_t r)
{
    const float *b = rois->box + 4 * r;
    struct box box = {.level = level_of(rois, r), .image = rois->image[r]};
    const struct mabn_roi_level *l = &op->level[box.level];
    box.y = make_side(b[1], b[3], l->scale, l->h, op->rows, op);
    box.x = make_side(b[0], b[2], l->scale, l->w, op->columns, op);
    const int64_t count = box.y.grid * box.x.grid;
    box.count = (float)(count > 1 ? count : 1);
    return box;
}

/* Sample i of bin p. Float operations one by one as in torchvision's. */
static struct tap make_tap(const struct side *s, int64_t p, int64_t i)
{
    float at = s->start + (float)p * s->bin + ((float)i + 0.5f) * s->bin / (float)s->grid;
    struct tap t = {0};
    if (!(at >= -1 && at <= (float)s->size)) return t;
    if (at <= 0) at = 0;
    t.inside = true;
    t.low = (int64_t)at;
    if (t.low >= s->size - 1) {
        t.low = t.high = s->size - 1;
        at = (float)t.low;
    } else {
        t.high = t.low + 1;
    }
    t.w_high = at - (float)t.low;
    t.w_low = 1 - t.w_high;
    return t;
}

static int64_t pixel(const struct box *b, const struct mabn_roi_align *op, int64_t row,
                     int64_t column)
{
    return ((b->image * b->y.size + row) * b->x.size + column) * op->channels;
}

/* ---- checks ---- */

static mabn_status check_op(const struct mabn_roi_align *op)
{
    if (op->levels < 1 || op->levels > MABN_ROI_MAX_LEVELS)
        return mabn_fail(MABN_ERR_ARG, "RoIAlign: %d levels, expected 1 to %d", op->levels,
                         MABN_ROI_MAX_LEVELS);
    if (op->rows < 1 || op->columns < 1 || op->rows > 1024 || op->columns > 1024 ||
        op->sampling < 0 || op->sampling > 1024)
        return mabn_fail(MABN_ERR_ARG, "RoIAlign: %d×%d bins, sampling %d: out of range", op->rows,
                         op->columns, op->sampling);
    if (op->channels < 1) return mabn_fail(MABN_ERR_ARG, "RoIAlign: no channels");
    for (int l = 0; l < op->levels; l++)
        if (op->level[l].h < 1 || op->level[l].w < 1 || !(op->level[l].scale > 0))
            return mabn_fail(MABN_ERR_ARG, "RoIAlign: level %d is empty", l);
    return MABN_OK;
}

static mabn_status check_roi(const struct mabn_rois *rois, const struct mabn_roi_align *op,
                             int64_t r)
{
    const float *b = rois->box + 4 * r;
    if (rois->image[r] < 0 || rois->image[r] >= op->images)
        return mabn_fail(MABN_ERR_ARG, "box %lld: image %d of %lld", (long long)r, rois->image[r],
                         (long long)op->images);
    if (level_of(rois, r) < 0 || level_of(rois, r) >= op->levels)
        return mabn_fail(MABN_ERR_ARG, "box %lld: level %d of %d", (long long)r, level_of(rois, r),
                         op->levels);
    if (!isfinite(b[0]) || !isfinite(b[1]) || !isfinite(b[2]) || !isfinite(b[3]))
        return mabn_fail(MABN_ERR_NONFINITE, "box %lld is not finite: %g %g %g %g", (long long)r,
                         b[0], b[1], b[2], b[3]);
    return MABN_OK;
}

/* Memory for the tables of the largest box. */
struct room {
    int64_t rows, columns; /* samples along a side */
    int64_t h, w;          /* of a map */
};

static mabn_status check(struct room *room, const struct mabn_rois *rois,
                         const struct mabn_roi_align *op)
{
    *room = (struct room){0};
    MABN_TRY(check_op(op));
    for (int64_t r = 0; r < rois->count; r++) {
        MABN_TRY(check_roi(rois, op, r));
        const struct box b = make_box(rois, op, r);
        const int64_t rows = b.y.grid * op->rows, columns = b.x.grid * op->columns;
        if (rows > MAX_SAMPLES || columns > MAX_SAMPLES)
            return mabn_fail(MABN_ERR_LIMIT, "box %lld takes more than %d samples along a side",
                             (long long)r, MAX_SAMPLES);
        if (rows > room->rows) room->rows = rows;
        if (columns > room->columns) room->columns = columns;
        if (b.y.size > room->h) room->h = b.y.size;
        if (b.x.size > room->w) room->w = b.x.size;
    }
    return MABN_OK;
}

mabn_status mabn_rois_check(const struct mabn_rois *rois, const struct mabn_roi_align *op)
{
    struct room room;
    return check(&room, rois, op);
}

static void fill_taps(struct tap *taps, const struct side *s, int bins)
{
    for (int64_t p = 0; p < bins; p++)
        for (int64_t i = 0; i < s->grid; i++)
            taps[p * s->grid + i] = make_tap(s, p, i);
}

/* ---- forward ---- */

/* y += the bilinear mean of four pixels; w as in torchvision: one product for each pixel. */
MABN_CLONES static void add_sample(float *y, const float *const in[4], const float w[4], int64_t n)
{
    const float *a = in[0], *b = in[1], *c = in[2], *d = in[3];
    const float wa = w[0], wb = w[1], wc = w[2], wd = w[3];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
}

MABN_CLONES static void divide(float *y, float by, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] /= by;
}

/* A bin's grid of samples. */
static void align_bin(float *y, const float *x, const struct box *b, const struct tap *ty,
                      const struct tap *tx, const struct mabn_roi_align *op)
{
    memset(y, 0, (size_t)op->channels * sizeof *y);
    for (int64_t i = 0; i < b->y.grid; i++)
        for (int64_t j = 0; j < b->x.grid; j++) {
            const struct tap *v = &ty[i], *h = &tx[j];
            if (!v->inside || !h->inside) continue;
            const float *in[4] = {
                x + pixel(b, op, v->low, h->low), x + pixel(b, op, v->low, h->high),
                x + pixel(b, op, v->high, h->low), x + pixel(b, op, v->high, h->high)};
            const float w[4] = {v->w_low * h->w_low, v->w_low * h->w_high, v->w_high * h->w_low,
                                v->w_high * h->w_high};
            add_sample(y, in, w, op->channels);
        }
    divide(y, b->count, op->channels);
}

static void align_box(float *y, const float *const *x, const struct box *b, struct tap *ty,
                      struct tap *tx, const struct mabn_roi_align *op)
{
    fill_taps(ty, &b->y, op->rows);
    fill_taps(tx, &b->x, op->columns);
    for (int p = 0; p < op->rows; p++)
        for (int q = 0; q < op->columns; q++)
            align_bin(y + (p * op->columns + q) * op->channels, x[b->level], b, ty + p * b->y.grid,
                      tx + q * b->x.grid, op);
}

mabn_status mabn_roi_align_forward(float *y, const float *const *x, const struct mabn_rois *rois,
                                   const struct mabn_roi_align *op)
{
    struct room room;
    void *tables = NULL;
    MABN_TRY(check(&room, rois, op));
    if (rois->count < 1) return MABN_OK;
    const int64_t each = room.rows + room.columns, size = op->rows * op->columns * op->channels;
    const int threads = omp_get_max_threads();
    MABN_TRY(mabn_alloc(&tables, (size_t)(threads * each) * sizeof(struct tap)));

#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (rois->count * size > 4096)
    for (int64_t r = 0; r < rois->count; r++) {
        struct tap *taps = (struct tap *)tables + omp_get_thread_num() * each;
        const struct box b = make_box(rois, op, r);
        align_box(y + r * size, x, &b, taps, taps + room.rows, op);
    }
    mabn_free(tables);
    return MABN_OK;
}

/* ---- backward ---- */

/* The samples of one bin along one side, summed for each pixel: weight[i] is that of pixel
 * first + i. */
struct span {
    int64_t first, count;
    float *weight;
};

static void fill_spans(struct span *spans, float *weights, const struct side *s, int bins)
{
    for (int p = 0; p < bins; p++) {
        struct span *span = &spans[p];
        *span = (struct span){.weight = weights + p * s->size};
        for (int64_t i = 0; i < s->grid; i++) {
            /* From low to high pixels; in a box with negative extent the samples run the other
             * way. */
            const struct tap t = make_tap(s, p, s->bin < 0 ? s->grid - 1 - i : i);
            if (!t.inside) continue;
            if (!span->count) span->first = t.low;
            while (span->count < t.high + 1 - span->first)
                span->weight[span->count++] = 0;
            span->weight[t.low - span->first] += t.w_low;
            span->weight[t.high - span->first] += t.w_high;
        }
    }
}

static float weight_at(const struct span *s, int64_t pixel_)
{
    const int64_t i = pixel_ - s->first;
    return i >= 0 && i < s->count ? s->weight[i] : 0;
}

/* Pixels that any bin touches: [first, end). */
static void bounds(int64_t *first, int64_t *end, const struct span *spans, int bins)
{
    *first = *end = 0;
    for (int p = 0; p < bins; p++) {
        if (!spans[p].count) continue;
        if (*end == 0 || spans[p].first < *first) *first = spans[p].first;
        if (spans[p].first + spans[p].count > *end) *end = spans[p].first + spans[p].count;
    }
}

MABN_CLONES static void add_scaled(float *y, const float *x, float w, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] += w * x[i];
}

/* The storage of one thread. */
struct bench {
    struct span *rows, *columns;
    float *row_weights, *column_weights;
    float *line;               /* (columns,channels): the bins' gradients for one row of pixels */
    int64_t channel, channels; /* the block */
};

/* line[q] = Σ_p Y[p][row]·dy[p][q]/count. False: no bin touches the row. */
static bool sum_rows(const struct bench *k, const float *dy, int64_t row, float count,
                     const struct mabn_roi_align *op)
{
    bool any = false;
    for (int p = 0; p < op->rows; p++) {
        const float w = weight_at(&k->rows[p], row) / count;
        if (w == 0) continue;
        if (!any) memset(k->line, 0, (size_t)(op->columns * k->channels) * sizeof *k->line);
        any = true;
        for (int q = 0; q < op->columns; q++)
            add_scaled(k->line + q * k->channels,
                       dy + (p * op->columns + q) * op->channels + k->channel, w, k->channels);
    }
    return any;
}

static void spread_box(float *dx, const float *dy, const struct box *b, const struct bench *k,
                       const struct mabn_roi_align *op)
{
    int64_t y0, y1, x0, x1;
    fill_spans(k->rows, k->row_weights, &b->y, op->rows);
    fill_spans(k->columns, k->column_weights, &b->x, op->columns);
    bounds(&y0, &y1, k->rows, op->rows);
    bounds(&x0, &x1, k->columns, op->columns);
    for (int64_t row = y0; row < y1; row++) {
        if (x0 == x1 || !sum_rows(k, dy, row, b->count, op)) continue;
        for (int64_t column = x0; column < x1; column++)
            for (int q = 0; q < op->columns; q++) {
                const float w = weight_at(&k->columns[q], column);
                if (w == 0) continue;
                add_scaled(dx + pixel(b, op, row, column) + k->channel, k->line + q * k->channels,
                           w, k->channels);
            }
    }
}

/* The channels [channel, channel + channels) of every box. */
static void spread_channels(float *const *dx, const float *dy, const struct mabn_rois *rois,
                            const struct mabn_roi_align *op, const struct bench *k)
{
    const int64_t size = op->rows * op->columns * op->channels;
    for (int64_t r = 0; r < rois->count; r++) {
        const struct box b = make_box(rois, op, r);
        spread_box(dx[b.level], dy + r * size, &b, k, op);
    }
}

static void clear(float *const *dx, const struct mabn_roi_align *op)
{
    for (int l = 0; l < op->levels; l++) {
        const int64_t rows = op->images * op->level[l].h, width = op->level[l].w * op->channels;
#pragma omp parallel for schedule(static) if (rows * width > 65536)
        for (int64_t row = 0; row < rows; row++)
            memset(dx[l] + row * width, 0, (size_t)width * sizeof **dx);
    }
}

static int64_t round_line(int64_t floats)
{
    return (floats + LINE - 1) / LINE * LINE;
}

/* Cuts a thread's storage into its parts. Returns its size in bytes. */
static size_t lay_bench(struct bench *k, char *storage, const struct room *room, int64_t block,
                        const struct mabn_roi_align *op)
{
    const size_t spans = (size_t)round_line((op->rows + op->columns) * (int64_t)sizeof *k->rows);
    const int64_t y = round_line(op->rows * room->h), x = round_line(op->columns * room->w);
    const int64_t line = round_line(op->columns * block);
    if (storage) {
        k->rows = (struct span *)(void *)storage;
        k->columns = k->rows + op->rows;
        k->row_weights = (float *)(void *)(storage + spans);
        k->column_weights = k->row_weights + y;
        k->line = k->column_weights + x;
    }
    return spans + (size_t)(y + x + line) * sizeof(float);
}

mabn_status mabn_roi_align_backward(float *const *dx, const float *dy, const struct mabn_rois *rois,
                                    const struct mabn_roi_align *op, bool add)
{
    struct room room;
    void *storage = NULL;
    MABN_TRY(check(&room, rois, op));
    if (!add) clear(dx, op);
    if (rois->count < 1) return MABN_OK;
    const int threads = omp_get_max_threads();
    const int64_t block = round_line((op->channels + threads - 1) / threads);
    const int64_t blocks = (op->channels + block - 1) / block;
    struct bench none;
    const size_t each = lay_bench(&none, NULL, &room, block, op);
    MABN_TRY(mabn_alloc(&storage, (size_t)blocks * each));

#pragma omp parallel for schedule(static, 1) num_threads(threads) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        struct bench k = {.channel = i * block};
        k.channels = op->channels - k.channel < block ? op->channels - k.channel : block;
        lay_bench(&k, (char *)storage + (size_t)i * each, &room, block, op);
        spread_channels(dx, dy, rois, op, &k);
    }
    mabn_free(storage);
    return MABN_OK;
}

/* ---- the definition ---- */

/* The value of bin (p,q) is the sum of weight·x[at] over its samples and their corners, divided by
 * box->count. Forward (x) computes that value, backward (dx) its transpose. */
struct visit {
    float *y;
    const float *x;
    double *dx;
    const float *dy;
};

static void visit_bin(const struct visit *v, const struct box *b, const struct mabn_roi_align *op,
                      int64_t p, int64_t q, int64_t c)
{
    double sum = 0;
    for (int64_t i = 0; i < b->y.grid; i++)
        for (int64_t j = 0; j < b->x.grid; j++) {
            const struct tap ty = make_tap(&b->y, p, i), tx = make_tap(&b->x, q, j);
            for (int corner = 0; corner < 4; corner++) {
                const int64_t row = corner & 2 ? ty.high : ty.low;
                const int64_t column = corner & 1 ? tx.high : tx.low;
                const double w = (double)(corner & 2 ? ty.w_high : ty.w_low) *
                                 (corner & 1 ? tx.w_high : tx.w_low);
                const int64_t at = pixel(b, op, row, column) + c;
                if (!ty.inside || !tx.inside) continue;
                if (v->x) sum += w * v->x[at];
                if (v->dx) v->dx[at] += w * *v->dy / b->count;
            }
        }
    if (v->x) *v->y = (float)(sum / b->count);
}

static void visit_box(float *y, const float *x, double *dx, const float *dy, const struct box *b,
                      const struct mabn_roi_align *op)
{
    for (int64_t p = 0; p < op->rows; p++)
        for (int64_t q = 0; q < op->columns; q++)
            for (int64_t c = 0; c < op->channels; c++) {
                const int64_t at = (p * op->columns + q) * op->channels + c;
                const struct visit v = {y ? y + at : NULL, x, dx, dy ? dy + at : NULL};
                visit_bin(&v, b, op, p, q, c);
            }
}

mabn_status mabn_roi_align_forward_reference(float *y, const float *const *x,
                                             const struct mabn_rois *rois,
                                             const struct mabn_roi_align *op)
{
    struct room room;
    MABN_TRY(check(&room, rois, op));
    for (int64_t r = 0; r < rois->count; r++) {
        const struct box b = make_box(rois, op, r);
        visit_box(y + r * op->rows * op->columns * op->channels, x[b.level], NULL, NULL, &b, op);
    }
    return MABN_OK;
}

mabn_status mabn_roi_align_backward_reference(double *const *dx, const float *dy,
                                              const struct mabn_rois *rois,
                                              const struct mabn_roi_align *op)
{
    struct room room;
    MABN_TRY(check(&room, rois, op));
    for (int64_t r = 0; r < rois->count; r++) {
        const struct box b = make_box(rois, op, r);
        visit_box(NULL, NULL, dx[b.level], dy + r * op->rows * op->columns * op->channels, &b, op);
    }
    return MABN_OK;
}
