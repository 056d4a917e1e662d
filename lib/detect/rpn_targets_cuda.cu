/* See rpn_targets_cuda.h. Anchors of an image are matched by a thread each; the candidates of a
 * sample are listed in order by blocks that each know how many those before found; one thread an
 * image draws, as the CPU does. */
#include "detect/rpn_targets_cuda.h"

#include "detect/kernels.cuh"

namespace
{

enum { SHARE = 16 * THREADS }; /* anchors that one block lists */
enum { NOBODY = -1 };          /* labels are 1, 0 and this */

struct work {
    int64_t images, n, shares;
    int32_t *label, *match, *candidate; /* (images,n) */
    int32_t *most;                      /* (images,most objects) the largest overlap of each */
    int32_t *found;                     /* (images,2,shares): positives, negatives */
    uint8_t *chosen;                    /* (images,n) */
};

/* ---- matching: as match.c ---- */

/* A block an object and image: the largest overlap of all anchors with it. */
__global__ void __launch_bounds__(THREADS)
    most_kernel(struct work w, struct mabn_cuda_truth t, const float *anchor, float one)
{
    MABN_SHARED(int32_t, part, THREADS);
    const int64_t image = blockIdx.y, object = t.first[image] + (int64_t)blockIdx.x;
    if (object >= t.first[image + 1]) return; /* the whole block */
    const int32_t largest = largest_overlap(t.box + 4 * object, anchor, w.n, one, part);
    if (threadIdx.x == 0) w.most[image * t.most + blockIdx.x] = largest;
}

__global__ void label_kernel(struct work w, struct mabn_cuda_truth t, const float *anchor,
                             struct mabn_matcher m, float one, bool ignore_outside)
{
    const int64_t i = item(), image = blockIdx.y, first = t.first[image];
    if (i >= w.n) return;
    const float *a = anchor + 4 * i;
    const struct corners mine = corners_of(a, one);
    float best = -1;
    int32_t which = 0;
    bool rescued = false;
    for (int64_t g = first; g < t.first[image + 1]; g++) {
        const float v = overlap(corners_of(t.box + 4 * g, one), mine, one);
        rescued = rescued ||
                  (m.rescue && v == v && ordered(v + 0.0f) == w.most[image * t.most + g - first]);
        if (!(v > best)) continue;
        best = v;
        which = (int32_t)(g - first);
    }
    const bool visible =
        !ignore_outside ||
        (a[0] >= 0 && a[1] >= 0 && a[2] < (float)t.width[image] && a[3] < (float)t.height[image]);
    const bool positive = rescued || !(best < m.high || best < m.low);
    w.match[image * w.n + i] = which;
    w.label[image * w.n + i] = !visible ? NOBODY : positive ? 1 : best < m.low ? 0 : NOBODY;
    w.chosen[image * w.n + i] = 0;
}

/* ---- sampling: as sample.c ---- */

__device__ int32_t label_at(const struct work &w, int64_t image, int64_t i, int64_t end)
{
    return i < end ? w.label[image * w.n + i] : (int32_t)NOBODY;
}

__device__ int64_t share_end(const struct work &w)
{
    const int64_t end = ((int64_t)blockIdx.x + 1) * SHARE;
    return end < w.n ? end : w.n;
}

__global__ void __launch_bounds__(THREADS) count_kernel(struct work w)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t image = blockIdx.y, end = share_end(w);
    int32_t found[2] = {0, 0}, more;
    for (int64_t first = (int64_t)blockIdx.x * SHARE; first < end; first += THREADS) {
        const int32_t label = label_at(w, image, first + threadIdx.x, end);
        place_among(label == 1, part, &more);
        found[0] += more;
        place_among(label == 0, part, &more);
        found[1] += more;
    }
    if (threadIdx.x) return;
    for (int k = 0; k < 2; k++)
        w.found[(2 * image + k) * w.shares + blockIdx.x] = found[k];
}

/* Candidates of one kind before share `until`. */
__device__ int32_t found_before(const struct work &w, int64_t image, int kind, int64_t until)
{
    int32_t sum = 0;
    for (int64_t s = 0; s < until; s++)
        sum += w.found[(2 * image + kind) * w.shares + s];
    return sum;
}

/* Positives from the front of an image's candidates on, negatives behind them. */
__global__ void __launch_bounds__(THREADS) list_kernel(struct work w)
{
    MABN_SHARED(int32_t, part, WARPS);
    const int64_t image = blockIdx.y, end = share_end(w);
    const int32_t positives = found_before(w, image, 0, w.shares);
    int32_t at[2] = {found_before(w, image, 0, blockIdx.x),
                     positives + found_before(w, image, 1, blockIdx.x)};
    int32_t more;
    for (int64_t first = (int64_t)blockIdx.x * SHARE; first < end; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const int32_t label = label_at(w, image, i, end);
        for (int kind = 0; kind < 2; kind++) {
            const bool mine = label == 1 - kind;
            const int32_t place = at[kind] + place_among(mine, part, &more);
            if (mine) w.candidate[image * w.n + place] = (int32_t)i;
            at[kind] += more;
        }
    }
}

