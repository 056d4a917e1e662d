/* See box_targets_cuda.h. A block an image matches, lists candidates in order and draws among them, as
 * the CPU does; then a block an image writes its rows behind those of the images before. */
#include "detect/box_targets_cuda.h"

#include "base/philox.h"
#include "detect/kernels.cuh"

namespace
{

/* Of all images, one behind another: (images,room); found and the like (images). */
struct work {
    int64_t room;
    int32_t *label, *match, *candidate;
    int32_t *sampled, *positives;
    uint8_t *chosen;
};

struct rule {
    struct mabn_matcher matcher;
    int64_t batch, most; /* of an image: sampled, positives */
    bool spread;
    struct mabn_box_weights weights;
    int32_t classes;
    bool background_last;
    float one;
    struct level_rule levels;
};

/* ---- matching and sampling ---- */

/* The objects behind an image's proposals, as mabn_proposals_add. */
__device__ int64_t join_objects(const struct mabn_cuda_proposals &p,
                                const struct mabn_cuda_objects &o, int64_t image)
{
    const int64_t first = o.first[image], objects = o.first[image + 1] - first;
    const int64_t before = p.count[image],
                  n = before + objects < p.room ? before + objects : p.room;
    for (int64_t i = before + threadIdx.x; i < n; i += THREADS) {
        const int64_t to = image * p.room + i;
        for (int k = 0; k < 4; k++)
            p.box[4 * to + k] = o.box[4 * (first + i - before) + k];
        p.score[to] = 1;
    }
    __syncthreads();
    return n;
}

/* As match.c without rescue, and mabn_box_label. */
__device__ int32_t label_of(int32_t *match, const float *box, const struct mabn_cuda_objects &o,
                            int64_t image, const struct rule &r)
{
    const struct corners mine = corners_of(box, r.one);
    float best = -1;
    int64_t which = 0;
    for (int64_t g = o.first[image]; g < o.first[image + 1]; g++) {
        const float v = overlap(corners_of(o.box + 4 * g, r.one), mine, r.one);
        if (!(v > best)) continue;
        best = v;
        which = g;
    }
    *match = (int32_t)which;
    if (best < r.matcher.low) return 0;
    return best < r.matcher.high ? -1 : o.label[which];
}

/* The places of one kind, in order, from `to` on; how many there are. */
template <typename Part>
__device__ int32_t list_kind(int32_t *to, const int32_t *label, int64_t n, bool positive,
                             Part &part)
{
    int32_t count = 0, more;
    for (int64_t first = 0; first < n; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const bool mine = i < n && (positive ? label[i] >= 1 : label[i] == 0);
        const int32_t place = count + place_among(mine, part, &more);
        if (mine) to[place] = (int32_t)i;
        count += more;
    }
    return count;
}

/* A block an image. */
__global__ void __launch_bounds__(THREADS)
    sample_kernel(struct work w, struct mabn_cuda_proposals p, struct mabn_cuda_objects o,
                  struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t image = blockIdx.x, row = image * w.room;
    const int64_t n = join_objects(p, o, image);
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        w.label[row + i] = label_of(&w.match[row + i], p.box + 4 * (row + i), o, image, r);
        w.chosen[row + i] = 0;
    }
    __syncthreads();
    const int32_t found = list_kind(w.candidate + row, w.label + row, n, true, part);
    const int32_t others = list_kind(w.candidate + row + found, w.label + row, n, false, part);
    __syncthreads();
    if (threadIdx.x) return;
    struct mabn_rng rng = o.rng[image];
    const int64_t positives = found < r.most ? found : r.most;
    const int64_t negatives = others < r.batch - positives ? others : r.batch - positives;
    choose(w.chosen + row, w.candidate + row, found, positives, r.spread, &rng);
    choose(w.chosen + row, w.candidate + row + found, others, negatives, r.spread, &rng);
    w.positives[image] = (int32_t)positives;
    w.sampled[image] = (int32_t)(positives + negatives);
    p.count[image] = (int32_t)n;
}

/* ---- rows ---- */

