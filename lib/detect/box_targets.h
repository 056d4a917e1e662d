/* Targets of the box head: some of the proposals, each with a class and the deltas to its object.
 *
 * The proposals of an image, the true boxes among them, are matched with the true boxes (0.5 and
 * 0.5, no rescue), sampled (512, a quarter of them positive) and appended to the batch's boxes in
 * ascending order. The positive ones go on to the mask head. */
#ifndef MABN_DETECT_BOX_TARGETS_H
#define MABN_DETECT_BOX_TARGETS_H

#include <stdint.h>

#include "detect/boxes.h"
#include "detect/rpn_targets.h"

MABN_BEGIN_DECLS

struct mabn_box_target_options {
    struct mabn_matcher matcher;
    struct mabn_sampler sampler;
    struct mabn_box_weights weights;
    int32_t classes; /* without background */
};
struct mabn_box_target_options mabn_box_target_defaults(int32_t classes);

/* The boxes of a batch, images one after another. The caller provides the arrays, of `room` rows,
 * and sets count and positives to 0. For smooth_l1.h delta is the target and label the group. */
struct mabn_box_targets {
    int64_t room, count, positives;
    float *box;      /* (room,4) */
    int32_t *image;  /* (room) */
    int32_t *label;  /* (room) as the head numbers its classes, see mabn_class_label */
    int32_t *object; /* (room) index among the image's objects; −1 for background */
    float *delta;    /* (room,4) 0 for background */
    float *weight;   /* (room) 1 for a positive */
};

/* label (n): of the object matched, 0 for background, −1 for ignored; match (n) as in match.h.
 * proposal (n,4). */
MABN_MUST_USE mabn_status mabn_box_label(int32_t *label, int32_t *match, const float *proposal,
                                         int64_t n, const struct mabn_truth *truth,
                                         const struct mabn_matcher *matcher,
                                         const struct mabn_box_convention *c,
                                         struct mabn_scratch *scratch);

/* Append the samples of an image. MABN_ERR_LIMIT: not enough room. */
MABN_MUST_USE mabn_status mabn_box_targets_add(struct mabn_box_targets *out, int32_t image,
                                               const float *proposal, int64_t n,
                                               const struct mabn_truth *truth,
                                               const struct mabn_box_target_options *options,
                                               const struct mabn_sample_key *key,
                                               const struct mabn_box_convention *c,
                                               struct mabn_scratch *scratch);

/* The positives, in order, for the mask head: their rows (positives) in `t`. Returns how many. */
int64_t mabn_box_targets_positive(int32_t *row, const struct mabn_box_targets *t);

MABN_END_DECLS
#endif
