/* Errors are found image by image; then AP is computed anew for each kind with its errors repaired.
 * Among equal scores the order decides: images as in the file, falling score within one; after a
 * repair, what was wrong before what was right, as tidecv lists them. */
#include "coco/errors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "coco/evaluation.h"
#include "coco/join.h"
#include "coco/match.h"

#define BACKGROUND 0.1

enum { WRONG, RIGHT, IGNORED };

/* A detection. */
struct finding {
    double score;
    uint64_t order; /* image in the file, place in the image */
    uint32_t category;
    uint32_t repaired; /* the category it has when it is repaired */
    uint8_t state, error;
    bool fixable; /* repaired, it is right; else it vanishes */
};

struct search {
    const struct mabn_coco_join *join;
    const struct mabn_coco_evaluation *e;
    double threshold;
    struct finding *findings;           /* by image, at join->detection_start */
    size_t *n_findings;                 /* (images) */
    int64_t *truths, *missed, *unfound; /* (threads, categories) */
};

/* One image while it is looked at. */
struct view {
    const struct mabn_coco_pairs *p;
    const struct mabn_coco *truth;
    bool *used;   /* (truths) */
    size_t *best; /* (truths) the detection whose repair finds it; SIZE_MAX: none */
    struct finding *findings;
};

static bool is_crowd(const struct view *v, size_t g)
{
    return v->truth->records[v->p->truths[g]].crowd;
}

static double at(const struct view *v, size_t d, size_t g)
{
    return v->p->overlaps[d * v->p->n_truths + g];
}

/* The truth of greatest overlap among those that are (or are not) of the detection's category, and
 * used or not as asked (-1: either); SIZE_MAX and 0 when no overlap is above 0. */
static size_t greatest(const struct view *v, size_t d, int same, int used, double *overlap)
{
    size_t found = SIZE_MAX;
    *overlap = 0;
    for (size_t g = 0; g < v->p->n_truths; g++) {
        bool equal = v->p->truth_categories[g] == v->p->detection_categories[d];
        if (is_crowd(v, g) || (same >= 0 && equal != same) || (used >= 0 && v->used[g] != used))
            continue;
        if (at(v, d, g) > *overlap) {
            *overlap = at(v, d, g);
            found = g;
        }
    }
    return found;
}

/* Each detection takes the free truth of its category that it overlaps most. */
static void match(struct view *v, double threshold)
{
    for (size_t d = 0; d < v->p->n_detections; d++) {
        double overlap;
        size_t g = greatest(v, d, 1, 0, &overlap);
        bool right = g != SIZE_MAX && overlap >= threshold;
        if (right) v->used[g] = true;
        v->findings[d].state = right ? RIGHT : WRONG;
    }
    for (size_t d = 0; d < v->p->n_detections; d++)
        for (size_t g = 0; g < v->p->n_truths && v->findings[d].state == WRONG; g++)
            if (is_crowd(v, g) && at(v, d, g) > threshold &&
                v->p->truth_categories[g] == v->p->detection_categories[d])
                v->findings[d].state = IGNORED;
}

/* A repair would make truth g found, if it is free: the best score gets it. */
static void claim(struct view *v, size_t d, size_t g)
{
    struct finding *f = &v->findings[d];
    f->repaired = v->p->truth_categories[g];
    if (v->used[g]) return;
    if (v->best[g] == SIZE_MAX || v->findings[v->best[g]].score < f->score) {
        if (v->best[g] != SIZE_MAX) v->findings[v->best[g]].fixable = false;
        v->best[g] = d;
        f->fixable = true;
    }
}

static enum mabn_coco_error explain(struct view *v, size_t d, double threshold)
{
    double same, other, taken, any;
    size_t g = greatest(v, d, 1, -1, &same);
    if (g != SIZE_MAX && same >= BACKGROUND && same <= threshold) {
        claim(v, d, g);
        return MABN_COCO_ERROR_LOCATION;
    }
    g = greatest(v, d, 0, -1, &other);
    if (g != SIZE_MAX && other >= threshold) {
        claim(v, d, g);
        return MABN_COCO_ERROR_CLASS;
    }
    greatest(v, d, 1, 1, &taken);
    if (taken >= threshold) return MABN_COCO_ERROR_DUPLICATE;
    greatest(v, d, -1, -1, &any);
    return any <= BACKGROUND ? MABN_COCO_ERROR_BACKGROUND : MABN_COCO_ERROR_BOTH;
}

