/* The heavy kernels of norms with an activation of their own, FRN and EvoNorm-S0, on the CPU: see
 * kernels.h. As in kernels_cpu.c each body is written once, with flags that are constants where it is
 * used, and float sums are added to double ones every BLOCK rows. */
#include <string.h>

#include "norm/kernels.h"
#include "tensor/bf16.h"

#define BLOCK 16    /* rows between two flushes to double */
#define COLUMNS 512 /* channels whose float sums are kept at a time */

#define BODY static inline __attribute__((always_inline))

/* Where FRN's mask comes from, and EvoNorm-S0, which has none. */
enum rule { MASK_Y = MABN_MASK_Y, MASK_X = MABN_MASK_X, EVONORM };

/* 1/(1 + exp(−z)), in operations that every instruction set has: with the library's exp the loop
 * would be ten times slower. exp(t) = 2ⁿ·exp(r), |r| ≤ log(2)/2, by its series to r⁷: 1e-8. */
BODY float sigmoid(float z)
{
    const float most = 87; /* exp stays a normal float */
    const float t = -(z < -most ? -most : z > most ? most : z);
    const float round = 12582912; /* 1.5·2²³: adding it rounds to an integer */
    const float shifted = t * 1.44269504f + round, n = shifted - round;
    const float r = (t - n * 0.693359375f) - n * -2.12194440e-4f; /* log(2) in two parts */
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1;
    e = e * r + 1;
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000 + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    return 1 / (1 + e * power);
}

/* ---- forward ---- */

BODY void apply_body(void *y, const void *x, const void *residual, const struct mabn_kernel_act *in,
                     int64_t rows, int64_t width, const bool evonorm, const bool add,
                     const bool half)
{
    const struct mabn_kernel_act k = *in;

    for (int64_t row = 0; row < rows; row++) {
        const int64_t o = row * width;
#pragma GCC ivdep
        for (int64_t c = 0; c < width; c++) {
            const float v = mabn_at(x, o + c, half);
            float z = k.a[c] * (evonorm ? v * sigmoid(k.act[c] * v) : v) + k.b[c];
            if (add) z += mabn_at(residual, o + c, half);
            if (!evonorm) z = z < k.act[c] ? k.act[c] : z; /* NaN passes */
            mabn_put(y, o + c, z, half);
        }
    }
}

#define APPLY_AS(name, evonorm, add, half)                                                      \
    MABN_CLONES static void name(void *y, const void *x, const void *residual,                  \
                                 const struct mabn_kernel_act *in, int64_t rows, int64_t width) \
    {                                                                                           \
        apply_body(y, x, residual, in, rows, width, evonorm, add, half);                        \
    }
#define APPLY(name, evonorm, add)              \
    APPLY_AS(name##_full, evonorm, add, false) \
    APPLY_AS(name##_half, evonorm, add, true)
APPLY(apply_frn, false, false)
APPLY(apply_frn_add, false, true)
APPLY(apply_evonorm, true, false)

#define BOTH(name)               \
    {                            \
        name##_full, name##_half \
    }

void mabn_kernel_act_apply(void *y, const void *x, const void *residual, struct mabn_kernel_act act,
                           int64_t rows, int64_t width)
{
    static void (*const kernels[3][2])(void *, const void *, const void *,
                                       const struct mabn_kernel_act *, int64_t, int64_t) = {
        BOTH(apply_frn), BOTH(apply_frn_add), BOTH(apply_evonorm)};
    kernels[act.evonorm ? 2 : !!residual][act.half](y, x, residual, &act, rows, width);
}

/* ---- backward ---- */

/* FRN: did z pass the threshold? */
BODY bool passes(const struct mabn_kernel_grad *in, const struct mabn_kernel_act *k, int64_t o,
                 int64_t c, const enum rule rule, const bool half)
{
    if (rule == MASK_Y) return !(mabn_at(in->y, o, half) <= k->act[c]);
    return !(k->a[c] * mabn_at(in->x, o, half) + k->b[c] <= k->act[c]);
}

BODY void moments_body(double *sum, double *dot, double *own, const struct mabn_kernel_grad *in,
                       const struct mabn_kernel_act *act, int64_t rows, int64_t width,
                       const enum rule rule, const bool half)
{
    const struct mabn_kernel_grad g = *in;
    const struct mabn_kernel_act k = *act;

    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK)
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t end = r0 + BLOCK < rows ? r0 + BLOCK : rows;
            const int64_t w = width - c0 < COLUMNS ? width - c0 : COLUMNS;
            float s[COLUMNS] = {0}, d[COLUMNS] = {0}, u[COLUMNS] = {0};
            for (int64_t r = r0; r < end; r++)
                for (int64_t c = 0; c < w; c++) {
                    const int64_t o = r * width + c0 + c;
                    const float dy = mabn_at(g.dy, o, half), x = mabn_at(g.x, o, half);
                    if (rule == EVONORM) {
                        const float p = sigmoid(k.act[c0 + c] * x), h = x * p;
                        s[c] += dy;
                        d[c] += dy * h;
                        u[c] += dy * (x * h * (1 - p));
                    } else {
                        const bool pass = passes(&g, &k, o, c0 + c, rule, half);
                        s[c] += pass ? dy : 0;
                        d[c] += pass ? dy * x : 0;
                        u[c] += pass ? 0 : dy;
                    }
                }
            for (int64_t c = 0; c < w; c++) {
                sum[c0 + c] += s[c];
                dot[c0 + c] += d[c];
                own[c0 + c] += u[c];
            }
        }
}

