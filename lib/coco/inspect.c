/* Counting, and looking for faults: one pass over each list, with sorted copies for what occurs
 * twice. */
#include "coco/inspect.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { SHOWN = 10 };

bool mabn_coco_looks_like_json(const char *path)
{
    char head[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? pread(fd, head, sizeof head - 1, 0) : -1;
    if (fd >= 0) close(fd);
    if (n <= 0) return false;
    head[n] = 0;
    const char *p = head + (strncmp(head, "\xef\xbb\xbf", 3) ? 0 : 3); /* a byte order mark */
    p += strspn(p, " \t\r\n");
    if (*p != '{') return false;
    p++;
    p += strspn(p, " \t\r\n");
    return *p == '"' || *p == '}';
}

/* ---- counts ---- */

struct tally {
    size_t images, annotations, crowds; /* of a category */
};

struct place {
    int64_t id;
    size_t at;
};

struct inspection {
    const struct mabn_coco *c;
    const struct mabn_inspect_options *options;
    struct place *images, *categories; /* by id */
    struct tally *tallies;             /* (categories) */
    uint32_t *owner;                   /* (records) index of the image, UINT32_MAX: none */
    uint32_t *kind;                    /* (records) index of the category, likewise */
    size_t annotated;                  /* images with annotations */
    struct mabn_str *out;
    struct mabn_json_writer json; /* onto out */
    size_t faults, of_kind;
    uint64_t columns;  /* that outlines crossed so far (coco/match.c limits them too) */
    const char *title; /* the kind of fault that is being looked for */
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static uint32_t find(const struct place *list, size_t n, int64_t id)
{
    while (n > 0) {
        size_t half = n / 2;
        if (list[half].id == id) return (uint32_t)list[half].at;
        n = list[half].id < id ? n - half - 1 : half;
        list = list[half].id < id ? list + half + 1 : list;
    }
    return UINT32_MAX;
}

/* Ids stand first in images, categories and records. */
static struct place *sorted(size_t n, const void *first, size_t stride)
{
    struct place *list = mabn_xcalloc(n + 1, sizeof *list);
    for (size_t i = 0; i < n; i++) {
        memcpy(&list[i].id, (const char *)first + i * stride, sizeof list[i].id);
        list[i].at = i;
    }
    qsort(list, n, sizeof *list, compare_places);
    return list;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void count(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    uint64_t *pairs = mabn_xcalloc(c->n_records + 1, sizeof *pairs);
    bool *seen = mabn_xcalloc(c->n_images + 1, sizeof *seen);
    size_t n = 0;
    in->images = sorted(c->n_images, c->images, sizeof *c->images);
    in->categories = sorted(c->n_categories, c->categories, sizeof *c->categories);
    in->tallies = mabn_xcalloc(c->n_categories + 1, sizeof *in->tallies);
    in->owner = mabn_xcalloc(c->n_records + 1, sizeof *in->owner);
    in->kind = mabn_xcalloc(c->n_records + 1, sizeof *in->kind);
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        uint32_t image = in->owner[i] = find(in->images, c->n_images, r->image_id);
        uint32_t kind = in->kind[i] = find(in->categories, c->n_categories, r->category_id);
        if (image != UINT32_MAX) {
            in->annotated += !seen[image];
            seen[image] = true;
        }
        if (kind == UINT32_MAX) continue;
        in->tallies[kind].annotations++;
        in->tallies[kind].crowds += r->crowd;
        if (image != UINT32_MAX) pairs[n++] = (uint64_t)kind << 32 | image;
    }
    qsort(pairs, n, sizeof *pairs, compare_u64);
    for (size_t i = 0; i < n; i++)
        in->tallies[pairs[i] >> 32].images += i == 0 || pairs[i] != pairs[i - 1];
    free(pairs);
    free(seen);
}

/* ---- faults ---- */

static void begin(struct inspection *in, const char *title)
{
    if (in->of_kind > SHOWN && !in->options->all && !in->options->json)
        mabn_str_printf(in->out, "  ... and %zu more\n", in->of_kind - SHOWN);
    in->title = title;
    in->of_kind = 0;
}

static void fault(struct inspection *in, uint32_t line, const char *format, ...) MABN_PRINTF(3, 4);

static void fault(struct inspection *in, uint32_t line, const char *format, ...)
{
    struct mabn_str text;
    char buffer[512];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    in->faults++;
    if (in->of_kind++ >= SHOWN && !in->options->all) return;
    if (in->options->json) {
        mabn_json_put_object(&in->json, NULL);
        mabn_json_put_int(&in->json, "line", line);
        mabn_json_put_string(&in->json, "kind", in->title);
        mabn_json_put_string(&in->json, "text", buffer);
        mabn_json_put_end(&in->json);
        return;
    }
    if (in->of_kind == 1) mabn_str_printf(in->out, "%s:\n", in->title);
    mabn_str_init(&text);
    for (const char *p = buffer; *p; p++) /* nothing of a file may steer the terminal */
        mabn_str_add_char(&text, (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p);
    char place[16];
    mabn_str_printf(in->out, "  '%s'%s: %s\n", in->c->name, mabn_coco_line(line, place), text.text);
    mabn_str_release(&text);
}

static const char *record_name(const struct inspection *in, size_t i, char name[96])
{
    const struct mabn_coco_record *r = &in->c->records[i];
    char id[24], image[24];
    if (r->odd_id)
        snprintf(id, sizeof id, "[%zu]", i);
    else
        snprintf(id, sizeof id, "%lld", (long long)r->id);
    snprintf(name, 96, "annotation %s (image %.40s)", id,
             mabn_coco_id_text(in->c, r->image_id, image));
    return name;
}

static int compare_names(const void *a, const void *b, void *coco)
{
    const struct mabn_coco *c = coco;
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    int order = strcmp(c->images[x].file_name, c->images[y].file_name);
    return order ? order : (x > y) - (x < y);
}

static int compare_category_names(const void *a, const void *b, void *coco)
{
    const struct mabn_coco *c = coco;
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    int order = strcmp(c->categories[x].name, c->categories[y].name);
    return order ? order : (x > y) - (x < y);
}

static void check_images(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    char id[24];
    size_t *named = mabn_xcalloc(c->n_images + 1, sizeof *named), n = 0;
    begin(in, "image ids that occur twice");
    for (size_t i = 1; i < c->n_images; i++) {
        const struct mabn_coco_image *a = &c->images[in->images[i - 1].at],
                                     *b = &c->images[in->images[i].at];
        if (a->id == b->id)
            fault(in, b->line, "image %s ('%s') has the id of line %u ('%s')",
                  mabn_coco_id_text(c, b->id, id), b->file_name ? b->file_name : "", a->line,
                  a->file_name ? a->file_name : "");
    }
    begin(in, "images without a size");
    for (size_t i = 0; i < c->n_images; i++)
        if (c->images[i].unsized)
            fault(in, c->images[i].line, "image %s", mabn_coco_id_text(c, c->images[i].id, id));
    begin(in, "file names that cannot be used");
    for (size_t i = 0; i < c->n_images; i++) {
        const char *why = mabn_coco_name_fault(&c->images[i]);
        if (!why && strchr(c->images[i].file_name, '\\'))
            why = "its \"file_name\" has backslashes, which do not part folders here";
        if (why)
            fault(in, c->images[i].line, "image %s: %s", mabn_coco_id_text(c, c->images[i].id, id),
                  why);
        else
            named[n++] = i;
    }
    begin(in, "file names that occur twice");
    qsort_r(named, n, sizeof *named, compare_names, (void *)(uintptr_t)c);
    for (size_t i = 1; i < n; i++) {
        const struct mabn_coco_image *a = &c->images[named[i - 1]], *b = &c->images[named[i]];
        if (!strcmp(a->file_name, b->file_name))
            fault(in, b->line, "image %s: '%s', as in line %u", mabn_coco_id_text(c, b->id, id),
                  b->file_name, a->line);
    }
    free(named);
}

static void check_categories(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    char id[24];
    begin(in, "category ids that occur twice");
    for (size_t i = 1; i < c->n_categories; i++) {
        const struct mabn_coco_category *a = &c->categories[in->categories[i - 1].at],
                                        *b = &c->categories[in->categories[i].at];
        if (a->id == b->id)
            fault(in, b->line, "category %s ('%s') has the id of line %u ('%s')",
                  mabn_coco_id_text(c, b->id, id), b->name ? b->name : "", a->line,
                  a->name ? a->name : "");
    }
    begin(in, "category names that are missing or occur twice");
    size_t *named = mabn_xcalloc(c->n_categories + 1, sizeof *named), n = 0;
    for (size_t i = 0; i < c->n_categories; i++) {
        if (c->categories[i].name && *c->categories[i].name)
            named[n++] = i;
        else
            fault(in, c->categories[i].line, "category %s has no name",
                  mabn_coco_id_text(c, c->categories[i].id, id));
    }
    qsort_r(named, n, sizeof *named, compare_category_names, (void *)(uintptr_t)c);
    for (size_t i = 1; i < n; i++) {
        const struct mabn_coco_category *x = &c->categories[named[i - 1]],
                                        *y = &c->categories[named[i]];
        if (!strcmp(x->name, y->name))
            fault(in, y->line, "category %s: '%s', as in line %u", mabn_coco_id_text(c, y->id, id),
                  y->name, x->line);
    }
    free(named);
}

static void check_ids(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    struct place *list = sorted(c->n_records, c->records, sizeof *c->records);
    char name[96], id[24];
    begin(in, "annotation ids that are missing or occur twice");
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[list[i].at];
        if (r->no_id)
            fault(in, r->line, "%s has no id", record_name(in, list[i].at, name));
        else if (i && list[i].id == list[i - 1].id)
            fault(in, r->line, "%s has the id of line %u", record_name(in, list[i].at, name),
                  c->records[list[i - 1].at].line);
    }
    free(list);
    begin(in, "annotations of images or categories that are not listed");
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        if (in->owner[i] == UINT32_MAX)
            fault(in, r->line, "%s: no such image", record_name(in, i, name));
        if (in->kind[i] == UINT32_MAX)
            fault(in, r->line, "%s: no category %s", record_name(in, i, name),
                  mabn_coco_id_text(c, r->category_id, id));
    }
}

static const struct mabn_coco_image *image_of(const struct inspection *in, size_t i)
{
    const struct mabn_coco_image *image =
        in->owner[i] == UINT32_MAX ? NULL : &in->c->images[in->owner[i]];
    return image && !image->unsized ? image : NULL;
}

static void check_boxes(struct inspection *in)
{
    char name[96];
    begin(in, "boxes");
    for (size_t i = 0; i < in->c->n_records; i++) {
        const struct mabn_coco_record *r = &in->c->records[i];
        const struct mabn_coco_image *image = image_of(in, i);
        const struct mabn_box *b = &r->box;
        record_name(in, i, name);
        if (!r->has_box)
            fault(in, r->line, "%s: %s", name,
                  r->odd_box ? "\"bbox\" is not four finite numbers" : "no \"bbox\"");
        else if (!(b->w > 0 && b->h > 0))
            fault(in, r->line, "%s: a box of %g x %g", name, b->w, b->h);
        else if (image && (b->x < -1 || b->y < -1 || b->x + b->w > image->width + 1.0 ||
                           b->y + b->h > image->height + 1.0))
            fault(in, r->line, "%s: the box [%g, %g, %g, %g] leaves the image of %u x %u", name,
                  b->x, b->y, b->w, b->h, image->width, image->height);
    }
    begin(in, "areas");
    for (size_t i = 0; i < in->c->n_records; i++) {
        const struct mabn_coco_record *r = &in->c->records[i];
        const struct mabn_coco_image *image = image_of(in, i);
        record_name(in, i, name);
        if (!r->has_area)
            fault(in, r->line, "%s: %s", name,
                  r->odd_area ? "\"area\" is not a finite number" : "no \"area\"");
        else if (!(r->area > 0))
            fault(in, r->line, "%s: an area of %g", name, r->area);
        else if (image && r->area > (double)image->width * image->height)
            fault(in, r->line, "%s: an area of %g in an image of %u x %u", name, r->area,
                  image->width, image->height);
    }
}

/* A segmentation that is there must make a mask that has pixels and the image's size. */
static void check_mask(struct inspection *in, size_t i, struct mabn_rle *mask)
{
    const struct mabn_coco_record *r = &in->c->records[i];
    const struct mabn_segmentation *s = &r->segmentation;
    const struct mabn_coco_image *image = image_of(in, i);
    char name[96];
    record_name(in, i, name);
    if (s->kind == MABN_SEGMENTATION_NONE) return;
    if (s->kind == MABN_SEGMENTATION_ODD) {
        fault(in, r->line, "%s: %.*s", name, (int)s->n, in->c->bytes + s->at);
        return;
    }
    if (s->kind == MABN_SEGMENTATION_POLYGONS && !image) return;
    if (image) in->columns += mabn_coco_mask_columns(in->c, r, image->width);
    if (in->columns > ((uint64_t)1 << 26) + 1024 * (uint64_t)in->c->n_numbers) {
        fault(in, r->line, "%s: the outlines up to here cross too many columns to be looked at",
              name);
        return;
    }
    if (mabn_coco_mask(mask, in->c, r, image ? image->height : 0, image ? image->width : 0)) {
        const char *text = mabn_error_message(), *at = strstr(text, "): ");
        fault(in, r->line, "%s: %s", name, at ? at + 3 : text);
        return;
    }
    if (mask->missing)
        fault(in, r->line, "%s: the runs of its mask end %u pixels before the last", name,
              mask->missing);
    if (image && (mask->height != image->height || mask->width != image->width))
        fault(in, r->line, "%s: a mask of %u x %u in an image of %u x %u", name, mask->width,
              mask->height, image->width, image->height);
    else if (mabn_rle_area(mask) == 0)
        fault(in, r->line, "%s: a mask without pixels", name);
}

static void check_crowds(struct inspection *in)
{
    char name[96];
    begin(in, "crowds");
    for (size_t i = 0; i < in->c->n_records; i++)
        if (in->c->records[i].odd_crowd)
            fault(in, in->c->records[i].line, "%s: \"iscrowd\" is no number and not true or false",
                  record_name(in, i, name));
}

static void check_masks(struct inspection *in)
{
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    begin(in, "segmentations");
    for (size_t i = 0; i < in->c->n_records; i++)
        check_mask(in, i, &mask);
    mabn_rle_release(&mask);
}

static void check_keypoints(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    uint32_t *most = mabn_xcalloc(c->n_categories + 1, sizeof *most);
    char name[96];
    begin(in, "keypoints");
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        uint32_t labelled = 0;
        record_name(in, i, name);
        for (uint32_t k = 0; k < r->n_keypoints; k++)
            labelled += c->numbers[r->keypoints + 3 * (size_t)k + 2] > 0;
        if (r->odd_keypoints)
            fault(in, r->line, "%s: \"keypoints\" are not three finite numbers each", name);
        else if (r->has_num_keypoints && r->num_keypoints != labelled)
            fault(in, r->line, "%s: \"num_keypoints\" is %u, but %u are labelled", name,
                  r->num_keypoints, labelled);
        if (in->kind[i] == UINT32_MAX || !r->n_keypoints) continue;
        uint32_t *n = &most[in->kind[i]];
        if (*n && *n != r->n_keypoints)
            fault(in, r->line, "%s: %u keypoints, others of its category have %u", name,
                  r->n_keypoints, *n);
        else
            *n = r->n_keypoints;
    }
    for (size_t k = 0; k < c->n_categories; k++)
        for (size_t b = 0; b < 2 * (size_t)c->categories[k].n_bones && most[k]; b++)
            if (c->bones[2 * c->categories[k].bones + b] > most[k]) {
                fault(in, c->categories[k].line,
                      "category '%s': the skeleton has keypoint %u of %u",
                      c->categories[k].name ? c->categories[k].name : "",
                      c->bones[2 * c->categories[k].bones + b], most[k]);
                break;
            }
    free(most);
}

