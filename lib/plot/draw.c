/* Drawing a figure with cairo. Layout from the outside in: title, note and legend on top, then a
 * grid of cells; in a cell the quantity's name, the plot area with its ticks on the left and
 * below, and the name of the x axis under them. All lengths are in points. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot/figure_parts.h"

enum { MAX_TICKS = 24, N_COLOURS = 7, N_MARKERS = 4 };

static const double MARGIN = 18;
static const double TEXT_SIZE = 11.5, SMALL_SIZE = 10.5, TITLE_SIZE = 15;
static const char FONT[] = "DejaVu Sans";

/* Okabe and Ito's palette without yellow, which is too pale for a line on white; the strongest
 * contrasts first. */
static const double COLOURS[N_COLOURS][3] = {
    {0.000, 0.447, 0.698}, /* blue */
    {0.835, 0.369, 0.000}, /* vermilion */
    {0.000, 0.620, 0.451}, /* green */
    {0.800, 0.475, 0.655}, /* purple */
    {0.902, 0.624, 0.000}, /* orange */
    {0.337, 0.706, 0.914}, /* sky */
    {0.250, 0.250, 0.250}, /* near black */
};

struct axis {
    enum mabn_scale scale;
    double low, high;  /* data */
    double start, end; /* points: where low and high are drawn */
    double ticks[MAX_TICKS];
    int n_ticks;
};

/* ---- text ---- */

static void set_font(cairo_t *cr, double size, bool bold)
{
    cairo_select_font_face(cr, FONT, CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cr, size);
}

static double text_width(cairo_t *cr, const char *text)
{
    cairo_text_extents_t extents;
    cairo_text_extents(cr, text, &extents);
    return extents.x_advance;
}

/* align: 0 starts at x, 0.5 is centred on it, 1 ends there. */
static void put_text(cairo_t *cr, double x, double y, double align, const char *text)
{
    cairo_move_to(cr, x - align * text_width(cr, text), y);
    cairo_show_text(cr, text);
}

static void grey(cairo_t *cr, double level)
{
    cairo_set_source_rgb(cr, level, level, level);
}

/* ---- axes ---- */

static double to_scale(enum mabn_scale scale, double value)
{
    return scale == MABN_SCALE_LINEAR ? value : value > 0 ? log(value) : NAN;
}

static double place(const struct axis *axis, double value)
{
    double low = to_scale(axis->scale, axis->low), high = to_scale(axis->scale, axis->high);
    double at = (to_scale(axis->scale, value) - low) / (high - low);
    return axis->start + at * (axis->end - axis->start);
}

static void stretch(struct axis *axis, double value)
{
    if (!isfinite(value) || !isfinite(to_scale(axis->scale, value))) return;
    if (!(value >= axis->low)) axis->low = value;
    if (!(value <= axis->high)) axis->high = value;
}

/* A range that is not empty, with a margin around the data if `air`. */
static void settle_range(struct axis *axis, double air)
{
    bool log_scale = axis->scale != MABN_SCALE_LINEAR;
    if (!isfinite(axis->low)) {
        axis->low = log_scale ? 1 : 0;
        axis->high = log_scale ? 10 : 1;
    }
    if (axis->high <= axis->low) {
        double half = axis->low != 0 ? fabs(axis->low) / 2 : 0.5;
        if (log_scale) half = axis->low / 2;
        axis->low -= half;
        axis->high += half;
    }
    if (log_scale) {
        double factor = pow(axis->high / axis->low, air);
        axis->low /= factor;
        axis->high *= factor;
    } else {
        double pad = (axis->high - axis->low) * air;
        /* The range of quantities that cannot be negative does not go below 0. */
        axis->low = axis->low >= 0 && axis->low - pad < 0 ? 0 : axis->low - pad;
        axis->high += pad;
    }
}

