/* mabn-eval: run a trained network over a dataset and say how well it does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out.h"
#include "base/signal.h"
#include "base/thread.h"
#include "base/words.h"
#include "cli/cli.h"
#include "cli/ranks.h"
#include "data/files.h"
#include "device/device.h"
#include "device/tune.h"
#include "store/dataset.h"
#include "model/detector_request.h"
#include "train/detect_eval.h"
#include "train/evaluate.h"
#include "model/model_file.h"
#include "train/recalibrate.h"

static struct {
    const char *device;
    int precision, batch, size, threads, decoders;
    const char *recalibrate;
    int64_t recalibrate_images;
    int recalibrate_batch;
    const char *save;
    double smoothing;
    bool json, predictions, logits, no_fold, exact, tune, skip_bad;
    const char *output;
    /* coco */
    int types, min_size, max_size, max_dets;
    double min_score, nms;
    bool score, force, nms_across;
} o = {.device = "auto", .batch = 32, .recalibrate_batch = 2, .min_score = -1};

enum { BOXES = 1, MASKS = 2 };

/* The images are shared with these ranks; rank 0 alone writes. */
static struct mabn_comm *comm;

static bool first_rank(void)
{
    return mabn_comm_rank(comm) == 0;
}

static mabn_status types(const char *argument, void *value)
{
    static const struct mabn_word words[] = {
        {BOXES, "bbox"}, {MASKS, "segm"}, {BOXES | MASKS, "bbox,segm"}, {0, NULL}};
    return mabn_word_parse(value, words, "type of results", argument);
}

