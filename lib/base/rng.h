/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", SC 2011). A stream is a pure function of its key and counter, so a sample's
 * augmentation depends on (seed, epoch, sample, purpose) and never on threads, ranks or timing. */
#ifndef MABN_BASE_RNG_H
#define MABN_BASE_RNG_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* What a stream is for: part of the key, so that no two uses ever share numbers. Values are part
 * of what makes runs repeatable: never renumber, only append. */
enum mabn_rng_purpose {
    MABN_RNG_INIT = 1,     /* weights */
    MABN_RNG_SAMPLER = 2,  /* order of samples */
    MABN_RNG_AUGMENT = 3,  /* crop, flip, colour of one sample */
    MABN_RNG_LIGHTING = 4, /* PCA noise of one sample */
    MABN_RNG_TEST = 5,     /* tests and synthetic data */
    MABN_RNG_BOOTSTRAP = 6,
    MABN_RNG_DETECT = 7,  /* RPN and RoI sampling */
    MABN_RNG_MIX = 8,     /* mixup, cutmix: pairs of a batch */
    MABN_RNG_COMPOSE = 9, /* what is where in a composed scene */
};

struct mabn_rng {
    uint32_t key[2];
    uint32_t counter[4]; /* [0] counts draws of 4; [1..3]: purpose, and the two ids' mix */
    uint32_t block[4];
    int used; /* of block, 4 = empty */
};

/* Stream for (seed, purpose, a, b); a and b are free ids (epoch and sample, layer and 0, …). */
void mabn_rng_init(struct mabn_rng *rng, uint64_t seed, enum mabn_rng_purpose purpose, uint64_t a,
                   uint64_t b);

uint32_t mabn_rng_u32(struct mabn_rng *rng);
uint64_t mabn_rng_u64(struct mabn_rng *rng);
double mabn_rng_uniform(struct mabn_rng *rng); /* [0,1), 53 bits */
double mabn_rng_range(struct mabn_rng *rng, double low, double high);
uint64_t mabn_rng_below(struct mabn_rng *rng, uint64_t n); /* 0…n-1, unbiased; n ≥ 1 */
double mabn_rng_normal(struct mabn_rng *rng);              /* mean 0, deviation 1 (Box–Muller) */

MABN_END_DECLS
#endif
