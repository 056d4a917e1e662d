/* The heavy kernels on the GPU: see kernels.cuh.
 *
 * All walk rows the same way. A block of 256 threads takes a tile of up to 32 vectors of channels
 * (16 bytes each where channels and pointers allow it, else single values) and a chunk of one run's
 * rows, as many rows at a time as the remaining threads allow. A thread keeps its channels, so
 * coefficients are read once, and issues the loads of 2 or 4 rows before it uses the first. Blocks
 * are short (tens of rows a thread) and there are thousands, which keeps the memory system busy
 * until the end of the launch.
 *
 * Passes that write walk from the last row to the first: they find in the cache what the previous
 * pass or convolution touched last, and leave there what the next one reads first.
 *
 * Cutting depends on the array's shape alone, never on the device, so sums are the same bits on
 * every one.    */
#include "norm/kernels.cuh"

#include <type_traits>

#include "device/pack.cuh"
#include "norm/coefficients.h"

namespace
{

enum {
    THREADS = 256,
    TILE = 32, /* vectors of channels a block, at most: 512 bytes of a row */
    MIN_PASSES = 4,
    SUM_BLOCKS = 2112,  /* passes that write partial sums: about this many blocks */
    APPLY_BLOCKS = 8448 /* passes that do not */
};

struct cut {
    int64_t rows, run_rows, chunk_rows;
    int channels, tile, tiles, chunks;
    bool backwards;      /* blocks in turn take the rows from the last to the first */
    const int32_t *live; /* moments: of struct mabn_cuda_rows */
    int64_t positions;
};

int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Whole passes of a block's rows, so many that `blocks` blocks do the work, but at least
 * MIN_PASSES. */
struct cut cut_rows(const struct mabn_cuda_rows *rows, int vector, int blocks)
{
    struct cut c;
    c.backwards = false;
    c.live = NULL;
    c.positions = rows->positions;
    c.rows = rows->rows;
    c.run_rows = rows->run_rows;
    c.channels = rows->channels;
    const int vectors = rows->channels / vector;
    c.tile = vectors < TILE ? vectors : TILE;
    c.tiles = (int)ceil_div(vectors, c.tile);
    const int64_t pass = THREADS / c.tile;
    const int64_t wanted = ceil_div(blocks, rows->runs * c.tiles);
    const int64_t passes =
        ceil_div(ceil_div(rows->run_rows, wanted), pass * MIN_PASSES) * MIN_PASSES;
    c.chunk_rows = passes * pass;
    c.chunks = (int)ceil_div(rows->run_rows, c.chunk_rows);
    return c;
}

struct cut cut_moments(const struct mabn_cuda_rows *rows, int vector)
{
    struct cut c = cut_rows(rows, vector, SUM_BLOCKS);
    c.live = rows->live;
    return c;
}

dim3 grid_of(const struct cut &c, int64_t runs)
{
    return dim3((unsigned)(c.tiles * c.chunks * runs));
}

/* The part of a thread. */
struct place {
    int64_t run, first, end; /* rows first, first + step, … < end */
    int chunk, step;
    int channel; /* first of the vector */
    int row;     /* of the pass */
    bool active;
};

template <int V> __device__ __forceinline__ struct place find_place(const struct cut &c)
{
    struct place p;
    const unsigned block = c.backwards ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned tile = block % c.tiles, rest = block / c.tiles;
    p.chunk = (int)(rest % c.chunks);
    p.run = rest / c.chunks;
    p.step = THREADS / c.tile;
    p.row = (int)threadIdx.x / c.tile;
    p.channel = (int)(tile * c.tile + threadIdx.x % c.tile) * V;
    p.active = p.row < p.step && p.channel < c.channels;
    const int64_t run0 = p.run * c.run_rows, chunk0 = run0 + p.chunk * c.chunk_rows;
    int64_t end = chunk0 + c.chunk_rows;
    end = end < run0 + c.run_rows ? end : run0 + c.run_rows;
    int64_t rows = c.rows;
    if (c.live && *c.live * c.positions < rows) rows = *c.live * c.positions;
    p.end = p.active ? (end < rows ? end : rows) : 0;
    p.first = chunk0 + p.row;
    return p;
}

/* Sum over the block's threads, rows in order, and write one partial sum for each channel. */
template <int V, typename Shared>
__device__ void leave_sum(float *out, Shared &part, const float (&sum)[V], const struct place &p,
                          const struct cut &c)
{
    const int width = c.tile * V, lane = (int)threadIdx.x % c.tile;
    if (p.row < p.step)
#pragma unroll
        for (int j = 0; j < V; j++)
            part[p.row * width + lane * V + j] = sum[j];
    __syncthreads();
    const int channel0 = p.channel - lane * V;
    for (int i = (int)threadIdx.x; i < width && channel0 + i < c.channels; i += THREADS) {
        float even = 0, odd = 0;
        for (int row = 0; row < p.step; row += 2) {
            even += part[row * width + i];
            if (row + 1 < p.step) odd += part[(row + 1) * width + i];
        }
        out[(p.run * c.chunks + p.chunk) * c.channels + channel0 + i] = even + odd;
    }
    __syncthreads();
}

/* Do `body(u, row)` for the UNROLL rows from r0 on that there are. */
#define FOR_ROWS(u, row)                                                                        \
    _Pragma("unroll") for (int u = 0; u < UNROLL; u++) if (const int64_t row = r0 + u * p.step; \
                                                           row < p.end)

/* ---- forward ---- */

__device__ void move_on(const struct mabn_cuda_counter &counter, const int32_t *live)
{
    if (blockIdx.x || threadIdx.x || (live && !*live)) return;
    int64_t by = 1;
    if (counter.run_samples) {
        const int64_t samples = live && *live < counter.samples ? *live : counter.samples;
        by = (samples + counter.run_samples - 1) / counter.run_samples;
    }
    if (counter.f32) *counter.f32 += (float)by;
    if (counter.i64) *counter.i64 += by;
}

template <typename T, int V, bool SHIFTED>
__global__ void __launch_bounds__(THREADS)
    moments_kernel(float *sum_out, float *square_out, float *first_out, const T *x,
                   struct mabn_cuda_counter counter, struct cut c)
{
    constexpr int UNROLL = 4;
    MABN_SHARED(float, part, THREADS *V);
    mabn_await_inputs();
    const struct place p = find_place<V>(c);
    float sum[V] = {0}, square[V] = {0}, shift[V] = {0};

