/* Packing COCO: sort the images, check their files against the annotations, pack the bytes, lay the
 * annotations out as arrays. And the way back. */
#include "coco/dataset.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "coco/inspect.h"
#include "store/listing.h"

/* ---- packing ---- */

struct packing {
    struct mabn_coco coco;
    const struct mabn_coco_image **images; /* (n_images) chosen, by id */
    char **paths;
    size_t n_images;
    uint32_t *place;      /* (records) index into images, UINT32_MAX: none */
    uint32_t *category;   /* (records) index into coco.categories, likewise */
    uint32_t n_keypoints; /* of an annotation, 0: none */
    uint32_t *order;      /* records that are kept, by image, then as in the file */
    size_t n_order;
    uint64_t *first;           /* (images kept + 1) into order */
    uint32_t *last;            /* (records) the last record that has one's id */
    bool twice;                /* some ids occur twice */
    size_t again, again_first; /* records whose id was there before, and the first of them */
    bool exif;
};

static int compare_images(const void *a, const void *b, void *coco)
{
    const struct mabn_coco_image *x = *(const struct mabn_coco_image *const *)a,
                                 *y = *(const struct mabn_coco_image *const *)b;
    return mabn_coco_compare_ids(coco, x->id, y->id);
}

/* All images by id, without those that have no file. */
static mabn_status choose_images(struct packing *p, const char *folder, bool skip_bad)
{
    const struct mabn_coco *c = &p->coco;
    size_t n = c->n_images;
    p->images = mabn_xcalloc(n + 1, sizeof *p->images);
    p->paths = mabn_xcalloc(n + 1, sizeof *p->paths);
    const struct mabn_coco_image **all = mabn_xcalloc(n + 1, sizeof *all);
    for (size_t i = 0; i < n; i++)
        all[i] = &c->images[i];
    qsort_r(all, n, sizeof *all, compare_images, &p->coco);
    mabn_status status = MABN_OK;
    for (size_t i = 0; i < n && !status; i++) {
        char *path;
        status = mabn_coco_image_path(&path, c, all[i], folder);
        if (!status) {
            p->images[p->n_images] = all[i];
            p->paths[p->n_images++] = path;
        } else if (skip_bad) {
            mabn_warn("skipped: %s", mabn_error_message());
            status = MABN_OK;
        }
    }
    free(all);
    if (!status && p->n_images == 0)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' has no images to pack", c->name);
    return status;
}

static mabn_status check_size(void *context, int64_t number, const struct mabn_image_info *info)
{
    const struct packing *p = context;
    const struct mabn_coco_image *image = p->images[number];
    bool turned = p->exif && info->orientation > 4;
    int width = turned ? info->height : info->width, height = turned ? info->width : info->height;
    if (image->unsized || (image->height == (uint32_t)height && image->width == (uint32_t)width))
        return MABN_OK;
    return mabn_coco_wrong_size(&p->coco, image, width, height, turned ? 0 : info->orientation);
}

struct id_place {
    int64_t id;
    uint32_t place;
};

static int compare_places(const void *a, const void *b)
{
    const struct id_place *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static uint32_t place_of(const struct id_place *list, size_t n, int64_t id)
{
    while (n > 0) {
        size_t half = n / 2;
        if (list[half].id == id) return list[half].place;
        n = list[half].id < id ? n - half - 1 : half;
        list = list[half].id < id ? list + half + 1 : list;
    }
    return UINT32_MAX;
}

/* Annotations that have no place in the dataset: one warning. */
static void tell_left_out(const struct packing *p)
{
    const struct mabn_coco *c = &p->coco;
    const struct mabn_coco_record *first = NULL;
    size_t n = 0;
    char image[24], category[24];
    for (size_t i = 0; i < c->n_records; i++)
        if (p->place[i] == UINT32_MAX && !n++) first = &c->records[i];
    if (n)
        mabn_warn(
            "'%s': %zu annotation%s of images or categories that are not listed or not packed "
            "(the first: line %u, image %s, category %s) are left out",
            c->name, n, n == 1 ? "" : "s", first->line,
            mabn_coco_id_text(c, first->image_id, image),
            mabn_coco_id_text(c, first->category_id, category));
}

/* Which image and category each annotation belongs to. */
static void place_annotations(struct packing *p)
{
    const struct mabn_coco *c = &p->coco;
    struct id_place *images = mabn_xcalloc(p->n_images + 1, sizeof *images);
    struct id_place *categories = mabn_xcalloc(c->n_categories + 1, sizeof *categories);
    for (size_t i = 0; i < p->n_images; i++)
        images[i] = (struct id_place){p->images[i]->id, (uint32_t)i};
    for (size_t i = 0; i < c->n_categories; i++)
        categories[i] = (struct id_place){c->categories[i].id, (uint32_t)i};
    qsort(images, p->n_images, sizeof *images, compare_places);
    qsort(categories, c->n_categories, sizeof *categories, compare_places);
    p->place = mabn_xmalloc((c->n_records + 1) * sizeof *p->place);
    p->category = mabn_xmalloc((c->n_records + 1) * sizeof *p->category);
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        p->category[i] = place_of(categories, c->n_categories, r->category_id);
        p->place[i] =
            p->category[i] == UINT32_MAX ? UINT32_MAX : place_of(images, p->n_images, r->image_id);
        if (r->n_keypoints > p->n_keypoints) p->n_keypoints = r->n_keypoints;
    }
    free(images);
    free(categories);
}

/* For each record the last one with its id: an id that occurs twice stands for that (coco/score.h). */
static void find_last(struct packing *p)
{
    const struct mabn_coco *c = &p->coco;
    struct id_place *list = mabn_xcalloc(c->n_records + 1, sizeof *list);
    p->last = mabn_xmalloc((c->n_records + 1) * sizeof *p->last);
    size_t n = 0;
    for (size_t i = 0; i < c->n_records; i++) {
        p->last[i] = (uint32_t)i;
        if (!c->records[i].no_id) list[n++] = (struct id_place){c->records[i].id, (uint32_t)i};
    }
    qsort(list, n, sizeof *list, compare_places);
    for (size_t i = n; i-- > 0;) {
        bool next = i + 1 < n && list[i + 1].id == list[i].id;
        p->last[list[i].place] = next ? p->last[list[i + 1].place] : list[i].place;
        p->twice |= next;
        if (!next) continue;
        if (!p->again++ || list[i + 1].place < p->again_first) p->again_first = list[i + 1].place;
    }
    free(list);
}

