/* GN, LN and IN forward in one pass over memory: a block takes whole groups of channels of one
 * sample, keeps what it read in shared memory, and writes y from there. Two arrays move instead of
 * three. For what does not fit there are the passes of kernels_cuda.cu.
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
    int group, slots;
};

int gcd(int a, int b)
{
    return b ? gcd(b, a % b) : a;
}

int slots_of(int rows, int tile)
{
    const int step = THREADS / tile;
    return (rows + step - 1) / step;
}

/* Whole groups and whole vectors a block; as many as leave enough blocks, fit twice into a
 * multiprocessor and are not fewer than a sector of 32 bytes, if that can be. */
bool cut_sample(struct cut *c, const struct mabn_cuda_work *w, const struct mabn_cuda_rows *rows)
{
    const int vector = 16 / (int)mabn_dtype_size(rows->dtype);
    const int group = rows->channels / w->o.groups;
    const int unit = group / gcd(group, vector); /* vectors */
    const int units = rows->channels / (unit * vector);
    const int most = MOST_CHANNELS / vector < THREADS ? MOST_CHANNELS / vector : THREADS;

    if (!rows->wide || unit > most || rows->run_rows > MOST_BYTES / 16) return false;
    c->rows = (int)rows->run_rows;
    c->channels = rows->channels;
    c->group = group;
    c->tile = unit;
    for (int k = 2; k <= units && k * unit <= most; k++) {
        const int64_t blocks = rows->runs * ((units + k - 1) / k);
        if (slots_of(c->rows, k * unit) * THREADS * 16 > TWO_A_MULTIPROCESSOR) break;
        if (k * unit > 2 && blocks < WANTED_BLOCKS) break;
        if (k * unit % 2 == 0) c->tile = k * unit; /* whole sectors */
    }
    c->tiles = (rows->channels / vector + c->tile - 1) / c->tile;
    c->slots = slots_of(c->rows, c->tile);
    return c->slots * THREADS * 16 <= MOST_BYTES;
}

template <typename T> struct args {
    T *y;
    const T *x, *residual;
    bool relu;
};

/* Where a thread works. */
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

#define FOR_SLOTS(u, row)                                                                   \
    _Pragma("unroll") for (int u = 0; u < UNROLL; u++) if (const int row = r0 + u * p.step; \
                                                           row < p.end)

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
    const int self = (int)threadIdx.x, width = c.tile * V;
    const int64_t base = p.sample * c.rows * c.channels + p.channel;
    const int64_t run = p.sample * c.channels + p.channel0; /* in arrays (runs,channels) */
    const int here = c.channels - p.channel0 < width ? c.channels - p.channel0 : width;
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

/* *done: there is so much shared memory. */
template <typename T, bool RESIDUAL>
mabn_status launch(bool *done, const struct args<T> &in, const struct mabn_cuda_work *w,
                   const struct cut &c, int64_t samples, cudaStream_t stream)
{
    const int bytes = c.slots * THREADS * 16;

    *done = cudaFuncSetAttribute(sample_kernel<T, RESIDUAL>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess;
    if (!*done) {
        (void)cudaGetLastError();
        return MABN_OK;
    }
    return MABN_LAUNCH_EARLY((sample_kernel<T, RESIDUAL>), (unsigned)(samples * c.tiles), THREADS,
                             (size_t)bytes, stream, in, *w, c);
}

} // namespace

mabn_status mabn_cuda_sample_forward(bool *done, const struct mabn_cuda_work *w,
                                     const struct mabn_cuda_apply_in *in,
                                     const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    struct cut c;

    *done = cut_sample(&c, w, rows);
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
