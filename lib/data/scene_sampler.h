/* Which photographs form a batch: wide ones with wide ones and tall ones with tall ones, to reduce
 * padding.
 *
 * An epoch is a list of batches of sample numbers, a pure function of (options, seed, epoch); the
 * reference's rule:
 *   1. the samples are shuffled;
 *   2. they are dealt into two groups, height < width and the rest, keeping their order;
 *   3. each group is cut into runs of `batch`; the last run of a group may be short;
 *   4. batches go in the order of their first samples.
 * The number of batches is the same in every epoch.  */
#ifndef MABN_DATA_SCENE_SAMPLER_H
#define MABN_DATA_SCENE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/scene_set.h"

MABN_BEGIN_DECLS

struct mabn_scene_sampler_options {
    const uint64_t *samples; /* (count) which to draw from, in the order taken when not shuffled;
                                NULL: all of the set. Copied */
    uint64_t count;
    int batch;    /* samples in a batch, ≥ 1 */
    bool shuffle; /* a new order each epoch; else the order given, again and again */
    bool group;   /* step 2; otherwise all samples are one group */
    bool fill;    /* fill short batches with the first samples of their group */
    uint64_t seed;
};

struct mabn_scene_sampler;
MABN_MUST_USE mabn_status mabn_scene_sampler_new(struct mabn_scene_sampler **sampler,
                                                 const struct mabn_scene_set *set,
                                                 const struct mabn_scene_sampler_options *options);
void mabn_scene_sampler_free(struct mabn_scene_sampler *sampler); /* NULL is fine */

uint64_t mabn_scene_sampler_batches(const struct mabn_scene_sampler *sampler); /* in an epoch */
/* Batch `index` of `epoch`: *samples points at *count numbers, valid until the next call. Quick
 * within an epoch; another epoch is put in order first. For one thread at a time. */
void mabn_scene_sampler_batch(struct mabn_scene_sampler *sampler, uint64_t epoch, uint64_t index,
                              const uint64_t **samples, int *count);

MABN_END_DECLS
#endif
