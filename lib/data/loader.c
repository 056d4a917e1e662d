/* The loader's threads and its ring of batch buffers.
 *
 * Batches are numbered 0, 1, 2, … from where the loader was started or sought to; batch n lives in
 * slot n mod slots. Threads take runs of rows from the newest batch that is open, and open the next
 * one when it is all handed out and its slot is free. The consumer takes batches in order; a batch
 * is finished when no row of it is left to do. One mutex guards all of it; decoding, the long part,
 * runs outside. */
#include "data/loader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/thread.h"

enum { MOST_TRIES = 100 }; /* bad samples in a row that skip_bad passes over */

struct slot {
    struct mabn_batch batch;
    uint64_t first; /* position of row 0 in the epoch */
    int left;       /* rows not done */
    uint64_t bad;
    mabn_status status; /* of the first row that failed, */
    char *message;      /* with its message, */
    int failed_row;     /* −1: none did */
};

struct mabn_loader {
    struct mabn_source source;
    struct mabn_loader_options o;
    size_t row_bytes; /* of a picture in a batch */
    int grain;
    uint64_t per_epoch; /* batches */

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
    struct mabn_loader_stats stats;

    pthread_t *threads;
    int thread_count;
};

void mabn_loader_options_init(struct mabn_loader_options *options)
{
    *options = (struct mabn_loader_options){.ranks = 1, .ahead = 2};
}

/* ---- one row ---- */

struct worker {
    struct mabn_loader *loader;
    struct mabn_augmenter *augmenter;
    struct mabn_sampler sampler;
};

static mabn_status load_sample(struct worker *w, void *x, int32_t *label, uint64_t sample_index,
                               const struct mabn_augment_key *key)
{
    const struct mabn_source *source = &w->loader->source;
    struct mabn_sample sample;
    mabn_status status = source->get(source->context, sample_index, &sample);
    if (!status && sample.width > 0) {
        if (sample.size != (size_t)sample.width * sample.height * sample.channels)
            status = mabn_fail(MABN_ERR_FORMAT, "%zu bytes are no %d x %d x %d picture",
                               sample.size, sample.width, sample.height, sample.channels);
        else
            status = mabn_augment_pixels(w->augmenter, x, sample.bytes, sample.width, sample.height,
                                         sample.channels, key);
    } else if (!status) {
        status = mabn_augment_encoded(w->augmenter, x, sample.bytes, sample.size, key);
    }
    if (status) {
        char name[200] = "";
        if (source->name) source->name(source->context, sample_index, name, sizeof name);
        return name[0] ? mabn_fail_prefix(status, "sample %llu '%s'",
                                          (unsigned long long)sample_index, name)
                       : mabn_fail_prefix(status, "sample %llu", (unsigned long long)sample_index);
    }
    *label = sample.label;
    return MABN_OK;
}

static bool is_bad_sample(mabn_status status)
{
    return status == MABN_ERR_FORMAT || status == MABN_ERR_LIMIT ||
           status == MABN_ERR_UNSUPPORTED || status == MABN_ERR_MISMATCH;
}

static char *pictures(const struct mabn_batch *batch)
{
    return batch->bytes ? (char *)batch->bytes : (char *)batch->x;
}

static mabn_status load_row(struct worker *w, struct slot *slot, int row, uint64_t *bad)
{
    const struct mabn_loader *l = w->loader;
    struct mabn_batch *b = &slot->batch;
    const uint64_t position = slot->first + (uint64_t)row;
    const struct mabn_augment_key key = {l->o.sampler.seed, b->epoch, position};
    void *x = pictures(b) + (size_t)row * l->row_bytes;
    uint64_t sample = mabn_sampler_at(&w->sampler, b->epoch, position);
    const uint64_t ahead = position + (uint64_t)l->o.batch * (uint64_t)l->o.ranks;
    if (l->source.prefetch && ahead < l->o.sampler.length)
        l->source.prefetch(l->source.context, mabn_sampler_at(&w->sampler, b->epoch, ahead));
    mabn_status status = load_sample(w, x, &b->labels[row], sample, &key);
    for (int i = 0; i < MOST_TRIES && l->o.skip_bad && is_bad_sample(status); i++) {
        ++*bad;
        sample = (sample + 1) % l->source.count;
        status = load_sample(w, x, &b->labels[row], sample, &key);
    }
    b->samples[row] = sample;
    return status;
}

