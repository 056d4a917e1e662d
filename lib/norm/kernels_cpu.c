/* The heavy kernels on the CPU: see kernels.h.
 *
 * Each body is written once, with flags that are constants where it is used, so that every
 * combination becomes its own loop without branches, for each instruction set. Sums take four rows
 * at a time and go to double every BLOCK rows: 16 float additions deep, about 1e-7 relative.
 *
 * `half`: arrays of rows are bfloat16 instead of float32; all arithmetic is float32 in both. */
#include "norm/kernels.h"

#include <string.h>

#include "tensor/bf16.h"

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

BODY void moments_body(double *sum, double *square, const void *x, const float *shift, int64_t rows,
                       int64_t width, const bool shifted, const bool half)
{
    float s[COLUMNS] = {0}, q[COLUMNS] = {0};

    for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
        const int64_t w = min64(COLUMNS, width - c0);
        const float *k = shifted ? shift + c0 : 0;
        for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
            const int64_t end = min64(r0 + BLOCK, rows);
            int64_t r = r0;
            for (; r + 4 <= end; r += 4) {
                const int64_t o0 = r * width + c0, o1 = o0 + width, o2 = o1 + width,
                              o3 = o2 + width;
                for (int64_t c = 0; c < w; c++) {
                    const float o = shifted ? k[c] : 0;
                    const float x0 = mabn_at(x, o0 + c, half), x1 = mabn_at(x, o1 + c, half);
                    const float x2 = mabn_at(x, o2 + c, half), x3 = mabn_at(x, o3 + c, half);
                    const float d0 = shifted ? x0 - o : x0;
                    const float d1 = shifted ? x1 - o : x1;
                    const float d2 = shifted ? x2 - o : x2;
                    const float d3 = shifted ? x3 - o : x3;
                    if (shifted) s[c] += (d0 + d1) + (d2 + d3);
                    q[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
                }
            }
            for (; r < end; r++) {
                const int64_t o0 = r * width + c0;
                for (int64_t c = 0; c < w; c++) {
                    const float x0 = mabn_at(x, o0 + c, half), d = shifted ? x0 - k[c] : x0;
                    if (shifted) s[c] += d;
                    q[c] += d * d;
                }
            }
            if (shifted) flush(sum + c0, s, w);
            flush(square + c0, q, w);
        }
    }
}

#define MOMENTS(name, shifted, half)                                                             \
    MABN_CLONES static void name(double *sum, double *square, const void *x, const float *shift, \
                                 int64_t rows, int64_t width)                                    \
    {                                                                                            \
        moments_body(sum, square, x, shift, rows, width, shifted, half);                         \
    }
MOMENTS(square_full, false, false)
MOMENTS(square_half, false, true)
MOMENTS(moments_full, true, false)
MOMENTS(moments_half, true, true)

void mabn_kernel_square(double *square, const void *x, bool half, int64_t rows, int64_t width)
{
    (half ? square_half : square_full)(0, square, x, 0, rows, width);
}

void mabn_kernel_moments(double *sum, double *square, const void *x, bool half, const float *shift,
                         int64_t rows, int64_t width)
{
    (half ? moments_half : moments_full)(sum, square, x, shift, rows, width);
}

/* ---- forward apply ---- */

BODY float affine(float x, float a, float b, float residual, const bool add, const bool relu)
{
    float v = a * x + b;
    if (add) v += residual;
    return relu ? (v < 0 ? 0 : v) : v; /* NaN passes */
}

