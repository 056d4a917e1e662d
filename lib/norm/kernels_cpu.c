/* The heavy kernels on the CPU: see kernels.h.
 *
 * Each body is written once, with flags that are constants where it is used, so that every
 * combination becomes its own loop without branches, for each instruction set. Sums take four rows
 * at a time and go to double every BLOCK rows: 16 float additions deep, about 1e-7 relative. */
#include "norm/kernels.h"

#include <string.h>

#define BLOCK 64    /* rows between two flushes to double */
#define COLUMNS 512 /* channels whose float sums are kept at a time */

#define BODY static inline __attribute__((always_inline))

BODY int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

BODY void flush(double *total, float *part, int64_t width)
{
    for (int64_t c = 0; c < width; c++)
        total[c] += part[c];
    memset(part, 0, (size_t)width * sizeof *part);
}

/* ---- forward sums ---- */

BODY void moments_body(double *sum, double *square, const float *x, const float *shift,
                       int64_t rows, int64_t width, const bool shifted)
{
    float s[COLUMNS] = {0}, q[COLUMNS] = {0};

    for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
        const int64_t w = min64(COLUMNS, width - c0);
        const float *k = shifted ? shift + c0 : 0;
        for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
            const int64_t end = min64(r0 + BLOCK, rows);
            int64_t r = r0;
            for (; r + 4 <= end; r += 4) {
                const float *x0 = x + r * width + c0, *x1 = x0 + width, *x2 = x1 + width,
                            *x3 = x2 + width;
                for (int64_t c = 0; c < w; c++) {
                    const float o = shifted ? k[c] : 0;
                    const float d0 = shifted ? x0[c] - o : x0[c];
                    const float d1 = shifted ? x1[c] - o : x1[c];
                    const float d2 = shifted ? x2[c] - o : x2[c];
                    const float d3 = shifted ? x3[c] - o : x3[c];
                    if (shifted) s[c] += (d0 + d1) + (d2 + d3);
                    q[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
                }
            }
            for (; r < end; r++) {
                const float *x0 = x + r * width + c0;
                for (int64_t c = 0; c < w; c++) {
                    const float d = shifted ? x0[c] - k[c] : x0[c];
                    if (shifted) s[c] += d;
                    q[c] += d * d;
                }
            }
            if (shifted) flush(sum + c0, s, w);
            flush(square + c0, q, w);
        }
    }
}

MABN_CLONES void mabn_kernel_square(double *square, const float *x, int64_t rows, int64_t width)
{
    moments_body(0, square, x, 0, rows, width, false);
}

MABN_CLONES void mabn_kernel_moments(double *sum, double *square, const float *x,
                                     const float *shift, int64_t rows, int64_t width)
{
    moments_body(sum, square, x, shift, rows, width, true);
}

/* ---- forward apply ---- */

BODY float affine(float x, float a, float b, float residual, const bool add, const bool relu)
{
    float v = a * x + b;
    if (add) v += residual;
    return relu ? (v < 0 ? 0 : v) : v; /* NaN passes */
}

BODY void apply_body(float *y, double *square, const float *x, const float *residual,
                     const float *a, const float *b, int64_t rows, int64_t width, const bool add,
                     const bool relu, const bool sum)
{
    float q[COLUMNS] = {0};

    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
        const int64_t end = min64(r0 + BLOCK, rows);
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t w = min64(COLUMNS, width - c0);
            const float *ka = a + c0, *kb = b + c0;
            int64_t r = r0;
            for (; r + 4 <= end; r += 4) {
                const int64_t o0 = r * width + c0, o1 = o0 + width, o2 = o1 + width,
                              o3 = o2 + width;
#pragma GCC ivdep
                for (int64_t c = 0; c < w; c++) {
                    const float x0 = x[o0 + c], x1 = x[o1 + c], x2 = x[o2 + c], x3 = x[o3 + c];
                    y[o0 + c] = affine(x0, ka[c], kb[c], add ? residual[o0 + c] : 0, add, relu);
                    y[o1 + c] = affine(x1, ka[c], kb[c], add ? residual[o1 + c] : 0, add, relu);
                    y[o2 + c] = affine(x2, ka[c], kb[c], add ? residual[o2 + c] : 0, add, relu);
                    y[o3 + c] = affine(x3, ka[c], kb[c], add ? residual[o3 + c] : 0, add, relu);
                    if (sum) q[c] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3);
                }
            }
            for (; r < end; r++) {
                const int64_t o = r * width + c0;
#pragma GCC ivdep
                for (int64_t c = 0; c < w; c++) {
                    const float v = x[o + c];
                    y[o + c] = affine(v, ka[c], kb[c], add ? residual[o + c] : 0, add, relu);
                    if (sum) q[c] += v * v;
                }
            }
            if (sum) flush(square + c0, q, w);
        }
    }
}

