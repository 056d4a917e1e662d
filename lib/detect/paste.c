/* Along each axis a pixel reads two neighbouring places of the map, `low` and `high`, with weights.
 * The map is kept with its border and turned, so that a column of it is contiguous: for a column of
 * pixels the map is first reduced to one line of values, from which each stretch of pixels with the
 * same `low` takes two. */
#include "detect/paste.h"

#include <math.h>
#include <string.h>

enum { MAX_LINE = MABN_PASTE_MAX_SIDE + 2 };

/* Where pixel i (of the image, from `from` on) reads the map. */
struct tap {
    int32_t low, high;
    float w_low, w_high;
};

/* A stretch of pixels that read the same two places. */
struct stretch {
    int32_t from, to; /* pixels of the image */
    int32_t low, high;
};

struct paste {
    const struct mabn_box_convention *c;
    int side, line;     /* 28, 30 */
    const float *map;   /* (line,line) columns first, with its border */
    int x0, x1, y0, y1; /* pixels of the image: x0 … x1 − 1 */
    struct tap *x, *y;  /* (x1 − x0), (y1 − y0) */
    struct stretch *stretch;
    int stretches;
    uint32_t *counts;
    size_t n, room; /* of counts */
    uint64_t end;   /* pixels told so far, column by column */
    int height;
};

/* ---- the two rules along an axis ---- */

static int64_t whole(float v)
{
    return v > 1e9f ? 1000000000 : v > -1e9f ? (int64_t)v : -1000000000; /* NaN too */
}

struct span {
    int64_t first, size; /* of the box in whole pixels, which may lie outside the image */
    int from, to;        /* the part of it in the image */
};

static int clamp_to(int64_t v, int size)
{
    return v < 0 ? 0 : v > size ? size : (int)v;
}

static struct span span_resize(float a, float b, int side, int size)
{
    const float half = (b - a) * 0.5f * ((float)(side + 2) / (float)side);
    const float centre = (b + a) * 0.5f;
    struct span s = {.first = whole(centre - half)};
    const int64_t last = whole(centre + half);
    s.size = last - s.first + 1 > 1 ? last - s.first + 1 : 1;
    s.from = clamp_to(s.first, size);
    s.to = clamp_to(last + 1, size);
    return s;
}

static struct span span_sample(float a, float b, int size)
{
    return (struct span){0, 0, clamp_to(whole(floorf(a)) - 1, size),
                         clamp_to(whole(ceilf(b)) + 1, size)};
}

static void taps_resize(struct tap *t, const struct span *s, int line)
{
    const float scale = (float)line / (float)s->size;
    for (int i = s->from; i < s->to; i++, t++) {
        float at = scale * ((float)(i - s->first) + 0.5f) - 0.5f;
        at = at > 0 ? at : 0;
        t->low = (int32_t)at < line - 1 ? (int32_t)at : line - 1;
        t->high = t->low + 1 < line ? t->low + 1 : line - 1;
        t->w_high = at - (float)t->low;
        t->w_low = 1 - t->w_high;
    }
}

/* Places −1 and `side` of the map are its border here, 0 and side + 1. */
static void taps_sample(struct tap *t, const struct span *s, float a, float b, int side)
{
    for (int i = s->from; i < s->to; i++, t++) {
        const float g = (((float)i + 0.5f) - a) / (b - a) * 2 - 1;
        const float at = fmaf(g + 1, (float)side * 0.5f, -0.5f);
        const bool before = at < -1, after = !(at < (float)side);
        const float low = before ? -1 : after ? (float)side : floorf(at);
        t->low = (int32_t)low + 1;
        t->high = t->low < side + 1 ? t->low + 1 : t->low;
        t->w_high = before || after ? 0 : at - low;
        t->w_low = 1 - t->w_high;
    }
}

/* ---- columns ---- */

/* Room for the runs of another column, of which there are no more than pixels. */
static mabn_status reserve_column(struct paste *p, struct mabn_scratch *scratch)
{
    const size_t need = p->n + (size_t)(p->y1 - p->y0) + 2;
    uint32_t *counts;

    if (need <= p->room) return MABN_OK;
    MABN_TRY(mabn_scratch_take(scratch, &counts, 2 * need + 1024, sizeof *counts));
    if (p->n) memcpy(counts, p->counts, p->n * sizeof *counts);
    p->counts = counts;
    p->room = 2 * need + 1024;
    return MABN_OK;
}

static void add_ones(struct paste *p, uint64_t from, uint64_t to)
{
    if (p->n && from == p->end) {
        p->counts[p->n - 1] += (uint32_t)(to - from);
    } else {
        p->counts[p->n++] = (uint32_t)(from - p->end);
        p->counts[p->n++] = (uint32_t)(to - from);
    }
    p->end = to;
}

/* line: what the map is at a column of pixels, row by row. */
MABN_CLONES
static void reduce(float *line, const float *low, const float *high, float w_low, float w_high,
                   int n)
{
    for (int i = 0; i < n; i++)
        line[i] = fmaf(low[i], w_low, high[i] * w_high);
}

/* The pixel itself, in the arithmetic of the program. */
static inline bool pixel_resize(const float *line, const struct tap *y)
{
    return fmaf(line[y->low], y->w_low, line[y->high] * y->w_high) > 0.5f;
}

static inline bool pixel_sample(const float *low, const float *high, const struct tap *x,
                                const struct tap *y)
{
    float v = low[y->low] * (y->w_low * x->w_low);
    v = fmaf(high[y->low], y->w_low * x->w_high, v);
    v = fmaf(low[y->high], y->w_high * x->w_low, v);
    v = fmaf(high[y->high], y->w_high * x->w_high, v);
    return v >= 0.5f;
}

