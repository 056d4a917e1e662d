/* From matched detections to precision, recall and the statistics.
 *
 * Walking down the detections of a category by score, precision can only rise where a match is
 * counted, and recall changes only there. So a curve is kept as its true positives alone, each with the
 * number of true and false positives up to it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pages.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread.h"
#include "coco/evaluation.h"
#include "coco/score.h"

struct hit {
    uint32_t true_positives, false_positives, place; /* place: in the category's order */
};

struct curves {
    struct hit *hits; /* (thresholds, room) */
    size_t room;
    uint32_t n[MABN_COCO_MAX_THRESHOLDS];
    uint32_t seen;  /* detections looked at */
    uint32_t first; /* place of the first of them */
};

struct accumulation {
    const struct mabn_coco_evaluation *e;
    struct mabn_coco_score *out;
    const uint32_t *weights;
    struct curves *curves;               /* (threads) */
    bool wanted[MABN_COCO_MAX_MAX_DETS]; /* precision for this max_det */
    double recalls[MABN_COCO_RECALLS];
};

/* ---- one curve ---- */

/* Count down the detections of category k within area a, the first `limit` of each image. */
MABN_CLONES static void walk(const struct accumulation *acc, struct curves *c, size_t k, int a,
                             uint32_t limit)
{
    const struct mabn_coco_evaluation *e = acc->e;
    const size_t areas = (size_t)e->params.n_areas;
    const int n_thresholds = e->params.n_thresholds;
    const uint64_t all = n_thresholds == 64 ? ~(uint64_t)0 : ((uint64_t)1 << n_thresholds) - 1;
    const uint32_t lanes = ((uint32_t)n_thresholds + 15) / 16 * 16;
    uint32_t hits[MABN_COCO_MAX_THRESHOLDS] = {0}, misses[MABN_COCO_MAX_THRESHOLDS] = {0};
    /* Nothing was matched beyond the largest limit. */
    const bool each = limit >= (uint32_t)e->params.max_dets[e->params.n_max_dets - 1];
    memset(c->n, 0, sizeof c->n);
    c->seen = 0;
    for (size_t i = e->order_start[k]; i < e->order_start[k + 1]; i++) {
        uint32_t d = e->order[i];
        if (!each && e->detections[d].rank >= limit) continue;
        uint32_t weight = acc->weights ? acc->weights[e->detections[d].image] : 1;
        if (weight == 0) continue;
        if (c->seen++ == 0) c->first = (uint32_t)(i - e->order_start[k]);
        struct mabn_coco_bits bits = e->bits[d * areas + (size_t)a];
        uint64_t right = bits.matched & ~bits.ignored;
        uint64_t wrong = ~bits.matched & ~bits.ignored & all;
        if (wrong) {
            for (uint32_t from = 0; from < lanes; from += 16) {
                uint32_t word = (uint32_t)(wrong >> from) & 0xffff;
                for (uint32_t t = 0; t < 16; t++)
                    misses[from + t] += (word >> t & 1) * weight;
            }
        }
        for (; right; right &= right - 1) {
            int t = __builtin_ctzll(right);
            hits[t] += weight;
            c->hits[(size_t)t * c->room + c->n[t]++] =
                (struct hit){hits[t], misses[t], (uint32_t)(i - e->order_start[k])};
        }
    }
}

/* True positives alone, of the first `limit` of each image: for the last recall their order does not
 * matter. */
static void count_hits(const struct accumulation *acc, size_t k, int a, uint32_t limit,
                       uint32_t hits[MABN_COCO_MAX_THRESHOLDS])
{
    const struct mabn_coco_evaluation *e = acc->e;
    const size_t areas = (size_t)e->params.n_areas;
    memset(hits, 0, MABN_COCO_MAX_THRESHOLDS * sizeof *hits);
    for (size_t i = e->cell_start[k]; i < e->cell_start[k + 1]; i++) {
        const struct mabn_coco_cell *cell = &e->cells[i];
        const uint32_t weight = acc->weights ? acc->weights[cell->image] : 1;
        const uint32_t n = cell->count < limit ? cell->count : limit;
        const struct mabn_coco_bits *bits = e->bits + cell->first * areas + (size_t)a;
        for (uint32_t d = 0; d < n; d++, bits += areas)
            for (uint64_t right = bits->matched & ~bits->ignored; right; right &= right - 1)
                hits[__builtin_ctzll(right)] += weight;
    }
}

