/* Matching detections to ground truth, image by image.
 *
 * For one image and category the reference scans, for every threshold and area range, the ground
 * truths for every detection. Here the thresholds are the bits of a word. For each detection the
 * ground truths that overlap it enough for the lowest threshold are listed once, best first. Then, for
 * each area range, every listed ground truth takes those of the detection's open thresholds that it
 * reaches and at which it is free itself. That is the reference's rule: at each threshold the detection
 * gets the free ground truth of greatest overlap (among equals the later), and an ignored one only where
 * no other is left.
 *
 * One detection is done with before the next, so a worker needs memory in proportion to what an
 * image has, not to detections times ground truths. */
#include "coco/match.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/pages.h"
#include "base/progress.h"
#include "base/thread.h"
#include "coco/evaluation.h"
#include "coco/join.h"

/* A record as it is judged. */
struct shape {
    const struct mabn_coco_record *record;
    struct mabn_box box; /* of the mask, for masks */
    double area;         /* decides the area range */
    uint64_t pixels;     /* masks */
    uint32_t height, width;
    size_t runs; /* worker->runs[runs ... runs + 2 * n_runs): start and end of each run of ones */
    uint32_t n_runs;
    uint32_t category;
    size_t border; /* the boundary's runs, likewise */
    uint32_t n_border;
    uint64_t border_pixels;
};

struct candidate {
    double overlap;
    uint64_t bits; /* thresholds reached */
    uint32_t truth;
};

/* Masks that are odd in one way: how many, and the first. */
enum { OTHER_SIZE, BRIEF /* the runs end before the last pixel */, BLANK /* no pixel */, ODDITIES };
struct mismatch {
    size_t n;
    const struct mabn_coco_record *first;
    const struct mabn_coco_image *image;
    uint32_t height, width;
};

struct worker {
    struct mismatch odd[ODDITIES][2]; /* of truth, of results */
    struct shape *shapes;             /* ground truths, then detections */
    size_t room_shapes;
    uint32_t *runs;
    size_t n_runs, room_runs;
    struct mabn_rle rle, border;
    struct mabn_coco_sort_item *sort, *sort_other;
    size_t room_sort;
    struct candidate *candidates, *sorted; /* of one detection: at most the truths */
    size_t room_candidates, room_sorted;
    struct mabn_coco_keyed *keyed;
    size_t room_keyed;
    uint64_t *taken;  /* (areas, truths) bits of thresholds */
    uint8_t *ignored; /* (truths) bits of areas */
    size_t room_taken, room_ignored;
    struct mabn_coco_cell *cells;
    size_t n_cells, room_cells;
    uint32_t *pair_records, *pair_categories; /* truths, then detections */
    uint64_t *pair_keys;
    size_t room_pair_records, room_pair_categories, room_pair_keys;
    double *overlaps;
    size_t room_overlaps;
};

struct matching {
    struct mabn_coco_evaluation *e;
    const struct mabn_coco_join *join;
    struct worker *workers;
    size_t *image_cells; /* (images) where an image's cells are in its worker's list */
    uint32_t *image_n_cells;
    int *image_worker;
    struct mabn_progress *progress;
    uint64_t all;  /* a bit for every threshold */
    double lowest; /* the lowest threshold */
    double thresholds[MABN_COCO_MAX_THRESHOLDS];
    bool need_masks;
    enum mabn_coco_results_kind kind;
    mabn_coco_visit *visit; /* for mabn_coco_visit_images */
    void *context;
};

#define ROOM(array, room, need)                                                    \
    do {                                                                           \
        if ((size_t)(need) >= (room)) { /* never left NULL */                      \
            (room) = (size_t)(need) + (size_t)(need) / 2 + 64;                     \
            *(void **)&(array) = mabn_xrealloc((array), (room) * sizeof *(array)); \
        }                                                                          \
    } while (0)

/* ---- shapes ---- */

/* Starts and ends of runs that the masks of one image may have together (512 MiB): a polygon of
 * few numbers can have as many as its image has columns. */
enum { MAX_RUNS = 1 << 27 };

/* The runs of ones of a mask, as [start, end) pairs. */
static mabn_status keep_runs(struct worker *w, const struct shape *s, const struct mabn_rle *r,
                             const struct mabn_coco *file, size_t *first, uint32_t *n)
{
    if (r->count > MAX_RUNS - w->n_runs)
        return mabn_coco_fail(file, s->record, MABN_ERR_LIMIT,
                              "the masks of its image have more than %d runs together",
                              MAX_RUNS / 2);
    ROOM(w->runs, w->room_runs, w->n_runs + r->count + 1);
    uint32_t *out = w->runs + w->n_runs, at = 0;
    *first = w->n_runs;
    *n = (uint32_t)(r->count / 2);
    for (size_t i = 0; i < r->count; i++)
        out[i] = at += r->counts[i];
    w->n_runs += 2 * (size_t)*n;
    return MABN_OK;
}

static void note_mismatch(struct mismatch *which, const struct shape *s,
                          const struct mabn_coco_image *image)
{
    if (!which->n++ || s->record < which->first)
        *which = (struct mismatch){which->n, s->record, image, s->height, s->width};
}

