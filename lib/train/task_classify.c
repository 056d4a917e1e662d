/* Training a classifier.
 *
 * Of several shards each goes forward and back, their gradients are summed, and then comes the update. On a
 * GPU, where a rank has one shard and sums go by NCCL, the whole is one step of the net, whose results come a
 * step late as they do without ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "device/tune.h"
#include "net/losses.h"
#include "ops/loss.h"
#include "train/run.h"

/* What this task keeps for a run. */
struct classify {
    struct mabn_dataset *train_set, *val_set;
    uint64_t bad_told; /* unreadable images that were already reported */
    struct mabn_source train_source, val_source;
    struct mabn_model_file weights; /* weights.checkpoint NULL: none */
    struct mabn_model model;
    struct mabn_augment augment, input; /* of training, of evaluation */
    struct mabn_net *net, *val_net;
    struct mabn_net **nets; /* shards in step: (local − 1) of them, before `net`; else NULL */
    const struct mabn_batch *batch; /* of the step that is begun */
    struct mabn_loader *loader;
    /* Several shards: the meters of a step, a row for each shard of this rank; after summing, the first row
     * is for all shards. */
    double *figures;
    const struct mabn_params_sgd
        *sgd; /* of the step that is begun, where its net updates; else NULL */
    bool pending;
    /* (depth, or shards in step; images of a shard) labels of the steps in flight */
    int32_t *labels;
};

enum { LOSS, TOP1, TOP5, IMAGES, METERS };
static const char *const meter_names[METERS] = {"meter_loss", "meter_top1", "meter_top5",
                                                "meter_images"};

static struct classify *own(const struct mabn_run *run)
{
    return run->own;
}

/* ---- datasets ---- */

static mabn_status open_dataset(struct mabn_dataset **ds, struct mabn_source *source,
                                const char *path)
{
    MABN_TRY(mabn_dataset_open(ds, path));
    if (!mabn_dataset_has_labels(*ds))
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has no labels: a classifier is trained on a "
                         "dataset of kind imagenet, this one is of kind %s",
                         path, mabn_dataset_kind(*ds));
    if (mabn_dataset_count(*ds) < 1) return mabn_fail(MABN_ERR_FORMAT, "'%s' is empty", path);
    mabn_source_of_dataset(source, *ds);
    return MABN_OK;
}

static mabn_status open_datasets(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    MABN_TRY(open_dataset(&own(run)->train_set, &own(run)->train_source, o->train));
    if (!o->val) return MABN_OK;
    MABN_TRY(open_dataset(&own(run)->val_set, &own(run)->val_source, o->val));
    run->val_identity = mabn_dataset_identity(own(run)->val_set);
    int a = mabn_dataset_classes(own(run)->train_set), b = mabn_dataset_classes(own(run)->val_set);
    if (a != b)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' has %d classes, '%s' has %d", o->train, a, o->val,
                         b);
    for (int c = 0; c < a; c++) {
        const char *x = mabn_dataset_class_name(own(run)->train_set, c);
        const char *y = mabn_dataset_class_name(own(run)->val_set, c);
        if (x && y && strcmp(x, y))
            return mabn_fail(MABN_ERR_MISMATCH, "class %d is '%s' in '%s' but '%s' in '%s'", c, x,
                             o->train, y, o->val);
    }
    return MABN_OK;
}

static bool all_gray(const struct mabn_dataset *ds)
{
    for (int64_t i = 0; i < mabn_dataset_count(ds); i++)
        if (mabn_dataset_image_channels(ds, i) > 2) return false;
    return true;
}

/* ---- pictures ---- */

/* Apply options to the preset. What concerns both training and evaluation is set in both. */
static mabn_status override_pictures(const struct mabn_train_options *o, struct mabn_augment *a,
                                     struct mabn_augment *input)
{
    int crop = (int)a->crop, resize = (int)a->resize, bgr = a->bgr;
    if (o->crop) MABN_TRY(mabn_word_parse(&crop, mabn_augment_crops, "crop", o->crop));
    if (o->resize) MABN_TRY(mabn_word_parse(&resize, mabn_augment_resizes, "resizing", o->resize));
    if (o->order) MABN_TRY(mabn_word_parse(&bgr, mabn_augment_orders, "channel order", o->order));
    a->crop = (enum mabn_crop_kind)crop;
    if (o->resize) a->resize = input->resize = (enum mabn_resize_kind)resize;
    if (o->order) a->bgr = input->bgr = bgr;
    if (!isnan(o->area_min)) a->area_min = o->area_min;
    if (!isnan(o->flip)) a->flip = o->flip;
    if (!isnan(o->lighting)) a->lighting = o->lighting;
    if (!isnan(o->erase)) a->erase = o->erase;
    if (!isnan(o->range)) a->range = input->range = o->range;
    if (o->pad >= 0) a->pad = o->pad;
    if (o->short_side >= 0) input->short_side = o->short_side;
    if (!isnan(o->jitter[0])) {
        a->brightness = o->jitter[0];
        a->contrast = o->jitter[1];
        a->saturation = o->jitter[2];
        a->hue = o->jitter[3];
    }
    for (int i = 0; i < 3; i++) {
        if (!isnan(o->mean[i])) a->mean[i] = input->mean[i] = (float)o->mean[i];
        if (!isnan(o->deviation[i])) a->deviation[i] = input->deviation[i] = (float)o->deviation[i];
    }
    return MABN_OK;
}