/* Read the envelope of a curve at the recall thresholds. */
static void sample(const struct accumulation *acc, const struct curves *c, size_t k, int t,
                   double truths, double *precision, double *scores)
{
    const struct mabn_coco_evaluation *e = acc->e;
    const struct hit *h = c->hits + (size_t)t * c->room;
    size_t n = c->n[t];
    double top = 0;
    int r = MABN_COCO_RECALLS - 1;
    /* From the right: thresholds above the last recall stay 0; others take the best precision from
     * the first hit that reaches them on. */
    for (int i = 0; i < MABN_COCO_RECALLS; i++)
        precision[i] = 0;
    if (scores)
        for (int i = 0; i < MABN_COCO_RECALLS; i++)
            scores[i] = 0;
    while (n > 0) {
        const struct hit *last = &h[--n];
        double p =
            (double)last->true_positives /
            ((double)last->false_positives + (double)last->true_positives + 2.220446049250313e-16);
        if (p > top) top = p;
        double recall = (double)last->true_positives / truths;
        double before = n ? (double)h[n - 1].true_positives / truths : -1;
        while (r >= 0 && acc->recalls[r] > recall)
            r--;
        for (; r >= 0 && acc->recalls[r] > before; r--) {
            precision[r] = top;
            if (scores) scores[r] = e->detections[e->order[e->order_start[k] + last->place]].score;
        }
    }
    /* Recall 0 is reached by the very first detection, hit or not. */
    if (scores && c->seen) scores[0] = e->detections[e->order[e->order_start[k] + c->first]].score;
}

static int64_t count_truths(const struct accumulation *acc, size_t k, int a)
{
    const struct mabn_coco_evaluation *e = acc->e;
    int64_t n = 0;
    for (size_t c = e->cell_start[k]; c < e->cell_start[k + 1]; c++)
        n += (int64_t)e->cells[c].truths[a] * (acc->weights ? acc->weights[e->cells[c].image] : 1);
    return n;
}

/* The hits of one threshold: each takes a ground truth that counts, so there are at most so many. */
static size_t most_hits(const struct mabn_coco_evaluation *e, size_t k, int a)
{
    size_t n = 0;
    for (size_t c = e->cell_start[k]; c < e->cell_start[k + 1]; c++)
        n += e->cells[c].truths[a];
    return n;
}

static mabn_status accumulate_one(void *context, int64_t index, int worker)
{
    struct accumulation *acc = context;
    const struct mabn_coco_params *p = &acc->e->params;
    struct mabn_coco_score *out = acc->out;
    size_t k = (size_t)index / (size_t)p->n_areas;
    int a = (int)((size_t)index % (size_t)p->n_areas);
    struct curves *c = &acc->curves[worker];
    int64_t truths = out->truths[index] = count_truths(acc, k, a);
    if (truths == 0) return MABN_OK;
    size_t room = most_hits(acc->e, k, a);
    if (room > c->room) {
        c->room = room + room / 2;
        free(c->hits);
        c->hits = mabn_xmalloc((size_t)p->n_thresholds * c->room * sizeof *c->hits);
    }
    for (int m = 0; m < p->n_max_dets; m++) {
        if (!acc->wanted[m]) {
            uint32_t hits[MABN_COCO_MAX_THRESHOLDS];
            count_hits(acc, k, a, (uint32_t)p->max_dets[m], hits);
            for (int t = 0; t < p->n_thresholds; t++)
                out->recall[mabn_coco_recall_at(out, k, a, m, t)] =
                    (double)hits[t] / (double)truths;
            continue;
        }
        walk(acc, c, k, a, (uint32_t)p->max_dets[m]);
        for (int t = 0; t < p->n_thresholds; t++) {
            size_t at = mabn_coco_recall_at(out, k, a, m, t);
            const struct hit *last = c->hits + (size_t)t * c->room + c->n[t] - 1;
            out->recall[at] = c->n[t] ? (double)last->true_positives / (double)truths : 0;
            sample(acc, c, k, t, (double)truths, out->precision + at * MABN_COCO_RECALLS,
                   out->scores ? out->scores + at * MABN_COCO_RECALLS : NULL);
        }
    }
    return MABN_OK;
}

