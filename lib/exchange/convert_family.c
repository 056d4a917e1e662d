/* Converting a detector's tensors for another program: its names, its order of classes and
 * channels, and its tensors in the place of a norm. Settings that the program needs but its files
 * do not hold are printed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/anchors.h"
#include "exchange/convert_impl.h"
#include "model/resnet.h"

static enum mabn_names home_of(const struct mabn_detector *d)
{
    return !strcmp(d->convention, "torchvision")  ? MABN_NAMES_TORCHVISION
           : !strcmp(d->convention, "detectron2") ? MABN_NAMES_DETECTRON2
                                                  : MABN_NAMES_OURS;
}

static const char *program(enum mabn_names names)
{
    return names == MABN_NAMES_OURS          ? "the reference"
           : names == MABN_NAMES_TORCHVISION ? "torchvision"
                                             : "detectron2";
}

/* ---- what it cannot be ---- */

static mabn_status refuse(const struct mabn_convert *c, const char *has, const char *hint)
{
    return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' has %s, which %s cannot have%s",
                     mabn_weights_path(c->source), has, program((enum mabn_names)c->options.to),
                     hint);
}

static mabn_status check_norms(struct mabn_convert *c)
{
    const enum mabn_names to = (enum mabn_names)c->options.to;
    struct mabn_detector *d = &c->detector;
    struct mabn_norm_options *norms[8];
    const int count = mabn_detector_norms(d, norms);
    for (int p = 0; p < count; p++) {
        const enum mabn_norm_kind kind = norms[p]->kind;
        const bool foreign = kind == MABN_NORM_MABN || kind == MABN_NORM_BRN;
        char text[48];
        snprintf(text, sizeof text, "norm %s", mabn_norm_kind_name(kind));
        if (to != MABN_NAMES_OURS && foreign)
            return refuse(c, text, " (--fold-frozen puts it into the layers around it)");
        if (kind == MABN_NORM_LN || kind == MABN_NORM_IN || mabn_norm_act_name(kind))
            return refuse(c, text, "");
    }
    if (to != MABN_NAMES_OURS && d->box_head == MABN_BOX_HEAD_2FC && d->box.kind != MABN_NORM_NONE)
        return refuse(c, "norms between the linear layers of its box head",
                      mabn_norm_folds(d->box.kind) ? " (--fold-frozen puts them into the layers)"
                                                   : "");
    return MABN_OK;
}

static mabn_status check_network(struct mabn_convert *c)
{
    const struct mabn_detector *d = &c->detector;
    const bool bottleneck = mabn_resnet_find(d->body.arch)->bottleneck;
    if (c->options.to == MABN_NAMES_TORCHVISION && bottleneck && d->body.stride_in_1x1)
        return refuse(c, "the stride of its bottlenecks in the first 1×1", "");
    if (c->options.to == MABN_NAMES_OURS && d->rpn_convs > 1)
        return refuse(c, "several convolutions in its region proposal network", "");
    return check_norms(c);
}

/* ---- names ---- */

/* "X.0.weight" → "X.weight": layers that other programs do not number. malloc'd. */
static char *unnumbered(const char *name)
{
    static const char *const rows[][2] = {
        {"backbone.fpn.fpn_inner{k}.0.*", "backbone.fpn.fpn_inner{k}.*"},
        {"backbone.fpn.fpn_layer{k}.0.*", "backbone.fpn.fpn_layer{k}.*"},
        {"roi_heads.mask.feature_extractor.mask_fcn{k}.0.*",
         "roi_heads.mask.feature_extractor.mask_fcn{k}.*"},
    };
    char *plain = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !plain; i++)
        plain = mabn_names_translate(rows[i][0], rows[i][1], name);
    return plain ? plain : mabn_xstrdup(name);
}

/* Our name where it depends on other tensors: box convolutions without norms, a single convolution
 * in torchvision's RPN. malloc'd. */