    move_on(counter, c.live);
    if (SHIFTED && p.active) {
        mabn_load(shift, x + p.run * c.run_rows * c.channels + p.channel);
        if (p.chunk == 0 && p.row == 0)
#pragma unroll
            for (int j = 0; j < V; j++)
                first_out[p.run * c.channels + p.channel + j] = shift[j];
    }
    for (int64_t r0 = p.first; r0 < p.end; r0 += UNROLL * p.step) {
        typename mabn_vector<T, V>::raw raw[UNROLL];
        FOR_ROWS(u, row) raw[u] = mabn_fetch<V>(x + row * c.channels + p.channel);
        FOR_ROWS(u, row)
        {
            float v[V];
            mabn_unpack<T>(v, raw[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float d = v[j] - shift[j];
                if (SHIFTED) sum[j] += d;
                square[j] = fmaf(d, d, square[j]);
            }
        }
    }
    leave_sum<V>(square_out, part, square, p, c);
    if (SHIFTED) leave_sum<V>(sum_out, part, sum, p, c);
}

template <typename T> struct apply_args {
    T *y;
    const T *x, *residual;
    struct mabn_cuda_affine affine;
    bool relu;
    struct mabn_cuda_counter counter;
    /* KNOWN */
    struct mabn_cuda_known known;
    float *square;
};

/* a and b of the block's channels, a thread each, into `affine` (2,width). */
template <int V, typename Shared>
__device__ void find_known(Shared &affine, const struct mabn_cuda_known &known,
                           const struct place &p, const struct cut &c)
{
    const int width = c.tile * V;
    const int channel0 = p.channel - (int)threadIdx.x % c.tile * V;

    for (int i = (int)threadIdx.x; i < width && channel0 + i < c.channels; i += THREADS) {
        const int channel = channel0 + i;
        affine[i] =
            (float)mabn_known_a(known.gamma[channel], known.running_var[channel], known.eps);
        affine[width + i] = known.beta[channel];
    }
    __syncthreads();
}

/* The first rows are requested before the coefficients. */
template <typename T, int V, bool RESIDUAL, bool KNOWN>
__global__ void __launch_bounds__(THREADS) apply_kernel(struct apply_args<T> in, struct cut c)
{
    constexpr int UNROLL = RESIDUAL ? 2 : 4;
    MABN_SHARED(float, part, KNOWN ? THREADS *V : 1);
    MABN_SHARED(float, affine, KNOWN ? 2 * TILE *V : 1);
    const struct place p = find_place<V>(c);
    float a[V] = {0}, b[V] = {0}, square[V] = {0};
    typename mabn_vector<T, V>::raw raw[UNROLL], raw_add[UNROLL];
    auto fetch = [&](int64_t r0) {
        FOR_ROWS(u, row)
        {
            raw[u] = mabn_fetch<V>(in.x + row * c.channels + p.channel);
            if (RESIDUAL) raw_add[u] = mabn_fetch<V>(in.residual + row * c.channels + p.channel);
        }
    };

    mabn_await_inputs();
    fetch(p.first);
    move_on(in.counter, NULL);
    if constexpr (KNOWN) {
        find_known<V>(affine, in.known, p, c);
        if (p.active)
#pragma unroll
            for (int j = 0; j < V; j++) {
                const int at = (int)threadIdx.x % c.tile * V + j;
                a[j] = affine[at];
                b[j] = affine[c.tile * V + at];
            }
    } else if (p.active) {
        mabn_load(a, in.affine.a + p.run * in.affine.stride + p.channel);
        mabn_load(b, in.affine.b + p.run * in.affine.stride + p.channel);
    }
    for (int64_t r0 = p.first; r0 < p.end; r0 += UNROLL * p.step) {
        FOR_ROWS(u, row)
        {
            float v[V], add[V];
            mabn_unpack<T>(v, raw[u]);
            if (RESIDUAL) mabn_unpack<T>(add, raw_add[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                if (KNOWN) square[j] = fmaf(v[j], v[j], square[j]);
                float y = fmaf(a[j], v[j], b[j]);
                if (RESIDUAL) y += add[j];
                v[j] = in.relu && y < 0 ? 0 : y; /* NaN passes */
            }
            mabn_store(in.y + row * c.channels + p.channel, v);
        }
        fetch(r0 + UNROLL * p.step);
    }
    if constexpr (KNOWN) leave_sum<V>(in.square, part, square, p, c);
}

/* ---- backward ---- */

template <typename T> struct grad_args {
    const T *dy, *x, *y;
    struct mabn_cuda_affine affine;
    const float *shift;
    T *dx, *dresidual;
    const float *p, *q, *r;
    int64_t stride;
    float *sum; /* SUM */
};

template <typename T, int V, int MASK>
__global__ void __launch_bounds__(THREADS)
    grad_moments_kernel(float *sum_out, float *dot_out, struct grad_args<T> in, struct cut c)
{
    constexpr int UNROLL = 2;
    MABN_SHARED(float, part, THREADS *V);
    mabn_await_inputs();
    const struct place p = find_place<V>(c);
    float sum[V] = {0}, dot[V] = {0}, shift[V] = {0}, a[V] = {0}, b[V] = {0};

    if (p.active && MASK == MABN_MASK_X) {
        mabn_load(a, in.affine.a + p.run * in.affine.stride + p.channel);
        mabn_load(b, in.affine.b + p.run * in.affine.stride + p.channel);
    }
    if (p.active && in.shift) mabn_load(shift, in.shift + p.run * c.channels + p.channel);
    for (int64_t r0 = p.first; r0 < p.end; r0 += UNROLL * p.step) {
        typename mabn_vector<T, V>::raw raw_dy[UNROLL], raw_x[UNROLL], raw_y[UNROLL];
        FOR_ROWS(u, row)
        {
            const int64_t at = row * c.channels + p.channel;
            raw_dy[u] = mabn_fetch<V>(in.dy + at);
            raw_x[u] = mabn_fetch<V>(in.x + at);
            if (MASK == MABN_MASK_Y) raw_y[u] = mabn_fetch<V>(in.y + at);
        }
        FOR_ROWS(u, row)
        {
            float dy[V], x[V], y[V] = {0};
            mabn_unpack<T>(dy, raw_dy[u]);
            mabn_unpack<T>(x, raw_x[u]);
            if (MASK == MABN_MASK_Y) mabn_unpack<T>(y, raw_y[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float g = mabn_masked<MASK>(dy[j], x[j], y[j], a[j], b[j]);
                sum[j] += g;
                dot[j] = fmaf(g, x[j] - shift[j], dot[j]);
                dy[j] = g;
            }
            if (MASK == MABN_MASK_Y && in.dresidual)
                mabn_store(in.dresidual + row * c.channels + p.channel, dy);
        }
    }
    leave_sum<V>(sum_out, part, sum, p, c);
    leave_sum<V>(dot_out, part, dot, p, c);
}

/* What besides p·g makes dx. */
enum rest { NO_REST, REST_Q /* MABN: q·x */, REST_QR /* q·(x − shift) + r */ };

/* SUM: and Σ g on the way. */
template <typename T, int V, int MASK, int REST, bool SUM>
__global__ void __launch_bounds__(THREADS, REST == REST_QR && MASK != MABN_MASK_NONE ? 2 : 3)
    grad_apply_kernel(struct grad_args<T> in, struct cut c)
{
    constexpr int UNROLL = 2;
    MABN_SHARED(float, part, SUM ? THREADS *V : 1);
    const struct place p = find_place<V>(c);
    float sum[V] = {0};
    float kp[V] = {0}, kq[V] = {0}, kr[V] = {0}, shift[V] = {0}, a[V] = {0}, b[V] = {0};

    mabn_await_inputs();
    if (p.active) {
        const int64_t at = p.run * in.stride + p.channel;
        if (MASK != MABN_MASK_X) mabn_load(kp, in.p + at); /* it is a then */
        if (REST) mabn_load(kq, in.q + at);
        if (REST == REST_QR && in.r) mabn_load(kr, in.r + at);
        if (REST == REST_QR && in.shift)
            mabn_load(shift, in.shift + p.run * c.channels + p.channel);
        if (MASK == MABN_MASK_X) {
            mabn_load(a, in.affine.a + p.run * in.affine.stride + p.channel);
            mabn_load(b, in.affine.b + p.run * in.affine.stride + p.channel);
        }
    }
    for (int64_t r0 = p.first; r0 < p.end; r0 += UNROLL * p.step) {
        typename mabn_vector<T, V>::raw raw_dy[UNROLL], raw_x[UNROLL], raw_y[UNROLL];
        FOR_ROWS(u, row)
        {
            const int64_t at = row * c.channels + p.channel;
            raw_dy[u] = mabn_fetch<V>(in.dy + at);
            if (REST || MASK == MABN_MASK_X) raw_x[u] = mabn_fetch<V>(in.x + at);
            if (MASK == MABN_MASK_Y) raw_y[u] = mabn_fetch<V>(in.y + at);
        }
        FOR_ROWS(u, row)
        {
            const int64_t at = row * c.channels + p.channel;
            float g[V], x[V] = {0}, y[V] = {0};
            mabn_unpack<T>(g, raw_dy[u]);
            if (REST || MASK == MABN_MASK_X) mabn_unpack<T>(x, raw_x[u]);
            if (MASK == MABN_MASK_Y) mabn_unpack<T>(y, raw_y[u]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                g[j] = mabn_masked<MASK>(g[j], x[j], y[j], a[j], b[j]);
                if (SUM) sum[j] += g[j];
            }
            if (!SUM && in.dresidual) mabn_store(in.dresidual + at, g);
#pragma unroll
            for (int j = 0; j < V; j++)
                g[j] = fmaf(MASK == MABN_MASK_X ? a[j] : kp[j], g[j],
                            REST == REST_QR  ? fmaf(kq[j], x[j] - shift[j], kr[j])
                            : REST == REST_Q ? kq[j] * x[j]
                                             : 0);
            mabn_store(in.dx + at, g);
        }
    }
    if constexpr (SUM) leave_sum<V>(in.sum, part, sum, p, c);
}

/* ---- choosing a kernel ---- */

template <typename T> struct apply_args<T> apply_args_of(const struct mabn_cuda_apply_in *in) {
    struct apply_args<T> args = {
    };
    args.y = static_cast<T *>(in->y);
    args.x = static_cast<const T *>(in->x);
    args.residual = static_cast<const T *>(in->residual);
    args.affine = in->affine;
    args.relu = in->relu;
    args.counter = in->counter;
    return args;
}

template <int V, bool KNOWN, typename T>
mabn_status launch_apply(const struct apply_args<T> &args, struct cut c,
                         const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    const dim3 grid = grid_of(c, rows->runs);
    c.backwards = true;
    if (args.residual)
        return MABN_LAUNCH_EARLY((apply_kernel<T, V, true, KNOWN>), grid, THREADS, 0, stream, args,
                                 c);
    return MABN_LAUNCH_EARLY((apply_kernel<T, V, false, KNOWN>), grid, THREADS, 0, stream, args, c);
}

template <typename T> struct grad_args<T> grad_args_of(const struct mabn_cuda_grad *in) {
    struct grad_args<T> args = {
    };
    args.dy = static_cast<const T *>(in->dy);
    args.x = static_cast<const T *>(in->x);
    args.y = static_cast<const T *>(in->y);
    args.affine = in->affine;
    args.shift = in->shift;
    return args;
}

template <typename T, int V, int MASK>
mabn_status launch_grad_apply(const struct grad_args<T> &args, const struct mabn_cuda_rows *rows,
                              cudaStream_t stream)
{
    struct cut c = cut_rows(rows, V, APPLY_BLOCKS);
    const dim3 grid = grid_of(c, rows->runs);
    c.backwards = true;
    if (args.q && (args.r || args.shift))
        return MABN_LAUNCH_EARLY((grad_apply_kernel<T, V, MASK, REST_QR, false>), grid, THREADS, 0,
                                 stream, args, c);
    if (args.q)
        return MABN_LAUNCH_EARLY((grad_apply_kernel<T, V, MASK, REST_Q, false>), grid, THREADS, 0,
                                 stream, args, c);
    return MABN_LAUNCH_EARLY((grad_apply_kernel<T, V, MASK, NO_REST, false>), grid, THREADS, 0,
                             stream, args, c);
}

} // namespace

int mabn_cuda_chunks(const struct mabn_cuda_rows *rows)
{
    const int wide = 16 / (int)mabn_dtype_size(rows->dtype);
    return cut_rows(rows, rows->wide ? wide : 1, SUM_BLOCKS).chunks;
}

int64_t mabn_cuda_most_partials(const struct mabn_cuda_rows *rows)
{
    /* cut_rows makes chunks ≤ ceil(SUM_BLOCKS/(runs·tiles)), so runs·chunks ≤ runs +
     * SUM_BLOCKS/tiles; the widest tile gives the fewest. */
    const int64_t tiles = ceil_div(rows->channels, TILE * 8);
    const int64_t blocks = SUM_BLOCKS / tiles;
    return rows->runs + (blocks < rows->rows ? blocks : rows->rows);
}

mabn_status mabn_cuda_square(float *square, const void *x, struct mabn_cuda_counter counter,
                             const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        const struct cut c = cut_moments(rows, V);
        return MABN_LAUNCH_EARLY((moments_kernel<T, V, false>), grid_of(c, rows->runs), THREADS, 0,
                                 stream, nullptr, square, nullptr, static_cast<const T *>(x),
                                 counter, c);
    });
}

mabn_status mabn_cuda_moments(float *sum, float *square, float *first, const void *x,
                              struct mabn_cuda_counter counter, const struct mabn_cuda_rows *rows,
                              cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        const struct cut c = cut_moments(rows, V);
        return MABN_LAUNCH_EARLY((moments_kernel<T, V, true>), grid_of(c, rows->runs), THREADS, 0,
                                 stream, sum, square, first, static_cast<const T *>(x), counter, c);
    });
}

