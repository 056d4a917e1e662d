/* A ring of batches: threads fill them ahead of the one consumer, who gets them in order.
 *
 * Batches are numbered by (epoch, index). The client says how many rows a batch has when it is
 * opened, and how to fill one row; the ring hands rows out to its threads. What a row holds must
 * follow from its batch and number alone: then a batch is the same whatever the threads do.
 *
 * It knows nothing of what rows are: loader.h fills them with pictures for a classifier,
 * scene_loader.h with scenes for a detector. */
#ifndef MABN_DATA_RING_H
#define MABN_DATA_RING_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* What the rows are. Batch i of the ring (i < ahead + 1) is at batches + i·batch_size; its storage
 * is used for one batch after another. */
struct mabn_ring_client {
    void *context; /* borrowed */
    void *batches; /* (ahead + 1) borrowed */
    size_t batch_size;
    /* `batch` becomes batch `index` of `epoch`: set *rows (0 is fine). Called by one thread at a
     * time, in the order of batches, while others wait: be quick. */
    mabn_status (*open)(void *context, void *batch, uint64_t epoch, uint64_t index, int *rows);
    /* Fill a row of an open batch, from many threads at once; add the unreadable samples that were
     * passed over to *bad. */
    mabn_status (*fill)(void *worker, void *batch, int row, uint64_t *bad);
    /* What a thread needs of its own: made before it starts, freed when it has ended. */
    void *(*worker_new)(void *context);
    void (*worker_free)(void *worker);
};

struct mabn_ring_options {
    uint64_t per_epoch;                /* batches in an epoch, ≥ 1 */
    uint64_t epochs;                   /* stop before this epoch; 0: go on for ever */
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
/* Stops the threads, after the rows that they have in hand. NULL is fine. */
void mabn_ring_free(struct mabn_ring *ring);

/* The next batch, the caller's until the next call on this ring; NULL after the last. A failure to
 * open a batch or to fill a row is reported when the batch's turn comes, and again when it is asked
 * for again: that of the first row that failed. */
MABN_MUST_USE mabn_status mabn_ring_next(struct mabn_ring *ring, void **batch);
/* Go on from batch `index` (at most per_epoch) of `epoch`; what was prepared is dropped. */
MABN_MUST_USE mabn_status mabn_ring_seek(struct mabn_ring *ring, uint64_t epoch, uint64_t index);

struct mabn_ring_stats {
    uint64_t batches, rows; /* delivered */
    uint64_t bad;           /* unreadable samples in them */
    double wait_seconds;    /* the consumer stood waiting in mabn_ring_next */
};
/* For the thread that calls mabn_ring_next. */
void mabn_ring_stats(const struct mabn_ring *ring, struct mabn_ring_stats *stats);

MABN_END_DECLS
#endif
