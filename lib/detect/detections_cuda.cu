/* See detections_cuda.h. A list is a class of an image, as on the CPU. All lists have the same number of
 * rows, `slot`, so that one launch does all of them.
 *
 * Each image has one array of scores in the convention's order: by class, then proposal, or by proposal,
 * then class. Suppression leaves the scores of what stays there, and NaN elsewhere. The best are chosen from
 * it. */
#include "detect/detections_cuda.h"

#include "detect/detect_cuda.h"
#include "detect/lists.cuh"

namespace
{

/* Of all lists, one behind another: (lists·slot) and (lists). */
struct work {
    int64_t slot;
    float *probability; /* (rows,classes+1) */
    float *box, *score; /* candidates, in the order of proposals */
    int32_t *source;    /* an image's proposals, from 0 */
    int32_t *order;     /* of a list's scores */
    float *sorted;      /* boxes, best first */
    int32_t *keep;      /* places in `sorted` */
    int32_t *count, *kept;
    float *by; /* how far a list's boxes are moved before suppression */
    uint64_t *keys, *mask;
    float *spread;     /* (images,classes·slot) */
    int32_t *from;     /* (images,classes·slot) a candidate, counted through all lists */
    int32_t *best;     /* (images,most) places in `spread`, best first */
    int32_t *reported; /* (lists) */
    struct mabn_list_search *search;
};

/* What the kernels are told. */
struct rule {
    int32_t classes;
    int64_t logits, deltas; /* of a row */
    bool one_box, background_last, finite_only, class_order;
    float least, one, min_size;
    struct mabn_box_weights weights;
    int32_t shift_limit;
    struct level_rule levels;
};

/* ---- the box head's rows ---- */

__device__ void empty_row(float *box, int32_t *image, int32_t *level, int64_t i)
{
    for (int k = 0; k < 4; k++)
        box[4 * i + k] = 0;
    image[i] = level[i] = 0;
}

/* A block an image; the last one clears what is behind. */
__global__ void __launch_bounds__(THREADS)
    rows_kernel(struct mabn_cuda_box_rows rows, struct mabn_cuda_proposals p, struct level_rule l)
{
    const int64_t image = blockIdx.x, n = p.count[image];
    int64_t begin = 0;
    for (int64_t k = 0; k < image; k++)
        begin += p.count[k];
    for (int64_t i = threadIdx.x; i < n && begin + i < rows.room; i += THREADS) {
        const float *box = p.box + 4 * (image * p.room + i);
        for (int k = 0; k < 4; k++)
            rows.box[4 * (begin + i) + k] = box[k];
        rows.image[begin + i] = (int32_t)image;
        rows.level[begin + i] = level_of(box, l);
    }
    const int64_t end = begin + n < rows.room ? begin + n : rows.room;
    if (threadIdx.x == 0) rows.first[image] = (int32_t)(begin < end ? begin : end);
    if (image + 1 < gridDim.x) return;
    if (threadIdx.x == 0) rows.first[image + 1] = (int32_t)end;
    for (int64_t i = end + threadIdx.x; i < rows.room; i += THREADS)
        empty_row(rows.box, rows.image, rows.level, i);
}

/* ---- candidates ---- */

/* As mabn_class_label, of an object. */
__device__ __forceinline__ int32_t class_of(int32_t label, const struct rule &r)
{
    return r.background_last ? label - 1 : label;
}

__device__ __forceinline__ const float *delta_of(const struct mabn_cuda_box_scores &s,
                                                 const struct rule &r, int64_t row, int32_t label)
{
    return s.delta + row * r.deltas + 4 * (r.one_box ? 0 : class_of(label, r));
}

__device__ bool row_is_finite(const float *probability, const struct mabn_cuda_box_scores &s,
                              const struct rule &r, int64_t row)
{
    bool finite = true;
    for (int32_t label = 1; label <= r.classes; label++)
        finite = finite && isfinite(probability[class_of(label, r)]);
    for (int32_t label = 1; label <= (r.one_box ? 1 : r.classes) && finite; label++) {
        float box[4];
        decode_box(box, s.rows.box + 4 * row, delta_of(s, r, row, label), r.weights, r.one);
        for (int k = 0; k < 4; k++)
            finite = finite && isfinite(box[k]);
    }
    return finite;
}

/* A thread a row: the softmax, added up in the CPU's order. A row that is to be dropped gets −∞. */
__global__ void __launch_bounds__(THREADS)
    score_kernel(struct work w, struct mabn_cuda_box_scores s, struct rule r)
{
    const int64_t row = item();
    if (row >= s.rows.first[s.images]) return;
    const float *logit = s.logit + row * r.logits;
    float *p = w.probability + row * r.logits;
    float most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < r.logits; i++)
        most = logit[i] > most ? logit[i] : most;
    for (int64_t i = 0; i < r.logits; i++) {
        p[i] = expf(__fadd_rn(logit[i], -most));
        sum = __fadd_rn(sum, p[i]);
    }
    for (int64_t i = 0; i < r.logits; i++)
        p[i] = p[i] / sum;
    if (!r.finite_only || row_is_finite(p, s, r, row)) return;
    for (int64_t i = 0; i < r.logits; i++)
        p[i] = -INFINITY;
}