/* Ids that cost AP without any message when results are scored by this file. */
static void doubt_ids(const struct packing *p)
{
    const struct mabn_coco *c = &p->coco;
    const struct mabn_coco_record *again = &c->records[p->again_first];
    char id[24];
    size_t zero = 0;
    for (size_t i = 0; i < c->n_records; i++)
        zero += !c->records[i].no_id && !c->records[i].id;
    if (p->again)
        mabn_warn(
            "'%s': %zu annotation%s an id that occurs twice (the first: line %u, id %s): judges "
            "take the last of each for all of them",
            c->name, p->again, p->again > 1 ? "s have" : " has", again->line,
            mabn_coco_id_text(c, again->id, id));
    if (zero)
        mabn_warn(
            "'%s': %zu annotation%s the id 0, which pycocotools takes for none: number them from 1",
            c->name, zero, zero > 1 ? "s have" : " has");
}

/* Categories without annotations: nothing is learned of them, and no average counts them. */
static void tell_unused(const struct packing *p)
{
    enum { SHOWN = 5 };
    const struct mabn_coco *c = &p->coco;
    bool *used = mabn_xcalloc(c->n_categories + 1, sizeof *used);
    struct mabn_str names;
    size_t n = 0;
    mabn_str_init(&names);
    for (size_t i = 0; i < c->n_records; i++)
        if (p->category[i] < c->n_categories) used[p->category[i]] = true;
    for (size_t k = 0; k < c->n_categories; k++) {
        if (used[k] || n++ >= SHOWN) continue;
        const char *name = c->categories[k].name;
        mabn_str_printf(&names, "%s'%s'", n > 1 ? ", " : "", name ? name : "");
    }
    if (n && c->annotated)
        mabn_info("%zu of %zu categories have no annotation: %s%s", n, c->n_categories, names.text,
                  n > SHOWN ? ", …" : "");
    mabn_str_release(&names);
    free(used);
}

/* Annotations of the images that are in the file, image by image. */
static void order_annotations(struct packing *p, struct mabn_dataset_writer *w)
{
    size_t kept = (size_t)mabn_dataset_writer_kept(w), n = p->coco.n_records;
    p->first = mabn_xcalloc(kept + 2, sizeof *p->first);
    p->order = mabn_xmalloc((n + 1) * sizeof *p->order);
    uint64_t *start = p->first + 1;
    for (size_t i = 0; i < n; i++) {
        int64_t at = p->place[i] == UINT32_MAX ? -1 : mabn_dataset_writer_place(w, p->place[i]);
        p->place[i] = at < 0 ? UINT32_MAX : (uint32_t)at;
        if (at >= 0) start[at + 1]++;
    }
    for (size_t i = 0; i < kept; i++)
        start[i + 1] += start[i];
    for (size_t i = 0; i < n; i++)
        if (p->place[i] != UINT32_MAX) p->order[start[p->place[i]]++] = (uint32_t)i;
    p->n_order = p->first[kept];
    tell_left_out(p);
}

/* ---- arrays ---- */

static mabn_status add1(struct mabn_dataset_writer *w, const char *name, enum mabn_h5_type type,
                        size_t n, const void *data)
{
    uint64_t dims[1] = {n};
    return mabn_dataset_writer_add_array(w, name, type, 1, dims, data);
}

static mabn_status add2(struct mabn_dataset_writer *w, const char *name, enum mabn_h5_type type,
                        size_t n, size_t m, const void *data)
{
    uint64_t dims[2] = {n, m};
    return mabn_dataset_writer_add_array(w, name, type, 2, dims, data);
}

static mabn_status add_images(const struct packing *p, struct mabn_dataset_writer *w)
{
    size_t kept = (size_t)mabn_dataset_writer_kept(w), k = p->coco.n_categories;
    int64_t *ids = mabn_xcalloc(kept + 1, sizeof *ids);
    int64_t *categories = mabn_xcalloc(k + 1, sizeof *categories);
    const char **names = mabn_xcalloc(p->n_images + k + 1, sizeof *names);
    uint8_t *unsized = mabn_xcalloc(kept + 1, 1);
    uint32_t *places = mabn_xcalloc(kept + 1, sizeof *places);
    bool some_unsized = false, moved = false;
    for (size_t i = 0; i < p->n_images; i++) {
        int64_t at = mabn_dataset_writer_place(w, (int64_t)i);
        if (at >= 0) {
            ids[at] = p->images[i]->id;
            unsized[at] = p->images[i]->unsized;
            some_unsized |= unsized[at];
            places[at] = (uint32_t)(p->images[i] - p->coco.images);
            moved |= at > 0 && places[at] < places[at - 1];
        }
        names[i] = p->images[i]->file_name;
    }
    mabn_status status = add1(w, "/coco/image_id", MABN_H5_I64, kept, ids);
    if (!status) status = mabn_dataset_writer_set_names(w, names);
    if (!status && some_unsized) status = add1(w, "/coco/unsized", MABN_H5_U8, kept, unsized);
    if (!status && moved) status = add1(w, "/coco/place", MABN_H5_U32, kept, places);
    for (size_t i = 0; i < k; i++) {
        categories[i] = p->coco.categories[i].id;
        names[i] = p->coco.categories[i].name ? p->coco.categories[i].name : "";
    }
    if (!status) status = add1(w, "/coco/category_id", MABN_H5_I64, k, categories);
    if (!status && k) status = mabn_dataset_writer_set_classes(w, names, (int64_t)k);
    free(ids);
    free(categories);
    free(names);
    free(unsized);
    free(places);
    return status;
}

/* Ids that are texts. */
static mabn_status add_texts(const struct mabn_coco *c, struct mabn_dataset_writer *w)
{
    if (!c->n_texts) return MABN_OK;
    struct mabn_str bytes;
    int64_t *ids = mabn_xcalloc(c->n_texts, sizeof *ids);
    uint64_t *first = mabn_xcalloc(c->n_texts + 1, sizeof *first);
    mabn_str_init(&bytes);
    for (size_t i = 0; i < c->n_texts; i++) {
        ids[i] = c->texts[i].id;
        mabn_str_add(&bytes, c->texts[i].text);
        first[i + 1] = bytes.length;
    }
    mabn_status status = add1(w, "/coco/text_id", MABN_H5_I64, c->n_texts, ids);
    if (!status) status = add1(w, "/coco/text_first", MABN_H5_U64, c->n_texts + 1, first);
    if (!status) status = add1(w, "/coco/text_bytes", MABN_H5_U8, bytes.length, bytes.text);
    mabn_str_release(&bytes);
    free(ids);
    free(first);
    return status;
}

