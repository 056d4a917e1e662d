/* The tables of names, and the small language that they are written in. */
#include "exchange/names.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

struct row {
    const char *theirs, *ours;
};

/* ---- Caffe2 and Detectron ---- */

/* A norm: fused (scale and bias), unfused, or group norm. The reference drops `_bn_beta`, although
 * its authors meant it to become the bias; here it does. */
#define CAFFE2_NORM(theirs, ours)                                                             \
    {theirs "_bn_s", ours ".weight"}, {theirs "_bn_b", ours ".bias"},                         \
        {theirs "_bn_gamma", ours ".weight"}, {theirs "_bn_w", ours ".weight"},               \
        {theirs "_bn_beta", ours ".bias"}, {theirs "_bn_running_mean", ours ".running_mean"}, \
        {theirs "_bn_running_var", ours ".running_var"}, {theirs "_gn_s", ours ".weight"},    \
    {                                                                                         \
        theirs "_gn_b", ours ".bias"                                                          \
    }
#define CAFFE2_LAYER(theirs, ours) \
    {theirs "_w", ours ".weight"}, \
    {                              \
        theirs "_b", ours ".bias"  \
    }
/* A layer that may have a group norm, in which case PyTorch numbers the two. mabn-convert inserts
 * the ".0" into the layer's name when it finds the norm. */
#define CAFFE2_LAYER_GN(theirs, ours)                               \
    CAFFE2_LAYER(theirs, ours), {theirs "_gn_s", ours ".1.weight"}, \
    {                                                               \
        theirs "_gn_b", ours ".1.bias"                              \
    }

static const struct row caffe2[] = {
    /* body */
    CAFFE2_LAYER("conv1", "conv1"),
    CAFFE2_NORM("res_conv1", "bn1"),
    CAFFE2_NORM("conv1", "bn1"),
    CAFFE2_LAYER("res{s}_{b}_branch2{k:abc}", "layer{s-1}.{b}.conv{k}"),
    CAFFE2_NORM("res{s}_{b}_branch2{k:abc}", "layer{s-1}.{b}.bn{k}"),
    CAFFE2_LAYER("res{s}_{b}_branch1", "layer{s-1}.{b}.downsample.0"),
    CAFFE2_NORM("res{s}_{b}_branch1", "layer{s-1}.{b}.downsample.1"),
    CAFFE2_LAYER("fc1000", "fc"),
    CAFFE2_LAYER("pred", "fc"),
    /* feature pyramid */
    CAFFE2_LAYER_GN("fpn_inner_res{s}_{b}_sum_lateral", "backbone.fpn.fpn_inner{s-1}"),
    CAFFE2_LAYER_GN("fpn_inner_res{s}_{b}_sum", "backbone.fpn.fpn_inner{s-1}"),
    CAFFE2_LAYER_GN("fpn_res{s}_{b}_sum", "backbone.fpn.fpn_layer{s-1}"),
    /* region proposals */
    CAFFE2_LAYER("conv_rpn_fpn2", "rpn.head.conv"),
    CAFFE2_LAYER("rpn_cls_logits_fpn2", "rpn.head.cls_logits"),
    CAFFE2_LAYER("rpn_bbox_pred_fpn2", "rpn.head.bbox_pred"),
    /* heads */
    CAFFE2_LAYER_GN("fc6", "roi_heads.box.feature_extractor.fc6"),
    CAFFE2_LAYER_GN("fc7", "roi_heads.box.feature_extractor.fc7"),
    {"head_conv{k}_w", "roi_heads.box.feature_extractor.xconvs.{k*3-3}.weight"},
    {"head_conv{k}_gn_s", "roi_heads.box.feature_extractor.xconvs.{k*3-2}.weight"},
    {"head_conv{k}_gn_b", "roi_heads.box.feature_extractor.xconvs.{k*3-2}.bias"},
    CAFFE2_LAYER("cls_score", "roi_heads.box.predictor.cls_score"),
    CAFFE2_LAYER("bbox_pred", "roi_heads.box.predictor.bbox_pred"),
    CAFFE2_LAYER_GN("_[mask]_fcn{k}", "roi_heads.mask.feature_extractor.mask_fcn{k}"),
    CAFFE2_LAYER("conv5_mask", "roi_heads.mask.predictor.conv5_mask"),
    CAFFE2_LAYER("mask_fcn_logits", "roi_heads.mask.predictor.mask_fcn_logits"),
    {NULL, NULL},
};