/* clang-format off */
static const struct mabn_option imagenet_options[] = {
    MABN_OPT_FLAG(0, "json", &o.json, "print the result as one JSON object"),
    MABN_OPT_FLAG('p', "predictions", &o.predictions, "print one JSON line an image instead: the five best classes, their probabilities, the loss"),
    MABN_OPT_FLAG(0, "logits", &o.logits, "with --predictions: also print the network's outputs"),
    MABN_OPT_STRING(0, "recalibrate", &o.recalibrate, "TRAIN", "estimate the running statistics of bn, brn, syncbn and mabn anew, from a pass over TRAIN's images in batches of --batch"),
    MABN_OPT_INT64(0, "recalibrate-images", &o.recalibrate_images, 0, 1e12, "N", "how many of them, taken evenly from all; 0: 200 batches, or all if there are fewer"),
    MABN_OPT_STRING('o', "output", &o.output, "FILE", "with --recalibrate: write the model with the new statistics; DATA may be left out then"),
    MABN_OPT_FORCE(&o.force),
    MABN_OPT_INT('b', "batch", &o.batch, 1, 1 << 20, "N", "images of one pass"),
    MABN_OPT_INT(0, "size", &o.size, 0, 4096, "PIXELS", "side of the network's input; 0: as it was trained"),
    MABN_OPT_DOUBLE(0, "label-smoothing", &o.smoothing, 0, 1, "X", "smoothing of labels in the loss"),
    MABN_OPT_FLAG(0, "no-fold", &o.no_fold, "do not fold norms into convolutions, for comparisons"),
    MABN_OPT_FLAG(0, "exact", &o.exact, "do not use Winograd convolutions. Slower; for comparisons"),
    MABN_OPT_FLAG(0, "tune", &o.tune, "choose convolution algorithms by timing: on a CPU once, kept in a file; on a GPU in every run, so that last bits may differ"),
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad, "leave unreadable images out instead of failing"),
    MABN_OPT_DEVICE(&o.device),
    MABN_OPT_PRECISION(&o.precision),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_INT(0, "decoders", &o.decoders, 0, 1024, "N", "threads that read and decode images; 0: as --threads"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_option coco_options[] = {
    MABN_OPT_STRING('o', "output", &o.output, "FILE", "write the results to FILE, which appears whole or not at all, instead of to standard output"),
    MABN_OPT_FORCE(&o.force),
    MABN_OPT_FLAG(0, "score", &o.score, "print COCO's table of average precision instead of the results"),
    MABN_OPT_STRING(0, "recalibrate", &o.recalibrate, "TRAIN", "estimate the running statistics of bn, brn, syncbn and mabn anew, from a pass over TRAIN's photographs and annotations"),
    MABN_OPT_INT64(0, "recalibrate-images", &o.recalibrate_images, 0, 1e12, "N", "how many of them, taken evenly from all; 0: 200 batches, or all if there are fewer"),
    MABN_OPT_INT(0, "recalibrate-batch", &o.recalibrate_batch, 1, 64, "N", "photographs in a batch of that pass"),
    MABN_OPT_STRING(0, "save", &o.save, "FILE", "with --recalibrate: write the model with the new statistics to FILE"),
    MABN_OPT_CALL(0, "type", types, &o.types, "TYPES", "types in the results: bbox, segm, or bbox,segm; by default all that the model finds"),
    MABN_OPT_DOUBLE(0, "min-score", &o.min_score, -1, 1, "X", "lowest score of a detection; -1: the model's value"),
    MABN_OPT_DOUBLE(0, "nms", &o.nms, 0, 1, "X", "overlap (IoU) above which a better detection suppresses another; 0: the model's value"),
    MABN_OPT_FLAG(0, "nms-across", &o.nms_across, "suppress detections of other classes too, not only of the same class"),
    MABN_OPT_INT(0, "max-dets", &o.max_dets, 0, 65536, "N", "most detections of a photograph; 0: the model's value"),
    MABN_OPT_INT(0, "min-size", &o.min_size, 0, 16384, "PIXELS", "shorter side of a picture; 0: the model's value"),
    MABN_OPT_INT(0, "max-size", &o.max_size, 0, 16384, "PIXELS", "largest longer side; 0: the model's value"),
    MABN_OPT_FLAG(0, "no-fold", &o.no_fold, "do not fold norms into convolutions, for comparisons"),
    MABN_OPT_FLAG(0, "exact", &o.exact, "do not use Winograd convolutions. Slower; for comparisons"),
    MABN_OPT_FLAG(0, "tune", &o.tune, "choose convolution algorithms by timing: on a CPU once, kept in a file; on a GPU in every run, so that last bits may differ"),
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad, "leave unreadable photographs out instead of failing"),
    MABN_OPT_DEVICE(&o.device),
    MABN_OPT_PRECISION(&o.precision),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_INT(0, "decoders", &o.decoders, 0, 1024, "N", "threads that read and decode photographs; 0: as --threads"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
/* clang-format on */

static const struct mabn_cli clis[] = {
    {.name = "mabn-eval imagenet",
     .usage = "[OPTION]... MODEL DATA\n[OPTION]... MODEL FOLDER\n[OPTION]... MODEL LIST\n"
              "[OPTION]... --recalibrate TRAIN -o FILE MODEL",
     .summary =
         "top-1, top-5 and loss of a classifier on a dataset, or what it sees in photographs",
     .options = imagenet_options,
     .epilog = "Examples:\n  mabn-eval imagenet run/model.h5 val.h5\n"
               "  mabn-eval imagenet run/model.h5 photos/ > predictions.jsonl\n"
               "  mabn-eval imagenet --recalibrate train.h5 run/model.h5 val.h5",
     .min_args = 1,
     .max_args = 2,
     .ranks = true},
    {.name = "mabn-eval coco",
     .usage = "[OPTION]... MODEL DATA\n[OPTION]... MODEL FOLDER\n[OPTION]... MODEL LIST",
     .summary = "what a detector finds, as COCO results, or its average precision",
     .options = coco_options,
     .epilog = "Examples:\n  mabn-eval coco run/model.h5 val.h5 | mabn-score coco val.h5 -\n"
               "  mabn-eval coco --score run/model.h5 val.h5\n"
               "  mabn-eval coco run/model.h5 photos/ > results.json\n"
               "  find photos -name '*.jpg' | mabn-eval coco run/model.h5 - > results.json",
     .min_args = 2,
     .max_args = 2,
     .ranks = true},
    {.name = NULL},
};
enum { IMAGENET, COCO };

/* What print_predictions needs. */
struct printing {
    struct mabn_str line;
    const struct mabn_model *model;
    const struct mabn_files *files; /* NULL: a dataset */
    const struct mabn_dataset *data;
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
            mabn_prediction_line(&p->line, batch->samples[i],
                                 mabn_dataset_label(p->data, (int64_t)batch->samples[i]), outputs,
                                 classes, o.logits);
        mabn_out_print("%s\n", p->line.text);
    }
    if (p->files) mabn_out_flush();
    return mabn_out_status();
}

static void print_result(const struct mabn_eval_result *r)
{
    struct mabn_json_writer w;
    struct mabn_str json;
    if (!o.json) {
        mabn_out_print("images  %lld\ntop-1   %.2f %%\ntop-5   %.2f %%\nloss    %.4f\n",
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
    mabn_out_print("%s\n", json.text);
    mabn_str_release(&json);
}

/* Does the path name photographs, in a folder or a list, and not a dataset? False if it cannot be read; the
 * caller then reports that when it opens the dataset. */
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

/* Every rank opens the data by itself. */
static mabn_status open_data(struct mabn_dataset **data, struct mabn_files **files,
                             struct mabn_source *source, const char *path)
{
    if (!strcmp(path, "-") && mabn_comm_ranks(comm) > 1)
        return mabn_fail(MABN_ERR_ARG, "standard input reaches rank 0 alone: give a file");
    if (is_photographs(path)) {
        MABN_TRY(mabn_files_open(files, path));
        mabn_source_of_files(source, *files);
        return MABN_OK;
    }
    MABN_TRY(mabn_dataset_open(data, path));
    mabn_source_of_dataset(source, *data);
    return MABN_OK;
}

/* Report once what is odd about the photographs of all ranks. */
static mabn_status tell_files(const struct mabn_files *files)
{
    const int ranks = mabn_comm_ranks(comm);
    struct mabn_odd_file *mine;
    const size_t n = mabn_files_odd(files, &mine);
    size_t *sizes = mabn_xcalloc((size_t)ranks, sizeof *sizes), bytes = 0;
    void *all = NULL;
    mabn_status status = MABN_OK;
    if (ranks > 1) status = mabn_comm_gather(comm, mine, n * sizeof *mine, &all, sizes);
    for (int r = 0; r < ranks; r++)
        bytes += sizes[r];
    if (!status && first_rank())
        mabn_files_tell(files, all ? all : mine, all ? bytes / sizeof *mine : n);
    mabn_free(all);
    mabn_free(sizes);
    mabn_free(mine);
    return status;
}

/* ---- recalibration ---- */

static mabn_status save_recalibrated(const char *path, const struct mabn_model_file *file,
                                     const struct mabn_params *params, int64_t images)
{
    static const char *const name[] = {"recalibrated_images"};
    const double value[] = {(double)images};
    const struct mabn_model_save save = {.model = file->detects ? NULL : &file->model,
                                         .input = file->detects ? NULL : &file->input,
                                         .detector = file->detects ? &file->detector : NULL,
                                         .categories = file->categories,
                                         .step = file->meta.step,
                                         .epoch = file->meta.epoch,
                                         .sampler_position = file->meta.sampler_position,
                                         .seed = file->meta.seed,
                                         .command = mabn_cli_command_line(),
                                         .tool = "mabn-eval " MABN_VERSION,
                                         .double_names = name,
                                         .doubles = value,
                                         .n_doubles = 1};
    return mabn_model_file_save(path, o.force, params, &save);
}

static mabn_status recalibrate(const struct mabn_model_file *file, struct mabn_params *params,
                               struct mabn_device *device, const char *model_path)
{
    struct mabn_dataset *data = NULL;
    struct mabn_files *files = NULL;
    struct mabn_source source;
    struct mabn_recalibrate_result result;
    const struct mabn_recalibrate_options options = {.batch = o.batch,
                                                     .images = o.recalibrate_images,
                                                     .threads = o.decoders,
                                                     .precision = o.precision,
                                                     .exact = o.exact,
                                                     .progress = "recalibrating",
                                                     .comm = comm};
    mabn_status status = open_data(&data, &files, &source, o.recalibrate);
    if (!status)
        status =
            mabn_comm_check_same(comm, "the number of images", &source.count, sizeof source.count);
    if (!status) {
        status = mabn_recalibrate(&result, params, device, file, &source, &options);
        if (status) status = mabn_fail_prefix(status, "'%s'", model_path);
    }
    if (!status)
        mabn_info("statistics of %d norms estimated from %lld images of '%s'", result.norms,
                  (long long)result.images, o.recalibrate);
    if (!status && files) status = tell_files(files);
    if (!status && o.output && first_rank())
        status = save_recalibrated(o.output, file, params, result.images);
    mabn_dataset_free(data);
    mabn_files_free(files);
    return status;
}

/* The batch of the network: smaller than --batch if there are fewer images. */
static int net_batch(uint64_t images)
{
    return images && images < (uint64_t)o.batch ? (int)images : o.batch;
}

/* data_path NULL: the model is recalibrated and written, no more. */
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
    if (file.detects) {
        status =
            mabn_fail(MABN_ERR_MISMATCH, "'%s' is a detector: mabn-eval coco runs it", model_path);
        goto out;
    }
    if (data_path) {
        MABN_TRY_GOTO(open_data(&data, &files, &source, data_path), out);
        MABN_TRY_GOTO(
            mabn_comm_check_same(comm, "the number of images", &source.count, sizeof source.count),
            out);
    }
    if (data) MABN_TRY_GOTO(mabn_eval_check(&file.model, data, model_path), out);
    printing.files = files;
    printing.data = data;
    if (o.size) mabn_input_resize(&file.input, o.size);

    struct mabn_net_options no = {.batch = data_path ? net_batch(source.count) : 1,
                                  .height = file.input.height,
                                  .width = file.input.width,
                                  .no_fold = o.no_fold,
                                  .exact = o.exact,
                                  .tune = o.tune,
                                  .takes_weights = true};
    struct mabn_model_load load = {.momentum = false};
    MABN_TRY_GOTO(mabn_device_open(&device, o.device, o.threads), out);
    if (o.tune) MABN_TRY_GOTO(mabn_device_tune(device, mabn_comm_ranks(comm) == 1), out);
    no.precision = (enum mabn_net_precision)mabn_cli_infer_precision(device, o.precision, o.exact);
    no.bytes = mabn_eval_sends_bytes(device, &file.input);
    MABN_TRY_GOTO(mabn_model_build(&net, device, &file.model, &no), out);
    mabn_info("%s; %s", mabn_device_name(device),
              mabn_net_precision_name(mabn_net_precision_of(net)));
    MABN_TRY_GOTO(mabn_model_file_load(&file, mabn_net_params(net), &load), out);
    if (o.recalibrate)
        MABN_TRY_GOTO(recalibrate(&file, mabn_net_params(net), device, model_path), out);
    if (!data_path) goto out;
    if (data) mabn_eval_tell_names(&file.model, data, model_path);
    struct mabn_eval_options eo = {.threads = o.decoders,
                                   .smoothing = o.smoothing,
                                   .labels = data,
                                   .skip_bad = o.skip_bad,
                                   .progress = "evaluating",
                                   .comm = comm,
                                   .each = o.predictions || files ? print_predictions : NULL,
                                   .context = &printing};
    MABN_TRY_GOTO(mabn_evaluate(&result, net, &source, &file.input, &eo), out);
    if (files) MABN_TRY_GOTO(tell_files(files), out);
    if (!o.predictions && !files && first_rank()) print_result(&result);
out:
    mabn_str_release(&printing.line);
    mabn_net_free(net);
    mabn_device_free(device);
    mabn_dataset_free(data);
    mabn_files_free(files);
    mabn_model_file_release(&file);
    return status;
}

/* ---- coco ---- */

/* What a run of a detector needs. */
struct detection {
    struct mabn_model_file file;
    struct mabn_dataset *data;
    struct mabn_scene_set *set;
    struct mabn_device *device;
    struct mabn_params *params;
    enum mabn_net_precision precision;
    struct mabn_rcnn *rcnn;
    int64_t *categories;
    struct mabn_detect_writer writer;
    struct mabn_outfile out; /* with -o */
    struct mabn_str text;
    struct mabn_json_writer json; /* onto text */
};

static mabn_status open_scenes(struct detection *d, const char *path)
{
    if (is_photographs(path)) {
        if (o.score)
            return mabn_fail(MABN_ERR_ARG,
                             "'%s' is photographs, without annotations: there is nothing to "
                             "score against",
                             path);
        if (!strcmp(path, "-") && mabn_comm_ranks(comm) > 1)
            return mabn_fail(MABN_ERR_ARG, "standard input reaches rank 0 alone: give a file");
        uint64_t bad;
        const bool folder = strcmp(path, "-") && mabn_path_is_dir(path);
        MABN_TRY((folder ? mabn_scene_set_scan : mabn_scene_set_list)(&d->set, path,
                                                                      o.skip_bad ? &bad : NULL));
        /* detectron2 turns photographs as their cameras were held; the others do not. */
        if (!strcmp(d->file.detector.convention, "detectron2")) mabn_scene_set_turn(d->set);
        if (first_rank()) mabn_scene_set_tell(d->set);
        return MABN_OK;
    }
    MABN_TRY(mabn_dataset_open(&d->data, path));
    return mabn_scene_set_open(&d->set, d->data);
}

/* The ids of the classes: the model's own, which must fit the data's categories if there is a dataset. A
 * model without any gets the dataset's, of which there must be as many as classes; without a dataset they
 * are 1 to the number of classes. */
static mabn_status find_categories(struct detection *d, const char *model, const char *path)
{
    const struct mabn_coco *coco = mabn_scene_set_coco(d->set);
    const int classes = d->file.detector.classes;
    d->categories = mabn_xcalloc((size_t)classes + 1, sizeof *d->categories);
    if (d->file.categories && d->data)
        MABN_TRY(mabn_detect_match_categories(NULL, d->file.categories, model, coco, path));
    else if (d->data && coco->n_categories != (size_t)classes)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' knows %d classes, '%s' has %zu categories", model,
                         classes, path, coco->n_categories);
    if (d->file.categories)
        return mabn_detect_category_ids(d->file.categories, d->categories, classes);
    for (int i = 0; i < classes; i++)
        d->categories[i] = d->data ? coco->categories[i].id : i + 1;
    if (!d->data && first_rank())
        mabn_warn("'%s' does not say what its classes are: 1 to %d", model, classes);
    return MABN_OK;
}

static mabn_status recalibrate_detector(struct detection *d, const char *path)
{
    struct mabn_dataset *data = NULL;
    struct mabn_scene_set *set = NULL;
    struct mabn_recalibrate_result result;
    const struct mabn_recalibrate_options options = {
        .batch = o.recalibrate_batch,
        .images = o.recalibrate_images,
        .threads = o.decoders,
        .precision = o.precision == MABN_NET_AUTO ? MABN_NET_FP32 : o.precision,
        .exact = o.exact,
        .progress = "recalibrating",
        .comm = comm};
    mabn_status status = mabn_dataset_open(&data, o.recalibrate);
    if (!status) status = mabn_scene_set_open(&set, data);
    if (!status && d->file.categories)
        status = mabn_detect_check_categories(d->file.categories, path, mabn_scene_set_coco(set),
                                              o.recalibrate);
    if (!status) {
        status = mabn_recalibrate_detector(&result, d->params, d->device, &d->file, set, &options);
        if (status) status = mabn_fail_prefix(status, "'%s'", path);
    }
    if (!status)
        mabn_info("statistics of %d norms estimated from %lld photographs of '%s'", result.norms,
                  (long long)result.images, o.recalibrate);
    if (!status && o.save && first_rank())
        status = save_recalibrated(o.save, &d->file, d->params, result.images);
    mabn_scene_set_free(set);
    mabn_dataset_free(data);
    return status;
}

static mabn_status build_detector(struct detection *d, const char *path)
{
    struct mabn_detector *m = &d->file.detector;
    const struct mabn_detector_request request = {.box_head = -1,
                                                  .box_convs = -1,
                                                  .mask_convs = -1,
                                                  .stem_bias = -1,
                                                  .frozen = -1,
                                                  .min_size = o.min_size,
                                                  .max_size = o.max_size,
                                                  .min_score = o.min_score,
                                                  .nms = o.nms,
                                                  .detections = o.max_dets};
    struct mabn_rcnn_options options = {.images = 1,
                                        .no_fold = o.no_fold,
                                        .exact = o.exact,
                                        .tune = o.tune,
                                        .nms_across = o.nms_across};
    const struct mabn_model_load load = {.momentum = false};
    MABN_TRY(mabn_model_file_open(&d->file, path));
    if (!d->file.detects)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' is a classifier: mabn-eval imagenet runs it",
                         path);
    MABN_TRY(mabn_detector_request(m, &request, true));
    MABN_TRY(mabn_device_open(&d->device, o.device, o.threads));
    if (o.tune) MABN_TRY(mabn_device_tune(d->device, mabn_comm_ranks(comm) == 1));
    d->precision =
        (enum mabn_net_precision)mabn_cli_infer_precision(d->device, o.precision, o.exact);
    if (d->precision == MABN_NET_AUTO) d->precision = MABN_NET_FP32; /* on a GPU */
    options.precision = d->precision;
    MABN_TRY(mabn_params_new(&d->params, d->device));
    MABN_TRY(mabn_detector_declare(d->params, d->device, m, false));
    MABN_TRY(mabn_model_file_load(&d->file, d->params, &load));
    if (o.recalibrate) MABN_TRY(recalibrate_detector(d, path));
    MABN_TRY(mabn_rcnn_new(&d->rcnn, d->device, m, d->params, &options));
    mabn_rcnn_time_parts(d->rcnn, mabn_log_level_now() == MABN_LOG_VERBOSE);
    return MABN_OK;
}

