/* Setting up a run: from options, datasets and perhaps weights to networks that are ready. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/run.h"

void mabn_train_options_init(struct mabn_train_options *o)
{
    *o = (struct mabn_train_options){
        .start_step = -1,
        .norm = MABN_NORM_REQUEST_INIT,
        .area_min = NAN,
        .flip = NAN,
        .lighting = NAN,
        .erase = NAN,
        .range = NAN,
        .pad = -1,
        .short_side = -1,
        .batch = 256,
        .epochs = 90,
        .seed = 1,
        .schedule = MABN_SCHEDULE_COSINE,
        .lr = 0.1,
        .lr_batch = 256,
        .gamma = 0.1,
        .momentum = 0.9,
        .weight_decay = 1e-4,
        .log_every = 50,
        .keep = 3,
        .stats_every = 1,
        .device = "auto",
        .n_channels = 1,
    };
    for (int i = 0; i < 4; i++)
        o->jitter[i] = NAN;
    for (int i = 0; i < 3; i++)
        o->mean[i] = o->deviation[i] = NAN;
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
    MABN_TRY(open_dataset(&run->train_set, &run->train_source, o->train));
    if (!o->val) return MABN_OK;
    MABN_TRY(open_dataset(&run->val_set, &run->val_source, o->val));
    int a = mabn_dataset_classes(run->train_set), b = mabn_dataset_classes(run->val_set);
    if (a != b)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' has %d classes, '%s' has %d", o->train, a, o->val,
                         b);
    for (int c = 0; c < a; c++) {
        const char *x = mabn_dataset_class_name(run->train_set, c);
        const char *y = mabn_dataset_class_name(run->val_set, c);
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

static mabn_status named(int *value, const char *what, const char *name, const char *const *names,
                         int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name)) continue;
        *value = i;
        return MABN_OK;
    }
    return mabn_fail(MABN_ERR_ARG, "there is no %s '%s'", what, name);
}

/* Options over the preset. What a network sees in training and in evaluation goes to both. */
static mabn_status override_pictures(const struct mabn_train_options *o, struct mabn_augment *a,
                                     struct mabn_augment *input)
{
    static const char *const crops[] = {"none", "centre", "square", "resized", "pad"};
    static const char *const resizes[] = {"pil", "cv"}, *const orders[] = {"rgb", "bgr"};
    int value = 0;
    if (o->crop) {
        MABN_TRY(named(&value, "crop", o->crop, crops, 5));
        a->crop = (enum mabn_crop_kind)value;
    }
    if (o->resize) {
        MABN_TRY(named(&value, "resize", o->resize, resizes, 2));
        a->resize = input->resize = (enum mabn_resize_kind)value;
    }
    if (o->order) {
        MABN_TRY(named(&value, "channel order", o->order, orders, 2));
        a->bgr = input->bgr = value;
    }
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

/* Weights that mabn-init wrote have seen no pictures yet. */
static bool has_learned(const struct mabn_run *run)
{
    return run->weights.checkpoint && strncmp(run->weights.meta.tool, "mabn-init", 9) != 0;
}

/* What pictures become must be what the weights were trained on. */
static mabn_status check_input(const struct mabn_run *run)
{
    const struct mabn_augment *now = &run->input, *then = &run->weights.input;
    bool same = now->bgr == then->bgr && now->range == then->range;
    for (int i = 0; i < now->channels; i++)
        same = same && now->mean[i] == then->mean[i] && now->deviation[i] == then->deviation[i];
    if (same || run->options->allow_input) return MABN_OK;
    return mabn_fail(MABN_ERR_MISMATCH,
                     "'%s' was trained on %s pixels from 0 to %g, mean %g, "
                     "deviation %g; here it would get %s, 0 to %g, mean %g, deviation %g "
                     "(--allow-weights input goes on)",
                     run->options->weights, then->bgr ? "BGR" : "RGB", then->range, then->mean[0],
                     then->deviation[0], now->bgr ? "BGR" : "RGB", now->range, now->mean[0],
                     now->deviation[0]);
}

static mabn_status decide_pictures(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_augment *a = &run->augment, *input = &run->input;
    int channels = all_gray(run->train_set) ? 1 : 3;
    int height = mabn_dataset_image_height(run->train_set, 0);
    int width = mabn_dataset_image_width(run->train_set, 0);
    bool small = height <= 64 && width <= 64;
    const char *preset = o->augment ? o->augment : small ? "cifar" : "torchvision";
    MABN_TRY(mabn_augment_preset(a, preset, true));
    MABN_TRY(mabn_augment_preset(input, preset, false));
    if (run->weights.checkpoint) channels = run->weights.input.channels;
    if (o->size) {
        width = height = o->size;
    } else if (run->weights.checkpoint) {
        width = run->weights.input.width;
        height = run->weights.input.height;
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
    if (run->weights.checkpoint && !o->augment) {
        const struct mabn_augment *w = &run->weights.input;
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
    const struct mabn_model *file = &run->weights.model, *want = &run->model;
    if (o->arch && strcmp(o->arch, file->arch))
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' is a %s, not a %s", o->weights, file->arch,
                         o->arch);
    if (run->weights.meta.folded && !o->allow_folded)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has its normalization folded into the "
                         "convolutions, so there is nothing left to train it with "
                         "(--allow-weights folded goes on)",
                         o->weights);
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        enum mabn_norm_kind now = want->norm[p].kind, then = file->norm[p].kind;
        if (now != then && !o->allow_norm)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "'%s' has norm %s, not %s "
                             "(--allow-weights norm goes on)",
                             o->weights, mabn_norm_kind_name(then), mabn_norm_kind_name(now));
        bool centralized = mabn_model_centralizes(file, (enum mabn_model_part)p);
        if (mabn_model_centralizes(want, (enum mabn_model_part)p) != centralized &&
            !o->allow_centralized)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "'%s' is %s centralized weights "
                             "(--allow-weights centralized goes on)",
                             o->weights, centralized ? "with" : "without");
    }
    if (want->classes != file->classes && !o->allow_classes)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' knows %d classes, '%s' has %d "
                         "(--allow-weights classes gives it a new classifier)",
                         o->weights, file->classes, o->train, want->classes);
    return MABN_OK;
}

