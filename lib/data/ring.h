/* A ring of batches: threads fill them ahead of the one consumer, who gets them in order.
 *
 * Batches are numbered by (epoch, index). The client says how many rows a batch has when it is
 * opened, and how to fill one row; the ring hands rows out to its threads. The contents of a row
 * must depend on its batch and number alone, so that a batch does not depend on the threads.
 *
 * The ring does not know what rows are: loader.h fills them with pictures of one size,
 * scene_loader.h with scenes for a detector. */
#ifndef MABN_DATA_RING_H
#define MABN_DATA_RING_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* The client. Batch i of the ring (i < ahead + 1) is at batches + i·batch_size; its storage is
 * reused for one batch after another. */
struct mabn_ring_client {
    void *context; /* borrowed */
    void *batches; /* (ahead + 1) borrowed */
    size_t batch_size;
    /* `batch` becomes batch `index` of `epoch`: set *rows (0 is fine). Called by one thread at a
     * time, in the order of batches, while others wait: be quick. */
    mabn_status (*open)(void *context, void *batch, uint64_t epoch, uint64_t index, int *rows);
    /* Fill a row of an open batch, from many threads at once; add the number of skipped unreadable
     * samples to *bad. */
    mabn_status (*fill)(void *worker, void *batch, int row, uint64_t *bad);
    /* A thread's own state: created before it starts, freed after it ends. */
    void *(*worker_new)(void *context);
    void (*worker_free)(void *worker);
};

struct mabn_ring_options {
    uint64_t per_epoch;                /* batches in an epoch, ≥ 1 */
    uint64_t epochs;                   /* stop before this epoch; 0: endless */
    uint64_t first_epoch, first_index; /* where to start */
    int threads;                       /* 0: as many as the process may use */
    int ahead;                         /* finished batches kept ready, 1…1000 */
    int grain;                         /* rows that a thread takes at a time, ≥ 1 */
};

struct mabn_ring;
/* Checks the options and starts the threads; the client is copied. */
MABN_MUST_USE mabn_status mabn_ring_new(struct mabn_ring **ring,
                                        const struct mabn_ring_client *client,
                                        const struct mabn_ring_options *options);
/* Stops the threads after the rows they are working on. NULL is fine. */
void mabn_ring_free(struct mabn_ring *ring);

/* The next batch, valid until the next call on this ring; NULL after the last. A failure to open a
 * batch or to fill a row (the first one that failed) is reported when the batch's turn comes, and
 * again in later calls. */
MABN_MUST_USE mabn_status mabn_ring_next(struct mabn_ring *ring, void **batch);
/* Continue with batch `index` (at most per_epoch) of `epoch`; prepared batches are dropped. */
MABN_MUST_USE mabn_status mabn_ring_seek(struct mabn_ring *ring, uint64_t epoch, uint64_t index);

struct mabn_ring_stats {
    uint64_t batches, rows; /* delivered */
    uint64_t bad;           /* unreadable samples in them */
    double wait_seconds;    /* time that the consumer waited in mabn_ring_next */
};
/* For the thread that calls mabn_ring_next. */
void mabn_ring_stats(const struct mabn_ring *ring, struct mabn_ring_stats *stats);

MABN_END_DECLS
#endif
