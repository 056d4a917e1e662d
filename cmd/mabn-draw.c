/* mabn-draw: photographs with their annotations or detections. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "coco/dataset.h"
#include "coco/doubt.h"
#include "coco/draw.h"
#include "image/oddities.h"

static struct {
    const char *output, *results, *images;
    int count, columns, tile;
    int64_t first, seed;
    bool shuffle, exif, force;
    struct mabn_draw_style style;
} o = {.count = 1, .tile = 480, .style = {true, true, true, false, 0.3, 0}};

static const struct mabn_option table[] = {
    MABN_OPT_STRING('o', "output", &o.output, "FILE", "the PNG to write"),
    MABN_OPT_STRING('r', "results", &o.results, "FILE", "draw these results, not the annotations"),
    MABN_OPT_DOUBLE(0, "min-score", &o.style.min_score, 0, 1, "S",
                    "leave out results with lower scores"),
    MABN_OPT_GROUP("Images"),
    MABN_OPT_INT('n', "count", &o.count, 1, 10000, "N", "how many; a contact sheet if more than 1"),
    MABN_OPT_INT64(0, "first", &o.first, 0, 0, "N", "begin with this image, counted from 0"),
    MABN_OPT_FLAG(0, "shuffle", &o.shuffle, "choose them at random"),
    MABN_OPT_SEED(&o.seed),
    MABN_OPT_STRING('i', "images", &o.images, "LIST", "draw these, by COCO's id or file name"),
    MABN_OPT_GROUP("Drawing"),
    MABN_OPT_FLAG(0, "masks", &o.style.masks, "draw masks"),
    MABN_OPT_FLAG(0, "boxes", &o.style.boxes, "draw boxes"),
    MABN_OPT_FLAG(0, "labels", &o.style.labels, "write names, and scores of results"),
    MABN_OPT_FLAG(0, "exif", &o.exif, "apply the EXIF orientation of photographs"),
    MABN_OPT_DOUBLE(0, "text", &o.style.text, 0, 200, "PIXELS", "height of letters; 0: by size"),
    MABN_OPT_INT(0, "tile", &o.tile, 64, 4096, "PIXELS", "width of a picture in a contact sheet"),
    MABN_OPT_INT(0, "columns", &o.columns, 0, 1000, "N",
                 "columns of a contact sheet; 0: about square"),
    MABN_OPT_GROUP("General"),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

/* Where pictures and annotations come from. */
struct source {
    struct mabn_dataset *dataset; /* NULL: `folder` is used */
    const char *folder;
    struct mabn_coco truth, results;
    bool coco; /* annotations are there */
    struct mabn_decoder *decoder;
    int64_t count;
    int64_t *chosen;
    int n_chosen;
    struct mabn_image_oddities oddities;
};

/* Report the annotations or results that belong to no picture. */
static void tell_strays(const struct source *s)
{
    const struct mabn_coco *c = o.results ? &s->results : &s->truth;
    const struct mabn_coco_record *first;
    const char *what = o.results ? "result" : "annotation";
    char place[48], image[24];
    const size_t n = s->coco ? mabn_coco_strays(&s->truth, c, &first) : 0;
    if (n)
        mabn_warn(
            "'%s': %zu %s%s of images that are not listed (the first: %s, image %s) cannot be "
            "drawn",
            c->name, n, what, n == 1 ? "" : "s", mabn_coco_record_place(c, first, place),
            mabn_coco_id_text(c, first->image_id, image));
}

/* Report the results that --min-score leaves out. */
static void tell_low(const struct mabn_coco *results)
{
    size_t low = 0;
    for (size_t i = 0; i < results->n_records; i++)
        low += results->records[i].score < o.style.min_score;
    if (!results->n_records)
        mabn_warn("'%s' has no results: nothing is drawn", results->name);
    else if (low == results->n_records)
        mabn_warn("'%s': no result reaches --min-score %g: nothing is drawn", results->name,
                  o.style.min_score);
    else if (low)
        mabn_info("'%s': %zu of %zu results are below --min-score %g and left out", results->name,
                  low, results->n_records, o.style.min_score);
}