BODY void apply_body(void *y, double *square, const void *x, const void *residual, const float *a,
                     const float *b, int64_t rows, int64_t width, const bool add, const bool relu,
                     const bool sum, const bool half)
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
                    const float x0 = mabn_at(x, o0 + c, half), x1 = mabn_at(x, o1 + c, half);
                    const float x2 = mabn_at(x, o2 + c, half), x3 = mabn_at(x, o3 + c, half);
                    const float s0 = add ? mabn_at(residual, o0 + c, half) : 0;
                    const float s1 = add ? mabn_at(residual, o1 + c, half) : 0;
                    const float s2 = add ? mabn_at(residual, o2 + c, half) : 0;
                    const float s3 = add ? mabn_at(residual, o3 + c, half) : 0;
                    mabn_put(y, o0 + c, affine(x0, ka[c], kb[c], s0, add, relu), half);
                    mabn_put(y, o1 + c, affine(x1, ka[c], kb[c], s1, add, relu), half);
                    mabn_put(y, o2 + c, affine(x2, ka[c], kb[c], s2, add, relu), half);
                    mabn_put(y, o3 + c, affine(x3, ka[c], kb[c], s3, add, relu), half);
                    if (sum) q[c] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3);
                }
            }
            for (; r < end; r++) {
                const int64_t o = r * width + c0;
#pragma GCC ivdep
                for (int64_t c = 0; c < w; c++) {
                    const float v = mabn_at(x, o + c, half),
                                s = add ? mabn_at(residual, o + c, half) : 0;
                    mabn_put(y, o + c, affine(v, ka[c], kb[c], s, add, relu), half);
                    if (sum) q[c] += v * v;
                }
            }
            if (sum) flush(square + c0, q, w);
        }
    }
}

#define APPLY_AS(name, add, relu, sum, half)                                                   \
    MABN_CLONES static void name(void *y, double *square, const void *x, const void *residual, \
                                 const float *a, const float *b, int64_t rows, int64_t width)  \
    {                                                                                          \
        apply_body(y, square, x, residual, a, b, rows, width, add, relu, sum, half);           \
    }
#define APPLY(name, add, relu, sum)              \
    APPLY_AS(name##_full, add, relu, sum, false) \
    APPLY_AS(name##_half, add, relu, sum, true)
APPLY(apply_plain, false, false, false)
APPLY(apply_relu, false, true, false)
APPLY(apply_add, true, false, false)
APPLY(apply_add_relu, true, true, false)
APPLY(apply_plain_sum, false, false, true)
APPLY(apply_relu_sum, false, true, true)
APPLY(apply_add_sum, true, false, true)
APPLY(apply_add_relu_sum, true, true, true)

#define BOTH(name)               \
    {                            \
        name##_full, name##_half \
    }

void mabn_kernel_apply(void *y, double *square, const void *x, const void *residual, bool half,
                       const float *a, const float *b, bool relu, int64_t rows, int64_t width)
{
    static void (*const kernels[2][2][2][2])(void *, double *, const void *, const void *,
                                             const float *, const float *, int64_t, int64_t) = {
        {{BOTH(apply_plain), BOTH(apply_relu)}, {BOTH(apply_add), BOTH(apply_add_relu)}},
        {{BOTH(apply_plain_sum), BOTH(apply_relu_sum)},
         {BOTH(apply_add_sum), BOTH(apply_add_relu_sum)}}};
    kernels[!!square][!!residual][relu][half](y, square, x, residual, a, b, rows, width);
}

/* ---- backward ---- */

/* The gradient behind ReLU at offset o, channel c. */
BODY float masked(const struct mabn_kernel_grad *in, int64_t o, int64_t c,
                  const enum mabn_mask mask, const bool half)
{
    const float g = mabn_at(in->dy, o, half);
    if (mask == MABN_MASK_Y) return mabn_at(in->y, o, half) <= 0 ? 0 : g;
    if (mask == MABN_MASK_X) return in->a[c] * mabn_at(in->x, o, half) + in->b[c] <= 0 ? 0 : g;
    return g;
}

BODY void grad_moments_body(double *sum, double *dot, const struct mabn_kernel_grad *in,
                            int64_t rows, int64_t width, const enum mabn_mask mask, const bool half)
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
                    const float g0 = masked(&k, o0 + c, c0 + c, mask, half);
                    const float g1 = masked(&k, o1 + c, c0 + c, mask, half);
                    const float g2 = masked(&k, o2 + c, c0 + c, mask, half);
                    const float g3 = masked(&k, o3 + c, c0 + c, mask, half);
                    s[c] += (g0 + g1) + (g2 + g3);
                    q[c] += (g0 * (mabn_at(k.x, o0 + c, half) - o) +
                             g1 * (mabn_at(k.x, o1 + c, half) - o)) +
                            (g2 * (mabn_at(k.x, o2 + c, half) - o) +
                             g3 * (mabn_at(k.x, o3 + c, half) - o));
                }
            }
            for (; r < end; r++) {
                const int64_t o0 = r * width + c0;
                for (int64_t c = 0; c < w; c++) {
                    const float g = masked(&k, o0 + c, c0 + c, mask, half);
                    s[c] += g;
                    q[c] += g * (mabn_at(k.x, o0 + c, half) - k.shift[c0 + c]);
                }
            }
            flush(sum + c0, s, w);
            flush(dot + c0, q, w);
        }
    }
}