static mabn_status write_text(struct detection *d, const char *text, size_t length)
{
    if (!first_rank()) return MABN_OK;
    if (o.output) return mabn_write_all(d->out.fd, text, length, o.output);
    mabn_out_write(text, length);
    return mabn_out_status();
}

/* Write the text that was added since the last call. */
static mabn_status write_json(struct detection *d)
{
    MABN_TRY(write_text(d, d->text.text, d->text.length));
    mabn_str_clear(&d->text);
    return MABN_OK;
}

static mabn_status write_found(void *context, uint64_t sample, const struct mabn_rcnn_found *found)
{
    struct detection *d = context;
    mabn_detect_write(&d->json, &d->writer, sample, found);
    return write_json(d);
}

static mabn_status write_results(struct detection *d, const struct mabn_detect_options *options)
{
    struct mabn_detect_options with = *options;
    struct mabn_detect_result result;
    const struct mabn_box_convention *convention;
    const int all = o.types ? o.types : BOXES | MASKS;
    MABN_TRY(mabn_box_convention_find(&convention, d->file.detector.convention));
    if (o.types == MASKS && !d->file.detector.masks)
        return mabn_fail(MABN_ERR_MISMATCH, "a %s finds no masks", d->file.detector.arch);
    d->writer = (struct mabn_detect_writer){.set = d->set,
                                            .categories = d->categories,
                                            .convention = convention,
                                            .boxes = all & BOXES,
                                            .masks = (all & MASKS) && d->file.detector.masks,
                                            .files = !d->data,
                                            .first = true};
    with.each = write_found;
    with.context = d;
    mabn_json_writer_init(&d->json, &d->text);
    mabn_json_put_array(&d->json, NULL);
    MABN_TRY(mabn_detect(&result, d->rcnn, d->set, &with));
    mabn_json_put_end(&d->json);
    mabn_str_add_char(&d->text, '\n');
    MABN_TRY(write_json(d));
    for (int k = 0; k < MABN_RCNN_PARTS; k++)
        if (result.parts[k] > 0)
            mabn_verbose("%s: %.1f %% of the time", mabn_rcnn_part_names[k],
                         100 * result.parts[k] / result.seconds);
    if (result.bad)
        mabn_warn("%lld photographs could not be decoded and are not in the results",
                  (long long)result.bad);
    mabn_info("%lld photographs, %lld detections in %.1f s", (long long)result.images,
              (long long)result.detections, result.seconds);
    return MABN_OK;
}

