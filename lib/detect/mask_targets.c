/* The legacy rule has quirks that are kept: the corner of the box is held inside the image, the
 * scale is 28 / (x2 − x1) although the box is x2 − x1 + 1 wide, polygons are scaled in float32 by
 * ratios computed in double. Where the reference would fail with a division by zero, a side of 0
 * counts as 1 here. */
#include "detect/mask_targets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/roi_align.h"

static const double FAR = 1e8; /* coco/mask.h takes no more */

/* From the image to the canvas of a box. */
struct view {
    bool single; /* arithmetic in float32 */
    double x, y, scale_x, scale_y;
};

/* What mabn_rle_from_polygon needs, kept from polygon to polygon. */
struct canvas {
    struct mabn_rle rle;
    double *xy;
    size_t room;
};

static double held(float v, int size)
{
    return v < 0 ? 0 : v > (float)size - 1 ? (double)size - 1 : v;
}

static struct view view_legacy(const float *box, int side, int width, int height)
{
    const double w = (double)box[2] - box[0], h = (double)box[3] - box[1];
    return (struct view){true, held(box[0], width), held(box[1], height), side / (w != 0 ? w : 1),
                         side / (h != 0 ? h : 1)};
}

static struct view view_plain(const float *box, int side)
{
    const double w = (double)box[2] - box[0], h = (double)box[3] - box[1];
    return (struct view){false, box[0], box[1], side / (w > 0.1 ? w : 0.1),
                         side / (h > 0.1 ? h : 0.1)};
}

static double seen(const struct view *v, float number, bool vertical)
{
    const double from = vertical ? v->y : v->x, scale = vertical ? v->scale_y : v->scale_x;
    const double s = v->single ? (double)((number - (float)from) * (float)scale)
                               : ((double)number - from) * scale;
    return fmin(fmax(s, -FAR), FAR); /* NaN too */
}

/* Runs are by columns, a target is by rows. */
static void add_runs(uint8_t *target, const struct mabn_rle *r, int side)
{
    uint32_t at = 0;
    for (size_t i = 0; i < r->count; i++) {
        const uint32_t end = at + r->counts[i];
        if (i & 1)
            for (uint32_t k = at; k < end; k++)
                target[k % (uint32_t)side * (uint32_t)side + k / (uint32_t)side] = 1;
        at = end;
    }
}

static mabn_status fill_polygon(struct canvas *c, const float *numbers, size_t n,
                                const struct view *v, int height, int width)
{
    if (n > c->room) {
        c->room = n + n / 2;
        c->xy = mabn_xrealloc(c->xy, c->room * sizeof *c->xy);
    }
    for (size_t i = 0; i < n; i++)
        c->xy[i] = seen(v, numbers[i], i & 1);
    return mabn_rle_from_polygon(&c->rle, c->xy, n, (uint32_t)height, (uint32_t)width);
}

static mabn_status fill_object(uint8_t *target, struct canvas *c, const struct mabn_outlines *o,
                               int64_t object, const struct view *v, int side)
{
    memset(target, 0, (size_t)side * (size_t)side);
    for (uint32_t p = o->first_polygon[object]; p < o->first_polygon[object + 1]; p++) {
        const uint32_t first = o->first_number[p];
        MABN_TRY(
            fill_polygon(c, o->numbers + first, o->first_number[p + 1] - first, v, side, side));
        add_runs(target, &c->rle, side);
    }
    return MABN_OK;
}

static mabn_status check_objects(const int32_t *object, int64_t n, const struct mabn_outlines *o)
{
    for (int64_t i = 0; i < n; i++)
        if (object[i] < 0 || object[i] >= o->count)
            return mabn_fail(MABN_ERR_ARG, "box %lld: object %d of %lld", (long long)i,
                             (int)object[i], (long long)o->count);
    return MABN_OK;
}

static void release(struct canvas *c)
{
    mabn_rle_release(&c->rle);
    free(c->xy);
}

