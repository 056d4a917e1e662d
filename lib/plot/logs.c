#include "plot/logs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum { MAX_FIELDS = 8 };

/* Lines of one type: the requested fields, NaN where a line has none. */
struct table {
    double *values; /* (rows,fields) */
    size_t rows, capacity;
    int fields;
};

struct log {
    char norm[64], arch[32];
    int norm_batch, batch;
    int64_t seed;
    bool started;
    struct table steps, vals, stats;
    char *layer; /* of the statistics; borrowed from the caller if requested */
};

enum {
    STEP,
    EPOCH,
    LOSS,
    TOP1,
    LR,
    BOX_AP,
    MASK_AP,
    OBJECTNESS,
    RPN_BOX,
    CLASSIFIER,
    BOX,
    MASK,
    N_CURVE
};
static const char *const curve_fields[] = {"step",
                                           "epoch",
                                           "loss",
                                           "top1",
                                           "lr",
                                           "box_ap",
                                           "mask_ap",
                                           "loss_objectness",
                                           "loss_rpn_box_reg",
                                           "loss_classifier",
                                           "loss_box_reg",
                                           "loss_mask"};

/* A panel of mabn-plot curves, drawn if any log has the field. */
struct curve {
    const char *label;
    int field;
    bool validation, more; /* in validation lines; only with `more` */
    bool error;            /* 100 minus the value is drawn */
};
static const struct curve curves[] = {
    {"training loss", LOSS, false, false, false},
    {"validation top-1 error, %", TOP1, true, false, true},
    {"box AP", BOX_AP, true, false, false},
    {"mask AP", MASK_AP, true, false, false},
    {"validation loss", LOSS, true, true, false},
    {"RPN's objectness loss", OBJECTNESS, false, true, false},
    {"RPN's box loss", RPN_BOX, false, true, false},
    {"class loss", CLASSIFIER, false, true, false},
    {"box loss", BOX, false, true, false},
    {"mask loss", MASK, false, true, false},
    {"learning rate", LR, false, true, false},
};
enum { CURVES = sizeof curves / sizeof *curves };
enum { S_STEP, MU_X, VAR_X, MU_G, MU_GY, N_STAT };
static const char *const stat_fields[] = {"step", "mu_x", "var_x", "mu_g", "mu_gy"};

/* ---- reading ---- */

/* The fields of one line that figures need. */
struct line {
    char type[8], norm[64], arch[32];
    char *layer;
    double curve[N_CURVE], stat[N_STAT];
    int norm_batch, batch, channel;
    int64_t seed;
};

static void read_short(struct mabn_json *j, char *out, size_t capacity)
{
    struct mabn_json_text text;
    if (mabn_json_read_string(j, &text)) return;
    snprintf(out, capacity, "%.*s", (int)(text.length < capacity ? text.length : capacity),
             text.bytes);
}

static bool read_number(struct mabn_json *j, struct mabn_json_text key, const char *const *names,
                        double *values, int n)
{
    bool found = false;
    double value = NAN;
    for (int i = 0; i < n; i++) {
        if (!mabn_json_is(key, names[i])) continue;
        /* numbers that were not finite are written as null */
        if (!found && mabn_json_peek(j) == MABN_JSON_NULL)
            mabn_json_read_null(j);
        else if (!found)
            mabn_json_read_double(j, &value);
        values[i] = value;
        found = true;
    }
    return found;
}

static void read_line(struct mabn_json *j, struct line *line)
{
    struct mabn_json_text key;
    memset(line, 0, sizeof *line);
    for (int i = 0; i < N_CURVE; i++)
        line->curve[i] = NAN;
    for (int i = 0; i < N_STAT; i++)
        line->stat[i] = NAN;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "t"))
            read_short(j, line->type, sizeof line->type);
        else if (mabn_json_is(key, "norm"))
            read_short(j, line->norm, sizeof line->norm);
        else if (mabn_json_is(key, "arch"))
            read_short(j, line->arch, sizeof line->arch);
        else if (mabn_json_is(key, "norm_batch"))
            mabn_json_read_int(j, &line->norm_batch, 0, 1 << 30);
        else if (mabn_json_is(key, "batch"))
            mabn_json_read_int(j, &line->batch, 0, 1 << 30);
        else if (mabn_json_is(key, "seed"))
            mabn_json_read_int64(j, &line->seed);
        else if (mabn_json_is(key, "channel"))
            mabn_json_read_int(j, &line->channel, 0, 1 << 30);
        else if (mabn_json_is(key, "layer") && !line->layer)
            mabn_json_read_strdup(j, &line->layer);
        else if (mabn_json_is(key, "step")) {
            mabn_json_read_double(j, &line->curve[STEP]);
            line->stat[S_STEP] = line->curve[STEP];
        } else if (!read_number(j, key, curve_fields + 1, line->curve + 1, N_CURVE - 1) &&
                   !read_number(j, key, stat_fields + 1, line->stat + 1, N_STAT - 1))
            mabn_json_skip(j);
    }
}

