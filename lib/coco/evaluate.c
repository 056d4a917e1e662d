/* An evaluation from files to matched detections: join, match, order by score. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "coco/evaluation.h"
#include "coco/join.h"
#include "coco/match.h"
#include "coco/score.h"

const struct mabn_word mabn_coco_types[] = {{MABN_COCO_BBOX, "bbox"},
                                            {MABN_COCO_SEGM, "segm"},
                                            {MABN_COCO_KEYPOINTS, "keypoints"},
                                            {0, NULL}};

const char *mabn_coco_type_name(enum mabn_coco_type type)
{
    return mabn_word_name(mabn_coco_types, (int)type);
}

void mabn_coco_params_init(struct mabn_coco_params *p, enum mabn_coco_type type)
{
    static const struct mabn_coco_area areas[] = {
        {"all", 0, 1e5 * 1e5},
        {"small", 0, 32 * 32},
        {"medium", 32 * 32, 96 * 96},
        {"large", 96 * 96, 1e5 * 1e5},
    };
    /* In tenths: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles. */
    static const double sigmas[] = {.26, .25, .25,  .35,  .35, .79, .79, .72, .72,
                                    .62, .62, 1.07, 1.07, .87, .87, .89, .89};
    memset(p, 0, sizeof *p);
    p->type = type;
    p->n_thresholds = 10;
    for (int i = 0; i < 10; i++)
        p->thresholds[i] = 0.5 + i * ((0.95 - 0.5) / 9);
    p->thresholds[9] = 0.95;
    if (type == MABN_COCO_KEYPOINTS) {
        p->max_dets[0] = 20;
        p->n_max_dets = 1;
        p->areas[0] = areas[0];
        p->areas[1] = areas[2];
        p->areas[2] = areas[3];
        p->n_areas = 3;
    } else {
        p->max_dets[0] = 1;
        p->max_dets[1] = 10;
        p->max_dets[2] = 100;
        p->n_max_dets = 3;
        memcpy(p->areas, areas, sizeof areas);
        p->n_areas = 4;
    }
    p->n_sigmas = 17;
    for (int i = 0; i < 17; i++)
        p->sigmas[i] = sigmas[i] / 10;
}

void mabn_coco_params_lvis(struct mabn_coco_params *p)
{
    p->lvis = true;
    p->max_dets[0] = 300;
    p->n_max_dets = 1;
}

static mabn_status check_params(const struct mabn_coco_params *p)
{
    if (p->n_thresholds < 1 || p->n_thresholds > MABN_COCO_MAX_THRESHOLDS || p->n_areas < 1 ||
        p->n_areas > MABN_COCO_MAX_AREAS || p->n_max_dets < 1 ||
        p->n_max_dets > MABN_COCO_MAX_MAX_DETS)
        return mabn_fail(MABN_ERR_ARG, "too many or no thresholds, areas or detection limits");
    for (int i = 0; i < p->n_thresholds; i++)
        if (!(p->thresholds[i] > 0 && p->thresholds[i] <= 1))
            return mabn_fail(MABN_ERR_ARG, "overlap threshold %g is not in (0, 1]",
                             p->thresholds[i]);
    if (p->class_agnostic && p->n_own_sigmas)
        return mabn_fail(MABN_ERR_ARG, "categories with deviations of their own cannot be one");
    if (p->lvis && p->type == MABN_COCO_KEYPOINTS)
        return mabn_fail(MABN_ERR_ARG, "LVIS has no keypoints");
    for (int i = 0; i < p->n_max_dets; i++)
        if (p->max_dets[i] < 1 || (i && p->max_dets[i] <= p->max_dets[i - 1]))
            return mabn_fail(MABN_ERR_ARG, "detection limits must be positive and ascending");
    return MABN_OK;
}

/* ---- order by score ---- */

struct ordering {
    struct mabn_coco_evaluation *e;
};

static void insertion_sort(struct mabn_coco_keyed *items, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct mabn_coco_keyed item = items[i];
        size_t k = i;
        for (; k > 0 && items[k - 1].key > item.key; k--)
            items[k] = items[k - 1];
        items[k] = item;
    }
}

static mabn_status order_category(void *context, int64_t index, int worker)
{
    struct mabn_coco_evaluation *e = ((struct ordering *)context)->e;
    size_t k = (size_t)index, n = e->order_start[k + 1] - e->order_start[k], i = 0;
    (void)worker;
    if (n == 0) return MABN_OK;
    struct mabn_coco_keyed *items = mabn_xmalloc(2 * n * sizeof *items);
    for (size_t c = e->cell_start[k]; c < e->cell_start[k + 1]; c++)
        for (uint32_t d = e->cells[c].first; d < e->cells[c].first + e->cells[c].count; d++)
            items[i++] = (struct mabn_coco_keyed){mabn_coco_score_key(e->detections[d].score), d};
    if (n < 64)
        insertion_sort(items, n);
    else
        mabn_coco_sort_keyed(items, items + n, n);
    for (i = 0; i < n; i++)
        e->order[e->order_start[k] + i] = items[i].index;
    free(items);
    return MABN_OK;
}

static mabn_status order_all(struct mabn_coco_evaluation *e)
{
    struct ordering ordering = {e};
    e->order_start = mabn_xcalloc(e->n_categories + 1, sizeof *e->order_start);
    for (size_t k = 0; k < e->n_categories; k++) {
        size_t n = 0;
        for (size_t c = e->cell_start[k]; c < e->cell_start[k + 1]; c++)
            n += e->cells[c].count;
        e->order_start[k + 1] = e->order_start[k] + n;
    }
    e->order = mabn_xmalloc((e->order_start[e->n_categories] + 1) * sizeof *e->order);
    return mabn_parallel(e->threads, (int64_t)e->n_categories, 1, order_category, &ordering);
}

/* ---- the whole ---- */

mabn_status mabn_coco_evaluate(struct mabn_coco_evaluation **out, const struct mabn_coco *truth,
                               const struct mabn_coco *results,
                               const struct mabn_coco_params *params)
{
    struct mabn_coco_join join;
    mabn_status status = MABN_OK;
    *out = NULL;
    MABN_TRY(check_params(params));
    MABN_TRY(mabn_coco_join_make(&join, truth, results, params));
    struct mabn_coco_evaluation *e = mabn_xcalloc(1, sizeof *e);
    e->params = *params;
    e->threads = params->threads ? params->threads : mabn_threads_available();
    e->truth = truth;
    e->results = results;
    e->n_images = join.n_images;
    e->n_categories = params->class_agnostic ? 1 : join.n_categories;
    e->n_truths = join.truth_start[join.n_images];
    status = mabn_coco_match(e, &join);
    if (!status) status = order_all(e);
    if (params->class_agnostic) {
        join.category_ids[0] = -1;
        join.category_names[0] = "all";
    }
    e->image_ids = join.image_ids;
    e->category_ids = join.category_ids;
    e->category_names = join.category_names;
    e->frequencies = join.frequencies;
    join.frequencies = NULL;
    join.image_ids = join.category_ids = NULL;
    join.category_names = NULL;
    mabn_coco_join_release(&join);
    if (status)
        mabn_coco_evaluation_free(e);
    else
        *out = e;
    return status;
}

void mabn_coco_evaluation_free(struct mabn_coco_evaluation *e)
{
    if (!e) return;
    free(e->image_ids);
    free(e->category_ids);
    free(e->category_names);
    free(e->frequencies);
    mabn_free(e->detections);
    mabn_free(e->bits);
    free(e->cells);
    free(e->cell_start);
    free(e->order);
    free(e->order_start);
    free(e);
}
