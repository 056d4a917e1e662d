/* Recognizing the detector in a file by the names and shapes of its tensors. Settings that no file
 * holds are the defaults of the program that wrote it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coco/categories.h"
#include "coco/dataset.h"
#include "detect/anchors.h"
#include "exchange/convert_impl.h"
#include "model/detector_request.h"

#define BODY "backbone.body."
#define INNER "backbone.fpn.fpn_inner1"
#define BOX "roi_heads.box.feature_extractor."
#define BOX_OUT "roi_heads.box.predictor."
#define MASK "roi_heads.mask.feature_extractor."
#define MASK_OUT "roi_heads.mask.predictor."

/* ---- what is not known here ---- */

/* A part of a name, and what the file contains when a name has it. */
static const struct {
    const char *part, *what;
} strangers[] = {
    {"keypoint", "a keypoint head"},
    {"roi_heads.res5.", "a head made of the body's last stage (C4)"},
    {"roi_heads.box_head.0.fc", "a cascade of box heads"},
    {"roi_heads.box_predictor.0.", "a cascade of box heads"},
    {"conv2_offset", "deformable convolutions"},
    {".offset.weight", "deformable convolutions"},
    {"sem_seg_head", "a head for semantic segmentation"},
    {"cls_subnet", "a RetinaNet"},
    {"head.classification_head", "a detector of one stage"},
    {"roi_heads.mask_coarse_head", "PointRend"},
    {"fpn.lastlevel", "a pyramid with further convolutions"},
    {"backbone.fpn.extra_blocks", "a pyramid with further convolutions"},
};

static mabn_status refuse_strangers(const struct mabn_convert *c)
{
    for (size_t i = 0; i < c->item_count; i++) {
        const struct mabn_weight *t = mabn_convert_tensor(c, &c->items[i]);
        for (size_t k = 0; k < sizeof strangers / sizeof *strangers; k++)
            if (t->part == MABN_WEIGHT_MODEL && strstr(t->name, strangers[k].part))
                return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' has %s ('%s'), which is not supported",
                                 mabn_weights_path(c->source), strangers[k].what, t->name);
    }
    return MABN_OK;
}

/* ---- families ---- */

struct family {
    const char *convention;
    double frozen_eps;
    enum mabn_category_order order;
};

static const struct family families[] = {
    {"legacy", 0, MABN_CATEGORIES_AS_GIVEN},
    {"torchvision", 0, MABN_CATEGORIES_BY_NUMBER},
    {"detectron2", 1e-5, MABN_CATEGORIES_SORTED},
};

static const struct family *family_of(enum mabn_names names)
{
    return &families[names == MABN_NAMES_TORCHVISION ? 1 : names == MABN_NAMES_DETECTRON2 ? 2 : 0];
}

static const struct family *family_with(const char *convention)
{
    size_t i = 0;
    while (i + 1 < sizeof families / sizeof *families && strcmp(families[i].convention, convention))
        i++;
    return &families[i];
}

/* --pixels, as for classifiers. */
static mabn_status set_pixels(struct mabn_detector *d, enum mabn_convert_pixels pixels)
{
    struct mabn_detector like = *d;
    if (pixels == MABN_PIXELS_AUTO) return MABN_OK;
    MABN_TRY(mabn_detector_set_family(&like, pixels == MABN_PIXELS_TORCHVISION ? "torchvision"
                                                                               : "legacy"));
    d->bgr = like.bgr;
    d->range = like.range;
    for (int i = 0; i < 3; i++) {
        d->pixel_mean[i] = pixels == MABN_PIXELS_REFERENCE ? 0 : like.pixel_mean[i];
        d->pixel_deviation[i] = like.pixel_deviation[i];
    }
    return MABN_OK;
}

/* ---- shapes ---- */

static int width_of(const struct mabn_convert *c, const char *plain, const char *with_norm,
                    int axis)
{
    const int64_t n = mabn_convert_dim(c, plain, axis);
    return (int)(n ? n : mabn_convert_dim(c, with_norm, axis));
}

static bool has(const struct mabn_convert *c, const char *name)
{
    return mabn_convert_find(c, name) != NULL;
}

/* How many of the tensors NAME(first), NAME(first + step), … there are, with `end` after the number. */
static int count_layers(const struct mabn_convert *c, const char *name, int first, int step,
                        const char *end)
{
    char text[96];
    int n = 0;
    for (;; n++) {
        snprintf(text, sizeof text, "%s%d%s", name, first + n * step, end);
        if (!has(c, text)) return n;
    }
}