static mabn_status add_skeletons(const struct mabn_coco *c, struct mabn_dataset_writer *w)
{
    if (!c->n_bones) return MABN_OK;
    uint32_t *bones = mabn_xcalloc(3 * c->n_bones, sizeof *bones);
    size_t n = 0;
    for (size_t k = 0; k < c->n_categories; k++)
        for (size_t b = 0; b < c->categories[k].n_bones; b++) {
            const uint32_t *pair = c->bones + 2 * (c->categories[k].bones + b);
            bones[3 * n] = (uint32_t)k;
            bones[3 * n + 1] = pair[0];
            bones[3 * n++ + 2] = pair[1];
        }
    mabn_status status = n ? add2(w, "/coco/skeleton", MABN_H5_U32, n, 3, bones) : MABN_OK;
    free(bones);
    return status;
}

/* LVIS's lists of categories, and frequencies. An image without lists is written with empty ones. */
static mabn_status add_lvis(const struct packing *p, struct mabn_dataset_writer *w)
{
    const struct mabn_coco *c = &p->coco;
    size_t kept = (size_t)mabn_dataset_writer_kept(w), n = 0, k = c->n_categories;
    bool any = false;
    for (size_t i = 0; i < p->n_images; i++)
        any |= p->images[i]->has_lists;
    if (!any) return MABN_OK;
    uint64_t *first = mabn_xcalloc(2 * kept + 1, sizeof *first);
    uint8_t *has = mabn_xcalloc(kept + 1, 1), *frequencies = mabn_xcalloc(k + 1, 1);
    int64_t *listed = mabn_xmalloc((c->n_listed + 1) * sizeof *listed);
    for (size_t i = 0; i < p->n_images; i++) { /* places rise with i */
        const struct mabn_coco_image *image = p->images[i];
        int64_t at = mabn_dataset_writer_place(w, (int64_t)i);
        size_t both = (size_t)image->n_negatives + image->n_partial;
        if (at < 0) continue;
        has[at] = image->has_lists;
        if (both) memcpy(listed + n, c->listed + image->listed, both * sizeof *listed);
        first[2 * at + 1] = n + image->n_negatives;
        first[2 * at + 2] = n += both;
    }
    for (size_t i = 0; i < k; i++)
        frequencies[i] = (uint8_t)c->categories[i].frequency;
    mabn_status status = add1(w, "/coco/lvis_first", MABN_H5_U64, 2 * kept + 1, first);
    if (!status) status = add1(w, "/coco/lvis_listed", MABN_H5_I64, n, listed);
    if (!status) status = add1(w, "/coco/lvis_has", MABN_H5_U8, kept, has);
    if (!status) status = add1(w, "/coco/frequency", MABN_H5_U8, k, frequencies);
    free(first);
    free(has);
    free(frequencies);
    free(listed);
    return status;
}

static mabn_status add_plain(const struct packing *p, struct mabn_dataset_writer *w)
{
    size_t n = p->n_order;
    int64_t *ids = mabn_xmalloc((n + 1) * sizeof *ids);
    int32_t *categories = mabn_xmalloc((n + 1) * sizeof *categories);
    double *boxes = mabn_xmalloc((4 * n + 1) * sizeof *boxes);
    double *areas = mabn_xmalloc((n + 1) * sizeof *areas);
    uint8_t *crowd = mabn_xmalloc(n + 1), *ignore = mabn_xmalloc(n + 1);
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &p->coco.records[p->order[i]];
        ids[i] = r->id;
        categories[i] = (int32_t)p->category[p->order[i]];
        /* NaN: no box */
        boxes[4 * i] = r->has_box ? r->box.x : NAN;
        boxes[4 * i + 1] = r->has_box ? r->box.y : NAN;
        boxes[4 * i + 2] = r->has_box ? r->box.w : NAN;
        boxes[4 * i + 3] = r->has_box ? r->box.h : NAN;
        areas[i] = r->has_area ? r->area : r->has_box ? r->box.w * r->box.h : NAN; /* NaN: none */
        crowd[i] = r->odd_crowd ? 2 : r->crowd;
        ignore[i] = r->ignore;
    }
    mabn_status status =
        add1(w, "/coco/first", MABN_H5_U64, (size_t)mabn_dataset_writer_kept(w) + 1, p->first);
    if (!status) status = add1(w, "/coco/id", MABN_H5_I64, n, ids);
    if (!status) status = add1(w, "/coco/category", MABN_H5_I32, n, categories);
    if (!status) status = add2(w, "/coco/box", MABN_H5_F64, n, 4, boxes);
    if (!status) status = add1(w, "/coco/area", MABN_H5_F64, n, areas);
    if (!status) status = add1(w, "/coco/crowd", MABN_H5_U8, n, crowd);
    if (!status) status = add1(w, "/coco/ignore", MABN_H5_U8, n, ignore);
    free(ids);
    free(categories);
    free(boxes);
    free(areas);
    free(crowd);
    free(ignore);
    return status;
}

/* /coco/last: the annotation that each one's id stands for. */
static mabn_status add_last(const struct packing *p, struct mabn_dataset_writer *w)
{
    if (!p->twice) return MABN_OK;
    size_t n = p->n_order, n_records = p->coco.n_records;
    uint32_t *packed = mabn_xmalloc((n_records + 1) * sizeof *packed);
    uint32_t *last = mabn_xmalloc((n + 1) * sizeof *last);
    for (size_t i = 0; i < n_records; i++)
        packed[i] = UINT32_MAX;
    for (size_t i = 0; i < n; i++)
        packed[p->order[i]] = (uint32_t)i;
    for (size_t i = 0; i < n; i++)
        last[i] = packed[p->last[p->order[i]]];
    mabn_status status = add1(w, "/coco/last", MABN_H5_U32, n, last);
    free(packed);
    free(last);
    return status;
}

static mabn_status add_polygons(const struct packing *p, struct mabn_dataset_writer *w)
{
    const struct mabn_coco *c = &p->coco;
    size_t n = p->n_order, n_polygons = 0, n_numbers = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mabn_segmentation *s = &c->records[p->order[i]].segmentation;
        if (s->kind == MABN_SEGMENTATION_POLYGONS) n_polygons += s->n;
    }
    uint64_t *polygon_first = mabn_xmalloc((n + 1) * sizeof *polygon_first);
    uint64_t *corner_first = mabn_xmalloc((n_polygons + 1) * sizeof *corner_first);
    double *corners = mabn_xmalloc((c->n_numbers + 1) * sizeof *corners);
    n_polygons = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mabn_segmentation *s = &c->records[p->order[i]].segmentation;
        polygon_first[i] = n_polygons;
        if (s->kind != MABN_SEGMENTATION_POLYGONS) continue;
        const double *xy = c->numbers + s->at;
        for (uint32_t k = 0; k < s->n; k++) {
            uint32_t size = c->lengths[s->sizes + k];
            corner_first[n_polygons++] = n_numbers / 2;
            memcpy(corners + n_numbers, xy, size * sizeof *xy);
            n_numbers += size;
            xy += size;
        }
    }
    polygon_first[n] = n_polygons;
    corner_first[n_polygons] = n_numbers / 2;
    mabn_status status = add1(w, "/coco/polygon_first", MABN_H5_U64, n + 1, polygon_first);
    if (!status) status = add1(w, "/coco/corner_first", MABN_H5_U64, n_polygons + 1, corner_first);
    if (!status) status = add2(w, "/coco/corners", MABN_H5_F64, n_numbers / 2, 2, corners);
    free(polygon_first);
    free(corner_first);
    free(corners);
    return status;
}

