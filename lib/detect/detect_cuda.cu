/* See detect_cuda.h.
 *
 * Sums and products are written out (__fmul_rn and its like): joined into one rounding they would
 * decide differently from the CPU where an overlap is at a threshold. */
#include "detect/detect_cuda.h"

#include <math.h>

#include "device/launch.cuh"

namespace
{

enum { THREADS = 256, WORD = 64, DIGITS = 256, SORT_THREADS = 1024, SCAN_THREADS = 128 };
enum { MOST_WORDS = MABN_CUDA_NMS_MOST / WORD };

unsigned blocks(int64_t items)
{
    return (unsigned)((items + THREADS - 1) / THREADS);
}

__device__ __forceinline__ int64_t item(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* ---- anchors and boxes ---- */

struct base_boxes {
    float box[4 * MABN_ANCHOR_RATIOS];
};

__global__ void anchors_kernel(float *box, struct base_boxes base, int ratios, int64_t h, int64_t w,
                               int64_t stride_y, int64_t stride_x)
{
    const int64_t i = item(), cell = i / ratios;
    const int r = (int)(i % ratios);
    if (i >= h * w * ratios) return;
    const float dx = (float)(cell % w * stride_x), dy = (float)(cell / w * stride_y);
    for (int k = 0; k < 4; k++)
        box[4 * i + k] = __fadd_rn(base.box[4 * r + k], k % 2 ? dy : dx);
}

__device__ __forceinline__ float side(float low, float high, float one)
{
    return __fadd_rn(__fadd_rn(high, -low), one);
}

__device__ __forceinline__ float clip(float v, float high)
{
    if (v < 0) v = 0;
    return v > high ? high : v;
}

/* One direction of a box: both ends from centre and size. */
__device__ void decode_side(float *low, float *high, float from, float to, float shift, float grow,
                            float one, float most)
{
    const float size = side(from, to, one), centre = __fadd_rn(from, __fmul_rn(0.5f, size));
    const float log_most = 4.135166556742356f; /* ln(1000/16) */
    if (grow > log_most) grow = log_most;
    const float middle = __fadd_rn(__fmul_rn(shift, size), centre);
    const float half = __fmul_rn(0.5f, __fmul_rn(expf(grow), size));
    *low = clip(__fadd_rn(middle, -half), most);
    *high = clip(__fadd_rn(__fadd_rn(middle, half), -one), most);
}

__global__ void decode_kernel(float *out, const float *box, const float *delta,
                              const int32_t *index, int64_t n, struct mabn_box_weights weights,
                              float right, float bottom, float one)
{
    const int64_t i = item();
    if (i >= n) return;
    const int64_t from = index ? index[i] : i;
    const float *b = box + 4 * from, *d = delta + 4 * from;
    decode_side(&out[4 * i], &out[4 * i + 2], b[0], b[2], d[0] / weights.x, d[2] / weights.w, one,
                right);
    decode_side(&out[4 * i + 1], &out[4 * i + 3], b[1], b[3], d[1] / weights.y, d[3] / weights.h,
                one, bottom);
}

struct corners {
    float x1, y1, x2, y2, area;
};

__device__ struct corners corners_of(const float *b, float one)
{
    const struct corners c = {b[0], b[1], b[2], b[3],
                              __fmul_rn(side(b[0], b[2], one), side(b[1], b[3], one))};
    return c;
}

/* b with a: the areas are added in this order. */
__device__ float overlap(const struct corners &a, const struct corners &b, float one)
{
    const float left = b.x1 > a.x1 ? b.x1 : a.x1, top = b.y1 > a.y1 ? b.y1 : a.y1;
    const float right = b.x2 < a.x2 ? b.x2 : a.x2, bottom = b.y2 < a.y2 ? b.y2 : a.y2;
    float w = side(left, right, one), h = side(top, bottom, one);
    w = w > 0 ? w : 0;
    h = h > 0 ? h : 0;
    const float both = __fmul_rn(w, h);
    return both / __fadd_rn(__fadd_rn(a.area, b.area), -both);
}

/* ---- the best k ----
 *
 * Keys are the CPU's, then the index, which makes them all different. Digit by digit, the most
 * significant first, the k-th smallest is found; those up to it are gathered in any order, and then
 * sorted by one block. */

struct search {
    uint64_t prefix; /* of the k-th smallest, as far as it is known */
    int32_t left;    /* which of those with this prefix it is, from 1 */
    int32_t gathered;
    int32_t count[DIGITS];
};

__device__ uint64_t key_of(float score, int64_t i)
{
    uint32_t bits = UINT32_MAX;
    if (score == score) {
        bits = __float_as_uint(score + 0.0f); /* −0 becomes 0 */
        bits = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
    }
    return (uint64_t)bits << 32 | (uint32_t)i;
}

__global__ void start_search(struct search *s, int32_t k)
{
    if (threadIdx.x == 0) {
        s->prefix = 0;
        s->left = k;
        s->gathered = 0;
    }
    for (int d = (int)threadIdx.x; d < DIGITS; d += THREADS)
        s->count[d] = 0;
}

__global__ void count_digits(struct search *s, const float *score, int64_t n, int shift)
{
    const int64_t i = item();
    if (i >= n) return;
    const uint64_t key = key_of(score[i], i);
    const uint64_t known = shift < 56 ? ~(uint64_t)0 << (shift + 8) : 0;
    if ((key & known) == (s->prefix & known)) atomicAdd(&s->count[key >> shift & 255], 1);
}

__global__ void choose_digit(struct search *s, int shift)
{
    if (threadIdx.x) return;
    int d = 0;
    for (; s->left > s->count[d]; d++)
        s->left -= s->count[d];
    s->prefix |= (uint64_t)d << shift;
    for (d = 0; d < DIGITS; d++)
        s->count[d] = 0;
}

__global__ void gather_keys(uint64_t *keys, struct search *s, const float *score, int64_t n)
{
    const int64_t i = item();
    if (i >= n) return;
    const uint64_t key = key_of(score[i], i);
    if (key <= s->prefix) keys[atomicAdd(&s->gathered, 1)] = key;
}

/* Bitonic, in shared memory; what is missing to a power of two sorts last. */
__global__ void __launch_bounds__(SORT_THREADS)
    sort_keys(int32_t *order, const uint64_t *keys, int k, int size)
{
    MABN_SHARED(uint64_t, a, MABN_CUDA_ORDER_MOST);
    const int self = (int)threadIdx.x;
    for (int i = self; i < size; i += SORT_THREADS)
        a[i] = i < k ? keys[i] : ~(uint64_t)0;
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step; step /= 2) {
            __syncthreads();
            for (int i = self; i < size; i += SORT_THREADS) {
                const int other = i ^ step;
                if (other < i) continue;
                const uint64_t x = a[i], y = a[other];
                if ((x > y) != ((i & run) != 0)) {
                    a[i] = y;
                    a[other] = x;
                }
            }
        }
    __syncthreads();
    for (int i = self; i < k; i += SORT_THREADS)
        order[i] = (int32_t)(uint32_t)a[i];
}

/* ---- suppression ---- */

/* A thread a box and word: which boxes of the word, behind it in the list, it suppresses. */
__global__ void __launch_bounds__(WORD)
    suppress_kernel(uint64_t *mask, const float *box, const int32_t *count, int64_t n,
                    int64_t words, float threshold, float one)
{
    const int64_t live = count && *count < n ? *count : n;
    const int64_t i = (int64_t)blockIdx.x * WORD + threadIdx.x, first = (int64_t)blockIdx.y * WORD;
    if (i >= live) return;
    const struct corners mine = corners_of(box + 4 * i, one);
    uint64_t bits = 0;
    for (int64_t j = first > i ? first : i + 1; j < first + WORD && j < live; j++)
        if (overlap(mine, corners_of(box + 4 * j, one), one) > threshold)
            bits |= (uint64_t)1 << (j - first);
    mask[i * words + blockIdx.y] = bits;
}

/* One block walks the list; its threads share the words of what is suppressed. */
__global__ void __launch_bounds__(SCAN_THREADS)
    walk_kernel(int32_t *keep, int32_t *kept, const uint64_t *mask, const int32_t *count, int64_t n,
                int64_t words, int64_t most)
{
    MABN_SHARED(uint64_t, removed, MOST_WORDS);
    const int64_t live = count && *count < n ? *count : n;
    const int self = (int)threadIdx.x;
    int64_t stays = 0;
    for (int64_t w = self; w < words; w += SCAN_THREADS)
        removed[w] = 0;
    for (int64_t i = 0; i < live && stays < most; i++) {
        __syncthreads();
        const bool gone = removed[i / WORD] >> (i % WORD) & 1;
        if (gone) continue; /* all threads alike */
        __syncthreads();
        for (int64_t w = self; w < words; w += SCAN_THREADS)
            if (w >= i / WORD) removed[w] = removed[w] | mask[i * words + w];
        if (self == 0) keep[stays] = (int32_t)i;
        stays++;
    }
    if (self == 0) *kept = (int32_t)stays;
}

__global__ void keep_all(int32_t *keep, int32_t *kept, const int32_t *count, int64_t n)
{
    const int64_t live = count && *count < n ? *count : n, i = item();
    if (i < live) keep[i] = (int32_t)i;
    if (i == 0) *kept = (int32_t)live;
}

/* ---- matching ---- */

/* Integers in the order of the floats; −0 must have become 0. */
__device__ int32_t ordered(float v)
{
    const int32_t bits = (int32_t)__float_as_uint(v);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

/* A block an object: the largest overlap of all boxes with it. */
__global__ void __launch_bounds__(THREADS)
    most_kernel(int32_t *most, const float *object, const float *box, int64_t n, float one)
{
    MABN_SHARED(int32_t, part, THREADS);
    const struct corners its = corners_of(object + 4 * blockIdx.x, one);
    const int self = (int)threadIdx.x;
    int32_t largest = ordered(-1);
    for (int64_t i = self; i < n; i += THREADS) {
        const float v = overlap(its, corners_of(box + 4 * i, one), one);
        if (v > -1) largest = largest > ordered(v + 0.0f) ? largest : ordered(v + 0.0f);
    }
    part[self] = largest;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (self >= half) continue;
        const int32_t other = part[self + half];
        if (other > part[self]) part[self] = other;
    }
    if (self == 0) most[blockIdx.x] = part[0];
}

/* which (n): the object that each box overlaps most. */
__global__ void match_kernel(int32_t *match, int32_t *which, const float *object, int64_t objects,
                             const float *box, int64_t n, float one, struct mabn_matcher m)
{
    const int64_t i = item();
    if (i >= n) return;
    const struct corners mine = corners_of(box + 4 * i, one);
    float best = -1;
    int32_t object_of_best = 0;
    for (int64_t g = 0; g < objects; g++) {
        const float v = overlap(corners_of(object + 4 * g, one), mine, one);
        if (v > best) {
            best = v;
            object_of_best = (int32_t)g;
        }
    }
    which[i] = object_of_best;
    match[i] = best < m.low    ? (int32_t)MABN_MATCH_BACKGROUND
               : best < m.high ? (int32_t)MABN_MATCH_BETWEEN
                               : object_of_best;
}

__global__ void rescue_kernel(int32_t *match, const int32_t *which, const int32_t *most,
                              const float *object, int64_t objects, const float *box, int64_t n,
                              float one)
{
    const int64_t i = item();
    if (i >= n) return;
    const struct corners mine = corners_of(box + 4 * i, one);
    for (int64_t g = 0; g < objects; g++) {
        const float v = overlap(corners_of(object + 4 * g, one), mine, one);
        if (v == v && ordered(v + 0.0f) == most[g]) match[i] = which[i];
    }
}

} // namespace

