/* Reading COCO files: one pass, one record at a time into growing arrays. */
#include "coco/annotations.h"

#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/progress.h"

/* A mask string longer than this is no mask: 2^32 pixels in runs of one need less. */
#define MAX_MASK_BYTES ((size_t)1 << 30)

struct reading {
    struct mabn_json *json;
    struct mabn_coco *out;
    unsigned keep;
    struct mabn_progress *progress;
    size_t room_images, room_categories, room_records, room_numbers, room_lengths, room_bytes;
};

/* ---- the parts of a record ---- */

/* A number or a boolean as truth. */
static bool read_flag(struct mabn_json *j)
{
    bool truth = false;
    double number = 0;
    switch (mabn_json_peek(j)) {
    case MABN_JSON_BOOL:
        mabn_json_read_bool(j, &truth);
        return truth;
    case MABN_JSON_NULL:
        mabn_json_read_null(j);
        return false;
    default:
        mabn_json_read_double(j, &number);
        return number != 0;
    }
}

static void add_length(struct reading *r, size_t n)
{
    struct mabn_coco *c = r->out;
    MABN_GROW(c->lengths, c->n_lengths, r->room_lengths);
    c->lengths[c->n_lengths++] = (uint32_t)n;
}

static void read_polygons(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    s->kind = MABN_SEGMENTATION_POLYGONS;
    s->at = c->n_numbers;
    s->sizes = c->n_lengths;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        size_t before = c->n_numbers;
        if (mabn_json_append_doubles(j, &c->numbers, &c->n_numbers, &r->room_numbers)) return;
        add_length(r, c->n_numbers - before);
        s->n++;
    }
}

static void read_counts(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    s->kind = MABN_SEGMENTATION_COUNTS;
    s->at = c->n_lengths;
    s->n = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        int64_t v = 0;
        if (mabn_json_read_int64(j, &v)) return;
        if (v < 0 || v > UINT32_MAX) {
            mabn_json_fail(j, "expected a count in [0, 2^32), found %lld", (long long)v);
            return;
        }
        add_length(r, (size_t)v);
        s->n++;
    }
}

static void read_mask_string(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_coco *c = r->out;
    struct mabn_json_text text;
    if (mabn_json_read_string(r->json, &text)) return;
    if (text.length > MAX_MASK_BYTES) {
        mabn_json_fail(r->json, "mask string of %zu bytes is too long", text.length);
        return;
    }
    s->kind = MABN_SEGMENTATION_STRING;
    s->at = c->n_bytes;
    s->n = (uint32_t)text.length;
    if (c->n_bytes + text.length > r->room_bytes) {
        r->room_bytes = (c->n_bytes + text.length) * 3 / 2 + (64 << 10);
        c->bytes = mabn_xrealloc(c->bytes, r->room_bytes);
    }
    memcpy(c->bytes + c->n_bytes, text.bytes, text.length);
    c->n_bytes += text.length;
}

static void read_mask(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    bool sized = false;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "size")) {
            int64_t size[2] = {0, 0};
            if (mabn_json_read_int64s(j, size, 2)) return;
            if (size[0] < 0 || size[1] < 0 || size[0] > INT32_MAX || size[1] > INT32_MAX ||
                size[0] * size[1] > UINT32_MAX) {
                mabn_json_fail(j, "bad mask size [%lld, %lld]", (long long)size[0],
                               (long long)size[1]);
                return;
            }
            s->height = (uint32_t)size[0];
            s->width = (uint32_t)size[1];
            sized = true;
        } else if (!mabn_json_is(key, "counts")) {
            mabn_json_skip(j);
        } else if (mabn_json_peek(j) == MABN_JSON_ARRAY) {
            read_counts(r, s);
        } else {
            read_mask_string(r, s);
        }
    }
    if (s->kind == MABN_SEGMENTATION_NONE) mabn_json_fail(j, "expected \"counts\" in a mask");
    if (!sized) mabn_json_fail(j, "expected \"size\" in a mask");
}

static void read_segmentation(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json *j = r->json;
    memset(s, 0, sizeof *s);
    switch (r->keep & MABN_COCO_KEEP_SEGMENTATIONS ? mabn_json_peek(j) : MABN_JSON_NULL) {
    case MABN_JSON_ARRAY:
        read_polygons(r, s);
        break;
    case MABN_JSON_OBJECT:
        read_mask(r, s);
        break;
    case MABN_JSON_NULL:
        mabn_json_skip(j);
        break;
    default:
        mabn_json_fail(j, "expected polygons or a mask");
        break;
    }
}