/* ---- means ---- */

double mabn_coco_sum(const double *v, size_t n)
{
    if (n > 128) {
        size_t half = n / 2;
        half -= half % 8;
        return mabn_coco_sum(v, half) + mabn_coco_sum(v + half, n - half);
    }
    double sum = 0;
    size_t i = 0;
    if (n >= 8) {
        double part[8];
        memcpy(part, v, sizeof part);
        for (i = 8; i + 8 <= n; i += 8)
            for (size_t j = 0; j < 8; j++)
                part[j] += v[i + j];
        sum = ((part[0] + part[1]) + (part[2] + part[3])) +
              ((part[4] + part[5]) + (part[6] + part[7]));
    }
    for (; i < n; i++)
        sum += v[i];
    return sum;
}

/* Mean of what is there (not -1), in numpy's order: thresholds, recalls, categories. */
static double mean_of(const struct mabn_coco_score *s, const double *values, size_t recalls,
                      int64_t only, double threshold, int a, int m, char frequency)
{
    size_t n = 0, first = only < 0 ? 0 : (size_t)only,
           last = only < 0 ? s->n_categories : first + 1;
    if (a < 0 || m < 0) return -1;
    double *list =
        mabn_xmalloc((size_t)s->params.n_thresholds * recalls * (last - first + 1) * sizeof *list);
    for (int t = 0; t < s->params.n_thresholds; t++) {
        if (threshold >= 0 && fabs(s->params.thresholds[t] - threshold) > 1e-9) continue;
        for (size_t r = 0; r < recalls; r++)
            for (size_t k = first; k < last; k++) {
                if (frequency && s->frequencies[k] != frequency) continue;
                double v = values[mabn_coco_recall_at(s, k, a, m, t) * recalls + r];
                if (v > -1) list[n++] = v;
            }
    }
    double mean = n ? mabn_coco_sum(list, n) / (double)n : -1;
    free(list);
    return mean;
}

double mabn_coco_mean_precision(const struct mabn_coco_score *s, int64_t k, double threshold,
                                int area, int max_det)
{
    return mean_of(s, s->precision, MABN_COCO_RECALLS, k, threshold, area, max_det, 0);
}

double mabn_coco_mean_recall(const struct mabn_coco_score *s, int64_t k, double threshold, int area,
                             int max_det)
{
    return mean_of(s, s->recall, 1, k, threshold, area, max_det, 0);
}

int mabn_coco_area_index(const struct mabn_coco_params *p, const char *name)
{
    for (int a = 0; a < p->n_areas; a++)
        if (strcmp(p->areas[a].name, name) == 0) return a;
    return -1;
}

static int max_det_index(const struct mabn_coco_params *p, int max_det)
{
    for (int m = 0; m < p->n_max_dets; m++)
        if (p->max_dets[m] == max_det) return m;
    return -1;
}

/* ---- the statistics ---- */

/* Which max_det the statistics of precision look at: the first, and the others. */
static void stat_limits(const struct mabn_coco_params *p, int *first, int *others)
{
    bool keypoints = p->type == MABN_COCO_KEYPOINTS;
    *others = p->n_max_dets < 3 ? p->n_max_dets - 1 : 2;
    if (keypoints) *others = max_det_index(p, 20);
    *first = keypoints ? *others : max_det_index(p, 100);
    if (p->fix_quirks || p->lvis) *first = *others = p->n_max_dets - 1;
}

