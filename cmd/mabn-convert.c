/* mabn-convert: checkpoints from and to other formats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/out.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "exchange/convert.h"
#include "exchange/names.h"

enum { AUTO = -1 };    /* by the name of the output, or by the contents of the input */
enum { FAMILY = 100 }; /* + enum mabn_names: the program that the detector is for */
static const struct mabn_word to_words[] = {{AUTO, "auto"},
                                            {MABN_WEIGHTS_HDF5, "hdf5"},
                                            {MABN_WEIGHTS_TORCH, "torch"},
                                            {MABN_WEIGHTS_SAFETENSORS, "safetensors"},
                                            {MABN_WEIGHTS_ONNX, "onnx"},
                                            {MABN_WEIGHTS_PICKLE, "pickle"},
                                            {FAMILY + MABN_NAMES_OURS, "reference"},
                                            {FAMILY + MABN_NAMES_TORCHVISION, "torchvision"},
                                            {FAMILY + MABN_NAMES_DETECTRON2, "detectron2"},
                                            {0, NULL}};
static const struct mabn_word names_words[] = {{AUTO, "auto"},
                                               {MABN_NAMES_OURS, "ours"},
                                               {MABN_NAMES_TORCHVISION, "torchvision"},
                                               {MABN_NAMES_DETECTRON2, "detectron2"},
                                               {MABN_NAMES_CAFFE2, "caffe2"},
                                               {0, NULL}};
static const struct mabn_word body_words[] = {{MABN_BODY_AS_IS, "as-is"},
                                              {MABN_BODY_CLASSIFIER, "classifier"},
                                              {MABN_BODY_DETECTOR, "detector"},
                                              {0, NULL}};
static const struct mabn_word pixels_words[] = {{MABN_PIXELS_AUTO, "auto"},
                                                {MABN_PIXELS_TORCHVISION, "torchvision"},
                                                {MABN_PIXELS_REFERENCE, "reference"},
                                                {MABN_PIXELS_DETECTRON, "detectron"},
                                                {0, NULL}};
static const struct mabn_word stride_words[] = {{AUTO, "auto"}, {0, "no"}, {1, "yes"}, {0, NULL}};

static struct {
    const char *output, *norm, *like, *categories;
    int to, names, body, pixels, stride;
    bool as_is, partial, suffix, fold, fold_frozen, average, weights_only, list, check, force;
    double frozen_eps, atol, rtol;
} o = {.to = AUTO, .names = AUTO, .stride = AUTO, .frozen_eps = -1};