mabn_status mabn_cuda_apply(const struct mabn_cuda_apply_in *in, const struct mabn_cuda_rows *rows,
                            cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        return launch_apply<V, false>(apply_args_of<T>(in), cut_rows(rows, V, APPLY_BLOCKS), rows,
                                      stream);
    });
}

mabn_status mabn_cuda_apply_known(const struct mabn_cuda_apply_in *in,
                                  const struct mabn_cuda_known *known, float *square,
                                  const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        struct apply_args<T> args = apply_args_of<T>(in);
        args.known = *known;
        args.square = square;
        return launch_apply<V, true>(args, cut_rows(rows, V, SUM_BLOCKS), rows, stream);
    });
}

mabn_status mabn_cuda_grad_moments(float *sum, float *dot, void *masked,
                                   const struct mabn_cuda_grad *in,
                                   const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        const struct cut c = cut_moments(rows, V);
        const dim3 grid = grid_of(c, rows->runs);
        struct grad_args<T> args = grad_args_of<T>(in);
        args.dresidual = static_cast<T *>(masked);
        if (in->mask == MABN_MASK_Y)
            return MABN_LAUNCH_EARLY((grad_moments_kernel<T, V, MABN_MASK_Y>), grid, THREADS, 0,
                                     stream, sum, dot, args, c);
        if (in->mask == MABN_MASK_X)
            return MABN_LAUNCH_EARLY((grad_moments_kernel<T, V, MABN_MASK_X>), grid, THREADS, 0,
                                     stream, sum, dot, args, c);
        return MABN_LAUNCH_EARLY((grad_moments_kernel<T, V, MABN_MASK_NONE>), grid, THREADS, 0,
                                 stream, sum, dot, args, c);
    });
}

