/* Results that score next to nothing although they look right: is there a form of boxes, or of
 * numbers, that other programs write and in which they would match? */
#ifndef MABN_COCO_DOUBT_H
#define MABN_COCO_DOUBT_H

#include <stdbool.h>
#include <stddef.h>

#include "coco/annotations.h"

MABN_BEGIN_DECLS

/* How many of the detections that were tried reach IoU 0.5 with an object of any category. */
struct mabn_coco_form {
    const char *name;     /* "x1, y1, x2, y2": a form in which more of them match; NULL: none */
    bool truth;           /* it is the annotations that are in this form, not the results */
    size_t tried;         /* at most 2000 detections with a box, evenly taken */
    size_t plain, better; /* as x, y, width, height; in that form */
};
/* A form is named when it lets at least 30 % match, and three times as many as the expected one. */
void mabn_coco_find_form(struct mabn_coco_form *form, const struct mabn_coco *truth,
                         const struct mabn_coco *results);

/* Do all coordinates (boxes; else polygons; else keypoints) lie within 0 to 1, and are there any? */
bool mabn_coco_is_fractions(const struct mabn_coco *c);

/* Records whose score is no probability; *first: the first of them, or NULL. */
size_t mabn_coco_odd_scores(const struct mabn_coco *results, const struct mabn_coco_record **first);

MABN_END_DECLS
#endif
