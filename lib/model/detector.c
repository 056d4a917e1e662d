/* The description of a detector: defaults, norms by part, JSON. */
#include "model/detector.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "detect/convention.h"
#include "model/fields.h"
#include "model/resnet.h"

static const struct mabn_word box_heads[] = {
    {MABN_BOX_HEAD_2FC, "2fc"}, {MABN_BOX_HEAD_CONV, "conv"}, {0, NULL}};

/* ---- architectures ---- */

static const char *const bodies[] = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"};
enum { BODIES = sizeof bodies / sizeof *bodies };

/* The body's place in `bodies`; from BODIES on without masks. */
const struct mabn_word mabn_detector_archs[] = {{0, "mask-rcnn-r18-fpn"},
                                                {1, "mask-rcnn-r34-fpn"},
                                                {2, "mask-rcnn-r50-fpn"},
                                                {3, "mask-rcnn-r101-fpn"},
                                                {4, "mask-rcnn-r152-fpn"},
                                                {BODIES, "faster-rcnn-r18-fpn"},
                                                {BODIES + 1, "faster-rcnn-r34-fpn"},
                                                {BODIES + 2, "faster-rcnn-r50-fpn"},
                                                {BODIES + 3, "faster-rcnn-r101-fpn"},
                                                {BODIES + 4, "faster-rcnn-r152-fpn"},
                                                {0, NULL}};

bool mabn_detector_is(const char *arch)
{
    const struct mabn_word *known = mabn_detector_archs;
    while (known->word && strcmp(known->word, arch))
        known++;
    return known->word;
}

static const struct mabn_detector defaults = {
    .classes = 80,
    .rpn_convs = 1,
    .fpn_width = 256,
    .box_head = MABN_BOX_HEAD_CONV,
    .box_convs = 4,
    .box_conv_width = 256,
    .box_width = 1024,
    .mask_convs = 4,
    .mask_width = 256,
    .convention = "legacy",
    .anchor_size = {32, 64, 128, 256, 512},
    .anchor_ratio = {0.5, 1, 2},
    .train = {2000, 2000, 2000},
    .test = {1000, 1000, 1000},
    .rpn_nms = 0.7,
    .rpn_foreground = 0.7,
    .rpn_background = 0.3,
    .rpn_batch = 256,
    .rpn_positive = 0.5,
    .box_foreground = 0.5,
    .box_background = 0.5,
    .box_batch = 512,
    .box_positive = 0.25,
    .min_score = 0.05,
    .nms = 0.5,
    .detections = 100,
    .min_size = 800,
    .max_size = 1333,
    .bgr = true,
    .range = 255,
    .pixel_mean = {102.9801, 115.9465, 122.7717},
    .pixel_deviation = {1, 1, 1},
};

mabn_status mabn_detector_init(struct mabn_detector *detector, const char *arch)
{
    int found;
    MABN_TRY(mabn_word_parse(&found, mabn_detector_archs, "detector", arch));
    *detector = defaults;
    snprintf(detector->arch, sizeof detector->arch, "%s", arch);
    detector->masks = found < BODIES;
    MABN_TRY(mabn_model_init(&detector->body, bodies[found % BODIES]));
    detector->body.stride_in_1x1 = true;
    return mabn_detector_set_norm(detector, "mabn");
}

/* ---- families ---- */

static const struct family {
    const char *convention;
    bool bgr, stride_in_1x1;
    double range, mean[3], deviation[3];
    struct mabn_detector_counts train;
} families[] = {
    {"legacy", true, true, 255, {102.9801, 115.9465, 122.7717}, {1, 1, 1}, {2000, 2000, 2000}},
    {"detectron2", true, true, 255, {103.53, 116.28, 123.675}, {1, 1, 1}, {2000, 2000, 1000}},
    {"torchvision",
     false,
     false,
     1,
     {0.485, 0.456, 0.406},
     {0.229, 0.224, 0.225},
     {2000, 2000, 2000}},
};

