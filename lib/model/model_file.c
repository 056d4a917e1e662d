/* Networks to and from checkpoints. */
#include "model/model_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "detect/convention.h"
#include "tensor/finite.h"

/* ---- the input description ---- */

static void put_three(struct mabn_json_writer *w, const char *key, const float values[3])
{
    mabn_json_put_array(w, key);
    for (int i = 0; i < 3; i++)
        mabn_json_put_float(w, NULL, values[i]);
    mabn_json_put_end(w);
}

void mabn_input_to_json(const struct mabn_augment *input, struct mabn_str *json)
{
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, json);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_int(&w, "width", input->width);
    mabn_json_put_int(&w, "height", input->height);
    mabn_json_put_int(&w, "channels", input->channels);
    mabn_json_put_string(&w, "crop", mabn_word_name(mabn_augment_crops, input->crop));
    mabn_json_put_int(&w, "short_side", input->short_side);
    mabn_json_put_string(&w, "resize", mabn_word_name(mabn_augment_resizes, input->resize));
    mabn_json_put_string(&w, "order", mabn_word_name(mabn_augment_orders, input->bgr));
    mabn_json_put_double(&w, "range", input->range);
    put_three(&w, "mean", input->mean);
    put_three(&w, "deviation", input->deviation);
    mabn_json_put_end(&w);
}

static void read_three(struct mabn_json *j, float values[3])
{
    double three[3];
    if (mabn_json_read_doubles(j, three, 3)) return;
    for (int i = 0; i < 3; i++)
        values[i] = (float)three[i];
}

static void read_input_field(struct mabn_json *j, struct mabn_json_text key,
                             struct mabn_augment *input)
{
    int value;
    if (mabn_json_is(key, "width")) {
        mabn_json_read_int(j, &input->width, 1, 1 << 16);
    } else if (mabn_json_is(key, "height")) {
        mabn_json_read_int(j, &input->height, 1, 1 << 16);
    } else if (mabn_json_is(key, "channels")) {
        mabn_json_read_int(j, &input->channels, 1, 3);
    } else if (mabn_json_is(key, "short_side")) {
        mabn_json_read_int(j, &input->short_side, 0, 1 << 16);
    } else if (mabn_json_is(key, "range")) {
        mabn_json_read_double(j, &input->range);
    } else if (mabn_json_is(key, "mean")) {
        read_three(j, input->mean);
    } else if (mabn_json_is(key, "deviation")) {
        read_three(j, input->deviation);
    } else if (mabn_json_is(key, "crop")) {
        if (!mabn_json_read_word(j, &value, mabn_augment_crops, "crop"))
            input->crop = (enum mabn_crop_kind)value;
    } else if (mabn_json_is(key, "resize")) {
        if (!mabn_json_read_word(j, &value, mabn_augment_resizes, "resizing"))
            input->resize = (enum mabn_resize_kind)value;
    } else if (mabn_json_is(key, "order")) {
        if (!mabn_json_read_word(j, &value, mabn_augment_orders, "channel order"))
            input->bgr = value;
    } else {
        mabn_json_skip(j);
    }
}

mabn_status mabn_input_from_json(struct mabn_augment *input, const char *json, const char *name)
{
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), name);
    struct mabn_json_text key;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key))
        read_input_field(j, key, input);
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    return status ? status : mabn_augment_check(input);
}

void mabn_input_resize(struct mabn_augment *input, int size)
{
    if (input->crop == MABN_CROP_CENTRE && input->short_side)
        input->short_side = (input->short_side * size + input->height / 2) / input->height;
    input->width = input->height = size;
}

/* ---- reading ---- */

/* For a file without a description of its input. */
static mabn_status default_input(struct mabn_model_file *file)
{
    struct mabn_augment *input = &file->input;
    const struct mabn_checkpoint_meta *meta = &file->meta;
    MABN_TRY(mabn_augment_preset(input, "imagenet", false));
    input->width = file->model.width;
    input->height = file->model.height;
    input->channels = file->model.channels;
    input->short_side = (file->model.height * 256 + 112) / 224;
    input->bgr = meta->bgr;
    input->range = 255;
    bool given = meta->std[0] != 0 || meta->std[1] != 0 || meta->std[2] != 0;
    for (int i = 0; i < 3; i++) {
        input->mean[i] = (float)meta->mean[i];
        input->deviation[i] = given ? (float)meta->std[i] : 1;
    }
    return mabn_augment_check(input);
}

