/* Scores in words. */
#include "coco/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* What a statistic is: precision or recall, at which threshold (-1: all), area, max_det. */
struct stat {
    const char *name;
    bool recall;
    double threshold;
    const char *area;
    int limit;         /* shown */
    const char *group; /* LVIS: of categories */
};

/* The statistics in pycocotools' order; returns how many. */
static int list_stats(const struct mabn_coco_params *p, struct stat out[MABN_COCO_STATS])
{
    int last = p->max_dets[p->n_max_dets < 3 ? p->n_max_dets - 1 : 2];
    if (p->fix_quirks) last = p->max_dets[p->n_max_dets - 1];
    if (p->lvis) {
        last = p->max_dets[p->n_max_dets - 1];
        const struct stat lvis[13] = {
            {"AP", false, -1, "all", last, "all"},     {"AP50", false, 0.5, "all", last, "all"},
            {"AP75", false, 0.75, "all", last, "all"}, {"APs", false, -1, "small", last, "all"},
            {"APm", false, -1, "medium", last, "all"}, {"APl", false, -1, "large", last, "all"},
            {"APr", false, -1, "all", last, "r"},      {"APc", false, -1, "all", last, "c"},
            {"APf", false, -1, "all", last, "f"},      {"AR", true, -1, "all", last, "all"},
            {"ARs", true, -1, "small", last, "all"},   {"ARm", true, -1, "medium", last, "all"},
            {"ARl", true, -1, "large", last, "all"},
        };
        memcpy(out, lvis, sizeof lvis);
        return 13;
    }
    if (p->type == MABN_COCO_KEYPOINTS) {
        static const struct stat all[10] = {
            {"AP", false, -1, "all", 20, NULL},     {"AP50", false, 0.5, "all", 20, NULL},
            {"AP75", false, 0.75, "all", 20, NULL}, {"APm", false, -1, "medium", 20, NULL},
            {"APl", false, -1, "large", 20, NULL},  {"AR", true, -1, "all", 20, NULL},
            {"AR50", true, 0.5, "all", 20, NULL},   {"AR75", true, 0.75, "all", 20, NULL},
            {"ARm", true, -1, "medium", 20, NULL},  {"ARl", true, -1, "large", 20, NULL},
        };
        memcpy(out, all, sizeof all);
        for (int i = 0; i < 10 && p->fix_quirks; i++)
            out[i].limit = last;
        return 10;
    }
    int first = p->fix_quirks ? last : 100, d[3];
    for (int i = 0; i < 3; i++)
        d[i] = p->max_dets[i < p->n_max_dets ? i : p->n_max_dets - 1];
    const struct stat all[12] = {
        {"AP", false, -1, "all", first, NULL},    {"AP50", false, 0.5, "all", last, NULL},
        {"AP75", false, 0.75, "all", last, NULL}, {"APs", false, -1, "small", last, NULL},
        {"APm", false, -1, "medium", last, NULL}, {"APl", false, -1, "large", last, NULL},
        {"AR1", true, -1, "all", d[0], NULL},     {"AR10", true, -1, "all", d[1], NULL},
        {"AR100", true, -1, "all", d[2], NULL},   {"ARs", true, -1, "small", last, NULL},
        {"ARm", true, -1, "medium", last, NULL},  {"ARl", true, -1, "large", last, NULL},
    };
    memcpy(out, all, sizeof all);
    return 12;
}

static const char *stat_name(const struct mabn_coco_score *s, int i)
{
    struct stat stats[MABN_COCO_STATS];
    int n = list_stats(&s->params, stats);
    return i < n ? stats[i].name : "";
}

/* ---- lines ---- */

