/* The order of samples: a function of (seed, epoch, position) alone.
 *
 * An epoch has `length` positions. Nothing is stored or replayed: any position of any epoch can be
 * computed directly, so a run resumes exactly at (epoch, position), and every rank can compute its
 * own part. The global batch b covers positions [b·N, (b+1)·N); rank r of R takes the r-th of R
 * equal runs of it, so the union over ranks does not depend on R. */
#ifndef MABN_DATA_SAMPLER_H
#define MABN_DATA_SAMPLER_H

#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_sampler_kind {
    MABN_SAMPLER_SEQUENTIAL,  /* 0, 1, 2, …: validation */
    MABN_SAMPLER_SHUFFLE,     /* every sample once an epoch, in a new order each time */
    MABN_SAMPLER_REPLACEMENT, /* independent uniform draws: the classification reference */
};

struct mabn_sampler {
    enum mabn_sampler_kind kind;
    uint64_t samples; /* in the dataset, ≥ 1 */
    uint64_t length;  /* positions in an epoch */
    uint64_t seed;
    /* private: the current permutation */
    uint64_t epoch, pass;
    uint64_t round_keys[6];
    unsigned half_bits;
};

/* length 0: as many positions as samples. A longer SHUFFLE or SEQUENTIAL epoch starts over (in a
 * new order when shuffled). Fails for samples = 0. */
MABN_MUST_USE mabn_status mabn_sampler_init(struct mabn_sampler *sampler,
                                            enum mabn_sampler_kind kind, uint64_t samples,
                                            uint64_t length, uint64_t seed);

/* The sample at `position` (< length) of `epoch`. Cheap, in any order; each thread uses its own
 * copy of the struct (the epoch's keys are kept in it). */
uint64_t mabn_sampler_at(struct mabn_sampler *sampler, uint64_t epoch, uint64_t position);

/* Batches of `batch` positions in an epoch; a short last one counts when keep_last. */
uint64_t mabn_sampler_batches(const struct mabn_sampler *sampler, uint64_t batch, int keep_last);

/* The positions [*first, *first + *count) of global batch `index` for rank r of R. batch must be a
 * multiple of ranks. The last batch may leave ranks with fewer, even none. */
void mabn_sampler_slice(const struct mabn_sampler *sampler, uint64_t batch, uint64_t index,
                        int rank, int ranks, uint64_t *first, uint64_t *count);

MABN_END_DECLS
#endif