mabn_status mabn_detector_set_family(struct mabn_detector *d, const char *convention)
{
    const struct mabn_box_convention *known;
    MABN_TRY(mabn_box_convention_find(&known, convention));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        if (strcmp(f->convention, known->name)) continue;
        snprintf(d->convention, sizeof d->convention, "%s", known->name);
        d->bgr = f->bgr;
        d->body.stride_in_1x1 = f->stride_in_1x1;
        d->range = f->range;
        memcpy(d->pixel_mean, f->mean, sizeof f->mean);
        memcpy(d->pixel_deviation, f->deviation, sizeof f->deviation);
        d->train = f->train;
    }
    return MABN_OK;
}

/* ---- norms by part ---- */

enum { PARTS = MABN_MODEL_PARTS + 3 };

int mabn_detector_norms(struct mabn_detector *detector, struct mabn_norm_options *norms[8])
{
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        norms[p] = &detector->body.norm[p];
    norms[MABN_MODEL_PARTS] = &detector->fpn;
    norms[MABN_MODEL_PARTS + 1] = &detector->box;
    norms[MABN_MODEL_PARTS + 2] = &detector->mask;
    return PARTS;
}

/* Bit p stands for part p, in the order of mabn_detector_norms. */
static const struct mabn_word parts[] = {{0xff, "all"},      {0x1f, "body"},     {1 << 0, "stem"},
                                         {1 << 1, "layer1"}, {1 << 2, "layer2"}, {1 << 3, "layer3"},
                                         {1 << 4, "layer4"}, {1 << 5, "fpn"},    {0xc0, "heads"},
                                         {1 << 6, "box"},    {1 << 7, "mask"},   {0, NULL}};

static mabn_status set_part(struct mabn_detector *detector, const struct mabn_norm_options *before,
                            const char *part, const char *word)
{
    struct mabn_norm_options *norms[8];
    enum mabn_norm_kind kind;
    int chosen;
    MABN_TRY(mabn_norm_kind_parse(&kind, word));
    MABN_TRY(mabn_word_parse(&chosen, parts, "part", part));
    mabn_detector_norms(detector, norms);
    for (int p = 0; p < PARTS; p++) {
        if (!(chosen >> p & 1)) continue;
        const bool none = p >= MABN_MODEL_PARTS && kind == MABN_NORM_FROZEN;
        const enum mabn_norm_kind now = none ? MABN_NORM_NONE : kind;
        mabn_norm_options_choose(norms[p], &before[p], now);
        if (before[p].kind != now) norms[p]->window_rule = MABN_WINDOW_ITERATION;
    }
    return MABN_OK;
}

mabn_status mabn_detector_set_norm(struct mabn_detector *detector, const char *spec)
{
    struct mabn_norm_options *norms[8], before[8];
    char *copy = mabn_xstrdup(spec), *rest = copy, *item;
    mabn_status status = MABN_OK;
    const int count = mabn_detector_norms(detector, norms);
    for (int p = 0; p < count; p++)
        before[p] = *norms[p];
    while (!status && (item = strsep(&rest, ","))) {
        char *equals = strchr(item, '=');
        if (equals) *equals = 0;
        status = set_part(detector, before, equals ? item : "all", equals ? equals + 1 : item);
    }
    free(copy);
    return status;
}

static void add_part(struct mabn_str *text, const char *name, enum mabn_norm_kind kind)
{
    mabn_str_printf(text, "%s%s=%s", text->length ? "," : "", name, mabn_norm_kind_name(kind));
}

void mabn_detector_norm_text(const struct mabn_detector *detector, struct mabn_str *text)
{
    struct mabn_detector copy = *detector;
    struct mabn_norm_options *norms[8];
    struct mabn_str list;
    bool same = true, body = true;
    const int count = mabn_detector_norms(&copy, norms);
    for (int p = 1; p < count; p++) {
        same = same && norms[p]->kind == norms[0]->kind;
        if (p < MABN_MODEL_PARTS) body = body && norms[p]->kind == norms[0]->kind;
    }
    mabn_str_init(&list);
    if (same)
        mabn_str_add(&list, mabn_norm_kind_name(norms[0]->kind));
    else if (body)
        add_part(&list, "body", norms[0]->kind);
    for (int p = body ? MABN_MODEL_PARTS : 0; p < count && !same; p++)
        add_part(&list, mabn_word_name(parts, 1 << p), norms[p]->kind);
    mabn_str_add(text, list.text);
    mabn_str_release(&list);
}

/* ---- JSON ---- */

