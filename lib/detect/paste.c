/* Along each axis a pixel reads two neighbouring places of the map, `low` and `high`, with weights.
 * The map is kept with its border and turned, so that a column of it is contiguous: for a column of
 * pixels the map is first reduced to one line of values, from which each stretch of pixels with the
 * same `low` takes two. */
#include "detect/paste.h"

#include <math.h>
#include <string.h>

#include "detect/paste_rule.h"

enum { MAX_LINE = MABN_PASTE_MAX_SIDE + 2 };

/* A stretch of pixels that read the same two places. */
struct stretch {
    int32_t from, to; /* pixels of the image */
    int32_t low, high;
};

struct paste {
    const struct mabn_box_convention *c;
    int side, line;               /* 28, 30 */
    const float *map;             /* (line,line) columns first, with its border */
    int x0, x1, y0, y1;           /* pixels of the image: x0 … x1 − 1 */
    struct mabn_paste_tap *x, *y; /* (x1 − x0), (y1 − y0) */
    struct stretch *stretch;
    int stretches;
    uint32_t *counts;
    size_t n, room; /* of counts */
    uint64_t end;   /* pixels written so far, column by column */
    int height;
};

/* ---- the two rules along an axis ---- */

static void taps_resize(struct mabn_paste_tap *t, const struct mabn_paste_span *s, int line)
{
    for (int i = s->from; i < s->to; i++)
        *t++ = mabn_paste_tap_resize(i, s, line);
}

static void taps_sample(struct mabn_paste_tap *t, const struct mabn_paste_span *s, float a, float b,
                        int side)
{
    for (int i = s->from; i < s->to; i++)
        *t++ = mabn_paste_tap_sample(i, a, b, side);
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
        line[i] = mabn_paste_between(low[i], high[i], w_low, w_high);
}

MABN_CLONES
static void paste_stretch(struct paste *p, const struct stretch *s, const float *line,
                          const struct mabn_paste_tap *x, uint64_t column)
{
    const float *low = p->map + x->low * p->line, *high = p->map + x->high * p->line;
    for (int32_t i = s->from; i < s->to; i++) {
        const struct mabn_paste_tap *y = p->y + (i - p->y0);
        const bool inside = p->c->paste == MABN_PASTE_RESIZE
                                ? mabn_paste_pixel_resize(line[y->low], line[y->high], y)
                                : mabn_paste_pixel_sample(low[y->low], high[y->low], low[y->high],
                                                          high[y->high], x, y);
        if (inside) add_ones(p, column + (uint64_t)i, column + (uint64_t)i + 1);
    }
}

static void paste_column(struct paste *p, int x)
{
    static const float margin = 1e-5f; /* far more than rounding */
    const struct mabn_paste_tap *tap = p->x + (x - p->x0);
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
        const struct mabn_paste_tap *t = p->y + (i - p->y0);
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
    const struct mabn_paste_span sx = resize
                                          ? mabn_paste_span_resize(box[0], box[2], p->side, width)
                                          : mabn_paste_span_sample(box[0], box[2], width);
    const struct mabn_paste_span sy = resize
                                          ? mabn_paste_span_resize(box[1], box[3], p->side, height)
                                          : mabn_paste_span_sample(box[1], box[3], height);
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