__global__ void sample_kernel(struct work w, struct mabn_cuda_rpn_targets out,
                              const struct mabn_rng *streams, int64_t batch, int64_t most,
                              bool spread)
{
    const int64_t image = blockIdx.x;
    struct mabn_rng rng = streams[image];
    uint8_t *chosen = w.chosen + image * w.n;
    int32_t *candidate = w.candidate + image * w.n;
    const int64_t found = found_before(w, image, 0, w.shares);
    const int64_t others = found_before(w, image, 1, w.shares);
    const int64_t positives = found < most ? found : most;
    const int64_t negatives = others < batch - positives ? others : batch - positives;
    choose(chosen, candidate, found, positives, spread, &rng);
    choose(chosen, candidate + found, others, negatives, spread, &rng);
    out.positives[image] = (int32_t)positives;
    out.sampled[image] = (int32_t)(positives + negatives);
}

/* ---- targets ---- */

struct levels {
    int count;
    int64_t n[MABN_ANCHOR_LEVELS];
};

__device__ int64_t place_of(const struct levels &l, int64_t images, int64_t image, int64_t i)
{
    int64_t before = 0;
    int k = 0;
    for (; k + 1 < l.count && i >= before + l.n[k]; k++)
        before += l.n[k];
    return images * before + image * l.n[k] + i - before;
}

__global__ void write_kernel(struct mabn_cuda_rpn_targets out, struct work w,
                             struct mabn_cuda_truth t, const float *anchor, struct levels l,
                             float one)
{
    const int64_t i = item(), image = blockIdx.y, row = image * w.n + i;
    if (i >= w.n) return;
    const int64_t at = place_of(l, w.images, image, i);
    const bool chosen = w.chosen[row], positive = chosen && w.label[row] == 1;
    const struct mabn_box_weights ones = {1, 1, 1, 1};
    float delta[4] = {0, 0, 0, 0};
    if (positive) {
        const float *a = anchor + 4 * i, *b = t.box + 4 * (t.first[image] + w.match[row]);
        encode_box(delta, a, b, ones, one);
    }
    out.weight[at] = chosen;
    out.target[at] = out.box_weight[at] = positive;
    for (int k = 0; k < 4; k++)
        out.delta[4 * at + k] = delta[k];
}

void *take(char *base, size_t *at, size_t bytes)
{
    void *piece = base ? base + *at : NULL;
    *at += (bytes + 255) & ~(size_t)255;
    return piece;
}

size_t lay_out(struct work *w, char *base, int64_t images, int64_t n, int64_t most)
{
    const size_t all = (size_t)(images * n) * sizeof(int32_t);
    size_t at = 0;
    w->images = images;
    w->n = n;
    w->shares = (n + SHARE - 1) / SHARE;
    w->label = (int32_t *)take(base, &at, all);
    w->match = (int32_t *)take(base, &at, all);
    w->candidate = (int32_t *)take(base, &at, all);
    w->most = (int32_t *)take(base, &at, (size_t)(images * most) * sizeof(int32_t));
    w->found = (int32_t *)take(base, &at, (size_t)(2 * images * w->shares) * sizeof(int32_t));
    w->chosen = (uint8_t *)take(base, &at, (size_t)(images * n));
    return at;
}

mabn_status sample(const struct work *w, const struct mabn_cuda_rpn_targets *out,
                   const struct mabn_rng *rng, const struct mabn_sampler *s, cudaStream_t stream)
{
    const dim3 shares((unsigned)w->shares, (unsigned)w->images);
    MABN_TRY(MABN_LAUNCH(count_kernel, shares, THREADS, 0, stream, *w));
    MABN_TRY(MABN_LAUNCH(list_kernel, shares, THREADS, 0, stream, *w));
    return MABN_LAUNCH(sample_kernel, (unsigned)w->images, 1, 0, stream, *w, *out, rng, s->batch,
                       (int64_t)((double)s->batch * s->fraction), s->spread);
}

} // namespace

size_t mabn_cuda_rpn_targets_bytes(int64_t images, int64_t n, int64_t most)
{
    struct work w;
    return lay_out(&w, NULL, images, n, most);
}

mabn_status mabn_cuda_rpn_targets_make(const struct mabn_cuda_rpn_targets *out, const float *anchor,
                                       const int64_t *level, int levels,
                                       const struct mabn_cuda_truth *truth,
                                       const struct mabn_rpn_target_options *options,
                                       const struct mabn_box_convention *c, void *scratch,
                                       void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    struct levels l = {};
    struct work w;
    int64_t n = 0;
    l.count = levels;
    for (int k = 0; k < levels; k++)
        n += l.n[k] = level[k];
    lay_out(&w, static_cast<char *>(scratch), truth->images, n, truth->most);
    const dim3 all(blocks(n), (unsigned)truth->images);
    if (truth->most > 0 && options->matcher.rescue)
        MABN_TRY(MABN_LAUNCH(most_kernel, dim3((unsigned)truth->most, (unsigned)truth->images),
                             THREADS, 0, to, w, *truth, anchor, c->one));
    MABN_TRY(MABN_LAUNCH(label_kernel, all, THREADS, 0, to, w, *truth, anchor, options->matcher,
                         c->one, c->ignore_outside));
    MABN_TRY(sample(&w, out, truth->rng, &options->sampler, to));
    return MABN_LAUNCH(write_kernel, all, THREADS, 0, to, *out, w, *truth, anchor, l, c->one);
}
