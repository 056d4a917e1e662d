/* Confusion, calibration and precision-recall tables, for people and for mabn-plot. */
#include "coco/confusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "coco/evaluation.h"
#include "coco/join.h"
#include "coco/match.h"
#include "coco/report.h"

/* ---- confusion ---- */

struct confusing {
    const struct mabn_coco_evaluation *e;
    double threshold, min_score;
    int64_t *counts; /* (threads, categories + 1, categories + 1) */
};

/* A matrix of a worker's own would take so much for many categories that they share one then. */
enum { MAX_CATEGORIES = 4096 };

static bool in_crowd(const struct confusing *c, const struct mabn_coco_pairs *p, size_t d)
{
    for (size_t g = 0; g < p->n_truths; g++)
        if (c->e->truth->records[p->truths[g]].crowd &&
            p->overlaps[d * p->n_truths + g] >= c->threshold)
            return true;
    return false;
}

static mabn_status confuse_image(void *context, const struct mabn_coco_pairs *p, int worker)
{
    struct confusing *c = context;
    size_t k = c->e->n_categories, width = k + 1;
    int64_t *counts = c->counts + (size_t)worker * width * width;
    bool *taken = mabn_xcalloc(p->n_truths + 1, sizeof *taken);
    for (size_t g = 0; g < p->n_truths; g++)
        taken[g] = c->e->truth->records[p->truths[g]].crowd;
    for (size_t d = 0; d < p->n_detections; d++) {
        size_t best = SIZE_MAX;
        double overlap = 0;
        if (c->e->results->records[p->detections[d]].score < c->min_score) break;
        for (size_t g = 0; g < p->n_truths; g++)
            if (!taken[g] && p->overlaps[d * p->n_truths + g] > overlap) {
                overlap = p->overlaps[d * p->n_truths + g];
                best = g;
            }
        if (best != SIZE_MAX && overlap >= c->threshold) {
            taken[best] = true;
            counts[p->truth_categories[best] * width + p->detection_categories[d]]++;
        } else if (!in_crowd(c, p, d)) {
            counts[k * width + p->detection_categories[d]]++;
        }
    }
    for (size_t g = 0; g < p->n_truths; g++)
        if (!taken[g]) counts[p->truth_categories[g] * width + k]++;
    free(taken);
    return MABN_OK;
}

mabn_status mabn_coco_confuse(struct mabn_coco_confusion *out, const struct mabn_coco *truth,
                              const struct mabn_coco *results,
                              const struct mabn_coco_params *params, double threshold,
                              double min_score)
{
    struct mabn_coco_join join;
    struct mabn_coco_params quiet = *params;
    memset(out, 0, sizeof *out);
    quiet.quiet = true;
    if (params->type == MABN_COCO_KEYPOINTS)
        return mabn_fail(MABN_ERR_ARG, "the confusion is computed for boxes and masks only");
    MABN_TRY(mabn_coco_join_make(&join, truth, results, &quiet));
    struct mabn_coco_evaluation e = {.params = quiet,
                                     .truth = truth,
                                     .results = results,
                                     .n_images = join.n_images,
                                     .n_categories = join.n_categories};
    size_t k = join.n_categories, cells = (k + 1) * (k + 1);
    mabn_status status = MABN_OK;
    e.threads = params->threads ? params->threads : mabn_threads_available();
    if (k > 512) e.threads = 1;
    if (k > MAX_CATEGORIES)
        MABN_TRY_GOTO(mabn_fail(MABN_ERR_LIMIT, "a matrix of %zu categories is too large", k),
                      done);
    struct confusing c = {.e = &e, .threshold = threshold, .min_score = min_score};
    c.counts = mabn_xcalloc(cells * (size_t)e.threads, sizeof *c.counts);
    status = mabn_coco_visit_images(&e, &join, confuse_image, &c);
    for (size_t t = 1; t < (size_t)e.threads; t++)
        for (size_t i = 0; i < cells; i++)
            c.counts[i] += c.counts[t * cells + i];
    out->n_categories = k;
    out->counts = c.counts;
    if (status) mabn_coco_confusion_release(out);
done:
    mabn_coco_join_release(&join);
    return status;
}

void mabn_coco_confusion_release(struct mabn_coco_confusion *c)
{
    free(c->counts);
    memset(c, 0, sizeof *c);
}

void mabn_coco_report_confusion(struct mabn_str *out, const struct mabn_coco_confusion *c,
                                const struct mabn_coco_score *names)
{
    size_t width = c->n_categories + 1;
    mabn_str_add(out, "truth");
    for (size_t k = 0; k < c->n_categories; k++) {
        mabn_str_add_char(out, '\t');
        mabn_coco_add_name(out, names, k);
    }
    mabn_str_add(out, "\tbackground\n");
    for (size_t r = 0; r < width; r++) {
        if (r < c->n_categories)
            mabn_coco_add_name(out, names, r);
        else
            mabn_str_add(out, "background");
        for (size_t k = 0; k < width; k++)
            mabn_str_printf(out, "\t%lld", (long long)c->counts[r * width + k]);
        mabn_str_add_char(out, '\n');
    }
}