__device__ bool is_candidate(float *box, float *score, const struct work &w,
                             const struct mabn_cuda_box_scores &s, const struct rule &r,
                             int64_t row, int64_t image, int32_t label)
{
    *score = w.probability[row * r.logits + class_of(label, r)];
    if (!(*score > r.least)) return false;
    decode_box(box, s.rows.box + 4 * row, delta_of(s, r, row, label), r.weights, r.one);
    clip_box(box, (float)s.width[image] - r.one, (float)s.height[image] - r.one);
    return !(r.min_size > 0) ||
           (side(box[0], box[2], r.one) >= r.min_size && side(box[1], box[3], r.one) >= r.min_size);
}

/* A block a list. */
__global__ void __launch_bounds__(THREADS)
    gather_kernel(struct work w, struct mabn_cuda_box_scores s, struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t list = blockIdx.x, image = list / r.classes;
    const int32_t label = (int32_t)(list % r.classes) + 1;
    const int64_t begin = s.rows.first[image], rows = s.rows.first[image + 1] - begin;
    const int64_t n = rows < w.slot ? rows : w.slot;
    int32_t count = 0, more;
    for (int64_t first = 0; first < n; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        float box[4], score = 0;
        const bool stays = i < n && is_candidate(box, &score, w, s, r, begin + i, image, label);
        const int64_t to = list * w.slot + count + place_among(stays, part, &more);
        count += more;
        if (!stays) continue;
        for (int k = 0; k < 4; k++)
            w.box[4 * to + k] = box[k];
        w.score[to] = score;
        w.source[to] = (int32_t)i;
    }
    if (threadIdx.x == 0) w.count[list] = count;
}

/* ---- suppression ---- */

/* A block an image: its largest coordinate, by which classes are kept apart where that is the rule. */
__global__ void __launch_bounds__(THREADS) shift_kernel(struct work w, struct rule r)
{
    MABN_SHARED(float, part, THREADS);
    const int self = (int)threadIdx.x;
    const int64_t first = (int64_t)blockIdx.x * r.classes;
    int64_t boxes;
    const float largest =
        largest_coordinate(w.box, w.count, w.slot, first, r.classes, part, &boxes);
    const float step = __fadd_rn(largest, 1);
    for (int32_t k = self; k < r.classes; k += THREADS)
        w.by[first + k] = boxes <= r.shift_limit ? __fmul_rn((float)class_of(k + 1, r), step) : 0;
}

__global__ void sorted_kernel(struct work w)
{
    const int64_t list = blockIdx.y, i = item(), row = list * w.slot + i;
    if (i >= w.count[list]) return;
    const int64_t from = list * w.slot + w.order[row];
    for (int k = 0; k < 4; k++)
        w.sorted[4 * row + k] = w.box[4 * from + k];
}

/* ---- the best ---- */

