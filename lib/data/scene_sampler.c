/* Shuffling, dealing into groups, cutting into batches, ordering by the first sample. */
#include "data/scene_sampler.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/sampler.h"

struct run {
    uint64_t place; /* of its first sample in the epoch's order */
    uint64_t first; /* into dealt */
};

struct mabn_scene_sampler {
    struct mabn_scene_sampler_options o;
    uint64_t *samples; /* (count) */
    uint8_t *groups;   /* (count) of each of them */
    uint64_t sizes[2]; /* of the groups */
    uint64_t batches;
    struct mabn_sampler order;
    uint64_t epoch; /* in hand */
    bool ready;
    uint64_t *dealt;  /* (batches · batch) samples, batch by batch */
    struct run *runs; /* (batches) in their order */
    int *counts;      /* (batches) by run.first / batch */
};

static uint64_t runs_of(uint64_t samples, int batch)
{
    return samples / (uint64_t)batch + (samples % (uint64_t)batch != 0);
}

static mabn_status take_samples(struct mabn_scene_sampler *s, const struct mabn_scene_set *set)
{
    const uint64_t all = mabn_scene_set_count(set);
    s->samples = mabn_xmalloc((s->o.count + 1) * sizeof *s->samples);
    s->groups = mabn_xcalloc(s->o.count + 1, 1);
    for (uint64_t i = 0; i < s->o.count; i++) {
        int width, height;
        s->samples[i] = s->o.samples ? s->o.samples[i] : i;
        if (s->samples[i] >= all)
            return mabn_fail(MABN_ERR_ARG, "sample %llu of %llu", (unsigned long long)s->samples[i],
                             (unsigned long long)all);
        mabn_scene_set_size(set, s->samples[i], &width, &height);
        s->groups[i] = s->o.group && height >= width;
        s->sizes[s->groups[i]]++;
    }
    return MABN_OK;
}

mabn_status mabn_scene_sampler_new(struct mabn_scene_sampler **sampler,
                                   const struct mabn_scene_set *set,
                                   const struct mabn_scene_sampler_options *options)
{
    *sampler = NULL;
    if (options->batch < 1 || options->batch > 1 << 20)
        return mabn_fail(MABN_ERR_ARG, "a batch of %d photographs: expected 1 to %d",
                         options->batch, 1 << 20);
    struct mabn_scene_sampler *s = mabn_xcalloc(1, sizeof *s);
    s->o = *options;
    if (!options->samples) s->o.count = mabn_scene_set_count(set);
    mabn_status status = mabn_sampler_init(
        &s->order, options->shuffle ? MABN_SAMPLER_SHUFFLE : MABN_SAMPLER_SEQUENTIAL, s->o.count, 0,
        options->seed);
    if (!status) status = take_samples(s, set);
    if (status) {
        mabn_scene_sampler_free(s);
        return status;
    }
    s->o.samples = NULL;
    s->batches = runs_of(s->sizes[0], s->o.batch) + runs_of(s->sizes[1], s->o.batch);
    s->dealt = mabn_xcalloc(s->batches * (uint64_t)s->o.batch, sizeof *s->dealt);
    s->runs = mabn_xcalloc(s->batches, sizeof *s->runs);
    s->counts = mabn_xcalloc(s->batches, sizeof *s->counts);
    *sampler = s;
    return MABN_OK;
}

void mabn_scene_sampler_free(struct mabn_scene_sampler *s)
{
    if (!s) return;
    free(s->samples);
    free(s->groups);
    free(s->dealt);
    free(s->runs);
    free(s->counts);
    free(s);
}

uint64_t mabn_scene_sampler_batches(const struct mabn_scene_sampler *sampler)
{
    return sampler->batches;
}

static int by_place(const void *a, const void *b)
{
    const struct run *x = a, *y = b;
    return (x->place > y->place) - (x->place < y->place);
}

/* Give a group's short last batch the group's first samples again. */
static void fill_up(struct mabn_scene_sampler *s, uint64_t start, uint64_t size)
{
    const uint64_t batch = (uint64_t)s->o.batch, full = runs_of(size, s->o.batch) * batch;
    for (uint64_t i = size; i < full; i++)
        s->dealt[start + i] = s->dealt[start + (i - size) % size];
    if (size % batch) s->counts[(start + size) / batch] = s->o.batch;
}

static void deal(struct mabn_scene_sampler *s, uint64_t epoch)
{
    const uint64_t batch = (uint64_t)s->o.batch;
    const uint64_t start[2] = {0, runs_of(s->sizes[0], s->o.batch) * batch};
    uint64_t end[2] = {start[0], start[1]};
    for (uint64_t place = 0; place < s->o.count; place++) {
        const uint64_t i = mabn_sampler_at(&s->order, epoch, place);
        uint64_t *to = &end[s->groups[i]];
        if (*to % batch == 0) s->runs[*to / batch] = (struct run){place, *to};
        s->counts[*to / batch] = (int)(*to % batch) + 1;
        s->dealt[(*to)++] = s->samples[i];
    }
    for (int g = 0; g < 2 && s->o.fill; g++)
        fill_up(s, start[g], s->sizes[g]);
    qsort(s->runs, s->batches, sizeof *s->runs, by_place);
    s->epoch = epoch;
    s->ready = true;
}

void mabn_scene_sampler_batch(struct mabn_scene_sampler *s, uint64_t epoch, uint64_t index,
                              const uint64_t **samples, int *count)
{
    if (index >= s->batches) MABN_BUG("batch %llu", (unsigned long long)index);
    if (!s->ready || s->epoch != epoch) deal(s, epoch);
    const uint64_t first = s->runs[index].first;
    *samples = s->dealt + first;
    *count = s->counts[first / (uint64_t)s->o.batch];
}
