/* mabn-compose: scenes with exact masks, composed of cut-outs. */
#include "base/log.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "data/compose_files.h"

static struct {
    struct mabn_compose_options scene;
    const char *output;
    int64_t count, seed;
    int format, masks, quality, threshold, background, threads;
    bool force;
} o = {.count = 1000, .quality = 95, .threshold = 32};

static const struct mabn_word formats[] = {{0, "png"}, {1, "jpeg"}, {0, NULL}};
static const struct mabn_word masks[] = {{0, "polygons"}, {1, "rle"}, {0, NULL}};
static const struct mabn_word backgrounds[] = {{MABN_BACKGROUND_MIXED, "mixed"},
                                               {MABN_BACKGROUND_PLAIN, "plain"},
                                               {MABN_BACKGROUND_GRADIENT, "gradient"},
                                               {MABN_BACKGROUND_NOISE, "noise"},
                                               {0, NULL}};

/* clang-format off */
static const struct mabn_option options[] = {
    MABN_OPT_STRING('o', "output", &o.output, "FOLDER", "where images/ and instances.json go"),
    MABN_OPT_INT64('n', "count", &o.count, 1, 100000000, "N", "scenes to compose"),
    MABN_OPT_GROUP("Scenes"),
    MABN_OPT_INT(0, "width", &o.scene.width, 16, 4096, "PIXELS", "their width"),
    MABN_OPT_INT(0, "height", &o.scene.height, 16, 4096, "PIXELS", "their height"),
    MABN_OPT_INT(0, "min-objects", &o.scene.min_objects, 0, 1000, "N", "fewest objects in a scene"),
    MABN_OPT_INT(0, "max-objects", &o.scene.max_objects, 1, 1000, "N", "most objects in a scene"),
    MABN_OPT_CHOICE(0, "background", &o.background, backgrounds, "the background; mixed: one of the others, at random"),
    MABN_OPT_GROUP("Objects"),
    MABN_OPT_INT(0, "threshold", &o.threshold, 0, 254, "T", "pictures without alpha: pixels up to this brightness are background"),
    MABN_OPT_DOUBLE(0, "min-scale", &o.scene.min_scale, 0.01, 1, "S", "shortest longer side, as a share of the scene's shorter side"),
    MABN_OPT_DOUBLE(0, "max-scale", &o.scene.max_scale, 0.01, 1, "S", "longest longer side, likewise"),
    MABN_OPT_DOUBLE(0, "rotation", &o.scene.rotation, 0, 180, "DEGREES", "rotate by up to this angle in either direction"),
    MABN_OPT_FLAG(0, "mirror", &o.scene.mirror, "mirror half of them left to right"),
    MABN_OPT_DOUBLE(0, "tint", &o.scene.tint, 0, 1, "T", "how strongly gray objects are coloured"),
    MABN_OPT_DOUBLE(0, "overlap", &o.scene.overlap, 0, 1, "X", "largest share of an object that others may hide"),
    MABN_OPT_INT(0, "min-area", &o.scene.min_area, 1, 1 << 24, "PIXELS", "smallest visible area of an object"),
    MABN_OPT_GROUP("Files"),
    MABN_OPT_CHOICE(0, "format", &o.format, formats, "format of the pictures"),
    MABN_OPT_INT(0, "quality", &o.quality, 1, 100, "Q", "quality of JPEG files"),
    MABN_OPT_CHOICE(0, "masks", &o.masks, masks, "as polygons along the pixels' edges, or as run lengths"),
    MABN_OPT_GROUP("General"),
    MABN_OPT_SEED(&o.seed),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
/* clang-format on */

static const struct mabn_cli cli = {
    .name = "mabn-compose",
    .usage = "[OPTION]... CUTOUTS -o FOLDER",
    .summary = "compose scenes with exact masks and boxes, in COCO's form, from pictures of single "
               "objects",
    .options = options,
    .epilog = "CUTOUTS is a classification dataset of mabn-pack, or a folder with a folder of "
              "pictures for "
              "each class.\n\n"
              "Example:\n"
              "  mabn-compose fashion.h5 -n 2000 -o scenes\n"
              "  mabn-pack coco scenes/images scenes/instances.json -o scenes.h5\n",
    .min_args = 1,
    .max_args = 1};

static mabn_status run(const char *path)
{
    const struct mabn_compose_output output = {.folder = o.output,
                                               .count = (uint64_t)o.count,
                                               .force = o.force,
                                               .run_lengths = o.masks == 1,
                                               .quality = o.format == 1 ? o.quality : 0,
                                               .threads =
                                                   o.threads ? o.threads : mabn_threads_available(),
                                               .tool = "mabn-compose " MABN_VERSION};
    struct mabn_cutouts *cutouts;
    struct mabn_compose_totals totals;
    o.scene.background = (enum mabn_compose_background)o.background;
    o.scene.seed = (uint64_t)o.seed;
    MABN_TRY(mabn_cutouts_open(&cutouts, path, o.threshold));
    const mabn_status status = mabn_compose_files(&totals, cutouts, &o.scene, &output);
    if (!status) mabn_cutouts_tell(cutouts);
    mabn_cutouts_free(cutouts);
    if (!status)
        mabn_info("%lld scenes, %llu objects, %llu left out because they would hide others",
                  (long long)o.count, (unsigned long long)totals.objects,
                  (unsigned long long)totals.left_out);
    return status;
}

int main(int argc, char **argv)
{
    char **args;
    mabn_compose_options_init(&o.scene);
    mabn_cli_start(&cli, argc, argv, &args);
    if (!o.output) mabn_cli_usage_error("no output: give -o FOLDER");
    if (o.scene.min_objects > o.scene.max_objects)
        mabn_cli_usage_error("--min-objects is %d, --max-objects %d", o.scene.min_objects,
                             o.scene.max_objects);
    if (o.scene.min_scale > o.scene.max_scale)
        mabn_cli_usage_error("--min-scale is %g, --max-scale %g", o.scene.min_scale,
                             o.scene.max_scale);
    return mabn_cli_finish(run(args[0]));
}
