/* The blocks of memory that a norm keeps, and the views into them. */
#include "norm/state.h"

#include <stddef.h>
#include <string.h>

#include "norm/internal.h"

struct list {
    struct mabn_norm_tensor *at;
    int count;
    size_t offset;
    void *base;
};

static void add(struct list *l, const char *name, enum mabn_norm_dtype dtype, int rank, int64_t d0,
                int64_t d1)
{
    struct mabn_norm_tensor *t = &l->at[l->count++];
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = dtype;
    t->rank = rank;
    for (int i = 0; i < 4; i++)
        t->shape[i] = 1;
    t->shape[0] = d0;
    t->shape[1] = d1;
    t->bytes = (size_t)(d0 * d1) * (dtype == MABN_NORM_F32 ? sizeof(float) : sizeof(int64_t));
    t->data = l->base ? (char *)l->base + l->offset : NULL; /* NULL: sizes alone are asked for */
    l->offset += (t->bytes + 63) / 64 * 64;
}

static size_t list_state(const struct mabn_norm *norm, void *state, struct mabn_norm_tensor *at,
                         int *count)
{
    struct list l = {at, 0, 0, state};
    const struct mabn_norm_options *o = &norm->options;
    const int64_t c = norm->channels, m = o->window;

    switch (o->kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
        add(&l, "running_mean", MABN_NORM_F32, 1, c, 1);
        add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
        add(&l, "num_batches_tracked", MABN_NORM_I64, 0, 1, 1);
        break;
    case MABN_NORM_FROZEN:
        add(&l, "running_mean", MABN_NORM_F32, 1, c, 1);
        add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
        break;
    case MABN_NORM_MABN:
        if (o->window_rule == MABN_WINDOW_SUBBATCH) {
            add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
            add(&l, "sta_matrix", MABN_NORM_F32, 2, m, 2 * m);
            at[l.count - 1].constant = true;
            add(&l, "pre_x2", MABN_NORM_F32, 2, m, c);
            add(&l, "pre_gz", MABN_NORM_F32, 2, m, c);
            add(&l, "iters", MABN_NORM_F32, 1, 1, 1);
        } else {
            add(&l, "running_var", MABN_NORM_F32, 4, 1, c);
            add(&l, "iters", MABN_NORM_I64, 1, 1, 1);
            add(&l, "buffer_x2", MABN_NORM_F32, 2, m, c);
            add(&l, "buffer_gz", MABN_NORM_F32, 2, m, c);
        }
        break;
    default:
        break;
    }
    *count = l.count;
    return l.offset;
}

int mabn_norm_state_list(const struct mabn_norm *norm, void *state,
                         struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS])
{
    int count;
    list_state(norm, state, list, &count);
    return count;
}

size_t mabn_norm_state_bytes(const struct mabn_norm *norm)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count;
    return list_state(norm, NULL, list, &count);
}

/* Where the view has what list_state names so. */
static const struct {
    const char *name;
    enum mabn_norm_dtype dtype;
    size_t at;
} fields[] = {
    {"running_mean", MABN_NORM_F32, offsetof(struct mabn_norm_state, running_mean)},
    {"running_var", MABN_NORM_F32, offsetof(struct mabn_norm_state, running_var)},
    {"sta_matrix", MABN_NORM_F32, offsetof(struct mabn_norm_state, sta_matrix)},
    {"pre_x2", MABN_NORM_F32, offsetof(struct mabn_norm_state, window_x2)},
    {"buffer_x2", MABN_NORM_F32, offsetof(struct mabn_norm_state, window_x2)},
    {"pre_gz", MABN_NORM_F32, offsetof(struct mabn_norm_state, window_gz)},
    {"buffer_gz", MABN_NORM_F32, offsetof(struct mabn_norm_state, window_gz)},
    {"num_batches_tracked", MABN_NORM_I64, offsetof(struct mabn_norm_state, batches)},
    {"iters", MABN_NORM_F32, offsetof(struct mabn_norm_state, iters_f32)},
    {"iters", MABN_NORM_I64, offsetof(struct mabn_norm_state, iters)},
};

void mabn_norm_state_view(struct mabn_norm_state *view, const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(norm, state, list);

    memset(view, 0, sizeof *view);
    for (int i = 0; i < count; i++)
        for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
            if (fields[f].dtype == list[i].dtype && !strcmp(fields[f].name, list[i].name))
                memcpy((char *)view + fields[f].at, &list[i].data, sizeof list[i].data);
}

void mabn_norm_state_reset(const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_state s;
    const int64_t m = norm->options.window;
    size_t bytes = mabn_norm_state_bytes(norm);

    if (!bytes) return;
    memset(state, 0, bytes);
    mabn_norm_state_view(&s, norm, state);
    for (int c = 0; c < norm->channels; c++)
        s.running_var[c] = 1;
    if (!s.sta_matrix) return;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = i + 1; j <= i + m; j++)
            s.sta_matrix[i * 2 * m + j] = (float)(1.0 / (double)m);
    for (int64_t i = 0; i < m * norm->channels; i++)
        s.window_x2[i] = 1;
}

int64_t mabn_norm_calls_until_known(const struct mabn_norm *norm, const void *state,
                                    int64_t samples)
{
    const struct mabn_norm_options *o = &norm->options;
    struct mabn_norm_state s;

    if (o->kind != MABN_NORM_MABN) return -1;
    /* Under the iteration rule each of several runs updates running_var. */
    if (o->window_rule == MABN_WINDOW_ITERATION && mabn_norm_runs(norm, samples) != 1) return -1;
    mabn_norm_state_view(&s, norm, (void *)state);
    const int64_t next = (s.iters ? *s.iters : (int64_t)*s.iters_f32) + 1;
    return next >= o->r_start ? 0 : o->r_start - next;
}

/* ---- memory ---- */

int64_t mabn_norm_run_samples(const struct mabn_norm *norm, int64_t samples)
{
    switch (norm->options.kind) {
    case MABN_NORM_GN:
    case MABN_NORM_LN:
    case MABN_NORM_IN:
    case MABN_NORM_FRN:
    case MABN_NORM_EVONORM_S0:
        return 1;
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_MABN: {
        int64_t b = norm->options.norm_batch;
        return b && b < samples ? b : samples;
    }
    default:
        return samples;
    }
}

int64_t mabn_norm_runs(const struct mabn_norm *norm, int64_t samples)
{
    int64_t b = mabn_norm_run_samples(norm, samples);
    return b ? (samples + b - 1) / b : 1;
}

size_t mabn_norm_saved_bytes(const struct mabn_norm *norm, int64_t samples)
{
    size_t one = (size_t)mabn_norm_runs(norm, samples) * (size_t)norm->channels * sizeof(float);
    return 6 * ((one + 63) / 64 * 64);
}

void mabn_norm_saved_view(struct mabn_norm_saved *view, const struct mabn_norm *norm, void *saved,
                          int64_t samples)
{
    size_t one = mabn_norm_saved_bytes(norm, samples) / 6;
    char *p = (char *)saved;

    view->a = (float *)p;
    view->b = (float *)(p + one);
    view->mean = (float *)(p + 2 * one);
    view->istd = (float *)(p + 3 * one);
    view->scale = (float *)(p + 4 * one);
    view->shift = (float *)(p + 5 * one);
}