/* Run lengths as a string, or the reason why they cannot be used. */
static mabn_status mask_text(struct mabn_str *out, struct mabn_rle *mask, const struct mabn_coco *c,
                             const struct mabn_segmentation *s)
{
    mabn_status status =
        s->kind == MABN_SEGMENTATION_STRING
            ? mabn_rle_from_string(mask, c->bytes + s->at, s->n, s->height, s->width)
            : mabn_rle_from_counts(mask, c->lengths + s->at, s->n, s->height, s->width);
    if (status)
        mabn_str_add(out, mabn_error_message());
    else
        mabn_rle_to_string(out, mask);
    return status;
}

/* Masks that cannot be used are packed with the reason, so that they are an error only where they are
 * needed. */
struct odd_masks {
    size_t n, n_brief;
    const struct mabn_coco_record *first, *brief;
    char why[160];
};

static void tell_odd_masks(const struct mabn_coco *c, const struct odd_masks *odd)
{
    if (odd->n)
        mabn_warn("'%s': %zu segmentation%s cannot be used (the first: line %u, %s)", c->name,
                  odd->n, odd->n == 1 ? "" : "s", odd->first->line, odd->why);
    if (odd->n_brief)
        mabn_warn("'%s': the runs of %zu mask%s end before the last pixel (the first: line %u): "
                  "what is missing is packed as background",
                  c->name, odd->n_brief, odd->n_brief == 1 ? "" : "s", odd->brief->line);
}

static mabn_status add_masks(const struct packing *p, struct mabn_dataset_writer *w)
{
    const struct mabn_coco *c = &p->coco;
    size_t n = p->n_order;
    struct odd_masks odd = {.n = 0};
    struct mabn_str bytes;
    struct mabn_rle mask;
    uint64_t *first = mabn_xmalloc((n + 1) * sizeof *first);
    uint32_t *sizes = mabn_xcalloc(2 * n + 1, sizeof *sizes);
    uint8_t *kinds = mabn_xcalloc(n + 1, 1);
    mabn_str_init(&bytes);
    mabn_rle_init(&mask);
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &c->records[p->order[i]];
        const struct mabn_segmentation *s = &r->segmentation;
        kinds[i] = s->kind;
        first[i] = bytes.length;
        if (s->kind <= MABN_SEGMENTATION_POLYGONS) continue;
        kinds[i] = MABN_SEGMENTATION_STRING;
        if (s->kind == MABN_SEGMENTATION_ODD) mabn_str_add_bytes(&bytes, c->bytes + s->at, s->n);
        if (s->kind == MABN_SEGMENTATION_ODD || mask_text(&bytes, &mask, c, s)) {
            kinds[i] = MABN_SEGMENTATION_ODD;
            if (!odd.n++) {
                odd.first = r;
                snprintf(odd.why, sizeof odd.why, "%.*s", (int)(bytes.length - first[i]),
                         bytes.text + first[i]);
            }
            continue;
        }
        sizes[2 * i] = mask.height;
        sizes[2 * i + 1] = mask.width;
        if (mask.missing && !odd.n_brief++) odd.brief = r;
    }
    first[n] = bytes.length;
    tell_odd_masks(c, &odd);
    mabn_status status = add1(w, "/coco/segmentation", MABN_H5_U8, n, kinds);
    if (!status) status = add1(w, "/coco/mask_first", MABN_H5_U64, n + 1, first);
    if (!status) status = add1(w, "/coco/mask_bytes", MABN_H5_U8, bytes.length, bytes.text);
    if (!status) status = add2(w, "/coco/mask_size", MABN_H5_U32, n, 2, sizes);
    mabn_rle_release(&mask);
    mabn_str_release(&bytes);
    free(first);
    free(sizes);
    free(kinds);
    return status;
}

static mabn_status add_keypoints(const struct packing *p, struct mabn_dataset_writer *w)
{
    const struct mabn_coco *c = &p->coco;
    size_t n = p->n_order, width = 3 * (size_t)p->n_keypoints;
    double *all = mabn_xcalloc(n * width + 1, sizeof *all);
    uint32_t *labelled = mabn_xcalloc(n + 1, sizeof *labelled);
    uint32_t *counts = mabn_xcalloc(n + 1, sizeof *counts);
    bool differ = false;
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &c->records[p->order[i]];
        counts[i] = r->odd_keypoints ? UINT32_MAX : r->n_keypoints;
        differ |= counts[i] != p->n_keypoints;
        if (!r->has_keypoints) continue;
        double *k = all + i * width;
        memcpy(k, c->numbers + r->keypoints, 3 * (size_t)r->n_keypoints * sizeof *k);
        for (size_t v = 2; v < width; v += 3)
            labelled[i] += k[v] > 0;
        if (r->has_num_keypoints) labelled[i] = r->num_keypoints;
    }
    mabn_status status = MABN_OK;
    uint64_t dims[3] = {n, p->n_keypoints, 3};
    if (width)
        status = mabn_dataset_writer_add_array(w, "/coco/keypoints", MABN_H5_F64, 3, dims, all);
    if (width && !status) status = add1(w, "/coco/num_keypoints", MABN_H5_U32, n, labelled);
    if (differ && !status) status = add1(w, "/coco/keypoint_count", MABN_H5_U32, n, counts);
    free(all);
    free(labelled);
    free(counts);
    return status;
}

static mabn_status add_annotations(struct packing *p, struct mabn_dataset_writer *w)
{
    order_annotations(p, w);
    mabn_dataset_writer_set_int64(w, "annotations", (int64_t)p->n_order);
    mabn_dataset_writer_set_int64(w, "keypoints", p->n_keypoints);
    MABN_TRY(add_images(p, w));
    if (!p->coco.annotated) mabn_dataset_writer_set_int64(w, "annotated", 0);
    MABN_TRY(add_texts(&p->coco, w));
    MABN_TRY(add_skeletons(&p->coco, w));
    MABN_TRY(add_lvis(p, w));
    MABN_TRY(add_plain(p, w));
    MABN_TRY(add_last(p, w));
    MABN_TRY(add_polygons(p, w));
    MABN_TRY(add_masks(p, w));
    return add_keypoints(p, w);
}

