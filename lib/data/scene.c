/* Ground truth and pixels: see scene.h. Arithmetic on coordinates is in float32 and in
 * the reference's order, so that boxes come out to the last bit. */
#include "data/scene.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coco/outline.h"
#include "image/bilinear.h"
#include "image/finish.h"
#include "image/image.h"
#include "image/resize.h"

/* ---- ground truth of a record ---- */

static float clip(float x, float high)
{
    return x < 0 ? 0 : x > high ? high : x;
}

bool mabn_scene_box(const struct mabn_scene_options *o, const struct mabn_coco_record *record,
                    int width, int height, float box[4])
{
    const float one = o->inclusive ? 1 : 0;
    const float right = (float)width - one, bottom = (float)height - one;
    const float x = (float)record->box.x, y = (float)record->box.y;
    if (record->crowd || !record->has_box) return false;
    box[0] = clip(x, right);
    box[1] = clip(y, bottom);
    box[2] = clip(x + fmaxf((float)record->box.w - one, 0), right);
    box[3] = clip(y + fmaxf((float)record->box.h - one, 0), bottom);
    return box[2] > box[0] && box[3] > box[1];
}

/* Will it have a mask? */
static bool has_mask(const struct mabn_coco *coco, const struct mabn_coco_record *record)
{
    const struct mabn_segmentation *s = &record->segmentation;
    if (s->kind != MABN_SEGMENTATION_POLYGONS) return mabn_segmentation_is_mask(s);
    for (uint32_t p = 0; p < s->n; p++)
        if (coco->lengths[s->sizes + p] >= 6) return true;
    return false;
}

/* ---- which photographs are trained on ---- */

enum { FEWEST_KEYPOINTS = 10 };

static bool too_few_keypoints(const struct mabn_coco *c, size_t first, size_t end)
{
    size_t visible = 0;
    if (!c->records[first].has_keypoints) return false;
    for (size_t i = first; i < end; i++)
        for (uint32_t k = 0; c->records[i].has_keypoints && k < c->records[i].n_keypoints; k++)
            visible += c->numbers[c->records[i].keypoints + 3 * k + 2] > 0;
    return visible < FEWEST_KEYPOINTS;
}

static bool all_degenerate(const struct mabn_coco *c, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++)
        if (c->records[i].has_box && c->records[i].box.w > 1 && c->records[i].box.h > 1)
            return false;
    return true;
}

static void count_objects(const struct mabn_scene_set *set, const struct mabn_scene_options *o,
                          uint64_t sample, struct mabn_scene_census *n)
{
    const struct mabn_coco *c = mabn_scene_set_coco(set);
    size_t first, end;
    int width, height;
    mabn_scene_set_records(set, sample, &first, &end);
    mabn_scene_set_size(set, sample, &width, &height);
    for (size_t i = first; i < end; i++) {
        float box[4];
        if (c->records[i].crowd) {
            n->crowds++;
        } else if (!c->records[i].has_box) {
            n->boxless++;
        } else if (!mabn_scene_box(o, &c->records[i], width, height, box)) {
            n->outside++;
        } else {
            n->objects++;
            n->maskless += !has_mask(c, &c->records[i]);
        }
    }
}

static bool is_kept(const struct mabn_scene_set *set, const struct mabn_scene_options *o,
                    uint64_t sample, struct mabn_scene_census *n)
{
    const struct mabn_coco *c = mabn_scene_set_coco(set);
    struct mabn_scene_census own = {0};
    size_t first, end;
    mabn_scene_set_records(set, sample, &first, &end);
    n->images++;
    if (!o->keep_empty) {
        if (first == end) return n->bare++, false;
        if (all_degenerate(c, first, end)) return n->degenerate++, false;
        if (too_few_keypoints(c, first, end)) return n->unposed++, false;
    }
    count_objects(set, o, sample, &own);
    if (!own.objects && o->leave_out_empty) return n->left_out_empty++, false;
    n->kept++;
    n->empty += !own.objects;
    n->objects += own.objects;
    n->crowds += own.crowds;
    n->boxless += own.boxless;
    n->outside += own.outside;
    n->maskless += own.maskless;
    return true;
}

