/* FRN and EvoNorm-S0 on the GPU: see norm.h for what they compute.
 *
 * A block takes whole groups of channels of one sample (FRN: a group is a channel) and walks over its
 * positions twice: for the sums, and to apply. The second walk finds most of the sample in the L2 cache.
 * ROWS threads share a channel; neighbouring threads take neighbouring channels.
 * Sums are in double and in an order fixed by the shape. Simple kernels: they were never tuned. */
#include "device/pack.cuh"
#include "norm/coefficients.cuh"
#include "norm/coefficients.h"
#include "norm/groups.cuh"
#include "norm/kernels.cuh"

namespace
{

enum { COLUMNS = 32, ROWS = 8, THREADS = COLUMNS * ROWS };

enum rule {
    TLU,     /* FRN with tau, ReLU or nothing: y = act(a·x + b [+ residual]) */
    EVONORM, /* with its activation: y = a·h + b, h = x·sigmoid(v·x) */
    AFFINE   /* EvoNorm-S0 without: as TLU, nothing measured */
};

/* How samples are cut into blocks. */
struct cut {
    int rows, channels, group; /* rows of a sample; channels of a group */
    int tile, tiles;           /* channels of a block; blocks of a sample */
};

struct cut cut_sample(const struct mabn_cuda_work *w, enum rule rule)
{
    struct cut c;
    c.rows = (int)w->run_rows;
    c.channels = w->channels;
    c.group = rule == EVONORM ? w->channels / w->o.groups : 1;
    c.tile = (COLUMNS + c.group - 1) / c.group * c.group;
    c.tiles = (c.channels + c.tile - 1) / c.tile;
    return c;
}

/* A block's channels [channel0, channel0 + here) of sample `sample`. */
struct place {
    int64_t sample, base; /* of x */
    int64_t run;          /* in arrays (runs,channels) */
    int channel0, here;
};

__device__ __forceinline__ struct place find_place(const struct cut &c)
{
    struct place p;
    p.sample = blockIdx.x / c.tiles;
    p.channel0 = (int)(blockIdx.x % c.tiles) * c.tile;
    p.here = c.channels - p.channel0 < c.tile ? c.channels - p.channel0 : c.tile;
    p.run = p.sample * c.channels + p.channel0;
    p.base = p.sample * c.rows * c.channels + p.channel0;
    return p;
}

__device__ __forceinline__ float sigmoid(float z)
{
    return 1 / (1 + expf(-z));
}

/* Sums over the threads of a column, given to those of row 0. */
template <typename Shared> __device__ double column_sum(Shared &part, double value)
{
    const int self = (int)threadIdx.x;
    part[self] = value;
    for (int half = ROWS / 2; half; half /= 2) {
        __syncthreads();
        if (self < half * COLUMNS) part[self] += part[self + half * COLUMNS];
    }
    const double total = part[self];
    __syncthreads();
    return total;
}

/* For each channel i of the block: add(i, offset into x, sums) over the sample's rows, then
 * put(i, sums of all rows) by one thread. */
template <int N, typename Shared, typename Add, typename Put>
__device__ void sum_channels(Shared &part, const struct place &p, const struct cut &c, Add add,
                             Put put)
{
    const int column = (int)threadIdx.x % COLUMNS, first = (int)threadIdx.x / COLUMNS;

    for (int i0 = 0; i0 < p.here; i0 += COLUMNS) {
        const int i = i0 + column;
        double sums[N] = {0};
        for (int row = i < p.here ? first : c.rows; row < c.rows; row += ROWS)
            add(i, p.base + (int64_t)row * c.channels + i, sums);
        for (int k = 0; k < N; k++)
            sums[k] = column_sum(part, sums[k]);
        if (first == 0 && i < p.here) put(i, sums);
    }
    __syncthreads();
}

/* work(i, offset into x) for every value of the block. */
template <typename Work>
__device__ void for_values(const struct place &p, const struct cut &c, Work work)
{
    const int column = (int)threadIdx.x % COLUMNS, first = (int)threadIdx.x / COLUMNS;

    for (int i = column; i < p.here; i += COLUMNS)
        for (int row = first; row < c.rows; row += ROWS)
            work(i, p.base + (int64_t)row * c.channels + i);
}

/* The least y: tau as y's type holds it, or ReLU's 0. */
template <typename T> __device__ __forceinline__ float least_of(const float *act, int channel)
{
    T least;
    mabn_from_float(&least, act ? act[channel] : 0);
    return mabn_to_float(least);
}

/* ---- forward ---- */

template <typename T> struct args {
    T *y;
    const T *x, *residual;
    bool relu, again;
};

template <int RULE>
__device__ void keep_coefs(const struct mabn_cuda_work &w, const struct place &p, int i,
                           double mean, double var)
{
    const int channel = p.channel0 + i;
    const double gamma = w.gamma[channel], beta = w.beta[channel];
    struct mabn_coef k;

    if (RULE == AFFINE)
        mabn_coef_set(&k, 0, 0, 1, 0, gamma, beta);
    else
        mabn_coef_bn(&k, mean, var, w.o.eps, gamma, beta);
    if (RULE == EVONORM) k.b = (float)beta; /* the mean is not subtracted */
    mabn_coef_keep(w.saved, p.run + i, k);
}

/* Means in stat0 and variances in stat1 (TLU: 0 and E[x²]), then the coefficients. */
template <typename T, int RULE, typename Shared>
__device__ void measure(Shared &part, const T *x, const struct mabn_cuda_work &w,
                        const struct place &p, const struct cut &c)
{
    if (RULE == AFFINE) {
        for (int i = (int)threadIdx.x; i < p.here; i += THREADS)
            keep_coefs<RULE>(w, p, i, 0, 0);
        return;
    }
    sum_channels<2>(
        part, p, c,
        [&](int i, int64_t at, double(&sums)[2]) {
            const float d = mabn_to_float(x[at]) - (RULE == TLU ? 0 : mabn_to_float(x[p.base + i]));
            sums[0] += d;
            sums[1] += (double)d * d;
        },
        [&](int i, double(&sums)[2]) {
            double mean = 0, var = sums[1] / c.rows;
            if (RULE == EVONORM)
                mabn_moments_finish(&mean, &var, mabn_to_float(x[p.base + i]), sums[0], sums[1],
                                    c.rows);
            w.stat0[p.run + i] = mean;
            w.stat1[p.run + i] = var;
        });
    if (RULE == TLU)
        for (int i = (int)threadIdx.x; i < p.here; i += THREADS)
            keep_coefs<RULE>(w, p, i, 0, w.stat1[p.run + i]);
    else
        mabn_join_groups<THREADS>(
            p.here / c.group, c.group,
            [&](int i, double *mean, double *var) {
                *mean = w.stat0[p.run + i];
                *var = w.stat1[p.run + i];
            },
            [&](int i, double mean, double var) { keep_coefs<RULE>(w, p, i, mean, var); });
}

template <typename T, int RULE>
__global__ void __launch_bounds__(THREADS)
    act_kernel(struct args<T> in, struct mabn_cuda_work w, struct cut c)
{
    MABN_SHARED(double, part, THREADS);
    const struct place p = find_place(c);

    mabn_await_inputs();
    if (!in.again) measure<T, RULE>(part, in.x, w, p, c);
    __syncthreads();
    for_values(p, c, [&](int i, int64_t at) {
        const float v = mabn_to_float(in.x[at]), a = w.saved.a[p.run + i];
        const float h = RULE == EVONORM ? v * sigmoid(w.act[p.channel0 + i] * v) : v;
        float y = fmaf(a, h, w.saved.b[p.run + i]);
        if (RULE != EVONORM) {
            const float least = least_of<T>(w.act, p.channel0 + i);
            if (in.residual) y += mabn_to_float(in.residual[at]);
            if (in.relu && y < least) y = least; /* NaN passes */
        }
        mabn_from_float(&in.y[at], y);
    });
}

/* ---- backward ---- */

template <typename T> struct grad_args {
    T *dx, *dresidual;
    const T *dy, *x, *y;
    int mask;
};

/* dy behind ReLU or TLU. */
template <typename T>
__device__ float masked(const struct grad_args<T> &in, const struct mabn_cuda_work &w,
                        const struct place &p, int i, int64_t at)
{
    const float dy = mabn_to_float(in.dy[at]), least = least_of<T>(w.act, p.channel0 + i);
    if (in.mask == MABN_MASK_NONE) return dy;
    const float z = in.mask == MABN_MASK_Y
                        ? mabn_to_float(in.y[at])
                        : fmaf(w.saved.a[p.run + i], mabn_to_float(in.x[at]), w.saved.b[p.run + i]);
    return z <= least ? 0 : dy;
}

/* Writes the channels' sums to stat0 and stat1, and to r the terms of act's gradient. */
template <typename T, int RULE, typename Shared>
__device__ void grad_measure(Shared &part, const struct grad_args<T> &in,
                             const struct mabn_cuda_work &w, const struct place &p,
                             const struct cut &c)
{
    sum_channels<3>(
        part, p, c,
        [&](int i, int64_t at, double(&sums)[3]) {
            const float x = mabn_to_float(in.x[at]), dy = mabn_to_float(in.dy[at]);
            if (RULE == EVONORM) {
                const float s = sigmoid(w.act[p.channel0 + i] * x), h = x * s;
                sums[0] += dy;
                sums[1] += (double)dy * h;
                sums[2] += (double)dy * (x * h * (1 - s));
            } else {
                const float g = masked(in, w, p, i, at);
                sums[0] += g;
                sums[1] += (double)g * x;
                sums[2] += dy - g;
            }
        },
        [&](int i, double(&sums)[3]) {
            const double scale =
                RULE == EVONORM ? (double)w.gamma[p.channel0 + i] * w.saved.scale[p.run + i] : 1;
            w.stat0[p.run + i] = sums[0];
            w.stat1[p.run + i] = sums[1];
            w.r[p.run + i] = (float)(scale * sums[2]);
        });
}

template <typename T, int RULE>
__global__ void __launch_bounds__(THREADS)
    act_grad_kernel(struct grad_args<T> in, struct mabn_cuda_work w, struct cut c)
{
    MABN_SHARED(double, part, THREADS);
    const struct place p = find_place(c);

    mabn_await_inputs();
    grad_measure<T, RULE>(part, in, w, p, c);
    mabn_sum_groups<THREADS>(
        p.here / c.group, c.group,
        [&](int i, double *sum, double *dot) {
            *sum = 0;
            *dot = (double)w.gamma[p.channel0 + i] * w.stat1[p.run + i];
        },
        [&](int i, double sum, double dot) {
            const struct mabn_coef f = mabn_coef_kept(w.saved, p.run + i);
            struct mabn_grad_coef k;
            mabn_grad_bn(&k, &f, w.gamma[p.channel0 + i], sum, dot, (double)c.rows * c.group, 1);
            w.p[p.run + i] = k.p;
            w.q[p.run + i] = k.q;
        });
    __syncthreads();
    for_values(p, c, [&](int i, int64_t at) {
        const float x = mabn_to_float(in.x[at]), kp = w.p[p.run + i], kq = w.q[p.run + i];
        if (RULE == EVONORM) {
            const float v = w.act[p.channel0 + i], s = sigmoid(v * x);
            const float g = mabn_to_float(in.dy[at]) * (s * (1 + v * x * (1 - s)));
            mabn_from_float(&in.dx[at], fmaf(kp, g, kq * (x - w.saved.mean[p.run + i])));
            return;
        }
        const float g = masked(in, w, p, i, at);
        if (in.dresidual) mabn_from_float(&in.dresidual[at], g);
        mabn_from_float(&in.dx[at], fmaf(kp, g, kq * x));
    });
}

/* dgamma, dbeta and dact: a thread a channel. EvoNorm-S0's dot is over h, so the mean's rounding
 * error (saved.shift) is not part of it; for the others shift is 0. */
__global__ void act_parameters(struct mabn_cuda_work w)
{
    mabn_await_inputs();
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    double dgamma = 0, dbeta = 0, dact = 0;

    if (c >= w.channels) return;
    for (int64_t i = c; i < w.runs * w.channels; i += w.channels) {
        dgamma += w.saved.scale[i] * w.stat1[i];
        dbeta += w.stat0[i];
        dact += w.r[i];
    }
    if (w.dgamma) w.dgamma[c] = (float)((w.accumulate ? w.dgamma[c] : 0) + dgamma);
    if (w.dbeta) w.dbeta[c] = (float)((w.accumulate ? w.dbeta[c] : 0) + dbeta);
    if (w.dact) w.dact[c] = (float)((w.accumulate ? w.dact[c] : 0) + dact);
}

/* ---- launching ---- */

enum rule rule_of(const struct mabn_cuda_work *w)
{
    return w->o.kind == MABN_NORM_FRN ? TLU : w->act ? EVONORM : AFFINE;
}

template <typename T, int RULE>
mabn_status launch(const struct args<T> &in, const struct mabn_cuda_work *w, cudaStream_t stream)
{
    const struct cut c = cut_sample(w, (enum rule)RULE);
    return MABN_LAUNCH_EARLY((act_kernel<T, RULE>), (unsigned)(w->runs * c.tiles), THREADS, 0,
                             stream, in, *w, c);
}

template <typename T, int RULE>
mabn_status launch_grad(const struct grad_args<T> &in, const struct mabn_cuda_work *w,
                        cudaStream_t stream)
{
    const struct cut c = cut_sample(w, (enum rule)RULE);
    return MABN_LAUNCH_EARLY((act_grad_kernel<T, RULE>), (unsigned)(w->runs * c.tiles), THREADS, 0,
                             stream, in, *w, c);
}

} // namespace