/* Weights from mabn-init were not trained on any pictures yet. */
static bool has_learned(const struct mabn_run *run)
{
    return own(run)->weights.checkpoint &&
           strncmp(own(run)->weights.meta.tool, "mabn-init", 9) != 0;
}

/* Pictures must be prepared as those that the weights were trained on. */
static mabn_status check_input(const struct mabn_run *run)
{
    const struct mabn_augment *now = &own(run)->input, *then = &own(run)->weights.input;
    bool same = now->bgr == then->bgr && now->range == then->range;
    for (int i = 0; i < now->channels; i++)
        same = same && now->mean[i] == then->mean[i] && now->deviation[i] == then->deviation[i];
    if (same || run->options->allow_input) return MABN_OK;
    return mabn_fail(
        MABN_ERR_MISMATCH,
        "'%s' was trained on %s pixels from 0 to %g, mean %g, deviation %g; here it would get %s, "
        "0 to %g, mean %g, deviation %g (--allow-weights input allows it)",
        run->options->weights, then->bgr ? "BGR" : "RGB", then->range, then->mean[0],
        then->deviation[0], now->bgr ? "BGR" : "RGB", now->range, now->mean[0], now->deviation[0]);
}

static mabn_status decide_pictures(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_augment *a = &own(run)->augment, *input = &own(run)->input;
    int channels = all_gray(own(run)->train_set) ? 1 : 3;
    int height = mabn_dataset_image_height(own(run)->train_set, 0);
    int width = mabn_dataset_image_width(own(run)->train_set, 0);
    bool small = height <= 64 && width <= 64;
    const char *preset = o->augment ? o->augment : small ? "cifar" : "torchvision";
    MABN_TRY(mabn_augment_preset(a, preset, true));
    MABN_TRY(mabn_augment_preset(input, preset, false));
    if (own(run)->weights.checkpoint) channels = own(run)->weights.input.channels;
    if (o->size) {
        width = height = o->size;
    } else if (own(run)->weights.checkpoint) {
        width = own(run)->weights.input.width;
        height = own(run)->weights.input.height;
    } else if (!small && a->width > 0) {
        width = a->width;
        height = a->height;
    }
    a->width = input->width = width;
    a->height = input->height = height;
    if (input->crop == MABN_CROP_CENTRE && input->short_side)
        input->short_side = (height * 256 + 112) / 224;
    a->channels = input->channels = channels;
    if (channels == 1 && !o->augment) {
        a->mean[0] = input->mean[0] = 0.5F;
        a->deviation[0] = input->deviation[0] = 0.25F;
    }
    if (own(run)->weights.checkpoint && !o->augment) {
        const struct mabn_augment *w = &own(run)->weights.input;
        a->bgr = input->bgr = w->bgr;
        a->range = input->range = w->range;
        a->resize = input->resize = w->resize;
        memcpy(a->mean, w->mean, sizeof a->mean);
        memcpy(a->deviation, w->deviation, sizeof a->deviation);
        memcpy(input->mean, w->mean, sizeof a->mean);
        memcpy(input->deviation, w->deviation, sizeof a->deviation);
    }
    MABN_TRY(override_pictures(o, a, input));
    MABN_TRY(mabn_augment_check(a));
    MABN_TRY(mabn_augment_check(input));
    return has_learned(run) ? check_input(run) : MABN_OK;
}

/* ---- the model ---- */

static mabn_status check_weights(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_model *file = &own(run)->weights.model, *want = &own(run)->model;
    if (o->arch && strcmp(o->arch, file->arch))
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' is a %s, not a %s", o->weights, file->arch,
                         o->arch);
    if (own(run)->weights.meta.folded && !o->allow_folded)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has its normalization folded into the convolutions, so there are no "
                         "norms to train (--allow-weights folded allows it)",
                         o->weights);
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        enum mabn_norm_kind now = want->norm[p].kind, then = file->norm[p].kind;
        if (now != then && !o->allow_norm)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "'%s' has norm %s, not %s (--allow-weights norm allows it)",
                             o->weights, mabn_norm_kind_name(then), mabn_norm_kind_name(now));
        bool centralized = mabn_model_centralizes(file, (enum mabn_model_part)p);
        if (mabn_model_centralizes(want, (enum mabn_model_part)p) != centralized &&
            !o->allow_centralized)
            return mabn_fail(
                MABN_ERR_MISMATCH,
                "'%s' is %s centralized weights (--allow-weights centralized allows it)",
                o->weights, centralized ? "with" : "without");
    }
    if (!file->classes) return MABN_OK; /* only a body: start() adds a classifier */
    const int other = mabn_eval_other_class(file, own(run)->train_set);
    if (want->classes == file->classes && other >= 0 && !o->allow_classes)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "class %d is '%s' in '%s' but '%s' in '%s' "
                         "(--allow-weights classes gives it a new classifier)",
                         other, mabn_model_class_name(file, other), o->weights,
                         mabn_dataset_class_name(own(run)->train_set, other), o->train);
    if (want->classes != file->classes && !o->allow_classes)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' knows %d classes, '%s' has %d "
                         "(--allow-weights classes gives it a new classifier)",
                         o->weights, file->classes, o->train, want->classes);
    return MABN_OK;
}

