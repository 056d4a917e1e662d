/* Matching boxes with objects by IoU.
 *
 * A box takes the object it overlaps most (equal ones: the lowest index); below `low` it is
 * background; from `low` to below `high` it is in between and ignored. With `rescue`, a box whose
 * overlap with some object is the largest of all boxes (exactly equal ones too) keeps the object
 * *it* overlaps most, whatever the thresholds say: not always the object that rescued it. An object
 * that no box touches rescues every box with IoU 0, as in the reference. */
#ifndef MABN_DETECT_MATCH_H
#define MABN_DETECT_MATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "detect/scratch.h"

MABN_BEGIN_DECLS

enum { MABN_MATCH_BACKGROUND = -1, MABN_MATCH_BETWEEN = -2 };

struct mabn_matcher {
    float high, low;
    bool rescue;
};

/* match (n): index of an object, or one of the two above. From IoU (objects,n), and from boxes
 * object (objects,4) and box (n,4). Without objects all is background. */
MABN_MUST_USE mabn_status mabn_match_matrix(int32_t *match, const float *iou, int64_t objects,
                                            int64_t n, const struct mabn_matcher *m,
                                            struct mabn_scratch *scratch);
MABN_MUST_USE mabn_status mabn_match_boxes(int32_t *match, const float *object, int64_t objects,
                                           const float *box, int64_t n, float one,
                                           const struct mabn_matcher *m,
                                           struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
