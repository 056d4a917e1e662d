/* The coefficient step on the GPU: see coefficients.cuh.
 *
 * Norms over the batch (BN, BRN, SyncBN, MABN): channels are independent, so a block takes COLUMNS
 * of them through all runs, and `rows` threads share a channel's runs and chunks. The serial part
 * (running_var from run to run under MABN's iteration rule) is done by one thread for each channel, on
 * numbers in the cache. Norms over a sample (GN, LN, IN): a block takes a sample.
 *
 * Threads of a block communicate through global memory, after a __syncthreads; blocks do not
 * communicate. Sums are in double and in an order fixed by the shape. */
#include "norm/coefficients.cuh"

#include "device/pack.cuh"
#include "norm/coefficients.h"
#include "norm/groups.cuh"
#include "norm/norm_cuda.h"

namespace
{

enum { COLUMNS = 8, MOST_ROWS = 128, BLOCK = COLUMNS * MOST_ROWS, SAMPLE_BLOCK = 256 };
enum { REPAIR_ROWS = 32, JOIN_BLOCK = 256 };

typedef struct mabn_cuda_work work;

/* ---- a block over channels ---- */

struct column {
    int c, row;  /* channel, and which of its threads this is */
    int rows;    /* threads of a channel: a power of 2 */
    bool active; /* the channel exists */
};

__device__ __forceinline__ struct column find_column(const work &w)
{
    struct column at;
    at.c = (int)blockIdx.x * COLUMNS + (int)threadIdx.x % COLUMNS;
    at.row = (int)threadIdx.x / COLUMNS;
    at.rows = (int)blockDim.x / COLUMNS;
    at.active = at.c < w.channels;
    return at;
}

/* Set the numbers of samples, rows and runs to those of the live samples. Returns the number of runs that
 * the arrays have room for. */
__device__ __forceinline__ int64_t count_live(work &w)
{
    const int64_t room = w.runs;
    if (!w.live) return room;
    if (*w.live < w.samples) w.samples = *w.live;
    w.rows = w.samples * w.positions;
    w.runs = (w.samples + w.run_samples - 1) / w.run_samples;
    return room;
}

__device__ __forceinline__ int64_t run_rows_of(const work &w, int64_t run)
{
    return run == w.runs - 1 ? w.rows - run * w.run_rows : w.run_rows;
}

/* Sum of a channel's threads, to all of them. */
template <typename Shared>
__device__ double column_sum(Shared &part, double value, const struct column &at)
{
    part[threadIdx.x] = value;
    for (int half = at.rows / 2; half; half /= 2) {
        __syncthreads();
        if (at.row < half) part[threadIdx.x] += part[threadIdx.x + half * COLUMNS];
    }
    __syncthreads();
    const double total = part[threadIdx.x % COLUMNS];
    __syncthreads();
    return total;
}

/* out0[run,c], out1[run,c] = the run's partial sums in `in0`, `in1` (either may be NULL: not
 * wanted), added up; for the block's channels. */
template <typename Shared>
__device__ void finish_sums(double *out0, const float *in0, double *out1, const float *in1,
                            Shared &part, const work &w, const struct column &at)
{
    int at_once = 1; /* runs: a power of 2, as the threads are */
    while (at_once < w.runs && at_once < at.rows)
        at_once *= 2;
    const int share = at.rows / at_once, mine = at.row % share; /* threads a run */
    const int self = (int)threadIdx.x;

    for (int64_t run0 = 0; run0 < w.runs; run0 += at_once) {
        const int64_t run = run0 + at.row / share, first = run * w.chunks * w.channels + at.c;
        const bool busy = at.active && run < w.runs;
        double sum0 = 0, sum1 = 0;
#pragma unroll 4
        for (int chunk = busy ? mine : w.chunks; chunk < w.chunks; chunk += share) {
            const int64_t i = first + (int64_t)chunk * w.channels;
            if (in0) sum0 += in0[i];
            if (in1) sum1 += in1[i];
        }
        part[self] = sum0;
        part[BLOCK + self] = sum1;
        for (int half = share / 2; half; half /= 2) {
            __syncthreads();
            if (mine >= half) continue;
            part[self] += part[self + half * COLUMNS];
            part[BLOCK + self] += part[BLOCK + self + half * COLUMNS];
        }
        if (busy && mine == 0) {
            if (in0) out0[run * w.channels + at.c] = part[self];
            if (in1) out1[run * w.channels + at.c] = part[BLOCK + self];
        }
        __syncthreads();
    }
}

__device__ __forceinline__ void keep(const work &w, int64_t at, const struct mabn_coef &k)
{
    mabn_coef_keep(w.saved, at, k);
}

/* ---- sums that convolutions left ---- */

/* Where mean²/(variance + eps) is larger than this, the variance is too inexact. */
#define MOST_CANCELLED 1024.0

__device__ double value_of(const void *p, enum mabn_dtype dtype, int64_t i)
{
    switch (dtype) {
    case MABN_DTYPE_F32:
        return static_cast<const float *>(p)[i];
    case MABN_DTYPE_BF16:
        return mabn_to_float(static_cast<const __nv_bfloat16 *>(p)[i]);
    default:
        return mabn_to_float(static_cast<const __half *>(p)[i]);
    }
}

/* Recompute stat0 and stat1 for the block's channels for which `needed(c)` holds: sums over the
 * rows i of the pair from pair(c, i, &v0, &v1). `needed` must be the same in all threads. */
template <typename Shared, typename Needed, typename Pair>
__device__ void measure_again(const work &w, Shared &part, const struct column &at, Needed needed,
                              Pair pair)
{
    bool any = false, mine = at.active && needed(at.c);
    for (int c = at.c - (int)threadIdx.x % COLUMNS, k = 0; k < COLUMNS && c + k < w.channels; k++)
        any = any || needed(c + k);
    if (!any) return;
    double sum0 = 0, sum1 = 0, v0, v1;
    for (int64_t row = at.row; mine && row < w.rows; row += at.rows) {
        pair(at.c, row * w.channels + at.c, &v0, &v1);
        sum0 += v0;
        sum1 += v1;
    }
    sum0 = column_sum(part, sum0, at);
    sum1 = column_sum(part, sum1, at);
    if (mine && at.row == 0) {
        w.stat0[at.c] = sum0;
        w.stat1[at.c] = sum1;
    }
}

/* Of x: sums about `first`, which is 0, or about the mean for channels that are measured again. */
template <typename Shared>
__device__ void settle_moments(const work &w, Shared &part, const struct column &at)
{
    const double n = (double)w.rows;
    const auto mean_of = [&](int c) { return w.stat0[c] / n; };
    const auto cancelled = [&](int c) {
        const double mean = mean_of(c), var = w.stat1[c] / n - mean * mean;
        return mean * mean > MOST_CANCELLED * ((var < 0 ? 0 : var) + w.o.eps);
    };
    if (at.active && at.row == 0) w.first[at.c] = cancelled(at.c) ? (float)mean_of(at.c) : 0;
    __syncthreads();
    measure_again(
        w, part, at, [&](int c) { return w.first[c] != 0; },
        [&](int c, int64_t i, double *d, double *square) {
            *d = value_of(w.given.x, w.given.dtype, i) - w.first[c];
            *square = *d * *d;
        });
    __syncthreads();
}

/* Of g: Σ g·(x − mean) from Σ g·x. */
template <typename Shared>
__device__ void settle_gradients(const work &w, Shared &part, const struct column &at)
{
    const auto cancelled = [&](int c) {
        const double ratio = (double)w.saved.mean[c] * w.saved.istd[c];
        return ratio * ratio > MOST_CANCELLED;
    };
    if (at.active && at.row == 0) w.stat1[at.c] -= w.saved.mean[at.c] * w.stat0[at.c];
    measure_again(w, part, at, cancelled, [&](int c, int64_t i, double *g, double *dot) {
        *g = value_of(w.given.dy, w.given.dtype, i);
        *dot = *g * (value_of(w.given.x, w.given.dtype, i) - w.saved.mean[c]);
    });
    __syncthreads();
}

/* ---- runs without live samples ---- */

__device__ __forceinline__ bool nothing_lives(const work &w)
{
    return w.live && !w.runs;
}

/* Zeros as coefficients of such runs: their results must be finite, and are not used. */
__device__ void keep_nothing(const work &w, int64_t room, const struct column &at)
{
    const struct mabn_coef k = {};
    for (int64_t run = w.runs + at.row; at.active && run < room; run += at.rows)
        keep(w, run * w.channels + at.c, k);
}

/* ---- BN, BRN, SyncBN of one shard: forward ---- */

__global__ void __launch_bounds__(BLOCK) coefs_bn(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    const struct mabn_norm_options &o = w.o;
    keep_nothing(w, count_live(w), at);
    if (nothing_lives(w)) return;
    const bool renorm = o.kind == MABN_NORM_BRN;
    const bool unbiased = o.kind == MABN_NORM_SYNCBN && o.sync_reference;
    const int64_t call = *w.state.batches + w.uncounted;
    const double r_max = mabn_ramp(1, o.r_max, call, o.ramp_start, o.r_ramp_end);
    const double d_max = mabn_ramp(0, o.d_max, call, o.ramp_start, o.d_ramp_end);
    double mean_sum = 0, var_sum = 0;

    finish_sums(w.stat0, w.sum, w.stat1, w.square, part, w, at);
    if (w.given.x) settle_moments(w, part, at);
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        const double n = (double)run_rows_of(w, run);
        const int64_t left = w.samples - run * w.run_samples;
        const double weight =
            (double)(left < w.run_samples ? left : w.run_samples) / (double)w.samples;
        struct mabn_coef k;
        double mean, var;
        mabn_moments_finish(&mean, &var, w.first[i], w.stat0[i], w.stat1[i], n);
        if (renorm)
            mabn_coef_brn(&k, mean, var, o.eps, w.state.running_mean[at.c],
                          sqrt(w.state.running_var[at.c] + o.eps), r_max, d_max, w.gamma[at.c],
                          w.beta[at.c]);
        else
            mabn_coef_bn(&k, mean, unbiased ? mabn_unbiased(var, n) : var, o.eps, w.gamma[at.c],
                         w.beta[at.c]);
        keep(w, i, k);
        mean_sum += weight * mean;
        var_sum += weight * (renorm ? sqrt(var + o.eps) : mabn_unbiased(var, n));
    }
    const double mean = column_sum(part, mean_sum, at), var = column_sum(part, var_sum, at);
    if (!at.active || at.row) return;
    float *rm = w.state.running_mean + at.c, *rv = w.state.running_var + at.c;
    *rm = (float)(o.momentum * *rm + (1 - o.momentum) * mean);
    if (renorm) {
        double std = o.momentum * sqrt(*rv + o.eps) + (1 - o.momentum) * var;
        *rv = (float)(std * std - o.eps);
    } else {
        *rv = (float)(o.momentum * *rv + (1 - o.momentum) * var);
    }
}

