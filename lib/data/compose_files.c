/* Threads compose scenes and write the pictures. The annotations of each scene are kept, in the order
 * of the scenes, until the end, when they get their ids. */
#include "data/compose_files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "base/str.h"
#include "base/thread.h"
#include "coco/outline.h"

enum { MOST_SCENES = 100000000 };

/* The annotations of one scene: JSON objects, still without their ids. */
struct text {
    char **annotations;
    int count, left_out;
};

struct worker {
    struct mabn_composer *composer;
    struct mabn_composition scene;
    struct mabn_outline outline;
};

struct composing {
    const struct mabn_compose_output *output;
    const struct mabn_compose_options *options;
    struct worker *workers;
    struct text *texts; /* (count) */
    char *images;       /* the folder of pictures */
    struct mabn_progress *progress;
};

/* ---- a scene ---- */

static void put_polygons(struct mabn_json_writer *w, const struct mabn_outline *o)
{
    const double *xy = o->xy;
    mabn_json_put_array(w, "segmentation");
    for (size_t p = 0; p < o->count; xy += o->sizes[p++]) {
        mabn_json_put_array(w, NULL);
        for (uint32_t i = 0; i < o->sizes[p]; i++)
            mabn_json_put_int(w, NULL, (int)xy[i]);
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}

static mabn_status describe_object(char **text, struct worker *w, uint64_t image,
                                   const struct mabn_composed_object *object, bool run_lengths)
{
    const struct mabn_rect b = object->box;
    const double box[4] = {b.x, b.y, b.width, b.height};
    struct mabn_json_writer json;
    struct mabn_str s;
    if (!run_lengths) MABN_TRY(mabn_outline_of_rle(&w->outline, &object->mask));
    mabn_str_init(&s);
    mabn_json_writer_init(&json, &s);
    mabn_json_put_object(&json, NULL);
    mabn_json_put_int(&json, "image_id", (int64_t)image);
    mabn_json_put_int(&json, "category_id", object->label + 1);
    mabn_json_put_int(&json, "iscrowd", 0);
    mabn_json_put_int(&json, "area", (int64_t)object->area);
    mabn_json_put_doubles(&json, "bbox", box, 4);
    if (run_lengths)
        mabn_rle_put(&json, "segmentation", &object->mask);
    else
        put_polygons(&json, &w->outline);
    mabn_json_put_end(&json);
    *text = mabn_str_detach(&s);
    return MABN_OK;
}

static char *picture_name(uint64_t image, int quality)
{
    return mabn_xasprintf("%012llu.%s", (unsigned long long)image, quality ? "jpg" : "png");
}

/* Not synced to disk one by one: without the annotation file they are not used. */
static mabn_status write_picture(const char *path, const uint8_t *bytes, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return mabn_fail_errno("cannot write '%s'", path);
    mabn_status status = mabn_write_all(fd, bytes, size, path);
    if (close(fd) && !status) status = mabn_fail_errno("cannot write '%s'", path);
    return status;
}

static mabn_status save_picture(const struct composing *c, const struct mabn_image *image,
                                uint64_t id)
{
    uint8_t *bytes;
    size_t size;
    const int quality = c->output->quality;
    MABN_TRY(quality ? mabn_image_encode_jpeg(&bytes, &size, image, quality)
                     : mabn_image_encode_png(&bytes, &size, image));
    char *name = picture_name(id, quality), *path = mabn_path_join(c->images, name);
    const mabn_status status = write_picture(path, bytes, size);
    free(name);
    free(path);
    free(bytes);
    return status;
}

static mabn_status compose_one(void *context, int64_t index, int worker)
{
    struct composing *c = context;
    struct worker *w = &c->workers[worker];
    struct text *text = &c->texts[index];
    const uint64_t image = (uint64_t)index + 1;
    if (mabn_stop_requested())
        return mabn_fail(MABN_ERR_STOPPED, "stopped by %s",
                         mabn_signal_name(mabn_stop_requested()));
    MABN_TRY(mabn_compose(w->composer, &w->scene, (uint64_t)index));
    text->left_out = w->scene.left_out;
    text->annotations = mabn_xcalloc((size_t)w->scene.count + 1, sizeof *text->annotations);
    for (; text->count < w->scene.count; text->count++)
        MABN_TRY(describe_object(&text->annotations[text->count], w, image,
                                 &w->scene.objects[text->count], c->output->run_lengths));
    MABN_TRY(save_picture(c, &w->scene.image, image));
    mabn_progress_add(c->progress, 1);
    return MABN_OK;
}

/* ---- the annotation file ---- */

static void put_images(struct mabn_json_writer *w, const struct composing *c)
{
    mabn_json_put_line(w, 0);
    mabn_json_put_array(w, "images");
    for (uint64_t i = 1; i <= c->output->count; i++) {
        char *name = picture_name(i, c->output->quality);
        mabn_json_put_line(w, 0);
        mabn_json_put_object(w, NULL);
        mabn_json_put_int(w, "id", (int64_t)i);
        mabn_json_put_int(w, "width", c->options->width);
        mabn_json_put_int(w, "height", c->options->height);
        mabn_json_put_string(w, "file_name", name);
        mabn_json_put_end(w);
        free(name);
    }
    mabn_json_put_end(w);
}

static void put_categories(struct mabn_json_writer *w, const struct mabn_cutouts *cutouts)
{
    mabn_json_put_line(w, 0);
    mabn_json_put_array(w, "categories");
    for (int k = 0; k < mabn_cutouts_classes(cutouts); k++) {
        mabn_json_put_line(w, 0);
        mabn_json_put_object(w, NULL);
        mabn_json_put_int(w, "id", k + 1);
        mabn_json_put_string(w, "name", mabn_cutouts_class_name(cutouts, k));
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}

static void put_annotations(struct mabn_json_writer *w, const struct composing *c,
                            struct mabn_compose_totals *totals)
{
    mabn_json_put_line(w, 0);
    mabn_json_put_array(w, "annotations");
    for (uint64_t i = 0; i < c->output->count; i++) {
        for (int k = 0; k < c->texts[i].count; k++) {
            mabn_json_put_line(w, 0);
            mabn_json_put_object(w, NULL);
            mabn_json_put_int(w, "id", (int64_t)++totals->objects);
            mabn_json_put_members(w, c->texts[i].annotations[k]);
            mabn_json_put_end(w);
        }
        totals->left_out += (uint64_t)c->texts[i].left_out;
    }
    mabn_json_put_end(w);
}

static mabn_status save_annotations(const struct composing *c, const struct mabn_cutouts *cutouts,
                                    const char *path, struct mabn_compose_totals *totals)
{
    struct mabn_json_writer w;
    struct mabn_str s;
    mabn_str_init(&s);
    mabn_json_writer_init(&w, &s);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_object(&w, "info");
    mabn_json_put_string(&w, "description", "composed scenes");
    mabn_json_put_string(&w, "contributor", c->output->tool);
    mabn_json_put_int(&w, "seed", (int64_t)c->options->seed);
    mabn_json_put_end(&w);
    put_images(&w, c);
    put_categories(&w, cutouts);
    put_annotations(&w, c, totals);
    mabn_json_put_end(&w);
    mabn_str_add_char(&s, '\n');
    const mabn_status status = mabn_write_file(path, s.text, s.length, c->output->force);
    mabn_str_release(&s);
    return status;
}

/* ---- all of it ---- */

static void start(struct composing *c, const struct mabn_cutouts *cutouts)
{
    c->workers = mabn_xcalloc((size_t)c->output->threads, sizeof *c->workers);
    for (int i = 0; i < c->output->threads; i++)
        c->workers[i].composer = mabn_composer_new(cutouts, c->options);
    c->texts = mabn_xcalloc(c->output->count, sizeof *c->texts);
    c->images = mabn_path_join(c->output->folder, "images");
    c->progress = mabn_progress_new("composing", "scenes", c->output->count);
}

static void end(struct composing *c)
{
    for (int i = 0; i < c->output->threads; i++) {
        mabn_composer_free(c->workers[i].composer);
        mabn_composition_release(&c->workers[i].scene);
        mabn_outline_release(&c->workers[i].outline);
    }
    for (uint64_t i = 0; i < c->output->count; i++) {
        for (int k = 0; k < c->texts[i].count; k++)
            free(c->texts[i].annotations[k]);
        free(c->texts[i].annotations);
    }
    free(c->workers);
    free(c->texts);
    free(c->images);
    mabn_progress_free(c->progress);
}

/* An old annotation file must not stay beside new pictures in case this run ends early. */
static mabn_status clear_way(const char *path, bool force)
{
    if (!mabn_path_exists(path)) return MABN_OK;
    if (!force)
        return mabn_fail(MABN_ERR_ARG, "'%s' exists; --force replaces it and its pictures", path);
    return unlink(path) ? mabn_fail_errno("cannot remove '%s'", path) : MABN_OK;
}

mabn_status mabn_compose_files(struct mabn_compose_totals *totals,
                               const struct mabn_cutouts *cutouts,
                               const struct mabn_compose_options *options,
                               const struct mabn_compose_output *output)
{
    struct composing c = {.output = output, .options = options};
    *totals = (struct mabn_compose_totals){0};
    MABN_TRY(mabn_compose_check(options));
    if (output->count < 1 || output->count > MOST_SCENES)
        return mabn_fail(MABN_ERR_ARG, "%llu scenes: expected 1 to %d",
                         (unsigned long long)output->count, MOST_SCENES);
    if (output->threads < 1)
        return mabn_fail(MABN_ERR_ARG, "%d threads: expected 1 or more", output->threads);
    char *path = mabn_path_join(output->folder, "instances.json");
    start(&c, cutouts);
    mabn_status status = mabn_make_dirs(c.images);
    if (!status) status = clear_way(path, output->force);
    if (!status)
        status = mabn_parallel(output->threads, (int64_t)output->count, 1, compose_one, &c);
    if (!status) status = save_annotations(&c, cutouts, path, totals);
    end(&c);
    free(path);
    return status;
}