/* The names of the classes. */
static void take_classes(struct mabn_model *model, const struct mabn_dataset *ds)
{
    model->classes = mabn_dataset_classes(ds);
    const char **names = mabn_xcalloc((size_t)model->classes + 1, sizeof *names);
    for (int c = 0; c < model->classes; c++)
        names[c] = mabn_dataset_class_name(ds, c);
    mabn_model_set_class_names(model, model->classes && names[0] ? names : NULL);
    free(names);
}

static mabn_status decide_model(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_model *model = &own(run)->model;
    int value = 0;
    if (own(run)->weights.checkpoint)
        *model = own(run)->weights.model;
    else
        MABN_TRY(mabn_model_init(model, o->arch ? o->arch : "resnet50"));
    take_classes(model, own(run)->train_set);
    model->channels = own(run)->augment.channels;
    model->height = own(run)->augment.height;
    model->width = own(run)->augment.width;
    if (!own(run)->weights.checkpoint) {
        if (o->base_width) model->base_width = o->base_width;
        if (o->stride_in_1x1) model->stride_in_1x1 = true;
        if (o->stem) {
            MABN_TRY(mabn_word_parse(&value, mabn_model_stems, "stem", o->stem));
            model->stem = (enum mabn_model_stem)value;
        }
    }
    if (o->centralize) {
        MABN_TRY(mabn_word_parse(&value, mabn_model_centralizing, "centralization", o->centralize));
        model->centralize = (enum mabn_model_centralize)value;
    }
    if (!own(run)->weights.checkpoint) MABN_TRY(mabn_model_set_norm(model, MABN_NORM_DEFAULT));
    MABN_TRY(mabn_model_request_norm(model, &o->norm));
    if (run->shards.count > 1 && o->norm.norm_batch > run->shard_images)
        return mabn_fail(MABN_ERR_ARG,
                         "a normalization batch of %d images does not fit into a shard, which has "
                         "%d of the %d of a step",
                         o->norm.norm_batch, run->shard_images, o->batch);
    return own(run)->weights.checkpoint ? check_weights(run) : MABN_OK;
}

/* ---- the course ---- */

/* Everything that the results of the run depend on, except its length. */
static void write_course(struct mabn_run *run)
{
    const struct mabn_augment *a = &own(run)->augment;
    struct mabn_model model = own(run)->model;
    model.class_names = NULL; /* they are compared with the data */
    mabn_str_add(&run->course, "model = ");
    mabn_model_to_json(&model, &run->course);
    mabn_str_add(&run->course, "\ninput = ");
    mabn_input_to_json(a, &run->course);
    mabn_str_add_char(&run->course, '\n');
    mabn_run_add_course(run, "crop-area", "%.9g,%.9g", a->area_min, a->area_max);
    mabn_run_add_course(run, "pad", "%d", a->pad);
    mabn_run_add_course(run, "lighting", "%.9g", a->lighting);
    mabn_run_add_course(run, "jitter", "%.9g,%.9g,%.9g,%.9g", a->brightness, a->contrast,
                        a->saturation, a->hue);
    mabn_run_add_course(run, "flip", "%.9g", a->flip);
    mabn_run_add_course(run, "erase", "%.9g", a->erase);
    mabn_run_add_course(run, "images", "%lld", (long long)mabn_dataset_count(own(run)->train_set));
    mabn_run_add_course(run, "data", "%016llx",
                        (unsigned long long)mabn_dataset_identity(own(run)->train_set));
    mabn_run_write_course(run);
    mabn_run_add_course(run, "label-smoothing", "%.9g", run->options->smoothing);
    mabn_run_add_course(run, "save-memory, exact", "%d, %d", run->options->save_memory > 0,
                        run->options->exact);
}

/* ---- networks ---- */

static mabn_status open_sync(struct mabn_run *run)
{
    const struct mabn_norm_options *norms[MABN_MODEL_PARTS];
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        norms[p] = &own(run)->model.norm[p];
    return mabn_run_open_sync(run, norms, MABN_MODEL_PARTS);
}

static mabn_status build_net(struct mabn_run *run, struct mabn_net **net, int shard)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_shard_seat *seat = mabn_shards_seat_of(&run->shards, shard);
    struct mabn_device *device = seat ? seat->device : run->device;
    const struct mabn_net_options no = {.batch = run->shard_images,
                                        .height = own(run)->model.height,
                                        .width = own(run)->model.width,
                                        .precision = o->precision,
                                        .training = true,
                                        .exact = o->exact,
                                        .tune = o->tune,
                                        .bytes = mabn_eval_sends_bytes(device, &own(run)->augment),
                                        .save_memory = o->save_memory > 0,
                                        .sync = mabn_run_sync(run, shard),
                                        .params = seat ? seat->params : NULL};
    if (o->tune) MABN_TRY(mabn_device_tune(device, run->shards.ranks == 1));
    MABN_TRY(mabn_model_build(net, device, &own(run)->model, &no));
    return mabn_eval_set_table(*net, &own(run)->augment);
}