mabn_status mabn_scene_select(const struct mabn_scene_set *set,
                              const struct mabn_scene_options *options, uint64_t **samples,
                              uint64_t *count, struct mabn_scene_census *census)
{
    struct mabn_scene_census n = {0};
    const uint64_t all = mabn_scene_set_count(set);
    *samples = mabn_xmalloc((all + 1) * sizeof **samples);
    for (uint64_t i = 0; i < all; i++) {
        (*samples)[n.kept] = i; /* kept only if n.kept increases */
        is_kept(set, options, i, &n);
    }
    *count = n.kept;
    if (census) *census = n;
    if (n.objects) return MABN_OK;
    free(*samples);
    *samples = NULL;
    return mabn_fail(MABN_ERR_FORMAT, "'%s' has nothing to train on: %llu photographs, no objects",
                     mabn_scene_set_path(set), (unsigned long long)all);
}

/* "N what", unless N is 0, in a list that `before` opens. */
static void add_part(struct mabn_str *text, const char **before, uint64_t n, const char *what)
{
    if (!n) return;
    mabn_str_printf(text, "%s%llu%s", *before, (unsigned long long)n, what);
    *before = ", ";
}

void mabn_scene_census_text(struct mabn_str *text, const struct mabn_scene_census *n)
{
    const char *left_out = "; left out: ", *with = "; objects: ", *dropped = "; dropped: ",
               *empty = "; photographs with no object: ";
    mabn_str_printf(text, "%llu of %llu photographs", (unsigned long long)n->kept,
                    (unsigned long long)n->images);
    add_part(text, &left_out, n->bare, " without annotations");
    add_part(text, &left_out, n->degenerate, " with nothing more than 1 pixel wide and high");
    add_part(text, &left_out, n->unposed, " with fewer than 10 visible keypoints");
    add_part(text, &left_out, n->left_out_empty, " with only crowds and boxes outside");
    add_part(text, &with, n->objects, "");
    add_part(text, &with, n->maskless, " without a mask");
    add_part(text, &dropped, n->crowds, " crowds");
    add_part(text, &dropped, n->boxless, " without a box");
    add_part(text, &dropped, n->outside, " boxes outside or empty");
    add_part(text, &empty, n->empty, "");
}

/* ---- scenes ---- */

void mabn_scene_release(struct mabn_scene *s)
{
    free(s->boxes);
    free(s->labels);
    free(s->records);
    free(s->first_polygon);
    free(s->first_number);
    free(s->numbers);
    *s = (struct mabn_scene){0};
}

struct mabn_scene_maker {
    const struct mabn_scene_set *set;
    struct mabn_scene_options o;
    struct mabn_decoder *decoder;
    struct mabn_resizer *resizer;
    struct mabn_finisher *finisher;
    struct mabn_image decoded, resized;
    struct mabn_bilinear bilinear;
    float table[3][256]; /* by channel of the output */
    struct mabn_rle mask;
    struct mabn_outline outline;
};

struct mabn_scene_maker *mabn_scene_maker_new(const struct mabn_scene_set *set,
                                              const struct mabn_scene_options *options)
{
    struct mabn_scene_maker *m = mabn_xcalloc(1, sizeof *m);
    struct mabn_normalization n = {.channels = 3, .range = options->range};
    m->set = set;
    m->o = *options;
    m->decoder = mabn_decoder_new();
    m->resizer = mabn_resizer_new();
    memcpy(n.mean, options->mean, sizeof n.mean);
    memcpy(n.deviation, options->deviation, sizeof n.deviation);
    m->finisher = mabn_finisher_new(&n);
    mabn_normalization_table(&n, m->table);
    mabn_rle_init(&m->mask);
    return m;
}

void mabn_scene_maker_free(struct mabn_scene_maker *m)
{
    if (!m) return;
    mabn_decoder_free(m->decoder);
    mabn_resizer_free(m->resizer);
    mabn_finisher_free(m->finisher);
    mabn_image_release(&m->decoded);
    mabn_image_release(&m->resized);
    mabn_bilinear_release(&m->bilinear);
    mabn_rle_release(&m->mask);
    mabn_outline_release(&m->outline);
    free(m);
}

