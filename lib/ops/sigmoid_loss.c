/* Cross-entropy of a sigmoid. One exponential gives both the value and the gradient:
 *
 *     e = e^−|l|,   sigmoid(l) = 1/(1+e) for l ≥ 0, e/(1+e) for l < 0 */
#include "ops/sigmoid_loss.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "ops/chunks.h"

static double element(double *gradient, double l, double t)
{
    const double e = exp(-fabs(l));
    *gradient = (l < 0 ? e : 1) / (1 + e) - t;
    return (l > 0 ? l : 0) - l * t + log1p(e);
}

static double range(float *dlogits, const float *logits, const float *target, const float *weight,
                    int64_t begin, int64_t end, double scale)
{
    double sum = 0;
    for (int64_t i = begin; i < end; i++) {
        const double w = weight ? weight[i] : 1;
        double gradient = 0;
        if (w != 0) sum += w * element(&gradient, logits[i], target[i]);
        if (dlogits) dlogits[i] = w != 0 ? (float)(scale * w * gradient) : 0;
    }
    return sum;
}

void mabn_sigmoid_xent(double *loss, float *dlogits, const float *logits, const float *target,
                       const float *weight, int64_t count, double scale)
{
    double parts[MABN_CHUNKS];
#pragma omp parallel for schedule(static) if (count > 4096)
    for (int i = 0; i < MABN_CHUNKS; i++)
        parts[i] = range(dlogits, logits, target, weight, mabn_chunk_begin(count, i),
                         mabn_chunk_begin(count, i + 1), scale);
    *loss = scale * mabn_chunks_sum(parts);
}

/* Pixels [begin, end) of all boxes' pixels. */
static double mask_range(float *dlogits, const float *logits, const int32_t *labels,
                         const uint8_t *target, int64_t begin, int64_t end, int64_t pixels,
                         int64_t classes, double scale)
{
    double sum = 0;
    if (dlogits)
        memset(dlogits + begin * classes, 0, (size_t)((end - begin) * classes) * sizeof *dlogits);
    for (int64_t i = begin; i < end; i++) {
        const int64_t label = labels[i / pixels];
        double gradient;
        if (label < 0 || label >= classes) continue;
        sum += element(&gradient, logits[i * classes + label], target[i] != 0);
        if (dlogits) dlogits[i * classes + label] = (float)(scale * gradient);
    }
    return sum;
}

void mabn_mask_loss(double *loss, float *dlogits, const float *logits, const int32_t *labels,
                    const uint8_t *target, int64_t boxes, int64_t pixels, int64_t classes,
                    double scale)
{
    const int64_t count = boxes * pixels;
    double parts[MABN_CHUNKS];
#pragma omp parallel for schedule(static) if (count > 1024)
    for (int i = 0; i < MABN_CHUNKS; i++)
        parts[i] = mask_range(dlogits, logits, labels, target, mabn_chunk_begin(count, i),
                              mabn_chunk_begin(count, i + 1), pixels, classes, scale);
    *loss = scale * mabn_chunks_sum(parts);
}
