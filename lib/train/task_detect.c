/* Training a detector on a dataset of kind coco.
 *
 * One optimizer step is options->accumulate passes of the three plans, and at least one for each shard. All
 * passes have equally many photographs. Their gradients add up and are divided by the number of passes, so
 * that a step means the same however it is cut; but batch statistics are a pass's own. Passes are numbered
 * through the run, those of a step's first shard before those of its second.
 *
 * On a GPU, where a rank has one shard and sums go by NCCL, results come a step late. At most two passes are
 * queued whose losses have not arrived. Those of step k are looked at while step k+1 runs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/thread.h"
#include "data/scene_loader.h"
#include "device/tune.h"
#include "model/resnet.h"
#include "train/detect_eval.h"
#include "train/early.h"
#include "train/run.h"

/* A step that was begun. */
struct detect_step {
    double *figures; /* meters of each of this rank's shards; then of all shards in the first row */
    struct mabn_str shown; /* ids of its photographs, for what goes wrong */
    int passes;            /* whose results are not here */
};

enum { STEPS_BEHIND = 2 };

struct detect {
    struct mabn_dataset *train_set, *val_set;
    struct mabn_scene_set *train_scenes, *val_scenes;
    uint64_t *samples, sample_count; /* of the training set: those that are trained on */
    struct mabn_model_file weights;  /* weights.checkpoint NULL: none */
    struct mabn_detector detector;
    struct mabn_str categories;
    int *class_of;    /* the weights' class that each category is; NULL: as they are */
    bool new_classes; /* what is predicted for each class begins anew */
    struct mabn_scene_options scene;
    struct mabn_params *params;
    struct mabn_rcnn *rcnn, *val_rcnn;
    struct mabn_rcnn **rcnns; /* shards in step: (local − 1) of them, before `rcnn`; else NULL */
    struct mabn_scene_loader *
        *loaders; /* of all this rank's shards one; in step each has its own */
    int n_loaders;
    struct mabn_early *early;               /* NULL: no pictures are drawn */
    int pass_images, passes;                /* of a shard */
    struct mabn_rcnn_image *images;         /* (shards of this rank in step, pass_images) */
    struct detect_step steps[STEPS_BEHIND]; /* step s in s % 2 */
    int pending;                            /* steps begun and not finished */
};

enum { IMAGES = MABN_RCNN_LOSSES, STEPS, RPN_POSITIVES, POSITIVES, PROPOSALS, METERS };
static const char *const meter_names[METERS] = {"meter_loss_objectness", "meter_loss_rpn_box_reg",
                                                "meter_loss_classifier", "meter_loss_box_reg",
                                                "meter_loss_mask",       "meter_images",
                                                "meter_steps",           "meter_rpn_positives",
                                                "meter_positives",       "meter_proposals"};

static struct detect *own(const struct mabn_run *run)
{
    return run->own;
}

/* ---- data ---- */

static mabn_status open_set(struct mabn_dataset **ds, struct mabn_scene_set **set, const char *path)
{
    MABN_TRY(mabn_dataset_open(ds, path));
    MABN_TRY(mabn_scene_set_open(set, *ds));
    if (mabn_scene_set_count(*set) < 1) return mabn_fail(MABN_ERR_FORMAT, "'%s' is empty", path);
    if (mabn_scene_set_coco(*set)->n_categories < 1)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' has no categories", path);
    return MABN_OK;
}

static mabn_status open_data(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    MABN_TRY(open_set(&d->train_set, &d->train_scenes, o->train));
    mabn_detect_categories(&d->categories, mabn_scene_set_coco(d->train_scenes));
    if (!o->val) return MABN_OK;
    run->validates = true;
    MABN_TRY(open_set(&d->val_set, &d->val_scenes, o->val));
    run->val_identity = mabn_scene_set_identity(d->val_scenes);
    return mabn_detect_check_categories(d->categories.text, o->train,
                                        mabn_scene_set_coco(d->val_scenes), o->val);
}

/* ---- the model ---- */

/* Frozen norms use the epsilon with which the body was trained. */
static void keep_frozen_eps(struct mabn_detector *d, const struct mabn_model_file *weights)
{
    for (int p = 0; p < MABN_MODEL_PARTS && weights->checkpoint; p++)
        if (d->body.norm[p].kind == MABN_NORM_FROZEN &&
            mabn_norm_folds(weights->model.norm[p].kind))
            d->body.norm[p].eps = weights->model.norm[p].eps;
}

