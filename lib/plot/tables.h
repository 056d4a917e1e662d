/* Figures from the tables of mabn-score coco: curves of precision and recall, calibration of
 * scores, confusion of categories. The first line of a table tells which kind it is. */
#ifndef MABN_PLOT_TABLES_H
#define MABN_PLOT_TABLES_H

#include "plot/figure.h"
#include "plot/logs.h"

MABN_BEGIN_DECLS

/* Draw tables of one kind: a series for each (the mean over the categories; for a single table of
 * curves also up to 8 categories), or a panel for each confusion matrix. title may be NULL. On
 * success the caller frees *out. */
MABN_MUST_USE mabn_status mabn_plot_tables(struct mabn_figure **out, const char *title,
                                           const struct mabn_log_source *tables, int n);

MABN_END_DECLS
#endif