static void packing_release(struct packing *p)
{
    for (size_t i = 0; i < p->n_images; i++)
        free(p->paths[i]);
    free(p->images);
    free(p->paths);
    free(p->place);
    free(p->category);
    free(p->order);
    free(p->first);
    free(p->last);
    mabn_coco_release(&p->coco);
}

static void tell_summary(const struct mabn_coco *c)
{
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_coco_summary(&text, c);
    mabn_info("%s in '%s'", text.text, c->name);
    mabn_str_release(&text);
}

static mabn_status pack(struct packing *p, const struct mabn_pack_output *out,
                        const struct mabn_coco_pack_options *options)
{
    struct mabn_dataset_writer *w;
    struct mabn_pack_options o = {.threads = options->threads,
                                  .quality = 95,
                                  .verify = options->verify,
                                  .exif = options->exif,
                                  .skip_bad = options->skip_bad,
                                  .check = check_size,
                                  .context = p};
    const char *const *paths = (const char *const *)p->paths;
    int64_t n = (int64_t)p->n_images;
    struct mabn_dataset_spec spec = {
        .kind = "coco", .count = n, .command = out->command, .force = out->force};
    mabn_pack_key(paths, n, &o, out->command, spec.key);
    MABN_TRY(mabn_dataset_writer_open(&w, out->path, &spec));
    mabn_dataset_writer_set_string(w, "tool", out->tool);
    mabn_status status = mabn_pack_files(w, paths, n, &o);
    if (!status) status = add_annotations(p, w);
    if (!status) status = mabn_dataset_writer_commit(w);
    mabn_dataset_writer_free(w, true);
    if (!status) tell_summary(&p->coco);
    return status ? mabn_pack_say_kept(status, out->path) : MABN_OK;
}

/* Does the box end beyond its image, by more than the rounding of a pixel? */
static bool leaves_image(const struct mabn_coco_record *r, const struct mabn_coco_image *image)
{
    return r->has_box && image->width && image->height &&
           (r->box.x + r->box.w > image->width + 1.0 || r->box.y + r->box.h > image->height + 1.0);
}

/* If boxes are corners instead of COCO's x, y, width, height, a detector learns nothing, without
 * any error. Most of such boxes end beyond their image. */
static void doubt_boxes(const struct packing *p)
{
    size_t boxes = 0, beyond = 0, first = 0;
    for (size_t i = 0; i < p->coco.n_records; i++) {
        const struct mabn_coco_record *r = &p->coco.records[i];
        if (p->place[i] == UINT32_MAX || !r->has_box) continue;
        boxes++;
        if (leaves_image(r, p->images[p->place[i]]) && !beyond++) first = i;
    }
    if (beyond < 4 || 2 * beyond <= boxes) return;
    const struct mabn_coco_record *r = &p->coco.records[first];
    mabn_warn(
        "'%s':%u: %zu of %zu boxes end beyond their image, the first is [%g, %g, %g, %g]: are "
        "these corners? COCO's boxes are x, y, width, height",
        p->coco.name, r->line, beyond, boxes, r->box.x, r->box.y, r->box.w, r->box.h);
}

/* Photographs that count as several images. */
static void tell_again(const struct packing *p)
{
    size_t first, again = mabn_listing_again(p->paths, p->n_images, &first);
    char id[24];
    if (again)
        mabn_warn("'%s': %zu image%s the file of another (the first: line %u, image %s, '%s')",
                  p->coco.name, again, again == 1 ? " has" : "s have", p->images[first]->line,
                  mabn_coco_id_text(&p->coco, p->images[first]->id, id), p->paths[first]);
}

/* Annotations that a detector cannot learn from. */
static void tell_boxless(const struct packing *p)
{
    const struct mabn_coco *c = &p->coco;
    const struct mabn_coco_record *first = NULL;
    size_t n = 0;
    char image[24];
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        const bool usable = r->has_box && r->box.w > 0 && r->box.h > 0;
        if (p->place[i] != UINT32_MAX && !usable && !n++) first = r;
    }
    if (n)
        mabn_warn(
            "'%s': %zu annotation%s no box of a positive width and height (the first: line %u, "
            "image %s): a detector does not learn from them",
            c->name, n, n == 1 ? " has" : "s have", first->line,
            mabn_coco_id_text(c, first->image_id, image));
}

mabn_status mabn_coco_pack(const struct mabn_pack_output *out, const char *folder,
                           const char *annotations, const struct mabn_coco_pack_options *options)
{
    struct packing p;
    memset(&p, 0, sizeof p);
    p.exif = options->exif;
    MABN_TRY(mabn_coco_read(&p.coco, annotations,
                            MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS |
                                MABN_COCO_KEEP_LVIS));
    mabn_status status = choose_images(&p, folder, options->skip_bad);
    if (!status) {
        place_annotations(&p);
        doubt_boxes(&p);
        tell_boxless(&p);
        tell_again(&p);
        find_last(&p);
        doubt_ids(&p);
        tell_unused(&p);
        status = pack(&p, out, options);
    }
    packing_release(&p);
    return status;
}

/* ---- reading back ---- */

struct unpacking {
    const struct mabn_h5_file *file;
    struct mabn_coco *out;
    size_t n, m; /* images, annotations */
};

/* A whole array of (rows) or (rows, columns) items, malloc'd. */
static mabn_status take(const struct unpacking *u, const char *name, enum mabn_h5_type type,
                        size_t rows, size_t columns, void *out)
{
    const struct mabn_h5_item *item;
    void *data;
    *(void **)out = NULL;
    MABN_TRY(mabn_h5_need(u->file, name, type, -1, &item));
    if (rows != SIZE_MAX && item->count != rows * columns)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': %s has %llu numbers, expected %zu",
                         mabn_h5_path(u->file), name, (unsigned long long)item->count,
                         rows * columns);
    MABN_TRY(mabn_alloc(&data, item->bytes));
    mabn_status status = mabn_h5_read(u->file, item, data);
    if (status)
        mabn_free(data);
    else
        *(void **)out = data;
    return status;
}

/* A list of starts must rise from 0 to `end`. */
static mabn_status check_starts(const struct unpacking *u, const char *name, const uint64_t *v,
                                size_t n, uint64_t end)
{
    bool fine = v[0] == 0 && v[n] == end;
    for (size_t i = 0; i < n; i++)
        fine &= v[i] <= v[i + 1];
    if (fine) return MABN_OK;
    return mabn_fail(MABN_ERR_FORMAT, "'%s': %s does not rise from 0 to %llu",
                     mabn_h5_path(u->file), name, (unsigned long long)end);
}

