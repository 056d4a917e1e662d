/* Pictures from a dataset or from files, their masks, and the box around these. */
#include "data/cutouts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "image/oddities.h"
#include "store/dataset.h"
#include "store/listing.h"

struct mabn_cutouts {
    struct mabn_dataset *dataset; /* NULL: a folder */
    struct mabn_listing listing;  /* of the folder */
    int threshold;
    int classes;
    char **names; /* (classes) */
    struct passed_over *passed_over;
};

/* Grows while threads read pictures, each any number of times. */
struct passed_over {
    struct mabn_image_oddities oddities;
    uint8_t *seen; /* (count) pictures that were looked at */
};

/* ---- opening ---- */

static mabn_status open_dataset(struct mabn_cutouts *c, const char *path)
{
    MABN_TRY(mabn_dataset_open(&c->dataset, path));
    if (!mabn_dataset_has_labels(c->dataset))
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has no labels: cut-outs come from a dataset of kind imagenet, this "
                         "one is of kind %s",
                         path, mabn_dataset_kind(c->dataset));
    c->classes = mabn_dataset_classes(c->dataset);
    for (int64_t i = 0; i < mabn_dataset_count(c->dataset); i++)
        if (mabn_dataset_label(c->dataset, i) >= c->classes)
            c->classes = mabn_dataset_label(c->dataset, i) + 1;
    return MABN_OK;
}

static void name_classes(struct mabn_cutouts *c)
{
    c->names = mabn_xcalloc((size_t)c->classes + 1, sizeof *c->names);
    for (int i = 0; i < c->classes; i++) {
        const char *name =
            c->dataset ? mabn_dataset_class_name(c->dataset, i) : c->listing.classes[i];
        c->names[i] = name && *name ? mabn_xstrdup(name) : mabn_xasprintf("class %d", i);
    }
}

mabn_status mabn_cutouts_open(struct mabn_cutouts **cutouts, const char *path, int threshold)
{
    *cutouts = NULL;
    if (threshold < 0 || threshold > 254)
        return mabn_fail(MABN_ERR_ARG, "a threshold of %d: expected 0 to 254", threshold);
    struct mabn_cutouts *c = mabn_xcalloc(1, sizeof *c);
    c->threshold = threshold;
    mabn_status status;
    if (mabn_path_is_dir(path)) {
        status = mabn_listing_scan(&c->listing, path, NULL);
        c->classes = (int)c->listing.class_count;
    } else {
        status = open_dataset(c, path);
    }
    if (!status && !mabn_cutouts_count(c))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' has no pictures", path);
    if (status) {
        mabn_cutouts_free(c);
        return status;
    }
    name_classes(c);
    const struct mabn_image_oddities none = MABN_IMAGE_NO_ODDITIES;
    c->passed_over = mabn_xcalloc(1, sizeof *c->passed_over);
    c->passed_over->oddities = none;
    c->passed_over->seen = mabn_xcalloc(mabn_cutouts_count(c), 1);
    *cutouts = c;
    return MABN_OK;
}

void mabn_cutouts_free(struct mabn_cutouts *c)
{
    if (!c) return;
    mabn_dataset_free(c->dataset);
    mabn_listing_release(&c->listing);
    for (int i = 0; c->names && i < c->classes; i++)
        free(c->names[i]);
    free(c->names);
    if (c->passed_over) free(c->passed_over->seen);
    free(c->passed_over);
    free(c);
}

uint64_t mabn_cutouts_count(const struct mabn_cutouts *c)
{
    return (uint64_t)(c->dataset ? mabn_dataset_count(c->dataset) : c->listing.count);
}

int mabn_cutouts_classes(const struct mabn_cutouts *c)
{
    return c->classes;
}

const char *mabn_cutouts_class_name(const struct mabn_cutouts *c, int class_index)
{
    return c->names[class_index];
}

/* ---- the mask ---- */

static void threshold_mask(struct mabn_cutout *out, int threshold)
{
    const size_t n = (size_t)out->whole.width * (size_t)out->whole.height;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = out->whole.pixels + 3 * i;
        out->whole_mask.pixels[i] =
            p[0] > threshold || p[1] > threshold || p[2] > threshold ? 255 : 0;
    }
}

