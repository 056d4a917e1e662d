/* Max pooling and global average pooling, NHWC: the inner loop runs over channels. Loops are written
 * once for float32 and bfloat16 (`half`); sums are float32. */
#include "ops/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "tensor/bf16.h"

enum {
    COLUMNS = 512, /* channels that are compared at a time */
    MOST_KERNEL = 15
};

#define BODY static inline __attribute__((always_inline))

static size_t size_of(bool half)
{
    return half ? sizeof(uint16_t) : sizeof(float);
}

static void *offset(const void *p, int64_t by, bool half)
{
    return (char *)p + (size_t)by * size_of(half);
}

int64_t mabn_pool_out(int64_t size, int kernel, int stride, int pad)
{
    if (size + 2 * pad < kernel) return 0;
    return (size + 2 * pad - kernel) / stride + 1;
}

static mabn_status check(const struct mabn_pool_shape *s)
{
    if (s->kernel < 1 || s->kernel > MOST_KERNEL || s->stride < 1 || s->pad < 0 ||
        s->pad > s->kernel / 2)
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

/* best = x where x is greater or NaN, and likewise its place. */
BODY void take_max(float *best, int32_t *places, const void *x, int32_t place, int64_t channels,
                   const bool half)
{
    for (int64_t c = 0; c < channels; c++) {
        const float v = mabn_at(x, c, half), b = best[c];
        const int take = (v > b) | (v != v);
        best[c] = take ? v : b;
        places[c] = take ? place : places[c];
    }
}

BODY void take_max_only(float *best, const void *x, int64_t channels, const bool half)
{
    for (int64_t c = 0; c < channels; c++) {
        const float v = mabn_at(x, c, half), b = best[c];
        best[c] = ((v > b) | (v != v)) ? v : b;
    }
}

BODY void take_first(float *best, int32_t *places, const void *x, int32_t place, int64_t channels,
                     const bool half)
{
    for (int64_t c = 0; c < channels; c++) {
        best[c] = mabn_at(x, c, half);
        places[c] = place;
    }
}

BODY void put_max(void *y, uint8_t *winner, const float *best, const int32_t *places,
                  int64_t channels, const bool half)
{
    for (int64_t c = 0; c < channels && half; c++)
        mabn_put(y, c, best[c], half);
    for (int64_t c = 0; c < channels && winner; c++)
        winner[c] = (uint8_t)places[c];
}

/* Channels c0 to c0 + count, at most COLUMNS, of one output position. */
BODY void max_window(void *y, uint8_t *winner, const void *image, const struct mabn_pool_shape *s,
                     int64_t oy, int64_t ox, int64_t c0, int64_t count, const bool half)
{
    const int64_t top = oy * s->stride - s->pad, left = ox * s->stride - s->pad;
    const int64_t y0 = max64(0, top), y1 = min64(s->h, top + s->kernel);
    const int64_t x0 = max64(0, left), x1 = min64(s->w, left + s->kernel);
    float own[COLUMNS], *best = half ? own : y;
    int32_t places[COLUMNS];

    for (int64_t iy = y0; iy < y1; iy++)
        for (int64_t ix = x0; ix < x1; ix++) {
            const void *in = offset(image, (iy * s->w + ix) * s->c + c0, half);
            const int32_t place = (int32_t)((iy - top) * s->kernel + (ix - left));
            if (iy == y0 && ix == x0)
                take_first(best, places, in, place, count, half);
            else if (winner)
                take_max(best, places, in, place, count, half);
            else
                take_max_only(best, in, count, half);
        }
    put_max(y, winner, best, places, count, half);
}

BODY void max_row(void *y, uint8_t *winner, const void *image, const struct mabn_pool_shape *s,
                  int64_t ow, int64_t oy, const bool half)
{
    for (int64_t ox = 0; ox < ow; ox++)
        for (int64_t c0 = 0; c0 < s->c; c0 += COLUMNS)
            max_window(offset(y, ox * s->c + c0, half), winner ? winner + ox * s->c + c0 : NULL,
                       image, s, oy, ox, c0, min64(COLUMNS, s->c - c0), half);
}

MABN_CLONES static void max_row_full(void *y, uint8_t *winner, const void *image,
                                     const struct mabn_pool_shape *s, int64_t ow, int64_t oy)
{
    max_row(y, winner, image, s, ow, oy, false);
}

MABN_CLONES static void max_row_half(void *y, uint8_t *winner, const void *image,
                                     const struct mabn_pool_shape *s, int64_t ow, int64_t oy)
{
    max_row(y, winner, image, s, ow, oy, true);
}

mabn_status mabn_maxpool_forward(void *y, uint8_t *winner, const void *x,
                                 const struct mabn_pool_shape *shape, enum mabn_dtype dtype)
{
    const struct mabn_pool_shape s = *shape;
    const bool half = dtype == MABN_DTYPE_BF16;
    MABN_TRY(check(shape));
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);

#pragma omp parallel for schedule(static) if (s.n * oh * ow * s.c > 4096)
    for (int64_t row = 0; row < s.n * oh; row++) {
        const int64_t at = row * ow * s.c;
        (half ? max_row_half : max_row_full)(offset(y, at, half), winner ? winner + at : NULL,
                                             offset(x, row / oh * s.h * s.w * s.c, half), &s, ow,
                                             row % oh);
    }
    return MABN_OK;
}