static mabn_status take_mask(const struct matching *m, struct worker *w, struct shape *s,
                             const struct mabn_coco *file, const struct mabn_coco_image *image)
{
    if (s->record->segmentation.kind <= MABN_SEGMENTATION_POLYGONS && image->unsized)
        return mabn_coco_fail(file, s->record, MABN_ERR_FORMAT,
                              "its image has no \"height\" and \"width\" in '%s' (whole numbers, "
                              "above 0)",
                              m->e->truth->name);
    MABN_TRY(mabn_coco_mask(&w->rle, file, s->record, image->height, image->width));
    s->box = mabn_rle_box(&w->rle);
    s->pixels = mabn_rle_area(&w->rle);
    s->height = w->rle.height;
    s->width = w->rle.width;
    const bool result = file == m->e->results;
    if (w->rle.missing) note_mismatch(&w->odd[BRIEF][result], s, image);
    if (!s->pixels && !result) note_mismatch(&w->odd[BLANK][result], s, image);
    if (!image->unsized && (s->height != image->height || s->width != image->width))
        note_mismatch(&w->odd[OTHER_SIZE][result], s, image);
    MABN_TRY(keep_runs(w, s, &w->rle, file, &s->runs, &s->n_runs));
    if (!m->e->params.boundary) return MABN_OK;
    MABN_TRY(
        mabn_rle_boundary(&w->border, &w->rle, mabn_rle_boundary_distance(s->height, s->width)));
    s->border_pixels = mabn_rle_area(&w->border);
    return keep_runs(w, s, &w->border, file, &s->border, &s->n_border);
}

/* The deviations of a category's keypoints. */
static const double *sigmas_of(const struct matching *m, uint32_t category, int *n)
{
    const struct mabn_coco_params *p = &m->e->params;
    for (size_t i = 0; i < p->n_own_sigmas; i++)
        if (p->own_sigmas[i].category == m->join->category_ids[category]) {
            *n = p->own_sigmas[i].n;
            return p->own_sigmas[i].sigmas;
        }
    *n = p->n_sigmas;
    return p->sigmas;
}

/* A ground truth may have none: it is not labelled. */
static mabn_status check_keypoints(const struct matching *m, const struct mabn_coco *file,
                                   const struct shape *s, bool truth)
{
    const struct mabn_coco_record *r = s->record;
    int n;
    sigmas_of(m, s->category, &n);
    if (r->odd_keypoints)
        return mabn_coco_fail(file, r, MABN_ERR_FORMAT,
                              "expected three numbers a keypoint in \"keypoints\"");
    if ((int)r->n_keypoints == n || (truth && !r->n_keypoints)) return MABN_OK;
    return mabn_coco_fail(file, r, MABN_ERR_FORMAT, "expected %d keypoints, found %u", n,
                          r->n_keypoints);
}

static mabn_status take_truth(const struct matching *m, struct worker *w, struct shape *s,
                              const struct mabn_coco_image *image)
{
    const struct mabn_coco *file = m->e->truth;
    const struct mabn_coco_record *r = s->record;
    enum mabn_coco_type type = m->e->params.type;
    if (r->odd_crowd)
        return mabn_coco_fail(file, r, MABN_ERR_FORMAT,
                              "\"iscrowd\" is no number and not true or false");
    if (!r->has_box && type != MABN_COCO_SEGM)
        return mabn_coco_fail(file, r, MABN_ERR_FORMAT,
                              r->odd_box ? "expected 4 finite numbers in \"bbox\"" : "no \"bbox\"");
    if (type == MABN_COCO_KEYPOINTS) MABN_TRY(check_keypoints(m, file, s, true));
    s->box = r->box;
    s->area = r->has_area ? r->area : r->box.w * r->box.h;
    if (type == MABN_COCO_SEGM) {
        if (r->segmentation.kind == MABN_SEGMENTATION_NONE)
            return mabn_coco_fail(file, r, MABN_ERR_FORMAT, "no \"segmentation\"");
        MABN_TRY(take_mask(m, w, s, file, image));
        if (!r->has_area && !r->has_box) s->area = (double)s->pixels;
    }
    return MABN_OK;
}

/* Box around all keypoints, seen or not. */
static struct mabn_box keypoints_box(const struct mabn_coco *file, const struct mabn_coco_record *r)
{
    const double *k = file->numbers + r->keypoints;
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (uint32_t i = 0; i < r->n_keypoints; i++, k += 3) {
        x0 = k[0] < x0 ? k[0] : x0;
        x1 = k[0] > x1 ? k[0] : x1;
        y0 = k[1] < y0 ? k[1] : y0;
        y1 = k[1] > y1 ? k[1] : y1;
    }
    return r->n_keypoints ? (struct mabn_box){x0, y0, x1 - x0, y1 - y0}
                          : (struct mabn_box){0, 0, 0, 0};
}

