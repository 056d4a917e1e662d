/* Categories of detectors' classes. */
#include "coco/categories.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

/* coco NULL: the id is a plain number. */
static void put_category(struct mabn_json_writer *w, const struct mabn_coco *coco, int64_t id,
                         const char *name)
{
    mabn_json_put_object(w, NULL);
    if (coco)
        mabn_coco_put_id(w, "id", coco, id);
    else
        mabn_json_put_int(w, "id", id);
    mabn_json_put_string(w, "name", name);
    mabn_json_put_end(w);
}

/* ---- of a file ---- */

static int by_id(const void *a, const void *b, void *coco)
{
    const struct mabn_coco_category *x = *(const struct mabn_coco_category *const *)a,
                                    *y = *(const struct mabn_coco_category *const *)b;
    return mabn_coco_compare_ids(coco, x->id, y->id);
}

static void put_in_order(struct mabn_json_writer *w, const struct mabn_coco *coco, bool sorted)
{
    const struct mabn_coco_category **all = mabn_xcalloc(coco->n_categories + 1, sizeof *all);
    for (size_t i = 0; i < coco->n_categories; i++)
        all[i] = &coco->categories[i];
    if (sorted) qsort_r(all, coco->n_categories, sizeof *all, by_id, (void *)(uintptr_t)coco);
    for (size_t i = 0; i < coco->n_categories; i++)
        put_category(w, coco, all[i]->id, all[i]->name ? all[i]->name : "");
    free(all);
}

static mabn_status put_by_number(struct mabn_json_writer *w, const struct mabn_coco *coco,
                                 int classes)
{
    const char **names = mabn_xcalloc((size_t)classes + 1, sizeof *names);
    mabn_status status = MABN_OK;
    char id[24];
    for (size_t i = 0; i < coco->n_categories && !status; i++) {
        const struct mabn_coco_category *c = &coco->categories[i];
        if (c->id >= 1 && c->id <= classes)
            names[c->id] = c->name ? c->name : "";
        else
            status = mabn_fail(MABN_ERR_MISMATCH,
                               "category '%s' has the id %s, and the detector's classes are "
                               "numbered 1 to %d",
                               c->name ? c->name : "", mabn_coco_id_text(coco, c->id, id), classes);
    }
    for (int k = 1; k <= classes && !status; k++)
        put_category(w, NULL, k, names[k] ? names[k] : "N/A");
    free(names);
    return status;
}

mabn_status mabn_coco_categories(struct mabn_str *json, const struct mabn_coco *coco, int classes,
                                 enum mabn_category_order order)
{
    if (order != MABN_CATEGORIES_BY_NUMBER && coco->n_categories != (size_t)classes)
        return mabn_fail(MABN_ERR_MISMATCH, "%zu categories for a detector of %d classes",
                         coco->n_categories, classes);
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, json);
    mabn_json_put_array(&w, NULL);
    if (order == MABN_CATEGORIES_BY_NUMBER)
        MABN_TRY(put_by_number(&w, coco, classes));
    else
        put_in_order(&w, coco, order == MABN_CATEGORIES_SORTED);
    mabn_json_put_end(&w);
    return MABN_OK;
}

/* ---- COCO's own ---- */

/* Ids 1 … 90; ten of them were never used. */
static const char *const names_2017[] = {
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    NULL,
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    NULL,
    "backpack",
    "umbrella",
    NULL,
    NULL,
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    NULL,
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    NULL,
    "dining table",
    NULL,
    NULL,
    "toilet",
    NULL,
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    NULL,
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
};
enum { IDS_2017 = sizeof names_2017 / sizeof *names_2017, CATEGORIES_2017 = 80 };

bool mabn_coco_categories_2017(struct mabn_str *json, int classes, enum mabn_category_order order)
{
    const bool by_number = order == MABN_CATEGORIES_BY_NUMBER;
    if (classes != (by_number ? IDS_2017 : CATEGORIES_2017)) return false;
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, json);
    mabn_json_put_array(&w, NULL);
    for (int id = 1; id <= IDS_2017; id++)
        if (by_number || names_2017[id - 1])
            put_category(&w, NULL, id, names_2017[id - 1] ? names_2017[id - 1] : "N/A");
    mabn_json_put_end(&w);
    return true;
}