static void find_ranges(const struct mabn_panel *panel, struct axis *x, struct axis *y)
{
    *x = (struct axis){.scale = panel->x_scale, .low = NAN, .high = NAN};
    *y = (struct axis){.scale = panel->y_scale, .low = NAN, .high = NAN};
    bool spread_points = false;
    for (int s = 0; s < panel->n_series; s++) {
        const struct mabn_series *series = &panel->series[s];
        if (series->look == MABN_LOOK_POINTS) spread_points = true;
        for (size_t i = 0; i < series->n; i++) {
            if (!isfinite(series->y[i])) continue;
            stretch(x, series->x[i]);
            stretch(y, series->y[i]);
            if (series->y2) stretch(y, series->y2[i]);
        }
    }
    settle_range(x, spread_points && x->scale != MABN_SCALE_LINEAR ? 0.06 : 0);
    if (x->scale == MABN_SCALE_LINEAR && x->low > 0 && x->low < 0.3 * x->high) x->low = 0;
    settle_range(y, 0.05);
    if (isfinite(panel->y_low)) y->low = panel->y_low;
    if (isfinite(panel->y_high)) y->high = panel->y_high;
    if (y->high <= y->low) y->high = y->low + 1;
}

static double tick_step(const struct axis *axis)
{
    return axis->n_ticks > 1 && axis->scale == MABN_SCALE_LINEAR ? axis->ticks[1] - axis->ticks[0]
           : axis->scale == MABN_SCALE_LINEAR                    ? axis->high - axis->low
                                                                 : axis->ticks[0];
}

static void axis_label(const struct axis *axis, int i, char text[32])
{
    double value = axis->ticks[i];
    double step = axis->scale == MABN_SCALE_LINEAR ? tick_step(axis) : value;
    if (axis->scale == MABN_SCALE_LOG10 && axis->n_ticks > 1 && axis->ticks[1] < 4 * axis->ticks[0])
        step = axis->ticks[1] - axis->ticks[0];
    mabn_plot_tick_label(text, value, step);
}

static void set_ticks(struct axis *axis, double points_each)
{
    int most = (int)(fabs(axis->end - axis->start) / points_each);
    if (most < 2) most = 2;
    if (most > MAX_TICKS - 2) most = MAX_TICKS - 2;
    axis->n_ticks = mabn_plot_ticks(axis->scale, axis->low, axis->high, most, axis->ticks);
}

static void draw_axes(cairo_t *cr, const struct mabn_panel *panel, const struct axis *x,
                      const struct axis *y)
{
    char text[32];
    set_font(cr, SMALL_SIZE, false);
    for (int i = 0; i < y->n_ticks; i++) {
        double at = floor(place(y, y->ticks[i])) + 0.5;
        grey(cr, 0.88);
        cairo_set_line_width(cr, 0.8);
        cairo_move_to(cr, x->start, at);
        cairo_line_to(cr, x->end, at);
        cairo_stroke(cr);
        grey(cr, 0.30);
        axis_label(y, i, text);
        put_text(cr, x->start - 7, at + SMALL_SIZE * 0.35, 1, text);
    }
    grey(cr, 0.30);
    cairo_set_line_width(cr, 1);
    cairo_move_to(cr, x->start, floor(y->start) + 0.5);
    cairo_line_to(cr, x->end, floor(y->start) + 0.5);
    cairo_stroke(cr);
    for (int i = 0; i < x->n_ticks; i++) {
        double at = place(x, x->ticks[i]);
        cairo_move_to(cr, at, floor(y->start) + 0.5);
        cairo_rel_line_to(cr, 0, 4);
        cairo_stroke(cr);
        axis_label(x, i, text);
        put_text(cr, at, y->start + 8 + SMALL_SIZE, 0.5, text);
    }
    put_text(cr, (x->start + x->end) / 2, y->start + 26 + SMALL_SIZE, 0.5, panel->x_label);
}

/* ---- series ---- */

static void set_colour(cairo_t *cr, int name, double alpha)
{
    const double *c = COLOURS[name % N_COLOURS];
    cairo_set_source_rgba(cr, c[0], c[1], c[2], alpha);
}

/* Lines of the second round of colours are dashed. */
static void set_dash(cairo_t *cr, int name)
{
    const double dashes[2][2] = {{6, 3}, {2, 2.5}};
    int round = name / N_COLOURS;
    if (round == 0)
        cairo_set_dash(cr, NULL, 0, 0);
    else
        cairo_set_dash(cr, dashes[(round - 1) % 2], 2, 0);
}

