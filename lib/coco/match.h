/* Private to lib/coco: fill an evaluation by matching every image of a join; or visit the images
 * with all their overlaps, for computations across categories. */
#ifndef MABN_COCO_MATCH_H
#define MABN_COCO_MATCH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_coco_evaluation;
struct mabn_coco_join;

MABN_MUST_USE mabn_status mabn_coco_match(struct mabn_coco_evaluation *e,
                                          const struct mabn_coco_join *join);

/* What one image holds: truths in the order of the file, detections of all categories by falling
 * score, as many as the largest limit says. */
struct mabn_coco_pairs {
    uint32_t image;
    size_t n_truths, n_detections;
    const uint32_t *truths, *detections; /* records */
    const uint32_t *truth_categories, *detection_categories;
    const double *overlaps; /* (detections, truths); over the detection alone where a crowd is */
};

/* `worker` is below the evaluation's threads. */
typedef mabn_status mabn_coco_visit(void *context, const struct mabn_coco_pairs *pairs, int worker);

/* Call visit for every image of the join, from many threads. Of e only params, threads, truth,
 * results and n_images are used. */
MABN_MUST_USE mabn_status mabn_coco_visit_images(struct mabn_coco_evaluation *e,
                                                 const struct mabn_coco_join *join,
                                                 mabn_coco_visit *visit, void *context);

MABN_END_DECLS
#endif