/* ---- SyncBN over shards ---- */

__device__ __forceinline__ void count_rows(const work &w, const struct column &at)
{
    if (at.c || at.row) return;
    w.sums[2 * w.channels] = (double)w.rows;
    w.sums[2 * w.channels + 1] = w.rows > 0;
}

/* The n of the unbiased variance: in the reference this shard's, times the number of shards. */
__device__ __forceinline__ double sync_elements(const work &w)
{
    const double *count = w.sums + 2 * w.channels;
    return w.o.sync_reference ? (double)w.rows * count[1] : count[0];
}

/* Sums about zero, because the shards have no common mean yet; by the reference's rule means. */
__global__ void __launch_bounds__(BLOCK) sync_moments(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    count_live(w);
    if (nothing_lives(w)) return; /* the sums are zero */
    const double n = (double)w.rows, scale = w.o.sync_reference ? 1 / n : 1;

    finish_sums(w.stat0, w.sum, w.stat1, w.square, part, w, at);
    count_rows(w, at);
    if (!at.active || at.row) return;
    const double k = w.first[at.c], sum = w.stat0[at.c], square = w.stat1[at.c];
    w.sums[at.c] = (sum + n * k) * scale;
    w.sums[w.channels + at.c] = (square + 2 * k * sum + n * k * k) * scale;
}