static mabn_status print_score(struct detection *d, const struct mabn_detect_options *options)
{
    struct mabn_detect_score score;
    struct mabn_detect_result result;
    struct mabn_str tables[2];
    for (int i = 0; i < 2; i++)
        mabn_str_init(&tables[i]);
    mabn_status status = mabn_detect_judge(&score, tables, &result, d->rcnn, d->set, options);
    if (status) score.masks = false;
    for (int masks = 0; masks <= score.masks && !status; masks++)
        if (!o.types || (o.types & (masks ? MASKS : BOXES)))
            status = write_text(d, tables[masks].text, tables[masks].length);
    for (int i = 0; i < 2; i++)
        mabn_str_release(&tables[i]);
    return status;
}

static void release_detection(struct detection *d)
{
    mabn_rcnn_free(d->rcnn);
    mabn_params_free(d->params);
    mabn_device_free(d->device);
    mabn_scene_set_free(d->set);
    mabn_dataset_free(d->data);
    mabn_model_file_release(&d->file);
    mabn_str_release(&d->text);
    free(d->categories);
}

static mabn_status eval_coco(const char *model, const char *path)
{
    struct detection d = {.categories = NULL};
    struct mabn_detect_options options = {
        .threads = o.decoders, .skip_bad = o.skip_bad, .progress = "detecting", .comm = comm};
    mabn_status status;
    mabn_str_init(&d.text);
    const bool writes = o.output && first_rank();
    if (writes) MABN_TRY(mabn_outfile_open(&d.out, o.output, o.force));
    MABN_TRY_GOTO(build_detector(&d, model), out);
    MABN_TRY_GOTO(open_scenes(&d, path), out);
    const uint64_t count = mabn_scene_set_count(d.set);
    MABN_TRY_GOTO(mabn_comm_check_same(comm, "the number of photographs", &count, sizeof count),
                  out);
    MABN_TRY_GOTO(find_categories(&d, model, path), out);
    options.categories = d.categories;
    mabn_info("%s; %s", mabn_device_name(d.device), mabn_net_precision_name(d.precision));
    status = o.score ? print_score(&d, &options) : write_results(&d, &options);
    if (!status && writes) status = mabn_outfile_commit(&d.out);
out:
    if (writes) mabn_outfile_abort(&d.out);
    release_detection(&d);
    return status;
}

