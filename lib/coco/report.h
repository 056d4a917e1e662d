/* Scores as readable text and as tab-separated values, appended to a string, and as JSON. */
#ifndef MABN_COCO_REPORT_H
#define MABN_COCO_REPORT_H

#include <stdbool.h>

#include "base/json_write.h"
#include "base/str.h"
#include "coco/score.h"

MABN_BEGIN_DECLS

/* The familiar lines of pycocotools, character for character; areas of other names follow. */
void mabn_coco_report_lines(struct mabn_str *out, const struct mabn_coco_score *s);
/* A table of all categories: aligned, or tab-separated with a header line and full precision. */
void mabn_coco_report_categories(struct mabn_str *out, const struct mabn_coco_score *s, bool tsv);
/* One "TYPE<tab>NAME<tab>VALUE" line a statistic. */
void mabn_coco_report_tsv(struct mabn_str *out, const struct mabn_coco_score *s);
/* Keys of the open object: stats, ap_per_category, the same by area and threshold, the settings; with
 * `curves` also precision, recall (and scores, if there are any) as nested lists in pycocotools'
 * shapes. */
void mabn_coco_report_json(struct mabn_json_writer *w, const struct mabn_coco_score *s,
                           bool curves);

/* Text of a file in a table: what parts cells, or steers a terminal, becomes a space. */
void mabn_coco_add_cell(struct mabn_str *out, const char *text);
/* The same, a column of `width` letters: filled up with spaces, or cut. */
void mabn_coco_add_column(struct mabn_str *out, const char *text, size_t width, bool right);
/* The name of category k as a cell, or its id where it has none. */
void mabn_coco_add_name(struct mabn_str *out, const struct mabn_coco_score *s, size_t k);

/* Two results side by side; intervals: one for each statistic. */
void mabn_coco_report_comparison(struct mabn_str *out, const struct mabn_coco_score *a,
                                 const struct mabn_coco_score *b,
                                 const struct mabn_coco_interval *intervals, double confidence);
/* The same as the object "compare": stats of both, difference, interval. */
void mabn_coco_report_comparison_json(struct mabn_json_writer *w, const struct mabn_coco_score *a,
                                      const struct mabn_coco_score *b,
                                      const struct mabn_coco_interval *intervals,
                                      double confidence);

MABN_END_DECLS
#endif