#define APPLY(name, add, relu, sum)                                                               \
    MABN_CLONES static void name(float *y, double *square, const float *x, const float *residual, \
                                 const float *a, const float *b, int64_t rows, int64_t width)     \
    {                                                                                             \
        apply_body(y, square, x, residual, a, b, rows, width, add, relu, sum);                    \
    }
APPLY(apply_plain, false, false, false)
APPLY(apply_relu, false, true, false)
APPLY(apply_add, true, false, false)
APPLY(apply_add_relu, true, true, false)
APPLY(apply_plain_sum, false, false, true)
APPLY(apply_relu_sum, false, true, true)
APPLY(apply_add_sum, true, false, true)
APPLY(apply_add_relu_sum, true, true, true)

void mabn_kernel_apply(float *y, double *square, const float *x, const float *residual,
                       const float *a, const float *b, bool relu, int64_t rows, int64_t width)
{
    static void (*const kernels[2][2][2])(float *, double *, const float *, const float *,
                                          const float *, const float *, int64_t, int64_t) = {
        {{apply_plain, apply_relu}, {apply_add, apply_add_relu}},
        {{apply_plain_sum, apply_relu_sum}, {apply_add_sum, apply_add_relu_sum}}};
    kernels[!!square][!!residual][relu](y, square, x, residual, a, b, rows, width);
}

/* ---- backward ---- */

/* The gradient behind ReLU at offset o, channel c. */
BODY float masked(const struct mabn_kernel_grad *in, int64_t o, int64_t c,
                  const enum mabn_mask mask)
{
    const float g = in->dy[o];
    if (mask == MABN_MASK_Y) return in->y[o] <= 0 ? 0 : g;
    if (mask == MABN_MASK_X) return in->a[c] * in->x[o] + in->b[c] <= 0 ? 0 : g;
    return g;
}

BODY void grad_moments_body(double *sum, double *dot, const struct mabn_kernel_grad *in,
                            int64_t rows, int64_t width, const enum mabn_mask mask)
{
    const struct mabn_kernel_grad k = *in;
    float s[COLUMNS] = {0}, q[COLUMNS] = {0};

    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
        const int64_t end = min64(r0 + BLOCK, rows);
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t w = min64(COLUMNS, width - c0);
            int64_t r = r0;
            for (; r + 4 <= end; r += 4) {
                const int64_t o0 = r * width + c0, o1 = o0 + width, o2 = o1 + width,
                              o3 = o2 + width;
                for (int64_t c = 0; c < w; c++) {
                    const float o = k.shift[c0 + c];
                    const float g0 = masked(&k, o0 + c, c0 + c, mask);
                    const float g1 = masked(&k, o1 + c, c0 + c, mask);
                    const float g2 = masked(&k, o2 + c, c0 + c, mask);
                    const float g3 = masked(&k, o3 + c, c0 + c, mask);
                    s[c] += (g0 + g1) + (g2 + g3);
                    q[c] += (g0 * (k.x[o0 + c] - o) + g1 * (k.x[o1 + c] - o)) +
                            (g2 * (k.x[o2 + c] - o) + g3 * (k.x[o3 + c] - o));
                }
            }
            for (; r < end; r++) {
                const int64_t o0 = r * width + c0;
                for (int64_t c = 0; c < w; c++) {
                    const float g = masked(&k, o0 + c, c0 + c, mask);
                    s[c] += g;
                    q[c] += g * (k.x[o0 + c] - k.shift[c0 + c]);
                }
            }
            flush(sum + c0, s, w);
            flush(dot + c0, q, w);
        }
    }
}