/* A thread a channel. */
__global__ void sync_coefs(work w)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    mabn_await_inputs();
    const struct mabn_norm_options &o = w.o;
    const double *count = w.sums + 2 * w.channels;
    struct mabn_coef k = {};
    if (c >= w.channels) return;
    count_live(w);
    if (count[0] <= 0) { /* no shard has any rows */
        if (w.live) keep(w, c, k);
        return;
    }
    const double divide = o.sync_reference ? count[1] : count[0], n = sync_elements(w);
    const double mean = w.sums[c] / divide;
    const double moment = w.sums[w.channels + c] / divide - mean * mean;
    const double var = moment < 0 ? 0 : moment, unbiased = mabn_unbiased(var, n);
    mabn_coef_bn(&k, mean, o.sync_reference ? unbiased : var, o.eps, w.gamma[c], w.beta[c]);
    /* For backward: where n/(n−1) was used, the derivative of the variance has that factor too. */
    if (o.sync_reference) k.istd *= (float)sqrt(mabn_unbiased(1, n));
    keep(w, c, k);
    float *rm = w.state.running_mean + c, *rv = w.state.running_var + c;
    *rm = (float)(o.momentum * *rm + (1 - o.momentum) * mean);
    *rv = (float)(o.momentum * *rv + (1 - o.momentum) * unbiased);
    if (c == 0) *w.state.batches += w.uncounted;
}