/* From coordinates in the photograph to the scene's. */
struct mapping {
    float x, y; /* ratios */
    bool flip;
    float from; /* a flipped x is from − x */
};

static struct mapping mapping_of(const struct mabn_scene_options *o, const struct mabn_scene *s)
{
    return (struct mapping){.x = (float)((double)s->width / s->original_width),
                            .y = (float)((double)s->height / s->original_height),
                            .flip = s->choice.flip,
                            .from = o->inclusive ? 1 : 0};
}

static void map_box(float *out, const float box[4], const struct mapping *m, int width)
{
    const float x1 = box[0] * m->x, x2 = box[2] * m->x;
    out[0] = m->flip ? (float)width - x2 - m->from : x1;
    out[1] = box[1] * m->y;
    out[2] = m->flip ? (float)width - x1 - m->from : x2;
    out[3] = box[3] * m->y;
}

/* ---- polygons ---- */

static void make_number_room(struct mabn_scene *s, size_t more)
{
    if (s->n_numbers + more <= s->number_room) return;
    s->number_room = 2 * (s->n_numbers + more);
    s->numbers = mabn_xrealloc(s->numbers, s->number_room * sizeof *s->numbers);
}

static void add_polygon(struct mabn_scene *s, const double *xy, size_t n, const struct mapping *m)
{
    if (s->n_polygons + 2 > s->polygon_room) {
        s->polygon_room = 2 * s->polygon_room + 16;
        s->first_number = mabn_xrealloc(s->first_number, s->polygon_room * sizeof *s->first_number);
    }
    make_number_room(s, n);
    s->first_number[s->n_polygons++] = (uint32_t)s->n_numbers;
    for (size_t i = 0; i + 1 < n; i += 2) {
        const float x = (float)xy[i] * m->x;
        s->numbers[s->n_numbers++] = m->flip ? (float)s->width - x - m->from : x;
        s->numbers[s->n_numbers++] = (float)xy[i + 1] * m->y;
    }
}

/* Run lengths: their outline. Its corners lie between pixels, so a flip turns x to W − x whatever
 * the family. */
static mabn_status add_outline(struct mabn_scene_maker *maker, struct mabn_scene *s,
                               const struct mabn_coco_record *record, const struct mapping *m)
{
    const struct mabn_coco *coco = mabn_scene_set_coco(maker->set);
    struct mapping own = *m;
    own.from = 0;
    MABN_TRY(mabn_coco_mask(&maker->mask, coco, record, (uint32_t)s->original_height,
                            (uint32_t)s->original_width));
    MABN_TRY(mabn_outline_of_rle(&maker->outline, &maker->mask));
    const double *xy = maker->outline.xy;
    for (size_t p = 0; p < maker->outline.count; xy += maker->outline.sizes[p++])
        add_polygon(s, xy, maker->outline.sizes[p], &own);
    return MABN_OK;
}

static mabn_status add_mask(struct mabn_scene_maker *maker, struct mabn_scene *s,
                            const struct mabn_coco_record *record, const struct mapping *m)
{
    const struct mabn_coco *coco = mabn_scene_set_coco(maker->set);
    const struct mabn_segmentation *g = &record->segmentation;
    if (mabn_segmentation_is_mask(g)) return add_outline(maker, s, record, m);
    if (g->kind != MABN_SEGMENTATION_POLYGONS) return MABN_OK;
    const double *xy = coco->numbers + g->at;
    for (uint32_t p = 0; p < g->n; xy += coco->lengths[g->sizes + p++])
        if (coco->lengths[g->sizes + p] >= 6) add_polygon(s, xy, coco->lengths[g->sizes + p], m);
    return MABN_OK;
}

/* ---- all objects ---- */

static void make_object_room(struct mabn_scene *s, size_t objects)
{
    if (objects + 1 <= s->object_room) return;
    s->object_room = objects + 1;
    s->boxes = mabn_xrealloc(s->boxes, s->object_room * 4 * sizeof *s->boxes);
    s->labels = mabn_xrealloc(s->labels, s->object_room * sizeof *s->labels);
    s->records = mabn_xrealloc(s->records, s->object_room * sizeof *s->records);
    s->first_polygon = mabn_xrealloc(s->first_polygon, s->object_room * sizeof *s->first_polygon);
}

