/* Boxes are processed in chunks, each with all objects, so that repeated reads hit the cache and
 * memory does not grow with objects times boxes. The rescue recomputes the chunks, which gives the
 * same bits. */
#include "detect/match.h"

#include <string.h>

#include "detect/boxes.h"

enum { CHUNK = 2048 };

/* Where IoU comes from: a matrix, or boxes. */
struct source {
    const float *matrix; /* (objects,n) */
    const float *object, *box;
    float one;
    int64_t objects, n;
    float *most; /* (objects) the largest IoU of each */
};

/* The boxes of a chunk by coordinate, and a row of IoU. */
struct chunk {
    int64_t from, n;
    float x1[CHUNK], y1[CHUNK], x2[CHUNK], y2[CHUNK], area[CHUNK];
    float row[CHUNK], best[CHUNK];
    int32_t which[CHUNK];
};

static void load_chunk(struct chunk *k, const struct source *s, int64_t from)
{
    k->from = from;
    k->n = s->n - from < CHUNK ? s->n - from : CHUNK;
    for (int64_t i = 0; i < k->n && s->box; i++) {
        const float *b = s->box + 4 * (from + i);
        k->x1[i] = b[0];
        k->y1[i] = b[1];
        k->x2[i] = b[2];
        k->y2[i] = b[3];
        k->area[i] = (b[2] - b[0] + s->one) * (b[3] - b[1] + s->one);
    }
}

/* As mabn_box_iou_row. */
MABN_CLONES
static void overlap_row(struct chunk *k, const float *object, float one)
{
    const float x1 = object[0], y1 = object[1], x2 = object[2], y2 = object[3];
    const float area = (x2 - x1 + one) * (y2 - y1 + one);
    for (int64_t i = 0; i < k->n; i++) {
        const float left = k->x1[i] > x1 ? k->x1[i] : x1, top = k->y1[i] > y1 ? k->y1[i] : y1;
        const float right = k->x2[i] < x2 ? k->x2[i] : x2;
        const float bottom = k->y2[i] < y2 ? k->y2[i] : y2;
        float w = right - left + one, h = bottom - top + one;
        w = w > 0 ? w : 0;
        h = h > 0 ? h : 0;
        k->row[i] = w * h / (area + k->area[i] - w * h);
    }
}

static void fetch_row(struct chunk *k, const struct source *s, int64_t object)
{
    if (s->matrix)
        memcpy(k->row, s->matrix + object * s->n + k->from, (size_t)k->n * sizeof *k->row);
    else
        overlap_row(k, s->object + 4 * object, s->one);
}

MABN_CLONES
static void take_better(struct chunk *k, int32_t object, float *most)
{
    float m = *most;
    for (int64_t i = 0; i < k->n; i++) {
        const float v = k->row[i];
        k->which[i] = v > k->best[i] ? object : k->which[i];
        k->best[i] = v > k->best[i] ? v : k->best[i];
        m = v > m ? v : m;
    }
    *most = m;
}

static void find_best(struct chunk *k, const struct source *s)
{
    for (int64_t i = 0; i < k->n; i++) {
        k->best[i] = -1;
        k->which[i] = 0;
    }
    for (int64_t g = 0; g < s->objects; g++) {
        fetch_row(k, s, g);
        take_better(k, (int32_t)g, &s->most[g]);
    }
}

static void match_chunk(int32_t *match, struct chunk *k, const struct source *s,
                        const struct mabn_matcher *m)
{
    find_best(k, s);
    for (int64_t i = 0; i < k->n; i++)
        match[k->from + i] = k->best[i] < m->low    ? MABN_MATCH_BACKGROUND
                             : k->best[i] < m->high ? MABN_MATCH_BETWEEN
                                                    : k->which[i];
}

MABN_CLONES
static int any_equals(const float *row, int64_t n, float value)
{
    int any = 0;
    for (int64_t i = 0; i < n; i++)
        any |= row[i] == value;
    return any;
}

/* A box whose IoU is the largest of an object keeps the object that it overlaps most itself. That one
 * is found again, but only in the few chunks that have such boxes. */
static void rescue_chunk(int32_t *match, struct chunk *k, const struct source *s)
{
    bool found = false;
    for (int64_t g = 0; g < s->objects; g++) {
        fetch_row(k, s, g);
        if (!any_equals(k->row, k->n, s->most[g])) continue;
        if (!found) find_best(k, s);
        found = true;
        fetch_row(k, s, g);
        for (int64_t i = 0; i < k->n; i++)
            if (k->row[i] == s->most[g]) match[k->from + i] = k->which[i];
    }
}

static mabn_status match_source(int32_t *match, struct source *s, const struct mabn_matcher *m,
                                struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status;
    struct chunk *k;

    MABN_TRY_GOTO(mabn_scratch_take(scratch, &k, 1, sizeof *k), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &s->most, (size_t)s->objects, sizeof *s->most), out);
    for (int64_t g = 0; g < s->objects; g++)
        s->most[g] = -1;
    for (int64_t from = 0; from < s->n; from += CHUNK) {
        load_chunk(k, s, from);
        match_chunk(match, k, s, m);
    }
    for (int64_t from = 0; from < s->n && m->rescue; from += CHUNK) {
        load_chunk(k, s, from);
        rescue_chunk(match, k, s);
    }
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

mabn_status mabn_match_matrix(int32_t *match, const float *iou, int64_t objects, int64_t n,
                              const struct mabn_matcher *m, struct mabn_scratch *scratch)
{
    struct source s = {.matrix = iou, .objects = objects, .n = n};
    return match_source(match, &s, m, scratch);
}

mabn_status mabn_match_boxes(int32_t *match, const float *object, int64_t objects, const float *box,
                             int64_t n, float one, const struct mabn_matcher *m,
                             struct mabn_scratch *scratch)
{
    struct source s = {.object = object, .box = box, .one = one, .objects = objects, .n = n};
    return match_source(match, &s, m, scratch);
}