static mabn_status build_seat(void *context, int i)
{
    struct mabn_run *run = context;
    return build_net(run, &own(run)->nets[i], i);
}

static mabn_status build_networks(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const int local = run->shards.local;
    MABN_TRY(build_net(run, &own(run)->net, local - 1));
    if (run->shards.lockstep) own(run)->nets = mabn_xcalloc((size_t)local, sizeof *own(run)->nets);
    MABN_TRY(mabn_shards_seat(&run->shards, mabn_net_params(own(run)->net), build_seat, run));
    const int depth = mabn_net_depth(own(run)->net), places = depth > local ? depth : local;
    own(run)->labels =
        mabn_xcalloc((size_t)places * (size_t)run->shard_images, sizeof *own(run)->labels);
    if (!own(run)->val_set) return MABN_OK;
    struct mabn_net_options no = {.batch = o->val_batch ? o->val_batch : o->batch,
                                  .height = own(run)->input.height,
                                  .width = own(run)->input.width,
                                  .precision = o->precision,
                                  .exact = o->exact,
                                  .tune = o->tune,
                                  .bytes = mabn_eval_sends_bytes(run->device, &own(run)->input),
                                  .params = mabn_net_params(own(run)->net)};
    if (no.batch > mabn_dataset_count(own(run)->val_set))
        no.batch = (int)mabn_dataset_count(own(run)->val_set);
    return mabn_model_build(&own(run)->val_net, run->device, &own(run)->model, &no);
}

static bool has_batch_statistics(enum mabn_norm_kind kind)
{
    return kind == MABN_NORM_BN || kind == MABN_NORM_BRN || kind == MABN_NORM_MABN;
}

/* Messages and logs show one norm for the model: that of the first of these parts that has batch
 * statistics. */
static const struct mabn_norm_options *main_norm(const struct mabn_run *run)
{
    static const enum mabn_model_part order[] = {
        MABN_PART_LAYER3, MABN_PART_LAYER4, MABN_PART_LAYER2, MABN_PART_LAYER1, MABN_PART_STEM};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (has_batch_statistics(own(run)->model.norm[order[i]].kind))
            return &own(run)->model.norm[order[i]];
    return &own(run)->model.norm[MABN_PART_LAYER3];
}

static int norm_batch_of(const struct mabn_run *run)
{
    int n = main_norm(run)->norm_batch, batch = run->shard_images;
    return n == 0 || n > batch ? batch : n;
}

static int effective_samples(const struct mabn_run *run)
{
    const struct mabn_norm_options *norm = main_norm(run);
    return norm_batch_of(run) * (norm->kind == MABN_NORM_MABN ? norm->window : 1);
}

/* On a GPU its memory is the limit. */
static void tell_memory(const struct mabn_run *run)
{
    const struct mabn_net *nets[] = {own(run)->net, own(run)->val_net};
    double mib[3] = {0};
    if (mabn_device_kind_of(run->device) == MABN_DEVICE_CPU) return;
    for (int i = 0; i < 2 && nets[i]; i++) {
        struct mabn_net_memory m = mabn_net_memory_of(nets[i]);
        mib[0] += (double)m.activations / 1048576;
        mib[1] += (double)m.parameters / 1048576;
        mib[2] += (double)m.scratch / 1048576;
    }
    mabn_info("memory on the GPU: %.0f MiB of activations, %.0f MiB of parameters, gradients and "
              "momentum, %.0f MiB of scratch and staged pictures",
              mib[0], mib[1], mib[2]);
}

/* Where only one of two has names of classes, they are taken by their numbers. */
static void tell_names(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct classify *c = own(run);
    const bool train = mabn_dataset_class_name(c->train_set, 0);
    const bool val = c->val_set && mabn_dataset_class_name(c->val_set, 0);
    const char *weights = c->weights.model.class_names;
    if (c->val_set && train != val)
        mabn_info("'%s' has no names of classes: not compared with those of '%s'",
                  train ? o->val : o->train, train ? o->train : o->val);
    if (o->weights && c->weights.checkpoint && c->weights.model.classes && train != !!weights)
        mabn_info("'%s' has no names of classes: not compared with those of '%s'",
                  train ? o->weights : o->train, train ? o->train : o->weights);
}