#define GRAD_MOMENTS_AS(name, mask, half)                                                     \
    MABN_CLONES static void name(double *sum, double *dot, const struct mabn_kernel_grad *in, \
                                 int64_t rows, int64_t width)                                 \
    {                                                                                         \
        grad_moments_body(sum, dot, in, rows, width, mask, half);                             \
    }
#define GRAD_MOMENTS(name, mask)              \
    GRAD_MOMENTS_AS(name##_full, mask, false) \
    GRAD_MOMENTS_AS(name##_half, mask, true)
GRAD_MOMENTS(grad_moments_none, MABN_MASK_NONE)
GRAD_MOMENTS(grad_moments_y, MABN_MASK_Y)
GRAD_MOMENTS(grad_moments_x, MABN_MASK_X)

void mabn_kernel_grad_moments(double *sum, double *dot, const struct mabn_kernel_grad *in,
                              int64_t rows, int64_t width)
{
    static void (*const kernels[][2])(double *, double *, const struct mabn_kernel_grad *, int64_t,
                                      int64_t) = {BOTH(grad_moments_none), BOTH(grad_moments_y),
                                                  BOTH(grad_moments_x)};
    kernels[in->mask][in->half](sum, dot, in, rows, width);
}

BODY void grad_apply_body(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                          const float *p, const float *q, const float *r, int64_t rows,
                          int64_t width, const enum mabn_mask mask, const bool full,
                          const bool residual, const bool half)
{
    const struct mabn_kernel_grad k = *in;

    for (int64_t row = 0; row < rows; row++) {
        const int64_t o = row * width;
#pragma GCC ivdep
        for (int64_t c = 0; c < width; c++) {
            const float g = masked(&k, o + c, c, mask, half);
            const float own = full ? q[c] * (mabn_at(k.x, o + c, half) - k.shift[c]) + r[c] : 0;
            if (residual) mabn_put(dresidual, o + c, g, half);
            mabn_put(dx, o + c, full ? p[c] * g + own : p[c] * g, half);
        }
    }
}

#define GRAD_APPLY_AS(name, mask, full, residual, half)                                        \
    MABN_CLONES static void name(void *dx, void *dres, const struct mabn_kernel_grad *in,      \
                                 const float *p, const float *q, const float *r, int64_t rows, \
                                 int64_t width)                                                \
    {                                                                                          \
        grad_apply_body(dx, dres, in, p, q, r, rows, width, mask, full, residual, half);       \
    }
#define GRAD_APPLY(name, mask, full, residual)              \
    GRAD_APPLY_AS(name##_full, mask, full, residual, false) \
    GRAD_APPLY_AS(name##_half, mask, full, residual, true)
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

void mabn_kernel_grad_apply(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                            const float *p, const float *q, const float *r, int64_t rows,
                            int64_t width)
{
    static void (*const kernels[2][2][3][2])(void *, void *, const struct mabn_kernel_grad *,
                                             const float *, const float *, const float *, int64_t,
                                             int64_t) = {
        {{BOTH(grad_scale_none), BOTH(grad_scale_y), BOTH(grad_scale_x)},
         {BOTH(grad_scale_none_add), BOTH(grad_scale_y_add), BOTH(grad_scale_x_add)}},
        {{BOTH(grad_full_none), BOTH(grad_full_y), BOTH(grad_full_x)},
         {BOTH(grad_full_none_add), BOTH(grad_full_y_add), BOTH(grad_full_x_add)}}};
    kernels[!!q][!!dresidual][in->mask][in->half](dx, dresidual, in, p, q, r, rows, width);
}