enum { UNSEEN = 0, OUTSIDE = 1, THING = 255 };

/* Dark pixels that are connected to the border (by sides) are outside; other dark pixels belong to
 * the object. */
static void fill_holes(struct mabn_cutout *out)
{
    const int w = out->whole.width, h = out->whole.height, n = w * h;
    uint8_t *mask = out->whole_mask.pixels;
    if ((size_t)n > out->queue_room) {
        out->queue_room = (size_t)n;
        out->queue = mabn_xrealloc(out->queue, out->queue_room * sizeof *out->queue);
    }
    int head = 0, tail = 0;
    for (int i = 0; i < n; i++)
        if ((i % w == 0 || i % w == w - 1 || i < w || i >= n - w) && mask[i] == UNSEEN)
            mask[out->queue[tail++] = i] = OUTSIDE;
    while (head < tail) {
        const int i = out->queue[head++], x = i % w;
        const int next[4] = {x ? i - 1 : -1, x < w - 1 ? i + 1 : -1, i - w, i + w < n ? i + w : -1};
        for (int k = 0; k < 4; k++)
            if (next[k] >= 0 && mask[next[k]] == UNSEEN)
                mask[out->queue[tail++] = next[k]] = OUTSIDE;
    }
    for (int i = 0; i < n; i++)
        mask[i] = mask[i] == OUTSIDE ? 0 : 255;
}

static mabn_status make_mask(const struct mabn_cutouts *c, struct mabn_cutout *out,
                             const uint8_t *bytes, size_t size)
{
    bool found = false;
    if (bytes) MABN_TRY(mabn_image_decode_alpha(&out->whole_mask, &found, bytes, size));
    if (!found) {
        MABN_TRY(
            mabn_image_resize_storage(&out->whole_mask, out->whole.width, out->whole.height, 1));
        threshold_mask(out, c->threshold);
        fill_holes(out);
        return MABN_OK;
    }
    const size_t n = (size_t)out->whole.width * (size_t)out->whole.height;
    for (size_t i = 0; i < n; i++)
        out->whole_mask.pixels[i] = out->whole_mask.pixels[i] < 128 ? 0 : 255;
    return MABN_OK;
}

static bool find_box(struct mabn_rect *box, const struct mabn_image *mask)
{
    int x0 = mask->width, y0 = mask->height, x1 = -1, y1 = -1;
    for (int y = 0; y < mask->height; y++)
        for (int x = 0; x < mask->width; x++) {
            if (!mask->pixels[y * mask->width + x]) continue;
            if (x < x0) x0 = x;
            if (x > x1) x1 = x;
            if (y < y0) y0 = y;
            if (y > y1) y1 = y;
        }
    *box = (struct mabn_rect){x0, y0, x1 - x0 + 1, y1 - y0 + 1};
    return x1 >= 0;
}

static void blacken(struct mabn_cutout *out)
{
    const size_t n = (size_t)out->image.width * (size_t)out->image.height;
    out->gray = true;
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = out->image.pixels + 3 * i;
        if (!out->mask.pixels[i]) memset(p, 0, 3);
        out->gray &= p[0] == p[1] && p[1] == p[2];
    }
}

/* ---- one cut-out ---- */

static mabn_status cut_out(const struct mabn_cutouts *c, struct mabn_cutout *out,
                           const uint8_t *bytes, size_t size, bool *empty)
{
    struct mabn_rect box;
    MABN_TRY(make_mask(c, out, bytes, size));
    *empty = !find_box(&box, &out->whole_mask);
    if (*empty) return MABN_OK;
    MABN_TRY(mabn_image_crop(&out->image, &out->whole, box));
    MABN_TRY(mabn_image_crop(&out->mask, &out->whole_mask, box));
    blacken(out);
    return MABN_OK;
}

