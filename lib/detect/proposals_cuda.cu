/* See proposals_cuda.h. A task is a level of an image, as in proposals.c; all tasks have rows for as
 * many boxes, `slot`, so that one launch does all of them. */
#include "detect/proposals_cuda.h"

#include "detect/detect_cuda.h"
#include "detect/lists.cuh"

namespace
{

/* Of all tasks, one behind another: (tasks·slot) and (tasks). */
struct rows {
    int64_t slot;
    int32_t *order, *keep;        /* of a level's scores; of its boxes */
    float *box, *score;           /* looked at */
    float *kept_box, *kept_score; /* what suppression left */
    int32_t *count, *kept;
    float *by; /* how far a task's boxes are moved before suppression */
    uint64_t *keys, *mask;
    int32_t *best; /* rows of an image, best first */
    struct mabn_list_search *search;
};

/* What the kernels are told. */
struct rule {
    int levels;
    const float *score[MABN_ANCHOR_LEVELS], *delta[MABN_ANCHOR_LEVELS];
    const float *anchor[MABN_ANCHOR_LEVELS];
    int64_t anchors[MABN_ANCHOR_LEVELS];
    const int *width, *height;
    float one, min_size;
    bool probability; /* what is kept of a score */
    bool finite_only, min_is_dropped;
    int32_t shift_limit;
};

/* ---- the best of a level, decoded ---- */

__device__ bool large_enough(const float *box, const struct rule &r)
{
    const float w = side(box[0], box[2], r.one), h = side(box[1], box[3], r.one);
    return r.min_is_dropped ? w > r.min_size && h > r.min_size : w >= r.min_size && h >= r.min_size;
}

/* Row i of a task from its place in the maps; false: dropped. */
__device__ bool look_at(float *box, float *score, const struct rows &to, const struct rule &r,
                        int64_t task, int32_t i)
{
    const struct mabn_box_weights ones = {1, 1, 1, 1};
    const int level = (int)(task % r.levels);
    const int64_t image = task / r.levels, at = to.order[task * to.slot + i];
    const int64_t place = image * r.anchors[level] + at;
    const float logit = r.score[level][place];
    *score = r.probability ? mabn_probability_of(logit) : logit;
    decode_box(box, r.anchor[level] + 4 * at, r.delta[level] + 4 * place, ones, r.one);
    if (r.finite_only && !isfinite(box[0] + box[1] + box[2] + box[3] + *score)) return false;
    clip_box(box, (float)r.width[image] - r.one, (float)r.height[image] - r.one);
    return large_enough(box, r);
}

/* A block a task. */
__global__ void __launch_bounds__(THREADS) look_kernel(struct rows to, struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t task = blockIdx.x;
    const int32_t best = to.search[task].wanted;
    int32_t count = 0, more;
    for (int32_t first = 0; first < best; first += THREADS) {
        const int32_t i = first + (int32_t)threadIdx.x;
        float box[4], score = 0;
        const bool stays = i < best && look_at(box, &score, to, r, task, i);
        const int64_t row = task * to.slot + count + place_among(stays, part, &more);
        count += more;
        if (!stays) continue;
        for (int k = 0; k < 4; k++)
            to.box[4 * row + k] = box[k];
        to.score[row] = score;
    }
    if (threadIdx.x == 0) to.count[task] = count;
}

/* ---- suppression ---- */

/* A block an image: its largest coordinate, by which levels are kept apart where that is the rule. */
__global__ void __launch_bounds__(THREADS) shift_kernel(struct rows to, struct rule r)
{
    MABN_SHARED(float, part, THREADS);
    const int self = (int)threadIdx.x;
    const int64_t first = (int64_t)blockIdx.x * r.levels;
    int64_t boxes;
    const float largest =
        largest_coordinate(to.box, to.count, to.slot, first, r.levels, part, &boxes);
    if (self < r.levels)
        to.by[first + self] =
            boxes <= r.shift_limit ? __fmul_rn((float)self, __fadd_rn(largest, 1)) : 0;
}

__global__ void compact_kernel(struct rows to)
{
    const int64_t task = blockIdx.y, i = item(), row = task * to.slot + i;
    if (i >= to.kept[task]) return;
    const int64_t from = task * to.slot + to.keep[row];
    for (int k = 0; k < 4; k++)
        to.kept_box[4 * row + k] = to.box[4 * from + k];
    to.kept_score[row] = to.score[from];
}

/* ---- the best of an image or batch ---- */

__device__ void put(const struct mabn_cuda_proposals &out, int64_t image, int64_t place,
                    const struct rows &to, int64_t row)
{
    const int64_t at = image * out.room + place;
    if (place >= out.room) return;
    for (int k = 0; k < 4; k++)
        out.box[4 * at + k] = to.kept_box[4 * row + k];
    out.score[at] = to.kept_score[row];
}

__global__ void best_kernel(struct mabn_cuda_proposals out, struct rows to, int levels,
                            int64_t most)
{
    const int64_t image = blockIdx.y, i = item();
    const int32_t wanted = to.search[image].wanted;
    if (i < wanted) put(out, image, i, to, image * levels * to.slot + to.best[image * most + i]);
    if (i == 0) out.count[image] = (int32_t)(wanted < out.room ? wanted : out.room);
}

/* A block an image: what is among the batch's best stays in its order. */
__global__ void __launch_bounds__(THREADS)
    chosen_kernel(struct mabn_cuda_proposals out, struct rows to, struct mabn_score_lists batch,
                  int levels)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t image = blockIdx.x, rows = levels * to.slot;
    const bool any = to.search->wanted > 0;
    int32_t count = 0, more;
    for (int64_t first = 0; first < rows; first += THREADS) {
        const int64_t i = first + threadIdx.x, row = image * rows + i;
        uint64_t key = 0;
        const bool stays =
            any && i < rows && mabn_key_in(&key, batch, 0, row) && key <= to.search->prefix;
        const int32_t place = count + place_among(stays, part, &more);
        count += more;
        if (stays) put(out, image, place, to, row);
    }
    if (threadIdx.x == 0) out.count[image] = (int32_t)(count < out.room ? count : out.room);
}