/* ---- MABN ---- */

/* Iterations that were finished before this call. */
__device__ __forceinline__ int64_t iterations_done(const work &w)
{
    if (w.state.iters) return *w.state.iters + w.uncounted - w.runs;
    return (int64_t)*w.state.iters_f32 + w.uncounted - 1;
}

__device__ __forceinline__ struct mabn_window_step step_of(const work &w, int64_t run, int64_t done)
{
    if (w.o.window_rule == MABN_WINDOW_SUBBATCH)
        return mabn_step_subbatch(done + 1, run, w.o.window, w.o.r_start);
    return mabn_step_iteration(done + 1 + run, w.o.window, w.o.warmup, w.o.r_start);
}

/* The window's row for the statistic that is `back` places (from 1) before the first of this
 * call. */
__device__ __forceinline__ int64_t window_row(const work &w, int64_t back, int64_t done)
{
    const int64_t m = w.o.window;
    if (w.o.window_rule == MABN_WINDOW_SUBBATCH) return m - back; /* the newest is last */
    return (done + 1 - back) % m;
}

/* The statistic that run `run` uses: its own, or the mean over the window. The window's other statistics
 * are those of earlier runs, in `stat`, and of earlier calls, in the window, which has not been changed
 * yet. window_put in coefs.c has the same numbers, run by run; here all runs are done at once. */
__device__ double window_mean(const work &w, const double *stat, const float *window, int64_t run,
                              const struct mabn_window_step &step, int64_t done, int c)
{
    double sum = 0;
    if (!step.window) return stat[run * w.channels + c];
    for (int64_t i = run; i > run - w.o.window; i--)
        sum += i >= 0 ? (float)stat[i * w.channels + c]
                      : window[window_row(w, -i, done) * w.channels + c];
    return sum / w.o.window;
}

/* Advance a channel's window by this call's statistics; done by the channel's first thread. On the
 * first call `fill` replaces the statistics that do not exist. */
__device__ void move_window(const work &w, float *window, const double *stat, int64_t done,
                            double fill, int c)
{
    const int64_t m = w.o.window;

    if (w.o.window_rule == MABN_WINDOW_ITERATION) {
        for (int64_t run = w.runs > m ? w.runs - m : 0; run < w.runs; run++)
            window[(done + 1 + run) % m * w.channels + c] = (float)stat[run * w.channels + c];
        return;
    }
    for (int64_t row = 0; row < m; row++) {
        const int64_t run = w.runs - m + row;
        float value = (float)fill;
        if (run >= 0)
            value = (float)stat[run * w.channels + c];
        else if (done)
            value = window[(row + w.runs) * w.channels + c];
        window[row * w.channels + c] = value;
    }
}

template <typename T>
__device__ void repair_run(const work &w, int64_t run, const struct column &at)
{
    const float a = w.saved.a[run * w.channels + at.c], b = w.saved.b[run * w.channels + at.c];
    const T *x = static_cast<const T *>(w.repair.x);
    const T *residual = static_cast<const T *>(w.repair.residual);
    const int64_t row0 = run * w.run_rows, rows = run_rows_of(w, run);

    for (int64_t row = at.row; row < rows; row += at.rows) {
        const int64_t i = (row0 + row) * w.channels + at.c;
        float y = fmaf(a, mabn_to_float(x[i]), b);
        if (residual) y += mabn_to_float(residual[i]);
        mabn_from_float(static_cast<T *>(w.repair.y) + i, w.repair.relu && y < 0 ? 0 : y);
    }
}

/* Apply again the runs of a channel where r was clipped. Slow, and almost never needed: after the
 * warm-up the window's variance would have to be 25 times the running one, or a 25th of it. */