static void read_keypoints(struct reading *r, struct mabn_coco_record *record)
{
    struct mabn_coco *c = r->out;
    if (!(r->keep & MABN_COCO_KEEP_KEYPOINTS) || mabn_json_peek(r->json) == MABN_JSON_NULL) {
        mabn_json_skip(r->json);
        return;
    }
    record->keypoints = c->n_numbers;
    if (mabn_json_append_doubles(r->json, &c->numbers, &c->n_numbers, &r->room_numbers)) return;
    size_t n = c->n_numbers - record->keypoints;
    if (n % 3 != 0) {
        mabn_json_fail(r->json, "expected three numbers a keypoint, found %zu numbers", n);
        return;
    }
    record->n_keypoints = (uint32_t)(n / 3);
    record->has_keypoints = true;
}

/* [x, y, w, h]; an empty list counts as none, as COCO's tools take it. */
static void read_box(struct mabn_json *j, struct mabn_coco_record *record)
{
    double v[4];
    size_t n = 0;
    if (mabn_json_peek(j) == MABN_JSON_NULL) {
        mabn_json_skip(j);
        return;
    }
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        if (n == 4) {
            mabn_json_fail(j, "expected 4 numbers, found more");
            return;
        }
        if (mabn_json_read_double(j, &v[n])) return;
        n++;
    }
    if (mabn_json_status(j) || n == 0) return;
    if (n != 4) {
        mabn_json_fail(j, "expected 4 numbers in \"bbox\", found %zu", n);
        return;
    }
    record->box = (struct mabn_box){v[0], v[1], v[2], v[3]};
    record->has_box = true;
}

/* ---- records ---- */

enum { SEEN_ID = 1, SEEN_IMAGE = 2, SEEN_CATEGORY = 4, SEEN_SCORE = 8, SEEN_SEGMENTATION = 16 };

static unsigned read_field(struct reading *r, struct mabn_coco_record *record,
                           struct mabn_json_text key)
{
    struct mabn_json *j = r->json;
    if (mabn_json_is(key, "image_id")) {
        mabn_json_read_int64(j, &record->image_id);
        return SEEN_IMAGE;
    }
    if (mabn_json_is(key, "category_id")) {
        mabn_json_read_int64(j, &record->category_id);
        return SEEN_CATEGORY;
    }
    if (mabn_json_is(key, "bbox")) {
        read_box(j, record);
    } else if (mabn_json_is(key, "score")) {
        mabn_json_read_double(j, &record->score);
        return SEEN_SCORE;
    } else if (mabn_json_is(key, "segmentation")) {
        bool some = mabn_json_peek(j) != MABN_JSON_NULL;
        read_segmentation(r, &record->segmentation);
        return some ? SEEN_SEGMENTATION : 0;
    } else if (mabn_json_is(key, "id")) {
        mabn_json_read_int64(j, &record->id);
        return SEEN_ID;
    } else if (mabn_json_is(key, "area")) {
        record->has_area = mabn_json_read_double(j, &record->area) == MABN_OK;
    } else if (mabn_json_is(key, "iscrowd")) {
        record->crowd = read_flag(j);
    } else if (mabn_json_is(key, "ignore")) {
        record->ignore = read_flag(j);
    } else if (mabn_json_is(key, "keypoints")) {
        read_keypoints(r, record);
    } else if (mabn_json_is(key, "num_keypoints")) {
        int n = 0;
        record->has_num_keypoints = mabn_json_read_int(j, &n, 0, INT32_MAX) == MABN_OK;
        record->num_keypoints = (uint32_t)n;
    } else {
        mabn_json_skip(j);
    }
    return 0;
}

