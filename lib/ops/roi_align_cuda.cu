/* RoIAlign on the GPU: roi_align.h. Forward: a thread takes a vector of channels of one bin.
 * Backward gathers: a block takes a tile of one map, finds the boxes that reach it, in their order,
 * and sums for every pixel the contributions of their bins. Nothing is added atomically. The weights
 * along y and x of a box and a tile are small tables in shared memory. In the atomic alternative a thread
 * takes a vector of channels of one bin, as in forward.
 *
 * Positions are computed without fused operations, so that a sample on an edge falls on the same
 * side as on the CPU. */
#include <stdlib.h>
#include <string.h>

#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256, MAX_SAMPLES = 1 << 20, MAX_BINS = 32 };
/* A backward block's tile: pixels, and vectors of channels. */
enum { TILE_H = 4, TILE_W = 8, TILE_C = THREADS / (TILE_H * TILE_W) };

struct map {
    int64_t h, w;
    float scale;
};

template <typename T> struct align_args {
    T *y;        /* forward */
    const T *dy; /* backward */
    T *x[MABN_ROI_MAX_LEVELS];
    struct map level[MABN_ROI_MAX_LEVELS];
    struct mabn_cuda_rois rois;
    int64_t images, channels;
    int levels, rows, columns, sampling;
    bool aligned, add;
    int here; /* backward: the level of this launch */
};

/* One side of one box, and a sample along it: as in roi_align.c. */
struct side {
    float start, bin;
    int64_t grid, size;
};

struct tap {
    int64_t low, high;
    float w_low, w_high;
    bool inside;
};

struct box {
    struct side y, x;
    float count;
    int64_t image;
    int level;
    bool good;
};

template <typename T>
__device__ struct side make_side(const struct align_args<T> &in, float low, float high, float scale,
                                 int64_t size, int bins)
{
    const float offset = in.aligned ? -0.5f : 0.0f;
    struct side s = {};
    s.start = __fadd_rn(__fmul_rn(low, scale), offset);
    float extent = __fadd_rn(__fadd_rn(__fmul_rn(high, scale), offset), -s.start);
    if (!in.aligned && !(extent >= 1)) extent = 1;
    s.bin = extent / (float)bins;
    s.size = size;
    const float grid = in.sampling > 0 ? (float)in.sampling : ceilf(s.bin);
    s.grid = grid > 0 ? (int64_t)fminf(grid, 2.0f * MAX_SAMPLES) : 0;
    return s;
}

__device__ bool finite(float v)
{
    return v - v == 0;
}

template <typename T> __device__ struct box make_box(const struct align_args<T> &in, int64_t r)
{
    const float *c = in.rois.box + 4 * r;
    struct box b = {};
    b.image = in.rois.image[r];
    b.level = in.rois.level ? in.rois.level[r] : 0;
    b.good = b.image >= 0 && b.image < in.images && b.level >= 0 && b.level < in.levels &&
             finite(c[0]) && finite(c[1]) && finite(c[2]) && finite(c[3]);
    if (!b.good) return b;
    const struct map m = in.level[b.level];
    b.y = make_side(in, c[1], c[3], m.scale, m.h, in.rows);
    b.x = make_side(in, c[0], c[2], m.scale, m.w, in.columns);
    b.good = b.y.grid * in.rows <= MAX_SAMPLES && b.x.grid * in.columns <= MAX_SAMPLES;
    b.count = b.y.grid * b.x.grid > 1 ? (float)(b.y.grid * b.x.grid) : 1.0f;
    return b;
}

__device__ struct tap make_tap(const struct side &s, int64_t p, int64_t i)
{
    float at = __fadd_rn(__fadd_rn(s.start, __fmul_rn((float)p, s.bin)),
                         __fmul_rn((float)i + 0.5f, s.bin) / (float)s.grid);
    struct tap t = {};
    if (!(at >= -1 && at <= (float)s.size)) return t;
    if (at <= 0) at = 0;
    t.inside = true;
    t.low = (int64_t)at;
    if (t.low >= s.size - 1) {
        t.low = t.high = s.size - 1;
        at = (float)t.low;
    } else {
        t.high = t.low + 1;
    }
    t.w_high = at - (float)t.low;
    t.w_low = 1 - t.w_high;
    return t;
}

template <typename T> __device__ int64_t live_boxes(const struct align_args<T> &in)
{
    const int64_t n = in.rois.count ? *in.rois.count : in.rois.capacity;
    return n < in.rois.capacity ? n : in.rois.capacity;
}

/* ---- forward ---- */