static mabn_status find_arch(struct mabn_convert *c, struct mabn_detector *d)
{
    const char *body = mabn_convert_guess_arch(c, BODY);
    const bool masks = has(c, MASK_OUT "mask_fcn_logits.weight");
    for (const struct mabn_word *arch = mabn_detector_archs; body && arch->word; arch++) {
        MABN_TRY(mabn_detector_init(d, arch->word));
        if (d->masks == masks && !strcmp(d->body.arch, body)) return MABN_OK;
    }
    return mabn_fail(
        MABN_ERR_UNSUPPORTED,
        "'%s' is a detector whose body is not a supported ResNet: 18, 34, 50, 101, 152",
        mabn_weights_path(c->source));
}

static void find_body(const struct mabn_convert *c, struct mabn_detector *d)
{
    const int outputs = (int)mabn_convert_dim(c, BODY "layer1.0.conv3.weight", 0);
    d->body.base_width = (int)mabn_convert_dim(c, BODY "stem.conv1.weight", 0);
    if (outputs && d->body.base_width) d->body.expansion = outputs / d->body.base_width;
    d->stem_bias = has(c, BODY "stem.conv1.bias");
    d->fpn_width = width_of(c, INNER ".weight", INNER ".0.weight", 0);
    const int convs = count_layers(c, "rpn.head.conv.", 0, 1, ".weight");
    d->rpn_convs = convs ? convs : 1;
}

static void find_heads(const struct mabn_convert *c, struct mabn_detector *d)
{
    const bool norm = has(c, BOX "xconvs.1.weight");
    d->box_head = has(c, BOX "xconvs.0.weight") ? MABN_BOX_HEAD_CONV : MABN_BOX_HEAD_2FC;
    if (d->box_head == MABN_BOX_HEAD_CONV) {
        d->box_convs = count_layers(c, BOX "xconvs.", 0, norm ? 3 : 2, ".weight");
        d->box_conv_width = (int)mabn_convert_dim(c, BOX "xconvs.0.weight", 0);
    }
    d->box_width = width_of(c, BOX "fc6.weight", BOX "fc6.0.weight", 0);
    d->classes = (int)mabn_convert_dim(c, BOX_OUT "cls_score.weight", 0) - 1;
    if (!d->masks) return;
    const int plain = count_layers(c, MASK "mask_fcn", 1, 1, ".weight");
    const int with_norm = count_layers(c, MASK "mask_fcn", 1, 1, ".0.weight");
    d->mask_convs = plain ? plain : with_norm;
    d->mask_width = (int)mabn_convert_dim(c, MASK_OUT "conv5_mask.weight", 1);
}

/* ---- norms ---- */

/* The norm at STEM. Where there is none, convolutions have a bias. */
static void find_norm(const struct mabn_convert *c, const char *stem,
                      struct mabn_norm_options *norm)
{
    if (!mabn_convert_leaf(c, stem, "weight")) {
        mabn_norm_options_init(norm, MABN_NORM_NONE);
        return;
    }
    mabn_convert_guess_norm(c, stem, norm);
    norm->norm_batch = 0;
    if (norm->kind == MABN_NORM_MABN) norm->window_rule = MABN_WINDOW_ITERATION;
}

static void become(struct mabn_norm_options *norm, enum mabn_norm_kind kind)
{
    mabn_norm_options_init(norm, kind);
    norm->window_rule = MABN_WINDOW_ITERATION;
}

/* Decide what names and shapes leave open. In a body, a running mean and variance without a counter
 * belong to a norm that is not trained. A weight and a bias alone belong to such a norm or to GN; a
 * body has GN if the pyramid has. In the reference, SyncBN comes with a bias in the stem. */