__device__ void repair_column(const work &w, const double *running_var, const struct column &at)
{
    for (int64_t run = 0; run < w.runs; run++) {
        const int64_t i = run * w.channels + at.c;
        const float known = (float)mabn_known_a(w.gamma[at.c], running_var[i], w.o.eps);
        if (w.saved.a[i] == known) continue;
        switch (w.repair.dtype) {
        case MABN_DTYPE_F32:
            repair_run<float>(w, run, at);
            break;
        case MABN_DTYPE_BF16:
            repair_run<__nv_bfloat16>(w, run, at);
            break;
        default:
            repair_run<__half>(w, run, at);
        }
    }
}

__global__ void __launch_bounds__(BLOCK) coefs_mabn(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    const struct mabn_norm_options &o = w.o;
    keep_nothing(w, count_live(w), at);
    if (nothing_lives(w)) return;
    const int64_t done = iterations_done(w);
    const bool by_iteration = o.window_rule == MABN_WINDOW_ITERATION;
    double *const chi = w.stat0, *const before = w.stat1; /* χ²; running_var before the run */
    float *const rv = w.state.running_var + at.c;
    double v_sum = 0;
    bool clipped = false; /* y was written with the known map and must be rewritten */

    finish_sums(chi, w.square, nullptr, nullptr, part, w, at);
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows)
        chi[run * w.channels + at.c] /= (double)run_rows_of(w, run);
    __syncthreads();
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const double v =
            window_mean(w, chi, w.state.window_x2, run, step_of(w, run, done), done, at.c);
        before[run * w.channels + at.c] = by_iteration ? v : *rv;
        v_sum += v;
    }
    /* Also the barrier after which every thread has read running_var and the window. */
    const double mean = column_sum(part, v_sum, at) / (double)w.runs;
    if (at.active && at.row == 0 && by_iteration) {
        float moving = *rv;
        for (int64_t run = 0; run < w.runs; run++) {
            double *p = before + run * w.channels + at.c, v = *p;
            *p = moving;
            moving = mabn_move(moving, o.momentum, v);
        }
        *rv = moving;
    }
    if (at.active && at.row == 0 && !by_iteration) {
        if (!done) *rv = (float)mean;
        *rv = mabn_move(*rv, o.momentum, mean);
    }
    __syncthreads();
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        const struct mabn_window_step step = step_of(w, run, done);
        const double v = window_mean(w, chi, w.state.window_x2, run, step, done, at.c);
        struct mabn_coef k;
        mabn_coef_mabn(&k, v, before[i], o.eps, o.lambda, step.renorm, w.gamma[at.c], w.beta[at.c]);
        keep(w, i, k);
        if (w.repair.y)
            clipped = clipped || k.a != (float)mabn_known_a(w.gamma[at.c], before[i], o.eps);
    }
    /* Also the barrier after which the window may change. */
    const bool repair = __syncthreads_or(clipped);
    if (at.active && at.row == 0) move_window(w, w.state.window_x2, chi, done, mean, at.c);
    if (repair && at.active) repair_column(w, before, at);
}

/* ---- backward over the batch ---- */

__device__ void put_parameter(float *p, double value, const work &w, int c)
{
    if (p) p[c] = (float)((w.accumulate ? p[c] : 0) + value);
}

__device__ __forceinline__ void put_grad(const work &w, int64_t at, const struct mabn_grad_coef &k)
{
    w.p[at] = k.p;
    w.q[at] = k.q;
    w.r[at] = k.r;
}

/* For runs without live samples. If all are, the parameters' gradient is 0. */
__device__ void no_gradients(const work &w, int64_t room, const struct column &at)
{
    const struct mabn_grad_coef k = {};
    for (int64_t run = w.runs + at.row; at.active && run < room; run += at.rows)
        put_grad(w, run * w.channels + at.c, k);
    if (!nothing_lives(w) || !at.active || at.row) return;
    put_parameter(w.dgamma, 0, w, at.c);
    put_parameter(w.dbeta, 0, w, at.c);
}