static void find_faults(struct inspection *in)
{
    check_images(in);
    check_categories(in);
    check_ids(in);
    check_boxes(in);
    check_crowds(in);
    check_masks(in);
    check_keypoints(in);
    begin(in, "");
}

/* ---- in words ---- */

struct totals {
    size_t kinds[5], crowds, keypoints;
    uint32_t low[2], high[2]; /* width, height: least and greatest */
};

static struct totals add_up(const struct mabn_coco *c)
{
    struct totals t = {.low = {UINT32_MAX, UINT32_MAX}};
    for (size_t i = 0; i < c->n_records; i++) {
        t.kinds[c->records[i].segmentation.kind]++;
        t.crowds += c->records[i].crowd;
        t.keypoints += c->records[i].has_keypoints;
    }
    for (size_t i = 0; i < c->n_images; i++) {
        const uint32_t size[2] = {c->images[i].width, c->images[i].height};
        if (!size[0] || !size[1]) continue;
        for (int k = 0; k < 2; k++) {
            if (size[k] < t.low[k]) t.low[k] = size[k];
            if (size[k] > t.high[k]) t.high[k] = size[k];
        }
    }
    return t;
}

void mabn_coco_summary(struct mabn_str *out, const struct mabn_coco *c)
{
    if (!c->annotated) {
        mabn_str_add(out, "no list of annotations");
        return;
    }
    struct totals t = add_up(c);
    size_t masks = t.kinds[MABN_SEGMENTATION_STRING] + t.kinds[MABN_SEGMENTATION_COUNTS];
    mabn_str_printf(out, "%zu annotation%s: %zu with polygons, %zu with masks", c->n_records,
                    c->n_records == 1 ? "" : "s", t.kinds[MABN_SEGMENTATION_POLYGONS], masks);
    if (t.kinds[MABN_SEGMENTATION_ODD])
        mabn_str_printf(out, ", %zu with a segmentation that cannot be used",
                        t.kinds[MABN_SEGMENTATION_ODD]);
    if (t.keypoints) mabn_str_printf(out, ", %zu with keypoints", t.keypoints);
    mabn_str_printf(out, ", %zu crowd%s", t.crowds, t.crowds == 1 ? "" : "s");
}