static void read_record(struct reading *r, unsigned needed)
{
    static const char *const names[] = {"id", "image_id", "category_id", "score", "segmentation"};
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0;
    if (c->n_records == UINT32_MAX) {
        mabn_json_fail(j, "more than 2^32 records");
        return;
    }
    MABN_GROW(c->records, c->n_records, r->room_records);
    struct mabn_coco_record *record = &c->records[c->n_records];
    memset(record, 0, sizeof *record);
    mabn_json_begin_object(j);
    uint64_t line = mabn_json_line(j);
    record->line = line <= UINT32_MAX ? (uint32_t)line : 0;
    while (mabn_json_next_key(j, &key))
        seen |= read_field(r, record, key);
    for (int i = 0; i < 5; i++)
        if (needed & ~seen & 1u << i) mabn_json_fail(j, "no \"%s\"", names[i]);
    if (mabn_json_status(j)) return;
    c->n_records++;
    if (c->n_records % 4096 == 0) mabn_progress_set(r->progress, mabn_json_offset(j));
}

static void read_annotations(struct reading *r)
{
    mabn_json_begin_array(r->json);
    while (mabn_json_next_item(r->json))
        read_record(r, SEEN_ID | SEEN_IMAGE | SEEN_CATEGORY);
}

static void read_images(struct reading *r)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        bool seen = false;
        MABN_GROW(c->images, c->n_images, r->room_images);
        struct mabn_coco_image *image = &c->images[c->n_images++];
        memset(image, 0, sizeof *image);
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &key)) {
            int size = 0;
            if (mabn_json_is(key, "id")) {
                mabn_json_read_int64(j, &image->id);
                seen = true;
            } else if (mabn_json_is(key, "height")) {
                mabn_json_read_int(j, &size, 0, INT32_MAX);
                image->height = (uint32_t)size;
            } else if (mabn_json_is(key, "width")) {
                mabn_json_read_int(j, &size, 0, INT32_MAX);
                image->width = (uint32_t)size;
            } else if (mabn_json_is(key, "file_name") && !image->file_name &&
                       mabn_json_peek(j) == MABN_JSON_STRING) {
                mabn_json_read_strdup(j, &image->file_name);
            } else {
                mabn_json_skip(j);
            }
        }
        if (!seen) mabn_json_fail(j, "no \"id\"");
    }
}

static void read_categories(struct reading *r)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        bool seen = false;
        MABN_GROW(c->categories, c->n_categories, r->room_categories);
        struct mabn_coco_category *category = &c->categories[c->n_categories++];
        memset(category, 0, sizeof *category);
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &key)) {
            if (mabn_json_is(key, "id")) {
                mabn_json_read_int64(j, &category->id);
                seen = true;
            } else if (mabn_json_is(key, "name") && !category->name &&
                       mabn_json_peek(j) == MABN_JSON_STRING) {
                mabn_json_read_strdup(j, &category->name);
            } else {
                mabn_json_skip(j);
            }
        }
        if (!seen) mabn_json_fail(j, "no \"id\"");
    }
}

/* ---- files ---- */

static void read_truth(struct reading *r)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        unsigned part = mabn_json_is(key, "images")        ? 1
                        : mabn_json_is(key, "annotations") ? 2
                        : mabn_json_is(key, "categories")  ? 4
                                                           : 0;
        if (seen & part) {
            mabn_json_fail(j, "a second list of this name");
            return;
        }
        seen |= part;
        if (part == 1)
            read_images(r);
        else if (part == 2)
            read_annotations(r);
        else if (part == 4)
            read_categories(r);
        else
            mabn_json_skip(j);
    }
    if (!(seen & 1)) mabn_json_fail(j, "no \"images\": is this a COCO annotation file?");
    if (!(seen & 2)) mabn_json_fail(j, "no \"annotations\": is this a COCO annotation file?");
    if (!(seen & 4)) mabn_json_fail(j, "no \"categories\": is this a COCO annotation file?");
}

/* The first record decides what each must have. */
static void read_detections(struct reading *r)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    bool boxes = false, keypoints = false;
    unsigned needed = SEEN_IMAGE | SEEN_CATEGORY | SEEN_SCORE, keep = r->keep;
    r->keep = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS; /* at first */
    if (mabn_json_peek(j) == MABN_JSON_OBJECT) {
        mabn_json_fail(j, "expected a list of results, found an object");
        return;
    }
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        read_record(r, needed);
        if (mabn_json_status(j)) return;
        struct mabn_coco_record *last = &c->records[c->n_records - 1];
        last->id = (int64_t)c->n_records;
        if (c->n_records == 1) {
            boxes = last->has_box;
            keypoints =
                !boxes && last->has_keypoints && last->segmentation.kind == MABN_SEGMENTATION_NONE;
            if (!boxes && !keypoints) needed |= SEEN_SEGMENTATION;
            if (boxes) r->keep = keep; /* nothing has to be derived from the rest */
            if (!boxes && !keypoints && last->segmentation.kind == MABN_SEGMENTATION_NONE)
                mabn_json_fail(j, "no \"bbox\", \"segmentation\" or \"keypoints\"");
        }
        if (boxes && !last->has_box) mabn_json_fail(j, "no \"bbox\", which the first result has");
        if (keypoints && !last->has_keypoints)
            mabn_json_fail(j, "no \"keypoints\", which the first result has");
    }
}