static mabn_status new_detector(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_detector *d = &own(run)->detector;
    MABN_TRY(mabn_detector_init(d, o->arch ? o->arch : "mask-rcnn-r50-fpn"));
    d->classes = (int)mabn_scene_set_coco(own(run)->train_scenes)->n_categories;
    if (o->base_width) d->body.base_width = o->base_width;
    if (own(run)->weights.checkpoint) d->body.base_width = own(run)->weights.model.base_width;
    MABN_TRY(mabn_detector_request(d, &o->detector, false));
    if (o->stride_in_1x1) d->body.stride_in_1x1 = true;
    MABN_TRY(mabn_detector_set_norm(d, MABN_NORM_DEFAULT));
    MABN_TRY(mabn_detector_request_norm(d, &o->norm));
    keep_frozen_eps(d, &own(run)->weights);
    return MABN_OK;
}

static mabn_status refuse_weights(const char *path, const char *what, const char *allow)
{
    return mabn_fail(MABN_ERR_MISMATCH, "'%s' %s (--allow-weights %s allows it)", path, what,
                     allow);
}

/* Check that a classifier's body fits the detector: differences that would silently cost accuracy
 * are refused. */
static mabn_status check_body(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct detect *t = run->own;
    const struct mabn_model *m = &t->weights.model, *body = &t->detector.body;
    const struct mabn_augment *in = &t->weights.input;
    const char *path = o->weights;
    if (strcmp(m->arch, body->arch) || m->base_width != body->base_width || m->stem != body->stem)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' is a %s of width %d, the detector's body a %s of "
                         "width %d",
                         path, m->arch, m->base_width, body->arch, body->base_width);
    const bool centralized = mabn_model_centralizes(m, MABN_PART_LAYER1);
    if (centralized != mabn_model_centralizes(body, MABN_PART_LAYER1) && !o->allow_centralized)
        return refuse_weights(path,
                              centralized ? "was trained with centralized weights, which the body "
                                            "is not to use"
                                          : "was not trained with centralized weights, which the "
                                            "body's norm needs",
                              "centralized");
    if (mabn_resnet_find(m->arch)->bottleneck && m->stride_in_1x1 != body->stride_in_1x1 &&
        !o->allow_stride)
        return refuse_weights(path,
                              m->stride_in_1x1
                                  ? "strides in its first 1×1 convolutions, the body in the 3×3"
                                  : "strides in its 3×3 convolutions, the body in the first 1×1",
                              "stride");
    bool same = in->bgr == t->detector.bgr;
    for (int i = 0; i < 3; i++) {
        same = same && fabs(in->mean[i] * 255 / in->range -
                            t->detector.pixel_mean[i] * 255 / t->detector.range) < 0.5;
        same = same && fabs(in->deviation[i] * 255 / in->range -
                            t->detector.pixel_deviation[i] * 255 / t->detector.range) < 0.5;
    }
    if (!same && !o->allow_input)
        return refuse_weights(path,
                              "was trained on pixels of another order, mean or deviation than "
                              "the detector's",
                              "input");
    return MABN_OK;
}

/* Classes that are the dataset's by id and name, in another order or with gaps between (torchvision's 90
 * classes of COCO's 80), are found again; others are refused, or begin anew where that is allowed. */
static mabn_status match_classes(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    const struct mabn_coco *coco = mabn_scene_set_coco(d->train_scenes);
    const int classes = (int)coco->n_categories, theirs = d->detector.classes;
    mabn_status status = MABN_OK;
    d->detector.classes = classes;
    if (d->weights.categories && !strcmp(d->weights.categories, d->categories.text)) return MABN_OK;
    if (d->weights.categories) {
        d->class_of = mabn_xcalloc((size_t)classes + 1, sizeof *d->class_of);
        status = mabn_detect_match_categories(d->class_of, d->weights.categories, o->weights, coco,
                                              o->train);
    } else if (theirs != classes) {
        status = mabn_fail(MABN_ERR_MISMATCH,
                           "'%s' knows %d classes, without saying which (mabn-convert "
                           "--categories), '%s' has %d",
                           o->weights, theirs, o->train, classes);
    }
    if (status && o->allow_classes) {
        mabn_error_clear();
        d->new_classes = true;
        free(d->class_of);
        d->class_of = NULL;
        mabn_info("'%s' has other classes: what is predicted for each begins anew", o->weights);
        return MABN_OK;
    }
    if (status) {
        char *why = mabn_error_detach();
        status =
            mabn_fail(status, "%s (--allow-weights classes begins anew with the predictors)", why);
        free(why);
        return status;
    }
    if (d->class_of)
        mabn_info("of the %d classes of '%s' the %d of '%s' are taken, by id and name", theirs,
                  o->weights, classes, o->train);
    else
        mabn_info("'%s' does not say what its %d classes are: taken for those of '%s', in order",
                  o->weights, theirs, o->train);
    return MABN_OK;
}

