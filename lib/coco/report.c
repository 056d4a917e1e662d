/* Scores in words. */
#include "coco/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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

const char *mabn_coco_stat_name(const struct mabn_coco_score *s, int i)
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
        mabn_str_printf(out, "%s\t%s\t", mabn_coco_type_name(s->params.type),
                        mabn_coco_stat_name(s, i));
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

struct name_part {
    const char *text;
    int length;
};

/* A category's id without quotes. */
static struct name_part id_of(const struct mabn_coco_score *s, size_t k)
{
    const char *text = s->category_texts[k];
    int length = (int)strlen(text);
    if (*text == '"') return (struct name_part){text + 1, length - 2};
    return (struct name_part){text, length};
}

void mabn_coco_report_categories(struct mabn_str *out, const struct mabn_coco_score *s, bool tsv)
{
    struct column columns[MAX_COLUMNS];
    int n = list_columns(&s->params, columns), width = 8;
    for (size_t k = 0; k < s->n_categories; k++) {
        int length = (int)strlen(s->category_names[k]);
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
        struct name_part id = id_of(s, k);
        long long truths = s->truths[k * (size_t)s->params.n_areas];
        if (tsv)
            mabn_str_printf(out, "%s\t%.*s\t%s\t%lld", mabn_coco_type_name(s->params.type),
                            id.length, id.text, s->category_names[k], truths);
        else
            mabn_str_printf(out, "%6.*s  %-*.*s %7lld", id.length, id.text, width, width,
                            s->category_names[k], truths);
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

static void add_number(struct mabn_str *out, bool *comma, double v)
{
    if (*comma) mabn_str_add(out, ", ");
    mabn_str_add_double(out, v);
    *comma = true;
}

static void add_key(struct mabn_str *out, bool *comma, const char *key)
{
    if (*comma) mabn_str_add(out, ", ");
    mabn_str_add_json(out, key);
    mabn_str_add(out, ": ");
    *comma = true;
}

static void add_settings(struct mabn_str *out, const struct mabn_coco_score *s)
{
    const struct mabn_coco_params *p = &s->params;
    bool comma = false;
    mabn_str_add(out, "  \"iou\": [");
    for (int t = 0; t < p->n_thresholds; t++)
        add_number(out, &comma, p->thresholds[t]);
    mabn_str_add(out, "],\n  \"max_dets\": [");
    comma = false;
    for (int m = 0; m < p->n_max_dets; m++)
        add_number(out, &comma, p->max_dets[m]);
    mabn_str_add(out, "],\n  \"areas\": {");
    comma = false;
    for (int a = 0; a < p->n_areas; a++) {
        bool inner = false;
        add_key(out, &comma, p->areas[a].name);
        mabn_str_add_char(out, '[');
        add_number(out, &inner, p->areas[a].low);
        add_number(out, &inner, p->areas[a].high);
        mabn_str_add_char(out, ']');
    }
    mabn_str_printf(out,
                    "},\n  \"class_agnostic\": %s,\n  \"fix_quirks\": %s,\n  \"images\": %zu,\n"
                    "  \"truths\": %zu,\n  \"results\": %zu,\n",
                    p->class_agnostic ? "true" : "false", p->fix_quirks ? "true" : "false",
                    s->n_images, s->n_truths, s->n_results);
}

static void add_means(struct mabn_str *out, const struct mabn_coco_score *s)
{
    const struct mabn_coco_params *p = &s->params;
    int m = table_limit(p), all = mabn_coco_area_index(p, "all");
    bool comma = false;
    mabn_str_add(out, "  \"ap_per_threshold\": {");
    for (int t = 0; t < p->n_thresholds; t++) {
        char name[32];
        snprintf(name, sizeof name, "%.4g", p->thresholds[t]);
        add_key(out, &comma, name);
        mabn_str_add_double(out, mabn_coco_mean_precision(s, -1, p->thresholds[t], all, m));
    }
    mabn_str_add(out, "},\n  \"ap_per_area\": {");
    comma = false;
    for (int a = 0; a < p->n_areas; a++) {
        add_key(out, &comma, p->areas[a].name);
        mabn_str_add_double(out, mabn_coco_mean_precision(s, -1, -1, a, m));
    }
    mabn_str_add(out, "},\n  \"ar_per_area\": {");
    comma = false;
    for (int a = 0; a < p->n_areas; a++) {
        add_key(out, &comma, p->areas[a].name);
        mabn_str_add_double(out, mabn_coco_mean_recall(s, -1, -1, a, m));
    }
    mabn_str_add(out, "}");
}

static void add_categories(struct mabn_str *out, const struct mabn_coco_score *s)
{
    struct column columns[MAX_COLUMNS];
    int n = list_columns(&s->params, columns);
    int all = mabn_coco_area_index(&s->params, "all"), m = table_limit(&s->params);
    bool comma = false;
    mabn_str_add(out, "  \"ap_per_category\": {");
    for (size_t k = 0; k < s->n_categories; k++) {
        struct name_part id = id_of(s, k);
        if (comma) mabn_str_add(out, ", ");
        mabn_str_printf(out, "\"%.*s\": ", id.length, id.text);
        comma = true;
        mabn_str_add_double(out, mabn_coco_mean_precision(s, (int64_t)k, -1, all, m));
    }
    mabn_str_add(out, "},\n  \"categories\": [\n");
    for (size_t k = 0; k < s->n_categories; k++) {
        mabn_str_printf(out, "   {\"id\": %s, \"name\": ", s->category_texts[k]);
        mabn_str_add_json(out, s->category_names[k]);
        mabn_str_printf(out, ", \"truths\": %lld",
                        (long long)s->truths[k * (size_t)s->params.n_areas]);
        comma = true;
        for (int i = 0; i < n; i++) {
            add_key(out, &comma, columns[i].name);
            mabn_str_add_double(out, column_value(s, &columns[i], (int64_t)k));
        }
        mabn_str_add(out, k + 1 < s->n_categories ? "},\n" : "}\n");
    }
    mabn_str_add(out, "  ],\n");
}

/* Nested lists (T,R,K,A,M), or (T,K,A,M) when recalls is 0. */
static void add_array(struct mabn_str *out, const struct mabn_coco_score *s, const char *name,
                      const double *values, int recalls)
{
    const struct mabn_coco_params *p = &s->params;
    int n_recalls = recalls ? recalls : 1;
    mabn_str_printf(out, ",\n  \"%s\": [", name);
    for (int t = 0; t < p->n_thresholds; t++) {
        mabn_str_add(out, t ? ",\n   [" : "\n   [");
        for (int r = 0; r < n_recalls; r++) {
            if (recalls) mabn_str_add(out, r ? ",\n    [" : "\n    [");
            for (size_t k = 0; k < s->n_categories; k++) {
                mabn_str_add(out, k ? ", [" : "[");
                for (int a = 0; a < p->n_areas; a++) {
                    bool comma = false;
                    mabn_str_add(out, a ? ", [" : "[");
                    for (int m = 0; m < p->n_max_dets; m++)
                        add_number(out, &comma,
                                   values[mabn_coco_recall_at(s, k, a, m, t) * (size_t)n_recalls +
                                          (size_t)r]);
                    mabn_str_add_char(out, ']');
                }
                mabn_str_add_char(out, ']');
            }
            if (recalls) mabn_str_add_char(out, ']');
        }
        mabn_str_add_char(out, ']');
    }
    mabn_str_add(out, "]");
}

static void add_stats(struct mabn_str *out, const struct mabn_coco_score *s)
{
    bool comma = false;
    mabn_str_add(out, "[");
    for (int i = 0; i < s->n_stats; i++)
        add_number(out, &comma, s->stats[i]);
    mabn_str_add(out, "]");
}

static void add_stat_names(struct mabn_str *out, const struct mabn_coco_score *s)
{
    mabn_str_add(out, "[");
    for (int i = 0; i < s->n_stats; i++) {
        if (i) mabn_str_add(out, ", ");
        mabn_str_add_json(out, mabn_coco_stat_name(s, i));
    }
    mabn_str_add(out, "]");
}

void mabn_coco_report_json(struct mabn_str *out, const struct mabn_coco_score *s, bool curves)
{
    mabn_str_add(out, "{\n  \"stats\": ");
    add_stats(out, s);
    mabn_str_add(out, ",\n  \"stat_names\": ");
    add_stat_names(out, s);
    mabn_str_add(out, ",\n");
    add_settings(out, s);
    add_categories(out, s);
    add_means(out, s);
    if (curves) {
        add_array(out, s, "precision", s->precision, MABN_COCO_RECALLS);
        add_array(out, s, "recall", s->recall, 0);
        if (s->scores) add_array(out, s, "scores", s->scores, MABN_COCO_RECALLS);
    }
    mabn_str_add(out, "\n }");
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
        mabn_str_printf(out, "%-6s %8.4f %8.4f ", mabn_coco_stat_name(a, i), a->stats[i],
                        b->stats[i]);
        if (isnan(intervals[i].low))
            mabn_str_printf(out, "%9s   %-19s %s\n", "-", "-", "-");
        else
            mabn_str_printf(out, "%+9.4f   %+.4f .. %+.4f  %8.3f\n", b->stats[i] - a->stats[i],
                            intervals[i].low, intervals[i].high, intervals[i].above);
    }
}

void mabn_coco_report_comparison_json(struct mabn_str *out, const struct mabn_coco_score *a,
                                      const struct mabn_coco_score *b,
                                      const struct mabn_coco_interval *intervals, double confidence)
{
    mabn_str_add(out, "{\"stat_names\": ");
    add_stat_names(out, a);
    mabn_str_add(out, ",\n   \"first\": ");
    add_stats(out, a);
    mabn_str_add(out, ",\n   \"second\": ");
    add_stats(out, b);
    mabn_str_add(out, ",\n   \"confidence\": ");
    mabn_str_add_double(out, confidence);
    for (int what = 0; what < 4; what++) {
        static const char *const names[] = {"difference", "low", "high", "better"};
        bool comma = false;
        mabn_str_printf(out, ",\n   \"%s\": [", names[what]);
        for (int i = 0; i < a->n_stats; i++) {
            const struct mabn_coco_interval *v = &intervals[i];
            add_number(out, &comma,
                       isnan(v->low) ? NAN
                       : what == 0   ? b->stats[i] - a->stats[i]
                       : what == 1   ? v->low
                       : what == 2   ? v->high
                                     : v->above);
        }
        mabn_str_add(out, "]");
    }
    mabn_str_add(out, "}");
}