/* Every result that is scored needs what the first one has. */
static mabn_status check_detection(const struct matching *m, const struct mabn_coco_record *r)
{
    static const char *const names[] = {[MABN_COCO_RESULTS_BOXES] = "bbox",
                                        [MABN_COCO_RESULTS_MASKS] = "segmentation",
                                        [MABN_COCO_RESULTS_KEYPOINTS] = "keypoints"};
    const bool boxes = m->kind == MABN_COCO_RESULTS_BOXES;
    if (boxes                                ? r->has_box
        : m->kind == MABN_COCO_RESULTS_MASKS ? r->segmentation.kind != MABN_SEGMENTATION_NONE
                                             : r->has_keypoints || r->odd_keypoints)
        return MABN_OK;
    if (boxes && r->odd_box)
        return mabn_coco_fail(m->e->results, r, MABN_ERR_FORMAT,
                              "expected 4 finite numbers in \"bbox\"");
    return mabn_coco_fail(m->e->results, r, MABN_ERR_FORMAT,
                          "no \"%s\", which the first result has", names[m->kind]);
}

/* Derive what a detection lacks; that depends on the kind of the results file. */
static mabn_status take_detection(const struct matching *m, struct worker *w, struct shape *s,
                                  const struct mabn_coco_image *image)
{
    const struct mabn_coco *file = m->e->results;
    const struct mabn_coco_record *r = s->record;
    enum mabn_coco_type type = m->e->params.type;
    MABN_TRY(check_detection(m, r));
    if (type == MABN_COCO_KEYPOINTS || m->kind == MABN_COCO_RESULTS_KEYPOINTS)
        MABN_TRY(type == MABN_COCO_KEYPOINTS ? check_keypoints(m, file, s, false)
                 : r->odd_keypoints
                     ? mabn_coco_fail(file, r, MABN_ERR_FORMAT,
                                      "expected three numbers a keypoint in \"keypoints\"")
                     : MABN_OK);
    if (type == MABN_COCO_SEGM && m->kind == MABN_COCO_RESULTS_KEYPOINTS)
        return mabn_coco_fail(file, r, MABN_ERR_FORMAT, "no \"segmentation\"");
    if (type == MABN_COCO_SEGM || m->kind == MABN_COCO_RESULTS_MASKS)
        MABN_TRY(take_mask(m, w, s, file, image));
    if (m->kind == MABN_COCO_RESULTS_BOXES) {
        s->area = r->box.w * r->box.h;
        if (type != MABN_COCO_SEGM)
            s->box = r->box;
        else if (m->e->params.fix_quirks)
            s->area = (double)s->pixels;
    } else if (m->kind == MABN_COCO_RESULTS_MASKS) {
        s->area = (double)s->pixels;
        if (type != MABN_COCO_SEGM && r->odd_box)
            return mabn_coco_fail(file, r, MABN_ERR_FORMAT,
                                  "expected 4 finite numbers in \"bbox\"");
        if (type != MABN_COCO_SEGM && r->has_box) s->box = r->box;
    } else {
        s->box = keypoints_box(file, r);
        s->area = s->box.w * s->box.h;
    }
    return MABN_OK;
}

/* ---- overlaps ---- */

static uint64_t common_pixels(const uint32_t *a, const uint32_t *a_end, const uint32_t *b,
                              const uint32_t *b_end)
{
    uint64_t sum = 0;
    while (a < a_end && b < b_end) {
        uint32_t from = a[0] > b[0] ? a[0] : b[0], to = a[1] < b[1] ? a[1] : b[1];
        size_t step = a[1] <= b[1] ? 2 : 0;
        sum += to > from ? to - from : 0;
        a += step;
        b += 2 - step;
    }
    return sum;
}

