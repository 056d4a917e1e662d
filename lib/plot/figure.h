/* A figure: panels side by side, each with two axes and any number of series, and one common
 * legend.
 *
 * The style is fixed so that all pictures of the project look alike: horizontal grid lines only,
 * the quantity named above its axis, colours that colour-blind readers can tell apart (Okabe and
 * Ito's), a marker shape for each series, and dashed lines once the colours run out. Callers give data
 * and names, never colours in RGB.
 *
 * Series of one name share a colour and one entry in the legend, in all panels; the name "" has no
 * entry. Points with a coordinate that is not finite, or not positive on a logarithmic scale, are left
 * out and break the line. */
#ifndef MABN_PLOT_FIGURE_H
#define MABN_PLOT_FIGURE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_scale { MABN_SCALE_LINEAR, MABN_SCALE_LOG2, MABN_SCALE_LOG10 };

enum mabn_series_look {
    MABN_LOOK_LINE,    /* a line */
    MABN_LOOK_THIN,    /* a thin line, for dense noisy data */
    MABN_LOOK_FAINT,   /* a thin pale line, the raw data behind a smoothed one; not in the legend */
    MABN_LOOK_POINTS,  /* a line with a marker at each point */
    MABN_LOOK_WHISKER, /* a vertical bar from y to y2 at each point; not in the legend */
};

struct mabn_figure;
struct mabn_panel;

/* All text is copied. `note` is a grey line under the title; both may be "". */
struct mabn_figure *mabn_figure_new(const char *title, const char *note);
void mabn_figure_free(struct mabn_figure *figure); /* NULL is fine */

/* Owned by the figure; panels fill rows from the left, two to a row. */
struct mabn_panel *mabn_figure_add_panel(struct mabn_figure *figure, const char *y_label,
                                         const char *x_label);

void mabn_panel_set_scale(struct mabn_panel *panel, enum mabn_scale x, enum mabn_scale y);
/* Bounds of the y axis; NaN: from the data. Lines are clipped at the frame. */
void mabn_panel_set_y_range(struct mabn_panel *panel, double low, double high);
/* Copies n points; y2 is for whiskers, else NULL. */
void mabn_panel_add(struct mabn_panel *panel, const char *name, enum mabn_series_look look,
                    const double *x, const double *y, const double *y2, size_t n);
/* Make the panel a matrix of values (n,n), row by row. The shade of a cell is its share of its row's sum.
 * y_label says what the rows are, x_label the columns. names (n). Names and values are copied. */
void mabn_panel_set_matrix(struct mabn_panel *panel, const char *const *names, const double *values,
                           size_t n);
/* Does any panel hold a finite point, or a matrix? */
bool mabn_figure_has_data(const struct mabn_figure *figure);

/* Draw into `path`, PNG or SVG by its ending; "-" is SVG on standard output. width and height in
 * points (0: chosen by the number of panels); PNG has two pixels to a point. Another ending is
 * MABN_ERR_ARG; an existing file is replaced only with `force`. */
MABN_MUST_USE mabn_status mabn_figure_save(const struct mabn_figure *figure, const char *path,
                                           int width, int height, bool force);

/* Ticks of `scale` in [low, high], about max_ticks at most; returns how many. ticks needs room for
 * max_ticks + 1. Also for tests. */
int mabn_plot_ticks(enum mabn_scale scale, double low, double high, int max_ticks, double *ticks);
/* "0.05", "20k", "1e-6": the label of a tick, given the distance to the next one. */
void mabn_plot_tick_label(char text[32], double value, double step);

MABN_END_DECLS
#endif
