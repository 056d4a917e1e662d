/* The categories that a detector's file keeps, as JSON: [{"id":1,"name":"person"},…] in the order of
 * its classes. */
#ifndef MABN_COCO_CATEGORIES_H
#define MABN_COCO_CATEGORIES_H

#include "base/str.h"
#include "coco/annotations.h"

MABN_BEGIN_DECLS

enum mabn_category_order {
    MABN_CATEGORIES_AS_GIVEN,  /* in the order of the file: maskrcnn-benchmark */
    MABN_CATEGORIES_SORTED,    /* by id: detectron2 */
    MABN_CATEGORIES_BY_NUMBER, /* class k is the category of id k, "N/A" where there is none:
                                * torchvision */
};

/* Append the categories of an annotation file, for a model of `classes` classes. MABN_ERR_MISMATCH: the
 * file has another number of categories, or, by number, an id is below 1 or above `classes`. */
MABN_MUST_USE mabn_status mabn_coco_categories(struct mabn_str *json, const struct mabn_coco *coco,
                                               int classes, enum mabn_category_order order);
/* Append the 80 categories of COCO 2017, which most published models have; by number they are 90
 * classes. For another number of classes it appends nothing and returns false. */
bool mabn_coco_categories_2017(struct mabn_str *json, int classes, enum mabn_category_order order);

MABN_END_DECLS
#endif