static mabn_status read_description(struct mabn_model_file *file)
{
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(file->checkpoint);
    mabn_checkpoint_get_meta(file->checkpoint, &file->meta);
    const char *config = file->meta.config;
    if (!config || !strcmp(config, "{}"))
        return mabn_fail(
            MABN_ERR_UNSUPPORTED,
            "does not say what network its tensors belong to (mabn-convert says it for "
            "the networks it knows)");
    file->detects = mabn_detector_describes(config);
    mabn_error_clear();
    if (file->detects) {
        if (mabn_h5_has_attribute(h5, "categories"))
            MABN_TRY(mabn_h5_get_string(h5, "categories", &file->categories));
        return mabn_detector_from_json(&file->detector, config);
    }
    MABN_TRY(mabn_model_from_json(&file->model, config));
    if (!mabn_h5_has_attribute(h5, "input")) return default_input(file);
    const char *json;
    MABN_TRY(mabn_h5_get_string(h5, "input", &json));
    MABN_TRY(mabn_augment_preset(&file->input, "plain", false));
    return mabn_input_from_json(&file->input, json, "attribute input");
}

mabn_status mabn_model_file_open(struct mabn_model_file *file, const char *path)
{
    memset(file, 0, sizeof *file);
    MABN_TRY(mabn_checkpoint_open(&file->checkpoint, path));
    mabn_status status = read_description(file);
    if (status) {
        mabn_fail_prefix(status, "'%s'", path);
        mabn_model_file_release(file);
    }
    return status;
}

void mabn_model_file_release(struct mabn_model_file *file)
{
    mabn_checkpoint_free(file->checkpoint);
    file->checkpoint = NULL;
}

/* ---- tensors ---- */

static const char *const prefixes[] = {[MABN_PARAMS_VALUE] = "model/",
                                       [MABN_PARAMS_STATE] = "model/",
                                       [MABN_PARAMS_MOMENTUM] = "optimizer/momentum/"};

static char *file_name(const struct mabn_params_tensor *tensor)
{
    return mabn_xasprintf("%s%s", prefixes[tensor->role], tensor->name);
}

static size_t tensor_bytes(const struct mabn_params_tensor *tensor)
{
    size_t count;
    if (!mabn_shape_count(&tensor->shape, &count)) MABN_BUG("tensor '%s' overflows", tensor->name);
    return count * mabn_dtype_size(tensor->dtype);
}

/* A buffer for the largest tensor, used for all. */
static mabn_status tensor_buffer(const struct mabn_params *params, void **buffer)
{
    size_t most = 1;
    for (int i = 0; i < mabn_params_count(params); i++) {
        size_t bytes = tensor_bytes(mabn_params_at(params, i));
        if (bytes > most) most = bytes;
    }
    return mabn_alloc(buffer, most);
}

mabn_status mabn_model_find_bad(const struct mabn_params *params, char **what)
{
    *what = NULL;
    for (int i = 0; i < mabn_params_count(params) && !*what; i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        void *values;
        if (t->role != MABN_PARAMS_VALUE && t->role != MABN_PARAMS_STATE) continue;
        MABN_TRY(mabn_alloc(&values, tensor_bytes(t)));
        mabn_status status = mabn_params_get(params, i, values, tensor_bytes(t));
        if (!status) *what = mabn_describe_unusable(t->name, &t->shape, t->dtype, values);
        mabn_free(values);
        MABN_TRY(status);
    }
    return MABN_OK;
}

static bool is_head(const char *name)
{
    return !strncmp(name, "fc.", 3);
}

/* What a detector predicts for each class. */
static bool is_predictor(const char *name)
{
    static const char *const names[] = {"roi_heads.box.predictor.cls_score.",
                                        "roi_heads.box.predictor.bbox_pred.",
                                        "roi_heads.mask.predictor.mask_fcn_logits."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(name, names[i], strlen(names[i]))) return true;
    return false;
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* Counters and windows depend on the window rule, and on the training they come from. */
static bool is_history(const char *name)
{
    static const char *const ends[] = {"iters",  "buffer_x2",  "buffer_gz",          "pre_x2",
                                       "pre_gz", "sta_matrix", "num_batches_tracked"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i])) return true;
    return false;
}

