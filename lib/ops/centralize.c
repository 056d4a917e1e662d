/* Weight centralization: out[o] = w[o] − mean(w[o]); the operation is its own transpose. */
#include "ops/centralize.h"

MABN_CLONES double mabn_filter_mean(const float *filter, int64_t count)
{
    double sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += filter[i + j];
    for (; i < count; i++)
        sum[0] += filter[i];
    return (((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]))) /
           (double)count;
}

MABN_CLONES static void subtract(float *out, const float *in, float mean, int64_t filter)
{
    for (int64_t i = 0; i < filter; i++)
        out[i] = in[i] - mean;
}

void mabn_centralize(float *out, const float *weight, int64_t outputs, int64_t filter)
{
#pragma omp parallel for schedule(static) if (outputs * filter > 16384)
    for (int64_t o = 0; o < outputs; o++)
        subtract(out + o * filter, weight + o * filter,
                 (float)mabn_filter_mean(weight + o * filter, filter), filter);
}

void mabn_filter_means(float *means, const float *weight, int64_t outputs, int64_t filter)
{
#pragma omp parallel for schedule(static) if (outputs * filter > 16384)
    for (int64_t o = 0; o < outputs; o++)
        means[o] = (float)mabn_filter_mean(weight + o * filter, filter);
}

void mabn_subtract_means(float *out, const float *weight, const float *means, int64_t outputs,
                         int64_t filter)
{
#pragma omp parallel for schedule(static) if (outputs * filter > 16384)
    for (int64_t o = 0; o < outputs; o++)
        subtract(out + o * filter, weight + o * filter, means[o], filter);
}

void mabn_centralize_backward(float *dweight, const float *dout, int64_t outputs, int64_t filter)
{
    mabn_centralize(dweight, dout, outputs, filter);
}