/* ---- detectron2 ---- */

/* A whole detector, and the bare body of its pretrained files. */
#define D2_BODY(theirs, ours)                                         \
    {"backbone.bottom_up." theirs, ours}, {"backbone." theirs, ours}, \
    {                                                                 \
        theirs, ours                                                  \
    }
/* A convolution with or without norm. */
#define D2_LAYER(theirs, ours)                                          \
    {theirs ".weight", ours ".weight"}, {theirs ".bias", ours ".bias"}, \
    {                                                                   \
        theirs ".norm.*", ours ".1.*"                                   \
    }

static const struct row detectron2[] = {
    /* body */
    D2_BODY("stem.conv1.norm.*", "bn1.*"),
    D2_BODY("stem.conv1.*", "conv1.*"),
    D2_BODY("stem.bn1.*", "bn1.*"),
    D2_BODY("res{s}.{b}.conv{k}.norm.*", "layer{s-1}.{b}.bn{k}.*"),
    D2_BODY("res{s}.{b}.conv{k}.*", "layer{s-1}.{b}.conv{k}.*"),
    D2_BODY("res{s}.{b}.shortcut.norm.*", "layer{s-1}.{b}.downsample.1.*"),
    D2_BODY("res{s}.{b}.shortcut.*", "layer{s-1}.{b}.downsample.0.*"),
    D2_BODY("stem.fc.*", "fc.*"),
    D2_BODY("linear.*", "fc.*"),
    /* feature pyramid */
    D2_LAYER("backbone.fpn_lateral{s}", "backbone.fpn.fpn_inner{s-1}"),
    D2_LAYER("backbone.fpn_output{s}", "backbone.fpn.fpn_layer{s-1}"),
    /* region proposals */
    {"proposal_generator.rpn_head.conv.conv{i}.*", "rpn.head.conv.{i}.*"},
    {"proposal_generator.rpn_head.conv.*", "rpn.head.conv.*"},
    {"proposal_generator.rpn_head.objectness_logits.*", "rpn.head.cls_logits.*"},
    {"proposal_generator.rpn_head.anchor_deltas.*", "rpn.head.bbox_pred.*"},
    {"proposal_generator.anchor_generator.cell_anchors.{i}",
     "rpn.anchor_generator.cell_anchors.{i}"},
    /* heads; the order of classes differs too */
    {"roi_heads.box_head.fc{k}.*", "roi_heads.box.feature_extractor.fc{k+5}.*"},
    {"roi_heads.box_head.conv{k}.norm.*", "roi_heads.box.feature_extractor.xconvs.{k*3-2}.*"},
    {"roi_heads.box_head.conv{k}.*", "roi_heads.box.feature_extractor.xconvs.{k*3-3}.*"},
    {"roi_heads.box_predictor.cls_score.*", "roi_heads.box.predictor.cls_score.*"},
    {"roi_heads.box_predictor.bbox_pred.*", "roi_heads.box.predictor.bbox_pred.*"},
    D2_LAYER("roi_heads.mask_head.mask_fcn{k}", "roi_heads.mask.feature_extractor.mask_fcn{k}"),
    {"roi_heads.mask_head.deconv.*", "roi_heads.mask.predictor.conv5_mask.*"},
    {"roi_heads.mask_head.predictor.*", "roi_heads.mask.predictor.mask_fcn_logits.*"},
    {NULL, NULL},
};

/* ---- torchvision's detectors ---- */

/* A convolution with or without norm. */
#define TV_LAYER(theirs, ours)    \
    {theirs ".1.*", ours ".1.*"}, \
    {                             \
        theirs ".0.*", ours ".*"  \
    }