static mabn_status read_all(struct mabn_coco *out, struct mabn_json *json, const char *name,
                            bool results, unsigned keep)
{
    memset(out, 0, sizeof *out);
    out->name = mabn_xstrdup(name);
    struct reading r = {.json = json, .out = out, .keep = keep};
    /* The pools exist even when empty, so that offsets into them are always valid. */
    r.room_numbers = r.room_lengths = r.room_bytes = 16;
    out->numbers = mabn_xmalloc(r.room_numbers * sizeof *out->numbers);
    out->lengths = mabn_xmalloc(r.room_lengths * sizeof *out->lengths);
    out->bytes = mabn_xmalloc(r.room_bytes);
    char *what = mabn_xasprintf("reading %s", name);
    r.progress = mabn_progress_new(what, "bytes", mabn_json_size(json));
    if (results)
        read_detections(&r);
    else
        read_truth(&r);
    mabn_status status = mabn_json_end(json);
    mabn_progress_free(r.progress);
    free(what);
    mabn_json_free(json);
    if (status) mabn_coco_release(out);
    return status;
}

mabn_status mabn_coco_read(struct mabn_coco *out, const char *path, unsigned keep)
{
    struct mabn_json *json;
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_json_open(&json, path));
    return read_all(out, json, strcmp(path, "-") ? path : "standard input", false, keep);
}

mabn_status mabn_coco_read_results(struct mabn_coco *out, const char *path, unsigned keep)
{
    struct mabn_json *json;
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_json_open(&json, path));
    return read_all(out, json, strcmp(path, "-") ? path : "standard input", true, keep);
}

mabn_status mabn_coco_read_bytes(struct mabn_coco *out, const void *bytes, size_t size,
                                 bool results, unsigned keep)
{
    return read_all(out, mabn_json_new_bytes(bytes, size, "memory"), "memory", results, keep);
}

void mabn_coco_release(struct mabn_coco *c)
{
    for (size_t i = 0; i < c->n_images; i++)
        free(c->images[i].file_name);
    for (size_t i = 0; i < c->n_categories; i++)
        free(c->categories[i].name);
    free(c->name);
    free(c->images);
    free(c->categories);
    free(c->records);
    free(c->numbers);
    free(c->lengths);
    free(c->bytes);
    memset(c, 0, sizeof *c);
}

mabn_status mabn_coco_fail(const struct mabn_coco *c, const struct mabn_coco_record *record,
                           mabn_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mabn_fail(status, "'%s':%u: %s %lld (image %lld): %s", c->name, record->line,
                     c->n_categories ? "annotation" : "result", (long long)record->id,
                     (long long)record->image_id, text);
}

/* ---- masks ---- */

/* COCO's rule: the first element decides; exactly four numbers are a box. */
/* Union of masks as they come, in the order of a binary counter: level k holds 2^k of them, so each
 * run is merged only as often as there are levels. */
struct gathering {
    struct mabn_rle level[32];
    uint32_t count;
};

/* `one` is taken; another mask's room comes back in it. */
static mabn_status gather(struct gathering *g, struct mabn_rle *one)
{
    int k = 0;
    for (; g->count >> k & 1; k++) {
        struct mabn_rle both, pair[2] = {g->level[k], *one};
        mabn_rle_init(&both);
        mabn_status status = mabn_rle_merge(&both, pair, 2, false);
        mabn_rle_release(one);
        *one = both;
        if (status) return status;
    }
    struct mabn_rle swap = g->level[k];
    g->level[k] = *one;
    *one = swap;
    g->count++;
    return MABN_OK;
}