/* Warn about scores that are not probabilities, as --min-score is one. */
static void tell_scores(const struct mabn_coco *results)
{
    const struct mabn_coco_record *first;
    const size_t n = o.style.min_score > 0 ? mabn_coco_odd_scores(results, &first) : 0;
    char place[48];
    if (n)
        mabn_warn("'%s': %zu of %zu scores lie outside 0 to 1 (the first: %s, %g): --min-score "
                  "expects probabilities",
                  results->name, n, results->n_records,
                  mabn_coco_record_place(results, first, place), first->score);
}

static mabn_status open_source(struct source *s, char **args, int n)
{
    unsigned keep = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS;
    s->decoder = mabn_decoder_new();
    if (n == 2) {
        s->folder = args[0];
        MABN_TRY(mabn_coco_read(&s->truth, args[1], keep));
        s->coco = true;
        s->count = (int64_t)s->truth.n_images;
    } else {
        MABN_TRY(mabn_dataset_open(&s->dataset, args[0]));
        s->count = mabn_dataset_count(s->dataset);
        s->coco = strcmp(mabn_dataset_kind(s->dataset), "coco") == 0;
        if (s->coco) MABN_TRY(mabn_coco_read_dataset(&s->truth, s->dataset));
    }
    if (o.results && !s->coco)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' has no COCO annotations to name results by",
                         args[0]);
    if (o.results)
        MABN_TRY(mabn_coco_read_results(&s->results, o.results, keep | MABN_COCO_KEEP_FAULTS));
    if (o.results) tell_low(&s->results);
    if (o.results) tell_scores(&s->results);
    tell_strays(s);
    return MABN_OK;
}

static void name_of(const struct source *s, int64_t i, char *name, size_t room)
{
    if (s->dataset)
        mabn_dataset_image_name(s->dataset, i, name, room);
    else
        snprintf(name, room, "%s",
                 s->truth.images[i].file_name ? s->truth.images[i].file_name : "");
}

static void make_title(const struct source *s, int64_t i, char *title, size_t room)
{
    char name[512], id[24];
    name_of(s, i, name, sizeof name);
    if (s->coco) {
        snprintf(title, room, "%s  %s", mabn_coco_id_text(&s->truth, s->truth.images[i].id, id),
                 name);
        return;
    }
    int label = mabn_dataset_label(s->dataset, i);
    const char *class_name = label < 0 ? NULL : mabn_dataset_class_name(s->dataset, label);
    snprintf(title, room, "%d %s  %s", label, class_name ? class_name : "", name);
}

/* An item of --images: an id, a file name, or the last part of one; the best kind of match, which
 * must be unique. */
static mabn_status find_image(const struct source *s, const char *text, int64_t *out)
{
    char name[4096], id[24];
    int64_t found[2] = {-1, -1}; /* as a whole; the last part */
    for (int64_t i = 0; i < s->count && *text; i++) {
        name_of(s, i, name, sizeof name);
        const char *slash = strrchr(name, '/');
        bool whole =
            !strcmp(name, text) ||
            (s->coco && !strcmp(mabn_coco_id_text(&s->truth, s->truth.images[i].id, id), text));
        if (!whole && !(slash && !strcmp(slash + 1, text))) continue;
        if (found[!whole] >= 0) {
            char other[512], this[512];
            make_title(s, found[!whole], other, sizeof other);
            make_title(s, i, this, sizeof this);
            if (whole)
                return mabn_fail(MABN_ERR_ARG, "'%s' is ambiguous: images '%s' and '%s'", text,
                                 other, this);
            continue;
        }
        found[!whole] = i;
    }
    *out = found[0] >= 0 ? found[0] : found[1];
    return *out < 0 ? mabn_fail(MABN_ERR_NOTFOUND, "no image '%s'", text) : MABN_OK;
}

static mabn_status choose_listed(struct source *s)
{
    char *list = mabn_xstrdup(o.images), *rest = list;
    size_t room = 0, n = 0;
    mabn_status status = MABN_OK;
    for (char *text; !status && (text = strsep(&rest, ",")) != NULL;) {
        MABN_GROW(s->chosen, n, room);
        status = find_image(s, text, &s->chosen[n++]);
    }
    s->n_chosen = (int)n;
    free(list);
    return status;
}