mabn_status mabn_cuda_anchors_level(float *box, const float *base, int ratios, int64_t h, int64_t w,
                                    int64_t stride_y, int64_t stride_x, void *stream)
{
    struct base_boxes all = {};
    if (ratios < 1 || ratios > MABN_ANCHOR_RATIOS)
        return mabn_fail(MABN_ERR_ARG, "%d anchors a cell", ratios);
    if (h < 1 || w < 1) return MABN_OK;
    for (int i = 0; i < 4 * ratios; i++)
        all.box[i] = base[i];
    return MABN_LAUNCH(anchors_kernel, blocks(h * w * ratios), THREADS, 0,
                       static_cast<cudaStream_t>(stream), box, all, ratios, h, w, stride_y,
                       stride_x);
}

mabn_status mabn_cuda_box_decode(float *out, const float *box, const float *delta,
                                 const int32_t *index, int64_t n, struct mabn_box_weights weights,
                                 int width, int height, float one, void *stream)
{
    if (n < 1) return MABN_OK;
    return MABN_LAUNCH(decode_kernel, blocks(n), THREADS, 0, static_cast<cudaStream_t>(stream), out,
                       box, delta, index, n, weights, (float)width - one, (float)height - one, one);
}

/* ---- */

size_t mabn_cuda_order_bytes(int64_t k)
{
    return sizeof(struct search) + (size_t)(k > 0 ? k : 0) * sizeof(uint64_t);
}