static mabn_status decide_model(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    if (o->weights) MABN_TRY(mabn_model_file_open(&d->weights, o->weights));
    if (!d->weights.checkpoint || !d->weights.detects) {
        MABN_TRY(new_detector(run));
        return d->weights.checkpoint ? check_body(run) : MABN_OK;
    }
    d->detector = d->weights.detector;
    MABN_TRY(match_classes(run));
    MABN_TRY(mabn_detector_request(&d->detector, &o->detector, true));
    return mabn_detector_request_norm(&d->detector, &o->norm);
}

/* ---- pictures and course ---- */

static mabn_status decide_pictures(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    struct mabn_scene_census census;
    struct mabn_str text;
    mabn_detect_input(&d->scene, &d->detector);
    d->scene.flip = isnan(o->flip) ? 0.5 : o->flip;
    if (o->n_train_sizes) {
        d->scene.min_size_count = o->n_train_sizes;
        memcpy(d->scene.min_sizes, o->train_sizes,
               (size_t)o->n_train_sizes * sizeof *o->train_sizes);
    }
    d->scene.leave_out_empty = !o->keep_empty;
    d->scene.keep_empty = o->keep_empty;
    MABN_TRY(mabn_scene_check(&d->scene));
    MABN_TRY(mabn_scene_select(d->train_scenes, &d->scene, &d->samples, &d->sample_count, &census));
    mabn_str_init(&text);
    mabn_scene_census_text(&text, &census);
    mabn_info("'%s': %s", o->train, text.text);
    mabn_str_release(&text);
    return MABN_OK;
}

static int step_passes(const struct mabn_run *run)
{
    return own(run)->passes * run->shards.count;
}

static mabn_status sampler_options(const struct mabn_run *run,
                                   struct mabn_scene_sampler_options *so)
{
    const struct detect *d = run->own;
    *so = (struct mabn_scene_sampler_options){.samples = d->samples,
                                              .count = d->sample_count,
                                              .batch = d->pass_images,
                                              .shuffle = true,
                                              .group = true,
                                              .fill = step_passes(run) > 1,
                                              .seed = (uint64_t)run->options->seed};
    return MABN_OK;
}

static mabn_status count_epoch(struct mabn_run *run, int64_t *steps)
{
    struct mabn_scene_sampler_options so;
    struct mabn_scene_sampler *sampler;
    MABN_TRY(sampler_options(run, &so));
    MABN_TRY(mabn_scene_sampler_new(&sampler, own(run)->train_scenes, &so));
    *steps = (int64_t)mabn_scene_sampler_batches(sampler) / step_passes(run);
    mabn_scene_sampler_free(sampler);
    if (*steps < 1) *steps = 1;
    return MABN_OK;
}

static void write_course(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct detect *d = run->own;
    mabn_str_add(&run->course, "model = ");
    mabn_detector_to_json(&d->detector, &run->course);
    mabn_str_add(&run->course, "\ncategories = ");
    mabn_str_add(&run->course, d->categories.text);
    mabn_str_add_char(&run->course, '\n');
    for (int i = 0; i < d->scene.min_size_count; i++)
        mabn_run_add_course(run, "train-size", "%d", d->scene.min_sizes[i]);
    mabn_run_add_course(run, "flip", "%.9g", d->scene.flip);
    mabn_run_add_course(run, "images", "%llu", (unsigned long long)d->sample_count);
    mabn_run_add_course(run, "data", "%016llx",
                        (unsigned long long)mabn_scene_set_identity(d->train_scenes));
    mabn_run_add_course(run, "accumulate", "%d", d->passes);
    mabn_run_add_course(run, "clip-norm", "%.9g", o->clip_norm);
    mabn_run_write_course(run);
    mabn_run_add_course(run, "save-memory", "%d", o->save_memory > 0);
    if (o->exact) mabn_run_add_course(run, "exact", "1");
}

/* ---- networks ---- */

static mabn_status open_sync(struct mabn_run *run)
{
    struct mabn_norm_options *norms[8];
    const int count = mabn_detector_norms(&own(run)->detector, norms);
    return mabn_run_open_sync(run, (const struct mabn_norm_options *const *)norms, count);
}