/* As mabn_class_label. */
__device__ int32_t class_of(int32_t label, const struct rule &r)
{
    return !r.background_last ? label : label == 0 ? r.classes : label - 1;
}

__device__ void write_row(const struct mabn_cuda_box_targets &out, int64_t to, int64_t mask,
                          const float *box, int32_t image, int32_t label, int32_t object,
                          const struct mabn_cuda_objects &o, const struct rule &r)
{
    const int32_t level = level_of(box, r.levels), own = class_of(label, r);
    float delta[4] = {0, 0, 0, 0};
    if (label >= 1) encode_box(delta, box, o.box + 4 * (int64_t)object, r.weights, r.one);
    for (int k = 0; k < 4; k++) {
        out.box[4 * to + k] = box[k];
        out.delta[4 * to + k] = delta[k];
    }
    out.image[to] = image;
    out.level[to] = level;
    out.label[to] = own;
    out.weight[to] = label >= 1;
    if (label < 1 || mask >= out.mask_room) return;
    for (int k = 0; k < 4; k++)
        out.mask_box[4 * mask + k] = box[k];
    out.mask_image[mask] = image;
    out.mask_level[mask] = level;
    out.mask_label[mask] = own;
    out.mask_object[mask] = object;
}

/* A block an image: what was chosen, in ascending order. */
__global__ void __launch_bounds__(THREADS)
    write_kernel(struct mabn_cuda_box_targets out, struct work w, struct mabn_cuda_proposals p,
                 struct mabn_cuda_objects o, struct rule r)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t image = blockIdx.x, row = image * w.room, n = p.count[image];
    int32_t to = 0, mask = 0, more, more_masks;
    for (int64_t k = 0; k < image; k++) {
        to += w.sampled[k];
        mask += w.positives[k];
    }
    for (int64_t first = 0; first < n; first += THREADS) {
        const int64_t i = row + first + threadIdx.x;
        const bool mine = first + threadIdx.x < n && w.chosen[i];
        const bool positive = mine && w.label[i] >= 1;
        const int32_t at = to + place_among(mine, part, &more);
        const int32_t mask_at = mask + place_among(positive, part, &more_masks);
        if (mine && at < out.room)
            write_row(out, at, mask_at, p.box + 4 * i, (int32_t)image, w.label[i], w.match[i], o,
                      r);
        to += more;
        mask += more_masks;
    }
    if (threadIdx.x || image + 1 < o.images) return;
    out.counts[0] = to;
    out.counts[1] = mask;
}

/* Rows behind the last that lives. */
__global__ void rest_kernel(struct mabn_cuda_box_targets out)
{
    const int64_t i = item();
    if (i < out.room && i >= out.counts[0]) {
        for (int k = 0; k < 4; k++)
            out.box[4 * i + k] = out.delta[4 * i + k] = 0;
        out.image[i] = out.level[i] = 0;
        out.label[i] = -1;
        out.weight[i] = 0;
    }
    if (i < out.mask_room && i >= out.counts[1]) {
        for (int k = 0; k < 4; k++)
            out.mask_box[4 * i + k] = 0;
        out.mask_image[i] = out.mask_level[i] = out.mask_object[i] = 0;
        out.mask_label[i] = -1;
    }
}

/* ---- masks: as mask_targets.c and coco/mask.c ---- */

/* From the image to the canvas of a box. */
struct view {
    bool single;
    double x, y, scale_x, scale_y;
};

__device__ double held(float v, int size)
{
    return v < 0 ? 0 : v > (float)size - 1 ? (double)size - 1 : v;
}

__device__ struct view view_of(const float *box, int side, int width, int height, bool legacy)
{
    const double w = (double)box[2] - box[0], h = (double)box[3] - box[1];
    if (legacy)
        return {true, held(box[0], width), held(box[1], height), side / (w != 0 ? w : 1),
                side / (h != 0 ? h : 1)};
    return {false, box[0], box[1], side / (w > 0.1 ? w : 0.1), side / (h > 0.1 ? h : 0.1)};
}

