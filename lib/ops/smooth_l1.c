/* Smooth L1. Where |d| ≥ beta the gradient is the sign of d; at d = 0 it is 0, also with beta 0.
 * NaN gives NaN. */
#include "ops/smooth_l1.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "ops/chunks.h"

static double element(double *gradient, double d, double beta)
{
    const double size = fabs(d);
    if (size < beta) {
        *gradient = d / beta;
        return 0.5 * d * d / beta;
    }
    *gradient = d > 0 ? 1 : d < 0 ? -1 : d;
    return size - 0.5 * beta;
}

/* The four columns of one row. */
static double row_loss(float *dx, const float *x, const float *target, double weight,
                       const struct mabn_smooth_l1 *op)
{
    double sum = 0;
    for (int j = 0; j < 4; j++) {
        double gradient;
        sum += element(&gradient, (double)x[j] - target[j], op->beta);
        if (dx) dx[j] = (float)(op->scale * weight * gradient);
    }
    return weight * sum;
}

static double range(float *dx, const float *x, const float *target, const int32_t *group,
                    const float *weight, int64_t begin, int64_t end,
                    const struct mabn_smooth_l1 *op)
{
    const int64_t width = 4 * op->groups;
    double sum = 0;
    if (dx) memset(dx + begin * width, 0, (size_t)((end - begin) * width) * sizeof *dx);
    for (int64_t r = begin; r < end; r++) {
        const int64_t k = group ? group[r] : 0, at = r * width + 4 * k;
        const double w = weight ? weight[r] : 1;
        if (w == 0 || k < 0 || k >= op->groups) continue;
        sum += row_loss(dx ? dx + at : NULL, x + at, target + 4 * r, w, op);
    }
    return sum;
}

void mabn_smooth_l1(double *loss, float *dx, const float *x, const float *target,
                    const int32_t *group, const float *weight, const struct mabn_smooth_l1 *op)
{
    double parts[MABN_CHUNKS];
#pragma omp parallel for schedule(static) if (op->rows * op->groups > 4096)
    for (int i = 0; i < MABN_CHUNKS; i++)
        parts[i] = range(dx, x, target, group, weight, mabn_chunk_begin(op->rows, i),
                         mabn_chunk_begin(op->rows, i + 1), op);
    *loss = op->scale * mabn_chunks_sum(parts);
}