/* ---- backward ---- */

/* A window over a position of dx: its dy and winners, and the position's place in it. */
struct cover {
    const void *dy;
    const uint8_t *winner;
    uint8_t place;
};

/* v where the window's winner is here, else 0; by bits, so that the loop is vectors. */
BODY float won(float v, uint8_t winner, uint8_t place)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits &= -(uint32_t)(winner == place);
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* dx (channels) of a position that `windows` of them cover, in their order. Where their number is a constant
 * the loop is vectors. */
BODY void gather(void *dx, const struct cover *covers, const int windows, int64_t channels,
                 const bool half)
{
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; c++) {
        float sum = 0;
        for (int w = 0; w < windows; w++)
            sum += won(mabn_at(covers[w].dy, c, half), covers[w].winner[c], covers[w].place);
        mabn_put(dx, c, sum, half);
    }
}

/* Row iy of dx: gathers from the windows over each position, in a fixed order. */
BODY void max_back_row(void *dx, const void *dy, const uint8_t *winner,
                       const struct mabn_pool_shape *s, int64_t oh, int64_t ow, int64_t iy,
                       const bool half)
{
    /* Windows that cover iy: oy·stride − pad ≤ iy < oy·stride − pad + kernel. */
    const int64_t oy0 = max64(0, (iy + s->pad - s->kernel + s->stride) / s->stride);
    const int64_t oy1 = min64(oh - 1, (iy + s->pad) / s->stride);
    struct cover covers[MOST_KERNEL * MOST_KERNEL];

    for (int64_t ix = 0; ix < s->w; ix++) {
        const int64_t ox0 = max64(0, (ix + s->pad - s->kernel + s->stride) / s->stride);
        const int64_t ox1 = min64(ow - 1, (ix + s->pad) / s->stride);
        void *to = offset(dx, ix * s->c, half);
        int windows = 0;
        for (int64_t oy = oy0; oy <= oy1; oy++)
            for (int64_t ox = ox0; ox <= ox1; ox++) {
                const int64_t at = (oy * ow + ox) * s->c;
                const int64_t py = iy - (oy * s->stride - s->pad);
                const int64_t px = ix - (ox * s->stride - s->pad);
                covers[windows++] = (struct cover){offset(dy, at, half), winner + at,
                                                   (uint8_t)(py * s->kernel + px)};
            }
        switch (windows) { /* of 3×3 with stride 2 there are one, two or four */
        case 1:
            gather(to, covers, 1, s->c, half);
            break;
        case 2:
            gather(to, covers, 2, s->c, half);
            break;
        case 4:
            gather(to, covers, 4, s->c, half);
            break;
        default:
            gather(to, covers, windows, s->c, half);
        }
    }
}

MABN_CLONES static void max_back_row_full(void *dx, const void *dy, const uint8_t *winner,
                                          const struct mabn_pool_shape *s, int64_t oh, int64_t ow,
                                          int64_t iy)
{
    max_back_row(dx, dy, winner, s, oh, ow, iy, false);
}