/* ---- the threads ---- */

static void open_batch(struct mabn_loader *l)
{
    struct slot *slot = &l->slots[l->opened % (uint64_t)l->slot_count];
    const uint64_t global = (uint64_t)l->o.batch * (uint64_t)l->o.ranks;
    uint64_t count;
    mabn_sampler_slice(&l->o.sampler, global, l->index, l->o.rank, l->o.ranks, &slot->first,
                       &count);
    slot->batch.epoch = l->epoch;
    slot->batch.index = l->index;
    slot->batch.count = slot->left = (int)count;
    slot->bad = 0;
    slot->status = MABN_OK;
    slot->failed_row = -1;
    free(slot->message);
    slot->message = NULL;
    const size_t rest = (size_t)l->o.batch - count;
    memset(pictures(&slot->batch) + count * l->row_bytes, 0, rest * l->row_bytes);
    memset(slot->batch.labels + count, -1, rest * sizeof(int32_t));
    memset(slot->batch.samples + count, 0, rest * sizeof(uint64_t));
    l->opened++;
    l->next_row = 0;
    if (++l->index == l->per_epoch) l->index = 0, l->epoch++;
    if (!count) pthread_cond_broadcast(&l->finished);
}

static bool at_end(const struct mabn_loader *l)
{
    return l->o.epochs && l->epoch >= l->o.epochs;
}

/* With the lock held: the next rows to do, waiting for some; NULL: stop. */
static struct slot *take_rows(struct mabn_loader *l, int *first, int *end)
{
    for (;;) {
        if (atomic_load(&l->stop)) return NULL;
        if (!l->paused) {
            struct slot *slot =
                &l->slots[(l->opened + (uint64_t)l->slot_count - 1) % (uint64_t)l->slot_count];
            if (l->opened && l->next_row < slot->batch.count) {
                *first = l->next_row;
                *end = *first + l->grain;
                if (*end > slot->batch.count) *end = slot->batch.count;
                l->next_row = *end;
                return slot;
            }
            if (!at_end(l) && l->opened < l->consumed + (uint64_t)l->slot_count) {
                open_batch(l);
                pthread_cond_broadcast(&l->work);
                continue;
            }
        }
        pthread_cond_wait(&l->work, &l->lock);
    }
}

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

/* Do rows [first, end), up to the first that fails. */
static mabn_status load_rows(struct worker *w, struct slot *slot, int *first, int end,
                             uint64_t *bad)
{
    for (; *first < end && !atomic_load(&w->loader->stop); ++*first)
        MABN_TRY(load_row(w, slot, *first, bad));
    return MABN_OK;
}

static void *work(void *context)
{
    struct worker *w = context;
    struct mabn_loader *l = w->loader;
    struct slot *slot;
    int first, end;
    pthread_mutex_lock(&l->lock);
    while ((slot = take_rows(l, &first, &end))) {
        const int rows = end - first;
        uint64_t bad = 0;
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        const mabn_status status = load_rows(w, slot, &first, end, &bad);
        char *message = status ? mabn_error_detach() : NULL;
        pthread_mutex_lock(&l->lock);
        if (status) note_failure(slot, first, status, message);
        l->busy--;
        slot->bad += bad;
        slot->left -= rows;
        if (!slot->left || l->paused) pthread_cond_broadcast(&l->finished);
    }
    pthread_mutex_unlock(&l->lock);
    mabn_augmenter_free(w->augmenter);
    free(w);
    return NULL;
}

/* ---- life ---- */

