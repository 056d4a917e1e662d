/* The table. Sources: the fork of maskrcnn-benchmark that the authors published, detectron2 of
 * 2026-06, torchvision 0.20. */
#include "detect/convention.h"

#include <math.h>
#include <string.h>

#include "base/words.h"

static const struct mabn_box_convention table[] = {
    {
        .name = "legacy",
        .one = 1,
        .anchors = MABN_ANCHOR_ON_STRIDE,
        .ignore_outside = true,
        .rpn_beta = 1.0 / 9,
        .rank = MABN_RANK_SIGMOID,
        .cap_level = true,
        .cap_batch = true,
        .level_epsilon = 1e-6,
        .epsilon_inside = true,
        .roi_sampling = 2,
        .box_beta = 1,
        .mask = MABN_MASK_POLYGON_LEGACY,
        .class_order = true,
        .paste = MABN_PASTE_RESIZE,
    },
    {
        .name = "detectron2",
        .anchors = MABN_ANCHOR_EXACT,
        .mean_over_capacity = true,
        .rank = MABN_RANK_LOGIT,
        .min_is_dropped = true,
        .finite_only = true,
        .nms_shift_limit = 1000,
        .nms_double = true,
        .level_epsilon = 1e-8,
        .epsilon_inside = true,
        .roi_aligned = true,
        .background_last = true,
        .mask = MABN_MASK_POLYGON,
        .clip_original = true,
        .paste = MABN_PASTE_SAMPLE,
    },
    {
        .name = "torchvision",
        .anchors = MABN_ANCHOR_ROUNDED,
        .stride_from_grid = true,
        .rpn_beta = 1.0 / 9,
        .rank = MABN_RANK_LOGIT_SIGMOID,
        .min_proposal = 1e-3,
        .nms_shift_limit = 1000,
        .nms_double = true,
        .level_epsilon = 1e-6,
        .roi_sampling = 2,
        .box_beta = 1.0 / 9,
        .mask = MABN_MASK_SOFT,
        .min_detection = 1e-2,
        .ratio_single = true,
        .paste = MABN_PASTE_RESIZE,
    },
};

mabn_status mabn_box_convention_find(const struct mabn_box_convention **out, const char *name)
{
    *out = &table[0];
    if (!name) return MABN_OK;
    struct mabn_str words;
    mabn_str_init(&words);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mabn_str_printf(&words, "%s%s", i ? ", " : "", table[i].name);
        if (strcmp(table[i].name, name)) continue;
        *out = &table[i];
        mabn_str_release(&words);
        return MABN_OK;
    }
    const mabn_status status = mabn_word_unknown("box convention", name, words.text);
    mabn_str_release(&words);
    return status;
}

float mabn_box_threshold(const struct mabn_box_convention *c, double threshold)
{
    float t = (float)threshold;
    if (c->nms_double && (double)t > threshold) t = nextafterf(t, -INFINITY);
    return t;
}