mabn_status mabn_cuda_act_forward(const struct mabn_cuda_work *w,
                                  const struct mabn_cuda_apply_in *in,
                                  const struct mabn_cuda_rows *rows, bool again,
                                  cudaStream_t stream)
{
    return mabn_by_type(rows->dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct args<T> args = {
            static_cast<T *>(in->y), static_cast<const T *>(in->x),
                static_cast<const T *>(in->residual), in->relu, again
        };
        if (rule_of(w) == TLU) return launch<T, TLU>(args, w, stream);
        if (rule_of(w) == EVONORM) return launch<T, EVONORM>(args, w, stream);
        return launch<T, AFFINE>(args, w, stream);
    });
}

mabn_status mabn_cuda_act_backward(void *dx, void *dresidual, const struct mabn_cuda_work *w,
                                   const struct mabn_cuda_grad *in,
                                   const struct mabn_cuda_rows *rows, cudaStream_t stream)
{
    MABN_TRY(mabn_by_type(rows->dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        const struct grad_args<T> args = {
            static_cast<T *>(dx), static_cast<T *>(dresidual), static_cast<const T *>(in->dy),
                static_cast<const T *>(in->x), static_cast<const T *>(in->y), in->mask
        };
        if (rule_of(w) == TLU) return launch_grad<T, TLU>(args, w, stream);
        if (rule_of(w) == EVONORM) return launch_grad<T, EVONORM>(args, w, stream);
        return launch_grad<T, AFFINE>(args, w, stream);
    }));
    return MABN_LAUNCH_EARLY(act_parameters, (unsigned)((w->channels + 127) / 128), 128, 0, stream,
                             *w);
}
