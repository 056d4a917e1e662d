/* Box conventions: one table of the differences between three families of Mask R-CNN.
 *
 *     legacy       maskrcnn-benchmark and the authors' fork of it; the default
 *     detectron2   detectron2
 *     torchvision  torchvision.models.detection
 *
 * A box is x1, y1, x2, y2. In legacy the corners are pixels that belong to the box, so that its
 * width is x2 − x1 + 1 and it is clipped to [0, W − 1]. The field `one` is this 1; in the other
 * families it is 0. A convention belongs to a model: weights that were
 * trained with one lose some points of AP with another. */
#ifndef MABN_DETECT_CONVENTION_H
#define MABN_DETECT_CONVENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_anchor_rule {
    MABN_ANCHOR_ON_STRIDE, /* sides rounded on a stride × stride box, then scaled */
    MABN_ANCHOR_EXACT,     /* not rounded, centred on 0 */
    MABN_ANCHOR_ROUNDED,   /* corners rounded, centred on 0 */
};
enum mabn_rank_rule {
    MABN_RANK_SIGMOID, /* proposals are ranked by probability in float32, where large logits tie */
    MABN_RANK_LOGIT,
    MABN_RANK_LOGIT_SIGMOID, /* the best of a level by logit, then by probability */
};
enum mabn_mask_rule {
    MABN_MASK_POLYGON_LEGACY, /* polygons scaled by 28 / (x2 − x1) */
    MABN_MASK_POLYGON,        /* the same in double, sides of at least 0.1 */
    MABN_MASK_SOFT,           /* the mask as an image, pooled by RoIAlign: values from 0 to 1 */
};
enum mabn_paste_rule {
    MABN_PASTE_RESIZE, /* zero border, box in whole pixels, resized */
    MABN_PASTE_SAMPLE, /* the map is sampled at the centre of every pixel */
};

struct mabn_box_convention {
    const char *name;
    float one;

    /* anchors and the losses of the RPN */
    enum mabn_anchor_rule anchors;
    bool stride_from_grid;   /* the stride of a level is the padded size over that of its grid */
    bool ignore_outside;     /* anchors that leave the image are not trained on */
    bool mean_over_capacity; /* losses over 256 an image, however many were sampled */
    double rpn_beta;         /* of the smooth L1 loss; 0: L1 */

    /* proposals */
    enum mabn_rank_rule rank;
    double min_proposal; /* boxes narrower than this are dropped */
    bool min_is_dropped; /* boxes of exactly that width are dropped, too */
    bool finite_only;    /* boxes with a NaN or an infinity are dropped */
    bool cap_level;      /* the number kept is also a cap for each level */
    bool cap_batch;      /* in training the cap spans the images of a batch, whose proposals
                            stay in the order of levels; elsewhere they come best first */
    int nms_shift_limit; /* up to this many boxes, groups are kept apart by moving them, in
                            float32; above it each group is suppressed separately */
    bool nms_double;     /* an IoU is compared with the threshold as a double */

    /* heads */
    double level_epsilon; /* added where a box's level is computed from its size */
    bool epsilon_inside;  /* level_epsilon is added inside the logarithm, else outside */
    bool roi_aligned;
    int roi_sampling;
    bool background_last; /* else class 0 is the background */
    double box_beta;
    enum mabn_mask_rule mask;

    /* detections */
    double min_detection; /* narrower ones are dropped */
    bool class_order;     /* class by class, all that tie with the 100th; else best first */
    bool ratio_single;    /* the ratio of two sizes is a quotient of float32 numbers */
    bool clip_original;   /* clipped again in the original image, empty ones dropped */
    enum mabn_paste_rule paste;
};

/* NULL: legacy. Unknown names: MABN_ERR_NOTFOUND. The result is static. */
MABN_MUST_USE mabn_status mabn_box_convention_find(const struct mabn_box_convention **out,
                                                   const char *name);

/* The threshold t in float32 for which iou > t has the same result as the convention's
 * comparison. */
float mabn_box_threshold(const struct mabn_box_convention *c, double threshold);

/* A head's number for a label of the annotations, which are 1…classes, with 0 for background. A head
 * uses the same numbers, or, where background comes last, 0…classes−1 and then background. */
static inline int32_t mabn_class_label(int32_t label, int32_t classes,
                                       const struct mabn_box_convention *c)
{
    return !c->background_last ? label : label == 0 ? classes : label - 1;
}

MABN_END_DECLS
#endif