static void tell(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_norm_options *norm = main_norm(run);
    struct mabn_str norm_text;
    size_t parameters;
    mabn_str_init(&norm_text);
    mabn_model_norm_text(&own(run)->model, &norm_text);
    mabn_params_values(mabn_net_params(own(run)->net), &parameters);
    mabn_info("%s, norm %s, %d classes, %zu parameters, %s; %s", own(run)->model.arch,
              norm_text.text, own(run)->model.classes, parameters,
              mabn_net_precision_name(mabn_net_precision_of(own(run)->net)),
              mabn_device_name(run->device));
    mabn_str_release(&norm_text);
    tell_names(run);
    tell_memory(run);
    if (norm->kind == MABN_NORM_MABN)
        mabn_info("batch %d (images of one SGD step), norm-batch %d (images of one statistic), "
                  "window %d (statistics in the moving average, %s rule): %d effective samples",
                  o->batch, norm_batch_of(run), norm->window,
                  mabn_window_rule_name(norm->window_rule), effective_samples(run));
    else if (has_batch_statistics(norm->kind))
        mabn_info("batch %d (images of one SGD step), norm-batch %d (images of one statistic), no "
                  "window: %d effective samples",
                  o->batch, norm_batch_of(run), effective_samples(run));
    else
        mabn_info("batch %d (images of one SGD step); norm %s has no batch statistics", o->batch,
                  mabn_norm_kind_name(norm->kind));
    mabn_run_tell_course(run, mabn_dataset_count(own(run)->train_set),
                         o->replacement ? ", drawn with replacement" : "");
}

static void describe(const struct mabn_run *run, struct mabn_json_writer *line)
{
    const struct mabn_norm_options *norm = main_norm(run);
    mabn_json_put_string(line, "schema", "mabn-train/1");
    mabn_json_put_string(line, "arch", own(run)->model.arch);
    mabn_json_put_string(line, "norm", mabn_norm_kind_name(norm->kind));
    mabn_json_put_int(line, "batch", run->options->batch);
    mabn_json_put_int(line, "norm_batch", norm_batch_of(run));
    if (norm->kind == MABN_NORM_MABN) {
        mabn_json_put_int(line, "window", norm->window);
        mabn_json_put_string(line, "window_rule", mabn_window_rule_name(norm->window_rule));
    }
    mabn_json_put_int(line, "effective_samples", effective_samples(run));
    mabn_run_put_course(run, line, own(run)->model.classes,
                        mabn_dataset_count(own(run)->train_set));
}

static mabn_status set_up(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    run->own = mabn_xcalloc(1, sizeof(struct classify));
    MABN_TRY(open_datasets(run));
    run->validates = own(run)->val_set != NULL;
    if (o->weights) MABN_TRY(mabn_model_file_open(&own(run)->weights, o->weights));
    MABN_TRY(decide_pictures(run));
    MABN_TRY(decide_model(run));
    const int64_t images = mabn_dataset_count(own(run)->train_set);
    MABN_TRY(mabn_run_decide_course(run, images / o->batch, images));
    write_course(run);
    MABN_TRY(mabn_run_open_device(run));
    MABN_TRY(open_sync(run));
    MABN_TRY(build_networks(run));
    own(run)->figures = mabn_xcalloc((size_t)run->shards.local * METERS, sizeof(double));
    run->params = mabn_net_params(own(run)->net);
    tell(run);
    return MABN_OK;
}

static void release(struct mabn_run *run)
{
    struct classify *c = run->own;
    if (!c) return;
    mabn_loader_free(c->loader);
    for (int i = 0; i + 1 < run->shards.local && c->nets; i++)
        mabn_net_free(c->nets[i]);
    free(c->nets);
    mabn_net_free(c->val_net); /* borrows the other's parameters */
    mabn_net_free(c->net);
    mabn_model_file_release(&c->weights);
    mabn_dataset_free(c->train_set);
    mabn_dataset_free(c->val_set);
    free(c->figures);
    free(c->labels);
    free(c);
}

/* ---- going on from another program's training ---- */

/* Count the parameters, and those that have momentum in the file. */
static int count_momenta(const struct mabn_run *run, int *parameters)
{
    int found = 0;
    *parameters = 0;
    for (int i = 0; i < mabn_params_count(mabn_net_params(own(run)->net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(own(run)->net), i);
        if (t->role != MABN_PARAMS_MOMENTUM) continue;
        char *name = mabn_xasprintf("optimizer/momentum/%s", t->name);
        found += mabn_checkpoint_find(own(run)->weights.checkpoint, name) != NULL;
        free(name);
        ++*parameters;
    }
    return found;
}

/* A number that PyTorch's optimizer noted ("lr"), or NaN. */
static double optimizer_note(const char *notes, const char *key)
{
    char *name = mabn_xasprintf("optimizer.%s", key);
    struct mabn_json *j = mabn_json_new_bytes(notes, strlen(notes), "attribute notes");
    struct mabn_json_text field, value;
    double number = NAN;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &field)) {
        bool wanted = mabn_json_is(field, name);
        if (mabn_json_read_string(j, &value)) break;
        if (!wanted) continue;
        char *text = mabn_xstrndup(value.bytes, value.length);
        number = !strcmp(text, "true") ? 1 : !strcmp(text, "false") ? 0 : strtod(text, NULL);
        free(text);
    }
    mabn_json_free(j);
    mabn_error_clear();
    free(name);
    return number;
}