#define FIELD(type, name)                                                 \
    {                                                                     \
#name, MABN_FIELD_##type, offsetof(struct mabn_detector, name), 0 \
    }
#define ARRAY(type, name, n)                                              \
    {                                                                     \
#name, MABN_FIELD_##type, offsetof(struct mabn_detector, name), n \
    }
static const struct mabn_field fields[] = {
    FIELD(INT, classes),
    FIELD(BOOL, masks),
    FIELD(INT, rpn_convs),
    FIELD(BOOL, stem_bias),
    FIELD(INT, frozen),
    FIELD(INT, fpn_width),
    FIELD(INT, box_convs),
    FIELD(INT, box_conv_width),
    FIELD(INT, box_width),
    FIELD(INT, mask_convs),
    FIELD(INT, mask_width),
    ARRAY(DOUBLES, anchor_size, MABN_DETECTOR_LEVELS),
    ARRAY(DOUBLES, anchor_ratio, MABN_DETECTOR_RATIOS),
    ARRAY(INTS, train, 3),
    ARRAY(INTS, test, 3),
    FIELD(DOUBLE, rpn_nms),
    FIELD(DOUBLE, rpn_foreground),
    FIELD(DOUBLE, rpn_background),
    FIELD(INT, rpn_batch),
    FIELD(DOUBLE, rpn_positive),
    FIELD(DOUBLE, rpn_min_size),
    FIELD(DOUBLE, box_foreground),
    FIELD(DOUBLE, box_background),
    FIELD(INT, box_batch),
    FIELD(DOUBLE, box_positive),
    FIELD(DOUBLE, min_score),
    FIELD(DOUBLE, nms),
    FIELD(INT, detections),
    FIELD(INT, min_size),
    FIELD(INT, max_size),
    FIELD(BOOL, bgr),
    FIELD(DOUBLE, range),
    ARRAY(DOUBLES, pixel_mean, 3),
    ARRAY(DOUBLES, pixel_deviation, 3),
    {"expansion", MABN_FIELD_INT, offsetof(struct mabn_detector, body.expansion), 0},
};

void mabn_detector_to_json(const struct mabn_detector *detector, struct mabn_str *json)
{
    const struct mabn_norm_options *norms[] = {&detector->fpn, &detector->box, &detector->mask};
    struct mabn_json_writer w;
    struct mabn_str body;
    char key[32];
    mabn_json_writer_init(&w, json);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_string(&w, "arch", detector->arch);
    mabn_fields_write(&w, detector, fields, MABN_FIELDS(fields));
    mabn_json_put_string(&w, "box_head", mabn_word_name(box_heads, detector->box_head));
    mabn_json_put_string(&w, "convention", detector->convention);
    for (int p = 0; p < 3; p++) {
        snprintf(key, sizeof key, "norm_%s", mabn_word_name(parts, 1 << (MABN_MODEL_PARTS + p)));
        mabn_fields_write_norm(&w, key, norms[p]);
    }
    /* The body's own description, as a string: mabn_model_from_json reads it. */
    mabn_str_init(&body);
    mabn_model_to_json(&detector->body, &body);
    mabn_json_put_string(&w, "body", body.text);
    mabn_json_put_end(&w);
    mabn_str_release(&body);
}

/* The architecture determines all other defaults, so it is read first. */
static mabn_status read_arch(const char *json, char **arch, char **body)
{
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), "model description");
    struct mabn_json_text key;
    *arch = *body = NULL;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "arch") && !*arch)
            mabn_json_read_strdup(j, arch);
        else if (mabn_json_is(key, "body") && !*body)
            mabn_json_read_strdup(j, body);
        else
            mabn_json_skip(j);
    }
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    if (!status && !*arch)
        status = mabn_fail(MABN_ERR_FORMAT, "the model description names no architecture");
    return status;
}

bool mabn_detector_describes(const char *json)
{
    char *arch, *body;
    const bool is = !read_arch(json, &arch, &body) && mabn_detector_is(arch);
    free(arch);
    free(body);
    return is;
}

