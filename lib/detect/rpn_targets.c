#include "detect/rpn_targets.h"

#include <string.h>

#include "detect/anchors.h"
#include "detect/boxes.h"

struct mabn_rpn_target_options mabn_rpn_target_defaults(void)
{
    return (struct mabn_rpn_target_options){.matcher = {0.7f, 0.3f, true},
                                            .sampler = {256, 0.5, false}};
}

mabn_status mabn_rpn_label(int32_t *label, int32_t *match, const float *anchor, int64_t n,
                           const struct mabn_truth *truth, const struct mabn_matcher *matcher,
                           const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status;
    uint8_t *visible;

    MABN_TRY_GOTO(mabn_scratch_take(scratch, &visible, (size_t)n, 1), out);
    if (c->ignore_outside)
        mabn_anchors_visible(visible, anchor, n, truth->width, truth->height);
    else
        memset(visible, 1, (size_t)n);
    MABN_TRY_GOTO(
        mabn_match_boxes(match, truth->box, truth->count, anchor, n, c->one, matcher, scratch),
        out);
    for (int64_t i = 0; i < n; i++)
        label[i] = !visible[i] || match[i] == MABN_MATCH_BETWEEN ? -1 : match[i] >= 0;
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

static void write_sample(struct mabn_rpn_targets *out, const int32_t *index, const int32_t *label,
                         const int32_t *match, const float *anchor, const struct mabn_truth *truth,
                         float one)
{
    static const struct mabn_box_weights ones = {1, 1, 1, 1};
    for (int64_t k = 0; k < out->sampled; k++) {
        const int64_t i = index[k];
        out->weight[i] = 1;
        if (label[i] != 1) continue;
        out->target[i] = out->box_weight[i] = 1;
        mabn_box_encode(out->delta + 4 * i, anchor + 4 * i, truth->box + 4 * (int64_t)match[i], 1,
                        ones, one);
    }
}

mabn_status mabn_rpn_targets_make(struct mabn_rpn_targets *out, const float *anchor, int64_t n,
                                  const struct mabn_truth *truth,
                                  const struct mabn_rpn_target_options *options,
                                  const struct mabn_sample_key *key,
                                  const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status;
    int32_t *label, *match, *index;

    memset(out->target, 0, (size_t)n * sizeof *out->target);
    memset(out->weight, 0, (size_t)n * sizeof *out->weight);
    memset(out->box_weight, 0, (size_t)n * sizeof *out->box_weight);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &label, (size_t)n, sizeof *label), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &match, (size_t)n, sizeof *match), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &index, (size_t)n, sizeof *index), out);
    MABN_TRY_GOTO(mabn_rpn_label(label, match, anchor, n, truth, &options->matcher, c, scratch),
                  out);
    MABN_TRY_GOTO(mabn_sample(index, &out->sampled, &out->positives, label, n, &options->sampler,
                              key, scratch),
                  out);
    write_sample(out, index, label, match, anchor, truth, c->one);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}