/* The scores of the boxes that stay, into their image's array. */
__global__ void spread_kernel(struct work w, struct rule r)
{
    const int64_t list = blockIdx.y, i = item(), row = list * w.slot;
    if (i >= w.kept[list]) return;
    const int64_t image = list / r.classes, c = list % r.classes;
    const int64_t from = row + w.order[row + w.keep[row + i]], source = w.source[from];
    const int64_t place = r.class_order ? c * w.slot + source : source * r.classes + c;
    const int64_t to = image * r.classes * w.slot + place;
    w.spread[to] = w.score[from];
    w.from[to] = (int32_t)from;
}

__device__ void report(const struct mabn_cuda_detections &out, int64_t image, int64_t place,
                       const struct work &w, const struct rule &r, int64_t from)
{
    const int64_t at = image * out.room + place;
    if (place >= out.room) return;
    for (int k = 0; k < 4; k++)
        out.box[4 * at + k] = w.box[4 * from + k];
    out.score[at] = w.score[from];
    out.label[at] = (int32_t)(from / w.slot % r.classes) + 1;
    out.source[at] = w.source[from];
    out.image[at] = (int32_t)image;
    out.level[at] = level_of(w.box + 4 * from, r.levels);
}

__device__ void tell_count(const struct mabn_cuda_detections &out, int64_t image, int64_t count)
{
    out.count[image] = (int32_t)count;
    out.live[image] = (int32_t)(count < out.room ? count : out.room);
}

/* In class order: is the score at this place at least that of the last detection requested? */
__device__ bool is_reported(const struct work &w, const struct rule &r, int64_t image,
                            int64_t place)
{
    const float score = w.spread[image * r.classes * w.slot + place];
    return score == score && key_of(score, place) >> 32 <= w.search[image].prefix >> 32;
}

/* A block a list: how many of it are reported. */
__global__ void __launch_bounds__(THREADS) count_kernel(struct work w, struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t list = blockIdx.x, image = list / r.classes, begin = list % r.classes * w.slot;
    int32_t count = 0, more;
    for (int64_t first = 0; first < w.slot; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        (void)place_among(i < w.slot && is_reported(w, r, image, begin + i), part, &more);
        count += more;
    }
    if (threadIdx.x == 0) w.reported[list] = count;
}

/* A block a list: its reported detections, behind those of the image's lists before. */
__global__ void __launch_bounds__(THREADS)
    by_class_kernel(struct mabn_cuda_detections out, struct work w, struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t list = blockIdx.x, image = list / r.classes, begin = list % r.classes * w.slot;
    int32_t count = 0, more;
    for (int64_t k = image * r.classes; k < list; k++)
        count += w.reported[k];
    for (int64_t first = 0; first < w.slot; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const bool mine = i < w.slot && is_reported(w, r, image, begin + i);
        const int64_t place = count + place_among(mine, part, &more);
        count += more;
        if (mine) report(out, image, place, w, r, w.from[image * r.classes * w.slot + begin + i]);
    }
    if (threadIdx.x == 0 && list % r.classes == r.classes - 1) tell_count(out, image, count);
}

/* Best first: NaN comes last, so that what stays is in front. */
__global__ void best_first_kernel(struct mabn_cuda_detections out, struct work w, struct rule r,
                                  int64_t most)
{
    const int64_t image = blockIdx.y, i = item();
    int64_t n = 0;
    for (int64_t k = image * r.classes; k < (image + 1) * r.classes; k++)
        n += w.kept[k];
    if (n > most) n = most;
    if (i < n)
        report(out, image, i, w, r, w.from[image * r.classes * w.slot + w.best[image * most + i]]);
    if (i == 0) tell_count(out, image, n);
}

/* Rows behind the last of an image. */
__global__ void rest_kernel(struct mabn_cuda_detections out)
{
    const int64_t image = blockIdx.y, i = item(), at = image * out.room + i;
    if (i >= out.room || i < out.live[image]) return;
    empty_row(out.box, out.image, out.level, at);
    out.score[at] = 0;
    out.label[at] = -1;
    out.source[at] = 0;
}

/* ---- memory ---- */

void *take(char *base, size_t *at, size_t bytes)
{
    void *piece = base ? base + *at : NULL;
    *at += (bytes + 255) & ~(size_t)255;
    return piece;
}