mabn_status mabn_cuda_order_best(int32_t *order, const float *score, int64_t n, int64_t k,
                                 void *scratch, void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    struct search *s = static_cast<struct search *>(scratch);
    uint64_t *keys = reinterpret_cast<uint64_t *>(s + 1);
    int size = 1;
    if (k > n) k = n;
    if (k < 1) return MABN_OK;
    if (k > MABN_CUDA_ORDER_MOST || n > INT32_MAX)
        return mabn_fail(MABN_ERR_LIMIT, "the best %lld of %lld", (long long)k, (long long)n);
    while (size < k)
        size *= 2;
    MABN_TRY(MABN_LAUNCH(start_search, 1, THREADS, 0, to, s, (int32_t)k));
    for (int shift = 56; shift >= 0; shift -= 8) {
        MABN_TRY(MABN_LAUNCH(count_digits, blocks(n), THREADS, 0, to, s, score, n, shift));
        MABN_TRY(MABN_LAUNCH(choose_digit, 1, 1, 0, to, s, shift));
    }
    MABN_TRY(MABN_LAUNCH(gather_keys, blocks(n), THREADS, 0, to, keys, s, score, n));
    return MABN_LAUNCH(sort_keys, 1, SORT_THREADS, 0, to, order, keys, (int)k, size);
}