template <typename T, int V>
__device__ void add_pixel(float (&sum)[V], const struct align_args<T> &in, const struct box &b,
                          int64_t row, int64_t column, int64_t c, float weight)
{
    float v[V];
    mabn_load(v,
              in.x[b.level] + ((b.image * b.y.size + row) * b.x.size + column) * in.channels + c);
#pragma unroll
    for (int j = 0; j < V; j++)
        sum[j] += weight * v[j];
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) align_forward(struct align_args<T> in)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V, c = i % in.channels;
    const int64_t bin = i / in.channels, q = bin % in.columns, p = bin / in.columns % in.rows;
    const int64_t r = bin / in.columns / in.rows;
    float sum[V] = {0};

    if (r >= in.rois.capacity) return;
    if (r < live_boxes(in)) {
        const struct box b = make_box(in, r);
        if (!b.good) sum[0] = NAN;
        for (int64_t iy = 0; b.good && iy < b.y.grid; iy++)
            for (int64_t ix = 0; ix < b.x.grid; ix++) {
                const struct tap y = make_tap(b.y, p, iy), x = make_tap(b.x, q, ix);
                if (!y.inside || !x.inside) continue;
                add_pixel(sum, in, b, y.low, x.low, c, y.w_low * x.w_low);
                add_pixel(sum, in, b, y.low, x.high, c, y.w_low * x.w_high);
                add_pixel(sum, in, b, y.high, x.low, c, y.w_high * x.w_low);
                add_pixel(sum, in, b, y.high, x.high, c, y.w_high * x.w_high);
            }
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] = b.good ? sum[j] / b.count : NAN;
    }
    mabn_store(in.y + i, sum);
}

/* ---- backward ---- */

/* May samples of the side touch the pixels [first, first + count)? A margin of two pixels is
 * allowed. */
__device__ bool reaches(const struct side &s, int bins, int64_t first, int64_t count)
{
    const float end = s.start + (float)bins * s.bin;
    const float low = fminf(s.start, end), high = fmaxf(s.start, end);
    return s.grid > 0 && high + 2 >= (float)first && low - 2 <= (float)(first + count - 1);
}

/* The weight of one pixel in one bin. */
__device__ float pixel_weight(const struct side &s, int64_t p, int64_t pixel)
{
    float weight = 0;
    for (int64_t i = 0; i < s.grid; i++) {
        const struct tap t = make_tap(s, p, i);
        if (t.inside && t.low == pixel) weight += t.w_low;
        if (t.inside && t.high == pixel) weight += t.w_high;
    }
    return weight;
}

struct tile {
    int64_t image, y, x; /* the first pixel */
};

/* Tables of one box: rows[p·TILE_H + i] is the weight of row i of the tile in bins (p,·), over the
 * box's samples; columns likewise. */
template <typename T, typename Rows, typename Columns>
__device__ void fill_tables(Rows &rows, Columns &columns, const struct align_args<T> &in,
                            const struct box &b, const struct tile &at)
{
    for (int k = threadIdx.x; k < in.rows * TILE_H; k += THREADS)
        rows[k] = pixel_weight(b.y, k / TILE_H, at.y + k % TILE_H) / b.count;
    for (int k = threadIdx.x; k < in.columns * TILE_W; k += THREADS)
        columns[k] = pixel_weight(b.x, k / TILE_W, at.x + k % TILE_W);
}

/* The contribution of box r's bins to the pixel (py,px) of the tile. */
template <typename T, int V, typename Rows, typename Columns>
__device__ void gather_box(float (&sum)[V], Rows &rows, Columns &columns,
                           const struct align_args<T> &in, int64_t r, int py, int px, int64_t c)
{
    for (int q = 0; q < in.columns; q++) {
        const float along = columns[q * TILE_W + px];
        float line[V] = {0};
        if (along == 0) continue;
        for (int p = 0; p < in.rows; p++) {
            const float weight = rows[p * TILE_H + py];
            float v[V];
            if (weight == 0) continue;
            mabn_load(v, in.dy + ((r * in.rows + p) * in.columns + q) * in.channels + c);
#pragma unroll
            for (int j = 0; j < V; j++)
                line[j] += weight * v[j];
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] += along * line[j];
    }
}