static char *canonical(const struct mabn_convert *c, const char *name)
{
    static const char convs[] = "roi_heads.box.feature_extractor.xconvs.{k*2}.*",
                      apart[] = "roi_heads.box.feature_extractor.xconvs.{k*3}.*";
    const struct mabn_detector *d = &c->detector;
    char *plain = NULL;
    if (d->box.kind == MABN_NORM_NONE) plain = mabn_names_translate(convs, apart, name);
    if (!plain && c->options.to == MABN_NAMES_TORCHVISION && d->rpn_convs == 1)
        plain = mabn_names_translate("rpn.head.conv.*", "rpn.head.conv.0.*", name);
    return plain ? plain : unnumbered(name);
}

/* The other program's name, malloc'd; NULL: it has no such tensor. */
static char *their_name(const struct mabn_convert *c, const char *ours)
{
    const struct mabn_detector *d = &c->detector;
    static const char fc[] = "roi_heads.box.feature_extractor.fc6.";
    if (c->options.to == MABN_NAMES_OURS) return mabn_xstrdup(ours);
    if (c->options.to == MABN_NAMES_TORCHVISION && d->box_head == MABN_BOX_HEAD_CONV &&
        !strncmp(ours, fc, strlen(fc))) /* behind the convolutions and Flatten */
        return mabn_xasprintf("roi_heads.box_head.%d.%s", d->box_convs + 1, ours + strlen(fc));
    char *name = canonical(c, ours),
         *theirs = mabn_names_from_ours((enum mabn_names)c->options.to, name);
    free(name);
    return theirs;
}

/* ---- classes ---- */

static bool background_last(enum mabn_names names)
{
    return names == MABN_NAMES_DETECTRON2;
}

static void move_classes(struct mabn_convert *c)
{
    const bool before = background_last(home_of(&c->detector)),
               after = background_last((enum mabn_names)c->options.to);
    if (before == after) return;
    for (size_t i = 0; i < c->entry_count; i++) {
        struct entry *e = &c->entries[i];
        const bool boxes = strstr(e->weight.name, "box.predictor.bbox_pred.") != NULL;
        if (strstr(e->weight.name, "box.predictor.cls_score.")) {
            e->origin = after ? CLASSES_ROTATED_BACK : CLASSES_ROTATED;
        } else if (boxes || strstr(e->weight.name, "mask.predictor.mask_fcn_logits.")) {
            const int rows = boxes ? 4 : 1;
            e->origin = after ? BACKGROUND_DROPPED : BACKGROUND_ADDED;
            e->weight.shape.dim[0] += after ? -rows : rows;
        }
    }
}

/* ---- norms ---- */

static struct entry *find_entry(struct mabn_convert *c, const char *name)
{
    for (size_t i = 0; i < c->entry_count; i++)
        if (!strcmp(c->entries[i].weight.name, name)) return &c->entries[i];
    return NULL;
}

/* The epsilon of frozen norms in the other program. */
static double frozen_eps(const struct mabn_convert *c)
{
    const struct mabn_norm_options *stem = &c->detector.body.norm[MABN_PART_STEM];
    if (c->options.frozen_eps >= 0) return c->options.frozen_eps;
    if (home_of(&c->detector) == (enum mabn_names)c->options.to && !c->options.fold_frozen)
        return stem->eps;
    return c->options.to == MABN_NAMES_OURS ? 0 : 1e-5;
}

/* Where the other program's frozen norms have another epsilon, their weights are changed to
 * compensate. */
static void move_eps(struct mabn_convert *c)
{
    const double after = frozen_eps(c);
    for (size_t i = 0; i < c->entry_count; i++) {
        struct entry *e = &c->entries[i];
        const char *leaf = leaf_of(e->weight.name);
        const bool body = !strncmp(e->weight.name, "backbone.body.", 14);
        if (!body || !mabn_convert_freezes(c, e->weight.name)) continue;
        const double before = mabn_convert_eps(c, e->weight.name);
        if (e->origin == CONSTANT && !strcmp(leaf, "running_var")) e->constant -= (float)after;
        if (e->origin != FROM_ITEM || strcmp(leaf, "weight") || e->weight.shape.rank != 1 ||
            before == after)
            continue;
        e->origin = EPS_MOVED;
        e->constant = (float)after;
    }
}

