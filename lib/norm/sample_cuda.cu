/* GN, LN and IN in one pass over memory: a block takes whole groups of channels of one sample,
 * keeps what it read in shared memory, and writes y, or dx, from there. Forward moves two arrays
 * instead of three, backward three instead of five. What does not fit is done by the passes of
 * kernels_cuda.cu.
 *
 * A thread keeps its channels, as there, and reads back only what it wrote itself: slot by slot,
 * THREADS vectors of 16 bytes each. */
#include "device/pack.cuh"
#include "norm/coefficients.cuh"
#include "norm/coefficients.h"
#include "norm/groups.cuh"
#include "norm/kernels.cuh"

namespace
{

enum {
    THREADS = 256,
    MOST_CHANNELS = 512,             /* of a block */
    TWO_A_MULTIPROCESSOR = 80 << 10, /* bytes of slots, so that two blocks fit on an H100 */
    MOST_BYTES = 196 << 10,
    WANTED_BLOCKS = 528
};

struct cut {
    int rows, channels;
    int tile, tiles; /* vectors of a block; blocks of a sample */
    int group;
    int vectors, bytes; /* of an array that is kept; of all */
};

int gcd(int a, int b)
{
    return b ? gcd(b, a % b) : a;
}

/* Slots are full but the last. */
int vectors_of(int rows, int tile)
{
    const int step = THREADS / tile, full = rows / step;
    return full * THREADS + (rows - full * step) * tile;
}

/* Choose the tile: whole groups and whole vectors. It is small enough for many blocks, two of which fit
 * into a multiprocessor, but if possible at least a memory sector of 32 bytes. arrays: the number of
 * arrays kept in shared memory. False: no tile fits. */
bool cut_sample(struct cut *c, const struct mabn_cuda_work *w, const struct mabn_cuda_rows *rows,
                int arrays)
{
    const int vector = 16 / (int)mabn_dtype_size(rows->dtype);
    const int group = rows->channels / w->o.groups;
    const int unit = group / gcd(group, vector); /* vectors */
    const int units = rows->channels / (unit * vector);
    const int most = MOST_CHANNELS / vector < THREADS ? MOST_CHANNELS / vector : THREADS;

    if (!rows->wide || unit > most || rows->run_rows * arrays > MOST_BYTES / 16) return false;
    c->rows = (int)rows->run_rows;
    c->channels = rows->channels;
    c->group = group;
    c->tile = unit;
    for (int k = 2; k <= units && k * unit <= most; k++) {
        const int64_t blocks = rows->runs * ((units + k - 1) / k);
        if (vectors_of(c->rows, k * unit) * arrays * 16 > TWO_A_MULTIPROCESSOR) break;
        if (k * unit > 2 && blocks < WANTED_BLOCKS) break;
        if (k * unit % 2 == 0) c->tile = k * unit; /* whole sectors */
    }
    c->tiles = (rows->channels / vector + c->tile - 1) / c->tile;
    c->vectors = vectors_of(c->rows, c->tile);
    c->bytes = c->vectors * arrays * 16;
    return c->bytes <= MOST_BYTES;
}

template <typename T> struct args {
    T *y;
    const T *x, *residual;
    bool relu;
};

/* The part of a thread. */
struct place {
    int64_t sample;
    int lane, row, step;        /* vector of the tile; first row; rows of all threads */
    int channel0, channel, end; /* the tile's first, the thread's first; end of the thread's rows */
};

template <int V> __device__ __forceinline__ struct place find_place(const struct cut &c)
{
    struct place p;
    p.sample = blockIdx.x / c.tiles;
    p.lane = (int)threadIdx.x % c.tile;
    p.row = (int)threadIdx.x / c.tile;
    p.step = THREADS / c.tile;
    p.channel0 = (int)(blockIdx.x % c.tiles) * c.tile * V;
    p.channel = p.channel0 + p.lane * V;
    p.end = p.row < p.step && p.channel < c.channels ? c.rows : 0;
    return p;
}

/* part[j·THREADS + thread]: added up over the rows of the block, for the threads of row 0. */
template <int V, typename Shared>
__device__ void add_rows(Shared &part, const float (&sum)[V], const struct place &p,
                         const struct cut &c)
{
    const int self = (int)threadIdx.x;
#pragma unroll
    for (int j = 0; j < V; j++)
        part[j * THREADS + self] = sum[j];
    for (int n = p.step, half; n > 1; n = half) {
        half = (n + 1) / 2;
        __syncthreads();
        if (p.row + half >= n) continue;
#pragma unroll
        for (int j = 0; j < V; j++)
            part[j * THREADS + self] += part[j * THREADS + self + half * c.tile];
    }
    __syncthreads();
}

/* out[first + i]: the same of the tile's channel i. */
template <int V, typename Sums, typename Shared>
__device__ void block_sum(Sums &out, int first, Shared &part, const float (&sum)[V],
                          const struct place &p, const struct cut &c)
{
    add_rows<V>(part, sum, p, c);
    if (p.row == 0)
#pragma unroll
        for (int j = 0; j < V; j++)
            out[first + p.lane * V + j] = part[j * THREADS + (int)threadIdx.x];
    __syncthreads();
}

/* Channels of the block's tile that there are. */
template <int V>
__device__ __forceinline__ int channels_here(const struct place &p, const struct cut &c)
{
    const int width = c.tile * V;
    return c.channels - p.channel0 < width ? c.channels - p.channel0 : width;
}

#define FOR_SLOTS(u, row)                                                                   \
    _Pragma("unroll") for (int u = 0; u < UNROLL; u++) if (const int row = r0 + u * p.step; \
                                                           row < p.end)

/* ---- forward ---- */

template <typename T, bool RESIDUAL>
__global__ void __launch_bounds__(THREADS, 2)
    sample_kernel(struct args<T> in, struct mabn_cuda_work w, struct cut c)
{
    constexpr int V = 16 / (int)sizeof(T), UNROLL = 4;
    MABN_SHARED_DYNAMIC(uint4, kept);
    MABN_SHARED(float, part, THREADS *V);
    MABN_SHARED(double, mean, MOST_CHANNELS);
    MABN_SHARED(double, var, MOST_CHANNELS);
    MABN_SHARED(float, affine, 2 * MOST_CHANNELS);
    const struct place p = find_place<V>(c);
    const int self = (int)threadIdx.x, here = channels_here<V>(p, c);
    const int64_t base = p.sample * c.rows * c.channels + p.channel;
    const int64_t run = p.sample * c.channels + p.channel0; /* in arrays (runs,channels) */
    float sum[V] = {0}, square[V] = {0}, shift[V] = {0};

    mabn_await_inputs();
    if (p.end) mabn_load(shift, in.x + base);
    for (int r0 = p.row, slot = 0; r0 < p.end; r0 += UNROLL * p.step, slot += UNROLL) {
        uint4 raw[UNROLL];
        FOR_SLOTS(u, row) raw[u] = mabn_fetch<V>(in.x + base + (int64_t)row * c.channels);
        FOR_SLOTS(u, row)
        {
            float v[V];
            kept[(slot + u) * THREADS + self] = raw[u];
            mabn_unpack<T>(v, raw[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float d = v[j] - shift[j];
                sum[j] += d;
                square[j] = fmaf(d, d, square[j]);
            }
        }
    }
    add_rows<V>(part, sum, p, c);
    if (p.row == 0)
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] = part[j * THREADS + self];
    __syncthreads();
    add_rows<V>(part, square, p, c);
    if (p.row == 0)
#pragma unroll
        for (int j = 0; j < V; j++) {
            double m, v;
            mabn_moments_finish(&m, &v, shift[j], sum[j], part[j * THREADS + self], c.rows);
            mean[p.lane * V + j] = m;
            var[p.lane * V + j] = v;
        }
    __syncthreads();
    mabn_join_groups<THREADS>(
        here / c.group, c.group,
        [&](int i, double *m, double *v) {
            *m = mean[i];
            *v = var[i];
        },
        [&](int i, double m, double v) {
            const int channel = p.channel0 + i;
            struct mabn_coef k;
            mabn_coef_bn(&k, m, v, w.o.eps, w.gamma[channel], w.beta[channel]);
            mabn_coef_keep(w.saved, run + i, k);
            affine[i] = k.a;
            affine[MOST_CHANNELS + i] = k.b;
        });
    __syncthreads();
    float a[V] = {0}, b[V] = {0};
    if (p.end)
#pragma unroll
        for (int j = 0; j < V; j++) {
            a[j] = affine[p.lane * V + j];
            b[j] = affine[MOST_CHANNELS + p.lane * V + j];
        }
    for (int r0 = p.row, slot = 0; r0 < p.end; r0 += UNROLL * p.step, slot += UNROLL) {
        uint4 raw_add[UNROLL];
        if (RESIDUAL) FOR_SLOTS(u, row)
        raw_add[u] = mabn_fetch<V>(in.residual + base + (int64_t)row * c.channels);
        FOR_SLOTS(u, row)
        {
            const uint4 raw = kept[(slot + u) * THREADS + self];
            float v[V], add[V];
            mabn_unpack<T>(v, raw);
            if (RESIDUAL) mabn_unpack<T>(add, raw_add[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float y = fmaf(a[j], v[j], b[j]);
                if (RESIDUAL) y += add[j];
                v[j] = in.relu && y < 0 ? 0 : y; /* NaN passes */
            }
            mabn_store(in.y + base + (int64_t)row * c.channels, v);
        }
    }
}

/* ---- backward ---- */

template <typename T> struct grad_args {
    T *dx, *dresidual;
    const T *dy, *x, *y; /* y only for MASK_Y */
};

/* Keeps g, the masked dy, and x; writes the channels' sums to w.stat0 and w.stat1. */
template <typename T, int MASK>
__global__ void __launch_bounds__(THREADS, 2)
    sample_grad_kernel(struct grad_args<T> in, struct mabn_cuda_work w, struct cut c)
{
    constexpr int V = 16 / (int)sizeof(T), UNROLL = MASK == MABN_MASK_Y ? 2 : 4;
    constexpr int PART = THREADS * V < 3 * MOST_CHANNELS ? 3 * MOST_CHANNELS : THREADS * V;
    MABN_SHARED_DYNAMIC(uint4, kept);
    MABN_SHARED(float, part, PART); /* then p, q and r */
    MABN_SHARED(float, sums, 2 * MOST_CHANNELS);
    const struct place p = find_place<V>(c);
    const int self = (int)threadIdx.x, here = channels_here<V>(p, c);
    const int64_t base = p.sample * c.rows * c.channels + p.channel;
    const int64_t run = p.sample * c.channels + p.channel0; /* in arrays (runs,channels) */
    float sum[V] = {0}, dot[V] = {0}, shift[V] = {0}, a[V] = {0}, b[V] = {0};

    mabn_await_inputs();
    if (p.end) mabn_load(shift, w.saved.mean + run + p.lane * V);
    if (p.end && MASK == MABN_MASK_X) {
        mabn_load(a, w.saved.a + run + p.lane * V);
        mabn_load(b, w.saved.b + run + p.lane * V);
    }
    for (int r0 = p.row, slot = 0; r0 < p.end; r0 += UNROLL * p.step, slot += UNROLL) {
        uint4 raw_g[UNROLL], raw_x[UNROLL], raw_y[UNROLL];
        FOR_SLOTS(u, row)
        {
            const int64_t at = base + (int64_t)row * c.channels;
            raw_g[u] = mabn_fetch<V>(in.dy + at);
            raw_x[u] = mabn_fetch<V>(in.x + at);
            if (MASK == MABN_MASK_Y) raw_y[u] = mabn_fetch<V>(in.y + at);
        }
        FOR_SLOTS(u, row)
        {
            float g[V], x[V], y[V] = {0};
            mabn_unpack<T>(g, raw_g[u]);
            mabn_unpack<T>(x, raw_x[u]);
            if (MASK == MABN_MASK_Y) mabn_unpack<T>(y, raw_y[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                g[j] = mabn_masked<MASK>(g[j], x[j], y[j], a[j], b[j]);
                sum[j] += g[j];
                dot[j] = fmaf(g[j], x[j] - shift[j], dot[j]);
            }
            kept[(slot + u) * THREADS + self] = mabn_pack<T>(g);
            kept[c.vectors + (slot + u) * THREADS + self] = raw_x[u];
            if (in.dresidual) mabn_store(in.dresidual + base + (int64_t)row * c.channels, g);
        }
    }
    block_sum<V>(sums, 0, part, sum, p, c);
    block_sum<V>(sums, MOST_CHANNELS, part, dot, p, c);
    for (int i = self; i < here; i += THREADS) {
        w.stat0[run + i] = sums[i];
        w.stat1[run + i] = sums[MOST_CHANNELS + i];
    }
    mabn_sum_groups<THREADS>(
        here / c.group, c.group,
        [&](int i, double *s, double *d) {
            const double gamma = w.gamma[p.channel0 + i];
            *s = gamma * sums[i];
            *d = gamma * sums[MOST_CHANNELS + i];
        },
        [&](int i, double s, double d) {
            const struct mabn_coef f = mabn_coef_kept(w.saved, run + i);
            struct mabn_grad_coef k;
            mabn_grad_bn(&k, &f, w.gamma[p.channel0 + i], s, d, (double)c.rows * c.group, 1);
            part[i] = k.p;
            part[MOST_CHANNELS + i] = k.q;
            part[2 * MOST_CHANNELS + i] = k.r;
        });
    __syncthreads();
    float kp[V] = {0}, kq[V] = {0}, kr[V] = {0};
    if (p.end)
#pragma unroll
        for (int j = 0; j < V; j++) {
            kp[j] = part[p.lane * V + j];
            kq[j] = part[MOST_CHANNELS + p.lane * V + j];
            kr[j] = part[2 * MOST_CHANNELS + p.lane * V + j];
        }
    for (int row = p.row, at = self; row < p.end; row += p.step, at += THREADS) {
        float g[V], x[V];
        mabn_unpack<T>(g, kept[at]);
        mabn_unpack<T>(x, kept[c.vectors + at]);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = fmaf(kp[j], g[j], fmaf(kq[j], x[j] - shift[j], kr[j]));
        mabn_store(in.dx + base + (int64_t)row * c.channels, g);
    }
}

/* ---- launching ---- */

/* May the kernel use this much shared memory on this device? The limit is never lowered, because a
 * graph may hold a launch that needs more. */
template <typename... Params> bool fits(void (*kernel)(Params...), int bytes)
{
    cudaFuncAttributes now;
    cudaError_t error = cudaFuncGetAttributes(&now, kernel);
    if (error == cudaSuccess && now.maxDynamicSharedSizeBytes < bytes)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error == cudaSuccess;
}

template <typename T, bool RESIDUAL>
mabn_status launch(bool *done, const struct args<T> &in, const struct mabn_cuda_work *w,
                   const struct cut &c, int64_t samples, cudaStream_t stream)
{
    *done = fits(sample_kernel<T, RESIDUAL>, c.bytes);
    if (!*done) return MABN_OK;
    return MABN_LAUNCH_EARLY((sample_kernel<T, RESIDUAL>), (unsigned)(samples * c.tiles), THREADS,
                             (size_t)c.bytes, stream, in, *w, c);
}

template <typename T, int MASK>
mabn_status launch_grad(bool *done, const struct grad_args<T> &in, const struct mabn_cuda_work *w,
                        const struct cut &c, int64_t samples, cudaStream_t stream)
{
    *done = fits(sample_grad_kernel<T, MASK>, c.bytes);
    if (!*done) return MABN_OK;
    return MABN_LAUNCH_EARLY((sample_grad_kernel<T, MASK>), (unsigned)(samples * c.tiles), THREADS,
                             (size_t)c.bytes, stream, in, *w, c);
}

} // namespace

mabn_status mabn_cuda_sample_forward(bool *done, const struct mabn_cuda_work *w,
                                     const struct mabn_cuda_apply_in *in,
                                     const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    struct cut c;

    *done = cut_sample(&c, w, rows, 1);
    if (!*done) return MABN_OK;
    return mabn_by_type(rows->dtype, true, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct args<T> args = {
            static_cast<T *>(in->y), static_cast<const T *>(in->x),
                static_cast<const T *>(in->residual), in->relu
        };
        if (args.residual) return launch<T, true>(done, args, w, c, rows->runs, stream);
        return launch<T, false>(done, args, w, c, rows->runs, stream);
    });
}

mabn_status mabn_cuda_sample_backward(bool *done, void *dx, void *dresidual,
                                      const struct mabn_cuda_work *w,
                                      const struct mabn_cuda_grad *in,
                                      const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    struct cut c;

    *done = cut_sample(&c, w, rows, 2);
    if (!*done) return MABN_OK;
    MABN_TRY(mabn_by_type(rows->dtype, true, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct grad_args<T> args = {
            static_cast<T *>(dx), static_cast<T *>(dresidual), static_cast<const T *>(in->dy),
                static_cast<const T *>(in->x), static_cast<const T *>(in->y)
        };
        if (in->mask == MABN_MASK_Y)
            return launch_grad<T, MABN_MASK_Y>(done, args, w, c, rows->runs, stream);
        if (in->mask == MABN_MASK_X)
            return launch_grad<T, MABN_MASK_X>(done, args, w, c, rows->runs, stream);
        return launch_grad<T, MABN_MASK_NONE>(done, args, w, c, rows->runs, stream);
    }));
    return *done ? mabn_cuda_sample_parameters(w, stream) : MABN_OK;
}
