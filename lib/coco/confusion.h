/* The confusion matrix: ground truths by category against detections by category, at one overlap.
 *
 * In each image the detections of a score and above, the best `limit` of them by falling score,
 * take in turn the free truth that they overlap most, of any category, when the overlap reaches the
 * threshold (among equals the earlier). A detection that takes none is of the row "background", a
 * truth that is not taken of the column "background". Crowds are left out, and so are detections
 * that only a crowd explains (their overlap with it, over their own size, reaches the
 * threshold). */
#ifndef MABN_COCO_CONFUSION_H
#define MABN_COCO_CONFUSION_H

#include "base/str.h"
#include "coco/score.h"

MABN_BEGIN_DECLS

struct mabn_coco_confusion {
    size_t n_categories;
    int64_t *counts; /* (categories + 1, categories + 1): truth, detection; last: background */
};

/* params: type, categories, images, max_dets (the largest is the limit) and threads are looked at.
 * Keypoints are MABN_ERR_ARG, too many categories MABN_ERR_LIMIT. */
MABN_MUST_USE mabn_status mabn_coco_confuse(struct mabn_coco_confusion *out,
                                            const struct mabn_coco *truth,
                                            const struct mabn_coco *results,
                                            const struct mabn_coco_params *params, double threshold,
                                            double min_score);
void mabn_coco_confusion_release(struct mabn_coco_confusion *c);

/* A line "truth", names..., "background" under which each line is a category's. Names come from the
 * score of the same files. */
void mabn_coco_report_confusion(struct mabn_str *out, const struct mabn_coco_confusion *c,
                                const struct mabn_coco_score *names);

/* ---- are scores probabilities? ---- */

enum { MABN_COCO_BINS = 10 };

/* Detections that count at one overlap (area range "all", the largest limit) by score, in ten bins
 * of equal width from 0 to 1 (the lower end belongs to the bin; scores beyond go to the ends). */
struct mabn_coco_calibration {
    int64_t count[MABN_COCO_BINS], right[MABN_COCO_BINS];
    double score[MABN_COCO_BINS]; /* mean of the bin, 0 when it is empty */
    double error; /* expected calibration error: mean gap of score and share right, by count */
};

MABN_MUST_USE mabn_status mabn_coco_calibrate(struct mabn_coco_calibration *out,
                                              const struct mabn_coco_evaluation *e,
                                              double threshold);
/* Lines "low", "high", "count", "score", "right" (the share), under those words. */
void mabn_coco_report_calibration(struct mabn_str *out, const struct mabn_coco_calibration *c);

/* Lines of id, category, recall, precision, score under those words, at one threshold; first the mean
 * over the categories (no id, "all", no score). The score must be `full`. An error when it has not the
 * area "all" or not the threshold. */
MABN_MUST_USE mabn_status mabn_coco_report_curves(struct mabn_str *out,
                                                  const struct mabn_coco_score *s,
                                                  double threshold);

MABN_END_DECLS
#endif
