/* mabn-eval: run a trained network over a dataset and say how well it does. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/signal.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "data/files.h"
#include "device/device.h"
#include "store/dataset.h"
#include "train/evaluate.h"
#include "train/model_file.h"

static struct {
    const char *device;
    int precision, batch, size, threads, decoders;
    double smoothing;
    bool json, predictions, logits, no_fold, exact, skip_bad;
} o = {.device = "auto", .batch = 32};

/* clang-format off */
static const struct mabn_option imagenet_options[] = {
    MABN_OPT_FLAG(0, "json", &o.json, "print the result as one JSON object"),
    MABN_OPT_FLAG('p', "predictions", &o.predictions, "print one JSON line an image instead: the five best classes, their probabilities, the loss"),
    MABN_OPT_FLAG(0, "logits", &o.logits, "with --predictions: the network's outputs too"),
    MABN_OPT_INT('b', "batch", &o.batch, 1, 1 << 20, "N", "images of one pass"),
    MABN_OPT_INT(0, "size", &o.size, 0, 4096, "PIXELS", "side of the network's input; 0: as it was trained"),
    MABN_OPT_DOUBLE(0, "label-smoothing", &o.smoothing, 0, 1, "X", "in the loss"),
    MABN_OPT_FLAG(0, "no-fold", &o.no_fold, "keep norms apart from the convolutions, to compare"),
    MABN_OPT_FLAG(0, "exact", &o.exact, "plain convolution sums, no Winograd: slower, for comparisons"),
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad, "leave unreadable images out instead of failing"),
    MABN_OPT_DEVICE(&o.device),
    MABN_OPT_PRECISION(&o.precision),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_INT(0, "decoders", &o.decoders, 0, 1024, "N", "threads that read and decode images; 0: as --threads"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
/* clang-format on */

static const struct mabn_cli clis[] = {
    {.name = "mabn-eval imagenet",
     .usage = "[OPTION]... MODEL DATA\n[OPTION]... MODEL FOLDER\n[OPTION]... MODEL LIST",
     .summary = "top-1, top-5 and loss of a classifier on a dataset, or what it sees in photographs",
     .options = imagenet_options,
     .epilog = "Examples:\n  mabn-eval imagenet run/model.h5 val.h5\n"
               "  mabn-eval imagenet run/model.h5 photos/ > predictions.jsonl",
     .min_args = 2,
     .max_args = 2},
    {.name = NULL},
};

/* What print_predictions needs. */
struct printing {
    struct mabn_str line;
    const struct mabn_model *model;
    const struct mabn_files *files; /* NULL: a dataset */
};

static mabn_status print_predictions(void *context, const struct mabn_batch *batch,
                                     const float *logits, int classes)
{
    struct printing *p = context;
    for (int i = 0; i < batch->count; i++) {
        if (batch->samples[i] == MABN_NO_SAMPLE) continue;
        const float *outputs = logits + (size_t)i * (size_t)classes;
        mabn_str_clear(&p->line);
        if (p->files)
            mabn_photograph_line(&p->line, mabn_files_path(p->files, batch->samples[i]), p->model,
                                 outputs, o.logits);
        else
            mabn_prediction_line(&p->line, batch->samples[i], batch->labels[i], outputs, classes,
                                 o.logits);
        if (puts(p->line.text) < 0) return mabn_fail_errno("cannot write standard output");
    }
    if (p->files && fflush(stdout)) return mabn_fail_errno("cannot write standard output");
    return MABN_OK;
}

static void print_result(const struct mabn_eval_result *r)
{
    struct mabn_json_writer w;
    struct mabn_str json;
    if (!o.json) {
        printf("images  %lld\ntop-1   %.2f %%\ntop-5   %.2f %%\nloss    %.4f\n",
               (long long)r->labelled, r->top1, r->top5, r->loss);
        return;
    }
    mabn_str_init(&json);
    mabn_json_writer_init(&w, &json);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_string(&w, "schema", "mabn-eval/1");
    mabn_json_put_int(&w, "images", r->labelled);
    mabn_json_put_double(&w, "top1", r->top1);
    mabn_json_put_double(&w, "top5", r->top5);
    mabn_json_put_double(&w, "loss", r->loss);
    mabn_json_put_bool(&w, "folded", !o.no_fold);
    mabn_json_put_rounded(&w, "seconds", r->seconds, 6);
    mabn_json_put_end(&w);
    puts(json.text);
    mabn_str_release(&json);
}

/* Is it photographs, in a folder or a list, and no dataset? What cannot be read is left to whoever
 * opens it to tell. */
static bool is_photographs(const char *path)
{
    struct stat info;
    struct mabn_input in;
    if (!strcmp(path, "-")) return true;
    if (stat(path, &info)) return false;
    if (!S_ISREG(info.st_mode)) return true;
    if (mabn_input_open(&in, path, 0)) {
        mabn_error_clear();
        return false;
    }
    const bool hdf5 = mabn_h5_probe(in.bytes, in.size);
    mabn_input_release(&in);
    return !hdf5;
}

static mabn_status open_data(struct mabn_dataset **data, struct mabn_files **files,
                             struct mabn_source *source, const char *path)
{
    if (is_photographs(path)) {
        MABN_TRY(mabn_files_open(files, path));
        mabn_source_of_files(source, *files);
        return MABN_OK;
    }
    MABN_TRY(mabn_dataset_open(data, path));
    mabn_source_of_dataset(source, *data);
    return MABN_OK;
}

static mabn_status eval_imagenet(const char *model_path, const char *data_path)
{
    struct mabn_model_file file = {.checkpoint = NULL};
    struct mabn_dataset *data = NULL;
    struct mabn_device *device = NULL;
    struct mabn_net *net = NULL;
    struct mabn_source source;
    struct mabn_files *files = NULL;
    struct printing printing = {.model = &file.model};
    struct mabn_eval_result result;
    mabn_status status;
    mabn_str_init(&printing.line);
    MABN_TRY_GOTO(mabn_model_file_open(&file, model_path), out);
    MABN_TRY_GOTO(open_data(&data, &files, &source, data_path), out);
    if (data) MABN_TRY_GOTO(mabn_eval_check(&file.model, data, model_path), out);
    printing.files = files;
    if (o.size) mabn_input_resize(&file.input, o.size);

    struct mabn_net_options no = {.batch = o.batch,
                                  .height = file.input.height,
                                  .width = file.input.width,
                                  .precision = (enum mabn_net_precision)o.precision,
                                  .no_fold = o.no_fold,
                                  .exact = o.exact};
    struct mabn_model_load load = {.momentum = false};
    MABN_TRY_GOTO(mabn_device_open(&device, o.device, o.threads), out);
    mabn_info("%s", mabn_device_name(device));
    no.bytes = mabn_eval_sends_bytes(device, &file.input);
    MABN_TRY_GOTO(mabn_model_build(&net, device, &file.model, &no), out);
    MABN_TRY_GOTO(mabn_model_file_load(&file, mabn_net_params(net), &load), out);
    struct mabn_eval_options eo = {.threads = o.decoders,
                                   .smoothing = o.smoothing,
                                   .skip_bad = o.skip_bad,
                                   .progress = "evaluating",
                                   .each = o.predictions || files ? print_predictions : NULL,
                                   .context = &printing};
    MABN_TRY_GOTO(mabn_evaluate(&result, net, &source, &file.input, &eo), out);
    if (!o.predictions && !files) print_result(&result);
out:
    mabn_str_release(&printing.line);
    mabn_net_free(net);
    mabn_device_free(device);
    mabn_dataset_free(data);
    mabn_files_free(files);
    mabn_model_file_release(&file);
    return status;
}

int main(int argc, char **argv)
{
    char **args;
    mabn_threads_wait_asleep(argv);
    int which =
        mabn_cli_choose(clis, "mabn-eval", "run a trained network over a dataset", argc, argv);
    mabn_cli_start(&clis[which], argc - 1, argv + 1, &args);
    const bool photographs = is_photographs(args[1]);
    if (o.logits && !o.predictions && !photographs)
        mabn_cli_usage_error("--logits goes with --predictions");
    if (o.json && photographs)
        mabn_cli_usage_error("photographs have no labels to count by: leave out --json");
    if (o.json && o.predictions)
        mabn_cli_usage_error("--predictions is JSON already: leave out --json");
    mabn_cli_check_machine(o.device, o.precision);
    if (!o.decoders) o.decoders = o.threads;
    return mabn_cli_finish(eval_imagenet(args[0], args[1]));
}
