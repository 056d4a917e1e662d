/* Carrying out a conversion: the values of each entry, the notes, the output. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "detect/anchors.h"
#include "exchange/convert_impl.h"
#include "exchange/onnx.h"
#include "exchange/weights_impl.h"
#include "tensor/finite.h"

/* ---- values ---- */

/* Numbers of an item as float32, or NULL when there is no such item. */
static mabn_status read_item(struct mabn_convert *c, const struct item *item, float **values,
                             size_t *count)
{
    *values = NULL;
    *count = 0;
    if (!item) return MABN_OK;
    void *p = NULL;
    *count = mabn_convert_tensor(c, item)->count;
    MABN_TRY(mabn_alloc(&p, *count * sizeof(float)));
    mabn_status status = mabn_weights_read_f32(c->source, item->source, p);
    if (status)
        mabn_free(p);
    else
        *values = p;
    return status;
}

/* n values of a norm's item for an output of n channels. */
static mabn_status read_channel(struct mabn_convert *c, const struct entry *e, const char *leaf,
                                float **values)
{
    size_t n;
    MABN_TRY(read_item(c, mabn_convert_sibling(c, entry_name(e), leaf), values, &n));
    if (*values && n != e->weight.count) {
        mabn_free(*values);
        *values = NULL;
        return mabn_fail(MABN_ERR_MISMATCH, "the norm of '%s' has %zu and %zu channels",
                         e->weight.name, n, e->weight.count);
    }
    return MABN_OK;
}

static mabn_status fold(struct mabn_convert *c, const struct entry *e, float *out)
{
    const double eps = mabn_convert_eps(c, entry_name(e));
    float *weight = NULL, *bias = NULL, *mean = NULL, *var = NULL;
    mabn_status status;
    MABN_TRY_GOTO(read_channel(c, e, "weight", &weight), out);
    MABN_TRY_GOTO(read_channel(c, e, "bias", &bias), out);
    MABN_TRY_GOTO(read_channel(c, e, "running_mean", &mean), out);
    MABN_TRY_GOTO(read_channel(c, e, "running_var", &var), out);
    for (size_t i = 0; i < e->weight.count; i++) {
        double scale = (weight ? weight[i] : 1.0) / sqrt((var ? var[i] : 1.0) + eps);
        double shift = (bias ? bias[i] : 0.0) - (mean ? mean[i] * scale : 0.0);
        out[i] = (float)(e->origin == FOLDED_WEIGHT ? scale : shift);
        if (isfinite((float)scale) && isfinite((float)shift) && !(var && var[i] < 0)) continue;
        const char *name = entry_name(e);
        status = mabn_fail(
            MABN_ERR_NONFINITE,
            "'%s': norm '%.*s' cannot be folded: channel %zu has weight %g, bias %g, "
            "mean %g and variance %g",
            mabn_weights_path(c->source), (int)(leaf_of(name) - name) - 1, name, i,
            weight ? weight[i] : 1, bias ? bias[i] : 0, mean ? mean[i] : 0, var ? var[i] : 1);
        goto out;
    }
out:
    mabn_free(weight);
    mabn_free(bias);
    mabn_free(mean);
    mabn_free(var);
    return status;
}

static void center(float *w, size_t filters, size_t n)
{
    for (size_t f = 0; f < filters; f++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += w[f * n + i];
        for (size_t i = 0; i < n; i++)
            w[f * n + i] = (float)(w[f * n + i] - sum / (double)n);
    }
}