/* LVIS's thirteen. */
static void summarize_lvis(struct mabn_coco_score *s)
{
    static const char *const sizes[3] = {"small", "medium", "large"};
    const struct mabn_coco_params *p = &s->params;
    int all = mabn_coco_area_index(p, "all"), m = p->n_max_dets - 1;
    double *v = s->stats;
    *v++ = mabn_coco_mean_precision(s, -1, -1, all, m);
    *v++ = mabn_coco_mean_precision(s, -1, 0.5, all, m);
    *v++ = mabn_coco_mean_precision(s, -1, 0.75, all, m);
    for (int i = 0; i < 3; i++)
        *v++ = mabn_coco_mean_precision(s, -1, -1, mabn_coco_area_index(p, sizes[i]), m);
    for (int i = 0; i < 3; i++)
        *v++ = mean_of(s, s->precision, MABN_COCO_RECALLS, -1, -1, all, m, "rcf"[i]);
    *v++ = mabn_coco_mean_recall(s, -1, -1, all, m);
    for (int i = 0; i < 3; i++)
        *v++ = mabn_coco_mean_recall(s, -1, -1, mabn_coco_area_index(p, sizes[i]), m);
    s->n_stats = 13;
}

static void summarize(struct mabn_coco_score *s)
{
    if (s->params.lvis) {
        summarize_lvis(s);
        return;
    }
    const struct mabn_coco_params *p = &s->params;
    int all = mabn_coco_area_index(p, "all"), small = mabn_coco_area_index(p, "small"),
        medium = mabn_coco_area_index(p, "medium"), large = mabn_coco_area_index(p, "large");
    int m0, m;
    double *v = s->stats;
    stat_limits(p, &m0, &m);
    *v++ = mabn_coco_mean_precision(s, -1, -1, all, m0);
    *v++ = mabn_coco_mean_precision(s, -1, 0.5, all, m);
    *v++ = mabn_coco_mean_precision(s, -1, 0.75, all, m);
    if (p->type != MABN_COCO_KEYPOINTS) *v++ = mabn_coco_mean_precision(s, -1, -1, small, m);
    *v++ = mabn_coco_mean_precision(s, -1, -1, medium, m);
    *v++ = mabn_coco_mean_precision(s, -1, -1, large, m);
    if (p->type == MABN_COCO_KEYPOINTS) {
        *v++ = mabn_coco_mean_recall(s, -1, -1, all, m);
        *v++ = mabn_coco_mean_recall(s, -1, 0.5, all, m);
        *v++ = mabn_coco_mean_recall(s, -1, 0.75, all, m);
    } else {
        for (int i = 0; i < 3; i++)
            *v++ = mabn_coco_mean_recall(s, -1, -1, all, i < p->n_max_dets ? i : p->n_max_dets - 1);
        *v++ = mabn_coco_mean_recall(s, -1, -1, small, m);
    }
    *v++ = mabn_coco_mean_recall(s, -1, -1, medium, m);
    *v++ = mabn_coco_mean_recall(s, -1, -1, large, m);
    s->n_stats = (int)(v - s->stats);
}

/* ---- all of it ---- */

/* The memory that curves may take. A category of ten bytes in a file has 97 KB of them with COCO's
 * settings. */
static const size_t max_curve_bytes = (size_t)2 << 30;

static mabn_status minus_ones(double **out, size_t n)
{
    void *p = NULL;
    MABN_TRY(mabn_alloc(&p, n * sizeof **out));
    *out = p;
    mabn_expect_use(p, n * sizeof **out);
    for (size_t i = 0; i < n; i++)
        (*out)[i] = -1;
    return MABN_OK;
}

