/* A detector's three graphs. Layers, names and initialisation are the reference's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "detect/convention.h"
#include "model/detector.h"
#include "model/resnet.h"
#include "net/losses.h"

static const struct mabn_resnet_place body_place = {"backbone.body.stem.", "backbone.body.", false};

static const struct mabn_net_start narrow = {MABN_START_NORMAL, 0.01};

/* Uniform in ±sqrt(3/fan_in); N(0, 2/fan_out). */
static struct mabn_net_start uniform(double fan_in)
{
    return (struct mabn_net_start){MABN_START_UNIFORM, sqrt(3 / fan_in)};
}

static struct mabn_net_start normal(double fan_out)
{
    return (struct mabn_net_start){MABN_START_NORMAL, sqrt(2 / fan_out)};
}

/* The number of boxes or masks in a head's output: one for each class, and an unused one where
 * background comes first. */
static int groups(const struct mabn_detector *d)
{
    const struct mabn_box_convention *c;
    if (mabn_box_convention_find(&c, d->convention)) return d->classes + 1; /* checked before */
    return d->classes + !c->background_last;
}

bool mabn_detector_centralizes(const struct mabn_detector *d, const struct mabn_norm_options *norm)
{
    if (d->body.centralize != MABN_CENTRALIZE_AUTO)
        return d->body.centralize == MABN_CENTRALIZE_ON && norm->kind != MABN_NORM_NONE;
    return norm->kind == MABN_NORM_MABN;
}

static int relu(struct mabn_net *net, int x, const char *name)
{
    struct mabn_norm_options none;
    mabn_norm_options_init(&none, MABN_NORM_NONE);
    return mabn_net_add_norm(net, x, name, &none, -1, true);
}

/* ---- layers with norms ---- */

/* PyTorch numbers the layers of a sequence: convolution 0 and norm 1 where there is a norm. */
static struct mabn_detector_layer numbered(const struct mabn_norm_options *norm, const char *kind,
                                           int number)
{
    struct mabn_detector_layer layer = {.norm = norm};
    snprintf(layer.alone, sizeof layer.alone, "%s%d", kind, number);
    snprintf(layer.with, sizeof layer.with, "%s.0", layer.alone);
    snprintf(layer.after, sizeof layer.after, "%s.1", layer.alone);
    return layer;
}

static struct mabn_detector_layer fpn_layer(const struct mabn_detector *d, bool inner, int level)
{
    return numbered(&d->fpn, inner ? "backbone.fpn.fpn_inner" : "backbone.fpn.fpn_layer", level);
}

/* The box head's convolutions are one sequence, in which ReLU has a number too. */
static struct mabn_detector_layer box_conv(const struct mabn_detector *d, int i)
{
    struct mabn_detector_layer layer = {.norm = &d->box};
    const char *prefix = "roi_heads.box.feature_extractor.xconvs";
    const bool norm = d->box.kind != MABN_NORM_NONE;
    snprintf(layer.alone, sizeof layer.alone, "%s.%d", prefix, 2 * i);
    snprintf(layer.with, sizeof layer.with, "%s.%d", prefix, 3 * i);
    snprintf(layer.after, sizeof layer.after, "%s.%d", prefix, norm ? 3 * i + 1 : 2 * i + 1);
    return layer;
}

static struct mabn_detector_layer box_fc(const struct mabn_detector *d, int number)
{
    return numbered(&d->box, "roi_heads.box.feature_extractor.fc", number);
}

static struct mabn_detector_layer mask_conv(const struct mabn_detector *d, int i)
{
    return numbered(&d->mask, "roi_heads.mask.feature_extractor.mask_fcn", i + 1);
}

bool mabn_detector_layer_at(const struct mabn_detector *d, int i, struct mabn_detector_layer *layer)
{
    const int box = d->box_head == MABN_BOX_HEAD_CONV ? d->box_convs : 2;
    if (i < 8) {
        *layer = fpn_layer(d, i < 4, i % 4 + 1);
        return true;
    }
    i -= 8;
    if (i < box) {
        *layer = d->box_head == MABN_BOX_HEAD_CONV ? box_conv(d, i) : box_fc(d, 6 + i);
        return true;
    }
    i -= box;
    if (!d->masks || i >= d->mask_convs) return false;
    *layer = mask_conv(d, i);
    return true;
}