/* A convolution's weight or bias, with the norm behind it folded in. */
static mabn_status fold_conv(struct mabn_convert *c, const struct entry *e, float *out)
{
    const bool is_bias = e->origin == FOLDED_CONV_BIAS;
    const size_t outputs = (size_t)e->weight.shape.dim[0];
    const size_t n = outputs ? e->weight.count / outputs : 0;
    char *conv = mabn_xstrndup(entry_name(e), strlen(entry_name(e)) - (is_bias ? 5 : 7));
    char *norm = mabn_convert_norm_of(c, conv);
    struct mabn_weight t = {.name = mabn_xasprintf("%s.weight", norm), .count = outputs};
    struct entry scale = {.weight = t, .origin = FOLDED_WEIGHT};
    void *k = NULL;
    mabn_status status;
    if (is_bias) {
        scale.origin = FOLDED_BIAS;
        MABN_TRY_GOTO(fold(c, &scale, out), out);
        goto out;
    }
    MABN_TRY_GOTO(mabn_alloc(&k, outputs * sizeof(float)), out);
    MABN_TRY_GOTO(fold(c, &scale, k), out);
    MABN_TRY_GOTO(mabn_weights_read_f32(c->source, c->items[e->item].source, out), out);
    if (e->weight.shape.rank == 4 && mabn_convert_centers(c, conv)) center(out, outputs, n);
    for (size_t i = 0; i < e->weight.count; i++)
        out[i] *= ((float *)k)[i / n];
out:
    mabn_free(k);
    free((char *)t.name);
    free(norm);
    free(conv);
    return status;
}

/* The weight of a norm with variance v, changed so that weight/sqrt(v + eps) stays the same with
 * the epsilon `constant`. */
static mabn_status move_eps(struct mabn_convert *c, const struct entry *e, float *out)
{
    const double before = mabn_convert_eps(c, entry_name(e)), after = e->constant;
    float *var = NULL;
    MABN_TRY(mabn_weights_read_f32(c->source, c->items[e->item].source, out));
    MABN_TRY(read_channel(c, e, "running_var", &var));
    for (size_t i = 0; i < e->weight.count; i++) {
        const double v = var ? var[i] : 1;
        if (v + before > 0) out[i] = (float)(out[i] * sqrt((v + after) / (v + before)));
    }
    mabn_free(var);
    return MABN_OK;
}

static void fill_anchors(const struct mabn_convert *c, int level, float *out)
{
    const struct mabn_detector *d = &c->detector;
    const struct mabn_box_convention *convention;
    struct mabn_anchors anchors = mabn_anchors_usual(32);
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++)
        anchors.size[l] = d->anchor_size[l];
    memcpy(anchors.ratio, d->anchor_ratio, sizeof d->anchor_ratio);
    if (mabn_box_convention_find(&convention, "legacy")) MABN_BUG("no boxes of the reference");
    mabn_anchors_base(out, &anchors, level, convention);
}

/* Exchange input channels 0 and 2 of a convolution (outputs,3,…). */
static void flip_channels(float *w, size_t outputs, size_t n)
{
    const size_t pixels = n / 3;
    for (size_t o = 0; o < outputs; o++)
        for (size_t i = 0; i < pixels; i++) {
            float *first = w + o * n + i, *last = first + 2 * pixels, value = *first;
            *first = *last;
            *last = value;
        }
}

static mabn_status shift_mean(struct mabn_convert *c, const struct entry *e, float *out)
{
    float *bias = NULL, *mean = NULL;
    size_t n = 0;
    mabn_status status;
    const struct item *item = mabn_convert_find(c, "conv1.bias");
    if (!item) item = mabn_convert_find(c, "backbone.body.stem.conv1.bias");
    MABN_TRY_GOTO(read_item(c, item, &bias, &n), out);
    if (!c->options.fold_frozen) MABN_TRY_GOTO(read_channel(c, e, "running_mean", &mean), out);
    if (n != e->weight.count)
        status = mabn_fail(MABN_ERR_MISMATCH, "conv1's bias and norm have different lengths");
    for (size_t i = 0; i < e->weight.count && !status; i++)
        out[i] = (mean ? mean[i] : 0) - bias[i];
out:
    mabn_free(bias);
    mabn_free(mean);
    return status;
}

