/* One row of IoU at a time, one object with all boxes, so that room does not grow with objects
 * times boxes; the rescue computes each row a second time, which gives the same bits. */
#include "detect/match.h"

#include "detect/boxes.h"

/* Where rows come from: a matrix, or boxes. */
struct rows {
    const float *matrix;
    const float *object, *box;
    float one, *row;
    int64_t n;
};

static const float *row_of(const struct rows *r, int64_t object)
{
    if (r->matrix) return r->matrix + object * r->n;
    mabn_box_iou_row(r->row, r->object + 4 * object, r->box, r->n, r->one);
    return r->row;
}

MABN_CLONES
static void take_better(float *best, int32_t *which, const float *row, int64_t n, int32_t object)
{
    for (int64_t i = 0; i < n; i++) {
        which[i] = row[i] > best[i] ? object : which[i];
        best[i] = row[i] > best[i] ? row[i] : best[i];
    }
}

static void find_best(float *best, int32_t *which, const struct rows *r, int64_t objects)
{
    for (int64_t i = 0; i < r->n; i++) {
        best[i] = -1;
        which[i] = 0;
    }
    for (int64_t g = 0; g < objects; g++)
        take_better(best, which, row_of(r, g), r->n, (int32_t)g);
}

MABN_CLONES
static float largest(const float *row, int64_t n)
{
    float most = -1;
    for (int64_t i = 0; i < n; i++)
        most = row[i] > most ? row[i] : most;
    return most;
}

static void rescue(int32_t *match, const int32_t *which, const struct rows *r, int64_t objects)
{
    for (int64_t g = 0; g < objects; g++) {
        const float *row = row_of(r, g);
        const float most = largest(row, r->n);
        for (int64_t i = 0; i < r->n; i++)
            if (row[i] == most) match[i] = which[i];
    }
}

static mabn_status match_rows(int32_t *match, struct rows *r, int64_t objects,
                              const struct mabn_matcher *m, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status;
    float *best;
    int32_t *which;

    MABN_TRY_GOTO(mabn_scratch_take(scratch, &best, (size_t)r->n, sizeof *best), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &which, (size_t)r->n, sizeof *which), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &r->row, (size_t)r->n, sizeof *r->row), out);
    find_best(best, which, r, objects);
    for (int64_t i = 0; i < r->n; i++)
        match[i] = best[i] < m->low    ? MABN_MATCH_BACKGROUND
                   : best[i] < m->high ? MABN_MATCH_BETWEEN
                                       : which[i];
    if (m->rescue) rescue(match, which, r, objects);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

mabn_status mabn_match_matrix(int32_t *match, const float *iou, int64_t objects, int64_t n,
                              const struct mabn_matcher *m, struct mabn_scratch *scratch)
{
    struct rows r = {.matrix = iou, .n = n};
    return match_rows(match, &r, objects, m, scratch);
}

mabn_status mabn_match_boxes(int32_t *match, const float *object, int64_t objects, const float *box,
                             int64_t n, float one, const struct mabn_matcher *m,
                             struct mabn_scratch *scratch)
{
    struct rows r = {.object = object, .box = box, .one = one, .n = n};
    return match_rows(match, &r, objects, m, scratch);
}

mabn_status mabn_match_best(int32_t *best, const float *object, int64_t objects, const float *box,
                            int64_t n, float one, struct mabn_scratch *scratch)
{
    const struct mabn_matcher any = {.high = -1, .low = -1};
    if (objects > 0) return mabn_match_boxes(best, object, objects, box, n, one, &any, scratch);
    for (int64_t i = 0; i < n; i++)
        best[i] = 0;
    return MABN_OK;
}