static bool is_of(const char *name, const char *layer)
{
    const size_t n = strlen(layer);
    return !strncmp(name, layer, n) && (!name[n] || name[n] == '.');
}

const struct mabn_norm_options *mabn_detector_norm_of(const struct mabn_detector *d,
                                                      const char *name)
{
    struct mabn_detector_layer layer;
    const size_t n = strlen(body_place.stages);
    if (!strncmp(name, body_place.stages, n)) return &d->body.norm[mabn_resnet_part_of(name + n)];
    for (int i = 0; mabn_detector_layer_at(d, i, &layer); i++)
        if (is_of(name, layer.alone) || is_of(name, layer.with) || is_of(name, layer.after))
            return layer.norm;
    return NULL;
}

/* A convolution with its norm, or with bias where there is none, then ReLU if asked. */
struct block {
    const struct mabn_detector *detector;
    struct mabn_detector_layer layer;
    int out, kernel;
    bool relu;
    struct mabn_net_start start;
};

static int add_block(struct mabn_net *net, int x, const struct block *b)
{
    const struct mabn_detector_layer *l = &b->layer;
    const bool norm = l->norm->kind != MABN_NORM_NONE;
    const struct mabn_net_conv conv = {.out_channels = b->out,
                                       .kernel = b->kernel,
                                       .stride = 1,
                                       .pad = b->kernel / 2,
                                       .bias = !norm,
                                       .centralize =
                                           mabn_detector_centralizes(b->detector, l->norm),
                                       .start = b->start};
    const int y = mabn_net_add_conv(net, x, norm ? l->with : l->alone, &conv);
    if (norm) return mabn_net_add_norm(net, y, l->after, l->norm, -1, b->relu);
    return b->relu ? relu(net, y, l->after) : y;
}

/* ---- body ---- */

static int stage_width(const struct mabn_detector *d, int stage)
{
    const bool bottleneck = mabn_resnet_find(d->body.arch)->bottleneck;
    return (d->body.base_width << stage) * (bottleneck ? d->body.expansion : 1);
}

static int fpn_conv(struct mabn_net *net, const struct mabn_detector *d, int x, bool inner,
                    int level, int in)
{
    const int kernel = inner ? 1 : 3;
    const struct block b = {.detector = d,
                            .layer = fpn_layer(d, inner, level),
                            .out = d->fpn_width,
                            .kernel = kernel,
                            .start = uniform((double)in * kernel * kernel)};
    return add_block(net, x, &b);
}

/* pyramid[0…4]: P2…P6. */
static void add_fpn(struct mabn_net *net, const struct mabn_detector *d, const int *stages,
                    int pyramid[MABN_DETECTOR_LEVELS])
{
    int merged = -1;
    for (int k = 3; k >= 0; k--) {
        char name[32];
        const int inner = fpn_conv(net, d, stages[k], true, k + 1, stage_width(d, k));
        snprintf(name, sizeof name, "fpn_merge%d", k + 1);
        merged = merged < 0 ? inner : mabn_net_add_upsample(net, inner, merged, name);
        pyramid[k] = fpn_conv(net, d, merged, false, k + 1, d->fpn_width);
    }
    pyramid[4] = mabn_net_add_max_pool(net, pyramid[3], 1, 2, 0);
}

static const struct mabn_box_convention *convention_of(const struct mabn_detector *d)
{
    const struct mabn_box_convention *c;
    if (mabn_box_convention_find(&c, d->convention)) MABN_BUG("%s", mabn_error_message());
    return c;
}