/* The reference's SyncBN bodies have a bias in the stem; others do not: y = (x + b − mean)·k + β. */
static void move_stem_bias(struct mabn_convert *c)
{
    struct entry *bias = find_entry(c, "backbone.body.stem.conv1.bias"),
                 *mean = find_entry(c, "backbone.body.stem.bn1.running_mean");
    if (c->options.to == MABN_NAMES_OURS || !bias || !mean) return;
    mean->origin = SHIFTED_MEAN;
    mabn_convert_remove_entry(c, (size_t)(bias - c->entries));
}

/* torchvision counts batches in trained norms. A model with frozen norms ignores the counters. A
 * model with trained norms, whose epsilon is 1e-5, requires them, and accepts the tensors of frozen
 * norms as well. */
static void add_counters(struct mabn_convert *c)
{
    const size_t n = c->entry_count;
    if (c->options.to != MABN_NAMES_TORCHVISION || frozen_eps(c) == 0) return;
    for (size_t i = 0; i < n; i++) {
        const char *name = c->entries[i].weight.name;
        if (strcmp(leaf_of(name), "running_var")) continue;
        char *counter =
            mabn_xasprintf("%.*snum_batches_tracked", (int)(leaf_of(name) - name), name);
        const struct mabn_weight t = {.dtype = MABN_DTYPE_I64, .shape = {.rank = 0}};
        if (!find_entry(c, counter)) mabn_convert_add_entry(c, counter, &t)->origin = CONSTANT;
        free(counter);
    }
}

/* Centralized weights only keep their meaning in a program that centralizes them. */
static void center_weights(struct mabn_convert *c)
{
    for (size_t i = 0; i < c->entry_count && c->options.to != MABN_NAMES_OURS; i++) {
        struct entry *e = &c->entries[i];
        if (e->origin == FROM_ITEM && mabn_convert_is_centered(&e->weight) &&
            mabn_convert_centers(c, e->weight.name))
            e->origin = CENTERED;
    }
}

/* ---- pixels ---- */

/* torchvision's pictures are R, G, B: for a network of B, G, R pictures the input channels of the
 * first layer are reversed. */
static void turn_channels(struct mabn_convert *c)
{
    struct mabn_detector *d = &c->detector;
    struct entry *e = find_entry(c, "backbone.body.stem.conv1.weight");
    if (c->options.to != MABN_NAMES_TORCHVISION || !d->bgr || !e) return;
    e->flipped = true;
    d->bgr = false;
    for (int k = 0; k < 2; k++) {
        double *v = k ? d->pixel_mean : d->pixel_deviation;
        const double first = v[0];
        v[0] = v[2];
        v[2] = first;
    }
}

/* ---- anchors ---- */

static void add_anchors(struct mabn_convert *c)
{
    for (int l = 0; l < MABN_DETECTOR_LEVELS && c->options.to == MABN_NAMES_OURS; l++) {
        char name[64];
        const struct mabn_weight t = {.dtype = MABN_DTYPE_F32,
                                      .shape = {.rank = 2, .dim = {MABN_DETECTOR_RATIOS, 4}}};
        snprintf(name, sizeof name, "rpn.anchor_generator.cell_anchors.%d", l);
        struct entry *e = mabn_convert_add_entry(c, name, &t);
        e->origin = ANCHORS;
        e->item = (size_t)l;
    }
}

/* ---- all together ---- */

static mabn_status rename_entries(struct mabn_convert *c)
{
    for (size_t i = 0; i < c->entry_count; i++) {
        struct entry *e = &c->entries[i];
        char *theirs = their_name(c, e->weight.name);
        if (!theirs)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' has no place in %s", e->weight.name,
                             program((enum mabn_names)c->options.to));
        /* The source's tensors are found by our names. */
        e->ours = e->weight.name;
        e->weight.name = theirs;
    }
    return MABN_OK;
}

mabn_status mabn_convert_to_family(struct mabn_convert *c)
{
    MABN_TRY(check_network(c));
    move_classes(c);
    move_eps(c);
    move_stem_bias(c);
    center_weights(c);
    turn_channels(c);
    add_counters(c);
    add_anchors(c);
    return rename_entries(c);
}