/* A number of an outline on the fine grid, five places a pixel. */
__device__ int64_t fine(float number, double from, double scale, bool single)
{
    const double far = 1e8;
    double s = single ? (double)__fmul_rn(__fadd_rn(number, -(float)from), (float)scale)
                      : __dmul_rn(__dadd_rn((double)number, -from), scale);
    s = fmin(fmax(s, -far), far); /* NaN too */
    return (int64_t)__dadd_rn(__dmul_rn(5, s), 0.5);
}

/* Where an edge is after t steps along its longer side. */
__device__ int64_t along(int64_t from, double slope, int64_t t)
{
    return (int64_t)__dadd_rn(__dadd_rn((double)from, __dmul_rn(slope, (double)t)), 0.5);
}

/* The edge from (xs,ys) to (xe,ye) steps from fine column 5x+2 to 5x+3, where x is `column`. The smaller
 * of its two fine rows there. */
__device__ int64_t crossing(int64_t xs, int64_t ys, int64_t xe, int64_t ye, int64_t column)
{
    const int64_t dx = xs < xe ? xe - xs : xs - xe, dy = ys < ye ? ye - ys : ys - ye;
    if (dx >= dy ? xs > xe : ys > ye) {
        const int64_t x = xs, y = ys;
        xs = xe;
        ys = ye;
        xe = x;
        ye = y;
    }
    const int64_t right = 5 * column + 3;
    if (dx >= dy) {
        const double slope = (double)(ye - ys) / (double)dx;
        const int64_t a = along(ys, slope, right - 1 - xs), b = along(ys, slope, right - xs);
        return a < b ? a : b;
    }
    const double slope = (double)(xe - xs) / (double)dy;
    int64_t t = (int64_t)(__dadd_rn(__dadd_rn((double)right, -0.5), -(double)xs) / slope);
    if (t < 1) t = 1;
    if (t > dy) t = dy;
    const bool rises = xe > xs;
    while (t > 1 && (along(xs, slope, t - 1) >= right) == rises)
        t--;
    while (t < dy && (along(xs, slope, t) >= right) != rises)
        t++;
    return ys + t - 1;
}

/* The pixels of a column below the edge, as bits, if it crosses the column. */
__device__ uint32_t below(int64_t xs, int64_t ys, int64_t xe, int64_t ye, int64_t column, int side)
{
    const int64_t low = xs < xe ? xs : xe, high = xs < xe ? xe : xs;
    if (low > 5 * column + 2 || high < 5 * column + 3) return 0;
    const int64_t at = crossing(xs, ys, xe, ye, column), row = at <= 2 ? 0 : (at + 2) / 5;
    return row < side ? ~0u << row : 0;
}

enum { MOST_SIDE = 32, SHARES = THREADS / MOST_SIDE };

/* A block a box: a thread takes a column and every SHARES-th edge. A pixel with an odd number of edges
 * above it is inside a polygon; the object is the union of its polygons. */
__global__ void __launch_bounds__(THREADS)
    mask_kernel(uint8_t *target, int side, struct mabn_cuda_box_targets rows,
                struct mabn_cuda_objects o, bool legacy)
{
    MABN_SHARED(uint32_t, bits, THREADS);
    const int64_t k = blockIdx.x;
    const int self = (int)threadIdx.x, column = self % MOST_SIDE, share = self / MOST_SIDE;
    const int pixels = side * side;
    uint32_t all = 0;
    if (k < rows.counts[1]) {
        const int32_t object = rows.mask_object[k], image = rows.mask_image[k];
        const struct view v =
            view_of(rows.mask_box + 4 * k, side, o.width[image], o.height[image], legacy);
        for (uint32_t p = o.first_polygon[object]; p < o.first_polygon[object + 1]; p++) {
            const float *xy = o.numbers + o.first_number[p];
            const uint32_t corners = (o.first_number[p + 1] - o.first_number[p]) / 2;
            uint32_t inside = 0;
            for (uint32_t i = (uint32_t)share; i < corners && column < side; i += SHARES) {
                const uint32_t next = i + 1 < corners ? i + 1 : 0;
                inside ^= below(fine(xy[2 * i], v.x, v.scale_x, v.single),
                                fine(xy[2 * i + 1], v.y, v.scale_y, v.single),
                                fine(xy[2 * next], v.x, v.scale_x, v.single),
                                fine(xy[2 * next + 1], v.y, v.scale_y, v.single), column, side);
            }
            bits[self] = inside;
            for (int half = THREADS / 2; half >= MOST_SIDE; half /= 2) {
                __syncthreads();
                if (self < half) bits[self] = bits[self] ^ bits[self + half];
            }
            __syncthreads();
            all |= bits[column];
            __syncthreads();
        }
    }
    bits[self] = all;
    __syncthreads();
    for (int i = self; i < pixels; i += THREADS)
        target[k * pixels + i] = bits[i % side] >> i / side & 1;
}