/* Ends both lists of beginnings: each has one entry more than it has objects or polygons. */
static void close_lists(struct mabn_scene *s)
{
    if (!s->first_number) {
        s->polygon_room = 16;
        s->first_number = mabn_xmalloc(s->polygon_room * sizeof *s->first_number);
    }
    s->first_polygon[s->count] = (uint32_t)s->n_polygons;
    s->first_number[s->n_polygons] = (uint32_t)s->n_numbers;
}

static void set_size(const struct mabn_scene_maker *maker, struct mabn_scene *s, uint64_t sample,
                     struct mabn_scene_choice choice)
{
    s->sample = sample;
    s->image_id = mabn_scene_set_image_id(maker->set, sample);
    s->choice = choice;
    s->bad = false;
    mabn_scene_set_size(maker->set, sample, &s->original_width, &s->original_height);
    mabn_scene_size(&maker->o, choice.min_size, s->original_width, s->original_height, &s->width,
                    &s->height);
}

mabn_status mabn_scene_target(struct mabn_scene_maker *maker, struct mabn_scene *s, uint64_t sample,
                              struct mabn_scene_choice choice)
{
    const struct mabn_coco *coco = mabn_scene_set_coco(maker->set);
    size_t first, end;
    mabn_status status = MABN_OK;
    mabn_scene_set_records(maker->set, sample, &first, &end);
    set_size(maker, s, sample, choice);
    const struct mapping m = mapping_of(&maker->o, s);
    s->count = 0;
    s->n_polygons = s->n_numbers = 0;
    make_object_room(s, end - first);
    for (size_t i = first; i < end && !status; i++) {
        float box[4];
        if (!mabn_scene_box(&maker->o, &coco->records[i], s->original_width, s->original_height,
                            box))
            continue;
        map_box(s->boxes + 4 * s->count, box, &m, s->width);
        s->labels[s->count] = mabn_scene_set_category(maker->set, i) + 1;
        s->records[s->count] = (uint32_t)i;
        s->first_polygon[s->count++] = (uint32_t)s->n_polygons;
        status = add_mask(maker, s, &coco->records[i], &m);
    }
    close_lists(s);
    return status;
}

/* ---- pixels ---- */

static mabn_status decode_bytes(struct mabn_scene_maker *m, const struct mabn_scene_bytes *in)
{
    struct mabn_image *image = &m->decoded;
    if (!in->width) return mabn_image_decode(m->decoder, image, in->bytes, in->size, NULL);
    const size_t expected = (size_t)in->width * (size_t)in->height * (size_t)in->channels;
    if ((in->channels != 1 && in->channels != 3) || in->size != expected)
        return mabn_fail(MABN_ERR_FORMAT, "expected %zu bytes (%dx%dx%d), found %zu", expected,
                         in->height, in->width, in->channels, in->size);
    MABN_TRY(mabn_image_resize_storage(image, in->width, in->height, in->channels));
    memcpy(image->pixels, in->bytes, in->size);
    return mabn_image_set_channels(image, 3);
}

static mabn_status decode(struct mabn_scene_maker *m, const struct mabn_scene *s)
{
    struct mabn_scene_bytes bytes;
    MABN_TRY(mabn_scene_set_read(m->set, s->sample, &bytes));
    mabn_status status = decode_bytes(m, &bytes);
    if (!status && bytes.orientation > 1) status = mabn_image_turn(&m->decoded, bytes.orientation);
    mabn_scene_bytes_release(&bytes);
    if (!status &&
        (m->decoded.width != s->original_width || m->decoded.height != s->original_height))
        status =
            mabn_fail(MABN_ERR_FORMAT, "expected %d x %d pixels, found %d x %d", s->original_width,
                      s->original_height, m->decoded.width, m->decoded.height);
    return status;
}

/* Resized in 8 bits, then flipped and normalized. */
static mabn_status draw_bytes(struct mabn_scene_maker *m, const struct mabn_scene *s, float *x,
                              size_t stride)
{
    const struct mabn_finish finish = {.flip = s->choice.flip, .swap = m->o.bgr};
    const struct mabn_image *image = &m->decoded;
    if (image->width != s->width || image->height != s->height) {
        MABN_TRY(mabn_image_resize(m->resizer, &m->resized, image, NULL, s->width, s->height,
                                   MABN_RESIZE_PIL));
        image = &m->resized;
    }
    mabn_finish_rows(m->finisher, x, stride, image, &finish);
    return MABN_OK;
}

