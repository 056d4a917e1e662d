/* Private to lib/coco: ground truth and results brought together, image by image. */
#ifndef MABN_COCO_JOIN_H
#define MABN_COCO_JOIN_H

#include "coco/score.h"

MABN_BEGIN_DECLS

/* The type of a results file, by COCO's rule: its first record decides. */
enum mabn_coco_results_kind {
    MABN_COCO_RESULTS_BOXES,
    MABN_COCO_RESULTS_MASKS,
    MABN_COCO_RESULTS_KEYPOINTS,
};

struct mabn_coco_join_truth {
    uint32_t record, category; /* category: an index, as everywhere here */
};

struct mabn_coco_join {
    enum mabn_coco_results_kind kind;
    int64_t *image_ids; /* (images) ascending */
    const struct mabn_coco_image **images;
    size_t n_images;
    int64_t *category_ids; /* (categories) ascending */
    const char **category_names;
    char *frequencies; /* (categories) */
    size_t n_categories;
    size_t
        *truth_start; /* (images + 1) into truths: by category, then as the reference lists them */
    struct mabn_coco_join_truth *truths;
    size_t *detection_start; /* (images + 1) into detections: in the order of the file */
    uint32_t *detections;
    uint32_t *detection_category; /* (records of the results) */
};

MABN_MUST_USE mabn_status mabn_coco_join_make(struct mabn_coco_join *out,
                                              const struct mabn_coco *truth,
                                              const struct mabn_coco *results,
                                              const struct mabn_coco_params *params);
void mabn_coco_join_release(struct mabn_coco_join *join);

/* Sorting: by group, falling score, category, record. */
struct mabn_coco_sort_item {
    uint32_t group;
    uint64_t score; /* mabn_coco_score_key's */
    uint32_t category, record;
};

/* A key that grows as the score falls; equal scores (0 and -0 too) have equal keys. */
uint64_t mabn_coco_score_key(double score);
/* `other` is room for n items. */
void mabn_coco_sort(struct mabn_coco_sort_item *items, struct mabn_coco_sort_item *other, size_t n);

/* Sorting by a rising key, equal ones in their order; linear in n, which is at least 1. `other` is
 * room for n items. */
struct mabn_coco_keyed {
    uint64_t key;
    uint32_t index;
};
void mabn_coco_sort_keyed(struct mabn_coco_keyed *items, struct mabn_coco_keyed *other, size_t n);

MABN_END_DECLS
#endif