/* BN, BRN, SyncBN of one shard: p, q, r, dgamma and dbeta. */
__global__ void __launch_bounds__(BLOCK) grads_bn(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    const bool unbiased = w.o.kind == MABN_NORM_SYNCBN && w.o.sync_reference;
    double dgamma = 0, dbeta = 0;

    no_gradients(w, count_live(w), at);
    if (nothing_lives(w)) return;
    finish_sums(w.stat0, w.sum, w.stat1, w.square, part, w, at);
    if (w.given.x) settle_gradients(w, part, at);
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        const double sum = w.stat0[i], dot = w.stat1[i], gamma = w.gamma[at.c];
        const double n = (double)run_rows_of(w, run);
        const struct mabn_coef f = mabn_coef_kept(w.saved, i);
        struct mabn_grad_coef k;
        dgamma += f.scale * dot + f.shift * sum;
        dbeta += sum;
        mabn_grad_bn(&k, &f, gamma, gamma * sum, gamma * dot, n,
                     unbiased ? mabn_unbiased(1, n) : 1);
        put_grad(w, i, k);
    }
    dgamma = column_sum(part, dgamma, at);
    dbeta = column_sum(part, dbeta, at);
    if (!at.active || at.row) return;
    put_parameter(w.dgamma, dgamma, w, at.c);
    put_parameter(w.dbeta, dbeta, w, at.c);
}

/* The gradients of mean and variance, without the factor gamma, are added up. Not g itself: by the
 * reference's rule shards may have different variances. */
__global__ void __launch_bounds__(BLOCK) sync_grads(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);

    no_gradients(w, count_live(w), at);
    if (nothing_lives(w)) return; /* the sums are zero */
    finish_sums(w.stat0, w.sum, w.stat1, w.square, part, w, at);
    count_rows(w, at);
    if (!at.active || at.row) return;
    const double sum = w.stat0[at.c], dot = w.stat1[at.c];
    const struct mabn_coef f = mabn_coef_kept(w.saved, at.c);
    put_parameter(w.dgamma, f.scale * dot + f.shift * sum, w, at.c);
    put_parameter(w.dbeta, sum, w, at.c);
    w.sums[at.c] = f.scale * sum;
    w.sums[w.channels + at.c] = (double)f.scale * f.istd * f.istd * dot;
}

__global__ void sync_finish(work w)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    mabn_await_inputs();
    if (c >= w.channels) return;
    count_live(w);
    if (nothing_lives(w)) return; /* done before */
    const struct mabn_coef f = mabn_coef_kept(w.saved, c);
    const double gamma = w.gamma[c], n = sync_elements(w);
    const struct mabn_grad_coef k = {(float)(gamma * f.scale),
                                     (float)(-gamma * w.sums[w.channels + c] / n),
                                     (float)(-gamma * w.sums[c] / n)};
    put_grad(w, c, k);
}

/* Psi as the window keeps it: without the loss scale. Where it overflowed (and the step will be
 * skipped) it is the newest one that did not, so that the overflow does not stay in the window. */
__device__ __forceinline__ double true_psi(const work &w, double scaled, int64_t done, int c)
{
    if (!w.scaler) return scaled;
    const double psi = scaled * w.scaler->inverse;
    if (isfinite((float)psi)) return psi;
    return done ? w.state.window_gz[window_row(w, 1, done) * w.channels + c] : 0;
}

/* Without w.sum, dbeta is left to grad_beta. Nothing else needs Σg, because mean and shift are 0. */
__global__ void __launch_bounds__(BLOCK) grads_mabn(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    no_gradients(w, count_live(w), at);
    if (nothing_lives(w)) return;
    const int64_t done = iterations_done(w);
    const double scale = w.scaler ? w.scaler->scale : 1;
    double *const psi = w.stat1;
    double dgamma = 0, dbeta = 0, psi_sum = 0;

    finish_sums(w.stat0, w.sum, w.stat1, w.square, part, w, at);
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        const double sum = w.sum ? w.stat0[i] : 0, dot = w.stat1[i];
        const struct mabn_coef f = mabn_coef_kept(w.saved, i);
        dgamma += f.scale * dot + f.shift * sum;
        dbeta += sum;
        psi[i] =
            true_psi(w, mabn_psi(&f, w.gamma[at.c], dot, (double)run_rows_of(w, run)), done, at.c);
        psi_sum += (float)psi[i];
    }
    dgamma = column_sum(part, dgamma, at);
    dbeta = column_sum(part, dbeta, at);
    const double mean = column_sum(part, psi_sum, at) / (double)w.runs;
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        const struct mabn_coef f = mabn_coef_kept(w.saved, i);
        struct mabn_grad_coef k;
        mabn_grad_mabn(
            &k, &f, w.gamma[at.c],
            scale * window_mean(w, psi, w.state.window_gz, run, step_of(w, run, done), done, at.c));
        put_grad(w, i, k);
    }
    __syncthreads();
    if (!at.active || at.row) return;
    move_window(w, w.state.window_gz, psi, done, mean, at.c);
    put_parameter(w.dgamma, dgamma, w, at.c);
    if (w.sum) put_parameter(w.dbeta, dbeta, w, at.c);
}