/* Values computed from others; all float32. */
static mabn_status make_values(struct mabn_convert *c, const struct entry *e, float *out)
{
    const size_t n = e->weight.count;
    const size_t rows = e->weight.shape.rank ? (size_t)e->weight.shape.dim[0] : 1;
    const size_t width = rows ? n / rows : 0;
    const struct item *item = &c->items[e->item];
    switch (e->origin) {
    case CONSTANT:
        for (size_t i = 0; i < n; i++)
            out[i] = e->constant;
        return MABN_OK;
    case FOLDED_WEIGHT:
    case FOLDED_BIAS:
        return fold(c, e, out);
    case FOLDED_CONV:
    case FOLDED_CONV_BIAS:
        return fold_conv(c, e, out);
    case SHIFTED_MEAN:
        return shift_mean(c, e, out);
    case CENTERED:
        MABN_TRY(mabn_weights_read_f32(c->source, item->source, out));
        center(out, rows, width);
        return MABN_OK;
    case EPS_MOVED:
        return move_eps(c, e, out);
    case ANCHORS:
        fill_anchors(c, (int)e->item, out);
        return MABN_OK;
    case CLASSES_ROTATED:
    case CLASSES_ROTATED_BACK: {
        float *values = NULL;
        size_t count = 0;
        const size_t by = e->origin == CLASSES_ROTATED ? n - width : width;
        MABN_TRY(read_item(c, item, &values, &count));
        for (size_t i = 0; i < n; i++)
            out[i] = values[(i + by) % n];
        mabn_free(values);
        return MABN_OK;
    }
    case BACKGROUND_ADDED: {
        size_t added = n - mabn_convert_tensor(c, item)->count;
        memset(out, 0, added * sizeof *out);
        return mabn_weights_read_f32(c->source, item->source, out + added);
    }
    case BACKGROUND_DROPPED: {
        float *values = NULL;
        size_t count = 0;
        MABN_TRY(read_item(c, item, &values, &count));
        memcpy(out, values + (count - n), n * sizeof *out);
        mabn_free(values);
        return MABN_OK;
    }
    default:
        MABN_BUG("entry '%s' is not made", e->weight.name);
    }
}

static mabn_status fresh_values(struct mabn_convert *c, const struct entry *e, void *out)
{
    if (c->like) return mabn_weights_read(c->like, e->net, out);
    if (!c->fresh)
        MABN_TRY(mabn_params_initialize(
            c->params, 0, c->has_detector ? MABN_PARAMS_INIT_FAN_IN : MABN_PARAMS_INIT_FAN_OUT));
    c->fresh = true;
    return mabn_params_get(c->params, (int)e->net, out, e->weight.bytes);
}

static void from_f32(void *out, const float *in, size_t n, enum mabn_dtype dtype)
{
    for (size_t i = 0; i < n; i++) {
        if (dtype == MABN_DTYPE_I64)
            ((int64_t *)out)[i] = (int64_t)in[i];
        else
            ((double *)out)[i] = in[i];
    }
}

static double value_at(const void *values, enum mabn_dtype dtype, size_t i)
{
    float v;
    if (dtype == MABN_DTYPE_I32) return ((const int32_t *)values)[i];
    if (dtype == MABN_DTYPE_F64) return ((const double *)values)[i];
    mabn_values_to_f32(&v, (const char *)values + i * mabn_dtype_size(dtype), 1, dtype);
    return v;
}

/* num_batches_tracked or iters from a tensor of another type: programs that average or halve all
 * tensors make floats of them. Nothing is computed from num_batches_tracked, so a fraction is rounded
 * there, and 0 stands for what is no number of 64 bits; mabn_convert_write says so. */
static mabn_status read_counters(struct mabn_convert *c, const struct entry *e, int64_t *out)
{
    const struct item *item = &c->items[e->item];
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    void *values = NULL;
    MABN_TRY(mabn_alloc(&values, t->bytes));
    mabn_status status = mabn_weights_read(c->source, item->source, values);
    for (size_t i = 0; i < e->weight.count && !status; i++) {
        const double v = value_at(values, t->dtype, i);
        const bool fits = fabs(v) < 0x1p63;
        out[i] = fits ? (int64_t)nearbyint(v) : 0;
        if (fits && v == nearbyint(v)) continue;
        if (strcmp(leaf_of(e->weight.name), "num_batches_tracked") != 0)
            status = mabn_fail(MABN_ERR_FORMAT, "'%s': '%s' is %g, not a whole number",
                               mabn_weights_path(c->source), t->name, v);
        else if (!c->odd_counters++ || e < c->first_counter) {
            c->first_counter = e;
            c->first_count = v;
        }
    }
    mabn_free(values);
    return status;
}