static mabn_status get_raw(const struct mabn_cutouts *c, int64_t i, struct mabn_cutout *out,
                           bool *empty)
{
    const int width = mabn_dataset_image_width(c->dataset, i),
              height = mabn_dataset_image_height(c->dataset, i),
              channels = mabn_dataset_image_channels(c->dataset, i);
    const size_t expected = (size_t)width * (size_t)height * (size_t)channels;
    const uint8_t *bytes;
    size_t size;
    MABN_TRY(mabn_dataset_image(c->dataset, i, &bytes, &size));
    if (size != expected || (channels != 1 && channels != 3))
        return mabn_fail(MABN_ERR_FORMAT, "expected %zu bytes (%dx%dx%d), found %zu", expected,
                         height, width, channels, size);
    MABN_TRY(mabn_image_resize_storage(&out->whole, width, height, channels));
    memcpy(out->whole.pixels, bytes, size);
    MABN_TRY(mabn_image_set_channels(&out->whole, 3));
    return cut_out(c, out, NULL, 0, empty);
}

/* Alpha is not passed over: it becomes the mask. */
static void look_at(const struct mabn_cutouts *c, int64_t i, const uint8_t *bytes, size_t size)
{
    struct mabn_image_info info;
    if (__atomic_exchange_n(&c->passed_over->seen[i], 1, __ATOMIC_RELAXED)) return;
    if (mabn_image_probe(&info, bytes, size)) {
        mabn_error_clear(); /* for the decoder to tell */
        return;
    }
    info.alpha = false;
    mabn_image_oddities_add(&c->passed_over->oddities, i, &info);
}

static mabn_status get_encoded(const struct mabn_cutouts *c, int64_t i,
                               struct mabn_decoder *decoder, struct mabn_cutout *out,
                               const uint8_t *bytes, size_t size, bool *empty)
{
    look_at(c, i, bytes, size);
    MABN_TRY(mabn_image_decode(decoder, &out->whole, bytes, size, NULL));
    return cut_out(c, out, bytes, size, empty);
}

static mabn_status get_from_dataset(const struct mabn_cutouts *c, int64_t i,
                                    struct mabn_decoder *decoder, struct mabn_cutout *out,
                                    bool *empty)
{
    const uint8_t *bytes;
    size_t size;
    char name[200];
    out->label = mabn_dataset_label(c->dataset, i);
    mabn_status status;
    if (mabn_dataset_is_raw(c->dataset)) {
        status = get_raw(c, i, out, empty);
    } else {
        status = mabn_dataset_image(c->dataset, i, &bytes, &size);
        if (!status) status = get_encoded(c, i, decoder, out, bytes, size, empty);
    }
    if (!status) return MABN_OK;
    return mabn_fail_prefix(status, "picture '%s'",
                            mabn_dataset_image_name(c->dataset, i, name, sizeof name));
}

mabn_status mabn_cutouts_get(const struct mabn_cutouts *c, uint64_t index,
                             struct mabn_decoder *decoder, struct mabn_cutout *out, bool *empty)
{
    const int64_t i = (int64_t)index;
    struct mabn_input in;
    if (c->dataset) return get_from_dataset(c, i, decoder, out, empty);
    out->label = c->listing.labels[i];
    MABN_TRY(mabn_input_open(&in, c->listing.paths[i], 0));
    mabn_status status = get_encoded(c, i, decoder, out, in.bytes, in.size, empty);
    mabn_input_release(&in);
    return status ? mabn_fail_prefix(status, "'%s'", c->listing.paths[i]) : MABN_OK;
}

static const char *name_of(const void *cutouts, int64_t i)
{
    static __thread char name[200];
    const struct mabn_cutouts *c = cutouts;
    if (!c->dataset) return c->listing.paths[i];
    return mabn_dataset_image_name(c->dataset, i, name, sizeof name);
}

void mabn_cutouts_tell(const struct mabn_cutouts *c)
{
    mabn_image_oddities_tell(&c->passed_over->oddities, name_of, c, "used",
                             "used as stored, not turned");
}

void mabn_cutout_release(struct mabn_cutout *c)
{
    mabn_image_release(&c->image);
    mabn_image_release(&c->mask);
    mabn_image_release(&c->whole);
    mabn_image_release(&c->whole_mask);
    free(c->queue);
    *c = (struct mabn_cutout){0};
}
