/* Proposals: from the maps of an RPN head to the boxes that the heads look at.
 *
 * For every level of every image: the best by score are decoded from their anchors and clipped to
 * the image; narrow ones are dropped; non-maximum suppression. Then the levels of an image are put
 * together and cut down to the best (legacy, training: the best of the whole batch, which stay in
 * the order of levels; otherwise of each image, best first). In training the true boxes are
 * appended, with score 1. Anchors over the padding are not excluded. */
#ifndef MABN_DETECT_PROPOSALS_H
#define MABN_DETECT_PROPOSALS_H

#include <stdint.h>

#include "detect/anchors.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

struct mabn_proposal_options {
    int64_t before;   /* a level: 2000 in training, 1000 in testing */
    int64_t level;    /* of a level after suppression, at most; 0: no limit */
    int64_t total;    /* training: 2000 a batch (legacy) or image (torchvision), 1000 an image
                       (detectron2); testing: 1000 an image */
    bool whole_batch; /* total is of the batch */
    double threshold; /* 0.7 */
    double min_size;
};

/* Set the convention's numbers. */
struct mabn_proposal_options mabn_proposal_defaults(const struct mabn_box_convention *c,
                                                    bool training);

/* The RPN head's output for a batch, NHWC: score[l] (images,h,w,A), delta[l] (images,h,w,4A),
 * deltas of anchor a in channels 4a…4a+3. */
struct mabn_rpn_maps {
    int64_t images;
    int levels;
    int64_t anchors[MABN_ANCHOR_LEVELS]; /* h·w·A of each level */
    const float *score[MABN_ANCHOR_LEVELS];
    const float *delta[MABN_ANCHOR_LEVELS];
    const float *anchor;       /* (all anchors,4), levels one after another */
    const int *width, *height; /* (images) without padding */
};

/* The proposals of image i are rows i·room … i·room + count[i] − 1. */
struct mabn_proposals {
    int64_t room;
    float *box;     /* (images·room,4) */
    float *score;   /* (images·room) probability; the logit where proposals are ranked by it */
    int64_t *count; /* (images) */
};

/* The most proposals of one image, before true boxes are added. */
int64_t mabn_proposals_room(const struct mabn_rpn_maps *maps,
                            const struct mabn_proposal_options *options);

/* The caller provides the arrays of `out` with at least that room. Images and levels are divided
 * among threads; the result does not depend on their number. */
MABN_MUST_USE mabn_status mabn_proposals_make(struct mabn_proposals *out,
                                              const struct mabn_rpn_maps *maps,
                                              const struct mabn_proposal_options *options,
                                              const struct mabn_box_convention *c,
                                              struct mabn_scratch *scratch);
/* Append truth (n,4) to image i, score 1, as far as there is room. */
void mabn_proposals_add(struct mabn_proposals *out, int64_t image, const float *truth, int64_t n);

MABN_END_DECLS
#endif
