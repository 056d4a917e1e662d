#include "detect/sample.h"

#include <stdlib.h>
#include <string.h>

static int64_t collect(int32_t *candidate, const int32_t *label, int64_t n, bool positive)
{
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        candidate[m] = (int32_t)i;
        m += positive ? label[i] >= 1 : label[i] == 0;
    }
    return m;
}

static int compare_index(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* k of n candidates, which are moved about: the first k places of a shuffle. */
static void draw(int32_t *index, int32_t *candidate, int64_t n, int64_t k, struct mabn_rng *rng)
{
    for (int64_t j = 0; j < k && k < n; j++) {
        const int64_t other = j + (int64_t)mabn_rng_below(rng, (uint64_t)(n - j));
        const int32_t v = candidate[other];
        candidate[other] = candidate[j];
        candidate[j] = v;
    }
    memcpy(index, candidate, (size_t)k * sizeof *index);
}

static void choose(int32_t *index, int32_t *candidate, int64_t n, int64_t k, bool spread,
                   struct mabn_rng *rng)
{
    if (!spread)
        draw(index, candidate, n, k, rng);
    else
        for (int64_t j = 0; j < k; j++)
            index[j] = candidate[j * n / k];
}

void mabn_sample_stream(struct mabn_rng *rng, const struct mabn_sample_key *key)
{
    mabn_rng_init(rng, key->seed, MABN_RNG_DETECT, key->step, 2 * key->image + key->stage);
}

mabn_status mabn_sample(int32_t *index, int64_t *count, int64_t *positives, const int32_t *label,
                        int64_t n, const struct mabn_sampler *sampler,
                        const struct mabn_sample_key *key, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    int64_t most = (int64_t)((double)sampler->batch * sampler->fraction);
    struct mabn_rng rng;
    int32_t *candidate;

    MABN_TRY(mabn_scratch_take(scratch, &candidate, (size_t)n + 1, sizeof *candidate));
    mabn_sample_stream(&rng, key);
    int64_t found = collect(candidate, label, n, true);
    *positives = found < most ? found : most;
    choose(index, candidate, found, *positives, sampler->spread, &rng);

    most = sampler->batch - *positives;
    found = collect(candidate, label, n, false);
    const int64_t negatives = found < most ? found : most;
    choose(index + *positives, candidate, found, negatives, sampler->spread, &rng);
    *count = *positives + negatives;
    qsort(index, (size_t)*count, sizeof *index, compare_index);
    mabn_scratch_back(scratch, mark);
    return MABN_OK;
}