static void read_convention(struct mabn_json *j, struct mabn_detector *detector)
{
    struct mabn_json_text text;
    if (mabn_json_read_string(j, &text)) return;
    /* A longer one is none, as mabn_detector_check says. */
    const size_t most = sizeof detector->convention - 1;
    const size_t n = text.length < most ? text.length : most;
    memcpy(detector->convention, text.bytes, n);
    detector->convention[n] = 0;
}

static mabn_status read_fields(struct mabn_detector *detector, const char *json)
{
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), "model description");
    struct mabn_json_text key;
    int box_head = detector->box_head;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "box_head"))
            mabn_json_read_word(j, &box_head, box_heads, "box head");
        else if (mabn_json_is(key, "convention"))
            read_convention(j, detector);
        else if (mabn_json_is(key, "norm_fpn"))
            mabn_fields_read_norm(j, &detector->fpn);
        else if (mabn_json_is(key, "norm_box"))
            mabn_fields_read_norm(j, &detector->box);
        else if (mabn_json_is(key, "norm_mask"))
            mabn_fields_read_norm(j, &detector->mask);
        else if (!mabn_fields_read(j, key, detector, fields, MABN_FIELDS(fields)))
            mabn_json_skip(j);
    }
    detector->box_head = (enum mabn_box_head)box_head;
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    return status;
}

mabn_status mabn_detector_from_json(struct mabn_detector *detector, const char *json)
{
    char *arch, *body;
    mabn_status status = read_arch(json, &arch, &body);
    if (!status) status = mabn_detector_init(detector, arch);
    if (!status && body) status = mabn_model_from_json(&detector->body, body);
    if (!status) status = read_fields(detector, json);
    free(arch);
    free(body);
    return status ? status : mabn_detector_check(detector);
}

static bool within(double value, double low, double high)
{
    return value >= low && value <= high; /* false for NaN */
}

mabn_status mabn_detector_check(const struct mabn_detector *d)
{
    const struct mabn_box_convention *convention;
    const int counts[] = {d->train.pre_nms, d->train.post_nms, d->train.proposals,
                          d->test.pre_nms,  d->test.post_nms,  d->test.proposals,
                          d->rpn_batch,     d->box_batch,      d->detections};
    const int widths[] = {d->fpn_width,  d->box_width,       d->box_conv_width,
                          d->mask_width, d->body.base_width, d->body.expansion};
    const double shares[] = {d->rpn_nms,        d->rpn_foreground, d->rpn_background,
                             d->rpn_positive,   d->box_positive,   d->box_foreground,
                             d->box_background, d->min_score,      d->nms};
    MABN_TRY(mabn_box_convention_find(&convention, d->convention));
    if (d->classes < 1 || d->classes > 1 << 16)
        return mabn_fail(MABN_ERR_ARG, "a detector of %d classes", d->classes);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i] < 1 || counts[i] > 1 << 16)
            return mabn_fail(MABN_ERR_ARG,
                             "%d proposals, samples or detections: expected 1 to 65536", counts[i]);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i] < 1 || widths[i] > 1 << 13)
            return mabn_fail(MABN_ERR_ARG, "a width of %d: expected 1 to 8192", widths[i]);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        if (!within(shares[i], 0, 1))
            return mabn_fail(MABN_ERR_ARG, "a threshold or share of %g: expected 0 to 1",
                             shares[i]);
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++)
        if (!within(d->anchor_size[i], 1, 1e5))
            return mabn_fail(MABN_ERR_ARG, "an anchor of %g pixels", d->anchor_size[i]);
    for (int i = 0; i < MABN_DETECTOR_RATIOS; i++)
        if (!within(d->anchor_ratio[i], 0.01, 100))
            return mabn_fail(MABN_ERR_ARG, "an anchor of ratio %g", d->anchor_ratio[i]);
    if (d->rpn_convs < 1 || d->rpn_convs > 8 || d->box_convs < 0 || d->box_convs > 16 ||
        d->mask_convs < 0 || d->mask_convs > 16 || d->frozen < 0 || d->frozen > 5)
        return mabn_fail(MABN_ERR_ARG,
                         "too many convolutions, or stages frozen, in the description");
    if (d->min_size < 1 || d->max_size < d->min_size || d->max_size > 1 << 14)
        return mabn_fail(MABN_ERR_ARG, "pictures of %d to %d pixels", d->min_size, d->max_size);
    return MABN_OK;
}