/* ---- what it must be told ---- */

static void add_three(struct mabn_str *text, const char *name, const double v[3], double scale)
{
    mabn_str_printf(text, " %s [%.7g,%.7g,%.7g]", name, v[0] * scale, v[1] * scale, v[2] * scale);
}

static bool differ(const double a[3], double scale, double x, double y, double z)
{
    return fabs(a[0] * scale - x) > 1e-4 || fabs(a[1] * scale - y) > 1e-4 ||
           fabs(a[2] * scale - z) > 1e-4;
}

static void tell_torchvision(const struct mabn_detector *d, struct mabn_str *text)
{
    const double scale = 1 / d->range;
    if (d->classes != 90) mabn_str_printf(text, " num_classes %d", d->classes + 1);
    if (differ(d->pixel_mean, scale, 0.485, 0.456, 0.406))
        add_three(text, "image_mean", d->pixel_mean, scale);
    if (differ(d->pixel_deviation, scale, 0.229, 0.224, 0.225))
        add_three(text, "image_std", d->pixel_deviation, scale);
    if (d->min_size != 800) mabn_str_printf(text, " min_size %d", d->min_size);
    if (d->max_size != 1333) mabn_str_printf(text, " max_size %d", d->max_size);
}

static const char *d2_norm(const struct mabn_norm_options *norm)
{
    switch (norm->kind) {
    case MABN_NORM_FROZEN:
        return "FrozenBN";
    case MABN_NORM_GN:
        return "GN";
    case MABN_NORM_SYNCBN:
        return "SyncBN";
    case MABN_NORM_BN:
        return "BN";
    default:
        return "";
    }
}

static void tell_int(struct mabn_str *text, const char *key, int value, int usual)
{
    if (value != usual) mabn_str_printf(text, " %s %d", key, value);
}

static void tell_norm(struct mabn_str *text, const char *key, const struct mabn_norm_options *norm,
                      const char *usual)
{
    if (strcmp(d2_norm(norm), usual)) mabn_str_printf(text, " %s %s", key, d2_norm(norm));
}

/* Settings that differ from the defaults of mask_rcnn_R_50_FPN, as options of its command line. */
static void tell_detectron2(const struct mabn_detector *d, struct mabn_str *text)
{
    const struct mabn_resnet_shape *shape = mabn_resnet_find(d->body.arch);
    const double scale = 255 / d->range;
    const int width = d->body.base_width, out = width * (shape->bottleneck ? d->body.expansion : 1);
    const bool conv = d->box_head == MABN_BOX_HEAD_CONV;
    int depth = 2;
    for (int s = 0; s < 4; s++)
        depth += shape->blocks[s] * (shape->bottleneck ? 3 : 2);
    if (!d->bgr) mabn_str_add(text, " INPUT.FORMAT RGB");
    if (differ(d->pixel_mean, scale, 103.53, 116.28, 123.675))
        add_three(text, "MODEL.PIXEL_MEAN", d->pixel_mean, scale);
    if (differ(d->pixel_deviation, scale, 1, 1, 1))
        add_three(text, "MODEL.PIXEL_STD", d->pixel_deviation, scale);
    tell_int(text, "INPUT.MIN_SIZE_TEST", d->min_size, 800);
    tell_int(text, "INPUT.MAX_SIZE_TEST", d->max_size, 1333);
    tell_int(text, "MODEL.RESNETS.DEPTH", depth, 50);
    tell_norm(text, "MODEL.RESNETS.NORM", &d->body.norm[MABN_PART_LAYER1], "FrozenBN");
    if (!d->body.stride_in_1x1 && shape->bottleneck)
        mabn_str_add(text, " MODEL.RESNETS.STRIDE_IN_1X1 False");
    tell_int(text, "MODEL.RESNETS.STEM_OUT_CHANNELS", width, 64);
    tell_int(text, "MODEL.RESNETS.WIDTH_PER_GROUP", width, 64);
    tell_int(text, "MODEL.RESNETS.RES2_OUT_CHANNELS", out, 256);
    tell_int(text, "MODEL.FPN.OUT_CHANNELS", d->fpn_width, 256);
    tell_norm(text, "MODEL.FPN.NORM", &d->fpn, "");
    if (d->rpn_convs > 1) {
        mabn_str_add(text, " MODEL.RPN.CONV_DIMS [-1");
        for (int i = 1; i < d->rpn_convs; i++)
            mabn_str_add(text, ",-1");
        mabn_str_add_char(text, ']');
    }
    tell_int(text, "MODEL.ROI_HEADS.NUM_CLASSES", d->classes, 80);
    tell_int(text, "MODEL.ROI_BOX_HEAD.NUM_CONV", conv ? d->box_convs : 0, 0);
    tell_int(text, "MODEL.ROI_BOX_HEAD.NUM_FC", conv ? 1 : 2, 2);
    if (conv) tell_int(text, "MODEL.ROI_BOX_HEAD.CONV_DIM", d->box_conv_width, 256);
    tell_int(text, "MODEL.ROI_BOX_HEAD.FC_DIM", d->box_width, 1024);
    tell_norm(text, "MODEL.ROI_BOX_HEAD.NORM", &d->box, "");
    if (!d->masks) return;
    tell_int(text, "MODEL.ROI_MASK_HEAD.NUM_CONV", d->mask_convs, 4);
    tell_int(text, "MODEL.ROI_MASK_HEAD.CONV_DIM", d->mask_width, 256);
    tell_norm(text, "MODEL.ROI_MASK_HEAD.NORM", &d->mask, "");
}

