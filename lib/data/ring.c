/* The ring's threads and slots.
 *
 * Batches are numbered 0, 1, 2, … from where the ring was started or sought to; batch n lives in
 * slot n mod slots. Threads take runs of rows from the newest batch that is open, and open the next
 * one when it is all handed out and its slot is free. The consumer takes batches in order; a batch
 * is finished when no row of it is left to do. One mutex guards all of it; filling rows, the long
 * part, runs outside. */
#include "data/ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/thread.h"

struct slot {
    void *batch;
    int rows;
    int left; /* rows not done */
    uint64_t bad;
    int failed_row;     /* the first that failed; −1: none did */
    mabn_status status; /* of that row */
    char *message;      /* of that row */
};

struct mabn_ring {
    struct mabn_ring_client client;
    struct mabn_ring_options o;

    pthread_mutex_t lock;
    pthread_cond_t work;     /* a slot was freed, or stop, or go on after a seek */
    pthread_cond_t finished; /* a batch was finished, or a thread came to rest */
    struct slot *slots;
    int slot_count;
    uint64_t consumed;     /* number of the batch that the consumer has or waits for */
    bool holds;            /* it has it */
    uint64_t opened;       /* batches opened so far */
    int next_row;          /* of the newest: first row not handed out */
    uint64_t epoch, index; /* of the next batch to open */
    int busy;              /* threads at work */
    atomic_bool stop;
    bool paused;
    struct mabn_ring_stats stats;

    pthread_t *threads;
    int thread_count;
};

/* ---- the threads ---- */

struct worker {
    struct mabn_ring *ring;
    void *own; /* the client's */
};

static void note_failure(struct slot *slot, int row, mabn_status status, char *message)
{
    if (slot->failed_row >= 0 && slot->failed_row < row) {
        free(message);
        return;
    }
    free(slot->message);
    slot->message = message;
    slot->status = status;
    slot->failed_row = row;
}

static void clear_slot(struct slot *slot)
{
    free(slot->message);
    *slot = (struct slot){.batch = slot->batch, .failed_row = -1};
}

static void open_batch(struct mabn_ring *r)
{
    struct slot *slot = &r->slots[r->opened % (uint64_t)r->slot_count];
    clear_slot(slot);
    const mabn_status status =
        r->client.open(r->client.context, slot->batch, r->epoch, r->index, &slot->rows);
    if (status) {
        slot->rows = 0;
        note_failure(slot, 0, status, mabn_error_detach());
    }
    slot->left = slot->rows;
    r->opened++;
    r->next_row = 0;
    if (++r->index == r->o.per_epoch) r->index = 0, r->epoch++;
    if (!slot->rows) pthread_cond_broadcast(&r->finished);
}

static bool at_end(const struct mabn_ring *r)
{
    return r->o.epochs && r->epoch >= r->o.epochs;
}

/* With the lock held: wait for rows to fill; NULL: stop. */
static struct slot *take_rows(struct mabn_ring *r, int *first, int *end)
{
    for (;;) {
        if (atomic_load(&r->stop)) return NULL;
        if (!r->paused) {
            struct slot *slot =
                &r->slots[(r->opened + (uint64_t)r->slot_count - 1) % (uint64_t)r->slot_count];
            if (r->opened && r->next_row < slot->rows) {
                *first = r->next_row;
                *end = slot->rows - *first < r->o.grain ? slot->rows : *first + r->o.grain;
                r->next_row = *end;
                return slot;
            }
            if (!at_end(r) && r->opened < r->consumed + (uint64_t)r->slot_count) {
                open_batch(r);
                pthread_cond_broadcast(&r->work);
                continue;
            }
        }
        pthread_cond_wait(&r->work, &r->lock);
    }
}

/* Do rows [first, end), up to the first that fails. */
static mabn_status fill_rows(struct worker *w, struct slot *slot, int *first, int end,
                             uint64_t *bad)
{
    for (; *first < end && !atomic_load(&w->ring->stop); ++*first)
        MABN_TRY(w->ring->client.fill(w->own, slot->batch, *first, bad));
    return MABN_OK;
}

static void free_worker(struct worker *w)
{
    if (w->own) w->ring->client.worker_free(w->own);
    free(w);
}

static void *work(void *context)
{
    struct worker *w = context;
    struct mabn_ring *r = w->ring;
    struct slot *slot;
    int first, end;
    pthread_mutex_lock(&r->lock);
    while ((slot = take_rows(r, &first, &end))) {
        const int rows = end - first;
        uint64_t bad = 0;
        r->busy++;
        pthread_mutex_unlock(&r->lock);
        const mabn_status status = fill_rows(w, slot, &first, end, &bad);
        char *message = status ? mabn_error_detach() : NULL;
        pthread_mutex_lock(&r->lock);
        if (status) note_failure(slot, first, status, message);
        r->busy--;
        slot->bad += bad;
        slot->left -= rows;
        if (!slot->left || r->paused) pthread_cond_broadcast(&r->finished);
    }
    pthread_mutex_unlock(&r->lock);
    free_worker(w);
    return NULL;
}

/* ---- life ---- */