static mabn_status check_options(const struct mabn_source *source,
                                 const struct mabn_loader_options *o)
{
    const struct mabn_sampler *s = &o->sampler;
    MABN_TRY(mabn_augment_check(&o->augment));
    if (o->batch < 1) return mabn_fail(MABN_ERR_ARG, "a batch of %d samples", o->batch);
    if (o->bytes && !mabn_augment_has_bytes(&o->augment))
        return mabn_fail(MABN_ERR_ARG, "pictures with erased parts cannot be bytes");
    if (o->ranks < 1 || o->rank < 0 || o->rank >= o->ranks)
        return mabn_fail(MABN_ERR_ARG, "rank %d of %d", o->rank, o->ranks);
    if (o->ahead < 1 || o->ahead > 1000 || o->threads < 0 || o->threads > 1024)
        return mabn_fail(MABN_ERR_ARG, "%d batches ahead by %d threads", o->ahead, o->threads);
    if (s->samples != source->count)
        return mabn_fail(MABN_ERR_MISMATCH, "the sampler draws from %llu samples, there are %llu",
                         (unsigned long long)s->samples, (unsigned long long)source->count);
    const uint64_t global = (uint64_t)o->batch * (uint64_t)o->ranks;
    if (!mabn_sampler_batches(s, global, o->keep_last))
        return mabn_fail(MABN_ERR_ARG, "an epoch of %llu samples is less than a batch of %llu",
                         (unsigned long long)s->length, (unsigned long long)global);
    return MABN_OK;
}

static mabn_status make_slots(struct mabn_loader *l)
{
    const size_t n = (size_t)l->o.batch;
    size_t bytes;
    l->slot_count = l->o.ahead + 1;
    l->slots = mabn_xcalloc((size_t)l->slot_count, sizeof *l->slots);
    if (!mabn_size_mul(n, l->row_bytes, &bytes))
        return mabn_fail(MABN_ERR_LIMIT, "a batch of %zu samples does not fit in memory", n);
    for (int i = 0; i < l->slot_count; i++) {
        struct mabn_batch *b = &l->slots[i].batch;
        void *x;
        MABN_TRY(mabn_alloc(&x, bytes));
        if (l->o.bytes)
            b->bytes = x;
        else
            b->x = x;
        b->labels = mabn_xcalloc(n, sizeof *b->labels);
        b->samples = mabn_xcalloc(n, sizeof *b->samples);
    }
    return MABN_OK;
}

static mabn_status start_threads(struct mabn_loader *l)
{
    const int n = l->o.threads ? l->o.threads : mabn_threads_available();
    l->threads = mabn_xcalloc((size_t)n, sizeof *l->threads);
    for (; l->thread_count < n; l->thread_count++) {
        struct worker *w = mabn_xcalloc(1, sizeof *w);
        w->loader = l;
        w->sampler = l->o.sampler;
        w->augmenter = mabn_augmenter_new(&l->o.augment);
        if (l->o.bytes) mabn_augmenter_set_bytes(w->augmenter);
        if (pthread_create(&l->threads[l->thread_count], NULL, work, w)) {
            mabn_augmenter_free(w->augmenter);
            free(w);
            return mabn_fail(MABN_ERR_NOMEM, "cannot start decode thread %d of %d",
                             l->thread_count + 1, n);
        }
    }
    return MABN_OK;
}

/* Small raw pictures take a microsecond each: then the lock is taken once for many. */
static int choose_grain(const struct mabn_loader_options *o, const struct mabn_source *source)
{
    struct mabn_sample sample;
    if (source->get(source->context, 0, &sample)) {
        mabn_error_clear(); /* it will be reported when its turn comes */
        return 1;
    }
    if (!sample.width) return 1;
    const size_t grain = 65536 / (sample.size + 1) + 1;
    return grain > (size_t)o->batch ? o->batch : (int)grain;
}

static mabn_status check_start(const struct mabn_loader *l, uint64_t index)
{
    if (index <= l->per_epoch) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "batch %llu of an epoch of %llu", (unsigned long long)index,
                     (unsigned long long)l->per_epoch);
}