static mabn_status plain_values(struct mabn_convert *c, const struct entry *e, void *out)
{
    if (e->origin == FRESH) return fresh_values(c, e, out);
    if (e->origin != FROM_ITEM && e->weight.dtype == MABN_DTYPE_F32) return make_values(c, e, out);
    const struct item *item = &c->items[e->item];
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    if (e->origin == FROM_ITEM && t->dtype == e->weight.dtype)
        return mabn_weights_read(c->source, item->source, out);
    if (e->origin == FROM_ITEM && e->weight.dtype == MABN_DTYPE_I64)
        return read_counters(c, e, out);
    if (e->weight.dtype == MABN_DTYPE_F32)
        return mabn_weights_read_f32(c->source, item->source, out);
    if (e->weight.dtype != MABN_DTYPE_I64 && e->weight.dtype != MABN_DTYPE_F64)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' cannot be made %s", e->weight.name,
                         mabn_dtype_name(e->weight.dtype));
    void *values = NULL;
    MABN_TRY(mabn_alloc(&values, e->weight.count * sizeof(float)));
    mabn_status status = e->origin == FROM_ITEM
                             ? mabn_weights_read_f32(c->source, item->source, values)
                             : make_values(c, e, values);
    if (!status) from_f32(out, values, e->weight.count, e->weight.dtype);
    mabn_free(values);
    return status;
}

/* One entry's values, as written. */
static mabn_status entry_values(struct mabn_convert *c, const struct entry *e, void *out)
{
    MABN_TRY(plain_values(c, e, out));
    if (e->flipped)
        flip_channels(out, (size_t)e->weight.shape.dim[0],
                      e->weight.count / (size_t)e->weight.shape.dim[0]);
    return MABN_OK;
}

/* ---- notes ---- */

static mabn_status set_int(struct mabn_weights_writer *writer, const char *key, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return mabn_weights_set_note(writer, key, text);
}

static mabn_status set_triple(struct mabn_weights_writer *writer, const char *stem,
                              const char *const values[3])
{
    for (int i = 0; i < 3; i++) {
        char key[16];
        snprintf(key, sizeof key, "%s_%d", stem, i);
        MABN_TRY(mabn_weights_set_note(writer, key, values[i]));
    }
    return MABN_OK;
}

/* torchvision's validation: PIL's resize of the shorter side to 256 for 224, then the centre. It is
 * the trainer's note "input" (model/model_file.h); without one its default is as in the reference
 * implementation. */
static mabn_status set_torchvision_input(const struct mabn_convert *c,
                                         struct mabn_weights_writer *writer)
{
    static const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    const struct mabn_model *m = &c->model;
    struct mabn_json_writer w;
    struct mabn_str json;
    if (!c->has_model || m->channels != 3 || m->height < 64) return MABN_OK;
    mabn_str_init(&json);
    mabn_json_writer_init(&w, &json);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_int(&w, "width", m->width);
    mabn_json_put_int(&w, "height", m->height);
    mabn_json_put_int(&w, "channels", 3);
    mabn_json_put_string(&w, "crop", "centre");
    mabn_json_put_int(&w, "short_side", (m->height * 256 + 112) / 224);
    mabn_json_put_string(&w, "resize", "pil");
    mabn_json_put_string(&w, "order", "rgb");
    mabn_json_put_int(&w, "range", 1);
    mabn_json_put_doubles(&w, "mean", mean, 3);
    mabn_json_put_doubles(&w, "deviation", deviation, 3);
    mabn_json_put_end(&w);
    mabn_status status = mabn_weights_set_note(writer, "input", json.text);
    mabn_str_release(&json);
    return status;
}