static mabn_status check_room(const struct mabn_coco_params *p, size_t categories)
{
    size_t each = (size_t)p->n_areas * (size_t)p->n_max_dets * (size_t)p->n_thresholds *
                  MABN_COCO_RECALLS * sizeof(double) * (p->full ? 2 : 1);
    if (categories <= max_curve_bytes / each) return MABN_OK;
    return mabn_fail(MABN_ERR_LIMIT,
                     "the curves of %zu categories would take %.1f GB of memory: choose fewer "
                     "categories, areas, thresholds or detection limits",
                     categories, (double)categories * (double)each / 1e9);
}

static mabn_status score_init(struct mabn_coco_score *out, const struct mabn_coco_evaluation *e)
{
    const struct mabn_coco_params *p = &e->params;
    size_t k = e->n_categories,
           n = k * (size_t)p->n_areas * (size_t)p->n_max_dets * (size_t)p->n_thresholds;
    memset(out, 0, sizeof *out);
    MABN_TRY(check_room(p, k));
    out->params = *p;
    out->params.categories = out->params.images = NULL;
    out->n_categories = k;
    out->n_images = e->n_images;
    out->n_truths = e->n_truths;
    out->n_results = e->results->n_records;
    out->category_ids = mabn_xcalloc(k + 1, sizeof *out->category_ids);
    out->category_names = mabn_xcalloc(k + 1, sizeof *out->category_names);
    out->category_texts = mabn_xcalloc(k + 1, sizeof *out->category_texts);
    out->category_keys = mabn_xcalloc(k + 1, sizeof *out->category_keys);
    for (size_t i = 0; i < k; i++) {
        out->category_ids[i] = e->category_ids[i];
        out->category_names[i] = mabn_xstrdup(e->category_names[i] ? e->category_names[i] : "");
        struct mabn_str id;
        char number[24];
        const char *key = mabn_coco_id_text(e->truth, e->category_ids[i], number);
        out->category_keys[i] = mabn_xstrdup(key);
        mabn_str_init(&id);
        mabn_coco_add_id(&id, e->truth, e->category_ids[i]);
        out->category_texts[i] = mabn_xstrdup(id.text);
        mabn_str_release(&id);
    }
    out->frequencies = mabn_xcalloc(k + 1, 1);
    if (e->frequencies) memcpy(out->frequencies, e->frequencies, k);
    out->truths = mabn_xcalloc(k * (size_t)p->n_areas + 1, sizeof *out->truths);
    MABN_TRY(minus_ones(&out->recall, n));
    MABN_TRY(minus_ones(&out->precision, n * MABN_COCO_RECALLS));
    return p->full ? minus_ones(&out->scores, n * MABN_COCO_RECALLS) : MABN_OK;
}

void mabn_coco_score_release(struct mabn_coco_score *s)
{
    for (size_t i = 0; s->category_keys && i < s->n_categories; i++) {
        free(s->category_names[i]);
        free(s->category_keys[i]);
        free(s->category_texts[i]);
    }
    free(s->category_names);
    free(s->category_texts);
    free(s->category_keys);
    free(s->category_ids);
    free(s->frequencies);
    free(s->truths);
    mabn_free(s->precision);
    mabn_free(s->recall);
    mabn_free(s->scores);
    memset(s, 0, sizeof *s);
}

static mabn_status accumulate(struct mabn_coco_score *out, const struct mabn_coco_evaluation *e,
                              const uint32_t *weights, int threads)
{
    struct accumulation acc = {.e = e, .out = out, .weights = weights};
    const struct mabn_coco_params *p = &e->params;
    int first, others;
    mabn_status status = score_init(out, e);
    if (status) {
        mabn_coco_score_release(out);
        return status;
    }
    stat_limits(p, &first, &others);
    for (int m = 0; m < p->n_max_dets; m++)
        acc.wanted[m] = p->full || m == first || m == others;
    for (int r = 0; r < MABN_COCO_RECALLS; r++)
        acc.recalls[r] = r * 0.01;
    acc.recalls[MABN_COCO_RECALLS - 1] = 1;
    acc.curves = mabn_xcalloc((size_t)threads, sizeof *acc.curves);
    status = mabn_parallel(threads, (int64_t)e->n_categories * p->n_areas, 1, accumulate_one, &acc);
    for (int i = 0; i < threads; i++)
        free(acc.curves[i].hits);
    free(acc.curves);
    if (!status)
        summarize(out);
    else
        mabn_coco_score_release(out);
    return status;
}

