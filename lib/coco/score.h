/* COCO's scoring of detections: average precision and recall with exactly the numbers of
 * pycocotools 2.0, including its quirks.
 *
 * Two steps. mabn_coco_evaluate matches detections to ground truth image by image; its outcome can
 * be asked for scores any number of times, over all images or over images with weights (which is
 * what the bootstrap does). Neither depends on the number of threads.
 *
 * The settings are in struct mabn_coco_params; _init gives COCO's own.
 *
 * Quirks of pycocotools that change numbers, kept unless `fix_quirks` is set:
 *   - a detection matched to a ground truth whose id is 0 counts as a false positive;
 *   - an annotation's "ignore" field has no effect ("iscrowd" overwrites it);
 *   - when results have boxes and masks, the box area decides the area range, for masks too;
 *   - the first statistic asks for 100 detections, and is -1 when max_dets does not hold 100;
 *   - an annotation id that occurs twice stands for its last record, once for each occurrence.
 * Kept always: among equal overlaps the later ground truth wins; the threshold 0.9 is
 * 0.8999999999999999.
 *
 * Unlike pycocotools: a polygon of four numbers is an error, not a box; two images with one id are
 * an error; a ground truth without keypoints is one whose keypoints are not labelled. */
#ifndef MABN_COCO_SCORE_H
#define MABN_COCO_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "base/words.h"
#include "coco/annotations.h"

MABN_BEGIN_DECLS

enum mabn_coco_type { MABN_COCO_BBOX, MABN_COCO_SEGM, MABN_COCO_KEYPOINTS, MABN_COCO_TYPES };

enum {
    MABN_COCO_MAX_THRESHOLDS = 64,
    MABN_COCO_MAX_MAX_DETS = 8,
    MABN_COCO_MAX_AREAS = 8,
    MABN_COCO_MAX_KEYPOINTS = 256,
    MABN_COCO_RECALLS = 101,
    MABN_COCO_STATS = 13,
};

struct mabn_coco_area {
    char name[16];
    double low, high; /* both inclusive; INFINITY: no bound */
};

/* A category's own kind of skeleton. */
struct mabn_coco_sigmas {
    int64_t category; /* id */
    int n;
    double sigmas[MABN_COCO_MAX_KEYPOINTS];
};

struct mabn_coco_params {
    enum mabn_coco_type type;
    double thresholds[MABN_COCO_MAX_THRESHOLDS];
    int n_thresholds;
    int max_dets[MABN_COCO_MAX_MAX_DETS]; /* ascending */
    int n_max_dets;
    struct mabn_coco_area areas[MABN_COCO_MAX_AREAS];
    int n_areas;
    const int64_t *categories; /* borrowed; NULL: all */
    size_t n_categories;
    const int64_t *images; /* borrowed; NULL: all */
    size_t n_images;
    double sigmas[MABN_COCO_MAX_KEYPOINTS];
    int n_sigmas;
    const struct mabn_coco_sigmas *own_sigmas; /* borrowed; of categories that have others */
    size_t n_own_sigmas;                       /* 0 when class agnostic */
    bool class_agnostic;                       /* one class of all categories */
    bool fix_quirks;
    bool boundary; /* masks by the lesser of mask IoU and boundary IoU (coco/mask.h) */
    bool lvis;     /* LVIS's rules, see below; the truth must be read with MABN_COCO_KEEP_LVIS,
                  and its crowds forgotten */
    bool quiet;    /* no warnings of what is left out: they were printed before */
    bool full;     /* precision for every max_dets, and scores */
    int threads;   /* 0: all available */
};

/* LVIS's rules (as in the package lvis 0.5.3), boxes and masks: the largest of max_dets limits the
 * detections of an image, not of each category in it; those of a category that the image neither
 * has nor lists as absent are left out; those of a category listed as incomplete are wrong nowhere;
 * no crowds, but "ignore" counts. Settings: max_dets 300. 13 statistics, with AP by frequency. */
void mabn_coco_params_lvis(struct mabn_coco_params *params);