static mabn_status choose(struct source *s)
{
    if (o.images) return choose_listed(s);
    if (o.first >= s->count)
        return mabn_fail(MABN_ERR_NOTFOUND, "there are only %lld images", (long long)s->count);
    int64_t *all = mabn_xcalloc((size_t)s->count + 1, sizeof *all);
    for (int64_t i = 0; i < s->count; i++)
        all[i] = i;
    if (o.shuffle) {
        struct mabn_rng rng;
        mabn_rng_init(&rng, (uint64_t)o.seed, MABN_RNG_SAMPLER, 0, 0);
        for (int64_t i = s->count - 1; i > 0; i--) {
            int64_t k = (int64_t)mabn_rng_below(&rng, (uint64_t)i + 1), swap = all[i];
            all[i] = all[k];
            all[k] = swap;
        }
    }
    memmove(all, all + o.first, (size_t)(s->count - o.first) * sizeof *all);
    s->chosen = all;
    s->n_chosen = s->count - o.first < o.count ? (int)(s->count - o.first) : o.count;
    return MABN_OK;
}

/* Rotate a picture if requested, and warn if the annotations have another size. */
static mabn_status settle(const struct source *s, int64_t i, struct mabn_image *image,
                          const struct mabn_image_info *info)
{
    char name[4096];
    bool turn = info->orientation > 1 && o.exif;
    if (turn) MABN_TRY(mabn_image_turn(image, info->orientation));
    const struct mabn_coco_image *said = s->coco && !s->dataset ? &s->truth.images[i] : NULL;
    name_of(s, i, name, sizeof name);
    if (said && !said->unsized &&
        (said->width != (uint32_t)image->width || said->height != (uint32_t)image->height)) {
        (void)mabn_coco_wrong_size(&s->truth, said, image->width, image->height,
                                   turn ? 0 : info->orientation);
        mabn_warn("%s", mabn_error_message());
    } else if (info->orientation > 1 && !turn) {
        mabn_warn("'%s' has the EXIF orientation %d and is drawn as stored (--exif rotates it)",
                  name, info->orientation);
    }
    return MABN_OK;
}

static mabn_status decode_bytes(struct source *s, int64_t i, struct mabn_image *image,
                                const uint8_t *bytes, size_t size)
{
    struct mabn_image_info info;
    MABN_TRY(mabn_image_probe(&info, bytes, size));
    MABN_TRY(mabn_image_decode(s->decoder, image, bytes, size, NULL));
    info.alpha = mabn_image_is_transparent(&info, bytes, size);
    mabn_image_oddities_add(&s->oddities, i, &info);
    return settle(s, i, image, &info);
}

static mabn_status decode(struct source *s, int64_t i, struct mabn_image *image)
{
    const uint8_t *bytes;
    size_t size;
    if (s->dataset) {
        MABN_TRY(mabn_dataset_image(s->dataset, i, &bytes, &size));
        if (mabn_dataset_image_format(s->dataset, i) != MABN_DATASET_RAW)
            return decode_bytes(s, i, image, bytes, size);
        MABN_TRY(mabn_image_resize_storage(image, mabn_dataset_image_width(s->dataset, i),
                                           mabn_dataset_image_height(s->dataset, i),
                                           mabn_dataset_image_channels(s->dataset, i)));
        memcpy(image->pixels, bytes, size);
        return MABN_OK;
    }
    struct mabn_input in;
    char *path;
    MABN_TRY(mabn_coco_image_path(&path, &s->truth, &s->truth.images[i], s->folder));
    struct stat file;
    mabn_status status = MABN_OK;
    if (!stat(path, &file) && S_ISFIFO(file.st_mode)) /* opening it could wait for ever */
        status = mabn_fail(MABN_ERR_IO, "'%s' is a pipe, not a photograph", path);
    if (!status) status = mabn_input_open(&in, path, 1 << 30);
    if (!status) {
        status = decode_bytes(s, i, image, in.bytes, in.size);
        if (status) mabn_fail_prefix(status, "'%s'", path);
        mabn_input_release(&in);
    }
    free(path);
    return status;
}