static void compare_number(const char *key, double then, double now)
{
    if (isnan(then) || fabs(then - now) <= 1e-6 * fabs(then)) return;
    mabn_warn("the file's optimizer has %s %g; here it is %g", key, then, now);
}

/* Warn about options that differ from the file's optimizer. */
static void compare_optimizer(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(own(run)->weights.checkpoint);
    const char *notes;
    if (!mabn_h5_has_attribute(h5, "notes") || mabn_h5_get_string(h5, "notes", &notes)) return;
    compare_number("lr", optimizer_note(notes, "lr"), mabn_schedule_lr(&run->schedule, run->step));
    compare_number("momentum", optimizer_note(notes, "momentum"), o->momentum);
    compare_number("weight decay", optimizer_note(notes, "weight_decay"), o->weight_decay);
    compare_number("nesterov", optimizer_note(notes, "nesterov"), o->nesterov);
    if (optimizer_note(notes, "dampening") > 0)
        mabn_warn("the file's optimizer has dampening, which is not supported");
}

/* After the weights, set their momentum and step. Everything else follows the options. */
static mabn_status take_training(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const char *path = o->weights;
    int parameters, momenta = count_momenta(run, &parameters);
    if (!momenta)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has no momentum to resume with: without --resume-model training "
                         "starts from its weights",
                         path);
    run->step = run->first_step = o->start_step >= 0 ? o->start_step : own(run)->weights.meta.step;
    if (run->step < 0 || run->step >= run->steps)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' is at step %lld, and the run has %lld steps (--steps, --epochs; "
                         "--start-step, if the file counts something else)",
                         path, (long long)run->step, (long long)run->steps);
    mabn_info("resuming from '%s' at step %lld (%s): weights and momentum of %d parameters of %d%s",
              path, (long long)run->step,
              o->start_step >= 0                ? "as --start-step says"
              : own(run)->weights.meta.step > 0 ? "its iteration"
                                                : "it has no iteration",
              momenta, parameters, momenta < parameters ? "; the others start from rest" : "");
    mabn_info(
        "from the options, because the file does not have them: learning rate (%.6g at this step) "
        "and its schedule, weight decay, order of the images (epoch %lld, batch %lld of %lld)",
        mabn_schedule_lr(&run->schedule, run->step), (long long)(run->step / run->epoch_steps),
        (long long)(run->step % run->epoch_steps), (long long)run->epoch_steps);
    compare_optimizer(run);
    return MABN_OK;
}

/* ---- starting ---- */

static mabn_status start(struct mabn_run *run)
{
    MABN_TRY(mabn_params_initialize(run->params, (uint64_t)run->options->seed,
                                    MABN_PARAMS_INIT_FAN_OUT));
    if (!own(run)->weights.checkpoint) return MABN_OK;
    const struct mabn_model *file = &own(run)->weights.model;
    struct mabn_model_load load = {.momentum = run->options->resume_model,
                                   .some_momentum = true,
                                   .other_state = run->options->allow_norm,
                                   .other_windows = !run->options->resume_model,
                                   .other_head = run->options->allow_classes || !file->classes,
                                   .new_head =
                                       mabn_eval_other_class(file, own(run)->train_set) >= 0,
                                   .taken = &run->taken};
    mabn_taken_init(&run->taken, own(run)->weights.checkpoint);
    if (!file->classes)
        mabn_info("'%s' has no classifier: it gets one of %d classes", run->options->weights,
                  own(run)->model.classes);
    if (!load.momentum) mabn_info("starting from the weights of '%s'", run->options->weights);
    MABN_TRY(mabn_model_file_load(&own(run)->weights, run->params, &load));
    return load.momentum ? take_training(run) : MABN_OK;
}

static mabn_status load(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_loader_options lo;
    mabn_loader_options_init(&lo);
    lo.augment = own(run)->augment;
    lo.batch = o->batch / run->shards.ranks;
    lo.rank = run->shards.rank;
    lo.ranks = run->shards.ranks;
    lo.threads = o->decoders;
    lo.skip_bad = o->skip_bad;
    lo.bytes = mabn_net_takes_bytes(own(run)->net);
    lo.first_epoch = (uint64_t)(run->step / run->epoch_steps);
    lo.first_index = (uint64_t)(run->step % run->epoch_steps);
    uint64_t length = o->epoch_steps ? (uint64_t)o->epoch_steps * (uint64_t)o->batch : 0;
    MABN_TRY(mabn_sampler_init(&lo.sampler,
                               o->replacement ? MABN_SAMPLER_REPLACEMENT : MABN_SAMPLER_SHUFFLE,
                               own(run)->train_source.count, length, (uint64_t)o->seed));
    return mabn_loader_new(&own(run)->loader, &own(run)->train_source, &lo);
}

/* ---- steps ---- */

/* The net of shard i of this rank. */
static struct mabn_net *net_of(const struct mabn_run *run, int i)
{
    const struct classify *c = run->own;
    return c->nets && c->nets[i] ? c->nets[i] : c->net;
}