#define MOMENTS_AS(name, rule, half)                                                             \
    MABN_CLONES static void name(double *sum, double *dot, double *own,                          \
                                 const struct mabn_kernel_grad *in,                              \
                                 const struct mabn_kernel_act *act, int64_t rows, int64_t width) \
    {                                                                                            \
        moments_body(sum, dot, own, in, act, rows, width, rule, half);                           \
    }
#define MOMENTS(name, rule)              \
    MOMENTS_AS(name##_full, rule, false) \
    MOMENTS_AS(name##_half, rule, true)
MOMENTS(moments_y, MASK_Y)
MOMENTS(moments_x, MASK_X)
MOMENTS(moments_evonorm, EVONORM)

void mabn_kernel_act_grad_moments(double *sum, double *dot, double *own,
                                  const struct mabn_kernel_grad *in, struct mabn_kernel_act act,
                                  int64_t rows, int64_t width)
{
    static void (*const kernels[3][2])(double *, double *, double *,
                                       const struct mabn_kernel_grad *,
                                       const struct mabn_kernel_act *, int64_t, int64_t) = {
        BOTH(moments_y), BOTH(moments_x), BOTH(moments_evonorm)};
    const int which = act.evonorm ? 2 : in->mask == MABN_MASK_X;
    kernels[which][act.half](sum, dot, own, in, &act, rows, width);
}

BODY void grad_body(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                    const struct mabn_kernel_act *act, const float *p, const float *q, int64_t rows,
                    int64_t width, const enum rule rule, const bool residual, const bool half)
{
    const struct mabn_kernel_grad g = *in;
    const struct mabn_kernel_act k = *act;

    for (int64_t row = 0; row < rows; row++)
#pragma GCC ivdep
        for (int64_t c = 0; c < width; c++) {
            const int64_t o = row * width + c;
            float dy = mabn_at(g.dy, o, half);
            const float x = mabn_at(g.x, o, half);
            if (rule == EVONORM) {
                const float s = sigmoid(k.act[c] * x);
                const float slope = s * (1 + k.act[c] * x * (1 - s));
                mabn_put(dx, o, p[c] * (dy * slope) + q[c] * (x - g.shift[c]), half);
                continue;
            }
            dy = passes(&g, &k, o, c, rule, half) ? dy : 0;
            if (residual) mabn_put(dresidual, o, dy, half);
            mabn_put(dx, o, p[c] * dy + q[c] * x, half);
        }
}

#define GRAD_AS(name, rule, residual, half)                                               \
    MABN_CLONES static void name(void *dx, void *dres, const struct mabn_kernel_grad *in, \
                                 const struct mabn_kernel_act *act, const float *p,       \
                                 const float *q, int64_t rows, int64_t width)             \
    {                                                                                     \
        grad_body(dx, dres, in, act, p, q, rows, width, rule, residual, half);            \
    }
#define GRAD(name, rule, residual)              \
    GRAD_AS(name##_full, rule, residual, false) \
    GRAD_AS(name##_half, rule, residual, true)
GRAD(grad_y, MASK_Y, false)
GRAD(grad_y_add, MASK_Y, true)
GRAD(grad_x, MASK_X, false)
GRAD(grad_evonorm, EVONORM, false)

void mabn_kernel_act_grad_apply(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                                struct mabn_kernel_act act, const float *p, const float *q,
                                int64_t rows, int64_t width)
{
    static void (*const kernels[4][2])(void *, void *, const struct mabn_kernel_grad *,
                                       const struct mabn_kernel_act *, const float *, const float *,
                                       int64_t, int64_t) = {BOTH(grad_y), BOTH(grad_y_add),
                                                            BOTH(grad_x), BOTH(grad_evonorm)};
    const int which = act.evonorm ? 3 : in->mask == MABN_MASK_X ? 2 : !!dresidual;
    kernels[which][act.half](dx, dresidual, in, &act, p, q, rows, width);
}