static mabn_status decide_model(struct mabn_run *run)
{
    static const char *const stems[] = {"large", "small"};
    static const char *const switches[] = {"auto", "on", "off"};
    const struct mabn_train_options *o = run->options;
    struct mabn_model *model = &run->model;
    int value = 0;
    if (run->weights.checkpoint)
        *model = run->weights.model;
    else
        MABN_TRY(mabn_model_init(model, o->arch ? o->arch : "resnet50"));
    model->classes = mabn_dataset_classes(run->train_set);
    model->channels = run->augment.channels;
    model->height = run->augment.height;
    model->width = run->augment.width;
    if (!run->weights.checkpoint) {
        if (o->base_width) model->base_width = o->base_width;
        if (o->stride_in_1x1) model->stride_in_1x1 = true;
        if (o->stem) {
            MABN_TRY(named(&value, "stem", o->stem, stems, 2));
            model->stem = (enum mabn_model_stem)value;
        }
    }
    if (o->centralize) {
        MABN_TRY(named(&value, "--centralize value", o->centralize, switches, 3));
        model->centralize = (enum mabn_model_centralize)value;
    }
    if (!run->weights.checkpoint) MABN_TRY(mabn_model_set_norm(model, MABN_NORM_DEFAULT));
    MABN_TRY(mabn_model_request_norm(model, &o->norm));
    return run->weights.checkpoint ? check_weights(run) : MABN_OK;
}

/* ---- the course ---- */

static mabn_status decide_course(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    int64_t images = mabn_dataset_count(run->train_set);
    run->epoch_steps = o->epoch_steps ? o->epoch_steps : images / o->batch;
    if (run->epoch_steps < 1)
        return mabn_fail(MABN_ERR_ARG,
                         "'%s' has %lld images, fewer than one batch of %d "
                         "(--epoch-steps N goes round several times)",
                         o->train, (long long)images, o->batch);
    run->steps = o->steps ? o->steps : o->epochs * run->epoch_steps;
    run->save_every = o->save_every ? o->save_every : run->epoch_steps;
    run->val_every = o->val_every ? o->val_every : run->epoch_steps;

    struct mabn_schedule *s = &run->schedule;
    double per_epoch = (double)run->epoch_steps;
    s->kind = (enum mabn_schedule_kind)o->schedule;
    s->lr = o->lr_exact ? o->lr : o->lr * o->batch / o->lr_batch;
    s->steps = run->steps;
    s->warmup = (int64_t)llround(o->warmup_epochs * per_epoch);
    s->gamma = o->gamma;
    s->n_milestones = o->n_milestones;
    for (int i = 0; i < o->n_milestones; i++)
        s->milestones[i] = (int64_t)llround(o->milestones[i] * per_epoch);
    return MABN_OK;
}

static void add_course(struct mabn_run *run, const char *key, const char *format, ...)
    MABN_PRINTF(3, 4);
static void add_course(struct mabn_run *run, const char *key, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mabn_str_printf(&run->course, "%s = %s\n", key, text);
}