static mabn_status gathered(struct mabn_rle *out, struct gathering *g)
{
    struct mabn_rle both;
    bool any = false;
    mabn_status status = MABN_OK;
    mabn_rle_init(&both);
    for (int k = 0; k < 32 && !status; k++) {
        if (!(g->count >> k & 1)) continue;
        struct mabn_rle pair[2] = {g->level[k], *out}, *from = any ? &both : &g->level[k];
        if (any) status = mabn_rle_merge(&both, pair, 2, false);
        struct mabn_rle swap = *out;
        *out = *from;
        *from = swap;
        any = true;
    }
    mabn_rle_release(&both);
    return status;
}

static mabn_status polygons_mask(struct mabn_rle *out, const struct mabn_coco *c,
                                 const struct mabn_segmentation *s, uint32_t height, uint32_t width)
{
    const double *xy = c->numbers + s->at;
    const uint32_t *sizes = c->lengths + s->sizes;
    if (s->n == 0) return mabn_fail(MABN_ERR_FORMAT, "an empty list of polygons");
    if (sizes[0] < 4) return mabn_fail(MABN_ERR_FORMAT, "a polygon of %u numbers", sizes[0]);
    bool boxes = sizes[0] == 4;
    struct gathering g = {.count = 0};
    struct mabn_rle one;
    mabn_rle_init(&one);
    mabn_status status = MABN_OK;
    for (uint32_t i = 0; i < s->n; i++) {
        struct mabn_rle *into = s->n > 1 ? &one : out;
        if (boxes && sizes[i] != 4)
            MABN_TRY_GOTO(mabn_fail(MABN_ERR_FORMAT, "polygons of 4 and of %u numbers", sizes[i]),
                          done);
        if (boxes)
            MABN_TRY_GOTO(mabn_rle_from_box(into, (struct mabn_box){xy[0], xy[1], xy[2], xy[3]},
                                            height, width),
                          done);
        else
            MABN_TRY_GOTO(mabn_rle_from_polygon(into, xy, sizes[i], height, width), done);
        xy += sizes[i];
        if (s->n > 1) MABN_TRY_GOTO(gather(&g, &one), done);
    }
    if (s->n > 1) status = gathered(out, &g);
done:
    mabn_rle_release(&one);
    for (int k = 0; k < 32; k++)
        mabn_rle_release(&g.level[k]);
    return status;
}

/* Columns between two of an outline's points that lie in the image. */
static uint64_t columns_between(double a, double b, uint32_t width)
{
    double low = fmax(fmin(a, b), 0), high = fmin(fmax(a, b), width);
    return high > low ? (uint64_t)(high - low) + 1 : 1;
}

uint64_t mabn_coco_mask_columns(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                uint32_t width)
{
    const struct mabn_segmentation *s = &record->segmentation;
    uint64_t sum = 0;
    if (s->kind != MABN_SEGMENTATION_POLYGONS) return 0;
    const double *xy = c->numbers + s->at;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t n = c->lengths[s->sizes + i];
        for (uint32_t k = 0; k + 1 < n; k += 2)
            sum += n == 4 ? columns_between(xy[0], xy[0] + xy[2], width)
                          : columns_between(xy[k], xy[k + 3 < n ? k + 2 : 0], width);
        xy += n;
    }
    return sum;
}

mabn_status mabn_coco_mask(struct mabn_rle *out, const struct mabn_coco *c,
                           const struct mabn_coco_record *record, uint32_t height, uint32_t width)
{
    const struct mabn_segmentation *s = &record->segmentation;
    mabn_status status = MABN_ERR_FORMAT;
    switch (s->kind) {
    case MABN_SEGMENTATION_POLYGONS:
        status = polygons_mask(out, c, s, height, width);
        break;
    case MABN_SEGMENTATION_STRING:
        status = mabn_rle_from_string(out, c->bytes + s->at, s->n, s->height, s->width);
        break;
    case MABN_SEGMENTATION_COUNTS:
        status = mabn_rle_from_counts(out, c->lengths + s->at, s->n, s->height, s->width);
        break;
    default:
        if (record->has_box)
            status = mabn_rle_from_box(out, record->box, height, width);
        else
            mabn_fail(status, "no segmentation");
    }
    if (!status) return MABN_OK;
    char text[256];
    snprintf(text, sizeof text, "%s", mabn_error_message());
    return mabn_coco_fail(c, record, status, "%s", text);
}
