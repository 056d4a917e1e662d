/* Batches of scenes (scene.h) for a detector, prepared ahead by the threads of a ring (ring.h).
 *
 * A batch holds the photographs that the sampler put together, each at the upper left of its row;
 * rows are as large as the largest of them, both sides rounded up to a multiple of
 * options.multiple. The contents of a batch depend only on the options and its (epoch, index). */
#ifndef MABN_DATA_SCENE_LOADER_H
#define MABN_DATA_SCENE_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/scene.h"
#include "data/scene_sampler.h"

MABN_BEGIN_DECLS

struct mabn_scene_batch {
    float *x; /* (count,height,width,3) zero beyond each scene; NULL with options.raw */
    struct mabn_raw **raw; /* (count) blocks of the pictures as decoded; NULL without options.raw */
    struct mabn_scene *scenes; /* (count) */
    int count;                 /* fewer than requested at the end of a group */
    int width, height;         /* padded */
    uint64_t epoch, index;
};

struct mabn_scene_loader_options {
    struct mabn_scene_options scene;
    struct mabn_scene_sampler_options sampler; /* its seed is also used for sizes and flips */
    int threads;                               /* 0: as many as the process may use */
    int ahead;                                 /* finished batches kept ready; default 2 */
    bool raw;        /* decode only: for a GPU that does the rest (image/raw.h) */
    bool skip_bad;   /* pass over photographs that cannot be decoded (scene.bad), count them, and
                      * warn of each once */
    uint64_t epochs; /* stop before this epoch; 0: endless */
    uint64_t first_epoch, first_index;
    /* A rank's share: of every `period` batches, counted through all epochs, the `count` from `first`
     * on. A batch keeps its own epoch and index. Start and seek count the delivered batches alone.
     * Needs epochs 0. The default 1, 1, 0 delivers all. */
    int period, count, first;
};
/* One photograph in a batch, in order, two batches ahead, one epoch. scene is not filled in. */
void mabn_scene_loader_options_init(struct mabn_scene_loader_options *options);

struct mabn_scene_loader;
/* Checks everything and starts the threads. The set is borrowed. */
MABN_MUST_USE mabn_status mabn_scene_loader_new(struct mabn_scene_loader **loader,
                                                const struct mabn_scene_set *set,
                                                const struct mabn_scene_loader_options *options);
void mabn_scene_loader_free(struct mabn_scene_loader *loader); /* NULL is fine */

/* The next batch, valid until the next call; *batch NULL after the last. */
MABN_MUST_USE mabn_status mabn_scene_loader_next(struct mabn_scene_loader *loader,
                                                 const struct mabn_scene_batch **batch);
/* Continue with batch `index` (at most an epoch's number of batches) of `epoch`. */
MABN_MUST_USE mabn_status mabn_scene_loader_seek(struct mabn_scene_loader *loader, uint64_t epoch,
                                                 uint64_t index);
uint64_t mabn_scene_loader_batches_per_epoch(const struct mabn_scene_loader *loader);

struct mabn_scene_loader_stats {
    uint64_t batches, scenes; /* delivered */
    uint64_t bad;             /* of which skipped */
    double wait_seconds;      /* time that the consumer waited in mabn_scene_loader_next */
};
/* For the thread that calls mabn_scene_loader_next. */
void mabn_scene_loader_stats(const struct mabn_scene_loader *loader,
                             struct mabn_scene_loader_stats *stats);

MABN_END_DECLS
#endif