/* Flipped, normalized, then resized in float32. */
static mabn_status draw_floats(struct mabn_scene_maker *m, const struct mabn_scene *s, float *x,
                               size_t stride)
{
    struct mabn_image *image = &m->decoded;
    if (s->choice.flip || m->o.bgr) {
        const struct mabn_finish finish = {.flip = s->choice.flip, .swap = m->o.bgr};
        MABN_TRY(mabn_image_resize_storage(&m->resized, image->width, image->height, 3));
        mabn_finish_bytes(m->resized.pixels, image, &finish);
        image = &m->resized;
    }
    return mabn_bilinear_resize(&m->bilinear, x, stride, s->width, s->height, image, m->table);
}

static void pad(float *x, int width, int height, int padded_width, int padded_height)
{
    const size_t stride = 3 * (size_t)padded_width, row = 3 * (size_t)width;
    for (int y = 0; y < height; y++)
        memset(x + (size_t)y * stride + row, 0, (stride - row) * sizeof *x);
    memset(x + (size_t)height * stride, 0, (size_t)(padded_height - height) * stride * sizeof *x);
}

static mabn_status draw(struct mabn_scene_maker *m, const struct mabn_scene *s, float *x,
                        int padded_width, int padded_height)
{
    const size_t stride = 3 * (size_t)padded_width;
    mabn_status status = decode(m, s);
    if (!status)
        status = m->o.rule == MABN_SCENE_TORCHVISION ? draw_floats(m, s, x, stride)
                                                     : draw_bytes(m, s, x, stride);
    if (!status) pad(x, s->width, s->height, padded_width, padded_height);
    return status;
}

/* The picture whose decoding or drawing failed. */
static mabn_status name_photograph(const struct mabn_scene_maker *maker, const struct mabn_scene *s,
                                   mabn_status status)
{
    char name[200];
    if (!status) return MABN_OK;
    mabn_scene_set_name(maker->set, s->sample, name, sizeof name);
    return mabn_fail_prefix(status, "photograph %lld '%s'", (long long)s->image_id, name);
}

mabn_status mabn_scene_make(struct mabn_scene_maker *maker, struct mabn_scene *s, uint64_t sample,
                            struct mabn_scene_choice choice, float *x, int padded_width,
                            int padded_height)
{
    MABN_TRY(mabn_scene_target(maker, s, sample, choice));
    if (padded_width < s->width || padded_height < s->height)
        return mabn_fail(MABN_ERR_ARG, "a scene of %d x %d pixels does not fit into %d x %d",
                         s->width, s->height, padded_width, padded_height);
    return name_photograph(maker, s, draw(maker, s, x, padded_width, padded_height));
}

mabn_status mabn_scene_make_raw(struct mabn_scene_maker *maker, struct mabn_scene *s,
                                uint64_t sample, struct mabn_scene_choice choice,
                                struct mabn_raw **block, size_t *capacity)
{
    MABN_TRY(mabn_scene_target(maker, s, sample, choice));
    const struct mabn_raw_plan plan = {
        .rule = maker->o.rule == MABN_SCENE_TORCHVISION ? MABN_RAW_FLOATS : MABN_RAW_BYTES,
        .width = s->width,
        .height = s->height,
        .flip = s->choice.flip,
        .swap = maker->o.bgr,
        .table = maker->table};
    mabn_status status = decode(maker, s);
    if (!status) status = mabn_raw_pack(block, capacity, &maker->decoded, &plan);
    return name_photograph(maker, s, status);
}

void mabn_scene_blank(struct mabn_scene *s)
{
    s->bad = true;
    s->count = 0;
    s->n_polygons = s->n_numbers = 0;
    make_object_room(s, 0);
    close_lists(s);
}

void mabn_scene_clear(float *x, int padded_width, int padded_height)
{
    pad(x, 0, 0, padded_width, padded_height);
}
