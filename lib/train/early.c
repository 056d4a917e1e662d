#include "train/early.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coco/draw.h"

enum { TILE = 400, COLUMNS = 4 };

struct mabn_early {
    char *path;
    int left; /* pictures to come */
    struct mabn_scene_options scene;
    const struct mabn_coco *coco;
    struct mabn_sheet *sheet;
    struct mabn_image image;
    float *drawn; /* a raw picture */
};

mabn_status mabn_early_new(struct mabn_early **early, const char *path, int count,
                           const struct mabn_scene_options *scene, const struct mabn_coco *coco)
{
    struct mabn_sheet *sheet;
    MABN_TRY(mabn_sheet_new(&sheet, count, count < COLUMNS ? count : COLUMNS, TILE));
    *early = mabn_xcalloc(1, sizeof **early);
    **early = (struct mabn_early){
        .path = mabn_xstrdup(path), .left = count, .scene = *scene, .coco = coco, .sheet = sheet};
    return MABN_OK;
}

void mabn_early_free(struct mabn_early *e)
{
    if (!e) return;
    mabn_sheet_free(e->sheet);
    mabn_image_release(&e->image);
    mabn_free(e->drawn);
    free(e->path);
    free(e);
}

/* Scene i's pixels as the network sees them, in rows of the batch's width. */
static mabn_status pixels_of(struct mabn_early *e, const struct mabn_scene_batch *batch, int i,
                             const float **x)
{
    const size_t values = 3 * (size_t)batch->height * (size_t)batch->width;
    void *p;
    if (!batch->raw) {
        *x = batch->x + (size_t)i * values;
        return MABN_OK;
    }
    mabn_free(e->drawn);
    e->drawn = NULL;
    MABN_TRY(mabn_alloc(&p, values * sizeof(float)));
    *x = e->drawn = p;
    mabn_raw_draw(e->drawn, batch->width, batch->height, batch->raw[i]);
    return MABN_OK;
}

/* The part of the batch that scene i covers, converted back to bytes. */
static mabn_status picture(struct mabn_early *e, const struct mabn_scene_batch *batch, int i)
{
    const struct mabn_scene_options *o = &e->scene;
    const struct mabn_scene *s = &batch->scenes[i];
    const float *from;
    MABN_TRY(pixels_of(e, batch, i, &from));
    MABN_TRY(mabn_image_resize_storage(&e->image, s->width, s->height, 3));
    uint8_t *to = e->image.pixels;
    for (int y = 0; y < s->height; y++) {
        for (int k = 0; k < 3 * s->width; k++) {
            const int c = k % 3;
            const double value =
                ((double)from[k] * o->deviation[c] + o->mean[c]) * 255 / o->range + 0.5;
            to[k - c + (o->bgr ? 2 - c : c)] = (uint8_t)fmin(fmax(value, 0), 255);
        }
        from += 3 * (size_t)batch->width;
        to += 3 * (size_t)s->width;
    }
    return MABN_OK;
}

/* The objects of a scene as result records, with their outlines. */
struct drawn {
    struct mabn_coco coco;
    uint32_t *records;
};

static void drawn_release(struct drawn *d)
{
    free(d->coco.records);
    free(d->coco.numbers);
    free(d->coco.lengths);
    free(d->records);
}

static void draw_object(struct drawn *d, const struct mabn_early *e, const struct mabn_scene *s,
                        int i)
{
    const float *b = s->boxes + (size_t)4 * (size_t)i;
    const double extra = e->scene.inclusive ? 1 : 0;
    const struct mabn_coco_record *from = &e->coco->records[s->records[i]];
    struct mabn_coco_record *r = &d->coco.records[i];
    *r = (struct mabn_coco_record){.id = from->id,
                                   .category_id = from->category_id,
                                   .box = {b[0], b[1], b[2] - b[0] + extra, b[3] - b[1] + extra},
                                   .has_box = true};
    d->records[i] = (uint32_t)i;
    if (!s->first_polygon) return;
    const uint32_t first = s->first_polygon[i], end = s->first_polygon[i + 1];
    if (first == end) return;
    r->segmentation = (struct mabn_segmentation){.kind = MABN_SEGMENTATION_POLYGONS,
                                                 .at = s->first_number[first],
                                                 .sizes = first,
                                                 .n = end - first};
}

static void describe(struct drawn *d, const struct mabn_early *e, const struct mabn_scene *s)
{
    const size_t n = (size_t)s->count, polygons = s->first_polygon ? s->first_polygon[n] : 0;
    const size_t numbers = polygons ? s->first_number[polygons] : 0;
    *d = (struct drawn){.coco = {.name = e->coco->name, .n_records = n, .n_numbers = numbers},
                        .records = mabn_xcalloc(n + 1, sizeof *d->records)};
    d->coco.n_lengths = polygons;
    d->coco.records = mabn_xcalloc(n + 1, sizeof *d->coco.records);
    d->coco.numbers = mabn_xcalloc(numbers + 1, sizeof *d->coco.numbers);
    d->coco.lengths = mabn_xcalloc(polygons + 1, sizeof *d->coco.lengths);
    for (size_t k = 0; k < numbers; k++)
        d->coco.numbers[k] = s->numbers[k];
    for (size_t p = 0; p < polygons; p++)
        d->coco.lengths[p] = s->first_number[p + 1] - s->first_number[p];
    for (int i = 0; i < s->count; i++)
        draw_object(d, e, s, i);
}

static mabn_status add_one(struct mabn_early *e, const struct mabn_scene_batch *batch, int i)
{
    static const struct mabn_draw_style style = {.masks = true, .boxes = true, .labels = true};
    const struct mabn_scene *s = &batch->scenes[i];
    struct drawn d;
    char *title = mabn_xasprintf("image %lld, %d×%d%s", (long long)s->image_id, s->width, s->height,
                                 s->choice.flip ? ", flipped" : "");
    describe(&d, e, s);
    mabn_status status = picture(e, batch, i);
    if (!status)
        status = mabn_sheet_add(e->sheet, &e->image, title, &d.coco, d.records,
                                (size_t)d.coco.n_records, e->coco, &style);
    drawn_release(&d);
    free(title);
    return status;
}

mabn_status mabn_early_add(struct mabn_early *e, const struct mabn_scene_batch *batch)
{
    for (int i = 0; i < batch->count && e->left; i++) {
        if (batch->scenes[i].bad) continue;
        MABN_TRY(add_one(e, batch, i));
        if (--e->left) continue;
        MABN_TRY(mabn_sheet_write(e->sheet, e->path, true));
        mabn_info("the first training pictures with their targets: '%s'", e->path);
    }
    return MABN_OK;
}