size_t mabn_cuda_nms_bytes(int64_t n)
{
    return (size_t)n * (size_t)((n + WORD - 1) / WORD) * sizeof(uint64_t);
}

mabn_status mabn_cuda_nms_sorted(int32_t *keep, int32_t *kept, const float *box,
                                 const int32_t *count, int64_t n, int64_t most, float threshold,
                                 float one, void *scratch, void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    uint64_t *mask = static_cast<uint64_t *>(scratch);
    const int64_t words = (n + WORD - 1) / WORD;
    if (n > MABN_CUDA_NMS_MOST)
        return mabn_fail(MABN_ERR_LIMIT, "suppression among %lld boxes", (long long)n);
    if (n < 1 || !(threshold > 0))
        return MABN_LAUNCH(keep_all, blocks(n > 0 ? n : 1), THREADS, 0, to, keep, kept, count,
                           n > 0 ? n : 0);
    MABN_TRY(MABN_LAUNCH(suppress_kernel, dim3((unsigned)words, (unsigned)words), WORD, 0, to, mask,
                         box, count, n, words, threshold, one));
    return MABN_LAUNCH(walk_kernel, 1, SCAN_THREADS, 0, to, keep, kept, mask, count, n, words,
                       most);
}

size_t mabn_cuda_match_bytes(int64_t objects, int64_t n)
{
    return (size_t)(objects + n) * sizeof(int32_t);
}

mabn_status mabn_cuda_match_boxes(int32_t *match, const float *object, int64_t objects,
                                  const float *box, int64_t n, float one,
                                  const struct mabn_matcher *m, void *scratch, void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    int32_t *most = static_cast<int32_t *>(scratch), *which = most + objects;
    if (n < 1) return MABN_OK;
    MABN_TRY(MABN_LAUNCH(match_kernel, blocks(n), THREADS, 0, to, match, which, object, objects,
                         box, n, one, *m));
    if (!m->rescue || objects < 1) return MABN_OK;
    MABN_TRY(
        MABN_LAUNCH(most_kernel, (unsigned)objects, THREADS, 0, to, most, object, box, n, one));
    return MABN_LAUNCH(rescue_kernel, blocks(n), THREADS, 0, to, match, which, most, object,
                       objects, box, n, one);
}
