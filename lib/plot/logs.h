/* From files of JSON Lines to figures: training curves, error against normalization batch, recorded
 * statistics. Lines of other types than the figure needs are skipped. On success the caller frees
 * *figure; MABN_ERR_FORMAT if the files have nothing to draw. */
#ifndef MABN_PLOT_LOGS_H
#define MABN_PLOT_LOGS_H

#include <stdbool.h>

#include "base/status.h"
#include "plot/figure.h"

MABN_BEGIN_DECLS

/* A file, and what to call it. name NULL: named after its start line ("MABN, norm batch 2"), with seed
 * and path added if two files would have the same name; without a start line, after its path. */
struct mabn_log_source {
    const char *path, *name; /* borrowed */
};

/* Training loss and validation error (for a detector AP) over epochs; with `more` also validation
 * loss, a detector's five losses and the learning rate. A panel is drawn if a log has numbers for
 * it. smooth: each point is the mean over this many step lines around it (1: no smoothing; 0: a
 * fiftieth of the longest log's). */
struct mabn_curve_options {
    int smooth;
    bool by_step; /* x axis: steps, not epochs */
    bool more;
};
MABN_MUST_USE mabn_status mabn_plot_curves(struct mabn_figure **figure, const char *title,
                                           const struct mabn_log_source *logs, int count,
                                           const struct mabn_curve_options *options);

/* The last validation error of each log against its normalization batch, one line for each norm;
 * several logs of one norm and batch (seeds) are averaged, with a bar from best to worst. */
MABN_MUST_USE mabn_status mabn_plot_sweep(struct mabn_figure **figure, const char *title,
                                          const struct mabn_log_source *logs, int count);

/* The four batch statistics of one layer and channel over steps, a line for each file. layer NULL:
 * the first layer in the first file that has statistics of this channel. */
MABN_MUST_USE mabn_status mabn_plot_stats(struct mabn_figure **figure, const char *title,
                                          const struct mabn_log_source *logs, int count,
                                          const char *layer, int channel);

MABN_END_DECLS
#endif