MABN_CLONES static void max_back_row_half(void *dx, const void *dy, const uint8_t *winner,
                                          const struct mabn_pool_shape *s, int64_t oh, int64_t ow,
                                          int64_t iy)
{
    max_back_row(dx, dy, winner, s, oh, ow, iy, true);
}

mabn_status mabn_maxpool_backward(void *dx, const void *dy, const uint8_t *winner,
                                  const struct mabn_pool_shape *shape, enum mabn_dtype dtype)
{
    const struct mabn_pool_shape s = *shape;
    const bool half = dtype == MABN_DTYPE_BF16;
    MABN_TRY(check(shape));
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);

#pragma omp parallel for schedule(static) if (s.n * s.h * s.w * s.c > 4096)
    for (int64_t row = 0; row < s.n * s.h; row++) {
        const int64_t image = row / s.h * oh * ow * s.c;
        (half ? max_back_row_half : max_back_row_full)(offset(dx, row * s.w * s.c, half),
                                                       offset(dy, image, half), winner + image, &s,
                                                       oh, ow, row % s.h);
    }
    return MABN_OK;
}

/* ---- global average ---- */

/* Of channels c0 to c0 + count, at most COLUMNS. */
BODY void average_body(void *y, const void *x, int64_t hw, int64_t c, int64_t c0, int64_t count,
                       const bool half)
{
    float sum[COLUMNS] = {0};
    for (int64_t p = 0; p < hw; p++)
        for (int64_t i = 0; i < count; i++)
            sum[i] += mabn_at(x, p * c + c0 + i, half);
    for (int64_t i = 0; i < count; i++)
        mabn_put(y, c0 + i, sum[i] / (float)hw, half);
}

MABN_CLONES static void average_full(void *y, const void *x, int64_t hw, int64_t c, int64_t c0,
                                     int64_t count)
{
    average_body(y, x, hw, c, c0, count, false);
}

MABN_CLONES static void average_half(void *y, const void *x, int64_t hw, int64_t c, int64_t c0,
                                     int64_t count)
{
    average_body(y, x, hw, c, c0, count, true);
}

void mabn_avgpool_forward(void *y, const void *x, int64_t n, int64_t hw, int64_t c,
                          enum mabn_dtype dtype)
{
    const bool half = dtype == MABN_DTYPE_BF16;
#pragma omp parallel for schedule(static) if (n * hw * c > 4096)
    for (int64_t i = 0; i < n; i++)
        for (int64_t c0 = 0; c0 < c; c0 += COLUMNS)
            (half ? average_half : average_full)(offset(y, i * c, half),
                                                 offset(x, i * hw * c, half), hw, c, c0,
                                                 min64(COLUMNS, c - c0));
}

MABN_CLONES static void divide_full(void *dx, const void *dy, int64_t hw, int64_t c)
{
    for (int64_t i = 0; i < c; i++)
        mabn_put(dx, i, mabn_at(dy, i, false) / (float)hw, false);
}

MABN_CLONES static void divide_half(void *dx, const void *dy, int64_t hw, int64_t c)
{
    for (int64_t i = 0; i < c; i++)
        mabn_put(dx, i, mabn_at(dy, i, true) / (float)hw, true);
}

static void spread(void *dx, const void *dy, int64_t hw, int64_t c, bool half)
{
    if (hw < 1) return;
    (half ? divide_half : divide_full)(dx, dy, hw, c);
    for (int64_t p = 1; p < hw; p++)
        memcpy(offset(dx, p * c, half), dx, (size_t)c * size_of(half));
}

void mabn_avgpool_backward(void *dx, const void *dy, int64_t n, int64_t hw, int64_t c,
                           enum mabn_dtype dtype)
{
    const bool half = dtype == MABN_DTYPE_BF16;
#pragma omp parallel for schedule(static) if (n * hw * c > 4096)
    for (int64_t i = 0; i < n; i++)
        spread(offset(dx, i * hw * c, half), offset(dy, i * c, half), hw, c, half);
}
