/* Reading tab-separated tables, line by line, into the points of a figure. */
#include "plot/tables.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum kind { CURVES, CALIBRATION, CONFUSION, KINDS };
enum { MAX_CELLS = 4097, MAX_CATEGORIES = 8 };

struct table {
    struct mabn_input in;
    const char *p, *end;
    size_t line;
    char **cells; /* of the line, into `text` */
    size_t n_cells, room;
    char *text;
    enum kind kind;
};

static mabn_status bad(const struct table *t, const char *what)
{
    return mabn_fail(MABN_ERR_FORMAT, "'%s':%zu: %s", t->in.name, t->line, what);
}

/* The next line's cells; false at the end. */
static bool next_line(struct table *t)
{
    if (t->p >= t->end) return false;
    const char *stop = memchr(t->p, '\n', (size_t)(t->end - t->p));
    size_t n = (size_t)((stop ? stop : t->end) - t->p);
    free(t->text);
    t->text = mabn_xstrndup(t->p, n && t->p[n - 1] == '\r' ? n - 1 : n);
    t->p += n + (stop != NULL);
    t->line++;
    t->n_cells = 0;
    for (char *rest = t->text, *cell; (cell = strsep(&rest, "\t")) != NULL;) {
        MABN_GROW(t->cells, t->n_cells, t->room);
        t->cells[t->n_cells++] = cell;
    }
    return true;
}

static mabn_status number(const struct table *t, size_t cell, double *out)
{
    char *end;
    if (cell >= t->n_cells) return bad(t, "the line is too short");
    *out = strtod(t->cells[cell], &end);
    return end == t->cells[cell] || *end || !isfinite(*out) ? bad(t, "expected a number") : MABN_OK;
}

static void close_table(struct table *t)
{
    free(t->text);
    free(t->cells);
    mabn_input_release(&t->in);
}

static mabn_status open_table(struct table *t, const char *path)
{
    static const char *const heads[KINDS] = {"id\tcategory\trecall\tprecision",
                                             "low\thigh\tcount\tscore\tright", "truth\t"};
    int kind = 0;
    memset(t, 0, sizeof *t);
    MABN_TRY(mabn_input_open_text(&t->in, path, 1 << 28));
    t->p = (const char *)t->in.bytes;
    t->end = t->p + t->in.size;
    while (kind < KINDS && (t->in.size < strlen(heads[kind]) ||
                            memcmp(t->p, heads[kind], strlen(heads[kind])) != 0))
        kind++;
    t->kind = (enum kind)kind;
    if (kind < KINDS) return MABN_OK;
    mabn_status status = mabn_fail(MABN_ERR_FORMAT,
                                   "'%s' is not a table of mabn-score coco --pr, --calibration or "
                                   "--confusion",
                                   t->in.name);
    close_table(t);
    return status;
}

struct points {
    double *x, *y;
    size_t n, room, room_y;
};

static void add_point(struct points *p, double x, double y)
{
    size_t n = p->n;
    MABN_GROW(p->x, n, p->room);
    MABN_GROW(p->y, n, p->room_y);
    p->x[p->n] = x;
    p->y[p->n++] = y;
}

static void end_series(struct mabn_panel *panel, const char *name, struct points *p,
                       enum mabn_series_look look)
{
    if (p->n) mabn_panel_add(panel, name, look, p->x, p->y, NULL, p->n);
    p->n = 0;
}

/* A curve for each category, the mean first; of several tables only the means. */
static mabn_status add_curves(struct table *t, struct mabn_panel *panel, const char *name,
                              bool several)
{
    struct points p = {0};
    char *id = NULL, *now = NULL;
    int shown = 0;
    mabn_status status = MABN_OK;
    next_line(t);
    while (!status && next_line(t)) {
        double recall = 0, precision = 0;
        status = number(t, 2, &recall);
        if (!status) status = number(t, 3, &precision);
        if (status) break;
        if (!id || strcmp(id, t->cells[0])) {
            if (now) end_series(panel, now, &p, MABN_LOOK_LINE);
            free(id);
            free(now);
            id = mabn_xstrdup(t->cells[0]);
            bool mean = !*t->cells[0];
            now = mean && several                                   ? mabn_xstrdup(name)
                  : (mean || !several) && shown++ <= MAX_CATEGORIES ? mabn_xstrdup(t->cells[1])
                                                                    : NULL;
        }
        if (now) add_point(&p, recall, precision);
    }
    if (now && !status) end_series(panel, now, &p, MABN_LOOK_LINE);
    free(id);
    free(now);
    free(p.x);
    free(p.y);
    return status;
}