static mabn_status take_images(struct unpacking *u, const struct mabn_dataset *ds)
{
    struct mabn_coco *c = u->out;
    int64_t *ids = NULL, *categories = NULL;
    size_t k = (size_t)mabn_dataset_classes(ds);
    mabn_status status = take(u, "/coco/image_id", MABN_H5_I64, u->n, 1, &ids);
    if (!status) status = take(u, "/coco/category_id", MABN_H5_I64, k, 1, &categories);
    if (!status) {
        c->images = mabn_xcalloc(u->n + 1, sizeof *c->images);
        c->categories = mabn_xcalloc(k + 1, sizeof *c->categories);
        c->n_images = u->n;
        c->n_categories = k;
        for (size_t i = 0; i < u->n; i++) {
            char name[4096];
            c->images[i].id = ids[i];
            c->images[i].height = (uint32_t)mabn_dataset_image_height(ds, (int64_t)i);
            c->images[i].width = (uint32_t)mabn_dataset_image_width(ds, (int64_t)i);
            c->images[i].file_name =
                mabn_xstrdup(mabn_dataset_image_name(ds, (int64_t)i, name, sizeof name));
        }
        for (size_t i = 0; i < k; i++) {
            const char *name = mabn_dataset_class_name(ds, (int)i);
            c->categories[i].id = categories[i];
            c->categories[i].name = mabn_xstrdup(name ? name : "");
        }
    }
    mabn_free(ids);
    mabn_free(categories);
    return status;
}

/* Ids that are texts, if there are any. */
static mabn_status take_texts(struct unpacking *u)
{
    struct mabn_coco *c = u->out;
    int64_t *ids = NULL;
    uint64_t *first = NULL;
    char *bytes = NULL;
    mabn_status status = MABN_OK;
    const struct mabn_h5_item *item, *text;
    if (!mabn_h5_find(u->file, "/coco/text_id")) return MABN_OK;
    MABN_TRY(mabn_h5_need(u->file, "/coco/text_id", MABN_H5_I64, 1, &item));
    MABN_TRY(mabn_h5_need(u->file, "/coco/text_bytes", MABN_H5_U8, 1, &text));
    size_t n = (size_t)item->count;
    MABN_TRY_GOTO(take(u, "/coco/text_id", MABN_H5_I64, n, 1, &ids), done);
    MABN_TRY_GOTO(take(u, "/coco/text_first", MABN_H5_U64, n + 1, 1, &first), done);
    MABN_TRY_GOTO(take(u, "/coco/text_bytes", MABN_H5_U8, SIZE_MAX, 1, &bytes), done);
    MABN_TRY_GOTO(check_starts(u, "/coco/text_first", first, n, text->count), done);
    for (size_t i = 1; i < n; i++)
        if (ids[i] <= ids[i - 1])
            MABN_TRY_GOTO(mabn_fail(MABN_ERR_FORMAT, "'%s': /coco/text_id does not rise",
                                    mabn_h5_path(u->file)),
                          done);
    c->texts = mabn_xcalloc(n + 1, sizeof *c->texts);
    for (; c->n_texts < n; c->n_texts++) {
        struct mabn_coco_text *t = &c->texts[c->n_texts];
        t->id = ids[c->n_texts];
        t->text = mabn_xstrndup(bytes + first[c->n_texts],
                                (size_t)(first[c->n_texts + 1] - first[c->n_texts]));
    }
done:
    mabn_free(ids);
    mabn_free(first);
    mabn_free(bytes);
    return status;
}

static mabn_status take_skeletons(struct unpacking *u)
{
    struct mabn_coco *c = u->out;
    const struct mabn_h5_item *item;
    uint32_t *triples;
    if (!mabn_h5_find(u->file, "/coco/skeleton")) return MABN_OK;
    MABN_TRY(mabn_h5_need(u->file, "/coco/skeleton", MABN_H5_U32, 2, &item));
    size_t n = (size_t)item->count / 3;
    MABN_TRY(take(u, "/coco/skeleton", MABN_H5_U32, n, 3, &triples));
    c->bones = mabn_xcalloc(2 * n + 1, sizeof *c->bones);
    for (size_t i = 0; i < n; i++) { /* one category after the other */
        const uint32_t *t = triples + 3 * i;
        bool rises = i == 0 || t[0] >= t[-3];
        if (!rises || t[0] >= c->n_categories || !t[1] || !t[2]) {
            mabn_free(triples);
            return mabn_fail(MABN_ERR_FORMAT, "'%s': bad skeletons", mabn_h5_path(u->file));
        }
        struct mabn_coco_category *k = &c->categories[t[0]];
        if (!k->n_bones++) k->bones = i;
        c->bones[2 * i] = t[1];
        c->bones[2 * i + 1] = t[2];
    }
    c->n_bones = n;
    mabn_free(triples);
    return MABN_OK;
}

/* Where the images stood in the annotation file: equal scores are ordered by it (coco/errors.h). */
static mabn_status take_places(struct unpacking *u)
{
    uint32_t *places;
    if (!mabn_h5_find(u->file, "/coco/place")) return MABN_OK;
    MABN_TRY(take(u, "/coco/place", MABN_H5_U32, u->n, 1, &places));
    u->out->image_places = mabn_xcalloc(u->n + 1, sizeof *places);
    if (u->n) memcpy(u->out->image_places, places, u->n * sizeof *places);
    mabn_free(places);
    return MABN_OK;
}

/* The records that ids which occur twice stand for. */
static mabn_status take_last(struct unpacking *u)
{
    uint32_t *last;
    if (!mabn_h5_find(u->file, "/coco/last")) return MABN_OK;
    MABN_TRY(take(u, "/coco/last", MABN_H5_U32, u->m, 1, &last));
    u->out->stands_for = mabn_xcalloc(u->m + 1, sizeof *last);
    mabn_status status = MABN_OK;
    for (size_t i = 0; i < u->m && !status; i++) {
        u->out->stands_for[i] = last[i];
        if (last[i] >= u->m && last[i] != UINT32_MAX)
            status = mabn_fail(MABN_ERR_FORMAT, "'%s': /coco/last names annotation %u",
                               mabn_h5_path(u->file), last[i]);
    }
    mabn_free(last);
    return status;
}

