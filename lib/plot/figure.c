/* Building figures and writing them: the drawing itself is in draw.c. */
#include "plot/figure.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairo-svg.h>
#include <cairo.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/out.h"
#include "base/str.h"
#include "plot/figure_parts.h"

struct mabn_figure *mabn_figure_new(const char *title, const char *note)
{
    struct mabn_figure *figure = mabn_xcalloc(1, sizeof *figure);
    figure->title = mabn_xstrdup(title);
    figure->note = mabn_xstrdup(note);
    return figure;
}

static void panel_free(struct mabn_panel *panel)
{
    for (size_t i = 0; i < panel->n_cells; i++)
        free(panel->cell_names[i]);
    free(panel->cell_names);
    free(panel->cells);
    for (int i = 0; i < panel->n_series; i++) {
        free(panel->series[i].x);
        free(panel->series[i].y);
        free(panel->series[i].y2);
    }
    free(panel->series);
    free(panel->x_label);
    free(panel->y_label);
    free(panel);
}

void mabn_figure_free(struct mabn_figure *figure)
{
    if (!figure) return;
    for (int i = 0; i < figure->n_panels; i++)
        panel_free(figure->panels[i]);
    free(figure->panels);
    for (int i = 0; i < figure->n_names; i++)
        free(figure->names[i]);
    free(figure->names);
    free(figure->in_legend);
    free(figure->title);
    free(figure->note);
    free(figure);
}

struct mabn_panel *mabn_figure_add_panel(struct mabn_figure *figure, const char *y_label,
                                         const char *x_label)
{
    struct mabn_panel *panel = mabn_xcalloc(1, sizeof *panel);
    panel->figure = figure;
    panel->x_label = mabn_xstrdup(x_label);
    panel->y_label = mabn_xstrdup(y_label);
    panel->y_low = panel->y_high = NAN;
    MABN_GROW(figure->panels, figure->n_panels, figure->panels_capacity);
    figure->panels[figure->n_panels++] = panel;
    return panel;
}

void mabn_panel_set_scale(struct mabn_panel *panel, enum mabn_scale x, enum mabn_scale y)
{
    panel->x_scale = x;
    panel->y_scale = y;
}

void mabn_panel_set_y_range(struct mabn_panel *panel, double low, double high)
{
    panel->y_low = low;
    panel->y_high = high;
}

static int find_name(struct mabn_figure *figure, const char *name)
{
    for (int i = 0; i < figure->n_names; i++)
        if (!strcmp(figure->names[i], name)) return i;
    if (figure->n_names == figure->names_capacity) {
        figure->names_capacity = figure->names_capacity ? 2 * figure->names_capacity : 16;
        size_t n = (size_t)figure->names_capacity;
        figure->names = mabn_xrealloc(figure->names, n * sizeof *figure->names);
        figure->in_legend = mabn_xrealloc(figure->in_legend, n * sizeof *figure->in_legend);
    }
    figure->names[figure->n_names] = mabn_xstrdup(name);
    figure->in_legend[figure->n_names] = false;
    return figure->n_names++;
}

static double *copy_values(const double *values, size_t n)
{
    if (!values) return NULL;
    double *copy = mabn_xmalloc((n ? n : 1) * sizeof *copy);
    memcpy(copy, values, n * sizeof *copy);
    return copy;
}

void mabn_panel_add(struct mabn_panel *panel, const char *name, enum mabn_series_look look,
                    const double *x, const double *y, const double *y2, size_t n)
{
    MABN_GROW(panel->series, panel->n_series, panel->series_capacity);
    struct mabn_series *series = &panel->series[panel->n_series++];
    series->name = find_name(panel->figure, name);
    if (look != MABN_LOOK_FAINT && look != MABN_LOOK_WHISKER)
        panel->figure->in_legend[series->name] = true;
    series->look = look;
    series->n = n;
    series->x = copy_values(x, n);
    series->y = copy_values(y, n);
    series->y2 = copy_values(y2, n);
}