static mabn_status look(void *context, const struct mabn_coco_pairs *p, int worker)
{
    struct search *s = context;
    size_t k = s->e->n_categories,
           place = (size_t)(s->join->images[p->image] - s->e->truth->images);
    if (s->e->truth->image_places) place = s->e->truth->image_places[place];
    struct view v = {.p = p, .truth = s->e->truth};
    v.findings = s->findings + s->join->detection_start[p->image];
    v.used = mabn_xcalloc(p->n_truths + 1, sizeof *v.used);
    v.best = mabn_xmalloc((p->n_truths + 1) * sizeof *v.best);
    for (size_t g = 0; g < p->n_truths; g++)
        v.best[g] = SIZE_MAX;
    for (size_t d = 0; d < p->n_detections; d++)
        v.findings[d] = (struct finding){.score = s->e->results->records[p->detections[d]].score,
                                         .order = (uint64_t)place << 32 | d,
                                         .category = p->detection_categories[d],
                                         .repaired = p->detection_categories[d]};
    match(&v, s->threshold);
    for (size_t d = 0; d < p->n_detections; d++)
        if (v.findings[d].state != RIGHT) v.findings[d].error = explain(&v, d, s->threshold);
    for (size_t g = 0; g < p->n_truths; g++) {
        size_t at_category = (size_t)worker * k + p->truth_categories[g];
        if (is_crowd(&v, g)) continue;
        s->truths[at_category]++;
        s->unfound[at_category] += !v.used[g];
        s->missed[at_category] += !v.used[g] && v.best[g] == SIZE_MAX;
    }
    s->n_findings[p->image] = p->n_detections;
    free(v.used);
    free(v.best);
    return MABN_OK;
}

/* ---- average precision ---- */

struct entry {
    uint32_t category;
    bool right, was_right;
    double score;
    uint64_t order;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->category != y->category) return x->category < y->category ? -1 : 1;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->was_right != y->was_right) return x->was_right ? 1 : -1;
    return (x->order > y->order) - (x->order < y->order);
}

/* One category's, by falling score: mean of the envelope at 101 recalls, in points. */
static double average_precision(const struct entry *list, size_t n, int64_t truths)
{
    if (truths == 0) return 0;
    double *envelope = mabn_xmalloc((n + 1) * sizeof *envelope), sum = 0;
    double *recall = mabn_xmalloc((n + 1) * sizeof *recall);
    int64_t right = 0;
    for (size_t i = 0; i < n; i++) {
        right += list[i].right;
        envelope[i] = (double)right / (double)(i + 1);
        recall[i] = (double)right / (double)truths;
    }
    for (size_t i = n; i-- > 1;)
        if (envelope[i] > envelope[i - 1]) envelope[i - 1] = envelope[i];
    size_t i = 0;
    for (int r = 0; r <= 100; r++) {
        while (i < n && recall[i] < r / 100.0)
            i++;
        sum += i < n ? envelope[i] : 0;
    }
    free(envelope);
    free(recall);
    return sum / 101 * 100;
}

/* Mean over the categories that have detections or truths; truths: (categories). */
static double mean_precision(struct entry *list, size_t n, const int64_t *truths, size_t k)
{
    double sum = 0;
    size_t some = 0, from = 0;
    qsort(list, n, sizeof *list, compare_entries);
    for (size_t c = 0; c < k; c++) {
        size_t to = from;
        while (to < n && list[to].category == c)
            to++;
        if (to > from || truths[c] != 0) {
            sum += average_precision(list + from, to - from, truths[c]);
            some++;
        }
        from = to;
    }
    return some ? sum / (double)some : 0;
}

/* The entries with the errors of one kind (-1: none) repaired. */
static size_t list_entries(const struct search *s, int kind, struct entry *list)
{
    size_t n = 0;
    for (size_t i = 0; i < s->e->n_images; i++)
        for (size_t d = 0; d < s->n_findings[i]; d++) {
            const struct finding *f = &s->findings[s->join->detection_start[i] + d];
            bool right = f->state == RIGHT, repair = !right && kind >= 0 && f->error == kind;
            if (repair ? !f->fixable : f->state == IGNORED) continue;
            list[n] = (struct entry){repair ? f->repaired : f->category, right || repair,
                                     right && kind >= 0, f->score, f->order};
            if (kind == MABN_COCO_ERROR_FALSE_POSITIVE) list[n].score = right ? 1 : 0;
            n++;
        }
    return n;
}

static void add_up(int64_t *v, size_t k, int threads)
{
    for (int t = 1; t < threads; t++)
        for (size_t c = 0; c < k; c++)
            v[c] += v[(size_t)t * k + c];
}

static void count_errors(struct mabn_coco_errors *out, const struct search *s)
{
    for (size_t i = 0; i < s->e->n_images; i++)
        for (size_t d = 0; d < s->n_findings[i]; d++) {
            const struct finding *f = &s->findings[s->join->detection_start[i] + d];
            if (f->state != RIGHT) out->count[f->error]++;
            out->count[MABN_COCO_ERROR_FALSE_POSITIVE] += f->state == WRONG;
        }
    for (size_t c = 0; c < s->e->n_categories; c++) {
        out->count[MABN_COCO_ERROR_MISSED] += s->missed[c];
        out->count[MABN_COCO_ERROR_FALSE_NEGATIVE] += s->unfound[c];
    }
}