static void open_ranks(void)
{
    comm = mabn_cli_open_ranks();
    if (!o.threads && mabn_comm_ranks(comm) > 1) o.threads = mabn_comm_threads(comm);
    if (!o.decoders) o.decoders = o.threads;
}

/* An output may replace the model, but not the data. */
static void keep_data(const char *output, const char *data)
{
    mabn_cli_check_output(output, data);
    mabn_cli_check_output(output, o.recalibrate);
}

int main(int argc, char **argv)
{
    char **args;
    mabn_threads_wait_asleep(argv);
    int which =
        mabn_cli_choose(clis, "mabn-eval", "run a trained network over a dataset", argc, argv);
    const int count = mabn_cli_start(&clis[which], argc - 1, argv + 1, &args);
    if (which == COCO) {
        if (!o.recalibrate && (o.save || o.recalibrate_images))
            mabn_cli_usage_error("--save and --recalibrate-images go with --recalibrate");
        mabn_cli_check_output(o.output, args[0]);
        mabn_cli_check_output(o.output, o.save);
        keep_data(o.output, args[1]);
        keep_data(o.save, args[1]);
        mabn_signals_graceful();
        open_ranks();
        return mabn_cli_finish_ranks(comm, eval_coco(args[0], args[1]));
    }
    const char *data = count > 1 ? args[1] : NULL;
    const bool photographs = data && is_photographs(data);
    if (!o.recalibrate && (o.output || o.recalibrate_images))
        mabn_cli_usage_error("-o and --recalibrate-images go with --recalibrate");
    if (!data && (!o.output || o.predictions))
        mabn_cli_usage_error(o.output ? "--predictions needs DATA"
                                      : "give DATA, or --recalibrate with -o");
    if (o.logits && !o.predictions && !photographs)
        mabn_cli_usage_error("--logits goes with --predictions");
    if (o.json && photographs)
        mabn_cli_usage_error("photographs have no labels to count by: leave out --json");
    if (o.json && o.predictions)
        mabn_cli_usage_error("--predictions is JSON already: leave out --json");
    keep_data(o.output, data);
    mabn_cli_check_machine(o.device, o.precision);
    open_ranks();
    return mabn_cli_finish_ranks(comm, eval_imagenet(args[0], data));
}
