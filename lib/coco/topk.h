/* Accuracy of classification, from the predictions that mabn-eval writes: JSON Lines, one object
 * a sample,
 *     {"sample": 0, "label": 7, "top": [7, 3, 1, 9, 0], "prob": [0.9, ...], "loss": 0.1}
 * where "top" lists classes by falling probability. "label" and "top" are needed, "loss" is used
 * when it is there, and a warning gives the samples that occur twice; the rest is passed over. */
#ifndef MABN_COCO_TOPK_H
#define MABN_COCO_TOPK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

MABN_BEGIN_DECLS

enum { MABN_TOPK_MAX_CLASS = 10000000 };

struct mabn_topk_class {
    int64_t samples, first, within; /* how many; right at once; right within the first k */
    int64_t predicted;              /* how often it was the first prediction */
};

struct mabn_topk_confusion {
    int32_t label, predicted;
    int64_t count;
};

struct mabn_topk {
    int k;
    int64_t samples, first, within, losses;
    double loss; /* sum over `losses` samples */
    struct mabn_topk_class *classes;
    int64_t n_classes;
    struct mabn_topk_confusion *confusions; /* most frequent first, then by label and prediction */
    int64_t n_confusions;
    char **names; /* (n_names) of classes, or NULL */
    int64_t n_names;
};

/* Read predictions ("-": standard input). Every "top" must name at least k classes, or all there
 * are. */
MABN_MUST_USE mabn_status mabn_topk_read(struct mabn_topk *out, const char *path, int k);
/* Class names, one a line. MABN_ERR_MISMATCH if there are fewer than classes in the predictions. */
MABN_MUST_USE mabn_status mabn_topk_read_names(struct mabn_topk *t, const char *path);
void mabn_topk_release(struct mabn_topk *t);

/* Reports, appended: the summary with the most frequent confusions; a table of classes (aligned,
 * or tab-separated); everything as a JSON object. */
void mabn_topk_report(struct mabn_str *out, const struct mabn_topk *t, int confusions);
void mabn_topk_report_classes(struct mabn_str *out, const struct mabn_topk *t, bool tsv);
void mabn_topk_report_json(struct mabn_str *out, const struct mabn_topk *t, int confusions);

MABN_END_DECLS
#endif