__global__ void __launch_bounds__(BLOCK) grad_beta(work w)
{
    MABN_SHARED(double, part, 2 * BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    double dbeta = 0;

    finish_sums(w.stat0, w.sum, nullptr, nullptr, part, w, at);
    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows)
        dbeta += w.stat0[run * w.channels + at.c];
    dbeta = column_sum(part, dbeta, at);
    if (at.active && at.row == 0) put_parameter(w.dbeta, dbeta, w, at.c);
}

/* dgamma and dbeta of norms over a sample, whose kernel left the runs' sums in stat0 and stat1. */
__global__ void __launch_bounds__(BLOCK) parameters_gn(work w)
{
    MABN_SHARED(double, part, BLOCK);
    mabn_await_inputs();
    const struct column at = find_column(w);
    double dgamma = 0, dbeta = 0;

    for (int64_t run = at.row; at.active && run < w.runs; run += at.rows) {
        const int64_t i = run * w.channels + at.c;
        dgamma += w.saved.scale[i] * w.stat1[i] + w.saved.shift[i] * w.stat0[i];
        dbeta += w.stat0[i];
    }
    dgamma = column_sum(part, dgamma, at);
    dbeta = column_sum(part, dbeta, at);
    if (!at.active || at.row) return;
    put_parameter(w.dgamma, dgamma, w, at.c);
    put_parameter(w.dbeta, dbeta, w, at.c);
}

/* ---- GN, LN, IN: a block over one sample ---- */

/* Sums of the block's run, all channels, into stat0 and stat1. */
__device__ void finish_sample(const work &w, int64_t run)
{
    for (int c = (int)threadIdx.x; c < w.channels; c += SAMPLE_BLOCK) {
        const int64_t at = run * w.chunks * w.channels + c;
        double sum = 0, square = 0;
#pragma unroll 4
        for (int chunk = 0; chunk < w.chunks; chunk++) {
            sum += w.sum[at + (int64_t)chunk * w.channels];
            square += w.square[at + (int64_t)chunk * w.channels];
        }
        w.stat0[run * w.channels + c] = sum;
        w.stat1[run * w.channels + c] = square;
    }
    __syncthreads();
}

__global__ void __launch_bounds__(SAMPLE_BLOCK) coefs_gn(work w)
{
    mabn_await_inputs();
    const int64_t run = blockIdx.x, row = run * w.channels;
    const double n = (double)w.run_rows;

    finish_sample(w, run);
    mabn_join_groups<SAMPLE_BLOCK>(
        w.o.groups, w.channels / w.o.groups,
        [&](int c, double *m, double *v) {
            mabn_moments_finish(m, v, w.first[row + c], w.stat0[row + c], w.stat1[row + c], n);
        },
        [&](int c, double m, double v) {
            struct mabn_coef k;
            mabn_coef_bn(&k, m, v, w.o.eps, w.gamma[c], w.beta[c]);
            keep(w, row + c, k);
        });
}

__global__ void __launch_bounds__(SAMPLE_BLOCK) grads_gn(work w)
{
    mabn_await_inputs();
    const int64_t run = blockIdx.x, row = run * w.channels;
    const int size = w.channels / w.o.groups;
    const double n = (double)w.run_rows * size;

    finish_sample(w, run);
    mabn_sum_groups<SAMPLE_BLOCK>(
        w.o.groups, size,
        [&](int c, double *sum, double *dot) {
            *sum = w.gamma[c] * w.stat0[row + c];
            *dot = w.gamma[c] * w.stat1[row + c];
        },
        [&](int c, double sum, double dot) {
            const struct mabn_coef f = mabn_coef_kept(w.saved, row + c);
            struct mabn_grad_coef k;
            mabn_grad_bn(&k, &f, w.gamma[c], sum, dot, n, 1);
            put_grad(w, row + c, k);
        });
}

/* ---- known before the batch ---- */

__global__ void affine_kernel(float *a, float *b, work w)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    mabn_await_inputs();
    if (c >= w.channels) return;
    if (w.o.kind == MABN_NORM_NONE) {
        a[c] = 1;
        b[c] = 0;
        return;
    }
    const double scale = mabn_known_a(w.gamma[c], w.state.running_var[c], w.o.eps);
    const double mean = w.state.running_mean ? w.state.running_mean[c] : 0;
    a[c] = (float)scale;
    b[c] = (float)(w.beta[c] - mean * scale);
}