static bool same_count(const struct mabn_shape *a, const struct mabn_shape *b)
{
    size_t m, n;
    return mabn_shape_count(a, &m) && mabn_shape_count(b, &n) && m == n;
}

/* The file's tensor of that name in the layer whose names begin with `stem`. */
static const struct mabn_checkpoint_tensor *
find_in_layer(const struct mabn_model_file *file, const char *stem, int length, const char *end)
{
    char *name = mabn_xasprintf("model/%.*s%s", length, stem, end);
    const struct mabn_checkpoint_tensor *found = mabn_checkpoint_find(file->checkpoint, name);
    free(name);
    return found;
}

/* Does the layer of this tensor have a window in the file, but another one than here? */
static bool window_differs(const struct mabn_model_file *file, const struct mabn_params *params,
                           const struct mabn_params_tensor *tensor)
{
    static const char *const ends[] = {"pre_x2", "buffer_x2"};
    const char *stem = tensor->name, *dot = strrchr(stem, '.');
    bool there = false, same = false, here = false;
    if (!dot || tensor->role != MABN_PARAMS_STATE) return false;
    const int length = (int)(dot - stem) + 1;
    for (size_t e = 0; e < 2; e++) {
        const struct mabn_checkpoint_tensor *found = find_in_layer(file, stem, length, ends[e]);
        there = there || found;
        for (int i = 0; i < mabn_params_count(params); i++) {
            const struct mabn_params_tensor *t = mabn_params_at(params, i);
            if (strncmp(t->name, stem, (size_t)length) || strcmp(t->name + length, ends[e]))
                continue;
            here = true;
            same = same || (found && mabn_shape_equal(&found->shape, &t->shape));
        }
    }
    return there && here && !same;
}

/* A predictor of the file's classes as one of the network's: row by row, background too. All rows of a
 * class lie together; background is the first of them or, where it comes last, the last of the scores
 * and nowhere else. */
static mabn_status load_classes(const struct mabn_model_file *file,
                                const struct mabn_params_tensor *tensor,
                                const struct mabn_checkpoint_tensor *found,
                                const struct mabn_model_load *load, void *buffer)
{
    const struct mabn_box_convention *convention;
    const int mine = load->detector->classes, theirs = file->detector.classes;
    MABN_TRY(mabn_box_convention_find(&convention, load->detector->convention));
    const bool scores = strstr(tensor->name, "cls_score") != NULL;
    const int first = !convention->background_last, background = first || scores;
    const size_t bytes = tensor_bytes(tensor), row = bytes / (size_t)(mine + background);
    struct mabn_shape expected = tensor->shape;
    expected.dim[0] = expected.dim[0] / (mine + background) * (theirs + background);
    char *values = mabn_xmalloc(row * (size_t)(theirs + background) + 1), *to = buffer;
    const mabn_status status =
        mabn_checkpoint_read_as(file->checkpoint, found->name, tensor->dtype, &expected, values);
    if (!status && first) memcpy(to, values, row);
    for (int k = 0; k < mine && !status; k++)
        memcpy(to + (size_t)(k + first) * row, values + (size_t)(load->class_of[k] + first) * row,
               row);
    if (!status && !first && background)
        memcpy(to + (size_t)mine * row, values + (size_t)theirs * row, row);
    free(values);
    return status;
}