static void add_line(struct mabn_str *out, const struct mabn_coco_params *p,
                     const struct stat *stat, double value)
{
    char overlap[32];
    if (stat->threshold < 0)
        snprintf(overlap, sizeof overlap, "%.2f:%.2f", p->thresholds[0],
                 p->thresholds[p->n_thresholds - 1]);
    else
        snprintf(overlap, sizeof overlap, "%.2f", stat->threshold);
    mabn_str_printf(out, " %-18s %s @[ IoU=%-9s | area=%6s | maxDets=%3d ",
                    stat->recall ? "Average Recall" : "Average Precision",
                    stat->recall ? "(AR)" : "(AP)", overlap, stat->area, stat->limit);
    if (stat->group) mabn_str_printf(out, "catIds=%3s", stat->group);
    mabn_str_printf(out, "] = %.3f\n", value);
}

static bool standard_area(const struct mabn_coco_params *p, const char *name)
{
    return !strcmp(name, "all") || !strcmp(name, "medium") || !strcmp(name, "large") ||
           (!strcmp(name, "small") && p->type != MABN_COCO_KEYPOINTS);
}

void mabn_coco_report_lines(struct mabn_str *out, const struct mabn_coco_score *s)
{
    const struct mabn_coco_params *p = &s->params;
    struct stat stats[MABN_COCO_STATS];
    int n = list_stats(p, stats), last = p->n_max_dets - 1;
    for (int i = 0; i < n; i++)
        add_line(out, p, &stats[i], s->stats[i]);
    for (int a = 0; a < p->n_areas; a++) {
        if (standard_area(p, p->areas[a].name)) continue;
        struct stat ap = {"", false, -1, p->areas[a].name, p->max_dets[last], NULL}, ar = ap;
        ar.recall = true;
        add_line(out, p, &ap, mabn_coco_mean_precision(s, -1, -1, a, last));
        add_line(out, p, &ar, mabn_coco_mean_recall(s, -1, -1, a, last));
    }
}

void mabn_coco_report_tsv(struct mabn_str *out, const struct mabn_coco_score *s)
{
    for (int i = 0; i < s->n_stats; i++) {
        mabn_str_printf(out, "%s\t%s\t", mabn_coco_type_name(s->params.type), stat_name(s, i));
        mabn_str_add_double(out, s->stats[i]);
        mabn_str_add_char(out, '\n');
    }
}

/* ---- categories ---- */

/* A column of the table of categories. */
struct column {
    char name[24];
    bool recall;
    double threshold;
    int area;
};

enum { MAX_COLUMNS = 2 * MABN_COCO_MAX_AREAS + 4 };

/* AP of an area: "APs" for small, medium, large; "AP tiny" for others. */
static void name_column(char name[24], const char *what, const char *area)
{
    bool usual = !strcmp(area, "small") || !strcmp(area, "medium") || !strcmp(area, "large");
    if (!strcmp(area, "all"))
        snprintf(name, 24, "%s", what);
    else if (usual)
        snprintf(name, 24, "%s%c", what, area[0]);
    else
        snprintf(name, 24, "%s %s", what, area);
}

static int list_columns(const struct mabn_coco_params *p, struct column out[MAX_COLUMNS])
{
    int n = 0, all = mabn_coco_area_index(p, "all");
    if (all >= 0) {
        static const double thresholds[] = {-1, 0.5, 0.75};
        static const char *const names[] = {"AP", "AP50", "AP75"};
        for (int i = 0; i < 3; i++) {
            out[n] = (struct column){"", false, thresholds[i], all};
            snprintf(out[n++].name, sizeof out[0].name, "%s", names[i]);
        }
    }
    for (int recall = 0; recall < 2; recall++)
        for (int a = 0; a < p->n_areas; a++) {
            if (!recall && a == all) continue;
            out[n] = (struct column){"", recall, -1, a};
            name_column(out[n++].name, recall ? "AR" : "AP", p->areas[a].name);
        }
    return n;
}

/* Tables are about the largest max_det. */
static int table_limit(const struct mabn_coco_params *p)
{
    return p->n_max_dets - 1;
}

static double column_value(const struct mabn_coco_score *s, const struct column *c, int64_t k)
{
    int m = table_limit(&s->params);
    return c->recall ? mabn_coco_mean_recall(s, k, c->threshold, c->area, m)
                     : mabn_coco_mean_precision(s, k, c->threshold, c->area, m);
}

