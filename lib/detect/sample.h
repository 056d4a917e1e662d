/* Sampling the boxes of an image for a loss: so many of them, and at most a fraction positive.
 *
 *     positives = min(#label ≥ 1, trunc(batch·fraction))
 *     negatives = min(#label 0, batch − positives)
 *
 * They are drawn at random without replacement. The random numbers are keyed by seed, step, image and
 * stage, so that nothing depends on threads or on earlier draws. The recorded values of the reference
 * were made with `spread` samples: of n candidates in index order, number floor(j·n/k) for j = 0…k−1. A
 * sample is in ascending order either way. */
#ifndef MABN_DETECT_SAMPLE_H
#define MABN_DETECT_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

enum mabn_sample_stage { MABN_SAMPLE_RPN, MABN_SAMPLE_BOXES };

struct mabn_sampler {
    int64_t batch;   /* 256 in the RPN, 512 in the box head */
    double fraction; /* 0.5, 0.25 */
    bool spread;
};

/* `image` is the image's number in the whole run, not its place in a batch. */
struct mabn_sample_key {
    uint64_t seed, step, image;
    enum mabn_sample_stage stage;
};

/* The stream that mabn_sample draws from. */
void mabn_sample_stream(struct mabn_rng *rng, const struct mabn_sample_key *key);

/* index (min(batch, n)): the boxes chosen by label (n), 1 or more for positive, 0 for negative, −1 for
 * neither. *count are chosen, *positives of them positive. */
MABN_MUST_USE mabn_status mabn_sample(int32_t *index, int64_t *count, int64_t *positives,
                                      const int32_t *label, int64_t n,
                                      const struct mabn_sampler *sampler,
                                      const struct mabn_sample_key *key,
                                      struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