static enum mabn_net_precision precision(const struct mabn_run *run)
{
    const enum mabn_net_precision asked = run->options->precision;
    return asked == MABN_NET_AUTO ? MABN_NET_FP32 : asked;
}

/* It costs next to nothing beside a detector's convolutions, and changes no bit. */
static bool saves_memory(const struct mabn_run *run)
{
    const int asked = run->options->save_memory;
    return asked < 0 ? mabn_device_kind_of(run->device) == MABN_DEVICE_CPU : asked;
}

static mabn_status build_rcnn(struct mabn_run *run, struct mabn_rcnn **rcnn, int shard)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    const struct mabn_shard_seat *seat = mabn_shards_seat_of(&run->shards, shard);
    const struct mabn_rcnn_options ro = {.training = true,
                                         .images = d->pass_images,
                                         .precision = precision(run),
                                         .save_memory = saves_memory(run),
                                         .exact = o->exact,
                                         .tune = o->tune,
                                         .sync = mabn_run_sync(run, shard),
                                         .seed = (uint64_t)o->seed};
    return mabn_rcnn_new(rcnn, seat ? seat->device : run->device, &d->detector,
                         seat ? seat->params : d->params, &ro);
}

static mabn_status build_seat(void *context, int i)
{
    struct mabn_run *run = context;
    return build_rcnn(run, &own(run)->rcnns[i], i);
}

static mabn_status build(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    MABN_TRY(mabn_run_open_device(run));
    MABN_TRY(open_sync(run));
    const size_t local = (size_t)run->shards.local;
    MABN_TRY(mabn_params_new(&d->params, run->device));
    MABN_TRY(mabn_detector_declare(d->params, run->device, &d->detector, true));
    run->params = d->params;
    if (o->tune) MABN_TRY(mabn_device_tune(run->device, run->shards.ranks == 1));
    MABN_TRY(build_rcnn(run, &d->rcnn, run->shards.local - 1));
    if (run->shards.lockstep) d->rcnns = mabn_xcalloc(local, sizeof *d->rcnns);
    MABN_TRY(mabn_shards_seat(&run->shards, d->params, build_seat, run));
    d->images = mabn_xcalloc(local * (size_t)d->pass_images, sizeof *d->images);
    for (int i = 0; i < STEPS_BEHIND; i++)
        d->steps[i].figures = mabn_xcalloc(local * METERS, sizeof(double));
    if (!d->val_scenes) return MABN_OK;
    const struct mabn_rcnn_options ro = {.images = 1,
                                         .losses = true,
                                         .precision = precision(run),
                                         .exact = o->exact,
                                         .tune = o->tune,
                                         .seed = (uint64_t)o->seed};
    return mabn_rcnn_new(&d->val_rcnn, run->device, &d->detector, d->params, &ro);
}

static void tell(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct detect *d = run->own;
    const struct mabn_norm_options *norm = &d->detector.body.norm[MABN_PART_LAYER3];
    struct mabn_str text;
    size_t parameters;
    mabn_str_init(&text);
    mabn_detector_norm_text(&d->detector, &text);
    mabn_params_values(d->params, &parameters);
    mabn_info("%s, norm %s, %d classes, %zu parameters, %s, boxes as in %s; %s", d->detector.arch,
              text.text, d->detector.classes, parameters,
              mabn_net_precision_name(run->task->precision(run)), d->detector.convention,
              mabn_device_name(run->device));
    mabn_str_release(&text);
    mabn_info("batch %d (images of one SGD step)%s, body norm-batch %d (images of one statistic)%s",
              o->batch, step_passes(run) > 1 ? ", in several passes" : "",
              norm->norm_batch && norm->norm_batch < d->pass_images ? norm->norm_batch
                                                                    : d->pass_images,
              norm->kind == MABN_NORM_MABN ? ", averaged by MABN's window" : "");
    if (norm->kind == MABN_NORM_MABN)
        mabn_info("window %d (statistics in the moving average, %s rule): %d effective images",
                  norm->window, mabn_window_rule_name(norm->window_rule),
                  norm->window * (norm->norm_batch && norm->norm_batch < d->pass_images
                                      ? norm->norm_batch
                                      : d->pass_images));
    mabn_run_tell_course(run, (int64_t)d->sample_count, "");
}