/* ---- memory ---- */

void *take(char *base, size_t *at, size_t bytes)
{
    void *piece = base ? base + *at : NULL;
    *at += (bytes + 255) & ~(size_t)255;
    return piece;
}

size_t lay_out(struct work *w, char *base, int64_t images, int64_t room)
{
    const size_t all = (size_t)(images * room), each = (size_t)images * sizeof(int32_t);
    size_t at = 0;
    w->room = room;
    w->label = (int32_t *)take(base, &at, all * sizeof(int32_t));
    w->match = (int32_t *)take(base, &at, all * sizeof(int32_t));
    w->candidate = (int32_t *)take(base, &at, all * sizeof(int32_t));
    w->sampled = (int32_t *)take(base, &at, each);
    w->positives = (int32_t *)take(base, &at, each);
    w->chosen = (uint8_t *)take(base, &at, all);
    return at;
}

struct rule rule_of(const struct mabn_box_target_options *options,
                    const struct mabn_box_convention *c)
{
    struct rule r = {};
    r.matcher = options->matcher;
    r.batch = options->sampler.batch;
    r.most = (int64_t)((double)options->sampler.batch * options->sampler.fraction);
    r.spread = options->sampler.spread;
    r.weights = options->weights;
    r.classes = options->classes;
    r.background_last = c->background_last;
    r.one = c->one;
    r.levels = level_rule_of(c);
    return r;
}

} // namespace

size_t mabn_cuda_box_targets_bytes(int64_t images, int64_t room)
{
    struct work w;
    return lay_out(&w, NULL, images, room);
}

mabn_status mabn_cuda_box_targets_make(const struct mabn_cuda_box_targets *out,
                                       const struct mabn_cuda_proposals *proposals,
                                       const struct mabn_cuda_objects *objects,
                                       const struct mabn_box_target_options *options,
                                       const struct mabn_box_convention *c, void *scratch,
                                       void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    const unsigned images = (unsigned)objects->images;
    const struct rule r = rule_of(options, c);
    struct work w;
    if (options->matcher.rescue) return mabn_fail(MABN_ERR_ARG, "boxes are matched without rescue");
    lay_out(&w, static_cast<char *>(scratch), objects->images, proposals->room);
    MABN_TRY(MABN_LAUNCH(sample_kernel, images, THREADS, 0, to, w, *proposals, *objects, r));
    MABN_TRY(MABN_LAUNCH(write_kernel, images, THREADS, 0, to, *out, w, *proposals, *objects, r));
    const int64_t most = out->room > out->mask_room ? out->room : out->mask_room;
    return MABN_LAUNCH(rest_kernel, blocks(most), THREADS, 0, to, *out);
}

mabn_status mabn_cuda_mask_targets_fill(uint8_t *target, int side,
                                        const struct mabn_cuda_box_targets *rows,
                                        const struct mabn_cuda_objects *objects,
                                        const struct mabn_box_convention *c, void *stream)
{
    if (side < 1 || side > MOST_SIDE)
        return mabn_fail(MABN_ERR_ARG, "targets of masks of %d×%d pixels on a GPU", side, side);
    if (rows->mask_room < 1) return MABN_OK;
    return MABN_LAUNCH(mask_kernel, (unsigned)rows->mask_room, THREADS, 0,
                       static_cast<cudaStream_t>(stream), target, side, *rows, *objects,
                       c->mask == MABN_MASK_POLYGON_LEGACY);
}
