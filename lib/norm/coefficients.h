/* Coefficients: the arithmetic that tells one norm from another, per statistic and channel.
 *
 * Scalar functions, the same source for the CPU (called in loops over channels) and for CUDA
 * (called by one thread for each channel). To be included from .c and .cu files only. All in double: the
 * arrays are tiny, and precision that a statistic loses here cannot be recovered later.
 *
 * Notation. One statistic of one channel has n elements. Every trained norm is
 *     xhat = (x − mean)·scale + shift,      y = gamma·xhat + beta = a·x + b
 * with istd = 1/sqrt(variance + eps):
 *     BN, SyncBN, GN, LN, IN   scale = istd, shift = 0
 *     BRN                      scale = r·istd, shift = d            (r, d constants in backward)
 *     MABN                     scale = r·istd, shift = 0, mean = 0; istd from the moving window
 *     FRN                      scale = istd, shift = 0, mean = 0; E[x²] for the variance
 *     EvoNorm-S0               scale = istd; y = gamma·scale·h + beta, h = x·sigmoid(v·x)
 * Backward starts from two sums, of g and of g·(x − mean), where g is the gradient of y, and ends in
 *     dx = p·g + q·(x − mean) + r,     dgamma = scale·Σg(x − mean) + shift·Σg,     dbeta = Σg.
 * EvoNorm-S0 has h in place of x − mean in the sums, and g·dh/dx in place of g in dx. */
#ifndef MABN_NORM_COEFFICIENTS_H
#define MABN_NORM_COEFFICIENTS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define MABN_HOST_DEVICE __host__ __device__
#else
#define MABN_HOST_DEVICE
#endif
#if defined(__GNUC__)
#define MABN_COEF MABN_HOST_DEVICE static inline __attribute__((unused))
#else
#define MABN_COEF MABN_HOST_DEVICE static inline
#endif

/* What forward computes for apply and for backward. */
struct mabn_coef {
    float a, b;
    float mean, istd, scale, shift;
};

/* The coefficients of backward's apply. */
struct mabn_grad_coef {
    float p, q, r;
};

MABN_COEF double mabn_clamp(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v; /* NaN stays */
}

MABN_COEF void mabn_coef_set(struct mabn_coef *k, double mean, double istd, double scale,
                             double shift, double gamma, double beta)
{
    k->mean = (float)mean;
    k->istd = (float)istd;
    k->scale = (float)scale;
    k->shift = (float)(shift + (k->mean - mean) * scale); /* the rounding error of the mean */
    k->a = (float)(gamma * scale);
    k->b = (float)(beta + gamma * (shift - mean * scale));
}

/* Mean and biased variance from sums of d = x − first and d². */
MABN_COEF void mabn_moments_finish(double *mean, double *var, double first, double sum,
                                   double square, double n)
{
    double m = sum / n, v = square / n - m * m;
    *mean = first + m;
    *var = v < 0 ? 0 : v;
}

/* ---- batch normalization ---- */

MABN_COEF void mabn_coef_bn(struct mabn_coef *k, double mean, double var, double eps, double gamma,
                            double beta)
{
    double istd = 1 / sqrt(var + eps);
    mabn_coef_set(k, mean, istd, istd, 0, gamma, beta);
}

/* Var·n/(n−1); the variance itself when there is only one element. */
MABN_COEF double mabn_unbiased(double var, double n)
{
    return n > 1 ? var * (n / (n - 1)) : var;
}

/* Batch renormalization: r = clip(s_B/s), d = clip((mean_B − mean)/s), s the moving deviation. */
MABN_COEF void mabn_coef_brn(struct mabn_coef *k, double mean, double var, double eps,
                             double running_mean, double running_std, double r_max, double d_max,
                             double gamma, double beta)
{
    double std = sqrt(var + eps);
    double r = mabn_clamp(std / running_std, 1 / r_max, r_max);
    double d = mabn_clamp((mean - running_mean) / running_std, -d_max, d_max);
    mabn_coef_set(k, mean, 1 / std, r / std, d, gamma, beta);
}

/* A limit that grows linearly from `low` at call `start` to `high` at call `end`. */
MABN_COEF double mabn_ramp(double low, double high, int64_t call, int64_t start, int64_t end)
{
    if (call <= start) return low;
    if (call >= end) return high;
    return low + (high - low) * (double)(call - start) / (double)(end - start);
}

