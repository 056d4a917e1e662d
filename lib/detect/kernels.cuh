/* Shared by the kernels of this room: boxes, keys of scores, positions in a list.
 *
 * Sums and products are separate (__fmul_rn and so on): fused, they would round differently from
 * the CPU, and decide differently where an overlap is at a threshold. */
#ifndef MABN_DETECT_KERNELS_CUH
#define MABN_DETECT_KERNELS_CUH

#include <math.h>
#include <stdint.h>

#include "base/philox.h"
#include "detect/boxes.h"
#include "device/launch.cuh"

namespace
{

enum { THREADS = 256, WARP = 32, WARPS = THREADS / WARP };

inline unsigned blocks(int64_t items)
{
    return (unsigned)((items + THREADS - 1) / THREADS);
}

__device__ __forceinline__ int64_t item(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* ---- boxes: as boxes.c ---- */

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
__device__ inline void decode_side(float *low, float *high, float from, float to, float shift,
                                   float grow, float one)
{
    const float size = side(from, to, one), centre = __fadd_rn(from, __fmul_rn(0.5f, size));
    const float log_most = 4.135166556742356f; /* ln(1000/16) */
    if (grow > log_most) grow = log_most;
    const float middle = __fadd_rn(__fmul_rn(shift, size), centre);
    const float half = __fmul_rn(0.5f, __fmul_rn(expf(grow), size));
    *low = __fadd_rn(middle, -half);
    *high = __fadd_rn(__fadd_rn(middle, half), -one);
}

__device__ inline void decode_box(float *out, const float *b, const float *d,
                                  const struct mabn_box_weights &weights, float one)
{
    decode_side(&out[0], &out[2], b[0], b[2], d[0] / weights.x, d[2] / weights.w, one);
    decode_side(&out[1], &out[3], b[1], b[3], d[1] / weights.y, d[3] / weights.h, one);
}

__device__ __forceinline__ void clip_box(float *box, float right, float bottom)
{
    box[0] = clip(box[0], right);
    box[1] = clip(box[1], bottom);
    box[2] = clip(box[2], right);
    box[3] = clip(box[3], bottom);
}

/* As mabn_box_encode, along one direction. */
__device__ inline void encode_side(float *shift, float *grow, float from, float to, float true_from,
                                   float true_to, float by_shift, float by_grow, float one)
{
    const float size = side(from, to, one), its = side(true_from, true_to, one);
    const float centre = __fadd_rn(from, __fmul_rn(0.5f, size));
    const float its_centre = __fadd_rn(true_from, __fmul_rn(0.5f, its));
    *shift = __fmul_rn(by_shift, __fadd_rn(its_centre, -centre)) / size;
    *grow = __fmul_rn(by_grow, logf(its / size));
}

/* b: the box, t: its object. */
__device__ inline void encode_box(float *delta, const float *b, const float *t,
                                  const struct mabn_box_weights &weights, float one)
{
    encode_side(&delta[0], &delta[2], b[0], b[2], t[0], t[2], weights.x, weights.w, one);
    encode_side(&delta[1], &delta[3], b[1], b[3], t[1], t[3], weights.y, weights.h, one);
}

struct corners {
    float x1, y1, x2, y2, area;
};

/* Of a box moved by `by` along both axes. */
__device__ inline struct corners corners_moved(const float *b, float by, float one)
{
    struct corners c = {__fadd_rn(b[0], by), __fadd_rn(b[1], by), __fadd_rn(b[2], by),
                        __fadd_rn(b[3], by), 0};
    c.area = __fmul_rn(side(c.x1, c.x2, one), side(c.y1, c.y2, one));
    return c;
}

__device__ __forceinline__ struct corners corners_of(const float *b, float one)
{
    return corners_moved(b, 0, one);
}

/* b with a: the areas are added in this order. */
__device__ inline float overlap(const struct corners &a, const struct corners &b, float one)
{
    const float left = b.x1 > a.x1 ? b.x1 : a.x1, top = b.y1 > a.y1 ? b.y1 : a.y1;
    const float right = b.x2 < a.x2 ? b.x2 : a.x2, bottom = b.y2 < a.y2 ? b.y2 : a.y2;
    float w = side(left, right, one), h = side(top, bottom, one);
    w = w > 0 ? w : 0;
    h = h > 0 ? h : 0;
    const float both = __fmul_rn(w, h);
    return both / __fadd_rn(__fadd_rn(a.area, b.area), -both);
}

/* ---- levels: as mabn_box_levels ---- */

enum { LEVELS = 4, LOWEST = 2 }; /* P2 … P5 */

/* The least √area / 224, with `epsilon` added, of a box of the next level. So no logarithm is computed,
 * whose rounding may differ from the CPU's. */
struct level_rule {
    float from[LEVELS - 1], epsilon, one;
};

inline struct level_rule level_rule_of(const struct mabn_box_convention *c)
{
    struct level_rule r = {};
    r.one = c->one;
    r.epsilon = c->epsilon_inside ? (float)c->level_epsilon : 0;
    for (int k = 0; k < LEVELS - 1; k++)
        r.from[k] = mabn_box_level_from(LOWEST + k + 1, c);
    return r;
}

__device__ inline int32_t level_of(const float *b, const struct level_rule &r)
{
    const float area = __fmul_rn(side(b[0], b[2], r.one), side(b[1], b[3], r.one));
    const float ratio = __fadd_rn(sqrtf(area) / 224.0f, r.epsilon);
    int32_t level = 0;
    for (int k = 0; k < LEVELS - 1; k++)
        level += ratio >= r.from[k];
    return level;
}

/* ---- matching: as match.c ---- */

/* Integers in the order of the floats; −0 must have become 0. */
__device__ __forceinline__ int32_t ordered(float v)
{
    const int32_t bits = (int32_t)__float_as_uint(v);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

/* By all threads of a block of THREADS: part[0] is the largest of their values. Only thread 0 may read
 * it before the next barrier. part: THREADS shared numbers. */
template <typename Part, typename T> __device__ void find_largest(Part &part, T value)
{
    const int self = (int)threadIdx.x;
    part[self] = value;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (self >= half) continue;
        const T other = part[self + half];
        if (other > part[self]) part[self] = other;
    }
}

/* Likewise the largest coordinate of lists of boxes, from list `first` on, `slot` rows apart; after a
 * barrier. NaN is passed over. *boxes: how many there are. */
template <typename Part>
__device__ float largest_coordinate(const float *box, const int32_t *count, int64_t slot,
                                    int64_t first, int64_t lists, Part &part, int64_t *boxes)
{
    float largest = -INFINITY;
    *boxes = 0;
    for (int64_t list = first; list < first + lists; list++) {
        *boxes += count[list];
        for (int64_t i = threadIdx.x; i < 4 * (int64_t)count[list]; i += THREADS) {
            const float v = box[4 * list * slot + i];
            if (v > largest) largest = v;
        }
    }
    find_largest(part, largest);
    __syncthreads();
    return part[0];
}

/* By all threads of a block of THREADS, for thread 0: the largest overlap of n boxes with an object,
 * ordered. part: THREADS shared numbers. */
template <typename Part>
__device__ int32_t largest_overlap(const float *object, const float *box, int64_t n, float one,
                                   Part &part)
{
    const struct corners its = corners_of(object, one);
    const int self = (int)threadIdx.x;
    int32_t largest = ordered(-1);
    for (int64_t i = self; i < n; i += THREADS) {
        const float v = overlap(its, corners_of(box + 4 * i, one), one);
        if (v > -1) largest = largest > ordered(v + 0.0f) ? largest : ordered(v + 0.0f);
    }
    find_largest(part, largest);
    return self ? largest : part[0]; /* only thread 0 may read it by now */
}

/* ---- scores ---- */

/* Ascends as scores descend, as the CPU's keys do (order.c); the index makes all different. */
__device__ inline uint64_t key_of(float score, int64_t i)
{
    uint32_t bits = UINT32_MAX;
    if (score == score) {
        bits = __float_as_uint(score + 0.0f); /* −0 becomes 0 */
        bits = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
    }
    return (uint64_t)bits << 32 | (uint32_t)i;
}

/* ---- lists made in order ---- */

/* By all threads of a block of THREADS: how many threads before this one say yes; *all: how many do.
 * part: WARPS shared numbers. */
template <typename Part> __device__ int32_t place_among(bool yes, Part &part, int32_t *all)
{
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    const unsigned votes = __ballot_sync(~0u, yes);
    int32_t before = __popc(votes & ((1u << lane) - 1)), total = 0;
    __syncthreads(); /* the numbers of the call before are read */
    if (lane == 0) part[warp] = __popc(votes);
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        const int32_t n = part[w];
        if (w < warp) before += n;
        total += n;
    }
    *all = total;
    return before;
}

/* ---- sampling: as sample.c ---- */

/* By one thread: mark k of n candidates, which are moved about. */
__device__ inline void choose(uint8_t *chosen, int32_t *candidate, int64_t n, int64_t k,
                              bool spread, struct mabn_rng *rng)
{
    for (int64_t j = 0; j < k && k < n && !spread; j++) {
        const int64_t other = j + (int64_t)mabn_philox_below(rng, (uint64_t)(n - j));
        const int32_t v = candidate[other];
        candidate[other] = candidate[j];
        candidate[j] = v;
    }
    for (int64_t j = 0; j < k; j++)
        chosen[candidate[spread ? j * n / k : j]] = 1;
}

} // namespace

#endif