mabn_status mabn_cuda_grad_apply(void *dx, void *dresidual, const struct mabn_cuda_grad *in,
                                 const float *p, const float *q, const float *r, int64_t stride,
                                 const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        struct grad_args<T> args = grad_args_of<T>(in);
        args.dx = static_cast<T *>(dx);
        args.dresidual = static_cast<T *>(dresidual);
        args.p = p;
        args.q = q;
        args.r = r;
        args.stride = stride;
        if (in->mask == MABN_MASK_Y)
            return launch_grad_apply<T, V, MABN_MASK_Y>(args, rows, stream);
        if (in->mask == MABN_MASK_X)
            return launch_grad_apply<T, V, MABN_MASK_X>(args, rows, stream);
        return launch_grad_apply<T, V, MABN_MASK_NONE>(args, rows, stream);
    });
}

mabn_status mabn_cuda_grad_apply_sum(void *dx, float *sum, const struct mabn_cuda_grad *in,
                                     const float *p, const float *q,
                                     const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, rows->wide, [&](auto *type, auto vector) {
        using T = std::remove_pointer_t<decltype(type)>;
        constexpr int V = decltype(vector)::value;
        struct grad_args<T> args = grad_args_of<T>(in);
        struct cut c = cut_rows(rows, V, SUM_BLOCKS);
        const dim3 grid = grid_of(c, rows->runs);
        c.backwards = true;
        args.dx = static_cast<T *>(dx);
        args.p = p;
        args.q = q;
        args.stride = rows->channels;
        args.sum = sum;
        return MABN_LAUNCH_EARLY((grad_apply_kernel<T, V, MABN_MASK_NONE, REST_Q, true>), grid,
                                 THREADS, 0, stream, args, c);
    });
}