static void marker_path(cairo_t *cr, int name, double x, double y)
{
    const double r = 3.6;
    cairo_new_path(cr);
    switch (name % N_MARKERS) {
    case 0:
        cairo_arc(cr, x, y, r, 0, 2 * M_PI);
        return;
    case 1:
        cairo_rectangle(cr, x - r * 0.88, y - r * 0.88, 1.76 * r, 1.76 * r);
        return;
    case 2:
        cairo_move_to(cr, x, y - r * 1.2);
        cairo_line_to(cr, x + r * 1.1, y + r * 0.8);
        cairo_line_to(cr, x - r * 1.1, y + r * 0.8);
        break;
    default:
        cairo_move_to(cr, x, y - r * 1.25);
        cairo_line_to(cr, x + r * 1.25, y);
        cairo_line_to(cr, x, y + r * 1.25);
        cairo_line_to(cr, x - r * 1.25, y);
        break;
    }
    cairo_close_path(cr);
}

static void draw_marker(cairo_t *cr, int name, double x, double y)
{
    marker_path(cr, name, x, y);
    set_colour(cr, name, 1);
    cairo_fill_preserve(cr);
    cairo_set_dash(cr, NULL, 0, 0);
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_set_line_width(cr, 1);
    cairo_stroke(cr);
}

static void draw_whiskers(cairo_t *cr, const struct mabn_series *series, const struct axis *x,
                          const struct axis *y)
{
    set_colour(cr, series->name, 0.55);
    cairo_set_line_width(cr, 1.4);
    cairo_set_dash(cr, NULL, 0, 0);
    for (size_t i = 0; i < series->n; i++) {
        double px = place(x, series->x[i]), low = place(y, series->y[i]);
        double high = place(y, series->y2[i]);
        if (!isfinite(px + low + high)) continue;
        cairo_move_to(cr, px, low);
        cairo_line_to(cr, px, high);
        cairo_move_to(cr, px - 3, low);
        cairo_line_to(cr, px + 3, low);
        cairo_move_to(cr, px - 3, high);
        cairo_line_to(cr, px + 3, high);
    }
    cairo_stroke(cr);
}

static void draw_line(cairo_t *cr, const struct mabn_series *series, const struct axis *x,
                      const struct axis *y)
{
    static const double widths[] = {[MABN_LOOK_LINE] = 1.9,
                                    [MABN_LOOK_THIN] = 0.8,
                                    [MABN_LOOK_FAINT] = 0.8,
                                    [MABN_LOOK_POINTS] = 1.9};
    set_colour(cr, series->name,
               series->look == MABN_LOOK_FAINT  ? 0.22
               : series->look == MABN_LOOK_THIN ? 0.85
                                                : 1);
    cairo_set_line_width(cr, widths[series->look]);
    set_dash(cr, series->name);
    cairo_new_path(cr);
    bool pen_down = false;
    for (size_t i = 0; i < series->n; i++) {
        double px = place(x, series->x[i]), py = place(y, series->y[i]);
        if (!isfinite(px + py)) {
            pen_down = false;
        } else if (pen_down) {
            cairo_line_to(cr, px, py);
        } else {
            cairo_move_to(cr, px, py);
            pen_down = true;
        }
    }
    cairo_stroke(cr);
}

static void draw_series(cairo_t *cr, const struct mabn_series *series, const struct axis *x,
                        const struct axis *y)
{
    if (series->look == MABN_LOOK_WHISKER) {
        draw_whiskers(cr, series, x, y);
        return;
    }
    draw_line(cr, series, x, y);
    if (series->look != MABN_LOOK_POINTS) return;
    for (size_t i = 0; i < series->n; i++) {
        double px = place(x, series->x[i]), py = place(y, series->y[i]);
        if (isfinite(px + py)) draw_marker(cr, series->name, px, py);
    }
}

/* ---- panels ---- */