static void settle_norms(const struct mabn_convert *c, struct mabn_detector *d)
{
    const bool group = has(c, INNER ".1.weight") && !has(c, INNER ".1.running_var");
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        struct mabn_norm_options *norm = &d->body.norm[p];
        if (norm->kind == MABN_NORM_BN && !has(c, BODY "stem.bn1.num_batches_tracked"))
            become(norm, MABN_NORM_FROZEN);
        if (norm->kind == MABN_NORM_BN && d->stem_bias) become(norm, MABN_NORM_SYNCBN);
        if (norm->kind == MABN_NORM_FROZEN && group && !has(c, BODY "stem.bn1.running_var"))
            become(norm, MABN_NORM_GN);
    }
    struct mabn_norm_options *const others[] = {&d->fpn, &d->box, &d->mask};
    for (int i = 0; i < 3; i++) {
        if (others[i]->kind == MABN_NORM_FROZEN)
            become(others[i], group ? MABN_NORM_GN : MABN_NORM_BN);
        if (others[i]->kind == MABN_NORM_BN && d->stem_bias) become(others[i], MABN_NORM_SYNCBN);
    }
}

static mabn_status find_norms(const struct mabn_convert *c, struct mabn_detector *d)
{
    static const char *const box[] = {BOX "xconvs.1", BOX "fc6.1"};
    const struct mabn_norm_request request = MABN_NORM_REQUEST_INIT;
    char stem[64];
    find_norm(c, BODY "stem.bn1", &d->body.norm[MABN_PART_STEM]);
    for (int s = 1; s < MABN_MODEL_PARTS; s++) {
        snprintf(stem, sizeof stem, BODY "layer%d.0.bn1", s);
        find_norm(c, stem, &d->body.norm[MABN_PART_STEM + s]);
    }
    find_norm(c, INNER ".1", &d->fpn);
    find_norm(c, box[d->box_head == MABN_BOX_HEAD_2FC], &d->box);
    find_norm(c, MASK "mask_fcn1.1", &d->mask);
    settle_norms(c, d);
    if (c->options.norm) MABN_TRY(mabn_detector_set_norm(d, c->options.norm));
    return mabn_detector_request_norm(d, &request); /* GN's groups */
}

static void set_frozen(const struct mabn_convert *c, struct mabn_detector *d,
                       const struct family *family)
{
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        struct mabn_norm_options *norm = &d->body.norm[p];
        if (norm->kind != MABN_NORM_FROZEN) continue;
        norm->eps = c->options.frozen_eps >= 0 ? c->options.frozen_eps : family->frozen_eps;
        d->frozen = 2; /* stem and layer1, in all families */
    }
}

/* ---- anchors ---- */

/* Are these the anchors that the detector has on this level? */
static bool are_usual(const float box[3][4], const struct mabn_detector *d, int level)
{
    const struct mabn_box_convention *convention;
    struct mabn_anchors anchors = mabn_anchors_usual(32);
    float usual[3][4];
    if (mabn_box_convention_find(&convention, d->convention)) return false;
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++)
        anchors.size[l] = d->anchor_size[l];
    mabn_anchors_base(&usual[0][0], &anchors, level, convention);
    for (int i = 0; i < 12; i++)
        if (!(fabs((double)usual[i / 4][i % 4] - box[i / 4][i % 4]) < 0.75))
            return false; /* NaN too */
    return true;
}

/* The reference and older detectron2 keep anchors in the file. A level's size is the side of its
 * square anchor. */
static mabn_status find_anchors(struct mabn_convert *c, struct mabn_detector *d)
{
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        char name[64];
        snprintf(name, sizeof name, "rpn.anchor_generator.cell_anchors.%d", l);
        struct item *item = mabn_convert_find(c, name);
        float box[3][4];
        if (!item) continue;
        item->used = true;
        if (mabn_convert_tensor(c, item)->count != 12)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': '%s' is not three anchors",
                             mabn_weights_path(c->source), name);
        MABN_TRY(mabn_weights_read_f32(c->source, item->source, box[0]));
        const double one = strcmp(d->convention, "legacy") ? 0 : 1;
        const double side = round(box[1][2] - (double)box[1][0] + one);
        if (side >= 1 && side <= 1e5) d->anchor_size[l] = side;
        if (!are_usual(box, d, l))
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "'%s': the anchors '%s' do not have the ratios 0.5, 1 and 2 around "
                             "the centre of a cell",
                             mabn_weights_path(c->source), name);
    }
    return MABN_OK;
}

/* ---- all together ---- */

static mabn_status refuse_count(const struct mabn_convert *c, const char *what, int64_t have,
                                const char *wanted)
{
    return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': %s has %lld outputs, not %s",
                     mabn_weights_path(c->source), what, (long long)have, wanted);
}

