/* Precision, recall and F1 where a detector is run: with all detections of some score and above, at
 * one overlap threshold. Counted from the matches themselves (area range "all", the largest limit
 * of detections), not read off an interpolated curve. */
#ifndef MABN_COCO_OPERATING_H
#define MABN_COCO_OPERATING_H

#include "base/json_write.h"
#include "base/str.h"
#include "coco/score.h"

MABN_BEGIN_DECLS

struct mabn_coco_point {
    double score; /* detections of this score and above count */
    int64_t right, wrong, missed;
    double precision, recall, f1; /* 0 where there is nothing to divide */
};

/* At the score, or (score NaN) at the greatest F1, of several scores the highest. points:
 * (categories of the evaluation + 1), the last over all of them at one score. Fails when the
 * threshold or the area "all" is not among the evaluation's. */
MABN_MUST_USE mabn_status mabn_coco_operating_points(struct mabn_coco_point *points,
                                                     const struct mabn_coco_evaluation *e,
                                                     double threshold, double score);

void mabn_coco_report_points(struct mabn_str *out, const struct mabn_coco_point *points,
                             const struct mabn_coco_score *s, bool per_category);
void mabn_coco_report_points_tsv(struct mabn_str *out, const struct mabn_coco_point *points,
                                 const struct mabn_coco_score *s);
/* The object "operating_point", of "all" and "categories". */
void mabn_coco_report_points_json(struct mabn_json_writer *w, const struct mabn_coco_point *points,
                                  const struct mabn_coco_score *s);

MABN_END_DECLS
#endif