void mabn_coco_add_cell(struct mabn_str *out, const char *text)
{
    for (; *text; text++)
        mabn_str_add_char(out, (unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text);
}

void mabn_coco_add_name(struct mabn_str *out, const struct mabn_coco_score *s, size_t k)
{
    const char *name = s->category_names[k];
    mabn_coco_add_cell(out, *name ? name : s->category_keys[k]);
}

/* How many letters (not bytes) a UTF-8 text has. */
static size_t letters(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

void mabn_coco_add_column(struct mabn_str *out, const char *text, size_t width, bool right)
{
    const size_t n = letters(text), pad = n < width ? width - n : 0;
    size_t bytes = 0, seen = 0;
    for (; text[bytes]; bytes++) {
        seen += ((unsigned char)text[bytes] & 0xc0) != 0x80;
        if (seen > width) break;
    }
    char *part = mabn_xstrndup(text, bytes);
    for (size_t i = 0; i < pad && right; i++)
        mabn_str_add_char(out, ' ');
    mabn_coco_add_cell(out, part);
    for (size_t i = 0; i < pad && !right; i++)
        mabn_str_add_char(out, ' ');
    free(part);
}

void mabn_coco_report_categories(struct mabn_str *out, const struct mabn_coco_score *s, bool tsv)
{
    struct column columns[MAX_COLUMNS];
    int n = list_columns(&s->params, columns), width = 8;
    for (size_t k = 0; k < s->n_categories; k++) {
        int length = (int)letters(s->category_names[k]);
        if (length > width) width = length < 40 ? length : 40;
    }
    if (tsv)
        mabn_str_add(out, "type\tid\tcategory\ttruths");
    else
        mabn_str_printf(out, "%6s  %-*s %7s", "id", width, "category", "truths");
    for (int i = 0; i < n; i++)
        mabn_str_printf(out, tsv ? "\t%s" : " %6s", columns[i].name);
    mabn_str_add_char(out, '\n');
    for (size_t k = 0; k < s->n_categories; k++) {
        const long long truths = s->truths[k * (size_t)s->params.n_areas];
        if (tsv) {
            mabn_str_printf(out, "%s\t", mabn_coco_type_name(s->params.type));
            mabn_coco_add_cell(out, s->category_keys[k]);
            mabn_str_add_char(out, '\t');
            mabn_coco_add_cell(out, s->category_names[k]);
            mabn_str_printf(out, "\t%lld", truths);
        } else {
            const size_t id_width = letters(s->category_keys[k]);
            mabn_coco_add_column(out, s->category_keys[k], id_width > 6 ? id_width : 6, true);
            mabn_str_add(out, "  ");
            mabn_coco_add_column(out, s->category_names[k], (size_t)width, false);
            mabn_str_printf(out, " %7lld", truths);
        }
        for (int i = 0; i < n; i++) {
            double v = column_value(s, &columns[i], (int64_t)k);
            if (tsv) {
                mabn_str_add_char(out, '\t');
                mabn_str_add_double(out, v);
            } else if (v < 0) {
                mabn_str_printf(out, " %6s", "-");
            } else {
                int room = (int)strlen(columns[i].name);
                mabn_str_printf(out, " %*.4f", room > 6 ? room : 6, v);
            }
        }
        mabn_str_add_char(out, '\n');
    }
}

/* ---- JSON ---- */

static void put_settings(struct mabn_json_writer *w, const struct mabn_coco_score *s)
{
    const struct mabn_coco_params *p = &s->params;
    mabn_json_put_line(w, 2);
    mabn_json_put_doubles(w, "iou", p->thresholds, p->n_thresholds);
    mabn_json_put_line(w, 2);
    mabn_json_put_array(w, "max_dets");
    for (int m = 0; m < p->n_max_dets; m++)
        mabn_json_put_int(w, NULL, p->max_dets[m]);
    mabn_json_put_end(w);
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, "areas");
    for (int a = 0; a < p->n_areas; a++) {
        const double limits[2] = {p->areas[a].low, p->areas[a].high};
        mabn_json_put_doubles(w, p->areas[a].name, limits, 2);
    }
    mabn_json_put_end(w);
    mabn_json_put_line(w, 2);
    mabn_json_put_bool(w, "class_agnostic", p->class_agnostic);
    mabn_json_put_line(w, 2);
    mabn_json_put_bool(w, "fix_quirks", p->fix_quirks);
    mabn_json_put_line(w, 2);
    mabn_json_put_int(w, "images", (int64_t)s->n_images);
    mabn_json_put_line(w, 2);
    mabn_json_put_int(w, "truths", (int64_t)s->n_truths);
    mabn_json_put_line(w, 2);
    mabn_json_put_int(w, "results", (int64_t)s->n_results);
}

static void put_means(struct mabn_json_writer *w, const struct mabn_coco_score *s)
{
    const struct mabn_coco_params *p = &s->params;
    int m = table_limit(p), all = mabn_coco_area_index(p, "all");
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, "ap_per_threshold");
    for (int t = 0; t < p->n_thresholds; t++) {
        char name[32];
        snprintf(name, sizeof name, "%.4g", p->thresholds[t]);
        mabn_json_put_double(w, name, mabn_coco_mean_precision(s, -1, p->thresholds[t], all, m));
    }
    mabn_json_put_end(w);
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, "ap_per_area");
    for (int a = 0; a < p->n_areas; a++)
        mabn_json_put_double(w, p->areas[a].name, mabn_coco_mean_precision(s, -1, -1, a, m));
    mabn_json_put_end(w);
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, "ar_per_area");
    for (int a = 0; a < p->n_areas; a++)
        mabn_json_put_double(w, p->areas[a].name, mabn_coco_mean_recall(s, -1, -1, a, m));
    mabn_json_put_end(w);
}