static void draw_panel(cairo_t *cr, const struct mabn_panel *panel, double left, double top,
                       double width, double height)
{
    if (panel->n_cells) {
        mabn_matrix_draw(panel, cr, left, top, width, height);
        return;
    }
    struct axis x, y;
    find_ranges(panel, &x, &y);
    y.start = top + height - 46;
    y.end = top + 26;
    set_ticks(&y, 38);
    set_font(cr, SMALL_SIZE, false);
    double widest = 0;
    for (int i = 0; i < y.n_ticks; i++) {
        char text[32];
        axis_label(&y, i, text);
        widest = fmax(widest, text_width(cr, text));
    }
    x.start = left + widest + 10;
    x.end = left + width - 10;
    set_ticks(&x, 56);

    set_font(cr, TEXT_SIZE, true);
    grey(cr, 0.15);
    put_text(cr, left, top + TEXT_SIZE, 0, panel->y_label);
    draw_axes(cr, panel, &x, &y);

    /* Raw data below smoothed data, markers above lines; markers may extend over the frame. */
    cairo_save(cr);
    cairo_rectangle(cr, x.start - 5, y.end - 5, x.end - x.start + 10, y.start - y.end + 10);
    cairo_clip(cr);
    cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
    static const enum mabn_series_look order[] = {
        MABN_LOOK_FAINT, MABN_LOOK_THIN, MABN_LOOK_WHISKER, MABN_LOOK_LINE, MABN_LOOK_POINTS};
    for (size_t o = 0; o < sizeof order / sizeof *order; o++)
        for (int s = 0; s < panel->n_series; s++)
            if (panel->series[s].look == order[o]) draw_series(cr, &panel->series[s], &x, &y);
    cairo_restore(cr);
}

/* ---- the whole ---- */

static bool name_has_points(const struct mabn_figure *figure, int name)
{
    for (int p = 0; p < figure->n_panels; p++)
        for (int s = 0; s < figure->panels[p]->n_series; s++)
            if (figure->panels[p]->series[s].name == name &&
                figure->panels[p]->series[s].look == MABN_LOOK_POINTS)
                return true;
    return false;
}

/* Returns the y below the legend. */
static double draw_legend(cairo_t *cr, const struct mabn_figure *figure, double top, double width)
{
    int shown = 0;
    for (int i = 0; i < figure->n_names; i++)
        shown += figure->in_legend[i] && figure->names[i][0];
    if (!shown) return top;
    set_font(cr, TEXT_SIZE, false);
    double x = MARGIN, y = top;
    const double sample = 24, gap = 7, between = 20, row = TEXT_SIZE * 1.6;
    for (int i = 0; i < figure->n_names; i++) {
        if (!figure->in_legend[i] || !figure->names[i][0]) continue;
        double entry = sample + gap + text_width(cr, figure->names[i]);
        if (x > MARGIN && x + entry > width - MARGIN) {
            x = MARGIN;
            y += row;
        }
        double middle = y + TEXT_SIZE * 0.62;
        set_colour(cr, i, 1);
        set_dash(cr, i);
        cairo_set_line_width(cr, 2.4);
        cairo_move_to(cr, x, middle);
        cairo_line_to(cr, x + sample, middle);
        cairo_stroke(cr);
        cairo_set_dash(cr, NULL, 0, 0);
        if (name_has_points(figure, i)) draw_marker(cr, i, x + sample / 2, middle);
        grey(cr, 0.15);
        put_text(cr, x + sample + gap, y + TEXT_SIZE, 0, figure->names[i]);
        x += entry + between;
    }
    return y + row;
}

int mabn_figure_columns(const struct mabn_figure *figure)
{
    return figure->n_panels < 2 ? figure->n_panels : 2;
}

void mabn_figure_draw(const struct mabn_figure *figure, cairo_t *cr, double width, double height)
{
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    double top = MARGIN;
    if (figure->title[0]) {
        set_font(cr, TITLE_SIZE, true);
        grey(cr, 0.10);
        put_text(cr, MARGIN, top + TITLE_SIZE * 0.85, 0, figure->title);
        top += TITLE_SIZE * 1.5;
    }
    if (figure->note[0]) {
        set_font(cr, SMALL_SIZE, false);
        grey(cr, 0.42);
        put_text(cr, MARGIN, top + SMALL_SIZE * 0.85, 0, figure->note);
        top += SMALL_SIZE * 1.9;
    }
    top = draw_legend(cr, figure, top + 2, width) + 10;

    int columns = mabn_figure_columns(figure);
    if (!columns) return;
    int rows = (figure->n_panels + columns - 1) / columns;
    const double gutter = 26;
    double cell_width = (width - 2 * MARGIN - gutter * (columns - 1)) / columns;
    double cell_height = (height - top - MARGIN * 0.6 - gutter * 0.5 * (rows - 1)) / rows;
    for (int p = 0; p < figure->n_panels; p++)
        draw_panel(cr, figure->panels[p], MARGIN + (p % columns) * (cell_width + gutter),
                   top + (p / columns) * (cell_height + gutter * 0.5), cell_width, cell_height);
}
