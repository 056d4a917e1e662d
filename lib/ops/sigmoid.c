/* Sigmoid. */
#include "ops/sigmoid.h"

#include <math.h>

#include "tensor/bf16.h"

static void sigmoid_half(uint16_t *y, const uint16_t *x, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > 4096)
    for (int64_t i = 0; i < count; i++)
        y[i] = mabn_bf16_round((float)(1 / (1 + exp(-(double)mabn_bf16_float(x[i])))));
}

static void sigmoid_full(float *y, const float *x, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > 4096)
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(1 / (1 + exp(-(double)x[i])));
}

void mabn_sigmoid(void *y, const void *x, int64_t count, enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_BF16)
        sigmoid_half(y, x, count);
    else
        sigmoid_full(y, x, count);
}

MABN_CLONES static void backward_full(void *dx, const void *dy, const void *y, int64_t from,
                                      int64_t to)
{
#pragma GCC ivdep
    for (int64_t i = from; i < to; i++) {
        const float v = mabn_at(y, i, false);
        mabn_put(dx, i, mabn_at(dy, i, false) * (v * (1 - v)), false);
    }
}

MABN_CLONES static void backward_half(void *dx, const void *dy, const void *y, int64_t from,
                                      int64_t to)
{
#pragma GCC ivdep
    for (int64_t i = from; i < to; i++) {
        const float v = mabn_at(y, i, true);
        mabn_put(dx, i, mabn_at(dy, i, true) * (v * (1 - v)), true);
    }
}

void mabn_sigmoid_backward(void *dx, const void *dy, const void *y, int64_t count,
                           enum mabn_dtype dtype)
{
    enum { BLOCK = 32768 };
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t i = 0; i < count; i += BLOCK)
        (dtype == MABN_DTYPE_BF16 ? backward_half : backward_full)(
            dx, dy, y, i, count - i < BLOCK ? count : i + BLOCK);
}
