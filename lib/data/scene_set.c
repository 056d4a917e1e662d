/* Two kinds of sets behind one struct: a packed dataset, or a list of files. */
#include "data/scene_set.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/files.h"
#include "coco/dataset.h"
#include "image/oddities.h"
#include "store/dataset.h"

struct file {
    char *path;
    int64_t id;
    int width, height; /* as stored */
    int orientation;
    bool alpha;
    uint32_t pictures;
};

struct mabn_scene_set {
    const struct mabn_dataset *dataset; /* borrowed; NULL: files */
    struct file *files;
    bool turned;
    uint64_t count;
    char *path;
    struct mabn_coco coco;
    size_t *first;       /* (count+1) of a sample's records */
    int32_t *categories; /* (records) */
};

/* ---- a packed dataset ---- */

static void find_records(struct mabn_scene_set *set)
{
    const struct mabn_coco *c = &set->coco;
    size_t at = 0;
    set->first = mabn_xcalloc(set->count + 1, sizeof *set->first);
    for (uint64_t i = 0; i < set->count; i++) {
        set->first[i] = at;
        while (at < c->n_records && c->records[at].image_id == c->images[i].id)
            at++;
    }
    set->first[set->count] = at;
}

static mabn_status check_record(const struct mabn_coco *c, const struct mabn_coco_record *r,
                                const struct mabn_coco_image *image)
{
    const struct mabn_box b = r->box;
    const struct mabn_segmentation *s = &r->segmentation;
    if (r->odd_crowd)
        return mabn_coco_fail(c, r, MABN_ERR_FORMAT,
                              "\"iscrowd\" is no number and not true or false");
    if (r->has_box && !(isfinite(b.x) && isfinite(b.y) && isfinite(b.w) && isfinite(b.h)))
        return mabn_coco_fail(c, r, MABN_ERR_FORMAT, "a box that is not finite");
    if (s->kind == MABN_SEGMENTATION_POLYGONS) {
        const double *xy = c->numbers + s->at;
        for (uint32_t p = 0; p < s->n; xy += c->lengths[s->sizes + p++])
            for (uint32_t k = 0; k < c->lengths[s->sizes + p]; k++)
                if (!(fabs(xy[k]) <= 1e8))
                    return mabn_coco_fail(c, r, MABN_ERR_FORMAT, "a corner at %g", xy[k]);
    } else if (mabn_segmentation_is_mask(s) && !r->crowd &&
               (s->height != image->height || s->width != image->width)) {
        return mabn_coco_fail(c, r, MABN_ERR_MISMATCH,
                              "a mask of %u x %u pixels, the photograph has %u x %u", s->width,
                              s->height, image->width, image->height);
    }
    return MABN_OK;
}

static mabn_status check_records(const struct mabn_scene_set *set)
{
    const struct mabn_coco *c = &set->coco;
    if (set->first[set->count] != c->n_records)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': image ids do not ascend", set->path);
    for (uint64_t i = 0; i < set->count; i++)
        for (size_t r = set->first[i]; r < set->first[i + 1]; r++)
            MABN_TRY(check_record(c, &c->records[r], &c->images[i]));
    return MABN_OK;
}

static mabn_status take_categories(struct mabn_scene_set *set)
{
    const struct mabn_h5_file *file = mabn_dataset_file(set->dataset);
    const struct mabn_h5_item *item;
    MABN_TRY(mabn_h5_need(file, "/coco/category", MABN_H5_I32, 1, &item));
    set->categories = mabn_xcalloc(set->coco.n_records + 1, sizeof *set->categories);
    return mabn_h5_read(file, item, set->categories); /* length and range: mabn_coco_read_dataset */
}

mabn_status mabn_scene_set_open(struct mabn_scene_set **set, const struct mabn_dataset *dataset)
{
    *set = NULL;
    struct mabn_scene_set *s = mabn_xcalloc(1, sizeof *s);
    s->dataset = dataset;
    s->count = (uint64_t)mabn_dataset_count(dataset);
    s->path = mabn_xstrdup(mabn_dataset_path(dataset));
    mabn_status status = mabn_coco_read_dataset(&s->coco, dataset);
    if (!status) {
        find_records(s);
        status = take_categories(s);
    }
    if (!status) status = check_records(s);
    if (status)
        mabn_scene_set_free(s);
    else
        *set = s;
    return status;
}