template <typename T> __device__ struct tile tile_of_block(const struct align_args<T> &in)
{
    const struct map m = in.level[in.here];
    const int64_t across = (m.w + TILE_W - 1) / TILE_W, down = (m.h + TILE_H - 1) / TILE_H;
    const int64_t i = blockIdx.x;
    return {i / across / down, i / across % down * TILE_H, i % across * TILE_W};
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) align_backward(struct align_args<T> in)
{
    MABN_SHARED(int, reached, THREADS);
    MABN_SHARED(float, rows, MAX_BINS *TILE_H);
    MABN_SHARED(float, columns, MAX_BINS *TILE_W);
    const struct tile at = tile_of_block(in);
    const struct map m = in.level[in.here];
    const int px = threadIdx.x / TILE_C % TILE_W, py = threadIdx.x / TILE_C / TILE_W;
    const int64_t c = ((int64_t)blockIdx.y * TILE_C + threadIdx.x % TILE_C) * V;
    const bool mine = at.y + py < m.h && at.x + px < m.w && c < in.channels;
    const int64_t live = live_boxes(in);
    T *to = in.x[in.here] + ((at.image * m.h + at.y + py) * m.w + at.x + px) * in.channels + c;
    float sum[V] = {0};

    if (mine && in.add) mabn_load(sum, to);
    for (int64_t first = 0; first < live; first += THREADS) {
        const int64_t own = first + threadIdx.x;
        __syncthreads();
        reached[threadIdx.x] = 0;
        if (own < live) {
            const struct box b = make_box(in, own);
            reached[threadIdx.x] = b.good && b.level == in.here && b.image == at.image &&
                                   reaches(b.y, in.rows, at.y, TILE_H) &&
                                   reaches(b.x, in.columns, at.x, TILE_W);
        }
        __syncthreads();
        for (int k = 0; k < THREADS && first + k < live; k++) {
            if (!reached[k]) continue; /* for all threads of the block */
            __syncthreads();
            fill_tables(rows, columns, in, make_box(in, first + k), at);
            __syncthreads();
            if (mine) gather_box(sum, rows, columns, in, first + k, py, px, c);
        }
    }
    if (mine) mabn_store(to, sum);
}

template <int V>
__device__ void add_to_pixel(const struct align_args<float> &in, const struct box &b, int64_t row,
                             int64_t column, int64_t c, float weight, const float (&g)[V])
{
    float *to = in.x[b.level] + ((b.image * b.y.size + row) * b.x.size + column) * in.channels + c;
#pragma unroll
    for (int j = 0; j < V; j++)
        atomicAdd(to + j, weight * g[j]);
}

template <int V>
__global__ void __launch_bounds__(THREADS) align_backward_atomic(struct align_args<float> in)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V, c = i % in.channels;
    const int64_t bin = i / in.channels, q = bin % in.columns, p = bin / in.columns % in.rows;
    const int64_t r = bin / in.columns / in.rows;
    float g[V];

    if (r >= live_boxes(in)) return;
    const struct box b = make_box(in, r);
    if (!b.good) return;
    mabn_load(g, in.dy + i);
#pragma unroll
    for (int j = 0; j < V; j++)
        g[j] /= b.count;
    for (int64_t iy = 0; iy < b.y.grid; iy++)
        for (int64_t ix = 0; ix < b.x.grid; ix++) {
            const struct tap y = make_tap(b.y, p, iy), x = make_tap(b.x, q, ix);
            if (!y.inside || !x.inside) continue;
            add_to_pixel(in, b, y.low, x.low, c, y.w_low * x.w_low, g);
            add_to_pixel(in, b, y.low, x.high, c, y.w_low * x.w_high, g);
            add_to_pixel(in, b, y.high, x.low, c, y.w_high * x.w_low, g);
            add_to_pixel(in, b, y.high, x.high, c, y.w_high * x.w_high, g);
        }
}

/* ---- launching ---- */

mabn_status check_op(const struct mabn_cuda_rois *rois, const struct mabn_roi_align *op)
{
    if (op->levels < 1 || op->levels > MABN_ROI_MAX_LEVELS)
        return mabn_fail(MABN_ERR_ARG, "RoIAlign: %d levels, expected 1 to %d", op->levels,
                         MABN_ROI_MAX_LEVELS);
    if (op->rows < 1 || op->columns < 1 || op->rows > MAX_BINS || op->columns > MAX_BINS ||
        op->sampling < 0 || op->sampling > 1024)
        return mabn_fail(MABN_ERR_ARG, "RoIAlign on a GPU: %d×%d bins, sampling %d: out of range",
                         op->rows, op->columns, op->sampling);
    if (op->channels < 1 || op->images < 0 || rois->capacity < 0)
        return mabn_fail(MABN_ERR_ARG, "RoIAlign: no channels");
    for (int l = 0; l < op->levels; l++)
        if (op->level[l].h < 1 || op->level[l].w < 1 || !(op->level[l].scale > 0))
            return mabn_fail(MABN_ERR_ARG, "RoIAlign: level %d is empty", l);
    return MABN_OK;
}