static mabn_status draw_one(struct source *s, struct mabn_sheet *sheet, int64_t i)
{
    const struct mabn_coco *from = !s->coco ? NULL : o.results ? &s->results : &s->truth;
    struct mabn_image image = {0};
    uint32_t *records = NULL;
    size_t n = 0, room = 0;
    char title[1024];
    make_title(s, i, title, sizeof title);
    mabn_status status = decode(s, i, &image);
    if (status && status != MABN_ERR_NOMEM && s->n_chosen > 1) { /* continue with the others */
        mabn_warn("%s", mabn_error_message());
        mabn_sheet_skip(sheet, title);
        mabn_image_release(&image);
        return MABN_OK;
    }
    if (status) {
        mabn_image_release(&image);
        return status;
    }
    if (s->coco) {
        int64_t id = s->truth.images[i].id;
        for (size_t k = 0; k < from->n_records; k++) {
            if (from->records[k].image_id != id) continue;
            MABN_GROW(records, n, room);
            records[n++] = (uint32_t)k;
        }
    }
    status = mabn_sheet_add(sheet, &image, title, from, records, n, &s->truth, &o.style);
    free(records);
    mabn_image_release(&image);
    return status;
}

static const char *oddity_name(const void *source, int64_t i)
{
    static char name[4096];
    name_of(source, i, name, sizeof name);
    return name;
}

/* The output must not replace a photograph that the annotations list. */
static mabn_status check_photographs(const struct source *s)
{
    struct stat out, photo;
    if (!s->folder || stat(o.output, &out) || !S_ISREG(out.st_mode)) return MABN_OK;
    for (size_t i = 0; i < s->truth.n_images; i++) {
        char *path;
        if (mabn_coco_name_fault(&s->truth.images[i])) continue;
        MABN_TRY(mabn_coco_image_path(&path, &s->truth, &s->truth.images[i], s->folder));
        const bool same =
            !stat(path, &photo) && photo.st_dev == out.st_dev && photo.st_ino == out.st_ino;
        free(path);
        if (same)
            return mabn_fail(MABN_ERR_ARG, "'%s' is one of the photographs of '%s'", o.output,
                             s->truth.name);
    }
    return MABN_OK;
}

static mabn_status draw(struct source *s, char **args, int n)
{
    struct mabn_sheet *sheet;
    MABN_TRY(open_source(s, args, n));
    MABN_TRY(check_photographs(s));
    MABN_TRY(choose(s));
    int columns = o.columns;
    while (columns * columns < s->n_chosen && !o.columns)
        columns++;
    if (columns > s->n_chosen) columns = s->n_chosen;
    MABN_TRY(mabn_sheet_new(&sheet, s->n_chosen, columns, s->n_chosen > 1 ? o.tile : 0));
    mabn_status status = MABN_OK;
    for (int i = 0; i < s->n_chosen && !status; i++)
        status = draw_one(s, sheet, s->chosen[i]);
    mabn_image_oddities_tell(&s->oddities, oddity_name, s, "drawn", NULL);
    if (!status) status = mabn_sheet_write(sheet, o.output, o.force);
    mabn_sheet_free(sheet);
    return status;
}

static const struct mabn_cli cli = {
    .name = "mabn-draw",
    .usage = "[OPTION]... DATASET -o FILE\n[OPTION]... IMAGES ANNOTATIONS -o FILE",
    .summary = "draw boxes, masks and labels on photographs",
    .options = table,
    .epilog = "Examples:\n"
              "  mabn-draw val.h5 -n 12 --shuffle -o sheet.png\n"
              "  mabn-draw val.h5 --results results.json -i 397133 -o found.png\n"
              "  mabn-draw val2017/ instances_val2017.json -n 6 -o truth.png\n",
    .min_args = 1,
    .max_args = 2,
};

int main(int argc, char **argv)
{
    char **args;
    struct source s;
    const struct mabn_image_oddities none = MABN_IMAGE_NO_ODDITIES;
    memset(&s, 0, sizeof s);
    s.oddities = none;
    int n = mabn_cli_start(&cli, argc, argv, &args);
    if (!o.output) mabn_cli_usage_error("no output: give -o FILE");
    mabn_cli_check_output(o.output, o.results);
    for (int i = 0; i < n; i++)
        mabn_cli_check_output(o.output, args[i]);
    o.style.scores = o.results != NULL;
    mabn_status status = draw(&s, args, n);
    mabn_dataset_free(s.dataset);
    mabn_coco_release(&s.truth);
    mabn_coco_release(&s.results);
    mabn_decoder_free(s.decoder);
    free(s.chosen);
    return mabn_cli_finish(status);
}