static mabn_status set_pixels(const struct mabn_convert *c, struct mabn_weights_writer *writer)
{
    static const struct {
        const char *order, *mean[3], *std[3];
    } kinds[] = {
        [MABN_PIXELS_TORCHVISION] = {"rgb",
                                     {"123.675", "116.28", "103.53"},
                                     {"58.395", "57.12", "57.375"}},
        [MABN_PIXELS_REFERENCE] = {"bgr", {"0", "0", "0"}, {"1", "1", "1"}},
        [MABN_PIXELS_DETECTRON] = {"bgr", {"102.9801", "115.9465", "122.7717"}, {"1", "1", "1"}},
    };
    enum mabn_convert_pixels pixels = c->options.pixels;
    bool mabn = c->has_model && c->model.norm[MABN_PART_STEM].kind == MABN_NORM_MABN;
    if (pixels == MABN_PIXELS_AUTO) {
        if (c->own) return MABN_OK; /* the file's own notes say it */
        pixels = c->names != MABN_NAMES_OURS || !c->has_model ? MABN_PIXELS_DETECTRON
                 : mabn                                       ? MABN_PIXELS_REFERENCE
                                                              : MABN_PIXELS_TORCHVISION;
    }
    MABN_TRY(mabn_weights_set_note(writer, "channel_order", kinds[pixels].order));
    MABN_TRY(set_triple(writer, "mean", kinds[pixels].mean));
    MABN_TRY(set_triple(writer, "std", kinds[pixels].std));
    return pixels == MABN_PIXELS_TORCHVISION ? set_torchvision_input(c, writer) : MABN_OK;
}

static mabn_status set_detector(const struct mabn_convert *c, struct mabn_weights_writer *writer)
{
    const struct mabn_detector *d = &c->detector;
    struct mabn_str text;
    char mean[3][32], std[3][32];
    for (int i = 0; i < 3; i++) {
        snprintf(mean[i], sizeof mean[i], "%.9g", d->pixel_mean[i] * 255 / d->range);
        snprintf(std[i], sizeof std[i], "%.9g", d->pixel_deviation[i] * 255 / d->range);
    }
    const char *const means[3] = {mean[0], mean[1], mean[2]}, *const stds[3] = {std[0], std[1],
                                                                                std[2]};
    mabn_str_init(&text);
    mabn_detector_to_json(d, &text);
    mabn_status status = mabn_weights_set_note(writer, "config", text.text);
    mabn_str_clear(&text);
    mabn_detector_norm_text(d, &text);
    if (!status) status = mabn_weights_set_note(writer, "norm", text.text);
    mabn_str_release(&text);
    MABN_TRY(status);
    if (c->categories.length)
        MABN_TRY(mabn_weights_set_note(writer, "categories", c->categories.text));
    MABN_TRY(mabn_weights_set_note(writer, "architecture", d->arch));
    MABN_TRY(mabn_weights_set_note(writer, "channel_order", d->bgr ? "bgr" : "rgb"));
    MABN_TRY(set_triple(writer, "mean", means));
    MABN_TRY(set_triple(writer, "std", stds));
    return set_int(writer, "centralized", mabn_model_centralizes(&d->body, MABN_PART_LAYER1));
}

static mabn_status set_model(const struct mabn_convert *c, struct mabn_weights_writer *writer)
{
    if (!c->has_model) return MABN_OK;
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_model_to_json(&c->model, &text);
    mabn_status status = mabn_weights_set_note(writer, "config", text.text);
    mabn_str_clear(&text);
    mabn_model_norm_text(&c->model, &text);
    if (!status) status = mabn_weights_set_note(writer, "norm", text.text);
    mabn_str_release(&text);
    MABN_TRY(status);
    MABN_TRY(mabn_weights_set_note(writer, "architecture", c->model.arch));
    MABN_TRY(set_int(writer, "centralized", mabn_model_centralizes(&c->model, MABN_PART_LAYER1)));
    return set_int(writer, "folded", c->options.fold);
}

