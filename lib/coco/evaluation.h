/* Private to lib/coco: what the matching leaves behind for the accumulation. */
#ifndef MABN_COCO_EVALUATION_H
#define MABN_COCO_EVALUATION_H

#include "coco/score.h"

MABN_BEGIN_DECLS

/* The detections of one category in one image, and how many ground truths count there. */
struct mabn_coco_cell {
    uint32_t category, image; /* indices */
    uint32_t first, count;    /* detections[first ... first + count), by falling score */
    uint32_t truths[MABN_COCO_MAX_AREAS];
};

struct mabn_coco_detection {
    double score;
    uint32_t image, rank; /* rank: place within its cell */
};

/* Bit t: threshold t. */
struct mabn_coco_bits {
    uint64_t matched, ignored;
};

struct mabn_coco_evaluation {
    struct mabn_coco_params params;
    int threads;
    const struct mabn_coco *truth, *results; /* borrowed */
    int64_t *image_ids;                      /* (images) ascending */
    int64_t *category_ids;                   /* (categories) ascending; one, -1, when agnostic */
    const char **category_names;             /* borrowed from truth */
    char *frequencies;                       /* (categories) */
    size_t n_images, n_categories, n_detections, n_truths;
    struct mabn_coco_detection *detections; /* image by image */
    struct mabn_coco_bits *bits;            /* (detections, areas) */
    struct mabn_coco_cell *cells;           /* category by category, images ascending */
    size_t *cell_start;                     /* (categories + 1) into cells */
    uint32_t *order;                        /* detections category by category, falling score */
    size_t *order_start;                    /* (categories + 1) into order */
};

/* Sum in numpy's pairwise order, which the last digits depend on. */
double mabn_coco_sum(const double *v, size_t n);

MABN_END_DECLS
#endif
