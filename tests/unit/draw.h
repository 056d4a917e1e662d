/* For tests: arrays of random numbers. */
#ifndef MABN_TESTS_DRAW_H
#define MABN_TESTS_DRAW_H

#include <stdint.h>
#include <stdlib.h>

#include "base/rng.h"

static struct mabn_rng rng;

/* Standard normal; caller frees. */
static inline float *draw(int64_t count)
{
    float *v = (float *)malloc(((size_t)count + 1) * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = (float)mabn_rng_normal(&rng);
    return v;
}

/* Between -1 and 1, the same for the same id; caller frees. */
static inline float *draw_uniform(size_t n, uint64_t id)
{
    float *v = (float *)malloc((n + 1) * sizeof *v);
    struct mabn_rng own;
    mabn_rng_init(&own, 7, MABN_RNG_TEST, id, 0);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)mabn_rng_range(&own, -1, 1);
    return v;
}

#endif