/* Everything that the numbers of the run depend on, but its length. */
static void write_course(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_augment *a = &run->augment;
    const struct mabn_schedule *s = &run->schedule;
    static const char *const kinds[] = {"step", "cosine", "constant"};
    mabn_str_add(&run->course, "model = ");
    mabn_model_to_json(&run->model, &run->course);
    mabn_str_add(&run->course, "\ninput = ");
    mabn_input_to_json(a, &run->course);
    mabn_str_add_char(&run->course, '\n');
    add_course(run, "crop-area", "%.9g,%.9g", a->area_min, a->area_max);
    add_course(run, "pad", "%d", a->pad);
    add_course(run, "lighting", "%.9g", a->lighting);
    add_course(run, "jitter", "%.9g,%.9g,%.9g,%.9g", a->brightness, a->contrast, a->saturation,
               a->hue);
    add_course(run, "flip", "%.9g", a->flip);
    add_course(run, "erase", "%.9g", a->erase);
    add_course(run, "images", "%lld", (long long)mabn_dataset_count(run->train_set));
    add_course(run, "seed", "%lld", (long long)o->seed);
    add_course(run, "sampler", "%s", o->replacement ? "replacement" : "shuffle");
    add_course(run, "batch", "%d", o->batch);
    add_course(run, "epoch-steps", "%lld", (long long)run->epoch_steps);
    add_course(run, "lr", "%.9g", s->lr);
    add_course(run, "schedule", "%s", kinds[s->kind]);
    add_course(run, "warm-up steps", "%lld", (long long)s->warmup);
    if (s->kind == MABN_SCHEDULE_STEP) {
        add_course(run, "gamma", "%.9g", s->gamma);
        for (int i = 0; i < s->n_milestones; i++)
            add_course(run, "milestone", "%lld", (long long)s->milestones[i]);
    }
    add_course(run, "momentum", "%.9g", o->momentum);
    add_course(run, "weight-decay", "%.9g", o->weight_decay);
    add_course(run, "nesterov", "%d", o->nesterov);
    add_course(run, "decay-norm-bias", "%d", !o->no_decay_norm_bias);
    add_course(run, "label-smoothing", "%.9g", o->smoothing);
    add_course(run, "save-memory, exact", "%d, %d", o->save_memory, o->exact);
}

/* ---- networks ---- */

static mabn_status build_networks(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_net_options no = {.batch = o->batch,
                                  .height = run->model.height,
                                  .width = run->model.width,
                                  .precision = o->precision,
                                  .training = true,
                                  .exact = o->exact,
                                  .tune = o->tune,
                                  .save_memory = o->save_memory};
    MABN_TRY(mabn_device_open(&run->device, o->device, o->threads));
    no.bytes = mabn_eval_sends_bytes(run->device, &run->augment);
    MABN_TRY(mabn_model_build(&run->net, run->device, &run->model, &no));
    MABN_TRY(mabn_eval_set_table(run->net, &run->augment));
    if (!run->val_set) return MABN_OK;
    no.training = no.save_memory = false;
    no.bytes = mabn_eval_sends_bytes(run->device, &run->input);
    no.batch = o->val_batch ? o->val_batch : o->batch;
    if (no.batch > mabn_dataset_count(run->val_set))
        no.batch = (int)mabn_dataset_count(run->val_set);
    no.height = run->input.height;
    no.width = run->input.width;
    no.params = mabn_net_params(run->net);
    return mabn_model_build(&run->val_net, run->device, &run->model, &no);
}

static bool has_batch_statistics(enum mabn_norm_kind kind)
{
    return kind == MABN_NORM_BN || kind == MABN_NORM_BRN || kind == MABN_NORM_MABN;
}

/* One norm stands for the model in what is told and logged: that of the first of these parts that
 * has batch statistics. */
static const struct mabn_norm_options *main_norm(const struct mabn_run *run)
{
    static const enum mabn_model_part order[] = {
        MABN_PART_LAYER3, MABN_PART_LAYER4, MABN_PART_LAYER2, MABN_PART_LAYER1, MABN_PART_STEM};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (has_batch_statistics(run->model.norm[order[i]].kind)) return &run->model.norm[order[i]];
    return &run->model.norm[MABN_PART_LAYER3];
}

static int norm_batch_of(const struct mabn_run *run)
{
    int n = main_norm(run)->norm_batch, batch = run->options->batch;
    return n == 0 || n > batch ? batch : n;
}

static int effective_samples(const struct mabn_run *run)
{
    const struct mabn_norm_options *norm = main_norm(run);
    return norm_batch_of(run) * (norm->kind == MABN_NORM_MABN ? norm->window : 1);
}