/* An index of a whole epoch means the next epoch's first batch. */
static void set_start(struct mabn_loader *l, uint64_t epoch, uint64_t index)
{
    l->epoch = epoch + index / l->per_epoch;
    l->index = index % l->per_epoch;
}

mabn_status mabn_loader_new(struct mabn_loader **loader, const struct mabn_source *source,
                            const struct mabn_loader_options *options)
{
    *loader = NULL;
    MABN_TRY(check_options(source, options));
    struct mabn_loader *l = mabn_xcalloc(1, sizeof *l);
    l->source = *source;
    l->o = *options;
    const struct mabn_augment *a = &options->augment;
    l->row_bytes = (size_t)a->width * a->height * a->channels * (l->o.bytes ? 1 : sizeof(float));
    l->grain = choose_grain(options, source);
    l->per_epoch = mabn_sampler_batches(
        &l->o.sampler, (uint64_t)options->batch * (uint64_t)options->ranks, options->keep_last);
    set_start(l, options->first_epoch, options->first_index);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->finished, NULL);
    mabn_status status = check_start(l, options->first_index);
    if (!status) status = make_slots(l);
    if (!status) status = start_threads(l);
    if (status) {
        mabn_loader_free(l);
        return status;
    }
    *loader = l;
    return MABN_OK;
}

void mabn_loader_free(struct mabn_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    atomic_store(&l->stop, true);
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->thread_count; i++)
        pthread_join(l->threads[i], NULL);
    for (int i = 0; i < l->slot_count; i++) {
        mabn_free(l->slots[i].batch.x);
        mabn_free(l->slots[i].batch.bytes);
        free(l->slots[i].batch.labels);
        free(l->slots[i].batch.samples);
        free(l->slots[i].message);
    }
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->finished);
    pthread_mutex_destroy(&l->lock);
    free(l->slots);
    free(l->threads);
    free(l);
}

/* ---- the consumer ---- */

/* With the lock held: is there a batch, finished or to come, that the consumer can have? */
static bool has_more(const struct mabn_loader *l)
{
    return l->consumed < l->opened || !at_end(l);
}

mabn_status mabn_loader_next(struct mabn_loader *l, const struct mabn_batch **batch)
{
    *batch = NULL;
    pthread_mutex_lock(&l->lock);
    if (l->holds) {
        l->holds = false;
        l->consumed++;
        pthread_cond_broadcast(&l->work);
    }
    const struct slot *slot = &l->slots[l->consumed % (uint64_t)l->slot_count];
    const double start = mabn_now();
    while (has_more(l) && (l->consumed >= l->opened || slot->left))
        pthread_cond_wait(&l->finished, &l->lock);
    l->stats.wait_seconds += mabn_now() - start;
    mabn_status status = MABN_OK;
    if (has_more(l) && slot->status) {
        status = mabn_fail(slot->status, "%s", slot->message); /* and again when asked again */
    } else if (has_more(l)) {
        l->holds = true;
        l->stats.batches++;
        l->stats.samples += (uint64_t)slot->batch.count;
        l->stats.bad += slot->bad;
        *batch = &slot->batch;
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

mabn_status mabn_loader_seek(struct mabn_loader *l, uint64_t epoch, uint64_t index)
{
    if (index > l->per_epoch)
        return mabn_fail(MABN_ERR_ARG, "batch %llu of an epoch of %llu", (unsigned long long)index,
                         (unsigned long long)l->per_epoch);
    pthread_mutex_lock(&l->lock);
    l->paused = true;
    while (l->busy)
        pthread_cond_wait(&l->finished, &l->lock);
    l->consumed = l->opened = 0;
    l->next_row = 0;
    l->holds = false;
    set_start(l, epoch, index);
    l->paused = false;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    return MABN_OK;
}

uint64_t mabn_loader_batches_per_epoch(const struct mabn_loader *loader)
{
    return loader->per_epoch;
}

void mabn_loader_stats(const struct mabn_loader *loader, struct mabn_loader_stats *stats)
{
    *stats = loader->stats; /* written by the consumer's thread only */
}