/* A row of blocks a layer. */
__global__ void join_kernel(const struct mabn_norm_cuda_join *list)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    mabn_await_inputs();
    const struct mabn_norm_cuda_join join = list[blockIdx.y];
    if (c == 0 && join.iters_f32) *join.iters_f32 += 1;
    if (c == 0 && join.iters) *join.iters += 1;
    if (c >= join.channels) return;
    join.a[c] = (float)mabn_known_a(join.gamma[c], join.running_var[c], join.eps);
    join.b[c] = join.beta[c];
}

dim3 over_channels(const work *w)
{
    return dim3((unsigned)((w->channels + COLUMNS - 1) / COLUMNS));
}

/* At most as many threads for a channel as there are partial sums. At least a warp in a block, and
 * enough to rewrite y or measure x again in acceptable time. */
unsigned block_size(const work *w)
{
    unsigned rows = 4;
    while (rows < MOST_ROWS && rows < w->runs * w->chunks)
        rows *= 2;
    if ((w->repair.y || w->given.x) && rows < REPAIR_ROWS) rows = REPAIR_ROWS;
    return rows * COLUMNS;
}

} // namespace

mabn_status mabn_cuda_affine_of(float *a, float *b, const struct mabn_cuda_work *w,
                                cudaStream_t stream)
{
    const unsigned blocks = (unsigned)((w->channels + 127) / 128);
    return MABN_LAUNCH_EARLY(affine_kernel, blocks, 128, 0, stream, a, b, *w);
}

mabn_status mabn_cuda_coefficients(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    switch (w->o.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
        return MABN_LAUNCH_EARLY(coefs_bn, over_channels(w), block_size(w), 0, stream, *w);
    case MABN_NORM_MABN:
        return MABN_LAUNCH_EARLY(coefs_mabn, over_channels(w), block_size(w), 0, stream, *w);
    default:
        return MABN_LAUNCH_EARLY(coefs_gn, (unsigned)w->runs, SAMPLE_BLOCK, 0, stream, *w);
    }
}

mabn_status mabn_cuda_gradients(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    switch (w->o.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
        return MABN_LAUNCH_EARLY(grads_bn, over_channels(w), block_size(w), 0, stream, *w);
    case MABN_NORM_MABN:
        return MABN_LAUNCH_EARLY(grads_mabn, over_channels(w), block_size(w), 0, stream, *w);
    default:
        MABN_TRY(MABN_LAUNCH_EARLY(grads_gn, (unsigned)w->runs, SAMPLE_BLOCK, 0, stream, *w));
        return mabn_cuda_sample_parameters(w, stream);
    }
}

mabn_status mabn_cuda_sync_moments(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    return MABN_LAUNCH_EARLY(sync_moments, over_channels(w), block_size(w), 0, stream, *w);
}

mabn_status mabn_cuda_sync_coefficients(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    const unsigned blocks = (unsigned)((w->channels + 127) / 128);
    return MABN_LAUNCH_EARLY(sync_coefs, blocks, 128, 0, stream, *w);
}

mabn_status mabn_cuda_sync_gradients(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    return MABN_LAUNCH_EARLY(sync_grads, over_channels(w), block_size(w), 0, stream, *w);
}

mabn_status mabn_cuda_sync_finish(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    const unsigned blocks = (unsigned)((w->channels + 127) / 128);
    return MABN_LAUNCH_EARLY(sync_finish, blocks, 128, 0, stream, *w);
}

mabn_status mabn_cuda_sample_parameters(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    return MABN_LAUNCH_EARLY(parameters_gn, over_channels(w), block_size(w), 0, stream, *w);
}

mabn_status mabn_cuda_grad_beta(const struct mabn_cuda_work *w, cudaStream_t stream)
{
    return MABN_LAUNCH_EARLY(grad_beta, over_channels(w), block_size(w), 0, stream, *w);
}

mabn_status mabn_norm_cuda_known(const struct mabn_norm_cuda_join *list, int count,
                                 int most_channels, void *stream)
{
    const unsigned blocks = (unsigned)((most_channels + JOIN_BLOCK - 1) / JOIN_BLOCK);
    if (count <= 0) return MABN_OK;
    return MABN_LAUNCH_EARLY(join_kernel, dim3(blocks, (unsigned)count), JOIN_BLOCK, 0,
                             static_cast<cudaStream_t>(stream), list);
}
