/* Walks down the scores; where several detections have one score, only after the last of them. */
#include "coco/operating.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coco/evaluation.h"
#include "coco/join.h"
#include "coco/report.h"

struct counted {
    double score;
    bool right;
};

static int compare_counted(const void *a, const void *b)
{
    const struct counted *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static struct mabn_coco_point point_at(double score, int64_t right, int64_t wrong, int64_t truths)
{
    struct mabn_coco_point p = {.score = score, .right = right, .wrong = wrong};
    p.missed = truths - right;
    if (right + wrong) p.precision = (double)right / (double)(right + wrong);
    if (truths) p.recall = (double)right / (double)truths;
    if (2 * right + wrong + p.missed)
        p.f1 = 2 * (double)right / (double)(2 * right + wrong + p.missed);
    return p;
}

static struct mabn_coco_point find_point(const struct counted *list, size_t n, int64_t truths,
                                         double score)
{
    int64_t right = 0, wrong = 0;
    struct mabn_coco_point best = point_at(isnan(score) ? 1 : score, 0, 0, truths);
    for (size_t i = 0; i < n; i++) {
        if (!isnan(score) && list[i].score < score) break;
        right += list[i].right;
        wrong += !list[i].right;
        if (isnan(score) && i + 1 < n && list[i + 1].score == list[i].score) continue;
        struct mabn_coco_point p =
            point_at(isnan(score) ? list[i].score : score, right, wrong, truths);
        if (!isnan(score) || p.f1 > best.f1) best = p;
    }
    return best;
}

mabn_status mabn_coco_operating_points(struct mabn_coco_point *points,
                                       const struct mabn_coco_evaluation *e, double threshold,
                                       double score)
{
    const struct mabn_coco_params *p = &e->params;
    int t = 0, a = mabn_coco_area_index(p, "all");
    while (t < p->n_thresholds && fabs(p->thresholds[t] - threshold) > 1e-9)
        t++;
    if (t == p->n_thresholds || a < 0)
        return mabn_fail(MABN_ERR_ARG,
                         "the operating point needs the area all and the threshold %g", threshold);
    struct counted *list = mabn_xmalloc((e->n_detections + 1) * sizeof *list);
    size_t from = 0;
    int64_t all = 0;
    for (size_t k = 0; k < e->n_categories; k++) {
        size_t n = 0;
        int64_t truths = 0;
        for (size_t i = e->order_start[k]; i < e->order_start[k + 1]; i++) {
            struct mabn_coco_bits b = e->bits[(size_t)e->order[i] * (size_t)p->n_areas + (size_t)a];
            if (b.ignored >> t & 1) continue;
            list[from + n++] =
                (struct counted){e->detections[e->order[i]].score, b.matched >> t & 1};
        }
        for (size_t c = e->cell_start[k]; c < e->cell_start[k + 1]; c++)
            truths += e->cells[c].truths[a];
        points[k] = find_point(list + from, n, truths, score);
        from += n;
        all += truths;
    }
    qsort(list, from, sizeof *list, compare_counted);
    points[e->n_categories] = find_point(list, from, all, score);
    free(list);
    return MABN_OK;
}

/* ---- in words ---- */

static void add_row(struct mabn_str *out, const char *name, const struct mabn_coco_point *p)
{
    mabn_coco_add_column(out, name, 24, false);
    mabn_str_printf(out, " %7.4f %9.4f %7.4f %7.4f %7lld %7lld %7lld\n", p->score, p->precision,
                    p->recall, p->f1, (long long)p->right, (long long)p->wrong,
                    (long long)p->missed);
}

void mabn_coco_report_points(struct mabn_str *out, const struct mabn_coco_point *points,
                             const struct mabn_coco_score *s, bool per_category)
{
    mabn_str_printf(out, "%-24s %7s %9s %7s %7s %7s %7s %7s\n", "operating point", "score",
                    "precision", "recall", "F1", "TP", "FP", "FN");
    for (size_t k = 0; k < s->n_categories && per_category; k++)
        add_row(out, *s->category_names[k] ? s->category_names[k] : s->category_keys[k],
                &points[k]);
    add_row(out, "all", &points[s->n_categories]);
}

static void add_tsv(struct mabn_str *out, const struct mabn_coco_score *s, const char *id,
                    const char *name, const struct mabn_coco_point *p)
{
    const double values[4] = {p->score, p->precision, p->recall, p->f1};
    mabn_str_printf(out, "%s\t", mabn_coco_type_name(s->params.type));
    mabn_coco_add_cell(out, id);
    mabn_str_add_char(out, '\t');
    mabn_coco_add_cell(out, name);
    for (int i = 0; i < 4; i++) {
        mabn_str_add_char(out, '\t');
        mabn_str_add_double(out, values[i]);
    }
    mabn_str_printf(out, "\t%lld\t%lld\t%lld\n", (long long)p->right, (long long)p->wrong,
                    (long long)p->missed);
}

void mabn_coco_report_points_tsv(struct mabn_str *out, const struct mabn_coco_point *points,
                                 const struct mabn_coco_score *s)
{
    mabn_str_add(out, "type\tid\tcategory\tscore\tprecision\trecall\tf1\ttp\tfp\tfn\n");
    for (size_t k = 0; k < s->n_categories; k++)
        add_tsv(out, s, s->category_keys[k], s->category_names[k], &points[k]);
    add_tsv(out, s, "", "all", &points[s->n_categories]);
}

static void put_point(struct mabn_json_writer *w, const struct mabn_coco_point *p)
{
    mabn_json_put_double(w, "score", p->score);
    mabn_json_put_double(w, "precision", p->precision);
    mabn_json_put_double(w, "recall", p->recall);
    mabn_json_put_double(w, "f1", p->f1);
    mabn_json_put_int(w, "tp", p->right);
    mabn_json_put_int(w, "fp", p->wrong);
    mabn_json_put_int(w, "fn", p->missed);
    mabn_json_put_end(w);
}

void mabn_coco_report_points_json(struct mabn_json_writer *w, const struct mabn_coco_point *points,
                                  const struct mabn_coco_score *s)
{
    mabn_json_put_object(w, "operating_point");
    mabn_json_put_object(w, "all");
    put_point(w, &points[s->n_categories]);
    mabn_json_put_array(w, "categories");
    for (size_t k = 0; k < s->n_categories; k++) {
        mabn_json_put_line(w, 4);
        mabn_json_put_object(w, NULL);
        mabn_json_put_raw(w, "id", s->category_texts[k]);
        put_point(w, &points[k]);
    }
    mabn_json_put_end(w);
    mabn_json_put_end(w);
}
