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

struct mask_target {
    const uint8_t *bits;
    const float *soft; /* where there are no bits */
};

/* Pixels [begin, end) of all boxes' pixels. */
static double mask_range(float *dlogits, const float *logits, const int32_t *labels,
                         const struct mask_target *target, int64_t begin, int64_t end,
                         int64_t pixels, int64_t classes, double scale)
{
    double sum = 0;
    if (dlogits)
        memset(dlogits + begin * classes, 0, (size_t)((end - begin) * classes) * sizeof *dlogits);
    for (int64_t i = begin; i < end; i++) {
        const int64_t label = labels[i / pixels];
        double gradient;
        if (label < 0 || label >= classes) continue;
        const double t = target->bits ? target->bits[i] != 0 : (double)target->soft[i];
        sum += element(&gradient, logits[i * classes + label], t);
        if (dlogits) dlogits[i * classes + label] = (float)(scale * gradient);
    }
    return sum;
}

static double mask_loss(float *dlogits, const float *logits, const int32_t *labels,
                        const struct mask_target *target, int64_t boxes, int64_t pixels,
                        int64_t classes, double scale)
{
    const int64_t count = boxes * pixels;
    double parts[MABN_CHUNKS];
#pragma omp parallel for schedule(static) if (count > 1024)
    for (int i = 0; i < MABN_CHUNKS; i++)
        parts[i] = mask_range(dlogits, logits, labels, target, mabn_chunk_begin(count, i),
                              mabn_chunk_begin(count, i + 1), pixels, classes, scale);
    return scale * mabn_chunks_sum(parts);
}

void mabn_mask_loss(double *loss, float *dlogits, const float *logits, const int32_t *labels,
                    const uint8_t *target, int64_t boxes, int64_t pixels, int64_t classes,
                    double scale)
{
    const struct mask_target t = {.bits = target};
    *loss = mask_loss(dlogits, logits, labels, &t, boxes, pixels, classes, scale);
}

void mabn_soft_mask_loss(double *loss, float *dlogits, const float *logits, const int32_t *labels,
                         const float *target, int64_t boxes, int64_t pixels, int64_t classes,
                         double scale)
{
    const struct mask_target t = {.soft = target};
    *loss = mask_loss(dlogits, logits, labels, &t, boxes, pixels, classes, scale);
}