static void add_rpn(struct mabn_net *net, const struct mabn_detector *d, bool losses, int x,
                    int level)
{
    const struct mabn_net_conv three = {.out_channels = d->fpn_width,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad = 1,
                                        .bias = true,
                                        .start = narrow};
    struct mabn_net_conv one = {.out_channels = MABN_DETECTOR_RATIOS,
                                .kernel = 1,
                                .stride = 1,
                                .bias = true,
                                .start = narrow};
    char name[48];
    for (int i = 0; i < d->rpn_convs; i++) {
        snprintf(name, sizeof name, "rpn.head.conv");
        if (d->rpn_convs > 1) snprintf(name, sizeof name, "rpn.head.conv.%d", i);
        x = mabn_net_add_conv(net, x, name, &three);
        snprintf(name, sizeof name, "rpn_relu%d_%d", level, i);
        x = relu(net, x, name);
    }
    const int objectness = mabn_net_add_conv(net, x, "rpn.head.cls_logits", &one);
    one.out_channels = 4 * MABN_DETECTOR_RATIOS;
    const int deltas = mabn_net_add_conv(net, x, "rpn.head.bbox_pred", &one);
    snprintf(name, sizeof name, "objectness%d", level);
    mabn_net_add_output(net, objectness, name);
    snprintf(name, sizeof name, "deltas%d", level);
    mabn_net_add_output(net, deltas, name);
    if (!losses) return;
    snprintf(name, sizeof name, "loss_objectness%d", level);
    mabn_net_add_sigmoid_loss(net, objectness, name);
    const struct mabn_net_smooth_l1 l1 = {convention_of(d)->rpn_beta, 1};
    snprintf(name, sizeof name, "loss_rpn_box_reg%d", level);
    mabn_net_add_smooth_l1_loss(net, deltas, name, &l1);
}

void mabn_detector_add_body(struct mabn_net *net, const struct mabn_detector *d, bool losses)
{
    struct mabn_resnet_place place = body_place;
    int stages[4], pyramid[MABN_DETECTOR_LEVELS];
    char name[8];
    place.stem_bias = d->stem_bias;
    mabn_resnet_add_body(net, &d->body, &place, stages);
    add_fpn(net, d, stages, pyramid);
    for (int i = 0; i < MABN_DETECTOR_POOLED; i++) {
        snprintf(name, sizeof name, "p%d", i + 2);
        mabn_net_add_output(net, pyramid[i], name);
    }
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++)
        add_rpn(net, d, losses, pyramid[i], i + 2);
}

/* ---- heads ---- */

static int add_pooling(struct mabn_net *net, const struct mabn_detector *d, bool gradient, int size,
                       struct mabn_detector_head *head)
{
    const struct mabn_box_convention *convention;
    struct mabn_net_roi_align pool = {.size = size, .sampling = 2};
    if (!mabn_box_convention_find(&convention, d->convention)) {
        pool.sampling = convention->roi_sampling;
        pool.aligned = convention->roi_aligned;
    }
    for (int i = 0; i < MABN_DETECTOR_POOLED; i++) {
        char name[8];
        snprintf(name, sizeof name, "p%d", i + 2);
        head->features[i] = mabn_net_add_bound(net, name, d->fpn_width, gradient);
        pool.scale[i] = 1.0 / (4 << i);
    }
    head->rois =
        mabn_net_add_roi_align(net, "roi_align", head->features, MABN_DETECTOR_POOLED, &pool);
    return head->rois;
}

static int add_box_convs(struct mabn_net *net, const struct mabn_detector *d, int x)
{
    for (int i = 0; i < d->box_convs; i++) {
        const struct block b = {.detector = d,
                                .layer = box_conv(d, i),
                                .out = d->box_conv_width,
                                .kernel = 3,
                                .relu = true,
                                .start = narrow};
        x = add_block(net, x, &b);
    }
    return x;
}

/* A linear layer, with a norm where the "2fc" head has one, and ReLU. */
static int add_fc(struct mabn_net *net, const struct mabn_detector *d, int x, int number, int in,
                  bool norm)
{
    const struct mabn_detector_layer l = box_fc(d, number);
    const struct mabn_net_linear fc = {
        .out = d->box_width, .no_bias = norm, .start = uniform((double)in)};
    x = mabn_net_add_linear(net, x, norm ? l.with : l.alone, &fc);
    return norm ? mabn_net_add_norm(net, x, l.after, l.norm, -1, true) : relu(net, x, l.after);
}