/* Without masks there are no figures of them. */
static mabn_status choose_best(struct mabn_run *run)
{
    if (own(run)->detector.masks || !strstr(run->best_name, "mask")) return MABN_OK;
    if (run->options->best)
        return mabn_fail(MABN_ERR_ARG, "--best %s: a %s has no masks", run->options->best,
                         own(run)->detector.arch);
    run->best_name = "box_ap";
    return MABN_OK;
}

static mabn_status set_up(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own = mabn_xcalloc(1, sizeof *d);
    int64_t epoch_steps;
    mabn_str_init(&d->categories);
    for (int i = 0; i < STEPS_BEHIND; i++)
        mabn_str_init(&d->steps[i].shown);
    const int shards = run->shards.count;
    if (o->batch % o->accumulate)
        return mabn_fail(MABN_ERR_ARG, "a batch of %d is not %d equal parts (--accumulate)",
                         o->batch, o->accumulate);
    d->passes = o->accumulate > shards ? o->accumulate / shards : 1;
    if ((o->accumulate > shards && o->accumulate % shards) || run->shard_images % d->passes)
        return mabn_fail(MABN_ERR_ARG,
                         "%d passes (--accumulate) of %d images cannot be divided among %d shards",
                         o->accumulate, o->batch, shards);
    d->pass_images = run->shard_images / d->passes;
    MABN_TRY(open_data(run));
    MABN_TRY(decide_model(run));
    MABN_TRY(choose_best(run));
    if (d->val_scenes) MABN_TRY(mabn_detect_check_truth(d->val_scenes, d->detector.masks));
    MABN_TRY(decide_pictures(run));
    MABN_TRY(count_epoch(run, &epoch_steps));
    MABN_TRY(mabn_run_decide_course(run, epoch_steps, (int64_t)d->sample_count));
    write_course(run);
    MABN_TRY(build(run));
    tell(run);
    return MABN_OK;
}

static void release(struct mabn_run *run)
{
    struct detect *d = run->own;
    if (!d) return;
    for (int i = 0; i < d->n_loaders; i++)
        mabn_scene_loader_free(d->loaders[i]);
    free(d->loaders);
    mabn_early_free(d->early);
    for (int i = 0; i + 1 < run->shards.local && d->rcnns; i++)
        mabn_rcnn_free(d->rcnns[i]);
    free(d->rcnns);
    mabn_rcnn_free(d->val_rcnn);
    mabn_rcnn_free(d->rcnn);
    mabn_params_free(d->params);
    mabn_model_file_release(&d->weights);
    mabn_scene_set_free(d->train_scenes);
    mabn_scene_set_free(d->val_scenes);
    mabn_dataset_free(d->train_set);
    mabn_dataset_free(d->val_set);
    mabn_str_release(&d->categories);
    free(d->class_of);
    for (int i = 0; i < STEPS_BEHIND; i++) {
        mabn_str_release(&d->steps[i].shown);
        free(d->steps[i].figures);
    }
    free(d->samples);
    free(d->images);
    free(d);
}

/* ---- starting ---- */

static mabn_status start(struct mabn_run *run)
{
    struct detect *d = run->own;
    MABN_TRY(
        mabn_params_initialize(d->params, (uint64_t)run->options->seed, MABN_PARAMS_INIT_FAN_IN));
    if (!d->weights.checkpoint) return MABN_OK;
    mabn_taken_init(&run->taken, d->weights.checkpoint);
    if (d->weights.detects) {
        const struct mabn_model_load load = {.other_state = run->options->allow_norm,
                                             .other_windows = true,
                                             .new_classes = d->new_classes,
                                             .class_of = d->class_of,
                                             .detector = &d->detector,
                                             .taken = &run->taken};
        mabn_info("starting from the weights of '%s'", run->options->weights);
        return mabn_model_file_load(&d->weights, d->params, &load);
    }
    mabn_info("starting from the body of '%s'", run->options->weights);
    return mabn_model_file_load_body(&d->weights, d->params, &run->taken);
}

/* A new run draws its first pictures. */
static mabn_status open_early(struct mabn_run *run)
{
    struct detect *d = run->own;
    if (!run->options->early_images || run->step || run->shards.rank) return MABN_OK;
    char *path = mabn_xasprintf("%s/early.png", run->options->run);
    const mabn_status status = mabn_early_new(&d->early, path, run->options->early_images,
                                              &d->scene, mabn_scene_set_coco(d->train_scenes));
    free(path);
    return status;
}

