/* Categories of detectors' classes. */
#include "coco/categories.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

static void add_category(struct mabn_str *json, const char *id, const char *name)
{
    mabn_str_printf(json, "%s{\"id\":%s,\"name\":", json->text[json->length - 1] == '[' ? "" : ",",
                    id);
    mabn_str_add_json(json, name ? name : "");
    mabn_str_add_char(json, '}');
}

static void add_numbered(struct mabn_str *json, int id, const char *name)
{
    char text[16];
    snprintf(text, sizeof text, "%d", id);
    add_category(json, text, name ? name : "N/A");
}

/* ---- of a file ---- */

static int by_id(const void *a, const void *b)
{
    const struct mabn_coco_category *x = *(const struct mabn_coco_category *const *)a,
                                    *y = *(const struct mabn_coco_category *const *)b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void add_in_order(struct mabn_str *json, const struct mabn_coco *coco, bool sorted)
{
    const struct mabn_coco_category **all = mabn_xcalloc(coco->n_categories + 1, sizeof *all);
    for (size_t i = 0; i < coco->n_categories; i++)
        all[i] = &coco->categories[i];
    if (sorted) qsort(all, coco->n_categories, sizeof *all, by_id);
    for (size_t i = 0; i < coco->n_categories; i++) {
        struct mabn_str id;
        mabn_str_init(&id);
        mabn_coco_add_id(&id, coco, all[i]->id);
        add_category(json, id.text, all[i]->name);
        mabn_str_release(&id);
    }
    free(all);
}

static mabn_status add_by_number(struct mabn_str *json, const struct mabn_coco *coco, int classes)
{
    const char **names = mabn_xcalloc((size_t)classes + 1, sizeof *names);
    mabn_status status = MABN_OK;
    for (size_t i = 0; i < coco->n_categories && !status; i++) {
        const struct mabn_coco_category *c = &coco->categories[i];
        if (c->id >= 1 && c->id <= classes)
            names[c->id] = c->name ? c->name : "";
        else
            status = mabn_fail(MABN_ERR_MISMATCH,
                               "category '%s' has the id %lld, and the detector's classes are "
                               "numbered 1 to %d",
                               c->name ? c->name : "", (long long)c->id, classes);
    }
    for (int k = 1; k <= classes && !status; k++)
        add_numbered(json, k, names[k]);
    free(names);
    return status;
}

mabn_status mabn_coco_categories(struct mabn_str *json, const struct mabn_coco *coco, int classes,
                                 enum mabn_category_order order)
{
    if (order != MABN_CATEGORIES_BY_NUMBER && coco->n_categories != (size_t)classes)
        return mabn_fail(MABN_ERR_MISMATCH, "%zu categories for a detector of %d classes",
                         coco->n_categories, classes);
    mabn_str_add_char(json, '[');
    if (order == MABN_CATEGORIES_BY_NUMBER)
        MABN_TRY(add_by_number(json, coco, classes));
    else
        add_in_order(json, coco, order == MABN_CATEGORIES_SORTED);
    mabn_str_add_char(json, ']');
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
    mabn_str_add_char(json, '[');
    for (int id = 1; id <= IDS_2017; id++)
        if (by_number || names_2017[id - 1]) add_numbered(json, id, names_2017[id - 1]);
    mabn_str_add_char(json, ']');
    return true;
}