extern const struct mabn_word mabn_coco_types[]; /* "bbox", "segm", "keypoints" */
const char *mabn_coco_type_name(enum mabn_coco_type type);
void mabn_coco_params_init(struct mabn_coco_params *params, enum mabn_coco_type type);

/* Everything computed from one pair of files for one type. */
struct mabn_coco_evaluation;

/* `truth` and `results` are borrowed until _free (their names and records are referred to).
 * Fails on a result for an image that `truth` does not have, on records without what the type
 * needs, and on masks that overrun. Warnings name what is left out: annotations of images or
 * categories that are not listed, results of unknown categories; also ids that occur twice and
 * masks of another size than their image. */
MABN_MUST_USE mabn_status mabn_coco_evaluate(struct mabn_coco_evaluation **out,
                                             const struct mabn_coco *truth,
                                             const struct mabn_coco *results,
                                             const struct mabn_coco_params *params);
void mabn_coco_evaluation_free(struct mabn_coco_evaluation *e);

/* Scores. precision and scores are (K,A,M,T,R), recall is (K,A,M,T): K categories (1 when class
 * agnostic), A areas, M max_dets, T thresholds, R = MABN_COCO_RECALLS; -1 where there is no ground
 * truth (or, in precision without `full`, where no statistic looks). */
struct mabn_coco_score {
    struct mabn_coco_params params;
    size_t n_categories;
    int64_t *category_ids; /* (K) */
    char **category_names; /* (K) "" when not given */
    char **category_texts; /* (K) ids as JSON has them: numbers, or texts in quotes */
    char **category_keys;  /* (K) the same without quotes and escapes */
    char *frequencies;     /* (K) LVIS: r, c, f */
    int64_t *truths;       /* (K,A) ground truths that count */
    double *precision, *recall, *scores;
    double stats[MABN_COCO_STATS]; /* in pycocotools' order */
    int n_stats;                   /* 12, keypoints 10, LVIS 13 */
    size_t n_images, n_truths, n_results;
};

/* weights: (images) how often each image counts; NULL: once. */
MABN_MUST_USE mabn_status mabn_coco_accumulate(struct mabn_coco_score *out,
                                               const struct mabn_coco_evaluation *e,
                                               const uint32_t *weights);
void mabn_coco_score_release(struct mabn_coco_score *s);

static inline size_t mabn_coco_recall_at(const struct mabn_coco_score *s, size_t k, int a, int m,
                                         int t)
{
    return ((k * (size_t)s->params.n_areas + (size_t)a) * (size_t)s->params.n_max_dets +
            (size_t)m) *
               (size_t)s->params.n_thresholds +
           (size_t)t;
}

/* Mean of the precision (or recall) of category k, -1: of all. threshold < 0: over all thresholds; else
 * the one equal to it (to 1e-9). area and max_det are indices. -1 when there is nothing to average. */
double mabn_coco_mean_precision(const struct mabn_coco_score *s, int64_t k, double threshold,
                                int area, int max_det);
double mabn_coco_mean_recall(const struct mabn_coco_score *s, int64_t k, double threshold, int area,
                             int max_det);
/* -1: there is no area of this name. */
int mabn_coco_area_index(const struct mabn_coco_params *p, const char *name);

/* ---- comparing two results of the same truth ---- */

struct mabn_coco_interval {
    double low, high; /* of the difference b - a, at the asked confidence */
    double above;     /* share of the rounds in which b was better; equal ones count half */
};

/* Paired bootstrap over images: `rounds` times, draw as many images as there are, with
 * replacement, and score both on them. Statistics that are -1 get NaN. threads 0: all available.
 * MABN_ERR_MISMATCH if the evaluations differ in their number of images. */
MABN_MUST_USE mabn_status mabn_coco_bootstrap(struct mabn_coco_interval out[MABN_COCO_STATS],
                                              const struct mabn_coco_evaluation *a,
                                              const struct mabn_coco_evaluation *b, int rounds,
                                              double confidence, uint64_t seed, int threads);

MABN_END_DECLS
#endif