static const struct mabn_option options[] = {
    MABN_OPT_STRING('o', "output", &o.output, "FILE", "the checkpoint to write"),
    MABN_OPT_CHOICE(
        't', "to", &o.to, to_words,
        "its format; auto: by the name's ending (.h5 .pth .pt .pkl .safetensors .onnx); "
        "or the program that a detector is for"),
    MABN_OPT_FORCE(&o.force),
    MABN_OPT_FLAG('l', "list", &o.list, "print a table: source name, shape, type, our name"),
    MABN_OPT_GROUP("Names and network"),
    MABN_OPT_CHOICE(0, "names", &o.names, names_words,
                    "the program whose tensor names the source has; ours: also the reference's, "
                    "and all classifiers'"),
    MABN_OPT_FLAG(0, "partial", &o.partial, "allow unmatched and missing tensors"),
    MABN_OPT_FLAG(0, "suffix", &o.suffix,
                  "with --like: match each name by the longest suffix, as the reference does"),
    MABN_OPT_STRING(0, "like", &o.like, "FILE",
                    "make the tensors of this checkpoint; missing ones keep its values"),
    MABN_OPT_CHOICE(0, "body", &o.body, body_words,
                    "put a classifier's body into a detector, or take it out of one"),
    MABN_OPT_STRING(0, "norm", &o.norm, "NORM", "the kind of the norms, where names do not tell"),
    MABN_OPT_CHOICE(0, "stride-in-1x1", &o.stride, stride_words,
                    "bottlenecks have their stride in the first 1x1; auto: by the names"),
    MABN_OPT_CHOICE(0, "pixels", &o.pixels, pixels_words,
                    "the network's input: channel order, mean and deviation"),
    MABN_OPT_STRING(0, "categories", &o.categories, "FILE",
                    "annotations, JSON or packed, that name a detector's classes"),
    MABN_OPT_DOUBLE(0, "frozen-eps", &o.frozen_eps, -1, 1, "X",
                    "epsilon of a detector's frozen norms; -1: that of its program"),
    MABN_OPT_FLAG(0, "fold-frozen", &o.fold_frozen,
                  "turn norms with running statistics into frozen ones"),
    MABN_OPT_FLAG(0, "fold", &o.fold, "ONNX: fold norms into the convolutions"),
    MABN_OPT_FLAG(0, "average", &o.average,
                  "use the moving average of the weights that the file also holds"),
    MABN_OPT_FLAG(0, "weights-only", &o.weights_only, "drop momentum and iteration"),
    MABN_OPT_FLAG(0, "as-is", &o.as_is, "change only the container; no network is recognized"),
    MABN_OPT_GROUP("Comparing"),
    MABN_OPT_FLAG(0, "check", &o.check, "compare two checkpoints; exit 1 when they differ"),
    MABN_OPT_DOUBLE(0, "atol", &o.atol, 0, 1e30, "X", "allowed absolute difference"),
    MABN_OPT_DOUBLE(0, "rtol", &o.rtol, 0, 1e30, "X", "allowed relative difference"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_cli cli = {
    .name = "mabn-convert",
    .usage = "[OPTION]... FILE -o FILE\n[OPTION]... --list FILE\n[OPTION]... --check FILE FILE",
    .summary =
        "Convert checkpoints between HDF5, PyTorch, Detectron pickles, safetensors and ONNX.",
    .options = options,
    .epilog = "Examples:\n"
              "  mabn-convert resnet50.pth -o r50.h5\n"
              "  mabn-convert --list R-50.pkl\n"
              "  mabn-convert run/model.h5 -o model.onnx\n"
              "  mabn-convert --body detector r50.h5 -o body.pth\n"
              "  mabn-convert --to detectron2 --fold-frozen run/model.h5 -o model.pkl\n"
              "  mabn-convert --check --rtol 1e-6 a.pth b.safetensors\n",
    .min_args = 1,
    .max_args = 2,
};

/* The output's format, by --to or by the ending of its name. */
static mabn_status pick_format(enum mabn_weights_format *format)
{
    if (o.to != AUTO && o.to < FAMILY) {
        *format = (enum mabn_weights_format)o.to;
        return MABN_OK;
    }
    if (mabn_weights_format_by_ending(format, o.output)) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "the ending of '%s' names no known format; use --to", o.output);
}

/* Each line of `text` as a warning. */
static void warn_lines(const char *text)
{
    for (const char *end; (end = strchr(text, '\n')); text = end + 1)
        mabn_warn("%.*s", (int)(end - text), text);
}

static mabn_status check(const char *a, const char *b)
{
    struct mabn_compare result;
    struct mabn_str lines;
    mabn_str_init(&lines);
    mabn_status status = mabn_compare_weights(a, b, o.atol, o.rtol, &result, &lines);
    mabn_out_write(lines.text, lines.length);
    if (!status) {
        mabn_out_print(
            "# %zu tensors compared, %zu differ, %zu only in one; max abs %.9g, max rel %.9g",
            result.tensors, result.differing, result.missing, result.max_abs, result.max_rel);
        mabn_out_print(result.worst ? " (%s)\n" : "\n", result.worst);
        if (result.differing || result.missing)
            status = mabn_fail(MABN_ERR_MISMATCH, "'%s' and '%s' differ", a, b);
    }
    free(result.worst);
    mabn_str_release(&lines);
    return status;
}

/* Print unmatched and missing tensors; they are an error unless --partial. */
static mabn_status complain(const struct mabn_convert *c, const char *path)
{
    struct mabn_str lines;
    mabn_str_init(&lines);
    size_t limit = mabn_log_level_now() > MABN_LOG_NORMAL ? 0 : 8;
    size_t count = mabn_convert_complain(c, limit, &lines);
    warn_lines(lines.text);
    mabn_str_release(&lines);
    if (!count && mabn_convert_is_unknown(c) && !o.partial)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' is not a known network (--as-is changes the container only)", path);
    if (!count || o.partial) return MABN_OK;
    const char *family = mabn_convert_other_family(c);
    return mabn_fail(
        MABN_ERR_MISMATCH,
        "'%s': %zu tensors are unmatched or missing%s%s%s (--partial continues, --list "
        "shows all, --as-is needs no network)",
        path, count, family ? ": it looks like " : "", family ? family : "",
        family ? ", which is not read" : "");
}

static mabn_status write_output(struct mabn_convert *c, const char *path,
                                enum mabn_weights_format format)
{
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_convert_describe(c, &text);
    mabn_info("'%s': %s", path, text.text);
    mabn_str_clear(&text);
    mabn_status status = mabn_convert_remarks(c, &text);
    warn_lines(text.text);
    mabn_str_release(&text);
    if (!status) status = complain(c, path);
    if (status) return status;
    struct mabn_progress *progress =
        mabn_progress_new("converting", "bytes", mabn_convert_bytes(c));
    status = mabn_convert_write(c, o.output, format, o.force, mabn_cli_command_line(),
                                "mabn-convert " MABN_VERSION, progress);
    mabn_progress_free(progress);
    return status;
}

static mabn_status convert(const char *path)
{
    struct mabn_convert_options want;
    struct mabn_convert *c;
    enum mabn_weights_format format = MABN_WEIGHTS_HDF5;
    mabn_convert_options_init(&want);
    if (o.output) MABN_TRY(pick_format(&format));
    bool onnx = o.output && format == MABN_WEIGHTS_ONNX;
    if (o.fold && !onnx) mabn_cli_usage_error("--fold is for ONNX only");
    want.fold = o.fold;
    want.no_counters = onnx && !o.as_is;
    want.names = o.names;
    want.as_is = o.as_is;
    want.suffix = o.suffix;
    want.fold_frozen = o.fold_frozen;
    want.average = o.average;
    /* Inference needs no optimizer state. */
    want.weights_only = o.weights_only || (onnx && !o.as_is);
    want.body = (enum mabn_convert_body)o.body;
    want.pixels = (enum mabn_convert_pixels)o.pixels;
    want.stride_in_1x1 = o.stride;
    want.norm = o.norm;
    want.like = o.like;
    want.categories = o.categories;
    want.frozen_eps = o.frozen_eps;
    want.to = o.to >= FAMILY ? o.to - FAMILY : -1;
    if (want.to >= 0 && o.output && (format == MABN_WEIGHTS_HDF5 || onnx))
        mabn_cli_usage_error(
            "a detector for another program is written as .pth, .pkl or .safetensors");
    if (want.to >= 0) want.weights_only = true;
    MABN_TRY(mabn_convert_open(&c, path, &want));
    mabn_status status = MABN_OK;
    if (o.list) {
        struct mabn_str tsv;
        mabn_str_init(&tsv);
        mabn_convert_list(c, &tsv);
        mabn_out_write(tsv.text, tsv.length);
        mabn_str_release(&tsv);
    }
    if (o.output) status = write_output(c, path, format);
    mabn_convert_free(c);
    return status;
}

int main(int argc, char **argv)
{
    char **args;
    int n = mabn_cli_start(&cli, argc, argv, &args);
    if (o.check) {
        if (n != 2) mabn_cli_usage_error("--check takes two files");
        return mabn_cli_finish(check(args[0], args[1]));
    }
    if (n != 1) mabn_cli_usage_error("one file at a time");
    if (!o.output && !o.list) mabn_cli_usage_error("no output: give -o FILE, --list or --check");
    if (o.suffix && !o.like) mabn_cli_usage_error("--suffix needs --like FILE");
    if (o.as_is && (o.like || o.body || o.norm || o.fold_frozen || o.to >= FAMILY))
        mabn_cli_usage_error(
            "--as-is excludes --like, --body, --norm, --fold-frozen and a program");
    if (o.to >= FAMILY && (o.like || o.body))
        mabn_cli_usage_error(
            "a detector for another program cannot be combined with --like or --body");
    return mabn_cli_finish(convert(args[0]));
}