/* Memory of the GPU is what runs out there. */
static void tell_memory(const struct mabn_run *run)
{
    const struct mabn_net *nets[] = {run->net, run->val_net};
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

static void tell(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_norm_options *norm = main_norm(run);
    struct mabn_str norm_text;
    size_t parameters;
    mabn_str_init(&norm_text);
    mabn_model_norm_text(&run->model, &norm_text);
    mabn_params_values(mabn_net_params(run->net), &parameters);
    mabn_info("%s, norm %s, %d classes, %zu parameters, %s; %s", run->model.arch, norm_text.text,
              run->model.classes, parameters,
              mabn_net_precision_name(mabn_net_precision_of(run->net)),
              mabn_device_name(run->device));
    mabn_str_release(&norm_text);
    tell_memory(run);
    if (norm->kind == MABN_NORM_MABN)
        mabn_info("batch %d (images of one SGD step), norm-batch %d (images behind one statistic), "
                  "window %d (statistics in the moving average, %s rule): %d effective samples",
                  o->batch, norm_batch_of(run), norm->window,
                  mabn_window_rule_name(norm->window_rule), effective_samples(run));
    else if (has_batch_statistics(norm->kind))
        mabn_info("batch %d (images of one SGD step), norm-batch %d (images behind one statistic), "
                  "no window: %d effective samples",
                  o->batch, norm_batch_of(run), effective_samples(run));
    else
        mabn_info("batch %d (images of one SGD step); norm %s has no batch statistics", o->batch,
                  mabn_norm_kind_name(norm->kind));
    if (o->lr_exact)
        mabn_info("lr %.6g as given, not scaled to the batch", run->schedule.lr);
    else
        mabn_info("lr %.6g for batch %.0f, scaled to %.6g for batch %d (--lr-exact does not scale)",
                  o->lr, o->lr_batch, run->schedule.lr, o->batch);
    mabn_info("%lld training images%s, %lld steps an epoch, %lld steps in all",
              (long long)mabn_dataset_count(run->train_set),
              o->replacement ? ", drawn with replacement" : "", (long long)run->epoch_steps,
              (long long)run->steps);
}

void mabn_run_describe(const struct mabn_run *run, struct mabn_str *json)
{
    const struct mabn_norm_options *norm = main_norm(run);
    size_t parameters;
    mabn_params_values(mabn_net_params(run->net), &parameters);
    mabn_str_add(json, ",\"schema\":\"mabn-train/1\",\"arch\":");
    mabn_str_add_json(json, run->model.arch);
    mabn_str_printf(json, ",\"norm\":\"%s\",\"batch\":%d,\"norm_batch\":%d",
                    mabn_norm_kind_name(norm->kind), run->options->batch, norm_batch_of(run));
    if (norm->kind == MABN_NORM_MABN)
        mabn_str_printf(json, ",\"window\":%d,\"window_rule\":\"%s\"", norm->window,
                        mabn_window_rule_name(norm->window_rule));
    mabn_str_printf(json, ",\"effective_samples\":%d,\"lr\":", effective_samples(run));
    mabn_str_add_double(json, run->schedule.lr);
    mabn_str_printf(json,
                    ",\"seed\":%lld,\"epoch_steps\":%lld,\"steps\":%lld,\"classes\":%d,"
                    "\"parameters\":%zu,\"train_images\":%lld,\"threads\":%d,\"precision\":\"%s\","
                    "\"device\":",
                    (long long)run->options->seed, (long long)run->epoch_steps,
                    (long long)run->steps, run->model.classes, parameters,
                    (long long)mabn_dataset_count(run->train_set), mabn_device_threads(run->device),
                    mabn_net_precision_name(mabn_net_precision_of(run->net)));
    mabn_str_add_json(json, mabn_device_name(run->device));
    if (run->options->command) {
        mabn_str_add(json, ",\"command\":");
        mabn_str_add_json(json, run->options->command);
    }
}

mabn_status mabn_run_set_up(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    MABN_TRY(open_datasets(run));
    if (o->weights) MABN_TRY(mabn_model_file_open(&run->weights, o->weights));
    MABN_TRY(decide_pictures(run));
    MABN_TRY(decide_model(run));
    MABN_TRY(decide_course(run));
    write_course(run);
    MABN_TRY(build_networks(run));
    tell(run);
    return MABN_OK;
}

void mabn_run_release(struct mabn_run *run)
{
    mabn_loader_free(run->loader);
    mabn_net_free(run->val_net); /* borrows the other's parameters */
    mabn_net_free(run->net);
    mabn_device_free(run->device);
    mabn_model_file_release(&run->weights);
    mabn_dataset_free(run->train_set);
    mabn_dataset_free(run->val_set);
    mabn_jsonl_close(&run->metrics);
    mabn_jsonl_close(&run->copy);
    mabn_jsonl_close(&run->stats);
    mabn_str_release(&run->course);
    free(run->command);
    free(run->last_saved);
}