MABN_CLONES
static void paste_stretch(struct paste *p, const struct stretch *s, const float *line,
                          const struct tap *x, uint64_t column)
{
    const float *low = p->map + x->low * p->line, *high = p->map + x->high * p->line;
    for (int32_t i = s->from; i < s->to; i++) {
        const struct tap *y = p->y + (i - p->y0);
        const bool inside = p->c->paste == MABN_PASTE_RESIZE ? pixel_resize(line, y)
                                                             : pixel_sample(low, high, x, y);
        if (inside) add_ones(p, column + (uint64_t)i, column + (uint64_t)i + 1);
    }
}

static void paste_column(struct paste *p, int x)
{
    static const float margin = 1e-5f; /* far more than rounding */
    const struct tap *tap = p->x + (x - p->x0);
    const uint64_t column = (uint64_t)x * (uint64_t)p->height;
    float line[MAX_LINE];

    reduce(line, p->map + tap->low * p->line, p->map + tap->high * p->line, tap->w_low, tap->w_high,
           p->line);
    for (int k = 0; k < p->stretches; k++) {
        const struct stretch *s = &p->stretch[k];
        const float a = line[s->low], b = line[s->high];
        if (a < 0.5f - margin && b < 0.5f - margin) continue;
        if (a > 0.5f + margin && b > 0.5f + margin)
            add_ones(p, column + (uint64_t)s->from, column + (uint64_t)s->to);
        else
            paste_stretch(p, s, line, tap, column);
    }
}

/* ---- all together ---- */

static mabn_status turn_map(struct paste *p, const float *map, struct mabn_scratch *scratch)
{
    const int side = p->side, line = p->line;
    const size_t n = (size_t)line * (size_t)line;
    float *turned;

    MABN_TRY(mabn_scratch_take(scratch, &turned, n, sizeof *turned));
    memset(turned, 0, n * sizeof *turned);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            turned[(x + 1) * line + y + 1] = map[y * side + x];
    p->map = turned;
    return MABN_OK;
}

static void find_stretches(struct paste *p)
{
    p->stretches = 0;
    for (int i = p->y0; i < p->y1; i++) {
        const struct tap *t = p->y + (i - p->y0);
        struct stretch *last = p->stretches ? &p->stretch[p->stretches - 1] : NULL;
        if (last && last->low == t->low)
            last->to = i + 1;
        else
            p->stretch[p->stretches++] = (struct stretch){i, i + 1, t->low, t->high};
    }
}

static mabn_status prepare(struct paste *p, const float *box, int width, int height,
                           struct mabn_scratch *scratch)
{
    const bool resize = p->c->paste == MABN_PASTE_RESIZE;
    const struct span sx =
        resize ? span_resize(box[0], box[2], p->side, width) : span_sample(box[0], box[2], width);
    const struct span sy =
        resize ? span_resize(box[1], box[3], p->side, height) : span_sample(box[1], box[3], height);
    const int w = sx.to > sx.from ? sx.to - sx.from : 0, h = sy.to > sy.from ? sy.to - sy.from : 0;

    p->x0 = sx.from;
    p->x1 = sx.from + w;
    p->y0 = sy.from;
    p->y1 = sy.from + h;
    MABN_TRY(mabn_scratch_take(scratch, &p->x, (size_t)w, sizeof *p->x));
    MABN_TRY(mabn_scratch_take(scratch, &p->y, (size_t)h, sizeof *p->y));
    MABN_TRY(mabn_scratch_take(scratch, &p->stretch, (size_t)p->line + 1, sizeof *p->stretch));
    if (resize) {
        taps_resize(p->x, &sx, p->line);
        taps_resize(p->y, &sy, p->line);
    } else {
        taps_sample(p->x, &sx, box[0], box[2], p->side);
        taps_sample(p->y, &sy, box[1], box[3], p->side);
    }
    find_stretches(p);
    return MABN_OK;
}

static bool pasteable(const float *box, const struct mabn_box_convention *c)
{
    for (int i = 0; i < 4; i++)
        if (!isfinite(box[i])) return false;
    return c->paste == MABN_PASTE_RESIZE || (box[2] > box[0] && box[3] > box[1]);
}

mabn_status mabn_paste(struct mabn_rle *mask, const float *map, int side, const float *box,
                       int width, int height, const struct mabn_box_convention *c,
                       struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    struct paste p = {.c = c, .side = side, .line = side + 2, .height = height};
    mabn_status status;

    if (side < 1 || side > MABN_PASTE_MAX_SIDE || width < 0 || height < 0)
        return mabn_fail(MABN_ERR_ARG, "map of side %d, image of %d x %d", side, width, height);
    MABN_TRY(mabn_rle_from_counts(mask, NULL, 0, (uint32_t)height, (uint32_t)width));
    if (!pasteable(box, c)) return MABN_OK;
    MABN_TRY_GOTO(turn_map(&p, map, scratch), out);
    MABN_TRY_GOTO(prepare(&p, box, width, height, scratch), out);
    for (int x = p.x0; x < p.x1 && p.y0 < p.y1; x++) {
        MABN_TRY_GOTO(reserve_column(&p, scratch), out);
        paste_column(&p, x);
    }
    MABN_TRY_GOTO(mabn_rle_from_counts(mask, p.counts, p.n, (uint32_t)height, (uint32_t)width),
                  out);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}