/* *taken: of the network's value or state, what of the file it is now; NULL: nothing. */
static mabn_status load_tensor(const struct mabn_model_file *file, struct mabn_params *params,
                               int index, const struct mabn_model_load *load, void *buffer,
                               const struct mabn_checkpoint_tensor **taken)
{
    const struct mabn_params_tensor *tensor = mabn_params_at(params, index);
    char *name = file_name(tensor);
    const struct mabn_checkpoint_tensor *found = mabn_checkpoint_find(file->checkpoint, name);
    mabn_status status = MABN_OK;
    *taken = NULL;
    bool same = found && mabn_shape_equal(&found->shape, &tensor->shape);
    bool constant = strstr(tensor->name, "sta_matrix") != NULL;
    if (!found && (constant || (tensor->role == MABN_PARAMS_STATE && load->other_state))) goto out;
    if (!found && tensor->role == MABN_PARAMS_MOMENTUM && load->some_momentum) goto out;
    const struct mabn_shape *shape = &tensor->shape;
    if (load->other_windows && window_differs(file, params, tensor)) {
        if (is_history(tensor->name)) goto out;
        if (found && same_count(&found->shape, shape)) shape = &found->shape;
        same = same || shape != &tensor->shape;
    }
    if (is_head(tensor->name) && (load->new_head || (!same && load->other_head))) goto out;
    if (found && !same && tensor->role == MABN_PARAMS_STATE && load->other_state) goto out;
    if (is_predictor(tensor->name) && load->new_classes) goto out;
    if (is_predictor(tensor->name) && load->class_of && found)
        MABN_TRY_GOTO(load_classes(file, tensor, found, load, buffer), out);
    else
        MABN_TRY_GOTO(mabn_checkpoint_read_as(file->checkpoint, name, tensor->dtype, shape, buffer),
                      out);
    char *bad = mabn_describe_unusable(tensor->name, &tensor->shape, tensor->dtype, buffer);
    if (bad) {
        status = mabn_fail(MABN_ERR_NONFINITE, "'%s': %s%s",
                           mabn_h5_path(mabn_checkpoint_file(file->checkpoint)),
                           tensor->role == MABN_PARAMS_MOMENTUM ? "the momentum of " : "", bad);
        free(bad);
        goto out;
    }
    status = mabn_params_set(params, index, buffer, tensor_bytes(tensor));
    *taken = found;
out:
    free(name);
    return status;
}

/* Report how many layers start their window anew. */
static void tell_windows(const struct mabn_model_file *file, const struct mabn_params *params)
{
    int fresh = 0;
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        if (ends_with(t->name, ".iters")) fresh += window_differs(file, params, t);
    }
    if (fresh)
        mabn_info("%d norms have another window than in '%s': their windows start empty", fresh,
                  mabn_h5_path(mabn_checkpoint_file(file->checkpoint)));
}

/* A failure of one tensor, carried from the thread that met it. */
struct load_failure {
    mabn_status status;
    char *message;
};

/* The first failure is told, whichever was met first. */
static mabn_status first_failure(struct load_failure *failures, int count)
{
    mabn_status status = MABN_OK;
    for (int i = 0; i < count; i++) {
        if (!failures[i].status) continue;
        if (status)
            free(failures[i].message);
        else
            status = mabn_error_attach(failures[i].status, failures[i].message);
    }
    free(failures);
    return status;
}

static bool is_loaded(const struct mabn_params_tensor *tensor, const struct mabn_model_load *load)
{
    return tensor->role == MABN_PARAMS_VALUE || tensor->role == MABN_PARAMS_STATE ||
           (tensor->role == MABN_PARAMS_MOMENTUM && load->momentum);
}

/* Several tensors at once on a CPU, where most of the time goes into memory's first touch; a GPU is
 * given them one after the other. */
mabn_status mabn_model_file_load(const struct mabn_model_file *file, struct mabn_params *params,
                                 const struct mabn_model_load *load)
{
    const int count = mabn_params_count(params);
    const struct mabn_device *device = mabn_params_device(params);
    const bool cpu = mabn_device_kind_of(device) == MABN_DEVICE_CPU;
    struct load_failure *failures = mabn_xcalloc((size_t)count + 1, sizeof *failures);
    const struct mabn_checkpoint_tensor **taken = mabn_xcalloc((size_t)count + 1, sizeof *taken);
#pragma omp parallel num_threads(cpu ? mabn_device_threads(device) : 1)
    {
        void *buffer = NULL;
        const mabn_status got = tensor_buffer(params, &buffer);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < count; i++) {
            if (!is_loaded(mabn_params_at(params, i), load)) continue;
            failures[i].status = got ? got : load_tensor(file, params, i, load, buffer, &taken[i]);
            if (failures[i].status) failures[i].message = mabn_error_detach();
        }
        mabn_free(buffer);
    }
    const mabn_status status = first_failure(failures, count);
    for (int i = 0; i < count && !status && load->taken; i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        if (t->role == MABN_PARAMS_VALUE || t->role == MABN_PARAMS_STATE)
            mabn_taken_add(load->taken, t->name, taken[i]);
    }
    free(taken);
    if (!status && load->other_windows) tell_windows(file, params);
    return status;
}

