/* Element-wise passes. */
#include "ops/elementwise.h"

#include "tensor/bf16.h"

enum { BLOCK = 32768 }; /* a thread's portion */

static int64_t block(int64_t begin, int64_t count)
{
    return count - begin < BLOCK ? count - begin : BLOCK;
}

MABN_CLONES static void add(float *y, const float *a, const float *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

MABN_CLONES static void add_relu(float *y, const float *a, const float *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float v = a[i] + b[i];
        y[i] = v < 0 ? 0 : v;
    }
}

void mabn_add(float *y, const float *a, const float *b, int64_t count, bool relu)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t begin = 0; begin < count; begin += BLOCK)
        (relu ? add_relu : add)(y + begin, a + begin, b + begin, block(begin, count));
}

MABN_CLONES static void add_half(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] = mabn_bf16_round(mabn_bf16_float(a[i]) + mabn_bf16_float(b[i]));
}

void mabn_add_half(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t begin = 0; begin < count; begin += BLOCK)
        add_half(y + begin, a + begin, b + begin, block(begin, count));
}

MABN_CLONES static void round_through_half(float *y, const float *a, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        y[i] = mabn_bf16_float(mabn_bf16_round(a[i]));
}

void mabn_round_through_half(float *y, const void *a, enum mabn_dtype dtype, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t begin = 0; begin < count; begin += BLOCK)
        if (dtype == MABN_DTYPE_BF16)
            mabn_bf16_widen(y + begin, (const uint16_t *)a + begin, block(begin, count));
        else
            round_through_half(y + begin, (const float *)a + begin, block(begin, count));
}

void mabn_narrow(uint16_t *y, const float *a, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t begin = 0; begin < count; begin += BLOCK)
        mabn_bf16_narrow(y + begin, a + begin, block(begin, count));
}
