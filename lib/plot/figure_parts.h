/* Private to this room: what a figure is made of. */
#ifndef MABN_PLOT_FIGURE_PARTS_H
#define MABN_PLOT_FIGURE_PARTS_H

#include <cairo.h>

#include "plot/figure.h"

MABN_BEGIN_DECLS

struct mabn_series {
    int name; /* index into the figure's names: colour, marker and legend entry */
    enum mabn_series_look look;
    size_t n;
    double *x, *y, *y2; /* (n); y2 may be NULL */
};

struct mabn_panel {
    struct mabn_figure *figure; /* borrowed */
    char *x_label, *y_label;
    enum mabn_scale x_scale, y_scale;
    double y_low, y_high; /* NaN: from the data */
    struct mabn_series *series;
    int n_series, series_capacity;
    char **cell_names; /* (n_cells) of a matrix */
    double *cells;     /* (n_cells,n_cells) */
    size_t n_cells;
};

struct mabn_figure {
    char *title, *note;
    struct mabn_panel **panels;
    int n_panels, panels_capacity;
    char **names;
    bool *in_legend; /* (n_names) */
    int n_names, names_capacity;
};

/* Draw the whole figure into a rectangle of width × height points. */
void mabn_figure_draw(const struct mabn_figure *figure, cairo_t *cr, double width, double height);
/* A panel's matrix in a rectangle. */
void mabn_matrix_draw(const struct mabn_panel *panel, cairo_t *cr, double left, double top,
                      double width, double height);
int mabn_figure_columns(const struct mabn_figure *figure);

MABN_END_DECLS
#endif