int64_t wanted_of(const struct mabn_cuda_box_scores *s, const struct mabn_detection_options *o)
{
    const int64_t all = s->most * o->classes;
    return o->most > 0 && o->most < all ? o->most : all;
}

size_t lay_out(struct work *w, char *base, const struct mabn_cuda_box_scores *s,
               const struct mabn_detection_options *o)
{
    const size_t lists = (size_t)(s->images * o->classes), slot = (size_t)s->most;
    const size_t n = lists * slot, wanted = (size_t)(s->images * wanted_of(s, o));
    size_t at = 0;
    w->slot = s->most;
    w->probability = (float *)take(
        base, &at, (size_t)s->rows.room * ((size_t)o->classes + 1) * sizeof *w->probability);
    w->box = (float *)take(base, &at, 4 * n * sizeof *w->box);
    w->score = (float *)take(base, &at, n * sizeof *w->score);
    w->source = (int32_t *)take(base, &at, n * sizeof *w->source);
    w->order = (int32_t *)take(base, &at, n * sizeof *w->order);
    w->sorted = (float *)take(base, &at, 4 * n * sizeof *w->sorted);
    w->keep = (int32_t *)take(base, &at, n * sizeof *w->keep);
    w->count = (int32_t *)take(base, &at, lists * sizeof *w->count);
    w->kept = (int32_t *)take(base, &at, lists * sizeof *w->kept);
    w->by = (float *)take(base, &at, lists * sizeof *w->by);
    w->keys = (uint64_t *)take(base, &at, (n > wanted ? n : wanted) * sizeof *w->keys);
    w->mask = (uint64_t *)take(base, &at, lists * mabn_cuda_nms_bytes(s->most));
    w->spread = (float *)take(base, &at, n * sizeof *w->spread);
    w->from = (int32_t *)take(base, &at, n * sizeof *w->from);
    w->best = (int32_t *)take(base, &at, wanted * sizeof *w->best);
    w->reported = (int32_t *)take(base, &at, lists * sizeof *w->reported);
    w->search = (struct mabn_list_search *)take(base, &at, lists * sizeof *w->search);
    return at;
}

struct rule rule_of(const struct mabn_detection_options *o, const struct mabn_box_convention *c)
{
    struct rule r = {};
    r.classes = o->classes;
    r.logits = (int64_t)o->classes + 1;
    r.deltas = o->one_box ? 4 : 4 * (r.logits - c->background_last);
    r.one_box = o->one_box;
    r.background_last = c->background_last;
    r.finite_only = c->finite_only;
    r.class_order = c->class_order;
    r.least = (float)o->min_score;
    r.one = c->one;
    r.min_size = (float)c->min_detection;
    r.weights = o->weights;
    r.shift_limit = c->nms_shift_limit;
    r.levels = level_rule_of(c);
    return r;
}

/* ---- stages ---- */

mabn_status find_candidates(const struct work *w, const struct mabn_cuda_box_scores *s,
                            const struct rule *r, cudaStream_t stream)
{
    MABN_TRY(MABN_LAUNCH(score_kernel, blocks(s->rows.room), THREADS, 0, stream, *w, *s, *r));
    return MABN_LAUNCH(gather_kernel, (unsigned)(s->images * r->classes), THREADS, 0, stream, *w,
                       *s, *r);
}

mabn_status suppress_classes(const struct work *w, int64_t images, const struct rule *r,
                             float threshold, cudaStream_t stream)
{
    const int64_t lists = images * r->classes;
    const dim3 grid(blocks(w->slot), (unsigned)lists);
    struct mabn_score_lists scores = {};
    struct mabn_box_lists boxes = {};
    scores.lists = lists;
    scores.kinds = 1;
    scores.score[0] = w->score;
    scores.n[0] = scores.k[0] = scores.slot = w->slot;
    scores.live = w->count;
    MABN_TRY(mabn_cuda_lists_all(w->search, &scores, stream));
    MABN_TRY(mabn_cuda_lists_sort(w->order, w->keys, w->slot, w->search, &scores, stream));
    MABN_TRY(MABN_LAUNCH(sorted_kernel, grid, THREADS, 0, stream, *w));
    boxes.lists = lists;
    boxes.room = w->slot;
    boxes.box = w->sorted;
    boxes.count = w->count;
    boxes.one = r->one;
    if (r->shift_limit > 0) {
        MABN_TRY(MABN_LAUNCH(shift_kernel, (unsigned)images, THREADS, 0, stream, *w, *r));
        boxes.by = w->by;
    }
    return mabn_cuda_lists_suppress(w->keep, w->kept, w->mask, &boxes, w->slot, threshold, stream);
}