mabn_status mabn_coco_accumulate(struct mabn_coco_score *out, const struct mabn_coco_evaluation *e,
                                 const uint32_t *weights)
{
    return accumulate(out, e, weights, e->threads);
}

/* ---- bootstrap ---- */

struct bootstrap {
    const struct mabn_coco_evaluation *a, *b;
    uint64_t seed;
    double *differences; /* (stats, rounds) */
    int rounds;
    struct mabn_progress *progress;
};

static mabn_status bootstrap_round(void *context, int64_t index, int worker)
{
    struct bootstrap *boot = context;
    size_t n = boot->a->n_images;
    uint32_t *weights = mabn_xcalloc(n + 1, sizeof *weights);
    struct mabn_coco_score a, b;
    struct mabn_rng rng;
    (void)worker;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    mabn_rng_init(&rng, boot->seed, MABN_RNG_BOOTSTRAP, (uint64_t)index, 0);
    for (size_t i = 0; i < n; i++)
        weights[mabn_rng_below(&rng, n)]++;
    mabn_status status = accumulate(&a, boot->a, weights, 1);
    if (!status) status = accumulate(&b, boot->b, weights, 1);
    for (int i = 0; !status && i < a.n_stats; i++)
        boot->differences[(size_t)i * (size_t)boot->rounds + (size_t)index] =
            a.stats[i] > -1 && b.stats[i] > -1 ? b.stats[i] - a.stats[i] : NAN;
    mabn_coco_score_release(&a);
    mabn_coco_score_release(&b);
    free(weights);
    mabn_progress_add(boot->progress, 1);
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile of sorted numbers, between neighbours. */
static double quantile(const double *v, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

static struct mabn_coco_interval interval(double *v, size_t rounds, double confidence)
{
    size_t n = 0;
    double above = 0;
    for (size_t i = 0; i < rounds; i++)
        if (!isnan(v[i])) v[n++] = v[i];
    if (n == 0) return (struct mabn_coco_interval){NAN, NAN, NAN};
    for (size_t i = 0; i < n; i++)
        above += v[i] > 0 ? 1 : v[i] == 0 ? 0.5 : 0;
    qsort(v, n, sizeof *v, compare_doubles);
    double tail = (1 - confidence) / 2;
    return (struct mabn_coco_interval){quantile(v, n, tail), quantile(v, n, 1 - tail),
                                       above / (double)n};
}

mabn_status mabn_coco_bootstrap(struct mabn_coco_interval out[MABN_COCO_STATS],
                                const struct mabn_coco_evaluation *a,
                                const struct mabn_coco_evaluation *b, int rounds, double confidence,
                                uint64_t seed, int threads)
{
    if (a->n_images != b->n_images)
        return mabn_fail(MABN_ERR_MISMATCH, "evaluations of %zu and of %zu images", a->n_images,
                         b->n_images);
    struct bootstrap boot = {.a = a, .b = b, .seed = seed, .rounds = rounds};
    boot.differences = mabn_xcalloc((size_t)rounds * MABN_COCO_STATS + 1, sizeof(double));
    boot.progress = mabn_progress_new("bootstrap", "rounds", (uint64_t)rounds);
    mabn_status status = mabn_parallel(threads ? threads : mabn_threads_available(), rounds, 1,
                                       bootstrap_round, &boot);
    mabn_progress_free(boot.progress);
    for (int i = 0; i < MABN_COCO_STATS && !status; i++)
        out[i] =
            interval(boot.differences + (size_t)i * (size_t)rounds, (size_t)rounds, confidence);
    free(boot.differences);
    return status;
}
