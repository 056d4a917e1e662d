/* Targets of the RPN for one image.
 *
 * Every anchor is matched with the true boxes (0.7, 0.3, with rescue); in some conventions anchors
 * that leave the image are ignored. Some anchors are sampled; the positive ones among them are
 * regressed to their object. The outputs fit the losses in ops: sigmoid_loss.h takes target and
 * weight, smooth_l1.h delta and box_weight. */
#ifndef MABN_DETECT_RPN_TARGETS_H
#define MABN_DETECT_RPN_TARGETS_H

#include <stdint.h>

#include "detect/convention.h"
#include "detect/match.h"
#include "detect/sample.h"

MABN_BEGIN_DECLS

/* True boxes of one image; labels 1…K where they are needed. count may be 0. */
struct mabn_truth {
    int64_t count;
    const float *box;     /* (count,4) */
    const int32_t *label; /* (count) */
    int width, height;    /* of the image, without padding */
};

struct mabn_rpn_target_options {
    struct mabn_matcher matcher;
    struct mabn_sampler sampler;
};
struct mabn_rpn_target_options mabn_rpn_target_defaults(void);

/* label (n): 1, 0, or −1 for ignored anchors. match (n), as in match.h, is the object of an anchor with
 * label 1; an ignored anchor outside the image may have one, too. anchor (n,4). */
MABN_MUST_USE mabn_status mabn_rpn_label(int32_t *label, int32_t *match, const float *anchor,
                                         int64_t n, const struct mabn_truth *truth,
                                         const struct mabn_matcher *matcher,
                                         const struct mabn_box_convention *c,
                                         struct mabn_scratch *scratch);

/* Over all n anchors of an image. delta is written where box_weight is 1, and left as it was
 * elsewhere; the others are written entirely. */
struct mabn_rpn_targets {
    float *target;     /* (n) 1 for a positive that was sampled */
    float *weight;     /* (n) 1 for what was sampled */
    float *box_weight; /* (n) 1 for a positive that was sampled */
    float *delta;      /* (n,4) */
    int64_t sampled, positives;
};

MABN_MUST_USE mabn_status mabn_rpn_targets_make(struct mabn_rpn_targets *out, const float *anchor,
                                                int64_t n, const struct mabn_truth *truth,
                                                const struct mabn_rpn_target_options *options,
                                                const struct mabn_sample_key *key,
                                                const struct mabn_box_convention *c,
                                                struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