mabn_status choose_best(const struct mabn_cuda_detections *out, const struct work *w,
                        const struct mabn_cuda_box_scores *s, const struct rule *r, int64_t wanted,
                        cudaStream_t stream)
{
    const int64_t lists = s->images * r->classes, all = r->classes * w->slot;
    struct mabn_score_lists l = {};
    l.lists = s->images;
    l.kinds = 1;
    l.score[0] = w->spread;
    l.n[0] = all;
    l.k[0] = wanted;
    MABN_CUDA_TRY(cudaMemsetAsync(w->spread, 0xff, (size_t)(s->images * all) * sizeof *w->spread,
                                  stream)); /* NaN */
    MABN_TRY(MABN_LAUNCH(spread_kernel, dim3(blocks(w->slot), (unsigned)lists), THREADS, 0, stream,
                         *w, *r));
    MABN_TRY(mabn_cuda_lists_search(w->search, &l, stream));
    if (r->class_order) {
        MABN_TRY(MABN_LAUNCH(count_kernel, (unsigned)lists, THREADS, 0, stream, *w, *r));
        return MABN_LAUNCH(by_class_kernel, (unsigned)lists, THREADS, 0, stream, *out, *w, *r);
    }
    MABN_TRY(mabn_cuda_lists_sort(w->best, w->keys, wanted, w->search, &l, stream));
    return MABN_LAUNCH(best_first_kernel, dim3(blocks(wanted), (unsigned)s->images), THREADS, 0,
                       stream, *out, *w, *r, wanted);
}

} // namespace

mabn_status mabn_cuda_box_rows_fill(const struct mabn_cuda_box_rows *rows,
                                    const struct mabn_cuda_proposals *proposals, int64_t images,
                                    const struct mabn_box_convention *c, void *stream)
{
    return MABN_LAUNCH(rows_kernel, (unsigned)images, THREADS, 0, static_cast<cudaStream_t>(stream),
                       *rows, *proposals, level_rule_of(c));
}

bool mabn_cuda_detections_fit(int64_t images, int64_t most, const struct mabn_detection_options *o,
                              const struct mabn_box_convention *c)
{
    const int64_t most_lists = 65535; /* blocks in y and z */
    const int64_t lists = images * o->classes, most_mask = (int64_t)1 << 30;
    if (o->across || most < 1 || most > MABN_CUDA_ORDER_MOST || lists > most_lists) return false;
    if (lists * (int64_t)mabn_cuda_nms_bytes(most) > most_mask) return false;
    return c->class_order || (o->most > 0 && o->most <= MABN_CUDA_ORDER_MOST);
}

size_t mabn_cuda_detections_bytes(const struct mabn_cuda_box_scores *scores,
                                  const struct mabn_detection_options *options)
{
    struct work w;
    return lay_out(&w, NULL, scores, options);
}

mabn_status mabn_cuda_detections_make(const struct mabn_cuda_detections *out,
                                      const struct mabn_cuda_box_scores *scores,
                                      const struct mabn_detection_options *options,
                                      const struct mabn_box_convention *c, void *scratch,
                                      void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    const struct rule r = rule_of(options, c);
    struct work w;
    lay_out(&w, static_cast<char *>(scratch), scores, options);
    MABN_TRY(find_candidates(&w, scores, &r, to));
    MABN_TRY(
        suppress_classes(&w, scores->images, &r, mabn_box_threshold(c, options->threshold), to));
    MABN_TRY(choose_best(out, &w, scores, &r, wanted_of(scores, options), to));
    return MABN_LAUNCH(rest_kernel, dim3(blocks(out->room), (unsigned)scores->images), THREADS, 0,
                       to, *out);
}