static void add_row(struct table *table, const double *values, int fields)
{
    table->fields = fields;
    if (table->rows == table->capacity) {
        table->capacity = table->capacity ? 2 * table->capacity : 64;
        table->values =
            mabn_xrealloc(table->values, table->capacity * (size_t)fields * sizeof(double));
    }
    memcpy(table->values + table->rows++ * (size_t)fields, values, (size_t)fields * sizeof(double));
}

static void keep_line(struct log *log, struct line *line, int channel)
{
    if (!strcmp(line->type, "start")) {
        memcpy(log->norm, line->norm, sizeof log->norm);
        memcpy(log->arch, line->arch, sizeof log->arch);
        log->norm_batch = line->norm_batch;
        log->batch = line->batch;
        log->seed = line->seed;
        log->started = true;
    } else if (!strcmp(line->type, "step")) {
        add_row(&log->steps, line->curve, N_CURVE);
    } else if (!strcmp(line->type, "val")) {
        add_row(&log->vals, line->curve, N_CURVE);
    } else if (!strcmp(line->type, "stat") && line->layer && line->channel == channel) {
        if (!log->layer) log->layer = mabn_xstrdup(line->layer);
        if (!strcmp(log->layer, line->layer)) add_row(&log->stats, line->stat, N_STAT);
    }
}

static mabn_status read_log(struct log *log, const char *path, int channel)
{
    struct mabn_json *j;
    struct line line;
    MABN_TRY(mabn_json_open(&j, path));
    while (mabn_json_next_document(j)) {
        read_line(j, &line);
        if (!mabn_json_status(j)) keep_line(log, &line, channel);
        free(line.layer);
    }
    mabn_status status = mabn_json_status(j);
    mabn_json_free(j);
    return status;
}

static void free_logs(struct log *logs, int count)
{
    for (int i = 0; i < count; i++) {
        free(logs[i].steps.values);
        free(logs[i].vals.values);
        free(logs[i].stats.values);
        free(logs[i].layer);
    }
    free(logs);
}

static mabn_status read_logs(struct log **out, const struct mabn_log_source *sources, int count,
                             const char *layer, int channel)
{
    struct log *logs = mabn_xcalloc((size_t)count, sizeof *logs);
    for (int i = 0; i < count; i++) {
        if (layer) logs[i].layer = mabn_xstrdup(layer);
        mabn_status status = read_log(&logs[i], sources[i].path, channel);
        if (!layer && logs[i].layer) layer = logs[i].layer; /* the first that is found */
        if (status) {
            free_logs(logs, count);
            return status;
        }
    }
    *out = logs;
    return MABN_OK;
}

/* ---- names ---- */

/* "MABN", as papers write it. */
static void upper(char *out, size_t capacity, const char *text)
{
    size_t i = 0;
    for (; text[i] && i + 1 < capacity; i++)
        out[i] = (char)(text[i] >= 'a' && text[i] <= 'z' ? text[i] - 'a' + 'A' : text[i]);
    out[i] = 0;
}

static char *name_of(const struct log *log, const struct mabn_log_source *source)
{
    char norm[64];
    if (source->name) return mabn_xstrdup(source->name);
    if (!log->started) return mabn_xstrdup(source->path);
    upper(norm, sizeof norm, log->norm);
    if (!log->norm_batch) return mabn_xstrdup(norm); /* a detector: part by part, or none */
    return mabn_xasprintf("%s, norm batch %d", norm, log->norm_batch);
}

/* If two logs would have the same name, all names that were not given get seed and path. */
static char **names_of(const struct log *logs, const struct mabn_log_source *sources, int count)
{
    char **names = mabn_xcalloc((size_t)count, sizeof *names);
    bool twice = false;
    for (int i = 0; i < count; i++) {
        names[i] = name_of(&logs[i], &sources[i]);
        for (int k = 0; k < i; k++)
            twice = twice || !strcmp(names[i], names[k]);
    }
    for (int i = 0; twice && i < count; i++) {
        if (sources[i].name) continue;
        char *name = logs[i].started ? mabn_xasprintf("%s, seed %lld (%s)", names[i],
                                                      (long long)logs[i].seed, sources[i].path)
                                     : mabn_xstrdup(sources[i].path);
        free(names[i]);
        names[i] = name;
    }
    return names;
}