bool mabn_figure_has_data(const struct mabn_figure *figure)
{
    for (int p = 0; p < figure->n_panels; p++) {
        const struct mabn_panel *panel = figure->panels[p];
        if (panel->n_cells) return true;
        for (int s = 0; s < panel->n_series; s++) {
            for (size_t i = 0; i < panel->series[s].n; i++)
                if (isfinite(panel->series[s].x[i]) && isfinite(panel->series[s].y[i])) return true;
        }
    }
    return false;
}

/* ---- writing ---- */

static cairo_status_t collect_bytes(void *closure, const unsigned char *bytes, unsigned int n)
{
    mabn_str_add_bytes(closure, bytes, n);
    return CAIRO_STATUS_SUCCESS;
}

static mabn_status check_cairo(cairo_status_t status, const char *path)
{
    if (status == CAIRO_STATUS_SUCCESS) return MABN_OK;
    return mabn_fail(status == CAIRO_STATUS_NO_MEMORY ? MABN_ERR_NOMEM : MABN_ERR_ARG,
                     "cannot draw '%s': %s", path, cairo_status_to_string(status));
}

static mabn_status draw_svg(const struct mabn_figure *figure, int width, int height,
                            const char *path, struct mabn_str *bytes)
{
    cairo_surface_t *surface =
        cairo_svg_surface_create_for_stream(collect_bytes, bytes, width, height);
    cairo_t *cr = cairo_create(surface);
    mabn_figure_draw(figure, cr, width, height);
    cairo_status_t result = cairo_status(cr);
    cairo_destroy(cr);
    cairo_surface_finish(surface);
    if (!result) result = cairo_surface_status(surface);
    cairo_surface_destroy(surface);
    return check_cairo(result, path);
}

static mabn_status draw_png(const struct mabn_figure *figure, int width, int height,
                            const char *path, struct mabn_str *bytes)
{
    enum { PIXELS_PER_POINT = 2 };
    cairo_surface_t *surface = cairo_image_surface_create(
        CAIRO_FORMAT_RGB24, width * PIXELS_PER_POINT, height * PIXELS_PER_POINT);
    cairo_t *cr = cairo_create(surface);
    cairo_scale(cr, PIXELS_PER_POINT, PIXELS_PER_POINT);
    mabn_figure_draw(figure, cr, width, height);
    cairo_status_t result = cairo_status(cr);
    cairo_destroy(cr);
    if (!result) result = cairo_surface_write_to_png_stream(surface, collect_bytes, bytes);
    cairo_surface_destroy(surface);
    return check_cairo(result, path);
}

static bool ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return n > m && !strcasecmp(text + n - m, ending);
}

mabn_status mabn_figure_save(const struct mabn_figure *figure, const char *path, int width,
                             int height, bool force)
{
    bool to_stdout = !strcmp(path, "-");
    bool svg = to_stdout || ends_with(path, ".svg");
    if (!svg && !ends_with(path, ".png"))
        return mabn_fail(MABN_ERR_ARG, "'%s': a figure's name ends in .png or .svg", path);

    int columns = mabn_figure_columns(figure);
    int rows = columns ? (figure->n_panels + columns - 1) / columns : 1;
    if (width <= 0) width = columns > 1 ? 440 * columns : 640;
    if (height <= 0) height = rows > 1 ? 90 + 250 * rows : 420;

    struct mabn_str bytes;
    mabn_str_init(&bytes);
    mabn_status status = svg ? draw_svg(figure, width, height, path, &bytes)
                             : draw_png(figure, width, height, path, &bytes);
    if (!status && to_stdout) {
        mabn_out_write(bytes.text, bytes.length);
        status = mabn_out_status();
    } else if (!status) {
        status = mabn_write_file(path, bytes.text, bytes.length, force);
    }
    mabn_str_release(&bytes);
    return status;
}
