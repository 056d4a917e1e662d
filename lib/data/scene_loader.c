/* A ring whose batches are scenes. */
#include "data/scene_loader.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/ring.h"

struct batch {
    struct mabn_scene_batch shown;
    size_t room;       /* floats behind shown.x */
    size_t *raw_rooms; /* (batch) bytes behind each of shown.raw */
    struct mabn_scene_choice *choices;
    uint64_t *samples; /* (batch) */
};

struct mabn_scene_loader {
    const struct mabn_scene_set *set;
    struct mabn_scene_loader_options o;
    struct mabn_scene_sampler *sampler;
    struct batch *batches;
    int batch_count;
    struct mabn_ring *ring;
    atomic_bool *told; /* of each sample: that it was passed over; NULL: none is */
};

void mabn_scene_loader_options_init(struct mabn_scene_loader_options *options)
{
    *options = (struct mabn_scene_loader_options){
        .sampler = {.batch = 1}, .ahead = 2, .epochs = 1, .period = 1, .count = 1};
}

/* ---- what the ring asks for ---- */

static int round_up(int n, int multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Choices and sizes of the batch's scenes; the padded size. */
static void plan_batch(const struct mabn_scene_loader *l, struct batch *b)
{
    int widest = 1, highest = 1;
    for (int i = 0; i < b->shown.count; i++) {
        const struct mabn_scene_key key = {l->o.sampler.seed, b->shown.epoch, b->samples[i]};
        int width, height;
        b->choices[i] = mabn_scene_choose(&l->o.scene, &key);
        mabn_scene_set_size(l->set, b->samples[i], &width, &height);
        mabn_scene_size(&l->o.scene, b->choices[i].min_size, width, height, &width, &height);
        if (width > widest) widest = width;
        if (height > highest) highest = height;
    }
    b->shown.width = round_up(widest, l->o.scene.multiple);
    b->shown.height = round_up(highest, l->o.scene.multiple);
}

static mabn_status make_room(struct batch *b)
{
    size_t floats;
    if (b->shown.raw) return MABN_OK;
    if (!mabn_size_mul((size_t)b->shown.width * (size_t)b->shown.height, 3, &floats) ||
        !mabn_size_mul(floats, (size_t)b->shown.count, &floats) ||
        floats > SIZE_MAX / sizeof(float))
        return mabn_fail(MABN_ERR_LIMIT, "a batch of %d scenes of %d x %d pixels", b->shown.count,
                         b->shown.width, b->shown.height);
    if (floats <= b->room) return MABN_OK;
    mabn_free(b->shown.x);
    b->shown.x = NULL;
    b->room = 0;
    MABN_TRY(mabn_alloc((void **)&b->shown.x, floats * sizeof(float)));
    b->room = floats;
    return MABN_OK;
}

/* The number, among all batches, of the n-th delivered one. */
static void find_own(const struct mabn_scene_loader *l, uint64_t *epoch, uint64_t *index)
{
    const uint64_t all = mabn_scene_sampler_batches(l->sampler), count = (uint64_t)l->o.count;
    uint64_t n = *epoch * all + *index;
    n = n / count * (uint64_t)l->o.period + (uint64_t)l->o.first + n % count;
    *epoch = n / all;
    *index = n % all;
}

static mabn_status open_batch(void *context, void *batch, uint64_t epoch, uint64_t index, int *rows)
{
    struct mabn_scene_loader *l = context;
    struct batch *b = batch;
    const uint64_t *samples;
    find_own(l, &epoch, &index);
    mabn_scene_sampler_batch(l->sampler, epoch, index, &samples, rows);
    b->shown.epoch = epoch;
    b->shown.index = index;
    b->shown.count = *rows;
    for (int i = 0; i < *rows; i++) {
        b->samples[i] = samples[i];
        mabn_scene_set_prefetch(l->set, samples[i]);
    }
    plan_batch(l, b);
    return make_room(b);
}

struct worker {
    const struct mabn_scene_loader *loader;
    struct mabn_scene_maker *maker;
};

static bool is_bad_sample(mabn_status status)
{
    return status == MABN_ERR_FORMAT || status == MABN_ERR_LIMIT || status == MABN_ERR_IO ||
           status == MABN_ERR_UNSUPPORTED || status == MABN_ERR_MISMATCH;
}

static mabn_status make_row(struct worker *w, struct batch *b, int row)
{
    struct mabn_scene *scene = &b->shown.scenes[row];
    const int width = b->shown.width, height = b->shown.height;
    if (b->shown.raw)
        return mabn_scene_make_raw(w->maker, scene, b->samples[row], b->choices[row],
                                   &b->shown.raw[row], &b->raw_rooms[row]);
    float *x = b->shown.x + (size_t)row * 3 * (size_t)width * (size_t)height;
    return mabn_scene_make(w->maker, scene, b->samples[row], b->choices[row], x, width, height);
}

static mabn_status blank_row(struct batch *b, int row)
{
    const int width = b->shown.width, height = b->shown.height;
    mabn_scene_blank(&b->shown.scenes[row]);
    if (b->shown.raw) return mabn_raw_blank(&b->shown.raw[row], &b->raw_rooms[row]);
    mabn_scene_clear(b->shown.x + (size_t)row * 3 * (size_t)width * (size_t)height, width, height);
    return MABN_OK;
}

static mabn_status fill_row(void *worker, void *batch, int row, uint64_t *bad)
{
    struct worker *w = worker;
    struct batch *b = batch;
    const mabn_status status = make_row(w, b, row);
    if (!w->loader->o.skip_bad || !is_bad_sample(status)) return status;
    if (!atomic_exchange(&w->loader->told[b->samples[row]], true))
        mabn_warn("passed over: %s", mabn_error_message());
    mabn_error_clear();
    ++*bad;
    return blank_row(b, row);
}

static void *worker_new(void *context)
{
    const struct mabn_scene_loader *l = context;
    struct worker *w = mabn_xcalloc(1, sizeof *w);
    w->loader = l;
    w->maker = mabn_scene_maker_new(l->set, &l->o.scene);
    return w;
}

static void worker_free(void *worker)
{
    struct worker *w = worker;
    mabn_scene_maker_free(w->maker);
    free(w);
}

/* ---- life ---- */

static void make_batches(struct mabn_scene_loader *l)
{
    const size_t n = (size_t)l->o.sampler.batch;
    l->batch_count = l->o.ahead + 1;
    l->batches = mabn_xcalloc((size_t)l->batch_count, sizeof *l->batches);
    for (int i = 0; i < l->batch_count; i++) {
        l->batches[i].shown.scenes = mabn_xcalloc(n, sizeof *l->batches[i].shown.scenes);
        l->batches[i].choices = mabn_xcalloc(n, sizeof *l->batches[i].choices);
        l->batches[i].samples = mabn_xcalloc(n, sizeof *l->batches[i].samples);
        if (!l->o.raw) continue;
        l->batches[i].shown.raw = mabn_xcalloc(n, sizeof *l->batches[i].shown.raw);
        l->batches[i].raw_rooms = mabn_xcalloc(n, sizeof *l->batches[i].raw_rooms);
    }
}

static mabn_status start_ring(struct mabn_scene_loader *l)
{
    const struct mabn_ring_client client = {.context = l,
                                            .batches = l->batches,
                                            .batch_size = sizeof *l->batches,
                                            .open = open_batch,
                                            .fill = fill_row,
                                            .worker_new = worker_new,
                                            .worker_free = worker_free};
    const struct mabn_ring_options o = {.per_epoch = mabn_scene_sampler_batches(l->sampler),
                                        .epochs = l->o.epochs,
                                        .first_epoch = l->o.first_epoch,
                                        .first_index = l->o.first_index,
                                        .threads = l->o.threads,
                                        .ahead = l->o.ahead,
                                        .grain = 1};
    return mabn_ring_new(&l->ring, &client, &o);
}

mabn_status mabn_scene_loader_new(struct mabn_scene_loader **loader,
                                  const struct mabn_scene_set *set,
                                  const struct mabn_scene_loader_options *options)
{
    *loader = NULL;
    MABN_TRY(mabn_scene_check(&options->scene));
    if (options->ahead < 1 || options->ahead > 1000)
        return mabn_fail(MABN_ERR_ARG, "%d batches ahead: expected 1 to 1000", options->ahead);
    if (options->first < 0 || options->count < 1 ||
        options->count > options->period - options->first ||
        (options->epochs && options->count != options->period))
        return mabn_fail(MABN_ERR_ARG, "batches %d to %d of %d", options->first,
                         options->first + options->count, options->period);
    struct mabn_scene_loader *l = mabn_xcalloc(1, sizeof *l);
    l->set = set;
    l->o = *options;
    if (options->skip_bad) l->told = mabn_xcalloc(mabn_scene_set_count(set) + 1, sizeof *l->told);
    mabn_status status = mabn_scene_sampler_new(&l->sampler, set, &options->sampler);
    if (!status) {
        make_batches(l);
        status = start_ring(l);
    }
    if (status) {
        mabn_scene_loader_free(l);
        return status;
    }
    *loader = l;
    return MABN_OK;
}

void mabn_scene_loader_free(struct mabn_scene_loader *l)
{
    if (!l) return;
    mabn_ring_free(l->ring);
    for (int i = 0; i < l->batch_count; i++) {
        struct batch *b = &l->batches[i];
        for (int k = 0; k < l->o.sampler.batch; k++)
            mabn_scene_release(&b->shown.scenes[k]);
        for (int k = 0; k < l->o.sampler.batch && b->shown.raw; k++)
            mabn_free(b->shown.raw[k]);
        free(b->shown.raw);
        free(b->raw_rooms);
        mabn_free(b->shown.x);
        free(b->shown.scenes);
        free(b->choices);
        free(b->samples);
    }
    free(l->batches);
    free(l->told);
    mabn_scene_sampler_free(l->sampler);
    free(l);
}

/* ---- the consumer ---- */

mabn_status mabn_scene_loader_next(struct mabn_scene_loader *l,
                                   const struct mabn_scene_batch **batch)
{
    void *next;
    *batch = NULL;
    MABN_TRY(mabn_ring_next(l->ring, &next));
    if (next) *batch = &((const struct batch *)next)->shown;
    return MABN_OK;
}

mabn_status mabn_scene_loader_seek(struct mabn_scene_loader *l, uint64_t epoch, uint64_t index)
{
    return mabn_ring_seek(l->ring, epoch, index);
}

uint64_t mabn_scene_loader_batches_per_epoch(const struct mabn_scene_loader *loader)
{
    return mabn_scene_sampler_batches(loader->sampler);
}

void mabn_scene_loader_stats(const struct mabn_scene_loader *loader,
                             struct mabn_scene_loader_stats *stats)
{
    struct mabn_ring_stats s;
    mabn_ring_stats(loader->ring, &s);
    *stats = (struct mabn_scene_loader_stats){
        .batches = s.batches, .scenes = s.rows, .bad = s.bad, .wait_seconds = s.wait_seconds};
}