static void free_names(char **names, int count)
{
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* ---- figures ---- */

static void column(const struct table *table, int field, double *out)
{
    for (size_t r = 0; r < table->rows; r++)
        out[r] = table->values[r * (size_t)table->fields + (size_t)field];
}

/* Centred running mean over `width` rows, fewer at the ends. */
static void smooth_values(double *out, const double *values, size_t n, int width)
{
    size_t half = (size_t)width / 2;
    for (size_t i = 0; i < n; i++) {
        size_t from = i > half ? i - half : 0, to = i + half + 1 < n ? i + half + 1 : n;
        double sum = 0;
        for (size_t k = from; k < to; k++)
            sum += values[k];
        out[i] = sum / (double)(to - from);
    }
}

static void add_curve(struct mabn_panel *panel, const char *name, const struct table *table, int x,
                      int y, int smooth, bool error)
{
    size_t n = table->rows;
    if (!n) return;
    double *xs = mabn_xcalloc(3 * n, sizeof *xs), *ys = xs + n, *mean = ys + n;
    column(table, x, xs);
    column(table, y, ys);
    for (size_t i = 0; error && i < n; i++)
        ys[i] = 100 - ys[i];
    if (smooth > 1) {
        smooth_values(mean, ys, n, smooth);
        mabn_panel_add(panel, name, MABN_LOOK_FAINT, xs, ys, NULL, n);
        mabn_panel_add(panel, name, MABN_LOOK_LINE, xs, mean, NULL, n);
    } else {
        mabn_panel_add(panel, name, n > 24 ? MABN_LOOK_LINE : MABN_LOOK_POINTS, xs, ys, NULL, n);
    }
    free(xs);
}

static mabn_status checked(struct mabn_figure **out, struct mabn_figure *figure, const char *what)
{
    if (mabn_figure_has_data(figure)) {
        *out = figure;
        return MABN_OK;
    }
    mabn_figure_free(figure);
    return mabn_fail(MABN_ERR_FORMAT, "no %s to draw in these files", what);
}

static bool any_values(const struct log *logs, int count, const struct curve *curve)
{
    for (int i = 0; i < count; i++) {
        const struct table *t = curve->validation ? &logs[i].vals : &logs[i].steps;
        for (size_t r = 0; r < t->rows; r++)
            if (isfinite(t->values[r * N_CURVE + (size_t)curve->field])) return true;
    }
    return false;
}

static void add_curves(struct mabn_panel *panel, const struct curve *curve, const struct log *logs,
                       char *const *names, int count, int x, int smooth)
{
    for (int i = 0; i < count; i++)
        add_curve(panel, names[i], curve->validation ? &logs[i].vals : &logs[i].steps, x,
                  curve->field, curve->validation || curve->field == LR ? 1 : smooth, curve->error);
}

mabn_status mabn_plot_curves(struct mabn_figure **figure, const char *title,
                             const struct mabn_log_source *sources, int count,
                             const struct mabn_curve_options *options)
{
    struct log *logs;
    MABN_TRY(read_logs(&logs, sources, count, NULL, 0));
    char **names = names_of(logs, sources, count);
    size_t most = 0;
    for (int i = 0; i < count; i++)
        if (logs[i].steps.rows > most) most = logs[i].steps.rows;
    int smooth = options->smooth ? options->smooth : (int)(most / 50) | 1;
    char *note = smooth > 1 ? mabn_xasprintf("training loss: pale as logged, strong the mean of %d "
                                             "lines",
                                             smooth)
                            : mabn_xstrdup("");
    struct mabn_figure *f = mabn_figure_new(title ? title : "", note);
    free(note);
    const char *x_label = options->by_step ? "step" : "epoch";
    int x = options->by_step ? STEP : EPOCH;
    for (int k = 0; k < CURVES; k++)
        if ((options->more || !curves[k].more) && any_values(logs, count, &curves[k]))
            add_curves(mabn_figure_add_panel(f, curves[k].label, x_label), &curves[k], logs, names,
                       count, x, smooth);
    free_names(names, count);
    free_logs(logs, count);
    return checked(figure, f, "step or validation lines");
}

/* ---- sweep ---- */

struct point {
    char norm[64];
    double batch, sum, best, worst;
    int count;
};

static int by_norm_and_batch(const void *a, const void *b)
{
    const struct point *p = a, *q = b;
    int order = strcmp(p->norm, q->norm);
    return order ? order : (p->batch > q->batch) - (p->batch < q->batch);
}

static int collect_points(struct point *points, const struct log *logs, int count)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        const struct table *vals = &logs[i].vals;
        if (!vals->rows || !logs[i].started) continue;
        double error = 100 - vals->values[(vals->rows - 1) * N_CURVE + TOP1];
        int k = 0;
        while (k < n &&
               (strcmp(points[k].norm, logs[i].norm) || points[k].batch != logs[i].norm_batch))
            k++;
        if (k == n) {
            points[n] = (struct point){.batch = logs[i].norm_batch, .best = error, .worst = error};
            memcpy(points[n++].norm, logs[i].norm, sizeof logs[i].norm);
        }
        points[k].sum += error;
        points[k].count++;
        points[k].best = fmin(points[k].best, error);
        points[k].worst = fmax(points[k].worst, error);
    }
    qsort(points, (size_t)n, sizeof *points, by_norm_and_batch);
    return n;
}