/* The first shard's. */
static mabn_status log_stats(struct mabn_run *run, int64_t step)
{
    int count;
    const struct mabn_net_record *records = mabn_net_records(net_of(run, 0), &count);
    struct mabn_str line;
    struct mabn_json_writer w;
    mabn_status status = MABN_OK;
    mabn_str_init(&line);
    mabn_json_writer_init(&w, &line);
    for (int i = 0; i < count && !status; i++) {
        mabn_str_clear(&line);
        mabn_json_put_object(&w, NULL);
        mabn_json_put_string(&w, "t", "stat");
        mabn_json_put_int(&w, "step", step);
        mabn_json_put_string(&w, "layer", records[i].layer);
        mabn_json_put_int(&w, "channel", records[i].channel);
        mabn_json_put_double(&w, "mu_x", records[i].mu_x);
        mabn_json_put_double(&w, "var_x", records[i].var_x);
        mabn_json_put_double(&w, "mu_g", records[i].mu_g);
        mabn_json_put_double(&w, "mu_gy", records[i].mu_gy);
        mabn_json_put_end(&w);
        status = mabn_jsonl_write(&run->stats, &line);
    }
    mabn_str_release(&line);
    return status;
}

static int32_t *labels_of(const struct mabn_run *run, int64_t step, int i)
{
    const int64_t place = own(run)->nets ? i : step % mabn_net_depth(own(run)->net);
    return own(run)->labels + place * run->shard_images;
}

static void set_labels(struct mabn_run *run, const struct mabn_batch *part, int i)
{
    const int rows = run->shard_images;
    int32_t *own_labels = labels_of(run, run->step, i);
    mabn_eval_labels(own_labels, rows, part, own(run)->train_set);
    const struct mabn_net_labels labels = {.labels = own_labels,
                                           .smoothing = run->options->smoothing,
                                           .normalizer = (double)mabn_labelled(own_labels, rows)};
    mabn_net_set_labels(net_of(run, i), "loss", &labels);
}

/* Shard i of this rank's part of the batch into its net. */
static void fill(struct mabn_run *run, int i)
{
    struct classify *c = run->own;
    const size_t images = (size_t)run->shard_images, first = (size_t)i * images;
    const size_t values =
        (size_t)c->augment.width * (size_t)c->augment.height * (size_t)c->augment.channels;
    struct mabn_batch part = *c->batch;
    part.samples += first;
    part.count = run->shard_images;
    if (part.x) part.x += first * values;
    if (part.bytes) part.bytes += first * values;
    mabn_eval_fill(net_of(run, i), &part, images * values);
    set_labels(run, &part, i);
}

/* Of the first shard. */
static bool records(const struct mabn_run *run, int i)
{
    const struct mabn_train_options *o = run->options;
    return o->stats && run->step % o->stats_every == 0 && run->shards.first + i == 0;
}

static void choose_record(struct mabn_run *run, int i)
{
    const struct mabn_train_options *o = run->options;
    if (o->stats)
        mabn_net_record(net_of(run, i), o->channels, records(run, i) ? o->n_channels : 0,
                        o->stats_reference);
}

/* Add shard i's loss and accuracy in `step`, the newest step whose result was fetched. */
static void add_result(const struct mabn_run *run, double *meter, int64_t step, int i)
{
    const struct mabn_net *net = net_of(run, i);
    struct mabn_top top = {0};
    mabn_top_add(&top, mabn_net_logits(net), labels_of(run, step, i), run->shard_images,
                 mabn_net_classes(net));
    meter[LOSS] += mabn_net_loss_of(net, "loss") * run->shard_images;
    meter[IMAGES] += run->shard_images;
    meter[TOP1] += (double)top.top1;
    meter[TOP5] += (double)top.top5;
}

/* Can a whole step be queued on a GPU, with its sums? */
static bool late(const struct mabn_run *run)
{
    return run->shards.count == 1 || (run->shards.nccl && run->shards.local == 1);
}

/* One shard, forward and backward. */
static mabn_status pass(void *context, int i)
{
    struct mabn_run *run = context;
    struct classify *c = run->own;
    struct mabn_net *net = net_of(run, i);
    struct mabn_net_result result;
    fill(run, i);
    choose_record(run, i);
    const bool last = i + 1 == run->shards.local;
    mabn_net_accumulate(net, i > 0 && mabn_shards_accumulates(&run->shards));
    mabn_net_tell_gradients(net, last && run->shards.ranks > 1 ? mabn_shards_ready : NULL,
                            &run->shards);
    MABN_TRY(mabn_net_step(net, c->sgd));
    if (c->sgd) return MABN_OK;
    MABN_TRY(mabn_net_result(net, &result));
    if (records(run, i)) MABN_TRY(log_stats(run, run->step + 1));
    add_result(run, c->figures + (size_t)i * METERS, run->step, i);
    return MABN_OK;
}

static mabn_status begin_shards(struct mabn_run *run, struct mabn_params_sgd *sgd)
{
    struct classify *c = run->own;
    sgd->grad_scale = 1.0 / run->shards.count;
    c->sgd = late(run) ? sgd : NULL;
    memset(c->figures, 0, (size_t)run->shards.local * METERS * sizeof *c->figures);
    MABN_TRY(mabn_run_meet(run));
    MABN_TRY(mabn_shards_run(&run->shards, pass, run));
    MABN_TRY(mabn_shards_sum(&run->shards));
    if (c->sgd) return MABN_OK;
    MABN_TRY(mabn_shards_add(&run->shards, c->figures, METERS));
    c->pending = true;
    return mabn_net_update(c->net, sgd);
}