static mabn_status new_loader(struct mabn_run *run, int i)
{
    struct detect *d = run->own;
    struct mabn_scene_loader_options lo;
    const int shards = d->rcnns ? 1 : run->shards.local, decoders = run->options->decoders;
    mabn_scene_loader_options_init(&lo);
    lo.scene = d->scene;
    lo.epochs = 0; /* endless */
    lo.period = step_passes(run);
    lo.first = (run->shards.first + i) * d->passes;
    lo.count = shards * d->passes;
    MABN_TRY(sampler_options(run, &lo.sampler));
    lo.threads = decoders;
    if (d->n_loaders > 1)
        lo.threads = ((decoders > 0 ? decoders : mabn_threads_available()) + d->n_loaders - 1) /
                     d->n_loaders;
    lo.raw = mabn_rcnn_takes_raw(d->rcnn);
    lo.skip_bad = run->options->skip_bad;
    MABN_TRY(mabn_scene_loader_new(&d->loaders[i], d->train_scenes, &lo));
    const uint64_t pass = (uint64_t)run->step * (uint64_t)lo.count,
                   epoch = mabn_scene_loader_batches_per_epoch(d->loaders[i]);
    return mabn_scene_loader_seek(d->loaders[i], pass / epoch, pass % epoch);
}

static mabn_status load(struct mabn_run *run)
{
    struct detect *d = run->own;
    d->n_loaders = d->rcnns ? run->shards.local : 1;
    d->loaders = mabn_xcalloc((size_t)d->n_loaders, sizeof *d->loaders);
    for (int i = 0; i < d->n_loaders; i++)
        MABN_TRY(new_loader(run, i));
    return open_early(run);
}

/* ---- steps ---- */

static struct detect_step *step_of(const struct mabn_run *run, int64_t step)
{
    return &own(run)->steps[step % STEPS_BEHIND];
}

static void describe_images(struct mabn_str *shown, struct mabn_rcnn_image *images,
                            const struct mabn_scene_batch *batch)
{
    enum { SHOWN = 200 }; /* bytes */
    for (int i = 0; i < batch->count; i++) {
        const struct mabn_scene *s = &batch->scenes[i];
        images[i] = mabn_detect_image(s);
        if (shown->length < SHOWN)
            mabn_str_printf(shown, "%s%lld", shown->length ? ", " : "", (long long)s->image_id);
    }
}

static void add_figures(const struct mabn_run *run, double *meter,
                        const struct mabn_rcnn_figures *f)
{
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        meter[k] += f->loss[k] / step_passes(run);
    meter[RPN_POSITIVES] += (double)f->rpn_positives;
    meter[POSITIVES] += (double)f->positives;
    meter[PROPOSALS] += (double)f->proposals;
}

/* May the next step begin before this one's result is fetched? Only on a GPU, if this rank has one shard
 * and any sums over ranks are queued on the GPU too. Several shards need their gradients added up first. */
static bool late(const struct mabn_run *run)
{
    const struct mabn_shards *s = &run->shards;
    const bool queued = s->count == 1 || (s->nccl && s->local == 1);
    return queued && mabn_rcnn_depth(own(run)->rcnn) > 1;
}

/* The oldest pass under way, of this step. */
static mabn_status fetch_pass(struct mabn_run *run, struct mabn_rcnn *rcnn,
                              struct detect_step *step, int shard)
{
    struct mabn_rcnn_figures figures;
    MABN_TRY(mabn_rcnn_result(rcnn, &figures));
    add_figures(run, step->figures + (size_t)shard * METERS, &figures);
    return MABN_OK;
}

/* Before another pass begins. */
static mabn_status fetch_oldest(struct mabn_run *run)
{
    struct detect_step *before = step_of(run, run->step + 1), *now = step_of(run, run->step);
    struct mabn_rcnn *rcnn = own(run)->rcnn;
    if (!late(run) || mabn_rcnn_behind(rcnn) < mabn_rcnn_depth(rcnn)) return MABN_OK;
    struct detect_step *step = before->passes ? before : now;
    step->passes--;
    return fetch_pass(run, rcnn, step, 0);
}

