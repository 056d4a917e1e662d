/* Initial weights from the counter-based generator: one stream a tensor and block of values. */
#include "ops/init.h"

#include "base/rng.h"

enum { BLOCK = 4096 }; /* part of what a seed means: never change */

uint64_t mabn_init_id(const char *name)
{
    uint64_t hash = 14695981039346656037u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

void mabn_init_fill(float *x, int64_t count, float value)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = value;
}

void mabn_init_normal(float *x, int64_t count, double mean, double deviation, uint64_t seed,
                      uint64_t tensor)
{
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        struct mabn_rng rng;
        mabn_rng_init(&rng, seed, MABN_RNG_INIT, tensor, (uint64_t)(begin / BLOCK));
        for (int64_t i = begin; i < count && i < begin + BLOCK; i++)
            x[i] = (float)(mean + deviation * mabn_rng_normal(&rng));
    }
}

void mabn_init_uniform(float *x, int64_t count, double low, double high, uint64_t seed,
                       uint64_t tensor)
{
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        struct mabn_rng rng;
        mabn_rng_init(&rng, seed, MABN_RNG_INIT, tensor, (uint64_t)(begin / BLOCK));
        for (int64_t i = begin; i < count && i < begin + BLOCK; i++)
            x[i] = (float)mabn_rng_range(&rng, low, high);
    }
}