static mabn_status begin(struct mabn_run *run, double lr)
{
    struct classify *c = run->own;
    mabn_run_note(run, "reading data");
    MABN_TRY(mabn_loader_next(c->loader, &c->batch));
    mabn_run_note(run, NULL);
    struct mabn_params_sgd sgd = mabn_run_sgd(run, lr);
    if (run->shards.count > 1) return begin_shards(run, &sgd);
    fill(run, 0);
    choose_record(run, 0);
    return mabn_net_step(c->net, &sgd);
}

/* Record the statistics of the step that was just run. */
static mabn_status after(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const bool record = o->stats && (run->step - 1) % o->stats_every == 0;
    return record && late(run) && run->shards.first == 0 ? log_stats(run, run->step) : MABN_OK;
}

static int behind(const struct mabn_run *run)
{
    return late(run) ? mabn_net_behind(own(run)->net) : own(run)->pending;
}

static int depth(const struct mabn_run *run)
{
    return late(run) ? mabn_net_depth(own(run)->net) : 1;
}

static mabn_status finish(struct mabn_run *run, int64_t step)
{
    double *sums = own(run)->figures;
    struct mabn_net_result result;
    if (late(run)) {
        MABN_TRY(mabn_net_result(own(run)->net, &result));
        memset(sums, 0, METERS * sizeof *sums);
        add_result(run, sums, step, 0);
        MABN_TRY(mabn_shards_add(&run->shards, sums, METERS));
    }
    own(run)->pending = false;
    if (!isfinite(sums[LOSS]))
        return mabn_run_not_finite(
            run, isnan(sums[LOSS]) ? "the loss is not a number" : "the loss is infinite", step);
    for (int i = 0; i < METERS; i++)
        run->meter[i] += sums[i];
    return MABN_OK;
}

static void means(struct mabn_run *run, struct mabn_json_writer *line)
{
    const double *m = run->meter, n = m[IMAGES] > 0 ? m[IMAGES] : 1;
    own(run)->bad_told = mabn_loader_tell_bad(own(run)->loader, own(run)->bad_told);
    mabn_json_put_double(line, "loss", m[LOSS] / n);
    mabn_json_put_double(line, "top1", 100 * m[TOP1] / n);
    mabn_json_put_double(line, "top5", 100 * m[TOP5] / n);
    mabn_progress_note(run->progress, "loss %.3f, top-1 %.1f %%", m[LOSS] / n, 100 * m[TOP1] / n);
}

static double waited(const struct mabn_run *run)
{
    struct mabn_loader_stats stats;
    mabn_loader_stats(own(run)->loader, &stats);
    return stats.wait_seconds;
}

static mabn_status validate(struct mabn_run *run, struct mabn_json_writer *line)
{
    struct classify *c = run->own;
    struct mabn_eval_result result;
    struct mabn_eval_options eo = {.threads = run->options->decoders,
                                   .smoothing = run->options->smoothing,
                                   .skip_bad = run->options->skip_bad,
                                   .labels = c->val_set,
                                   .comm = run->shards.ranks > 1 ? run->shards.comm : NULL};
    MABN_TRY(mabn_evaluate(&result, c->val_net, &c->val_source, &c->input, &eo));
    mabn_run_put_figure(run, line, "loss", result.loss);
    mabn_run_put_figure(run, line, "top1", result.top1);
    mabn_run_put_figure(run, line, "top5", result.top5);
    mabn_json_put_int(line, "images", result.images);
    mabn_json_put_double(line, "seconds", round(result.seconds * 1000) / 1000);
    mabn_verbose("step %lld: validation loss %.4f, top-1 %.2f %%, top-5 %.2f %%",
                 (long long)run->step, result.loss, result.top1, result.top5);
    return MABN_OK;
}

/* ---- checkpoints ---- */

static void save(const struct mabn_run *run, struct mabn_model_save *save)
{
    save->model = &own(run)->model;
    save->input = &own(run)->input;
}

static enum mabn_net_precision precision(const struct mabn_run *run)
{
    return mabn_net_precision_of(own(run)->net);
}

static struct mabn_net *scaled(const struct mabn_run *run)
{
    return own(run)->net;
}

static const char *const figures[] = {"top1", "top5", "loss", NULL};

const struct mabn_task mabn_task_classify = {
    .name = "classify",
    .figures = figures,
    .meters = METERS,
    .meter_names = meter_names,
    .set_up = set_up,
    .release = release,
    .start = start,
    .load = load,
    .begin = begin,
    .after = after,
    .behind = behind,
    .depth = depth,
    .finish = finish,
    .means = means,
    .describe = describe,
    .validate = validate,
    .waited = waited,
    .save = save,
    .scaled = scaled,
    .precision = precision,
};