static void measure(struct mabn_coco_errors *out, const struct search *s)
{
    size_t k = s->e->n_categories, n = s->join->detection_start[s->e->n_images];
    struct entry *list = mabn_xmalloc((n + 1) * sizeof *list);
    int64_t *truths = mabn_xmalloc((k + 1) * sizeof *truths);
    out->ap = mean_precision(list, list_entries(s, -1, list), s->truths, k);
    for (int kind = 0; kind < MABN_COCO_ERRORS; kind++) {
        for (size_t c = 0; c < k; c++)
            truths[c] = s->truths[c] - (kind == MABN_COCO_ERROR_MISSED           ? s->missed[c]
                                        : kind == MABN_COCO_ERROR_FALSE_NEGATIVE ? s->unfound[c]
                                                                                 : 0);
        double gain = mean_precision(list, list_entries(s, kind, list), truths, k) - out->ap;
        out->gain[kind] = gain < 0 && kind < MABN_COCO_ERROR_FALSE_POSITIVE ? 0 : gain;
    }
    free(list);
    free(truths);
}

mabn_status mabn_coco_find_errors(struct mabn_coco_errors *out, const struct mabn_coco *truth,
                                  const struct mabn_coco *results,
                                  const struct mabn_coco_params *params, double threshold)
{
    struct mabn_coco_join join;
    memset(out, 0, sizeof *out);
    if (params->type == MABN_COCO_KEYPOINTS)
        return mabn_fail(MABN_ERR_ARG, "errors are classified for boxes and masks only");
    struct mabn_coco_params quiet = *params;
    quiet.quiet = true;
    MABN_TRY(mabn_coco_join_make(&join, truth, results, &quiet));
    struct mabn_coco_evaluation e = {.params = quiet,
                                     .truth = truth,
                                     .results = results,
                                     .n_images = join.n_images,
                                     .n_categories = join.n_categories};
    e.threads = params->threads ? params->threads : mabn_threads_available();
    size_t n = join.detection_start[join.n_images], k = join.n_categories * (size_t)e.threads;
    struct search s = {.join = &join, .e = &e, .threshold = threshold};
    s.findings = mabn_xmalloc((n + 1) * sizeof *s.findings);
    s.n_findings = mabn_xcalloc(join.n_images + 1, sizeof *s.n_findings);
    s.truths = mabn_xcalloc(k + 1, sizeof *s.truths);
    s.missed = mabn_xcalloc(k + 1, sizeof *s.missed);
    s.unfound = mabn_xcalloc(k + 1, sizeof *s.unfound);
    mabn_status status = mabn_coco_visit_images(&e, &join, look, &s);
    if (!status) {
        add_up(s.truths, e.n_categories, e.threads);
        add_up(s.missed, e.n_categories, e.threads);
        add_up(s.unfound, e.n_categories, e.threads);
        out->type = params->type;
        out->threshold = threshold;
        out->background = BACKGROUND;
        count_errors(out, &s);
        measure(out, &s);
    }
    free(s.findings);
    free(s.n_findings);
    free(s.truths);
    free(s.missed);
    free(s.unfound);
    mabn_coco_join_release(&join);
    return status;
}

/* ---- in words ---- */

static const char *error_name(int error)
{
    static const char *const names[MABN_COCO_ERRORS] = {"classification", "localization",  "both",
                                                        "duplicate",      "background",    "missed",
                                                        "false positive", "false negative"};
    return names[error];
}

void mabn_coco_report_errors(struct mabn_str *out, const struct mabn_coco_errors *e)
{
    mabn_str_printf(out, "AP at IoU %.2f is %.2f points; if errors of one kind were repaired:\n",
                    e->threshold, e->ap);
    for (int i = 0; i < MABN_COCO_ERRORS; i++)
        mabn_str_printf(out, "  %-15s %+7.2f  (%lld)\n", error_name(i), e->gain[i],
                        (long long)e->count[i]);
}

void mabn_coco_report_errors_tsv(struct mabn_str *out, const struct mabn_coco_errors *e)
{
    for (int i = 0; i < MABN_COCO_ERRORS; i++) {
        mabn_str_printf(out, "%s\t%s\t", mabn_coco_type_name(e->type), error_name(i));
        mabn_str_add_double(out, e->gain[i]);
        mabn_str_printf(out, "\t%lld\n", (long long)e->count[i]);
    }
}

void mabn_coco_report_errors_json(struct mabn_json_writer *w, const struct mabn_coco_errors *e)
{
    mabn_json_put_object(w, "errors");
    mabn_json_put_double(w, "iou", e->threshold);
    mabn_json_put_double(w, "background", e->background);
    mabn_json_put_double(w, "ap", e->ap);
    for (int i = 0; i < MABN_COCO_ERRORS; i++) {
        mabn_json_put_line(w, 3);
        mabn_json_put_object(w, error_name(i));
        mabn_json_put_double(w, "gain", e->gain[i]);
        mabn_json_put_int(w, "count", e->count[i]);
        mabn_json_put_end(w);
    }
    mabn_json_put_end(w);
}