static mabn_status one_pass(struct mabn_run *run, int shard, int pass)
{
    struct detect *d = run->own;
    struct detect_step *step = step_of(run, run->step);
    const struct mabn_scene_batch *batch;
    const int64_t number =
        run->step * step_passes(run) + (run->shards.first + shard) * d->passes + pass;
    struct mabn_rcnn *rcnn = d->rcnns && d->rcnns[shard] ? d->rcnns[shard] : d->rcnn;
    struct mabn_rcnn_image *images = d->images + (size_t)shard * (size_t)d->pass_images;
    mabn_run_note(run, "reading data");
    MABN_TRY(mabn_scene_loader_next(d->loaders[d->rcnns ? shard : 0], &batch));
    mabn_run_note(run, NULL);
    if (d->early) MABN_TRY(mabn_early_add(d->early, batch));
    MABN_TRY(fetch_oldest(run));
    MABN_TRY(mabn_detect_fill(rcnn, batch));
    describe_images(&step->shown, images, batch);
    const bool last = shard + 1 == run->shards.local && pass + 1 == d->passes;
    MABN_TRY(mabn_run_meet(run));
    mabn_rcnn_accumulate(rcnn, pass > 0 || (shard > 0 && mabn_shards_accumulates(&run->shards)));
    mabn_rcnn_tell_gradients(rcnn, last && run->shards.ranks > 1 ? mabn_shards_ready : NULL,
                             &run->shards);
    MABN_TRY(mabn_rcnn_begin(rcnn, images, (uint64_t)number));
    step->figures[(size_t)shard * METERS + IMAGES] += batch->count;
    if (!late(run)) return fetch_pass(run, rcnn, step, shard);
    step->passes++;
    return MABN_OK;
}

static mabn_status one_shard(void *context, int shard)
{
    struct mabn_run *run = context;
    for (int pass = 0; pass < own(run)->passes; pass++)
        MABN_TRY(one_pass(run, shard, pass));
    return MABN_OK;
}

static mabn_status check_losses(struct mabn_run *run, int64_t step)
{
    const double *loss = step_of(run, step)->figures;
    for (int k = 0; k < MABN_RCNN_LOSSES; k++) {
        if (isfinite(loss[k])) continue;
        char *text = mabn_xasprintf("%s of images %s is %s", mabn_rcnn_loss_names[k],
                                    step_of(run, step)->shown.text,
                                    isnan(loss[k]) ? "not a number" : "infinite");
        const mabn_status status = mabn_run_not_finite(run, text, step);
        free(text);
        return status;
    }
    return MABN_OK;
}

static mabn_status begin(struct mabn_run *run, double lr)
{
    const struct mabn_train_options *o = run->options;
    struct detect *d = run->own;
    struct detect_step *step = step_of(run, run->step);
    struct mabn_params_sgd sgd = mabn_run_sgd(run, lr);
    sgd.grad_scale = 1.0 / step_passes(run);
    mabn_str_clear(&step->shown);
    memset(step->figures, 0, (size_t)run->shards.local * METERS * sizeof *step->figures);
    MABN_TRY(mabn_shards_run(&run->shards, one_shard, run));
    MABN_TRY(mabn_shards_sum(&run->shards));
    if (!late(run)) {
        MABN_TRY(mabn_shards_add(&run->shards, step->figures, METERS));
        MABN_TRY(check_losses(run, run->step));
    }
    if (o->clip_norm > 0) {
        const double norm = mabn_params_gradient_norm(d->params) * sgd.grad_scale;
        if (norm > o->clip_norm) sgd.grad_scale *= o->clip_norm / norm;
    }
    d->pending++;
    return mabn_params_update(d->params, &sgd);
}

static int behind(const struct mabn_run *run)
{
    return own(run) ? own(run)->pending : 0;
}

static int depth(const struct mabn_run *run)
{
    return late(run) ? STEPS_BEHIND : 1;
}

static mabn_status finish(struct mabn_run *run, int64_t step)
{
    struct detect_step *s = step_of(run, step);
    for (; s->passes; s->passes--)
        MABN_TRY(fetch_pass(run, own(run)->rcnn, s, 0));
    own(run)->pending--;
    if (late(run)) {
        MABN_TRY(mabn_shards_add(&run->shards, s->figures, METERS));
        MABN_TRY(check_losses(run, step));
    }
    s->figures[STEPS] = 1;
    for (int k = 0; k < METERS; k++)
        run->meter[k] += s->figures[k];
    return MABN_OK;
}