/* ---- memory ---- */

int64_t looked_at(const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *o,
                  int level)
{
    return maps->anchors[level] < o->before ? maps->anchors[level] : o->before;
}

int64_t slot_of(const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *o)
{
    int64_t slot = 1;
    for (int l = 0; l < maps->levels; l++)
        if (looked_at(maps, o, l) > slot) slot = looked_at(maps, o, l);
    return slot;
}

/* The next piece of the scratch, of `bytes`; with base NULL only counted. */
void *take(char *base, size_t *at, size_t bytes)
{
    void *piece = base ? base + *at : NULL;
    *at += (bytes + 255) & ~(size_t)255;
    return piece;
}

size_t lay_out(struct rows *r, char *base, const struct mabn_rpn_maps *maps,
               const struct mabn_proposal_options *o)
{
    const size_t tasks = (size_t)(maps->images * maps->levels), slot = (size_t)slot_of(maps, o);
    const size_t n = tasks * slot, best = (size_t)(maps->images * o->total);
    size_t at = 0;
    r->slot = (int64_t)slot;
    r->order = (int32_t *)take(base, &at, n * sizeof *r->order);
    r->keep = (int32_t *)take(base, &at, n * sizeof *r->keep);
    r->box = (float *)take(base, &at, 4 * n * sizeof *r->box);
    r->score = (float *)take(base, &at, n * sizeof *r->score);
    r->kept_box = (float *)take(base, &at, 4 * n * sizeof *r->kept_box);
    r->kept_score = (float *)take(base, &at, n * sizeof *r->kept_score);
    r->count = (int32_t *)take(base, &at, tasks * sizeof *r->count);
    r->kept = (int32_t *)take(base, &at, tasks * sizeof *r->kept);
    r->by = (float *)take(base, &at, tasks * sizeof *r->by);
    r->keys = (uint64_t *)take(base, &at, (n > best ? n : best) * sizeof *r->keys);
    r->mask = (uint64_t *)take(base, &at, tasks * mabn_cuda_nms_bytes((int64_t)slot));
    r->best = (int32_t *)take(base, &at, best * sizeof *r->best);
    r->search = (struct mabn_list_search *)take(base, &at, tasks * sizeof *r->search);
    return at;
}

struct rule rule_of(const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *o,
                    const struct mabn_box_convention *c)
{
    struct rule r = {};
    r.levels = maps->levels;
    for (int l = 0; l < maps->levels; l++) {
        r.score[l] = maps->score[l];
        r.delta[l] = maps->delta[l];
        r.anchors[l] = maps->anchors[l];
        r.anchor[l] = l ? r.anchor[l - 1] + 4 * r.anchors[l - 1] : maps->anchor;
    }
    r.width = maps->width;
    r.height = maps->height;
    r.one = c->one;
    r.min_size = (float)o->min_size;
    r.probability = c->rank != MABN_RANK_LOGIT;
    r.finite_only = c->finite_only;
    r.min_is_dropped = c->min_is_dropped;
    r.shift_limit = c->nms_shift_limit;
    return r;
}