static void put_category_means(struct mabn_json_writer *w, const struct mabn_coco_score *s)
{
    int all = mabn_coco_area_index(&s->params, "all"), m = table_limit(&s->params);
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, "ap_per_category");
    for (size_t k = 0; k < s->n_categories; k++)
        mabn_json_put_double(w, s->category_keys[k],
                             mabn_coco_mean_precision(s, (int64_t)k, -1, all, m));
    mabn_json_put_end(w);
}

static void put_categories(struct mabn_json_writer *w, const struct mabn_coco_score *s)
{
    struct column columns[MAX_COLUMNS];
    int n = list_columns(&s->params, columns);
    mabn_json_put_line(w, 2);
    mabn_json_put_array(w, "categories");
    for (size_t k = 0; k < s->n_categories; k++) {
        mabn_json_put_line(w, 3);
        mabn_json_put_object(w, NULL);
        mabn_json_put_raw(w, "id", s->category_texts[k]);
        mabn_json_put_string(w, "name", s->category_names[k]);
        mabn_json_put_int(w, "truths", s->truths[k * (size_t)s->params.n_areas]);
        for (int i = 0; i < n; i++)
            mabn_json_put_double(w, columns[i].name, column_value(s, &columns[i], (int64_t)k));
        mabn_json_put_end(w);
    }
    mabn_json_put_line(w, 2);
    mabn_json_put_end(w);
}

/* Lists (K,A,M) at one threshold and recall. */
static void put_cells(struct mabn_json_writer *w, const struct mabn_coco_score *s,
                      const double *values, int t, int r, int n_recalls)
{
    const struct mabn_coco_params *p = &s->params;
    for (size_t k = 0; k < s->n_categories; k++) {
        mabn_json_put_array(w, NULL);
        for (int a = 0; a < p->n_areas; a++) {
            mabn_json_put_array(w, NULL);
            for (int m = 0; m < p->n_max_dets; m++)
                mabn_json_put_double(
                    w, NULL,
                    values[mabn_coco_recall_at(s, k, a, m, t) * (size_t)n_recalls + (size_t)r]);
            mabn_json_put_end(w);
        }
        mabn_json_put_end(w);
    }
}