static void means(struct mabn_run *run, struct mabn_json_writer *line)
{
    const double *m = run->meter, n = m[STEPS] > 0 ? m[STEPS] : 1;
    const double images = m[IMAGES] > 0 ? m[IMAGES] : 1;
    double total = 0;
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        total += m[k] / n;
    mabn_json_put_double(line, "loss", total);
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        if (k != MABN_RCNN_MASK || own(run)->detector.masks)
            mabn_json_put_double(line, mabn_rcnn_loss_names[k], m[k] / n);
    mabn_json_put_double(line, "rpn_positives", m[RPN_POSITIVES] / images);
    mabn_json_put_double(line, "positives", m[POSITIVES] / images);
    mabn_json_put_double(line, "proposals", m[PROPOSALS] / images);
    mabn_progress_note(run->progress, "loss %.3f", total);
}

static double waited(const struct mabn_run *run)
{
    double seconds = 0;
    for (int i = 0; i < own(run)->n_loaders; i++) {
        struct mabn_scene_loader_stats stats;
        mabn_scene_loader_stats(own(run)->loaders[i], &stats);
        seconds += stats.wait_seconds;
    }
    return seconds;
}

static void put_losses(struct mabn_run *run, struct mabn_json_writer *line, const double *loss)
{
    double total = 0;
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        total += loss[k];
    mabn_run_put_figure(run, line, "loss", total);
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        if (k != MABN_RCNN_MASK || own(run)->detector.masks)
            mabn_run_put_figure(run, line, mabn_rcnn_loss_names[k], loss[k]);
}

static mabn_status validate(struct mabn_run *run, struct mabn_json_writer *line)
{
    static const char *const names[] = {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"};
    struct detect *d = run->own;
    const struct mabn_detect_options options = {.threads = run->options->decoders,
                                                .skip_bad = run->options->skip_bad,
                                                .losses = true,
                                                .comm = run->shards.ranks > 1 ? run->shards.comm
                                                                              : NULL};
    struct mabn_detect_score score;
    struct mabn_detect_result result;
    MABN_TRY(mabn_detect_judge(&score, NULL, &result, d->val_rcnn, d->val_scenes, &options));
    for (int masks = 0; masks <= score.masks; masks++)
        for (int k = 0; k < 6; k++) {
            char name[24];
            snprintf(name, sizeof name, "%s_%s", masks ? "mask" : "box", names[k]);
            mabn_run_put_figure(run, line, name, masks ? score.mask[k] : score.box[k]);
        }
    put_losses(run, line, result.loss);
    mabn_json_put_int(line, "images", result.images);
    mabn_json_put_int(line, "detections", result.detections);
    mabn_json_put_double(line, "seconds", round(result.seconds * 1000) / 1000);
    mabn_verbose("step %lld: box AP %.3f, mask AP %.3f", (long long)run->step, score.box[0],
                 score.masks ? score.mask[0] : NAN);
    return MABN_OK;
}

static void describe(const struct mabn_run *run, struct mabn_json_writer *line)
{
    const struct detect *d = run->own;
    struct mabn_str norm;
    mabn_str_init(&norm);
    mabn_detector_norm_text(&d->detector, &norm);
    mabn_json_put_string(line, "schema", "mabn-train/1");
    mabn_json_put_string(line, "task", "detect");
    mabn_json_put_string(line, "arch", d->detector.arch);
    mabn_json_put_string(line, "norm", norm.text);
    mabn_json_put_int(line, "batch", run->options->batch);
    mabn_json_put_int(line, "accumulate", d->passes);
    mabn_run_put_course(run, line, d->detector.classes, (int64_t)d->sample_count);
    mabn_str_release(&norm);
}

static void save(const struct mabn_run *run, struct mabn_model_save *save)
{
    save->detector = &own(run)->detector;
    save->categories = own(run)->categories.text;
}

static const char *const figures[] = {"mask_ap",
                                      "mask_ap50",
                                      "mask_ap75",
                                      "mask_ap_small",
                                      "mask_ap_medium",
                                      "mask_ap_large",
                                      "box_ap",
                                      "box_ap50",
                                      "box_ap75",
                                      "box_ap_small",
                                      "box_ap_medium",
                                      "box_ap_large",
                                      "loss",
                                      "loss_objectness",
                                      "loss_rpn_box_reg",
                                      "loss_classifier",
                                      "loss_box_reg",
                                      "loss_mask",
                                      NULL};

static struct mabn_net *scaled(const struct mabn_run *run)
{
    return mabn_rcnn_plan(own(run)->rcnn, MABN_RCNN_BOX_PLAN);
}

const struct mabn_task mabn_task_detect = {
    .name = "detect",
    .figures = figures,
    .meters = METERS,
    .meter_names = meter_names,
    .set_up = set_up,
    .release = release,
    .start = start,
    .load = load,
    .begin = begin,
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