/* For all but MABN. The statistic is over n elements. The sums are over all channels that share it:
 * sum = Σ gamma·g and dot = Σ gamma·g·(x−mean); sum is 0 for FRN and EvoNorm-S0. `correct` multiplies
 * the variance's part: n/(n−1) where forward normalized with the unbiased variance, else 1. */
MABN_COEF void mabn_grad_bn(struct mabn_grad_coef *k, const struct mabn_coef *f, double gamma,
                            double sum, double dot, double n, double correct)
{
    k->p = (float)(gamma * f->scale);
    k->q = (float)(-correct * f->scale * f->istd * f->istd * dot / n);
    k->r = (float)(-f->scale * sum / n);
}

/* ---- moving average batch normalization ---- */

/* How a run uses MABN's window. The run's statistic is put in its row first. The window's mean is then
 * the mean of all m rows, summed from row 0 on in double. */
struct mabn_window_step {
    int row;     /* of the window, which the statistic replaces */
    bool window; /* use the window's mean; else the statistic itself */
    bool renorm; /* r is active; otherwise it is 1 */
};

/* Sub-batch rule: run `run` of call `it` (from 1). */
MABN_COEF struct mabn_window_step mabn_step_subbatch(int64_t it, int64_t run, int window,
                                                     int64_t r_start)
{
    struct mabn_window_step s;
    s.row = (int)(run % window);
    s.window = it > 1;
    s.renorm = it >= r_start;
    return s;
}

/* Iteration rule: iteration `it` (from 1). */
MABN_COEF struct mabn_window_step mabn_step_iteration(int64_t it, int window, int64_t warmup,
                                                      int64_t r_start)
{
    struct mabn_window_step s;
    s.row = (int)(it % window);
    s.window = it > window && it >= warmup;
    s.renorm = it >= r_start;
    return s;
}

/* running_var is updated in float32, as in the reference: 0.98 and 0.02 rounded to float32 sum to 1
 * + 2e-8, which over its memory of fifty steps becomes 1e-6. */
MABN_COEF float mabn_move(float running_var, double momentum, double v)
{
#ifdef __CUDA_ARCH__ /* never contracted */
    return __fadd_rn(__fmul_rn((float)momentum, running_var),
                     __fmul_rn((float)(1 - momentum), (float)v));
#else
    const float kept = (float)momentum * running_var, taken = (float)(1 - momentum) * (float)v;
    return kept + taken;
#endif
}

/* The scale r·istd while r is not clipped. It does not depend on the batch, so it is known before x. */
MABN_COEF double mabn_known_scale(double running_var, double eps)
{
    return 1 / sqrt(running_var + eps);
}

MABN_COEF double mabn_known_a(double gamma, double running_var, double eps)
{
    return gamma * mabn_known_scale(running_var, eps);
}

/* v: the second moment in use, which is the statistic or the window's mean. When r is clipped, a
 * differs from the known one. */
MABN_COEF void mabn_coef_mabn(struct mabn_coef *k, double v, double running_var, double eps,
                              double lambda, bool renorm, double gamma, double beta)
{
    double istd = 1 / sqrt(v + eps), scale = istd;
    if (renorm) {
        double r = sqrt(v + eps) / sqrt(running_var + eps);
        if (r > lambda)
            scale = lambda * istd;
        else if (r < 1 / lambda)
            scale = istd / lambda;
        else
            scale = mabn_known_scale(running_var, eps);
    }
    mabn_coef_set(k, 0, istd, scale, 0, gamma, beta);
}

/* Psi of the batch: mean of (gamma·r·g)·z. */
MABN_COEF double mabn_psi(const struct mabn_coef *f, double gamma, double dot, double n)
{
    return gamma * f->scale * dot / n;
}

/* psi: the value in use, which is that of the batch or the window's mean. */
MABN_COEF void mabn_grad_mabn(struct mabn_grad_coef *k, const struct mabn_coef *f, double gamma,
                              double psi)
{
    k->p = (float)(gamma * f->scale);
    k->q = (float)(-(double)f->istd * f->istd * psi);
    k->r = 0;
}

#endif