struct mabn_detector_head mabn_detector_add_box_head(struct mabn_net *net,
                                                     const struct mabn_detector *d, bool losses)
{
    struct mabn_detector_head head;
    int x = add_pooling(net, d, losses, 7, &head);
    if (d->box_head == MABN_BOX_HEAD_CONV) {
        x = add_box_convs(net, d, x);
        x = add_fc(net, d, x, 6, 49 * (d->box_convs ? d->box_conv_width : d->fpn_width), false);
    } else {
        const bool norm = d->box.kind != MABN_NORM_NONE;
        x = add_fc(net, d, x, 6, 49 * d->fpn_width, norm);
        x = add_fc(net, d, x, 7, d->box_width, norm);
    }
    const struct mabn_net_linear classes = {.out = d->classes + 1, .start = narrow};
    const struct mabn_net_linear boxes = {.out = 4 * groups(d),
                                          .start = {MABN_START_NORMAL, 0.001}};
    const int logits = mabn_net_add_linear(net, x, "roi_heads.box.predictor.cls_score", &classes);
    const int deltas = mabn_net_add_linear(net, x, "roi_heads.box.predictor.bbox_pred", &boxes);
    mabn_net_add_output(net, logits, "class_logits");
    mabn_net_add_output(net, deltas, "box_deltas");
    if (!losses) return head;
    const struct mabn_net_smooth_l1 l1 = {convention_of(d)->box_beta, groups(d)};
    mabn_net_add_softmax_loss(net, logits, "loss_classifier");
    mabn_net_add_smooth_l1_loss(net, deltas, "loss_box_reg", &l1);
    return head;
}

struct mabn_detector_head mabn_detector_add_mask_head(struct mabn_net *net,
                                                      const struct mabn_detector *d, bool losses)
{
    struct mabn_detector_head head;
    int x = add_pooling(net, d, losses, 14, &head), width = d->fpn_width;
    for (int i = 0; i < d->mask_convs; i++) {
        const struct block b = {.detector = d,
                                .layer = mask_conv(d, i),
                                .out = d->mask_width,
                                .kernel = 3,
                                .relu = true,
                                .start = normal(9.0 * d->mask_width)};
        x = add_block(net, x, &b);
        width = d->mask_width;
    }
    /* PyTorch's initialization takes dimension 0 of a transposed convolution's weight for the
     * outputs. */
    const struct mabn_net_start up = normal(4.0 * width);
    x = mabn_net_add_transposed_conv(net, x, "roi_heads.mask.predictor.conv5_mask", d->mask_width,
                                     &up);
    x = relu(net, x, "mask_relu");
    const struct mabn_net_conv logits = {.out_channels = groups(d),
                                         .kernel = 1,
                                         .stride = 1,
                                         .bias = true,
                                         .start = normal(groups(d))};
    x = mabn_net_add_conv(net, x, "roi_heads.mask.predictor.mask_fcn_logits", &logits);
    mabn_net_add_output(net, x, "mask_logits");
    if (losses) mabn_net_add_sigmoid_loss(net, x, "loss_mask");
    return head;
}

/* ---- parameters ---- */

static void freeze(struct mabn_params *params, const struct mabn_detector *d)
{
    char prefix[48];
    if (d->frozen > 0) mabn_params_freeze(params, "backbone.body.stem.");
    for (int k = 1; k < d->frozen; k++) {
        snprintf(prefix, sizeof prefix, "backbone.body.layer%d.", k);
        mabn_params_freeze(params, prefix);
    }
}

mabn_status mabn_detector_declare(struct mabn_params *params, struct mabn_device *device,
                                  const struct mabn_detector *d, bool training)
{
    const struct mabn_params_groups groups = {.bias_rate = 2, .decay_gamma = true};
    const struct mabn_net_options options = {
        .batch = 1, .height = 64, .width = 64, .channels = 3, .params = params};
    MABN_TRY(mabn_detector_check(d));
    for (int part = 0; part < (d->masks ? 3 : 2); part++) {
        struct mabn_net *net;
        MABN_TRY(mabn_net_new(&net, device, &options));
        if (part == 0) mabn_detector_add_body(net, d, training);
        if (part == 1) mabn_detector_add_box_head(net, d, training);
        if (part == 2) mabn_detector_add_mask_head(net, d, training);
        const mabn_status status = mabn_net_built(net);
        mabn_net_free(net);
        if (status) return status;
    }
    freeze(params, d);
    mabn_params_group(params, &groups);
    return mabn_params_place(params, training);
}
