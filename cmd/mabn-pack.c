/* mabn-pack: pack images and labels into one dataset. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/signal.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "coco/dataset.h"
#include "store/idx.h"
#include "store/listing.h"
#include "store/pack.h"

static struct {
    const char *output, *classes;
    int resize, quality, threads;
    bool verify, skip_bad, exif, force;
} o = {.quality = 95};

#define OPT_OUTPUT MABN_OPT_STRING('o', "output", &o.output, "FILE", "the dataset to write")
#define OPT_CLASSES(help) MABN_OPT_STRING('c', "classes", &o.classes, "FILE", help)
/* clang-format off */
#define OPTS_IMAGES                                                                                 \
    MABN_OPT_INT('r', "resize", &o.resize, 0, 65535, "N",                                           \
                 "shrink short sides larger than N pixels to N; 0: never"),                         \
    MABN_OPT_INT(0, "quality", &o.quality, 1, 100, "Q", "JPEG quality of images that were shrunk"), \
    MABN_OPT_FLAG(0, "exif", &o.exif, "apply the EXIF orientation of pictures"),              \
    MABN_OPT_FLAG(0, "verify", &o.verify, "decode every image completely"),                         \
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad, "leave out images that cannot be used, with a warning")
/* clang-format on */

static const struct mabn_option imagenet_options[] = {
    OPT_OUTPUT,
    OPT_CLASSES("class folders in the order of their labels, one a line"),
    OPTS_IMAGES,
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_option list_options[] = {
    OPT_OUTPUT,
    OPT_CLASSES("class names in the order of their labels, one a line"),
    OPTS_IMAGES,
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_option idx_options[] = {
    OPT_OUTPUT,
    OPT_CLASSES("class names in the order of their labels, one a line"),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_option coco_options[] = {
    OPT_OUTPUT,
    MABN_OPT_FLAG(0, "exif", &o.exif, "apply the EXIF orientation of pictures"),
    MABN_OPT_FLAG(0, "verify", &o.verify, "decode every image completely"),
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad,
                  "leave out images that cannot be used, with a warning"),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

enum { IMAGENET, IDX, LIST, COCO };
static const struct mabn_cli clis[] = {
    [IMAGENET] = {"mabn-pack imagenet", "[OPTION]... DIR -o FILE",
                  "pack a tree of class folders, DIR/CLASS/IMAGE", imagenet_options,
                  "Example:\n  mabn-pack imagenet train/ --resize 256 -o train.h5\n", 1, 1},
    [IDX] = {"mabn-pack idx", "[OPTION]... IMAGES LABELS -o FILE",
             "pack a pair of idx files (MNIST's format), plain or .gz", idx_options,
             "Example:\n  mabn-pack idx train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz -o "
             "train.h5\n",
             2, 2},
    [LIST] = {"mabn-pack list", "[OPTION]... LIST -o FILE",
              "pack the images of a list: lines of PATH, tab, label (-: standard input)",
              list_options,
              "Example:\n  find cats dogs -name '*.jpg' | awk -F/ '{print $0 \"\\t\" $1}' |\n"
              "  mabn-pack list - -o pets.h5\n",
              1, 1},
    [COCO] = {"mabn-pack coco", "[OPTION]... IMAGES ANNOTATIONS -o FILE",
              "pack the images of a COCO annotation file, with the annotations", coco_options,
              "Example:\n  mabn-pack coco val2017/ instances_val2017.json -o val.h5\n", 2, 2},
    {0},
};

/* The recorded command: only options that affect the content. */
static void add_word(struct mabn_str *s, const char *option, const char *word)
{
    if (option) mabn_str_printf(s, " %s", option);
    if (!word) return;
    mabn_str_add_char(s, ' ');
    mabn_str_add_shell(s, word);
}

static void make_command(struct mabn_str *s, const char *name, char **args, int count)
{
    mabn_str_init(s);
    mabn_str_add(s, name);
    if (o.classes) add_word(s, "--classes", o.classes);
    if (o.resize) mabn_str_printf(s, " --resize %d --quality %d", o.resize, o.quality);
    if (o.skip_bad) add_word(s, "--skip-bad", NULL);
    if (o.exif) add_word(s, "--exif", NULL);
    for (int i = 0; i < count; i++)
        add_word(s, NULL, args[i]);
}

static mabn_status pack_images(int which, char **args, const struct mabn_pack_output *out)
{
    struct mabn_listing list;
    struct mabn_pack_options options = {
        .threads = o.threads ? o.threads : mabn_threads_available(),
        .resize_short = o.resize,
        .quality = o.quality,
        .verify = o.verify,
        .exif = o.exif,
        .skip_bad = o.skip_bad,
    };
    MABN_TRY(which == LIST ? mabn_listing_read(&list, args[0], o.classes)
                           : mabn_listing_scan(&list, args[0], o.classes));
    mabn_signals_graceful();
    mabn_status status = mabn_pack_listing(out, &list, &options);
    mabn_listing_release(&list);
    return status;
}

static mabn_status pack_idx(char **args, const struct mabn_pack_output *out)
{
    struct mabn_idx images, labels = {0};
    struct mabn_listing names = {0};
    mabn_status status = mabn_idx_read(&images, args[0]);
    if (!status) status = mabn_idx_read(&labels, args[1]);
    if (!status && o.classes) status = mabn_listing_read_classes(&names, o.classes);
    if (!status)
        status = mabn_pack_idx(out, &images, &labels, (const char *const *)names.classes,
                               names.class_count);
    mabn_idx_release(&images);
    mabn_idx_release(&labels);
    mabn_listing_release(&names);
    return status;
}

static mabn_status pack_coco(char **args, const struct mabn_pack_output *out)
{
    struct mabn_coco_pack_options options = {
        .threads = o.threads ? o.threads : mabn_threads_available(),
        .verify = o.verify,
        .exif = o.exif,
        .skip_bad = o.skip_bad,
    };
    mabn_signals_graceful();
    return mabn_coco_pack(out, args[0], args[1], &options);
}

static mabn_status report(const char *path, double started)
{
    struct mabn_dataset *ds;
    char seconds[32];
    MABN_TRY(mabn_dataset_open(&ds, path));
    mabn_info("packed %lld images of %d classes into '%s' (%.1f MB) in %s",
              (long long)mabn_dataset_count(ds), mabn_dataset_classes(ds), path,
              (double)mabn_h5_file_size(mabn_dataset_file(ds)) / 1e6,
              mabn_format_seconds(seconds, mabn_now() - started));
    mabn_dataset_free(ds);
    return MABN_OK;
}

int main(int argc, char **argv)
{
    char **args;
    struct mabn_str command;
    int which =
        mabn_cli_choose(clis, "mabn-pack", "images and labels into one HDF5 dataset", argc, argv);
    int count = mabn_cli_start(&clis[which], argc - 1, argv + 1, &args);
    double started = mabn_now();
    if (!o.output) mabn_cli_usage_error("no output: give -o FILE");
    mabn_cli_check_output(o.output, o.classes);
    for (int i = 0; i < count; i++)
        mabn_cli_check_output(o.output, args[i]);
    make_command(&command, clis[which].name, args, count);
    struct mabn_pack_output out = {o.output, o.force, command.text, "mabn-pack " MABN_VERSION};
    mabn_status status = which == IDX    ? pack_idx(args, &out)
                         : which == COCO ? pack_coco(args, &out)
                                         : pack_images(which, args, &out);
    if (!status) status = report(o.output, started);
    mabn_str_release(&command);
    return mabn_cli_finish(status);
}