static mabn_status add_calibration(struct table *t, struct mabn_panel *panel, const char *name)
{
    struct points p = {0};
    mabn_status status = MABN_OK;
    next_line(t);
    while (!status && next_line(t)) {
        double count = 0, score = 0, right = 0;
        status = number(t, 2, &count);
        if (!status) status = number(t, 3, &score);
        if (!status) status = number(t, 4, &right);
        if (!status && count > 0) add_point(&p, score, right);
    }
    if (!status) end_series(panel, name, &p, MABN_LOOK_POINTS);
    free(p.x);
    free(p.y);
    return status;
}

static mabn_status add_confusion(struct table *t, struct mabn_figure *figure, const char *name)
{
    next_line(t);
    size_t n = t->n_cells - 1, row = 0;
    if (t->n_cells < 2 || n > MAX_CELLS) return bad(t, "expected 1 to 4097 names");
    char **names = mabn_xcalloc(n, sizeof *names);
    double *values = mabn_xcalloc(n * n, sizeof *values);
    mabn_status status = MABN_OK;
    for (size_t i = 0; i < n; i++)
        names[i] = mabn_xstrdup(t->cells[i + 1]);
    for (; !status && next_line(t); row++) {
        if (row == n || t->n_cells != n + 1) status = bad(t, "the table is not square");
        for (size_t i = 0; i < n && !status; i++)
            status = number(t, i + 1, &values[row * n + i]);
    }
    if (!status && row != n) status = bad(t, "the table is not square");
    if (!status) {
        char *label = mabn_xasprintf("%s: truth", name);
        struct mabn_panel *panel = mabn_figure_add_panel(figure, label, "found");
        mabn_panel_set_matrix(panel, (const char *const *)names, values, n);
        free(label);
    }
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(values);
    return status;
}

static mabn_status add_table(struct table *t, struct mabn_figure *figure, struct mabn_panel **panel,
                             const char *name, bool several)
{
    static const double ends[2] = {0, 1};
    if (t->kind == CONFUSION) return add_confusion(t, figure, name);
    if (!*panel && t->kind == CURVES) *panel = mabn_figure_add_panel(figure, "precision", "recall");
    if (!*panel) {
        *panel = mabn_figure_add_panel(figure, "share that is right", "score");
        mabn_panel_add(*panel, "", MABN_LOOK_FAINT, ends, ends, NULL, 2);
    }
    mabn_panel_set_y_range(*panel, 0, 1);
    return t->kind == CURVES ? add_curves(t, *panel, name, several)
                             : add_calibration(t, *panel, name);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

mabn_status mabn_plot_tables(struct mabn_figure **out, const char *title,
                             const struct mabn_log_source *tables, int n)
{
    static const char *const titles[KINDS] = {"Precision and recall", "Calibration of scores",
                                              "What is taken for what"};
    struct mabn_figure *figure = NULL;
    struct mabn_panel *panel = NULL;
    enum kind kind = KINDS;
    mabn_status status = MABN_OK;
    *out = NULL;
    for (int i = 0; i < n && !status; i++) {
        struct table t;
        MABN_TRY_GOTO(open_table(&t, tables[i].path), done);
        if (!figure) {
            kind = t.kind;
            figure = mabn_figure_new(title ? title : titles[kind], "");
        }
        if (t.kind == kind)
            status = add_table(&t, figure, &panel,
                               tables[i].name ? tables[i].name : base_name(tables[i].path), n > 1);
        else
            status = mabn_fail(MABN_ERR_MISMATCH, "'%s' is a table of another kind than '%s'",
                               tables[i].path, tables[0].path);
        close_table(&t);
    }
    if (!status && !mabn_figure_has_data(figure))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' has nothing to draw", tables[0].path);
done:
    if (status)
        mabn_figure_free(figure);
    else
        *out = figure;
    return status;
}