/* Settings that differ from the defaults of maskrcnn-benchmark, whose pixels are 0 to 1 when it
 * does not reverse the channels. */
static void tell_reference(const struct mabn_detector *d, struct mabn_str *text)
{
    const double scale = (d->bgr ? 255 : 1) / d->range;
    if (!d->bgr) mabn_str_add(text, " INPUT.TO_BGR255 False");
    if (differ(d->pixel_mean, scale, 102.9801, 115.9465, 122.7717))
        add_three(text, "INPUT.PIXEL_MEAN", d->pixel_mean, scale);
    if (differ(d->pixel_deviation, scale, 1, 1, 1))
        add_three(text, "INPUT.PIXEL_STD", d->pixel_deviation, scale);
    if (!d->body.stride_in_1x1 && mabn_resnet_find(d->body.arch)->bottleneck)
        mabn_str_add(text, " MODEL.RESNETS.STRIDE_IN_1X1 False");
    tell_int(text, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", d->classes + 1, 81);
}

void mabn_convert_tell_family(const struct mabn_convert *c, struct mabn_str *lines)
{
    const struct mabn_detector *d = &c->detector;
    const enum mabn_names to = (enum mabn_names)c->options.to;
    struct mabn_str text;
    mabn_str_init(&text);
    if (to == MABN_NAMES_TORCHVISION) tell_torchvision(d, &text);
    if (to == MABN_NAMES_DETECTRON2) tell_detectron2(d, &text);
    if (to == MABN_NAMES_OURS) tell_reference(d, &text);
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++)
        if (d->anchor_size[l] != 32 << l)
            mabn_str_printf(&text, " anchors of %g pixels on level %d", d->anchor_size[l], l + 2);
    if (text.length)
        mabn_str_printf(lines, "these are not in the file; give them to %s:%s\n", program(to),
                        text.text);
    mabn_str_clear(&text);
    if (d->body.norm[MABN_PART_STEM].kind == MABN_NORM_FROZEN && to == MABN_NAMES_TORCHVISION)
        mabn_str_printf(
            lines,
            "the frozen norms are for an epsilon of %g; torchvision has 0 in models made "
            "with weights=COCO_V1, and 1e-5 in others (--frozen-eps)\n",
            frozen_eps(c));
    if (home_of(d) != to)
        mabn_str_printf(lines,
                        "the model was trained with the boxes of %s; those of %s, which differ in "
                        "pixels and rounding, cost it accuracy\n",
                        program(home_of(d)), program(to));
    mabn_str_release(&text);
}