/* The progress of training, which is dropped together with the momentum. */
static bool is_training_note(const char *key)
{
    return !strcmp(key, "step") || !strcmp(key, "iteration") || !strcmp(key, "epoch") ||
           !strcmp(key, "sampler_position") || !strcmp(key, "seed") ||
           !strncmp(key, "optimizer.", 10) || !strncmp(key, "scheduler.", 10);
}

/* The description of a network that is no longer one of ours. */
static bool is_model_note(const char *key)
{
    return !strcmp(key, "config") || !strcmp(key, "architecture") || !strcmp(key, "norm") ||
           !strcmp(key, "centralized");
}

static mabn_status set_notes(const struct mabn_convert *c, struct mabn_weights_writer *writer,
                             const char *command, const char *tool)
{
    /* Our description does not fit the other program's tensors. */
    if (c->options.to >= 0) return MABN_OK;
    for (size_t i = 0; i < mabn_weights_note_count(c->source); i++) {
        const char *value, *key = mabn_weights_note_at(c->source, i, &value);
        if (c->options.weights_only && is_training_note(key)) continue;
        if (!c->options.as_is && !c->has_model && !c->has_detector && is_model_note(key)) continue;
        /* The trainer's own description of the input, which --pixels overrides. */
        if (c->options.pixels != MABN_PIXELS_AUTO && !strcmp(key, "input")) continue;
        MABN_TRY(mabn_weights_set_note(writer, !strcmp(key, "iteration") ? "step" : key, value));
    }
    if (c->has_detector) {
        MABN_TRY(set_detector(c, writer));
    } else if (!c->options.as_is) {
        MABN_TRY(set_model(c, writer));
        MABN_TRY(set_pixels(c, writer));
    }
    MABN_TRY(mabn_weights_set_note(writer, "command", command));
    return mabn_weights_set_note(writer, "tool", tool);
}

/* ---- the output ---- */

static void set_graph(const struct mabn_convert *c, struct mabn_weights_writer *writer)
{
    struct mabn_str graph;
    mabn_str_init(&graph);
    mabn_onnx_graph(&graph, c->net, c->options.fold);
    mabn_weights_set_graph(writer, &graph);
    mabn_str_release(&graph);
}

/* Two workers with a buffer each. They take turns in reading, because the source allows one thread;
 * the rest (checksums, writing, starting writeback) runs in parallel. */
enum { WORKERS = 2 };

struct stream {
    struct mabn_convert *c;
    struct mabn_weights_writer *writer;
    struct mabn_progress *progress;
    void *buffers[WORKERS];
    pthread_mutex_t reading;
    size_t bad;        /* tensors with numbers that no network can use */
    int64_t first_bad; /* the first of them in the output's order, and what is wrong with it */
    char *what;
};

/* Folding computes with the numbers, so such numbers are an error there. Other conversions go on and
 * report them, so that a broken checkpoint can be looked at with other programs. */
static mabn_status check_finite(struct stream *s, int64_t index, const void *values)
{
    const struct entry *e = &s->c->entries[index];
    if (e->weight.part != MABN_WEIGHT_MODEL) return MABN_OK;
    const struct mabn_weight *t = &e->weight;
    char *what = mabn_describe_unusable(t->name, &t->shape, t->dtype, values);
    if (!what) return MABN_OK;
    mabn_status status = MABN_OK;
    pthread_mutex_lock(&s->reading);
    if (s->c->options.fold || s->c->options.fold_frozen)
        status = mabn_fail(MABN_ERR_NONFINITE, "'%s': %s", mabn_weights_path(s->c->source), what);
    if (!s->bad++ || index < s->first_bad) {
        char *before = s->what;
        s->what = what;
        s->first_bad = index;
        what = before;
    }
    pthread_mutex_unlock(&s->reading);
    free(what);
    return status;
}

