/* Batches of pictures of one size: filling the rows of a ring (ring.h). */
#include "data/loader.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "data/ring.h"

enum {
    MOST_TRIES = 100, /* bad samples in a row that skip_bad passes over */
    SHOWN_BAD = 5,    /* names of bad samples that a warning gives */
};

struct batch {
    struct mabn_batch shown;
    uint64_t first; /* position of row 0 in the epoch */
};

struct mabn_loader {
    struct mabn_source source;
    struct mabn_loader_options o;
    size_t row_bytes;   /* of a picture in a batch */
    uint64_t per_epoch; /* batches */
    struct batch *batches;
    int batch_count;
    struct mabn_ring *ring;
    pthread_mutex_t lock; /* of the list below, of workers */
    uint64_t *bad;        /* (bad_count) rising: samples that could not be read */
    size_t bad_count, bad_capacity;
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

static mabn_status load_sample(struct worker *w, void *x, uint64_t sample_index,
                               const struct mabn_augment_key *key)
{
    const struct mabn_source *source = &w->loader->source;
    struct mabn_sample sample;
    mabn_status status = source->get(source->context, sample_index, &sample);
    if (!status && sample.width > 0) {
        if (sample.size != (size_t)sample.width * sample.height * sample.channels)
            status = mabn_fail(MABN_ERR_FORMAT, "expected %zu bytes (%dx%dx%d), found %zu",
                               (size_t)sample.width * sample.height * sample.channels, sample.width,
                               sample.height, sample.channels, sample.size);
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
    return MABN_OK;
}

static bool is_bad_sample(mabn_status status)
{
    return status == MABN_ERR_FORMAT || status == MABN_ERR_LIMIT || status == MABN_ERR_NOTFOUND ||
           status == MABN_ERR_UNSUPPORTED || status == MABN_ERR_MISMATCH;
}

/* Record each sample once, however often it occurs. */
static void remember_bad(struct mabn_loader *l, uint64_t sample)
{
    pthread_mutex_lock(&l->lock);
    size_t at = l->bad_count;
    while (at && l->bad[at - 1] > sample)
        at--;
    if (!at || l->bad[at - 1] != sample) {
        MABN_GROW(l->bad, l->bad_count, l->bad_capacity);
        memmove(l->bad + at + 1, l->bad + at, (l->bad_count++ - at) * sizeof *l->bad);
        l->bad[at] = sample;
    }
    pthread_mutex_unlock(&l->lock);
}

static char *pictures(const struct mabn_batch *batch)
{
    return batch->bytes ? (char *)batch->bytes : (char *)batch->x;
}

static mabn_status fill_row(void *worker, void *batch, int row, uint64_t *bad)
{
    struct worker *w = worker;
    struct mabn_loader *l = w->loader;
    struct mabn_batch *b = &((struct batch *)batch)->shown;
    const uint64_t position = ((struct batch *)batch)->first + (uint64_t)row;
    const struct mabn_augment_key key = {l->o.sampler.seed, b->epoch, position};
    void *x = pictures(b) + (size_t)row * l->row_bytes;
    uint64_t sample = mabn_sampler_at(&w->sampler, b->epoch, position);
    const uint64_t ahead = position + (uint64_t)l->o.batch * (uint64_t)l->o.ranks;
    if (l->source.prefetch && ahead < l->o.sampler.length)
        l->source.prefetch(l->source.context, mabn_sampler_at(&w->sampler, b->epoch, ahead));
    mabn_status status = load_sample(w, x, sample, &key);
    for (int i = 0; i < MOST_TRIES && l->o.skip_bad && is_bad_sample(status); i++) {
        ++*bad;
        remember_bad(l, sample);
        if (l->o.leave_out) {
            memset(x, 0, l->row_bytes);
            b->samples[row] = MABN_NO_SAMPLE;
            return MABN_OK;
        }
        sample = (sample + 1) % l->source.count;
        status = load_sample(w, x, sample, &key);
    }
    b->samples[row] = sample;
    return status;
}

static void *worker_new(void *context)
{
    struct mabn_loader *l = context;
    struct worker *w = mabn_xcalloc(1, sizeof *w);
    w->loader = l;
    w->sampler = l->o.sampler;
    w->augmenter = mabn_augmenter_new(&l->o.augment);
    if (l->o.bytes) mabn_augmenter_set_bytes(w->augmenter);
    return w;
}

static void worker_free(void *worker)
{
    struct worker *w = worker;
    mabn_augmenter_free(w->augmenter);
    free(w);
}

static mabn_status open_batch(void *context, void *batch, uint64_t epoch, uint64_t index, int *rows)
{
    const struct mabn_loader *l = context;
    struct batch *b = batch;
    const uint64_t global = (uint64_t)l->o.batch * (uint64_t)l->o.ranks;
    uint64_t count;
    mabn_sampler_slice(&l->o.sampler, global, index, l->o.rank, l->o.ranks, &b->first, &count);
    b->shown.epoch = epoch;
    b->shown.index = index;
    b->shown.count = *rows = (int)count;
    const size_t rest = (size_t)l->o.batch - count;
    memset(pictures(&b->shown) + count * l->row_bytes, 0, rest * l->row_bytes);
    memset(b->shown.samples + count, 0, rest * sizeof(uint64_t));
    return MABN_OK;
}

/* ---- life ---- */

static mabn_status check_options(const struct mabn_source *source,
                                 const struct mabn_loader_options *o)
{
    const struct mabn_sampler *s = &o->sampler;
    MABN_TRY(mabn_augment_check(&o->augment));
    if (o->batch < 1)
        return mabn_fail(MABN_ERR_ARG, "a batch of %d samples: expected 1 or more", o->batch);
    if (o->bytes && !mabn_augment_has_bytes(&o->augment))
        return mabn_fail(MABN_ERR_ARG, "pictures with erased parts cannot be bytes");
    if (o->ranks < 1 || o->rank < 0 || o->rank >= o->ranks)
        return mabn_fail(MABN_ERR_ARG, "rank %d of %d", o->rank, o->ranks);
    if (o->ahead < 1 || o->ahead > 1000)
        return mabn_fail(MABN_ERR_ARG, "%d batches ahead: expected 1 to 1000", o->ahead);
    if (s->samples != source->count)
        return mabn_fail(MABN_ERR_MISMATCH, "the sampler draws from %llu samples, there are %llu",
                         (unsigned long long)s->samples, (unsigned long long)source->count);
    const uint64_t global = (uint64_t)o->batch * (uint64_t)o->ranks;
    if (!mabn_sampler_batches(s, global, o->keep_last))
        return mabn_fail(MABN_ERR_ARG, "an epoch of %llu samples is less than a batch of %llu",
                         (unsigned long long)s->length, (unsigned long long)global);
    return MABN_OK;
}

static mabn_status make_batches(struct mabn_loader *l)
{
    const size_t n = (size_t)l->o.batch;
    size_t bytes;
    l->batch_count = l->o.ahead + 1;
    l->batches = mabn_xcalloc((size_t)l->batch_count, sizeof *l->batches);
    if (!mabn_size_mul(n, l->row_bytes, &bytes))
        return mabn_fail(MABN_ERR_LIMIT, "a batch of %zu samples does not fit in memory", n);
    for (int i = 0; i < l->batch_count; i++) {
        struct mabn_batch *b = &l->batches[i].shown;
        void *x;
        MABN_TRY(mabn_alloc(&x, bytes));
        if (l->o.bytes)
            b->bytes = x;
        else
            b->x = x;
        b->samples = mabn_xcalloc(n, sizeof *b->samples);
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

static mabn_status start_ring(struct mabn_loader *l)
{
    const struct mabn_ring_client client = {.context = l,
                                            .batches = l->batches,
                                            .batch_size = sizeof *l->batches,
                                            .open = open_batch,
                                            .fill = fill_row,
                                            .worker_new = worker_new,
                                            .worker_free = worker_free};
    const struct mabn_ring_options o = {.per_epoch = l->per_epoch,
                                        .epochs = l->o.epochs,
                                        .first_epoch = l->o.first_epoch,
                                        .first_index = l->o.first_index,
                                        .threads = l->o.threads,
                                        .ahead = l->o.ahead,
                                        .grain = choose_grain(&l->o, &l->source)};
    return mabn_ring_new(&l->ring, &client, &o);
}

mabn_status mabn_loader_new(struct mabn_loader **loader, const struct mabn_source *source,
                            const struct mabn_loader_options *options)
{
    *loader = NULL;
    MABN_TRY(check_options(source, options));
    struct mabn_loader *l = mabn_xcalloc(1, sizeof *l);
    l->source = *source;
    pthread_mutex_init(&l->lock, NULL);
    l->o = *options;
    const struct mabn_augment *a = &options->augment;
    l->row_bytes = (size_t)a->width * a->height * a->channels * (l->o.bytes ? 1 : sizeof(float));
    l->per_epoch = mabn_sampler_batches(
        &l->o.sampler, (uint64_t)options->batch * (uint64_t)options->ranks, options->keep_last);
    mabn_status status = make_batches(l);
    if (!status) status = start_ring(l);
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
    mabn_ring_free(l->ring);
    for (int i = 0; i < l->batch_count; i++) {
        struct mabn_batch *b = &l->batches[i].shown;
        mabn_free(b->x);
        mabn_free(b->bytes);
        free(b->samples);
    }
    free(l->batches);
    free(l->bad);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- the consumer ---- */

mabn_status mabn_loader_next(struct mabn_loader *l, const struct mabn_batch **batch)
{
    void *next;
    *batch = NULL;
    MABN_TRY(mabn_ring_next(l->ring, &next));
    if (next) *batch = &((const struct batch *)next)->shown;
    return MABN_OK;
}

mabn_status mabn_loader_seek(struct mabn_loader *l, uint64_t epoch, uint64_t index)
{
    return mabn_ring_seek(l->ring, epoch, index);
}

size_t mabn_loader_bad(struct mabn_loader *l, uint64_t **samples)
{
    *samples = NULL;
    pthread_mutex_lock(&l->lock);
    const size_t count = l->bad_count;
    if (count) {
        *samples = mabn_xmalloc(count * sizeof **samples);
        memcpy(*samples, l->bad, count * sizeof **samples);
    }
    pthread_mutex_unlock(&l->lock);
    return count;
}

void mabn_source_tell_bad(const struct mabn_source *source, const uint64_t *samples, size_t count,
                          bool left_out)
{
    struct mabn_str names;
    if (!count) return;
    mabn_str_init(&names);
    for (size_t i = 0; i < count && i < SHOWN_BAD; i++) {
        char name[300] = "";
        if (source->name) source->name(source->context, samples[i], name, sizeof name);
        mabn_str_printf(&names, "%ssample %llu '%s'", i ? ", " : "", (unsigned long long)samples[i],
                        name);
    }
    mabn_warn("%zu image%s of %llu cannot be read and %s: %s%s", count, count == 1 ? "" : "s",
              (unsigned long long)source->count,
              left_out ? "left out" : "replaced by the next that can", names.text,
              count > SHOWN_BAD ? ", …" : "");
    mabn_str_release(&names);
}

uint64_t mabn_loader_tell_bad(struct mabn_loader *l, uint64_t told)
{
    uint64_t *samples;
    const size_t count = mabn_loader_bad(l, &samples);
    if (count > told) mabn_source_tell_bad(&l->source, samples, count, l->o.leave_out);
    free(samples);
    return count;
}

void mabn_loader_stats(const struct mabn_loader *loader, struct mabn_loader_stats *stats)
{
    struct mabn_ring_stats s;
    mabn_ring_stats(loader->ring, &s);
    *stats = (struct mabn_loader_stats){
        .batches = s.batches, .samples = s.rows, .bad = s.bad, .wait_seconds = s.wait_seconds};
}