static mabn_status check_outputs(const struct mabn_convert *c, const struct mabn_detector *d)
{
    const int64_t anchors = mabn_convert_dim(c, "rpn.head.cls_logits.weight", 0),
                  boxes = mabn_convert_dim(c, BOX_OUT "bbox_pred.weight", 0),
                  masks = mabn_convert_dim(c, MASK_OUT "mask_fcn_logits.weight", 0);
    if (anchors != MABN_DETECTOR_RATIOS)
        return refuse_count(c, "the region proposal network", anchors, "one for each of 3 anchors");
    /* Four for each class, and four for the background if that comes first. */
    const bool each = boxes == 4 * (int64_t)d->classes || boxes == 4 * ((int64_t)d->classes + 1);
    if (!each && (boxes == 4 || boxes == 8))
        return refuse_count(c, "the box head", boxes,
                            "four for each class: it regresses one box "
                            "for all classes, which is not known here");
    if (d->masks && masks == 1 && d->classes > 1)
        return refuse_count(c, "the mask head", masks,
                            "one for each class: it draws one mask for "
                            "all classes, which is not known here");
    if (d->classes < 1) return refuse_count(c, "the classifier", d->classes + 1, "two or more");
    return MABN_OK;
}

/* The network and its parts, but not how its program uses it. */
static mabn_status find_shape(struct mabn_convert *c, struct mabn_detector *d)
{
    MABN_TRY(find_arch(c, d));
    find_body(c, d);
    find_heads(c, d);
    MABN_TRY(check_outputs(c, d));
    return mabn_detector_check(d);
}

/* A network is built from the file's description only if its tensors exist in the described size.
 * Memory is then bounded by the file's size. */
static mabn_status check_sizes(const struct mabn_convert *c, const struct mabn_detector *d)
{
    const int last = d->body.base_width << 3;
    if (mabn_convert_dim(c, BODY "layer4.0.conv2.weight", 0) != last ||
        mabn_convert_dim(c, BODY "layer4.0.conv2.weight", 1) != last)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s': the body's first stage is %d channels wide, and its last not 8 "
                         "times as many",
                         mabn_weights_path(c->source), d->body.base_width);
    if (mabn_convert_dim(c, "backbone.fpn.fpn_inner4.weight", 0) != d->fpn_width &&
        mabn_convert_dim(c, "backbone.fpn.fpn_inner4.0.weight", 0) != d->fpn_width)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s': the levels of the pyramid differ in width",
                         mabn_weights_path(c->source));
    return MABN_OK;
}

static bool has_detector(const struct mabn_convert *c)
{
    static const char *const needed[] = {BODY "stem.conv1.weight", "rpn.head.cls_logits.weight",
                                         BOX_OUT "cls_score.weight", BOX_OUT "bbox_pred.weight"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!has(c, needed[i])) return false;
    return true;
}

static mabn_status read_categories(struct mabn_convert *c, const struct family *family)
{
    const int classes = c->detector.classes;
    struct mabn_coco coco;
    if (!c->options.categories) {
        c->assumes_coco = mabn_coco_categories_2017(&c->categories, classes, family->order);
        return MABN_OK;
    }
    MABN_TRY(mabn_coco_read_any(&coco, c->options.categories, 0));
    const mabn_status status = mabn_coco_categories(&c->categories, &coco, classes, family->order);
    mabn_coco_release(&coco);
    if (status) mabn_fail_prefix(status, "'%s'", c->options.categories);
    return status;
}

mabn_status mabn_convert_guess_detector(struct mabn_convert *c)
{
    struct mabn_detector *d = &c->detector;
    const struct family *family = family_of(c->names);
    if (!mabn_convert_names_detector(c)) return MABN_OK;
    MABN_TRY(refuse_strangers(c));
    if (!has_detector(c)) return MABN_OK;
    MABN_TRY(find_shape(c, d));
    MABN_TRY(check_sizes(c, d));
    MABN_TRY(mabn_detector_set_family(d, family->convention));
    MABN_TRY(set_pixels(d, c->options.pixels));
    MABN_TRY(find_norms(c, d));
    set_frozen(c, d, family);
    MABN_TRY(find_anchors(c, d));
    /* The GN bodies of the reference and detectron2 come from another program than their other
     * bodies. */
    if (d->body.norm[MABN_PART_LAYER1].kind == MABN_NORM_GN) d->body.stride_in_1x1 = false;
    if (c->options.stride_in_1x1 >= 0) d->body.stride_in_1x1 = c->options.stride_in_1x1;
    MABN_TRY(read_categories(c, family));
    c->has_detector = true;
    return mabn_detector_check(d);
}