/* The first of two spellings is written; the library used the other before 0.13. */
static const struct row torchvision[] = {
    /* body */
    {"backbone.body.conv1.*", "backbone.body.stem.conv1.*"},
    {"backbone.body.bn1.*", "backbone.body.stem.bn1.*"},
    {"backbone.body.layer{s}.*", "backbone.body.layer{s}.*"},
    /* feature pyramid */
    TV_LAYER("backbone.fpn.inner_blocks.{k}", "backbone.fpn.fpn_inner{k+1}"),
    TV_LAYER("backbone.fpn.layer_blocks.{k}", "backbone.fpn.fpn_layer{k+1}"),
    {"backbone.fpn.inner_blocks.{k}.*", "backbone.fpn.fpn_inner{k+1}.*"},
    {"backbone.fpn.layer_blocks.{k}.*", "backbone.fpn.fpn_layer{k+1}.*"},
    /* region proposals */
    {"rpn.head.conv.{i}.0.*", "rpn.head.conv.{i}.*"},
    {"rpn.head.*", "rpn.head.*"},
    /* heads; the linear layer behind convolutions is numbered after them */
    {"roi_heads.box_head.fc{k}.*", "roi_heads.box.feature_extractor.fc{k}.*"},
    {"roi_heads.box_head.{k}.0.*", "roi_heads.box.feature_extractor.xconvs.{k*3}.*"},
    {"roi_heads.box_head.{k}.1.*", "roi_heads.box.feature_extractor.xconvs.{k*3+1}.*"},
    {"roi_heads.box_head.{n}.*", "roi_heads.box.feature_extractor.fc6.*"},
    {"roi_heads.box_predictor.*", "roi_heads.box.predictor.*"},
    TV_LAYER("roi_heads.mask_head.{k}", "roi_heads.mask.feature_extractor.mask_fcn{k+1}"),
    {"roi_heads.mask_head.mask_fcn{k}.*", "roi_heads.mask.feature_extractor.mask_fcn{k}.*"},
    {"roi_heads.mask_predictor.*", "roi_heads.mask.predictor.*"},
    {NULL, NULL},
};

/* ---- ours: torchvision, timm, the reference ---- */

static const struct row ours[] = {
    /* classifiers */
    {"conv1.*", "conv1.*"},
    {"bn1.*", "bn1.*"},
    {"layer{s}.{b}.conv{k}.*", "layer{s}.{b}.conv{k}.*"},
    {"layer{s}.{b}.bn{k}.*", "layer{s}.{b}.bn{k}.*"},
    {"layer{s}.{b}.downsample.0.*", "layer{s}.{b}.downsample.0.*"},
    {"layer{s}.{b}.downsample.1.*", "layer{s}.{b}.downsample.1.*"},
    {"fc.*", "fc.*"},
    /* detectors */
    {"backbone.body.stem.*", "backbone.body.stem.*"},
    {"backbone.body.layer{s}.*", "backbone.body.layer{s}.*"},
    {"backbone.fpn.fpn_inner{k}.*", "backbone.fpn.fpn_inner{k}.*"},
    {"backbone.fpn.fpn_layer{k}.*", "backbone.fpn.fpn_layer{k}.*"},
    {"rpn.anchor_generator.cell_anchors.{i}", "rpn.anchor_generator.cell_anchors.{i}"},
    {"rpn.head.*", "rpn.head.*"},
    {"roi_heads.box.*", "roi_heads.box.*"},
    {"roi_heads.mask.*", "roi_heads.mask.*"},
    {NULL, NULL},
};

/* The body in a classifier, and in the reference's detectors. */
static const struct row body[] = {
    {"conv1.*", "backbone.body.stem.conv1.*"},
    {"bn1.*", "backbone.body.stem.bn1.*"},
    {"layer{s}.*", "backbone.body.layer{s}.*"},
    {NULL, NULL},
};

static const struct {
    const char *title;
    const struct row *rows;
} styles[MABN_NAMES_COUNT] = {
    [MABN_NAMES_OURS] = {"torchvision, timm or reference", ours},
    [MABN_NAMES_TORCHVISION] = {"torchvision's detectors", torchvision},
    [MABN_NAMES_DETECTRON2] = {"detectron2", detectron2},
    [MABN_NAMES_CAFFE2] = {"Caffe2", caffe2},
};

const char *mabn_names_title(enum mabn_names names)
{
    return styles[names].title;
}

/* ---- the language ---- */

struct match {
    int value['z' - 'a' + 1];
    const char *rest;
};

struct hole {
    int variable;        /* 0…25 */
    int factor, shift;   /* {v*factor+shift} */
    const char *letters; /* {v:letters}, not terminated */
    size_t letter_count;
    const char *after; /* behind the brace */
};