/* ---- stages ---- */

mabn_status look_at_levels(const struct rows *to, const struct mabn_rpn_maps *maps,
                           const struct rule *r, const struct mabn_proposal_options *o,
                           const struct mabn_box_convention *c, cudaStream_t stream)
{
    struct mabn_score_lists l = {};
    l.lists = maps->images * maps->levels;
    l.kinds = maps->levels;
    l.sigmoid = c->rank == MABN_RANK_SIGMOID;
    for (int k = 0; k < maps->levels; k++) {
        l.score[k] = maps->score[k];
        l.n[k] = maps->anchors[k];
        l.k[k] = looked_at(maps, o, k);
    }
    MABN_TRY(mabn_cuda_lists_search(to->search, &l, stream));
    MABN_TRY(mabn_cuda_lists_sort(to->order, to->keys, to->slot, to->search, &l, stream));
    return MABN_LAUNCH(look_kernel, (unsigned)l.lists, THREADS, 0, stream, *to, *r);
}

mabn_status suppress_levels(const struct rows *to, const struct mabn_rpn_maps *maps,
                            const struct rule *r, const struct mabn_proposal_options *o,
                            const struct mabn_box_convention *c, cudaStream_t stream)
{
    const int64_t tasks = maps->images * maps->levels;
    struct mabn_box_lists l = {};
    l.lists = tasks;
    l.room = to->slot;
    l.box = to->box;
    l.count = to->count;
    l.one = c->one;
    if (c->nms_shift_limit > 0) {
        MABN_TRY(MABN_LAUNCH(shift_kernel, (unsigned)maps->images, THREADS, 0, stream, *to, *r));
        l.by = to->by;
    }
    MABN_TRY(mabn_cuda_lists_suppress(to->keep, to->kept, to->mask, &l,
                                      o->level > 0 ? o->level : to->slot,
                                      mabn_box_threshold(c, o->threshold), stream));
    return MABN_LAUNCH(compact_kernel, dim3(blocks(to->slot), (unsigned)tasks), THREADS, 0, stream,
                       *to);
}

mabn_status cap(const struct mabn_cuda_proposals *out, const struct rows *to,
                const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *o,
                cudaStream_t stream)
{
    struct mabn_score_lists l = {};
    l.kinds = 1;
    l.lists = o->whole_batch ? 1 : maps->images;
    l.score[0] = to->kept_score;
    l.n[0] = (o->whole_batch ? maps->images : 1) * maps->levels * to->slot;
    l.k[0] = o->total;
    l.live = to->kept;
    l.slot = to->slot;
    MABN_TRY(mabn_cuda_lists_search(to->search, &l, stream));
    if (o->whole_batch)
        return MABN_LAUNCH(chosen_kernel, (unsigned)maps->images, THREADS, 0, stream, *out, *to, l,
                           maps->levels);
    MABN_TRY(mabn_cuda_lists_sort(to->best, to->keys, o->total, to->search, &l, stream));
    return MABN_LAUNCH(best_kernel, dim3(blocks(o->total), (unsigned)maps->images), THREADS, 0,
                       stream, *out, *to, maps->levels, o->total);
}

} // namespace

bool mabn_cuda_proposals_fit(const struct mabn_rpn_maps *maps,
                             const struct mabn_proposal_options *o)
{
    return o->total > 0 && slot_of(maps, o) <= MABN_CUDA_ORDER_MOST &&
           (o->whole_batch || o->total <= MABN_CUDA_ORDER_MOST);
}

size_t mabn_cuda_proposals_bytes(const struct mabn_rpn_maps *maps,
                                 const struct mabn_proposal_options *options)
{
    struct rows r;
    return lay_out(&r, NULL, maps, options);
}

mabn_status mabn_cuda_proposals_make(struct mabn_cuda_proposals *out,
                                     const struct mabn_rpn_maps *maps,
                                     const struct mabn_proposal_options *options,
                                     const struct mabn_box_convention *c, void *scratch,
                                     void *stream)
{
    const struct rule r = rule_of(maps, options, c);
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    struct rows rows;
    lay_out(&rows, static_cast<char *>(scratch), maps, options);
    MABN_TRY(look_at_levels(&rows, maps, &r, options, c, to));
    MABN_TRY(suppress_levels(&rows, maps, &r, options, c, to));
    return cap(out, &rows, maps, options, to);
}