static mabn_status take_lvis(struct unpacking *u)
{
    struct mabn_coco *c = u->out;
    const struct mabn_h5_item *item;
    uint64_t *first = NULL;
    int64_t *listed = NULL;
    uint8_t *has = NULL, *frequencies = NULL;
    mabn_status status = MABN_OK;
    if (!mabn_h5_find(u->file, "/coco/lvis_first")) return MABN_OK;
    MABN_TRY(mabn_h5_need(u->file, "/coco/lvis_listed", MABN_H5_I64, 1, &item));
    size_t n = (size_t)item->count;
    MABN_TRY_GOTO(take(u, "/coco/lvis_first", MABN_H5_U64, 2 * u->n + 1, 1, &first), done);
    MABN_TRY_GOTO(take(u, "/coco/lvis_listed", MABN_H5_I64, n, 1, &listed), done);
    MABN_TRY_GOTO(take(u, "/coco/lvis_has", MABN_H5_U8, u->n, 1, &has), done);
    MABN_TRY_GOTO(take(u, "/coco/frequency", MABN_H5_U8, c->n_categories, 1, &frequencies), done);
    MABN_TRY_GOTO(check_starts(u, "/coco/lvis_first", first, 2 * u->n, n), done);
    c->n_listed = n;
    c->listed = mabn_xmalloc((n + 1) * sizeof *c->listed);
    if (n) memcpy(c->listed, listed, n * sizeof *listed);
    for (size_t i = 0; i < u->n; i++) {
        struct mabn_coco_image *image = &c->images[i];
        image->listed = first[2 * i];
        image->n_negatives = (uint32_t)(first[2 * i + 1] - first[2 * i]);
        image->n_partial = (uint32_t)(first[2 * i + 2] - first[2 * i + 1]);
        image->has_lists = has[i] != 0;
    }
    for (size_t i = 0; i < c->n_categories; i++)
        c->categories[i].frequency = (char)frequencies[i];
done:
    mabn_free(first);
    mabn_free(listed);
    mabn_free(has);
    mabn_free(frequencies);
    return status;
}

static mabn_status take_unsized(struct unpacking *u)
{
    uint8_t *unsized;
    if (!mabn_h5_find(u->file, "/coco/unsized")) return MABN_OK;
    MABN_TRY(take(u, "/coco/unsized", MABN_H5_U8, u->n, 1, &unsized));
    for (size_t i = 0; i < u->n; i++)
        u->out->images[i].unsized = unsized[i] != 0;
    mabn_free(unsized);
    return MABN_OK;
}

static mabn_status take_plain(struct unpacking *u)
{
    struct mabn_coco *c = u->out;
    uint64_t *first = NULL;
    int64_t *ids = NULL;
    int32_t *categories = NULL;
    double *boxes = NULL, *areas = NULL;
    uint8_t *crowd = NULL, *ignore = NULL;
    mabn_status status = take(u, "/coco/first", MABN_H5_U64, u->n + 1, 1, &first);
    if (!status) status = check_starts(u, "/coco/first", first, u->n, u->m);
    if (!status) status = take(u, "/coco/id", MABN_H5_I64, u->m, 1, &ids);
    if (!status) status = take(u, "/coco/category", MABN_H5_I32, u->m, 1, &categories);
    if (!status) status = take(u, "/coco/box", MABN_H5_F64, u->m, 4, &boxes);
    if (!status) status = take(u, "/coco/area", MABN_H5_F64, u->m, 1, &areas);
    if (!status) status = take(u, "/coco/crowd", MABN_H5_U8, u->m, 1, &crowd);
    if (!status) status = take(u, "/coco/ignore", MABN_H5_U8, u->m, 1, &ignore);
    for (size_t i = 0; !status && i < u->n; i++)
        for (uint64_t a = first[i]; a < first[i + 1] && !status; a++) {
            struct mabn_coco_record *r = &c->records[a];
            const double *b = boxes + 4 * a;
            if (categories[a] < 0 || (size_t)categories[a] >= c->n_categories) {
                status = mabn_fail(MABN_ERR_FORMAT, "'%s': annotation of category number %d",
                                   mabn_h5_path(u->file), categories[a]);
                break;
            }
            *r = (struct mabn_coco_record){.id = ids[a],
                                           .image_id = c->images[i].id,
                                           .category_id = c->categories[categories[a]].id,
                                           .area = areas[a],
                                           .box = {b[0], b[1], b[2], b[3]},
                                           .crowd = crowd[a] == 1,
                                           .odd_crowd = crowd[a] > 1,
                                           .ignore = ignore[a] != 0,
                                           .has_area = !isnan(areas[a]),
                                           .has_box = true};
            if (!(isfinite(b[0]) && isfinite(b[1]) && isfinite(b[2]) && isfinite(b[3]))) {
                r->has_box = false;
                r->box = (struct mabn_box){0, 0, 0, 0};
            }
        }
    mabn_free(first);
    mabn_free(ids);
    mabn_free(categories);
    mabn_free(boxes);
    mabn_free(areas);
    mabn_free(crowd);
    mabn_free(ignore);
    return status;
}

static void set_polygons(struct mabn_coco *c, struct mabn_segmentation *s, uint64_t first,
                         uint64_t end, const uint64_t *corner_first)
{
    s->kind = MABN_SEGMENTATION_POLYGONS;
    s->at = 2 * corner_first[first];
    s->sizes = first;
    s->n = (uint32_t)(end - first);
    for (uint64_t k = first; k < end; k++)
        c->lengths[k] = (uint32_t)(2 * (corner_first[k + 1] - corner_first[k]));
}