#define GRAD_MOMENTS(name, mask)                                                              \
    MABN_CLONES static void name(double *sum, double *dot, const struct mabn_kernel_grad *in, \
                                 int64_t rows, int64_t width)                                 \
    {                                                                                         \
        grad_moments_body(sum, dot, in, rows, width, mask);                                   \
    }
GRAD_MOMENTS(grad_moments_none, MABN_MASK_NONE)
GRAD_MOMENTS(grad_moments_y, MABN_MASK_Y)
GRAD_MOMENTS(grad_moments_x, MABN_MASK_X)

void mabn_kernel_grad_moments(double *sum, double *dot, const struct mabn_kernel_grad *in,
                              int64_t rows, int64_t width)
{
    static void (*const kernels[])(double *, double *, const struct mabn_kernel_grad *, int64_t,
                                   int64_t) = {grad_moments_none, grad_moments_y, grad_moments_x};
    kernels[in->mask](sum, dot, in, rows, width);
}

BODY void grad_apply_body(float *dx, float *dresidual, const struct mabn_kernel_grad *in,
                          const float *p, const float *q, const float *r, int64_t rows,
                          int64_t width, const enum mabn_mask mask, const bool full,
                          const bool residual)
{
    const struct mabn_kernel_grad k = *in;

    for (int64_t row = 0; row < rows; row++) {
        const int64_t o = row * width;
#pragma GCC ivdep
        for (int64_t c = 0; c < width; c++) {
            const float g = masked(&k, o + c, c, mask);
            const float own = full ? q[c] * (k.x[o + c] - k.shift[c]) + r[c] : 0;
            if (residual) dresidual[o + c] = g;
            dx[o + c] = full ? p[c] * g + own : p[c] * g;
        }
    }
}

#define GRAD_APPLY(name, mask, full, residual)                                                 \
    MABN_CLONES static void name(float *dx, float *dres, const struct mabn_kernel_grad *in,    \
                                 const float *p, const float *q, const float *r, int64_t rows, \
                                 int64_t width)                                                \
    {                                                                                          \
        grad_apply_body(dx, dres, in, p, q, r, rows, width, mask, full, residual);             \
    }
GRAD_APPLY(grad_scale_none, MABN_MASK_NONE, false, false)
GRAD_APPLY(grad_scale_y, MABN_MASK_Y, false, false)
GRAD_APPLY(grad_scale_x, MABN_MASK_X, false, false)
GRAD_APPLY(grad_scale_none_add, MABN_MASK_NONE, false, true)
GRAD_APPLY(grad_scale_y_add, MABN_MASK_Y, false, true)
GRAD_APPLY(grad_scale_x_add, MABN_MASK_X, false, true)
GRAD_APPLY(grad_full_none, MABN_MASK_NONE, true, false)
GRAD_APPLY(grad_full_y, MABN_MASK_Y, true, false)
GRAD_APPLY(grad_full_x, MABN_MASK_X, true, false)
GRAD_APPLY(grad_full_none_add, MABN_MASK_NONE, true, true)
GRAD_APPLY(grad_full_y_add, MABN_MASK_Y, true, true)
GRAD_APPLY(grad_full_x_add, MABN_MASK_X, true, true)

void mabn_kernel_grad_apply(float *dx, float *dresidual, const struct mabn_kernel_grad *in,
                            const float *p, const float *q, const float *r, int64_t rows,
                            int64_t width)
{
    static void (*const kernels[2][2][3])(float *, float *, const struct mabn_kernel_grad *,
                                          const float *, const float *, const float *, int64_t,
                                          int64_t) = {
        {{grad_scale_none, grad_scale_y, grad_scale_x},
         {grad_scale_none_add, grad_scale_y_add, grad_scale_x_add}},
        {{grad_full_none, grad_full_y, grad_full_x},
         {grad_full_none_add, grad_full_y_add, grad_full_x_add}}};
    kernels[!!q][!!dresidual][in->mask](dx, dresidual, in, p, q, r, rows, width);
}
