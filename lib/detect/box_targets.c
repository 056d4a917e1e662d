#include "detect/box_targets.h"

#include <string.h>

struct mabn_box_target_options mabn_box_target_defaults(int32_t classes)
{
    return (struct mabn_box_target_options){.matcher = {0.5f, 0.5f, false},
                                            .sampler = {512, 0.25, false},
                                            .weights = {10, 10, 5, 5},
                                            .classes = classes};
}

mabn_status mabn_box_label(int32_t *label, int32_t *match, const float *proposal, int64_t n,
                           const struct mabn_truth *truth, const struct mabn_matcher *matcher,
                           const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    MABN_TRY(
        mabn_match_boxes(match, truth->box, truth->count, proposal, n, c->one, matcher, scratch));
    for (int64_t i = 0; i < n; i++)
        label[i] = match[i] >= 0 ? truth->label[match[i]] : match[i] == MABN_MATCH_BETWEEN ? -1 : 0;
    return MABN_OK;
}

static void append(struct mabn_box_targets *out, int32_t image, const float *box, int32_t label,
                   int32_t match, const struct mabn_truth *truth,
                   const struct mabn_box_target_options *o, const struct mabn_box_convention *c)
{
    const int64_t at = out->count++;
    float *delta = out->delta + 4 * at;

    memcpy(out->box + 4 * at, box, 4 * sizeof *box);
    out->image[at] = image;
    out->label[at] = mabn_class_label(label, o->classes, c);
    out->object[at] = label >= 1 ? match : -1;
    out->weight[at] = label >= 1;
    memset(delta, 0, 4 * sizeof *delta);
    if (label >= 1)
        mabn_box_encode(delta, box, truth->box + 4 * (int64_t)match, 1, o->weights, c->one);
}

mabn_status mabn_box_targets_add(struct mabn_box_targets *out, int32_t image, const float *proposal,
                                 int64_t n, const struct mabn_truth *truth,
                                 const struct mabn_box_target_options *options,
                                 const struct mabn_sample_key *key,
                                 const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    int32_t *label, *match, *index;
    int64_t count, positives;
    mabn_status status;

    MABN_TRY_GOTO(mabn_scratch_take(scratch, &label, (size_t)n, sizeof *label), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &match, (size_t)n, sizeof *match), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &index, (size_t)n, sizeof *index), out);
    MABN_TRY_GOTO(mabn_box_label(label, match, proposal, n, truth, &options->matcher, c, scratch),
                  out);
    MABN_TRY_GOTO(mabn_sample(index, &count, &positives, label, n, &options->sampler, key, scratch),
                  out);
    if (count > out->room - out->count) {
        status = mabn_fail(MABN_ERR_LIMIT, "room for %lld sampled boxes, found %lld more",
                           (long long)out->room, (long long)count);
        goto out;
    }
    for (int64_t k = 0; k < count; k++) {
        const int32_t i = index[k];
        append(out, image, proposal + 4 * (int64_t)i, label[i], match[i], truth, options, c);
    }
    out->positives += positives;
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

int64_t mabn_box_targets_positive(int32_t *row, const struct mabn_box_targets *t)
{
    int64_t m = 0;
    for (int64_t i = 0; i < t->count; i++)
        if (t->weight[i] > 0) row[m++] = (int32_t)i;
    return m;
}