/* Options take precedence over the file's own description. */
static mabn_status overrule(struct mabn_convert *c, struct mabn_detector *d)
{
    if (c->options.norm) MABN_TRY(mabn_detector_set_norm(d, c->options.norm));
    if (c->options.stride_in_1x1 >= 0) d->body.stride_in_1x1 = c->options.stride_in_1x1;
    for (int p = 0; p < MABN_MODEL_PARTS && c->options.frozen_eps >= 0 && c->options.to < 0; p++)
        if (d->body.norm[p].kind == MABN_NORM_FROZEN) d->body.norm[p].eps = c->options.frozen_eps;
    return c->options.categories ? read_categories(c, family_with(d->convention)) : MABN_OK;
}

mabn_status mabn_convert_read_detector(struct mabn_convert *c, const char *config)
{
    struct mabn_detector found, *d = &c->detector;
    MABN_TRY(mabn_detector_from_json(d, config));
    MABN_TRY(find_shape(c, &found));
    MABN_TRY(check_sizes(c, &found));
    if (strcmp(found.arch, d->arch) || found.body.base_width != d->body.base_width ||
        found.body.expansion != d->body.expansion || found.fpn_width != d->fpn_width ||
        found.classes != d->classes || found.box_width != d->box_width ||
        found.box_head != d->box_head ||
        (d->box_head == MABN_BOX_HEAD_CONV && d->box_convs &&
         found.box_conv_width != d->box_conv_width) ||
        (d->masks && found.mask_width != d->mask_width))
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s': the tensors do not match the detector that it describes",
                         mabn_weights_path(c->source));
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        if (d->body.norm[p].window > 4096)
            return mabn_fail(MABN_ERR_LIMIT, "'%s': a window of %d statistics",
                             mabn_weights_path(c->source), d->body.norm[p].window);
    MABN_TRY(set_pixels(d, c->options.pixels));
    MABN_TRY(overrule(c, d));
    c->has_detector = true;
    return mabn_detector_check(d);
}

/* ---- telling ---- */

/* torchvision uses an epsilon of 0 for its own weights and 1e-5 for a user's model, and no file
 * says which. The difference matters where a variance is small. */
static mabn_status tell_eps(struct mabn_convert *c, struct mabn_str *lines)
{
    size_t channels = 0, small = 0;
    for (size_t i = 0; i < c->item_count; i++) {
        const struct item *item = &c->items[i];
        const struct mabn_weight *t = mabn_convert_tensor(c, item);
        void *values = NULL;
        if (!item->ours || strncmp(item->ours, BODY, strlen(BODY)) ||
            strcmp(leaf_of(item->ours), "running_var") || t->part != MABN_WEIGHT_MODEL)
            continue;
        MABN_TRY(mabn_alloc(&values, t->count * sizeof(float)));
        const mabn_status status = mabn_weights_read_f32(c->source, item->source, values);
        for (size_t k = 0; k < t->count && !status; k++)
            small += ((float *)values)[k] < 1e-3f;
        channels += t->count;
        mabn_free(values);
        MABN_TRY(status);
    }
    if (small)
        mabn_str_printf(
            lines,
            "the epsilon of the frozen norms is taken to be 0, as torchvision has it for "
            "its own COCO weights and what is fine-tuned from them; it matters in %zu of "
            "%zu channels (--frozen-eps 1e-5 for models built otherwise)\n",
            small, channels);
    return MABN_OK;
}

mabn_status mabn_convert_tell_detector(struct mabn_convert *c, struct mabn_str *lines)
{
    const struct mabn_detector *d = &c->detector;
    if (!c->has_detector || c->own || c->like) return MABN_OK;
    if (c->assumes_coco)
        mabn_str_printf(lines,
                        "%d classes are taken to be COCO's (--categories FILE names others)\n",
                        d->classes);
    else if (!c->categories.length)
        mabn_str_printf(lines, "nothing says what the %d classes are (--categories FILE does)\n",
                        d->classes);
    if (c->names == MABN_NAMES_TORCHVISION && c->options.frozen_eps < 0 &&
        d->body.norm[MABN_PART_STEM].kind == MABN_NORM_FROZEN)
        return tell_eps(c, lines);
    return MABN_OK;
}