template <typename T>
struct align_args<T> make_args(const void *const *x, const struct mabn_cuda_rois *rois,
                               const struct mabn_roi_align *op) {
    struct align_args<T> in = {
    };
    for (int l = 0; l < op->levels; l++) {
        in.x[l] = static_cast<T *>(const_cast<void *>(x[l]));
        in.level[l] = {op->level[l].h, op->level[l].w, (float)op->level[l].scale};
    }
    in.rois = *rois;
    in.images = op->images;
    in.channels = op->channels;
    in.levels = op->levels;
    in.rows = op->rows;
    in.columns = op->columns;
    in.sampling = op->sampling;
    in.aligned = op->aligned;
    return in;
}

bool fits(enum mabn_dtype dtype, const void *pooled, const void *const *x,
          const struct mabn_roi_align *op)
{
    return mabn_pack_fits(dtype, op->channels, &pooled, 1) &&
           mabn_pack_fits(dtype, op->channels, x, op->levels);
}

template <int V>
mabn_status add_atomically(const struct align_args<float> &in, int64_t values, void *stream)
{
    return MABN_LAUNCH((align_backward_atomic<V>),
                       dim3((unsigned)((values / V + THREADS - 1) / THREADS)), THREADS, 0,
                       static_cast<cudaStream_t>(stream), in);
}

} // namespace

mabn_status mabn_cuda_roi_align_forward(void *y, const void *const *x,
                                        const struct mabn_cuda_rois *rois,
                                        const struct mabn_roi_align *op, enum mabn_dtype dtype,
                                        void *stream)
{
    MABN_TRY(check_op(rois, op));
    const int64_t values = rois->capacity * op->rows * op->columns * op->channels;
    if (!values) return MABN_OK;
    return mabn_by_type(dtype, fits(dtype, y, x, op), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        struct align_args<T> in = make_args<T>(x, rois, op);
        in.y = static_cast<T *>(y);
        return MABN_LAUNCH((align_forward<T, V>),
                           dim3((unsigned)((values / V + THREADS - 1) / THREADS)), THREADS, 0,
                           static_cast<cudaStream_t>(stream), in);
    });
}

mabn_status mabn_cuda_roi_align_backward(void *const *dx, const void *dy,
                                         const struct mabn_cuda_rois *rois,
                                         const struct mabn_roi_align *op, bool add,
                                         enum mabn_dtype dtype, void *stream)
{
    MABN_TRY(check_op(rois, op));
    if (!op->images) return MABN_OK;
    return mabn_by_type(dtype, fits(dtype, dy, dx, op), [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        struct align_args<T> in = make_args<T>(dx, rois, op);
        const int64_t slices = (op->channels / V + TILE_C - 1) / TILE_C;
        in.dy = static_cast<const T *>(dy);
        in.add = add;
        for (in.here = 0; in.here < op->levels; in.here++) {
            const struct mabn_roi_level *l = &op->level[in.here];
            const int64_t tiles =
                op->images * ((l->h + TILE_H - 1) / TILE_H) * ((l->w + TILE_W - 1) / TILE_W);
            MABN_TRY(MABN_LAUNCH((align_backward<T, V>), dim3((unsigned)tiles, (unsigned)slices),
                                 THREADS, 0, static_cast<cudaStream_t>(stream), in));
        }
        return MABN_OK;
    });
}

bool mabn_cuda_roi_align_adds_atomically(void)
{
    static const bool atomic = [] {
        const char *word = getenv("MABN_ROI_ATOMIC");
        return word && !strcmp(word, "1");
    }();
    return atomic;
}

mabn_status mabn_cuda_roi_align_backward_atomic(float *const *dx, const float *dy,
                                                const struct mabn_cuda_rois *rois,
                                                const struct mabn_roi_align *op, void *stream)
{
    const void *maps[MABN_ROI_MAX_LEVELS];
    MABN_TRY(check_op(rois, op));
    for (int l = 0; l < op->levels; l++)
        maps[l] = dx[l];
    const int64_t values = rois->capacity * op->rows * op->columns * op->channels;
    if (!values || !op->images) return MABN_OK;
    struct align_args<float> in = make_args<float>(maps, rois, op);
    in.dy = dy;
    return fits(MABN_DTYPE_F32, dy, maps, op) ? add_atomically<4>(in, values, stream)
                                              : add_atomically<1>(in, values, stream);
}