/* The classifier's name of a tensor of a detector's body; "" for other tensors. */
static void body_name(char name[128], const char *tensor)
{
    const char *const body = "backbone.body.", *const stem = "backbone.body.stem.";
    name[0] = 0;
    if (strncmp(tensor, body, strlen(body))) return;
    const size_t skip = !strncmp(tensor, stem, strlen(stem)) ? strlen(stem) : strlen(body);
    snprintf(name, 128, "model/%s", tensor + skip);
}

mabn_status mabn_model_file_load_body(const struct mabn_model_file *file,
                                      struct mabn_params *params, struct mabn_taken *taken)
{
    void *buffer;
    mabn_status status = MABN_OK;
    MABN_TRY(tensor_buffer(params, &buffer));
    for (int i = 0; i < mabn_params_count(params) && !status; i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        char name[128];
        if (t->role != MABN_PARAMS_VALUE && t->role != MABN_PARAMS_STATE) continue;
        body_name(name, t->name);
        const struct mabn_checkpoint_tensor *found =
            !name[0] || is_history(name) ? NULL : mabn_checkpoint_find(file->checkpoint, name);
        if (!found) {
            mabn_taken_add(taken, t->name, NULL);
            continue;
        }
        /* running_var is (C) or (1,C,1,1). */
        const bool same =
            same_count(&found->shape, &t->shape) &&
            (t->role == MABN_PARAMS_STATE || mabn_shape_equal(&found->shape, &t->shape));
        if (!same) {
            status =
                mabn_fail(MABN_ERR_MISMATCH, "'%s' has another shape than '%s'", name, t->name);
            break;
        }
        status = mabn_checkpoint_read_as(file->checkpoint, name, t->dtype, &found->shape, buffer);
        if (!status) status = mabn_params_set(params, i, buffer, tensor_bytes(t));
        if (!status) mabn_taken_add(taken, t->name, found);
    }
    mabn_free(buffer);
    if (!status && !taken->n_taken)
        status = mabn_fail(MABN_ERR_MISMATCH, "the file has no tensor of the detector's body");
    return status;
}

/* ---- saving ---- */

static bool is_saved(const struct mabn_params_tensor *tensor, const struct mabn_model_save *save)
{
    return tensor->role == MABN_PARAMS_VALUE || tensor->role == MABN_PARAMS_STATE ||
           (tensor->role == MABN_PARAMS_MOMENTUM && save->momentum);
}

static bool any_centralized(const struct mabn_model *model)
{
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        if (mabn_model_centralizes(model, (enum mabn_model_part)p)) return true;
    return false;
}

static mabn_status declare_tensors(struct mabn_checkpoint_writer *writer,
                                   const struct mabn_params *params,
                                   const struct mabn_model_save *save)
{
    mabn_status status = MABN_OK;
    for (int i = 0; i < mabn_params_count(params) && !status; i++) {
        const struct mabn_params_tensor *tensor = mabn_params_at(params, i);
        if (!is_saved(tensor, save)) continue;
        char *name = file_name(tensor);
        status = mabn_checkpoint_declare(writer, name, tensor->dtype, &tensor->shape);
        free(name);
    }
    return status;
}

static mabn_status write_tensors(struct mabn_checkpoint_writer *writer,
                                 const struct mabn_params *params,
                                 const struct mabn_model_save *save)
{
    void *buffer;
    MABN_TRY(tensor_buffer(params, &buffer));
    mabn_status status = MABN_OK;
    for (int i = 0; i < mabn_params_count(params) && !status; i++) {
        const struct mabn_params_tensor *tensor = mabn_params_at(params, i);
        if (!is_saved(tensor, save)) continue;
        char *name = file_name(tensor);
        status = mabn_params_get(params, i, buffer, tensor_bytes(tensor));
        if (!status) status = mabn_checkpoint_write(writer, name, buffer);
        free(name);
    }
    mabn_free(buffer);
    return status;
}

static mabn_status declare_shards(struct mabn_checkpoint_writer *writer,
                                  const struct mabn_shard_states *states)
{
    for (int i = 0; i < states->count; i++) {
        const struct mabn_shard_tensor *t = &states->tensors[i];
        if (t->data) MABN_TRY(mabn_checkpoint_declare(writer, t->name, t->dtype, &t->shape));
    }
    return MABN_OK;
}