/* Parse "{v…}" at p. The patterns are ours, so a bad one is a bug. */
static struct hole parse_hole(const char *p)
{
    struct hole h = {.variable = p[1] - 'a', .factor = 1};
    const char *end = strchr(p, '}');
    if (!end || p[1] < 'a' || p[1] > 'z') MABN_BUG("bad name pattern '%s'", p);
    const char *q = p + 2;
    if (*q == ':') {
        h.letters = q + 1;
        h.letter_count = (size_t)(end - h.letters);
    } else {
        if (*q == '*') h.factor = (int)strtol(q + 1, (char **)&q, 10);
        if (*q == '+' || *q == '-') h.shift = (int)strtol(q, (char **)&q, 10);
        if (q != end) MABN_BUG("bad name pattern '%s'", p);
    }
    h.after = end + 1;
    return h;
}

/* Read a variable's value from the text. Returns the text behind it, or NULL. */
static const char *match_hole(const struct hole *h, const char *text, int *value)
{
    if (h->letters) {
        const char *found = *text ? memchr(h->letters, *text, h->letter_count) : NULL;
        if (!found) return NULL;
        *value = (int)(found - h->letters) + 1;
        return text + 1;
    }
    if (!isdigit((unsigned char)*text) || (*text == '0' && isdigit((unsigned char)text[1])))
        return NULL;
    long number = 0;
    for (; isdigit((unsigned char)*text); text++)
        if ((number = 10 * number + (*text - '0')) > 100000) return NULL;
    if ((number - h->shift) % h->factor) return NULL;
    *value = (int)((number - h->shift) / h->factor);
    return text;
}

static bool match(const char *pattern, const char *text, struct match *m)
{
    for (size_t i = 0; i < sizeof m->value / sizeof *m->value; i++)
        m->value[i] = INT_MIN;
    m->rest = NULL;
    while (*pattern) {
        if (*pattern == '*' && !pattern[1]) {
            m->rest = text;
            return *text != 0;
        }
        if (*pattern != '{') {
            if (*pattern++ != *text++) return false;
            continue;
        }
        struct hole h = parse_hole(pattern);
        int value = 0;
        text = match_hole(&h, text, &value);
        if (!text || (m->value[h.variable] != INT_MIN && m->value[h.variable] != value))
            return false;
        m->value[h.variable] = value;
        pattern = h.after;
    }
    return *text == 0;
}

static char *expand(const char *pattern, const struct match *m)
{
    struct mabn_str out;
    mabn_str_init(&out);
    while (*pattern) {
        if (*pattern == '*' && !pattern[1]) {
            mabn_str_add(&out, m->rest);
            break;
        }
        if (*pattern != '{') {
            mabn_str_add_char(&out, *pattern++);
            continue;
        }
        struct hole h = parse_hole(pattern);
        int value = m->value[h.variable];
        if (h.letters && value >= 1 && (size_t)value <= h.letter_count)
            mabn_str_add_char(&out, h.letters[value - 1]);
        else if (!h.letters && value * h.factor + h.shift >= 0)
            mabn_str_printf(&out, "%d", value * h.factor + h.shift);
        else {
            mabn_str_release(&out);
            return NULL;
        }
        pattern = h.after;
    }
    return mabn_str_detach(&out);
}

char *mabn_names_translate(const char *pattern, const char *other, const char *text)
{
    struct match m;
    return match(pattern, text, &m) ? expand(other, &m) : NULL;
}

/* ---- using the tables ---- */

static char *forward(const struct row *rows, const char *text)
{
    char *result = NULL;
    for (; rows->theirs && !result; rows++)
        result = mabn_names_translate(rows->theirs, rows->ours, text);
    return result;
}

static char *backward(const struct row *rows, const char *text)
{
    char *result = NULL;
    for (; rows->theirs && !result; rows++)
        result = mabn_names_translate(rows->ours, rows->theirs, text);
    return result;
}

char *mabn_names_to_ours(enum mabn_names names, const char *theirs)
{
    return forward(styles[names].rows, theirs);
}

char *mabn_names_from_ours(enum mabn_names names, const char *name)
{
    char *classifier = names == MABN_NAMES_DETECTRON2 ? mabn_names_out_of_detector(name) : NULL;
    char *theirs = backward(styles[names].rows, classifier ? classifier : name);
    free(classifier);
    return theirs;
}

