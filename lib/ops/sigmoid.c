/* Sigmoid. */
#include "ops/sigmoid.h"

#include <math.h>

void mabn_sigmoid(float *y, const float *x, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > 4096)
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(1 / (1 + exp(-(double)x[i])));
}

MABN_CLONES static void backward(float *dx, const float *dy, const float *y, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * (y[i] * (1 - y[i]));
}

void mabn_sigmoid_backward(float *dx, const float *dy, const float *y, int64_t count)
{
    enum { BLOCK = 32768 };
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t i = 0; i < count; i += BLOCK)
        backward(dx + i, dy + i, y + i, count - i < BLOCK ? count - i : BLOCK);
}
