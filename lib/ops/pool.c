/* Max pooling and global average pooling, NHWC: the inner loop runs over channels. */
#include "ops/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

int64_t mabn_pool_out(int64_t size, int kernel, int stride, int pad)
{
    if (size + 2 * pad < kernel) return 0;
    return (size + 2 * pad - kernel) / stride + 1;
}

static mabn_status check(const struct mabn_pool_shape *s)
{
    if (s->kernel < 1 || s->kernel > 15 || s->stride < 1 || s->pad < 0 || s->pad > s->kernel / 2)
        return mabn_fail(MABN_ERR_ARG, "pooling: kernel %d, stride %d, padding %d do not fit",
                         s->kernel, s->stride, s->pad);
    if (s->n < 0 || s->c < 1 || !mabn_pool_out(s->h, s->kernel, s->stride, s->pad) ||
        !mabn_pool_out(s->w, s->kernel, s->stride, s->pad))
        return mabn_fail(MABN_ERR_ARG, "pooling: a %lld×%lld image is smaller than the window",
                         (long long)s->h, (long long)s->w);
    return MABN_OK;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- forward ---- */

/* best = x where x is greater or NaN; its place with it. */
MABN_CLONES static void take_max(float *best, uint8_t *winner, const float *x, uint8_t place,
                                 int64_t channels)
{
    for (int64_t c = 0; c < channels; c++) {
        const float v = x[c], b = best[c];
        const int take = (v > b) | (v != v);
        best[c] = take ? v : b;
        winner[c] = take ? place : winner[c];
    }
}

MABN_CLONES static void take_max_only(float *best, const float *x, int64_t channels)
{
    for (int64_t c = 0; c < channels; c++) {
        const float v = x[c], b = best[c];
        best[c] = ((v > b) | (v != v)) ? v : b;
    }
}

/* One output position. */
static void max_window(float *y, uint8_t *winner, const float *image,
                       const struct mabn_pool_shape *s, int64_t oy, int64_t ox)
{
    const int64_t top = oy * s->stride - s->pad, left = ox * s->stride - s->pad;
    const int64_t y0 = max64(0, top), y1 = min64(s->h, top + s->kernel);
    const int64_t x0 = max64(0, left), x1 = min64(s->w, left + s->kernel);
    bool first = true;

    for (int64_t iy = y0; iy < y1; iy++)
        for (int64_t ix = x0; ix < x1; ix++) {
            const float *in = image + (iy * s->w + ix) * s->c;
            const uint8_t place = (uint8_t)((iy - top) * s->kernel + (ix - left));
            if (first) {
                memcpy(y, in, (size_t)s->c * sizeof *y);
                if (winner) memset(winner, place, (size_t)s->c);
            } else if (winner) {
                take_max(y, winner, in, place, s->c);
            } else {
                take_max_only(y, in, s->c);
            }
            first = false;
        }
}

mabn_status mabn_maxpool_forward(float *y, uint8_t *winner, const float *x,
                                 const struct mabn_pool_shape *shape)
{
    const struct mabn_pool_shape s = *shape;
    MABN_TRY(check(shape));
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);

#pragma omp parallel for schedule(static) if (s.n * oh * ow * s.c > 4096)
    for (int64_t row = 0; row < s.n * oh; row++)
        for (int64_t ox = 0; ox < ow; ox++) {
            const int64_t at = (row * ow + ox) * s.c;
            max_window(y + at, winner ? winner + at : NULL, x + row / oh * s.h * s.w * s.c, &s,
                       row % oh, ox);
        }
    return MABN_OK;
}

/* ---- backward ---- */

MABN_CLONES static void add_won(float *dx, const float *dy, const uint8_t *winner, uint8_t place,
                                int64_t channels)
{
    for (int64_t c = 0; c < channels; c++)
        dx[c] += winner[c] == place ? dy[c] : 0;
}

/* One row of dx: gathers from the windows over each position, in a fixed order. */
static void max_back_row(float *dx, const float *dy, const uint8_t *winner,
                         const struct mabn_pool_shape *s, int64_t oh, int64_t ow, int64_t iy)
{
    /* Windows that cover iy: oy·stride − pad ≤ iy < oy·stride − pad + kernel. */
    const int64_t oy0 = max64(0, (iy + s->pad - s->kernel + s->stride) / s->stride);
    const int64_t oy1 = min64(oh - 1, (iy + s->pad) / s->stride);

    memset(dx, 0, (size_t)(s->w * s->c) * sizeof *dx);
    for (int64_t ix = 0; ix < s->w; ix++) {
        const int64_t ox0 = max64(0, (ix + s->pad - s->kernel + s->stride) / s->stride);
        const int64_t ox1 = min64(ow - 1, (ix + s->pad) / s->stride);
        for (int64_t oy = oy0; oy <= oy1; oy++)
            for (int64_t ox = ox0; ox <= ox1; ox++) {
                const int64_t at = (oy * ow + ox) * s->c;
                const int64_t py = iy - (oy * s->stride - s->pad);
                const int64_t px = ix - (ox * s->stride - s->pad);
                add_won(dx + ix * s->c, dy + at, winner + at, (uint8_t)(py * s->kernel + px), s->c);
            }
    }
}

mabn_status mabn_maxpool_backward(float *dx, const float *dy, const uint8_t *winner,
                                  const struct mabn_pool_shape *shape)
{
    const struct mabn_pool_shape s = *shape;
    MABN_TRY(check(shape));
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);

#pragma omp parallel for schedule(static) if (s.n * s.h * s.w * s.c > 4096)
    for (int64_t row = 0; row < s.n * s.h; row++) {
        const int64_t image = row / s.h * oh * ow * s.c;
        max_back_row(dx + row * s.w * s.c, dy + image, winner + image, &s, oh, ow, row % s.h);
    }
    return MABN_OK;
}

/* ---- global average ---- */

MABN_CLONES static void average(float *y, const float *x, int64_t hw, int64_t c)
{
    memset(y, 0, (size_t)c * sizeof *y);
    for (int64_t p = 0; p < hw; p++)
        for (int64_t i = 0; i < c; i++)
            y[i] += x[p * c + i];
    for (int64_t i = 0; i < c; i++)
        y[i] /= (float)hw;
}

void mabn_avgpool_forward(float *y, const float *x, int64_t n, int64_t hw, int64_t c)
{
#pragma omp parallel for schedule(static) if (n * hw * c > 4096)
    for (int64_t i = 0; i < n; i++)
        average(y + i * c, x + i * hw * c, hw, c);
}

MABN_CLONES static void spread(float *dx, const float *dy, int64_t hw, int64_t c)
{
    if (hw < 1) return;
    for (int64_t i = 0; i < c; i++)
        dx[i] = dy[i] / (float)hw;
    for (int64_t p = 1; p < hw; p++)
        memcpy(dx + p * c, dx, (size_t)c * sizeof *dx);
}

void mabn_avgpool_backward(float *dx, const float *dy, int64_t n, int64_t hw, int64_t c)
{
#pragma omp parallel for schedule(static) if (n * hw * c > 4096)
    for (int64_t i = 0; i < n; i++)
        spread(dx + i * hw * c, dy + i * c, hw, c);
}