/* The first run that ends after `pixel`. */
static const uint32_t *runs_after(const uint32_t *a, const uint32_t *a_end, uint32_t pixel)
{
    size_t n = (size_t)(a_end - a) / 2;
    while (n > 0) {
        size_t half = n / 2;
        if (a[2 * half + 1] <= pixel) {
            a += 2 * (half + 1);
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return a;
}

/* Overlap of two lists of runs, neither empty. */
static double runs_overlap(const uint32_t *a, uint32_t n_a, uint64_t pixels_a, const uint32_t *b,
                           uint32_t n_b, uint64_t pixels_b, bool crowd)
{
    const uint32_t *a_end = a + 2 * (size_t)n_a, *b_end = b + 2 * (size_t)n_b;
    if (a[0] < b[0])
        a = runs_after(a, a_end, b[0]);
    else
        b = runs_after(b, b_end, a[0]);
    uint64_t both = common_pixels(a, a_end, b, b_end);
    if (!both) return 0;
    return (double)both / (double)(crowd ? pixels_a : pixels_a + pixels_b - both);
}

static double mask_overlap(const struct worker *w, const struct shape *d, const struct shape *g,
                           bool boundary)
{
    if (d->height != g->height || d->width != g->width) return -1;
    bool crowd = g->record->crowd;
    double v = runs_overlap(w->runs + d->runs, d->n_runs, d->pixels, w->runs + g->runs, g->n_runs,
                            g->pixels, crowd);
    if (!boundary || v == 0) return v;
    return fmin(v, runs_overlap(w->runs + d->border, d->n_border, d->border_pixels,
                                w->runs + g->border, g->n_border, g->border_pixels, crowd));
}

/* Object keypoint similarity. */
static double keypoint_overlap(const struct matching *m, const struct shape *d,
                               const struct shape *g)
{
    int n_sigmas;
    const double *sigmas = sigmas_of(m, d->category, &n_sigmas);
    const double *kg = m->e->truth->numbers + g->record->keypoints;
    const double *kd = m->e->results->numbers + d->record->keypoints;
    struct mabn_box b = g->box;
    double left = b.x - b.w, right = b.x + b.w * 2, top = b.y - b.h, bottom = b.y + b.h * 2;
    double terms[MABN_COCO_MAX_KEYPOINTS];
    size_t n = 0;
    bool any = false;
    for (uint32_t i = 0; i < g->record->n_keypoints; i++)
        any |= kg[3 * i + 2] > 0;
    for (int i = 0; i < n_sigmas; i++) {
        double x = kd[3 * i], y = kd[3 * i + 1], dx, dy;
        if (any) {
            if (!(kg[3 * i + 2] > 0)) continue;
            dx = x - kg[3 * i];
            dy = y - kg[3 * i + 1];
        } else { /* nothing labelled: how far outside a box of three times the size */
            dx = fmax(0, left - x) + fmax(0, x - right);
            dy = fmax(0, top - y) + fmax(0, y - bottom);
        }
        double variance = (sigmas[i] * 2) * (sigmas[i] * 2);
        double e = (dx * dx + dy * dy) / variance / (g->area + 2.220446049250313e-16) / 2;
        terms[n++] = exp(-e);
    }
    return mabn_coco_sum(terms, n) / (double)n;
}

static inline bool boxes_touch(const struct mabn_box *d, const struct mabn_box *g)
{
    double x0 = d->x > g->x ? d->x : g->x, y0 = d->y > g->y ? d->y : g->y;
    double dx = d->x + d->w, gx = g->x + g->w, dy = d->y + d->h, gy = g->y + g->h;
    return (dx < gx ? dx : gx) - x0 > 0 && (dy < gy ? dy : gy) - y0 > 0;
}

static double overlap(const struct matching *m, const struct worker *w, const struct shape *d,
                      const struct shape *g)
{
    if (m->e->params.type == MABN_COCO_KEYPOINTS) return keypoint_overlap(m, d, g);
    if (!boxes_touch(&d->box, &g->box)) return 0;
    if (m->e->params.type == MABN_COCO_SEGM) return mask_overlap(w, d, g, m->e->params.boundary);
    return mabn_box_iou(d->box, g->box, g->record->crowd);
}

static inline double lesser(double a, double b)
{
    return a < b ? a : b;
}

/* Can two masks not reach the lowest threshold? Their intersection is at most the smaller mask, and at
 * most the intersection of their boxes. */
static bool too_far_apart(const struct matching *m, const struct shape *d, const struct shape *g)
{
    const struct mabn_box *a = &d->box, *b = &g->box;
    double x = lesser(a->x + a->w, b->x + b->w) - (a->x > b->x ? a->x : b->x);
    double y = lesser(a->y + a->h, b->y + b->h) - (a->y > b->y ? a->y : b->y);
    double of_d = (double)d->pixels, of_g = (double)g->pixels;
    double both = lesser(x * y, lesser(of_d, of_g));
    double all = g->record->crowd ? of_d : of_d + of_g - both;
    return both * (1 + 1e-9) < m->lowest * all;
}

/* ---- matching ---- */

/* By falling overlap, then the later ground truth first; they come with theirs rising. A list may
 * be as long as a file makes it, so a long one is sorted in linear time. */
static void sort_candidates(struct worker *w, size_t n)
{
    struct candidate *list = w->candidates;
    if (n > 64) {
        ROOM(w->keyed, w->room_keyed, 2 * n);
        ROOM(w->sorted, w->room_sorted, n);
        for (size_t i = 0; i < n; i++)
            w->keyed[i] = (struct mabn_coco_keyed){mabn_coco_score_key(list[n - 1 - i].overlap),
                                                   (uint32_t)(n - 1 - i)};
        mabn_coco_sort_keyed(w->keyed, w->keyed + n, n);
        for (size_t i = 0; i < n; i++)
            w->sorted[i] = list[w->keyed[i].index];
        memcpy(list, w->sorted, n * sizeof *list);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        struct candidate c = list[i];
        size_t k = i;
        for (; k > 0 && list[k - 1].overlap <= c.overlap; k--)
            list[k] = list[k - 1];
        list[k] = c;
    }
}

/* List the ground truths that a detection may be matched to, best first; how many. */
static size_t list_candidates(const struct matching *m, struct worker *w,
                              const struct shape *truths, size_t n_truths,
                              const struct shape *detection)
{
    struct candidate *list = w->candidates;
    size_t n = 0;
    const bool masks = m->e->params.type == MABN_COCO_SEGM;
    for (size_t g = 0; g < n_truths; g++) {
        if (masks && too_far_apart(m, detection, &truths[g])) continue;
        double v = overlap(m, w, detection, &truths[g]);
        if (!(v >= m->lowest)) continue;
        struct candidate c = {.overlap = v, .truth = (uint32_t)g};
        for (int t = 0; t < m->e->params.n_thresholds; t++)
            c.bits |= (uint64_t)(v >= m->thresholds[t]) << t;
        list[n++] = c;
    }
    sort_candidates(w, n);
    return n;
}

/* One detection in area range a: the ground truths that count first, then the ignored ones. Overlaps
 * fall along the list, so it ends at the first one that reaches no open threshold. */
static struct mabn_coco_bits match_one(const struct matching *m, struct worker *w,
                                       const struct shape *truths, size_t n_truths, int a, size_t n)
{
    struct mabn_coco_bits out = {0, 0};
    const struct candidate *list = w->candidates;
    uint64_t open = m->all, *taken = w->taken + (size_t)a * n_truths;
    for (int ignored = 0; ignored < 2; ignored++)
        for (size_t i = 0; i < n && (open & list[i].bits); i++) {
            uint32_t g = list[i].truth;
            if ((w->ignored[g] >> a & 1) != ignored) continue;
            const struct mabn_coco_record *r = truths[g].record;
            uint64_t bits = open & list[i].bits;
            if (!r->crowd) bits &= ~taken[g];
            taken[g] |= bits;
            open &= ~bits;
            if (ignored) out.ignored |= bits;
            if (r->id != 0 || m->e->params.fix_quirks) out.matched |= bits;
        }
    return out;
}

static bool truth_ignored(const struct matching *m, const struct mabn_coco_record *r)
{
    bool ignored = r->crowd || ((m->e->params.fix_quirks || m->e->params.lvis) && r->ignore);
    if (m->e->params.type == MABN_COCO_KEYPOINTS) {
        uint32_t labelled = r->num_keypoints;
        if (!r->has_num_keypoints) {
            const double *k = m->e->truth->numbers + r->keypoints;
            for (uint32_t i = 0; i < r->n_keypoints; i++)
                labelled += k[3 * i + 2] > 0;
        }
        ignored |= labelled == 0 || r->n_keypoints == 0;
    }
    return ignored;
}

/* Which ground truths count, and how many, in each area range. */
static void prepare_truths(const struct matching *m, struct worker *w, const struct shape *truths,
                           size_t n_truths, struct mabn_coco_cell *cell)
{
    const struct mabn_coco_params *p = &m->e->params;
    const size_t n_areas = (size_t)p->n_areas;
    ROOM(w->taken, w->room_taken, n_truths * n_areas);
    ROOM(w->ignored, w->room_ignored, n_truths);
    memset(w->taken, 0, n_truths * n_areas * sizeof *w->taken);
    for (size_t g = 0; g < n_truths; g++) {
        bool never = truth_ignored(m, truths[g].record);
        double area = truths[g].area;
        w->ignored[g] = 0;
        for (int a = 0; a < p->n_areas; a++) {
            bool ignored = never || area < p->areas[a].low || area > p->areas[a].high;
            w->ignored[g] |= (uint8_t)(ignored << a);
            cell->truths[a] += !ignored;
        }
    }
}

/* LVIS: may the image have more of this category than is annotated? */
static bool is_partial(const struct matching *m, const struct mabn_coco_cell *cell)
{
    const struct mabn_coco_image *image = m->join->images[cell->image];
    const int64_t *list = m->e->truth->listed + image->listed + image->n_negatives;
    for (uint32_t i = 0; i < image->n_partial && m->e->params.lvis; i++)
        if (list[i] == m->join->category_ids[cell->category]) return true;
    return false;
}

static void match_cell(const struct matching *m, struct worker *w, const struct shape *truths,
                       size_t n_truths, const struct shape *detections, size_t n_detections,
                       struct mabn_coco_cell *cell)
{
    const struct mabn_coco_params *p = &m->e->params;
    const size_t n_areas = (size_t)p->n_areas;
    struct mabn_coco_bits *bits = m->e->bits + (size_t)cell->first * n_areas;
    const bool partial = m->e->params.lvis && is_partial(m, cell);
    prepare_truths(m, w, truths, n_truths, cell);
    ROOM(w->candidates, w->room_candidates, n_truths);
    for (size_t d = 0; d < n_detections; d++) {
        double score = detections[d].record->score, area = detections[d].area;
        m->e->detections[cell->first + d] =
            (struct mabn_coco_detection){score, cell->image, (uint32_t)d};
        size_t n = list_candidates(m, w, truths, n_truths, &detections[d]);
        for (int a = 0; a < p->n_areas; a++) {
            struct mabn_coco_bits b = {0, 0};
            if (n) b = match_one(m, w, truths, n_truths, a, n);
            if (partial || area < p->areas[a].low || area > p->areas[a].high)
                b.ignored |= m->all & ~b.matched;
            bits[d * n_areas + (size_t)a] = b;
        }
    }
}

/* ---- one image ---- */

/* Sort an image's detections by category, falling score, place in the file. */
static void sort_detections(const struct matching *m, struct worker *w, size_t image)
{
    const struct mabn_coco_join *join = m->join;
    size_t first = join->detection_start[image], n = join->detection_start[image + 1] - first;
    ROOM(w->sort, w->room_sort, 2 * n);
    bool agnostic = m->e->params.class_agnostic;
    for (size_t i = 0; i < n; i++) {
        uint32_t record = join->detections[first + i];
        uint32_t category = join->detection_category[record];
        uint64_t score = mabn_coco_score_key(m->e->results->records[record].score);
        w->sort[i] = (struct mabn_coco_sort_item){agnostic ? 0 : category, score, category, record};
    }
    mabn_coco_sort(w->sort, w->sort + n, n);
}

static mabn_status take_shapes(const struct matching *m, struct worker *w, size_t image,
                               size_t n_truths, size_t n_detections)
{
    const struct mabn_coco_join *join = m->join;
    const struct mabn_coco_image *info = join->images[image];
    bool agnostic = m->e->params.class_agnostic;
    uint32_t limit = (uint32_t)m->e->params.max_dets[m->e->params.n_max_dets - 1];
    w->n_runs = 0;
    ROOM(w->shapes, w->room_shapes, n_truths + n_detections);
    for (size_t i = 0; i < n_truths; i++) {
        const struct mabn_coco_join_truth *t = &join->truths[join->truth_start[image] + i];
        struct shape *s = &w->shapes[i];
        memset(s, 0, sizeof *s);
        s->record = &m->e->truth->records[t->record];
        s->category = agnostic ? 0 : t->category;
        MABN_TRY(take_truth(m, w, s, info));
    }
    for (size_t i = 0, rank = 0; i < n_detections; i++) {
        struct shape *s = &w->shapes[n_truths + i];
        rank = i && w->sort[i].group == w->sort[i - 1].group ? rank + 1 : 0;
        memset(s, 0, sizeof *s);
        s->record = &m->e->results->records[w->sort[i].record];
        s->category = w->sort[i].group;
        if (rank < limit) MABN_TRY(take_detection(m, w, s, info));
    }
    return MABN_OK;
}

static mabn_status match_image(void *context, int64_t index, int worker)
{
    struct matching *m = context;
    struct worker *w = &m->workers[worker];
    const struct mabn_coco_join *join = m->join;
    size_t image = (size_t)index;
    size_t n_truths = join->truth_start[image + 1] - join->truth_start[image];
    size_t n_detections = join->detection_start[image + 1] - join->detection_start[image];
    sort_detections(m, w, image);
    MABN_TRY(take_shapes(m, w, image, n_truths, n_detections));
    uint32_t limit = (uint32_t)m->e->params.max_dets[m->e->params.n_max_dets - 1];
    uint32_t next = (uint32_t)join->detection_start[image];
    const struct shape *g = w->shapes, *g_end = g + n_truths;
    const struct shape *d = g_end, *d_end = d + n_detections;
    m->image_cells[image] = w->n_cells;
    m->image_worker[image] = worker;
    while (g < g_end || d < d_end) {
        uint32_t category = g == g_end                   ? d->category
                            : d == d_end                 ? g->category
                            : g->category <= d->category ? g->category
                                                         : d->category;
        const struct shape *g0 = g, *d0 = d;
        while (g < g_end && g->category == category)
            g++;
        while (d < d_end && d->category == category)
            d++;
        size_t n = (size_t)(d - d0) < limit ? (size_t)(d - d0) : limit;
        MABN_GROW(w->cells, w->n_cells, w->room_cells);
        struct mabn_coco_cell *cell = &w->cells[w->n_cells++];
        *cell = (struct mabn_coco_cell){category, (uint32_t)image, next, (uint32_t)n, {0}};
        match_cell(m, w, g0, (size_t)(g - g0), d0, n, cell);
        next += (uint32_t)n;
    }
    m->image_n_cells[image] = (uint32_t)(w->n_cells - m->image_cells[image]);
    if (image % 64 == 0) mabn_progress_add(m->progress, 64);
    return MABN_OK;
}

/* ---- all images ---- */

/* Category by category, images ascending. */
static void gather_cells(struct matching *m)
{
    struct mabn_coco_evaluation *e = m->e;
    size_t total = 0, k = e->n_categories;
    e->cell_start = mabn_xcalloc(k + 1, sizeof *e->cell_start);
    for (size_t i = 0; i < e->n_images; i++) {
        if (!m->image_n_cells[i]) continue; /* its worker may have no list at all */
        const struct mabn_coco_cell *c = m->workers[m->image_worker[i]].cells + m->image_cells[i];
        for (uint32_t n = 0; n < m->image_n_cells[i]; n++)
            e->cell_start[c[n].category + 1]++;
        total += m->image_n_cells[i];
    }
    for (size_t i = 0; i < k; i++)
        e->cell_start[i + 1] += e->cell_start[i];
    size_t *at = mabn_xcalloc(k + 1, sizeof *at);
    memcpy(at, e->cell_start, k * sizeof *at);
    e->cells = mabn_xcalloc(total + 1, sizeof *e->cells);
    for (size_t i = 0; i < e->n_images; i++) {
        if (!m->image_n_cells[i]) continue; /* its worker may have no list at all */
        const struct mabn_coco_cell *c = m->workers[m->image_worker[i]].cells + m->image_cells[i];
        for (uint32_t n = 0; n < m->image_n_cells[i]; n++)
            e->cells[at[c[n].category]++] = c[n];
    }
    free(at);
}

/* All workers' together. */
static struct mismatch gather_mismatches(const struct matching *m, int kind, int which)
{
    struct mismatch all = {0};
    for (int i = 0; i < m->e->threads; i++) {
        const struct worker *w = &m->workers[i];
        const struct mismatch *one = &w->odd[kind][which];
        size_t n = all.n + one->n;
        if (one->n && (!all.n || one->first < all.first)) all = *one;
        all.n = n;
    }
    return all;
}

static void tell_mismatches(const struct matching *m)
{
    char id[24], place[48];
    for (int which = 0; which < 2; which++) {
        const struct mabn_coco *file = which ? m->e->results : m->e->truth;
        struct mismatch all = gather_mismatches(m, OTHER_SIZE, which);
        if (all.n)
            mabn_warn("'%s': %zu mask%s of another size than the image (the first: %s, %u x %u "
                      "pixels; image %s is %u x %u): masks of two sizes never overlap",
                      file->name, all.n, all.n == 1 ? " is" : "s are",
                      mabn_coco_record_place(file, all.first, place), all.width, all.height,
                      mabn_coco_id_text(m->e->truth, all.image->id, id), all.image->width,
                      all.image->height);
        all = gather_mismatches(m, BRIEF, which);
        if (all.n)
            mabn_warn(
                "'%s': the runs of %zu mask%s end before the last pixel (the first: %s): what "
                "is missing counts as background",
                file->name, all.n, all.n == 1 ? "" : "s",
                mabn_coco_record_place(file, all.first, place));
        all = gather_mismatches(m, BLANK, which);
        if (all.n)
            mabn_warn("'%s': the mask%s of %zu annotation%s no pixel of the image (the first: %s): "
                      "no result can find %s",
                      file->name, all.n == 1 ? "" : "s", all.n, all.n == 1 ? " has" : "s have",
                      mabn_coco_record_place(file, all.first, place), all.n == 1 ? "it" : "them");
    }
}

static void workers_free(struct worker *workers, int n)
{
    for (int i = 0; i < n; i++) {
        struct worker *w = &workers[i];
        free(w->shapes);
        free(w->runs);
        mabn_rle_release(&w->rle);
        mabn_rle_release(&w->border);
        free(w->sort);
        free(w->candidates);
        free(w->sorted);
        free(w->keyed);
        free(w->taken);
        free(w->ignored);
        free(w->cells);
        free(w->pair_records);
        free(w->pair_keys);
        free(w->pair_categories);
        free(w->overlaps);
    }
    free(workers);
}

/* Columns that outlines may cross together: many, and 1024 for each number in the files, where
 * COCO's polygons take about 10. A few numbers in an image that is said to be a million pixels wide
 * would otherwise keep us busy for hours. */
static const uint64_t many_columns = (uint64_t)1 << 26;

static mabn_status count_columns(const struct matching *m, const struct mabn_coco *file,
                                 const struct mabn_coco_record *r, size_t image, uint64_t *sum)
{
    const size_t numbers = m->e->truth->n_numbers + m->e->results->n_numbers;
    if (m->join->images[image]->width < 2048) return MABN_OK; /* no more than 1024 a number */
    *sum += mabn_coco_mask_columns(file, r, m->join->images[image]->width);
    if (*sum <= many_columns + 1024 * (uint64_t)numbers) return MABN_OK;
    return mabn_coco_fail(file, r, MABN_ERR_LIMIT,
                          "the outlines up to here cross %llu columns: too much for so few numbers",
                          (unsigned long long)*sum);
}

static mabn_status check_columns(const struct matching *m)
{
    const struct mabn_coco_join *join = m->join;
    const bool masks = m->e->params.type == MABN_COCO_SEGM;
    uint64_t sum = 0;
    for (size_t i = 0; i < m->e->n_images; i++) {
        for (size_t k = join->truth_start[i]; k < join->truth_start[i + 1] && masks; k++)
            MABN_TRY(count_columns(m, m->e->truth, &m->e->truth->records[join->truths[k].record], i,
                                   &sum));
        for (size_t k = join->detection_start[i]; k < join->detection_start[i + 1]; k++)
            if (masks || m->kind == MABN_COCO_RESULTS_MASKS)
                MABN_TRY(count_columns(m, m->e->results,
                                       &m->e->results->records[join->detections[k]], i, &sum));
    }
    return MABN_OK;
}

mabn_status mabn_coco_match(struct mabn_coco_evaluation *e, const struct mabn_coco_join *join)
{
    struct matching m = {.e = e, .join = join, .lowest = INFINITY, .kind = join->kind};
    mabn_status status = MABN_OK;
    size_t n = join->detection_start[e->n_images], bytes = 0;
    int n_thresholds = e->params.n_thresholds;
    m.all = n_thresholds == 64 ? ~(uint64_t)0 : ((uint64_t)1 << n_thresholds) - 1;
    for (int t = 0; t < n_thresholds; t++) {
        m.thresholds[t] = fmin(e->params.thresholds[t], 1 - 1e-10);
        m.lowest = fmin(m.lowest, m.thresholds[t]);
    }
    m.workers = mabn_xcalloc((size_t)e->threads, sizeof *m.workers);
    m.image_cells = mabn_xcalloc(e->n_images + 1, sizeof *m.image_cells);
    m.image_n_cells = mabn_xcalloc(e->n_images + 1, sizeof *m.image_n_cells);
    m.image_worker = mabn_xcalloc(e->n_images + 1, sizeof *m.image_worker);
    e->n_detections = n;
    MABN_TRY_GOTO(check_columns(&m), out);
    MABN_TRY_GOTO(mabn_alloc((void **)&e->detections, n * sizeof *e->detections), out);
    if (!mabn_size_mul(n, (size_t)e->params.n_areas * sizeof *e->bits, &bytes))
        MABN_TRY_GOTO(mabn_fail(MABN_ERR_LIMIT, "too many detections"), out);
    MABN_TRY_GOTO(mabn_alloc((void **)&e->bits, bytes), out);
    mabn_expect_use(e->detections, n * sizeof *e->detections);
    mabn_expect_use(e->bits, bytes);
    m.progress = mabn_progress_new("matching", "images", e->n_images);
    status = mabn_parallel(e->threads, (int64_t)e->n_images, 8, match_image, &m);
    mabn_progress_free(m.progress);
    if (!status) gather_cells(&m);
    if (!status && !e->params.quiet) tell_mismatches(&m);
out:
    workers_free(m.workers, e->threads);
    free(m.image_cells);
    free(m.image_n_cells);
    free(m.image_worker);
    return status;
}

/* ---- images with all their overlaps ---- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* List the records of an image: truths in the order of the file, then the best detections. */
static void list_pairs(const struct matching *m, struct worker *w, struct mabn_coco_pairs *p)
{
    const struct mabn_coco_join *join = m->join;
    const size_t i = p->image, first = join->detection_start[i];
    size_t limit = (size_t)m->e->params.max_dets[m->e->params.n_max_dets - 1];
    size_t n = join->detection_start[i + 1] - first;
    p->n_truths = join->truth_start[i + 1] - join->truth_start[i];
    p->n_detections = n < limit ? n : limit;
    ROOM(w->sort, w->room_sort, 2 * n);
    ROOM(w->pair_records, w->room_pair_records, p->n_truths + n);
    ROOM(w->pair_categories, w->room_pair_categories, p->n_truths + n);
    ROOM(w->pair_keys, w->room_pair_keys, p->n_truths);
    for (size_t g = 0; g < p->n_truths; g++) { /* a record may be there twice */
        const struct mabn_coco_join_truth *t = &join->truths[join->truth_start[i] + g];
        w->pair_keys[g] = (uint64_t)t->record << 32 | t->category;
    }
    qsort(w->pair_keys, p->n_truths, sizeof *w->pair_keys, compare_u64);
    for (size_t g = 0; g < p->n_truths; g++) {
        w->pair_records[g] = (uint32_t)(w->pair_keys[g] >> 32);
        w->pair_categories[g] = (uint32_t)w->pair_keys[g];
    }
    for (size_t d = 0; d < n; d++) {
        uint32_t record = join->detections[first + d];
        uint64_t score = mabn_coco_score_key(m->e->results->records[record].score);
        w->sort[d] = (struct mabn_coco_sort_item){0, score, 0, record};
    }
    mabn_coco_sort(w->sort, w->sort + n, n);
    for (size_t d = 0; d < p->n_detections; d++) {
        w->pair_records[p->n_truths + d] = w->sort[d].record;
        w->pair_categories[p->n_truths + d] = join->detection_category[w->sort[d].record];
    }
    p->truths = w->pair_records;
    p->detections = w->pair_records + p->n_truths;
    p->truth_categories = w->pair_categories;
    p->detection_categories = w->pair_categories + p->n_truths;
}

static mabn_status visit_image(void *context, int64_t index, int worker)
{
    struct matching *m = context;
    struct worker *w = &m->workers[worker];
    const struct mabn_coco_image *info = m->join->images[index];
    struct mabn_coco_pairs p = {.image = (uint32_t)index};
    list_pairs(m, w, &p);
    w->n_runs = 0;
    ROOM(w->shapes, w->room_shapes, p.n_truths + p.n_detections);
    ROOM(w->overlaps, w->room_overlaps, p.n_truths * p.n_detections);
    memset(w->shapes, 0, (p.n_truths + p.n_detections) * sizeof *w->shapes);
    for (size_t g = 0; g < p.n_truths; g++) {
        w->shapes[g].record = &m->e->truth->records[p.truths[g]];
        MABN_TRY(take_truth(m, w, &w->shapes[g], info));
    }
    struct shape *detections = w->shapes + p.n_truths;
    for (size_t d = 0; d < p.n_detections; d++) {
        detections[d].record = &m->e->results->records[p.detections[d]];
        MABN_TRY(take_detection(m, w, &detections[d], info));
        for (size_t g = 0; g < p.n_truths; g++)
            w->overlaps[d * p.n_truths + g] = overlap(m, w, &detections[d], &w->shapes[g]);
    }
    p.overlaps = w->overlaps;
    return m->visit(m->context, &p, worker);
}

mabn_status mabn_coco_visit_images(struct mabn_coco_evaluation *e,
                                   const struct mabn_coco_join *join, mabn_coco_visit *visit,
                                   void *context)
{
    struct matching m = {
        .e = e, .join = join, .kind = join->kind, .visit = visit, .context = context};
    MABN_TRY(check_columns(&m));
    m.workers = mabn_xcalloc((size_t)e->threads, sizeof *m.workers);
    mabn_status status = mabn_parallel(e->threads, (int64_t)e->n_images, 8, visit_image, &m);
    workers_free(m.workers, e->threads);
    return status;
}