static void add_norm(struct mabn_panel *panel, const struct point *points, int n, double *xs)
{
    double *ys = xs + n, *best = ys + n, *worst = best + n;
    char name[16];
    bool seeds = false;
    upper(name, sizeof name, points[0].norm);
    for (int i = 0; i < n; i++) {
        xs[i] = points[i].batch;
        ys[i] = points[i].sum / points[i].count;
        best[i] = points[i].best;
        worst[i] = points[i].worst;
        seeds = seeds || points[i].count > 1;
    }
    mabn_panel_add(panel, name, MABN_LOOK_POINTS, xs, ys, NULL, (size_t)n);
    if (seeds) mabn_panel_add(panel, name, MABN_LOOK_WHISKER, xs, best, worst, (size_t)n);
}

mabn_status mabn_plot_sweep(struct mabn_figure **figure, const char *title,
                            const struct mabn_log_source *sources, int count)
{
    struct log *logs;
    MABN_TRY(read_logs(&logs, sources, count, NULL, 0));
    struct point *points = mabn_xcalloc((size_t)count, sizeof *points);
    double *room = mabn_xcalloc(4 * (size_t)count, sizeof *room);
    int n = collect_points(points, logs, count), most = 0;
    for (int i = 0; i < n; i++)
        if (points[i].count > most) most = points[i].count;
    char *note = most > 1 ? mabn_xasprintf("mean of up to %d seeds, bars from the best to the "
                                           "worst",
                                           most)
                          : mabn_xstrdup("");
    struct mabn_figure *f =
        mabn_figure_new(title ? title : "Error against normalization batch", note);
    struct mabn_panel *panel = mabn_figure_add_panel(
        f, "validation top-1 error, %", "normalization batch (images of one statistic)");
    mabn_panel_set_scale(panel, MABN_SCALE_LOG2, MABN_SCALE_LINEAR);
    for (int i = 0, k; i < n; i = k) {
        for (k = i + 1; k < n && !strcmp(points[k].norm, points[i].norm); k++) {
        }
        add_norm(panel, points + i, k - i, room);
    }
    free(note);
    free(room);
    free(points);
    free_logs(logs, count);
    return checked(figure, f, "start and validation lines");
}

/* ---- statistics ---- */

mabn_status mabn_plot_stats(struct mabn_figure **figure, const char *title,
                            const struct mabn_log_source *sources, int count, const char *layer,
                            int channel)
{
    static const char *const labels[] = {[MU_X] = "mean of x",
                                         [VAR_X] = "variance of x",
                                         [MU_G] = "g: mean of the gradient",
                                         [MU_GY] = "\316\250: mean of gradient times normalized x"};
    struct log *logs;
    MABN_TRY(read_logs(&logs, sources, count, layer, channel));
    char **names = names_of(logs, sources, count);
    char *note = mabn_xasprintf("%s, channel %d: batch statistics in each step",
                                logs[0].layer ? logs[0].layer : "", channel);
    struct mabn_figure *f = mabn_figure_new(title ? title : "Batch statistics", note);
    free(note);
    for (int field = MU_X; field < N_STAT; field++) {
        struct mabn_panel *panel = mabn_figure_add_panel(f, labels[field], "step");
        for (int i = 0; i < count; i++) {
            size_t n = logs[i].stats.rows;
            double *xs = mabn_xcalloc(2 * (n + 1), sizeof *xs), *ys = xs + n;
            column(&logs[i].stats, S_STEP, xs);
            column(&logs[i].stats, field, ys);
            mabn_panel_add(panel, names[i], MABN_LOOK_THIN, xs, ys, NULL, n);
            free(xs);
        }
    }
    free_names(names, count);
    free_logs(logs, count);
    return checked(figure, f, "recorded statistics of that layer and channel");
}
