#include "coco/doubt.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* ---- forms of boxes ---- */

static struct mabn_box plain(struct mabn_box b, const struct mabn_coco_image *image)
{
    (void)image;
    return b;
}

static struct mabn_box from_corners(struct mabn_box b, const struct mabn_coco_image *image)
{
    (void)image;
    return (struct mabn_box){b.x, b.y, b.w - b.x, b.h - b.y};
}

static struct mabn_box from_centre(struct mabn_box b, const struct mabn_coco_image *image)
{
    (void)image;
    return (struct mabn_box){b.x - b.w / 2, b.y - b.h / 2, b.w, b.h};
}

static struct mabn_box from_rows(struct mabn_box b, const struct mabn_coco_image *image)
{
    (void)image;
    return (struct mabn_box){b.y, b.x, b.h, b.w};
}

static struct mabn_box from_row_corners(struct mabn_box b, const struct mabn_coco_image *image)
{
    return from_corners(from_rows(b, image), image);
}

static struct mabn_box from_fractions(struct mabn_box b, const struct mabn_coco_image *image)
{
    const double w = image->width, h = image->height; /* 0: not given */
    return (struct mabn_box){b.x * w, b.y * h, b.w * w, b.h * h};
}

static struct mabn_box from_fraction_corners(struct mabn_box b, const struct mabn_coco_image *image)
{
    return from_corners(from_fractions(b, image), image);
}

static struct mabn_box from_fraction_centre(struct mabn_box b, const struct mabn_coco_image *image)
{
    return from_centre(from_fractions(b, image), image);
}

static const struct {
    const char *name;
    struct mabn_box (*box)(struct mabn_box b, const struct mabn_coco_image *image);
} forms[] = {
    {"x, y, width, height", plain},
    {"x1, y1, x2, y2", from_corners},
    {"centre x, centre y, width, height", from_centre},
    {"y, x, height, width", from_rows},
    {"y1, x1, y2, x2", from_row_corners},
    {"fractions of the image's width and height", from_fractions},
    {"corners in fractions of the image's width and height", from_fraction_corners},
    {"centre and size in fractions of the image's width and height", from_fraction_centre},
};
enum { FORMS = sizeof forms / sizeof *forms, MOST = 2000 };

static bool overlap(struct mabn_box a, struct mabn_box b)
{
    const double w = fmin(a.x + a.w, b.x + b.w) - fmax(a.x, b.x),
                 h = fmin(a.y + a.h, b.y + b.h) - fmax(a.y, b.y);
    return w > 0 && h > 0 && w * h >= 0.5 * (a.w * a.h + b.w * b.h - w * h);
}

/* ---- who stands where ---- */

struct place {
    int64_t image;
    size_t at;
};

static int by_image(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->image != y->image) return x->image < y->image ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* The first place of this image or a later one. */
static size_t lower_bound(const struct place *list, size_t n, int64_t image)
{
    size_t low = 0;
    while (n > 0) {
        const size_t half = n / 2;
        if (list[low + half].image < image) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

/* Detection `d` in each form against the objects as they are, and the reverse. */
static void try_one(size_t matched[2][FORMS], const struct mabn_coco *truth,
                    const struct place *objects, size_t n, struct mabn_box d,
                    const struct mabn_coco_image *image)
{
    for (int side = 0; side < 2; side++)
        for (int f = 0; f < FORMS; f++) {
            bool found = false;
            for (size_t i = 0; i < n && !found; i++) {
                const struct mabn_box o = truth->records[objects[i].at].box;
                found =
                    side ? overlap(d, forms[f].box(o, image)) : overlap(forms[f].box(d, image), o);
            }
            matched[side][f] += found;
        }
}

void mabn_coco_find_form(struct mabn_coco_form *form, const struct mabn_coco *truth,
                         const struct mabn_coco *results)
{
    size_t matched[2][FORMS] = {{0}}, n = 0;
    struct place *objects = mabn_xcalloc(truth->n_records + 1, sizeof *objects),
                 *images = mabn_xcalloc(truth->n_images + 1, sizeof *images);
    *form = (struct mabn_coco_form){.name = NULL};
    for (size_t i = 0; i < truth->n_records; i++)
        if (truth->records[i].has_box) objects[n++] = (struct place){truth->records[i].image_id, i};
    for (size_t i = 0; i < truth->n_images; i++)
        images[i] = (struct place){truth->images[i].id, i};
    qsort(objects, n, sizeof *objects, by_image);
    qsort(images, truth->n_images, sizeof *images, by_image);
    const size_t step = results->n_records / MOST + 1;
    for (size_t i = 0; i < results->n_records; i += step) {
        const struct mabn_coco_record *r = &results->records[i];
        const size_t at = lower_bound(images, truth->n_images, r->image_id),
                     first = lower_bound(objects, n, r->image_id);
        size_t last = first;
        if (!r->has_box || at == truth->n_images || images[at].image != r->image_id) continue;
        while (last < n && objects[last].image == r->image_id)
            last++;
        try_one(matched, truth, objects + first, last - first, r->box,
                &truth->images[images[at].at]);
        form->tried++;
    }
    free(objects);
    free(images);
    form->plain = form->better = matched[0][0];
    for (int side = 0; side < 2; side++)
        for (int f = 1; f < FORMS; f++) {
            if (matched[side][f] <= form->better || matched[side][f] < 3 * form->plain ||
                10 * matched[side][f] < 3 * form->tried)
                continue;
            form->better = matched[side][f];
            form->name = forms[f].name;
            form->truth = side;
        }
}

/* ---- fractions ---- */

static bool within(const double *v, size_t n, size_t step)
{
    for (size_t i = 0; i < n; i++)
        if ((step == 2 || i % step < 2) && !(v[i] >= 0 && v[i] <= 1)) return false;
    return true;
}

bool mabn_coco_is_fractions(const struct mabn_coco *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        const double box[4] = {r->box.x, r->box.y, r->box.w, r->box.h};
        const struct mabn_segmentation *s = &r->segmentation;
        if (r->has_box) {
            if (!within(box, 4, 2)) return false;
        } else if (s->kind == MABN_SEGMENTATION_POLYGONS) {
            const double *v = c->numbers + s->at;
            for (uint32_t p = 0; p < s->n; v += c->lengths[s->sizes + p++])
                if (!within(v, c->lengths[s->sizes + p], 2)) return false;
        } else if (r->has_keypoints) {
            if (!within(c->numbers + r->keypoints, 3 * (size_t)r->n_keypoints, 3)) return false;
        } else {
            continue;
        }
        n++;
    }
    return n > 0;
}

size_t mabn_coco_odd_scores(const struct mabn_coco *results, const struct mabn_coco_record **first)
{
    size_t n = 0;
    *first = NULL;
    for (size_t i = 0; i < results->n_records; i++) {
        const struct mabn_coco_record *r = &results->records[i];
        if (!(r->score >= 0 && r->score <= 1) && !n++) *first = r;
    }
    return n;
}