static mabn_status stream_entry(void *context, int64_t index, int worker)
{
    struct stream *s = context;
    const struct entry *e = &s->c->entries[index];
    void *values = s->buffers[worker];
    pthread_mutex_lock(&s->reading);
    mabn_status status = entry_values(s->c, e, values);
    pthread_mutex_unlock(&s->reading);
    MABN_TRY(status);
    MABN_TRY(check_finite(s, index, values));
    MABN_TRY(mabn_weights_write(s->writer, (size_t)index, values));
    mabn_progress_add(s->progress, e->weight.bytes);
    return MABN_OK;
}

static mabn_status stream_entries(struct mabn_convert *c, struct mabn_weights_writer *writer,
                                  size_t largest, struct mabn_progress *progress)
{
    struct stream s = {
        .c = c, .writer = writer, .progress = progress, .reading = PTHREAD_MUTEX_INITIALIZER};
    mabn_status status;
    MABN_TRY(mabn_weights_begin(writer));
    for (int i = 0; i < WORKERS; i++)
        MABN_TRY_GOTO(mabn_alloc(&s.buffers[i], largest), out);
    status = mabn_parallel(WORKERS, (int64_t)c->entry_count, 1, stream_entry, &s);
    if (!status && s.bad)
        mabn_warn("%zu tensor%s with numbers that are not finite, or a negative variance: %s%s; no "
                  "tool runs such a network",
                  s.bad, s.bad == 1 ? "" : "s", s.bad == 1 ? "" : "the first, ", s.what);
    if (!status && c->odd_counters)
        mabn_warn("%zu num_batches_tracked %s no whole number (the first: '%s', %g): rounded, or 0 "
                  "where it is no number of 64 bits",
                  c->odd_counters, c->odd_counters == 1 ? "is" : "are",
                  c->first_counter->weight.name, c->first_count);
out:
    free(s.what);
    for (int i = 0; i < WORKERS; i++)
        mabn_free(s.buffers[i]);
    return status;
}

static mabn_status check_onnx_norms(const struct mabn_convert *c)
{
    for (int i = 0; i < mabn_net_node_count(c->net); i++) {
        const struct mabn_norm_options *norm = mabn_net_node_at(c->net, i).norm;
        if (norm && mabn_norm_act_name(norm->kind))
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "'%s' has norm %s, which cannot be written as ONNX",
                             mabn_weights_path(c->source), mabn_norm_kind_name(norm->kind));
    }
    return MABN_OK;
}

mabn_status mabn_convert_write(struct mabn_convert *c, const char *path,
                               enum mabn_weights_format format, bool force, const char *command,
                               const char *tool, struct mabn_progress *progress)
{
    struct mabn_weights_writer *writer = NULL;
    size_t largest = 0;
    mabn_status status;
    if (format == MABN_WEIGHTS_ONNX && c->net && !c->model.classes)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "a network without classifier cannot be written as ONNX");
    if (format == MABN_WEIGHTS_ONNX && c->net) MABN_TRY(check_onnx_norms(c));
    MABN_TRY_GOTO(mabn_weights_create(&writer, path, format, force), out);
    for (size_t i = 0; i < c->entry_count; i++) {
        MABN_TRY_GOTO(mabn_weights_declare(writer, &c->entries[i].weight), out);
        if (c->entries[i].weight.bytes > largest) largest = c->entries[i].weight.bytes;
    }
    MABN_TRY_GOTO(set_notes(c, writer, command, tool), out);
    if (format == MABN_WEIGHTS_ONNX && c->net) set_graph(c, writer);
    if (format == MABN_WEIGHTS_ONNX && c->has_detector)
        mabn_warn(
            "'%s' gets a detector's tensors alone: a graph that a program could run is written "
            "of classifiers",
            path);
    MABN_TRY_GOTO(stream_entries(c, writer, largest, progress), out);
    status = mabn_weights_commit(writer);
out:
    mabn_weights_writer_free(writer);
    return status;
}