static void add_clean(struct mabn_str *out, const char *text)
{
    for (; *text; text++)
        mabn_str_add_char(out, (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

static void describe(const struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    struct totals t = add_up(c);
    struct mabn_str *out = in->out;
    char id[24];
    mabn_str_printf(out, "%s: COCO annotations\n", c->name);
    mabn_str_printf(out, "  images       %zu, %zu of them annotated", c->n_images, in->annotated);
    if (t.high[0])
        mabn_str_printf(out, "; %u x %u to %u x %u pixels", t.low[0], t.low[1], t.high[0],
                        t.high[1]);
    mabn_str_printf(out, "\n  categories   %zu\n  annotations  ", c->n_categories);
    mabn_coco_summary(out, c);
    mabn_str_printf(out, "\n\n%8s %12s %8s  %s\n", "images", "annotations", "crowds", "category");
    for (size_t k = 0; k < c->n_categories; k++) {
        const struct tally *y = &in->tallies[k];
        mabn_str_printf(out, "%8zu %12zu %8zu  ", y->images, y->annotations, y->crowds);
        add_clean(out, mabn_coco_id_text(c, c->categories[k].id, id));
        mabn_str_add(out, " ");
        add_clean(out, c->categories[k].name ? c->categories[k].name : "");
        mabn_str_add_char(out, '\n');
    }
}

static void describe_json(struct inspection *in)
{
    const struct mabn_coco *c = in->c;
    struct totals t = add_up(c);
    struct mabn_json_writer *w = &in->json;
    mabn_json_writer_init_spaced(w, in->out);
    mabn_json_put_object(w, NULL);
    mabn_json_put_string(w, "path", c->name);
    mabn_json_put_string(w, "kind", "COCO annotations");
    mabn_json_put_int(w, "images", (int64_t)c->n_images);
    mabn_json_put_int(w, "annotated_images", (int64_t)in->annotated);
    mabn_json_put_int(w, "annotations", (int64_t)c->n_records);
    mabn_json_put_int(w, "polygons", (int64_t)t.kinds[MABN_SEGMENTATION_POLYGONS]);
    mabn_json_put_int(
        w, "masks",
        (int64_t)(t.kinds[MABN_SEGMENTATION_STRING] + t.kinds[MABN_SEGMENTATION_COUNTS]));
    mabn_json_put_int(w, "keypoints", (int64_t)t.keypoints);
    mabn_json_put_int(w, "crowds", (int64_t)t.crowds);
    mabn_json_put_array(w, "categories");
    for (size_t k = 0; k < c->n_categories; k++) {
        const struct tally *y = &in->tallies[k];
        mabn_json_put_object(w, NULL);
        mabn_coco_put_id(w, "id", c, c->categories[k].id);
        mabn_json_put_string(w, "name", c->categories[k].name ? c->categories[k].name : "");
        mabn_json_put_int(w, "images", (int64_t)y->images);
        mabn_json_put_int(w, "annotations", (int64_t)y->annotations);
        mabn_json_put_int(w, "crowds", (int64_t)y->crowds);
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}

mabn_status mabn_coco_describe(struct mabn_str *out, const struct mabn_coco *c,
                               const struct mabn_inspect_options *options)
{
    struct inspection in = {.c = c, .options = options, .out = out};
    count(&in);
    if (options->json)
        describe_json(&in);
    else
        describe(&in);
    if (options->verify) {
        if (options->json)
            mabn_json_put_array(&in.json, "faults");
        else
            mabn_str_add(out, "\n");
        find_faults(&in);
        if (options->json)
            mabn_json_put_end(&in.json);
        else if (!in.faults)
            mabn_str_add(out, "no faults\n");
    }
    if (options->json) {
        mabn_json_put_end(&in.json);
        mabn_str_add_char(out, '\n');
    }
    free(in.images);
    free(in.categories);
    free(in.tallies);
    free(in.owner);
    free(in.kind);
    if (!in.faults) return MABN_OK;
    return mabn_fail(MABN_ERR_FORMAT, "'%s': %zu fault%s", c->name, in.faults,
                     in.faults == 1 ? "" : "s");
}

mabn_status mabn_coco_inspect(struct mabn_str *out, const char *path,
                              const struct mabn_inspect_options *options)
{
    struct mabn_coco c;
    MABN_TRY(mabn_coco_read(
        &c, path, MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS | MABN_COCO_KEEP_FAULTS));
    mabn_status status = mabn_coco_describe(out, &c, options);
    mabn_coco_release(&c);
    return status;
}