/* ---- calibration ---- */

mabn_status mabn_coco_calibrate(struct mabn_coco_calibration *out,
                                const struct mabn_coco_evaluation *e, double threshold)
{
    const struct mabn_coco_params *p = &e->params;
    int t = 0, a = mabn_coco_area_index(p, "all");
    int64_t all = 0;
    memset(out, 0, sizeof *out);
    while (t < p->n_thresholds && fabs(p->thresholds[t] - threshold) > 1e-9)
        t++;
    if (t == p->n_thresholds || a < 0)
        return mabn_fail(MABN_ERR_ARG, "calibration needs the area all and the threshold %g",
                         threshold);
    for (size_t i = 0; i < e->order_start[e->n_categories]; i++) {
        struct mabn_coco_bits b = e->bits[(size_t)e->order[i] * (size_t)p->n_areas + (size_t)a];
        double score = e->detections[e->order[i]].score;
        int bin = 0;
        while (bin < MABN_COCO_BINS - 1 && score >= (double)(bin + 1) / MABN_COCO_BINS)
            bin++;
        if (b.ignored >> t & 1) continue;
        out->count[bin]++;
        out->right[bin] += b.matched >> t & 1;
        out->score[bin] += score;
        all++;
    }
    for (int i = 0; i < MABN_COCO_BINS; i++) {
        if (!out->count[i]) continue;
        out->score[i] /= (double)out->count[i];
        out->error += fabs(out->score[i] - (double)out->right[i] / (double)out->count[i]) *
                      (double)out->count[i] / (double)all;
    }
    return MABN_OK;
}

void mabn_coco_report_calibration(struct mabn_str *out, const struct mabn_coco_calibration *c)
{
    mabn_str_add(out, "low\thigh\tcount\tscore\tright\n");
    for (int i = 0; i < MABN_COCO_BINS; i++) {
        mabn_str_printf(out, "%.1f\t%.1f\t%lld\t", (double)i / MABN_COCO_BINS,
                        (double)(i + 1) / MABN_COCO_BINS, (long long)c->count[i]);
        mabn_str_add_double(out, c->score[i]);
        mabn_str_add_char(out, '\t');
        mabn_str_add_double(out, c->count[i] ? (double)c->right[i] / (double)c->count[i] : 0);
        mabn_str_add_char(out, '\n');
    }
}

/* ---- curves ---- */

static void add_curve(struct mabn_str *out, const struct mabn_coco_score *s, size_t k, size_t at)
{
    for (size_t r = 0; r < MABN_COCO_RECALLS; r++) {
        mabn_coco_add_cell(out, s->category_keys[k]);
        mabn_str_add_char(out, '\t');
        mabn_coco_add_name(out, s, k);
        mabn_str_printf(out, "\t%.2f\t", (double)r / 100);
        mabn_str_add_double(out, s->precision[at * MABN_COCO_RECALLS + r]);
        mabn_str_add_char(out, '\t');
        mabn_str_add_double(out, s->scores[at * MABN_COCO_RECALLS + r]);
        mabn_str_add_char(out, '\n');
    }
}

mabn_status mabn_coco_report_curves(struct mabn_str *out, const struct mabn_coco_score *s,
                                    double threshold)
{
    const struct mabn_coco_params *p = &s->params;
    int t = 0, a = mabn_coco_area_index(p, "all"), m = p->n_max_dets - 1;
    while (t < p->n_thresholds && fabs(p->thresholds[t] - threshold) > 1e-9)
        t++;
    if (t == p->n_thresholds || a < 0)
        return mabn_fail(MABN_ERR_ARG, "curves need the area all and the threshold %g", threshold);
    mabn_str_add(out, "id\tcategory\trecall\tprecision\tscore\n");
    for (size_t r = 0; r < MABN_COCO_RECALLS; r++) {
        double sum = 0;
        size_t n = 0;
        for (size_t k = 0; k < s->n_categories; k++) {
            double v = s->precision[mabn_coco_recall_at(s, k, a, m, t) * MABN_COCO_RECALLS + r];
            if (v < 0) continue;
            sum += v;
            n++;
        }
        if (!n) break;
        mabn_str_printf(out, "\tall\t%.2f\t", (double)r / 100);
        mabn_str_add_double(out, sum / (double)n);
        mabn_str_add(out, "\t\n");
    }
    for (size_t k = 0; k < s->n_categories; k++) {
        size_t at = mabn_coco_recall_at(s, k, a, m, t);
        if (s->precision[at * MABN_COCO_RECALLS] >= 0) add_curve(out, s, k, at);
    }
    return MABN_OK;
}
