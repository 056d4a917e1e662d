/* Nearest upsampling with addition. A row of the output is one thread's work; backward gathers, in a
 * fixed order. */
#include "ops/upsample.h"

#include <string.h>

#include "tensor/bf16.h"

MABN_CLONES static void add_to(float *y, const float *a, const float *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

MABN_CLONES static void add_to_half(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] = mabn_bf16_round(mabn_bf16_float(a[i]) + mabn_bf16_float(b[i]));
}

/* sum += a, which is bfloat16. */
MABN_CLONES static void add_wide(float *sum, const uint16_t *a, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += mabn_bf16_float(a[i]);
}

MABN_CLONES static void add_four(float *y, const float *a, const float *b, const float *c,
                                 const float *d, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += (a[i] + b[i]) + (c[i] + d[i]);
}

/* First index of the large side that takes index i of the small one. */
static int64_t first_of(int64_t i, int64_t small, int64_t large)
{
    return (i * large + small - 1) / small;
}

/* ---- upsampling ---- */

void mabn_upsample_add(void *y, const void *a, const void *b, const struct mabn_upsample *op,
                       enum mabn_dtype dtype)
{
    const struct mabn_upsample s = *op;
    const bool half = dtype == MABN_DTYPE_BF16;
#pragma omp parallel for schedule(static) if (s.n * s.out_h * s.out_w * s.c > 4096)
    for (int64_t row = 0; row < s.n * s.out_h; row++) {
        const int64_t from = row / s.out_h * s.h + row % s.out_h * s.h / s.out_h;
        for (int64_t x = 0; x < s.out_w; x++) {
            const int64_t at = (row * s.out_w + x) * s.c;
            const int64_t b_at = (from * s.w + x * s.w / s.out_w) * s.c;
            if (half)
                add_to_half((uint16_t *)y + at, (const uint16_t *)a + at,
                            (const uint16_t *)b + b_at, s.c);
            else
                add_to((float *)y + at, (const float *)a + at, (const float *)b + b_at, s.c);
        }
    }
}

/* One value of b: the rectangle of dy that it was copied to. */
static void gather(float *db, const float *dy, int64_t y0, int64_t y1, int64_t x0, int64_t x1,
                   int64_t width, int64_t c)
{
    if (y1 - y0 == 2 && x1 - x0 == 2) {
        const float *at = dy + (y0 * width + x0) * c;
        add_four(db, at, at + c, at + width * c, at + (width + 1) * c, c);
        return;
    }
    for (int64_t y = y0; y < y1; y++)
        for (int64_t x = x0; x < x1; x++)
            add_to(db, db, dy + (y * width + x) * c, c);
}

/* The same in bfloat16, summed in float32. */
static void gather_half(uint16_t *db, const uint16_t *dy, int64_t y0, int64_t y1, int64_t x0,
                        int64_t x1, int64_t width, int64_t c, bool add)
{
    enum { COLUMNS = 512 };
    float sum[COLUMNS];
    for (int64_t c0 = 0; c0 < c; c0 += COLUMNS) {
        const int64_t count = c - c0 < COLUMNS ? c - c0 : COLUMNS;
        if (add)
            mabn_bf16_widen(sum, db + c0, count);
        else
            memset(sum, 0, (size_t)count * sizeof *sum);
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++)
                add_wide(sum, dy + (y * width + x) * c + c0, count);
        mabn_bf16_narrow(db + c0, sum, count);
    }
}

static void backward_half(uint16_t *db, const uint16_t *dy, const struct mabn_upsample *op,
                          bool add)
{
    const struct mabn_upsample s = *op;
#pragma omp parallel for schedule(static) if (s.n * s.out_h * s.out_w * s.c > 4096)
    for (int64_t row = 0; row < s.n * s.h; row++) {
        const uint16_t *image = dy + row / s.h * s.out_h * s.out_w * s.c;
        const int64_t y0 = first_of(row % s.h, s.h, s.out_h);
        const int64_t y1 = first_of(row % s.h + 1, s.h, s.out_h);
        for (int64_t x = 0; x < s.w; x++)
            gather_half(db + (row * s.w + x) * s.c, image, y0, y1, first_of(x, s.w, s.out_w),
                        first_of(x + 1, s.w, s.out_w), s.out_w, s.c, add);
    }
}

static void backward_full(float *db, const float *dy, const struct mabn_upsample *op, bool add)
{
    const struct mabn_upsample s = *op;
#pragma omp parallel for schedule(static) if (s.n * s.out_h * s.out_w * s.c > 4096)
    for (int64_t row = 0; row < s.n * s.h; row++) {
        const float *image = dy + row / s.h * s.out_h * s.out_w * s.c;
        const int64_t y0 = first_of(row % s.h, s.h, s.out_h);
        const int64_t y1 = first_of(row % s.h + 1, s.h, s.out_h);
        if (!add) memset(db + row * s.w * s.c, 0, (size_t)(s.w * s.c) * sizeof *db);
        for (int64_t x = 0; x < s.w; x++)
            gather(db + (row * s.w + x) * s.c, image, y0, y1, first_of(x, s.w, s.out_w),
                   first_of(x + 1, s.w, s.out_w), s.out_w, s.c);
    }
}

void mabn_upsample_backward(void *db, const void *dy, const struct mabn_upsample *op, bool add,
                            enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_BF16)
        backward_half(db, dy, op, add);
    else
        backward_full(db, dy, op, add);
}