static mabn_status take_segmentations(struct unpacking *u)
{
    struct mabn_coco *c = u->out;
    const struct mabn_h5_item *bytes = NULL, *corner_item = NULL, *corners_item = NULL;
    uint8_t *kinds = NULL;
    uint64_t *polygon_first = NULL, *corner_first = NULL, *mask_first = NULL;
    uint32_t *mask_size = NULL;
    mabn_status status = mabn_h5_need(u->file, "/coco/mask_bytes", MABN_H5_U8, 1, &bytes);
    if (!status) status = mabn_h5_need(u->file, "/coco/corner_first", MABN_H5_U64, 1, &corner_item);
    if (!status) status = mabn_h5_need(u->file, "/coco/corners", MABN_H5_F64, 2, &corners_item);
    if (!status && (corner_item->count == 0 || corners_item->count % 2))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': bad polygons", mabn_h5_path(u->file));
    if (status) return status;
    size_t n_polygons = (size_t)corner_item->count - 1, n_numbers = (size_t)corners_item->count;
    MABN_TRY_GOTO(take(u, "/coco/segmentation", MABN_H5_U8, u->m, 1, &kinds), done);
    MABN_TRY_GOTO(take(u, "/coco/polygon_first", MABN_H5_U64, u->m + 1, 1, &polygon_first), done);
    MABN_TRY_GOTO(take(u, "/coco/corner_first", MABN_H5_U64, n_polygons + 1, 1, &corner_first),
                  done);
    MABN_TRY_GOTO(take(u, "/coco/mask_first", MABN_H5_U64, u->m + 1, 1, &mask_first), done);
    MABN_TRY_GOTO(take(u, "/coco/mask_size", MABN_H5_U32, u->m, 2, &mask_size), done);
    MABN_TRY_GOTO(check_starts(u, "/coco/polygon_first", polygon_first, u->m, n_polygons), done);
    MABN_TRY_GOTO(check_starts(u, "/coco/corner_first", corner_first, n_polygons, n_numbers / 2),
                  done);
    MABN_TRY_GOTO(check_starts(u, "/coco/mask_first", mask_first, u->m, bytes->count), done);
    c->n_numbers = n_numbers;
    c->numbers = mabn_xmalloc((n_numbers + 1) * sizeof *c->numbers);
    MABN_TRY_GOTO(mabn_h5_read(u->file, corners_item, c->numbers), done);
    c->n_bytes = (size_t)bytes->count;
    c->bytes = mabn_xmalloc(c->n_bytes + 1);
    MABN_TRY_GOTO(mabn_h5_read(u->file, bytes, c->bytes), done);
    c->n_lengths = n_polygons;
    c->lengths = mabn_xcalloc(n_polygons + 1, sizeof *c->lengths);
    for (size_t a = 0; a < u->m; a++) {
        struct mabn_segmentation *s = &c->records[a].segmentation;
        if (kinds[a] == MABN_SEGMENTATION_POLYGONS)
            set_polygons(c, s, polygon_first[a], polygon_first[a + 1], corner_first);
        else if (kinds[a] == MABN_SEGMENTATION_STRING || kinds[a] == MABN_SEGMENTATION_ODD)
            *s = (struct mabn_segmentation){.kind = kinds[a],
                                            .at = mask_first[a],
                                            .n = (uint32_t)(mask_first[a + 1] - mask_first[a]),
                                            .height = mask_size[2 * a],
                                            .width = mask_size[2 * a + 1]};
    }
done:
    mabn_free(kinds);
    mabn_free(polygon_first);
    mabn_free(corner_first);
    mabn_free(mask_first);
    mabn_free(mask_size);
    return status;
}

/* Keypoints go behind the corners of the polygons. */
static void set_keypoints(struct unpacking *u, const double *all, const uint32_t *labelled,
                          const uint32_t *counts, size_t j)
{
    struct mabn_coco *c = u->out;
    size_t n = u->m * 3 * j;
    c->numbers = mabn_xrealloc(c->numbers, (c->n_numbers + n + 1) * sizeof *c->numbers);
    if (n) memcpy(c->numbers + c->n_numbers, all, n * sizeof *all);
    for (size_t a = 0; a < u->m; a++) {
        struct mabn_coco_record *r = &c->records[a];
        size_t count = counts ? counts[a] : j;
        r->odd_keypoints = count == UINT32_MAX;
        r->keypoints = c->n_numbers + a * 3 * j;
        r->n_keypoints = count <= j ? (uint32_t)count : 0;
        r->has_keypoints = r->n_keypoints > 0;
        r->has_num_keypoints = labelled != NULL;
        r->num_keypoints = labelled ? labelled[a] : 0;
    }
    c->n_numbers += n;
}

static mabn_status take_keypoints(struct unpacking *u)
{
    double *all = NULL;
    uint32_t *labelled = NULL, *counts = NULL;
    int64_t j = 0;
    size_t width = 0;
    mabn_status status = MABN_OK;
    if (mabn_h5_has_attribute(u->file, "keypoints"))
        MABN_TRY(mabn_h5_get_int64(u->file, "keypoints", &j));
    if (j < 0 || j > 1 << 20 || !mabn_size_mul(u->m, 3 * (size_t)j, &width))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': %lld keypoints", mabn_h5_path(u->file),
                         (long long)j);
    if (mabn_h5_find(u->file, "/coco/keypoint_count"))
        status = take(u, "/coco/keypoint_count", MABN_H5_U32, u->m, 1, &counts);
    if (!status && j) status = take(u, "/coco/keypoints", MABN_H5_F64, u->m, 3 * (size_t)j, &all);
    if (!status && j) status = take(u, "/coco/num_keypoints", MABN_H5_U32, u->m, 1, &labelled);
    if (!status && (j || counts)) set_keypoints(u, all, labelled, counts, (size_t)j);
    mabn_free(all);
    mabn_free(labelled);
    mabn_free(counts);
    return status;
}

mabn_status mabn_coco_read_dataset(struct mabn_coco *out, const struct mabn_dataset *ds)
{
    struct unpacking u = {.file = mabn_dataset_file(ds), .out = out};
    const struct mabn_h5_item *ids;
    memset(out, 0, sizeof *out);
    if (strcmp(mabn_dataset_kind(ds), "coco") != 0)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' is a dataset of kind '%s', not 'coco'",
                         mabn_dataset_path(ds), mabn_dataset_kind(ds));
    MABN_TRY(mabn_h5_need(u.file, "/coco/id", MABN_H5_I64, 1, &ids));
    u.n = (size_t)mabn_dataset_count(ds);
    u.m = (size_t)ids->count;
    if (u.m > UINT32_MAX) return mabn_fail(MABN_ERR_LIMIT, "more than 2^32 annotations");
    out->name = mabn_xstrdup(mabn_dataset_path(ds));
    out->n_records = u.m;
    int64_t annotated = 1;
    if (mabn_h5_has_attribute(u.file, "annotated"))
        MABN_TRY(mabn_h5_get_int64(u.file, "annotated", &annotated));
    out->annotated = annotated != 0;
    mabn_status status = mabn_alloc_zero((void **)&out->records, u.m * sizeof *out->records);
    if (!status) status = take_texts(&u);
    if (!status) status = take_images(&u, ds);
    if (!status) status = take_unsized(&u);
    if (!status) status = take_places(&u);
    if (!status) status = take_lvis(&u);
    if (!status) status = take_skeletons(&u);
    if (!status) status = take_plain(&u);
    if (!status) status = take_last(&u);
    if (!status) status = take_segmentations(&u);
    if (!status) status = take_keypoints(&u);
    if (status) mabn_coco_release(out);
    return status;
}

mabn_status mabn_coco_read_any(struct mabn_coco *out, const char *path, unsigned keep)
{
    uint8_t head[8];
    struct mabn_dataset *ds;
    int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    bool hdf5 = fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head &&
                mabn_h5_probe(head, sizeof head);
    if (fd >= 0) close(fd);
    if (!hdf5) return mabn_coco_read(out, path, keep);
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_dataset_open(&ds, path));
    mabn_status status = mabn_coco_read_dataset(out, ds);
    mabn_dataset_free(ds);
    return status;
}