mabn_status mabn_mask_targets_fill(uint8_t *target, const float *box, const int32_t *object,
                                   int64_t n, int side, const struct mabn_outlines *outlines,
                                   const struct mabn_box_convention *c)
{
    const size_t pixels = (size_t)side * (size_t)side;
    struct canvas canvas = {{0}, NULL, 0};
    mabn_status status;

    MABN_TRY_GOTO(check_objects(object, n, outlines), out);
    for (int64_t i = 0; i < n; i++) {
        const struct view v =
            c->mask == MABN_MASK_POLYGON_LEGACY
                ? view_legacy(box + 4 * i, side, outlines->width, outlines->height)
                : view_plain(box + 4 * i, side);
        MABN_TRY_GOTO(
            fill_object(target + (size_t)i * pixels, &canvas, outlines, object[i], &v, side), out);
    }
out:
    release(&canvas);
    return status;
}

/* ---- pooled ---- */

static void add_to_picture(float *picture, const struct mabn_rle *r)
{
    size_t at = 0;
    for (size_t i = 0; i < r->count; at += r->counts[i++])
        for (size_t k = at; i % 2 && k < at + r->counts[i]; k++)
            picture[k % r->height * r->width + k / r->height] = 1;
}

void mabn_mask_picture(float *picture, const struct mabn_rle *mask)
{
    memset(picture, 0, (size_t)mask->height * mask->width * sizeof *picture);
    add_to_picture(picture, mask);
}

static mabn_status make_picture(float *picture, struct canvas *c, const struct mabn_outlines *o,
                                int64_t object)
{
    static const struct view whole = {false, 0, 0, 1, 1};

    memset(picture, 0, (size_t)o->height * (size_t)o->width * sizeof *picture);
    for (uint32_t p = o->first_polygon[object]; p < o->first_polygon[object + 1]; p++) {
        const uint32_t first = o->first_number[p];
        MABN_TRY(fill_polygon(c, o->numbers + first, o->first_number[p + 1] - first, &whole,
                              o->height, o->width));
        add_to_picture(picture, &c->rle);
    }
    return MABN_OK;
}

/* A box has as many samples as pixels; those that come here are clipped to the picture. */
static mabn_status check_box(const float *box, int height, int width)
{
    const float w = box[2] - box[0], h = box[3] - box[1];
    if (w <= 2 * (float)width + 2 && h <= 2 * (float)height + 2) return MABN_OK;
    return mabn_fail(MABN_ERR_LIMIT, "box of %g x %g pixels in a picture of %d x %d", (double)w,
                     (double)h, width, height);
}

mabn_status mabn_mask_pool(float *target, const float *picture, int height, int width,
                           const float *box, int64_t n, int side, bool aligned)
{
    static const int32_t first = 0;
    const struct mabn_roi_align op = {.images = 1,
                                      .channels = 1,
                                      .levels = 1,
                                      .level = {{height, width, 1}},
                                      .rows = side,
                                      .columns = side,
                                      .aligned = aligned};
    for (int64_t i = 0; i < n; i++) {
        const struct mabn_rois roi = {1, box + 4 * i, &first, NULL};
        MABN_TRY(check_box(box + 4 * i, height, width));
        MABN_TRY(mabn_roi_align_forward(target + i * side * side, &picture, &roi, &op));
    }
    return MABN_OK;
}

/* All boxes of one object; its picture is made when there is one. */
static mabn_status pool_object(float *target, float *picture, struct canvas *canvas,
                               const float *box, const int32_t *object, int64_t n, int side,
                               const struct mabn_outlines *o, int64_t which, bool aligned)
{
    bool made = false;
    for (int64_t i = 0; i < n; i++) {
        if (object[i] != which) continue;
        if (!made) MABN_TRY(make_picture(picture, canvas, o, which));
        made = true;
        MABN_TRY(mabn_mask_pool(target + i * side * side, picture, o->height, o->width, box + 4 * i,
                                1, side, aligned));
    }
    return MABN_OK;
}

mabn_status mabn_mask_targets_pool(float *target, const float *box, const int32_t *object,
                                   int64_t n, int side, const struct mabn_outlines *outlines,
                                   bool aligned, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    const size_t pixels = (size_t)outlines->height * (size_t)outlines->width;
    struct canvas canvas = {{0}, NULL, 0};
    mabn_status status;
    float *picture;

    MABN_TRY_GOTO(check_objects(object, n, outlines), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &picture, pixels, sizeof *picture), out);
    for (int64_t g = 0; g < outlines->count; g++)
        MABN_TRY_GOTO(
            pool_object(target, picture, &canvas, box, object, n, side, outlines, g, aligned), out);
out:
    mabn_scratch_back(scratch, mark);
    release(&canvas);
    return status;
}