/* ---- files ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static mabn_status probe_file(struct file *file)
{
    struct mabn_input in;
    struct mabn_image_info info;
    MABN_TRY(mabn_input_open(&in, file->path, 0));
    mabn_status status = mabn_image_probe(&info, in.bytes, in.size);
    if (!status) info.alpha = mabn_image_is_transparent(&info, in.bytes, in.size);
    mabn_input_release(&in);
    if (status) return mabn_fail_prefix(status, "'%s'", file->path);
    file->width = info.width;
    file->height = info.height;
    file->orientation = info.orientation;
    file->alpha = info.alpha;
    file->pictures = info.pictures;
    return MABN_OK;
}

/* The number that a name consists of, before its ending; −1: none. */
static int64_t number_of(const char *path)
{
    const char *name = base_name(path), *p = name;
    int64_t n = 0;
    for (; isdigit((unsigned char)*p) && p < name + 18; p++)
        n = 10 * n + (*p - '0');
    return p > name && *p == '.' ? n : -1;
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Called before unreadable files are left out, so that ids do not depend on them. */
static void number_files(struct mabn_scene_set *set)
{
    int64_t *ids = mabn_xcalloc(set->count, sizeof *ids);
    bool fine = true;
    for (uint64_t i = 0; i < set->count; i++)
        ids[i] = set->files[i].id = number_of(set->files[i].path);
    qsort(ids, set->count, sizeof *ids, by_value);
    for (uint64_t i = 0; i < set->count; i++)
        fine &= ids[i] >= 0 && (i == 0 || ids[i] != ids[i - 1]);
    for (uint64_t i = 0; !fine && i < set->count; i++)
        set->files[i].id = (int64_t)i + 1;
    free(ids);
}

/* Keeps the files that can be read and counts the others in *bad. bad NULL: the first of them is an
 * error. */
static mabn_status probe_files(struct mabn_scene_set *set, uint64_t *bad)
{
    uint64_t kept = 0;
    mabn_status status = MABN_OK;
    for (uint64_t i = 0; i < set->count && !status; i++) {
        status = probe_file(&set->files[i]);
        if (!status) {
            const struct file file = set->files[i];
            set->files[i].path = NULL;
            set->files[kept++] = file;
        } else if (bad) {
            mabn_warn("left out: %s", mabn_error_message());
            status = MABN_OK;
            ++*bad;
            free(set->files[i].path);
            set->files[i].path = NULL;
        }
    }
    if (status) return status;
    set->count = kept;
    return kept ? MABN_OK : mabn_fail(MABN_ERR_FORMAT, "none of the photographs can be read");
}

static mabn_status set_of_files(struct mabn_scene_set **set, const char *const *paths, size_t count,
                                uint64_t *bad)
{
    *set = NULL;
    if (bad) *bad = 0;
    if (!count) return mabn_fail(MABN_ERR_ARG, "no photographs");
    struct mabn_scene_set *s = mabn_xcalloc(1, sizeof *s);
    s->files = mabn_xcalloc(count, sizeof *s->files);
    s->first = mabn_xcalloc(count + 1, sizeof *s->first);
    s->path = mabn_xstrdup(paths[0]);
    s->coco.name = mabn_xstrdup(paths[0]);
    for (; s->count < count; s->count++)
        s->files[s->count].path = mabn_xstrdup(paths[s->count]);
    number_files(s);
    const mabn_status status = probe_files(s, bad);
    if (status)
        mabn_scene_set_free(s);
    else
        *set = s;
    return status;
}

static int is_photograph(const struct dirent *entry)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"};
    const char *dot = strrchr(entry->d_name, '.');
    for (size_t i = 0; dot && dot != entry->d_name && i < sizeof endings / sizeof *endings; i++)
        if (!strcasecmp(dot, endings[i])) return 1;
    return 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

mabn_status mabn_scene_set_scan(struct mabn_scene_set **set, const char *folder, uint64_t *bad)
{
    struct dirent **entries;
    *set = NULL;
    const int n = scandir(folder, &entries, is_photograph, by_bytes);
    if (n < 0) return mabn_fail_errno("cannot open '%s'", folder);
    char **paths = mabn_xcalloc((size_t)n + 1, sizeof *paths);
    for (int i = 0; i < n; i++) {
        paths[i] = mabn_path_join(folder, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    mabn_status status = n ? set_of_files(set, (const char *const *)paths, (size_t)n, bad)
                           : mabn_fail(MABN_ERR_NOTFOUND, "'%s' has no pictures", folder);
    if (!status) {
        free((*set)->path);
        (*set)->path = mabn_xstrdup(folder);
    }
    for (int i = 0; i < n; i++)
        free(paths[i]);
    free(paths);
    return status;
}

mabn_status mabn_scene_set_list(struct mabn_scene_set **set, const char *list, uint64_t *bad)
{
    struct mabn_files *files;
    struct mabn_source source;
    *set = NULL;
    MABN_TRY(mabn_files_open(&files, list));
    mabn_source_of_files(&source, files);
    const char **paths = mabn_xcalloc(source.count, sizeof *paths);
    for (uint64_t i = 0; i < source.count; i++)
        paths[i] = mabn_files_path(files, i);
    const mabn_status status = set_of_files(set, paths, source.count, bad);
    free(paths);
    mabn_files_free(files);
    return status;
}

const char *mabn_scene_set_file(const struct mabn_scene_set *set, uint64_t sample)
{
    return set->dataset ? NULL : set->files[sample].path;
}

void mabn_scene_set_turn(struct mabn_scene_set *set)
{
    set->turned = !set->dataset;
}

void mabn_scene_set_free(struct mabn_scene_set *set)
{
    if (!set) return;
    for (uint64_t i = 0; set->files && i < set->count; i++)
        free(set->files[i].path);
    free(set->files);
    mabn_coco_release(&set->coco);
    free(set->first);
    free(set->categories);
    free(set->path);
    free(set);
}

/* ---- what is in it ---- */

static const char *path_of(const void *set, int64_t sample)
{
    return ((const struct mabn_scene_set *)set)->files[sample].path;
}

void mabn_scene_set_tell(const struct mabn_scene_set *set)
{
    struct mabn_image_oddities oddities = MABN_IMAGE_NO_ODDITIES;
    for (uint64_t i = 0; i < set->count && !set->dataset; i++) {
        const struct mabn_image_info info = {.orientation = set->files[i].orientation,
                                             .alpha = set->files[i].alpha,
                                             .pictures = set->files[i].pictures};
        mabn_image_oddities_add(&oddities, (int64_t)i, &info);
    }
    mabn_image_oddities_tell(&oddities, path_of, set, "read",
                             set->turned ? "turned" : "read as stored, not turned");
}

uint64_t mabn_scene_set_count(const struct mabn_scene_set *set)
{
    return set->count;
}

const char *mabn_scene_set_path(const struct mabn_scene_set *set)
{
    return set->path;
}

int64_t mabn_scene_set_image_id(const struct mabn_scene_set *set, uint64_t sample)
{
    return set->dataset ? set->coco.images[sample].id : set->files[sample].id;
}

void mabn_scene_set_size(const struct mabn_scene_set *set, uint64_t sample, int *width, int *height)
{
    if (set->dataset) {
        *width = (int)set->coco.images[sample].width;
        *height = (int)set->coco.images[sample].height;
        return;
    }
    const struct file *file = &set->files[sample];
    const bool on_its_side = set->turned && file->orientation >= 5;
    *width = on_its_side ? file->height : file->width;
    *height = on_its_side ? file->width : file->height;
}

char *mabn_scene_set_name(const struct mabn_scene_set *set, uint64_t sample, char *text,
                          size_t capacity)
{
    if (set->dataset) return mabn_dataset_image_name(set->dataset, (int64_t)sample, text, capacity);
    snprintf(text, capacity, "%s", base_name(set->files[sample].path));
    return text;
}

static void digest(uint64_t *identity, const void *bytes, size_t n)
{
    const uint64_t both[2] = {*identity, XXH3_64bits(bytes, n)}; /* base/hash.h has a random seed */
    *identity = XXH3_64bits(both, sizeof both);
}

static void digest_segmentation(uint64_t *identity, const struct mabn_coco *c,
                                const struct mabn_segmentation *s)
{
    const bool mask = mabn_segmentation_is_mask(s);
    const uint32_t facts[4] = {s->kind, s->n, mask ? s->height : 0, mask ? s->width : 0};
    size_t numbers = 0;
    digest(identity, facts, sizeof facts);
    switch (s->kind) {
    case MABN_SEGMENTATION_POLYGONS:
        for (uint32_t i = 0; i < s->n; i++)
            numbers += c->lengths[s->sizes + i];
        digest(identity, c->lengths + s->sizes, s->n * sizeof *c->lengths);
        digest(identity, c->numbers + s->at, numbers * sizeof *c->numbers);
        break;
    case MABN_SEGMENTATION_STRING:
        digest(identity, c->bytes + s->at, s->n);
        break;
    case MABN_SEGMENTATION_COUNTS:
        digest(identity, c->lengths + s->at, s->n * sizeof *c->lengths);
        break;
    default:
        break;
    }
}

uint64_t mabn_scene_set_identity(const struct mabn_scene_set *set)
{
    const struct mabn_coco *c = &set->coco;
    uint64_t identity = mabn_dataset_identity(set->dataset);
    for (size_t i = 0; i < c->n_images; i++)
        digest(&identity, &c->images[i].id, sizeof c->images[i].id);
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        const int64_t facts[4] = {r->image_id, r->category_id, r->crowd, r->has_box};
        const double box[4] = {r->box.x, r->box.y, r->box.w, r->box.h};
        digest(&identity, facts, sizeof facts);
        if (r->has_box) digest(&identity, box, sizeof box);
        digest_segmentation(&identity, c, &r->segmentation);
    }
    return identity;
}

const struct mabn_coco *mabn_scene_set_coco(const struct mabn_scene_set *set)
{
    return &set->coco;
}

void mabn_scene_set_records(const struct mabn_scene_set *set, uint64_t sample, size_t *first,
                            size_t *end)
{
    *first = set->first[sample];
    *end = set->first[sample + 1];
}

int mabn_scene_set_category(const struct mabn_scene_set *set, size_t record)
{
    return set->categories[record];
}

mabn_status mabn_scene_set_read(const struct mabn_scene_set *set, uint64_t sample,
                                struct mabn_scene_bytes *out)
{
    const int64_t i = (int64_t)sample;
    *out = (struct mabn_scene_bytes){0};
    if (!set->dataset) {
        struct mabn_input *in = mabn_xcalloc(1, sizeof *in);
        const mabn_status status = mabn_input_open(in, set->files[sample].path, 0);
        if (status) {
            free(in);
            return status;
        }
        *out = (struct mabn_scene_bytes){.bytes = in->bytes, .size = in->size, .held = in};
        if (set->turned) out->orientation = set->files[sample].orientation;
        return MABN_OK;
    }
    MABN_TRY(mabn_dataset_image(set->dataset, i, &out->bytes, &out->size));
    if (mabn_dataset_is_raw(set->dataset)) {
        out->width = mabn_dataset_image_width(set->dataset, i);
        out->height = mabn_dataset_image_height(set->dataset, i);
        out->channels = mabn_dataset_image_channels(set->dataset, i);
    }
    return MABN_OK;
}

void mabn_scene_bytes_release(struct mabn_scene_bytes *bytes)
{
    if (bytes->held) {
        mabn_input_release(bytes->held);
        free(bytes->held);
    }
    *bytes = (struct mabn_scene_bytes){0};
}

void mabn_scene_set_prefetch(const struct mabn_scene_set *set, uint64_t sample)
{
    if (set->dataset) mabn_dataset_prefetch(set->dataset, (int64_t)sample);
}
