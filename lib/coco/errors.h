/* Where average precision is lost: the errors of TIDE (Bolya and others, "TIDE: A General Toolbox
 * for Identifying Object Detection Errors", ECCV 2020), as the package tidecv 1.0 counts them.
 *
 * At one overlap threshold t, with b = 0.1 for background, each detection that matches nothing is
 * of the first kind that fits:
 *
 *     localization    right category, overlap in [b, t]
 *     classification  overlap of t or more with a truth of another category
 *     duplicate       right category and place, but a better detection has taken the truth
 *     background      overlap of at most b with any truth
 *     both            anything else: wrong category and place
 *
 * A truth is missed when no detection finds it and no repair of the first two kinds would.
 *
 * For each kind there are two figures: the number of errors, and the points (0 to 100) by which AP at
 * t would rise if only these errors were repaired. Localization and classification errors are
 * corrected, of several for one truth the best, if the truth is still free; the others are removed.
 * The same is computed for false positives (all of them scored below everything) and for false
 * negatives (no truth missed, the same precision).
 *
 * As in tidecv, the limit on detections is for an image, not for each category in it; a category with
 * detections and no truth counts with AP 0; crowds ignore what they cover. AP therefore differs from
 * COCO's, and is given too. */
#ifndef MABN_COCO_ERRORS_H
#define MABN_COCO_ERRORS_H

#include "base/json_write.h"
#include "base/str.h"
#include "coco/score.h"

MABN_BEGIN_DECLS

enum mabn_coco_error {
    MABN_COCO_ERROR_CLASS,
    MABN_COCO_ERROR_LOCATION,
    MABN_COCO_ERROR_BOTH,
    MABN_COCO_ERROR_DUPLICATE,
    MABN_COCO_ERROR_BACKGROUND,
    MABN_COCO_ERROR_MISSED,
    MABN_COCO_ERROR_FALSE_POSITIVE,
    MABN_COCO_ERROR_FALSE_NEGATIVE,
    MABN_COCO_ERRORS,
};

struct mabn_coco_errors {
    enum mabn_coco_type type;
    double threshold, background;
    double ap;                     /* points */
    double gain[MABN_COCO_ERRORS]; /* points; not negative, but for false positives and negatives */
    int64_t count[MABN_COCO_ERRORS];
};

/* params: type, categories, images, max_dets (the largest counts) and threads are looked at. Not
 * for keypoints (MABN_ERR_ARG). */
MABN_MUST_USE mabn_status mabn_coco_find_errors(struct mabn_coco_errors *out,
                                                const struct mabn_coco *truth,
                                                const struct mabn_coco *results,
                                                const struct mabn_coco_params *params,
                                                double threshold);

void mabn_coco_report_errors(struct mabn_str *out, const struct mabn_coco_errors *e);
/* The object "errors". */
void mabn_coco_report_errors_json(struct mabn_json_writer *w, const struct mabn_coco_errors *e);
/* Lines of type, name, points, count. */
void mabn_coco_report_errors_tsv(struct mabn_str *out, const struct mabn_coco_errors *e);

MABN_END_DECLS
#endif