static mabn_status write_shards(struct mabn_checkpoint_writer *writer,
                                const struct mabn_shard_states *states)
{
    for (int i = 0; i < states->count; i++)
        if (states->tensors[i].data)
            MABN_TRY(
                mabn_checkpoint_write(writer, states->tensors[i].name, states->tensors[i].data));
    return MABN_OK;
}

static void describe_classifier(const struct mabn_model_save *save,
                                struct mabn_checkpoint_meta *meta, struct mabn_str *config,
                                struct mabn_str *input, struct mabn_str *norm)
{
    mabn_model_to_json(save->model, config);
    mabn_input_to_json(save->input, input);
    mabn_model_norm_text(save->model, norm);
    meta->architecture = save->model->arch;
    meta->centralized = any_centralized(save->model);
    meta->bgr = save->input->bgr;
    for (int i = 0; i < 3; i++) {
        double scale = 255 / save->input->range;
        meta->mean[i] = save->input->mean[i] * scale;
        meta->std[i] = save->input->deviation[i] * scale;
    }
}

static void describe_detector(const struct mabn_model_save *save, struct mabn_checkpoint_meta *meta,
                              struct mabn_str *config, struct mabn_str *norm)
{
    const struct mabn_detector *d = save->detector;
    mabn_detector_to_json(d, config);
    mabn_detector_norm_text(d, norm);
    meta->architecture = d->arch;
    meta->centralized = any_centralized(&d->body);
    meta->bgr = d->bgr;
    for (int i = 0; i < 3; i++) {
        meta->mean[i] = d->pixel_mean[i] * 255 / d->range;
        meta->std[i] = d->pixel_deviation[i] * 255 / d->range;
    }
}

/* A file that says everything but the tensors' numbers. */
static mabn_status open_writer(struct mabn_checkpoint_writer **writer, const char *path, bool force,
                               const struct mabn_params *params, const struct mabn_model_save *save)
{
    struct mabn_str config, input, norm;
    struct mabn_checkpoint_meta meta;
    mabn_str_init(&config);
    mabn_str_init(&input);
    mabn_str_init(&norm);
    mabn_checkpoint_meta_init(&meta);
    if (save->detector)
        describe_detector(save, &meta, &config, &norm);
    else
        describe_classifier(save, &meta, &config, &input, &norm);
    meta.config = config.text;
    meta.step = save->step;
    meta.epoch = save->epoch;
    meta.sampler_position = save->sampler_position;
    meta.seed = save->seed;
    meta.norm = norm.text;
    meta.command = save->command;
    meta.tool = save->tool;

    mabn_status status = mabn_checkpoint_writer_open(writer, path, force, &meta);
    struct mabn_checkpoint_writer *w = *writer;
    if (status) goto out;
    if (!save->detector) mabn_checkpoint_set_string(w, "input", input.text);
    if (save->categories) mabn_checkpoint_set_string(w, "categories", save->categories);
    for (int i = 0; i < save->n_strings; i++)
        mabn_checkpoint_set_string(w, save->string_names[i], save->strings[i]);
    for (int i = 0; i < save->n_doubles; i++)
        mabn_checkpoint_set_double(w, save->double_names[i], save->doubles[i]);
    if (save->shards) mabn_checkpoint_set_int64(w, "shards", save->shards);
    if (save->shards) MABN_TRY_GOTO(declare_shards(w, save->shard_states), out);
    status = declare_tensors(w, params, save);
out:
    mabn_str_release(&config);
    mabn_str_release(&input);
    mabn_str_release(&norm);
    return status;
}

mabn_status mabn_model_file_write(struct mabn_checkpoint_writer **writer, const char *path,
                                  bool force, const struct mabn_params *params,
                                  const struct mabn_model_save *save)
{
    mabn_status status = open_writer(writer, path, force, params, save);
    if (!status) status = write_tensors(*writer, params, save);
    if (!status && save->shards) status = write_shards(*writer, save->shard_states);
    if (!status) return MABN_OK;
    mabn_checkpoint_writer_free(*writer);
    *writer = NULL;
    return status;
}

mabn_status mabn_model_file_save(const char *path, bool force, const struct mabn_params *params,
                                 const struct mabn_model_save *save)
{
    struct mabn_checkpoint_writer *writer;
    MABN_TRY(mabn_model_file_write(&writer, path, force, params, save));
    const mabn_status status = mabn_checkpoint_commit(writer);
    mabn_checkpoint_writer_free(writer);
    return status;
}
