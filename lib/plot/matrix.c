/* A matrix of counts: cells shaded by their share of the row, numbers where they fit, the diagonal
 * framed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "plot/figure_parts.h"

static const char FONT[] = "DejaVu Sans";
enum { NAME_ROOM = 110 };

void mabn_panel_set_matrix(struct mabn_panel *panel, const char *const *names, const double *values,
                           size_t n)
{
    panel->cell_names = mabn_xcalloc(n + 1, sizeof *panel->cell_names);
    panel->cells = mabn_xmalloc((n * n + 1) * sizeof *panel->cells);
    memcpy(panel->cells, values, n * n * sizeof *panel->cells);
    for (size_t i = 0; i < n; i++)
        panel->cell_names[i] = mabn_xstrdup(names[i]);
    panel->n_cells = n;
}

/* A text, cut to the available width; align: 0 starts at x, 1 ends at x. */
static void put(cairo_t *cr, const char *text, double x, double y, double room, double align)
{
    char cut[128];
    cairo_text_extents_t e;
    size_t n = strlen(text);
    if (n > 120) n = 120;
    do {
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
        snprintf(cut, sizeof cut, "%.*s%s", (int)n, text, text[n] ? "\xe2\x80\xa6" : "");
        cairo_text_extents(cr, cut, &e);
    } while (e.x_advance > room && n-- > 0);
    cairo_move_to(cr, x - align * e.x_advance, y);
    cairo_show_text(cr, cut);
}

static void draw_cell(cairo_t *cr, double x, double y, double side, double value, double share,
                      bool diagonal)
{
    char text[32];
    cairo_text_extents_t e;
    /* White to the first colour of the figures' palette. */
    cairo_set_source_rgb(cr, 1 - share, 1 - 0.55 * share, 1 - 0.30 * share);
    cairo_rectangle(cr, x, y, side, side);
    cairo_fill(cr);
    if (diagonal) {
        cairo_set_source_rgb(cr, 0.55, 0.55, 0.55);
        cairo_set_line_width(cr, 0.6);
        cairo_rectangle(cr, x + 0.3, y + 0.3, side - 0.6, side - 0.6);
        cairo_stroke(cr);
    }
    snprintf(text, sizeof text, "%.0f", value);
    cairo_text_extents(cr, text, &e);
    if (value == 0 || e.x_advance > side - 2 || side < 9) return;
    cairo_set_source_rgb(cr, share > 0.6 ? 1 : 0.1, share > 0.6 ? 1 : 0.1, share > 0.6 ? 1 : 0.1);
    cairo_move_to(cr, x + (side - e.x_advance) / 2, y + side / 2 - e.y_bearing / 2);
    cairo_show_text(cr, text);
}

void mabn_matrix_draw(const struct mabn_panel *panel, cairo_t *cr, double left, double top,
                      double width, double height)
{
    size_t n = panel->n_cells;
    double side = fmin((width - NAME_ROOM) / (double)n, (height - NAME_ROOM - 20) / (double)n);
    double x0 = left + NAME_ROOM, y0 = top + 20;
    double size = fmax(3, fmin(10.5, side * 0.8));
    cairo_select_font_face(cr, FONT, CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_BOLD);
    cairo_set_font_size(cr, 11.5);
    cairo_set_source_rgb(cr, 0.15, 0.15, 0.15);
    put(cr, panel->y_label, left, top + 11.5, width, 0);
    cairo_select_font_face(cr, FONT, CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    for (size_t r = 0; r < n; r++) {
        double sum = 0;
        for (size_t c = 0; c < n; c++)
            sum += panel->cells[r * n + c];
        cairo_set_font_size(cr, fmin(size, side * 0.45 + 2));
        for (size_t c = 0; c < n; c++)
            draw_cell(cr, x0 + (double)c * side, y0 + (double)r * side, side,
                      panel->cells[r * n + c], sum > 0 ? panel->cells[r * n + c] / sum : 0, r == c);
        cairo_set_font_size(cr, size);
        cairo_set_source_rgb(cr, 0.30, 0.30, 0.30);
        put(cr, panel->cell_names[r], x0 - 6, y0 + ((double)r + 0.5) * side + size * 0.35,
            NAME_ROOM - 10, 1);
        cairo_save(cr); /* column names are rotated, reading upwards */
        cairo_translate(cr, x0 + ((double)r + 0.5) * side + size * 0.35, y0 + (double)n * side + 6);
        cairo_rotate(cr, -M_PI / 2);
        put(cr, panel->cell_names[r], 0, 0, NAME_ROOM - 24, 1);
        cairo_restore(cr);
    }
    cairo_set_font_size(cr, 10.5);
    put(cr, panel->x_label, x0 + (double)n * side, y0 + (double)n * side + NAME_ROOM - 6, width, 1);
}