char *mabn_names_into_detector(const char *classifier)
{
    return forward(body, classifier);
}

char *mabn_names_out_of_detector(const char *detector)
{
    return backward(body, detector);
}

bool mabn_names_is_detector(const char *name)
{
    return !strncmp(name, "backbone.", 9) || !strncmp(name, "rpn.", 4) ||
           !strncmp(name, "roi_heads.", 10);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

bool mabn_names_ignored(enum mabn_names names, const char *theirs)
{
    if (names == MABN_NAMES_CAFFE2)
        return ends_with(theirs, "_momentum") || !strcmp(theirs, "lr") ||
               !strcmp(theirs, "model_iter") || !strcmp(theirs, "optimizer_iteration");
    if (names == MABN_NAMES_DETECTRON2)
        return !strcmp(theirs, "pixel_mean") || !strcmp(theirs, "pixel_std");
    return false;
}

/* How many of the model's names that begin with n bytes of `prefix` a style knows without them. */
static size_t count_known(const struct mabn_weights *w, const struct row *rows, const char *prefix,
                          size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < mabn_weights_count(w); i++) {
        const struct mabn_weight *t = mabn_weights_at(w, i);
        if (t->part != MABN_WEIGHT_MODEL || strncmp(t->name, prefix, n) || !t->name[n]) continue;
        char *name = forward(rows, t->name + n);
        count += name != NULL;
        free(name);
    }
    return count;
}

static size_t most_known(const struct mabn_weights *w, const char *prefix, size_t n)
{
    size_t most = 0;
    for (int s = 0; s < MABN_NAMES_COUNT; s++) {
        size_t count = count_known(w, styles[s].rows, prefix, n);
        if (count > most) most = count;
    }
    return most;
}

/* A name whose first part, up to a dot, more than half of the model's names have; NULL: there is none.
 * (Boyer and Moore's vote.) */
static const char *most_common(const struct mabn_weights *w)
{
    const char *winner = NULL;
    size_t votes = 0, have = 0, names = 0;
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < mabn_weights_count(w); i++) {
            const struct mabn_weight *t = mabn_weights_at(w, i);
            if (t->part != MABN_WEIGHT_MODEL) continue;
            const bool same = winner && !strncmp(winner, t->name, strcspn(winner, ".") + 1);
            if (round) {
                names++;
                have += same;
            } else if (!votes) {
                winner = t->name;
                votes = 1;
            } else {
                votes = same ? votes + 1 : votes - 1;
            }
        }
    return 2 * have > names && strchr(winner, '.') ? winner : NULL;
}

/* The length of the longest start, up to a dot, of `first` and all names of the model that share its
 * first part. *names: how many share it. */
static size_t common_start(const struct mabn_weights *w, const char *first, size_t *names)
{
    const size_t part = strcspn(first, ".") + 1;
    size_t n = strlen(first);
    *names = 0;
    for (size_t i = 0; i < mabn_weights_count(w); i++) {
        const struct mabn_weight *t = mabn_weights_at(w, i);
        if (t->part != MABN_WEIGHT_MODEL || strncmp(t->name, first, part)) continue;
        ++*names;
        for (size_t k = 0; k < n; k++)
            if (t->name[k] != first[k]) n = k;
    }
    while (n && first[n - 1] != '.')
        n--;
    return n;
}

char *mabn_names_prefix(const struct mabn_weights *w)
{
    const char *first = most_known(w, "", 0) ? NULL : most_common(w);
    if (!first) return NULL;
    size_t names, longest = common_start(w, first, &names);
    for (size_t n = 1; n <= longest; n++)
        if (first[n - 1] == '.' && 2 * most_known(w, first, n) > names)
            return mabn_xstrndup(first, n);
    return NULL;
}

enum mabn_names mabn_names_guess(const struct mabn_weights *w)
{
    size_t best_count = 0;
    enum mabn_names best = MABN_NAMES_OURS;
    for (int s = 0; s < MABN_NAMES_COUNT; s++) {
        size_t count = count_known(w, styles[s].rows, "", 0);
        if (count > best_count) {
            best_count = count;
            best = (enum mabn_names)s;
        }
    }
    return best;
}