/* Nested lists (T,R,K,A,M), or (T,K,A,M) when recalls is 0. */
static void put_curves(struct mabn_json_writer *w, const struct mabn_coco_score *s,
                       const char *name, const double *values, int recalls)
{
    mabn_json_put_line(w, 2);
    mabn_json_put_array(w, name);
    for (int t = 0; t < s->params.n_thresholds; t++) {
        mabn_json_put_line(w, 3);
        mabn_json_put_array(w, NULL);
        for (int r = 0; r < recalls; r++) {
            mabn_json_put_line(w, 4);
            mabn_json_put_array(w, NULL);
            put_cells(w, s, values, t, r, recalls);
            mabn_json_put_end(w);
        }
        if (!recalls) put_cells(w, s, values, t, 0, 1);
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}

static void put_stat_names(struct mabn_json_writer *w, const struct mabn_coco_score *s)
{
    mabn_json_put_array(w, "stat_names");
    for (int i = 0; i < s->n_stats; i++)
        mabn_json_put_string(w, NULL, stat_name(s, i));
    mabn_json_put_end(w);
}

void mabn_coco_report_json(struct mabn_json_writer *w, const struct mabn_coco_score *s, bool curves)
{
    mabn_json_put_line(w, 2);
    mabn_json_put_doubles(w, "stats", s->stats, s->n_stats);
    mabn_json_put_line(w, 2);
    put_stat_names(w, s);
    put_settings(w, s);
    put_category_means(w, s);
    put_categories(w, s);
    put_means(w, s);
    if (!curves) return;
    put_curves(w, s, "precision", s->precision, MABN_COCO_RECALLS);
    put_curves(w, s, "recall", s->recall, 0);
    if (s->scores) put_curves(w, s, "scores", s->scores, MABN_COCO_RECALLS);
}

/* ---- comparison ---- */

void mabn_coco_report_comparison(struct mabn_str *out, const struct mabn_coco_score *a,
                                 const struct mabn_coco_score *b,
                                 const struct mabn_coco_interval *intervals, double confidence)
{
    char title[32];
    snprintf(title, sizeof title, "%g%% interval", 100 * confidence);
    mabn_str_printf(out, "%-6s %8s %8s %9s   %-19s %s\n", "", "first", "second", "change", title,
                    "P(better)");
    for (int i = 0; i < a->n_stats; i++) {
        mabn_str_printf(out, "%-6s %8.4f %8.4f ", stat_name(a, i), a->stats[i], b->stats[i]);
        if (isnan(intervals[i].low))
            mabn_str_printf(out, "%9s   %-19s %s\n", "-", "-", "-");
        else
            mabn_str_printf(out, "%+9.4f   %+.4f .. %+.4f  %8.3f\n", b->stats[i] - a->stats[i],
                            intervals[i].low, intervals[i].high, intervals[i].above);
    }
}

void mabn_coco_report_comparison_json(struct mabn_json_writer *w, const struct mabn_coco_score *a,
                                      const struct mabn_coco_score *b,
                                      const struct mabn_coco_interval *intervals, double confidence)
{
    static const char *const names[] = {"difference", "low", "high", "better"};
    mabn_json_put_object(w, "compare");
    put_stat_names(w, a);
    mabn_json_put_line(w, 3);
    mabn_json_put_doubles(w, "first", a->stats, a->n_stats);
    mabn_json_put_line(w, 3);
    mabn_json_put_doubles(w, "second", b->stats, b->n_stats);
    mabn_json_put_line(w, 3);
    mabn_json_put_double(w, "confidence", confidence);
    for (int what = 0; what < 4; what++) {
        mabn_json_put_line(w, 3);
        mabn_json_put_array(w, names[what]);
        for (int i = 0; i < a->n_stats; i++) {
            const struct mabn_coco_interval *v = &intervals[i];
            mabn_json_put_double(w, NULL,
                                 isnan(v->low) ? NAN
                                 : what == 0   ? b->stats[i] - a->stats[i]
                                 : what == 1   ? v->low
                                 : what == 2   ? v->high
                                               : v->above);
        }
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}