static mabn_status start_threads(struct mabn_ring *r)
{
    const int n = r->o.threads ? r->o.threads : mabn_threads_available();
    r->threads = mabn_xcalloc((size_t)n, sizeof *r->threads);
    for (; r->thread_count < n; r->thread_count++) {
        struct worker *w = mabn_xcalloc(1, sizeof *w);
        w->ring = r;
        w->own = r->client.worker_new(r->client.context);
        if (pthread_create(&r->threads[r->thread_count], NULL, work, w)) {
            free_worker(w);
            return mabn_fail(MABN_ERR_NOMEM, "cannot start decode thread %d of %d",
                             r->thread_count + 1, n);
        }
    }
    return MABN_OK;
}

static mabn_status check_index(uint64_t index, uint64_t per_epoch)
{
    if (index <= per_epoch) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "batch %llu of an epoch of %llu", (unsigned long long)index,
                     (unsigned long long)per_epoch);
}

static mabn_status check_options(const struct mabn_ring_options *o)
{
    if (o->ahead < 1 || o->ahead > 1000)
        return mabn_fail(MABN_ERR_ARG, "%d batches ahead: expected 1 to 1000", o->ahead);
    if (o->threads < 0 || o->threads > 1024)
        return mabn_fail(MABN_ERR_ARG, "%d threads: expected 0 to 1024", o->threads);
    if (o->grain < 1 || o->per_epoch < 1)
        return mabn_fail(MABN_ERR_ARG, "%d rows at a time, %llu batches an epoch", o->grain,
                         (unsigned long long)o->per_epoch);
    return check_index(o->first_index, o->per_epoch);
}

/* An index of a whole epoch means the next epoch's first batch. */
static void set_start(struct mabn_ring *r, uint64_t epoch, uint64_t index)
{
    r->epoch = epoch + index / r->o.per_epoch;
    r->index = index % r->o.per_epoch;
}

mabn_status mabn_ring_new(struct mabn_ring **ring, const struct mabn_ring_client *client,
                          const struct mabn_ring_options *options)
{
    *ring = NULL;
    MABN_TRY(check_options(options));
    struct mabn_ring *r = mabn_xcalloc(1, sizeof *r);
    r->client = *client;
    r->o = *options;
    r->slot_count = r->o.ahead + 1;
    r->slots = mabn_xcalloc((size_t)r->slot_count, sizeof *r->slots);
    for (int i = 0; i < r->slot_count; i++)
        r->slots[i].batch = (char *)client->batches + (size_t)i * client->batch_size;
    set_start(r, options->first_epoch, options->first_index);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->finished, NULL);
    const mabn_status status = start_threads(r);
    if (status) {
        mabn_ring_free(r);
        return status;
    }
    *ring = r;
    return MABN_OK;
}

void mabn_ring_free(struct mabn_ring *r)
{
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    atomic_store(&r->stop, true);
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->thread_count; i++)
        pthread_join(r->threads[i], NULL);
    for (int i = 0; i < r->slot_count; i++)
        free(r->slots[i].message);
    pthread_cond_destroy(&r->work);
    pthread_cond_destroy(&r->finished);
    pthread_mutex_destroy(&r->lock);
    free(r->slots);
    free(r->threads);
    free(r);
}

/* ---- the consumer ---- */

/* With the lock held: is there a batch, finished or to come, that the consumer can have? */
static bool has_more(const struct mabn_ring *r)
{
    return r->consumed < r->opened || !at_end(r);
}

mabn_status mabn_ring_next(struct mabn_ring *r, void **batch)
{
    *batch = NULL;
    pthread_mutex_lock(&r->lock);
    if (r->holds) {
        r->holds = false;
        r->consumed++;
        pthread_cond_broadcast(&r->work);
    }
    const struct slot *slot = &r->slots[r->consumed % (uint64_t)r->slot_count];
    const double start = mabn_now();
    while (has_more(r) && (r->consumed >= r->opened || slot->left))
        pthread_cond_wait(&r->finished, &r->lock);
    r->stats.wait_seconds += mabn_now() - start;
    mabn_status status = MABN_OK;
    if (has_more(r) && slot->status) {
        status = mabn_fail(slot->status, "%s", slot->message); /* reported again in later calls */
    } else if (has_more(r)) {
        r->holds = true;
        r->stats.batches++;
        r->stats.rows += (uint64_t)slot->rows;
        r->stats.bad += slot->bad;
        *batch = slot->batch;
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

mabn_status mabn_ring_seek(struct mabn_ring *r, uint64_t epoch, uint64_t index)
{
    MABN_TRY(check_index(index, r->o.per_epoch));
    pthread_mutex_lock(&r->lock);
    r->paused = true;
    while (r->busy)
        pthread_cond_wait(&r->finished, &r->lock);
    r->consumed = r->opened = 0;
    r->next_row = 0;
    r->holds = false;
    set_start(r, epoch, index);
    r->paused = false;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    return MABN_OK;
}

void mabn_ring_stats(const struct mabn_ring *ring, struct mabn_ring_stats *stats)
{
    *stats = ring->stats; /* written by the consumer's thread only */
}
